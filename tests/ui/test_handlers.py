import json
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import pytest

from sage.core.calibration import Calibration
from sage.core.settings import settings_of
from sage.ui.examples import EXAMPLE_SETS
from sage.ui.export.links import read_record
from sage.ui.html.prose import STOPPING
from sage.ui.kit import acknowledge_stop
from sage.ui.shelf import Shelf
from sage.ui.studio.form import Form
from sage.ui.studio.handlers import EARLIER, TEASER, UNFINISHED, Handlers, known_words, no_costs
from sage.ui.studio.layout import build_layout
from sage.ui.studio.looking import Looking
from sage.ui.studio.rendering import Rendering, done_words
from sage.ui.studio.results import REUSED
from tests.core.test_planner import planning

from .conftest import PROMPTS, changed, raises_sentence, values_of
from .reader import plan_data


def values(form, run=None):
    """What gradio hands to a listener: the widgets' values, then the session's run."""
    return values_of(form, run)


def turn(rendering):
    """The turn that a click brings."""
    return rendering.announce()[rendering.layout.turn]


def rendered(rendering, form, run=None):
    updates = list(rendering.render(turn(rendering), *values(form, run)))
    return updates, updates[-1][rendering.layout.run]


def followed(page, form, run=None, chosen="", turn="", nudge=""):
    """What the page is told that has been told something before."""
    return page.follow(None, *values(form, run), chosen, "told", turn, nudge)


def test_analysis_fills_every_place_that_follows_from_the_form(page, form):
    updates = page.analyze(*values(form))
    layout = page.layout
    assert set(updates) <= set(layout.consequences)
    assert "P1" in updates[layout.chips]
    assert "One composition for all" in updates[layout.chips]
    assert "same group" in updates[layout.pairs]
    assert "4 of 10 steps shared" in updates[layout.estimate]
    assert "Never seen" in updates[layout.prompts_note]
    assert "pizza" in updates[layout.prompts_note]
    assert 'aria-label="P1 and P2:' in updates[layout.similarity]
    assert [0, 1] in [part["members"] for part in plan_data(updates[layout.plan])["segments"]]
    assert updates[layout.pictures].count("sage-frame") == 12


def test_the_estimate_follows_the_branch_point(page, form):
    layout = page.layout
    updates = page.analyze(*values(changed(form, branch_call=10)))
    assert "10 of 10 steps shared" in updates[layout.estimate]
    assert page.keep_ratio(10, 10, "ddim") == (1, 0.0)  # and no budget


def listeners(demo, name, event):
    """The functions that an event of a component sets off, with what they write."""
    (part,) = (b for b in demo.blocks.values() if getattr(b, "elem_id", None) == name)
    return [fn for fn in demo.fns.values() if (part._id, event) in fn.targets]


def test_moving_the_branch_handle_takes_the_budget_back(demo):
    (moved,) = listeners(demo, "branch-step", "input")
    assert [part.elem_id for part in moved.inputs] == ["branch-step", "steps", "scheduler"]
    assert moved.outputs[1].elem_id == "budget"
    assert moved.fn(3, 10, "ddim") == (0.3, 0.0)
    assert moved.fn(3, None, "ddim")[1] == 0.0


def test_turning_the_dial_of_the_budget_updates_the_reason(demo, form, monkeypatch):
    monkeypatch.setattr("sage.jobs.job.planning_of", lambda _: planning(0.0))
    near = changed(form, tau_min=-1.0)
    (turned,) = listeners(demo, "budget", "change")
    (advice,) = (part for part in turned.outputs if part.elem_id == "advice")
    first, second, least = (
        turned.fn(None, *values(changed(near, budget=budget)), *[""] * 4)[advice]
        for budget in (2.0, 3.0, 1.0)
    )
    assert "for 2 evaluations per picture" in first
    assert "for 3 evaluations per picture" in second
    assert "for 1 evaluation per picture" in least
    assert first.split(": ", 1)[1] != second.split(": ", 1)[1]


