"""Layers that lay out their weights for oneDNN once, not at every call.

On a CPU, oneDNN reorders the weight of every convolution, and in bfloat16 of every matrix product,
into blocks each time it is called. For a batch of two that is a fifth of the built-in model's step;
a trunk is such a batch, so without this, sharing saves less time than FLOPs. In float32 a step
takes 22 % less processor time at two passes and 23 % at eight, matrix products through oneDNN
included.

Packed copies are kept for the next run. Weights may change between runs without a trace (an adapter
is merged into `weight.data`), so each run compares every weight once, bit by bit, with what was
packed. A copy is laid out for the shape of a row, never for the number of rows: a result must not
depend on which run came first.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeGuard
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

MOST_BYTES = 256 * 2**20  # of a network; calls of larger ones are long, and copies cost memory
PACKABLE = (torch.bfloat16, torch.float32)
ROWS = 8  # that copies are laid out for
if torch.backends.mkldnn.is_available():
    # The operations that torch.compile makes of these layers.
    _convolve = torch.ops.mkldnn._convolution_pointwise
    _multiply = torch.ops.mkldnn._linear_pointwise


@dataclass(frozen=True)
class Pack:
    """Weights as they were packed, and how.

    Attributes:
        row: The shape of an input's row.
        weights: Copies of the weights.
        packed: Their layouts for oneDNN.
    """

    row: torch.Size
    weights: tuple[Tensor, ...]
    packed: Sequence[Tensor]


Packer = Callable[[Tensor, Tensor], Sequence[Tensor]]  # of weights, for such an input
_packs: "WeakKeyDictionary[nn.Module, Pack]" = WeakKeyDictionary()
_current: ContextVar[dict[int, Pack] | None] = ContextVar("current packs", default=None)


@contextmanager
def packed(current: dict[int, Pack]) -> Iterator[None]:
    """Within it, packable layers compute with packed weights.

    Args:
        current: The packs of one run, by the ids of layers, which fill it in. While it is in use,
            their weights must not change.
    """
    token = _current.set(current)
    try:
        yield
    finally:
        _current.reset(token)


def make_packable(network: nn.Module) -> None:
    """Turns a network's plain convolutions and linear layers into packable ones.

    Outside of `packed`, on a GPU and in half precision they compute as before. Does nothing where
    oneDNN is missing or the network is large.
    """
    kinds = {nn.Conv2d: PackableConv2d, nn.Linear: PackableLinear}
    size = sum(p.numel() * p.element_size() for p in network.parameters())
    if size > MOST_BYTES or not torch.backends.mkldnn.is_available():
        return
    for layer in network.modules():
        if type(layer) in kinds and layer.weight.dtype in PACKABLE:
            layer.__class__ = kinds[type(layer)]


class PackableConv2d(nn.Conv2d):
    """A convolution with a packed weight; see `packed`."""

    def forward(self, input: Tensor) -> Tensor:
        """As nn.Conv2d."""
        current = _usable(input)
        if current is None or self.padding_mode != "zeros" or isinstance(self.padding, str):
            return super().forward(input)
        how = (self.padding, self.stride, self.dilation, self.groups)
        pack = torch.ops.mkldnn._reorder_convolution_weight
        (weight,) = _pack(
            current,
            self,
            (self.weight,),
            input,
            lambda weight, x: (pack(weight, *how, [ROWS, *x.shape[1:]]),),
        )
        return _convolve(input, weight, self.bias, *how, "none", [], "")


class PackableLinear(nn.Linear):
    """A linear layer with a packed weight; see `packed`."""

    def forward(self, input: Tensor) -> Tensor:
        """As nn.Linear."""
        current = _usable(input)
        if current is None:
            return super().forward(input)
        (weight,) = _pack(current, self, (self.weight,), input, _whole)
        return _multiply(input, weight, self.bias, "none", [], "")


def multiply_together(
    owner: nn.Module, layers: Sequence[nn.Module], input: Tensor
) -> Sequence[Tensor]:
    """The outputs of linear layers for one input, in one product where they allow it.

    They do if they are packable, of one width, without bias and without hooks.

    Args:
        owner: Whom the packed weight belongs to: one module for each such list of layers.
        layers: Linear layers, or what stands in their places: an adapter's layers.
        input: (..., features).
    """
    current = _usable(input)
    plain = [layer for layer in layers if _is_plain(layer) and layer.bias is None]
    if current is None or len(plain) < len(layers) or len({a.out_features for a in plain}) > 1:
        return [layer(input) for layer in layers]
    (weight,) = _pack(current, owner, [layer.weight for layer in plain], input, _whole)
    return _multiply(input, weight, None, "none", [], "").chunk(len(plain), -1)


def multiply_gated(owner: nn.Module, layer: nn.Module, input: Tensor) -> Tensor | None:
    """A linear layer's first half times the GELU of its second; None if it cannot.

    Args:
        owner: Whom the packed weights belong to.
        layer: A linear layer with an even number of outputs, or an adapter's layer.
        input: (..., features).
    """
    current = _usable(input)
    if current is None or not _is_plain(layer):
        return None
    weights = _pack(current, owner, (layer.weight,), input, _halves)
    biases = (None, None) if layer.bias is None else layer.bias.chunk(2)
    # oneDNN would multiply the two as well, but PyTorch makes that operation anew for every call.
    gate = _multiply(input, weights[1], biases[1], "gelu", [], "none")
    return _multiply(input, weights[0], biases[0], "none", [], "").mul_(gate)


def in_float32(norm: nn.GroupNorm, input: Tensor) -> Sequence[Tensor | None]:
    """A normalisation's weight and bias in float32."""
    current, own = _usable(input), (norm.weight, norm.bias)
    if current is None or norm.weight is None or norm.bias is None:
        return [None if values is None else values.float() for values in own]
    return _pack(current, norm, own, input, lambda both, _: both.float().chunk(2))


