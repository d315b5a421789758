"""How a request becomes a plan: groups with a branch point, a tree within a budget, or a rule.

Computes similarities and plans, renders nothing. The page, the API and the comparison arrange a
request here, so that what is announced is what is run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from sage.core.adaptive import AdaptiveRule
from sage.core.calibration import Calibration, lowest_similarity
from sage.core.cost import Cost
from sage.core.grouping import Grouping
from sage.core.guard import Verdict, predict
from sage.core.plan import Group, Plan, branch_step_from_ratio, independent_plan, shared_plan
from sage.core.tree import budget_plan, dendrogram
from sage.jobs.models import ModelSpec
from sage.jobs.request import Request
from sage.sd.pipeline import SagePipeline

# Largest distance of guidance directions that stay together in an adaptive run; at 1 they no longer
# agree at all. Of the rules in the study `adaptive` it lost least against fixed branch points.
THRESHOLD = 0.8
EARLIEST = 0.1  # share of the steps before which an adaptive run never splits


@dataclass(frozen=True)
class Arrangement:
    """Who shares with whom, and until when, before anything is rendered.

    Attributes:
        request: What was asked for.
        grouping: Similarities and the reason for every pair.
        groups: Who starts together: the groups, or the trunks of a tree.
        plan: The shared side; of an adaptive run, the plan if no prediction parts before the
            branch point.
        verdicts: For each group whether sharing is predicted to be safe; None where it shares
            nothing.
        rule: When an adaptive run splits; None for the others.
    """

    request: Request
    grouping: Grouping
    groups: tuple[Group, ...]
    plan: Plan
    verdicts: tuple[Verdict | None, ...]
    rule: AdaptiveRule | None = None

    @property
    def independent(self) -> Plan:
        """The baseline: every prompt alone for all steps."""
        return independent_plan(self.plan.num_prompts, self.plan.steps)

    def cost(self, pipe: SagePipeline) -> Cost:
        """What the plan costs on a model, counted and not run."""
        request = self.request
        return pipe.cost(self.plan, request.guidance_scale, trunk=request.trunk)


def find_groups(pipe: SagePipeline, request: Request) -> Grouping:
    """The groups a request leads to."""
    return pipe.group(request.prompts, request.tau_min, request.tau_max, request.max_group_size)


def arrange(
    grouping: Grouping,
    request: Request,
    steps: int,
    groups: Sequence[Group] | None = None,
    calibration: Calibration | None = None,
) -> Arrangement:
    """The plan of a request.

    Args:
        grouping: From `find_groups`.
        request: A checked request.
        steps: Calls of the denoiser, from `SagePipeline.denoiser_calls`.
        groups: Groups to use instead of those found by similarity.
        calibration: Of the model, from `calibration_of`; without it nothing is predicted.

    Raises:
        ValueError: If a tree cannot keep to the budget.
    """
    if request.sharing == "tree":
        plan = budget_plan(dendrogram(grouping.similarity), steps, request.budget)
        trunks = plan.rows(0)
        return Arrangement(request, grouping, trunks, plan, (None,) * len(trunks))
    chosen = tuple(tuple(group) for group in groups or grouping.groups)
    asked = branch_step_from_ratio(request.share_ratio, steps) / steps  # of whole steps
    verdicts = tuple(_verdict(grouping, group, request, asked, calibration) for group in chosen)
    ratios = [_safe_ratio(request, verdict) for verdict in verdicts]
    # Down, not to the nearest, where the guard shortens: a step more would not be safe.
    points = [
        branch_step_from_ratio(ratio, steps)
        if ratio == request.share_ratio
        else int(ratio * steps + 1e-9)
        for ratio in ratios
    ]
    plan, rule = shared_plan(chosen, steps, points), _rule(request)
    return Arrangement(request, grouping, chosen, plan, verdicts, rule)


def calibration_of(spec: ModelSpec, trained: bool = False) -> Calibration | None:
    """What is known of sharing on a model, or with its adapter on; None if nothing is."""
    folder = spec.adapter if trained else spec.student or spec.source
    return None if folder is None else _read_calibration(Path(folder))


@lru_cache
def _read_calibration(folder: Path) -> Calibration | None:
    return Calibration.read(folder)


def _rule(request: Request) -> AdaptiveRule | None:
    """An adaptive run splits by the branch point at the latest."""
    if request.sharing != "adaptive":
        return None
    latest = request.share_ratio
    return AdaptiveRule(THRESHOLD, earliest=min(EARLIEST, latest), latest=latest)


def _verdict(
    grouping: Grouping,
    group: Group,
    request: Request,
    asked: float,
    calibration: Calibration | None,
) -> Verdict | None:
    if len(group) == 1:
        return None
    similarity = lowest_similarity(grouping.similarity, group)
    return predict(similarity, asked, calibration, request.steps)


def _safe_ratio(request: Request, verdict: Verdict | None) -> float:
    """The share of steps that a group may have in common."""
    if not request.guarded or verdict is None or verdict.safe:
        return request.share_ratio
    return verdict.shorter or 0.0
