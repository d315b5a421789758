"""A pool of painted scenes on disk, their captions and labels, and batches drawn from it.

Knows the scenes' interface and numpy files; knows nothing of networks. Painting is cheap but not
free, so scenes are painted once (by as many processes as asked) and every stage reads the pool;
captions are drawn anew each time a scene is used.
"""

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from sage.world.captions import caption
from sage.world.scenes import Painter, Scene, sample_scene
from sage.world.vocabulary import PLACES, STYLES, THINGS

IMAGE_SIZE, MASK_SIZE = 64, 16
CHUNK = 2000  # scenes of one job: a few seconds of painting
THING_INDEX = {thing.name: i for i, thing in enumerate(THINGS)}
PLACE_INDEX = {place.name: i for i, place in enumerate(PLACES)}
STYLE_INDEX = {style.name: i for i, style in enumerate(STYLES)}


@dataclass(frozen=True)
class Labels:
    """What is true of B scenes; every array starts with that axis."""

    things: np.ndarray  # [B, T] float32, 1 where a thing is in the picture
    place: np.ndarray  # [B] int64
    style: np.ndarray  # [B] int64
    count: np.ndarray  # [B] int64, things in the picture minus one: 0, 1 or 2
    left: np.ndarray  # [B] int64, the leftmost thing
    right: np.ndarray  # [B] int64, the rightmost thing


@dataclass(frozen=True)
class Pool:
    """Painted scenes: pictures [N, 64, 64, 3] and masks [N, 16, 16], uint8, mapped from disk."""

    scenes: tuple[Scene, ...]
    images: np.ndarray
    masks: np.ndarray

    def __len__(self) -> int:
        return len(self.scenes)


def labels(scenes: list[Scene]) -> Labels:
    """The labels of some scenes, for training the towers and for judging pictures."""
    things = np.zeros((len(scenes), len(THINGS)), np.float32)
    for row, scene in enumerate(scenes):
        things[row, [THING_INDEX[thing] for thing in scene.things]] = 1

    def column(value: Callable[[Scene], int]) -> np.ndarray:
        return np.array([value(scene) for scene in scenes], np.int64)

    return Labels(
        things=things,
        place=column(lambda s: PLACE_INDEX[s.place]),
        style=column(lambda s: STYLE_INDEX[s.style]),
        count=column(lambda s: s.count * len(s.things) - 1),
        left=column(lambda s: THING_INDEX[s.things[0]]),
        right=column(lambda s: THING_INDEX[s.things[-1]]),
    )


def captions(scenes: list[Scene], rng: np.random.Generator, empty: float = 0.0) -> list[str]:
    """A fresh caption for each scene; a share ``empty`` of them is the empty string."""
    blank = rng.random(len(scenes)) < empty
    return ["" if none else caption(s, rng) for s, none in zip(scenes, blank, strict=True)]


def caption_stream(number: int, seed: int) -> Iterator[str]:
    """``number`` captions of random training scenes."""
    rng = np.random.default_rng(seed)
    return (caption(sample_scene(rng), rng) for _ in range(number))


def draw_scenes(number: int, seed: int, split: str = "train") -> list[Scene]:
    """``number`` scenes of a split; the same for the same seed."""
    rng = np.random.default_rng(seed)
    return [sample_scene(rng, split) for _ in range(number)]


def paint_all(scenes: list[Scene], painter: Painter) -> tuple[np.ndarray, np.ndarray]:
    """Pictures [N, 64, 64, 3] and masks of the things, averaged to [N, 16, 16]; both uint8."""
    painted = [painter.paint(scene) for scene in scenes]
    images = np.stack([image for image, _ in painted])
    masks = np.stack([mask for _, mask in painted]).astype(np.float32)
    # A painter marks things by 1 or 255; the pool keeps 0 to 255.
    masks *= 255 / max(masks.max(), 1)
    side = IMAGE_SIZE // MASK_SIZE
    pooled = masks.reshape(-1, MASK_SIZE, side, MASK_SIZE, side).mean((2, 4))
    return images, pooled.astype(np.uint8)


def _paint_chunk(seed: int, number: int) -> tuple[list[Scene], np.ndarray, np.ndarray]:
    scenes = draw_scenes(number, seed)
    return scenes, *paint_all(scenes, Painter(IMAGE_SIZE))


def build_pool(folder: Path, number: int, seed: int = 0, workers: int | None = None) -> None:
    """Paint ``number`` training scenes into ``folder``: images.npy, masks.npy, scenes.jsonl.

    The folder appears only when it is complete. Every chunk has its own seed, so the pool does
    not depend on the number of workers.

    Raises:
        ValueError: if ``number`` is not a positive multiple of 2,000.
    """
    if number < CHUNK or number % CHUNK:
        raise ValueError(f"number is {number}; allowed: multiples of {CHUNK}")
    partial_folder = folder.with_suffix(".partial")
    partial_folder.mkdir(parents=True, exist_ok=True)
    new = partial(np.lib.format.open_memmap, mode="w+", dtype=np.uint8)
    images = new(partial_folder / "images.npy", shape=(number, IMAGE_SIZE, IMAGE_SIZE, 3))
    masks = new(partial_folder / "masks.npy", shape=(number, MASK_SIZE, MASK_SIZE))
    seeds = [seed * 100_000 + chunk for chunk in range(number // CHUNK)]
    with (
        ProcessPoolExecutor(workers or os.cpu_count()) as pool,
        open(partial_folder / "scenes.jsonl", "w", encoding="utf-8") as lines,
    ):
        jobs = pool.map(_paint_chunk, seeds, [CHUNK] * len(seeds))
        for chunk, (scenes, painted, mask) in enumerate(jobs):
            rows = slice(chunk * CHUNK, (chunk + 1) * CHUNK)
            images[rows], masks[rows] = painted, mask
            lines.writelines(json.dumps(asdict(scene)) + "\n" for scene in scenes)
    images.flush()
    masks.flush()
    partial_folder.rename(folder)


def load_pool(folder: Path) -> Pool:
    """Open a pool that :func:`build_pool` made.

    Raises:
        FileNotFoundError: if there is none.
    """
    with open(folder / "scenes.jsonl", encoding="utf-8") as lines:
        scenes = tuple(_scene(json.loads(line)) for line in lines)
    images = np.load(folder / "images.npy", mmap_mode="r")
    masks = np.load(folder / "masks.npy", mmap_mode="r")
    return Pool(scenes, images, masks)


def _scene(record: dict) -> Scene:
    return Scene(**{**record, "things": tuple(record["things"])})
