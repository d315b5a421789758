"""Settings, by their own declarations: what is taken, what is refused, and how it is written."""

import math
from dataclasses import fields, replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.core.settings import (
    KEY,
    SCHEDULER_KINDS,
    SCHEDULERS,
    Choice,
    Number,
    Sampling,
    Setting,
    Switch,
    settings_of,
    shortened,
)

SETTINGS = settings_of()
NUMBERS = {name: one for name, one in SETTINGS.items() if isinstance(one, Number)}
CHOICES = {name: one for name, one in SETTINGS.items() if isinstance(one, Choice)}
SWITCHES = {name: one for name, one in SETTINGS.items() if isinstance(one, Switch)}

every = pytest.mark.parametrize("one", SETTINGS.values(), ids=SETTINGS)
every_number = pytest.mark.parametrize("one", NUMBERS.values(), ids=NUMBERS)
every_choice = pytest.mark.parametrize("one", CHOICES.values(), ids=CHOICES)
every_switch = pytest.mark.parametrize("one", SWITCHES.values(), ids=SWITCHES)


def refusal(one: Setting, value, **options) -> str:
    with pytest.raises(ValueError, match=one.subject[:9]) as caught:
        one.check(value, **options)
    return str(caught.value)


# -- the declarations --------------------------------------------------------------------------


def test_every_field_is_a_setting():
    assert [f.name for f in fields(Sampling) if KEY not in f.metadata] == []
    assert len(NUMBERS) + len(CHOICES) + len(SWITCHES) == len(SETTINGS)


@every
def test_a_default_is_allowed_and_of_its_own_type(one):
    checked = one.check(one.default)
    assert checked == one.default
    assert type(checked) is type(one.default)


@every
def test_values_of_an_axis_are_allowed_and_differ(one):
    assert [one.check(value) for value in one.axis] == list(one.axis)
    assert len(set(one.axis)) == len(one.axis)


@every
def test_words_for_people_are_there(one):
    assert one.subject[0].isupper()
    assert one.label
    assert one.help.endswith(".")
    assert one.allowed


def test_names_in_a_link_differ():
    assert len({one.link for one in SETTINGS.values()}) == len(SETTINGS)


def test_every_scheduler_has_a_title_and_a_class():
    assert list(SCHEDULERS) == list(SCHEDULER_KINDS)
    assert len(set(SCHEDULERS.values())) == len(SCHEDULERS)
    assert len({kind.diffusers for kind in SCHEDULER_KINDS.values()}) == len(SCHEDULER_KINDS)


# -- numbers -----------------------------------------------------------------------------------


@every_number
def test_limits_belong_to_what_is_allowed(one):
    for limit in (one.low, one.high):
        assert one.check(limit) == limit
    margin = 1 if one.whole else 1e-6
    for value in (one.low - margin, one.high + margin):
        text = refusal(one, value)
        assert text.startswith(one.subject)
        assert one.allowed in text


@every_number
def test_a_program_may_have_a_wider_range_and_never_a_narrower_one(one):
    low, high = one.library or (one.low, one.high)
    assert low <= one.low <= one.high <= high
    assert one.check(low, library=True) == low
    assert f"to {float(high):.10g}." in refusal(one, high + 1, library=True)


@every_number
@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, -math.inf, None, True, False, "7", "１２", [7], {}, 1j, 10**400, object()],
    ids=lambda value: type(value).__name__,  # no addresses: all processes name tests alike
)
def test_what_is_no_number_is_refused_with_its_name(one, value):
    text = refusal(one, value)
    assert text.startswith(one.subject)
    assert "a number is needed" in text
    assert len(text) < 200


@every_number
@pytest.mark.parametrize("kind", [np.float64, Fraction, float])
def test_numbers_of_other_types_become_plain_ones(one, kind):
    checked = one.check(kind(one.high))
    assert checked == one.high
    assert type(checked) is (int if one.whole else float)


@pytest.mark.parametrize("one", [n for n in NUMBERS.values() if n.whole], ids=lambda n: n.name)
def test_whole_numbers_stay_whole(one):
    assert type(one.check(np.int64(one.high))) is int
    assert "a whole number is needed" in refusal(one, one.low + 0.5)


def test_a_long_integer_is_not_rounded_on_its_way():
    wide = replace(SETTINGS["seed"], high=2**63 - 1)
    assert wide.check(2**62 + 1) == 2**62 + 1
    assert wide.check(np.int64(2**62 + 1)) == 2**62 + 1


@every_number
@given(data=st.data())
def test_a_number_comes_back_from_its_text(one, data):
    places = data.draw(st.integers(0, round((one.high - one.low) / one.step)))
    value = one.low + places * one.step
    value = one.check(int(value) if one.whole else round(float(value), 6))
    assert one.check(one.parse(one.text(value))) == pytest.approx(value, rel=1e-5, abs=1e-9)
    assert len(one.words(value)) <= 12


