"""The explorer's grid, its chosen cell and the tree of steps as HTML.

Pure functions from data to strings; texts of a visitor are escaped here. Knows nothing of gradio.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape

from PIL import Image

from sage.core.plan import Plan, Row
from sage.core.words import plural
from sage.jobs.grid import Grid, GridCost, RowFrame, RunNumbers, Trace, axes
from sage.jobs.repeats import Mean, mean_of
from sage.jobs.request import Request
from sage.ui.html.palette import Mark, prompt_marks
from sage.ui.html.pictures import picture_source
from sage.ui.html.views import badge, note
from sage.ui.html.words import (
    flops_text,
    mean_text,
    percent_text,
    seconds_text,
    span_text,
)

THUMBNAIL = 160  # pixels; larger pictures are made smaller for the grid
FORK = "sage-trunk sage-fork"  # a trunk whose branches stand in the next column
TILE = 96  # pixels, of a preview in the tree of steps
CELL_LINES = 4  # of numbers beneath a cell's pictures


@dataclass(frozen=True)
class Shown:
    """A finished cell, ready to be shown.

    Attributes:
        thumbnails: One source for each prompt, small; of the first repeat.
        pictures: One source for each prompt, in full.
        runs: What each repeat came to, by its number; one that is missing has not run yet.
    """

    thumbnails: tuple[str, ...]
    pictures: tuple[str, ...]
    runs: Mapping[int, RunNumbers]

    @classmethod
    def of(cls, images: Sequence[Image.Image], runs: Mapping[int, RunNumbers]) -> "Shown":
        """A finished cell from its pictures."""
        full = tuple(picture_source(image) for image in images)
        small = tuple(picture_source(_small(image, THUMBNAIL)) for image in images)
        return cls(small, full, runs)

    def with_run(self, repeat: int, numbers: RunNumbers) -> "Shown":
        """The cell with one repeat more."""
        return replace(self, runs={**self.runs, repeat: numbers})

    @property
    def first(self) -> RunNumbers:
        """Of the run whose pictures are shown."""
        return next(iter(self.runs.values()))

    @property
    def clip(self) -> Mean | None:
        """Mean CLIP score over prompts and repeats."""
        return mean_of([run.clip for run in self.runs.values()])

    @property
    def distance(self) -> Mean | None:
        """Mean distance to the independent pictures over prompts and repeats."""
        return mean_of([run.distance for run in self.runs.values()])


def _small(image: Image.Image, side: int) -> Image.Image:
    if max(image.size) <= side:
        return image
    return image.resize((side, side * image.height // image.width), Image.Resampling.LANCZOS)


def grid_table(
    grid: Grid,
    prompts: Sequence[int],
    done: Mapping[int, Shown],
    running: int | None = None,
    chosen: int | None = None,
) -> str:
    """The grid as a table of buttons, one a cell.

    Args:
        grid: What is varied.
        prompts: Which prompts' pictures a cell shows.
        done: The finished cells.
        running: The cell being rendered.
        chosen: The cell shown large.
    """
    across, down, shots = grid.across, grid.down, _columns(len(prompts))
    tile = 116 if shots * len(across.values) <= 4 else 82
    heads = "".join(f'<th scope="col">{escape(across.label(v))}</th>' for v in across.values)
    rows = []
    for below, value in enumerate(down.values):
        start = below * len(across.values)
        cells = "".join(
            _done_cell(grid, cell, prompts, done[cell], cell == chosen)
            if cell in done
            else _empty_cell(len(prompts), "live" if cell == running else "empty")
            for cell in range(start, start + len(across.values))
        )
        rows.append(f'<tr><th scope="row">{escape(down.label(value))}</th>{cells}</tr>')
    corner = (
        f'<td class="sage-corner"><span>{escape(across.title)} →</span>'
        f"<span>{escape(down.title)} ↓</span></td>"
    )
    return (
        f'<div class="sage-wide" tabindex="0" role="region" aria-label="Grid of pictures">'
        f'<table class="sage-cells" style="--shots:{shots};--tile:{tile}px">'
        f"<thead><tr>{corner}{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _columns(shots: int) -> int:
    """Pictures beside each other in a cell."""
    return 1 if shots == 1 else 2 if shots <= 4 else 3 if shots <= 9 else 4


def _empty_cell(shots: int, state: str) -> str:
    boxes = "<i></i>" * shots
    return (
        f'<td><div class="sage-cell" data-state="{state}"><span>{boxes}</span>'
        f"{'<em>&nbsp;</em>' * CELL_LINES}</div></td>"
    )


def _done_cell(grid: Grid, cell: int, prompts: Sequence[int], shown: Shown, chosen: bool) -> str:
    texts = grid.base.prompts
    pictures = "".join(
        f'<img src="{shown.thumbnails[n]}" alt="P{n + 1}: {escape(texts[n])}">' for n in prompts
    )
    lines = "".join(f"<em>{line}</em>" for line in _cell_lines(shown))
    return (
        f'<td><button type="button" class="sage-cell" data-cell="{cell}" data-state="done" '
        f'aria-pressed="{str(chosen).lower()}" title="{escape(grid.words(cell))}">'
        f"<span>{pictures}</span>{lines}</button></td>"
    )


def _cell_lines(shown: Shown) -> list[str]:
    """What a cell came to, in `CELL_LINES` short lines."""
    return [
        plural(shown.first.evaluations, "evaluation"),
        time_text(shown.first),
        f"distance {mean_text(shown.distance, 3)}",
        f"CLIP {mean_text(shown.clip, 2)}",
    ]


def time_text(run: RunNumbers) -> str:
    """Measured seconds of a run, and of how many evaluations if others were done already."""
    if run.total_seconds is None:
        return "not timed"
    ran, seconds = run.evaluations - run.reused, seconds_text(run.total_seconds)
    if not run.reused:
        return seconds
    return f"{seconds} for {ran} of them" if ran else f"{seconds}, all reused"


def cell_details(grid: Grid, cell: int, shown: Shown, plan: Plan, address: str) -> str:
    """A cell's pictures large, its settings, and the way to the Studio.

    Args:
        grid: What is varied.
        cell: Its place.
        shown: Its pictures.
        plan: What it ran, for the colours of the groups.
        address: Query that opens its settings in the Studio.
    """
    request = grid.requests[cell]
    marks = prompt_marks(plan.rows(0))
    figures = "".join(
        _large(n, prompt, shown.pictures[n], marks[n], shown.first)
        for n, prompt in enumerate(request.prompts)
    )
    varied = {grid.across.name, grid.down.name}
    rows = "".join(
        f"<tr{_strong(name in varied)}><th scope='row'>{escape(axis.label)}</th>"
        f"<td>{escape(axis.words(getattr(request, name)))}</td></tr>"
        for name, axis in axes().items()
    )
    came = "".join(
        f"<tr><th scope='row'>{escape(name)}</th><td>{escape(words)}</td></tr>"
        for name, words in _came_to(shown, plan)
    )
    return (
        f'<div class="sage-chosen"><div class="sage-large">{figures}</div>'
        f'<div class="sage-facts"><table><tbody>{came}{rows}</tbody></table>'
        f'<p><a class="sage-open" href="{escape(address)}#studio" target="_blank" rel="noopener">'
        f"Open these settings in the Studio</a> <small>(new tab)</small></p></div></div>"
    )


def _came_to(shown: Shown, plan: Plan) -> Iterator[tuple[str, str]]:
    """What a cell came to, each with its name."""
    run, number, stops = shown.first, len(shown.runs), plan.branch_steps
    yield "Shared", f"{span_text(stops)} of {plural(plan.steps, 'step')}" if stops else "nothing"
    spent = plural(run.evaluations, "evaluation")
    others = "all" if run.reused == run.evaluations else f"{run.reused} of them"
    yield "Spent", spent + (f", {others} by other runs" if run.reused else "")
    yield "Compute", flops_text(run.flops)
    yield "Measured", time_text(run)
    over = (
        f", {number} seeds per prompt, with a 95 % interval"
        if number > 1
        else ", one seed per prompt"
    )
    yield "Distance", f"{mean_text(shown.distance, 3)} to the independent pictures{over}"
    if shown.clip is not None:
        yield "CLIP score", f"{mean_text(shown.clip, 2)}, mean of the prompts"


def _strong(varied: bool) -> str:
    return ' class="sage-varied"' if varied else ""


def _large(n: int, prompt: str, source: str, mark: Mark, run: RunNumbers) -> str:
    clip, distance = run.clip[n] if run.clip else None, run.distance[n]
    scores = [f"CLIP {clip:.2f}"] if clip is not None else []
    scores += [f"distance {distance:.3f}"] if distance is not None else []
    score = f" <small>{' · '.join(scores)}</small>" if scores else ""
    return (
        f'<figure style="--group:{mark.color}"><img src="{source}" '
        f'alt="P{n + 1}: {escape(prompt)}"><figcaption>{badge(mark)} <b>P{n + 1}</b> '
        f"{escape(prompt)}{score}</figcaption></figure>"
    )


def cost_words(cost: GridCost, seconds: float | None) -> str:
    """A grid's cost in advance, in sentences; `seconds` is an estimate, None if there is none."""
    left = cost.evaluations - cost.reused
    counted = f"Counted, including {plural(cost.compared, 'independent run')} to compare with."
    if cost.reused:
        counted += f" {percent_text(cost.reused / cost.evaluations)} are computed once and reused."
    time = (
        f"About {seconds_text(seconds)}, estimated from the speed of the last run here."
        if seconds is not None
        else "Seconds are estimated once something has been rendered here."
    )
    return (
        f'<p class="sage-branch">{plural(cost.runs, "run")} <small>{left} of '
        f"{cost.evaluations} evaluations, {flops_text(cost.flops)}</small></p>"
        + note(f"{counted} {time}")
        + (note(_alike_words(cost), "warn") if cost.alike else "")
    )


