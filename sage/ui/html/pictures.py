"""The pictures at the ends of a plan's branches: for each prompt its shared and its own one.

Pure functions from pictures and scores to strings; with a strip, also what the page's script needs
to scrub. Knows nothing of gradio or of how pictures are made.
"""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from PIL import Image

from sage.core.plan import Group
from sage.core.words import plural
from sage.jobs.prompt_sets import PromptSet
from sage.ui.html.palette import Mark, prompt_marks
from sage.ui.html.strip import Strip, StripRow, TrunkSheet
from sage.ui.html.views import badge

# From left to right. "expected" stands at the branch point, beside what was finished of it.
SIDES = {
    "expected": "expected",
    "shared": "shared",
    "independent": "independent",
    "fewer": "fewer steps",
}
LABELS = SIDES | {"fewer": "only"}  # "only 21 steps"
FINISHED = {"shared": "finished"}  # what that side is called beside what was expected


@dataclass(frozen=True)
class Shot:
    """One picture of the grid: its source, what was done, and its scores as HTML.

    A box without a picture may hold a tick, on or off, for whether it is to be finished.
    """

    source: str = ""
    done: str = ""
    scores: str = ""
    tick: bool | None = None


EMPTY = Shot()
# A picture of a strip: the script cuts it out of the sheet.
CUT = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="


@dataclass(frozen=True)
class Row:
    """One picture for each prompt, by side."""

    side: str
    shots: tuple[Shot, ...]


@dataclass(frozen=True)
class Grown:
    """How far a run is: its steps, and the prompts whose branches are at their end all the same."""

    step: int
    finished: tuple[int, ...] = ()

    @property
    def attributes(self) -> str:
        """As the script reads it."""
        ends = " ".join(map(str, self.finished))
        return f' data-step="{self.step}"' + (f' data-finished="{ends}"' if ends else "")


def picture_grid(
    prompts: Sequence[str],
    groups: Sequence[Group],
    rows: Sequence[Row],
    state: str,
    *,
    grown: Grown | None = None,
    table: PromptSet | None = None,
) -> str:
    """Pictures side by side for each prompt, framed in the group's colour.

    Args:
        prompts: N texts.
        groups: A partition of the prompts, for the colours.
        rows: What was rendered, the independent one first.
        state: "empty", "live", "look", "done" or "unfinished"; the style sheet tells them apart.
        grown: How far the run is while it is "live" or a "look"; the plan grows with it.
        table: The product that the prompts are, to stand in its rows and columns; one side at a
            time is seen then.
    """
    marks = prompt_marks(groups)
    sides = [side for side in SIDES if any(row.side == side for row in rows)]
    names = SIDES | (FINISHED if "expected" in sides else {})
    heads = "".join(f'<b class="sage-{side}">{names[side]}</b>' for side in sides)
    far = grown.attributes if grown else ""
    layout = None if table is None else TableLayout.of(table)
    places = layout.places if layout else [""] * len(prompts)
    cells = "".join(
        _cell(n, prompt, marks[n], {row.side: row.shots[n] for row in rows}, places[n])
        for n, prompt in enumerate(prompts)
    )
    kind, style = ("sage-pairs sage-table", layout.style) if layout else ("sage-pairs", "")
    heads = f'<p class="sage-heads" aria-hidden="true">{heads}</p>'
    heads = layout.heads(sides, names) if layout else heads
    return (
        f'<div class="{kind}" data-state="{state}"{far} data-pairs="{len(prompts)}" '
        f'data-sides="{len(sides)}"{style}>{heads}{cells}'
        "</div>"
    )


