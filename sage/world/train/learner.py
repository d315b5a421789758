"""The one training loop: mixed precision, EMA, warm-up and cosine, exact resume, logs.

A task says what to learn (model, batch, loss); this file knows how, and nothing of scenes.
Every step draws its batch and noise from generators seeded with (seed, step), so a run that is
interrupted and resumed sees the same numbers as one that is not.
"""

import json
import math
import os
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from threading import Event
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from sage.sd.foreign import Network
from sage.world.train.data import ahead
from sage.world.train.muon import Muon

LOG_EVERY = 50


@dataclass(frozen=True)
class Settings:
    """How long and how to learn; either ``minutes`` or ``steps`` ends a run."""

    batch: int
    rate: float
    minutes: float | None = None
    steps: int | None = None
    seed: int = 0
    warmup: int = 200
    decay: float = 0.01  # AdamW's weight decay
    betas: tuple[float, float] = (0.9, 0.99)
    ema: float = 0.999
    muon: bool = True  # matrices learn by Muon, everything else by AdamW
    last_rate: float = 0.03  # of the peak, where the cosine ends
    save_minutes: float = 4.0
    workers: int = 0  # processes that make batches ahead

    def __post_init__(self) -> None:
        if (self.minutes is None) == (self.steps is None):
            raise ValueError(
                f"minutes is {self.minutes} and steps is {self.steps}; give exactly one of them"
            )


class Task(Protocol):
    """What a stage learns; one with an attribute `progress` is told how much of it is done."""

    name: str
    model: Network

    def batch(self, rng: np.random.Generator, size: int) -> tuple:
        """A batch as numpy arrays, tensors or plain values."""
        ...

    def loss(self, batch: tuple, noise: torch.Generator) -> dict[str, Tensor]:
        """Scalars by name; the one called "loss" is minimised."""
        ...


