"""From the pictures of a setting to its numbers with intervals.

A `Ruler` belongs to one set of prompts: it holds what all settings on them are compared with (real
pictures, resamples, which picture belongs to which group). Knows features and where to get them;
nothing of how pictures are rendered.
"""

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from sage.core.metrics import (
    clip_score,
    diversity_between,
    diversity_inside,
    feature_distance,
    frechet_distance,
    pairwise_distance,
)
from sage.sd.pipeline import SagePipeline
from sage.studies.engine.cells import Cell, Setting
from sage.studies.engine.judges import Judges
from sage.studies.engine.prompts import PromptSet
from sage.core.resampling import Estimate, Resampling, Subspace


class Source(Protocol):
    """Where pictures and features come from: the lab."""

    pipe: SagePipeline
    judges: Judges
    seeds: range

    def cell(self, cell: Cell) -> dict[str, np.ndarray]:
        """The arrays of one cell."""
        ...

    def features(self, judge: str, setting: Setting, prompts: PromptSet) -> np.ndarray:
        """[S, N, D] of a judge, all seeds."""
        ...

    def real(self, judge: str, prompts: PromptSet) -> np.ndarray:
        """[R, D] of a judge on the real pictures."""
        ...

    def setting(self) -> Setting:
        """Independent sampling."""
        ...


@dataclass(frozen=True)
class Measured:
    """The numbers of one setting on one set of prompts.

    Attributes:
        setting: How the pictures were sampled.
        pictures: How many were judged.
        evaluations: For each picture.
        saving: Share of evaluations saved against as many steps without sharing.
        flops: For each picture, encoder and decoder included.
        metrics: Estimates by the key of a metric.
        plain: Further numbers without an interval.
    """

    setting: Setting
    pictures: int
    evaluations: float
    saving: float
    flops: float
    metrics: dict[str, Estimate]
    plain: dict[str, float] = field(default_factory=dict)


