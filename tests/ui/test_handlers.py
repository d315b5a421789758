import json
import zipfile
from dataclasses import replace

import gradio as gr
import pytest
from PIL import Image

from sage.request import LIMITS
from sage.ui.handlers import EARLIER, TEASER, UNFINISHED, Form, known_words
from sage.ui.shelf import Shelf

from .conftest import PROMPTS, raises_sentence


def values(form, run=None):
    """What gradio hands to a listener: the widgets' values, then the session's run."""
    return (*vars(form).values(), run)


def rendered(page, form):
    updates = list(page.render(*values(form)))
    return updates, updates[-1][page.layout.run]


def trace_names(update):
    return [trace.get("name") for trace in json.loads(update.plot)["data"]]


def test_analysis_fills_every_place_that_follows_from_the_form(page, form):
    updates = page.analyze(*values(form))
    layout = page.layout
    assert set(updates) <= set(layout.consequences)
    assert "P1" in updates[layout.chips]
    assert "same group" in updates[layout.pairs]
    assert "4 of 10 steps shared" in updates[layout.estimate]
    assert "Never seen" in updates[layout.prompts_note]
    assert "pizza" in updates[layout.prompts_note]
    assert json.loads(updates[layout.similarity].plot)["data"][0]["type"] == "heatmap"
    assert "A trunk" in trace_names(updates[layout.plan])
    assert updates[layout.pictures].count("sage-frame") == 8


def test_the_estimate_follows_the_branch_point_and_leaves_the_groups_alone(page, form):
    layout = page.layout
    updates = page.estimate(*values(replace(form, branch_step=10)))
    assert "10 of 10 steps shared" in updates[layout.estimate]
    assert updates[layout.share_ratio] == 1
    assert layout.similarity not in updates
    assert layout.chips not in updates


def test_changing_the_steps_keeps_the_share(page):
    slider = page.resize(50, 0.4)[page.layout.branch_step]
    assert (slider.maximum, slider.value) == (50, 20)
    assert page.resize(None, 0.4) == {page.layout.branch_step: gr.skip()}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prompts": "one fox"}, "at least two"),
        ({"prompts": "\n".join(f"fox {n}" for n in range(17))}, "17"),
        ({"prompts": "a fox\n" + "x" * 5000}, "5000 characters"),
        ({"prompts": "\x00\x07\n\u202e"}, "No prompt"),
        ({"tau_min": float("nan")}, "nan"),
        ({"tau_min": 0.9, "tau_max": 0.5}, "lowest"),
        ({"steps": None}, "steps"),
        ({"steps": 10**9}, "steps"),
        ({"branch_step": 99}, "branch point"),
        ({"branch_step": None}, "branch point"),
        ({"guidance_scale": float("inf")}, "guidance"),
        ({"max_group_size": 2.5}, "whole number"),
        ({"seed": -1}, "seed"),
        ({"seed": None}, "seed"),
        ({"seed": 2**40}, "seed"),
        ({"model": "rm -rf"}, "available"),
        ({"model": "gone"}, "cannot be loaded"),
    ],
)
def test_bad_input_is_answered_by_a_sentence_beside_the_prompts(page, form, change, words):
    bad = replace(form, **change)
    layout = page.layout
    for handler in (page.analyze, page.estimate):
        updates = handler(*values(bad))
        assert words.lower() in updates[layout.prompts_note].lower()
        assert "sage-error" in updates[layout.prompts_note]
        assert layout.prompts not in updates
    (only,) = page.render(*values(bad))
    assert words.lower() in only[layout.progress].lower()


@pytest.mark.parametrize("prompts", ["", "  \n ", None])
def test_an_empty_box_is_an_invitation_and_no_error(page, form, prompts):
    updates = page.analyze(*values(replace(form, prompts=prompts)))
    assert TEASER in updates[page.layout.prompts_note]
    assert "sage-error" not in updates[page.layout.prompts_note]


def test_rendering_shows_previews_then_everything(page, form):
    updates, run = rendered(page, form)
    layout = page.layout
    assert all(set(u) <= set(layout.results) for u in updates)
    live = [u for u in updates if 'data-state="live"' in str(u.get(layout.pictures))]
    assert live
    assert live[0][layout.pictures].count("<img") == 8
    last = updates[-1]
    assert 'data-state="done"' in last[layout.pictures]
    assert "twin" in last[layout.pictures]
    assert "independent encode" in trace_names(last[layout.seconds])
    assert "shared A trunk" in trace_names(last[layout.flops])
    assert "36 of 40" in last[layout.saving]
    assert run.done
    assert run.step == 10


