"""Contact sheets: the pictures of a run in rows, members of a group side by side."""

import io
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from PIL import Image, ImageDraw, ImageFont

from sage.render.planning import Progress, silent
from sage.render.worker import png_bytes

COLUMNS, ROWS = 8, 8
SIDE, LABEL, GAP = 128, 14, 4  # pixels


def draw_sheets(
    table: pa.Table, folder: Path, progress: Progress = silent
) -> Iterator[tuple[str, bytes]]:
    """Contact sheets of a manifest.

    Args:
        table: The manifest.
        folder: Where its files lie.
        progress: Shows progress.

    Yields:
        Name and PNG file of each sheet.
    """
    drawn = table.filter(table["file"].is_valid()).sort_by(
        [("group", "ascending"), ("row", "ascending")]
    )
    pictures = list(zip(drawn["file"].to_pylist(), drawn["id"].to_pylist(), strict=True))
    starts = range(0, len(pictures), COLUMNS * ROWS)
    with progress("Contact sheets", len(starts)) as report:
        for number, start in enumerate(starts, start=1):
            sheet = _sheet(pictures[start : start + COLUMNS * ROWS], folder)
            yield f"sheet-{number:05}.png", png_bytes(sheet)
            report(1)


def _sheet(pictures: list[tuple[str, str]], folder: Path) -> Image.Image:
    lines = -(-len(pictures) // COLUMNS)
    size = (COLUMNS * (SIDE + GAP) + GAP, lines * (SIDE + LABEL + GAP) + GAP)
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for n, (file, name) in enumerate(pictures):
        x = GAP + n % COLUMNS * (SIDE + GAP)
        y = GAP + n // COLUMNS * (SIDE + LABEL + GAP)
        with Image.open(io.BytesIO((folder / file).read_bytes())) as picture:
            sheet.paste(
                picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS), (x, y)
            )
        draw.text((x, y + SIDE), _fitting(name, font), fill="black", font=font)
    return sheet


def _fitting(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """A text, shortened to the width of a picture."""
    text = text.encode("ascii", "replace").decode()  # what the built-in font can draw
    while text and font.getlength(text) > SIDE:
        text = text[:-1]
    return text