def test_changing_the_steps_keeps_the_share(page):
    slider = page.resize(50, "ddim", 0.4)[page.layout.branch_call]
    assert (slider.maximum, slider.value) == (50, 20)
    assert page.resize(1000.5, "ddim", 0.4) == {page.layout.branch_call: gr.skip()}


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
        ({"branch_call": 99}, "branch point"),
        ({"branch_call": None}, "branch point"),
        ({"guidance_scale": float("inf")}, "guidance"),
        ({"max_group_size": 2.5}, "whole number"),
        ({"seed": -1}, "seed"),
        ({"seed": None}, "seed"),
        ({"seed": 2**40}, "seed"),
        ({"scheduler": "magic"}, "scheduler"),
        ({"trunk": None}, "trunk"),
        ({"fresh_noise": 2}, "fresh"),
        ({"sharing": "all"}, "share"),
        ({"spend": 0}, "spend"),
        ({"trained": "yes"}, "trained"),
        ({"trained": True}, "no adapter"),
        ({"sharing": "tree", "spend": 0.1}, "budget"),
        ({"model": "rm -rf"}, "available"),
        ({"model": "gone"}, "cannot be loaded"),
    ],
)
def test_bad_input_is_answered_by_a_sentence_beside_what_refused_it(
    page, rendering, form, change, words
):
    bad = changed(form, **change)
    layout, (name,) = page.layout, list(change)[-1:]
    updates = page.analyze(*values(bad))
    assert layout.prompts not in updates
    if bad.branch_call == 99:  # on its way: only a change of the steps leads here
        assert list(updates.values()) == [gr.skip()]
    else:
        assert words.lower() in updates[layout.scrub_note].lower()
        if layout.prompts_note in updates:
            assert words.lower() in updates[layout.prompts_note].lower()
            assert "sage-error" in updates[layout.prompts_note]
        else:  # the script says it beside the control, and what is known of the prompts stays
            assert f'data-of="{name.replace("_", "-")}"' in updates[layout.scrub_note]
            assert not {layout.similarity, layout.plan, layout.pictures} & set(updates)
    (only,) = rendering.render(turn(rendering), *values(bad))
    assert words.lower() in only[layout.progress].lower()


@pytest.mark.parametrize("prompts", ["", "  \n ", None])
def test_an_empty_box_is_an_invitation_and_no_error(page, form, prompts):
    updates = page.analyze(*values(changed(form, prompts=prompts)))
    assert TEASER in updates[page.layout.prompts_note]
    assert "sage-error" not in updates[page.layout.prompts_note]


@pytest.mark.slow
def test_rendering_shows_previews_then_everything(rendering, form):
    updates, run = rendered(rendering, form)
    layout = rendering.layout
    assert all(set(u) <= set(layout.results) for u in updates)
    live = [u for u in updates if 'data-state="live"' in str(u.get(layout.pictures))]
    assert live
    assert live[0][layout.pictures].count("<img") == 12
    last = updates[-1]
    assert 'data-state="done"' in last[layout.pictures]
    assert "for 4 steps" in last[layout.pictures]
    assert "9 steps" in last[layout.pictures]
    assert "distance" in last[layout.pictures]
    assert "independent" in last[layout.seconds]
    assert "sage-trunk" in last[layout.flops]
    assert "36 of 40" in last[layout.saving]
    plan = plan_data(last[layout.plan])
    assert [plan["segments"][int(index)]["members"] for index in plan["previews"]] == [[0, 1]]
    assert "evaluations instead of 40" in last[layout.outcome]
    assert run.done
    assert run.step == 10


@pytest.mark.slow
def test_fewer_steps_can_be_left_out(rendering, form):
    updates, _ = rendered(rendering, changed(form, fewer_steps=False))
    assert "fewer" not in updates[-1][rendering.layout.pictures]


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        {"sharing": "tree", "spend": 0.6},
        {"sharing": "adaptive"},
        {"scheduler": "dpm++2m"},
        {"scheduler": "heun", "steps": 6, "branch_call": 3},
        {"trunk": "prediction"},
        {"fresh_noise": 0.3},
    ],
)
def test_every_way_of_sharing_renders(rendering, form, change):
    updates, run = rendered(rendering, changed(form, **change))
    last = updates[-1]
    assert run.done, last[rendering.layout.progress]
    assert last[rendering.layout.pictures].count("<img") == 12
    assert plan_data(last[rendering.layout.plan])["segments"]
    assert "sage-result" in last[rendering.layout.outcome]