def test_downloads_hold_pictures_and_the_record(page, form):
    _, run = rendered(page, form)
    with zipfile.ZipFile(run.files.archive) as box:
        names = box.namelist()
        assert "P01-independent.png" in names
        assert "P04-shared.png" in names
        record = json.loads(box.read("sage-record.json"))
        with box.open("sage-sheet.png") as sheet:
            assert Image.open(sheet).width > 4 * 190
    assert record["prompts"] == PROMPTS.split("\n")
    assert record["seeds"] == [7, 8, 9, 10]
    assert record == json.loads(run.files.record.read_text())


def test_the_record_repeats_the_run(page, form):
    _, first = rendered(page, form)
    _, second = rendered(page, form)
    for (a, b), (c, d) in zip(first.files.pairs, second.files.pairs, strict=True):
        assert a.read_bytes() == c.read_bytes()
        assert b.read_bytes() == d.read_bytes()


def test_a_new_rendering_removes_the_files_of_the_one_before(page, form):
    _, first = rendered(page, form)
    assert first.files.folder.exists()
    list(page.render(*values(form, first)))
    assert not first.files.folder.exists()


def test_results_are_marked_once_the_form_asks_for_something_else(page, form):
    _, run = rendered(page, form)
    layout = page.layout
    assert page.analyze(*values(form, run))[layout.banner] == ""
    for other in (
        replace(form, prompts=PROMPTS + "\na cat"),
        replace(form, tau_min=0.5),
        replace(form, prompts=""),
        replace(form, model="slow"),
    ):
        assert EARLIER in page.analyze(*values(other, run))[layout.banner]
    assert EARLIER in page.estimate(*values(replace(form, branch_step=5), run))[layout.banner]
    assert EARLIER in page.mark_earlier(*values(replace(form, seed=8), run))[layout.banner]
    assert page.mark_earlier(*values(form, run))[layout.banner] == ""
    assert (
        EARLIER in page.mark_earlier(*values(replace(form, seed=None, steps=1), run))[layout.banner]
    )


def test_old_pictures_stay_when_prompts_change(page, form):
    _, run = rendered(page, form)
    other = replace(form, prompts="a fox\na dog")
    assert page.analyze(*values(other, run))[page.layout.pictures] == gr.skip()


def test_closing_the_generator_stops_within_a_step(page, form):
    steps = page.render(*values(replace(form, steps=100, branch_step=40)))
    layout = page.layout
    run = None
    for updates in steps:
        run = updates.get(layout.run, run)
        if run is not None and run.step >= 3:
            break
    steps.close()
    assert not run.done
    stopped = page.stop(run)
    assert f"Stopped after step {run.step} of 100" in stopped[layout.progress]
    assert UNFINISHED in stopped[layout.banner]
    assert layout.pictures not in stopped
    checked = replace(form, steps=100, branch_step=40)
    assert UNFINISHED in page.analyze(*values(checked, run))[layout.banner]


def test_stopping_before_the_first_step_says_so(page):
    assert "before it began" in page.stop(None)[page.layout.progress]


def test_an_unexpected_error_frees_the_buttons_and_tells_no_secrets(page, form, monkeypatch):
    def broken(*_):
        raise KeyError("/secret/path")

    monkeypatch.setattr("sage.ui.handlers.compare", broken)
    *_, last = page.render(*values(form))
    assert "Rendering failed" in last[page.layout.progress]
    assert "secret" not in str(last)
    assert page.layout.render in last


def test_the_slider_shows_the_chosen_pair(page, form):
    _, run = rendered(page, form)
    independent, shared = page.pick_pair("2", run)
    assert independent.endswith("P03-independent.png")
    assert shared.endswith("P03-shared.png")


def test_a_model_brings_its_own_bounds_and_what_it_knows(page):
    layout = page.layout
    updates = page.pick_model("tiny")
    assert (updates[layout.tau_min], updates[layout.tau_max]) == (0.95, 1.0)
    assert updates[layout.guidance_scale] == 3.0
    assert "fox" in updates[layout.known]
    gone = page.pick_model("gone")
    assert "Gone cannot be loaded here: no such host" in gone[layout.model_note]
    assert "more lines" not in gone[layout.model_note]
    assert layout.tau_min not in gone


def test_a_model_of_the_open_web_lists_nothing(shelf):
    class Open:
        known_words = None

    assert known_words(Open()) == {}


def test_random_seeds_are_allowed(page):
    for _ in range(20):
        assert 0 <= page.random_seed() <= LIMITS["seed"].high


def test_the_shelf_loads_a_model_once(shelf):
    loads = []

    def load(spec):
        loads.append(spec.key)
        return shelf.get("tiny")

    own = Shelf(shelf.specs, load)
    assert own.get("tiny") is own.get("tiny")
    assert loads == ["tiny"]
    with raises_sentence(ValueError, "Unknown model", "tiny"):
        own.get("../../etc/passwd")


def test_the_form_and_the_layout_have_one_order(page):
    ids = [c.elem_id.replace("-", "_") for c in page.layout.form]
    assert ids == list(Form.__dataclass_fields__)
