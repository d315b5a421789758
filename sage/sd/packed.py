"""Layers that lay out their weights for oneDNN once a run, not at every call.

On a CPU, oneDNN reorders the weight of every convolution, and in bfloat16 of every matrix product,
into blocks each time it is called. For a batch of two that is a fifth of the built-in model's step;
a trunk is such a batch, so without this, sharing saves less time than FLOPs. In float32 a step
takes 22 % less processor time at two passes and 23 % at eight, matrix products through oneDNN
included. Packed copies live no longer than a run: weights may change between runs.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn

MOST_BYTES = 512 * 2**20  # of a network; the calls of larger ones are long, and copies cost memory
PACKABLE = (torch.bfloat16, torch.float32)
Packs = dict[int, tuple[Tensor, Tensor]]  # by the id of a weight: that weight and its packed copy
if torch.backends.mkldnn.is_available():
    # The operations that torch.compile makes of these layers.
    _convolve = torch.ops.mkldnn._convolution_pointwise
    _multiply = torch.ops.mkldnn._linear_pointwise
_packs: ContextVar[Packs | None] = ContextVar("packs", default=None)


@contextmanager
def packed(packs: Packs) -> Iterator[None]:
    """Within it, packable layers compute with copies of their weights, which it fills in."""
    token = _packs.set(packs)
    try:
        yield
    finally:
        _packs.reset(token)


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
        packs = _usable(input)
        if packs is None or self.padding_mode != "zeros" or isinstance(self.padding, str):
            return super().forward(input)
        weight, shape = self.weight, (self.padding, self.stride, self.dilation, self.groups)
        if id(weight) not in packs:
            reorder = torch.ops.mkldnn._reorder_convolution_weight
            packs[id(weight)] = weight, reorder(weight.detach(), *shape, list(input.shape))
        copy = packs[id(weight)][1]
        return _convolve(input, copy, self.bias, *shape, "none", [], "")


class PackableLinear(nn.Linear):
    """A linear layer with a packed weight; see `packed`."""

    def forward(self, input: Tensor) -> Tensor:
        """As nn.Linear."""
        packs = _usable(input)
        if packs is None:
            return super().forward(input)
        weight = self.weight
        if id(weight) not in packs:
            rows = input.numel() // input.shape[-1]
            packs[id(weight)] = (
                weight,
                torch.ops.mkldnn._reorder_linear_weight(weight.detach(), rows),
            )
        return _multiply(input, packs[id(weight)][1], self.bias, "none", [], "")


def _usable(x: Tensor) -> Packs | None:
    """The packs in use, if they are of use for an input."""
    if torch.compiler.is_compiling():  # which packs by itself
        return None
    # The packed operations have no gradient.
    plain = x.device.type == "cpu" and x.dtype in PACKABLE and not torch.is_grad_enabled()
    return _packs.get() if plain else None
