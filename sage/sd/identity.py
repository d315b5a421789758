"""Identity by value: what a network computes, as a short text that changes when it does.

A kept result may be used again only while everything it was computed from is unchanged. Instead of
listing what may change (weights, adapters, attention processors, FreeU, hooks, a compiled forward,
...), `fingerprint` reads all of it: types and their methods, attributes, hooks with what they hold,
and the values of every tensor. About 10 ms of one core for a UNet of 20 million parameters. What it
cannot see: in networks over `WHOLE_BYTES`, a few numbers written past autograd (through `.data` or
NumPy), because only samples of large networks are read besides the version counters; and what a
function reaches beyond its own module, such as a file.
"""

import hashlib
import itertools
import marshal
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum
from functools import partial
from pathlib import PurePath
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
import torch.nn.functional
from torch import Tensor, nn
from torch.nn.modules import module as hooked_modules

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
    """What a result depends on of this process: settings, hooks on all modules, replaced functions.

    Some packages are switched on by putting a function of theirs into `torch.nn.functional`.
    """
    cuda = torch.backends.cuda
    hooks = digest([getattr(hooked_modules, name) for name in _GLOBAL_HOOKS])
    functions = tuple(
        serial(f) for f in vars(torch.nn.functional).values() if isinstance(f, _FUNCTIONS)
    )
    return (
        hooks,
        hash(functions),
        (cuda.flash_sdp_enabled(), cuda.math_sdp_enabled(), cuda.mem_efficient_sdp_enabled()),
        cuda.cudnn_sdp_enabled(),
        torch.get_num_threads(),
        tuple(_flag(place, name) for place, names in _FLAGS for name in names.split()),
        _asked(torch.get_float32_matmul_precision),
        torch.are_deterministic_algorithms_enabled(),
        tuple((torch.is_autocast_enabled(d), str(torch.get_autocast_dtype(d))) for d in _DEVICES),
    )


def _flag(place: str, name: str) -> Any:
    owner = torch.backends
    for part in place.split(".") if place else ():
        owner = getattr(owner, part, None)  # a later version has more of them
    return _asked(lambda: getattr(owner, name, None))


def _asked(read: Callable[[], Any]) -> Any:
    """A setting; PyTorch refuses to read the old name of one that was set under its new name."""
    try:
        return read()
    except RuntimeError:
        return "set elsewhere"


# Settings below `torch.backends` that may change the last bits of a result.
_FLAGS = (
    ("", "fp32_precision"),
    ("mkldnn", "enabled deterministic allow_tf32"),
    *((f"mkldnn.{kind}", "fp32_precision") for kind in ("matmul", "conv", "rnn")),
    ("cudnn", "enabled deterministic benchmark allow_tf32"),
    *((f"cudnn.{kind}", "fp32_precision") for kind in ("conv", "rnn")),
    (
        "cuda.matmul",
        "fp32_precision allow_tf32 allow_fp16_reduced_precision_reduction "
        "allow_bf16_reduced_precision_reduction allow_fp16_accumulation",
    ),
    ("opt_einsum", "enabled strategy"),
)
_DEVICES = ("cpu", "cuda")
_GLOBAL_HOOKS = ("_global_forward_pre_hooks", "_global_forward_hooks")
_FUNCTIONS = (FunctionType, BuiltinFunctionType)


