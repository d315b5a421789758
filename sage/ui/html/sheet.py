"""A sheet of pictures with their prompts and settings drawn on it, to keep or to send.

Wide enough for a screen, with letters large enough for a phone that shows it 390 pixels wide.
Knows pictures and words; nothing of gradio, models or runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from PIL import Image, ImageDraw, ImageFont

from sage.ui.html.palette import Mark

WIDTH, MARGIN, GAP = 1560, 40, 24  # pixels; a phone shows a quarter of them
TITLE, TEXT, SMALL = 56, 44, 40  # sizes of letters: 14, 11 and 10 pixels on a phone
INK, QUIET, PAPER = "#1F2530", "#5B6473", "#FFFFFF"
_FRAME, _LINE = 8, 1.3
_BADGE = 60
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Shot:
    """A picture and the words under it."""

    image: Image.Image
    words: str = ""


@dataclass(frozen=True)
class Block:
    """Pictures that belong together, beside each other, under one caption.

    Attributes:
        caption: As long as it needs to be; it is wrapped.
        shots: The pictures.
        mark: The group they belong to: its letter stands before the caption, its colour around
            the pictures.
    """

    caption: str
    shots: tuple[Shot, ...]
    mark: Mark | None = None


def draw_sheet(
    title: str, notes: Sequence[str], blocks: Sequence[Block], columns: int
) -> Image.Image:
    """The sheet.

    Args:
        title: First line.
        notes: Settings, one paragraph each; they are wrapped.
        blocks: In reading order.
        columns: Blocks beside each other.
    """
    canvas = _Canvas()
    canvas.paragraph(title, TITLE, INK, (MARGIN, MARGIN), WIDTH - 2 * MARGIN)
    y = canvas.bottom + GAP // 2
    for note in notes:
        canvas.paragraph(note, SMALL, QUIET, (MARGIN, y), WIDTH - 2 * MARGIN)
        y = canvas.bottom
    width = (WIDTH - 2 * MARGIN - (columns - 1) * 2 * GAP) // columns
    for start in range(0, len(blocks), columns):
        row = blocks[start : start + columns]
        y = canvas.bottom + 2 * GAP
        tall = max(_caption_height(block, width) for block in row)
        for n, block in enumerate(row):
            _draw_block(canvas, block, (MARGIN + n * (width + 2 * GAP), y), width, tall)
    return canvas.picture()


def _draw_block(
    canvas: "_Canvas", block: Block, corner: tuple[int, int], width: int, tall: int
) -> None:
    (x, y), indent = corner, _indent(block)
    if block.mark:
        canvas.badge(block.mark, corner)
    canvas.paragraph(block.caption, TEXT, INK, (x + indent, y), width - indent)
    side = (width - (len(block.shots) - 1) * GAP) // len(block.shots)
    for n, shot in enumerate(block.shots):
        left, top = x + n * (side + GAP), y + tall + GAP // 2
        canvas.framed(shot.image, (left, top), side, block.mark.color if block.mark else QUIET)
        canvas.paragraph(shot.words, SMALL, QUIET, (left, top + side + GAP // 2), side)


def _caption_height(block: Block, width: int) -> int:
    lines = wrap(block.caption, TEXT, width - _indent(block))
    return max(_BADGE if block.mark else 0, round(len(lines) * TEXT * _LINE))


def _indent(block: Block) -> int:
    return _BADGE + GAP if block.mark else 0


def wrap(text: str, size: int, width: int) -> list[str]:
    """A text as lines that fit a width in pixels; a word that does not is broken."""
    font = _font(size, _is_latin(text))
    return [line for part in text.splitlines() for line in _wrapped(part, font, width)]


def _wrapped(text: str, font: Font, width: int) -> list[str]:
    lines, line = [], ""
    for word in _printable(text).split():
        longer = f"{line} {word}".strip()
        if font.getlength(longer) <= width:
            line = longer
            continue
        lines += [line] if line else []
        pieces = _broken(word, font, width)
        lines += pieces[:-1]
        line = pieces[-1]
    return [*lines, line] if line else lines


def _broken(word: str, font: Font, width: int) -> list[str]:
    pieces, piece = [], ""
    for letter in word:
        if piece and font.getlength(piece + letter) > width:
            pieces.append(piece)
            piece = ""
        piece += letter
    return [*pieces, piece]


class _Canvas:
    """A page that grows downwards."""

    def __init__(self) -> None:
        self._sheet = Image.new("RGB", (WIDTH, 2 * WIDTH), PAPER)
        self._draw = ImageDraw.Draw(self._sheet)
        self.bottom = MARGIN

    def paragraph(
        self, text: str, size: int, ink: str, corner: tuple[int, int], width: int
    ) -> None:
        x, y = corner
        for line in wrap(text, size, width):
            self._reach(y + round(size * _LINE))
            self._draw.text((x, y), line, fill=ink, font=_font(size, _is_latin(text)))
            y = y + round(size * _LINE)

    def framed(self, image: Image.Image, corner: tuple[int, int], side: int, color: str) -> None:
        x, y = corner
        self._reach(y + side)
        self._draw.rectangle((x, y, x + side - 1, y + side - 1), fill=color)
        inner = side - 2 * _FRAME
        scaled = image.convert("RGB").resize((inner, inner), Image.Resampling.LANCZOS)
        self._sheet.paste(scaled, (x + _FRAME, y + _FRAME))

    def badge(self, mark: Mark, corner: tuple[int, int]) -> None:
        x, y = corner
        self._reach(y + _BADGE)
        self._draw.rounded_rectangle((x, y, x + _BADGE, y + _BADGE), 12, fill=mark.color)
        middle = (x + _BADGE / 2, y + _BADGE / 2)
        self._draw.text(middle, mark.letter, fill=mark.ink, font=_font(SMALL, True), anchor="mm")

    def picture(self) -> Image.Image:
        return self._sheet.crop((0, 0, WIDTH, self.bottom + MARGIN))

    def _reach(self, y: int) -> None:
        self.bottom = max(self.bottom, y)
        if y + MARGIN > self._sheet.height:
            taller = Image.new("RGB", (WIDTH, 2 * (y + MARGIN)), PAPER)
            taller.paste(self._sheet)
            self._sheet, self._draw = taller, ImageDraw.Draw(taller)


@cache
def _font(size: int, latin: bool) -> Font:
    """Pillow's own font has Latin letters only; for others, one of the system's if there is."""
    if not latin:
        for name in ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial Unicode.ttf"):
            try:
                return ImageFont.truetype(name, size)
            except OSError:
                continue
    return ImageFont.load_default(size)


def _is_latin(text: str) -> bool:
    return _printable(text).isascii() or all(ord(letter) < 256 for letter in _printable(text))


def _printable(text: str) -> str:
    return text.replace("…", "...").replace("–", "-")
