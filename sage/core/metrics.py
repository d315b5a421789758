"""Metrics as arithmetic on features and pixels: no networks, no files.

Which network made the features is the caller's to say (`sage.sd.features` has some, with names); a
number is comparable only under the same features, preparation of pictures and sample counts. All
sums of squares are in float64.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sage.core.plan import Group

# Jayasumana et al. 2024 (arXiv 2401.09603), section 4 and their code: the Gaussian kernel's
# bandwidth σ, and the factor that brings MMD² to a readable size.
CMMD_SIGMA = 10.0
CMMD_SCALE = 1000.0
BLOCK = 2048  # rows of a block of kernel values: 32 MB at most


def clip_score(images: Tensor, texts: Tensor) -> Tensor:
    """Cosine similarity of each picture to its own prompt (arXiv 2104.08718, without its weight).

    Args:
        images: [N, D] CLIP image embeddings.
        texts: [N, D] CLIP text embeddings.

    Returns:
        [N] in [-1, 1]; higher is better. Scores of different CLIP models share no scale.
    """
    return torch.nn.functional.cosine_similarity(images.float(), texts.float(), dim=-1)


def pixel_distance(first: Tensor, second: Tensor) -> Tensor:
    """Root mean square difference of pictures.

    Args:
        first: [N, ...] pixels in [0, 1].
        second: [N, ...] pixels in [0, 1].

    Returns:
        [N] in [0, 1]; 0 means equal.
    """
    return (first - second).float().flatten(1).square().mean(1).sqrt()


# --- two sets of pictures -------------------------------------------------------------------


@dataclass(frozen=True)
class SetDistance:
    """A distance between two sets of pictures, which means nothing without their sizes.

    Attributes:
        value: The distance; lower is better.
        measure: "Fréchet distance" or "CMMD".
        count: Pictures in the first set, the judged one.
        reference_count: Pictures in the second set.
    """

    value: float
    measure: str
    count: int
    reference_count: int

    @property
    def name(self) -> str:
        """The measure with its sample counts."""
        return f"{self.measure} ({self.count} against {self.reference_count} pictures)"


def frechet_distance(features: Tensor, reference: Tensor) -> SetDistance:
    """Fréchet distance of two Gaussians fitted to features (arXiv 1706.08500, eq. 6).

        |μ1 − μ2|² + tr(C1) + tr(C2) − 2·tr((C1·C2)^½)

    with unbiased covariances C (division by N − 1). tr((C1·C2)^½) is the sum of the square roots
    of the eigenvalues of C2^½·C1·C2^½, which is symmetric; eigenvalues that rounding made negative
    count as zero. It is called FID only with Inception-v3 features, which these need not be. Few
    samples bias it upwards: compare equal counts only.

    Args:
        features: [N, D], N at least 2.
        reference: [M, D], M at least 2.

    Returns:
        A value in [0, ∞), in squared units of the features.

    Raises:
        ValueError: If the shapes do not allow it or a feature is not finite.
    """
    a, b = _two_sets(features, reference)
    if min(len(a), len(b)) < 2:
        raise ValueError(f"A covariance needs 2 pictures; there are {len(a)} and {len(b)}.")
    if min(len(a), len(b)) <= a.shape[1]:
        return SetDistance(_frechet_of_few(a, b), "Fréchet distance", len(a), len(b))
    value = frechet_from_moments(*moments(a), *moments(b))
    return SetDistance(value, "Fréchet distance", len(a), len(b))


def _frechet_of_few(a: Tensor, b: Tensor) -> float:
    """The same for fewer pictures than features, without a D × D matrix.

    With C1 = XᵀX and C2 = YᵀY, the square roots of the eigenvalues of C1·C2 are the singular
    values of X·Yᵀ.
    """
    X, Y = ((x - x.mean(0)) / (len(x) - 1) ** 0.5 for x in (a, b))  # (N, D), (M, D)
    overlap = torch.linalg.svdvals(X @ Y.T).sum()
    value = (a.mean(0) - b.mean(0)).square().sum() + X.square().sum() + Y.square().sum()
    return max(0.0, float(value - 2 * overlap))


def moments(features: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean and unbiased covariance.

    Args:
        features: [N, D].
        weights: [N] how often each counts, whole numbers; a resample of a bootstrap. Once each
            without it.

    Returns:
        Mean [D] and covariance [D, D], float64.
    """
    x = features.double()
    if weights is None:
        return x.mean(0), torch.atleast_2d(x.T.cov())
    total = weights.double().sum()
    mean = weights.double() @ x / total
    spread = x - mean
    return mean, (spread * weights.double()[:, None]).T @ spread / (total - 1)