def test_a_tree_keeps_to_its_budget_and_has_no_branch_point(page, form):
    tree = changed(form, sharing="tree", spend=0.6)
    updates = page.analyze(*values(tree))
    assert "of 40" in updates[page.layout.estimate]
    spent = int(updates[page.layout.estimate].split(" of 40")[0].rsplit(">", 1)[1])
    assert spent <= 24
    shown = page.pick_sharing("tree")
    assert page.layout.branch_call not in shown  # the tree has no handle by its own data
    assert shown[page.layout.controls["spend"]].visible is True


@pytest.mark.slow
def test_without_measuring_what_is_there_is_reused_and_no_time_is_compared(rendering, form):
    quick = changed(form, measure=False)
    rendered(rendering, form)
    updates, _ = rendered(rendering, replace(quick, branch_call=5))
    last = updates[-1]
    # The independent side is there altogether, the shared one up to the earlier branch point.
    assert "reused" in last[rendering.layout.progress]
    assert REUSED in last[rendering.layout.seconds]
    assert "no time is compared" in last[rendering.layout.saving]


@pytest.mark.slow
def test_a_measured_run_reuses_nothing(rendering, form):
    rendered(rendering, form)
    updates, run = rendered(rendering, form)
    assert "reused" not in updates[-1][rendering.layout.progress]
    report = json.loads(run.files.record.read_text())
    assert set(report["reused"].values()) == {0}
    assert report["saving"]["seconds"] is not None


@pytest.mark.slow
def test_scrubbing_renders_many_branch_points_from_what_is_there(page, rendering, form):
    layout = page.layout
    _, run = rendered(rendering, form)
    *steps, last = rendering.scrub(turn(rendering), *values(form, run))
    assert "branch points ready" in steps[-1][layout.progress]
    assert run.strip is None
    run = last[layout.run]
    assert run.strip.points == tuple(range(11))
    assert "sage-sheet" in last[layout.pictures]
    assert "All branch points are ready" in last[layout.scrub_note]
    # 4 x 10 independent evaluations are all there, and so are the first steps of every trunk.
    reused = int(last[layout.progress].split("Done: ")[1].split(" of ")[0])
    assert reused > 40
    # Within the strip the branch point may move; the pictures are not for earlier settings.
    moved = page.analyze(*values(changed(form, branch_call=9), run))
    assert moved[layout.banner] == ""
    assert moved[layout.pictures] == gr.skip()
    assert EARLIER in page.analyze(*values(changed(form, guidance_scale=2), run))[layout.banner]


@pytest.mark.slow
def test_under_the_guard_the_page_says_what_is_rendered_and_what_a_strip_shows(
    rendering, form, monkeypatch
):
    strict = Calibration((0.0,), (0.0, 1.0), ((0.0, 1.0),), 0.25, "distance", {})
    monkeypatch.setattr("sage.jobs.job.calibration_of", lambda _: strict)
    layout = rendering.layout
    updates, run = rendered(rendering, form)
    assert "2 of 10 steps shared" in updates[0][layout.estimate]
    assert "Shares 2 steps instead." in updates[0][layout.chips]
    assert "P1, P2 share steps 1 to 2." in updates[-1][layout.plan]
    assert "10 steps with 2 shared." in updates[-1][layout.saving]
    *_, strip = rendering.scrub(turn(rendering), *values(form, run))
    assert "for 4 steps" in strip[layout.pictures]
    assert "4 of 10 steps shared" in strip[layout.estimate]
    assert "Shown as requested; Render would shorten it." in strip[layout.chips]
    assert "P1, P2 share steps 1 to 4." in strip[layout.plan]


def test_scrubbing_before_rendering_says_what_to_do(rendering, form):
    (only,) = rendering.scrub(turn(rendering), *values(form))
    assert "Render first" in only[rendering.layout.progress]


@pytest.mark.slow
def test_only_a_finished_run_of_groups_can_be_scrubbed(page, rendering, form):
    _, run = rendered(rendering, form)
    scrub = page.layout.scrub
    assert page.analyze(*values(form))[scrub].interactive is False
    assert page.analyze(*values(form, run))[scrub].interactive is True
    other = changed(form, seed=8)
    assert page.analyze(*values(other, run))[scrub].interactive is False


