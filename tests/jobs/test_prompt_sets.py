"""Braces become products, emoji become words, and what cannot be understood gets a sentence."""

import re

import pytest

from sage.core.settings import NUM_PROMPTS
from sage.jobs.prompt_sets import as_typed, expand_sets, set_words, spell_emoji


def test_two_braces_make_a_labelled_grid():
    made = expand_sets("a {fox|rabbit|owl} {in the snow|on the beach}")
    assert made.texts == (
        "a fox in the snow",
        "a fox on the beach",
        "a rabbit in the snow",
        "a rabbit on the beach",
        "a owl in the snow",
        "a owl on the beach",
    )
    assert made.rows == ("fox", "rabbit", "owl")
    assert made.columns == ("in the snow", "on the beach")
    assert made.is_grid
    for place, text in enumerate(made.texts):
        row, column = divmod(place, len(made.columns))
        assert made.rows[row] in text
        assert made.columns[column] in text


def test_three_braces_put_the_others_into_the_columns():
    made = expand_sets("{a|b} {c|d} {e|f}")
    assert made.rows == ("a", "b")
    assert made.columns == ("c · e", "c · f", "d · e", "d · f")


@pytest.mark.parametrize(
    ("text", "texts"),
    [
        ("plain\n\nlines", ("plain", "lines")),
        ("{ fox |  owl}s", ("foxs", "owls")),
        ("a {fox}", ("a fox",)),
        ("a {fox|owl}\na car", ("a fox", "a owl", "a car")),
        ("a {fox|owl}\na {car|bus}", ("a fox", "a owl", "a car", "a bus")),
    ],
)
def test_lines_without_a_product_are_no_grid(text, texts):
    made = expand_sets(text)
    assert made.texts == texts
    assert not made.is_grid


@pytest.mark.parametrize(
    ("text", "texts"),
    [
        (r"a \{fox\} here", ("a {fox} here",)),
        (r"\{a {fox|owl}", ("{a fox", "{a owl")),
        (r"{a\|b|c\}}", ("a|b", "c}")),
        (r"C:\fox {a|b}", (r"C:\fox a", r"C:\fox b")),
        (r"a\\{b", (r"a\{b",)),
    ],
)
def test_a_backslash_makes_a_brace_a_brace(text, texts):
    assert expand_sets(text).texts == texts
    for one in texts:
        assert expand_sets(as_typed(one)).texts == (one,)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a {fox|owl", ("never closed", "{fox|owl}")),
        ("a fox} owl", ("never opened",)),
        ("a {fox|{owl|cat}}", ("braces inside braces",)),
        ("a {fox|}", ("empty",)),
        ("a {}", ("empty",)),
        ("{1|2|3} {1|2|3} {1|2}", ("18 prompts", NUM_PROMPTS.allowed)),
        ("{1|2|3|4|5|6|7|8|9}" * 40, (NUM_PROMPTS.allowed,)),  # is counted, never made
    ],
)
def test_what_cannot_be_a_set_gets_a_sentence(text, words):
    with pytest.raises(ValueError, match=re.escape(words[0])) as caught:
        expand_sets(text)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a fox\nan owl", ""),
        ("a {fox|owl} {in snow|at sea|here}", "2 × 3 = 6 prompts"),
        ("a {fox|owl}", "2 prompts"),
        ("a {fox|owl} {here|there}\na car", "5 prompts"),
    ],
)
def test_the_number_is_said_while_typing(text, words):
    assert set_words(text) == words


@pytest.mark.parametrize(
    ("typed", "spelled"),
    [
        ("🦊 ❄️", "fox snow"),
        ("a 🦊 in the snow", "a fox in the snow"),
        ("a 🍕.", "a slice of pizza."),
        ("{🦊|🦉} at sea", "{fox|owl} at sea"),
        ("🐰\n🐻", "rabbit\nbear"),
        ("no emoji,  two spaces", "no emoji,  two spaces"),
        ("日本 ©", "日本 ©"),
    ],
)
def test_emoji_are_written_as_words(typed, spelled):
    assert spell_emoji(typed, {"❄": "snow"}) == spelled


def test_a_models_own_words_come_before_unicodes_and_long_ones_before_short():
    words = {"🍕": "pizza", "👩": "woman", "👩‍🚀": "astronaut"}
    assert spell_emoji("🍕 👩‍🚀 👩", words) == "pizza astronaut woman"
