"""The tab "Explore", its listeners called without a server."""

import codecs
import csv
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import pytest
from PIL import Image

from sage.jobs.grid import CellDone, RunNumbers, axes
from sage.jobs.models import builtin_model, weights_digest
from sage.jobs.request import Request
from sage.ui.explore import first
from sage.ui.explore.parts import (
    ALL,
    DOWNLOADS,
    EARLIER,
    LATENTS,
    PREDICTED,
    Explored,
    Form,
    axis_values,
    build_parts,
    offered_axes,
)
from sage.ui.explore.precompute import first_grid, precompute
from sage.ui.explore.tab import Exploring, Speed
from sage.ui.export.grid_files import table_text
from sage.ui.html.grids import time_text
from sage.ui.html.words import flops_text, seconds_text
from sage.ui.shelf import Shelf
from sage.ui.studio.layout import build_layout

from .reader import Reader

PROMPTS = "a fox in the snow\na dog in the snow"
FORM = {
    "prompts": PROMPTS,
    "model": "tiny",
    "across": "share_ratio",
    "across_values": ["0", "0.5"],
    "down": "seed",
    "down_values": ["0", "3"],
    "repeats": 1,
    "tau_min": 0.95,
    "tau_max": 1.0,
    "guarded": False,
    "share_ratio": 0.4,
    "steps": 4,
    "guidance_scale": 2.0,
    "seed": 0,
    "scheduler": "ddim",
    "trunk": "mean",
    "spacing": "model",
    "budget": 0.0,
    "trained": False,
}


@pytest.fixture(scope="module")
def parts(shelf):
    with gr.Blocks():
        return build_parts(shelf)


@pytest.fixture
def tab(parts, shelf):
    return Exploring(parts, shelf)


def asked(explored=None, **changes):
    values = FORM | changes
    return [*(values[name] for name in (*Form.FIELDS, *axes())), explored or Explored()]


def last(tab, updates):
    """What stands on the page when all updates have arrived, by the names of the parts."""
    names = {part: name for name, part in tab.parts.parts.items()}
    names |= {part: name for name, part in tab.parts.controls.items()}
    shown = {}
    for update in updates:
        shown |= {names[part]: value for part, value in update.items()}
    return shown


def at_once(tab, update):
    return last(tab, [update])


@pytest.fixture
def rendered(tab):
    return last(tab, tab.render(tab.turns.fresh(), *asked()))


def test_the_cost_is_there_before_anything_runs(tab):
    shown = at_once(tab, tab.estimate(*asked()))
    # Two seeds: 8 evaluations alone, to compare with, which are those of no shared step; 6 with two
    # of four steps shared.
    assert "4 runs" in shown["cost"]
    assert "28 of 44 evaluations" in shown["cost"]
    assert "including 2 independent runs to compare with" in shown["cost"]
    assert "once something has been rendered" in shown["cost"]
    assert shown["cells"].count('data-state="empty"') == 4


def test_emoji_are_words_here_too_and_unknown_words_are_marked(shelf):
    tiny = shelf.default
    settings = replace(tiny.settings, vocabulary=builtin_model().settings.vocabulary)
    own = Shelf([replace(tiny, settings=settings)], lambda _: shelf.get("tiny"))
    with gr.Blocks():
        tab = Exploring(build_parts(own), own)
    shown = at_once(tab, tab.estimate(*asked(prompts="a 🦊 in snow\na zebra in snow")))
    assert "x-prompt=a+fox+in+snow" in shown["address"]
    assert "Never seen by this model: <mark>zebra</mark></p>" in shown["prompts_note"]
    wrong = at_once(tab, tab.estimate(*asked(prompts="one fox")))
    assert wrong["prompts_note"] == ""  # what is wrong is said with the cost


def test_what_runs_have_in_common_is_counted_in_advance(tab):
    shown = at_once(tab, tab.estimate(*asked(across_values=["0.5", "1"])))
    assert "32 of 36 evaluations" in shown["cost"]
    assert "11 % are computed once and reused" in shown["cost"]