@pytest.mark.slow
def test_downloads_hold_pictures_and_the_record(rendering, form):
    _, run = rendered(rendering, form)
    with zipfile.ZipFile(run.files.archive) as box:
        names = box.namelist()
        assert "P01-independent.png" in names
        assert "P04-shared.png" in names
        record = json.loads(box.read("sage-record.json"))
    assert record["prompts"] == PROMPTS.split("\n")
    assert record["seeds"] == [7, 8, 9, 10]
    assert record == json.loads(run.files.record.read_text())


@pytest.mark.slow
def test_the_record_repeats_the_run(rendering, form):
    _, first = rendered(rendering, form)
    _, second = rendered(rendering, form)
    for (a, b), (c, d) in zip(first.files.pairs, second.files.pairs, strict=True):
        assert a.read_bytes() == c.read_bytes()
        assert b.read_bytes() == d.read_bytes()


@pytest.mark.slow
def test_a_new_rendering_removes_the_files_of_the_one_before(rendering, form):
    _, first = rendered(rendering, form)
    assert first.files.folder.exists()
    list(rendering.render(turn(rendering), *values(form, first)))
    assert not first.files.folder.exists()


@pytest.mark.slow
def test_results_are_marked_once_the_form_asks_for_something_else(page, rendering, form):
    _, run = rendered(rendering, form)
    layout = page.layout
    assert page.analyze(*values(form, run))[layout.banner] == ""
    for other in (
        changed(form, tau_min=0.5),
        changed(form, prompts=""),
        changed(form, model="slow"),
    ):
        assert EARLIER in page.analyze(*values(other, run))[layout.banner]
    assert EARLIER in page.analyze(*values(changed(form, branch_call=5), run))[layout.banner]
    assert EARLIER in page.analyze(*values(changed(form, seed=8), run))[layout.banner]
    assert page.analyze(*values(form, run))[layout.banner] == ""
    assert EARLIER in page.analyze(*values(changed(form, seed=None), run))[layout.banner]


@pytest.mark.slow
def test_other_prompts_get_boxes_and_the_old_ones_their_pictures_back(page, rendering, form):
    updates, run = rendered(rendering, form)
    layout, other = page.layout, changed(form, prompts="a fox\na dog")
    away = page.analyze(*values(other, run))
    assert "<img" not in away[layout.pictures]
    assert away[layout.pictures].count('class="sage-pair"') == 2
    assert away[layout.banner] == ""
    costs = (layout.seconds, layout.flops, layout.saving)
    assert {part: away[part] for part in costs} == no_costs(layout)
    assert "<img" not in page.analyze(*values(other, away[layout.run]))[layout.pictures]
    back = page.analyze(*values(form, away[layout.run]))
    assert back[layout.pictures].count("<img") == 12
    assert back[layout.banner] == ""
    assert not back[layout.run].hidden
    assert [back[part] for part in costs] == [updates[-1][part] for part in costs]
    assert page.analyze(*values(form, back[layout.run]))[layout.pictures] == gr.skip()


@pytest.mark.slow
def test_stopping_ends_the_run_within_a_step_and_its_last_words_are_the_last(page, rendering, form):
    layout, mine, run = page.layout, turn(rendering), None
    asked = changed(form, steps=100, branch_call=40)
    steps = rendering.render(mine, *values(asked))
    for updates in steps:
        run = updates.get(layout.run, run)
        if run is not None and run.step >= 3:
            break
    # The click changes one button only: the words belong to the run.
    assert acknowledge_stop().value == STOPPING
    assert rendering.stop(mine, run) == {layout.stop: gr.skip()}
    (stopped,) = steps
    assert not run.done
    assert f"Stopped after step {run.step} of 100" in stopped[layout.progress]
    assert UNFINISHED in stopped[layout.banner]
    assert layout.pictures not in stopped
    assert stopped[layout.render].interactive is True
    assert UNFINISHED in page.analyze(*values(asked, run))[layout.banner]


def test_stopping_before_its_turn_came_up_renders_nothing(rendering, form):
    mine = turn(rendering)
    stopped = rendering.stop(mine, None)
    assert "the previous pictures" in stopped[rendering.layout.progress]
    assert stopped[rendering.layout.render].interactive is True
    assert list(rendering.render(mine, *values(form))) == []


