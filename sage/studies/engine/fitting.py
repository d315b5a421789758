"""What is chosen before a comparison within a budget, by the judges, on prompts of their own.

Which solver and spacing independent sampling is best off with, which guidance suits a budget on
either side, and what a unit of sharing's bias weighs beside one of discretisation: all of it on
sets of prompts that the comparison itself never sees.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sage.core.planner import Planned, Planning, plan_within, sharing_levels
from sage.core.settings import SPACINGS
from sage.sd.schedulers import make_scheduler
from sage.sd.spacing import solver_key, timesteps_of
from sage.studies.engine.cells import Recipe
from sage.studies.engine.figures import QUALITY
from sage.studies.engine.judges import METRIC
from sage.studies.engine.lab import Lab
from sage.studies.engine.prompts import PromptSet

SOLVERS = ("ddim", "dpm++2m")
WEIGHTS = (0.3, 1.0, 3.0, 10.0)
GUIDANCE = (0.75, 1.0, 1.5)  # times the lab's own
FIT_BUDGETS = (3, 6)  # at which guidance is chosen
MIDDLE = 4  # the budget at which schedules and weights are


@dataclass(frozen=True)
class Fit:
    """What was chosen.

    Attributes:
        scheduler: Of both sides.
        spacing: Of independent steps.
        guidance_alone: Scale by budget, of independent steps.
        guidance_shared: Scale by budget, of plans that share.
        weight: Of `sage.core.planner`.
        tried: What was tried and how it did, for the result.
    """

    scheduler: str
    spacing: str
    guidance_alone: Mapping[float, float]
    guidance_shared: Mapping[float, float]
    weight: float
    tried: Mapping[str, Any]

    def plain(self) -> dict[str, Any]:
        """Ready for JSON."""
        scales = {"alone": self.guidance_alone, "shared": self.guidance_shared}
        return {
            "scheduler": self.scheduler,
            "spacing": self.spacing,
            "guidance": {k: {f"{b:g}": s for b, s in v.items()} for k, v in scales.items()},
            "weight": self.weight,
            "tried": dict(self.tried),
        }

    def alone_at(self, budget: float) -> float:
        """Guidance of independent steps: of the nearest budget that was tried, by ratio."""
        return _nearest(self.guidance_alone, budget)

    def shared_at(self, budget: float) -> float:
        """Guidance of a plan that shares."""
        return _nearest(self.guidance_shared, budget)


def _nearest(values: Mapping[float, float], at: float) -> float:
    return values[min(values, key=lambda known: abs(np.log(known / at)))]


def placed(
    lab: Lab, planning: Planning, scheduler: str, spacing: str, steps: int
) -> tuple[int, ...] | None:
    """Where independent steps lie; None for the scheduler's own places."""
    own = make_scheduler(scheduler, like=lab.pipe.scheduler)
    return timesteps_of(spacing, steps, own, planning)


def alone(
    lab: Lab,
    planning: Planning,
    scheduler: str,
    spacing: str,
    steps: int,
    *,
    guidance: float | None = None,
) -> Recipe:
    """Independent sampling with some steps at some places."""
    scale = lab.guidance if guidance is None else guidance
    recipe = lab.recipe(scheduler=scheduler, steps=steps, guidance_scale=scale)
    return replace(recipe, timesteps=placed(lab, planning, scheduler, spacing, steps))


def shared(
    lab: Lab,
    planning: Planning,
    prompts: PromptSet,
    scheduler: str,
    budget: float,
    *,
    guidance: float | None = None,
    weight: float | None = None,
) -> tuple[Recipe, Planned]:
    """The best plan that shares, the same for every group: all have one size.

    Args:
        lab: Gives the model.
        planning: Of the model.
        prompts: In groups of one size.
        scheduler: Of both sides.
        budget: Evaluations a picture.
        guidance: The lab's own without it.
        weight: The planning's own without it.
    """
    solver = solver_key(make_scheduler(scheduler, like=lab.pipe.scheduler))
    planned = plan_within(
        planning, sharing_levels(prompts.groups), budget, solver, weight=weight, must_share=True
    )
    scale = lab.guidance if guidance is None else guidance
    recipe = lab.recipe(
        plan=planned.plan,
        scheduler=scheduler,
        steps=planned.plan.steps,
        guidance_scale=scale,
        trunk=planned.trunk,
    )
    return replace(recipe, timesteps=planned.timesteps), planned