def test_a_ratio_that_does_nothing_is_said(tab):
    alone = at_once(tab, tab.estimate(*asked(tau_min=1.0, across_values=["0.2", "0.8"])))
    assert "No two of these prompts share: 2 of 4 runs give the same pictures" in alone["cost"]
    near = at_once(tab, tab.estimate(*asked(across_values=["0.4", "0.6"])))
    assert "2 of 4 runs give the same pictures as another run: the settings" in near["cost"]
    assert "same pictures" not in at_once(tab, tab.estimate(*asked()))["cost"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"down": "share_ratio", "down_values": ["0"]}, "two different ones"),
        ({"down_values": []}, "at least one value"),
        ({"across_values": ["lots"]}, "a number is needed"),
        ({"prompts": "one fox"}, "at least two"),
        ({"model": "gone"}, "cannot be loaded"),
        ({"across": "trained", "across_values": ["off", "on"]}, "no adapter"),
        ({"steps": 1000}, "allowed are 2 to 100"),
        ({"repeats": 4}, "allowed are 1, 3, 5"),
        ({"down": "tau_min", "down_values": ["1"], "tau_max": 0.9}, "must not be above"),
    ],
)
def test_mistakes_are_explained_and_nothing_can_be_rendered(tab, change, words):
    shown = at_once(tab, tab.estimate(*asked(**change)))
    assert words in shown["cost"]
    assert shown["render"].interactive is False
    failed = last(tab, tab.render(tab.turns.fresh(), *asked(**change)))
    assert words in failed["progress"]
    assert failed["render"].interactive is True


@pytest.mark.slow
def test_a_grid_is_rendered_cell_by_cell(tab):
    tables = [
        u[tab.parts.cells] for u in tab.render(tab.turns.fresh(), *asked()) if tab.parts.cells in u
    ]
    counts = [table.count('data-state="done"') for table in tables]
    assert counts == sorted(counts)
    assert set(counts) == {0, 1, 2, 3, 4}


@pytest.mark.slow
def test_a_finished_grid_says_what_it_took_and_can_be_taken_home(tab, rendered):
    assert "Done: 4 runs, 28 evaluations; 16 more" in rendered["progress"]
    assert "estimated from the speed of the last run" in rendered["cost"]
    explored = rendered["explored"]
    assert len(explored.done) == len(explored.grid.requests)
    paths = {name: path_of(rendered[name]) for name in DOWNLOADS}
    assert Image.open(paths["sheet"]).width > 1000
    record = json.loads(paths["record"].read_text("utf-8"))
    assert Request.from_dict(record["request"]) == explored.grid.base
    assert record["conditions"]["model"] == "tiny"
    lines = list(csv.DictReader(paths["table"].read_text("utf-8-sig").splitlines()))
    assert len(lines) == 4 * 2
    for line in lines:
        cell = record["cells"][int(line["cell"])]
        request = explored.grid.requests[int(line["cell"])]
        n = request.prompts.index(line["prompt"])
        assert line["model"] == "tiny"
        assert float(line["share_ratio"]) == cell["share_ratio"] == request.share_ratio
        assert int(line["seed"]) == request.seeds[n]
        assert float(line["distance"]) == cell["runs"][0]["distance"][n]
        assert int(line["evaluations_of_run"]) == cell["runs"][0]["evaluations"]


@pytest.mark.slow
def test_a_table_computes_nothing_in_a_spreadsheet(rendered):
    record = json.loads(path_of(rendered["record"]).read_text("utf-8"))
    odd = ["=1+2", "+1", "-1", "@SUM(A1)", 'a "fox", 🦊; café', "a = b"]
    run = {"clip": None, "distance": [0.1] * len(odd)}
    record["request"]["prompts"] = odd
    record["cells"] = [one | {"runs": [one["runs"][0] | run]} for one in record["cells"]]
    lines = list(csv.DictReader(table_text(record).splitlines()))
    told = [line["prompt"] for line in lines[: len(odd)]]
    assert told == ["'=1+2", "'+1", "'-1", "'@SUM(A1)", *odd[4:]]
    assert path_of(rendered["table"]).read_bytes().startswith(codecs.BOM_UTF8)


def path_of(button):
    return Path(button.value["path"] if isinstance(button.value, dict) else button.value)


