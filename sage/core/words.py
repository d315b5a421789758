"""Numbers and lists in words, for whatever says them. Knows only words."""

from collections.abc import Sequence


def plural(number: float, noun: str) -> str:
    """A number with its noun, e.g. "1 step", "12 steps", "2,000 prompts", "2.57 evaluations"."""
    shown = f"{int(number):,}" if number == int(number) else f"{number:.3g}"
    return f"{shown} {noun}{'s' * (shown != '1')}"


def listed(names: Sequence[str]) -> str:
    """Names in a sentence, e.g. "P1", "P1 and P2", "P1, P2 and P5"."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
