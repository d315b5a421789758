"""A checked request: prompts, and the settings they are to be rendered with.

The one place where texts from outside become prompts; settings are checked by
`sage.core.settings`. Standard library only.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from sage.core.settings import (
    NUM_PROMPTS,
    PROMPT_CHARS,
    ModelDefaults,
    Sampling,
    settings_of,
    shortened,
)
from sage.jobs.prompt_sets import expand_sets, lines_of


@dataclass(frozen=True, kw_only=True)
class Request(Sampling):
    """Prompts with their settings, within what the page and the API allow.

    `parse_request` and `Request.from_dict` fill in a model's own defaults.

    Attributes:
        prompts: 2 to 16 texts.

    Raises:
        ValueError: With one sentence: what, which value, what is allowed.
    """

    prompts: tuple[str, ...]

    def __post_init__(self) -> None:
        for name, one in settings_of(type(self)).items():  # the page's limits are the narrower
            one.check(getattr(self, name))
        super().__post_init__()
        check_prompts(self.prompts)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], defaults: ModelDefaults | None = None) -> Self:
        """A request out of what `to_dict` gave, or a client sent; what is missing is default.

        Args:
            values: By the names of the settings; `prompts` is a list of texts.
            defaults: The model's own values.

        Raises:
            ValueError: With one sentence: what, which value, what is allowed.
        """
        if not isinstance(values, Mapping):
            raise ValueError(f"The request is a {type(values).__name__}; need names and values.")
        prompts = values.get("prompts", ())
        rest = {k: v for k, v in cls.renamed(values).items() if k != "prompts"}
        if not isinstance(prompts, list | tuple) or not all(isinstance(p, str) for p in prompts):
            raise ValueError("The prompts of a request must be a list of texts.")
        texts = tuple(text for prompt in prompts if (text := clean_prompt(prompt)))
        check_prompts(texts)
        return cls.of(defaults, prompts=texts, **rest)

    def to_dict(self) -> dict[str, Any]:
        """Everything it takes to repeat the request, as plain JSON values."""
        return {"prompts": list(self.prompts)} | super().to_dict() | {"prompts": list(self.prompts)}

    @property
    def seeds(self) -> tuple[int, ...]:
        """One seed for each prompt."""
        return tuple(self.seed + n for n in range(len(self.prompts)))


def parse_request(
    prompts: str, *, defaults: ModelDefaults | None = None, **settings: Any
) -> Request:
    """Checks everything a visitor sends.

    Args:
        prompts: A text with one prompt a line.
        defaults: The model's own values.
        settings: By the names of `Sampling`; None is the model's own value.

    Raises:
        ValueError: With one sentence: what, which value, what is allowed.
    """
    return Request.of(defaults, prompts=parse_prompts(prompts), **settings)


def parse_prompts(text: str) -> tuple[str, ...]:
    """Prompts from a text with one prompt, or one set in braces, a line.

    Blank lines and outer spaces are dropped.

    Raises:
        ValueError: If there are too few or too many, one is too long, or braces do not match.
    """
    if not isinstance(text, str):
        raise ValueError(f"The prompts are a {type(text).__name__}; need a text, one per line.")
    texts = expand_sets(text).texts if "{" in text or "}" in text else lines_of(text)
    prompts = tuple(clean for line in texts if (clean := clean_prompt(line)))
    check_prompts(prompts)
    return prompts


# Formatting characters that are part of the spelling: joiners (Persian, Indic scripts, emoji
# families), the tags that spell the flags of regions, and signs that are seen or shape their
# neighbours (Unicode 16, chapter 23.2, "Prepended concatenation marks"; Mongolian; hieroglyphs).
_JOINERS = "\u200c\u200d"
_FLAG_TAGS = range(0xE0020, 0xE0080)
_SEEN = (
    *(range(0x600, 0x606), range(0x6DD, 0x6DE), range(0x70F, 0x710), range(0x890, 0x892)),
    *(range(0x8E2, 0x8E3), range(0x110BD, 0x110BE), range(0x110CD, 0x110CE)),
    *(range(0x180E, 0x180F), range(0x13430, 0x13440), range(0x1D173, 0x1D17B)),
)
_PRIVATE = {"Cc", "Cs", "Co"}
_SPELLED_WITH_JOINER = {"Ll", "Lu", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "So", "Sk"}


def clean_prompt(line: str) -> str:
    """A prompt without control characters, direction marks and doubled spaces.

    Invisible characters could make two prompts look equal that are not; those that change what is
    seen (a joiner between letters or emoji, the tags of a flag) are kept.
    """
    spaced = "".join(" " if c.isspace() else c for c in line)
    kept = "".join(c for n, c in enumerate(spaced) if _is_visible(spaced, n))
    return re.sub(r" +", " ", kept).strip()


def _is_visible(text: str, at: int) -> bool:
    """Whether the character at a place is seen, or changes how its neighbours look."""
    char, before = text[at], text[at - 1 : at]
    kind = unicodedata.category(char)
    if kind in _PRIVATE:
        return False
    if kind != "Cf":
        return True
    if any(ord(char) in some for some in _SEEN):
        return True
    if char in _JOINERS:
        if before and (_is_mark(before) or unicodedata.bidirectional(before) == "AL"):
            return True  # it shapes what stands before it, also at the end of a word
        after = text[at + 1 : at + 2]
        return all(c and unicodedata.category(c) in _SPELLED_WITH_JOINER for c in (before, after))
    return ord(char) in _FLAG_TAGS and _in_flag(text[:at])


def _is_mark(char: str) -> bool:
    """Whether it is a sign on a letter, such as the one that takes an Indic letter's vowel."""
    return unicodedata.category(char) in ("Mn", "Mc") and unicodedata.combining(char) == 9


def _in_flag(before: str) -> bool:
    """Whether a text ends in a black flag and tags, so that another tag belongs to it."""
    return before.rstrip("".join(map(chr, _FLAG_TAGS))).endswith("\U0001f3f4")


def check_prompts(prompts: Sequence[str]) -> None:
    """Raises a ValueError with one sentence if the number or a length is not allowed."""
    if not prompts:
        raise ValueError(f"No prompts yet: type {NUM_PROMPTS.allowed}, one per line.")
    if len(prompts) == 1:
        raise ValueError("There is one prompt; sharing needs at least two, one per line.")
    NUM_PROMPTS.check(len(prompts))
    for n, prompt in enumerate(prompts, start=1):
        if not isinstance(prompt, str):
            raise ValueError(f"Prompt {n} is {shortened(prompt)}; a text is needed.")
        if len(prompt) > PROMPT_CHARS.high:
            raise ValueError(
                f"Prompt {n} has {len(prompt)} characters; allowed are {PROMPT_CHARS.allowed}."
            )
