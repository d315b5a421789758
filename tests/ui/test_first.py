"""The precomputed comparisons: what is stored agrees with the code, and needs no model to show."""

import json
from dataclasses import replace
from statistics import mean

import gradio as gr
import pytest
import torch

from sage.core.cost import evaluations
from sage.core.metrics import pixel_distance
from sage.core.plan import independent_plan, shared_plan
from sage.jobs.filmstrip import filmstrip
from sage.jobs.job import arrange, prepare
from sage.jobs.models import builtin_model, load_model
from sage.ui.demo import build_demo
from sage.ui.examples import EXAMPLE_SETS, FIRST_EXAMPLE, example_request
from sage.ui.html.views import saving_words
from sage.ui.shelf import Shelf
from sage.ui.studio import first
from sage.ui.studio.first import FOLDER, Stored, find_stored, stored_comparisons
from sage.ui.studio.form import Run
from sage.ui.studio.handlers import EARLIER, NOT_YET, Handlers, spelled
from sage.ui.studio.layout import build_layout
from sage.ui.studio.precompute import precompute, weights_digest

from .conftest import make_form, values_of
from .reader import plan_data

SPEC = builtin_model()
ALL = {stored.key: stored for stored in stored_comparisons(FOLDER)}
STALE = "run `python -m sage.ui.studio.precompute` again"


def refuse(spec):
    raise AssertionError("no model is needed here")


@pytest.fixture
def page():
    """Handlers on a model that cannot be loaded: everything must come from what is stored."""
    shelf = Shelf([SPEC], refuse)
    with gr.Blocks():
        return Handlers(build_layout(shelf), shelf)


def job_of(stored):
    request = replace(stored.request, guarded=False)
    return arrange(stored.grouping, request, SPEC, stored.flops)


def form_of(stored, **changes):
    values = stored.request.to_dict() | {"model": SPEC.key}
    values |= {
        "prompts": "\n".join(stored.request.prompts),
        "branch_call": job_of(stored).branch_call,
    }
    del values["share_ratio"]
    return make_form(**(values | changes))


def values(form, run=None):
    return values_of(form, run)


def test_there_is_one_for_every_example_set_as_the_page_asks_for_it():
    for example in (each for each in EXAMPLE_SETS if each.ready):
        request = example_request(example, SPEC)
        stored = find_stored(request, SPEC.key)
        assert stored is not None, STALE
        assert stored.key == example.key
        assert stored.request == request, STALE


def test_all_together_are_small():
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 1.5e6


@pytest.mark.parametrize("stored", ALL.values(), ids=ALL)
def test_they_were_made_with_these_weights(stored):
    assert stored.made["weights"] == weights_digest(SPEC), STALE


@pytest.mark.parametrize("stored", ALL.values(), ids=ALL)
def test_groups_plan_and_costs_agree_with_the_code(stored):
    report, request = stored.report, stored.request
    assert [list(group) for group in stored.grouping.groups] == report["groups"]
    job = job_of(stored)
    cost, plan = job.cost, job.plan
    assert plan == stored.plan
    assert job.calls == request.steps
    assert cost.evaluations == report["evaluations"]["shared"] == evaluations(plan)
    assert cost.independent_evaluations == report["evaluations"]["independent"]
    assert cost.flops.total == pytest.approx(report["flops"]["shared"]["total"], rel=1e-6)
    assert set(report["reused"].values()) == {0}


@pytest.mark.parametrize("stored", ALL.values(), ids=ALL)
def test_every_row_of_the_strip_spent_what_its_plan_says(stored):
    groups, steps = stored.grouping.groups, stored.request.steps
    strip = stored.strip
    assert {0, job_of(stored).branch_call, steps} <= set(strip.points)
    for point in strip.points:
        assert strip.shared(point).evaluations == evaluations(shared_plan(groups, steps, point))
        fewer = strip.fewer(point)
        assert fewer.evaluations <= strip.shared(point).evaluations
        assert fewer.evaluations > strip.shared(point).evaluations - strip.num_prompts
    assert strip.shared(0).twin == (0.0,) * strip.num_prompts
    report = stored.report
    assert strip.shared(job_of(stored).branch_call).twin == pytest.approx(
        report["twin_distance"], abs=1e-5
    )


