"""When does the best plan that shares beat fewer steps, at equal evaluations?

For every budget and group size: the best plan that shares (`sage.core.planner`), independent
sampling with as many steps at the best places, and the paper's fixed ratio with no more
evaluations. Solver, places, guidance and the weight of sharing are chosen beforehand on other
prompts, for each side its own; there it is also settled whether the planner may share at all. What
it takes of the first two is its promise: nowhere worse beyond chance than independent steps, and
than the fixed ratio.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sage.core.cost import evaluations
from sage.core.plan import Plan, branch_step_from_ratio, shared_plan
from sage.core.planner import Planned, Planning, plan_within, sharing_levels
from sage.core.resampling import LEVEL, student
from sage.core.settings import SCHEDULERS
from sage.sd.schedulers import make_scheduler
from sage.sd.spacing import solver_key
from sage.studies.engine.answers import tally
from sage.studies.engine.cells import Recipe
from sage.studies.engine.compare import Comparison, Design, Entry
from sage.studies.engine.figures import QUALITY, Figure, Tile, Tiles, caption
from sage.studies.engine.fitting import (
    Fit,
    alone,
    fit_all,
    fit_evaluations,
    placed,
    shared,
    with_fit,
)
from sage.studies.engine.judges import METRIC
from sage.studies.engine.lab import Lab
from sage.studies.engine.measure import Measured
from sage.studies.engine.methods import RATIO
from sage.studies.engine.prompts import PromptSet
from sage.studies.engine.results import Result, Row, better
from sage.studies.engine.sets import (
    FIT,
    HELD_OUT,
    SIZES,
    WHOLE,
    budget_sets,
    divided,
    only_sets,
)
from sage.studies.engine.study import Study
from sage.studies.schedules import planning_for, store_planning

BUDGETS = (3, 4, 5, 6, 8, 12)
FIT_SETS = 2  # of each kind
ALONE, SHARED, FIXED = "independent steps", "best shared plan", "fixed ratio (paper)"
PLANNED = "the planner's choice"
ELSEWHERE = "independent steps elsewhere"
RIVALS = ("planned", "trailing", "ays")  # spacings beside the one that the fit chose
PROMISED = {"planned_to_alone": ALONE, "planned_to_fixed": FIXED, "planned_to_elsewhere": ELSEWHERE}
EVERY, LOOSE, TIGHT = "all", "loose", "tight"
SHOWN = QUALITY  # in the figure
JUDGES = ("fd", "cmmd", "clip", "clip_l14", "probe")


@dataclass(frozen=True, eq=False)
class _Table:
    """What the cells of the map are made of."""

    lab: Lab
    planning: Planning
    fit: Fit
    by_size: Mapping[int, PromptSet]  # 1 is everyone alone

    def only(self, size: int, kind: str) -> tuple[int, ...] | None:
        """The groups of a kind of sets; None for all."""
        half = len(self.by_size[1]) // WHOLE // 2
        sets = {LOOSE: range(half), TIGHT: range(half, 2 * half)}
        return only_sets(self.by_size[size], sets[kind]) if kind in sets else None

    def alone(self, budget: int) -> Recipe:
        """Independent steps at their best."""
        return self.placed(budget, self.fit.spacing_at(budget))

    def placed(self, budget: int, spacing: str) -> Recipe:
        """Independent steps at some places."""
        how = (self.planning, self.fit.scheduler, spacing, budget)
        return alone(self.lab, *how, guidance=self.fit.alone_at(budget))

    def shared(self, budget: int, size: int) -> tuple[Recipe, Planned]:
        """The best plan that shares."""
        how = (self.planning, self.by_size[size], self.fit.scheduler, budget)
        guidance, weight = self.fit.shared_at(budget), self.fit.weight
        return shared(self.lab, *how, guidance=guidance, weight=weight)

    def fixed(self, budget: int, size: int) -> Recipe:
        """The paper's ratio and trunk, with solver, places and guidance of their best."""
        fit, plan = self.fit, fixed_plan(self.by_size[size], budget)
        recipe = self.lab.recipe(
            plan=plan,
            scheduler=fit.scheduler,
            steps=plan.steps,
            guidance_scale=fit.shared_at(budget),
        )
        spacing = fit.spacing_at(plan.steps)
        places = placed(self.lab, self.planning, fit.scheduler, spacing, plan.steps)
        return replace(recipe, timesteps=places)

    def chosen(self, budget: int, size: int) -> Planned:
        """What the planner takes."""
        solver = solver_key(make_scheduler(self.fit.scheduler, like=self.lab.pipe.scheduler))
        levels = sharing_levels(self.by_size[size].groups[:1])
        return plan_within(self.planning, levels, budget, solver, weight=self.fit.planners_weight)

    def planned(self, budget: int, size: int) -> Recipe:
        """What the planner takes; alone, its steps lie where the judges of the fit prefer them."""
        shares = self.chosen(budget, size).shared_steps
        return self.shared(budget, size)[0] if shares else self.alone(budget)

    def entries(self) -> list[Entry]:
        """All lines."""
        lines = []
        for budget in BUDGETS:
            recipe = self.alone(budget)
            lines += [self._entry(ALONE, recipe, budget, 1, k) for k in (EVERY, LOOSE, TIGHT)]
            lines.append(self._entry(PLANNED, self.planned(budget, 1), budget, 1, EVERY))
            for spacing in RIVALS:
                if spacing != self.fit.spacing_at(budget):
                    line = self._entry(ELSEWHERE, self.placed(budget, spacing), budget, 1, EVERY)
                    label = f"{budget} evaluations, {spacing}"
                    lines.append(replace(line, values={**line.values, "label": label}))
            for size in SIZES:
                recipe, plan = self.shared(budget, size)
                takes = bool(self.chosen(budget, size).shared_steps)
                more = {"shared_steps": plan.shared_steps, "steps": plan.plan.steps, "taken": takes}
                lines += [
                    self._entry(SHARED, recipe, budget, size, k) for k in (EVERY, LOOSE, TIGHT)
                ]
                lines[-3:] = [replace(line, values={**line.values, **more}) for line in lines[-3:]]
                lines.append(self._entry(FIXED, self.fixed(budget, size), budget, size, EVERY))
                if takes:
                    own = self.planned(budget, size)
                    lines.append(self._entry(PLANNED, own, budget, size, EVERY))
        return lines

    def _entry(self, name: str, recipe: Recipe, budget: int, size: int, kind: str) -> Entry:
        values = {"budget": budget, "size": size, "kind": kind}
        label = f"{budget} evaluations, groups of {size}, {kind}"
        prompts = self.by_size[size]
        return Entry(name, recipe, {"label": label, **values}, prompts, self.only(size, kind))


