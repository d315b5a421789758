"""What is true of scenes, as arrays: what networks learn from and are judged by.

Knows scenes and the order of a model's words; knows nothing of pixels or networks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sage.world.scenes import Scene
from sage.world.words import Words, model_words

SIZES = ("small", "normal", "big")


@dataclass(frozen=True)
class Labels:
    """What is true of B scenes; every array starts with that axis."""

    things: np.ndarray  # [B, T] float32, 1 where a thing is in the picture
    place: np.ndarray  # [B] int64
    style: np.ndarray  # [B] int64
    count: np.ndarray  # [B] int64, things in the picture minus one: 0 to 3
    left: np.ndarray  # [B] int64, the leftmost thing
    right: np.ndarray  # [B] int64, the rightmost thing
    left_size: np.ndarray  # [B] int64, of the leftmost thing, in the order of SIZES
    right_size: np.ndarray  # [B] int64, of the rightmost thing


def labels(scenes: Sequence[Scene], words: Words | None = None) -> Labels:
    """The labels of some scenes.

    Args:
        scenes: B scenes.
        words: Whose names are numbered (default: the built-in model's words).

    Raises:
        KeyError: If a scene shows what the words do not name.
    """
    index = (words or model_words()).index
    thing, place, style = (index[kind] for kind in ("thing", "place", "style"))
    things = np.zeros((len(scenes), len(thing)), np.float32)
    for row, scene in enumerate(scenes):
        things[row, [thing[name] for name in scene.things]] = 1

    def column(value: Callable[[Scene], int]) -> np.ndarray:
        return np.array([value(scene) for scene in scenes], np.int64)

    return Labels(
        things=things,
        place=column(lambda s: place[s.place]),
        style=column(lambda s: style[s.style]),
        count=column(lambda s: s.count * len(s.things) - 1),
        left=column(lambda s: thing[s.things[0]]),
        right=column(lambda s: thing[s.things[-1]]),
        left_size=column(lambda s: SIZES.index(s.sizes[0])),
        right_size=column(lambda s: SIZES.index(s.sizes[-1])),
    )


def common_content(true: Labels, words: Words) -> np.ndarray:
    """How much each two of B scenes have in common: [B, B] from 0 (nothing) to 1 (all).

    Ours: 0.55 for the things (the share of their names, and a fifth of it for their categories),
    0.3 for the place, 0.08 for the style, 0.07 for the number of things and their sizes.
    """
    names = [words.categories.index(thing.category) for thing in words.things]
    category = np.eye(len(words.categories), dtype=np.float32)[names]
    kinds = np.minimum(true.things @ category, 1)
    parts = (
        (0.44, _overlap(true.things)),
        (0.11, _overlap(kinds)),
        (0.30, _equal(true.place)),
        (0.08, _equal(true.style)),
        (0.03, _equal(true.count)),
        (0.04, _equal(true.left_size) * _equal(true.right_size)),
    )
    return np.tensordot(
        np.array([weight for weight, _ in parts], np.float32),
        np.stack([part for _, part in parts]),
        axes=1,
    )


def _overlap(sets: np.ndarray) -> np.ndarray:
    """Size of the intersection over that of the union, of rows of 0 and 1: [B, B]."""
    both = sets @ sets.T
    size = sets.sum(1)
    return both / (size[:, None] + size - both)


def _equal(values: np.ndarray) -> np.ndarray:
    """1 where two values are the same, else 0: [B, B]."""
    return (values[:, None] == values).astype(np.float32)
