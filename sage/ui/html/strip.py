"""A film strip: pictures of one comparison at many branch points, in one sheet.

The page's script cuts the sheet and shows the row that belongs to the slider, so that scrubbing
asks nobody. Numbers and pictures only; knows nothing of gradio or models.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Literal

from PIL import Image

Side = Literal["independent", "shared", "fewer"]
LARGEST_TILE = 256  # pixels; a strip is for scrubbing, the downloads hold full pictures
TRUNK_TILE = 64  # pixels; a trunk's previews are small pictures on its line


@dataclass(frozen=True)
class StripRow:
    """One row of the sheet.

    Attributes:
        side: Which kind of run.
        at: Shared steps of the run, or its number of steps if nothing is shared.
        evaluations: What the run spent.
        steps: For each prompt the steps it shared, or those it made if nothing is shared.
        twin: For each prompt the distance to its independent picture; 0 for that one,
            None where one of the two was flagged.
        clip: For each prompt the CLIP score, None if its picture was flagged; None without an image
            encoder.
    """

    side: Side
    at: int
    evaluations: int
    steps: tuple[int, ...]
    twin: tuple[float | None, ...]
    clip: tuple[float | None, ...] | None = None


@dataclass(frozen=True)
class TrunkSheet:
    """What the trunks of a strip are heading for, step by step.

    Attributes:
        tile: Side of a picture, in pixels.
        groups: The prompts of each row.
        sheet: Row by row, a picture after each step from the first on, as WebP.
        address: Where a browser finds the sheet; "" if it lies nowhere.
    """

    tile: int
    groups: tuple[tuple[int, ...], ...]
    sheet: bytes
    address: str = ""


@dataclass(frozen=True)
class Strip:
    """Rows of pictures with their scores.

    Attributes:
        tile: Side of a picture in the sheet, in pixels.
        rows: What each row holds; the first is the independent one.
        sheet: The pictures, row by row, as WebP.
        trunks: Previews of the trunks; None where they were not kept.
        address: Where a browser finds the sheet; "" if it lies nowhere.
    """

    tile: int
    rows: tuple[StripRow, ...]
    sheet: bytes
    trunks: TrunkSheet | None = None
    address: str = ""

    @property
    def num_prompts(self) -> int:
        """N, the columns of the sheet."""
        return len(self.rows[0].twin)

    @cached_property
    def points(self) -> tuple[int, ...]:
        """The branch points that are ready, ascending."""
        return tuple(sorted(row.at for row in self.rows if row.side == "shared"))

    def nearest(self, point: int) -> int:
        """The ready branch point that is closest; the smaller one of two."""
        return min(self.points, key=lambda ready: (abs(ready - point), ready))

    def shared(self, point: int) -> StripRow:
        """The row of the ready branch point closest to one."""
        at = self.nearest(point)
        return next(row for row in self.rows if row.side == "shared" and row.at == at)

    def fewer(self, point: int) -> StripRow | None:
        """The row with fewer steps that spends about what sharing spends at a branch point."""
        allowed = self.shared(point).evaluations
        rows = [r for r in self.rows if r.side == "fewer" and r.evaluations <= allowed]
        return max(rows, key=lambda row: row.evaluations, default=None)

    def picture(self, row: StripRow, prompt: int) -> Image.Image:
        """One picture of the sheet."""
        left, top = prompt * self.tile, self.rows.index(row) * self.tile
        return self._opened.crop((left, top, left + self.tile, top + self.tile))

    @cached_property
    def _opened(self) -> Image.Image:
        return Image.open(io.BytesIO(self.sheet)).convert("RGB")

    def to_dict(self) -> dict[str, Any]:
        """Everything but the sheet, as plain JSON values."""
        return {"tile": self.tile, "rows": [asdict(row) for row in self.rows]}

    @classmethod
    def from_dict(cls, values: dict[str, Any], sheet: bytes) -> "Strip":
        """The strip that `to_dict` described."""
        rows = [
            StripRow(**(row | {k: row[k] and tuple(row[k]) for k in ("steps", "twin", "clip")}))
            for row in values["rows"]
        ]
        return cls(values["tile"], tuple(rows), sheet)


def with_trunks(strip: Strip, films: Mapping[tuple[int, ...], Sequence[Image.Image]]) -> Strip:
    """The strip with previews of its trunks: by their prompts, one after each step."""
    tile = min(TRUNK_TILE, strip.tile)
    sheet = _sheet([list(film) for film in films.values()], tile, quality=80)
    return replace(strip, trunks=TrunkSheet(tile, tuple(films), sheet))


def make_strip(rows: Sequence[tuple[StripRow, Sequence[Image.Image]]], quality: int = 90) -> Strip:
    """A strip from its rows and their pictures.

    Args:
        rows: Each with one picture for each prompt, all of one size.
        quality: Of the WebP sheet, 1 to 100.
    """
    tile = min(rows[0][1][0].width, LARGEST_TILE)
    sheet = _sheet([pictures for _, pictures in rows], tile, quality)
    return Strip(tile, tuple(row for row, _ in rows), sheet)


def _sheet(rows: Sequence[Sequence[Image.Image]], tile: int, quality: int) -> bytes:
    """Rows of pictures as one WebP of tiles."""
    sheet = Image.new("RGB", (tile * len(rows[0]), tile * len(rows)))
    for r, pictures in enumerate(rows):
        for n, picture in enumerate(pictures):
            small = picture.convert("RGB").resize((tile, tile), Image.Resampling.LANCZOS)
            sheet.paste(small, (n * tile, r * tile))
    data = io.BytesIO()
    sheet.save(data, "WEBP", quality=quality, method=6)
    return data.getvalue()
