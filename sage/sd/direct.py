"""Layers that compute what diffusers' and PyTorch's do, without a detour.

* Attention without diffusers' look at its processor's arguments, which it repeats at every call.
  `inspect.signature` for each of the built-in model's 14 attention layers is 1.2 ms of a call of
  25 ms for two rows in bfloat16 on a CPU (medians of 20 calls in turn). A trunk is such a call, so
  without this, sharing saves less time than FLOPs.
* Attention of bfloat16 on a CPU without matrix units, by three plain operations. PyTorch's fused
  one takes 4.8 ms for 8 rows of 256 queries and keys in 5 heads of 32, this 2.5 (one thread). What
  it costs is precision: scores are rounded to bfloat16.
* Residual blocks of bfloat16 on a CPU, which normalise, modulate and activate in float32 on a few
  rows at a time: 0.28 instead of 0.39 ms for 8×160×16×16 numbers (one thread). With that, a gate
  that is activated by the product that makes it and a transformer's output without a copy, a call
  of eight passes takes 13 % less (`assets/results/NOTES.md`).
* Group normalisation of bfloat16 on a CPU, whose layout after a convolution is channels last. There
  PyTorch takes 0.80 ms for 8×160×16×16 numbers, by way of float32 0.17 ms (one thread): a tenth of
  the denoiser's time.
"""

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.activations import GEGLU
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn

from sage.sd.packed import (
    in_float32,
    is_watched,
    multiply_gated,
    multiply_together,
    only_computes,
)

CACHED = 2**20  # numbers between two steps that a processor keeps at hand
LEAST_SCORES = 64 * 64  # of a head; below, PyTorch's fused attention takes no longer


def make_direct(network: nn.Module) -> None:
    """Turns a network's layers into direct ones, which compute the same."""
    kinds = {
        Attention: DirectAttention,
        GEGLU: DirectGEGLU,
        ResnetBlock2D: DirectResnet,
        Transformer2DModel: DirectTransformer,
        nn.GroupNorm: DirectGroupNorm,
    }
    for layer in network.modules():
        if type(layer) in kinds:
            layer.__class__ = kinds[type(layer)]


class DirectGroupNorm(nn.GroupNorm):
    """Group normalisation that takes bfloat16 in channels last by way of float32 on a CPU."""

    def forward(self, input: Tensor) -> Tensor:
        """As nn.GroupNorm."""
        if not _is_slow(input) or input.is_contiguous():
            return super().forward(input)
        weight, bias = in_float32(self, input)
        output = F.group_norm(input.float(), self.num_groups, weight, bias, self.eps)
        return output.to(input.dtype)


