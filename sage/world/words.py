"""The words of a model: its things, places, styles, sizes and counts, read from a `words.json`.

Words are data. A model's own words lie in the model's folder, those of the next model to be
trained in `assets/world/`; both have the same form. Knows names, synonyms, plurals, articles and
emoji; knows nothing about pixels, nor how words are put together (see `captions`).
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from functools import cache, cached_property
from pathlib import Path
from typing import Any

ASSETS = Path(__file__).resolve().parents[2] / "assets"
MODEL_FOLDER = ASSETS / "emoji-scenes"
WORLD_FOLDER = ASSETS / "world"
FILE_NAME = "words.json"

# Words whose plural or article the spelling rules below would get wrong.
_PLURALS = {"fish": "fish", "sheep": "sheep", "snowman": "snowmen", "mouse": "mice"}
_PLURALS |= {"wolf": "wolves", "deer": "deer", "leaf": "leaves", "tomato": "tomatoes"}
_PLURALS |= {"pufferfish": "pufferfish", "dice": "dice", "reindeer": "reindeer"}
_ARTICLES = {"unicorn": "a", "ufo": "a"}


@dataclass(frozen=True)
class Thing:
    """Something a scene can show, under the name people call it by.

    `colour` is set only where the sprite has that colour in every style; a test measures it.
    `code` is the emoji's Unicode code point in lower-case hexadecimal.
    """

    name: str
    plural: str
    article: str
    synonyms: tuple[str, ...]
    category: str
    emoji: str
    code: str
    colour: str = ""

    def __post_init__(self) -> None:
        if self.article not in ("a", "an"):
            raise ValueError(f"article of {self.name!r} is {self.article!r}; allowed: 'a', 'an'.")

    @property
    def nouns(self) -> tuple[str, ...]:
        """The name and its synonyms, singular."""
        return (self.name, *self.synonyms)


@dataclass(frozen=True)
class Place:
    """A background: `phrases` follow a noun ("a fox" + "in the snow"), the first is commonest."""

    name: str
    phrases: tuple[str, ...]
    synonyms: tuple[str, ...] = ()
    emoji: str = ""


@dataclass(frozen=True)
class Style:
    """A way of drawing: `prefixes` stand before the nouns, `suffixes` end a caption."""

    name: str
    prefixes: tuple[str, ...]
    suffixes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Words:
    """All that a model was taught to read, and how often its captions say what.

    `kinds` gives the kinds of scene with their weights, `shares` how often a caption says more
    than it must; see `scenes` and `captions`.

    Raises:
        ValueError: If a name stands twice, or a thing's category is not in `categories`.
    """

    image_size: int
    things: tuple[Thing, ...]
    places: tuple[Place, ...]
    styles: tuple[Style, ...]
    categories: tuple[str, ...]
    sizes: dict[str, tuple[str, ...]]
    counts: dict[int, tuple[str, ...]]
    plain_prefixes: tuple[str, ...]
    pair_forms: tuple[str, ...]
    kinds: dict[str, float] = field(repr=False)
    shares: dict[str, float] = field(repr=False)

    def __post_init__(self) -> None:
        for what in ("things", "places", "styles"):
            names = [entry.name for entry in getattr(self, what)]
            if twice := {name for name in names if names.count(name) > 1}:
                raise ValueError(f"{what} named more than once: {sorted(twice)}.")
        for thing in self.things:
            if thing.category not in self.categories:
                raise ValueError(
                    f"category of {thing.name!r} is {thing.category!r}; allowed: {self.categories}."
                )

    __hash__ = object.__hash__  # one object for each file; see `read_words`

    @cached_property
    def thing(self) -> dict[str, Thing]:
        """Things by name."""
        return {thing.name: thing for thing in self.things}

    @cached_property
    def place(self) -> dict[str, Place]:
        """Places by name."""
        return {place.name: place for place in self.places}

    @cached_property
    def style(self) -> dict[str, Style]:
        """Styles by name."""
        return {style.name: style for style in self.styles}

    @cached_property
    def index(self) -> dict[str, dict[str, int]]:
        """Numbers of the names: "thing", "place" and "style", in the order of the file."""
        kinds = {"thing": self.things, "place": self.places, "style": self.styles}
        return {
            kind: {entry.name: number for number, entry in enumerate(entries)}
            for kind, entries in kinds.items()
        }

    def emoji(self) -> dict[str, str]:
        """Names of things and places by their emoji, without variation selectors."""
        return {plain_emoji(e.emoji): e.name for e in (*self.things, *self.places) if e.emoji}

    def known(self) -> frozenset[str]:
        """Every lower-case word, as `words_of` splits it, of captions of this model's scenes."""
        return frozenset(word for text in self._texts() for word in words_of(text))

    def _texts(self) -> Iterator[str]:
        """Every piece of text that a caption can be made of; emoji are no words."""
        for thing in self.things:
            yield from (thing.colour, thing.plural, *thing.nouns)
            yield from (plural_of(noun) for noun in thing.synonyms)
        for place in self.places:
            yield from place.phrases
        for style in self.styles:
            yield from (*style.prefixes, *style.suffixes)
        for words in (*self.sizes.values(), *self.counts.values(), self.plain_prefixes):
            yield from words
        yield from (form.format(left="a", right="an") for form in self.pair_forms)