class Ruler:
    """Measures settings on one set of prompts, or on some of its groups."""

    def __init__(
        self, source: Source, prompts: PromptSet, only: tuple[int, ...] | None = None
    ) -> None:
        """Chooses pictures and draws resamples.

        Args:
            source: Gives pictures and features.
            prompts: The prompts.
            only: Numbers of the groups to judge; all without it.
        """
        self.source, self.prompts = source, prompts
        chosen = range(len(prompts.groups)) if only is None else only
        self.members = np.concatenate([prompts.groups[g] for g in chosen])  # prompts to judge
        place = {int(n): i for i, n in enumerate(self.members)}
        self.groups = tuple(tuple(place[n] for n in prompts.groups[g]) for g in chosen)
        units = np.arange(len(prompts.groups)) if prompts.units is None else prompts.units
        self.unit_of_group = np.unique(units[list(chosen)], return_inverse=True)[1]
        self.seeds = len(source.seeds)
        sizes = [len(group) for group in self.groups]
        self.owner = np.tile(np.repeat(self.unit_of_group, sizes), self.seeds)  # of each picture
        self.resampling = Resampling(int(self.unit_of_group.max()) + 1)
        self._reference: dict[str, Tensor] = {}
        self._space: Subspace | None = None

    def measure(self, setting: Setting) -> Measured:
        """All numbers of one setting."""
        cells = [self.source.cell(Cell(setting, self.prompts, s)) for s in self.source.seeds]
        everyone = len(self.prompts) * self.seeds
        total = sum(int(found["evaluations"]) for found in cells)
        steps = self.source.pipe.denoiser_calls(setting.steps)
        metrics: dict[str, Estimate] = {}
        plain: dict[str, float] = {}
        if "efflite" in self.source.judges.features:
            metrics |= self._by_efflite(setting, plain)
        if "clip" in self.source.judges.features:
            metrics |= self._by_clip(setting)
        pictures = [found["pictures"] for found in cells]
        metrics |= self._by_probe(pictures) | self._by_pixels(pictures)
        if self.source.judges.hub:
            metrics |= self._by_hub(pictures, plain)
        return Measured(
            setting,
            len(self.members) * self.seeds,
            self._evaluations(setting, total / everyone),
            1 - self._evaluations(setting, total / everyone) / steps,
            sum(float(found["flops"]) for found in cells) / everyone,
            metrics,
            plain,
        )

    def _evaluations(self, setting: Setting, overall: float) -> float:
        """For each judged picture; of some groups only, it follows from their plan."""
        if len(self.members) == len(self.prompts) or setting.plan is not None or setting.options:
            return overall
        plan = self.source.pipe.plan(self.groups, setting.steps, setting.share_ratio)
        return sum(s.stop - s.start for s in plan.segments) / plan.num_prompts

    def _features(self, judge: str, setting: Setting) -> Tensor:
        """[S, n, D] of the judged pictures."""
        found = self.source.features(judge, setting, self.prompts)[:, self.members]
        return torch.from_numpy(found)

    def _real(self, judge: str) -> Tensor | None:
        """[R, D] of the real pictures of the judged prompts."""
        if self.prompts.real is None:
            return None
        if judge not in self._reference:
            mine = np.isin(self.prompts.real_of, self.members)
            found = self.source.real(judge, self.prompts)[mine]
            self._reference[judge] = torch.from_numpy(found)
        return self._reference[judge]

    def _subspace(self, real: Tensor) -> Subspace:
        if self._space is None:
            # The axes are those of all real pictures, also where only some groups are judged.
            axes = torch.from_numpy(self.source.real("efflite", self.prompts))
            self._space = Subspace(real, axes=axes)
        return self._space

    def _by_efflite(self, setting: Setting, plain: dict[str, float]) -> dict[str, Estimate]:
        x, real = self._features("efflite", setting), self._real("efflite")
        found: dict[str, Estimate] = {}
        if real is not None and len(real) > 1:
            space = self._subspace(real)
            found["fd"] = self.resampling.frechet(x.flatten(0, 1), self.owner, space)
            plain["fd_all"] = frechet_distance(x.flatten(0, 1), real)
        twin = self._features("efflite", self.source.setting())
        distance = feature_distance(x.flatten(0, 1), twin.flatten(0, 1)).numpy()
        return found | self._diversity(x) | {"twin": self.resampling.mean(distance, self.owner)}

    def _diversity(self, x: Tensor) -> dict[str, Estimate]:
        """Of features [S, n, D]; every group of every seed is one value."""
        distances = [pairwise_distance(some) for some in x]
        found = {}
        several = np.array([len(group) > 1 for group in self.groups])
        if several.any():
            inside = torch.cat([diversity_inside(d, self.groups) for d in distances]).numpy()
            units = np.tile(self.unit_of_group[several], self.seeds)
            found["inside"] = self.resampling.mean(inside, units)
        if len(self.groups) > 1:
            between = torch.cat([diversity_between(d, self.groups) for d in distances]).numpy()
            units = np.tile(self.unit_of_group, self.seeds)
            found["between"] = self.resampling.mean(between, units)
        return found

    def _by_clip(self, setting: Setting) -> dict[str, Estimate]:
        x, real = self._features("clip", setting).flatten(0, 1), self._real("clip")
        texts = self.source.pipe.embed([self.prompts.texts[n] for n in self.members])
        scores = clip_score(x, texts.repeat(self.seeds, 1)).double().numpy()
        found = {"clip": self.resampling.mean(scores, self.owner)}
        if real is not None and len(real) > 1:
            found["cmmd"] = self.resampling.cmmd(x, self.owner, real)
        return found

    def _by_probe(self, pictures: list[np.ndarray]) -> dict[str, Estimate]:
        right = [self.source.judges.right(some, self.prompts) for some in pictures]
        if right[0] is None:
            return {}
        values = np.concatenate([some[self.members] for some in right])
        return {"probe": self.resampling.mean(values, self.owner)}

    def _by_pixels(self, pictures: list[np.ndarray]) -> dict[str, Estimate]:
        """Root mean square differences to the twins, in [0, 1]."""
        values = []
        for mine, twin in zip(pictures, self._twins(), strict=True):
            a, b = (x[self.members].astype(np.float32) / 255 for x in (mine, twin))
            values.append(np.sqrt(((a - b) ** 2).mean((1, 2, 3))).astype(float))
        return {"pixels": self.resampling.mean(np.concatenate(values), self.owner)}

    def _twins(self) -> list[np.ndarray]:
        """The independent pictures of every seed, [N, H, W, 3] uint8 each."""
        cells = [Cell(self.source.setting(), self.prompts, seed) for seed in self.source.seeds]
        return [self.source.cell(cell)["pictures"] for cell in cells]

    def _by_hub(self, pictures: list[np.ndarray], plain: dict[str, float]) -> dict[str, Estimate]:
        """FID, which has no interval, goes to `plain`."""
        mine, twins = (
            np.concatenate([some[self.members] for some in every])
            for every in (pictures, self._twins())
        )
        texts = [self.prompts.texts[n] for n in self.members] * self.seeds
        real = self.prompts.real
        if real is not None:
            real = real[np.isin(self.prompts.real_of, self.members)]
        each, whole = self.source.judges.by_hub(mine, twins, texts, real)
        plain |= whole
        return {key: self.resampling.mean(values, self.owner) for key, values in each.items()}