@pytest.mark.slow
def test_pictures_agree_with_the_model():
    stored = ALL["far"]
    job = prepare(load_model(SPEC, "cpu"), stored.request)
    frames = filmstrip(job, [job.branch_call])
    for frame in frames:
        row = next(r for r in stored.strip.rows if (r.side, r.at) == (frame.side, frame.at))
        for n, image in enumerate(frame.output.images):
            there, here = (
                torch.tensor(list(picture.convert("RGB").tobytes())).float()[None] / 255
                for picture in (stored.strip.picture(row, n), image)
            )
            # The sheet is compressed; another picture would be at 0.1 and more.
            assert pixel_distance(there, here).item() < 0.03, STALE


def test_on_arrival_a_finished_comparison_is_there_and_no_model(page):
    layout, stored = page.layout, ALL[FIRST_EXAMPLE.key]
    updates = page.analyze(*values(form_of(stored)))
    assert 'data-state="done"' in updates[layout.pictures]
    assert "sage-sheet" in updates[layout.pictures]
    assert "Precomputed: 30 steps, seeds 0 to 3" in updates[layout.progress]
    assert updates[layout.similarity].count("<button") == 12
    assert "data-plan" in updates[layout.plan]
    assert "sage-trunk" in updates[layout.seconds]
    assert "sage-trunk" in updates[layout.flops]
    assert "measured with" in updates[layout.saving]
    assert NOT_YET in updates[layout.model_note]
    assert updates[layout.run].stored == FIRST_EXAMPLE.key
    assert updates[layout.banner] == ""
    assert page.shelf.loaded(SPEC.key) is None


@pytest.mark.slow
def test_the_page_is_served_with_the_first_comparison_in_it():
    served = build_demo(Shelf([SPEC], refuse)).get_config_file()["components"]
    shown = {part["props"].get("elem_id"): str(part["props"].get("value")) for part in served}
    assert shown["similarity"].count("<button") == 12
    assert "data-plan" in shown["plan"]
    assert 'data-state="done"' in shown["pictures"]
    other = build_demo(Shelf([replace(SPEC, key="another")], refuse)).get_config_file()
    assert "sage-sheet" not in str(other)  # nothing is stored for it
    assert len(other["components"]) == len(served)  # and no update became a part of the page


def test_the_branch_point_moves_through_what_is_stored(page):
    layout, stored = page.layout, ALL["tight"]
    run = page.analyze(*values(form_of(stored)))[layout.run]
    moved = page.analyze(*values(form_of(stored, branch_call=21), run))
    assert "21 of 30 steps shared" in moved[layout.estimate]
    assert plan_data(moved[layout.plan])["point"] == 21
    assert 'data-point="21"' in moved[layout.outcome]
    assert moved[layout.banner] == ""
    assert moved[layout.pictures] == gr.skip()
    assert "sage-trunk" in moved[layout.flops]
    assert layout.seconds not in moved  # measured once, at one branch point


def test_what_was_rendered_under_the_guard_is_not_announced_as_what_is_stored(page):
    layout, form = page.layout, form_of(ALL["far"], guarded=True, branch_call=18)
    stored = page.analyze(*values(form))
    assert "18 of 30 steps shared" in stored[layout.estimate]
    assert "Shown as requested; Render would shorten it." in stored[layout.chips]
    rendered = Run(form.check(), SPEC.key, 30, step=30, done=True)
    after = page.analyze(*values(form, rendered))
    assert "18 of 30" not in after[layout.estimate]
    assert "steps instead." in after[layout.chips]
    assert after[layout.banner] == ""
    insisting = page.analyze(*values(form_of(ALL["far"], branch_call=18)))
    assert "Shared anyway." in insisting[layout.chips]