@pytest.mark.parametrize(
    ("text", "number"),
    [("7", 7), (" 7 ", 7), ("+7.", 7), ("-.5", -0.5), ("7e0", 7), ("7E-1", 0.7)],
)
def test_texts_that_are_numbers(text, number):
    assert SETTINGS["guidance_scale"].parse(text) == number


@pytest.mark.parametrize("text", ["", ".", "e5", "0x10", "1_000", "７", "٣", "nan", "inf", "1,5"])
def test_texts_that_are_none_stay_texts_to_be_refused(text):
    one = SETTINGS["guidance_scale"]
    assert one.parse(text) == text
    assert "a number is needed" in refusal(one, one.parse(text))


# -- choices and switches ----------------------------------------------------------------------


@every_choice
def test_each_key_has_a_title_of_its_own(one):
    assert len(set(one.titles.values())) == len(one.titles)
    for key in one.titles:
        assert one.check(one.parse(one.text(key))) == key
        assert "(" not in one.words(key)


@every_choice
@pytest.mark.parametrize("value", ["", "nothing of the kind", None, 0, True, ["ddim"], b"ddim"])
def test_other_keys_are_refused_with_the_list(one, value):
    text = refusal(one, value)
    assert text.startswith(one.subject)
    assert all(key in text for key in one.titles)


@every_choice
def test_keys_are_exact(one):
    for key in one.titles:
        for near in (key.upper(), f" {key}", f"{key}\n"):
            refusal(one, near)


@every_switch
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("TRUE", True),
        (" on ", True),
        ("1", True),
        ("yes", True),
        ("false", False),
        ("Off", False),
        ("0", False),
        ("no", False),
    ],
)
def test_words_of_a_switch(one, text, value):
    assert one.parse(text) is value
    assert one.check(one.parse(text)) is value


@every_switch
@pytest.mark.parametrize("value", ["maybe", "", "true", 1, 0, None, 1.0, [], np.True_])
def test_a_switch_is_true_or_false_and_nothing_like_it(one, value):
    assert one.allowed in refusal(one, value)
    assert one.text(True) == "true"
    assert one.words(False) == "off"


# -- all of them together ----------------------------------------------------------------------


class Model:
    """Defaults of a model, none of which is the paper's."""

    tau_min, tau_max, steps, guidance_scale, share_ratio = 0.31, 0.87, 12, 2.0, 0.25


def test_a_models_own_defaults_stand_where_nothing_is_given():
    made = Sampling.of(Model(), steps=7, guidance_scale=None)
    assert (made.steps, made.guidance_scale, made.tau_min) == (7, 2.0, 0.31)
    assert made.seed == Sampling().seed
    brought = {name for name, one in SETTINGS.items() if one.of_model}
    assert brought == {name for name in vars(Model) if not name.startswith("_")}


def test_diffusers_names_are_understood_and_one_value_is_not_given_twice():
    assert Sampling.of(num_inference_steps=9).steps == 9
    with pytest.raises(ValueError, match=r"steps is given twice.*num_inference_steps"):
        Sampling.of(steps=9, num_inference_steps=9)


@pytest.mark.parametrize("name", ["step", "Steps", "sorcery", "aliases", "", "to_dict", "x" * 999])
def test_unknown_names_are_refused_with_the_known_ones(name):
    with pytest.raises(ValueError, match="There is no setting") as caught:
        Sampling.of(**{name: 1})
    assert all(known in str(caught.value) for known in SETTINGS)
    assert "x" * 50 not in str(caught.value)


def test_bounds_of_similarity_must_not_cross():
    assert Sampling(tau_min=0.5, tau_max=0.5).tau_max == 0.5
    with pytest.raises(ValueError, match=r"lowest similarity is 0\.9 and the highest 0\.6"):
        Sampling(tau_min=0.9, tau_max=0.6)


@every
def test_a_changed_value_is_checked_again(one):
    with pytest.raises(ValueError, match="is "):
        replace(Sampling(), **{one.name: object()})


def test_it_cannot_be_changed_behind_the_check():
    with pytest.raises(AttributeError):
        Sampling().steps = -1


@pytest.mark.slow
@given(st.text(max_size=200))
def test_what_a_sentence_quotes_is_short_and_on_one_line(text):
    quoted = shortened(text)
    assert len(quoted) <= 4 * 40 * 3
    assert "\n" not in quoted


def test_all_of_it_is_plain_json():
    kept = Sampling().to_dict()
    assert list(kept) == list(SETTINGS)
    assert {type(value) for value in kept.values()} <= {int, float, str, bool}
    assert Sampling(**kept) == Sampling()
