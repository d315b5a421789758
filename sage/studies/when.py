"""When should a group branch: where its prompts can be told apart by so much, or at a fixed step?

By information: at the first step all members predict, which the corrected trunk needs anyway; from
their differences follows for every pair how many nats tell them apart after each step, and whoever
is told apart by more than a threshold parts. So a group branches as a tree, for no evaluation.
Beside it fixed branch points, branch points from the group's similarity, and the direction test
that probes while sampling; all with the same trunk. Every line stands beside fixed branch points of
the same cost, on the straight line between two of them, and says what it saves against the cheapest
of them that is worse in no judge beyond chance.
"""

from collections.abc import Sequence

from sage.core.adaptive import AdaptiveRule, branch_step_for
from sage.core.calibration import Calibration
from sage.core.grouping import cosine_similarity
from sage.core.plan import shared_plan
from sage.studies.engine.answers import signed
from sage.studies.engine.compare import Comparison, Design, Entry, Line, no_worse
from sage.studies.engine.figures import line_figure
from sage.studies.engine.lab import Lab
from sage.studies.engine.methods import INDEPENDENT
from sage.studies.engine.results import Result, Row, row
from sage.studies.engine.rival import Rival, against, differences_in_words
from sage.studies.engine.sets import sets_of
from sage.studies.engine.study import Study
from sage.studies.trunks import JUDGES, SIZE

FIXED, INFORMATION = "fixed", "information"
BEFORE, DIRECTION = "from similarity", "direction test"
TRUNK = "control_once"
NATS = (10.0, 30.0, 100.0, 300.0)
LATEST = 0.75  # share of the steps at which all part
GOAL = 0.1  # of the evaluations


def design(lab: Lab) -> Design:
    """Fixed branch points, and every way to find one."""
    prompts, _ = sets_of(lab, SIZE)
    steps = lab.settings.steps
    entries = [Entry(INDEPENDENT, lab.recipe(), {"label": f"{steps} steps"})]

    def fixed(point: int) -> Entry:
        plan = shared_plan(prompts.groups, steps, point)
        recipe = lab.recipe(0.0, plan=plan, trunk=TRUNK)
        return Entry(FIXED, recipe, {"label": f"{point} of {steps} steps shared"})

    entries += [fixed(point) for point in range(1, int(LATEST * steps))]
    for nats in NATS:
        rule = AdaptiveRule(nats, 0.0, LATEST, every=steps, compare="information")
        recipe = lab.recipe(0.0, adaptive=rule, trunk=TRUNK)
        entries.append(Entry(INFORMATION, recipe, {"label": f"{nats:g} nats"}))
    rule = AdaptiveRule(0.8, 0.1, 0.6, every=3)
    recipe = lab.recipe(0.0, adaptive=rule, trunk=TRUNK)
    entries.append(Entry(DIRECTION, recipe, {"label": "0.8"}))
    if (calibration := Calibration.read(lab.source)) is not None:
        similarity = cosine_similarity(lab.pipe.embed(prompts.texts))
        points = [branch_step_for(similarity, g, steps, calibration) for g in prompts.groups]
        plan = shared_plan(prompts.groups, steps, points)
        label = {"label": f"{min(points)} to {max(points)} of {steps} steps shared"}
        entries.append(Entry(BEFORE, lab.recipe(0.0, plan=plan, trunk=TRUNK), label))
    return Design(entries, prompts)


def rows(comparison: Comparison) -> list[Row]:
    """Lines with their difference from fixed points of their cost, and what they save."""
    fixed = [line for line in comparison.lines if line.name in (FIXED, INDEPENDENT)]
    lines = []
    for line in comparison.lines:
        lines.append(row(line.name, line.measured, **line.values))
        if line not in fixed:
            lines[-1]["against"] = against(line, Rival(fixed))
            lines[-1]["gain"] = _gain(line, fixed)
    return lines


def _gain(line: Line, fixed: Sequence[Line]) -> float:
    """Share of the evaluations saved against the cheapest fixed point that is as good.

    As good is what is worse in no judge beyond chance; nothing is saved if none is.
    """
    ordered = sorted(fixed, key=lambda one: one.measured.evaluations)
    for one in ordered:
        if no_worse(one.measured, line.measured, JUDGES):
            return round(1 - line.measured.evaluations / one.measured.evaluations, 4)
    return 0.0


def answer(result: Result) -> str:
    """Whether a rule saves enough beside the best fixed step."""
    rows = [row for row in result["rows"] if "gain" in row]
    best = max(rows, key=lambda row: row["gain"])
    return (
        f"{'Where they can be told apart' if best['gain'] >= GOAL else 'At a fixed step'}: the "
        f"best rule ({best['name']}) saves {signed(best['gain'], '.0%')} beside it (goal: "
        f"{signed(GOAL, '.0%')})."
    )


def finding(comparison: Comparison) -> str:
    """What each way saves or loses beside fixed branch points."""
    parts = []
    for name in (INFORMATION, DIRECTION, BEFORE):
        lines = [line for line in comparison.rows if line["name"] == name]
        if not lines:
            continue
        keys = [key for key in JUDGES if key in lines[0]["metrics"]]
        best = max(lines, key=lambda line: line["gain"])
        parts.append(
            f"{name}: {differences_in_words(lines, keys)}; against the cheapest fixed point that "
            f"is no worse, {best['label']} saves {best['gain']:+.0%}"
        )
    reached = max((line["gain"] for line in comparison.rows if "gain" in line), default=0.0)
    verdict = "is reached" if reached >= GOAL else "is not reached"
    text = (
        f"Beside fixed branch points of the same cost, beyond chance, {'. '.join(parts)}. The goal "
        f"of {GOAL:.0%} fewer evaluations at equal quality {verdict}."
    )
    return text.replace(" -", " \N{MINUS SIGN}")


STUDY = Study(
    name="when",
    title="When to branch",
    about=__doc__,
    design=design,
    rows=rows,
    answer=answer,
    finding=finding,
    columns={"label": "", "gain": "saved"},
    figure=line_figure("evaluations", scattered=(INFORMATION, DIRECTION, BEFORE)),
    conditions=lambda comparison: {"group_size": SIZE, "trunk": TRUNK, "latest": LATEST},
    defaults={"pictures": 96, "seeds": 1, "steps": 8},
)
