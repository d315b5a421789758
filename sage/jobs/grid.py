"""A grid of runs over two settings, and one run step by step.

Runs of a grid are ordered so that what they have in common is computed once: a trunk is paid by
the first run that needs it, and so are the independent pictures that cells are compared with.
Knows requests, plans and pictures; nothing of pages or files.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from sage.core.cost import Cost, evaluations
from sage.core.plan import Plan, Row
from sage.core.settings import Number, Setting, settings_of, shortened
from sage.jobs.compare import how_to_share, placing, score
from sage.jobs.job import Job, prepare
from sage.jobs.models import LoadedModel
from sage.jobs.repeats import check_repeats, repeated
from sage.jobs.request import Request
from sage.sd.pipeline import SageOutput, SageStep
from sage.sd.schedulers import has_table
from sage.sd.store import StateStore, history

CELLS = Number(
    subject="The number of runs in a grid",
    label="Runs",
    help="how many runs a grid has, repeats among them.",
    default=12,
    low=1,
    high=60,
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
        repeats: How often each cell is run, every time with other seeds; one of `REPEATS`.
    """

    base: Request
    across: Axis
    down: Axis
    repeats: int = 1

    def __post_init__(self) -> None:
        if self.across.name == self.down.name:
            raise ValueError(f"Both axes are {self.across.title!r}; choose two different ones.")
        check_repeats(self.repeats)
        CELLS.check(len(self.across.values) * len(self.down.values) * self.repeats)

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
        place: Of its cell, row by row; None for independent pictures that cells are compared with.
        repeat: Which repeat of the cell, from 0.
        job: What it renders.
        reused: Evaluations that an earlier run of the grid has done already.
        flops: What is left to do, counted.
        alike: Whether an earlier run of the grid gives the same pictures.
    """

    place: int | None
    repeat: int
    job: Job
    reused: int
    flops: float
    alike: bool = False

    @property
    def plan(self) -> Plan:
        """What it runs."""
        return self.job.independent if self.place is None else self.job.plan

    @property
    def cost(self) -> Cost:
        """What that costs by itself."""
        return self.job.cost_of(self.plan)


@dataclass(frozen=True)
class GridCost:
    """What a grid costs, before it is run.

    Attributes:
        runs: Of its cells.
        compared: Runs of independent pictures that cells are compared with.
        evaluations: Of all of them.
        reused: How many of those are done already by another run.
        flops: What is left, counted.
        alike: Runs that give the same pictures as another cell's.
        shares: Whether any prompts share in any run.
    """

    runs: int
    compared: int
    evaluations: int
    reused: int
    flops: float
    alike: int
    shares: bool

    @classmethod
    def of(cls, cells: Sequence[Cell]) -> "GridCost":
        """Sums over the runs."""
        runs = [cell for cell in cells if cell.place is not None]
        return cls(
            len(runs),
            len(cells) - len(runs),
            sum(cell.cost.evaluations for cell in cells),
            sum(cell.reused for cell in cells),
            sum(cell.flops for cell in cells),
            sum(cell.alike for cell in cells),
            any(cell.job.shares for cell in runs),
        )


def plan_grid(model: LoadedModel, grid: Grid) -> tuple[Cell, ...]:
    """The runs of a grid in the order that reuses most, each with what it costs.

    For each setting of steps, their places, guidance, scheduler and seeds there is one run more:
    every prompt on its own, for the cells to be compared with.

    Raises:
        ValueError: If the model cannot do what is asked for.
    """
    wanted = [
        (place, repeat, replace(job, request=repeated(job.request, repeat)))
        for place, job in enumerate([prepare(model, request) for request in grid.requests])
        for repeat in range(grid.repeats)
    ]
    first: dict[tuple, int] = {}

    def order(one: tuple[int, int, Job]) -> tuple[int, int]:
        job = one[2]
        group = first.setdefault(_inputs(job, job.plan, job.request.trained), len(first))
        return group, -max((0, *job.plan.branch_steps))

    # The same inputs together, the longest trunk first: shorter ones are its beginning.
    wanted.sort(key=order)
    planner, seen = _Planner(), set()
    for place, repeat, job in wanted:
        twins = twin_key(job)
        if twins not in seen:
            seen.add(twins)
            planner.add(None, repeat, job)
        planner.add(place, repeat, job)
    return tuple(planner.cells)


def twin_key(job: Job) -> tuple:
    """What independent pictures depend on, beside the prompts and the model."""
    request, places = job.request, job.timesteps
    steps = (request.steps, job.calls, request.spacing, places and tuple(places))
    return (request.scheduler, steps, request.guidance_scale, request.seed)


def _inputs(job: Job, plan: Plan, trained: bool) -> tuple:
    """What a state depends on, beside the rows of the steps before; as the pipeline keeps them."""
    trunk = job.trunk if plan.branch_steps or not job.settled else None
    return (trained, trunk, *twin_key(job))


class _Planner:
    """Counts for one run after the other what earlier ones have done already."""

    def __init__(self) -> None:
        self.cells: list[Cell] = []
        self._earlier: dict[tuple, list[tuple[Plan, float]]] = {}
        self._shown: set[tuple] = set()

    def add(self, place: int | None, repeat: int, job: Job) -> None:
        """Plans a run."""
        cell, request = Cell(place, repeat, job, 0, 0.0), job.request
        plan, cost = cell.plan, cell.cost
        trained = request.trained and place is not None  # twins are the plain model's
        key = _inputs(job, plan, trained)
        earlier = self._earlier.setdefault(key, [])
        # Where a scheduler has no table, its state lies in itself: always from the start.
        resumes = has_table(job.loaded_sides.shared.scheduler)
        known = _steps_known(plan, request.fresh_noise, earlier) if resumes else 0
        reused = evaluations(plan, job.trunk, range(known))
        denoising = cost.flops.trunk + cost.flops.branches
        flops = cost.flops.total - denoising * reused / cost.evaluations
        picture = (key, history(plan, plan.steps - 1, request.fresh_noise))
        alike = place is not None and picture in self._shown
        if place is not None:
            self._shown.add(picture)
        earlier.append((plan, request.fresh_noise))
        self.cells.append(replace(cell, reused=reused, flops=flops, alike=alike))


def _steps_known(plan: Plan, fresh: float, earlier: Sequence[tuple[Plan, float]]) -> int:
    """How many steps a plan has in common with the best of the earlier ones."""
    for step in reversed(range(plan.steps)):
        wanted = history(plan, step, fresh)
        if any(step < other.steps and history(other, step, n) == wanted for other, n in earlier):
            return step + 1
    return 0


@dataclass(frozen=True)
class CellStep:
    """A run of a grid on its way.

    Attributes:
        run: Which of the planned runs, from 0.
        cell: Its cell; None while independent pictures are made.
        step: How many steps are finished, from 1.
        steps: T, in calls of the denoiser.
    """

    run: int
    cell: int | None
    step: int
    steps: int


@dataclass(frozen=True)
class RunNumbers:
    """What one run of a cell came to.

    Attributes:
        seed: Of its first prompt.
        evaluations: Of its plan.
        reused: How many of them earlier runs had done.
        flops: Of its plan, counted, with reading and drawing.
        seconds: Of the evaluations that were run, measured; None where that would say nothing.
        around: Seconds of encoding and decoding, likewise.
        clip: CLIP score of each picture, None if it was flagged; None without an image encoder.
        distance: For each prompt, the root mean square pixel difference to its independent picture,
            in [0, 1]; None where one of the two was flagged.
    """

    seed: int
    evaluations: int
    reused: int
    flops: float
    seconds: float | None
    around: float | None
    clip: tuple[float | None, ...] | None
    distance: tuple[float | None, ...]

    @property
    def total_seconds(self) -> float | None:
        """Of all that was run."""
        return None if self.seconds is None else self.seconds + (self.around or 0.0)


@dataclass(frozen=True)
class CellDone:
    """A finished run of a grid.

    Attributes:
        cell: Its place, row by row.
        repeat: Which repeat of the cell, from 0.
        images: One for each prompt.
        plan: What was run.
        numbers: What it came to.
    """

    cell: int
    repeat: int
    images: list[Image.Image]
    plan: Plan
    numbers: RunNumbers


def render_grid(
    cells: Sequence[Cell], keep: StateStore | None = None
) -> Iterator[CellStep | CellDone]:
    """Renders the runs of a grid, one after the other; closing it stops within a step.

    Args:
        cells: From `plan_grid`.
        keep: Where states are kept and taken from; a store of its own without it.
    """
    keep = StateStore(STORE_BYTES) if keep is None else keep
    twins: dict[tuple, SageOutput] = {}
    for number, cell in enumerate(cells):
        for item in _run(cell, keep):
            if not isinstance(item, SageOutput):
                yield CellStep(number, cell.place, item.step, item.steps)
            elif cell.place is None:
                twins[twin_key(cell.job)] = item
            else:
                yield _done(cell, cell.place, item, twins[twin_key(cell.job)])


def _run(cell: Cell, keep: StateStore) -> Iterator[SageStep | SageOutput]:
    if cell.place is not None:
        return _stream(cell.job, keep)
    request = cell.job.request
    return cell.job.loaded_sides.plain.stream(
        request.prompts,
        plan=cell.plan,
        guidance_scale=request.guidance_scale,
        seeds=request.seeds,
        reuse=keep,
        **placing(cell.job, cell.plan.steps),
    )


def _stream(job: Job, keep: StateStore | None) -> Iterator[SageStep | SageOutput]:
    request = job.request
    return job.loaded_sides.shared.stream(
        request.prompts,
        guidance_scale=request.guidance_scale,
        seeds=request.seeds,
        **how_to_share(job, keep),
    )


def _done(cell: Cell, place: int, output: SageOutput, twins: SageOutput) -> CellDone:
    seconds, request = output.timings, cell.job.request
    scores = score(cell.job.loaded_sides.plain, request.prompts, output, twins)
    numbers = RunNumbers(
        request.seed,
        output.cost.evaluations,
        output.reused,
        output.cost.flops.total,
        seconds.trunk + seconds.branches,
        seconds.encode + seconds.decode,
        scores.clip,
        scores.twin,
    )
    return CellDone(place, cell.repeat, output.pictures, output.plan, numbers)


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
