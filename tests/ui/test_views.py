from dataclasses import replace

import pytest
import torch

from sage.core.calibration import Calibration
from sage.core.cost import ModelFlops
from sage.core.grouping import group_prompts
from sage.core.plan import shared_plan
from sage.jobs import job as jobs
from sage.jobs.job import arrange
from sage.jobs.models import builtin_model
from sage.jobs.request import parse_request
from sage.ui.html import views

from .reader import HOSTILE, Reader

PROMPTS = ["a fox", "a whale", "a dog"]
FLOPS = ModelFlops(1e6, 1e9, 1e8)


def grouping(low=0.5, high=0.95, size=5):
    return group_prompts(
        torch.tensor([[1, 0.1, 0.8], [0.1, 1, 0.2], [0.8, 0.2, 1]]), low, high, size
    )


def job(prompts=PROMPTS, low=0.5, high=0.95, size=5, calibration=None, **asked):
    request = parse_request("\n".join(prompts), **asked)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs, "calibration_of", lambda _: calibration)
        return arrange(grouping(low, high, size), request, builtin_model(), FLOPS)


def chips(job, unseen=(), guarded=None):
    guarded = job.request.guarded if guarded is None else guarded
    return views.group_chips(job, unseen, guarded)


def test_hostile_prompts_stay_text_everywhere():
    prompts = [HOSTILE, "a fox", HOSTILE]
    for source in (
        chips(job(prompts), ("onerror", "script")),
        views.prompts_note(prompts, ("<b>", "script")),
        views.note(HOSTILE, "error"),
        views.progress(1, 2, HOSTILE),
        views.banner(HOSTILE),
        views.known_things({HOSTILE: [HOSTILE]}),
    ):
        assert Reader(source).is_safe


def test_chips_name_groups_and_who_stands_alone():
    reader = Reader(chips(job(), ("whale",)))
    text = " ".join(reader.texts)
    assert text.index("P1") < text.index("P3") < text.index("P2")
    assert "independent" in text
    assert "mark" in reader.tags
    assert [name["data-p"] for name in reader.all("button")] == ["0", "2", "1"]


@pytest.mark.parametrize(
    ("bounds", "words"),
    [
        ({"low": 0.9}, "lower the bound"),
        ({"low": -1, "high": 0.05}, "near-duplicates"),
        ({"size": 1}, "larger groups"),
        ({"low": 0.9, "share_ratio": 0.5}, "lower the bound"),
        ({"low": 0.3, "high": 0.5}, "near-duplicates: raise the upper bound"),
        ({"share_ratio": 0.0}, "move the branch point"),
    ],
)
def test_when_nothing_is_shared_the_page_says_what_to_do(bounds, words):
    assert words in chips(job(**bounds))


CALIBRATION = Calibration(
    similarity=(0.5, 0.9),
    share_ratio=(0.0, 0.5, 1.0),
    distance=((0.0, 0.2, 0.4), (0.0, 0.1, 0.2)),
    limit=0.1,
    measure="distance",
    conditions={},
)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"share_ratio": 0.2, "guarded": True}, ["safe to share"]),
        ({"share_ratio": 0.8, "guarded": True}, ["Too long a trunk", "Shares 12 steps instead."]),
        ({"share_ratio": 0.8, "guarded": False}, ["Too long a trunk", "Shared anyway."]),
    ],
)
def test_the_guard_says_what_it_expects_and_does(asked, words):
    text = chips(job(calibration=CALIBRATION, **asked))
    assert all(word in text for word in words), text


def test_pictures_that_are_there_already_are_no_promise_of_a_guarded_rendering():
    there = job(calibration=CALIBRATION, share_ratio=0.8, guarded=False)
    assert "Shown as requested; Render would shorten it." in chips(there, guarded=True)
    strict = Calibration((0.5,), (0.0, 1.0), ((0.2, 0.4),), 0.1, "distance", {})
    there = job(calibration=strict, guarded=False)
    assert "Shown as requested; Render would not share." in chips(there, guarded=True)


def test_the_guard_refuses_what_cannot_be_made_safe_and_is_silent_without_a_calibration():
    strict = Calibration((0.5,), (0.0, 1.0), ((0.2, 0.4),), 0.1, "distance", {})
    text = chips(job(calibration=strict, guarded=True))
    assert "Too different to share at all" in text
    assert "Not shared." in text
    assert "sage-guard" not in chips(job(guarded=True))


def test_the_table_gives_a_reason_for_every_pair():
    reader = Reader(views.pairs_table(grouping()))
    assert reader.tags.count("tr") == 1 + 3
    text = " ".join(reader.texts)
    assert "P1 – P3" in text
    assert "same group" in text
    assert "too far apart" in text


def test_the_estimate_is_the_plans_cost_in_words():
    text = " ".join(Reader(views.estimate(job())).texts)
    assert "12 of 30 steps shared" in text
    assert "β = 0.40" in text
    assert "78 of 90" in text
    assert "13 %" in text
    assert "Nothing is shared" in views.estimate(job(share_ratio=0.0))
    assert views.no_estimate().count("<div>") == views.estimate(job()).count("<div>")


def test_an_adaptive_run_promises_no_number_of_steps():
    text = " ".join(Reader(views.estimate(job(sharing="adaptive"))).texts)
    assert "Decided while sampling" in text
    assert "up to 12 of 30 steps" in text
    assert "13 % at most" in text
    assert "78 of 90" not in text


def test_the_estimate_of_several_branch_points_names_their_span():
    shared = replace(job(), plan=shared_plan([(0, 2), (1,)], 30, 12))
    apart = replace(shared, plan=shared_plan([(0, 1), (2,)], 30, [5, 20]))
    assert "5 of 30 steps shared" in views.estimate(apart)
    tree = job(sharing="tree", spend=0.6, low=0.0)
    stops = tree.plan.branch_steps
    text = views.estimate(tree)
    assert f"{stops[0]} to {stops[-1]} of 30 steps shared" in text
    assert "β" not in text


def test_progress_is_a_progress_bar():
    reader = Reader(views.progress(14, 30, "Step 14 of 30, shared"))
    bar = next(a for a in reader.attributes if a.get("role") == "progressbar")
    assert (bar["aria-valuenow"], bar["aria-valuemax"]) == ("14", "30")