@pytest.mark.slow
def test_stopping_what_has_just_ended_changes_no_words(rendering, form):
    mine = turn(rendering)
    *_, done = rendering.render(mine, *values(form))
    stopped = rendering.stop(mine, done[rendering.layout.run])
    assert set(stopped) == {rendering.layout.stop}


@pytest.mark.slow
def test_a_stopped_strip_of_branch_points_leaves_the_run_as_it_was(rendering, form):
    _, run = rendered(rendering, form)
    mine = turn(rendering)
    steps = rendering.scrub(mine, *values(form, run))
    next(steps)
    rendering.stop(mine, run)
    (stopped,) = steps
    assert "the previous pictures" in stopped[rendering.layout.progress]
    assert stopped[rendering.layout.scrub].interactive is True


def test_an_unexpected_error_frees_the_buttons_and_tells_no_secrets(rendering, form, monkeypatch):
    def broken(*_, **__):
        raise KeyError("/secret/path")

    monkeypatch.setattr("sage.ui.studio.rendering.compare_request", broken)
    *_, last = rendering.render(turn(rendering), *values(form))
    assert "Rendering failed" in last[rendering.layout.progress]
    assert "secret" not in str(last)
    assert rendering.layout.render in last


def test_a_model_brings_its_own_bounds_and_what_it_knows(page):
    layout = page.layout
    updates = page.pick_model("tiny", "ddim")
    assert (updates[layout.controls["tau_min"]], updates[layout.controls["tau_max"]]) == (0.95, 1.0)
    assert updates[layout.controls["guidance_scale"]] == 3.0
    assert "fox" in updates[layout.known]
    assert updates[layout.controls["steps"]] == 30
    assert (updates[layout.branch_call].maximum, updates[layout.branch_call].value) == (30, 12)
    gone = page.pick_model("gone", 0.5)
    assert "Gone cannot be loaded here: no such host" in gone[layout.model_note]
    assert "more lines" not in gone[layout.model_note]
    assert layout.controls["tau_min"] not in gone


def test_a_model_of_the_open_web_lists_nothing(shelf):
    assert known_words(replace(shelf.default.settings, known_words=None)) == {}


def test_random_seeds_are_allowed(page):
    for _ in range(20):
        assert 0 <= page.random_seed() <= settings_of()["seed"].high


def test_the_shelf_loads_a_model_once(shelf):
    loads = []

    def load(spec):
        loads.append(spec.key)
        return shelf.get("tiny")

    own = Shelf(shelf.specs, load)
    assert own.loaded("tiny") is None
    assert own.spec("tiny") is shelf.default
    assert own.get("tiny") is own.get("tiny")
    assert loads == ["tiny"]
    with raises_sentence(ValueError, "Unknown model", "tiny"):
        own.get("../../etc/passwd")


def test_an_example_brings_its_own_bounds_and_overrules_the_guard_only_where_it_is_forced(page):
    layout = page.layout
    for example in EXAMPLE_SETS:
        updates = page.fill(example, "tiny")
        assert updates[layout.prompts] == example.text
        assert updates[layout.controls["guarded"]] == (not example.forced)
        low = -1.0 if example.forced else page.shelf.default.tau_min
        assert updates[layout.controls["tau_min"]] == low
    assert [example.key for example in EXAMPLE_SETS if example.forced] == ["far"]


def test_the_form_and_the_layout_have_one_order(page):
    ids = [c.elem_id.replace("-", "_") for c in page.layout.form]
    names = {"branch_call": "branch_step"}  # the slider keeps its name in the page
    assert ids == [names.get(n, n) for n in (*Form.FIELDS, *Form.setting_names())]


@pytest.mark.parametrize("trained", [False, True])
def test_what_was_done_says_whether_the_adapter_took_part(form, trained):
    request = replace(form.check(), trained=trained)
    done = SimpleNamespace(
        request=request, report={"reused": {}, "flagged": {"shared": [False, True]}}
    )
    assert ("trained for sharing" in done_words(done)) == trained
    assert "made black: P2." in done_words(done)