def standing(lab: Lab, prompts: PromptSet, recipes: Sequence[Recipe]) -> list[float]:
    """How well recipes do on the same prompts, in all judges together; higher is better.

    Every judge's values are brought to unit spread over the recipes, so that each counts the same.
    """
    lab.render([(recipe, prompts) for recipe in recipes])
    measured = [lab.measure(recipe, prompts).metrics for recipe in recipes]
    keys = [key for key in QUALITY if key in measured[0]] or ["pixels"]
    table = np.array([[METRIC[k].better * m[k].value for k in keys] for m in measured])
    spread = table.std(0)
    scores = (table - table.mean(0)) / np.where(spread > 0, spread, 1.0)
    return [round(float(score), 4) for score in scores.mean(1)]


def best_schedule(
    lab: Lab, planning: Planning, prompts: PromptSet, steps: int
) -> tuple[str, str, dict[str, float]]:
    """The solver and spacing with the best standing, and all standings."""
    ways = [(s, p) for s in SOLVERS for p in SPACINGS if p != "model" and _tried(s, p)]
    scores = standing(lab, prompts, [alone(lab, planning, *way, steps) for way in ways])
    told = {f"{s} {p}": score for (s, p), score in zip(ways, scores, strict=True)}
    return *ways[int(np.argmax(scores))], told


def _tried(solver: str, spacing: str) -> bool:
    """All spacings with the solver that is meant for few steps; two with the paper's."""
    return solver == "dpm++2m" or spacing in ("trailing", "planned")


def best_guidance(
    lab: Lab, prompts: PromptSet, recipes: Mapping[float, Sequence[Recipe]]
) -> tuple[dict[float, float], dict[str, list[float]]]:
    """For each budget the scale with the best standing, and all standings."""
    chosen, told = {}, {}
    for budget, some in recipes.items():
        scores = standing(lab, prompts, some)
        chosen[budget] = some[int(np.argmax(scores))].sampling.guidance_scale
        told[f"{budget:g}"] = scores
    return chosen, told


def fit_all(lab: Lab, planning: Planning, by_size: Mapping[int, PromptSet]) -> Fit:
    """Chooses everything.

    Args:
        lab: Gives the model.
        planning: Of the model.
        by_size: The same prompts in groups of every size; 1 is everyone alone.
    """
    single, middle = by_size[1], by_size[sorted(by_size)[len(by_size) // 2 + 1]]
    scheduler, spacing, schedules = best_schedule(lab, planning, single, MIDDLE)
    scales = [round(factor * lab.guidance, 3) for factor in GUIDANCE]
    way = (lab, planning, scheduler, spacing)
    on_alone: dict[float, list[Recipe]] = {
        b: [alone(*way, b, guidance=s) for s in scales] for b in FIT_BUDGETS
    }
    guidance_alone, told_alone = best_guidance(lab, single, on_alone)
    how = (lab, planning, middle, scheduler)
    usual = WEIGHTS[1]
    on_shared: dict[float, list[Recipe]] = {
        b: [shared(*how, b, guidance=s, weight=usual)[0] for s in scales] for b in FIT_BUDGETS
    }
    guidance_shared, told_shared = best_guidance(lab, middle, on_shared)
    fit = Fit(scheduler, spacing, guidance_alone, guidance_shared, usual, {})
    weight, told_weight = _best_weight(lab, planning, by_size, fit)
    tried = {
        "schedules": schedules,
        "guidance_scales": scales,
        "guidance_alone": told_alone,
        "guidance_shared": told_shared,
        "weights": told_weight,
    }
    return replace(fit, weight=weight, tried=tried)


def fit_evaluations(prompts: int) -> int:
    """Evaluations that `fit_all` takes for so many prompts, of one seed."""
    ways = sum(_tried(s, p) for s in SOLVERS for p in SPACINGS if p != "model")
    guided = 2 * len(GUIDANCE) * sum(FIT_BUDGETS)
    return prompts * (MIDDLE * (ways + 2 * len(WEIGHTS)) + guided)


def _best_weight(
    lab: Lab, planning: Planning, by_size: Mapping[int, PromptSet], fit: Fit
) -> tuple[float, dict[str, float]]:
    """The weight whose plans have the best standing, in the smallest and the largest groups."""
    totals = dict.fromkeys(WEIGHTS, 0.0)
    sizes = sorted(by_size)
    for size in (sizes[1], sizes[-1]):
        how = (lab, planning, by_size[size], fit.scheduler, MIDDLE)
        recipes = [shared(*how, guidance=fit.shared_at(MIDDLE), weight=w)[0] for w in WEIGHTS]
        for weight, score in zip(WEIGHTS, standing(lab, by_size[size], recipes), strict=True):
            totals[weight] += score
    told = {f"{weight:g}": round(total, 4) for weight, total in totals.items()}
    return max(WEIGHTS, key=lambda weight: totals[weight]), told
