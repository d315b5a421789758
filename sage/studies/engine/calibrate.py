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
from sage.studies.engine.cells import Cell, Setting
from sage.studies.engine.lab import Lab
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
        made = Calibration.fit(
            [float(self.similarity[b].mean()) for b in bins],
            self.ratios,
            self._means(self.distance, bins),
            counts,
            limit=1.0,
            measure=MEASURE,
            conditions=self.conditions,
        )
        lost = None if self.lost is None else self._means(self.lost, bins)
        return replace(made, limit=limit_of(made, counts, lost))

    def _means(self, values: np.ndarray, bins: Sequence[np.ndarray]) -> np.ndarray:
        return np.array([np.average(values[b], axis=0, weights=self.sizes[b]) for b in bins])


def swept(lab: Lab, settings: Mapping[float, Setting]) -> Sweep:
    """Renders and measures the lab's groups, then random ones; they are numbered in that order.

    Args:
        lab: Gives pictures.
        settings: By share ratio, ascending; they differ in nothing else.
    """
    twin = replace(next(iter(settings.values())), share_ratio=0.0, common_noise=True)
    rows = [twin, *settings.values()]
    sets = [lab.prompts, random_groups(lab)]
    lab.render([(setting, prompts) for prompts in sets for setting in rows])
    parts = [_measured(lab, prompts, rows) for prompts in sets]
    similarity, sizes, distance, lost = zip(*parts, strict=True)
    return Sweep(
        ratios=(0.0, *settings),
        similarity=np.concatenate(similarity),
        sizes=np.concatenate(sizes),
        distance=np.concatenate(distance),
        lost=None if any(part is None for part in lost) else np.concatenate(lost),
        conditions={
            "model": lab.title,
            "adapter": lab.adapter_digest(twin.adapter),
            "steps": twin.steps,
            "guidance_scale": twin.guidance,
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


def written(lab: Lab, calibrations: Mapping[str, Calibration]) -> None:
    """Writes calibrations beside the results, each into a folder named after its adapter."""
    for name, calibration in calibrations.items():
        folder = lab.settings.out / "calibration" / name
        folder.mkdir(parents=True, exist_ok=True)
        calibration.write(folder)


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


def group_similarities(lab: Lab, prompts: PromptSet) -> np.ndarray:
    """For each group, the similarity of its two least similar prompts: [G]."""
    similarity = cosine_similarity(lab.pipe.embed(prompts.texts))
    return np.array([lowest_similarity(similarity, group) for group in prompts.groups])


def _measured(lab: Lab, prompts: PromptSet, rows: Sequence[Setting]) -> tuple:
    """Similarity [G], sizes [G], distance [G, K] and lost [G, K] or None; the first row is twin."""
    seen = [[_pictures(lab, prompts, row, seed) for seed in lab.seeds] for row in rows]
    far = np.stack(
        [np.mean([_distances(*p) for p in zip(s, seen[0], strict=True)], axis=0) for s in seen],
        axis=1,
    )
    lost = None
    right = [[lab.judges.right(x, prompts) for x in some] for some in seen]
    if right[0][0] is not None:
        right = np.mean(np.array(right, np.float64), axis=1).T  # [N, K]
        lost = _by_group(right[:, :1] - right, prompts)
    sizes = np.array([len(group) for group in prompts.groups])
    return group_similarities(lab, prompts), sizes, _by_group(far, prompts), lost


def _pictures(lab: Lab, prompts: PromptSet, setting: Setting, seed: int) -> np.ndarray:
    return lab.cell(Cell(setting, prompts, seed))["pictures"]


def _distances(pictures: np.ndarray, twins: np.ndarray) -> np.ndarray:
    """Of each picture to its twin: [N]."""
    a, b = (x.astype(np.float32) / 255 for x in (pictures, twins))
    return np.sqrt(((a - b) ** 2).mean((1, 2, 3)))


def _by_group(values: np.ndarray, prompts: PromptSet) -> np.ndarray:
    """Means over the prompts of each group: [N, K] to [G, K]."""
    return np.stack([values[list(group)].mean(0) for group in prompts.groups])


def _distinct(bins: list[np.ndarray], similarity: np.ndarray) -> list[np.ndarray]:
    """Bins of one similarity are one bin: an axis has to ascend."""
    kept: list[np.ndarray] = []
    for some in bins:
        if kept and similarity[some].mean() <= similarity[kept[-1]].mean():
            kept[-1] = np.concatenate([kept[-1], some])
        else:
            kept.append(some)
    return kept
