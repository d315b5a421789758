"""A grid of runs over two settings, and one run laid open step by step.

Runs of a grid are ordered so that what they have in common is computed once: a trunk is paid by
the first run that needs it. Knows requests, plans and pictures; nothing of pages or files.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from sage.core.metrics import clip_score
from sage.core.plan import Plan, Row
from sage.core.trunk import queries
from sage.jobs.arrangement import arrange, find_groups
from sage.jobs.compare import sharing_arguments
from sage.jobs.models import LoadedModel
from sage.jobs.request import CHOICES, LIMITS, Limit, Request
from sage.jobs.variants import shared_side
from sage.sd.pipeline import SageOutput, SagePipeline, SageStep
from sage.sd.store import StateStore, history

CELLS = Limit("The number of runs in a grid", 12, 1, 36, 1)
PER_AXIS = Limit("The number of values on an axis", 3, 1, 6, 1)
STORE_BYTES = 512 * 2**20
WITHOUT_TABLE = {
    "unipc",
    "pndm",
    "heun",
}  # their state lies in the scheduler: always from the start

# What an axis may be: its title and what it starts with.
AXES: dict[str, tuple[str, tuple[Any, ...]]] = {
    "share_ratio": ("Share ratio, β", (0.0, 0.2, 0.4, 0.6)),
    "steps": ("Steps, T", (10, 20, 30)),
    "guidance_scale": ("Guidance", (1.0, 2.0, 4.0, 7.5)),
    "seed": ("Seed", (0, 1, 2)),
    "trained": ("Trained for sharing", (False, True)),
    "scheduler": ("Scheduler", ("ddim", "dpm++2m", "euler")),
    "trunk": ("What the trunk follows", ("mean", "norm_mean", "medoid")),
}
SWITCH = {False: "off", True: "on"}


@dataclass(frozen=True)
class Axis:
    """One direction of a grid: a setting and its values."""

    name: str
    values: tuple[Any, ...]

    @classmethod
    def parse(cls, name: str, values: Sequence[Any]) -> "Axis":
        """An axis from what a visitor picked or typed.

        Raises:
            ValueError: If the setting or a value is not allowed, or there are too many.
        """
        if name not in AXES:
            raise ValueError(f"The axis is {str(name)[:40]!r}; allowed are {', '.join(AXES)}.")
        checked = dict.fromkeys(_check(name, value) for value in values or ())
        if not checked:
            raise ValueError(f"{AXES[name][0]}: pick or type at least one value.")
        PER_AXIS.check(len(checked))
        return cls(name, tuple(checked))

    @property
    def title(self) -> str:
        """Its setting in words."""
        return AXES[self.name][0]

    def label(self, value: Any) -> str:
        """One of its values in words."""
        return value_words(self.name, value)


def value_words(name: str, value: Any) -> str:
    """A value of a setting as a visitor reads it."""
    if name in CHOICES:
        return CHOICES[name].titles[value].split(" (")[0]
    if isinstance(value, bool):
        return SWITCH[value]
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _check(name: str, value: Any) -> Any:
    if name in CHOICES:
        return CHOICES[name].check(value)
    if name == "trained":
        words = {"off": False, "on": True, False: False, True: True}
        if value not in words:
            raise ValueError(f"The adapter is {str(value)[:40]!r}; allowed are off and on.")
        return words[value]
    return LIMITS[name].check(value)


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
class Job:
    """A run of a grid, planned.

    Attributes:
        cell: Its place, row by row.
        request: What it renders.
        plan: Who shares with whom.
        evaluations: What it would cost alone.
        reused: Evaluations that an earlier run of the grid has done already.
        flops: What is left to do, counted.
    """

    cell: int
    request: Request
    plan: Plan
    evaluations: int
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
    def of(cls, jobs: Sequence[Job]) -> "GridCost":
        """Sums over the runs."""
        columns = zip(*((job.evaluations, job.reused, job.flops) for job in jobs), strict=True)
        return cls(len(jobs), *(sum(column) for column in columns))


def plan_grid(model: LoadedModel, grid: Grid) -> tuple[Job, ...]:
    """The runs of a grid in the order that reuses most, each with what it costs.

    Raises:
        ValueError: If the model cannot do what is asked for.
    """
    requests = grid.requests
    # The same inputs together, the longest trunk first: shorter ones are its beginning.
    order = sorted(
        range(len(requests)),
        key=lambda cell: (
            requests.index(_first_alike(requests, cell)),
            -requests[cell].share_ratio,
            cell,
        ),
    )
    earlier: dict[Request, list[Plan]] = {}
    jobs = []
    for cell in order:
        known = earlier.setdefault(_inputs(requests[cell]), [])
        jobs.append(_plan_job(model, cell, requests[cell], known))
        known.append(jobs[-1].plan)
    return tuple(jobs)


def _inputs(request: Request) -> Request:
    """A request without what may differ between runs that begin alike."""
    return replace(request, share_ratio=0.0)


def _first_alike(requests: Sequence[Request], cell: int) -> Request:
    wanted = _inputs(requests[cell])
    return next(request for request in requests if _inputs(request) == wanted)


def _plan_job(model: LoadedModel, cell: int, request: Request, earlier: Sequence[Plan]) -> Job:
    pipe = shared_side(model, request)
    steps = pipe.denoiser_calls(request.steps)
    plan = arrange(find_groups(pipe, request), request, steps).plan
    cost = pipe.cost(plan, request.guidance_scale, trunk=request.trunk)
    first = 0 if request.scheduler in WITHOUT_TABLE else _steps_known(plan, earlier)
    reused = sum(queries(request.trunk, plan.rows(i)) for i in range(first))
    denoising = cost.flops.trunk + cost.flops.branches
    flops = cost.flops.total - denoising * reused / cost.evaluations
    return Job(cell, request, plan, cost.evaluations, reused, flops)


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
        clip: CLIP score of each picture; None without an image encoder.
    """

    cell: int
    images: list[Image.Image]
    evaluations: int
    reused: int
    seconds: float
    around: float
    clip: tuple[float, ...] | None


