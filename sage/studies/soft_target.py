"""Does the soft target of the loss help (λ_soft = 0 against the full loss)?

Both adapters share at ratio 0.4 on the same prompts and the same starting noise; differences are
paired, over all seeds and for each seed of the noise.
"""

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from sage.studies.engine import figures
from sage.studies.engine.judges import METRIC
from sage.studies.engine.lab import Lab
from sage.studies.engine.measure import Measured
from sage.studies.engine.results import better, difference, result, row
from sage.studies.main_table import NO_SOFT, RATIO, SAGE

NAME, TITLE = "soft-target", "What the soft target adds"


def run(lab: Lab) -> dict[str, Any]:
    """Both rows, with their paired differences."""
    chosen = lab.settings
    settings = {
        SAGE: lab.setting(RATIO, chosen.sage_adapter),
        NO_SOFT: lab.setting(RATIO, chosen.nosoft_adapter),
    }
    prompts = lab.prompts
    lab.render([(setting, prompts) for setting in (lab.setting(), *settings.values())])
    found = {name: lab.measure(setting) for name, setting in settings.items()}
    digests = {name: lab.adapter_digest(s.adapter) for name, s in settings.items()}
    return result(
        sys.modules[__name__],
        lab,
        [row(name, measured) for name, measured in found.items()],
        finding(found),
        prompts=prompts,
        conditions_={"adapters": digests},
        difference=difference(found[SAGE], found[NO_SOFT]),
        by_seed=_by_seed(lab, settings),
    )


def _by_seed(lab: Lab, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """SAGE minus without, mean distance to the twin and CLIP score, for each noise seed."""
    prompts, told = lab.prompts, []
    texts = lab.pipe.embed(prompts.texts).numpy() if lab.pipe.clip is not None else None
    for index, seed in enumerate(lab.seeds):
        line: dict[str, Any] = {"seed": seed}
        if "efflite" in lab.judges.features:
            sides = [_unit(lab.features("efflite", s, prompts)[index]) for s in settings.values()]
            twin = _unit(lab.features("efflite", lab.setting(), prompts)[index])
            first, second = (float((1 - (x * twin).sum(1)).mean()) for x in sides)
            line["twin"] = round(first - second, 6)
        if texts is not None:
            sides = [_unit(lab.features("clip", s, prompts)[index]) for s in settings.values()]
            first, second = (float((x * texts).sum(1).mean()) for x in sides)
            line["clip"] = round(first - second, 6)
        told.append(line)
    return told


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def finding(found: Mapping[str, Measured]) -> str:
    """One sentence: where the soft target helps, harms or does nothing that can be seen."""
    words = {1: [], -1: [], 0: []}
    for key in found[SAGE].metrics:
        words[better(found[SAGE], found[NO_SOFT], key)].append(METRIC[key].title)
    parts = [
        f"{what} {', '.join(words[sign])}"
        for sign, what in ((1, "improves"), (-1, "worsens"), (0, "does not visibly change"))
        if words[sign]
    ]
    return f"At share ratio {RATIO:g} the soft target {'; '.join(parts)} (paired 95 % intervals)."


def figure(found: Mapping[str, Any]) -> dict[str, Any]:
    """Relative differences with their intervals, one point a metric."""
    base = next(line for line in found["rows"] if line["name"] == NO_SOFT)["metrics"]
    keys = [key for key in found["difference"] if base[key]["value"]]
    scaled = [
        {
            end: found["difference"][key][end] / base[key]["value"]
            for end in ("value", "low", "high")
        }
        for key in keys
    ]
    names = [found["metrics"][key]["title"] for key in keys]
    trace = figures.interval_trace(
        "with minus without", names, scaled, colour=figures.COLOURS[0], line=False, legend=False
    )
    made = figures.panels(
        [trace], [("", "change by the soft target")], title=TITLE, note=figures.caption(found)
    )
    made["layout"]["width"] = 760
    made["layout"]["yaxis"] |= {"tickformat": "+.1%", "zeroline": True, "zerolinecolor": "#999999"}
    return made
