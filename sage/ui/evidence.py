"""The tab "Evidence": what was measured, study by study, with figure, numbers and conditions.

The studies are sent when the tab is opened: most visitors never read a hundred rows of numbers.
Reads what the studies left in assets/results. Knows gradio, and no model.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from sage.core.settings import TRUNKS
from sage.ui import kit
from sage.ui.html.views import note

FOLDER = Path(__file__).resolve().parents[2] / "assets" / "results"
FIRST = ("map", "main-table", "branch-point", "pareto", "few-step")  # what a reader asks for first
INTRODUCTION = (
    "<h2>What was measured</h2><p>Every figure is drawn from the numbers beneath it. Every number "
    "was measured on the model named beneath the figure, under the conditions given with it.</p>"
)


def build_evidence(tab: gr.Tab) -> None:
    """Puts the evidence into a tab, which is being built."""
    gr.set_static_paths([FOLDER])
    place = kit.html("evidence", INTRODUCTION)
    tab.select(evidence_html, None, [place], api_name="evidence_open", **kit.QUICK)


def evidence_html() -> str:
    """All studies."""
    return INTRODUCTION + "".join(study_html(name) for name in study_names())


def study_names(folder: Path = FOLDER) -> list[str]:
    """The studies with results, the most asked for first."""
    names = sorted(
        path.stem for path in folder.glob("*.json") if (folder / f"{path.stem}.svg").exists()
    )
    return [n for n in FIRST if n in names] + [n for n in names if n not in FIRST]


@cache
def study_html(name: str, folder: Path = FOLDER) -> str:
    """One study: its question, the answer, the figure, and the numbers to unfold."""
    study = json.loads((folder / f"{name}.json").read_text("utf-8"))
    finding = escape(study["finding"].replace("*", ""))  # written for a Markdown page too
    figure = f"/gradio_api/file={folder / f'{name}.svg'}"
    return (
        f'<article class="sage-card sage-study" id="evidence-{escape(name)}">'
        f"<h3>{escape(study['title'])}</h3>"
        f'<p class="sage-note">{escape(study["question"])}</p>'
        f'<p class="sage-answer">{escape(study["answer"])}</p>'
        f'<img loading="lazy" src="{escape(figure)}" alt="Figure: {escape(study["title"])}">'
        f'<p class="sage-finding">{finding}</p>'
        f"<details><summary>Numbers and conditions</summary>{_table(study['rows'])}"
        f'<p class="sage-note">{escape(_conditions(study.get("conditions", {})))}</p></details>'
        "</article>"
    )


@cache
def picture_set_words(folder: Path = FOLDER) -> str:
    """What sharing gives a set of pictures, one composition, as the study `coherence` measured it.

    Returns:
        A note of two sentences, with the figure and its conditions; "" without that study.
    """
    path = folder / "coherence.json"
    study = json.loads(path.read_text("utf-8")) if path.exists() else {}
    if "picture_set" not in study:
        return ""
    found, sizes = study["picture_set"], study["conditions"]["prompts"]["sizes"]
    groups = " and ".join(f"{number} groups of {size}" for size, number in sizes.items())
    trunk = TRUNKS[found["settings"]["trunk"]]
    return note(
        f"{found['title']}: {found['words']} Measured on {groups} prompts, trunk “{trunk}”."
    )


@cache
def picture_set_line(folder: Path = FOLDER) -> str:
    """The same in a few words, for the first screen; "" without that study."""
    if not picture_set_words(folder):
        return ""
    return note("Pictures that share also keep one composition, as a set should (see Evidence).")


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    names = (
        [name for name in rows[0] if all(_is_plain(row.get(name)) for row in rows)] if rows else []
    )
    head = "".join(f'<th scope="col">{escape(name.replace("_", " "))}</th>' for name in names)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(_text(row.get(name)))}</td>' for name in names)}</tr>"
        for row in rows
    )
    return (
        '<div class="sage-scroll" tabindex="0" role="region" aria-label="Numbers of the study">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float)


def _text(value: Any) -> str:
    """Four digits are enough to read."""
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _conditions(conditions: Mapping[str, Any]) -> str:
    plain = {name: value for name, value in conditions.items() if _is_plain(value)}
    return "; ".join(f"{name.replace('_', ' ')}: {_text(value)}" for name, value in plain.items())
