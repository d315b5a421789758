"""From the pictures of a recipe to its numbers with intervals.

An `Evaluator` belongs to one set of prompts: it holds what all recipes on them are compared with
(real pictures, resamples, which picture belongs to which group). Knows features and where to get
them; nothing of how pictures are rendered.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from sage.core.cost import evaluations
from sage.core.metrics import (
    clip_score,
    diversity_between,
    diversity_inside,
    feature_distance,
    frechet_distance,
    pairwise_distance,
    pixel_distance,
)
from sage.core.resampling import Estimate, Resampling, Subspace
from sage.sd.pipeline import SagePipeline
from sage.studies.engine.cells import Cell, Recipe
from sage.studies.engine.judges import Judges
from sage.studies.engine.prompts import PromptSet, Reference


class Source(Protocol):
    """Where pictures and features come from: the lab."""

    pipe: SagePipeline
    judges: cached_property[Judges]

    @property
    def seeds(self) -> range:
        """Of the starting noise."""
        ...

    def cell(self, cell: Cell) -> dict[str, np.ndarray]:
        """The arrays of one cell."""
        ...

    def features(self, judge: str, recipe: Recipe, prompts: PromptSet) -> np.ndarray:
        """[S, N, D] of a judge, all seeds."""
        ...

    def real(self, judge: str, real: Reference) -> np.ndarray:
        """[R, D] of a judge on the real pictures."""
        ...

    def recipe(self) -> Recipe:
        """Independent sampling."""
        ...


@dataclass(frozen=True)
class Measured:
    """The numbers of one recipe on one set of prompts.

    Attributes:
        recipe: How the pictures were made.
        pictures: How many were judged.
        evaluations: For each picture.
        saving: Share of evaluations saved against as many steps without sharing.
        flops: For each picture, encoder and decoder included.
        metrics: Estimates by the key of a metric.
        plain: Further numbers without an interval.
    """

    recipe: Recipe
    pictures: int
    evaluations: float
    saving: float
    flops: float
    metrics: dict[str, Estimate]
    plain: dict[str, float] = field(default_factory=dict)


class Evaluator:
    """Measures recipes on one set of prompts, or on some of its groups."""

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
        judged = range(len(prompts.groups)) if only is None else only
        self.members = np.concatenate([prompts.groups[g] for g in judged])  # prompts to judge
        position = {int(n): i for i, n in enumerate(self.members)}
        self.groups = tuple(tuple(position[n] for n in prompts.groups[g]) for g in judged)
        units = np.arange(len(prompts.groups)) if prompts.units is None else prompts.units
        self.unit_of_group = np.unique(units[list(judged)], return_inverse=True)[1]
        self.seeds = len(source.seeds)
        sizes = [len(group) for group in self.groups]
        self.owner = np.tile(np.repeat(self.unit_of_group, sizes), self.seeds)  # of each picture
        self.resampling = Resampling(int(self.unit_of_group.max()) + 1)
        self._reference: dict[str, Tensor] = {}
        self._space: Subspace | None = None

    def measure(self, recipe: Recipe) -> Measured:
        """All numbers of one recipe."""
        cells = self._cells(recipe)
        everyone = len(self.prompts) * self.seeds
        overall = sum(int(cell["evaluations"]) for cell in cells) / everyone
        spent = self._evaluations(recipe, overall)
        judges = self.source.judges
        metrics: dict[str, Estimate] = {}
        plain: dict[str, float] = {}
        if "efflite" in judges.features:
            metrics |= self._by_efflite(recipe, plain)
        if "clip" in judges.features:
            metrics |= self._by_clip(recipe)
        pictures, twins = self._pictures(recipe), self._pictures(self.source.recipe())
        metrics |= self._by_probe(pictures)
        metrics["pixels"] = self._mean(pixel_distances(_flat(pictures), _flat(twins)))
        if judges.hub:
            metrics |= self._by_hub(_flat(pictures), _flat(twins), plain)
        return Measured(
            recipe,
            len(self.members) * self.seeds,
            spent,
            1 - spent / self.source.pipe.denoiser_calls(recipe.sampling.steps),
            sum(float(cell["flops"]) for cell in cells) / everyone,
            metrics,
            plain,
        )

    def _evaluations(self, recipe: Recipe, overall: float) -> float:
        """For each judged picture; of some groups only, it follows from their plan."""
        whole = len(self.members) == len(self.prompts)
        if whole or recipe.plan is not None or recipe.options:
            return overall
        asked = recipe.sampling
        plan = self.source.pipe.plan(self.groups, asked.steps, asked.share_ratio)
        return evaluations(plan) / plan.num_prompts

    def _mean(self, values: np.ndarray) -> Estimate:
        """Of one value for each judged picture, seed by seed."""
        return self.resampling.mean(np.asarray(values, np.float64), self.owner)

    def _cells(self, recipe: Recipe) -> list[dict[str, np.ndarray]]:
        return [self.source.cell(Cell(recipe, self.prompts, seed)) for seed in self.source.seeds]

    def _pictures(self, recipe: Recipe) -> np.ndarray:
        """[S, n, H, W, 3] uint8 of the judged pictures."""
        return np.stack([cell["pictures"][self.members] for cell in self._cells(recipe)])

    def _features(self, judge: str, recipe: Recipe) -> Tensor:
        """[S, n, D] of the judged pictures."""
        features = self.source.features(judge, recipe, self.prompts)
        return torch.from_numpy(features[:, self.members])

    def _real(self, judge: str) -> Tensor | None:
        """[R, D] of the real pictures of the judged prompts; None if there are fewer than two."""
        real = self.prompts.real
        if real is None:
            return None
        if judge not in self._reference:
            features = torch.from_numpy(self.source.real(judge, real))
            self._reference[judge] = features[real.of(self.members)]
            if judge == "efflite" and len(self._reference[judge]) > 1:
                # The axes are those of all real pictures, also where only some groups are judged.
                self._space = Subspace(self._reference[judge], axes=features)
        return self._reference[judge] if len(self._reference[judge]) > 1 else None

    def _by_efflite(self, recipe: Recipe, plain: dict[str, float]) -> dict[str, Estimate]:
        features, real = self._features("efflite", recipe), self._real("efflite")
        x = features.flatten(0, 1)
        estimates: dict[str, Estimate] = {}
        if real is not None and self._space is not None:
            estimates["fd"] = self.resampling.frechet(x, self.owner, self._space)
            plain["fd_all"] = frechet_distance(x, real)
        twin = self._features("efflite", self.source.recipe()).flatten(0, 1)
        estimates |= self._diversity(features)
        return estimates | {"twin": self._mean(feature_distance(x, twin).numpy())}

    def _diversity(self, features: Tensor) -> dict[str, Estimate]:
        """Of features [S, n, D]; every group of every seed is one value."""
        distances = [pairwise_distance(x) for x in features]
        estimates = {}
        several = np.array([len(group) > 1 for group in self.groups])
        if several.any():
            inside = torch.cat([diversity_inside(d, self.groups) for d in distances]).numpy()
            units = np.tile(self.unit_of_group[several], self.seeds)
            estimates["inside"] = self.resampling.mean(inside, units)
        if len(self.groups) > 1:
            between = torch.cat([diversity_between(d, self.groups) for d in distances]).numpy()
            units = np.tile(self.unit_of_group, self.seeds)
            estimates["between"] = self.resampling.mean(between, units)
        return estimates

    def _by_clip(self, recipe: Recipe) -> dict[str, Estimate]:
        x, real = self._features("clip", recipe).flatten(0, 1), self._real("clip")
        texts = self.source.pipe.embed([self.prompts.texts[n] for n in self.members])
        scores = clip_score(x, texts.repeat(self.seeds, 1)).numpy()
        estimates = {"clip": self._mean(scores)}
        if real is not None:
            estimates["cmmd"] = self.resampling.cmmd(x, self.owner, real)
        return estimates

    def _by_probe(self, pictures: np.ndarray) -> dict[str, Estimate]:
        right = [self.source.judges.right(some, self.prompts, self.members) for some in pictures]
        values = [hits for hits in right if hits is not None]
        return {"probe": self._mean(np.concatenate(values))} if values else {}

    def _by_hub(
        self, pictures: np.ndarray, twins: np.ndarray, plain: dict[str, float]
    ) -> dict[str, Estimate]:
        """FID, which has no interval, goes to `plain`."""
        real = self.prompts.real
        reference = None if real is None else real.pictures[real.of(self.members)]
        texts = [self.prompts.texts[n] for n in self.members] * self.seeds
        each, whole = self.source.judges.by_hub(pictures, twins, texts, reference)
        plain |= whole
        return {key: self._mean(values) for key, values in each.items()}


def pixel_distances(pictures: np.ndarray, twins: np.ndarray) -> np.ndarray:
    """Root mean square difference of each picture [N, H, W, 3] uint8 to its twin: [N] in [0, 1]."""
    first, second = (torch.from_numpy(x).float() / 255 for x in (pictures, twins))
    return pixel_distance(first, second).numpy()


def _flat(pictures: np.ndarray) -> np.ndarray:
    """[S, n, ...] as [S·n, ...]."""
    return pictures.reshape(-1, *pictures.shape[2:])
