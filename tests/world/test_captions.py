"""Captions: right English, true to the scene, and made of known words only."""

import re
from dataclasses import replace

import numpy as np
import pytest

from sage.world.captions import caption
from sage.world.scenes import Scene, sample_scene
from sage.world.vocabulary import (
    DEFAULT_STYLES,
    PLACE_BY_NAME,
    SIZE_WORDS,
    STYLE_BY_NAME,
    STYLES,
    THING_BY_NAME,
    THINGS,
    known_words,
    plural_of,
    words_of,
)

ALL_STYLES = tuple(style.name for style in STYLES)
FOX = Scene(("fox",), count=1, size="normal", place="snow", style="flat", seed=5)


def captions_of(scene, number=300):
    rng = np.random.default_rng(3)
    return [caption(scene, rng) for _ in range(number)]


def nouns_of(thing):
    return (thing, *THING_BY_NAME[thing].synonyms)


def mentions(text, nouns):
    """Where the first of the nouns stands in the text, or None."""
    found = [re.search(rf"\b{re.escape(noun)}\b", text) for noun in nouns]
    return min((match.start() for match in found if match), default=None)


@pytest.fixture(scope="module")
def described():
    rng = np.random.default_rng(0)
    drawn = [sample_scene(rng, styles=ALL_STYLES) for _ in range(6000)]
    return [(scene, caption(scene, rng)) for scene in drawn]


def test_every_word_is_known(described):
    known = known_words(ALL_STYLES)
    assert {word for _, text in described for word in words_of(text)} <= known


def test_every_word_of_the_default_styles_is_known_by_default(described):
    texts = [text for scene, text in described if scene.style in DEFAULT_STYLES]
    assert {word for text in texts for word in words_of(text)} <= known_words()


def test_every_known_word_is_used_but_for_rare_plurals(described):
    used = {word for _, text in described for word in words_of(text)}
    plurals = {
        word
        for thing in THINGS
        for noun in nouns_of(thing.name)
        for word in words_of(plural_of(noun))
    }
    assert known_words(ALL_STYLES) - used <= plurals


def test_articles_are_right(described):
    for _, text in described:
        for article, following in re.findall(r"\b(an?) (\w)", text):
            vowel = following.lower() in "aeiou" and "a unicorn" not in text
            assert (article == "an") == vowel or "unicorn" in text, text
        assert "an unicorn" not in text


def test_captions_are_tidy(described):
    for _, text in described:
        assert text == text.strip()
        assert "  " not in text
        assert re.fullmatch(r"[A-Za-z0-9' -]+", text), text
        assert len(text) <= 120


def test_counted_things_stand_in_the_plural(described):
    for scene, text in described:
        if scene.count > 1:
            number = {2: "two", 3: "three"}[scene.count]
            plurals = [plural_of(noun) for noun in nouns_of(scene.things[0])]
            assert number in text.split()
            assert mentions(text, plurals) is not None, text
        else:
            assert not {"two", "three"} & set(text.split())


def test_every_thing_is_named(described):
    for scene, text in described:
        if scene.count == 1:
            for thing in scene.things:
                assert mentions(text, nouns_of(thing)) is not None, (thing, text)


def test_left_and_right_are_true(described):
    for scene, text in described:
        if len(scene.things) < 2:
            continue
        first, second = (mentions(text, nouns_of(thing)) for thing in scene.things)
        assert (second < first) == ("right of" in text), text


def test_size_is_said_exactly_when_it_is_not_normal(described):
    for scene, text in described:
        said = set(text.split()) & {word for words in SIZE_WORDS.values() for word in words}
        assert bool(said) == (scene.size != "normal"), text
        assert said <= set(SIZE_WORDS[scene.size])


def test_the_place_is_the_scenes_own_and_nearly_always_named(described):
    named = 0
    for scene, text in described:
        endings = PLACE_BY_NAME[scene.place].phrases
        named += text.endswith(endings)
    assert 0.92 < named / len(described) < 0.98


def test_a_style_is_named_in_a_third_and_never_wrongly(described):
    named = 0
    for scene, text in described:
        for style in STYLES:
            if text.startswith(style.prefixes):
                assert style.name == scene.style
                named += 1
    assert 0.29 < named / len(described) < 0.37


def test_colours_are_named_only_for_things_that_have_them(described):
    colours = {thing.colour for thing in THINGS} - {""}
    for scene, text in described:
        endings = [f"{re.escape(phrase)}$" for phrase in PLACE_BY_NAME[scene.place].phrases]
        before_place = re.sub("|".join(endings), "", text)
        own = {THING_BY_NAME[thing].colour for thing in scene.things}
        assert set(before_place.split()) & colours <= own, text


def test_short_and_plain_forms_occur():
    texts = set(captions_of(FOX))
    assert {"a fox in the snow", "fox in the snow", "a fox"} <= texts
    assert any("flat" in text for text in texts)


def test_synonyms_occur():
    texts = captions_of(replace(FOX, things=("car",)))
    assert any("automobile" in text for text in texts)
    assert sum("car" in text.split() for text in texts) > 200


def test_captions_vary_but_repeat_with_the_generator():
    assert captions_of(FOX) == captions_of(FOX)
    assert len(set(captions_of(FOX))) > 20


def test_every_style_has_words():
    for style in ALL_STYLES:
        texts = captions_of(replace(FOX, style=style), 100)
        assert any(text.startswith(STYLE_BY_NAME[style].prefixes) for text in texts)