class Learner:
    """Weights of a task in three copies: bfloat16 to compute, float32 to learn, their average.

    Pure bfloat16 arithmetic is four times faster than autocast on a CPU with matrix units; the
    float32 copy keeps the small updates that bfloat16 would round away.
    """

    def __init__(self, task: Task, settings: Settings, device: torch.device) -> None:
        self.task, self.settings, self.device = task, settings, device
        task.model.to(device=device, dtype=torch.float32).train()
        self.names, self.live = zip(
            *((n, p) for n, p in task.model.named_parameters() if p.requires_grad), strict=True
        )
        self.master = [
            _flat(n, p.detach()).clone() for n, p in zip(self.names, self.live, strict=True)
        ]
        self.average = [p.clone() for p in self.master]
        for master in self.master:
            master.grad = torch.zeros_like(master)
        self.optimizers = _optimizers(self.names, self.master, settings)
        self.step, self.seconds = 0, 0.0
        task.model.bfloat16()

    @property
    def progress(self) -> float:
        """How much of the run is done, 0 to 1: by steps, or by time spent."""
        if self.settings.steps is not None:
            return self.step / self.settings.steps
        return self.seconds / (60 * (self.settings.minutes or 0))

    @property
    def rate(self) -> float:
        """Learning rate now: linear warm-up, then a cosine down to ``last_rate`` of the peak."""
        s = self.settings
        warm = min(1.0, (self.step + 1) / s.warmup)
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, self.progress)))
        return s.rate * warm * (s.last_rate + (1 - s.last_rate) * cosine)

    def batch(self, step: int) -> tuple[int, tuple]:
        """A seed for a step's noise, and its batch."""
        rng = np.random.default_rng((self.settings.seed, step))
        return int(rng.integers(2**62)), self.task.batch(rng, self.settings.batch)

    def batches(self) -> Iterator[tuple[int, tuple]]:
        """The batches from this step on."""
        return ahead(self.batch, count(self.step), self.settings.workers)

    def learn(self, batches: Iterator[tuple[int, tuple]] | None = None) -> dict[str, Tensor]:
        """One step; returns the task's scalars, still on the device."""
        start = time.monotonic()
        seed, batch = self.batch(self.step) if batches is None else next(batches)
        noise = torch.Generator(self.device).manual_seed(seed)
        if hasattr(self.task, "progress"):
            setattr(self.task, "progress", self.progress)  # noqa: B010
        scalars = self.task.loss(batch, noise)
        scalars["loss"].backward()
        self._update()
        self.step += 1
        self.seconds += time.monotonic() - start
        return {name: value.detach() for name, value in scalars.items()}

    @torch.no_grad()
    def _update(self) -> None:
        self._take_gradients()
        nn.utils.clip_grad_norm_(self.master, 1.0)
        for optimizer in self.optimizers:
            optimizer.param_groups[0]["lr"] = self.rate
            optimizer.step()
        self._publish()
        # A young average follows quickly, so that early checkpoints are of use.
        keep = min(self.settings.ema, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.average, self.master, 1 - keep)

    def _take_gradients(self) -> None:
        """The live weights' gradients, in float32; all at once, as a GPU waits for single ones."""
        mine, theirs = [], []
        for name, master, live in zip(self.names, self.master, self.live, strict=True):
            grad = cast(Tensor, master.grad)
            if live.grad is None:
                grad.zero_()
            else:
                mine.append(grad)
                theirs.append(_flat(name, live.grad))
            live.grad = None
        if mine:
            torch._foreach_copy_(mine, theirs)

    def _publish(self) -> None:
        torch._foreach_copy_(
            [_flat(n, p.data) for n, p in zip(self.names, self.live, strict=True)], self.master
        )

    def state(self) -> dict[str, Any]:
        """Everything a later process needs to go on."""
        return {
            "master": self._named(self.master),
            "average": self._named(self.average),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "seconds": self.seconds,
        }

    def _named(self, values: list[Tensor]) -> dict[str, Tensor]:
        shaped = (v.view(p.shape) for v, p in zip(values, self.live, strict=True))
        return dict(zip(self.names, shaped, strict=True))

    @torch.no_grad()
    def restore(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state`.

        Raises:
            ValueError: if the state is of another network.
        """
        if set(state["master"]) != set(self.names):
            raise ValueError(f"the checkpoint of {self.task.name!r} is of another network")
        for mine, saved in ((self.master, "master"), (self.average, "average")):
            torch._foreach_copy_(mine, [_flat(n, state[saved][n]) for n in self.names])
        self._publish()
        # Weights that were brought from elsewhere come without the optimizers' memory.
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=False):
            optimizer.load_state_dict(saved)
        self.step, self.seconds = state["step"], state["seconds"]


def _is_matrix(name: str, shape: torch.Size) -> bool:
    """Whether Muon learns a weight: a dense matrix that is neither a table nor a thin edge."""
    return len(shape) > 1 and min(shape[0], shape[1:].numel()) >= 16 and "embedding" not in name


def _flat(name: str, weight: Tensor) -> Tensor:
    """A view of a weight: [out, in · kernel] where Muon learns it, else as it is."""
    return weight.flatten(1) if _is_matrix(name, weight.shape) else weight


def _optimizers(
    names: tuple[str, ...], weights: list[Tensor], settings: Settings
) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al. 2024) for matrices, scaled so that it shares AdamW's learning rate."""
    dense = [settings.muon and _is_matrix(n, w.shape) for n, w in zip(names, weights, strict=True)]
    common: dict[str, Any] = {"lr": settings.rate, "weight_decay": settings.decay}
    matrices = [w for w, yes in zip(weights, dense, strict=True) if yes]
    others = [w for w, yes in zip(weights, dense, strict=True) if not yes]
    made: list[torch.optim.Optimizer] = []
    if matrices:
        made.append(Muon(matrices, **common))
    if others:
        made.append(torch.optim.AdamW(others, betas=settings.betas, fused=True, **common))
    return made


def checkpoint(out: Path, name: str) -> Path:
    """Where a stage keeps its checkpoint."""
    return out / f"{name}.ckpt"


def save(learner: Learner, out: Path) -> None:
    """Write a checkpoint in one piece: a reader sees the old one or the new one."""
    path = checkpoint(out, learner.task.name)
    new = path.with_suffix(".new")
    torch.save(learner.state(), new)
    os.replace(new, path)


def load_state(out: Path, name: str) -> dict[str, Any]:
    """A stage's checkpoint, on the CPU.

    Raises:
        FileNotFoundError: if the stage has not been trained in ``out``.
    """
    path = checkpoint(out, name)
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; train the stage {name!r} first")
    return torch.load(path, map_location="cpu", weights_only=True)


def averaged(model: Network, out: Path, name: str) -> Network:
    """``model`` with the averaged weights of a stage's checkpoint, ready for use."""
    model.load_state_dict(load_state(out, name)["average"], strict=False)
    return model.float().eval().requires_grad_(False)


def train(
    task: Task,
    settings: Settings,
    out: Path,
    device: torch.device,
    *,
    resume: bool,
    saved: Callable[[], None] | None = None,
) -> Learner:
    """Learn until the minutes or steps are up; checkpoints and a log appear in ``out``.

    Args:
        task: What to learn.
        settings: How.
        out: Folder.
        device: Where.
        resume: Go on from the checkpoint (if there is one); time spent before counts towards
            the minutes.
        saved: Called after every checkpoint.
    """
    out.mkdir(parents=True, exist_ok=True)
    learner = Learner(task, settings, device)
    if resume and checkpoint(out, task.name).exists():
        learner.restore(load_state(out, task.name))
    log = out / f"{task.name}.jsonl"
    if not learner.step:
        log.unlink(missing_ok=True)
    with tqdm(total=100, desc=task.name, unit="%", mininterval=5) as bar, _end_asked() as asked:
        _loop(learner, Report(log, bar), partial(_save, learner, out, saved), asked)
    save(learner, out)
    if asked.is_set():
        raise SystemExit(f"{task.name} was asked to end at step {learner.step}; all is saved")
    return learner


def _save(learner: Learner, out: Path, saved: Callable[[], None] | None) -> None:
    save(learner, out)
    if saved:
        saved()


@contextmanager
def _end_asked() -> Iterator[Event]:
    """Set when the system asks the process to end, so that it can save what it has."""
    asked = Event()
    before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)


@dataclass(frozen=True)
class Report:
    """Where a run's progress is written."""

    log: Path
    bar: tqdm

    def line(self, learner: Learner, record: dict[str, float]) -> None:
        """One line of the log: means since the last one."""
        _write(self.log, learner, record)
        self.bar.set_postfix({k: f"{v:.3f}" for k, v in record.items()}, step=learner.step)

    def advance(self, progress: float) -> None:
        """Move the bar to a share of the run."""
        self.bar.update(round(100 * min(1, progress), 2) - self.bar.n)


def _loop(learner: Learner, report: Report, keep: Callable[[], None], asked: Event) -> None:
    sums: dict[str, Tensor | float] = defaultdict(float)
    saved, logged, batches = learner.seconds, learner.step, learner.batches()
    while learner.progress < 1 and not asked.is_set():
        for name, value in learner.learn(batches).items():
            sums[name] += value
        if learner.step % LOG_EVERY == 0 or learner.progress >= 1:
            steps, logged = learner.step - logged, learner.step
            report.line(learner, {name: float(value) / steps for name, value in sums.items()})
            sums.clear()
        report.advance(learner.progress)
        if learner.seconds - saved > 60 * learner.settings.save_minutes:
            keep()
            saved = learner.seconds


def _write(log: Path, learner: Learner, record: dict[str, float]) -> None:
    head = {"step": learner.step, "seconds": round(learner.seconds, 1), "rate": learner.rate}
    with open(log, "a", encoding="utf-8") as lines:
        lines.write(json.dumps(head | {k: round(v, 5) for k, v in record.items()}) + "\n")
