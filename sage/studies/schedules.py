"""Where should few steps lie, and are eight planned ones as good as twelve uniform ones?

The planned places are the best path through a teacher's steps (`sage.core.timesteps`; GITS, arXiv
2405.11326; OSS, arXiv 2503.21774); beside them what diffusers offers. Independent sampling only,
with DDIM and with DPM-Solver++ (2M). What planning needs to know of a model is measured first, if
the model does not bring it, and appears in `planning/` beside the result.
"""

from typing import Any

from sage.core.planner import Planning
from sage.core.settings import SCHEDULERS, SPACINGS
from sage.studies.engine.answers import quality_of
from sage.studies.engine.compare import Comparison, Design, Entry, Line
from sage.studies.engine.figures import QUALITY, Bars, Figure, caption, metric_title
from sage.studies.engine.fitting import SOLVERS, WEIGHTS, alone
from sage.studies.engine.judges import METRIC
from sage.studies.engine.lab import Lab
from sage.studies.engine.results import Result, better, difference
from sage.studies.engine.sets import FIT, HELD_OUT, SIZES, WHOLE, budget_sets, divided
from sage.studies.engine.study import Study
from sage.studies.engine.teacher import measure_planning

FEW, UNIFORM = 8, 12
PLANNED, EVEN = "planned", "trailing"
FIT_SETS = 2  # of each kind, for the teacher
TRUNK = "control_once"  # the rule that lost nothing in the study `trunks`
POWER = 2.0  # squares: errors of steps are about independent; better than 1 in all judges but one


def planning_for(lab: Lab) -> Planning:
    """What the model brings for planning; measured and written beside the results if it is new."""
    known = lab.pipe.settings.planning
    if known is not None:
        return known
    prompts, _ = budget_sets(lab, FIT, FIT_SETS)
    usual = WEIGHTS[1]
    found = measure_planning(lab, prompts, SIZES, trunk=TRUNK, weight=usual, power=POWER)
    store_planning(lab, found)
    return found


def store_planning(lab: Lab, planning: Planning) -> None:
    """Writes it beside the results, from where it is copied into the model's folder."""
    folder = lab.settings.out / "planning"
    folder.mkdir(parents=True, exist_ok=True)
    planning.write(folder)


def design(lab: Lab) -> Design:
    """Eight steps at every spacing, twelve uniform ones, with both solvers."""
    planning = planning_for(lab)
    number = max(1, lab.settings.prompts // WHOLE // 2)
    prompts = divided(*budget_sets(lab, HELD_OUT, number), 1)
    entries = []
    for solver in SOLVERS:
        title = SCHEDULERS[solver].split(" (")[0]
        ways = [(UNIFORM, EVEN), (FEW, PLANNED)]
        ways += [(FEW, key) for key in SPACINGS if key not in ("model", PLANNED)]
        entries += [
            Entry(
                title,
                alone(lab, planning, solver, spacing, steps),
                {"label": f"{steps} steps, {spacing}", "spacing": spacing, "solver": solver},
            )
            for steps, spacing in ways
        ]
    return Design(entries, prompts)


def _pair(comparison: Comparison, solver: str) -> tuple[Line, Line]:
    """Eight planned steps and twelve uniform ones."""
    lines = comparison.all(solver=solver)
    few = next(line for line in lines if line.values["spacing"] == PLANNED)
    return few, next(line for line in lines if line.label.startswith(f"{UNIFORM} "))


def more(comparison: Comparison) -> dict[str, Any]:
    """Eight planned steps minus twelve uniform ones, for each solver."""
    pairs = {solver: _pair(comparison, solver) for solver in SOLVERS}
    return {"differences": {s: difference(a.measured, b.measured) for s, (a, b) in pairs.items()}}


def answer(result: Result) -> str:
    """Whether the goal is reached, with which solver."""
    keys, worse = quality_of(result["metrics"]), []
    for solver, gaps in result["differences"].items():
        judges = [
            f"{METRIC[key].title} by {abs(gaps[key]['value']):.2g}"
            for key in keys
            if gaps[key]["sign"] < 0
        ]
        if judges:
            worse.append(f"{' and '.join(judges)} with {SCHEDULERS[solver].split(' (')[0]}")
    if worse:
        where = "; ".join(worse)
        return f"No: {FEW} planned steps are worse than {UNIFORM} uniform ones in {where}."
    return f"Yes: {FEW} planned steps are at least as good as {UNIFORM} uniform ones."


def finding(comparison: Comparison) -> str:
    """Whether eight planned steps are as good as twelve uniform ones, and who else is."""
    parts = []
    for solver in SOLVERS:
        few, many = _pair(comparison, solver)
        signs = {key: better(few.measured, many.measured, key) for key in comparison.quality}
        worse = [METRIC[key].title for key, sign in signs.items() if sign < 0]
        ahead = [METRIC[key].title for key, sign in signs.items() if sign > 0]
        words = f"worse in {', '.join(worse)}" if worse else "at least as good in every judge"
        words += f", better in {', '.join(ahead)}" if ahead else ""
        parts.append(
            f"{few.name}: {words} ({comparison.summary(few)} against {comparison.summary(many)})"
        )
    return f"{FEW} planned steps against {UNIFORM} uniform ones: {'; '.join(parts)}."


def figure(result: Result) -> Figure:
    """Every spacing in a row, both solvers beside each other, a panel for each judge."""
    labels = list(dict.fromkeys(row["label"] for row in result["rows"]))
    titles = list(dict.fromkeys(row["name"] for row in result["rows"]))
    by_place = {(row["label"], row["name"]): row["metrics"] for row in result["rows"]}
    panels = [
        Bars(
            metric_title(result, key),
            [(label, [by_place[label, title].get(key) for title in titles]) for label in labels],
            [(title, n + 1) for n, title in enumerate(titles)],
        )
        for key in QUALITY
        if key in result["metrics"]
    ]
    return Figure(result["title"], panels, caption(result))


def conditions(comparison: Comparison) -> dict[str, Any]:
    """How many prompts the plan was made with; none of them is judged here."""
    return {"fitted_on": 2 * FIT_SETS * WHOLE, "steps": f"{FEW} and {UNIFORM}"}


STUDY = Study(
    name="schedules",
    title="Where few steps should lie",
    about=__doc__,
    design=design,
    more=more,
    conditions=conditions,
    answer=answer,
    finding=finding,
    figure=figure,
    columns={"label": "steps"},
    defaults={"pictures": 96, "seeds": 1, "steps": UNIFORM},
)
