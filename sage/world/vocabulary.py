"""The words of the emoji world: its things, places, styles, sizes and counts.

Knows names, synonyms, plurals, articles and emoji code points. Knows nothing about pixels,
nor about how the words are put together into a caption (see `captions`).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

CATEGORIES = ("animal", "food", "plant", "vehicle", "object")


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
    code: str
    colour: str = ""

    def __post_init__(self) -> None:
        if self.article not in ("a", "an"):
            raise ValueError(f"article of {self.name!r} is {self.article!r}; allowed: 'a', 'an'.")
        if self.category not in CATEGORIES:
            raise ValueError(
                f"category of {self.name!r} is {self.category!r}; allowed: {CATEGORIES}."
            )


@dataclass(frozen=True)
class Place:
    """A background: `phrases` follow a noun ("a fox" + "in the snow"), the first is commonest."""

    name: str
    phrases: tuple[str, ...]
    synonyms: tuple[str, ...] = ()


@dataclass(frozen=True)
class Style:
    """A way of drawing: `prefixes` stand before the nouns ("a flat drawing of" + "a fox")."""

    name: str
    prefixes: tuple[str, ...]


# Words whose plural or article the spelling rules below would get wrong.
_PLURALS = {"fish": "fish", "sheep": "sheep", "snowman": "snowmen"}
_ARTICLES = {"unicorn": "a"}


def plural_of(noun: str) -> str:
    """English plural of a noun of one or more words (`noun` in the singular, lower case)."""
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


def _thing(category: str, row: str) -> Thing:
    """One row "name | code | synonym, synonym | colour" of the tables below as a `Thing`."""
    name, code, synonyms, colour = (part.strip() for part in row.split("|"))
    others = tuple(word.strip() for word in synonyms.split(",") if word.strip())
    return Thing(name, plural_of(name), article_of(name), others, category, code, colour)


def _things(category: str, table: str) -> tuple[Thing, ...]:
    """All rows of one table."""
    return tuple(_thing(category, row) for row in table.strip().splitlines())


# name | code point | everyday synonyms (from emojibase-data's tags, cleaned by hand) | colour
THINGS: tuple[Thing, ...] = (
    _things(
        "animal",
        """
        fox       | 1f98a |                       | orange
        cat       | 1f431 | kitten, kitty         | orange
        dog       | 1f436 | puppy, doggy          |
        rabbit    | 1f430 | bunny, hare           |
        panda     | 1f43c | panda bear            |
        lion      | 1f981 |                       |
        pig       | 1f437 | piggy, piglet         |
        cow       | 1f42e |                       |
        monkey    | 1f435 | chimp                 |
        frog      | 1f438 | toad                  | green
        chick     | 1f424 | baby bird             | yellow
        penguin   | 1f427 |                       |
        owl       | 1f989 |                       |
        whale     | 1f433 |                       | blue
        shark     | 1f988 |                       |
        fish      | 1f41f |                       | blue
        octopus   | 1f419 |                       |
        crab      | 1f980 |                       |
        turtle    | 1f422 | tortoise              | green
        snail     | 1f40c |                       |
        butterfly | 1f98b | moth                  |
        bee       | 1f41d | honeybee, bumblebee   |
        ladybug   | 1f41e | ladybird, beetle      | red
        elephant  | 1f418 |                       |
        giraffe   | 1f992 |                       |
        unicorn   | 1f984 |                       |
        sheep     | 1f411 | lamb                  |
        parrot    | 1f99c |                       |
        flamingo  | 1f9a9 |                       | pink
        duck      | 1f986 | mallard               |
        dinosaur  | 1f996 | t-rex                 | green
        """,
    )
    + _things(
        "food",
        """
        apple      | 1f34e |                         | red
        banana     | 1f34c |                         | yellow
        strawberry | 1f353 | berry                   | red
        watermelon | 1f349 | melon                   |
        pineapple  | 1f34d |                         |
        carrot     | 1f955 |                         | orange
        avocado    | 1f951 |                         |
        pizza      | 1f355 |                         |
        hamburger  | 1f354 | burger, cheeseburger    |
        cake       | 1f382 | birthday cake           |
        doughnut   | 1f369 | donut                   |
        ice cream  | 1f366 | ice cream cone          |
        lollipop   | 1f36d | candy                   |
        """,
    )
    + _things(
        "plant",
        """
        mushroom       | 1f344 | toadstool            |
        cactus         | 1f335 |                      | green
        sunflower      | 1f33b |                      | yellow
        tulip          | 1f337 |                      | pink
        palm tree      | 1f334 | palm, coconut tree   |
        Christmas tree | 1f384 | xmas tree, fir tree  | green
        pumpkin        | 1f383 | jack-o'-lantern      | orange
        """,
    )
    + _things(
        "vehicle",
        """
        car        | 1f697 | automobile          | red
        bus        | 1f68c | coach               |
        bicycle    | 1f6b2 | bike                |
        train      | 1f682 | locomotive, steam engine |
        rocket     | 1f680 | spaceship           |
        airplane   | 2708  | plane, aeroplane, jet |
        sailboat   | 26f5  | boat, sailing boat  |
        helicopter | 1f681 | chopper             |
        tractor    | 1f69c |                     |
        """,
    )
    + _things(
        "object",
        """
        house      | 1f3e0 | cottage             |
        castle     | 1f3f0 | palace              |
        tent       | 26fa  |                     |
        balloon    | 1f388 |                     | red
        umbrella   | 2602  | parasol             |
        guitar     | 1f3b8 | electric guitar     |
        drum       | 1f941 |                     |
        trumpet    | 1f3ba | horn                | yellow
        book       | 1f4d5 | novel               | red
        clock      | 23f0  | alarm clock         |
        key        | 1f511 |                     |
        crown      | 1f451 |                     |
        teddy bear | 1f9f8 | teddy               |
        snowman    | 26c4  |                     | white
        ghost      | 1f47b |                     | white
        robot      | 1f916 |                     |
        gift       | 1f381 | present             |
        """,
    )
)


def _plain(colour: str, *more: str) -> Place:
    """A plain background of one colour."""
    article = article_of(colour)
    phrases = (
        f"on {article} {colour} background",
        f"on {colour}",
        f"in front of {article} {colour} wall",
        *more,
    )
    return Place(f"{colour} background", phrases, (f"{colour} wall",))


# Phrases are whole, so that each sounds natural; `synonyms` lists other names of the place.
PLACES: tuple[Place, ...] = (
    Place(
        "meadow",
        ("in a meadow", "on a meadow", "in a green field", "on the grass", "on a lawn"),
        ("field", "grass", "lawn"),
    ),
    Place(
        "beach",
        ("on the beach", "on a sandy beach", "at the seaside", "on the shore", "at the beach"),
        ("seaside", "shore"),
    ),
    Place(
        "sunset",
        ("at sunset", "in the sunset", "at dusk", "in the evening sun"),
        ("dusk", "evening"),
    ),
    Place(
        "night",
        ("at night", "in the night", "in the moonlight", "under the stars"),
        ("moonlight",),
    ),
    Place(
        "snow",
        ("in the snow", "on a snowy day", "in winter", "on snow"),
        ("winter", "snowy"),
    ),
    Place(
        "desert",
        ("in the desert", "on a sand dune", "among sand dunes", "in a desert"),
        ("sand dune",),
    ),
    Place(
        "sea",
        ("on the sea", "at sea", "on the ocean", "on the waves", "on the water"),
        ("ocean", "waves", "water"),
    ),
    Place(
        "underwater",
        ("under water", "underwater", "under the sea", "at the bottom of the sea"),
        ("under water",),
    ),
    Place(
        "space",
        ("in space", "in outer space", "among the planets", "in the universe"),
        ("outer space", "universe"),
    ),
    Place(
        "table",
        ("on a wooden table", "on a table", "on a desk", "on wood"),
        ("wooden table", "desk", "wood"),
    ),
    Place(
        "city",
        ("in the city", "in a city", "in town", "in front of skyscrapers", "downtown"),
        ("town", "skyscrapers", "downtown"),
    ),
    Place(
        "forest",
        ("in the forest", "in a forest", "in the woods", "among the trees"),
        ("woods", "trees"),
    ),
    Place(
        "mountains",
        ("in the mountains", "in front of a mountain", "in the alps", "among the peaks"),
        ("alps", "peaks"),
    ),
    Place(
        "sky",
        ("in the sky", "among the clouds", "in the clouds", "in a blue sky"),
        ("clouds",),
    ),
    Place(
        "autumn",
        ("in autumn", "in the fall", "on autumn leaves", "in an autumn park"),
        ("fall", "autumn leaves"),
    ),
    Place(
        "room",
        ("in a room", "in the living room", "at home", "on the carpet", "indoors"),
        ("living room", "carpet", "indoors"),
    ),
    Place(
        "moon",
        ("on the moon", "on the surface of the moon", "on the lunar surface"),
        ("lunar surface",),
    ),
    _plain("red"),
    _plain("orange"),
    _plain("yellow"),
    _plain("green"),
    _plain("blue"),
    _plain("purple", "on a violet background"),
    _plain("pink"),
    _plain("white"),
)

STYLES: tuple[Style, ...] = (
    Style("flat", ("a flat drawing of", "a flat picture of", "a flat illustration of")),
    Style("3d", ("a 3D picture of", "a 3D render of", "a 3D image of")),
    Style("noto", ("a Noto emoji of", "a Noto picture of")),
    Style("twemoji", ("a Twemoji of", "a Twemoji picture of")),
)
DEFAULT_STYLES = ("flat", "3d")

# Said of any style, or of none.
PLAIN_PREFIXES = ("a picture of", "an image of", "an emoji of")
SIZE_WORDS = {"small": ("small", "little", "tiny"), "normal": (), "big": ("big", "large")}
COUNT_WORDS = {2: ("two",), 3: ("three",)}
# {left} and {right} are noun phrases with their articles.
PAIR_FORMS = (
    "{left} and {right}",
    "{left} on the left of {right}",
    "{left} to the left of {right}",
    "{left} left of {right}",
    "{right} on the right of {left}",
    "{right} to the right of {left}",
    "{left} on the left and {right} on the right",
    "{left} next to {right}",
    "{left} beside {right}",
)

THING_BY_NAME: dict[str, Thing] = {thing.name: thing for thing in THINGS}
PLACE_BY_NAME: dict[str, Place] = {place.name: place for place in PLACES}
STYLE_BY_NAME: dict[str, Style] = {style.name: style for style in STYLES}


def words_of(text: str) -> tuple[str, ...]:
    """Lower-case words of a text, punctuation removed ("A T-rex, in 3D" -> a, t, rex, in, 3d)."""
    return tuple(re.findall(r"[^\W_]+", text.lower()))


def _caption_texts(styles: Sequence[str]) -> list[str]:
    """Every piece of text a caption of a scene in one of the styles can be made of."""
    nouns = [noun for thing in THINGS for noun in (thing.name, *thing.synonyms)]
    texts = nouns + [plural_of(noun) for noun in nouns] + [thing.colour for thing in THINGS]
    texts += [phrase for place in PLACES for phrase in place.phrases]
    texts += [prefix for name in styles for prefix in STYLE_BY_NAME[name].prefixes]
    texts += [word for words in SIZE_WORDS.values() for word in words]
    texts += [word for words in COUNT_WORDS.values() for word in words]
    forms = [form.format(left="a", right="an") for form in PAIR_FORMS]
    return texts + forms + list(PLAIN_PREFIXES)


def known_words(styles: Sequence[str] = DEFAULT_STYLES) -> frozenset[str]:
    """Every lower-case word, as `words_of` splits it, of captions of scenes in these styles."""
    return frozenset(word for text in _caption_texts(styles) for word in words_of(text))
