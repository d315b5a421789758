"""Identity by value: what a network computes, as a short text that changes when it does.

A kept result may be used again only while everything it was computed from is unchanged. Instead of
listing what may change (weights, adapters, attention processors, FreeU, hooks, a compiled forward,
...), `fingerprint` reads all of it: types, attributes, hooks and the values of every tensor. About
8 ms of one core for a UNet of 20 million parameters. What it cannot see: a patched *class*, state
behind a closure, and, in networks over `WHOLE_BYTES`, a few numbers written past autograd (through
`.data` or NumPy), because only samples of large networks are read besides the version counters.
"""

import hashlib
import itertools
import marshal
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from enum import Enum
from pathlib import PurePath
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

WHOLE_BYTES = 256 * 2**20  # networks up to this size are read whole: 80 MB take 4 ms
SAMPLES = 256  # numbers read of each tensor of a larger one
DIGESTED_BYTES = 4096  # smaller tensors are digested, larger ones summed: 10 times as fast
DEPTH = 5  # of objects inside objects

_PLAIN = frozenset({bool, int, float, complex, str, bytes})
_NAMED = (torch.dtype, torch.device, torch.memory_format, Enum, PurePath, range, slice)
_serials: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
_counter = itertools.count()


def fingerprint(*things: object) -> str:
    """A text that is equal for things only while they have the same values.

    Args:
        things: Networks, tensors, solvers, plain values, containers and objects made of them.
    """
    return _written(_Reader(sampled=_bytes_of(things) > WHOLE_BYTES), things)


def digest(*things: object) -> str:
    """As `fingerprint`, for small things: every byte of their tensors is read, in its place.

    Args:
        things: Tensors, solvers, plain values, containers and objects made of them.
    """
    return _written(_Reader(sampled=False, whole=True), things)


def _written(reader: "_Reader", things: Iterable[object]) -> str:
    for thing in things:
        reader.read(thing, 0)
    # Version 2 writes equal values equally; later ones depend on which objects are shared.
    written = marshal.dumps([reader.tokens, reader.sums()], 2)
    return hashlib.blake2b(written, digest_size=16).hexdigest()


def arithmetic() -> tuple[object, ...]:
    """The settings of this process on which the last bits of a result depend."""
    matmul = torch.backends.cuda.matmul
    return (
        torch.get_num_threads(),
        torch.get_float32_matmul_precision(),
        (matmul.allow_tf32, torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark),
        torch.are_deterministic_algorithms_enabled(),
        tuple((torch.is_autocast_enabled(d), str(torch.get_autocast_dtype(d))) for d in _DEVICES),
    )


_DEVICES = ("cpu", "cuda")