class _Reader:
    """Collects values as plain tokens; the sums of tensors on a GPU come at the end, at once."""

    def __init__(self, sampled: bool, whole: bool = False) -> None:
        self.sampled, self.whole = sampled, whole
        self.tokens: list[Any] = []
        self._seen: dict[int, int] = {}
        self._classes: set[type] = set()
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
        # Accelerate's mappings of weights that are kept elsewhere do not know their own keys.
        elif isinstance(value, dict) or (isinstance(value, Mapping) and not _attributes(value)):
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
            self.tokens.append("method")
            self.read(value.__func__, depth + 1)
            self.read(value.__self__, depth + 1)
        elif isinstance(value, (type, *_FUNCTIONS)):
            self._code(value, depth)
        else:
            self._object(value, depth)

    def _code(self, value: Any, depth: int) -> None:
        """A function, with the values that it holds: a hook's strength is often one of them."""
        self.tokens += ("code", serial(value))
        if isinstance(value, FunctionType) and depth <= DEPTH and not _is_torchs(value):
            for held in _held_by(value):
                self.read(held, depth + 1)

    def _object(self, value: Any, depth: int) -> None:
        self.tokens.append("object")
        self._class(type(value))
        # A config, an attention processor, a solver: its attributes say what it does. PyTorch's own
        # objects, such as those of a compiler, change while they work and are taken as they are; so
        # is a pipeline that a hook's owner holds, whose caches are no part of what it computes.
        own = _attributes(value)
        if own is None or depth > DEPTH or _is_torchs(type(value)) or _is_pipeline(value):
            self.tokens.append(serial(value))
            return
        for name, item in own.items():
            self.tokens.append(name)
            self.read(item, depth + 1)

    def _class(self, kind: type) -> None:
        """A class by its methods and plain values: packages replace those, too."""
        for base in kind.__mro__[:-1]:
            # nn.Module itself decides nothing, and a compiler puts things into it.
            if base is not nn.Module and base not in self._classes:
                self._classes.add(base)
                self.tokens.append(serial(base))
                self.tokens += [_member(v) for k, v in vars(base).items() if k not in _ABOUT]
        self.tokens.append(serial(kind))

    def _module(self, module: nn.Module) -> None:
        tokens = self.tokens
        tokens.append("module")
        self._class(type(module))
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
        self.tokens += (*tensor.shape, str(tensor.dtype), str(tensor.layout))
        if tensor.is_meta:  # its values are kept elsewhere, by a hook, and are read there
            return
        self.tokens.append(0 if tensor.is_inference() else tensor._version)
        plain = tensor.detach()
        if plain.is_quantized:
            plain = plain.dequantize()
        if plain.layout is not torch.strided:
            plain = plain.to_dense()
        self.tokens += plain.stride()
        if self.sampled and plain.numel() > SAMPLES:
            plain = plain.reshape(-1)[:: plain.numel() // SAMPLES]
        bits = _bits(plain)
        if bits.device.type == "cpu":
            self.tokens.append(_value(bits.contiguous().numpy()))
        else:
            self._waiting.append(bits.sum(dtype=torch.int64))


def _is_torchs(thing: Any) -> bool:
    return str(getattr(thing, "__module__", "")).partition(".")[0] == "torch"


def _is_pipeline(value: Any) -> bool:
    return any(base.__name__ == "DiffusionPipeline" for base in type(value).__mro__)


def _attributes(value: Any) -> dict[str, Any] | None:
    """What an object holds, in a dictionary or in slots; None if that cannot be told."""
    if isinstance(value, partial):
        return {"func": value.func, "args": value.args, "keywords": value.keywords}
    slots = [name for base in type(value).__mro__ for name in _slots(base)]
    own = getattr(value, "__dict__", None)
    if own is None and not slots:
        return None
    return {name: getattr(value, name, None) for name in slots} | (own or {})


def _slots(kind: type) -> tuple[str, ...]:
    names = vars(kind).get("__slots__", ())
    names = (names,) if isinstance(names, str) else tuple(names)
    return tuple(name for name in names if name not in ("__dict__", "__weakref__"))


def _held_by(function: FunctionType) -> Iterator[Any]:
    """Values in a function's closure and defaults, and plain ones of its module that it names."""
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not filled yet
            continue
    yield function.__defaults__
    yield function.__kwdefaults__
    for name in function.__code__.co_names:
        value = function.__globals__.get(name)
        if type(value) in _PLAIN or isinstance(value, (Tensor, np.ndarray, dict, list)):
            yield value


def _member(value: Any) -> Any:
    """A method or a plain value of a class as a token."""
    value = getattr(value, "__func__", getattr(value, "fget", value))
    if isinstance(value, FunctionType):
        return serial(value)
    return value if type(value) in _PLAIN else None


_ABOUT = frozenset({"__module__", "__doc__", "__qualname__", "__firstlineno__"})
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


def plain_values(own: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """Those of an object's attributes that are plain values, with their names."""
    return tuple((name, value) for name, value in own.items() if type(value) in _PLAIN)


def serial(thing: Any) -> int:
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
