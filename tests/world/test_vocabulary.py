"""The vocabulary: right English, and no word that means two things."""

import pytest

from sage.world.vocabulary import (
    CATEGORIES,
    PLACES,
    STYLES,
    THINGS,
    Thing,
    article_of,
    known_words,
    plural_of,
    words_of,
)

NOUNS = [noun for thing in THINGS for noun in (thing.name, *thing.synonyms)]


def test_the_world_is_large_enough():
    assert len(THINGS) >= 70
    assert len(PLACES) >= 20
    assert {style.name for style in STYLES} == {"flat", "3d", "noto", "twemoji"}
    assert {thing.category for thing in THINGS} == set(CATEGORIES)


def test_no_noun_names_two_things():
    assert len(set(NOUNS)) == len(NOUNS)


def test_no_code_point_is_drawn_twice():
    assert len({thing.code for thing in THINGS}) == len(THINGS)


def test_no_phrase_names_two_places():
    phrases = [phrase for place in PLACES for phrase in place.phrases]
    assert len(set(phrases)) == len(phrases)
    assert all(len(place.phrases) >= 3 for place in PLACES)


def test_place_synonyms_occur_in_their_phrases():
    for place in PLACES:
        for synonym in place.synonyms:
            assert any(synonym in phrase for phrase in place.phrases), (place.name, synonym)


@pytest.mark.parametrize(
    ("noun", "plural"),
    [
        ("fox", "foxes"),
        ("bus", "buses"),
        ("fish", "fish"),
        ("sheep", "sheep"),
        ("bunny", "bunnies"),
        ("monkey", "monkeys"),
        ("butterfly", "butterflies"),
        ("strawberry", "strawberries"),
        ("octopus", "octopuses"),
        ("cactus", "cactuses"),
        ("coach", "coaches"),
        ("palm tree", "palm trees"),
        ("teddy bear", "teddy bears"),
        ("plane", "planes"),
        ("house", "houses"),
        ("key", "keys"),
        ("t-rex", "t-rexes"),
    ],
)
def test_plurals(noun, plural):
    assert plural_of(noun) == plural


def test_plurals_that_spelling_rules_cannot_make_are_absent():
    # Words in -f, -fe, -o and -man have plurals that `plural_of` does not know.
    risky = [noun for noun in NOUNS if noun.endswith(("f", "fe", "o", "man"))]
    assert set(risky) == {"avocado", "flamingo", "giraffe", "snowman"}
    assert plural_of("snowman") == "snowmen"
    assert plural_of("flamingo") == "flamingos"
    assert plural_of("giraffe") == "giraffes"


def test_articles():
    vowels = [noun for noun in NOUNS if article_of(noun) == "an"]
    assert {"elephant", "owl", "apple", "avocado", "ice cream", "umbrella", "automobile"} < set(
        vowels
    )
    assert article_of("unicorn") == "a"
    assert article_of("orange carrot") == "an"
    assert all(thing.article == article_of(thing.name) for thing in THINGS)
    assert all(thing.plural == plural_of(thing.name) for thing in THINGS)


def test_words_of_splits_as_people_would():
    assert words_of("A T-rex, in 3D!") == ("a", "t", "rex", "in", "3d")


def test_known_words_hold_names_synonyms_plurals_and_places():
    known = known_words()
    texts = [*NOUNS, *(t.plural for t in THINGS), *(p for pl in PLACES for p in pl.phrases)]
    assert all(set(words_of(text)) <= known for text in texts)
    assert all(word == word.lower() and word.isalnum() for word in known)


def test_known_words_follow_the_styles():
    assert "noto" not in known_words()
    assert "noto" in known_words(("noto",))


def test_a_thing_checks_itself():
    with pytest.raises(ValueError, match="article of 'fox' is 'the'"):
        Thing("fox", "foxes", "the", (), "animal", "1f98a")
    with pytest.raises(ValueError, match="category"):
        Thing("fox", "foxes", "a", (), "mineral", "1f98a")