def test_braces_make_a_set_and_say_so(page, form):
    updates = page.analyze(*values(changed(form, prompts="a {fox|dog} {in snow|under water}")))
    assert "2 × 2 = 4 prompts" in updates[page.layout.prompts_note]
    assert updates[page.layout.similarity].count("<button") == 12
    broken = page.analyze(*values(changed(form, prompts="a {fox|dog\na cat")))
    assert "never closed" in broken[page.layout.prompts_note]


def test_a_group_with_words_the_model_never_met_is_never_called_safe(page, form):
    strange = changed(form, prompts="a zorblax\na zorblax", tau_min=-1.0)
    chips = page.analyze(*values(strange))[page.layout.chips]
    assert "Cannot be judged" in chips
    assert "safe" not in chips


def looked(rendering, form, run=None):
    looking = Looking(rendering)
    updates = list(looking.look(turn(rendering), "", *values(form, run)))
    return looking, updates, updates[-1].get(rendering.layout.run)


@pytest.mark.slow
def test_a_look_stops_at_the_branch_point_and_finishes_what_is_ticked(page, rendering, form):
    layout = page.layout
    looking, updates, run = looked(rendering, form)
    assert all(set(u) <= set(layout.results) for u in updates)
    seen = updates[-1]
    assert run.look.step == 5  # the branch point and one step beyond
    assert seen[layout.pictures].count("<img") == 4
    assert seen[layout.pictures].count("data-tick") == 4
    assert seen[layout.chosen] == "0 1 2 3"
    assert seen[layout.finish].value == "Finish 4 of 4"
    assert seen[layout.scrub].visible is False  # there are no two sides to move it on
    assert "16 evaluations and" in seen[layout.outcome]
    assert "takes 20 more evaluations" in seen[layout.outcome]
    ticked = followed(page, form, run, "0 2")
    assert ticked[layout.finish].value == "Finish 2 of 4"
    assert "takes 10 evaluations" in ticked[layout.scrub_note]
    assert (
        page.follow(None, *values(form, run), "nonsense", "told", "", "")[layout.finish].interactive
        is False
    )
    elsewhere = changed(form, branch_call=5)
    assert followed(page, elsewhere, run, "0 2")[layout.finish].visible is False
    *_, last = looking.finish(turn(rendering), "0 2", *values(form, run))
    done = last[layout.run]
    assert last[layout.pictures].count("<img") == 6
    assert 'data-finished="0 2"' in last[layout.pictures]
    assert "2 of 4 finished, 28 % saved" in last[layout.outcome]
    assert "26 evaluations instead of 36" in last[layout.outcome]
    # Everything the page says of it is in the record, which loads back.
    record = json.loads(done.files.record.read_text())
    assert record["evaluations"] == {"look": 16, "spent": 26, "all": 36, "independent": 40}
    assert record["finished"] == [0, 2]
    with zipfile.ZipFile(done.files.archive) as box:
        assert {"P01-finished.png", "P02-expected.png"} <= set(box.namelist())
        assert "P02-finished.png" not in box.namelist()
    assert read_record(json.dumps(record), {"tiny": page.shelf.default}).values["seed"] == 7
    # The pictures stay with their prompts, and are marked once the form asks for something else.
    assert "2 of 4 finished" in page.analyze(*values(form, done))[layout.outcome]
    assert EARLIER in page.analyze(*values(changed(form, branch_call=5), done))[layout.banner]
    away = page.analyze(*values(changed(form, prompts="a fox\na dog"), done))
    assert away[layout.finish].visible is False
    back = page.analyze(*values(form, away[layout.run]))
    assert back[layout.pictures].count("<img") == 6
    # Of the others, more can be finished; then it cost what finishing all costs.
    *_, whole = looking.finish(turn(rendering), "1 3", *values(form, done))
    assert "All 4 finished" in whole[layout.outcome]
    assert whole[layout.finish].visible is False
    (refused,) = looking.finish(turn(rendering), "1", *values(form, whole[layout.run]))
    assert "tick at least one" in refused[layout.progress]


@pytest.mark.slow
def test_a_look_that_is_stopped_or_impossible_says_so_and_takes_nothing_away(rendering, form):
    layout = rendering.layout
    _, before = rendered(rendering, form)
    looking, (only,), _ = looked(rendering, changed(form, branch_call=10), before)
    assert "leaves nothing to finish" in only[layout.progress]
    assert before.files.folder.exists()
    _, _, run = looked(rendering, form)
    mine = turn(rendering)
    steps = looking.finish(mine, "0 1", *values(form, run))
    next(steps)
    rendering.stop(mine, run)
    (stopped,) = steps
    assert stopped[layout.pictures].count("data-tick") == 4
    assert stopped[layout.pictures].count(" checked") == 2
    assert stopped[layout.finish].value == "Finish 2 of 4"


