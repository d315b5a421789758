"""What a visitor takes home from a finished comparison: pictures in a zip, one sheet, a record.

Writes files into a folder it is given; knows nothing of gradio.
"""

import json
import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from sage.compare import Comparison
from sage.ui.palette import Mark, prompt_marks
from sage.ui.words import shorten

_TILE, _GAP, _LABEL = 192, 12, 44


@dataclass(frozen=True)
class RunFiles:
    """Files of one finished run.

    Attributes:
        folder: Holds them all; removed with the session.
        archive: Pictures, sheet and record in one zip.
        record: The report as JSON.
        pairs: For each prompt, the independent and the shared picture.
    """

    folder: Path
    archive: Path
    record: Path
    pairs: tuple[tuple[Path, Path], ...]


# One folder a process, gone when it ends; a session's part goes when the session does.
_ROOT = tempfile.TemporaryDirectory(prefix="sage-runs-")


def save_run(comparison: Comparison) -> RunFiles:
    """Writes everything a finished comparison offers for download."""
    folder = Path(tempfile.mkdtemp(dir=_ROOT.name))
    sides = {"independent": comparison.independent.images, "shared": comparison.shared.images}
    paths = {side: _save_pictures(folder, side, images) for side, images in sides.items()}
    record = folder / "sage-record.json"
    record.write_text(json.dumps(comparison.report, indent=2) + "\n", encoding="utf-8")
    sheet = folder / "sage-sheet.png"
    contact_sheet(comparison).save(sheet)
    archive = folder / "sage-pictures.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as box:
        for path in (*paths["independent"], *paths["shared"], sheet, record):
            box.write(path, path.name)
    pairs = tuple(zip(paths["independent"], paths["shared"], strict=True))
    return RunFiles(folder, archive, record, pairs)


def remove_run(files: RunFiles | None) -> None:
    """Deletes a run's folder, if there is one."""
    if files is not None:
        shutil.rmtree(files.folder, ignore_errors=True)


def _save_pictures(folder: Path, side: str, images: Sequence[Image.Image]) -> list[Path]:
    paths = [folder / f"P{n:02d}-{side}.png" for n in range(1, len(images) + 1)]
    for path, image in zip(paths, images, strict=True):
        image.save(path)
    return paths


def contact_sheet(comparison: Comparison) -> Image.Image:
    """Both rows of pictures with captions: independent above, shared below."""
    prompts = comparison.request.prompts
    marks = prompt_marks(comparison.grouping.groups)
    width = _GAP + len(prompts) * (_TILE + _GAP)
    sheet = Image.new("RGB", (width, _LABEL + 2 * (_TILE + _GAP) + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(14)
    for n, prompt in enumerate(prompts):
        x = _GAP + n * (_TILE + _GAP)
        draw.text((x, 8), f"P{n + 1} · {marks[n].letter}", fill=marks[n].color, font=font)
        draw.text((x, 25), _printable(shorten(prompt, 27)), fill="#1F2530", font=font)
        _place(sheet, draw, comparison.independent.images[n], (x, _LABEL), marks[n])
        _place(sheet, draw, comparison.shared.images[n], (x, _LABEL + _TILE + _GAP), marks[n])
    return sheet


def _place(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    image: Image.Image,
    corner: tuple[int, int],
    mark: Mark,
) -> None:
    x, y = corner
    sheet.paste(image.convert("RGB").resize((_TILE, _TILE), Image.Resampling.LANCZOS), corner)
    draw.rectangle((x - 3, y - 3, x + _TILE + 2, y + _TILE + 2), outline=mark.color, width=3)


def _printable(text: str) -> str:
    """Pillow's own font has Latin letters only; others become a question mark, not a box."""
    return text.replace("…", "...").encode("latin-1", "replace").decode("latin-1")
