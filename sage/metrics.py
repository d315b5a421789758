"""Metrics as arithmetic on features and pixels: no networks, no files."""

import torch
from torch import Tensor


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
