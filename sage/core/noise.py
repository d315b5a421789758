"""Randomness as an argument: one stream of noise for each prompt, from its own seed.

The same prompt and seed draw the same noise in any company, on any device: the generators live on
the CPU.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


class Streams:
    """N streams of standard normal noise.

    The first draw is the starting noise; solvers that add fresh noise draw once more a step.
    """

    def __init__(self, seeds: Sequence[int], shape: Sequence[int]) -> None:
        self.shape = tuple(shape)
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def draw(self) -> Tensor:
        """The next noise of every stream: [N, *shape] float32 on the CPU."""
        return torch.stack([self._one(generator) for generator in self.generators])

    def _one(self, generator: torch.Generator) -> Tensor:
        # Whatever the process's defaults are: other types and devices have other numbers.
        how = {"generator": generator, "dtype": torch.float32, "device": "cpu"}
        return torch.randn(self.shape, **how)

    def skip(self, except_for: Sequence[int]) -> None:
        """Drops one draw of every other stream, so that a step's noise stays that step's."""
        for n, generator in enumerate(self.generators):
            if n not in except_for:
                self._one(generator)


@dataclass(frozen=True)
class FreshNoise:
    """Noise of their own for rows that branch, so that siblings part sooner.

    A latent is x = s·x0 + n·ε. With the x0 that the last step predicted, the rest of x is its
    noise; a share φ of that noise's variance is exchanged:

        x' = s·x0 + sqrt(1 − φ)·(x − s·x0) + sqrt(φ)·n·z

    After a DDIM step this is exactly DDIM's own random step with σ² = φ·n² (arXiv 2010.02502,
    eq. 12), whose marginals are those of σ = 0 for every σ up to n. Elsewhere it is ours.

    Attributes:
        share: φ, in (0, 1].
        draws: [D, N, ...] standard normal noise of each prompt, for its first, second, ... branch.
    """

    share: float
    draws: Tensor

    def exchange(
        self, x: Tensor, clean: Tensor, levels: Tensor, depth: Tensor, lead: Tensor
    ) -> Tensor:
        """The rows x [R, ...] with part of their noise renewed where depth is not 0.

        Args:
            x: [R, ...] latents at a split.
            clean: [R, ...] the x0 that the step before it predicted.
            levels: [2] signal s and noise n in x.
            depth: [R] how often each row has branched, if it branches here; 0 leaves it alone.
            lead: [R] the prompt whose noise each row takes: its first member.
        """
        signal, noise = levels.to(x.dtype)
        own = self.draws[depth.clamp_min(1) - 1, lead].to(x.dtype)
        kept = signal * clean
        mixed = kept + (1 - self.share) ** 0.5 * (x - kept) + self.share**0.5 * noise * own
        return torch.where((depth > 0).view(-1, *(1,) * (x.ndim - 1)), mixed, x)


def fresh_noise(
    share: float, seeds: Sequence[int], shape: Sequence[int], depth: int
) -> FreshNoise | None:
    """Fresh noise of prompts for so many branches in a row; None for a share of 0.

    The streams are apart from those of the starting noise: every seed leads to another one.

    Args:
        share: φ, share of the variance of the noise that is exchanged, in [0, 1].
        seeds: One for each prompt.
        shape: Of one latent.
        depth: The largest number of branches from a trunk to a leaf.

    Raises:
        ValueError: If the share lies outside [0, 1].
    """
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"fresh_noise is {share}; allowed are 0 to 1.")
    if not share:
        return None
    streams = Streams([_other_seed(seed) for seed in seeds], shape)
    return FreshNoise(share, torch.stack([streams.draw() for _ in range(max(depth, 1))]))


def _other_seed(seed: int) -> int:
    """A seed that follows from another and is not in its neighbourhood."""
    return int.from_bytes(hashlib.blake2b(f"fresh noise {seed}".encode(), digest_size=7).digest())
