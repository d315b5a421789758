"""Do branch points that depend on the prompts beat the best fixed one?

Two ways: before sampling, from a group's similarity, by a calibration that is fitted here (to one
half of the groups for the other half, so that no group is judged by its own numbers); and while
sampling, by probing the members' predictions. Probes are counted. What counts is how many
evaluations a fixed branch point would need for the same quality. The calibrations, of the adapter
and of the untrained model, appear in `calibration/` beside the result; copied into the folder of
the adapter or the model as `calibration.json`, they are what the guard reads.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import isotonic_regression

from sage.adaptive import AdaptiveRule, branch_step_for
from sage.calibration import Calibration, lowest_similarity
from sage.experiments.cells import Cell, Setting
from sage.experiments.contest import Contest, Entry, hold, panels_of, quality_keys, rows
from sage.experiments.judges import METRIC
from sage.experiments.lab import Lab
from sage.experiments.main_table import INDEPENDENT
from sage.experiments.main_table import RATIOS as UNTRAINED_RATIOS
from sage.experiments.prompts import PromptSet
from sage.experiments.results import result
from sage.grouping import cosine_similarity
from sage.plan import branch_step_from_ratio, shared_plan

NAME, TITLE = "adaptive", "Branch points that depend on the prompts"
DEFAULTS = {"pictures": 336, "seeds": 1}
FIXED, BEFORE, WHILE = "fixed", "from similarity", "probing"
RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
# Cosines of guidance directions and x0 of the built-in model lie in these ranges.
RULES = (
    *(AdaptiveRule(threshold, 0.1, 0.6, every=3) for threshold in (0.8, 1.0, 1.2)),
    *(AdaptiveRule(t, 0.1, 0.6, every=3, compare="clean") for t in (1.5, 2.0)),
)
BINS = 4
ALLOWED = 0.03  # share of pictures that may lose what their prompt names
MEASURE = "root mean square difference of pixels in [0, 1]"


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
    calibrations = {Path(adapter).name: calibrate(lab, prompts, sweep)}
    plain = {ratio: lab.setting(ratio) for ratio in UNTRAINED_RATIOS}
    calibrations["untrained"] = calibrate(lab, prompts, plain)
    entries.append(Entry(BEFORE, "calibrated", crossed(lab, prompts, sweep)))
    found = hold(lab, [Entry(INDEPENDENT, "", lab.setting()), *entries])
    for name, calibration in calibrations.items():
        folder = lab.settings.out / "calibration" / name
        folder.mkdir(parents=True, exist_ok=True)
        calibration.write(folder)
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


def calibrate(
    lab: Lab,
    prompts: PromptSet,
    sweep: Mapping[float, Setting],
    only: Sequence[int] | None = None,
) -> Calibration:
    """The calibration of a sweep.

    A picture's twin starts from the same noise: it is the one that branches after the first step,
    so that what is measured is sharing, not another seed.

    Args:
        lab: Gives pictures.
        prompts: In groups.
        sweep: Settings by share ratio.
        only: Numbers of the groups to fit to; all without it.
    """
    lowest = group_similarities(lab, prompts)
    groups = np.arange(len(prompts.groups)) if only is None else np.asarray(only)
    bins = [b for b in np.array_split(groups[np.argsort(lowest[groups])], BINS) if len(b)]
    steps = lab.settings.steps
    first = lab.setting(1 / steps, next(iter(sweep.values())).adapter)
    longer = {r: s for r, s in sweep.items() if branch_step_from_ratio(r, steps) > 1}
    ratios = (1 / steps, *longer)
    settings = (first, *longer.values())
    lab.render([(setting, prompts) for setting in settings])
    far = np.stack([_distances(lab, prompts, s, first) for s in settings])  # (K, N) mean of seeds
    right = [_right(lab, prompts, s) for s in settings]
    members = [np.concatenate([prompts.groups[g] for g in b]) for b in bins]
    table = np.array([[row[m].mean() for row in far] for m in members])
    axis, table, members = _distinct([float(lowest[b].mean()) for b in bins], table, members)
    counts = [len(m) for m in members]
    made = Calibration.fit(
        axis,
        ratios,
        table,
        counts,
        limit=1.0,
        measure=MEASURE,
        conditions={
            "model": lab.title,
            "adapter": lab.adapter_digest(first.adapter),
            "steps": steps,
            "guidance_scale": lab.guidance,
            "pictures": sum(counts) * len(lab.seeds),
            "limit": f"largest distance at which at most {ALLOWED:.0%} of the pictures lose what "
            "their prompt names, by the probe; without a probe, the mean at ratio 0.4",
        },
    )
    lost = None
    if right[0] is not None:
        lost = np.array([[right[0][m].mean() - r[m].mean() for r in right] for m in members])
    return Calibration(**(vars(made) | {"limit": limit_of(made, counts, lost)}))


def limit_of(made: Calibration, counts: Sequence[int], lost: np.ndarray | None) -> float:
    """The largest distance at which no more pictures are lost than allowed.

    Args:
        made: The table.
        counts: [B] pictures of each bin.
        lost: [B, K] share of pictures lost; None if it is not known.
    """
    table = np.array(made.distance)
    if lost is None:
        at = int(np.argmin(np.abs(np.array(made.share_ratio) - 0.4)))
        return float(np.average(table[:, at], weights=counts))
    order = np.argsort(table.ravel(), kind="stable")
    weights = np.repeat(counts, table.shape[1])[order]
    smooth = isotonic_regression(lost.ravel()[order], weights=weights).x
    return float(table.ravel()[order][smooth <= ALLOWED].max(initial=0.0))


def crossed(lab: Lab, prompts: PromptSet, sweep: Mapping[float, Setting]) -> Setting:
    """Branch points of every group by the calibration of the other half of the groups."""
    similarity = cosine_similarity(lab.pipe.embed(prompts.texts))
    steps, numbers = lab.settings.steps, range(len(prompts.groups))
    halves = [calibrate(lab, prompts, sweep, numbers[1 - half :: 2] or None) for half in (0, 1)]
    points = [
        branch_step_for(similarity, group, steps, halves[g % 2])
        for g, group in enumerate(prompts.groups)
    ]
    plan = shared_plan(prompts.groups, steps, points)
    return lab.setting(0.0, next(iter(sweep.values())).adapter, plan=plan)


def group_similarities(lab: Lab, prompts: PromptSet) -> np.ndarray:
    """For each group, the similarity of its two least similar prompts: [G]."""
    similarity = cosine_similarity(lab.pipe.embed(prompts.texts))
    return np.array([lowest_similarity(similarity, group) for group in prompts.groups])


def _distances(lab: Lab, prompts: PromptSet, setting: Setting, twin: Setting) -> np.ndarray:
    values = []
    for seed in lab.seeds:
        a, b = (
            lab.cell(Cell(s, prompts, seed))["pictures"].astype(np.float32) / 255
            for s in (setting, twin)
        )
        values.append(np.sqrt(((a - b) ** 2).mean((1, 2, 3))))
    return np.mean(values, axis=0)


def _right(lab: Lab, prompts: PromptSet, setting: Setting) -> np.ndarray | None:
    found = [lab.cell(Cell(setting, prompts, seed))["pictures"] for seed in lab.seeds]
    right = [lab.judges.right(pictures, prompts) for pictures in found]
    return None if right[0] is None else np.mean(right, axis=0)


def _distinct(axis: list[float], table: np.ndarray, members: list[np.ndarray]) -> tuple:
    """Bins of one similarity are one bin: an axis has to ascend."""
    kept = [i for i, value in enumerate(axis) if i == 0 or value > axis[i - 1]]
    return [axis[i] for i in kept], table[kept], [members[i] for i in kept]


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
