"""A setting is said once: one added to the class appears wherever settings are shown or taken."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import gradio as gr
import pytest

from sage.core import settings
from sage.core.settings import Choice, Number, Sampling, setting, settings_of
from sage.jobs.grid import Axis, axes
from sage.jobs.models import builtin_model, few_step_model, stable_diffusion_v1_5
from sage.jobs.request import Request
from sage.ui import kit
from sage.ui.api import arguments, check_arguments
from sage.ui.export import lines
from sage.ui.export.lines import python_lines
from sage.ui.export.links import link_query, read_link, read_record
from sage.ui.studio.form import Form
from sage.ui.studio.layout import build_layout

OLD = Path(__file__).resolve().parents[1] / "data" / "v1"
MODELS = {s.key: s for s in (builtin_model(), few_step_model(), stable_diffusion_v1_5())}


@dataclass(frozen=True, kw_only=True)
class Wider(Request):
    """A copy of the class with one setting more."""

    sparkle: float = setting(
        Number(
            subject="The sparkle",
            label="Sparkle, σ",
            help="how much it sparkles.",
            default=0.5,
            low=0.0,
            high=2.0,
            step=0.1,
            link="sp",
            axis=(0.0, 1.0),
        )
    )


ASKED = Wider.of(prompts=("a fox", "a dog"), sparkle=1.5)


def test_it_is_an_argument_and_is_refused_with_its_own_sentence():
    assert Wider.of(prompts=("a", "b"), sparkle=1).sparkle == 1.0
    with pytest.raises(ValueError, match="The sparkle is 3; allowed are 0 to 2"):
        Wider.of(prompts=("a", "b"), sparkle=3)
    with pytest.raises(ValueError, match="no setting 'sparkle'"):
        Request.of(prompts=("a", "b"), sparkle=1)


@pytest.mark.slow
def test_it_has_a_control_on_the_page_and_a_place_in_the_form(shelf):
    with gr.Blocks():
        page = build_layout(shelf, Wider)
    control = page.controls["sparkle"]
    assert (control.minimum, control.maximum, control.value) == (0.0, 2.0, 0.5)
    assert control.label == "Sparkle, σ"
    assert control in page.form
    assert "sparkle" in Form.setting_names(Wider)


def test_it_is_an_argument_of_the_api_with_its_words(shelf):
    (argument,) = (one for one in arguments(Wider) if one.name == "sparkle")
    assert argument.default == 0.5
    assert argument.words == "how much it sparkles, 0 to 2."
    values = {one.name: one.default for one in arguments(Wider)} | {"sparkle": 1.25}
    request, _ = check_arguments(values, shelf, Wider)
    assert request.sparkle == 1.25


def test_it_travels_in_links_and_records():
    query = link_query(ASKED, "sd-v1-5")
    assert "&sp=1.5" in query
    assert read_link(query, MODELS, Wider).values["sparkle"] == 1.5
    assert "The sparkle is 9" in read_link("?sp=9", MODELS, Wider).problem
    assert json.loads(json.dumps(ASKED.to_dict()))["sparkle"] == 1.5
    assert Wider.from_dict(ASKED.to_dict()) == ASKED


def test_it_is_an_axis_of_explore(monkeypatch):
    assert axes(Wider)["sparkle"].axis == (0.0, 1.0)
    axis = Axis(settings_of(Wider)["sparkle"], (0.0, 1.0))
    assert (axis.title, axis.label(1.0)) == ("Sparkle, σ", "1")


def test_it_is_in_the_lines_that_repeat_a_run():
    from sage.core.plan import shared_plan

    text = python_lines(ASKED, MODELS["sd-v1-5"], shared_plan([(0, 1)], 30, 12), [(0, 1)])
    assert "sparkle=1.5" in text
    plain = replace(ASKED, sparkle=0.5)
    assert "sparkle" not in python_lines(
        plain, MODELS["sd-v1-5"], shared_plan([(0, 1)], 30, 12), [(0, 1)]
    )


@pytest.mark.slow
def test_every_setting_of_the_library_has_words_and_a_control(shelf):
    for name, one in settings_of().items():
        assert one.subject
        assert one.label
        assert one.help.endswith("."), name
        with gr.Blocks():
            control = kit.control(one, shelf.default)
        assert control.label == one.label
        if isinstance(one, Choice):
            assert [key for _, key in control.choices] == list(one.titles)


def test_no_limit_of_a_setting_is_a_literal_of_the_page():
    assert settings_of()["steps"].allowed == "2 to 100"
    (argument,) = (one for one in arguments() if one.name == "steps")
    assert "2 to 100" in argument.words
    assert settings_of()["scheduler"].default == lines.PLAIN
    assert Sampling().share_ratio == settings.settings_of()["share_ratio"].default


# -- what was written at version 1 ---------------------------------------------------------------

NAMED_NOW = {"budget": "spend"}  # the settings that have another name today


def today(values):
    return {NAMED_NOW.get(name, name): value for name, value in values.items()}


LINKS = json.loads((OLD / "links.json").read_text("utf-8"))
RECORDS = json.loads((OLD / "records.json").read_text("utf-8"))["records"]


@pytest.mark.parametrize("link", LINKS["made"], ids=lambda link: link["name"])
def test_an_old_link_means_what_it_meant(link):
    read = read_link(link["query"], MODELS)
    assert read.values == today(link["values"])
    assert read.problem == link["problem"]


@pytest.mark.parametrize("link", LINKS["typed"], ids=lambda link: link["query"][:40])
def test_a_typed_address_keeps_what_it_kept(link):
    read = read_link(link["query"], MODELS)
    if link["values"] is None:
        assert read is None
        return
    assert read.values == today(link["values"])
    assert bool(read.problem) == bool(link["problem"])


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record["name"])
def test_an_old_record_loads(record):
    text = (OLD / "records" / record["name"]).read_text("utf-8")
    if record.get("values") is None:
        with pytest.raises(ValueError, match="record"):
            read_record(text, MODELS)
        return
    read = read_record(text, MODELS)
    assert read.values == today(record["values"])
    assert bool(read.problem) == bool(record["problem"])