@pytest.mark.slow
def test_every_cell_shows_pictures_time_cost_score_and_distance(tab):
    shown = last(tab, tab.render(tab.turns.fresh(), *asked(repeats=3, down_values=["0"])))
    explored = shown["explored"]
    cells = Reader(shown["cells"]).all("button")
    assert len(cells) == 2
    for place in range(2):
        done = explored.done[place]
        assert sorted(done.runs) == [0, 1, 2]
        run, distance = done.first, done.distance
        words = shown["cells"].split("<button")[1 + place]
        assert f"{run.evaluations} evaluations" in words
        assert seconds_text(run.seconds + run.around) in words
        assert f"distance {distance.value:.3f} ± {distance.half:.3f}" in words
        assert "CLIP –" in words  # this model has no image encoder
        large = at_once(tab, tab.choose("0", explored, SimpleNamespace(cell=place)))["cell"]
        assert f"{distance.value:.3f} ± {distance.half:.3f} to the independent pictures" in large
        assert flops_text(run.flops) in large
    assert explored.done[0].distance.value == 0


@pytest.mark.slow
def test_a_change_of_the_form_marks_the_grid_as_earlier(tab, rendered):
    explored = rendered["explored"]
    assert at_once(tab, tab.estimate(*asked(explored)))["banner"] == ""
    for change in ({"guidance_scale": 3.0}, {"prompts": "a fox\na cat"}, {"steps": 1000}):
        assert EARLIER in at_once(tab, tab.estimate(*asked(explored, **change)))["banner"]


def test_one_tap_takes_what_stands_in_the_studio(shelf):
    with gr.Blocks():
        studio = build_layout(shelf)
        tab = Exploring(build_parts(shelf), shelf)
    values = {name: name for name in tab.parts.controls} | {"trained": False, "tau_min": 0.5}
    shown = at_once(tab, tab.take("slow", PROMPTS, *values.values()))
    assert (shown["prompts"], shown["model"], shown["tau_min"]) == (PROMPTS, "slow", 0.5)
    assert set(tab.parts.controls) <= {*studio.controls, "share_ratio"}


@pytest.mark.slow
def test_a_cell_is_shown_large_with_its_settings(tab, rendered):
    explored = rendered["explored"]
    shown = at_once(tab, tab.choose("0", explored, SimpleNamespace(cell=3)))
    assert shown["explored"].chosen == 3
    assert shown["cell"].count("<figure") == 2
    assert "a dog in the snow" in shown["cell"]
    assert 'href="?v=2&amp;model=tiny&amp;' in shown["cell"]
    assert "beta=0.5" in shown["cell"]
    assert "seed=3" in shown["cell"]
    assert shown["cells"].count('aria-pressed="true"') == 1


@pytest.mark.slow
def test_a_click_beside_the_cells_changes_nothing(tab, rendered):
    for event in (SimpleNamespace(), SimpleNamespace(cell=99), SimpleNamespace(cell="x")):
        shown = at_once(tab, tab.choose("0", rendered["explored"], event))
        assert set(shown) == {"explored"}


@pytest.mark.slow
def test_other_prompts_are_shown_without_rendering(tab, rendered):
    for which, pictures in (("0", 4), ("1", 4), (ALL, 8)):
        shown = at_once(tab, tab.show(which, rendered["explored"]))
        assert shown["cells"].count("<img") == pictures


@pytest.mark.slow
def test_stopping_says_what_is_finished(tab):
    turn = tab.announce()[tab.parts.turn]
    run = tab.render(turn, *asked())
    shown = {}
    for update in run:
        shown |= update
        if len(shown[tab.parts.explored].done) == 2:
            break
    heard = tab.stop(turn, shown[tab.parts.explored])
    assert heard == {tab.parts.stop: gr.skip()}
    stopped = last(tab, run)
    assert "2 of 4 runs finished" in stopped["progress"]
    assert stopped["cells"].count('data-state="done"') == 2
    assert stopped["render"].interactive is True


def test_an_answer_that_a_later_one_overtook_says_nothing(tab, monkeypatch):
    visit, parts, follow = SimpleNamespace(session_hash="one"), tab.parts, tab.follow
    later = asked(prompts="a cat\na dog")
    answers = []

    def slow(*values):
        if values[0] == FORM["prompts"]:  # as where a model is loaded for it
            answers.append(tab.follow_beside(visit, *later, "", ""))
        return follow(*values)

    monkeypatch.setattr(tab, "follow", slow)
    assert tab.follow_beside(visit, *asked(), "", "") == {parts.cost: gr.skip()}
    (told,) = answers
    assert "x-prompt=a+cat" in told[parts.address]
    other = SimpleNamespace(session_hash="other")
    assert "x-prompt" in tab.follow_beside(other, *later, "", "")[parts.address]


