"""Links and records fill the Studio's form, whatever they hold."""

import json
from urllib.parse import urlencode

import gradio as gr
import pytest

from sage.jobs.request import parse_request
from sage.ui.examples import FIRST_EXAMPLE
from sage.ui.export.links import link_query
from sage.ui.html.prose import NOTHING_YET
from sage.ui.studio.form import Run
from sage.ui.studio.handlers import Handlers
from sage.ui.studio.layout import build_layout
from sage.ui.travel import Travel

from .conftest import PROMPTS, changed, make_form, names_of, values_of

FORM = make_form(scheduler="euler", trunk="medoid", fresh_noise=0.1, guarded=False, model="tiny")


@pytest.fixture
def travel(shelf):
    with gr.Blocks():
        layout = build_layout(shelf)
    return Travel(layout, Handlers(layout, shelf), shelf)


def by_name(travel, updates):
    """Updates by the names of the layout's components."""
    names = names_of(travel.layout)
    return {names[part]: value for part, value in updates.items()}


def link_of(travel, **changes):
    return by_name(travel, travel.link(*values_of(changed(FORM, **changes))))


def test_a_link_fills_the_form_it_was_made_from(travel):
    query = link_of(travel)["link"].value
    filled = by_name(travel, travel.link_steps(query, 30) | travel.open_link(query))
    linked = {
        n: v
        for n, v in FORM.settings.items()
        if n not in ("trained", "sharing", "spend", "budget", "spacing")
    }
    assert {name: filled[name] for name in linked} == linked
    assert (filled["prompts"], filled["model"]) == (FORM.prompts, FORM.model)
    assert filled["share_ratio"] == pytest.approx(0.4)
    assert "branch_call" not in filled  # it follows from both
    assert "These settings come from a link" in filled["opened"]


@pytest.mark.parametrize("before", [4, 10, 30])
def test_the_branch_point_follows_from_steps_and_ratio(travel, before):
    query = link_of(travel, branch_call=7)["link"].value
    first = by_name(travel, travel.link_steps(query, before))
    moved = travel.handlers.resize(first["steps"], first["scheduler"], first["share_ratio"])
    slider = by_name(travel, moved)["branch_call"]
    assert (slider.value, slider.maximum) == (7, 10)


@pytest.mark.slow
def test_repeats_and_switches_of_the_measurement_come_back(travel):
    query = link_of(travel, repeats=3, measure=False, fewer_steps=False)["link"].value
    filled = by_name(travel, travel.open_link(query))
    assert (filled["repeats"], filled["measure"], filled["fewer_steps"]) == (3, False, False)


def test_pictures_of_other_prompts_make_way_at_once(travel):
    """Fault 9: a model may have to be loaded before the link's own prompts have their boxes."""
    query = link_of(travel)["link"].value
    filled = by_name(travel, travel.open_link(query))
    assert (filled["pictures"], filled["outcome"], filled["run"]) == ("", "", None)
    assert "sage-empty" in filled["plan"]
    assert NOTHING_YET in filled["progress"]  # not what the page says of its first comparison
    assert "sage-empty" in filled["seconds"]
    kept = Run(FORM.check(), "tiny", 10)
    assert "pictures" not in by_name(travel, travel.open_link(query, kept))
    first = "?" + urlencode([("prompt", prompt) for prompt in FIRST_EXAMPLE.prompts])
    assert "pictures" not in by_name(travel, travel.open_link(first))


def test_a_form_that_asks_for_nothing_has_no_link(travel):
    made = link_of(travel, prompts="one fox")
    assert "at least two" in made["travel_note"]
    assert "value" not in made["link"]


def test_without_a_link_the_page_stays_as_it_is(travel):
    for query in ("", "?__theme=dark", None):
        assert by_name(travel, travel.open_link(query)) == {"opened": ""}


def test_what_is_bad_in_a_link_is_said_and_the_rest_fills(travel):
    filled = by_name(travel, travel.open_link("?steps=many&seed=3&prompt=<b>x&prompt=y"))
    assert filled["seed"] == 3
    assert filled["prompts"] == "<b>x\ny"
    assert "steps" in filled["opened"]
    hostile = by_name(travel, travel.open_link("?steps=<img src=x onerror=alert(1)>"))
    assert "<img" not in hostile["opened"]


def test_a_model_that_is_out_of_reach_is_said(travel):
    filled = by_name(travel, travel.open_link("?model=gone&seed=3"))
    assert "cannot be loaded" in filled["model_note"]
    assert filled["seed"] == 3


def test_a_record_fills_the_form(travel, tmp_path):
    asked = parse_request(PROMPTS, steps=10, share_ratio=0.7, seed=5)
    path = tmp_path / "record.json"
    path.write_text(json.dumps({"model": "tiny", "request": asked.to_dict()}))
    text = travel.read_file(str(path))
    filled = by_name(travel, travel.record_steps(text, 30) | travel.open_record(text))
    assert filled["prompts"] == PROMPTS
    assert (filled["steps"], filled["share_ratio"]) == (10, 0.7)
    assert filled["guarded"] is False
    assert "Loaded" in filled["travel_note"]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "\x00" * 100])
def test_what_is_no_record_is_said(travel, text):
    filled = by_name(travel, travel.open_record(text))
    assert set(filled) == {"travel_note"}
    assert "This is not" in filled["travel_note"]
    assert set(by_name(travel, travel.record_steps(text, 30))) == {"opened"}


@pytest.mark.slow
def test_a_file_that_is_no_text_is_said(travel, tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(bytes(range(256)) * 100)
    filled = by_name(travel, travel.open_record(travel.read_file(str(path))))
    assert "not a record" in filled["travel_note"]
    assert travel.read_file(None) == ""


def test_the_adapter_is_switched_where_there_is_one(travel):
    filled = by_name(travel, travel.open_link("?model=tiny&trained=true"))
    assert filled["trained"].value is True
    assert filled["trained"].visible is False


def test_a_link_names_the_model_and_the_guard(travel):
    query = link_of(travel, guarded=True)["link"].value
    asked = parse_request(
        PROMPTS,
        tau_min=0.95,
        tau_max=1.0,
        share_ratio=0.4,
        steps=10,
        guidance_scale=3.0,
        seed=7,
        scheduler="euler",
        trunk="medoid",
        fresh_noise=0.1,
        guarded=True,
    )
    assert query == link_query(asked, "tiny")
