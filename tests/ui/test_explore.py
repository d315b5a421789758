"""The tab "Explore", its listeners called without a server."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import pytest
from PIL import Image

from sage.jobs.grid import CellDone, axes
from sage.ui.explore.parts import (
    ALL,
    LATENTS,
    PREDICTED,
    Explored,
    Form,
    axis_values,
    build_parts,
    offered_axes,
)
from sage.ui.explore.tab import Exploring, Speed
from sage.ui.shelf import Shelf

PROMPTS = "a fox in the snow\na dog in the snow"
FORM = {
    "prompts": PROMPTS,
    "model": "tiny",
    "across": "share_ratio",
    "across_values": ["0", "0.5"],
    "down": "seed",
    "down_values": ["0", "3"],
    "share_ratio": 0.4,
    "steps": 4,
    "guidance_scale": 2.0,
    "seed": 0,
    "scheduler": "ddim",
    "trunk": "mean",
    "trained": False,
}


@pytest.fixture
def tab(shelf):
    with gr.Blocks():
        return Exploring(build_parts(shelf), shelf)


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
    # Two seeds; 8 evaluations apart, 6 with two of four steps shared: 28, and none in common.
    assert "4 runs" in shown["cost"]
    assert "28 of 28 evaluations" in shown["cost"]
    assert "once something has been rendered" in shown["cost"]
    assert shown["table"].count('data-state="empty"') == 4


def test_what_runs_have_in_common_is_counted_in_advance(tab):
    shown = at_once(tab, tab.estimate(*asked(across_values=["0.5", "1"])))
    assert "18 of 20 evaluations" not in shown["cost"]
    assert "16 of 20 evaluations" in shown["cost"]
    assert "20 % are shared between runs" in shown["cost"]


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
    ],
)
def test_mistakes_are_explained_and_nothing_can_be_rendered(tab, change, words):
    shown = at_once(tab, tab.estimate(*asked(**change)))
    assert words in shown["cost"]
    assert shown["render"].interactive is False
    failed = last(tab, tab.render(tab.turns.fresh(), *asked(**change)))
    assert words in failed["progress"]
    assert failed["render"].interactive is True


def test_a_grid_is_rendered_cell_by_cell(tab):
    tables = [
        u[tab.parts.table] for u in tab.render(tab.turns.fresh(), *asked()) if tab.parts.table in u
    ]
    counts = [table.count('data-state="done"') for table in tables]
    assert counts == sorted(counts)
    assert set(counts) == {0, 1, 2, 3, 4}


def test_a_finished_grid_says_what_it_took(tab, rendered):
    assert "Done: 4 runs, 28 evaluations." in rendered["progress"]
    assert "estimated from the speed of the last run" in rendered["cost"]
    explored = rendered["explored"]
    assert len(explored.done) == len(explored.grid.requests)
    sheet = rendered["sheet"].value
    assert Image.open(sheet["path"] if isinstance(sheet, dict) else sheet).width > 1000


def test_a_cell_is_shown_large_with_its_settings(tab, rendered):
    explored = rendered["explored"]
    shown = at_once(tab, tab.choose("0", explored, SimpleNamespace(cell=3)))
    assert shown["explored"].chosen == 3
    assert shown["cell"].count("<figure") == 2
    assert "a dog in the snow" in shown["cell"]
    assert 'href="?v=1&amp;model=tiny&amp;' in shown["cell"]
    assert "beta=0.5" in shown["cell"]
    assert "seed=3" in shown["cell"]
    assert shown["table"].count('aria-pressed="true"') == 1


def test_a_click_beside_the_cells_changes_nothing(tab, rendered):
    for event in (SimpleNamespace(), SimpleNamespace(cell=99), SimpleNamespace(cell="x")):
        shown = at_once(tab, tab.choose("0", rendered["explored"], event))
        assert set(shown) == {"explored"}


def test_other_prompts_are_shown_without_rendering(tab, rendered):
    for which, pictures in (("0", 4), ("1", 4), (ALL, 8)):
        shown = at_once(tab, tab.show(which, rendered["explored"]))
        assert shown["table"].count("<img") == pictures


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
    assert stopped["table"].count('data-state="done"') == 2
    assert stopped["render"].interactive is True


def test_stopping_a_grid_before_its_turn_keeps_the_one_before(tab, rendered):
    turn = tab.announce()[tab.parts.turn]
    stopped = at_once(tab, tab.stop(turn, rendered["explored"]))
    assert stopped["table"].count('data-state="done"') == 4
    assert list(tab.render(turn, *asked())) == []


def test_steps_that_are_stopped_stay(tab):
    turn = tab.announce_trace()[tab.parts.trace_turn]
    run = tab.trace(turn, PREDICTED, *asked())
    next(run)
    tab.stop_trace(turn)
    stopped = last(tab, run)
    assert "these steps stay" in stopped["trace_progress"]
    assert "tree" not in stopped


def test_the_steps_of_a_run_are_a_tree(tab, rendered):
    explored = at_once(tab, tab.choose("0", rendered["explored"], SimpleNamespace(cell=1)))
    shown = last(tab, tab.trace(tab.turns.fresh(), PREDICTED, *asked(explored["explored"])))
    assert "sage-trunk" in shown["tree"]
    assert "trunk of P1, P2 after step 2 of 4" in shown["tree"]
    assert "branch of P2 after step 3 of 4" in shown["tree"]
    assert shown["tree"].count("sage-end") == 2
    other = tab.look(LATENTS, shown["explored"])
    assert other.count("<img") == shown["tree"].count("<img")
    assert other != shown["tree"]


def test_without_a_chosen_cell_the_form_is_run(tab):
    shown = last(tab, tab.trace(tab.turns.fresh(), PREDICTED, *asked(share_ratio=0.0)))
    assert "sage-trunk" not in shown["tree"]
    assert "Done" in shown["trace_progress"]


def test_before_anything_is_run_the_places_say_what_for(tab):
    assert "render" in tab.look(PREDICTED, Explored())
    assert "Choose" in at_once(tab, tab.show("0", Explored()))["table"]


def test_what_a_visitor_types_is_escaped(tab):
    hostile = "<img src=x onerror=alert(1)>\n<script>alert(2)</script>"
    explored = last(tab, tab.render(tab.turns.fresh(), *asked(prompts=hostile)))["explored"]
    shown = at_once(tab, tab.choose(ALL, explored, SimpleNamespace(cell=0)))
    traced = last(
        tab, tab.trace(tab.turns.fresh(), PREDICTED, *asked(shown["explored"], prompts=hostile))
    )
    for html in (shown["cell"], shown["table"], traced["tree"]):
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
    cost = SimpleNamespace(evaluations=120, reused=20, runs=2)
    assert speed.seconds("tiny", cost) is None
    speed.measured("tiny", CellDone(0, [], 10, 10, 0.0, 1.0, None))  # nothing was run
    assert speed.seconds("tiny", cost) is None
    speed.measured("tiny", CellDone(0, [], 30, 10, 2.0, 0.5, None))
    assert speed.seconds("tiny", cost) == pytest.approx(100 * 0.1 + 2 * 0.5)
    assert speed.seconds("other", cost) is None


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