class _Reader:
    """Collects values as plain tokens; the sums of tensors on a GPU come at the end, at once."""

    def __init__(self, sampled: bool, whole: bool = False) -> None:
        self.sampled, self.whole = sampled, whole
        self.tokens: list[Any] = []
        self._seen: dict[int, int] = {}
        self._keep: list[object] = []  # an id is taken only while its object lives
        self._waiting: list[Tensor] = []

    def sums(self) -> list[int]:
        """The sums of the tensors on a GPU; one transfer."""
        return torch.stack(self._waiting).tolist() if self._waiting else []

    def read(self, value: Any, depth: int) -> None:
        """Adds the tokens of any value."""
        if value is None or type(value) in _PLAIN:
            self.tokens.append(value)
        elif isinstance(value, Tensor):
            self._tensor(value)
        elif isinstance(value, np.ndarray):
            self.tokens += (value.shape, value.dtype.str, _digest(value))
        elif isinstance(value, _NAMED):
            self.tokens.append(repr(value))
        elif (place := self._seen.get(id(value))) is not None:
            self.tokens += ("seen", place)
        else:
            self._seen[id(value)] = len(self._seen)
            self._keep.append(value)
            self._inside(value, depth)

    def _inside(self, value: Any, depth: int) -> None:
        """Adds the tokens of what holds other values."""
        if isinstance(value, nn.Module):
            self._module(value)
        elif isinstance(value, (dict, Mapping)):
            self.tokens += ("pairs", len(value))
            for key, item in value.items():
                self.tokens.append(key if type(key) in _PLAIN else repr(key))
                self.read(item, depth + 1)
        elif isinstance(value, (set, frozenset)):
            self.tokens += sorted(map(repr, value))
        elif isinstance(value, (list, tuple)):
            self.tokens += ("items", len(value))
            for item in value:
                self.read(item, depth + 1)
        elif isinstance(value, MethodType):
            self.tokens += ("method", _serial(value.__self__), _serial(value.__func__))
        elif isinstance(value, (type, FunctionType, BuiltinFunctionType)):
            self.tokens += ("code", _serial(value))
        else:
            self._object(value, depth)

    def _object(self, value: Any, depth: int) -> None:
        self.tokens += ("object", _serial(type(value)))
        # A config, an attention processor, a solver: its attributes say what it does. PyTorch's own
        # objects, such as those of a compiler, change while they work and are taken as they are.
        own = getattr(value, "__dict__", None)
        if own is None or depth > DEPTH or type(value).__module__.startswith("torch"):
            self.tokens.append(_serial(value))
            return
        for name, item in own.items():
            self.tokens.append(name)
            self.read(item, depth + 1)

    def _module(self, module: nn.Module) -> None:
        tokens = self.tokens
        tokens += ("module", _serial(type(module)))
        own = module.__dict__
        for name, value in own.items():
            kind = type(value)
            if kind in _PLAIN:
                tokens += (name, value)
            # An attribute that was set back to None or emptied is one that was never there.
            elif value is not None and name not in _TREE and (kind not in _CONTAINERS or value):
                tokens.append(name)
                self.read(value, 1)
        for tensors in (own["_parameters"], own["_buffers"]):
            for name, tensor in tensors.items():
                if tensor is not None:
                    tokens.append(name)
                    self._tensor(tensor)
        for name, child in own["_modules"].items():
            tokens.append(name)
            self.read(child, 0)

    def _tensor(self, tensor: Tensor) -> None:
        if self.whole:
            array = _bits(tensor.detach()).cpu().numpy()
            self.tokens += (*tensor.shape, str(tensor.dtype), _digest(array))
            return
        version = 0 if tensor.is_inference() else tensor._version
        self.tokens += (*tensor.shape, *tensor.stride(), str(tensor.dtype), version)
        if tensor.is_meta or tensor.is_sparse or tensor.is_quantized:
            self.tokens.append(_serial(tensor))
            return
        plain = tensor.detach()
        if self.sampled and plain.numel() > SAMPLES:
            plain = plain.reshape(-1)[:: plain.numel() // SAMPLES]
        bits = _bits(plain)
        if bits.device.type == "cpu":
            self.tokens.append(_value(bits.contiguous().numpy()))
        else:
            self._waiting.append(bits.sum(dtype=torch.int64))


_TREE = frozenset({"_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"})
_CONTAINERS = frozenset({dict, list, tuple, set, OrderedDict})
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _bits(tensor: Tensor) -> Tensor:
    """The same bytes as integers."""
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    if tensor.dtype == torch.bool:
        return tensor.to(torch.uint8)
    return tensor.view(_INTEGERS[tensor.element_size()])


def _value(array: np.ndarray) -> bytes | int:
    """A digest, or of a large array the sum of its bits, which no change of one number keeps."""
    if array.nbytes <= DIGESTED_BYTES or array.nbytes % 8:
        return _digest(array)
    return int(np.add.reduce(array.reshape(-1).view(np.uint64)))


def _digest(array: np.ndarray) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(array).data, digest_size=16).digest()


def _serial(thing: Any) -> int:
    """A number of this object alone, also after it is gone: an id may be given to another one."""
    try:
        if (known := _serials.get(thing)) is None:
            known = _serials[thing] = next(_counter)
        return known
    except TypeError:  # not hashable, or no weak reference to it: slots
        return -id(thing)


def _bytes_of(things: Iterable[object]) -> int:
    tensors = (
        t
        for network in things
        if isinstance(network, nn.Module)
        for module in network.modules()
        for t in module._parameters.values()
        if t is not None
    )
    return sum(t.nbytes for t in tensors)
