"""Metrics as arithmetic on features and pixels: no networks, no files.

Which network made the features is the caller's to say (`sage.sd.features` has some, with names); a
number is comparable only under the same features, preparation of pictures and sample counts. All
sums of squares are in float64.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from sage.core.plan import Group


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


def frechet_distance(features: Tensor, reference: Tensor) -> float:
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
        return _frechet_of_few(a, b)
    return frechet_from_moments(*moments(a), *moments(b))


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
    means = [_mean_pair(distances, group) for group in groups if len(group) > 1]
    return torch.stack(means) if means else distances.new_zeros(0)


def layout(pictures: Tensor, side: int = 8) -> Tensor:
    """What is light and dark where: features whose cosine is how far two layouts agree.

    Args:
        pictures: [N, H, W, 3] in [0, 1].
        side: Cells a side into which a picture is averaged.

    Returns:
        [N, side²] grey values less their mean; the cosine of two rows is their correlation.
    """
    grey = pictures.double().mean(-1)[:, None]
    small = torch.nn.functional.adaptive_avg_pool2d(grey, side).flatten(1)
    return small - small.mean(1, keepdim=True)


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
