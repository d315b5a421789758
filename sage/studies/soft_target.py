"""Does the soft target of the loss help (λ_soft = 0 against the full loss)?

Both adapters share at ratio 0.4 on the same prompts and the same starting noise; differences are
paired, over all seeds and for each seed of the noise.
"""

from typing import Any

import torch

from sage.core.metrics import clip_score, feature_distance
from sage.studies.engine.answers import quality_of
from sage.studies.engine.compare import Comparison, Design, Entry
from sage.studies.engine.figures import Bars, Figure, caption
from sage.studies.engine.judges import METRIC
from sage.studies.engine.lab import Lab
from sage.studies.engine.methods import NO_SOFT, RATIO, SAGE
from sage.studies.engine.results import Result, better, difference
from sage.studies.engine.study import Study

VERBS = {1: "improves", -1: "worsens", 0: "does not visibly change"}


def design(lab: Lab) -> Design:
    """Both adapters at the paper's share ratio."""
    asked = lab.settings
    adapters = {SAGE: asked.sage_adapter, NO_SOFT: asked.nosoft_adapter}
    entries = [Entry(name, lab.recipe(RATIO, adapter)) for name, adapter in adapters.items()]
    return Design(entries, lab.prompts)


def more(comparison: Comparison) -> dict[str, Any]:
    """The paired differences, over all seeds and seed by seed."""
    first, second = (line.measured for line in comparison.lines)
    return {"difference": difference(first, second), "by_seed": _by_seed(comparison)}


def _by_seed(comparison: Comparison) -> list[dict[str, Any]]:
    """SAGE minus without, mean distance to the twin and CLIP score, for each noise seed."""
    lab, prompts = comparison.lab, comparison.lab.prompts
    recipes = [line.measured.recipe for line in comparison.lines]
    lines: list[dict[str, Any]] = [{"seed": seed} for seed in lab.seeds]

    def add(key: str, judge: str, score: Any, *, against: torch.Tensor) -> None:
        sides = [torch.from_numpy(lab.features(judge, recipe, prompts)) for recipe in recipes]
        for n, line in enumerate(lines):
            target = against[n] if against.ndim > 2 else against
            first, second = (float(score(side[n], target).mean()) for side in sides)
            line[key] = round(first - second, 6)

    if "efflite" in lab.judges.features:
        twins = torch.from_numpy(lab.features("efflite", lab.recipe(), prompts))
        add("twin", "efflite", feature_distance, against=twins)
    if lab.pipe.clip is not None:
        add("clip", "clip", clip_score, against=lab.pipe.embed(prompts.texts))
    return lines


def conditions(comparison: Comparison) -> dict[str, Any]:
    """Which adapters were compared."""
    digest = comparison.lab.adapter_digest
    return {
        "adapters": {line.name: digest(line.measured.recipe.adapter) for line in comparison.lines}
    }


def answer(result: Result) -> str:
    """In which judges of quality it helps or harms."""
    gaps, keys = result["difference"], quality_of(result["metrics"])
    titles = {
        sign: [METRIC[key].title for key in keys if gaps[key]["sign"] == sign] for sign in (1, -1)
    }
    words = [f"{verb} {', '.join(titles[s])}" for s, verb in VERBS.items() if titles.get(s)]
    return f"The soft target {' and '.join(words) or 'changes no judge of quality visibly'}."


def finding(comparison: Comparison) -> str:
    """One sentence: where the soft target helps, harms or does nothing that can be seen."""
    first, second = (line.measured for line in comparison.lines)
    titles: dict[int, list[str]] = {1: [], -1: [], 0: []}
    for key in first.metrics:
        titles[better(first, second, key)].append(METRIC[key].title)
    parts = [f"{verb} {', '.join(titles[sign])}" for sign, verb in VERBS.items() if titles[sign]]
    return f"At share ratio {RATIO:g} the soft target {'; '.join(parts)} (paired 95 % intervals)."


def figure(result: Result) -> Figure:
    """Relative differences with their intervals, a row for each metric.

    A metric whose own interval reaches 0, as CMMD's does, has no relative change to speak of.
    """
    base = next(line for line in result["rows"] if line["name"] == NO_SOFT)["metrics"]
    rows = [
        (
            result["metrics"][key]["title"],
            [{end: change[end] / base[key]["value"] for end in ("value", "low", "high")}],
        )
        for key, change in result["difference"].items()
        if base[key]["low"] > 0
    ]
    bars = Bars("change by the soft target", rows, percent=True, zero=True)
    return Figure(result["title"], [bars], caption(result))


STUDY = Study(
    name="soft-target",
    title="What the soft target adds",
    about=__doc__,
    design=design,
    more=more,
    conditions=conditions,
    answer=answer,
    finding=finding,
    figure=figure,
)