def fixed_plan(prompts: PromptSet, budget: float) -> Plan:
    """The most steps at the paper's ratio that a budget of evaluations a picture pays."""
    best = None
    for steps in range(1, int(2 * budget) + 2):
        plan = shared_plan(prompts.groups, steps, branch_step_from_ratio(RATIO, steps))
        if evaluations(plan) <= budget * len(prompts) + 1e-9:
            best = plan
    assert best is not None  # one step costs one evaluation a picture
    return best


def design(lab: Lab) -> Design:
    """Fits on some sets of prompts, then compares on others."""
    planning = planning_for(lab)
    prompts, similarity = budget_sets(lab, FIT, FIT_SETS)
    number = affordable(lab, prompts, max(1, lab.settings.prompts // WHOLE // 2))
    by_size = {n: divided(prompts, similarity, n) for n in (1, *SIZES)}
    fit = fit_all(lab, planning, by_size, BUDGETS)
    store_planning(lab, with_fit(lab, planning, fit))
    prompts, similarity = budget_sets(lab, HELD_OUT, number)
    table = _Table(lab, planning, fit, {n: divided(prompts, similarity, n) for n in (1, *SIZES)})
    return Design(table.entries(), prompts, {"fit": fit.plain()})


def affordable(lab: Lab, fitted: PromptSet, number: int) -> int:
    """How many sets of each kind can be rendered in the minutes that the command line allows.

    Raises:
        ValueError: If not even one of each kind can.
    """
    minutes = lab.settings.minutes
    if minutes is None:
        return number
    seconds = lab.evaluation_seconds(fitted)
    before = fit_evaluations(len(fitted), BUDGETS) * len(lab.seeds) * seconds
    each = 2 * WHOLE * len(lab.seeds) * sum(BUDGETS) * (1 + len(RIVALS) + 2 * len(SIZES)) * seconds
    paid = int((60 * minutes - before) // each)
    if paid < 1:
        least = (before + each) / 60
        raise ValueError(
            f"minutes is {minutes:g}; the smallest map takes about {least:.2g} on this device."
        )
    return min(number, paid)


def cells(comparison: Comparison) -> list[dict[str, Any]]:
    """Every budget, size and kind of sets: who is better in each judge, beyond chance."""
    found = []
    for line in comparison.all(SHARED):
        at = {key: line.values[key] for key in ("budget", "size", "kind")}
        rival = comparison.one(ALONE, budget=at["budget"], kind=at["kind"])
        cell = at | {"taken": line.values["taken"], "sharing": _gap(line.measured, rival.measured)}
        if at["kind"] == EVERY:
            fixed = comparison.one(FIXED, budget=at["budget"], size=at["size"]).measured
            own = at["size"] if cell["taken"] else 1
            taken = comparison.one(PLANNED, budget=at["budget"], size=own).measured
            cell["planned_to_alone"] = _gap(taken, rival.measured)
            cell["planned_to_fixed"] = _gap(taken, fixed)
        found.append(cell)
    return found


def elsewhere(comparison: Comparison) -> list[dict[str, Any]]:
    """What the planner takes alone against as many steps at other places, on these prompts."""
    found = []
    for line in comparison.all(ELSEWHERE):
        budget = line.values["budget"]
        taken = comparison.one(PLANNED, budget=budget, size=1).measured
        gap = _gap(taken, line.measured)
        found.append({"label": line.label, "budget": budget, "planned_to_elsewhere": gap})
    return found


def _gap(first: Measured, second: Measured) -> dict[str, dict[str, float]]:
    """First minus second in every judge, with its interval and who is better beyond chance."""
    return {
        key: first.metrics[key].minus(second.metrics[key]).plain()
        | {"sign": better(first, second, key)}
        for key in JUDGES
        if key in first.metrics and key in second.metrics
    }


def more(comparison: Comparison) -> dict[str, Any]:
    """The cells, and what was chosen beforehand."""
    found = {"cells": cells(comparison), "elsewhere": elsewhere(comparison)}
    found |= comparison.design.facts
    model = {"conditions": {"model": comparison.lab.title}}
    return found | {"sentences": sentences(found | model)}


# -- in words ------------------------------------------------------------------------------------


def verdicts(result: Result, judge: str, kind: str = EVERY) -> dict[int, list[tuple[int, int]]]:
    """In which cells a judge prefers sharing (1), fewer steps (-1) or neither (0).

    Returns:
        (budget, size) by the sign.
    """
    found: dict[int, list[tuple[int, int]]] = {1: [], 0: [], -1: []}
    for cell in result["cells"]:
        if cell["kind"] == kind and judge in cell["sharing"]:
            found[int(cell["sharing"][judge]["sign"])].append((cell["budget"], cell["size"]))
    return found


def judges_of(result: Result) -> list[str]:
    """The judges of a map, in their order."""
    return [key for key in JUDGES if key in result["cells"][0]["sharing"]]


def sentences(result: Result) -> list[str]:
    """When sharing helps, from the map alone: one sentence a judge, then the planner's."""
    model = result["conditions"]["model"]
    told = []
    for judge in judges_of(result):
        cells = verdicts(result, judge)
        total, title = sum(map(len, cells.values())), METRIC[judge].title
        if not cells[1]:
            first = f"In {title} sharing wins nowhere"
        else:
            first = f"In {title} sharing wins in {len(cells[1])} of {total} cells{_where(cells[1])}"
        told.append(
            f"{first}, fewer steps win in {len(cells[-1])}{_where(cells[-1])}; the other "
            f"{len(cells[0])} differ by no more than chance."
        )
    taken = [c for c in result["cells"] if c["kind"] == EVERY and c["taken"]]
    budgets = sorted({(c["budget"], c["size"]) for c in taken})
    how = "never shares: it takes fewer steps everywhere"
    if taken:
        how = f"shares in {len(taken)} of them{_where(budgets)}, and takes fewer steps elsewhere"
    told.append(f"On the model *{model}*, the planner {how}.")
    return told


def _where(cells: list[tuple[int, int]]) -> str:
    """Budgets and sizes of some cells in brackets."""
    if not cells:
        return ""
    budgets, sizes = (sorted({cell[n] for cell in cells}) for n in (0, 1))
    listed = [", ".join(map(str, some)) for some in (budgets, sizes)]
    return f" (at {listed[0]} evaluations a picture, groups of {listed[1]})"


Fault = tuple[str, float]  # in words, and by how many half-widths of its interval it is worse


def worse(result: Result, pair: str) -> tuple[list[Fault], int]:
    """Where what the planner takes is worse than a rival, each comparison by its own interval.

    Args:
        result: Of this study.
        pair: A key of `PROMISED`.

    Returns:
        The faults, and how many comparisons there were in which the two differ at all.
    """
    told, number = [], 0
    for cell in [*result["cells"], *result.get("elsewhere", ())]:
        for judge, gap in cell.get(pair, {}).items():
            spread = gap["high"] - gap["low"]
            number += bool(spread)
            if gap["sign"] < 0:
                where = cell.get("label") or (
                    f"{cell['budget']} evaluations, groups of {cell['size']}"
                )
                told.append((f"{METRIC[judge].title} at {where}", 2 * abs(gap["value"]) / spread))
    return told, number


def broken(result: Result, pairs: Iterable[str] = PROMISED) -> list[str]:
    """Where the planner's promise does not hold, in words; none if it holds.

    So many comparisons are made that some lie on the wrong side by chance alone; a fault is one
    that would not among all of its kind (Šidák's correction, 95 % for all of them together).

    Args:
        result: Of this study.
        pairs: Keys of `PROMISED`.
    """
    told, sets = [], result["conditions"]["sets"]
    for pair in pairs:
        faults, number = worse(result, pair)
        bound = student(LEVEL ** (1 / max(number, 1)), sets) / student(LEVEL, sets)
        told += [f"{words}: worse than {PROMISED[pair]}" for words, wide in faults if wide > bound]
    return told


def promise(result: Result) -> str:
    """Where the planner keeps its promise and where not, and single intervals on the wrong side."""
    kept = []
    for pair, rival in PROMISED.items():
        faults, number = worse(result, pair)
        if broken(result, [pair]):
            continue
        single = f" ({'; '.join(words for words, _ in faults)})" if faults else ""
        same = "" if number else ", being the same run in every cell"
        kept.append(f"{rival}: {len(faults)} of {number} single intervals{single}{same}")
    told = ""
    if kept:
        told = (
            "The planner is nowhere worse beyond chance, all comparisons taken together, than "
            f"these (by themselves lie on the wrong side, where chance puts 2.5 %): "
            f"{'; '.join(kept)}."
        )
    faults = broken(result)
    return f"{told} Its promise is broken: {'; '.join(faults)}.".strip() if faults else told


def in_words(result: Result) -> str:
    """When sharing pays, and whether the planner keeps its promise."""
    return " ".join([*sentences(result), promise(result)])


def answer(result: Result) -> str:
    """In how many cells sharing or fewer steps win, all judges together."""
    gaps = [cell["sharing"] for cell in result["cells"] if cell["kind"] == EVERY]
    return f"Beside fewer steps of the same cost, sharing is {tally(gaps, judges_of(result))}."


def finding(comparison: Comparison) -> str:
    """The same, of what was just measured."""
    known = {"model": comparison.lab.title} | conditions(comparison)
    found = {"cells": cells(comparison), "elsewhere": elsewhere(comparison)}
    return in_words(found | {"conditions": known})


# -- as a figure ---------------------------------------------------------------------------------

NAMES = (("sharing wins", 1), ("fewer steps win", 2), ("no difference", 0))
COLOURS = {1: 1, -1: 2, 0: 0}


def figure(result: Result) -> Figure:
    """A map for each judge: budgets from left to right, group sizes from top to bottom."""
    by_place = {(c["budget"], c["size"]): c for c in result["cells"] if c["kind"] == EVERY}
    plans = {
        (r["budget"], r["size"]): f"{r['shared_steps']}/{r['steps']}"
        for r in result["rows"]
        if r["name"] == SHARED and r["kind"] == EVERY
    }
    panels = []
    for number, judge in enumerate(key for key in SHOWN if key in judges_of(result)):
        rows = [
            (str(n), [_tile(by_place[b, n], judge, plans[b, n]) for b in BUDGETS]) for n in SIZES
        ]
        wins = len(verdicts(result, judge)[1])
        panels.append(
            Tiles(
                f"{METRIC[judge].title}: sharing wins in {wins} of {len(by_place)}",
                "evaluations a picture",
                [str(b) for b in BUDGETS],
                "prompts in a group",
                rows,
                () if number else NAMES,
            )
        )
    note = (
        "On each tile: shared of all steps of the best plan that shares, whose evaluations pay "
        f"as many independent steps as the column says. {caption(result)}"
    )
    return Figure(result["title"], panels, note)


def _tile(cell: Row, judge: str, plan: str) -> Tile:
    gap = cell["sharing"][judge]
    digits = METRIC[judge].digits
    about = f"sharing minus steps: {gap['value']:.{digits}f} ({gap['low']:.{digits}f} to "
    return Tile(COLOURS[int(gap["sign"])], plan, f"{about}{gap['high']:.{digits}f})")


def conditions(comparison: Comparison) -> dict[str, Any]:
    """What both sides had in common, and how many sets there were."""
    prompts, fit = comparison.design.prompts, comparison.design.facts["fit"]
    return {
        "sets": len(prompts or ()) // WHOLE,
        "fitted_on_sets": FIT_SETS * 2,
        "steps": f"{min(BUDGETS)} to {max(BUDGETS)}",
        "scheduler": SCHEDULERS[fit["scheduler"]],
        "guidance_by_budget": fit["guidance"],
    }


STUDY = Study(
    name="map",
    title="When does sharing pay?",
    about=__doc__,
    design=design,
    more=more,
    conditions=conditions,
    answer=answer,
    finding=finding,
    figure=figure,
    columns={"budget": "budget", "size": "prompts in a group", "kind": "sets"},
    defaults={"pictures": 96, "seeds": 1, "steps": 12},
)