class DirectResnet(ResnetBlock2D):
    """A residual block that normalises and activates in float32, a few rows at a time."""

    def forward(self, input_tensor: Tensor, temb: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """As diffusers' ResnetBlock2D."""
        if args or kwargs or not self._is_plain(input_tensor):
            return super().forward(input_tensor, temb, *args, **kwargs)
        x, scale, shift = self.conv1(_activated(self.norm1, input_tensor)), None, None
        if self.time_emb_proj is not None:
            shift = self.time_emb_proj(F.silu(temb))[:, :, None, None]
            if self.time_embedding_norm == "scale_shift":
                scale, shift = shift.float().chunk(2, 1)
                scale = 1 + scale
            else:
                x, shift = x.add_(shift), None
        x = self.conv2(_activated(self.norm2, x, scale, shift))
        if self.conv_shortcut is not None:
            input_tensor = self.conv_shortcut(input_tensor)
        return x.add_(input_tensor)

    def _is_plain(self, x: Tensor) -> bool:
        """Whether it is a block as Stable Diffusion has it, and x one that is slow otherwise."""
        parts = (self.norm1, self.norm2, self.nonlinearity, self.dropout, self.conv1, self.conv2)
        return (
            _is_slow(x)
            and self.time_embedding_norm in ("default", "scale_shift")
            and isinstance(self.nonlinearity, nn.SiLU)
            and self.upsample is None
            and self.downsample is None
            and not self.skip_time_act
            and not self.training
            and self.output_scale_factor == 1
            and not is_watched(*parts)
        )


def _activated(
    norm: nn.GroupNorm, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None
) -> Tensor:
    """silu(norm(x) * scale + shift) of (rows, channels, height, width), rounded once."""
    weight, bias = in_float32(norm, x)
    output = torch.empty_like(x)
    for some in _few(x, x[0].numel()):
        y = F.group_norm(x[some].float(), norm.num_groups, weight, bias, norm.eps)
        if scale is not None and shift is not None:
            torch.addcmul(shift[some], y, scale[some], out=y)
        output[some] = F.silu(y, inplace=True)
    return output


def _few(x: Tensor, numbers: int) -> list[slice]:
    """Slices of as many rows as are worked on while they are in the cache.

    Args:
        x: Rows first.
        numbers: What one row takes between two steps.
    """
    rows = max(1, CACHED // numbers)
    return [slice(start, start + rows) for start in range(0, len(x), rows)]


def _is_slow(x: Tensor) -> bool:
    """Whether PyTorch and diffusers take a detour for x, and nothing needs it."""
    return x.dtype == torch.bfloat16 and only_computes(x)


class DirectTransformer(Transformer2DModel):
    """A transformer for pictures whose output stays in channels last, as convolutions want it."""

    def _get_output_for_continuous_inputs(
        self, hidden_states: Tensor, residual: Tensor, *shape: Any, **how: Any
    ) -> Tensor:
        """As diffusers' Transformer2DModel, but for a copy into another layout."""
        plain = not self.use_linear_projection and not is_watched(self.proj_out)
        if not (plain and _is_slow(hidden_states)):
            return super()._get_output_for_continuous_inputs(hidden_states, residual, *shape, **how)
        x = hidden_states.unflatten(1, residual.shape[2:]).permute(0, 3, 1, 2)
        return self.proj_out(x).add_(residual)


class DirectGEGLU(GEGLU):
    """A gated layer whose gate is activated while it is computed."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """As diffusers' GEGLU."""
        gated = None
        if not (args or kwargs) and _is_slow(hidden_states):
            gated = multiply_gated(self, self.proj, hidden_states)
        return super().forward(hidden_states, *args, **kwargs) if gated is None else gated


class DirectAttention(Attention):
    """Attention that asks what its processor takes only where there is something to ask for."""

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **cross_attention_kwargs: Any,
    ) -> Tensor:
        """As diffusers' Attention."""
        states = {
            "encoder_hidden_states": encoder_hidden_states,
            "attention_mask": attention_mask,
        }
        if cross_attention_kwargs:
            return super().forward(hidden_states, **states, **cross_attention_kwargs)
        if attention_mask is None and self._is_plain(hidden_states):
            text = hidden_states if encoder_hidden_states is None else encoder_hidden_states
            return self._plain(hidden_states, text)
        return self.processor(self, hidden_states, **states)  # type: ignore[operator]

    def _is_plain(self, x: Tensor) -> bool:
        """Whether `_plain` computes what the processor would, in less time."""
        parts = (self.spatial_norm, self.group_norm, self.norm_cross, self.norm_q, self.norm_k)
        return (
            _is_slow(x)
            and x.ndim == 3
            and type(self.processor) is AttnProcessor2_0
            and not any(parts)
            and not self.residual_connection
            and self.rescale_output_factor == 1
        )

    def _plain(self, x: Tensor, text: Tensor) -> Tensor:
        """Attention of (rows, queries, channels) to (rows, keys, channels)."""
        layers: list[Any] = [self.to_q, self.to_k, self.to_v]
        if text is x:
            parts = multiply_together(self, layers, x)
        else:
            parts = self.to_q(x), *multiply_together(self, layers[1:], text)
        query, key, value = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in parts)
        output = torch.empty_like(parts[0], memory_format=torch.contiguous_format)
        for some in _few(x, self.heads * x.shape[1] * text.shape[1]):
            rows = _attend(query[some], key[some], value[some])
            output[some].unflatten(-1, (self.heads, -1)).copy_(rows.transpose(1, 2))
        project: Any = self.to_out
        return project[1](project[0](output))


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention of (rows, heads, queries, channels) to as many keys and values, in its fast way."""
    number = query.shape[2] * key.shape[2]
    if not (LEAST_SCORES <= number <= CACHED // query.shape[1] and _has_fast_products()):
        return F.scaled_dot_product_attention(query, key, value)
    q, k, v = (x.flatten(0, 1) for x in (query, key, value))
    scores = torch.baddbmm(q.new_zeros(()), q, k.mT, beta=0, alpha=q.shape[-1] ** -0.5)
    return torch.bmm(scores.softmax(-1), v).view_as(query)


@cache
def _has_fast_products() -> bool:
    """Whether bfloat16 products are fast and the fused attention is the one that was compared.

    Without such instructions products are slow; with matrix units it is another one.
    """
    return torch.cpu._is_avx512_bf16_supported() and not torch.cpu._is_amx_tile_supported()
