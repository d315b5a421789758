"""Numbers with their nouns, for whatever says a number in words. Knows only words."""


def plural(number: float, noun: str) -> str:
    """A number with its noun, e.g. "1 step", "12 steps", "2,000 prompts", "2.57 evaluations"."""
    shown = f"{int(number):,}" if number == int(number) else f"{number:.3g}"
    return f"{shown} {noun}{'s' * (shown != '1')}"