def render_grid(
    model: LoadedModel, jobs: Sequence[Job], keep: StateStore | None = None
) -> Iterator[CellStep | CellDone]:
    """Renders the runs of a grid, one after the other; closing it stops within a step.

    Args:
        model: The model.
        jobs: From `plan_grid`.
        keep: Where states are kept and taken from; a store of its own without it.
    """
    keep = StateStore(STORE_BYTES) if keep is None else keep
    for job in jobs:
        pipe = shared_side(model, job.request)
        for item in _stream(pipe, job.request, job.plan, keep):
            if isinstance(item, SageOutput):
                yield _done(pipe, job, item)
            else:
                yield CellStep(job.cell, item.step, item.steps)


def _stream(
    pipe: SagePipeline, request: Request, plan: Plan, keep: StateStore | None
) -> Iterator[SageStep | SageOutput]:
    return pipe.stream(
        request.prompts,
        plan=plan,
        guidance_scale=request.guidance_scale,
        seeds=request.seeds,
        reuse=keep,
        **sharing_arguments(request),
    )


def _done(pipe: SagePipeline, job: Job, output: SageOutput) -> CellDone:
    seconds, scores = output.timings, None
    if pipe.clip is not None:
        texts = pipe.embed(job.request.prompts)
        scores = tuple(clip_score(pipe.clip.embed_images(output.images), texts).tolist())
    return CellDone(
        job.cell,
        output.images,
        output.cost.evaluations,
        output.reused,
        seconds.trunk + seconds.branches,
        seconds.encode + seconds.decode,
        scores,
    )


# -- one run, laid open --------------------------------------------------------------------------


@dataclass(frozen=True)
class Frame:
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


def trace(model: LoadedModel, request: Request, number: int = 10) -> Iterator[Frame | Trace]:
    """Renders a request and shows every row on the way, at about so many steps.

    Raises:
        ValueError: If the model cannot do what is asked for.
    """
    pipe = shared_side(model, request)
    steps = pipe.denoiser_calls(request.steps)
    plan = arrange(find_groups(pipe, request), request, steps).plan
    shown = shown_steps(plan, number)
    for item in _stream(pipe, request, plan, None):
        if isinstance(item, SageOutput):
            yield Trace(item.plan, item.images)
        elif item.step in shown:
            state = item.state
            pictures = (pipe.preview(state.denoised), pipe.preview(state.x))
            yield Frame(item.step, item.steps, state.rows, *pictures)
