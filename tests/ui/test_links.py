import json
from dataclasses import replace
from urllib.parse import parse_qs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.core.plan import branch_step_from_ratio
from sage.core.settings import Choice, settings_of
from sage.jobs.request import Request, parse_request
from sage.sd.model_settings import ModelSettings
from sage.ui.export.links import BESIDE, link_query, prompts_text, read_link, read_record

MODELS = {"emoji-scenes": ModelSettings(), "sd-v1-5": ModelSettings()}
ASKED = parse_request("a fox in the snow\na dog in the snow", share_ratio=12 / 30)


def request_of(settings):
    return Request.from_dict({k: v for k, v in settings.values.items() if k != "model"})


def in_limits(name):
    limit = settings_of()[name]
    if isinstance(limit.default, int):
        return st.integers(int(limit.low), int(limit.high))
    steps = round((limit.high - limit.low) / limit.step)
    return st.integers(0, steps).map(lambda n: round(limit.low + n * limit.step, 6))


words = st.text(min_size=1, max_size=60).filter(lambda text: bool(" ".join(text.split())))


def test_a_link_can_be_read_by_people():
    assert link_query(ASKED, "emoji-scenes") == (
        "?v=2&model=emoji-scenes&prompt=a+fox+in+the+snow&prompt=a+dog+in+the+snow"
        "&tau_min=0.6&tau_max=0.9&max_group_size=5&beta=0.4&steps=30&guidance=7.5&seed=0&guarded=false"
    )


@pytest.mark.slow
@given(
    prompts=st.lists(words, min_size=2, max_size=16),
    numbers=st.fixed_dictionaries(
        {
            name: in_limits(name)
            for name in ("max_group_size", "steps", "seed", "guidance_scale", "fresh_noise")
        }
    ),
    choices=st.fixed_dictionaries(
        {
            name: st.sampled_from(list(one.titles))
            for name, one in settings_of().items()
            if isinstance(one, Choice)
        }
    ),
    trained=st.booleans(),
)
def test_every_request_comes_back_from_its_link(prompts, numbers, choices, trained):
    values = {"prompts": prompts, **numbers, **choices, "trained": trained}
    try:
        asked = Request.from_dict(values)
    except ValueError:  # nothing visible in one of the prompts
        return
    read = read_link(link_query(asked, "sd-v1-5"), MODELS)
    assert read.problem == ""
    assert read.values["model"] == "sd-v1-5"
    assert request_of(read) == asked


@pytest.mark.parametrize("steps", [2, 7, 30, 100])
def test_every_branch_point_comes_back(steps):
    for point in range(steps + 1):
        asked = parse_request("a\nb", share_ratio=point / steps, steps=steps)
        read = request_of(read_link(link_query(asked, "emoji-scenes"), MODELS))
        assert branch_step_from_ratio(read.share_ratio, steps) == point


@pytest.mark.parametrize("repeats", [1, 3, 5])
def test_what_stands_beside_a_request_travels_with_it(repeats):
    beside = {"repeats": repeats, "measure": repeats == 1, "fewer_steps": False}
    read = read_link(link_query(ASKED, "sd-v1-5", beside=beside), MODELS)
    assert read.problem == ""
    told = {name: one.default for name, one in BESIDE.items()} | read.values
    assert (int(told["repeats"]), told["measure"], told["fewer_steps"]) == tuple(beside.values())
    plain = {"repeats": 1, "measure": True, "fewer_steps": True}
    assert link_query(ASKED, "sd-v1-5", beside=plain) == link_query(ASKED, "sd-v1-5")
    bad = read_link("?repeats=4&measure=maybe&seed=3", MODELS)
    assert bad.values == {"seed": 3}
    assert "allowed are 1, 3, 5" in bad.problem


def test_prompts_are_encoded_whatever_they_hold():
    asked = parse_request('100 % fox & cat = ? #1\n狐と雪 <b>"é"</b>')
    query = link_query(asked, "emoji-scenes")
    assert query.isascii()
    assert parse_qs(query[1:])["prompt"] == list(asked.prompts)
    assert request_of(read_link(query, MODELS)) == asked


def test_an_address_without_settings_is_no_link():
    for query in ("", "?", "?__theme=dark", "?utm_source=x&logs=container"):
        assert read_link(query, MODELS) is None


def test_names_may_be_short_or_long():
    long = "?prompts=a+fox%0Aa+dog&share_ratio=0.2&guidance_scale=3"
    short = "?prompt=a+fox&prompt=a+dog&beta=0.2&guidance=3"
    assert read_link(long, MODELS) == read_link(short, MODELS)


