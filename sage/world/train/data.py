"""Scenes as they are needed: drawn, painted and put into words from a seed, never stored.

Knows the scenes' interface and arrays; knows nothing of networks. Painting a scene takes about a
millisecond, a hundredth of what a network on the same processor then does with it, so every batch
is new; on a GPU, scenes are painted there.
"""

import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sage.world.captions import caption
from sage.world.scenes import Painter, Scene, sample_scene
from sage.world.train.table import Planner, Plans, Table
from sage.world.words import Words

Made = TypeVar("Made")

MASK_SIZE = 16  # a mask has the latents' size


@dataclass(frozen=True)
class Painted:
    """B scenes with their pictures [B, H, W, 3] and masks of the things [B, 16, 16], uint8."""

    scenes: tuple[Scene, ...]
    images: Tensor
    masks: Tensor


@dataclass(frozen=True)
class Drawn:
    """B scenes and what their pictures are made from: pictures and masks, or plans for a table."""

    scenes: tuple[Scene, ...]
    parts: tuple[np.ndarray, np.ndarray] | Plans


class Stream:
    """Training scenes without end: `draw` needs no device, `paint` finishes the pictures there."""

    def __init__(self, words: Words, size: int | None = None, table: Table | None = None) -> None:
        """Draw from `words`; paint from a `table` where there is one, else with the painter.

        Args:
            words: What there is to draw.
            size: Pixels of a picture's side (default: the words' own).
            table: On the device; it then says how large pictures are.
        """
        self.words, self.table = words, table
        self.size = table.size if table else size or words.image_size
        self._planner = Planner(table) if table else None
        self._painter = Painter(self.size)

    def draw(self, rng: np.random.Generator, number: int) -> Drawn:
        """`number` new training scenes."""
        return self.prepare([sample_scene(rng, words=self.words) for _ in range(number)])

    def prepare(self, scenes: Sequence[Scene]) -> Drawn:
        """Given scenes, ready to be painted."""
        if self._planner:
            return Drawn(tuple(scenes), self._planner.plans(scenes))
        return Drawn(tuple(scenes), paint_all(scenes, self._painter))

    def paint(self, drawn: Drawn) -> Painted:
        """The pictures and masks of scenes, on the table's device or on the CPU."""
        if isinstance(drawn.parts, Plans):
            if self.table is None:
                raise ValueError("there is no table to paint plans from")
            images, masks = self.table.paint(drawn.parts)
            side = self.size // MASK_SIZE
            pooled = F.avg_pool2d(masks[:, None].float(), side)[:, 0].to(torch.uint8)
            return Painted(drawn.scenes, images, pooled)
        return Painted(drawn.scenes, *map(torch.from_numpy, drawn.parts))

    def __getstate__(self) -> dict:
        """Workers that draw need no table."""
        return self.__dict__ | {"table": None}

    def captions(
        self, scenes: Sequence[Scene], rng: np.random.Generator, empty: float = 0.0
    ) -> list[str]:
        """A fresh caption for each scene; a share `empty` of them is the empty string."""
        blank = rng.random(len(scenes)) < empty
        return [
            "" if none else caption(scene, rng, self.words)
            for scene, none in zip(scenes, blank, strict=True)
        ]


class _Numbered(Dataset):
    """Whatever a function makes of a number."""

    def __init__(self, make: Callable[[int], Any]) -> None:
        self.make = make

    def __getitem__(self, number: int) -> Any:
        """What is made of a number."""
        return self.make(number)


def ahead(make: Callable[[int], Made], numbers: Iterable[int], workers: int) -> Iterator[Made]:
    """`make` of every number, in order; other processes make the next ones meanwhile.

    Args:
        make: Must not touch a GPU.
        numbers: May be without end.
        workers: Processes; 0 makes everything here, when it is asked for.
    """
    if not workers:
        return map(make, numbers)
    loader = DataLoader(
        _Numbered(make), None, sampler=numbers, num_workers=workers, collate_fn=_as_it_is,
        multiprocessing_context="fork", prefetch_factor=4, worker_init_fn=_stay,
    )  # fmt: skip
    return iter(loader)


def _stay(_: int) -> None:
    """Leave it to the process that learns to end: whoever asks often asks the whole group."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _as_it_is(made: Made) -> Made:
    return made


def caption_stream(words: Words, number: int, seed: int) -> Iterator[str]:
    """`number` captions of random training scenes."""
    rng = np.random.default_rng(seed)
    return (caption(sample_scene(rng, words=words), rng, words) for _ in range(number))


def draw_scenes(number: int, seed: int, words: Words, split: str = "train") -> list[Scene]:
    """`number` scenes of a split; the same for the same seed."""
    rng = np.random.default_rng(seed)
    return [sample_scene(rng, split, words=words) for _ in range(number)]


def paint_all(scenes: Sequence[Scene], painter: Painter) -> tuple[np.ndarray, np.ndarray]:
    """Pictures [N, H, W, 3] and masks of the things, averaged to [N, 16, 16]; both uint8."""
    painted = [painter.paint(scene) for scene in scenes]
    images = np.stack([image for image, _ in painted])
    masks = np.stack([mask for _, mask in painted]).astype(np.float32)
    side = painter.size // MASK_SIZE
    pooled = masks.reshape(-1, MASK_SIZE, side, MASK_SIZE, side).mean((2, 4))
    return images, pooled.astype(np.uint8)
