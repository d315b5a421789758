"""Numbers with their nouns, for whatever says a number in words. Knows only words."""


def plural(number: int, noun: str) -> str:
    """A number with its noun, e.g. "1 step", "12 steps", "2,000 prompts"."""
    return f"{number:,} {noun}{'s' * (number != 1)}"
