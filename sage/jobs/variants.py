"""The same model with another scheduler, or with its adapter on, beside the plain one.

A variant shares every weight with the model it is made from, so it costs no memory, and running
one never changes the other: both sides of a comparison can advance step by step in turn, and no
visitor sees a scheduler or an adapter that another one has picked.
"""

import copy
from pathlib import Path
from weakref import WeakKeyDictionary

from torch import nn

from sage.jobs.models import LoadedModel
from sage.jobs.request import CHOICES, Request
from sage.sd.pipeline import SagePipeline

PLAIN = CHOICES["scheduler"].default
_made: WeakKeyDictionary[SagePipeline, dict[tuple[str, Path | None], SagePipeline]] = (
    WeakKeyDictionary()
)


def variant(model: LoadedModel, scheduler: str = PLAIN, trained: bool = False) -> SagePipeline:
    """A model's pipeline with a scheduler and with or without its adapter; made once.

    Args:
        model: The model, as loaded.
        scheduler: A key of `sage.sd.schedulers.SCHEDULERS`; the default is what the model brings.
        trained: Whether the model's adapter, trained for sharing, is on.

    Raises:
        ValueError: If the model has no adapter, or it does not fit.
    """
    adapter = _adapter(model) if trained else None
    if scheduler == PLAIN and adapter is None:
        return model.pipe
    made = _made.setdefault(model.pipe, {})
    if (scheduler, adapter) not in made:
        made[scheduler, adapter] = _make(model.pipe, scheduler, adapter)
    return made[scheduler, adapter]


def shared_side(model: LoadedModel, request: Request) -> SagePipeline:
    """The pipeline of the shared side: the request's scheduler, and the adapter if asked for."""
    return variant(model, request.scheduler, request.trained)


def plain_side(model: LoadedModel, request: Request) -> SagePipeline:
    """The pipeline of the independent sides: the request's scheduler, never the adapter.

    As in the paper: what was trained for sharing is judged against the model as it was.
    """
    return variant(model, request.scheduler)


def _adapter(model: LoadedModel) -> Path:
    adapter = model.spec.adapter
    if adapter is None:
        raise ValueError(f"{model.spec.title} has no adapter that was trained for sharing.")
    return Path(adapter)


def _make(pipe: SagePipeline, scheduler: str, adapter: Path | None) -> SagePipeline:
    twin = copy.copy(pipe)
    if scheduler != PLAIN:
        from sage.sd.schedulers import make_scheduler

        twin.scheduler = make_scheduler(scheduler, like=pipe.scheduler)
    if adapter is not None:
        twin.unet = _same_weights(pipe.unet)
        twin.use_lora(adapter)
    return twin


def _same_weights(network: nn.Module) -> nn.Module:
    """A network of its own whose parameters and buffers are those of another one."""
    shared = [*network.parameters(), *network.buffers()]
    return copy.deepcopy(network, {id(tensor): tensor for tensor in shared})
