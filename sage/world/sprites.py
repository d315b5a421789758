"""The sprite atlas: cut-out pictures of every thing in every style, 96 x 96 pixels each.

Knows where a sprite lies in the atlas. Knows nothing about scenes, nor where sprites came from.
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image

ATLAS_FOLDER = Path(__file__).resolve().parents[2] / "assets" / "world"
CELL = 96


class Atlas:
    """All sprites in memory; `load()` reads the one kept in the repository."""

    def __init__(self, pixels: np.ndarray, manifest: dict) -> None:
        """Take the atlas picture uint8 [H, W, 4] (straight alpha) and its manifest."""
        self._pixels = pixels
        self._cells = {
            (s["thing"], s["style"]): (s["row"], s["column"]) for s in manifest["sprites"]
        }

    @classmethod
    def load(cls, folder: Path | str = ATLAS_FOLDER) -> "Atlas":
        """Read `manifest.json` and the picture it names from a folder; OSError if missing."""
        manifest = json.loads((Path(folder) / "manifest.json").read_text(encoding="utf-8"))
        with Image.open(Path(folder) / manifest["image"]) as picture:
            return cls(np.asarray(picture.convert("RGBA")), manifest)

    @property
    def things(self) -> tuple[str, ...]:
        """Names of the things, in the order of the atlas."""
        return tuple(dict.fromkeys(thing for thing, _ in self._cells))

    @property
    def styles(self) -> tuple[str, ...]:
        """Names of the styles, in the order of the atlas."""
        return tuple(dict.fromkeys(style for _, style in self._cells))

    def sprite(self, thing: str, style: str) -> np.ndarray:
        """Return one sprite, uint8 [96, 96, 4], RGBA with straight alpha.

        Raises ValueError for a thing or style the atlas does not hold.
        """
        if (thing, style) not in self._cells:
            raise ValueError(
                f"There is no sprite of {thing!r} in style {style!r}; styles are {self.styles}."
            )
        row, column = self._cells[thing, style]
        cell = self._pixels[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL]
        return cell.copy()
