"""The lesson's answer to "when should I share?": the map's figure and its own sentences.

Every word about what was found comes from the stored result of the study `map`; without one there
is nothing to show. Knows one result file; no model and no page.
"""

import json
from functools import cache
from html import escape
from pathlib import Path

from sage.ui.lesson.content import FOLDER

RESULTS = FOLDER.parents[1] / "results"
NAME = "map"


@cache
def when_to_share(folder: Path = RESULTS) -> str:
    """The step as HTML; "" where the map has not been made."""
    path = folder / f"{NAME}.json"
    if not path.is_file():
        return ""
    told = json.loads(path.read_text("utf-8"))
    figure = f"/gradio_api/file={folder / f'{NAME}.svg'}"
    found = "".join(
        f"<li>{escape(sentence.replace('*', ''))}</li>" for sentence in told["sentences"]
    )
    judges = "".join(
        f"<li><b>{escape(judge['title'])}</b>: {escape(judge['about'])}; "
        f"{'higher' if judge['better'] > 0 else 'lower'} is better.</li>"
        for judge in told["metrics"].values()
        if any(f"In {judge['title']} " in sentence for sentence in told["sentences"])
    )
    return (
        '<section class="sage-card lesson-panel" id="lesson-when">'
        f'<img loading="lazy" src="{escape(figure)}" alt="Map: who wins at equal evaluations">'
        "<div><h3>When should I share?</h3>"
        "<p>Sharing spends fewer evaluations on the trunk; the same evaluations could pay more "
        "independent steps. So the question is who makes better pictures <b>at equal cost</b>. "
        f"Measured on {escape(told['conditions']['model'])}, over budgets and group sizes:</p>"
        f"<ul>{found}</ul>"
        f"<details><summary>What these judges measure</summary><ul>{judges}</ul></details>"
        "<p>Set <b>Budget</b> in the Studio, or call "
        "<code>pipe(prompts, budget=5)</code>: the planner takes the better of the two.</p>"
        "</div></section>"
    )
