"""How do τ_min, τ_max and T* trade saving for quality, with the adapter fixed?

A fixed list of random captions, not chosen for being similar, is grouped anew under each pair of
bounds and rendered at each branch point. Settings that no other one beats are named.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from sage.core.grouping import cosine_similarity
from sage.studies.engine import figures
from sage.studies.engine.lab import Lab
from sage.studies.engine.linkage import complete_linkage
from sage.studies.engine.measure import Measured
from sage.studies.engine.prompts import bounds, regrouped
from sage.studies.engine.results import result, row

NAME, TITLE = "sensitivity", "Bounds of similarity and branch point"
DEFAULTS = {"pictures": 168, "seeds": 1}
RATIOS = (0.3, 0.4, 0.5)
STEP = 0.1  # how far a bound is moved
Window = tuple[float, float]


def windows(low: float, high: float) -> list[Window]:
    """The model's own bounds, then one bound moved at a time."""
    lows = [low - STEP, low + STEP, low + 2 * STEP]
    highs = [high - STEP, 1.0]
    found = [(low, high), *((new, high) for new in lows), *((low, new) for new in highs)]
    return [(round(a, 3), round(b, 3)) for a, b in found if -1 <= a < b <= 1]


def run(lab: Lab) -> dict[str, Any]:
    """Renders every setting on the same prompts."""
    sample = lab.painted(lab.loose_prompts(lab.settings.prompts))
    similarity = cosine_similarity(lab.pipe.embed(sample.texts))
    adapter = lab.settings.sage_adapter
    sets = {
        window: regrouped(sample, similarity, complete_linkage(similarity.numpy(), *window))
        for window in windows(*bounds(lab.pipe))
    }
    work = {
        (window, ratio): (lab.setting(ratio, adapter), prompts)
        for window, prompts in sets.items()
        for ratio in RATIOS
    }
    lab.render([(lab.setting(), sample), *work.values()])
    found = {key: lab.measure(*each) for key, each in work.items()}
    optimal = pareto(found)
    rows = [
        row(
            describe(window, ratio),
            measured,
            tau_min=window[0],
            tau_max=window[1],
            groups=len(sets[window].groups),
            sharing=sum(len(g) > 1 for g in sets[window].groups),
            pareto=(window, ratio) in optimal,
        )
        for (window, ratio), measured in found.items()
    ]
    return result(
        sys.modules[__name__],
        lab,
        rows,
        finding(found, optimal),
        prompts=sample,
        conditions_={"adapter": lab.adapter_digest(adapter)},
        pareto=[describe(*key) for key in optimal],
    )


def describe(window: Window, ratio: float) -> str:
    """A setting in a few signs."""
    return f"τ {window[0]:.2f} to {window[1]:.2f}, {ratio:.0%} shared"


def pareto(found: Mapping[tuple[Window, float], Measured]) -> list[tuple[Window, float]]:
    """Settings that no other one beats in both saving and distance to the twins."""
    key = _quality(list(found.values()))
    points = {k: (m.saving, m.metrics[key].value) for k, m in found.items()}
    return [
        k
        for k, (saving, value) in points.items()
        if not any(
            s >= saving and v <= value and (s, v) != (saving, value) for s, v in points.values()
        )
    ]


def _quality(found: Sequence[Measured]) -> str:
    return "twin" if all("twin" in m.metrics for m in found) else "pixels"


def finding(
    found: Mapping[tuple[Window, float], Measured], optimal: Sequence[tuple[Window, float]]
) -> str:
    """One sentence: the range of savings, and the settings that nothing beats."""
    savings = [measured.saving for measured in found.values()]
    default = next(iter(found))[0]
    mine = sum((default, ratio) in optimal for ratio in RATIOS)
    return (
        f"On random captions the settings save {min(savings):.0%} to {max(savings):.0%}; "
        f"{len(optimal)} of {len(found)} are Pareto-optimal in saving and distance to the twins "
        f"({'; '.join(describe(*key) for key in optimal)}), {mine} of them with the model's own "
        f"bounds {default[0]:g} to {default[1]:g}."
    )


def figure(found: Mapping[str, Any]) -> dict[str, Any]:
    """Distance to the twins against saving, one line a window."""
    key = "twin" if "twin" in found["metrics"] else "pixels"
    names = dict.fromkeys((line["tau_min"], line["tau_max"]) for line in found["rows"])
    traces = []
    for n, window in enumerate(names):
        lines = [line for line in found["rows"] if (line["tau_min"], line["tau_max"]) == window]
        traces.append(
            figures.interval_trace(
                f"τ {window[0]:.2f} to {window[1]:.2f}",
                [line["saving"] for line in lines],
                [line["metrics"][key] for line in lines],
                colour=figures.COLOURS[n % len(figures.COLOURS)],
                symbol=figures.SYMBOLS[n % len(figures.SYMBOLS)],
                texts=[line["name"] for line in lines],
            )
        )
    titles = [("evaluations saved", figures.axis_title(found["metrics"][key]))]
    made = figures.panels(traces, titles, title=TITLE, x_format=".0%", note=figures.caption(found))
    made["layout"]["width"] = 860
    return made
