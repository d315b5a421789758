"""Where should a group branch: what does a longer trunk save, and what does it cost?

The branch point T* is swept with the SAGE adapter fixed, for all groups and for thirds of the
groups by tightness (mean similarity inside a group): do tight groups bear longer trunks?
"""

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from sage.studies.engine import figures
from sage.studies.engine.lab import Lab
from sage.studies.engine.measure import Measured
from sage.studies.engine.prompts import PromptSet
from sage.studies.engine.results import result, row
from sage.studies.main_table import INDEPENDENT, SAGE

NAME, TITLE = "branch-point", "Quality against the branch point"
DEFAULTS = {"pictures": 336, "seeds": 1}
RATIOS = (0.1, 0.2, 0.3, 11 / 30, 0.4, 13 / 30, 0.5, 0.6, 0.7)
EVERY = "all groups"
BINS = ("loose groups", "middling groups", "tight groups")


def thirds(prompts: PromptSet) -> dict[str, tuple[int, ...]]:
    """Numbers of the groups by tightness, loosest third first; fewer than 3 groups are one bin."""
    order = np.argsort(prompts.tightness, kind="stable")
    if len(order) < len(BINS):
        return {}
    parts = np.array_split(order, len(BINS))
    return {name: tuple(sorted(part.tolist())) for name, part in zip(BINS, parts, strict=True)}


def run(lab: Lab) -> dict[str, Any]:
    """Renders the sweep and judges it bin by bin."""
    prompts = lab.prompts
    adapter = lab.settings.sage_adapter
    settings = [lab.setting(), *(lab.setting(ratio, adapter) for ratio in RATIOS)]
    lab.render([(setting, prompts) for setting in settings])
    found: dict[tuple[str, float], Measured] = {}
    for bin_, only in {EVERY: None, **thirds(prompts)}.items():
        for setting in settings:
            found[bin_, setting.share_ratio] = lab.measure(setting, prompts, only)
    rows = [
        row(SAGE if ratio else INDEPENDENT, measured, groups=bin_)
        for (bin_, ratio), measured in found.items()
    ]
    tightness = {
        bin_: [round(float(f([prompts.tightness[g] for g in only])), 3) for f in (min, max)]
        for bin_, only in thirds(prompts).items()
    }
    return result(
        sys.modules[__name__],
        lab,
        rows,
        finding(found),
        prompts=prompts,
        conditions_={
            "adapter": lab.adapter_digest(adapter),
            "tightness": tightness,
            "two_independent_pictures_of_one_prompt_are_apart_by": lab.noise_distance(prompts),
        },
        pareto=[round(ratio, 4) for ratio in pareto(found)],
    )


def pareto(found: Mapping[tuple[str, float], Measured], key: str = "fd") -> list[float]:
    """Branch points of all groups that no other one beats in both saving and a metric."""
    lines = [
        (ratio, measured.saving, measured.metrics[key].value)
        for (bin_, ratio), measured in found.items()
        if bin_ == EVERY and key in measured.metrics
    ]
    return [
        ratio
        for ratio, saving, value in lines
        if not any(s >= saving and v <= value and (s, v) != (saving, value) for _, s, v in lines)
    ]


def finding(found: Mapping[tuple[str, float], Measured]) -> str:
    """One sentence: how the cost grows with T*, and whether tight groups bear more."""
    key = "fd" if "fd" in found[EVERY, 0.0].metrics else "pixels"
    told = [
        f"{ratio:.0%} shared saves {found[EVERY, ratio].saving:.0%} at "
        f"{found[EVERY, ratio].metrics[key].value:.3g}"
        for ratio in (0.3, 0.4, 0.5)
    ]
    text = (
        f"{'FD-EffLite0' if key == 'fd' else 'Pixel distance'} is "
        f"{found[EVERY, 0.0].metrics[key].value:.3g} for independent sampling; {', '.join(told)}"
    )
    if (BINS[0], 0.4) not in found:
        return text + "."
    twin = "twin" if "twin" in found[EVERY, 0.4].metrics else "pixels"
    loose, tight = (found[name, 0.4].metrics[twin] for name in (BINS[0], BINS[-1]))
    apart = tight.high < loose.low or loose.high < tight.low
    return (
        f"{text}; at 40 % the distance to the twin is {tight.value:.3f} in the tightest third of "
        f"the groups and {loose.value:.3f} in the loosest ({'' if apart else 'not '}apart)."
    )


def figure(found: Mapping[str, Any]) -> dict[str, Any]:
    """Quality against saving, by tightness."""
    wanted = [key for key in ("fd", "clip", "twin") if key in found["metrics"]]
    bins = dict.fromkeys(line["groups"] for line in found["rows"])
    traces = []
    for panel, key in enumerate(wanted, 1):
        for n, bin_ in enumerate(bins):
            if key == "fd" and bin_ != EVERY:
                continue  # of a third of the pictures: another bias, not to be compared
            lines = [line for line in found["rows"] if line["groups"] == bin_]
            traces.append(
                figures.interval_trace(
                    bin_,
                    [line["saving"] for line in lines],
                    [line["metrics"][key] for line in lines],
                    colour=(figures.COLOURS[6], *figures.COLOURS)[n],
                    symbol=figures.SYMBOLS[n],
                    texts=[f"{line['share_ratio']:.0%} shared" for line in lines],
                    axes=panel,
                    legend=key != "fd" and panel == 2,
                )
            )
    titles = [("evaluations saved", figures.axis_title(found["metrics"][key])) for key in wanted]
    return figures.panels(traces, titles, title=TITLE, x_format=".0%", note=figures.caption(found))
