"""Puts scenes into words: natural, varied English captions, short plain forms included.

Knows grammar and how often each form is used. Knows nothing about pixels.
"""

import re

import numpy as np

from sage.world.scenes import Scene
from sage.world.vocabulary import (
    COUNT_WORDS,
    PAIR_FORMS,
    PLACE_BY_NAME,
    PLAIN_PREFIXES,
    SIZE_WORDS,
    STYLE_BY_NAME,
    THING_BY_NAME,
    article_of,
    plural_of,
)

# How often a caption says more than it must, or says it in a less common way.
STYLE_SHARE = 0.33
PREFIX_SHARE = 0.10  # of the captions without a style: "a picture of ..."
SYNONYM_SHARE = 0.25
COLOUR_SHARE = 0.20
PLACE_SHARE = 0.95
FIRST_PHRASE_SHARE = 0.45
BARE_SHARE = 0.12  # "fox in the snow"


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """Describe a scene in a few words, without a full stop ("two foxes in the snow")."""
    prefix = _prefix(scene, rng)
    nouns = _nouns(scene, rng)
    if not prefix and len(scene.things) == 1 and rng.random() < BARE_SHARE:
        nouns = re.sub("^an? ", "", nouns)
    return " ".join(part for part in (prefix, nouns, _place(scene, rng)) if part)


def _pick(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    """One of the options, uniformly."""
    return options[int(rng.integers(len(options)))]


def _prefix(scene: Scene, rng: np.random.Generator) -> str:
    """Words before the nouns: the style, or something plain, or nothing."""
    if rng.random() < STYLE_SHARE:
        return _pick(rng, STYLE_BY_NAME[scene.style].prefixes)
    return _pick(rng, PLAIN_PREFIXES) if rng.random() < PREFIX_SHARE else ""


def _nouns(scene: Scene, rng: np.random.Generator) -> str:
    """The things: "a small red car", "two foxes", "a cat on the left of an owl"."""
    phrases = [_one_noun(thing, scene, rng) for thing in scene.things]
    if len(phrases) == 1:
        return phrases[0]
    # Plain "and" is commonest; it goes left to right, as one reads.
    form = PAIR_FORMS[0] if rng.random() < 0.35 else _pick(rng, PAIR_FORMS[1:])
    return form.format(left=phrases[0], right=phrases[1])


def _one_noun(thing: str, scene: Scene, rng: np.random.Generator) -> str:
    """One thing with its article or count and its adjectives."""
    entry = THING_BY_NAME[thing]
    noun = entry.name
    if entry.synonyms and rng.random() < SYNONYM_SHARE:
        noun = _pick(rng, entry.synonyms)
    words = [_pick(rng, SIZE_WORDS[scene.size])] if SIZE_WORDS[scene.size] else []
    if entry.colour and rng.random() < COLOUR_SHARE:
        words.append(entry.colour)
    words.append(noun if scene.count == 1 else plural_of(noun))
    phrase = " ".join(words)
    lead = article_of(phrase) if scene.count == 1 else _pick(rng, COUNT_WORDS[scene.count])
    return f"{lead} {phrase}"


def _place(scene: Scene, rng: np.random.Generator) -> str:
    """Words for the place, or nothing now and then."""
    if rng.random() >= PLACE_SHARE:
        return ""
    phrases = PLACE_BY_NAME[scene.place].phrases
    return phrases[0] if rng.random() < FIRST_PHRASE_SHARE else _pick(rng, phrases)
