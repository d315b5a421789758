"""How rows go through the networks: how many at once, and at which shapes.

Rows are prompts for the text encoder, passes for the denoiser (a guided row makes two) and pictures
for the decoder. As many go at once as pay and as memory has room for. When memory runs out all the
same, fewer go at once and the run goes on. Knows networks as functions of rows; nothing of plans,
solvers or pictures.

**Exact execution.** A network's kernels, and with them the order of its sums, depend on the shape
of the batch, so a row's last bits depend on its company; but not on the other rows' values. So with
`exact`, every row is computed in a batch of one fixed size, or of a size that has been seen to give
bit for bit the same rows: its picture is then the same alone, in any company, and however many rows
go at once. Smaller sizes are tried on drawn numbers, so that all processes on one kind of device
find the same.
"""

import gc
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor, nn

from sage.sd.flops import PeakBytes
from sage.sd.identity import arithmetic, plain_values, serial
from sage.sd.packed import Pack, packed

ROOM = 0.7  # share of the free memory that one call may take: others live here too
# A call that takes more is no faster for each row, and its memory is wanted elsewhere.
CALL_BYTES = {"cpu": 2**30, "cuda": 8 * 2**30}
# A guided row's two passes on a CPU, so that a lone prompt wastes nothing. On a GPU, eight passes
# of a model of Stable Diffusion's size take hardly longer than two.
EXACT_ROWS = {"cpu": 2, "cuda": 8}
_OUT_OF_MEMORY = (  # what allocators say in a plain RuntimeError, in lower case
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "failed to allocate",
    "alloc_failed",
    "bad_alloc",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, whichever class it has."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in _OUT_OF_MEMORY)


def free_bytes(device: torch.device) -> int:
    """Memory that a call on a device may still take, in bytes."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + kept
    return int(min(psutil.virtual_memory().available, *_container_rooms()))


def _container_rooms(folder: Path = Path("/sys/fs/cgroup")) -> Iterator[float]:
    """What a container's own limits leave of memory, where there are any."""
    yield float("inf")
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),  # the older layout
    ):
        try:
            most, now = ((folder / name).read_text().strip() for name in (limit, used))
            yield max(0, int(most) - int(now)) if most != "max" else float("inf")
        except (OSError, ValueError):
            continue