def square_root(matrix: Tensor) -> Tensor:
    """The symmetric root of a covariance [D, D]; negative eigenvalues of rounding count as zero."""
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values.clamp(min=0).sqrt() @ vectors.T


def frechet_from_moments(
    mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor, root2: Tensor | None = None
) -> float:
    """Fréchet distance of two Gaussians; see `frechet_distance`.

    Args:
        mean1: [D].
        cov1: [D, D].
        mean2: [D].
        cov2: [D, D].
        root2: `square_root(cov2)`, if it is known.
    """
    root = square_root(cov2) if root2 is None else root2
    overlap = torch.linalg.eigvalsh(root @ cov1 @ root).clamp(min=0).sqrt().sum()
    value = (mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * overlap
    return max(0.0, float(value))


def cmmd(features: Tensor, reference: Tensor) -> SetDistance:
    """CMMD's arithmetic (arXiv 2401.09603): 1000 · MMD² with a Gaussian kernel of bandwidth 10.

    Features are brought to unit length first; MMD² is the minimum-variance (biased) estimate, all
    pairs counted, as in the authors' code. The published name belongs to CLIP ViT-L/14@336 image
    features; with others, say which.

    Args:
        features: [N, D].
        reference: [M, D].

    Returns:
        A value in [0, 2000].

    Raises:
        ValueError: If the shapes do not allow it or a feature is not finite.
    """
    a, b = (torch.nn.functional.normalize(x, dim=-1) for x in _two_sets(features, reference))
    value = _mean_kernel(a, a) + _mean_kernel(b, b) - 2 * _mean_kernel(a, b)
    return SetDistance(max(0.0, CMMD_SCALE * value), "CMMD", len(a), len(b))


def _mean_kernel(a: Tensor, b: Tensor) -> float:
    """Mean of exp(−|a − b|² / 2σ²) over all pairs of unit vectors, in blocks."""
    total = 0.0
    for part in a.split(BLOCK):
        for other in b.split(BLOCK):
            squares = (2 - 2 * part @ other.T).clamp(min=0)
            total += float((-squares / (2 * CMMD_SIGMA**2)).exp().sum())
    return total / (len(a) * len(b))


def _two_sets(features: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    sets = features.double(), reference.double()
    if any(x.ndim != 2 or not len(x) for x in sets) or sets[0].shape[1] != sets[1].shape[1]:
        raise ValueError(
            f"Features have shapes {tuple(features.shape)} and {tuple(reference.shape)}; "
            "need [N, D] and [M, D]."
        )
    if not all(bool(x.isfinite().all()) for x in sets):
        raise ValueError("A feature is not a finite number.")
    return sets


# --- differences between pictures -----------------------------------------------------------


def feature_distance(first: Tensor, second: Tensor) -> Tensor:
    """1 − cosine of the features of each pair: the perceptual distance of a picture to its twin.

    Args:
        first: [N, D] features, say of shared pictures.
        second: [N, D] features, say of their independent twins.

    Returns:
        [N] in [0, 2]; 0 for features of one direction, 1 for unrelated ones.
    """
    return 1 - torch.nn.functional.cosine_similarity(first.double(), second.double(), dim=-1)


def pairwise_distance(features: Tensor) -> Tensor:
    """1 − cosine of every pair of features [N, D]: [N, N] in [0, 2], zeros on the diagonal."""
    unit = torch.nn.functional.normalize(features.double(), dim=-1)
    return (1 - unit @ unit.T).clamp(0, 2).fill_diagonal_(0)


def diversity_inside(distances: Tensor, groups: Sequence[Group]) -> Tensor:
    """How different the pictures of one group are: mean distance of its pairs.

    The paper's diversity is based on LPIPS; what pairs it averages is not published. Any distance
    may be given, LPIPS too.

    Args:
        distances: [N, N] symmetric.
        groups: Groups of picture indices; those of a single picture have no pair and are left out.

    Returns:
        [G'] one value for each group of two or more, in the groups' order; higher is more diverse.
        The number to report is its mean: each group counts the same.
    """
    found = [_mean_pair(distances, group) for group in groups if len(group) > 1]
    return torch.stack(found) if found else distances.new_zeros(0)


def _mean_pair(distances: Tensor, group: Group) -> Tensor:
    index = torch.tensor(group, device=distances.device)
    first, second = torch.triu_indices(len(group), len(group), 1, device=distances.device)
    return distances[index[first], index[second]].mean()


def diversity_between(distances: Tensor, groups: Sequence[Group]) -> Tensor:
    """How different the pictures of a group are from those of the other groups.

    Args:
        distances: [N, N] symmetric.
        groups: Two or more groups of picture indices.

    Returns:
        [G] for each group the mean distance of its pictures to all pictures of other groups. The
        number to report is its mean.

    Raises:
        ValueError: If there are fewer than two groups.
    """
    if len(groups) < 2:
        raise ValueError(f"There are {len(groups)} groups; distances between groups need two.")
    everyone = torch.tensor([n for group in groups for n in group], device=distances.device)
    values = []
    for group in groups:
        inside = torch.tensor(group, device=distances.device)
        others = everyone[~torch.isin(everyone, inside)]
        values.append(distances[inside][:, others].mean())
    return torch.stack(values)


# --- how sure a number is -------------------------------------------------------------------


@dataclass(frozen=True)
class Interval:
    """A number with its bootstrap confidence interval.

    Attributes:
        value: The statistic of the sample itself.
        low: Lower end.
        high: Upper end.
        level: Confidence, in (0, 1).
        count: Independent units that were resampled.
        resamples: How often.
    """

    value: float
    low: float
    high: float
    level: float
    count: int
    resamples: int

    def apart_from(self, other: "Interval") -> bool:
        """Whether the two intervals have no number in common."""
        return self.high < other.low or other.high < self.low


def bootstrap_mean(
    values: Tensor, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """The mean of independent values with its percentile interval (Efron 1979).

    For a paired comparison give the differences of the pairs.

    Args:
        values: [N] one for each independent unit: a group, or a picture of its own prompt.
        level: Confidence.
        resamples: Number of resamples.
        seed: Of the resampling.
    """
    flat = values.double().cpu()
    return bootstrap(
        lambda index: float(flat[index].mean()),
        len(flat),
        level=level,
        resamples=resamples,
        seed=seed,
    )


def bootstrap(
    statistic: Callable[[Tensor], float],
    count: int,
    *,
    kind: Literal["percentile", "basic"] = "percentile",
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Any statistic with its bootstrap interval.

    Args:
        statistic: From the indices [count] of resampled units to a number.
        count: Number of independent units. Pictures of one group share a trunk: resample groups.
        kind: "percentile", or "basic" (2·value − percentiles), which takes out the bias that
            resampling adds, as it does to a Fréchet distance (doubled pictures look less varied).
        level: Confidence.
        resamples: Number of resamples.
        seed: Of the resampling; the same seed pairs the intervals of two methods.

    Raises:
        ValueError: If there is nothing to resample or a setting is not allowed.
    """
    if count < 1 or resamples < 1:
        raise ValueError(f"count is {count} and resamples is {resamples}; both need 1 or more.")
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; allowed are numbers between 0 and 1.")
    if kind not in ("percentile", "basic"):
        raise ValueError(f"kind is {kind!r}; allowed are 'percentile' and 'basic'.")
    value = statistic(torch.arange(count))
    generator = torch.Generator().manual_seed(seed)
    drawn = (torch.randint(count, (count,), generator=generator) for _ in range(resamples))
    found = torch.tensor([statistic(index) for index in drawn], dtype=torch.float64)
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = found.quantile(ends).tolist()
    if kind == "basic":
        low, high = 2 * value - high, 2 * value - low
    return Interval(value, low, high, level, count, resamples)
