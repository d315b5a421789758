"""Runs units of work on a Ray cluster, with Ray Data: an actor for each GPU or each n cores.

A unit is one row of a data set, so no group is ever torn apart, and goes through `map_batches` with
an actor pool; Ray sends the rows of a lost actor or node again, and holds back what the writing
process cannot yet take. Pictures come back to that process: the nodes need no common disk.
"""

import logging
import os
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import sage
from sage.core.words import plural
from sage.render.work import DamagedError, Rendered, Unit
from sage.render.worker import Recipe, Worker

ROOT = Path(sage.__file__).resolve().parents[1]
NOT_SHIPPED = (".git", ".cache", "tests", "assets/results", "assets/ui", "**/__pycache__")
ATTEMPTS = 3  # of a unit that arrives damaged
OLDEST = (2, 40)
INSTALL = "pip install 'ray[data]>=2.40,<3'"


def connect(address: str) -> str:
    """Joins a cluster, or starts one on this machine.

    Args:
        address: "local", "auto" (the cluster this machine belongs to), or an address.

    Returns:
        The cluster in words.

    Raises:
        ValueError: If Ray is not installed or there is no such cluster.
    """
    try:
        import ray.data
    except ImportError as error:
        raise ValueError(f"Ray Data is not installed ({error}); `{INSTALL}`.") from None
    if tuple(map(int, ray.__version__.split(".")[:2])) < OLDEST:
        raise ValueError(f"Ray is {ray.__version__}, which is too old; `{INSTALL}`.")
    if not ray.is_initialized():
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if address == "local":
            options |= {"address": "local", "include_dashboard": False}
        else:  # other machines get this code and the built-in model
            ship = {"working_dir": str(ROOT), "excludes": list(NOT_SHIPPED)}
            options |= {"address": address, "runtime_env": ship}
        try:
            ray.init(**options)
        except Exception as error:  # Ray has many kinds for what can be wrong with an address
            reason = (str(error) or type(error).__name__).splitlines()[0][:200]
            raise ValueError(f"There is no Ray cluster at {address!r}: {reason}{_ask()}") from error
    resources = ray.cluster_resources()
    nodes = sum(node["Alive"] for node in ray.nodes())
    return (
        f"Ray cluster of {plural(nodes, 'node')}, {resources.get('CPU', 0):.0f} cores, "
        f"{resources.get('GPU', 0):.0f} GPUs"
    )


def _ask() -> str:
    """Where Ray may have been refused: it brings its token to `auto` only, unless it is told to."""
    if "RAY_AUTH_MODE" in os.environ:
        return ""
    return ". If it asks for a token, set RAY_AUTH_MODE=token."


def actors(device: str, workers: int | None, threads: int) -> tuple[str, int]:
    """The device of every actor, and how many actors there are.

    Args:
        device: "auto", "cpu" or "cuda".
        workers: How many; by default one for each GPU, or for each `threads` cores.
        threads: Cores of an actor without a GPU.

    Raises:
        ValueError: If the cluster has no such device.
    """
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    if device == "auto":
        device = "cuda" if gpus else "cpu"
    if device not in ("cpu", "cuda"):
        raise ValueError(f"The device is {device!r}; on a cluster allowed are auto, cpu and cuda.")
    # An actor's cores are all on one node.
    cores = sum(int(node.get("CPU", 0)) // threads for node in nodes)
    room = gpus if device == "cuda" else cores
    if not room:
        need = "a GPU" if device == "cuda" else plural(threads, "core")
        raise ValueError(f"No node of the cluster has {need}.")
    return device, min(workers or room, room)


def run_on_cluster(
    recipe: Recipe, device: str, number: int, messages: Sequence[bytes]
) -> Generator[Rendered, None, None]:
    """Renders units on the cluster this process has joined; finished ones come in any order.

    Args:
        recipe: How.
        device: "cpu" or "cuda", of every actor.
        number: Most actors.
        messages: The units.

    Raises:
        DamagedError: If a unit arrives damaged again and again.
        RuntimeError: If no actor can be started or Ray gives up.
    """
    left = list(messages)
    for _ in range(ATTEMPTS):
        arrived = set()
        for rendered in _pass(recipe, device, number, left):
            if not rendered.damaged:
                arrived.add(rendered.number)
                yield rendered
        left = [message for message in left if Unit.from_bytes(message).number not in arrived]
        if not left:
            return
    raise DamagedError(f"{len(left)} units of work arrived damaged {ATTEMPTS} times.")


def _pass(
    recipe: Recipe, device: str, number: int, messages: Sequence[bytes]
) -> Generator[Rendered, None, None]:
    """All units through the cluster once."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # Neighbouring units to different actors; one unit a block, so that little is done again.
    units = ray.data.from_items([{"unit": m} for m in messages], override_num_blocks=len(messages))
    cores, gpus = (1, 1) if device == "cuda" else (recipe.threads, 0)
    done = units.map_batches(
        _Actor,
        batch_size=1,
        num_cpus=cores,
        num_gpus=gpus,
        fn_constructor_args=(recipe, device),
        # From one on: a cluster that has lost a node goes on with fewer.
        compute=ray.data.ActorPoolStrategy(
            min_size=1, max_size=number, max_tasks_in_flight_per_actor=2
        ),
    )
    try:
        for batch in done.iter_batches(batch_size=1, prefetch_batches=1, batch_format="numpy"):
            for message in batch["pictures"]:
                yield Rendered.from_bytes(message)
    except Exception as error:  # whatever Ray makes of what happened on a node
        said = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = said[-1] if said else type(error).__name__  # a trace of the node comes before
        raise RuntimeError(f"Ray gave up: {reason[:300]}") from error


class _Actor:
    """A worker as Ray Data wants it."""

    def __init__(self, recipe: Recipe, device: str) -> None:
        self.worker = Worker(recipe, device)  # Ray shows an actor its own GPU only, as cuda:0

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        answers = np.empty(len(batch["unit"]), object)
        for n, message in enumerate(batch["unit"]):
            answers[n] = self.worker.answer(bytes(message))
        return {"pictures": answers}
