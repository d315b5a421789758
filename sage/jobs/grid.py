"""A grid of runs over two settings, and one run step by step.

Runs of a grid are ordered so that what they have in common is computed once: a trunk is paid by
the first run that needs it. Knows requests, plans and pictures; nothing of pages or files.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from sage.core.cost import evaluations
from sage.core.metrics import clip_score
from sage.core.plan import Plan, Row
from sage.core.settings import Number, Setting, settings_of, shortened
from sage.jobs.compare import how_to_share, unflagged
from sage.jobs.job import Job, prepare
from sage.jobs.models import LoadedModel
from sage.jobs.request import Request
from sage.sd.pipeline import SageOutput, SageStep
from sage.sd.schedulers import has_table
from sage.sd.store import StateStore, history

CELLS = Number(
    subject="The number of runs in a grid",
    label="Runs",
    help="how many runs a grid has.",
    default=12,
    low=1,
    high=36,
    step=1,
)
PER_AXIS = Number(
    subject="The number of values on an axis",
    label="Values",
    help="how many values an axis has.",
    default=3,
    low=1,
    high=6,
    step=1,
)
STORE_BYTES = 512 * 2**20


def axes(kind: type[Request] = Request) -> dict[str, Setting]:
    """The settings that can be an axis, by their names."""
    return {name: one for name, one in settings_of(kind).items() if one.axis}


@dataclass(frozen=True)
class Axis:
    """One direction of a grid: a setting and its values."""

    setting: Setting
    values: tuple[Any, ...]

    @classmethod
    def parse(cls, name: str, values: Sequence[Any]) -> "Axis":
        """An axis from what a visitor picked or typed.

        Raises:
            ValueError: If the setting or a value is not allowed, or there are too many.
        """
        allowed = axes()
        if name not in allowed:
            raise ValueError(f"The axis is {shortened(name)}; allowed are {', '.join(allowed)}.")
        setting = allowed[name]
        texts = (setting.parse(v) if isinstance(v, str) else v for v in values or ())
        checked = dict.fromkeys(setting.check(value) for value in texts)
        if not checked:
            raise ValueError(f"{setting.label}: pick or type at least one value.")
        PER_AXIS.check(len(checked))
        return cls(setting, tuple(checked))

    @property
    def name(self) -> str:
        """Of its setting."""
        return self.setting.name

    @property
    def title(self) -> str:
        """Its setting in words."""
        return self.setting.label

    def label(self, value: Any) -> str:
        """One of its values in words."""
        return self.setting.words(value)


@dataclass(frozen=True)
class Grid:
    """Runs of one request with two of its settings varied.

    Attributes:
        base: What all runs have in common.
        across: The setting that changes from left to right.
        down: The setting that changes from top to bottom.
    """

    base: Request
    across: Axis
    down: Axis

    def __post_init__(self) -> None:
        if self.across.name == self.down.name:
            raise ValueError(f"Both axes are {self.across.title!r}; choose two different ones.")
        CELLS.check(len(self.across.values) * len(self.down.values))

    @property
    def requests(self) -> tuple[Request, ...]:
        """The request of each cell, row by row."""
        return tuple(
            replace(self.base, **{self.across.name: right, self.down.name: below})
            for below in self.down.values
            for right in self.across.values
        )

    def words(self, cell: int) -> str:
        """What is special about a cell."""
        below, right = divmod(cell, len(self.across.values))
        pairs = ((self.down, below), (self.across, right))
        return ", ".join(f"{axis.title} {axis.label(axis.values[n])}" for axis, n in pairs)


@dataclass(frozen=True)
class Cell:
    """A run of a grid, planned.

    Attributes:
        place: Row by row.
        job: What it renders.
        reused: Evaluations that an earlier run of the grid has done already.
        flops: What is left to do, counted.
    """

    place: int
    job: Job
    reused: int
    flops: float


@dataclass(frozen=True)
class GridCost:
    """What a grid costs, before it is run."""

    runs: int
    evaluations: int
    reused: int
    flops: float

    @classmethod
    def of(cls, cells: Sequence[Cell]) -> "GridCost":
        """Sums over the runs."""
        return cls(
            len(cells),
            sum(cell.job.cost.evaluations for cell in cells),
            sum(cell.reused for cell in cells),
            sum(cell.flops for cell in cells),
        )


def plan_grid(model: LoadedModel, grid: Grid) -> tuple[Cell, ...]:
    """The runs of a grid in the order that reuses most, each with what it costs.

    Raises:
        ValueError: If the model cannot do what is asked for.
    """
    requests = grid.requests
    # The same inputs together, the longest trunk first: shorter ones are its beginning.
    order = sorted(
        range(len(requests)),
        key=lambda place: (
            requests.index(_first_alike(requests, place)),
            -requests[place].share_ratio,
            place,
        ),
    )
    earlier: dict[Request, list[Plan]] = {}
    cells = []
    for place in order:
        plans = earlier.setdefault(_inputs(requests[place]), [])
        cells.append(_planned(place, prepare(model, requests[place]), plans))
        plans.append(cells[-1].job.plan)
    return tuple(cells)


def _inputs(request: Request) -> Request:
    """A request without what may differ between runs that begin alike."""
    return replace(request, share_ratio=0.0)


def _first_alike(requests: Sequence[Request], cell: int) -> Request:
    wanted = _inputs(requests[cell])
    return next(request for request in requests if _inputs(request) == wanted)


def _planned(place: int, job: Job, earlier: Sequence[Plan]) -> Cell:
    cost, trunk = job.cost, job.trunk
    # Where a scheduler has no table, its state lies in itself: always from the start.
    resumes = has_table(job.loaded_sides.shared.scheduler)
    first = _steps_known(job.plan, earlier) if resumes else 0
    reused = evaluations(job.plan, trunk, range(first))
    denoising = cost.flops.trunk + cost.flops.branches
    flops = cost.flops.total - denoising * reused / cost.evaluations
    return Cell(place, job, reused, flops)


def _steps_known(plan: Plan, earlier: Sequence[Plan]) -> int:
    """How many steps a plan has in common with the best of the earlier ones."""
    for step in reversed(range(plan.steps)):
        wanted = history(plan, step)
        if any(step < other.steps and history(other, step) == wanted for other in earlier):
            return step + 1
    return 0


@dataclass(frozen=True)
class CellStep:
    """A run of a grid on its way."""

    cell: int
    step: int
    steps: int


@dataclass(frozen=True)
class CellDone:
    """A finished run of a grid.

    Attributes:
        cell: Its place, row by row.
        images: One for each prompt.
        evaluations: Of its plan.
        reused: How many of them earlier runs had done.
        seconds: Of the evaluations that were run, measured.
        around: Seconds of encoding and decoding, measured.
        clip: CLIP score of each picture, None if it was flagged; None without an image encoder.
    """

    cell: int
    images: list[Image.Image]
    evaluations: int
    reused: int
    seconds: float
    around: float
    clip: tuple[float | None, ...] | None


def render_grid(
    cells: Sequence[Cell], keep: StateStore | None = None
) -> Iterator[CellStep | CellDone]:
    """Renders the runs of a grid, one after the other; closing it stops within a step.

    Args:
        cells: From `plan_grid`.
        keep: Where states are kept and taken from; a store of its own without it.
    """
    keep = StateStore(STORE_BYTES) if keep is None else keep
    for cell in cells:
        for item in _stream(cell.job, keep):
            if isinstance(item, SageOutput):
                yield _done(cell, item)
            else:
                yield CellStep(cell.place, item.step, item.steps)


def _stream(job: Job, keep: StateStore | None) -> Iterator[SageStep | SageOutput]:
    request = job.request
    return job.loaded_sides.shared.stream(
        request.prompts,
        guidance_scale=request.guidance_scale,
        seeds=request.seeds,
        **how_to_share(job, keep),
    )


def _done(cell: Cell, output: SageOutput) -> CellDone:
    pipe, seconds, scores = cell.job.loaded_sides.plain, output.timings, None
    if pipe.clip is not None:
        texts = pipe.embed(cell.job.request.prompts)
        each = clip_score(pipe.clip.embed_images(output.pictures), texts).tolist()
        scores = unflagged(each, output.flagged)
    return CellDone(
        cell.place,
        output.pictures,
        output.cost.evaluations,
        output.reused,
        seconds.trunk + seconds.branches,
        seconds.encode + seconds.decode,
        scores,
    )


# -- one run, step by step -------------------------------------------------------------------------


@dataclass(frozen=True)
class RowFrame:
    """All rows of a run after a step.

    Attributes:
        step: How many steps are finished, from 1.
        steps: T, in calls of the denoiser.
        rows: The prompts behind each row.
        predicted: For each row, the clean picture that the step predicts.
        latents: For each row, the latent itself, noise and all, in the preview's colours.
    """

    step: int
    steps: int
    rows: tuple[Row, ...]
    predicted: list[Image.Image]
    latents: list[Image.Image]


@dataclass(frozen=True)
class Trace:
    """A finished run with its plan and pictures."""

    plan: Plan
    images: list[Image.Image]


def shown_steps(plan: Plan, number: int) -> tuple[int, ...]:
    """About so many steps, evenly spaced, with the first, the last and each one after a split."""
    every = max(1, round(plan.steps / max(1, number - 1)))
    splits = {step + 1 for step in range(1, plan.steps) if plan.splits_at(step)}
    return tuple(sorted({1, plan.steps, *range(every, plan.steps, every), *splits}))


def trace(job: Job, number: int = 10) -> Iterator[RowFrame | Trace]:
    """Renders a job and shows every row on the way, at about so many steps.

    Raises:
        ValueError: If its model is not loaded.
    """
    pipe, shown = job.loaded_sides.shared, shown_steps(job.plan, number)
    for item in _stream(job, None):
        if isinstance(item, SageOutput):
            yield Trace(item.plan, item.pictures)
        elif item.step in shown:
            state = item.state
            pictures = (pipe.preview(state.denoised), pipe.preview(state.x))
            yield RowFrame(item.step, item.steps, state.rows, *pictures)
