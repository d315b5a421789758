"""Writes what the results say: figures, the README's blocks, the page of all results.

A test fails when one of them is stale.
"""

import re
from collections.abc import Callable
from pathlib import Path

from sage.studies.engine.figures import svg
from sage.studies.engine.results import ROOT, read, written
from sage.studies.engine.study import every
from sage.studies.engine.tables import (
    main_block,
    map_block,
    studies_block,
    study_section,
    summary_block,
)

README = ROOT / "README.md"
PAGE = "README.md"  # in the folder of the results, where a browser of files shows it
# What may stand between <!-- results:NAME --> and <!-- /results:NAME -->.
BLOCKS: dict[str, Callable[[Path, Path], str]] = {
    "map": map_block,
    "summary": summary_block,
    "main-table": main_block,
    "studies": studies_block,
}


def update_all(results: Path, readme: Path = README) -> list[Path]:
    """Writes the README's blocks and the results' page; returns the files that changed."""
    texts = {
        readme: rewritten(readme.read_text("utf-8"), results, readme.parent),
        results / PAGE: results_page(results),
    }
    return [path for path, text in texts.items() if _write(path, text)]


def draw_all(results: Path) -> list[Path]:
    """Draws the figures of all results, and words their answers; returns the files that changed."""
    changed = []
    for study in every():
        if result := read(results, study.name):
            drawn = {
                results / f"{study.name}.svg": svg(study.figure(result)),
                results / f"{study.name}.json": written(study.answered(result)),
            }
            changed += [path for path, text in drawn.items() if _write(path, text)]
    return changed


def _write(path: Path, text: str) -> bool:
    if path.is_file() and path.read_text("utf-8") == text:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return True


def rewritten(text: str, results: Path, page: Path) -> str:
    """A page's text with its blocks made anew.

    Args:
        text: With pairs of markers, of those blocks that the page shows.
        results: Folder of the results.
        page: Folder of the page.

    Raises:
        ValueError: If there is no pair of markers.
    """
    filled = 0
    for name, make in BLOCKS.items():
        markers = rf"(<!-- results:{name} -->\n).*?(<!-- /results:{name} -->)"
        if re.search(markers, text, re.DOTALL):
            block = make(results, page)
            text = re.sub(
                markers, lambda m, block=block: f"{m[1]}{block}\n{m[2]}", text, flags=re.DOTALL
            )
            filled += 1
    if not filled:
        raise ValueError(f"There are no markers <!-- results:NAME --> of {', '.join(BLOCKS)}.")
    return text


def results_page(results: Path) -> str:
    """All studies with their figures and tables."""
    sections = [study_section(study, results, results) for study in every()]
    return (
        "# Results of the studies\n\nMade by `python -m sage.studies tables` from the JSON files "
        "in this folder; do not edit.\nAll intervals are 95 % bootstrap intervals over groups of "
        "prompts; ± is half of one.\n\n" + "\n\n".join(sections) + "\n"
    )