def _alike_words(cost: GridCost) -> str:
    """Why some runs of a grid give the same pictures as others."""
    same = f"{cost.alike} of {plural(cost.runs, 'run')} give the same pictures as another run"
    if not cost.shares:
        return f"No two of these prompts share: {same}."
    return f"{same}: the settings that differ have no effect here."


# -- the tree of steps -----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Leaf:
    """A prompt's line in the tree: where it is and how it looks."""

    line: int
    prompt: int
    text: str
    mark: Mark

    @property
    def style(self) -> str:
        return f"--group:{self.mark.color};grid-row:{self.line}"


def step_tree(
    request: Request, plan: Plan, frames: Sequence[RowFrame], end: Trace | None, latents: bool
) -> str:
    """Previews of every row at several steps, laid out as the tree that the plan is.

    Args:
        request: What is rendered.
        plan: Who shares with whom.
        frames: So far.
        end: The finished run, or None while it goes on.
        latents: Show the latents themselves, not the pictures that the steps predict.
    """
    marks = prompt_marks(plan.rows(0))
    order = [n for row in plan.rows(0) for n in _leaf_order(plan, row)]
    leaves = {n: _Leaf(k + 2, n, request.prompts[n], marks[n]) for k, n in enumerate(order)}
    cells = [_name_cell(leaf) for leaf in leaves.values()]
    for column, frame in enumerate(frames, start=2):
        cells.append(_step_head(column, f"step {frame.step}"))
        pictures = frame.latents if latents else frame.predicted
        following = frames[column - 1].rows if column <= len(frames) else frame.rows
        for row, picture in zip(frame.rows, pictures, strict=True):
            node = _node(column, [leaves[n] for n in row], picture, frame)
            cells.append(node if row in following else node.replace("sage-trunk", FORK, 1))
    if end is not None:
        cells.append(_step_head(len(frames) + 2, "picture"))
        cells += [_end(len(frames) + 2, leaves[n], image) for n, image in enumerate(end.images)]
    return (
        '<div class="sage-wide" tabindex="0" role="region" aria-label="Steps of the run">'
        f'<div class="sage-tree">{"".join(cells)}</div></div>'
    )


