"""Counts the FLOPs and the memory of one call of each part of a model, once.

Counted on the meta device: no weights, no arithmetic, exact for matrix products, convolutions and
attention (2 FLOPs a multiply-add). Normalisations and activations are not counted, as is usual.
Knows networks by their configuration only; nothing of plans or time.
"""

import math
import weakref
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import (
    FlopCounterMode,
    conv_flop_count,
    flop_registry,
    register_flop_formula,
    sdpa_flop_count,
)

from sage.core.cost import ModelFlops
from sage.sd.adapters import plain_network
from sage.sd.foreign import Network


def _register_packed() -> None:
    """The counter's formulas for the packed layers of `sage.sd.packed`."""

    @register_flop_formula(torch.ops.mkldnn._convolution_pointwise)
    def convolution(x: Any, weight: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
        return conv_flop_count(x, weight, out_shape)

    @register_flop_formula(torch.ops.mkldnn._linear_pointwise)
    def linear(x: Any, weight: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
        return 2 * math.prod(out_shape) * weight[-1]


def _register_attention() -> None:
    """The counter's formula for the fused attention of a CPU, which it counts as zero.

    Choosing plain attention while counting would do as well, but that choice is the whole
    process's: it would change the last bits of whatever other threads render meanwhile, and two
    threads that count at once would leave it chosen for good.
    """
    attention: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    if attention in flop_registry:  # as a later PyTorch may have it
        return

    @register_flop_formula(attention)
    def two_products(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return sdpa_flop_count(query, key, value)


_register_attention()
if torch.backends.mkldnn.is_available():
    _register_packed()


def count_flops(call: Callable[[], object]) -> float:
    """FLOPs of one call; attention is counted as the two matrix products that it is."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call()
    return float(counter.get_total_flops())


class PeakBytes(TorchDispatchMode):
    """Counts the memory of tensors that a call makes, on any device, the meta device included.

    Attributes:
        peak: Most bytes of such tensors that were alive at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._alive: dict[int, int] = {}
        self._total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """Runs an operation and counts its results; what it was given is not counted."""
        self._see((args, kwargs), made_here=False)
        output = func(*args, **(kwargs or {}))
        self._see(output, made_here=True)
        return output

    def _see(self, values: Any, made_here: bool) -> None:
        for value in tree_leaves(values):
            if not isinstance(value, Tensor) or value.layout is not torch.strided:
                continue
            storage = value.untyped_storage()
            key = storage._cdata
            if key not in self._alive:
                size = storage.nbytes() if made_here else 0
                self._alive[key] = size
                self._total += size
                self.peak = max(self.peak, self._total)
                if made_here:
                    weakref.finalize(storage, self._forget, key).atexit = False

    def _forget(self, key: int) -> None:
        self._total -= self._alive.pop(key, 0)


def on_meta(module: Network) -> Network:
    """A twin of a diffusers or transformers network without weights, from its configuration."""
    module = plain_network(module)
    kind: Any = type(module)
    with torch.device("meta"):
        if hasattr(kind, "from_config"):
            return kind.from_config(module.config).eval()
        return kind(module.config).eval()


def model_flops(
    text_encoder: Network,
    unet: Network,
    vae: Network,
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


_KEPT = 256  # counts; a session asks for a few
_counts: dict[Hashable, Any] = {}  # what was counted, by all that it follows from; of the process


def _once(key: Hashable, count: Callable[[], Any]) -> Any:
    """A count, from memory where it was made before; all are forgotten where there are too many."""
    value = _counts.get(key)  # not `in` and then a look-up: another thread may forget in between
    if value is None:
        value = count()
        if len(_counts) >= _KEPT:
            _counts.clear()
        _counts[key] = value
    return value


def _kind(network: Any) -> Hashable:
    """What a network's counts follow from."""
    plain = plain_network(network)
    return type(plain), repr(plain.config)


def model_flops_once(
    text_encoder: nn.Module,
    unet: nn.Module,
    vae: nn.Module,
    tokens: int,
    latent_size: tuple[int, int],
) -> ModelFlops:
    """As `model_flops`; for parts of a configuration that was seen before, from memory."""
    parts = (text_encoder, unet, vae)
    key = (*map(_kind, parts), tokens, latent_size)
    return _once(key, lambda: model_flops(*parts, tokens=tokens, latent_size=latent_size))


def count_bytes(
    network: Network, latent: Sequence[int], cond: Sequence[int] | None = None
) -> float:
    """Bytes that one row takes at most while a network runs; an upper bound of its activations.

    Args:
        network: A UNet2DConditionModel, or an AutoencoderKL that decodes.
        latent: Shape [C, h, w] of a latent.
        cond: Shape [L, D] of a condition; None for a decoder.
    """
    shapes = tuple(latent), None if cond is None else tuple(cond)
    peak = _once(("bytes", _kind(network), shapes), lambda: _peak_bytes(network, *shapes))
    return peak * network.dtype.itemsize / 4


def _peak_bytes(network: Network, latent: tuple[int, ...], cond: tuple[int, ...] | None) -> int:
    """Bytes of a row in float32."""
    twin = on_meta(network)
    z = torch.zeros(1, *latent, device="meta")
    with torch.no_grad(), PeakBytes() as memory:
        if cond is None:
            twin.decode(z)
        else:
            t = torch.zeros(1, dtype=torch.long, device="meta")
            twin(z, t, torch.zeros(1, *cond, device="meta"))
    return memory.peak
