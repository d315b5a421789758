"""Numbers with confidence intervals: a bootstrap over groups (Efron 1979), paired between methods.

The independent unit is a group: its pictures share a trunk, and all its seeds go with it. Resamples
are counts of groups, [B, G], drawn once; a mean, a Fréchet distance and a CMMD are functions of
those counts. As every method is given the same counts, the difference of two methods is resampled
in pairs by subtraction. Intervals are percentiles, of replicates that are spread as Student's t
asks for: plain percentiles of few groups are too narrow (Hesterberg 2015, arXiv 1411.5279). The two
distances are biased upwards by few pictures, and resampling adds that bias once more (pictures
drawn twice look less varied), so their replicates are shifted to have the value as their mean: the
interval says how the number would vary with other groups *at this count of pictures*. The reference
pictures are held fixed.
"""

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.special import ndtri, stdtrit
from torch import Tensor

from sage.core.metrics import frechet_from_moments, moments, square_root

LEVEL = 0.95
COMPONENTS = 64  # of the reference, for Fréchet distances: see `Subspace`
# Jayasumana et al. 2024 (arXiv 2401.09603), section 4 and their code: the Gaussian kernel's
# bandwidth σ, and the factor that brings MMD² to a readable size.
CMMD_SIGMA = 10.0
CMMD_SCALE = 1000.0


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval.

    Attributes:
        value: The statistic of the sample.
        replicates: [B] its resamples, spread as `widened` says; of a distance, shifted to have
            the value as their mean.
    """

    value: float
    replicates: np.ndarray = field(repr=False)

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        return float(np.quantile(self.replicates, (1 - LEVEL) / 2))

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        return float(np.quantile(self.replicates, (1 + LEVEL) / 2))

    def minus(self, other: "Estimate") -> "Estimate":
        """The paired difference: both were resampled with the same counts."""
        return Estimate(self.value - other.value, self.replicates - other.replicates)

    def relative_to(self, other: "Estimate") -> "Estimate":
        """The paired relative change, (self − other) / other."""
        return Estimate(self.value / other.value - 1, self.replicates / other.replicates - 1)

    @property
    def sign(self) -> int:
        """For a difference: 1 or -1 if its interval is on that side of 0, else 0."""
        return int(self.low > 0) - int(self.high < 0)

    def plain(self) -> dict[str, float]:
        """Ready for JSON, six significant digits."""
        return {k: float(f"{getattr(self, k):.6g}") for k in ("value", "low", "high")}


def student(level: float, groups: int) -> float:
    """Half-width of a mean's interval of a level, in standard errors that so many groups estimate.

    Args:
        level: Of the two-sided interval, within 0 and 1.
        groups: At least 2.
    """
    return float(stdtrit(groups - 1, (1 + level) / 2))


def widened(replicates: np.ndarray, groups: int) -> np.ndarray:
    """Replicates [B] whose percentiles cover as often as they say, with few groups too.

    Resamples of G groups spread by sqrt((G - 1) / G) too little, and their percentiles are those of
    a normal distribution where a standard error of G groups asks for Student's t. The factor is
    1.44 for 6 groups, 1.05 for 40. A single group says nothing of others: it stays as it is.
    """
    if groups < 2:
        return replicates
    factor = math.sqrt(groups / (groups - 1)) * student(LEVEL, groups) / ndtri((1 + LEVEL) / 2)
    middle = replicates.mean()
    return middle + factor * (replicates - middle)


class Resampling:
    """B resamples of G groups, as counts."""

    def __init__(self, groups: int, resamples: int = 1000, seed: int = 0) -> None:
        """Draws the counts.

        Args:
            groups: G, at least 1.
            resamples: B.
            seed: Of the drawing; equal seeds pair the intervals of two methods.

        Raises:
            ValueError: If there is nothing to resample.
        """
        if groups < 1 or resamples < 1:
            raise ValueError(f"groups is {groups} and resamples is {resamples}; need 1 or more.")
        drawn = np.random.default_rng(seed).integers(groups, size=(resamples, groups))
        self.counts = np.stack([np.bincount(row, minlength=groups) for row in drawn])  # (B, G)

    @property
    def groups(self) -> int:
        """G."""
        return self.counts.shape[1]

    def mean(self, values: np.ndarray, groups: np.ndarray) -> Estimate:
        """Mean of values that belong to groups, with its interval.

        Args:
            values: [M] one for each picture, or one for each group; NaN is left out.
            groups: [M] the group of each, 0..G-1.
        """
        finite = np.isfinite(values)
        index = groups[finite]
        sums = np.bincount(index, weights=values[finite], minlength=self.groups)
        numbers = np.bincount(index, minlength=self.groups).astype(float)
        value = sums.sum() / max(1.0, numbers.sum())
        drawn = self.counts @ numbers
        replicates = (self.counts @ sums)[drawn > 0] / drawn[drawn > 0]
        return Estimate(float(value), widened(replicates, int(np.count_nonzero(numbers))))

    def frechet(
        self, features: Tensor, groups: np.ndarray, reference: "Subspace", resamples: int = 200
    ) -> Estimate:
        """Fréchet distance in a subspace (`sage.core.metrics.frechet_distance`).

        Args:
            features: [M, D].
            groups: [M] the group of each picture.
            reference: Real pictures' features, their subspace and moments.
            resamples: How many of the counts are used; each costs an eigenvalue problem.
        """
        x = reference.project(features)
        value = reference.distance(x, torch.ones(len(x), dtype=x.dtype))
        index = torch.from_numpy(groups)
        weights = torch.from_numpy(self.counts[:resamples]).to(x.dtype)[:, index]  # (B, M)
        replicates = np.array([reference.distance(x, w) for w in weights])
        return _centred(value, replicates, len(np.unique(groups)))

    def cmmd(self, features: Tensor, groups: np.ndarray, reference: Tensor) -> Estimate:
        """CMMD (arXiv 2401.09603): 1000 · MMD² with a Gaussian kernel of bandwidth 10.

        Features are brought to unit length first; MMD² is the biased estimate of minimum variance,
        all pairs counted, as in the authors' code. The published name belongs to CLIP ViT-L/14@336
        image features; with others, say which.

        Args:
            features: [M, D].
            groups: [M] the group of each picture.
            reference: [R, D] real pictures' features.
        """
        a, b = (torch.nn.functional.normalize(x.double(), dim=-1) for x in (features, reference))
        index = torch.from_numpy(groups)
        inner = _group_sums(_group_sums(_kernel(a, a), index, self.groups).T, index, self.groups)
        cross = _group_sums(_kernel(a, b).mean(1, keepdim=True), index, self.groups)[:, 0]
        numbers = np.bincount(groups, minlength=self.groups).astype(float)
        own = float(_kernel(b, b).mean())

        def distance(counts: np.ndarray) -> np.ndarray:
            total = counts @ numbers
            within = np.einsum("bg,gh,bh->b", counts, inner.numpy(), counts) / total**2
            return CMMD_SCALE * (within + own - 2 * (counts @ cross.numpy()) / total)

        value = float(distance(np.ones((1, self.groups)))[0])
        return _centred(value, distance(self.counts.astype(float)), int(np.count_nonzero(numbers)))


def _centred(value: float, replicates: np.ndarray, groups: int) -> Estimate:
    """Without the bias that resampling adds."""
    return Estimate(value, widened(replicates, groups) + (value - replicates.mean()))


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    """exp(−|a − b|² / 2σ²) of unit vectors, [N, M]."""
    squares = (2 - 2 * a @ b.T).clamp(min=0)
    return (-squares / (2 * CMMD_SIGMA**2)).exp()


def _group_sums(values: Tensor, groups: Tensor, number: int) -> Tensor:
    """Rows [M, K] added up by group: [G, K]."""
    return values.new_zeros(number, values.shape[1]).index_add_(0, groups, values)


class Subspace:
    """The reference of a Fréchet distance: leading principal components, mean and covariance.

    A covariance of D = 1280 features cannot be estimated from a thousand pictures: most of such a
    distance would be the bias of few samples. So features are projected on the K leading principal
    components of the *reference* (ours; K belongs into the measure's name). What pictures do
    outside of it does not count; the distance in all dimensions is given beside it, without an
    interval.
    """

    def __init__(
        self, reference: Tensor, components: int = COMPONENTS, axes: Tensor | None = None
    ) -> None:
        """Fits the subspace.

        Args:
            reference: [R, D] features of real pictures, R at least 2.
            components: K, at most the number of pictures less one, and D.
            axes: [A, D] features whose principal components are used; the reference without it.

        Raises:
            ValueError: If there are fewer than two pictures.
        """
        if len(reference) < 2:
            raise ValueError(f"A reference needs 2 pictures; there are {len(reference)}.")
        x = (reference if axes is None else axes).double()
        self.origin = x.mean(0)
        self.components = min(components, len(x) - 1, x.shape[1])
        energy, directions = _principal(x - self.origin)
        self.explained = float(energy[: self.components].sum() / energy.sum().clamp(min=1e-30))
        self.axes = directions[: self.components]  # (K, D)
        self.mean, self.covariance = moments(self.project(reference))
        self.root = square_root(self.covariance)

    def project(self, features: Tensor) -> Tensor:
        """Coordinates [M, K] of features [M, D]."""
        return (features.double() - self.origin) @ self.axes.T

    def distance(self, x: Tensor, weights: Tensor) -> float:
        """Fréchet distance of projected features [M, K], each counted `weights` [M] times."""
        mean, covariance = moments(x, weights)
        return frechet_from_moments(mean, covariance, self.mean, self.covariance, self.root)


def _principal(x: Tensor) -> tuple[Tensor, Tensor]:
    """Energies, largest first, and unit directions [., D] of centred rows [R, D]."""
    if len(x) >= x.shape[1]:
        values, vectors = torch.linalg.eigh(x.T @ x)  # ascending
        return values.flip(0).clamp(min=0), vectors.T.flip(0)
    values, vectors = torch.linalg.eigh(x @ x.T)  # fewer rows than features: the smaller matrix
    values = values.flip(0).clamp(min=0)
    directions = torch.nn.functional.normalize(vectors.T.flip(0) @ x, dim=1)
    return values, directions