@pytest.mark.slow
def test_a_change_while_a_grid_is_rendered_starts_and_loses_nothing(tab, rendered):
    turn, trace = tab.announce()[tab.parts.turn], tab.announce_trace()[tab.parts.trace_turn]
    parts = tab.parts
    assert tab.announce(turn) == {parts.turn: gr.skip()}
    assert tab.announce_trace(trace) == {parts.trace_turn: gr.skip()}
    form = asked(rendered["explored"])
    said = {parts.cost, parts.address, parts.prompts_note}
    assert set(tab.follow_beside(None, *form, turn, trace)) == said
    assert tab.follow_beside(None, *form, turn, "")[parts.trace].interactive is True
    idle = tab.follow_beside(None, *form, "", trace)
    assert idle[parts.render].interactive is True
    assert parts.trace not in idle
    stopped = tab.stop(turn, rendered["explored"])
    assert stopped[parts.turn] == ""
    assert tab.stop_trace(trace)[parts.trace_turn] == ""


@pytest.mark.slow
def test_stopping_a_grid_before_its_turn_keeps_the_one_before(tab, rendered):
    turn = tab.announce()[tab.parts.turn]
    stopped = at_once(tab, tab.stop(turn, rendered["explored"]))
    assert stopped["cells"].count('data-state="done"') == 4
    assert list(tab.render(turn, *asked())) == []


def test_steps_that_are_stopped_stay(tab):
    turn = tab.announce_trace()[tab.parts.trace_turn]
    run = tab.trace(turn, PREDICTED, *asked())
    next(run)
    tab.stop_trace(turn)
    stopped = last(tab, run)
    assert "the steps so far are shown" in stopped["trace_progress"]
    assert "tree" not in stopped


@pytest.mark.slow
def test_the_steps_of_a_run_are_a_tree(tab, rendered):
    explored = at_once(tab, tab.choose("0", rendered["explored"], SimpleNamespace(cell=1)))
    shown = last(tab, tab.trace(tab.trace_turns.fresh(), PREDICTED, *asked(explored["explored"])))
    assert "sage-trunk" in shown["tree"]
    assert "trunk of P1, P2 after step 2 of 4" in shown["tree"]
    assert "branch of P2 after step 3 of 4" in shown["tree"]
    assert shown["tree"].count("sage-end") == 2
    other = tab.look(LATENTS, shown["explored"])
    assert other.count("<img") == shown["tree"].count("<img")
    assert other != shown["tree"]


def test_without_a_chosen_cell_the_form_is_run(tab):
    shown = last(tab, tab.trace(tab.trace_turns.fresh(), PREDICTED, *asked(share_ratio=0.0)))
    assert "sage-trunk" not in shown["tree"]
    assert "Done" in shown["trace_progress"]


def test_before_anything_is_run_the_places_say_what_for(tab):
    assert "render" in tab.look(PREDICTED, Explored())
    assert "Choose" in at_once(tab, tab.show("0", Explored()))["cells"]


@pytest.mark.slow
def test_what_a_visitor_types_is_escaped(tab):
    hostile = "<img src=x onerror=alert(1)>\n<script>alert(2)</script>"
    explored = last(tab, tab.render(tab.turns.fresh(), *asked(prompts=hostile)))["explored"]
    shown = at_once(tab, tab.choose(ALL, explored, SimpleNamespace(cell=0)))
    traced = last(
        tab,
        tab.trace(tab.trace_turns.fresh(), PREDICTED, *asked(shown["explored"], prompts=hostile)),
    )
    for html in (shown["cell"], shown["cells"], traced["tree"]):
        assert "<img src=x" not in html
        assert "<script" not in html


@pytest.mark.parametrize("name", axes())
def test_every_axis_offers_its_values(name):
    with gr.Blocks():
        picker = axis_values(name)
    assert picker.value
    assert picker.multiselect


def test_speed_is_that_of_the_last_run():
    speed = Speed()
    cost = SimpleNamespace(evaluations=120, reused=20, runs=1, compared=1)

    def measured(evaluations, reused, seconds, around):
        numbers = RunNumbers(0, evaluations, reused, 1e9, seconds, around, None, ())
        speed.measured("tiny", CellDone(0, 0, [], None, numbers))

    assert speed.seconds("tiny", cost) is None
    measured(10, 10, 0.0, 1.0)  # nothing was run
    assert speed.seconds("tiny", cost) is None
    measured(30, 10, 2.0, 0.5)
    assert speed.seconds("tiny", cost) == pytest.approx(100 * 0.1 + 2 * 0.5)
    assert speed.seconds("other", cost) is None