@dataclass(frozen=True)
class TableLayout:
    """Where the prompts of a product stand: its longer side goes down, where labels have room.

    Attributes:
        rows: Labels of the rows.
        columns: Labels of the columns.
        turned: Whether the first brace goes across and not down.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    turned: bool

    @classmethod
    def of(cls, table: PromptSet) -> "TableLayout":
        """The layout of a product."""
        turned = len(table.columns) > max(len(table.rows), 4)
        rows, columns = table.rows, table.columns
        return cls(columns, rows, True) if turned else cls(rows, columns, False)

    @property
    def places(self) -> list[str]:
        """For each prompt its cell, as a style."""
        across = len(self.rows) if self.turned else len(self.columns)
        both = [divmod(n, across) for n in range(len(self.rows) * len(self.columns))]
        cells = [(column, row) if self.turned else (row, column) for row, column in both]
        return [f"grid-row:{row + 2};grid-column:{column + 2};" for row, column in cells]

    @property
    def style(self) -> str:
        """How many rows and columns there are, for the style sheet to find their size."""
        return f' style="--rows:{len(self.rows)};--columns:{len(self.columns)}"'

    def heads(self, sides: Sequence[str], names: Mapping[str, str]) -> str:
        """Labels of rows and columns, and the switch between the sides."""
        first = "shared" if "shared" in sides else sides[0]
        switch = "".join(
            f'<button type="button" data-side="{side}" aria-pressed="{str(side == first).lower()}">'
            f"{names[side]}</button>"
            for side in sides
        )
        across = "".join(
            f'<b class="sage-column" style="grid-row:1;grid-column:{n + 2}">{escape(label)}</b>'
            for n, label in enumerate(self.columns)
        )
        down = "".join(
            f'<b class="sage-row" style="grid-row:{n + 2};grid-column:1">{escape(label)}</b>'
            for n, label in enumerate(self.rows)
        )
        group = f'<div class="sage-switch" role="group" aria-label="Pictures">{switch}</div>'
        return group + across + down


def empty_grid(
    prompts: Sequence[str],
    groups: Sequence[Group],
    sides: Sequence[str],
    table: PromptSet | None = None,
) -> str:
    """Reserved boxes, before anything is rendered."""
    rows = [Row(side, (EMPTY,) * len(prompts)) for side in sides]
    return picture_grid(prompts, groups, rows, "empty", table=table)


def live_grid(
    prompts: Sequence[str],
    groups: Sequence[Group],
    sides: dict[str, Sequence[Image.Image]],
    step: int = 0,
    table: PromptSet | None = None,
) -> str:
    """Previews of both sides after a step; a side without pictures keeps its boxes."""
    rows = [
        Row(side, tuple(Shot(picture_source(p)) for p in pictures) or (EMPTY,) * len(prompts))
        for side, pictures in sides.items()
    ]
    return picture_grid(prompts, groups, rows, "live", grown=Grown(step), table=table)


def strip_grid(
    prompts: Sequence[str],
    groups: Sequence[Group],
    strip: Strip,
    point: int,
    outcomes: Mapping[int, str],
    table: PromptSet | None = None,
) -> str:
    """The grid of pictures that are there at many branch points, for scrubbing.

    Args:
        prompts: N texts.
        groups: A partition of the prompts, for the colours.
        strip: The pictures.
        point: The branch point at which it first stands.
        outcomes: For each branch point of the strip, what it comes to.
        table: As of `picture_grid`.
    """
    chosen = [strip.rows[0], strip.shared(point), strip.fewer(point)]
    rows = [row_of(row, [CUT] * strip.num_prompts) for row in chosen if row]
    grid = picture_grid(prompts, groups, rows, "done", table=table)
    return grid + _strip_data(strip, point, outcomes)


def row_of(row: StripRow, sources: Sequence[str]) -> Row:
    """A row of the grid from its scores and the sources of its pictures."""
    clips = row.clip or (None,) * len(sources)
    shots = (
        Shot(source, words, score_words(clip, None if row.side == "independent" else twin))
        for source, words, clip, twin in zip(sources, step_words(row), clips, row.twin, strict=True)
    )
    return Row(row.side, tuple(shots))


def step_words(row: StripRow) -> list[str]:
    """What was done for each prompt, to stand after (shared) "for 12 steps", (only) "21 steps"."""
    if row.side != "shared":
        return [plural(steps, "step") for steps in row.steps]
    return [f"for {plural(steps, 'step')}" for steps in row.steps]


def score_words(clip: float | None, twin: float | None) -> str:
    """Scores of a finished picture: CLIP score and distance to its independent twin."""
    parts = []
    if clip is not None:
        parts.append(
            f'<abbr title="cosine similarity of picture and prompt">CLIP</abbr> {clip:.2f}'
        )
    if twin is not None:
        title = "distance to the independent picture of the same prompt; 0 is the same picture"
        parts.append(f'<abbr title="{title}">distance</abbr> {twin:.2f}')
    # Each stays in one piece; between them a narrow column may break.
    return " · ".join(f'<span class="sage-score">{part}</span>' for part in parts)


def picture_source(image: Image.Image) -> str:
    """A picture as a data URI: lossless when small, WebP when it would weigh too much."""
    small = image.width * image.height <= 192 * 192
    data = io.BytesIO()
    if small:
        image.save(data, "PNG", compress_level=1)
    else:
        image.save(data, "WEBP", quality=92)
    return _data_uri(data.getvalue(), "png" if small else "webp")


def _data_uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _cell(n: int, prompt: str, mark: Mark, shots: dict[str, Shot], place: str = "") -> str:
    names = FINISHED if "expected" in shots else {}
    drawn = "".join(
        _shot(side, names.get(side, ""), n, prompt, shots[side]) for side in SIDES if side in shots
    )
    return (
        f'<figure class="sage-pair" data-p="{n}" style="--group:{mark.color};{place}"><figcaption>'
        f'<button type="button" class="sage-name" data-p="{n}" aria-pressed="false">'
        f'{badge(mark)}<b>P{n + 1}</b> <span class="sage-prompt" title="{escape(prompt)}">'
        f"{escape(prompt)}</span></button></figcaption>{drawn}</figure>"
    )


def _shot(side: str, name: str, n: int, prompt: str, shot: Shot) -> str:
    alt = escape(f"P{n + 1}, {name or SIDES[side]}: {prompt}")
    picture = f'<img src="{shot.source}" alt="{alt}">' if shot.source else "<i></i>"
    if not shot.source and shot.tick is not None:
        picture = (
            f'<label class="sage-tick"><input type="checkbox" data-tick="{n}" '
            f'aria-label="Finish P{n + 1}: {escape(prompt)}"{" checked" * shot.tick}>'
            "<span>finish</span></label>"
        )
    return (
        f'<div class="sage-shot sage-{side}" data-side="{side}"><div class="sage-frame">'
        f"{picture}</div><p><b>{name or LABELS[side]}</b> <span>{shot.done}</span></p>"
        f"<p>{shot.scores or '&nbsp;'}</p></div>"
    )


def _strip_data(strip: Strip, point: int, outcomes: Mapping[int, str]) -> str:
    """The sheets and what belongs to each of their rows, for the script."""
    by_point = {}
    for ready in strip.points:
        shown = [strip.shared(ready), strip.fewer(ready)]
        by_point[ready] = {row.side: _row_data(strip, row) for row in shown if row}
        by_point[ready]["outcome"] = outcomes.get(ready, "")
    told = {"tile": strip.tile, "steps": strip.rows[0].at, "at": point, "points": by_point}
    sheet = _sheet("sage-sheet", strip, told)
    if strip.trunks is None:
        return sheet
    told = {"tile": strip.trunks.tile, "groups": strip.trunks.groups}
    return sheet + _sheet("sage-trunks", strip.trunks, told)


def _sheet(name: str, pictures: Strip | TrunkSheet, data: dict) -> str:
    source = escape(pictures.address) or _data_uri(pictures.sheet, "webp")
    text = escape(json.dumps(data, separators=(",", ":")))
    return f'<img class="{name}" hidden alt="" src="{source}" data-strip="{text}">'


def _row_data(strip: Strip, row: StripRow) -> dict:
    clips = row.clip or (None,) * strip.num_prompts
    scores = [score_words(clip, twin) for clip, twin in zip(clips, row.twin, strict=True)]
    return {
        "row": strip.rows.index(row),
        "done": step_words(row),
        "scores": scores,
        "twin": [None if d is None else round(d, 4) for d in row.twin],
        "evaluations": row.evaluations,
    }
