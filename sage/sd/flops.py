"""Counts the FLOPs of one call of each part of a model, once, with PyTorch's own counter.

Counted on the meta device: no weights, no arithmetic, exact for matrix products, convolutions and
attention (2 FLOPs a multiply-add). Normalisations and activations are not counted, as is usual.
Knows networks by their configuration only; nothing of plans or time.
"""

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from sage.core.cost import ModelFlops


def count_flops(call: Callable[[], object]) -> float:
    """FLOPs of one call.

    The fused attention of a CPU counts as zero in PyTorch's counter, so attention is counted as
    the two matrix products that it is.
    """
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        call()
    return float(counter.get_total_flops())


def on_meta(module: nn.Module) -> nn.Module:
    """A twin of a diffusers or transformers network without weights, from its configuration."""
    module = getattr(module, "_orig_mod", module)  # of a compiled one
    kind: Any = type(module)
    with torch.device("meta"):
        if hasattr(kind, "from_config"):
            return kind.from_config(module.config).eval()
        return kind(module.config).eval()


def model_flops(
    text_encoder: nn.Module,
    unet: nn.Module,
    vae: nn.Module,
    tokens: int,
    latent_size: int | tuple[int, int],
) -> ModelFlops:
    """FLOPs of one prompt, one denoiser row without guidance, and one decoded picture.

    Args:
        text_encoder: A CLIPTextModel.
        unet: A UNet2DConditionModel.
        vae: An AutoencoderKL.
        tokens: Length L of a tokenised prompt.
        latent_size: Height and width of the latents; one number if they are equal.
    """
    size = (latent_size, latent_size) if isinstance(latent_size, int) else latent_size
    text, denoiser, decoder = on_meta(text_encoder), on_meta(unet), on_meta(vae)
    ids = torch.zeros(1, tokens, dtype=torch.long, device="meta")
    z = torch.zeros(1, unet.config.in_channels, *size, device="meta")
    t = torch.zeros(1, dtype=torch.long, device="meta")
    cond = torch.zeros(1, tokens, text_encoder.config.hidden_size, device="meta")  # (1, L, D)
    return ModelFlops(
        text_encoder=count_flops(lambda: text(ids)),
        denoiser=count_flops(lambda: denoiser(z, t, cond)),
        decoder=count_flops(lambda: decoder.decode(z[:, : vae.config.latent_channels])),
    )


class FlopsCache:
    """Counts that were made, by the configurations they follow from."""

    def __init__(self) -> None:
        self._counted: dict[Hashable, ModelFlops] = {}

    def count(
        self,
        text_encoder: nn.Module,
        unet: nn.Module,
        vae: nn.Module,
        tokens: int,
        latent_size: tuple[int, int],
    ) -> ModelFlops:
        """As `model_flops`; for parts of a configuration that was seen before, from memory."""
        parts = (text_encoder, unet, vae)
        plain = [getattr(part, "_orig_mod", part) for part in parts]
        configs = tuple((type(part), repr(part.config)) for part in plain)
        key = (configs, tokens, latent_size)
        if key not in self._counted:
            self._counted[key] = model_flops(*parts, tokens=tokens, latent_size=latent_size)
        return self._counted[key]
