"""What is chosen before a comparison within a budget, by the judges, on prompts of their own.

Which solver independent sampling is best off with, which spacing and guidance suit a budget, the
latter on either side, what a unit of sharing's bias weighs beside one of discretisation, and
whether sharing pays at all: all of it on sets of prompts that the comparison itself never sees.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, TypeVar

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
from sage.studies.engine.results import better

SOLVERS = ("ddim", "dpm++2m")
USUAL = "trailing"  # where steps lie that nobody has thought about (arXiv 2305.08891)
WEIGHTS = (0.3, 1.0, 3.0, 10.0)
GUIDANCE = (0.75, 1.0, 1.5)  # times the lab's own
MIDDLE = 4  # the budget at which solver and weight are chosen
MOST_PLACED = 30  # steps up to which a planning stores where they lie


@dataclass(frozen=True)
class Fit:
    """What was chosen.

    Attributes:
        scheduler: Of both sides.
        spacings: By budget, of independent steps.
        guidance_alone: Scale by budget, of independent steps.
        guidance_shared: Scale by budget, of plans that share.
        weight: Of `sage.core.planner`, for plans that share.
        pays: Whether these may be taken: they were better beyond chance somewhere, worse nowhere.
        tried: What was tried and how it did, for the result.
    """

    scheduler: str
    spacings: Mapping[float, str]
    guidance_alone: Mapping[float, float]
    guidance_shared: Mapping[float, float]
    weight: float
    pays: bool
    tried: Mapping[str, Any]

    @property
    def planners_weight(self) -> float:
        """The weight with which the planner chooses: infinite where sharing does not pay."""
        return self.weight if self.pays else math.inf

    def plain(self) -> dict[str, Any]:
        """Ready for JSON."""
        scales = {"alone": self.guidance_alone, "shared": self.guidance_shared}
        return {
            "scheduler": self.scheduler,
            "spacing": {f"{b:g}": spacing for b, spacing in self.spacings.items()},
            "guidance": {k: {f"{b:g}": s for b, s in v.items()} for k, v in scales.items()},
            "weight": self.weight,
            "pays": self.pays,
            "tried": dict(self.tried),
        }

    def spacing_at(self, steps: float) -> str:
        """Spacing of independent steps: of the nearest budget that was tried, by ratio."""
        return _nearest(self.spacings, steps)

    def alone_at(self, budget: float) -> float:
        """Guidance of independent steps: of the nearest budget again."""
        return _nearest(self.guidance_alone, budget)

    def shared_at(self, budget: float) -> float:
        """Guidance of a plan that shares."""
        return _nearest(self.guidance_shared, budget)


Chosen = TypeVar("Chosen")


def _nearest(values: Mapping[float, Chosen], at: float) -> Chosen:
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
    keys = _judges(measured[0])
    table = np.array([[METRIC[k].better * m[k].value for k in keys] for m in measured])
    spread = table.std(0)
    scores = (table - table.mean(0)) / np.where(spread > 0, spread, 1.0)
    return [round(float(score), 4) for score in scores.mean(1)]


def _judges(metrics: Mapping[str, Any]) -> list[str]:
    """What a choice goes by: the judges of quality that there are, or else the pixels."""
    return [key for key in QUALITY if key in metrics] or ["pixels"]


def best_solver(
    lab: Lab, planning: Planning, prompts: PromptSet, steps: int
) -> tuple[str, dict[str, float]]:
    """The solver which has the best standing with any spacing, and all standings."""
    ways = [(s, p) for s in SOLVERS for p in SPACINGS if p != "model" and _tried(s, p)]
    scores = standing(lab, prompts, [alone(lab, planning, *way, steps) for way in ways])
    told = {f"{s} {p}": score for (s, p), score in zip(ways, scores, strict=True)}
    return ways[int(np.argmax(scores))][0], told


def best_spacing(
    lab: Lab, planning: Planning, prompts: PromptSet, solver: str, steps: int
) -> tuple[str, dict[str, float]]:
    """Where so many steps lie best, and the standings of those that were in question.

    That is where everybody puts them, unless a spacing is better there beyond chance in a judge and
    worse in none: the best of many standings on a few prompts is often not the best on others.
    """
    recipes = {p: alone(lab, planning, solver, p, steps) for p in SPACINGS if p != "model"}
    lab.render([(recipe, prompts) for recipe in recipes.values()])
    measured = {p: lab.measure(recipe, prompts) for p, recipe in recipes.items()}
    usual = measured[USUAL]
    keys = _judges(usual.metrics)
    signs = {p: [better(m, usual, key) for key in keys] for p, m in measured.items()}
    ahead = [USUAL, *(p for p, s in signs.items() if max(s) > 0 and min(s) >= 0)]
    scores = standing(lab, prompts, [recipes[p] for p in ahead])
    return ahead[int(np.argmax(scores))], dict(zip(ahead, scores, strict=True))


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


def fit_all(
    lab: Lab, planning: Planning, by_size: Mapping[int, PromptSet], budgets: Sequence[int]
) -> Fit:
    """Chooses everything.

    Args:
        lab: Gives the model.
        planning: Of the model.
        by_size: The same prompts in groups of every size; 1 is everyone alone.
        budgets: At which spacing and guidance are chosen.
    """
    single, middle = by_size[1], by_size[sorted(by_size)[len(by_size) // 2 + 1]]
    scheduler, schedules = best_solver(lab, planning, single, MIDDLE)
    spacings: dict[float, str] = {}
    told_spacings: dict[str, dict[str, float]] = {}
    for budget in budgets:
        found, told_spacings[f"{budget:g}"] = best_spacing(lab, planning, single, scheduler, budget)
        spacings[budget] = found
    scales = [round(factor * lab.guidance, 3) for factor in GUIDANCE]
    on_alone: dict[float, list[Recipe]] = {
        b: [alone(lab, planning, scheduler, spacings[b], b, guidance=s) for s in scales]
        for b in budgets
    }
    guidance_alone, told_alone = best_guidance(lab, single, on_alone)
    how = (lab, planning, middle, scheduler)
    usual = WEIGHTS[1]
    on_shared: dict[float, list[Recipe]] = {
        b: [shared(*how, b, guidance=s, weight=usual)[0] for s in scales] for b in budgets
    }
    guidance_shared, told_shared = best_guidance(lab, middle, on_shared)
    fit = Fit(scheduler, spacings, guidance_alone, guidance_shared, usual, False, {})
    weight, told_weight = _best_weight(lab, planning, by_size, fit)
    fit = replace(fit, weight=weight)
    pays, told_pays = _pays(lab, planning, by_size, fit, budgets)
    tried = {
        "schedules": schedules,
        "spacings": told_spacings,
        "guidance_scales": scales,
        "guidance_alone": told_alone,
        "guidance_shared": told_shared,
        "weights": told_weight,
        "sharing": told_pays,
    }
    return replace(fit, pays=pays, tried=tried)


def with_fit(lab: Lab, planning: Planning, fit: Fit) -> Planning:
    """A planning with what the judges chose: its weight, and where steps taken alone lie."""
    most = min(MOST_PLACED, len(planning.levels))
    places = (
        placed(lab, planning, fit.scheduler, fit.spacing_at(steps), steps)
        for steps in range(1, most + 1)
    )
    solver = solver_key(make_scheduler(fit.scheduler, like=lab.pipe.scheduler))
    return replace(
        planning, weight=fit.planners_weight, places={solver: tuple(p for p in places if p)}
    )


def fit_evaluations(prompts: int, budgets: Sequence[int]) -> int:
    """Evaluations that `fit_all` takes for so many prompts, of one seed."""
    spacings = [spacing for spacing in SPACINGS if spacing != "model"]
    ways = sum(_tried(s, p) for s in SOLVERS for p in spacings)
    each = len(spacings) + 2 * len(GUIDANCE) + 2  # the last: whether sharing pays
    return prompts * (MIDDLE * (ways + 2 * len(WEIGHTS)) + each * sum(budgets))


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


def _pays(
    lab: Lab,
    planning: Planning,
    by_size: Mapping[int, PromptSet],
    fit: Fit,
    budgets: Sequence[int],
) -> tuple[bool, dict[str, dict[str, int]]]:
    """Whether plans that share may be taken, and what each judge says of each.

    Nobody shares unless what the planner would share is better than independent steps beyond
    chance in a judge, and worse in none, at any budget, in the smallest and the largest groups.
    """
    solver = solver_key(make_scheduler(fit.scheduler, like=lab.pipe.scheduler))
    sizes = sorted(by_size)
    told: dict[str, dict[str, int]] = {}
    for size, budget in product((sizes[1], sizes[-1]), budgets):
        levels = sharing_levels(by_size[size].groups[:1])
        if not plan_within(planning, levels, budget, solver, weight=fit.weight).shared_steps:
            continue
        how = (lab, planning, by_size[size], fit.scheduler, budget)
        recipe = shared(*how, guidance=fit.shared_at(budget), weight=fit.weight)[0]
        spacing, scale = fit.spacing_at(budget), fit.alone_at(budget)
        rival = alone(lab, planning, fit.scheduler, spacing, budget, guidance=scale)
        ours, theirs = lab.measure(recipe, by_size[size]), lab.measure(rival, by_size[1])
        signs = {key: better(ours, theirs, key) for key in _judges(ours.metrics)}
        told[f"{budget:g} evaluations, groups of {size}"] = signs
    every = [sign for signs in told.values() for sign in signs.values()]
    return max(every, default=0) > 0 and min(every) >= 0, told
