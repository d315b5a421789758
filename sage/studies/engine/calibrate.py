"""Measures what sharing does to a model's pictures by similarity: what the guard predicts from.

Similar groups and random ones, forced together, are rendered at several share ratios. A picture's
twin starts from the same noise and shares nothing, so that what is measured is sharing, not another
seed. A calibration appears beside the results; copied into the folder of the model or the adapter
as `calibration.json`, it is what the guard reads.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import isotonic_regression

from sage.core.calibration import Calibration, lowest_similarity
from sage.core.grouping import cosine_similarity
from sage.studies.engine.cells import Recipe, with_ratio
from sage.studies.engine.lab import Lab
from sage.studies.engine.measure import pixel_distances
from sage.studies.engine.prompts import PromptSet

BINS = 8
SIZES = (2, 3, 4, 5)  # of the random groups, in turn
ALLOWED = 0.03  # share of pictures that may lose what their prompt names
MEASURE = "root mean square difference of pixels in [0, 1]"
LIMIT = (
    f"largest distance at which at most {ALLOWED:.0%} of the pictures lose what their prompt "
    "names, by the probe; without a probe, the mean at ratio 0.4"
)


@dataclass(frozen=True)
class Sweep:
    """What sharing did to groups of prompts.

    Attributes:
        ratios: [K] β, ascending from 0.
        similarity: [G] of the two least similar prompts of each group.
        sizes: [G] prompts.
        distance: [G, K] mean distance of a group's pictures to their twins.
        lost: [G, K] share of a group's pictures that lost what their prompt names; or None.
        conditions: Where the numbers are from.
    """

    ratios: tuple[float, ...]
    similarity: np.ndarray
    sizes: np.ndarray
    distance: np.ndarray
    lost: np.ndarray | None
    conditions: dict

    def fit(self, only: Sequence[int] | None = None) -> Calibration:
        """The calibration of these groups.

        Args:
            only: Numbers of the groups to fit to; all without it.
        """
        groups = np.arange(len(self.sizes)) if only is None else np.asarray(only)
        ordered = groups[np.argsort(self.similarity[groups], kind="stable")]
        bins = _distinct([b for b in np.array_split(ordered, BINS) if len(b)], self.similarity)
        counts = [int(self.sizes[b].sum()) for b in bins]
        table = Calibration.fit(
            [float(self.similarity[b].mean()) for b in bins],
            self.ratios,
            self._means(self.distance, bins),
            counts,
            limit=1.0,
            measure=MEASURE,
            conditions=self.conditions,
        )
        lost = None if self.lost is None else self._means(self.lost, bins)
        return replace(table, limit=limit_of(table, counts, lost))

    def _means(self, values: np.ndarray, bins: Sequence[np.ndarray]) -> np.ndarray:
        return np.array([np.average(values[b], axis=0, weights=self.sizes[b]) for b in bins])


def sweep(lab: Lab, recipe: Recipe, ratios: Sequence[float]) -> Sweep:
    """Renders and measures the lab's groups, then random ones; they are numbered in that order.

    Args:
        lab: Gives pictures.
        recipe: What is swept.
        ratios: β, ascending.
    """
    twin = replace(with_ratio(recipe, 0.0), common_noise=True)
    recipes = [twin, *(with_ratio(recipe, ratio) for ratio in ratios)]
    sets = [lab.prompts, random_groups(lab)]
    lab.render([(each, prompts) for prompts in sets for each in recipes])
    parts = [_measure(lab, prompts, recipes) for prompts in sets]
    similarity, sizes, distance, lost = zip(*parts, strict=True)
    return Sweep(
        ratios=(0.0, *ratios),
        similarity=np.concatenate(similarity),
        sizes=np.concatenate(sizes),
        distance=np.concatenate(distance),
        lost=None if any(part is None for part in lost) else np.concatenate(lost),
        conditions={
            "model": lab.title,
            "adapter": lab.adapter_digest(twin.adapter),
            "steps": twin.sampling.steps,
            "guidance_scale": twin.sampling.guidance_scale,
            "pictures": sum(map(len, sets)) * len(lab.seeds),
            "random_pictures": len(sets[1]) * len(lab.seeds),
            "limit": LIMIT,
        },
    )


def random_groups(lab: Lab) -> PromptSet:
    """Random prompts, half as many as the usual ones, forced into groups of 2 to 5."""
    prompts = lab.loose_prompts(max(2, lab.settings.prompts // 2))
    groups: list[tuple[int, ...]] = []
    while (start := sum(map(len, groups))) < len(prompts):
        end = start + SIZES[len(groups) % len(SIZES)]
        groups.append(tuple(range(start, min(end, len(prompts)))))
    if len(groups[-1]) == 1 and len(groups) > 1:  # nobody is left alone
        last = groups.pop()
        groups[-1] += last
    return replace(prompts, groups=tuple(groups), tightness=(float("nan"),) * len(groups))


def write_calibrations(lab: Lab, calibrations: Mapping[str, Calibration]) -> None:
    """Writes calibrations beside the results, each into a folder named after its adapter."""
    for name, calibration in calibrations.items():
        folder = lab.settings.out / "calibration" / name
        folder.mkdir(parents=True, exist_ok=True)
        calibration.write(folder)


def limit_of(calibration: Calibration, counts: Sequence[int], lost: np.ndarray | None) -> float:
    """The largest distance at which no more pictures are lost than allowed.

    Args:
        calibration: Distances without a limit.
        counts: [B] pictures of each bin.
        lost: [B, K] share of pictures lost; None if it is not known.
    """
    table = np.array(calibration.distance)
    if lost is None:
        at = int(np.argmin(np.abs(np.array(calibration.share_ratio) - 0.4)))
        return float(np.average(table[:, at], weights=counts))
    order = np.argsort(table.ravel(), kind="stable")
    weights = np.repeat(counts, table.shape[1])[order]
    smooth = isotonic_regression(lost.ravel()[order], weights=weights).x
    return float(table.ravel()[order][smooth <= ALLOWED].max(initial=0.0))


def group_similarities(lab: Lab, prompts: PromptSet) -> np.ndarray:
    """For each group, the similarity of its two least similar prompts: [G]."""
    similarity = cosine_similarity(lab.pipe.embed(prompts.texts))
    return np.array([lowest_similarity(similarity, group) for group in prompts.groups])


Measures = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]


def _measure(lab: Lab, prompts: PromptSet, recipes: Sequence[Recipe]) -> Measures:
    """Similarity [G], sizes [G], distance [G, K] and lost [G, K] or None; the first is the twin."""
    pictures = [lab.pictures(recipe, prompts) for recipe in recipes]  # K x [S, N, ...]
    far = [
        np.mean([pixel_distances(*pair) for pair in zip(some, pictures[0], strict=True)], axis=0)
        for some in pictures
    ]
    everyone = range(len(prompts))
    right = [[lab.judges.right(x, prompts, everyone) for x in some] for some in pictures]
    lost = None
    if right[0][0] is not None:
        hits = np.mean(np.array(right, np.float64), axis=1).T  # [N, K]
        lost = _by_group(hits[:, :1] - hits, prompts)
    sizes = np.array([len(group) for group in prompts.groups])
    distance = _by_group(np.stack(far, axis=1), prompts)
    return group_similarities(lab, prompts), sizes, distance, lost


def _by_group(values: np.ndarray, prompts: PromptSet) -> np.ndarray:
    """Means over the prompts of each group: [N, K] to [G, K]."""
    return np.stack([values[list(group)].mean(0) for group in prompts.groups])


def _distinct(bins: list[np.ndarray], similarity: np.ndarray) -> list[np.ndarray]:
    """Bins of one similarity are one bin: an axis has to ascend."""
    distinct: list[np.ndarray] = []
    for groups in bins:
        if distinct and similarity[groups].mean() <= similarity[distinct[-1]].mean():
            distinct[-1] = np.concatenate([distinct[-1], groups])
        else:
            distinct.append(groups)
    return distinct
