"""Paints scenes on a device: every cut-out lies there in one table, and a batch is a few look-ups.

The pictures are those of :class:`sage.world.scenes.Painter`, number for number.
"""

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np
import torch
from torch import Tensor

from sage.world.scenes import (
    COUNT_SIZES,
    HALOS,
    MOST,
    PAIR_SIZES,
    SCALES,
    SIZES,
    VARIANTS,
    CutoutKey,
    Painter,
    Scene,
    padding,
)
from sage.world.words import Words

CHUNK = 500  # cut-outs of one job


@dataclass(frozen=True)
class Plans:
    """Where B scenes take their parts from; small enough to be sent from process to process.

    Attributes:
        place: [B] int64, row of the painted places.
        cutout: [B, MOST] int64, rows of the cut-outs, those further back first; 0 is none.
        corner: [B, MOST, 2] int64, left and top of each cut-out.
    """

    place: np.ndarray
    cutout: np.ndarray
    corner: np.ndarray


def sides(size: int) -> list[int]:
    """Every side in pixels that a sprite can have in pictures of `size` pixels."""
    shares = {*SIZES.values(), *PAIR_SIZES.values(), *COUNT_SIZES.values()}
    ends = [[max(4, round(share * scale * size)) for scale in SCALES] for share in shares]
    return sorted({side for low, high in ends for side in range(low, high + 1)})


def cutout_keys(words: Words, size: int) -> list[CutoutKey]:
    """Every cut-out that a scene of these words can need."""
    parts = (words.thing, words.style, sides(size), HALOS, (False, True))
    return list(product(*parts))


def _cut(size: int, extent: int, keys: list[CutoutKey]) -> np.ndarray:
    """Cut-outs in squares' upper left: uint8 [K, extent, extent, 5], RGB, alpha and mask."""
    painter = Painter(size)
    made = np.zeros((len(keys), extent, extent, 5), np.uint8)
    for row, key in zip(made, keys, strict=True):
        cutout = painter.cutout(key)
        n = len(cutout.alpha)
        row[:n, :n] = np.dstack([cutout.colour, cutout.alpha, cutout.mask])
    return made


class Table:
    """All painted places and cut-outs of a world on a device."""

    def __init__(
        self,
        words: Words,
        device: torch.device,
        size: int | None = None,
        keys: Iterable[CutoutKey] | None = None,
        workers: int | None = None,
    ) -> None:
        """Cut everything out, or only `keys`; about 8 GB and ten seconds of 16 cores at 128 pixels.

        Args:
            words: What there is to paint.
            device: Where the table lies.
            size: Pixels of a picture's side (default: the words' own).
            keys: The cut-outs that will be needed (default: all there can be).
            workers: Processes that cut (default: one for each core; 0 cuts in this process).
        """
        self.size, self.device = size or words.image_size, device
        self.keys = list(keys) if keys is not None else cutout_keys(words, self.size)
        self.row = {key: number + 1 for number, key in enumerate(self.keys)}
        largest = max(key[2] for key in self.keys)
        self.extent = largest + 2 * padding(largest)
        self.cutouts = torch.zeros(
            (len(self.keys) + 1, self.extent, self.extent, 5), dtype=torch.uint8, device=device
        )
        self._fill((os.cpu_count() or 1) if workers is None else workers)
        painter = Painter(self.size)
        self.variants = list(product(words.place, range(VARIANTS)))
        painted = [painter.place(*variant) for variant in self.variants]
        self.places = torch.from_numpy(np.stack([picture for picture, _ in painted])).to(device)
        self.tones = [tone for _, tone in painted]

    def _fill(self, workers: int) -> None:
        parts = [self.keys[i : i + CHUNK] for i in range(0, len(self.keys), CHUNK)]
        cut = partial(_cut, self.size, self.extent)
        if not workers:
            self._take(map(cut, parts))
        else:
            with ProcessPoolExecutor(workers) as pool:
                self._take(pool.map(cut, parts))

    def _take(self, parts: Iterable[np.ndarray]) -> None:
        start = 1
        for part in parts:
            self.cutouts[start : start + len(part)] = torch.from_numpy(part).to(self.device)
            start += len(part)

    def paint(self, plans: Plans) -> tuple[Tensor, Tensor]:
        """Pictures [B, size, size, 3] and masks [B, size, size], both uint8 on the device."""
        place, cutout, corner = (
            torch.from_numpy(part).to(self.device)
            for part in (plans.place, plans.cutout, plans.corner)
        )
        picture = self.places[place].int()
        mask = torch.zeros(picture.shape[:3], dtype=torch.uint8, device=self.device)
        axis = torch.arange(self.size, device=self.device)
        for n in range(cutout.shape[1]):
            x, y = (axis - corner[:, n, i, None] for i in (0, 1))  # [B, size]
            inside = ((y >= 0) & (y < self.extent))[:, :, None] & ((x >= 0) & (x < self.extent))[
                :, None
            ]
            x, y = (at.clamp(0, self.extent - 1) for at in (x, y))
            # Row 0 is empty, so that scenes with fewer things stay as they are.
            part = self.cutouts[cutout[:, n, None, None], y[:, :, None], x[:, None]]
            part = (part * inside[..., None]).int()
            colour, alpha = part[..., :3], part[..., 3:4]
            # As the painter does it: premultiplied "over" in integers; + 127 rounds.
            picture = ((picture * (255 - alpha) + 127) // 255 + colour).clamp(max=255)
            mask = torch.maximum(mask, part[..., 4].to(torch.uint8))
        return picture.to(torch.uint8), mask


class Planner:
    """Turns scenes into plans for a table; needs no device, so that any process can do it."""

    def __init__(self, table: Table) -> None:
        self.size, self.row = table.size, table.row
        self.place = {variant: number for number, variant in enumerate(table.variants)}
        self.painter = _Tones(self.size, table.variants, table.tones)

    def plans(self, scenes: Sequence[Scene]) -> Plans:
        """Where the scenes take their parts from.

        Raises:
            KeyError: If the table lacks a place or a cut-out.
        """
        B = len(scenes)
        place = np.array([self.place[s.place, s.seed % VARIANTS] for s in scenes], np.int64)
        cutout, corner = np.zeros((B, MOST), np.int64), np.zeros((B, MOST, 2), np.int64)
        for row, scene in enumerate(scenes):
            for n, piece in enumerate(self.painter.pieces(scene)):
                cutout[row, n] = self.row[piece.key]
                corner[row, n] = piece.left, piece.top
        return Plans(place, cutout, corner)


class _Tones(Painter):
    """A painter that knows the tone of every place and paints nothing."""

    def __init__(
        self, size: int, variants: Sequence[tuple[str, int]], tones: Sequence[str]
    ) -> None:
        self.size = size
        self._known = dict(zip(variants, tones, strict=True))

    def place(self, place: str, variant: int) -> tuple[None, str]:
        """No picture, and whether the place is "light" or "dark"."""
        return None, self._known[place, variant]