@pytest.mark.parametrize(
    ("query", "kept", "words"),
    [
        ("?steps=abc&seed=5", {"seed": 5}, "link's steps could not be used. The number of steps"),
        ("?steps=7.5&seed=5", {"seed": 5}, "whole number"),
        ("?steps=nan&beta=inf", {}, "steps and share ratio"),
        ("?beta=7&steps=20", {"steps": 20}, "allowed are 0 to 1"),
        ("?model=evil/model&steps=20", {"steps": 20}, "not available"),
        ("?model=x&tau_min=0.5&guidance=3&seed=4", {"seed": 4}, "model could not"),
        ("?prompt=fox&steps=9", {"steps": 9}, "at least two"),
        ("?tau_min=0.9&tau_max=0.2&steps=9", {"steps": 9}, "must not be above"),
        ("?trained=maybe&steps=9", {"steps": 9}, "true and false"),
        ("?scheduler=sorcery&steps=9", {"steps": 9}, "allowed are ddim"),
        ("?v=9&steps=9", {"steps": 9}, "version 9"),
        ("?prompt=" + "x" * 5000 + "&prompt=y&steps=9", {"steps": 9}, "5000 characters"),
    ],
)
def test_what_is_bad_is_named_and_the_rest_is_kept(query, kept, words):
    read = read_link(query, MODELS)
    assert read.values == kept
    assert words in read.problem
    assert len(read.problem) < 300


def test_bounds_below_the_models_own_are_kept():
    read = read_link("?tau_min=0.1&tau_max=0.3", MODELS)
    assert read.values == {"tau_min": 0.1, "tau_max": 0.3}


def test_a_record_gives_its_settings_back():
    record = {"model": "sd-v1-5", "request": ASKED.to_dict(), "seconds": {"shared": 1}}
    read = read_record(json.dumps(record), MODELS)
    assert read.problem == ""
    assert request_of(read) == ASKED
    assert read.values["model"] == "sd-v1-5"


@pytest.mark.parametrize("sharing", ["groups", "tree"])
def test_a_budget_of_one_is_a_share_in_a_link_of_the_first_version_only(sharing):
    asked = replace(ASKED, sharing=sharing, budget=1.0)
    query = link_query(asked, "emoji-scenes")
    new, old = (read_link(link, MODELS).values for link in (query, query.replace("v=2", "v=1")))
    assert (new["budget"], new["spend"]) == (1.0, asked.spend)
    assert (old.get("budget", 0.0), old["spend"]) == (0.0, 1.0)


def test_a_record_of_the_first_version_is_understood():
    old = ASKED.to_dict()
    for name in (
        "seed",
        "trained",
        "trunk",
        "fresh_noise",
        "sharing",
        "budget",
        "spend",
        "spacing",
        "guarded",
    ):
        del old[name]
    old |= {"model": "emoji-scenes", "seeds": [4, 5], "scheduler": "DDIMScheduler"}
    read = read_record(json.dumps(old | {"dtype": "float32"}), MODELS)
    assert read.problem == ""
    assert read.values["seed"] == 4
    assert read.values["scheduler"] == "ddim"


def test_a_foreign_record_gives_what_can_be_used():
    foreign = {"prompts": ["a fox", "a dog"], "seeds": [9, 2], "steps": 500, "cfg": 3}
    read = read_record(json.dumps(foreign), MODELS)
    assert read.values == {"prompts": ["a fox", "a dog"], "seed": 9}
    assert "steps" in read.problem
    assert "do not count up" in read.problem


@pytest.mark.parametrize(
    "text", ["", "no json", "[]", "3", "{}", '{"prompts": []}', "[" * 100_000, '{"a": NaN}']
)
def test_what_is_no_record_gets_a_sentence(text):
    with pytest.raises(ValueError, match=r"This is not (a|the) record"):
        read_record(text, MODELS)


def test_bounds_of_another_model_are_left_out():
    record = ASKED.to_dict() | {"model": "another"}
    read = read_record(json.dumps(record), MODELS)
    assert not {"tau_min", "tau_max", "guidance_scale"} & set(read.values)
    assert "not available" in read.problem


@pytest.mark.parametrize("name", ["model", "seeds", "request", *settings_of()])
@pytest.mark.parametrize("value", [None, [], {}, [[1]], {"a": 1}, "x" * 5000, 1e400, -1, True])
def test_whatever_a_record_holds_the_rest_is_kept(name, value):
    record = {"prompts": ["a fox", "a dog"], name: value}
    read = read_record(json.dumps(record), MODELS)
    assert read.values["prompts"] == ["a fox", "a dog"]
    assert len(read.problem) < 400


def test_a_product_travels_as_it_was_typed_and_braces_that_are_meant_as_such():
    text = "a {fox|rabbit} {in the snow|on the beach}"
    request = parse_request(text)
    query = link_query(request, "tiny", text)
    assert "prompt=" not in query
    assert read_link(query, {"tiny": ModelSettings()}).values["set"] == text
    assert read_link("?set=a+{fox", {"tiny": ModelSettings()}).problem.startswith(
        "The link's set could not"
    )
    literal = read_link(
        link_query(parse_request("a \\{fox\\}\na dog"), "tiny"), {"tiny": ModelSettings()}
    )
    assert literal.values["prompts"] == ["a {fox}", "a dog"]
    assert parse_request(prompts_text(literal.values["prompts"])).prompts == ("a {fox}", "a dog")
