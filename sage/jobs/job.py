"""From a request to everything that is known before it runs: `prepare(model, request) -> Job`.

The one place that chooses both sides' pipelines, counts calls of the denoiser, finds groups, asks
the guard, makes the plan and counts its cost. Whatever shows or spends one of these numbers reads
it from a job; what is known only after a run is in the run's output.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

from diffusers import DDIMScheduler
from torch import Tensor

from sage.core.adaptive import AdaptiveRule
from sage.core.calibration import Calibration, lowest_similarity
from sage.core.cost import Cost, ModelFlops, plan_cost
from sage.core.grouping import Grouping
from sage.core.guard import Verdict, predict
from sage.core.lending import ONCE
from sage.core.plan import Group, Plan, branch_step_from_ratio, independent_plan, shared_plan
from sage.core.planner import Planned, Planning, plan_within, sharing_levels
from sage.core.settings import SCHEDULERS, Sampling, settings_of
from sage.core.tree import budget_plan, dendrogram
from sage.jobs.models import LoadedModel, ModelSpec
from sage.jobs.request import Request
from sage.jobs.sides import Sides
from sage.sd.arguments import check_groups
from sage.sd.pipeline import UNPLANNED, SagePipeline
from sage.sd.schedulers import check_timesteps, denoiser_calls, has_table, make_scheduler, steps_for
from sage.sd.spacing import solver_key, timesteps_of

# Largest distance of guidance directions that stay together in an adaptive run; at 1 they no longer
# agree at all. Of the rules in the study `adaptive` it lost least against fixed branch points.
THRESHOLD = 0.8
# Nats by which prompts of the corrected trunk may be told apart and stay together: in the study
# `when` it saved evaluations against fixed branch points, where the direction test lost some.
NATS = 300.0
EARLIEST = 0.1  # share of the steps before which an adaptive run never splits


@dataclass(frozen=True)
class Job:
    """A request with what follows from it, before anything is rendered.

    Attributes:
        request: What was asked for.
        spec: The model it was asked of.
        grouping: Similarities and the reason for every pair.
        groups: Who starts together: the groups, or the trunks of a tree.
        plan: The shared side; of an adaptive run, the plan if no prediction parts before the
            branch point.
        verdicts: For each group whether sharing is predicted to be safe; None where it shares
            nothing.
        flops: Of one call of each part of the model.
        rule: When an adaptive run splits; None for the others.
        sides: Both sides' pipelines; None where the model is not loaded.
        planned: What the planner chose, where the request has a budget.
        timesteps: Where the steps lie, if they were planned; None leaves them to the request's
            spacing.
    """

    request: Request
    spec: ModelSpec
    grouping: Grouping
    groups: tuple[Group, ...]
    plan: Plan
    verdicts: tuple[Verdict | None, ...]
    flops: ModelFlops
    rule: AdaptiveRule | None = None
    sides: Sides | None = None
    planned: Planned | None = None
    timesteps: tuple[int, ...] | None = None

    @property
    def calls(self) -> int:
        """How often the denoiser is called for one trajectory: its NFE."""
        return self.plan.steps

    @property
    def loaded_sides(self) -> Sides:
        """Both sides' pipelines.

        Raises:
            ValueError: If the model is not loaded.
        """
        if self.sides is None:
            raise ValueError("The model of this job is not loaded; make one with `prepare`.")
        return self.sides

    @property
    def branch_call(self) -> int:
        """First call that is no longer shared, as asked; the guard may have moved it ahead."""
        if self.planned is not None:
            return self.planned.shared_steps
        return branch_step_from_ratio(self.request.share_ratio, self.calls)

    @property
    def trunk(self) -> str:
        """What trunks follow: the planner's choice, or the request's."""
        return self.request.trunk if self.planned is None else self.planned.trunk

    @cached_property
    def advice(self) -> Planned | None:
        """The best plan for what this one costs; None where nothing is known for planning."""
        planning = planning_of(self.spec)
        budget = self.cost.evaluations / self.plan.num_prompts
        if self.planned is not None or planning is None or budget < 1:
            return self.planned
        return plan_within(planning, sharing_levels(self.groups), budget, solver_of(self.request))

    @property
    def independent(self) -> Plan:
        """The baseline: every prompt alone for all steps."""
        return independent_plan(self.plan.num_prompts, self.calls)

    @property
    def shares(self) -> bool:
        """Whether any two prompts share a step."""
        return bool(self.plan.branch_steps)

    @property
    def settled(self) -> bool:
        """Whether the plan is what will be run; an adaptive one is made while sampling."""
        return self.rule is None

    @property
    def cost(self) -> Cost:
        """What the plan costs, counted and not run."""
        return self.cost_of(self.plan)

    def cost_of(self, plan: Plan) -> Cost:
        """What any plan costs under the settings of this job."""
        guided = self.request.guidance_scale > 1
        return plan_cost(plan, self.flops, guided, self.trunk)

    def fewer_plan(self, evaluations: int | None = None) -> Plan | None:
        """The equal-NFE baseline: independent sampling with the most calls that can be paid.

        Where a scheduler cannot make just so many calls (Heun's are odd), it is fewer.

        Args:
            evaluations: What may be spent; what the plan costs without it.

        Returns:
            None if a single step for each prompt costs more.
        """
        spent = self.cost.evaluations if evaluations is None else evaluations
        number = self.plan.num_prompts
        scheduler = make_scheduler(self.request.scheduler, like=DDIMScheduler())
        for calls in range(spent // number, 0, -1):
            try:
                steps_for(scheduler, calls)
            except ValueError:
                continue
            return independent_plan(number, calls)
        return None

    def at(self, branch_call: int) -> "Job":
        """The same job with another branch point, in calls of the denoiser, and no guard.

        Raises:
            ValueError: If the point lies outside the run.
        """
        if not 0 <= branch_call <= self.calls:
            raise ValueError(f"The branch point is {branch_call}; allowed are 0 to {self.calls}.")
        ratio = branch_call / self.calls
        request = replace(self.request, share_ratio=ratio, guarded=False, budget=0.0)
        plan = shared_plan(self.groups, self.calls, branch_call)
        return replace(self, request=request, plan=plan, planned=None)


def prepare(model: LoadedModel, request: Request, groups: Sequence[Group] | None = None) -> Job:
    """Everything that follows from a request on a loaded model.

    Args:
        model: The model.
        request: A checked request.
        groups: Groups to use instead of those found by similarity.

    Raises:
        ValueError: If the model cannot do what is asked for.
    """
    sides = Sides.of(model, request)
    grouping = find_groups(sides.plain, request)
    job = arrange(grouping, request, model.spec, sides.plain.flops, groups)
    return replace(job, sides=sides)


def find_groups(pipe: SagePipeline, request: Request) -> Grouping:
    """The groups a request leads to."""
    return pipe.group(request.prompts, request.tau_min, request.tau_max, request.max_group_size)


def arrange(
    grouping: Grouping,
    request: Request,
    spec: ModelSpec,
    flops: ModelFlops,
    groups: Sequence[Group] | None = None,
) -> Job:
    """The job of a request whose similarities are known; needs no loaded model.

    Args:
        grouping: Similarities and groups, from `find_groups`.
        request: A checked request.
        spec: Of the model.
        flops: Of the model.
        groups: Groups to use instead of those found by similarity.

    Raises:
        ValueError: If a tree cannot keep to the budget, groups do not hold each prompt once, or
            settings do not go together.
    """
    members = grouping.groups
    if groups:
        members = check_groups(groups, len(request.prompts))
    if request.budget:
        return _arrange_within(grouping, request, spec, flops, members)
    calls = calls_of(request)
    _check_scheduler(request, calls, spec)
    if request.sharing == "tree":
        plan = budget_plan(dendrogram(grouping.similarity), calls, request.spend)
        trunks = plan.rows(0)
        return Job(request, spec, grouping, trunks, plan, (None,) * len(trunks), flops)
    calibration = calibration_of(spec)
    verdicts = tuple(
        verdict_of(grouping.similarity, group, request, calls, calibration) for group in members
    )
    plan = shared_plan(members, calls, [branch_call_of(request, calls, v) for v in verdicts])
    return Job(request, spec, grouping, members, plan, verdicts, flops, adaptive_rule(request))


def _check_scheduler(request: Request, calls: int, spec: ModelSpec) -> None:
    """That a scheduler takes the steps' places and the fresh noise that are asked for.

    The pipeline would say so as well, but only once a cost has been shown and a run has begun.
    """
    scheduler, settings = make_scheduler(request.scheduler, like=DDIMScheduler()), settings_of()
    given = {"spacing": request.spacing, "fresh_noise": request.fresh_noise}
    if not has_table(scheduler):
        for name, value in given.items():
            if value != settings[name].default:
                shown = [settings[name].words(v) for v in (value, settings[name].default)]
                raise ValueError(
                    f"{settings[name].subject} is {shown[0]}; with {SCHEDULERS[request.scheduler]} "
                    f"allowed is {shown[1]}."
                )
    timesteps_of(request.spacing, calls, scheduler, planning_of(spec))


def _arrange_within(
    grouping: Grouping,
    request: Request,
    spec: ModelSpec,
    flops: ModelFlops,
    groups: tuple[Group, ...],
) -> Job:
    """The job whose plan is the best within the request's budget."""
    planning = planning_of(spec)
    if planning is None:
        raise ValueError(UNPLANNED)
    if request.sharing == "adaptive":
        raise ValueError("An adaptive run finds its own plan: it excludes a budget.")
    scheduler = make_scheduler(request.scheduler, like=DDIMScheduler())
    check_timesteps(planning.levels, scheduler)
    # Sides of a group may share on where a tree is asked for; the study `map` judged groups only.
    near = grouping.similarity if request.sharing == "tree" else None
    levels = sharing_levels(groups, near)
    planned = plan_within(planning, levels, request.budget, solver_key(scheduler))
    return Job(
        request,
        spec,
        grouping,
        groups,
        planned.plan,
        (None,) * len(groups),
        flops,
        planned=planned,
        timesteps=planned.timesteps,
    )


def solver_of(sampling: Sampling) -> str:
    """Whose jump errors hold for the scheduler of a request."""
    return solver_key(make_scheduler(sampling.scheduler, like=DDIMScheduler()))


def planning_of(spec: ModelSpec) -> Planning | None:
    """What is known for planning on a model, with and without its adapter; None if nothing is."""
    return _read_planning(Path(spec.student or spec.source))


@lru_cache
def _read_planning(folder: Path) -> Planning | None:
    return Planning.read(folder)


def calls_of(sampling: Sampling) -> int:
    """How often a scheduler calls the denoiser for one trajectory, whatever the model."""
    scheduler = make_scheduler(sampling.scheduler, like=DDIMScheduler())
    return denoiser_calls(scheduler, sampling.steps)


def calibration_of(spec: ModelSpec) -> Calibration | None:
    """What is known of sharing on a model; None if nothing is.

    That of the plain model also where its adapter is on: with and without it, a request branches
    at the same point, so that the effect of the adapter can be judged.
    """
    return _read_calibration(Path(spec.student or spec.source))


@lru_cache
def _read_calibration(folder: Path) -> Calibration | None:
    return Calibration.read(folder)


def adaptive_rule(sampling: Sampling) -> AdaptiveRule | None:
    """When a run splits while sampling, by the branch point at the latest; None if it does not."""
    if sampling.sharing != "adaptive":
        return None
    latest = sampling.share_ratio
    known = has_table(make_scheduler(sampling.scheduler, like=DDIMScheduler()))
    if sampling.trunk == "control_once" and known:  # its one snapshot is the probe, for nothing
        return AdaptiveRule(NATS, 0.0, latest, every=ONCE, compare="information")
    return AdaptiveRule(THRESHOLD, earliest=min(EARLIEST, latest), latest=latest)


def verdict_of(
    similarity: Tensor,
    group: Group,
    sampling: Sampling,
    calls: int,
    calibration: Calibration | None,
) -> Verdict | None:
    """What is expected of a group that shares as asked; None for a single prompt.

    Args:
        similarity: [N, N] cosine similarities.
        group: The group's prompts.
        sampling: What is asked for.
        calls: Of the denoiser, from `calls_of`.
        calibration: Of the model, from `calibration_of`.
    """
    if len(group) == 1:
        return None
    asked = branch_step_from_ratio(sampling.share_ratio, calls) / calls  # of whole calls
    return predict(lowest_similarity(similarity, group), asked, calibration, calls)


def branch_call_of(sampling: Sampling, calls: int, verdict: Verdict | None) -> int:
    """First call that a group no longer shares."""
    if not sampling.guarded or verdict is None or verdict.safe:
        return branch_step_from_ratio(sampling.share_ratio, calls)
    # Down, not to the nearest, where the guard shortens: a call more would not be safe.
    return int((verdict.shorter or 0.0) * calls + 1e-9)