@pytest.mark.slow
def test_stopping_before_the_first_step_leaves_pictures_and_files(rendering, form):
    layout = rendering.layout
    _, before = rendered(rendering, form)
    for start, more in ((rendering.render, ()), (Looking(rendering).look, ("",))):
        mine = turn(rendering)
        steps = start(mine, *more, *values(changed(form, seed=8), before))
        shown = next(steps)
        rendering.stop(mine, before)
        (stopped,) = steps
        touched = {layout.pictures, layout.run, layout.outcome} & {*shown, *stopped}
        assert not touched
        assert "the previous pictures" in stopped[layout.progress]
        assert before.files.folder.exists()


@pytest.mark.slow
def test_expected_seconds_are_said_once_measured_also_for_the_fast_model(shelf, form):
    fast = replace(
        shelf.default,
        key="fast",
        student=Path("somewhere"),
        settings=replace(shelf.default.settings, steps=4, guidance_scale=1.0),
    )
    both = Shelf([shelf.default, fast], shelf._load)
    with gr.Blocks():
        page = Handlers(build_layout(both), both)
    layout = page.layout
    before = page.analyze(*values(form))
    assert "takes" not in before[layout.pace]
    assert before[layout.other].value == "Fast model, 4 steps"
    _, run = rendered(Rendering(layout, both), form)
    cost = run.report["flops"]
    both.note_speed("tiny", cost["independent"]["total"], 10.0)
    both.note_speed("tiny", cost["independent"]["total"], 10.0)
    both.note_speed("tiny", cost["independent"]["total"], 10.0)
    after = page.analyze(*values(form, run))
    assert "Render takes about 28 s here." in after[layout.pace]  # 10 alone, twice 9 shared
    assert after[layout.other].value == "Fast model, 4 steps: about 6 s"
    assert both.fast("fast") == shelf.default
    back = page.pick_other("fast", "ddim")
    assert (back[layout.model], back[layout.branch_call].value) == ("tiny", 12)


@pytest.mark.slow
def test_a_change_while_something_is_rendered_starts_and_loses_nothing(page, form):
    """Buttons, tree and pictures are those of the rendering; what is typed is judged at once."""
    rendering, layout = Rendering(page.layout, page.shelf, page.turns), page.layout
    mine = turn(rendering)
    assert rendering.announce(mine) == {layout.turn: gr.skip()}  # a second click
    steps = rendering.render(mine, *values(changed(form, steps=100)))
    run = next(step for step in steps if layout.run in step)[layout.run]
    typed = changed(form, prompts="a cat in the snow\na dog in the snow")
    during = followed(page, typed, run, turn=mine)
    assert set(during) <= {*layout.beside, layout.told}
    assert 'aria-label="P1 and P2:' in during[layout.similarity]
    refused = followed(page, changed(typed, seed=None), run, turn=mine)
    assert "seed" in refused[layout.scrub_note]
    assert layout.render not in refused
    assert list(rendering.render(mine, *values(typed, run))) == []
    rendering.stop(mine, run)
    (last,) = steps
    assert last[layout.turn] == ""
    assert last[layout.nudge] == last[layout.run].ended
    assert followed(page, form)[layout.render].interactive is True


@pytest.mark.slow
def test_pictures_that_end_while_other_prompts_are_typed_are_seen_first(page, rendering, form):
    layout = page.layout
    updates, run = rendered(rendering, form)
    nudge = updates[-1][layout.nudge]
    typed = changed(form, prompts="a cat in the snow\na dog in the snow")
    ended = followed(page, typed, run, nudge=nudge)
    assert EARLIER in ended[layout.banner]
    assert layout.pictures not in ended
    assert layout.plan not in ended
    assert ended[layout.render].interactive is True
    later = followed(page, typed, ended[layout.run], nudge=nudge)
    assert later[layout.pictures].count("<img") == 0  # boxes of the new prompts
    assert later[layout.run].hidden
    again = followed(page, form, later[layout.run], nudge=nudge)
    assert "The earlier pictures" in again[layout.progress]
    same = followed(page, form, run, nudge=nudge)
    assert same[layout.banner] == ""
    # A comparison that was there on arrival has not just ended.
    first = followed(page, typed, replace(run, ended=""), nudge="")
    assert first[layout.run].hidden
    # Where nothing was typed meanwhile, the first change after the end is an ordinary one.
    after = followed(page, typed, same[layout.run], nudge=nudge)
    assert after[layout.run].hidden


