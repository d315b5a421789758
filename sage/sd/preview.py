"""Cheap previews: a linear map from a latent to the colour of the patch it stands for.

Thousands of times cheaper than the decoder, so a picture of every step costs next to nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate

from sage.sd.execution import Execution, Part
from sage.sd.foreign import Network
from sage.sd.identity import fingerprint

WITHHELD = (128, 128, 128)

# Stable Diffusion 1.x, as published by its users:
# https://discuss.huggingface.co/t/decoding-latents-to-rgb-without-upscaling/23204
_SD1 = [
    [0.298, 0.187, -0.158, -0.184],
    [0.207, 0.286, 0.189, -0.271],
    [0.208, 0.173, 0.264, -0.473],
]


@dataclass(frozen=True)
class LatentRGB:
    """rgb = weight · latent + bias.

    Attributes:
        weight: [3, C], for scaled latents, as the denoiser sees them.
        bias: [3].
    """

    weight: Tensor
    bias: Tensor

    @classmethod
    def stable_diffusion_1(cls) -> "LatentRGB":
        """The published factors of Stable Diffusion 1.x, mapped from [-1, 1] to [0, 1]."""
        return cls(torch.tensor(_SD1) / 2, torch.full((3,), 0.5))

    @classmethod
    def fit(
        cls,
        vae: Network,
        size: int = 16,
        samples: int = 8,
        seed: int = 0,
        device: torch.device | None = None,
    ) -> "LatentRGB":
        """Least squares on pictures decoded from smooth random latents.

        Args:
            vae: An AutoencoderKL.
            size: Height and width of the latents to decode.
            samples: How many of them.
            seed: Seed of the latents.
            device: Where the decoder runs; where its weights are without it.

        Raises:
            FloatingPointError: If the decoder gives a value that is not a number.
        """
        generator = torch.Generator().manual_seed(seed)
        channels = vae.config.latent_channels
        coarse = torch.randn(samples, channels, max(1, size // 4), size // 4, generator=generator)
        fine = torch.randn(samples, channels, size, size, generator=generator)
        z = interpolate(coarse, size=(size, size), mode="bilinear") + 0.3 * fine
        there = next(vae.parameters()).device if device is None else device
        factor = vae.config.scaling_factor
        decoder = Part("decoder", lambda z: vae.decode(z / factor).sample.float().cpu(), samples)
        with torch.no_grad():
            decoded = torch.cat(Execution(there).one_by_one(decoder, z.to(there, vae.dtype)))
        if not bool(torch.isfinite(decoded).all()):
            raise FloatingPointError("The decoder produced a value that is not a number.")
        colour = avg_pool2d(decoded / 2 + 0.5, decoded.shape[-1] // size)
        pixels = torch.cat([z, torch.ones_like(z[:, :1])], 1).movedim(1, -1).flatten(0, -2)
        solution = torch.linalg.lstsq(pixels, colour.movedim(1, -1).flatten(0, -2)).solution
        return cls(solution[:-1].T.contiguous(), solution[-1])

    def __call__(self, latents: Tensor) -> Tensor:
        """Colours [R, 3, h, w] in [0, 1] of scaled latents [R, C, h, w]."""
        weight, bias = self.weight.to(latents), self.bias.to(latents)
        colour = torch.einsum("kc,rchw->rkhw", weight, latents) + bias[:, None, None]
        return colour.clamp(0, 1)

    def pictures(self, latents: Tensor, size: tuple[int, int]) -> list[Image.Image]:
        """Previews of latents [R, C, h, w] as pictures of (width, height); waits for a GPU.

        Raises:
            FloatingPointError: If a latent is not a number; nobody is to see what that looks like.
        """
        colours = self(latents.float()).cpu()
        if not bool(torch.isfinite(colours).all()):
            raise FloatingPointError("The denoiser produced a value that is not a number.")
        pixels = (colours * 255).round().byte().movedim(1, -1).numpy()
        small = [Image.fromarray(p) for p in pixels]
        return [picture.resize(size, Image.Resampling.BICUBIC) for picture in small]


class Previews:
    """Colours of previews: a model's own, or fitted to its decoder."""

    def __init__(self) -> None:
        self._fitted: dict[str, LatentRGB] = {}

    def colours(
        self, vae: nn.Module, known: LatentRGB | None, device: Callable[[], torch.device]
    ) -> LatentRGB:
        """The model's own colours, or those of this decoder, fitted once for its weights.

        Where the decoder runs takes a search to find out, and only a fit asks for it.
        """
        if known is not None:
            return known
        key = fingerprint(vae)
        if key not in self._fitted:
            self._fitted = {key: LatentRGB.fit(vae, device=device())}
        return self._fitted[key]


def withheld(number: int, size: tuple[int, int]) -> list[Image.Image]:
    """What stands for previews that must not be seen: grey pictures of (width, height)."""
    return [Image.new("RGB", size, WITHHELD) for _ in range(number)]
