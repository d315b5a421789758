"""One colour and one letter for each group, the same everywhere on the page.

Knows nothing of gradio. A prompt that shares with nobody is grey: colour means sharing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_uppercase

# Chosen by a farthest-point search: any two, and each from the grey, differ by more than 15 in
# CIELAB for normal, deuteranopic, protanopic and tritanopic sight, and each has contrast 3 or more
# on the light and on the dark card (tests/ui/test_palette.py). Eight suffice:
# sixteen prompts make at most eight pairs.
GROUP_COLORS = (
    "#2B6CD9",  # blue
    "#D95100",  # vermilion
    "#21A674",  # green
    "#C077D9",  # lilac
    "#8040F5",  # violet
    "#A65B42",  # brown
    "#785A96",  # plum
    "#C3874B",  # ochre
)
ALONE = "#7C8594"
LIGHT_INK, DARK_INK = "#FFFFFF", "#0B0D12"


@dataclass(frozen=True)
class Mark:
    """How a group is told from the others.

    Attributes:
        letter: A, B, C ... in the order of the groups.
        color: Hex colour of lines, frames and filled badges.
        ink: Hex colour of text on a filled badge.
        alone: Whether it is a single prompt, which shares with nobody.
    """

    letter: str
    color: str
    ink: str
    alone: bool


def group_marks(groups: Sequence[Sequence[int]]) -> tuple[Mark, ...]:
    """One mark for each group, in their order."""
    colors = iter(GROUP_COLORS * 2)
    chosen = (next(colors) if len(group) > 1 else ALONE for group in groups)
    return tuple(
        Mark(letter, color, _ink_on(color), len(group) == 1)
        for letter, color, group in zip(ascii_uppercase, chosen, groups, strict=False)
    )


def prompt_marks(groups: Sequence[Sequence[int]]) -> tuple[Mark, ...]:
    """The mark of each prompt's group, in prompt order."""
    marks = {
        n: mark for mark, group in zip(group_marks(groups), groups, strict=True) for n in group
    }
    return tuple(marks[n] for n in range(len(marks)))


def luminance(color: str) -> float:
    """Relative luminance of a hex colour, in [0, 1] (WCAG 2.2)."""
    channels = (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two hex colours, 1 to 21 (WCAG 2.2)."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def _ink_on(color: str) -> str:
    return max((LIGHT_INK, DARK_INK), key=lambda ink: contrast(ink, color))
