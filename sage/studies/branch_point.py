"""Where should a group branch: what does a longer trunk save, and what does it cost?

The branch point T* is swept with the SAGE adapter fixed, for all groups and for thirds of the
groups by tightness (mean similarity inside a group): do tight groups bear longer trunks?
"""

from typing import Any

import numpy as np

from sage.studies.engine.answers import first_judge
from sage.studies.engine.compare import Comparison, Design, Entry, unbeaten
from sage.studies.engine.figures import Figure, by_key, caption, metric_panels
from sage.studies.engine.lab import Lab
from sage.studies.engine.methods import INDEPENDENT, SAGE
from sage.studies.engine.prompts import PromptSet
from sage.studies.engine.results import Result
from sage.studies.engine.study import Study

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


def design(lab: Lab) -> Design:
    """All branch points for all groups, then for each third."""
    recipes = {0.0: lab.recipe()}
    recipes |= {ratio: lab.recipe(ratio, lab.settings.sage_adapter) for ratio in RATIOS}
    bins: dict[str, tuple[int, ...] | None] = {EVERY: None, **thirds(lab.prompts)}
    entries = [
        Entry(SAGE if ratio else INDEPENDENT, recipe, {"groups": name}, only=only)
        for name, only in bins.items()
        for ratio, recipe in recipes.items()
    ]
    return Design(entries, lab.prompts)


def conditions(comparison: Comparison) -> dict[str, Any]:
    """The adapter, how tight each third is, and the scale of distances."""
    lab = comparison.lab
    tightness = {
        name: [round(float(f([lab.prompts.tightness[g] for g in only])), 3) for f in (min, max)]
        for name, only in thirds(lab.prompts).items()
    }
    return {
        "adapter": lab.adapter_digest(lab.settings.sage_adapter),
        "tightness": tightness,
        "two_independent_pictures_of_one_prompt_are_apart_by": lab.noise_distance(lab.prompts),
    }


def pareto(comparison: Comparison, key: str = "fd") -> list[float]:
    """Branch points of all groups that no other one beats in both saving and a metric."""
    points = {
        line.measured.recipe.sampling.share_ratio: (-line.measured.saving, line.value(key))
        for line in comparison.all(groups=EVERY)
        if key in line.measured.metrics
    }
    return [ratio for ratio, point in points.items() if unbeaten(point, list(points.values()))]


def answer(result: Result) -> str:
    """What two branch points save and cost."""
    title, value = first_judge(result)
    rows = {r["share_ratio"]: r for r in result["rows"] if r["groups"] == EVERY}
    parts = [
        f"{ratio:.0%} shared save {rows[ratio]['saving']:.0%} of the evaluations at "
        f"{value(rows[ratio]):.3g}"
        for ratio in (0.3, 0.5)
    ]
    return f"{title} is {value(rows[0.0]):.3g} without sharing; {', '.join(parts)}."


def finding(comparison: Comparison) -> str:
    """One sentence: how the cost grows with T*, and whether tight groups bear more."""

    def at(ratio: float, groups: str = EVERY) -> Any:
        lines = comparison.all(groups=groups)
        return next(x.measured for x in lines if x.measured.recipe.sampling.share_ratio == ratio)

    alone = at(0.0)
    key = "fd" if "fd" in alone.metrics else "pixels"
    parts = [
        f"{ratio:.0%} shared saves {at(ratio).saving:.0%} at {at(ratio).metrics[key].value:.3g}"
        for ratio in (0.3, 0.4, 0.5)
    ]
    text = (
        f"{'FD-EffLite0' if key == 'fd' else 'Pixel distance'} is "
        f"{alone.metrics[key].value:.3g} for independent sampling; {', '.join(parts)}"
    )
    if not comparison.all(groups=BINS[0]):
        return text + "."
    twin = "twin" if "twin" in alone.metrics else "pixels"
    loose, tight = (at(0.4, name).metrics[twin] for name in (BINS[0], BINS[-1]))
    apart = tight.high < loose.low or loose.high < tight.low
    return (
        f"{text}; at 40 % the distance to the twin is {tight.value:.3f} in the tightest third of "
        f"the groups and {loose.value:.3f} in the loosest ({'' if apart else 'not '}apart)."
    )


def figure(result: Result) -> Figure:
    """Quality against saving, by tightness."""
    panels = []
    for key in (key for key in ("fd", "clip", "twin") if key in result["metrics"]):
        bins = by_key(result["rows"], "groups")
        if key == "fd":  # of a third of the pictures it has another bias, not to be compared
            bins = {EVERY: bins[EVERY]}
        panels += metric_panels(
            result, [key], bins, lambda line: line["saving"], "evaluations saved", percent=True
        )
    return Figure(result["title"], panels, caption(result))


STUDY = Study(
    name="branch-point",
    title="Quality against the branch point",
    about=__doc__,
    design=design,
    more=lambda comparison: {"pareto": [round(ratio, 4) for ratio in pareto(comparison)]},
    conditions=conditions,
    answer=answer,
    finding=finding,
    figure=figure,
    columns={"groups": "groups", "share_ratio": "share ratio"},
    defaults={"pictures": 336, "seeds": 1},
)
