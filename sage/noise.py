"""Randomness as an argument: one stream of noise for each prompt, from its own seed.

The same prompt and seed draw the same noise in any company, on any device: the generators live on
the CPU.
"""

from collections.abc import Sequence

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
        return torch.stack([torch.randn(self.shape, generator=g) for g in self.generators])

    def skip(self, except_for: Sequence[int]) -> None:
        """Drops one draw of every other stream, so that a step's noise stays that step's."""
        for n, generator in enumerate(self.generators):
            if n not in except_for:
                torch.randn(self.shape, generator=generator)
