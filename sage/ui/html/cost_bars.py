"""What both sides cost, as bars: by stage, and within the sampling stages by group.

A function of amounts and plans to HTML. Knows nothing of gradio, clocks or models.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from sage.core.plan import Group, Plan
from sage.ui.html.palette import Mark, group_marks
from sage.ui.html.words import STAGE_WORDS, three_digits

TITLES = {"independent": "independent", "shared": "shared", "fewer": "fewer steps"}


@dataclass(frozen=True)
class Bar:
    """One run in the cost bars.

    Attributes:
        name: "independent", "shared" or "fewer".
        stages: Amount by stage, keys as in `STAGES`.
        groups: The groups whose rows the plan walks.
        plan: The plan; rows share a stage's amount equally.
    """

    name: str
    stages: dict[str, float]
    groups: Sequence[Group]
    plan: Plan

    @property
    def total(self) -> float:
        """Sum over the stages."""
        return sum(self.stages.values())


@dataclass(frozen=True)
class Piece:
    """A part of a bar: a stage, and the group it belongs to unless it belongs to all."""

    stage: str
    mark: Mark | None
    group: Group
    amount: float


def cost_bars(bars: Sequence[Bar], unit: str, scale: float) -> str:
    """Horizontal bars on one scale, the amounts written beside them.

    Args:
        bars: One for each run; the first stands on top.
        unit: E.g. "s".
        scale: Amounts are divided by it.
    """
    longest = max(bar.total for bar in bars) or 1
    rows = "".join(_row(bar, longest, unit, scale) for bar in bars)
    return f'<div class="sage-bars">{rows}</div>'


def no_bars(sentence: str) -> str:
    """The bars' place while there is nothing to draw."""
    return f'<div class="sage-bars sage-empty"><p>{escape(sentence)}</p></div>'


def _row(bar: Bar, longest: float, unit: str, scale: float) -> str:
    drawn = "".join(_draw(piece, longest, unit, scale) for piece in pieces(bar))
    amount = f"{three_digits(bar.total / scale)} {unit}"
    return (
        f'<div class="sage-bar"><p>{TITLES[bar.name]}<b>{amount}</b></p><div role="img" '
        f'aria-label="{escape(_words(bar, unit, scale))}">{drawn}</div></div>'
    )


def _words(bar: Bar, unit: str, scale: float) -> str:
    parts = [
        f"{STAGE_WORDS[stage]} {three_digits(amount / scale)} {unit}"
        for stage, amount in bar.stages.items()
        if amount
    ]
    return f"{TITLES[bar.name]}: {', '.join(parts)}"


def pieces(bar: Bar) -> list[Piece]:
    """A bar cut by stage, and the sampling stages by group in proportion to their rows."""
    everyone = tuple(n for group in bar.groups for n in group)
    parts = [Piece("encode", None, everyone, bar.stages["encode"])]
    for stage in ("trunk", "branches"):
        rows = _rows_by_group(bar, shared=stage == "trunk")
        whole = sum(rows) or 1
        marks = group_marks(bar.groups)
        parts += [
            Piece(stage, mark, tuple(group), bar.stages[stage] * count / whole)
            for mark, group, count in zip(marks, bar.groups, rows, strict=True)
            if count
        ]
    return [*parts, Piece("decode", None, everyone, bar.stages["decode"])]


def _rows_by_group(bar: Bar, *, shared: bool) -> list[int]:
    """Evaluations of each group in its trunk (shared) or in its branches."""
    return [
        sum(
            s.stop - s.start
            for s in bar.plan.segments
            if s.members[0] in group and (len(s.members) > 1) == shared
        )
        for group in bar.groups
    ]


def _draw(piece: Piece, longest: float, unit: str, scale: float) -> str:
    share = 100 * piece.amount / longest
    letter = piece.mark.letter if piece.mark else ""
    words = f"{letter} {STAGE_WORDS[piece.stage]}: {three_digits(piece.amount / scale)} {unit}"
    colors = f"--group:{piece.mark.color};--ink:{piece.mark.ink};" if piece.mark else ""
    # Reading and drawing belong to all prompts alike: they do not take part in the linking.
    members = f'data-p="{" ".join(map(str, piece.group))}" ' if piece.mark else ""
    return (
        f'<i class="sage-piece sage-{piece.stage}" {members}style="{colors}width:{share:.3f}%" '
        f'title="{escape(words.strip())}">{letter if share > 4 else ""}</i>'
    )
