"""Everything a visitor sends is checked in one place and answered with one sentence."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.core.settings import NUM_PROMPTS, settings_of
from sage.jobs.request import Request, clean_prompt, parse_prompts, parse_request

TWO = "a fox\na dog"


def test_a_plain_request_has_the_papers_defaults():
    request = parse_request(TWO)
    assert (request.tau_min, request.tau_max, request.max_group_size) == (0.6, 0.9, 5)
    assert (request.steps, request.share_ratio) == (30, 0.4)
    assert request.seeds == (0, 1)


def test_a_models_own_values_stand_where_nothing_is_chosen():
    class Own:
        tau_min, tau_max, steps, guidance_scale, share_ratio = 0.3, 0.95, 8, 4.0, 0.25

    request = parse_request(TWO, defaults=Own, tau_max=0.8)
    assert (request.tau_min, request.tau_max, request.guidance_scale) == (0.3, 0.8, 4.0)
    assert (request.steps, parse_request(TWO, defaults=Own, steps=20).steps) == (8, 20)


def test_blank_lines_and_spaces_are_dropped():
    assert parse_prompts("  a fox \r\n\n\n a   dog\n") == ("a fox", "a dog")


def test_invisible_characters_are_removed():
    assert clean_prompt("a\u200bfo\u202ex\x07 \u00a0and\tdog") == "afox and dog"


@pytest.mark.parametrize(
    "text",
    [
        "گربه\u200cها در برف",  # a joiner is part of the word
        "क्\u200dष",
        "a 👨\u200d👩\u200d👧 in the snow",
        "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",  # the flag of England
        "🇩🇪 ❤\ufe0f 👍🏽",
        "അവന്\u200d വന്നു",  # a joiner after a word's last sign shapes that sign
        "ত্\u200d",
        "می\u200c۲۰",
        "ه\u200d",
        "\u0600١٢ \u06dd٣",  # signs of numbers and verses, which are seen
        "ᠠ\u180eᠠ",
        "e\u0301 é ＦＯＸ ﬁsh “x”…",  # nothing is made equal
        "葛\U000e0100",
    ],
)
def test_what_is_part_of_the_spelling_stays(text):
    assert clean_prompt(text) == text


@pytest.mark.parametrize("text", ["\u200da fox\u200c", "a fo\u200bx", "\U000e0067a fox"])
def test_a_joiner_that_joins_nothing_is_removed(text):
    assert clean_prompt(text) == "a fox"


@pytest.mark.parametrize("mark", ["\v", "\f", "\x1c", "\x85", "\u2028", "\u2029"])
def test_only_what_ends_a_line_in_a_box_ends_a_prompt(mark):
    assert parse_prompts(f"a{mark}fox\r\na dog\rowl") == ("a fox", "a dog", "owl")
    assert parse_prompts(f"a {{fox|dog}}{mark}x") == ("a fox x", "a dog x")


def test_letters_of_every_script_stay():
    assert clean_prompt("žluťoučký kůň 狐狸 🦊") == "žluťoučký kůň 狐狸 🦊"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"prompts": ""}, "No prompts yet: type 2 to 16"),
        ({"prompts": " \n\t\n\u200b"}, "No prompts yet"),
        ({"prompts": "a fox"}, "There is one prompt; sharing needs at least two"),
        ({"prompts": "\n".join(f"fox {n}" for n in range(17))}, "prompts is 17; .* 2 to 16"),
        ({"prompts": "a fox\n" + "x" * 5000}, "Prompt 2 has 5000 characters; .* 1 to 300"),
        ({"prompts": None}, "The prompts are a NoneType"),
        ({"tau_min": float("nan")}, r"\(tau_min\) is 'nan'; a number is needed"),
        ({"tau_max": float("inf")}, r"\(tau_max\) is 'inf'"),
        ({"tau_max": 1.5}, r"\(tau_max\) is 1.5; allowed are -1 to 1"),
        ({"tau_min": 0.95, "tau_max": 0.9}, "the lowest must not be above the highest"),
        ({"max_group_size": 0}, "The largest group is 0; allowed are 1 to 16"),
        ({"max_group_size": 2.5}, "a whole number is needed"),
        ({"share_ratio": -0.1}, r"\(share_ratio\) is -0.1; allowed are 0 to 1"),
        ({"share_ratio": "much"}, "'much'; a number is needed"),
        ({"steps": 1}, "The number of steps is 1; allowed are 2 to 100"),
        ({"steps": 10**400}, "The number of steps is '1000"),
        ({"max_group_size": 10**300}, r"The largest group is 1e\+300"),
        ({"steps": "12"}, "'12'; a number is needed"),
        ({"steps": "\uff11\uff12"}, "a number is needed"),
        ({"steps": True}, "'True'; a number is needed"),
        ({"guidance_scale": 1e9}, "The guidance scale is 1000000000; allowed are 1 to 20"),
        ({"seed": -1}, "The seed is -1; allowed are 0 to 2147483647"),
        ({"seed": [1]}, r"The seed is '\[1\]'"),
        ({"trained": "yes"}, r"\(trained\) is 'yes'; allowed are true and false"),
        ({"guarded": 1}, r"\(guarded\) is '1'; allowed are true and false"),
        ({"scheduler": "magic"}, "The scheduler is 'magic'; allowed are ddim, "),
        ({"scheduler": None}, "The scheduler is 'None'"),
        ({"trunk": ["mean"]}, r"\(trunk\) is .*; allowed are mean, "),
        ({"sharing": ""}, r"\(sharing\) is ''; allowed are groups, tree, adaptive"),
        ({"fresh_noise": 2}, r"\(fresh_noise\) is 2; allowed are 0 to 1"),
        ({"spend": 0}, r"\(spend\) is 0; allowed are 0.1 to 1"),
        ({"budget": 51}, r"\(budget\) is 51; allowed are 0 to 50"),
        ({"spacing": "even"}, r"\(spacing\) is 'even'; allowed are model, planned"),
    ],
)
def test_a_bad_value_is_named_with_what_is_allowed(arguments, words):
    with pytest.raises(ValueError, match=words) as caught:
        parse_request(**({"prompts": TWO} | arguments))
    assert len(str(caught.value)) < 200
    assert "\n" not in str(caught.value)


@given(st.text(max_size=400), st.floats(), st.floats(), st.integers(), st.floats())
def test_any_input_is_taken_or_refused_with_a_sentence(text, tau_min, ratio, steps, seed):
    request, refusal = None, None
    try:
        request = parse_request(text, tau_min=tau_min, share_ratio=ratio, steps=steps, seed=seed)
    except ValueError as error:
        refusal = str(error)
    if request is None:
        assert refusal.endswith(".")
        return
    assert 2 <= len(request.prompts) <= 16
    assert 0 <= request.share_ratio <= 1


@pytest.mark.parametrize("setting", [NUM_PROMPTS, *settings_of().values()], ids=lambda s: s.name)
def test_every_setting_admits_its_own_default_also_as_text(setting):
    assert setting.check(setting.default) == setting.default
    assert setting.check(setting.parse(setting.text(setting.default))) == setting.default


def test_a_request_survives_json():
    request = parse_request(
        TWO, share_ratio=0.3, trained=True, scheduler="euler", trunk="medoid", sharing="tree"
    )
    assert Request.from_dict(json.loads(json.dumps(request.to_dict()))) == request


@pytest.mark.parametrize("sharing", ["groups", "tree"])
def test_a_budget_is_a_share_only_where_it_was_one(sharing):
    """Records of version 1 call a share of up to 1 so; today's budget is 1 or more."""
    one = parse_request(TWO, budget=1.0, sharing=sharing)
    assert (one.budget, one.spend) == (1.0, 0.7)
    assert Request.from_dict(one.to_dict()) == one
    old = {"prompts": TWO.split("\n"), "sharing": sharing, "budget": 0.5}
    assert Request.from_dict(old) == parse_request(TWO, spend=0.5, sharing=sharing)
    whole = Request.from_dict(old | {"budget": 1.0})
    assert (whole.budget, whole.spend) == ((0.0, 1.0) if sharing == "tree" else (1.0, 0.7))


def test_what_a_dict_leaves_out_is_default():
    assert Request.from_dict({"prompts": TWO.split("\n")}) == parse_request(TWO)
    assert Request.from_dict({"prompts": ["a\nfox", "a dog"]}).prompts == ("a fox", "a dog")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"prompts": ["a", "b"], "varient": 1}, "'varient'; allowed are tau_min"),
        ({"prompts": TWO}, "must be a list of texts"),
        ({"prompts": [1, 2]}, "must be a list of texts"),
        ({}, "No prompts yet"),
        ([], "The request is a list"),
        ({"prompts": ["a", "b"], "steps": "many"}, "The number of steps is 'many'"),
    ],
)
def test_a_bad_dict_gets_one_sentence(values, words):
    with pytest.raises(ValueError, match=words):
        Request.from_dict(values)
