"""Words are data: right English, no word that means two things, and a model's own list."""

import json

import pytest

from sage.world import words as module
from sage.world.words import (
    FILE_NAME,
    MODEL_FOLDER,
    Thing,
    article_of,
    model_words,
    plain_emoji,
    plural_of,
    read_words,
    words_of,
    world_words,
)

BOTH = {"world": world_words(), "model": model_words()}


@pytest.fixture(params=BOTH)
def words(request):
    return BOTH[request.param]


def nouns_of(words):
    return [noun for thing in words.things for noun in thing.nouns]


def test_the_world_is_large_enough():
    world = world_words()
    assert len(world.things) >= 150
    assert len(world.places) >= 30
    assert set(world.style) == {"flat", "3d", "noto", "twemoji"}
    assert {thing.category for thing in world.things} == set(world.categories)
    assert world.image_size == 128


def test_all_that_the_model_knows_can_be_painted():
    world, model = world_words(), model_words()
    for kind in ("thing", "place", "style"):
        assert set(model.index[kind]) <= set(world.index[kind])
    # A place is painted from its number in the world: it must not move.
    order = [world.index["place"][place.name] for place in model.places]
    assert order == sorted(order)


def test_no_noun_names_two_things(words):
    nouns = nouns_of(words)
    assert len(set(nouns)) == len(nouns)


def test_no_emoji_means_two_things_or_a_thing_and_a_place(words):
    named = [plain_emoji(e.emoji) for e in (*words.things, *words.places)]
    assert all(named)
    assert len(set(named)) == len(named) == len(words.emoji())


def test_an_emoji_is_its_code_point(words):
    for thing in words.things:
        assert plain_emoji(thing.emoji) == chr(int(thing.code, 16)), thing.name


def test_no_phrase_names_two_places(words):
    phrases = [phrase for place in words.places for phrase in place.phrases]
    assert len(set(phrases)) == len(phrases)
    assert all(len(place.phrases) >= 3 for place in words.places)


def test_place_synonyms_occur_in_their_phrases(words):
    for place in words.places:
        for synonym in place.synonyms:
            assert any(synonym in phrase for phrase in place.phrases), (place.name, synonym)


@pytest.mark.parametrize(
    ("noun", "plural"),
    [
        ("fox", "foxes"),
        ("bus", "buses"),
        ("fish", "fish"),
        ("bunny", "bunnies"),
        ("monkey", "monkeys"),
        ("strawberry", "strawberries"),
        ("octopus", "octopuses"),
        ("coach", "coaches"),
        ("palm tree", "palm trees"),
        ("mouse", "mice"),
        ("wolf", "wolves"),
        ("maple leaf", "maple leaves"),
        ("tomato", "tomatoes"),
        ("cup of coffee", "cups of coffee"),
        ("snowman", "snowmen"),
        ("t-rex", "t-rexes"),
    ],
)
def test_plurals(noun, plural):
    assert plural_of(noun) == plural


def test_plurals_that_spelling_rules_cannot_make_are_known(words):
    # Words in -f, -fe, -o and -man have plurals that the rules alone do not know.
    risky = {noun for noun in nouns_of(words) if noun.endswith(("f", "fe", "o", "man"))}
    assert risky <= {
        *("avocado", "flamingo", "giraffe", "snowman", "wolf", "tomato", "taco", "kangaroo"),
        *("UFO", "maple leaf"),
    }
    for name, plural in {"UFO": "UFOs", "taco": "tacos", "kangaroo": "kangaroos"}.items():
        assert words.thing.get(name) is None or words.thing[name].plural == plural


def test_articles_and_plurals_of_the_file_are_those_of_the_rules(words):
    assert article_of("unicorn") == article_of("UFO") == "a"
    assert article_of("orange carrot") == "an"
    for thing in words.things:
        assert thing.article == article_of(thing.name), thing.name
        if thing.name not in ("popcorn"):
            assert thing.plural == plural_of(thing.name), thing.name


def test_words_of_splits_as_people_would():
    assert words_of("A T-rex, in 3D!") == ("a", "t", "rex", "in", "3d")


def test_known_words_hold_names_synonyms_plurals_and_places(words):
    known = words.known()
    texts = [*nouns_of(words), *(t.plural for t in words.things)]
    texts += [phrase for place in words.places for phrase in place.phrases]
    assert all(set(words_of(text)) <= known for text in texts)
    assert all(word == word.lower() and word.isalnum() for word in known)


def test_the_models_list_is_the_one_its_settings_name():
    record = json.loads((MODEL_FOLDER / "sage.json").read_text(encoding="utf-8"))
    assert sorted(model_words().known()) == record["known_words"]
    assert model_words().image_size == record["image_size"]


def test_kinds_and_shares_are_shares(words):
    assert sum(words.kinds.values()) == pytest.approx(1)
    assert all(0 <= share <= 1 for share in words.shares.values())


def test_a_thing_checks_its_article():
    with pytest.raises(ValueError, match="article of 'fox' is 'the'"):
        Thing("fox", "foxes", "the", (), "animal", "🦊", "1f98a")


def changed(tmp_path, **entries):
    record = json.loads((MODEL_FOLDER / FILE_NAME).read_text(encoding="utf-8"))
    file = tmp_path / FILE_NAME
    file.write_text(json.dumps(record | entries), encoding="utf-8")
    return file


def test_a_list_that_names_something_twice_is_refused(tmp_path):
    record = json.loads((MODEL_FOLDER / FILE_NAME).read_text(encoding="utf-8"))
    with pytest.raises(ValueError, match=r"things named more than once: \['fox'\]"):
        read_words(changed(tmp_path, things=record["things"][:3] + record["things"][:1]))


def test_a_list_with_an_unknown_category_or_form_is_refused(tmp_path):
    with pytest.raises(ValueError, match="category of 'fox' is 'animal'"):
        read_words(changed(tmp_path, categories=["mineral"]))
    with pytest.raises(ValueError, match="not a list of words"):
        read_words(changed(tmp_path / "..", things=[{"name": "fox"}]))


def test_a_missing_list_is_named(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_words(tmp_path / "gone.json")


@pytest.mark.slow
def test_a_file_is_read_once():
    assert module.model_words() is module.model_words()
