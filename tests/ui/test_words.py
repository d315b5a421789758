import pytest

from sage.core.words import plural
from sage.ui.html.words import (
    about_text,
    flagged_words,
    flops_text,
    percent_text,
    saved_text,
    seconds_text,
    shorten,
    span_text,
    split_words,
    three_digits,
    unseen_words,
)


@pytest.mark.parametrize(
    ("flops", "text"),
    [(1.234e12, "1.23 TFLOP"), (5e8, "500 MFLOP"), (7.0e10, "70 GFLOP"), (2.5e15, "2.5 PFLOP")],
)
def test_flops_have_a_unit(flops, text):
    assert flops_text(flops) == text


def test_seconds_and_percent():
    assert seconds_text(1.923) == "1.92 s"
    assert seconds_text(0.0351) == "35 ms"
    assert percent_text(0.267) == "27 %"


def test_a_saving_says_its_direction():
    assert saved_text(0.25) == "25 % less"
    assert saved_text(0.25, "fewer") == "25 % fewer"
    assert saved_text(-0.03) == "3 % more"
    assert saved_text(0.001) == "the same"


def test_big_numbers_have_no_exponent():
    assert [three_digits(v) for v in (1234, 12.345, 1.0, 0.123, 0)] == [
        "1234",
        "12.3",
        "1",
        "0.12",
        "0.00",
    ]


def test_shorten_keeps_short_texts_and_marks_cuts():
    assert shorten("a fox", 10) == "a fox"
    assert shorten("a fox in the snow", 8) == "a fox i…"
    assert len(shorten("x" * 50, 8)) == 8


def test_words_and_the_text_between_them_make_up_the_prompt():
    prompt = "A T-rex's  <b>hat</b>, in 3D!"
    pieces = split_words(prompt)
    assert "".join(pieces) == prompt
    assert pieces[1::2] == ["A", "T", "rex", "s", "b", "hat", "b", "in", "3D"]


def test_unseen_words_are_found_once_whatever_their_case():
    known = frozenset({"a", "fox"})
    assert unseen_words(["a Fox", "A dragon", "a DRAGON, a dragon"], known) == (
        "dragon",
        "DRAGON",
    )
    assert unseen_words(["anything"], None) == ()


def test_a_span_of_one_number_is_that_number():
    assert (span_text([12]), span_text((9, 11, 12))) == ("12", "9 to 12")


def test_plural():
    assert (plural(1, "step"), plural(0, "step")) == ("1 step", "0 steps")
    assert plural(2000, "prompt") == "2,000 prompts"
    assert (plural(1.0, "step"), plural(2.566, "step")) == ("1 step", "2.57 steps")


def test_expected_seconds_are_round_and_flagged_pictures_are_named():
    said = {None: "", 0.42: "about 0.4 s", 4.7: "about 5 s", 200.0: "about 3 min"}
    assert {seconds: about_text(seconds) for seconds in said} == said
    assert flagged_words([]) == ""
    assert "picture was flagged" in flagged_words([1])
    assert flagged_words([3, 0, 3]).endswith("made black: P1 and P4.")
