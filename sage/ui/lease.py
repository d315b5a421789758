"""Where rendering runs: in a lease of Hugging Face's shared GPUs, or in place everywhere else.

On ZeroGPU, CUDA exists only inside a function that `spaces.GPU` has wrapped. It runs in a forked
process, so what goes in and what comes out is pickled: models go by their key, tensors come back
on the CPU, and what was computed for later stays with that process. Elsewhere nothing is wrapped.
"""

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any, Protocol

from torch import Tensor

from sage.jobs.models import LoadedModel, zero_gpu
from sage.sd.store import StateStore
from sage.ui.server.limits import BOUNDS

Work = Callable[..., Iterator[Any]]  # takes a LoadedModel first; a function of a module

# A lease is asked for in advance, and a visitor's quota is charged for what was used: too short
# ends a run, too long waits longer for a place. Deliberately slow: half an RTX PRO 6000 does more.
FLOPS_A_SECOND = 25e12
START_SECONDS, LONGEST_SECONDS = 12.0, 120.0


def lease_seconds(flops: float) -> int:
    """How long a lease to ask for: moving the model to the GPU, and the work.

    Args:
        flops: Of the work, counted.
    """
    return round(min(LONGEST_SECONDS, START_SECONDS + flops / FLOPS_A_SECOND))


class Models(Protocol):
    """Where a lease finds its models: the part of `sage.ui.shelf.Shelf` that it needs."""

    def get(self, key: str) -> LoadedModel:
        """The model; loads it first if need be."""
        ...

    def for_run(self, key: str) -> LoadedModel:
        """The model, once nothing else computes that a run would be measured beside."""
        ...

    def loaded(self, key: str) -> LoadedModel | None:
        """The model, if it is there already."""
        ...


class Lease:
    """Runs generators on the models of a shelf.

    Args:
        shelf: The models.
    """

    def __init__(self, shelf: Models) -> None:
        self._shelf = shelf
        self._kept = StateStore(BOUNDS.lease_store_bytes)
        self._remote = self._leased() if zero_gpu() else None

    def run(
        self, work: Work, key: str, *arguments: Any, flops: float, **options: Any
    ) -> Iterator[Any]:
        """What `work(model, *arguments, **options)` yields.

        Args:
            work: A generator function of a module, e.g. `sage.jobs.compare.compare`.
            key: Of the model.
            arguments: Plain values; `keep`, a StateStore, may be among the options.
            flops: Of the work, counted; only the length of a lease depends on it.
            options: Further arguments.

        Raises:
            ValueError: If the model cannot be loaded.
        """
        if self._remote is None:
            return work(self._shelf.for_run(key), *arguments, **options)
        return self._remote(work, key, arguments, options | _kept_there(options), flops)

    def _leased(self) -> Work:
        from spaces import GPU

        def seconds(*arguments: Any) -> int:
            return lease_seconds(arguments[-1])

        return GPU(self.remote, duration=seconds)

    def remote(
        self, work: Work, key: str, arguments: tuple, options: dict[str, Any], flops: float
    ) -> Iterator[Any]:
        """The work as it runs in the leased process; `flops` is for the length of the lease."""
        if "keep" in options:
            options = options | {"keep": self._kept}  # lives as long as the process does
        # No lock where it can be helped: another thread may hold it at the moment of the fork.
        model = self._shelf.loaded(key) or self._shelf.get(key)
        for item in work(_on_gpu(model), *arguments, **options):
            yield portable(item)


def _kept_there(options: dict[str, Any]) -> dict[str, Any]:
    """A store cannot travel; the other process has its own."""
    return {"keep": None} if "keep" in options else {}


def _on_gpu(model: LoadedModel) -> LoadedModel:
    """A model whose encoder for similarity, on the CPU outside of leases, is with the rest."""
    if model.pipe.clip is not None:
        model.pipe.clip.to(model.pipe.device)
    return model


def portable(value: Any) -> Any:
    """A value with every tensor inside it on the CPU, so that another process can read it."""
    if isinstance(value, Tensor):
        return value.cpu()
    if isinstance(value, dict):
        return {key: portable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)) and any(map(_holds_tensors, value)):
        return type(value)(map(portable, value))
    if is_dataclass(value) and not isinstance(value, type) and _holds_tensors(value):
        changes = {field.name: portable(getattr(value, field.name)) for field in fields(value)}
        return replace(value, **changes)
    return value


def _holds_tensors(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_holds_tensors, value.values()))
    if isinstance(value, (list, tuple)):
        return any(map(_holds_tensors, value))
    if is_dataclass(value) and not isinstance(value, type):
        return any(_holds_tensors(getattr(value, field.name)) for field in fields(value))
    return isinstance(value, Tensor)
