"""Scenes as they are needed: drawn, painted and put into words from a seed, never stored.

Knows the scenes' interface and numpy; knows nothing of networks. Painting a scene takes about a
millisecond, a hundredth of what a network then does with it, so every batch is new.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sage.world.captions import caption
from sage.world.scenes import Painter, Scene, sample_scene
from sage.world.words import Words

MASK_SIZE = 16  # a mask has the latents' size


@dataclass(frozen=True)
class Painted:
    """B scenes with their pictures [B, H, W, 3] and masks of the things [B, 16, 16], uint8."""

    scenes: tuple[Scene, ...]
    images: np.ndarray
    masks: np.ndarray

    def __len__(self) -> int:
        return len(self.scenes)


class Stream:
    """Painted training scenes without end."""

    def __init__(self, words: Words, size: int | None = None) -> None:
        """Draw from `words`, and paint `size` pixels a side (default: the words' own size)."""
        self.words, self.size = words, size or words.image_size
        self.painter = Painter(self.size)

    def draw(self, rng: np.random.Generator, number: int) -> Painted:
        """`number` new training scenes."""
        return self.paint([sample_scene(rng, words=self.words) for _ in range(number)])

    def paint(self, scenes: Sequence[Scene]) -> Painted:
        """Pictures and masks of given scenes."""
        return Painted(tuple(scenes), *paint_all(scenes, self.painter))

    def captions(
        self, scenes: Sequence[Scene], rng: np.random.Generator, empty: float = 0.0
    ) -> list[str]:
        """A fresh caption for each scene; a share `empty` of them is the empty string."""
        blank = rng.random(len(scenes)) < empty
        return [
            "" if none else caption(scene, rng, self.words)
            for scene, none in zip(scenes, blank, strict=True)
        ]


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


def words_digest(words: Words) -> str:
    """A short hash of all names, in order: labels of another list are of no use."""
    names = [list(table) for table in words.index.values()]
    return hashlib.sha256(repr(names).encode()).hexdigest()[:12]
