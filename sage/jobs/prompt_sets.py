"""Sets of prompts as people write them: `a {fox|rabbit|owl} {in the snow|on the beach}`.

Braces hold alternatives; a line stands for the product of its braces. A brace that is meant as such
is written with a backslash before it. Standard library only.
"""

import math
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

from sage.core.settings import NUM_PROMPTS, shortened

# A brace with a backslash before it is a brace; any other backslash is a backslash.
_PARTS = re.compile(r"(?<!\\)\{((?:[^{}\\]|\\[{}|]|\\(?![{}|]))*)\}")
_MEANT = re.compile(r"\\([{}])")
_BAR = re.compile(r"(?<!\\)\|")
_UNSEEN = dict.fromkeys([0xFE0E, 0xFE0F, *range(0x1F3FB, 0x1F400)])  # variants, tones of skin
_ORNAMENTS = {"face", "symbol", "sign", "with", "black", "white", "heavy"}  # of Unicode's names


@dataclass(frozen=True)
class PromptSet:
    """Texts, and how to lay them out where they are one product.

    Attributes:
        texts: All of them, line by line; the last brace varies fastest.
        rows: The alternatives of the first brace; empty unless the text is one line with at least
            two braces that each give a choice.
        columns: The product of the other braces; likewise.
    """

    texts: tuple[str, ...]
    rows: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()

    @property
    def is_grid(self) -> bool:
        """Whether the texts fill a table of rows and columns, row by row."""
        return bool(self.rows)


def lines_of(text: str) -> list[str]:
    """The lines of a text as a box for typing shows them.

    Other separators, such as those of word processors (VT, U+2028), are spaces there.
    """
    return re.split(r"\r\n|\r|\n", text)


def expand_sets(text: str) -> PromptSet:
    """What a text with one prompt or one set a line stands for; blank lines are dropped.

    Raises:
        ValueError: If braces do not match, an alternative is empty, or there are too many.
    """
    lines = [line for line in lines_of(text) if line.strip()]
    parts = [_parts(line) for line in lines]
    number = sum(math.prod(len(part) for part in line) for line in parts)
    if number > NUM_PROMPTS.high and any(_PARTS.search(line) for line in lines):
        raise ValueError(f"The braces make {number} prompts; allowed are {NUM_PROMPTS.allowed}.")
    texts = tuple("".join(words) for line in parts for words in product(*line))
    choices = [part for part in parts[0] if len(part) > 1] if len(parts) == 1 else []
    if len(choices) < 2:
        return PromptSet(texts)
    columns = tuple(" · ".join(words) for words in product(*choices[1:]))
    return PromptSet(texts, choices[0], columns)


def table_of(text: str) -> PromptSet | None:
    """The table that a text of one product fills; None for any other text.

    Raises:
        ValueError: As `expand_sets` does.
    """
    made = expand_sets(text)
    return made if made.is_grid else None


def set_words(text: str) -> str:
    """How many prompts the braces of a text make, "2 × 3 = 6 prompts"; empty without braces.

    Raises:
        ValueError: As `expand_sets` does.
    """
    number = len(expand_sets(text).texts)
    lines = [line for line in lines_of(text) if _PARTS.search(line)]
    if not lines:
        return ""
    factors = [str(len(part)) for part in _parts(lines[0]) if len(part) > 1]
    if len(lines) > 1 or len(factors) < 2 or math.prod(map(int, factors)) != number:
        return f"{number} prompts"
    return f"{' × '.join(factors)} = {number} prompts"


def _parts(line: str) -> list[tuple[str, ...]]:
    """A line as a sequence of choices; a text between braces is a choice of one."""
    pieces = _PARTS.split(line)
    for piece in pieces[0::2]:
        _check_outside(piece, line)
    choices: list[tuple[str, ...]] = [(_MEANT.sub(r"\1", piece),) for piece in pieces]
    choices[1::2] = [_alternatives(piece, line) for piece in pieces[1::2]]
    return [choice for choice in choices if choice != ("",)]


def _check_outside(piece: str, line: str) -> None:
    bare = _MEANT.sub("", piece)
    for brace, other in ("{}", "}{"):
        if brace in bare:
            where = "closed" if brace == "{" else "opened"
            raise ValueError(
                f"A brace {brace} in {shortened(line)} is never {where} by {other}; "
                f"write {{fox|owl}}, no braces inside braces, and \\{brace} for a brace itself."
            )


def _alternatives(inside: str, line: str) -> tuple[str, ...]:
    words = tuple(
        _MEANT.sub(r"\1", " ".join(word.split()).replace("\\|", "|")) for word in _BAR.split(inside)
    )
    if not all(words):
        raise ValueError(
            f"An alternative in {shortened(line)} is empty; write words on both sides of every |."
        )
    return words


def as_typed(prompt: str) -> str:
    """A prompt as a line that stands for it alone: its braces are meant as such."""
    return re.sub(r"([{}])", r"\\\1", prompt)


def spell_emoji(text: str, words: Mapping[str, str]) -> str:
    """A text with its emoji written as words; those that `words` lacks by their Unicode name.

    Args:
        text: What was typed.
        words: From an emoji, without variation selectors, to what it shows.
    """
    words = {emoji.translate(_UNSEEN): word for emoji, word in words.items()}
    known = sorted(words, key=len, reverse=True)
    pieces, at = [], 0
    clean = text.translate(_UNSEEN)
    while at < len(clean):
        found = next((emoji for emoji in known if clean.startswith(emoji, at)), None)
        if found is not None:
            pieces.append(f" {words[found]} ")
            at += len(found)
        else:
            pieces.append(_named(clean[at]))
            at += 1
    spelled = "".join(pieces)
    return text if spelled == text else _joined(spelled)


def is_emoji(char: str) -> bool:
    """Whether a character is drawn as a picture: a symbol of the emoji blocks."""
    return unicodedata.category(char) == "So" and (
        ord(char) >= 0x1F300 or 0x2600 <= ord(char) < 0x27C0 or ord(char) in (0x2B50, 0x2B55)
    )


def _named(char: str) -> str:
    """An emoji as the words of its Unicode name, "🦊" as "fox"; anything else as it is."""
    if not is_emoji(char):
        return char
    name = unicodedata.name(char, "").lower().replace("-", " ").split()
    return f" {' '.join(word for word in name if word not in _ORNAMENTS) or ' '.join(name)} "


def _joined(spelled: str) -> str:
    """Single spaces inside each line, and none before a comma, a bar or a closing brace."""
    lines = (" ".join(line.split()) for line in spelled.split("\n"))
    return re.sub(r" +(?=[,.;:!?|}])|(?<=[{|]) +", "", "\n".join(lines))
