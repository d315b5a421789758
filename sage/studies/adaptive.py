"""Do branch points that depend on the prompts beat the best fixed one?

Two ways: before sampling, from a group's similarity, by a calibration that is fitted here (to one
half of the groups for the other half, so that no group is judged by its own numbers); and while
sampling, by probing the members' predictions. Probes are counted. What counts is how many
evaluations a fixed branch point would need for the same quality. The calibrations, of the adapter
and of the untrained model, appear in `calibration/` beside the result.
"""

from dataclasses import asdict
from typing import Any

import numpy as np
from scipy.optimize import isotonic_regression

from sage.core.adaptive import branch_step_for
from sage.core.grouping import cosine_similarity
from sage.core.plan import shared_plan
from sage.studies.engine.answers import signed
from sage.studies.engine.calibrate import Sweep, sweep, write_calibrations
from sage.studies.engine.cells import Recipe
from sage.studies.engine.compare import (
    Comparison,
    Design,
    Entry,
    rows_with_front,
)
from sage.studies.engine.figures import line_figure
from sage.studies.engine.judges import METRIC
from sage.studies.engine.lab import Lab
from sage.studies.engine.methods import INDEPENDENT, PROBING, probing_label
from sage.studies.engine.results import Result, Row
from sage.studies.engine.study import Study

GOAL = 0.1  # of the evaluations, saved at equal quality
FIXED, BEFORE, WHILE = "fixed", "from similarity", "probing"
RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
CALIBRATED = (*RATIOS, 0.85, 1.0)  # a visitor may ask for any


def design(lab: Lab) -> Design:
    """Fixed branch points, probing, and branch points of the calibration, which is made here."""
    adapter = lab.settings.sage_adapter
    fixed = [Entry(INDEPENDENT, lab.recipe(), {"label": ""})]
    fixed += [
        Entry(FIXED, lab.recipe(ratio, adapter), {"label": f"ratio {ratio:g}"}) for ratio in RATIOS
    ]
    probing = [
        Entry(WHILE, lab.recipe(0.0, adapter, adaptive=rule), {"label": probing_label(rule)})
        for rule in PROBING
    ]
    lab.render([(entry.recipe, lab.prompts) for entry in (*fixed, *probing)])
    trained, untrained = (sweep(lab, lab.recipe(0.0, some), CALIBRATED) for some in (adapter, None))
    calibrated = Entry(BEFORE, cross_fitted(lab, trained), {"label": "calibrated"})
    calibrations = {adapter.name: trained.fit(), "untrained": untrained.fit()}
    return Design([*fixed, *probing, calibrated], lab.prompts, {"calibrations": calibrations})


def cross_fitted(lab: Lab, trained: Sweep) -> Recipe:
    """Branch points of every group by the calibration of the other half of the groups."""
    prompts, steps = lab.prompts, lab.settings.steps
    similarity = cosine_similarity(lab.pipe.embed(prompts.texts))
    numbers = range(len(trained.sizes))
    halves = [trained.fit(numbers[1 - half :: 2]) for half in (0, 1)]
    points = [
        branch_step_for(similarity, group, steps, halves[g % 2])
        for g, group in enumerate(prompts.groups)
    ]
    plan = shared_plan(prompts.groups, steps, points)
    return lab.recipe(0.0, lab.settings.sage_adapter, plan=plan)


def rows(comparison: Comparison) -> list[Row]:
    """Lines with the evaluations they save against a fixed branch point of the same quality."""
    fixed = [line.measured for line in comparison.lines if line.name in (FIXED, INDEPENDENT)]
    fixed.sort(key=lambda m: m.evaluations)
    spent = np.array([m.evaluations for m in fixed])
    lines = rows_with_front()(comparison)
    for line, judged in zip(lines, comparison.lines, strict=True):
        line["gain"] = {}
        for key in comparison.quality:
            sign = METRIC[key].better or 1
            values = isotonic_regression([sign * m.metrics[key].value for m in fixed]).x
            # What the smoothed sweep needs; at its ends, the end.
            needed = np.interp(sign * judged.value(key), values, spent)
            line["gain"][key] = round(float(1 - judged.measured.evaluations / needed), 4)
    return lines


def more(comparison: Comparison) -> dict[str, Any]:
    """The calibrations, which are also written as files."""
    calibrations = comparison.design.facts["calibrations"]
    write_calibrations(comparison.lab, calibrations)
    return {"calibrations": {name: asdict(table) for name, table in calibrations.items()}}


def answer(result: Result) -> str:
    """What the best of them saves at equal quality in every judge."""
    most = max(
        min(row["gain"].values()) for row in result["rows"] if row["name"] in (BEFORE, WHILE)
    )
    return (
        f"{'Yes' if most >= GOAL else 'No'}: at equal quality in every judge they save "
        f"{signed(most, '.0%')} of the evaluations at most (goal: {signed(GOAL, '.0%')})."
    )


def finding(comparison: Comparison) -> str:
    """One sentence: what the best of each way saves at equal quality, whichever way it goes."""
    parts = []
    for name in (BEFORE, WHILE):
        lines = [line for line in comparison.rows if line["name"] == name]
        best = max(lines, key=lambda line: sum(line["gain"].values()))
        gains = ", ".join(
            f"{best['gain'][key]:+.0%} at equal {METRIC[key].title}" for key in comparison.quality
        )
        parts.append(f"{name} ({best['label']}) saves {gains}")
    text = (
        f"Against fixed branch points of the same quality, {'; '.join(parts)} (goal: {GOAL:+.0%})."
    )
    return text.replace(" -", " \N{MINUS SIGN}")


STUDY = Study(
    name="adaptive",
    title="Branch points that depend on the prompts",
    about=__doc__,
    design=design,
    rows=rows,
    more=more,
    answer=answer,
    finding=finding,
    figure=line_figure("evaluations", scattered=(WHILE,)),
    defaults={"pictures": 336, "seeds": 1},
)
