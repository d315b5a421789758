"""What happens in groups larger than the paper's five?

The same prompts, in sets of sixteen that all fit each other, are run as groups of 2, 4, 8 and 16:
saving, quality and diversity against the size of a group. The unit of the intervals is the set.
"""

import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from sage.core.grouping import cosine_similarity
from sage.studies.engine import figures
from sage.studies.engine.lab import Lab
from sage.studies.engine.measure import Measured
from sage.studies.engine.prompts import PromptSet, bounds, regrouped
from sage.studies.engine.results import result, row
from sage.studies.main_table import RATIO, SAGE, UNTRAINED

NAME, TITLE = "group-size", "Groups of 2 to 16"
DEFAULTS = {"pictures": 192, "seeds": 1}
SIZES = (2, 4, 8, 16)
WHOLE = max(SIZES)


def cliques(
    similarity: np.ndarray, tau: tuple[float, float], size: int, number: int, seed: int = 0
) -> list[tuple[int, ...]]:
    """Disjoint sets of prompts in which every pair lies within the bounds, found greedily.

    Args:
        similarity: [N, N].
        tau: Bounds.
        size: Prompts of a set.
        number: Most sets that are looked for.
        seed: Of the order in which prompts are tried.
    """
    fits = (similarity >= tau[0]) & (similarity <= tau[1])
    np.fill_diagonal(fits, False)
    found: list[tuple[int, ...]] = []
    for start in np.random.default_rng(seed).permutation(len(similarity)):
        clique, open_ = [int(start)], fits[start].copy()
        while open_.any() and len(clique) < size:
            # The candidate that leaves most others open.
            candidates = np.flatnonzero(open_)
            best = candidates[(fits[candidates] & open_).sum(1).argmax()]
            clique.append(int(best))
            open_ &= fits[best]
        if len(clique) == size and not any(set(clique) & set(other) for other in found):
            found.append(tuple(sorted(clique)))
            fits[:, clique] = False
        if len(found) == number:
            break
    return found


def run(lab: Lab) -> dict[str, Any]:
    """Renders the same prompts in groups of every size."""
    sample = lab.loose_prompts(max(1500, 12 * lab.settings.prompts))
    similarity = cosine_similarity(lab.pipe.embed(sample.texts))
    wanted = max(1, lab.settings.prompts // WHOLE)
    sets = cliques(similarity.numpy(), bounds(lab.pipe), WHOLE, wanted)
    if not sets:
        raise ValueError(f"No {WHOLE} of {len(sample)} captions are all within the bounds.")
    order = [n for clique in sets for n in clique]
    some, among = lab.painted(sample.take(order)), similarity[order][:, order]
    divided = {size: divide(some, among, size) for size in SIZES}
    adapters = {UNTRAINED: None, SAGE: lab.settings.sage_adapter}
    work = {
        (name, size): (lab.setting(RATIO, adapter), divided[size])
        for name, adapter in adapters.items()
        for size in SIZES
    }
    lab.render([(lab.setting(), divided[WHOLE]), *work.values()])
    found = {key: lab.measure(*each) for key, each in work.items()}
    alone = lab.measure(lab.setting(), divided[WHOLE])
    rows = [row("independent", alone, size=1)]
    rows += [row(name, measured, size=size) for (name, size), measured in found.items()]
    return result(
        sys.modules[__name__],
        lab,
        rows,
        finding(found, alone),
        prompts=divided[WHOLE],
        conditions_={"share_ratio": RATIO, "sets": len(sets)},
    )


def divide(prompts: PromptSet, similarity: Tensor, size: int) -> PromptSet:
    """The prompts of the sets, in groups of one size; the sets are the units."""
    groups = [tuple(range(i, i + size)) for i in range(0, len(prompts), size)]
    units = np.repeat(np.arange(len(prompts) // WHOLE), WHOLE // size)
    return replace(regrouped(prompts, similarity, groups), units=units)


def finding(found: Mapping[tuple[str, int], Measured], alone: Measured) -> str:
    """One sentence: saving, quality and diversity from the smallest to the largest group."""
    key = "fd" if "fd" in alone.metrics else "pixels"
    told = [
        f"{size}: saves {found[SAGE, size].saving:.0%}, "
        f"{'FD-EffLite0' if key == 'fd' else 'pixel distance'} "
        f"{found[SAGE, size].metrics[key].value:.3g}"
        + (
            f", diversity inside {found[SAGE, size].metrics['inside'].value:.3f}"
            if "inside" in found[SAGE, size].metrics
            else ""
        )
        for size in SIZES
    ]
    grown = [found[SAGE, size].metrics[key] for size in (4, WHOLE)]
    worse = grown[1].minus(grown[0]).sign > 0
    return (
        f"At share ratio {RATIO:g} with the SAGE adapter, groups of {'; '.join(told)}: sixteen "
        f"{'are worse than' if worse else 'are not visibly worse than'} four."
    )


def figure(found: Mapping[str, Any]) -> dict[str, Any]:
    """Saving, quality and diversity against size."""
    wanted = [key for key in ("fd", "clip", "inside") if key in found["metrics"]]
    alone = next(line for line in found["rows"] if line["size"] == 1)
    traces = []
    for panel, key in enumerate(wanted, 1):
        for n, name in enumerate((SAGE, UNTRAINED)):
            lines = [line for line in found["rows"] if line["name"] == name]
            lines = lines if key == "inside" else [alone, *lines]
            lines = [line for line in lines if key in line["metrics"]]
            traces.append(
                figures.interval_trace(
                    name,
                    [str(line["size"]) for line in lines],
                    [line["metrics"][key] for line in lines],
                    colour=figures.COLOURS[4 * n],
                    symbol=figures.SYMBOLS[n],
                    texts=[f"{line['saving']:.0%} saved" for line in lines],
                    axes=panel,
                    legend=panel == 1,
                )
            )
    titles = [("prompts in a group", figures.axis_title(found["metrics"][k])) for k in wanted]
    made = figures.panels(traces, titles, title=TITLE, note=figures.caption(found))
    for key, axis in made["layout"].items():
        if key.startswith("xaxis"):
            axis |= {"type": "category"}
    return made
