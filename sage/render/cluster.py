"""Runs units of work on a Ray cluster, with Ray Data: an actor for each GPU or each n cores.

A unit is one row of a data set, so no group is ever torn apart, and goes through `map_batches` with
an actor pool; Ray sends the rows of a lost actor or node again, and holds back what the writing
process cannot yet take. It would do so without end for a unit that ends its actor: so actors tell a
register what they begin, and do not begin what has ended STRIKES actors on nodes that are still
there; what was lost goes through again in pieces. Pictures come back to the writing process: the
nodes need no common disk.
"""

import logging
import os
import socket
from collections import Counter
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import sage
from sage.core.words import plural
from sage.render.pieces import IN_VAIN, Pieces
from sage.render.register import STRIKES_IN_VAIN, Register, lost_nodes
from sage.render.work import DamagedError, Rendered, Unit
from sage.render.worker import OutOfMemory, Recipe

ROOT = Path(sage.__file__).resolve().parents[1]
NOT_SHIPPED = (".git", ".cache", "tests", "assets/results", "assets/ui", "**/__pycache__")
ANSWER_SECONDS = 10  # for a connection to a cluster
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
            _check_that_something_answers(address)
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


def _check_that_something_answers(address: str) -> None:
    """That a connection can be made to where a cluster is said to be; Ray tries for minutes.

    Raises:
        ValueError: If not.
    """
    where = address
    if address == "auto":  # Ray's own order; its file stays behind a cluster that was killed
        from ray._private.utils import read_ray_address

        where = os.environ.get("RAY_ADDRESS") or read_ray_address() or ""
    host, colon, port = where.rpartition(":")
    if not (host and colon and port.isdecimal()) or "://" in where:
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS).close()
    except OSError as error:
        reason = f"nothing answers at {where} ({error.strerror or error})"
        raise ValueError(f"There is no Ray cluster at {address!r}: {reason}.") from None


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
        OutOfMemory: If actors die of everything.
        RuntimeError: If no actor can be started or Ray gives up.
    """
    left, pieces, outcomes = list(messages), Pieces(messages), Counter[str]()
    while left:
        waiting = {Unit.from_bytes(message).number: message for message in left}
        torn: list[Unit] = []
        for rendered in _pass(recipe, device, number, left):
            if rendered.damaged:
                continue
            unit = Unit.from_bytes(waiting.pop(rendered.number))
            outcomes["lost" if rendered.lost else "finished"] += 1
            if not outcomes["finished"] and outcomes["lost"] >= STRIKES_IN_VAIN * number:
                raise OutOfMemory(IN_VAIN)
            instead = pieces.tear(unit) if rendered.lost else []
            torn += instead
            if not instead:
                yield from pieces.whole(rendered)
        outcomes["damaged"] += bool(waiting)
        if outcomes["damaged"] >= ATTEMPTS:
            raise DamagedError(f"{len(waiting)} units of work arrived damaged {ATTEMPTS} times.")
        left = [*waiting.values(), *(unit.to_bytes() for unit in torn)]


def _pass(
    recipe: Recipe, device: str, number: int, messages: Sequence[bytes]
) -> Generator[Rendered, None, None]:
    """All units through the cluster once; those that end their actors come back as lost."""
    import ray.data

    from sage.render.actor import Actor

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # Neighbouring units to different actors; one unit a block, so that little is done again.
    units = ray.data.from_items([{"unit": m} for m in messages], override_num_blocks=len(messages))
    cores, gpus = (1, 1) if device == "cuda" else (recipe.threads, 0)
    done = units.map_batches(
        Actor,
        batch_size=1,
        num_cpus=cores,
        num_gpus=gpus,
        fn_constructor_args=(recipe, device, _register()),
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


def _register() -> Any:
    """A register as an actor of Ray, on this process's node, where no unit is rendered beside."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    remote: Any = ray.remote(Register)
    return remote.options(
        num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=here
    ).remote(lost_nodes)
