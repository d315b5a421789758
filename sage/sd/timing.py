"""Measures how long the stages of a run take: CUDA events on a GPU, a monotonic clock elsewhere.

A step in which trunks and branches advance in one batch is divided by its rows.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from sage.core.cost import Stages

STAGES = ("encode", "trunk", "branches", "decode")


class StageSeconds(Stages):
    """Seconds of a run by stage."""


Mark = float | torch.cuda.Event


@dataclass
class StageClock:
    """Collects measured spans; reads them only at the end, so that a GPU is never waited for."""

    device: torch.device
    spans: list[tuple[dict[str, float], Mark, Mark]] = field(default_factory=list)

    @contextmanager
    def measure(self, shares: dict[str, float]) -> Iterator[None]:
        """Times what happens inside.

        Args:
            shares: How the time is divided among the stages; the values sum to 1.
        """
        start = self._mark()
        yield
        self.spans.append((shares, start, self._mark()))

    def read(self) -> StageSeconds:
        """Seconds by stage; on a GPU this waits for the work to end."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        seconds: dict[str, float] = dict.fromkeys(STAGES, 0.0)
        for shares, start, stop in self.spans:
            for stage, share in shares.items():
                seconds[stage] += share * _between(start, stop)
        return StageSeconds(**seconds)

    def _mark(self) -> Mark:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event


def _between(start: Any, stop: Any) -> float:
    """Seconds between two marks of one kind."""
    if isinstance(start, float):
        return stop - start
    return start.elapsed_time(stop) / 1000  # CUDA events count milliseconds