def plain_emoji(text: str) -> str:
    """An emoji without the variation selector that asks for colour."""
    return text.replace("\ufe0f", "")


def words_of(text: str) -> tuple[str, ...]:
    """Lower-case words of a text, punctuation removed ("A T-rex, in 3D" -> a, t, rex, in, 3d)."""
    return tuple(re.findall(r"[^\W_]+", text.lower()))


def plural_of(noun: str) -> str:
    """English plural of a noun of one or more words (`noun` in the singular, lower case)."""
    if " of " in noun:
        head, rest = noun.split(" of ", maxsplit=1)
        return f"{plural_of(head)} of {rest}"
    head, _, last = noun.rpartition(" ")
    lead = head + " " if head else ""
    if last in _PLURALS:
        return lead + _PLURALS[last]
    if re.search(r"(s|x|z|ch|sh)$", last):
        return noun + "es"
    if re.search(r"[^aeiou]y$", last):
        return noun[:-1] + "ies"
    return noun + "s"


def article_of(noun: str) -> str:
    """Indefinite article, "a" or "an", of a word or phrase of this vocabulary."""
    first = noun.split(" ", maxsplit=1)[0].lower()
    return _ARTICLES.get(first, "an" if first[0] in "aeiou" else "a")


@cache
def read_words(file: Path) -> Words:
    """The words in a file; the same object for the same file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not in the form that `Words` describes.
    """
    record = json.loads(file.read_text(encoding="utf-8"))
    try:
        return _words(record)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{file} is not a list of words: {error}") from error


def _words(record: dict[str, Any]) -> Words:
    entries = {
        name: tuple(kind(**_tuples(entry)) for entry in record[name])
        for name, kind in (("things", Thing), ("places", Place), ("styles", Style))
    }
    rest = {f.name: record[f.name] for f in fields(Words) if f.name not in entries}
    rest["counts"] = {int(number): tuple(words) for number, words in record["counts"].items()}
    rest["sizes"] = _tuples(record["sizes"])
    return Words(**entries, **_tuples(rest))


def _tuples(entry: dict[str, Any]) -> dict[str, Any]:
    """The entry with its lists as tuples."""
    return {key: tuple(v) if isinstance(v, list) else v for key, v in entry.items()}


def model_words() -> Words:
    """The words of the built-in model, as its folder has them."""
    return read_words(MODEL_FOLDER / FILE_NAME)


def world_words() -> Words:
    """The words of the world in `assets/world/`: all that can be painted."""
    return read_words(WORLD_FOLDER / FILE_NAME)
