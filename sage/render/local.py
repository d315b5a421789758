"""Runs units of work on this machine: in this process, or in several that are its children.

Children compute and send back; they write nothing, and end when this process does, however it
ends. If one of them dies, the units that were on their way are sent again, one at a time, so that a
unit that kills its process is found, and then in pieces, so that only a prompt that does fails.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, SpawnContext
from typing import Any

import torch

from sage.jobs.models import device_of
from sage.render.pieces import IN_VAIN, Pieces
from sage.render.register import STRIKES, STRIKES_IN_VAIN
from sage.render.work import DIED, Rendered, Unit, failed
from sage.render.worker import OutOfMemory, Recipe, Worker

AHEAD = 2  # units for each process that are sent before they are needed


def devices(device: str, workers: int | None, threads: int) -> list[str]:
    """A device for each worker.

    Args:
        device: "auto", "cpu", "cuda" (all of them) or "cuda:N".
        workers: How many; by default one for each GPU, or for each `threads` cores.
        threads: Of the CPU, for each worker.

    Raises:
        ValueError: If there is no such device.
    """
    found = device_of(device)
    if found.type == "cpu":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        return ["cpu"] * (workers or max(1, (cores or 1) // threads))
    every = range(torch.cuda.device_count()) if found.index is None else [found.index]
    names = [f"cuda:{n}" for n in every]
    return [names[n % len(names)] for n in range(workers or len(names))]


def run_here(worker: Worker, messages: Sequence[bytes]) -> Generator[Rendered, None, None]:
    """Renders units one after the other in this process."""
    for message in messages:
        yield worker.render(Unit.from_bytes(message))


def run_in_processes(
    recipe: Recipe, devices: Sequence[str], messages: Sequence[bytes]
) -> Generator[Rendered, None, None]:
    """Renders units in a process for each device; finished ones come in any order.

    Args:
        recipe: How.
        devices: One for each process.
        messages: The units.

    Raises:
        OutOfMemory: If a device has no room.
    """
    pool = _Pool(recipe, devices)
    try:
        yield from _Dispatch(pool, messages).results()
    finally:
        pool.close()


class _Pool:
    """Processes that each hold a model; made anew when one of them has died."""

    def __init__(self, recipe: Recipe, devices: Sequence[str]) -> None:
        self.recipe, self.devices = recipe, devices
        self.executor = self._start()

    def _start(self) -> ProcessPoolExecutor:
        context = _context(self.devices)
        free = context.SimpleQueue()
        for device in self.devices:
            free.put(device)
        ended, self.leash = context.Pipe(duplex=False)
        arguments = (self.recipe, free, ended)
        return ProcessPoolExecutor(
            len(self.devices), context, initializer=_begin, initargs=arguments
        )

    def restart(self) -> None:
        self.close()
        self.executor = self._start()

    def close(self) -> None:
        self.executor.shutdown(wait=False, cancel_futures=True)
        self.leash.close()  # ends them at once, in the middle of a unit: nobody waits for it

    def submit(self, message: bytes) -> "Future[bytes]":
        # A process may start here. Ctrl-C goes to all of them, and the parent decides what happens;
        # what is blocked here is blocked in a child from its beginning on.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return self.executor.submit(_answer, message)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _context(devices: Sequence[str]) -> SpawnContext | ForkServerContext:
    """How processes start: as forks of one that has imported everything and computes nothing.

    CUDA does not survive a fork.
    """
    if sys.platform == "linux" and set(devices) == {"cpu"}:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        return context
    return multiprocessing.get_context("spawn")


class _Dispatch:
    """Which units wait, which are on their way, and which are suspected of killing processes."""

    def __init__(self, pool: _Pool, messages: Sequence[bytes]) -> None:
        self.pool, self.pieces = pool, Pieces(messages)
        self.waiting, self.suspects = deque(messages), deque[bytes]()
        self.strikes: dict[bytes, int] = {}
        self.flying: dict[Future[bytes], bytes] = {}
        self.finished = self.lost = 0

    def results(self) -> Generator[Rendered, None, None]:
        while self.waiting or self.suspects or self.flying:
            try:
                self._send()
                done, _ = wait(self.flying, return_when=FIRST_COMPLETED)
                for future in done:
                    rendered = Rendered.from_bytes(future.result())
                    del self.flying[future]
                    self.finished += 1
                    yield from self.pieces.whole(rendered)
            except BrokenProcessPool:
                yield from self._after_a_death()

    def _send(self) -> None:
        """Keeps every process busy; suspects go alone."""
        if self.suspects:
            if not self.flying:
                message = self.suspects.popleft()
                self.flying[self._submitted(message, self.suspects)] = message
            return
        while self.waiting and len(self.flying) < AHEAD * len(self.pool.devices):
            message = self.waiting.popleft()
            self.flying[self._submitted(message, self.waiting)] = message

    def _submitted(self, message: bytes, back: "deque[bytes]") -> "Future[bytes]":
        try:
            return self.pool.submit(message)
        except BrokenProcessPool:
            back.appendleft(message)
            raise

    def _after_a_death(self) -> Generator[Rendered, None, None]:
        """Keeps what had arrived, counts against a unit that was alone, and starts anew."""
        lost = []
        for future, message in self.flying.items():
            if future.done() and not future.cancelled() and future.exception() is None:
                self.finished += 1
                yield from self.pieces.whole(Rendered.from_bytes(future.result()))
            else:
                lost.append(message)
        self.flying.clear()
        for message in lost:
            # Whoever is alone is to blame.
            self.strikes[message] = self.strikes.get(message, 0) + (len(lost) == 1)
            if self.strikes[message] >= STRIKES:
                yield from self._lost(Unit.from_bytes(message))
            else:
                self.suspects.append(message)
        if not self.finished and self.lost >= STRIKES_IN_VAIN:
            raise OutOfMemory(IN_VAIN)
        self.pool.restart()

    def _lost(self, unit: Unit) -> Generator[Rendered, None, None]:
        """Its pieces are suspects now; a single prompt has failed."""
        self.lost += 1
        pieces = self.pieces.tear(unit)
        self.suspects.extend(piece.to_bytes() for piece in pieces)
        if not pieces:
            yield from self.pieces.whole(failed(unit, DIED))


# -- in a child ----------------------------------------------------------------------------------

_worker: Worker | None = None
_problem: Exception | None = None


def _begin(recipe: Recipe, free: Any, ended: Connection) -> None:
    """Loads the model once, and sees to it that this process does not outlive its parent."""
    global _worker, _problem  # noqa: PLW0603 - a process of a pool has no other place for state
    threading.Thread(target=_end_with_parent, args=(ended,), daemon=True).start()
    try:
        _worker = Worker(recipe, free.get())
    except (OSError, ValueError, RuntimeError) as error:
        _problem = error  # raised from here it would look as if the process had died


def _end_with_parent(ended: Connection) -> None:
    """Waits until the parent is gone, or has closed its end."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel, ended])
        os._exit(1)


def _answer(message: bytes) -> bytes:
    if _worker is None:
        raise _problem or RuntimeError("The worker has no model.")
    return _worker.answer(message)
