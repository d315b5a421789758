"""Renders one request at many branch points; every trunk is paid once.

The longest trunk goes first, and the shorter ones are its beginning: only branches are run for
them. Pictures of a filmstrip are bit for bit those of separate runs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from sage.core.cost import evaluations
from sage.core.plan import Plan, shared_plan
from sage.jobs.compare import Scores, placing, score, sharing_arguments
from sage.jobs.job import Job
from sage.sd.pipeline import SageOutput, SagePipeline
from sage.sd.store import StateStore

Side = Literal["independent", "shared", "fewer"]


@dataclass(frozen=True)
class Frame:
    """One run of a filmstrip.

    Attributes:
        side: "independent", "shared" or "fewer".
        at: Shared steps of a shared run; for the others their number of steps.
        output: The run.
        scores: Of its pictures.
        done: How much of the filmstrip is finished, in (0, 1].
    """

    side: Side
    at: int
    output: SageOutput
    scores: Scores
    done: float


def branch_points(steps: int, number: int, also: int) -> tuple[int, ...]:
    """Branch points from 0 to `steps`, evenly spaced, about so many, and one more to be sure of."""
    every = max(1, round(steps / (number - 1)))
    return tuple(sorted({*range(0, steps + 1, every), steps, also}))


def filmstrip(
    job: Job,
    points: Sequence[int],
    *,
    keep: StateStore | None = None,
    fewer_steps: bool = False,
) -> Iterator[Frame]:
    """Renders a job at several branch points.

    Args:
        job: A job that shares by groups. Its own branch point has no meaning here, and the guard
            is off: a strip shows what sharing does, good or bad.
        points: Branch points, in calls of the denoiser.
        keep: Where states are kept and taken from; a store of its own without it.
        fewer_steps: Also render, for each branch point, the equal-NFE baseline.

    Yields:
        One Frame a run: the independent one, the shared ones from the longest trunk on, then those
        with fewer steps.

    Raises:
        ValueError: If the job does not share by groups, a point lies outside, or its model is not
            loaded.
    """
    if job.request.sharing != "groups":
        raise ValueError("Only groups with one branch point can be shown at many branch points.")
    if not points:
        raise ValueError("There are no branch points; name at least one.")
    keep = StateStore() if keep is None else keep
    plain = job.loaded_sides.plain
    runs = _runs([job.at(point) for point in sorted(set(points), reverse=True)], fewer_steps)
    total, spent = sum(run.fresh for run in runs), 0
    independent: SageOutput | None = None
    for run in runs:
        output = _render(job, run, keep)
        independent = independent or output
        spent += run.fresh
        scores = score(plain, job.request.prompts, output, independent)
        yield Frame(run.side, run.at, output, scores, spent / total)


def filmstrip_evaluations(job: Job, points: Sequence[int]) -> int:
    """What the shared runs of a filmstrip cost at most: the longest trunk, and all branches."""
    groups = [group for group in job.groups if len(group) > 1]
    if not groups:
        return 0
    place = {n: k for k, n in enumerate(n for group in groups for n in group)}
    together = [tuple(place[n] for n in group) for group in groups]
    spent, longest = 0, max(points)
    for point in points:
        plan = shared_plan(together, job.calls, point)
        spent += evaluations(plan, job.trunk, range(0 if point == longest else point, job.calls))
    return spent


@dataclass(frozen=True)
class _PlannedRun:
    """A run of a filmstrip; `fresh` are the evaluations that no earlier run has done."""

    side: Side
    at: int
    pipe: SagePipeline
    plan: Plan
    fresh: int


def _runs(jobs: Sequence[Job], fewer_steps: bool) -> list[_PlannedRun]:
    """Every run in order; of the jobs, the one with the longest trunk comes first."""
    longest, sides = jobs[0], jobs[0].loaded_sides
    baseline = longest.independent
    runs = [_PlannedRun("independent", longest.calls, sides.plain, baseline, evaluations(baseline))]
    for job in jobs:
        trunk, known = job.trunk, range(0 if job is longest else job.branch_call)
        fresh = evaluations(job.plan, trunk) - evaluations(job.plan, trunk, known)
        runs.append(_PlannedRun("shared", job.branch_call, sides.shared, job.plan, fresh))
    if fewer_steps:
        plans = {plan for job in jobs if (plan := job.fewer_plan()) is not None}
        for plan in sorted(plans, key=lambda plan: -plan.steps):
            runs.append(_PlannedRun("fewer", plan.steps, sides.plain, plan, evaluations(plan)))
    return runs


def _render(job: Job, run: _PlannedRun, keep: StateStore) -> SageOutput:
    extra = sharing_arguments(job) if run.side == "shared" else placing(job, run.plan.steps)
    return run.pipe(
        job.request.prompts,
        plan=run.plan,
        guidance_scale=job.request.guidance_scale,
        seeds=job.request.seeds,
        reuse=keep,
        **extra,
    )