def test_the_saving_names_the_steps_that_were_shared_not_those_asked_for():
    report, groups = ALL["two"].report, ALL["two"].grouping.groups
    cost = job_of(ALL["two"]).cost
    assert "30 steps with 10 shared." in saving_words(report, shared_plan(groups, 30, 10), cost)
    assert "with 10 to 12 shared." in saving_words(report, shared_plan(groups, 30, [12, 10]), cost)
    assert "30 steps." in saving_words(report, independent_plan(4, 30), cost)


def test_another_example_replaces_the_one_before(page):
    layout = page.layout
    run = page.analyze(*values(form_of(ALL["two"])))[layout.run]
    updates = page.analyze(*values(form_of(ALL["mixed"]), run))
    assert updates[layout.run].stored == "mixed"
    assert updates[layout.pictures].count('class="sage-pair"') == 5


def test_a_change_that_is_not_stored_keeps_the_pictures_and_says_so(page):
    layout, stored = page.layout, ALL["two"]
    run = page.analyze(*values(form_of(stored)))[layout.run]
    updates = page.analyze(*values(form_of(stored, seed=5), run))
    assert EARLIER in updates[layout.banner]


def test_the_negative_control_shares_although_it_should_not():
    stored = ALL["far"]
    assert len(stored.grouping.groups) == 1
    assert not stored.request.guarded
    own = replace(stored.request, tau_min=SPEC.tau_min, tau_max=SPEC.tau_max)
    similarity = torch.tensor(stored.similarity)[0, 1]
    assert similarity < own.tau_min
    far, near = stored.strip.shared(21).twin, ALL["tight"].strip.shared(12).twin
    assert mean(far) > mean(near)


@pytest.mark.slow
def test_a_stored_comparison_survives_its_files(tmp_path, monkeypatch, shelf):
    example = replace(FIRST_EXAMPLE, key="small")
    monkeypatch.setattr("sage.ui.studio.precompute.example_request", _quick)
    made = precompute(shelf.get("tiny"), example, every=2)
    made.save(tmp_path)
    read = Stored.read(tmp_path / "small.json")
    assert read.request == made.request
    assert read.strip.sheet == made.strip.sheet
    assert read.strip.points == (0, 1, 2, 3)
    assert read.grouping.groups == made.grouping.groups
    assert json.loads((tmp_path / "small.json").read_text())["made"]["day"]
    monkeypatch.setattr(first, "FOLDER", tmp_path)
    assert find_stored(made.request, "tiny") == read
    assert find_stored(replace(made.request, seed=1), "tiny") is None


def _quick(example, own):
    return replace(example_request(example, own), steps=3, tau_min=-1.0, tau_max=1.0)


def test_arranging_a_stored_request_gives_its_plan():
    for stored in ALL.values():
        assert job_of(stored).plan == stored.plan


def test_emoji_are_understood_as_the_words_of_the_built_in_model(page):
    words = spelled(make_form(prompts="🦊 ❄️\n🍕", model=SPEC.key), page.shelf).prompts
    assert words.split("\n")[0].startswith("fox")
    assert "pizza" in words


@pytest.mark.slow
@pytest.mark.parametrize("words", [frozenset({"fox", "snow"}), None])
def test_a_model_without_stored_pictures_is_served_with_its_own_words(words):
    settings = replace(SPEC.settings, known_words=words, vocabulary=None)
    shelf = Shelf([replace(SPEC, key="another", settings=settings)], refuse)
    served = build_demo(shelf).get_config_file()["components"]
    props = {one["props"].get("elem_id"): one["props"] for one in served}
    assert props["words"]["visible"] == (words is not None)
    assert ("fox" in str(props["known"]["value"])) == (words is not None)
