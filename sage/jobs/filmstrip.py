"""Renders one request at many branch points; every trunk is paid once.

The longest trunk goes first, and the shorter ones are its beginning: only branches are run for
them. Pictures of a filmstrip are bit for bit those of separate runs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from sage.core.cost import evaluations
from sage.core.plan import Plan
from sage.jobs.arrangement import Arrangement, arrange, find_groups
from sage.jobs.compare import Scores, fewer_plan, score, sharing_arguments
from sage.jobs.models import LoadedModel
from sage.jobs.request import Request
from sage.jobs.variants import plain_side, shared_side
from sage.sd.pipeline import SageOutput, SagePipeline
from sage.sd.store import StateStore


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

    side: str
    at: int
    output: SageOutput
    scores: Scores
    done: float


def branch_points(steps: int, number: int, also: int) -> tuple[int, ...]:
    """Branch points from 0 to `steps`, evenly spaced, about so many, and one more to be sure of."""
    every = max(1, round(steps / (number - 1)))
    return tuple(sorted({*range(0, steps + 1, every), steps, also}))


def filmstrip(
    model: LoadedModel,
    request: Request,
    points: Sequence[int],
    *,
    keep: StateStore | None = None,
    fewer_steps: bool = False,
) -> Iterator[Frame]:
    """Renders a request at several branch points.

    Args:
        model: The model.
        request: A checked request that shares by groups. Its own branch point has no meaning
            here, and the guard is off: a strip shows what sharing does, good or bad.
        points: Branch points, in calls of the denoiser.
        keep: Where states are kept and taken from; a store of its own without it.
        fewer_steps: Also render, for each branch point, independent sampling with as few steps as
            the shared side can pay.

    Yields:
        One Frame a run: the independent one, the shared ones from the longest trunk on, then those
        with fewer steps.

    Raises:
        ValueError: If the request does not share by groups, or a point lies outside.
    """
    if request.sharing != "groups":
        raise ValueError("Only groups with one branch point can be shown at many branch points.")
    keep = StateStore() if keep is None else keep
    shared, plain = shared_side(model, request), plain_side(model, request)
    steps = plain.denoiser_calls(request.steps)
    grouping = find_groups(plain, request)
    ready = {p: arrange(grouping, _at(request, p, steps), steps) for p in points}
    runs = _runs(shared, plain, ready, fewer_steps)
    total, spent = sum(fresh for *_, fresh in runs), 0
    independent: SageOutput | None = None
    for side, at, pipe, plan, fresh in runs:
        extra = sharing_arguments(request) if side == "shared" else {}
        output = _render(pipe, request, plan, keep, extra)
        independent = independent or output
        spent += fresh
        yield Frame(
            side, at, output, score(model.pipe, request.prompts, output, independent), spent / total
        )


def filmstrip_evaluations(arrangement: Arrangement, points: Sequence[int]) -> int:
    """What the shared runs of a filmstrip cost at most: the longest trunk, and all branches."""
    steps, groups = arrangement.plan.steps, arrangement.groups
    shared = sum(len(group) > 1 for group in groups)
    together = sum(len(group) for group in groups if len(group) > 1)
    return shared * max(points) + together * sum(steps - point for point in points)


def _at(request: Request, point: int, steps: int) -> Request:
    if not 0 <= point <= steps:
        raise ValueError(f"The branch point is {point}; allowed are 0 to {steps}.")
    return replace(request, share_ratio=point / steps, guarded=False)


def _runs(
    shared: SagePipeline, plain: SagePipeline, ready: dict[int, Arrangement], fewer_steps: bool
) -> list[tuple[str, int, SagePipeline, Plan, int]]:
    """Side, point, pipeline, plan and fresh evaluations of every run, in order."""
    longest, *_ = points = sorted(ready, reverse=True)
    baseline = ready[longest].independent
    runs = [("independent", baseline.steps, plain, baseline, evaluations(baseline))]
    for point in points:
        plan = ready[point].plan
        before = 0 if point == longest else point * len(ready[point].groups)
        runs.append(("shared", point, shared, plan, evaluations(plan) - before))
    if fewer_steps:
        number = baseline.num_prompts
        spent = {arrangement.cost(shared).evaluations for arrangement in ready.values()}
        plans = {fewer_plan(plain, number, amount) for amount in spent} - {None}
        for plan in sorted(plans, key=lambda plan: -plan.steps):
            runs.append(("fewer", plan.steps, plain, plan, evaluations(plan)))
    return runs


def _render(
    pipe: SagePipeline,
    request: Request,
    plan: Plan,
    keep: StateStore,
    extra: dict[str, object],
) -> SageOutput:
    return pipe(
        request.prompts,
        plan=plan,
        guidance_scale=request.guidance_scale,
        seeds=request.seeds,
        reuse=keep,
        **extra,
    )