def test_an_answer_that_a_later_one_overtook_says_nothing(page, form, monkeypatch):
    visit, layout, analyze = SimpleNamespace(session_hash="one"), page.layout, page.analyze
    later, answers = changed(form, prompts="a cat\na dog"), []

    def slow(*asked):
        if asked[0] == form.prompts:  # as where a model is loaded for it
            answers.append(page.follow(visit, *values(later), "", "told", "", ""))
        return analyze(*asked)

    monkeypatch.setattr(page, "analyze", slow)
    overtaken = page.follow(visit, *values(form), "", "told", "", "")
    assert overtaken == {layout.chips: gr.skip()}
    assert "a+cat" in answers[0][layout.address]


@pytest.mark.slow
def test_no_banner_stands_above_empty_boxes(page, rendering, form):
    _, run = rendered(rendering, form)
    typed = changed(form, prompts="a fox\na dog")
    away = page.analyze(*values(typed, run))
    refused = page.analyze(*values(changed(typed, seed=-1), away[page.layout.run]))
    assert "The seed is -1" in refused[page.layout.scrub_note]
    assert refused[page.layout.banner] == ""


def test_what_is_greyed_says_why_beside_it(page, form):
    layout = page.layout
    refused = page.analyze(*values(changed(form, seed=None)))
    assert "seed" in refused[layout.scrub_note]
    assert refused[layout.render].interactive is False
    assert layout.prompts_note not in refused
    assert page.analyze(*values(form))[layout.render].interactive is True
    waiting = page.analyze(*values(changed(form, prompts="one fox")))
    assert "Cannot render yet: There is one prompt" in waiting[layout.scrub_note]
    assert "Render these pictures first" in page.analyze(*values(form))[layout.scrub_note]


def test_the_browser_is_told_nothing_that_it_holds(page):
    layout = page.layout
    served = [part.value for part in (*layout.form, layout.run)]
    for part, shown in page.analyze(*served).items():
        if isinstance(part, gr.HTML):
            part.value = shown  # as the page is served
    first = page.follow(None, *served, "", "", "", "")
    assert not any(isinstance(part, gr.HTML) for part in first)
    again = page.follow(None, *served, "", first[layout.told], "", "")
    assert layout.plan in again
    assert layout.similarity not in again
    typed = list(served)
    typed[layout.form.index(layout.prompts)] = "a fox\na pizza"
    after = page.follow(None, *typed, "", first[layout.told], "", "")
    assert after[layout.told] != first[layout.told]
    assert set(after) - {layout.told} == set(page.analyze(*typed))


def listeners_of(demo):
    """Each listener's name with its triggers' events and its outputs."""
    for one in demo.config["dependencies"]:
        events = {event for _, event in one["targets"]}
        yield one["api_name"], events, set(one["outputs"])


def test_what_follows_from_a_form_is_told_by_one_listener(demo):
    """Two answers may arrive in the wrong order: the older one would then stay on the page."""
    for names, teller in (
        (("similarity", "plan", "outcome", "estimate", "chips", "address"), "follow"),
        (("explore-cost", "explore-banner", "explore-address"), "explore_follow"),
    ):
        ids = {
            one["id"] for one in demo.config["components"] if one["props"].get("elem_id") in names
        }
        assert len(ids) == len(names)
        at_once = {
            name
            for name, events, outputs in listeners_of(demo)
            if ids & outputs and events & {"change", "load", "input", "select"}
        }
        assert at_once - {"explore_link"} == {teller}
    modes = {one["api_name"]: one["trigger_mode"] for one in demo.config["dependencies"]}
    assert modes["follow"] == modes["explore_follow"] == "always_last"
