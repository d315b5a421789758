"""Draws the figures of results as SVG, with Plotly's own script in a headless Chromium.

Needs playwright and a Chromium, which the tests have; without them the figures stay JSON.
"""

import json
import shutil
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote

# Plotly takes the ids inside an SVG from Math.random; a fixed row of numbers in its place, and the
# same figure is the same file.
SCRIPT = """async ({data, layout}) => {
  let state = 1;
  Math.random = () => (state = (state * 16807) % 2147483647) / 2147483647;
  const sizes = {format: 'svg', width: layout.width, height: layout.height};
  return await Plotly.toImage({data, layout, config: {}}, sizes);
}"""


def draw(figures: Iterable[Path]) -> list[Path]:
    """Write NAME.svg beside each NAME.figure.json.

    Args:
        figures: The JSON files.

    Returns:
        The files that were written.

    Raises:
        ImportError: If playwright or Plotly is missing.
        OSError: If there is no Chromium.
    """
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError as error:
        raise ImportError("Drawing needs playwright: pip install playwright") from error
    place = find_spec("plotly")
    if place is None or place.origin is None:
        raise ImportError("Drawing needs plotly: pip install plotly")
    library = Path(place.origin).parent / "package_data" / "plotly.min.js"
    written = []
    with sync_playwright() as play:
        own = shutil.which("chromium")
        try:
            browser = play.chromium.launch(executable_path=own, args=["--no-sandbox"])
        except Error as error:
            raise OSError(f"Drawing needs Chromium: {error}") from error
        page = browser.new_page()
        page.add_script_tag(path=library)
        for path in figures:
            address = page.evaluate(SCRIPT, json.loads(path.read_text("utf-8")))
            target = path.with_name(path.name.replace(".figure.json", ".svg"))
            target.write_text(unquote(address.split(",", 1)[1]), encoding="utf-8")
            written.append(target)
        browser.close()
    return written