def _leaf_order(plan: Plan, row: Row) -> list[int]:
    """The prompts of a trunk, those that part last beside each other."""
    order = list(row)
    for step in range(plan.steps):
        rows = [part for part in plan.rows(step) if set(part) <= set(row)]
        rank = {prompt: r for r, part in enumerate(rows) for prompt in part}
        order.sort(key=rank.__getitem__)
    return order


def _step_head(column: int, words: str) -> str:
    return f'<b class="sage-step" style="grid-area:1/{column}">{words}</b>'


def _name_cell(leaf: _Leaf) -> str:
    name = f"{badge(leaf.mark)} <b>P{leaf.prompt + 1}</b>"
    return (
        f'<span class="sage-line" style="{leaf.style}">{name} '
        f'<span title="{escape(leaf.text)}">{escape(leaf.text)}</span></span>'
    )


def _node(column: int, leaves: Sequence[_Leaf], picture: Image.Image, frame: RowFrame) -> str:
    """A row's preview; a trunk stands in the middle of the lines of its prompts."""
    lines = [leaf.line for leaf in leaves]
    kind = "trunk" if len(leaves) > 1 else "branch"
    names = ", ".join(f"P{n + 1}" for n in sorted(leaf.prompt for leaf in leaves))
    return (
        f'<span class="sage-node sage-{kind}" style="--group:{leaves[0].mark.color};'
        f'--lines:{len(leaves)};grid-area:{min(lines)}/{column}/{max(lines) + 1}">'
        f'<img src="{picture_source(_small(picture, TILE))}" '
        f'alt="{kind} of {names} after step {frame.step} of {frame.steps}"></span>'
    )


def _end(column: int, leaf: _Leaf, picture: Image.Image) -> str:
    return (
        f'<span class="sage-node sage-end" style="{leaf.style};grid-column:{column}">'
        f'<img src="{picture_source(_small(picture, TILE))}" '
        f'alt="P{leaf.prompt + 1}, finished: {escape(leaf.text)}"></span>'
    )