@dataclass
class Known:
    """What has been found out about networks; outlives a run, and is shared by its threads.

    Attributes:
        row_bytes: Memory that a row takes while its network runs, by network and shape of a row.
        same_rows: Whether a batch of a size gives the rows that the exact size gives, by network,
            shape and size.
    """

    row_bytes: dict[Hashable, float] = field(default_factory=dict)
    same_rows: dict[Hashable, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """A network as a function of rows.

    Attributes:
        name: What it is called in messages.
        call: Maps tensors or lists with rows first to something with rows first.
        most: Most rows in one call.
        key: What its memory and its kernels depend on, the shape of a row apart.
        estimate: Bytes that a row will take, counted without running it; None if it takes little.
    """

    name: str
    call: Callable[..., Any]
    most: int
    key: Hashable = None
    estimate: Callable[[], float] | None = None


def structure(network: nn.Module) -> Hashable:
    """What decides which kernels a network runs, the values of its weights apart.

    Its layers with what they are set to, how they attend, their hooks, the shapes and layouts of
    their weights, and the settings of the process.
    """
    layers = tuple(map(_layer, network.modules()))
    weights = tuple((p.shape, p.stride(), p.dtype) for p in network.parameters())
    return hash((layers, weights, arithmetic()))


def _layer(module: nn.Module) -> Hashable:
    own = vars(module)
    attends = own.get("processor")
    hooks = (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
    # Replaced for this one layer: by a compiler, by accelerate, by a package that speeds up.
    replaced = (own.get("forward"), own.get("_compiled_call_impl"))
    return (
        type(module),
        plain_values(own),
        type(attends),
        plain_values(vars(attends)) if hasattr(attends, "__dict__") else None,
        tuple(_code(call) for call in (*replaced, *hooks) if call is not None),
    )


def _code(call: Any) -> int:
    """What a call does, whatever it holds: a hook that is made anew for every run is one hook."""
    call = getattr(call, "func", call)  # of a partial
    call = getattr(call, "__func__", call)
    return serial(getattr(call, "__code__", type(call)))


@dataclass
class Numbers:
    """Which part of a model was the first to give something that is not a number.

    Attributes:
        finite: A flag on the device: whether all that was noted are numbers.
    """

    finite: Tensor | bool = True
    _noted: list[tuple[str, Tensor]] = field(default_factory=list)

    def note(self, part: str, values: Tensor) -> None:
        """Notes what a part gave; nothing is read from the device."""
        good = torch.isfinite(values).all()
        self._noted.append((part, good))
        self.finite = self.finite & good

    def check(self) -> None:
        """That all are numbers; waits for a GPU.

        Raises:
            FloatingPointError: If not; it names the part.
        """
        if not bool(self.finite):
            part = next(part for part, good in self._noted if not good)
            raise FloatingPointError(f"The {part} produced a value that is not a number.")


@dataclass
class Execution:
    """One run's way through the networks.

    Attributes:
        device: Where they run.
        exact: Whether rows must not depend on their company; see the module.
        known: What earlier runs found out.
        check: Whether other sizes than the exact one are tried out. For a network whose single
            pass already fills the device it would cost seconds and win nothing.
        fixed: The exact size, in passes; 0 is that of EXACT_ROWS.
        retries: How often memory ran out and fewer rows went at once.
        largest: Most passes that the denoiser took at once.
        numbers: What the parts gave.
    """

    device: torch.device
    exact: bool = False
    known: Known = field(default_factory=Known)
    check: bool = True
    fixed: int = 0
    retries: int = 0
    largest: int = 0
    numbers: Numbers = field(default_factory=Numbers)
    _begun: bool = False  # whether the denoiser has had a batch of the exact size
    _packs: dict[int, Pack] = field(default_factory=dict)
    _structures: dict[int, tuple[Hashable, torch.dtype]] = field(default_factory=dict)
    _limits: dict[str, int] = field(default_factory=dict)

    def structure_of(self, network: Any) -> tuple[Hashable, torch.dtype]:
        """A network's structure and precision, which are looked up once a run."""
        key = id(network)
        if key not in self._structures:
            self._structures[key] = structure(network), network.dtype
        return self._structures[key]

    def predict(self, part: Part, *rows: Tensor) -> Tensor:
        """The denoiser's predictions, exact if asked for; notes whether they are numbers.

        Raises:
            MemoryError: If memory does not suffice for the smallest batch.
        """
        with packed(self._packs):
            output = torch.cat(self._exact(part, rows) if self.exact else self._pieces(part, rows))
        self.numbers.note(part.name, output)
        return output

    def one_by_one(self, part: Part, *rows: Any) -> list[Any]:
        """A part's results for slices of rows; with `exact` for each row alone."""
        if self.exact:
            self._limits[part.name] = 1
        with packed(self._packs):
            return self._pieces(part, rows)

    def encode(self, part: Part, texts: Sequence[str]) -> Tensor:
        """Conditions of texts; exact ones each alone or, with a `fixed` size, in full batches."""
        if not (self.exact and self.fixed):
            return torch.cat(self.one_by_one(part, list(texts)))
        starts = range(0, len(texts), part.most)
        with packed(self._packs):
            blocks = [self._block(part, [list(texts)], start, part.most) for start in starts]
        return torch.cat(blocks)[: len(texts)]

    # -- as many rows as there is room for -----------------------------------------------------

    def _pieces(self, part: Part, rows: Sequence[Any]) -> list[Any]:
        """Results for consecutive slices of the rows."""
        results, start = [], 0
        while start < len(rows[0]):
            size = self._limit(part, rows)
            results.append(self._call(part, [r[start : start + size] for r in rows]))
            if results[-1] is None:  # memory ran out; the limit is lower now
                results.pop()
                continue
            start += size
        return results

    def _call(self, part: Part, rows: Sequence[Any]) -> Any:
        """The result for rows in one call, or None if memory ran out: there are limits to lower.

        Raises:
            MemoryError: If there was one row only.
        """
        size = len(rows[0])
        try:
            result = self._measured(part, rows)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        else:
            if part.name == "denoiser":
                self.largest = max(self.largest, size)
            return result
        # Out here, because the error's traceback holds the tensors of the failed call.
        if size == 1:
            raise MemoryError(f"Memory does not suffice for the {part.name}: {reason}")
        self.retries += 1
        self._limits[part.name] = size // 2
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    def _limit(self, part: Part, rows: Sequence[Any]) -> int:
        """Rows for the next call, from what a row takes and what was free when the run began."""
        if part.name not in self._limits:
            key, limit = self._shape_key(part, rows), part.most
            if part.estimate is not None and key not in self.known.row_bytes:
                self.known.row_bytes[key] = part.estimate()
            if taken := self.known.row_bytes.get(key):
                most = CALL_BYTES.get(self.device.type, CALL_BYTES["cpu"])
                room = min(ROOM * free_bytes(self.device), most)
                limit = min(limit, max(1, int(room / taken)))
            self._limits[part.name] = limit
        return self._limits[part.name]

    def _measured(self, part: Part, rows: Sequence[Any]) -> Any:
        """A call; the first one of its kind is measured, which replaces the estimate."""
        key = (self._shape_key(part, rows), "measured")
        if part.estimate is None or key in self.known.row_bytes:
            return part.call(*rows)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            before = torch.cuda.memory_allocated(self.device)
            result = part.call(*rows)
            peak = torch.cuda.max_memory_allocated(self.device) - before
        else:
            with PeakBytes() as memory:
                result = part.call(*rows)
            peak = memory.peak
        self.known.row_bytes[key] = self.known.row_bytes[key[0]] = max(1, peak) / len(rows[0])
        return result

    def _shape_key(self, part: Part, rows: Sequence[Any]) -> tuple[Hashable, ...]:
        shapes = tuple((tuple(r.shape[1:]), r.dtype) for r in rows if isinstance(r, Tensor))
        return part.name, part.key, shapes, str(self.device), torch.get_num_threads()

    # -- the same rows in any company ----------------------------------------------------------

    def _exact(self, part: Part, rows: Sequence[Tensor]) -> list[Tensor]:
        """Results whose rows do not depend on how many there are."""
        results, start = [], 0
        fixed = self.fixed or EXACT_ROWS.get(self.device.type, 1)
        while start < len(rows[0]):
            most = max(self._limit(part, rows) // fixed, 1) * fixed  # whole batches
            size = min(most, len(rows[0]) - start)
            some = [r[start : start + size] for r in rows]
            result = self._exact_call(part, some, fixed)
            if result is not None:
                results.append(result)
                start += size
        return results

    def _exact_call(self, part: Part, rows: Sequence[Tensor], fixed: int) -> Tensor | None:
        """Rows in one call if it is known to give those of the fixed size; None without memory."""
        size, key = len(rows[0]), (*self._shape_key(part, rows), fixed, len(rows[0]))
        unknown = self.check and key not in self.known.same_rows
        if unknown and size < fixed:
            self._try(part, rows, fixed, key)
        # The first call of a run lays out the weights for its size, and so is never a smaller one.
        if size != fixed and self.known.same_rows.get(key) and (size > fixed or self._begun):
            return self._call(part, rows)
        blocks = [self._block(part, rows, start, fixed) for start in range(0, size, fixed)]
        self._begun = True
        result = torch.cat(blocks)[:size]
        if unknown and size > fixed:
            whole = self._call(part, rows)
            if whole is not None:  # this waits for a GPU: once for each size, not once a step
                self.known.same_rows[key] = bool(torch.equal(whole, result))
        return result

    def _try(self, part: Part, rows: Sequence[Tensor], fixed: int, key: Hashable) -> None:
        """Notes whether a smaller batch of drawn rows is the beginning of a full one."""
        size, drawn = len(rows[0]), torch.Generator().manual_seed(0)
        full = [_drawn_like(r, fixed, drawn) for r in rows]
        whole, few = self._call(part, full), self._call(part, [r[:size] for r in full])
        self._begun = True
        if whole is not None and few is not None:
            self.known.same_rows[key] = bool(torch.equal(few, whole[:size]))

    def _block(self, part: Part, rows: Sequence[Any], start: int, fixed: int) -> Tensor:
        """One batch of the fixed size, filled up with its last row."""
        some = [r[start : start + fixed] for r in rows]
        missing = fixed - len(some[0])
        if missing:
            some = [_filled(r, missing) for r in some]
        result = self._call(part, some)
        if result is None:  # once more, now that everything that can be freed is
            result = self._call(part, some)
        if result is None:
            raise MemoryError(
                f"Memory does not suffice for the {part.name}: exact needs {fixed} rows at once."
            )
        return result


def _filled(rows: Any, missing: int) -> Any:
    """A tensor or list with its last row so many times more."""
    if isinstance(rows, Tensor):
        return torch.cat([rows, rows[-1:].expand(missing, *rows.shape[1:])])
    return [*rows, *rows[-1:] * missing]


def _drawn_like(rows: Tensor, number: int, drawn: torch.Generator) -> Tensor:
    """So many rows of the same kind: normal numbers, or steps that count up."""
    if not rows.is_floating_point():
        steps = torch.arange(number).view(-1, *[1] * (rows.ndim - 1))
        return steps.expand(number, *rows.shape[1:]).to(rows)
    return torch.randn(number, *rows.shape[1:], generator=drawn).to(rows)