@pytest.mark.parametrize(
    ("reused", "words"), [(0, "2 s"), (3, "2 s for 7 of them"), (10, "2 s, all reused")]
)
def test_seconds_say_how_much_they_paid_for(reused, words):
    assert time_text(RunNumbers(0, 10, reused, 1e9, 2.0, 0.0, 2.0, ())) == words


def test_the_adapter_is_offered_only_where_a_model_has_one(shelf):
    assert "trained" not in offered_axes(shelf)
    with_one = [replace(shelf.default, adapter=Path("adapter")), *shelf.specs]
    assert offered_axes(Shelf(with_one, shelf.get)) == list(axes())


def test_a_model_brings_its_own_steps_and_guidance_and_its_adapter_if_it_has_one(shelf):
    plain = shelf.default
    other = replace(plain, key="other", adapter=Path("adapter"))
    with gr.Blocks():
        tab = Exploring(build_parts(Shelf([plain, other], shelf.get)), Shelf([plain, other], None))
    for spec in (plain, other):
        shown = at_once(tab, tab.pick_model(spec.key))
        assert shown["steps"] == spec.steps
        assert shown["guidance_scale"] == spec.guidance_scale
        assert not shown["trained"].value
        assert shown["trained"].visible == (spec.adapter is not None)


# -- the grid that is there before anything is rendered --------------------------------------------

STALE = "run `python -m sage.ui.explore.precompute` again"


@pytest.fixture
def arrival():
    """The tab on a model that cannot be loaded: everything must come from what is stored."""

    def refuse(spec):
        raise AssertionError("no model is needed here")

    shelf = Shelf([builtin_model()], refuse)
    with gr.Blocks():
        return Exploring(build_parts(shelf), shelf)


def as_built(tab):
    """The values of the form as the page is served."""
    return [part.value for part in tab.parts.form]


@pytest.mark.slow
def test_it_opens_with_a_finished_grid_and_without_a_model(arrival):
    shown = at_once(arrival, arrival.follow(*as_built(arrival), Explored()))
    assert "Precomputed" in shown["progress"], STALE
    explored = shown["explored"]
    assert explored.grid == first_grid(builtin_model()), STALE
    assert shown["cells"].count('data-state="done"') == len(explored.grid.requests) == 12
    assert shown["banner"] == ""
    assert "12 runs" in shown["cost"]
    for name in DOWNLOADS:
        assert path_of(shown[name]).exists()
    chosen = at_once(arrival, arrival.choose("0", explored, SimpleNamespace(cell=2)))
    assert "beta=0.4" in chosen["cell"]
    # Opened again, nothing of it is lost; with another form, it is not that form's.
    assert arrival.parts.explored not in arrival.follow(*as_built(arrival), explored)


def test_it_was_made_with_these_weights_and_its_numbers_agree_with_the_code():
    stored = first.stored_grid(builtin_model().key)
    assert stored.made["weights"] == weights_digest(builtin_model()), STALE
    explored = stored.explored
    for place, cell in explored.done.items():
        plan = explored.plans[place]
        rows = sum(len(plan.rows(i)) for i in range(plan.steps))
        assert {run.evaluations for run in cell.runs.values()} == {rows}
        share = explored.grid.requests[place].share_ratio
        assert (cell.distance.value == 0) == (share == 0)
    assert sum(path.stat().st_size for path in first.FOLDER.iterdir()) < 4e5


@pytest.mark.slow
def test_one_command_makes_it(tiny_folder, tmp_path, shelf):
    model = shelf.get("tiny")
    form = Form.of(asked(repeats=1)[:-1])
    made = precompute(model, form.grid())
    made.save(tmp_path)
    read = first.StoredGrid.read(tmp_path, {"tiny": model.spec})
    assert read.is_asked_by(form)
    assert read.cost == replace(made.cost, flops=pytest.approx(made.cost.flops, rel=1e-5))
    assert read.explored.plans == made.explored.plans
    assert first.StoredGrid.read(tmp_path, {}) is None
