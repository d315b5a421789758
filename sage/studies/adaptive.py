"""Do branch points that depend on the prompts beat the best fixed one?

Two ways: before sampling, from a group's similarity, by a calibration that is fitted here (to one
half of the groups for the other half, so that no group is judged by its own numbers); and while
sampling, by probing the members' predictions. Probes are counted. What counts is how many
evaluations a fixed branch point would need for the same quality. The calibrations, of the adapter
and of the untrained model, appear in `calibration/` beside the result.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import isotonic_regression

from sage.core.adaptive import AdaptiveRule, branch_step_for
from sage.core.grouping import cosine_similarity
from sage.core.plan import shared_plan
from sage.studies.engine.calibrate import Sweep, swept, written
from sage.studies.engine.cells import Setting
from sage.studies.engine.contest import Contest, Entry, hold, panels_of, quality_keys, rows
from sage.studies.engine.judges import METRIC
from sage.studies.engine.lab import Lab
from sage.studies.engine.results import result
from sage.studies.main_table import INDEPENDENT

NAME, TITLE = "adaptive", "Branch points that depend on the prompts"
DEFAULTS = {"pictures": 336, "seeds": 1}
FIXED, BEFORE, WHILE = "fixed", "from similarity", "probing"
RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
CALIBRATED = (*RATIOS, 0.85, 1.0)  # a visitor may ask for any
# Cosines of guidance directions and x0 of the built-in model lie in these ranges.
RULES = (
    *(AdaptiveRule(threshold, 0.1, 0.6, every=3) for threshold in (0.8, 1.0, 1.2)),
    *(AdaptiveRule(t, 0.1, 0.6, every=3, compare="clean") for t in (1.5, 2.0)),
)


def run(lab: Lab) -> dict[str, Any]:
    """The sweep of fixed branch points, the calibration, and both ways, with the SAGE adapter."""
    adapter, prompts = lab.settings.sage_adapter, lab.prompts
    sweep = {ratio: lab.setting(ratio, adapter) for ratio in RATIOS}
    entries = [Entry(FIXED, f"ratio {ratio:g}", setting) for ratio, setting in sweep.items()]
    entries += [
        Entry(WHILE, rule_name(rule), lab.setting(0.0, adapter, options=(("adaptive", rule),)))
        for rule in RULES
    ]
    hold(lab, entries)
    measured, plain = (
        swept(lab, {ratio: lab.setting(ratio, some) for ratio in CALIBRATED})
        for some in (adapter, None)
    )
    calibrations = {Path(adapter).name: measured.fit(), "untrained": plain.fit()}
    entries.append(Entry(BEFORE, "calibrated", crossed(lab, measured, adapter)))
    found = hold(lab, [Entry(INDEPENDENT, "", lab.setting()), *entries])
    written(lab, calibrations)
    keys = quality_keys(found)
    lines = rows(found)
    for line, gain in zip(lines, gains(found, keys), strict=True):
        line["gain"] = gain
    return result(
        sys.modules[__name__],
        lab,
        lines,
        finding(lines, keys),
        prompts=prompts,
        conditions_={"adapter": lab.adapter_digest(adapter)},
        calibrations={name: asdict(calibration) for name, calibration in calibrations.items()},
    )


def rule_name(rule: AdaptiveRule) -> str:
    """What tells a rule from the others."""
    return f"{rule.compare} {rule.threshold:g}"


# -- before sampling -----------------------------------------------------------------------------


def crossed(lab: Lab, sweep: Sweep, adapter: Path | None) -> Setting:
    """Branch points of every group by the calibration of the other half of the groups."""
    prompts = lab.prompts
    similarity = cosine_similarity(lab.pipe.embed(prompts.texts))
    steps, numbers = lab.settings.steps, range(len(sweep.sizes))
    halves = [sweep.fit(numbers[1 - half :: 2]) for half in (0, 1)]
    points = [
        branch_step_for(similarity, group, steps, halves[g % 2])
        for g, group in enumerate(prompts.groups)
    ]
    return lab.setting(0.0, adapter, plan=shared_plan(prompts.groups, steps, points))


# -- what it is worth ----------------------------------------------------------------------------


def gains(found: Contest, keys: Sequence[str]) -> list[dict[str, float]]:
    """For each entry, evaluations saved against a fixed branch point of the same quality."""
    fixed = [m for entry, m in found.items() if entry.name in (FIXED, INDEPENDENT)]
    fixed.sort(key=lambda m: m.evaluations)
    spent = np.array([m.evaluations for m in fixed])
    told = []
    for measured in found.values():
        gain = {}
        for key in keys:
            sign = METRIC[key].better or 1
            values = isotonic_regression([sign * m.metrics[key].value for m in fixed]).x
            # What the smoothed sweep needs; at its ends, the end.
            needed = np.interp(sign * measured.metrics[key].value, values, spent)
            gain[key] = round(float(1 - measured.evaluations / needed), 4)
        told.append(gain)
    return told


def finding(lines: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> str:
    """One sentence: what the best of each way saves at equal quality, whichever way it goes."""
    said = []
    for name in (BEFORE, WHILE):
        mine = [line for line in lines if line["name"] == name]
        best = max(mine, key=lambda line: sum(line["gain"].values()))
        told = ", ".join(f"{best['gain'][key]:+.0%} at equal {METRIC[key].title}" for key in keys)
        said.append(f"{name} ({best['label']}) saves {told}")
    text = f"Against fixed branch points of the same quality, {'; '.join(said)} (goal: +10%)."
    return text.replace(" -", " \N{MINUS SIGN}")


def figure(found: Mapping[str, Any]) -> dict[str, Any]:
    """Quality against evaluations."""
    return panels_of(found)
