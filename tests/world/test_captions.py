"""Captions: right English, true to the scene, and made of known words and emoji only."""

import re
from dataclasses import replace

import numpy as np
import pytest

from sage.world.captions import caption, names_place
from sage.world.scenes import Scene, sample_scene
from sage.world.words import model_words, plain_emoji, plural_of, words_of, world_words

BOTH = {"world": world_words(), "model": model_words()}
WORLD = BOTH["world"]
FOX = Scene(("fox",), count=1, size="normal", place="snow", style="flat", seed=5)
NUMBERS = {2: {"two", "2"}, 3: {"three", "3"}, 4: {"four", "4"}}


def captions_of(scene, number=300, words=WORLD):
    rng = np.random.default_rng(3)
    return [caption(scene, rng, words) for _ in range(number)]


def mentions(text, nouns):
    """Where the first of the nouns stands in the text, or None."""
    found = [re.search(rf"(?<!\w){re.escape(noun)}(?!\w)", text) for noun in nouns]
    return min((match.start() for match in found if match), default=None)


def where(text, thing, words, plural=False):
    """Where a thing is named, in words or as its emoji, or None."""
    nouns = words.thing[thing].nouns
    if plural:
        nouns = [words.thing[thing].plural, *map(plural_of, nouns)]
    emoji = plain_emoji(text).find(plain_emoji(words.thing[thing].emoji))
    found = [place for place in (mentions(text, nouns), emoji) if place is not None and place >= 0]
    return min(found, default=None)


def has_emoji(text):
    return any(ord(letter) > 0x2000 for letter in text)


@pytest.fixture(scope="module", params=BOTH)
def told(request):
    """Words, and many scenes with their captions."""
    words, rng = BOTH[request.param], np.random.default_rng(0)
    drawn = [sample_scene(rng, words=words) for _ in range(6000)]
    return words, [(scene, caption(scene, rng, words)) for scene in drawn]


@pytest.mark.slow
def test_every_word_is_known(told):
    words, described = told
    assert {word for _, text in described for word in words_of(text)} <= words.known()


def test_every_emoji_is_known(told):
    words, described = told
    letters = {c for _, text in described for c in plain_emoji(text) if ord(c) > 0x2000}
    assert letters <= set(words.emoji())
    assert bool(letters) == (words.shares["emoji"] > 0)


def test_every_known_word_is_used_but_for_rare_plurals_and_synonyms(told):
    words, described = told
    used = {word for _, text in described for word in words_of(text)}
    plurals = {
        word
        for thing in words.things
        for noun in (thing.plural, *map(plural_of, thing.synonyms))
        for word in words_of(noun)
    }
    synonyms = {
        word for thing in words.things for noun in thing.synonyms for word in words_of(noun)
    }
    assert words.known() - used <= plurals | synonyms


def test_articles_are_right(told):
    _, described = told
    for _, text in described:
        for article, following in re.findall(r"\b(an?) (\w+)", text):
            vowel = following[0].lower() in "aeiou" and following not in ("unicorn", "UFO")
            assert (article == "an") == vowel, text


def test_captions_are_tidy(told):
    _, described = told
    for _, text in described:
        assert text == text.strip()
        assert "  " not in text
        assert " ," not in text
        assert re.fullmatch(r"[A-Za-z0-9', -]+", text) or has_emoji(text), text
        assert 0 < len(text) <= 130


def test_counted_things_say_how_many(told):
    _words, described = told
    for scene, text in described:
        said = {number for number, names in NUMBERS.items() if names & set(text.split())}
        if scene.count == 1:
            assert not said, text
        elif said:
            assert said == {scene.count}, text
        else:
            emoji = plain_emoji(_words.thing[scene.things[0]].emoji)
            assert plain_emoji(text).count(emoji) == scene.count, text


def test_every_thing_is_named(told):
    words, described = told
    for scene, text in described:
        for thing in scene.things:
            assert where(text, thing, words, scene.count > 1) is not None, (thing, text)


def test_left_and_right_are_true(told):
    words, described = told
    for scene, text in described:
        if len(scene.things) < 2:
            continue
        first, second = (where(text, thing, words) for thing in scene.things)
        swapped = re.search(r"right of|with .* on the left", text)
        assert (second < first) == bool(swapped), text


def test_size_is_said_of_the_thing_that_has_it(told):
    words, described = told
    sizes = {word: size for size, names in words.sizes.items() for word in names}
    for scene, text in described:
        if text.isascii() and scene.count == 1:
            said = [sizes[word] for word in text.replace(",", "").split() if word in sizes]
            wanted = [size for size in scene.sizes if size != "normal"]
            assert sorted(said) == sorted(wanted), text


def test_the_place_is_the_scenes_own_and_nearly_always_named(told):
    words, described = told
    named = [names_place(text, scene, words) for scene, text in described]
    assert 0.92 < np.mean(named) < 0.98
    strange = [
        names_place(text, replace(scene, place=other), words)
        for scene, text in described[:500]
        for other in words.place
        if other != scene.place
    ]
    assert np.mean(strange) < 0.003


def test_a_style_is_named_as_often_as_it_should_be_and_never_wrongly(told):
    words, described = told
    named = 0
    for scene, text in described:
        for style in words.styles:
            if text.startswith(style.prefixes) or (
                style.suffixes and text.endswith(style.suffixes)
            ):
                assert style.name == scene.style, text
                named += 1
    said = (1 - words.shares["all_emoji"]) * words.shares["style"]
    assert named / len(described) == pytest.approx(said, abs=0.04)


def test_colours_are_named_only_for_things_that_have_them(told):
    words, described = told
    colours = {thing.colour for thing in words.things} - {""}
    for scene, text in described:
        phrases = sorted(words.place[scene.place].phrases, key=len, reverse=True)
        rest = re.sub("|".join(map(re.escape, phrases)), "", text)
        own = {words.thing[thing].colour for thing in scene.things}
        assert set(rest.split()) & colours <= own, text


def test_short_and_plain_forms_occur():
    texts = set(captions_of(FOX, 1000))
    assert {"a fox in the snow", "fox in the snow", "a fox", "🦊 in the ❄️", "🦊❄️"} <= texts
    assert any(text.startswith("in the snow, ") for text in texts)
    assert any("flat" in text for text in texts)


def test_synonyms_occur():
    texts = captions_of(replace(FOX, things=("car",)))
    assert any("automobile" in text for text in texts)
    assert sum("car" in text.split() for text in texts) > 150


def test_captions_vary_but_repeat_with_the_generator():
    assert captions_of(FOX) == captions_of(FOX)
    assert len(set(captions_of(FOX))) > 20


def test_a_scene_of_unknown_words_is_an_error():
    *places, unknown = WORLD.places
    with pytest.raises(KeyError):
        captions_of(replace(FOX, place=unknown.name), 5, replace(WORLD, places=tuple(places)))
