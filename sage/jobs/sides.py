"""The same model with another scheduler, or with its adapter on, beside the plain one.

A variant shares every weight with the model it is made from, so it costs no memory, and running
one never changes the other: both sides of a comparison can advance step by step in turn, and no
visitor sees a scheduler or an adapter that another one has picked.
"""

import copy
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakKeyDictionary

from torch import nn

from sage.core.settings import settings_of
from sage.jobs.models import LoadedModel
from sage.jobs.request import Request
from sage.sd.adapters import Stamp, adapter_stamp
from sage.sd.pipeline import SagePipeline
from sage.sd.schedulers import make_scheduler

PLAIN = settings_of()["scheduler"].default
# By scheduler and adapter: the files it was made from, and the pipeline.
_Variants = dict[tuple[str, Path | None], tuple[Stamp | None, SagePipeline]]
_made: WeakKeyDictionary[SagePipeline, _Variants] = WeakKeyDictionary()


@dataclass(frozen=True)
class Sides:
    """The pipelines of a comparison.

    As in the paper, what was trained for sharing is judged against the model as it was: only the
    shared side runs with the adapter.

    Attributes:
        shared: The request's scheduler, and the adapter if it asks for it.
        plain: The request's scheduler, never the adapter.
    """

    shared: SagePipeline
    plain: SagePipeline

    @classmethod
    def of(cls, model: LoadedModel, request: Request) -> "Sides":
        """Both sides of a request.

        Raises:
            ValueError: If the model has no adapter and the request asks for it.
        """
        plain = variant(model, request.scheduler)
        shared = variant(model, request.scheduler, request.trained) if request.trained else plain
        return cls(shared, plain)


def variant(model: LoadedModel, scheduler: str = PLAIN, trained: bool = False) -> SagePipeline:
    """A model's pipeline with a scheduler and with or without its adapter; made once.

    An adapter whose files have changed since is read again.

    Args:
        model: The model, as loaded.
        scheduler: A key of `sage.core.settings.SCHEDULERS`; the default is what the model brings.
        trained: Whether the model's adapter, trained for sharing, is on.

    Raises:
        ValueError: If the model has no adapter, or it does not fit.
    """
    adapter = adapter_of(model) if trained else None
    if scheduler == PLAIN and adapter is None:
        return model.pipe
    made = _made.setdefault(model.pipe, {})
    stamp = None if adapter is None else adapter_stamp(adapter)
    before, pipe = made.get((scheduler, adapter), (None, None))
    if pipe is None or before != stamp:
        pipe = _make(model.pipe, scheduler, adapter)
        made[scheduler, adapter] = stamp, pipe
    return pipe


def adapter_of(model: LoadedModel) -> Path:
    """Where a model's adapter for sharing lies.

    Raises:
        ValueError: If it has none.
    """
    adapter = model.spec.adapter
    if adapter is None:
        raise ValueError(f"{model.spec.title} has no adapter that was trained for sharing.")
    return Path(adapter)


def _make(pipe: SagePipeline, scheduler: str, adapter: Path | None) -> SagePipeline:
    twin = copy.copy(pipe)
    if scheduler != PLAIN:
        setattr(twin, "scheduler", make_scheduler(scheduler, like=pipe.scheduler))  # noqa: B010
    if adapter is not None:
        # Both halves: an adapter may change the text encoder too.
        twin.unet = _same_weights(pipe.unet)
        twin.text_encoder = _same_weights(pipe.text_encoder)
        twin.use_lora(adapter)
    return twin


def _same_weights(network: nn.Module) -> nn.Module:
    """A network of its own whose parameters and buffers are those of another one."""
    shared = [*network.parameters(), *network.buffers()]
    return copy.deepcopy(network, {id(tensor): tensor for tensor in shared})
