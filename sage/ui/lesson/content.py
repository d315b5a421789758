"""What the lesson shows: its prompts, its seeds, and the stored results it reads.

Knows no model and no page. The results are made by `python -m sage.ui.lesson.precompute`; prompts
and settings stand here once, for that script, for the page and for the tests.
"""

import json
from difflib import SequenceMatcher
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[3] / "assets" / "ui" / "lesson"
RESULTS = "lesson.json"

PROMPTS = (
    "a fox in the snow",
    "a rabbit in the snow",
    "a penguin in the snow",
    "a red car in the city",
    "a bus in the city",
    "a pizza on a wooden table",
)
ALIKE = (0, 1, 2)  # a group that the model's own bounds form
UNLIKE = (0, 5)  # two prompts that only force brings together
STEPS = 30
PICTURE_SEED = 0  # of all pictures; every prompt starts from the same noise
SEEDS = (0, 1)  # curves are means over these
TOY_STD = 0.16  # of a mode, in the plane's unit: the spread of the starting noise
TOY_SEEDS = 48


@cache
def results() -> dict[str, Any]:
    """The stored results.

    Raises:
        FileNotFoundError: If they have not been made.
    """
    return json.loads((FOLDER / RESULTS).read_text("utf-8"))


def differing_words(first: str, second: str) -> tuple[list[list], list[list]]:
    """Both prompts as [text, differs] pieces; joined with spaces they are the prompts.

    Example:
        >>> differing_words("a fox", "a cat")
        ([['a', False], ['fox', True]], [['a', False], ['cat', True]])
    """
    one, other = first.split(), second.split()
    pieces: tuple[list[list], list[list]] = ([], [])
    for tag, a, b, c, d in SequenceMatcher(None, one, other, autojunk=False).get_opcodes():
        for side, words in zip(pieces, (one[a:b], other[c:d]), strict=True):
            if words:
                side.append([" ".join(words), tag != "equal"])
    return pieces