def _is_plain(layer: nn.Module) -> TypeGuard[PackableLinear]:
    """Whether a layer does nothing but its product."""
    return type(layer) is PackableLinear and not is_watched(layer)


def is_watched(*layers: nn.Module) -> bool:
    """Whether someone waits for layers' calls, or may keep outputs that are to be overwritten."""
    return any(layer._forward_hooks or layer._forward_pre_hooks for layer in layers)


def _whole(weight: Tensor, input: Tensor) -> tuple[Tensor]:
    rows = ROWS * input[0, ..., 0].numel()
    return (torch.ops.mkldnn._reorder_linear_weight(weight, rows),)


def _halves(weight: Tensor, input: Tensor) -> tuple[Tensor, ...]:
    return tuple(_whole(half.contiguous(), input)[0] for half in weight.chunk(2))


def _pack(
    current: dict[int, Pack],
    owner: nn.Module,
    weights: Sequence[Tensor],
    input: Tensor,
    pack: Packer,
) -> Sequence[Tensor]:
    """An owner's packed weights for this run, made anew if they have changed since the last one."""
    row, known = input.shape[1:], current.get(id(owner))
    if known is not None and known.row == row:
        return known.packed
    last, own = _packs.get(owner), [weight.detach() for weight in weights]
    if last is None or last.row != row or not all(map(_equal, own, last.weights)):
        with _disable_current_modes():  # what is kept is no memory of the call being measured
            copies = tuple(weight.clone() for weight in own)
            joined = copies[0] if len(copies) == 1 else torch.cat(copies)
            last = Pack(row, copies, pack(joined, input))
        _packs[owner] = last
    current[id(owner)] = last
    return last.packed


def _equal(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are equal bit by bit."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    whole = a.numel() * a.element_size() % 8 == 0  # in words it takes a quarter of the time
    kind = torch.int64 if whole else {2: torch.int16, 4: torch.int32}[a.element_size()]
    return torch.equal(a.flatten().view(kind), b.flatten().view(kind))


def _usable(x: Tensor) -> dict[int, Pack] | None:
    """The packs in use, if they are of use for an input."""
    return _current.get() if x.dtype in PACKABLE and only_computes(x) else None


def only_computes(x: Tensor) -> bool:
    """Whether x is on a CPU, wants no gradient and no compiler follows, which packs by itself."""
    learns_or_fuses = torch.is_grad_enabled() or torch.compiler.is_compiling()
    return x.device.type == "cpu" and not learns_or_fuses
