"""What is announced is what is run: groups, a tree within its budget, a rule, under the guard."""

from dataclasses import replace

import pytest
import torch

from sage.core.calibration import Calibration
from sage.core.cost import ModelFlops, evaluations
from sage.core.grouping import group_prompts
from sage.core.plan import shared_plan
from sage.jobs import job as jobs
from sage.jobs.compare import compare
from sage.jobs.job import arrange, calibration_of, calls_of, prepare
from sage.jobs.models import builtin_model, load_model
from sage.jobs.request import parse_request
from tests.core.test_planner import planning
from tests.jobs.test_models import spec_of

TEXT = "a fox\na whale\na dog\na fish"
VALUES = torch.tensor(
    [[1, 0.1, 0.8, 0.2], [0.1, 1, 0.2, 0.7], [0.8, 0.2, 1, 0.3], [0.2, 0.7, 0.3, 1.0]]
)
GROUPS = ((0, 2), (1, 3))
CALIBRATION = Calibration(
    similarity=(0.5, 0.75, 0.9),
    share_ratio=(0.0, 1.0),
    distance=((0.0, 1.0), (0.0, 0.5), (0.0, 0.1)),
    limit=0.2,
    measure="distance",
    conditions={},
)


FLOPS = ModelFlops(1.0, 10.0, 5.0)


@pytest.fixture
def arranged(monkeypatch):
    def arranged(calibration=None, groups=None, **asked):
        monkeypatch.setattr(jobs, "calibration_of", lambda _: calibration)
        grouping = group_prompts(VALUES, 0.5, 0.9)
        request = parse_request(TEXT, **asked)
        return arrange(grouping, request, builtin_model(), FLOPS, groups)

    return arranged


def test_groups_have_one_branch_point(arranged):
    assert arranged(share_ratio=0.4).plan == shared_plan(GROUPS, 30, 12)
    assert arranged(share_ratio=0.4).independent.num_prompts == 4


def test_groups_can_be_given(arranged):
    assert arranged(groups=[[0, 1], [2, 3]]).groups == ((0, 1), (2, 3))
    for groups in ([[0, 1]], [[0, 1], [1, 2, 3]], [[0, 1], [2, 4]]):
        with pytest.raises(ValueError, match=r"each of 0 to 3 once|allowed are 0 to 3"):
            arranged(groups=groups)


@pytest.mark.parametrize("budget", [0.3, 0.5, 0.7, 1.0])
def test_a_tree_keeps_to_its_budget(arranged, budget):
    tree = arranged(sharing="tree", spend=budget)
    assert evaluations(tree.plan) <= budget * 30 * 4
    assert tree.groups == tree.plan.rows(0)
    assert tree.rule is None


def test_a_budget_plans_the_job_and_says_why(arranged, monkeypatch):
    monkeypatch.setattr(jobs, "planning_of", lambda _: planning(0.0))
    job = arranged(budget=2.0)
    assert job.plan == job.planned.plan
    assert job.timesteps == job.planned.timesteps
    assert (job.trunk, job.branch_call) == ("alternate", job.planned.shared_steps)
    assert job.cost.evaluations <= 2 * 4
    assert job.planned.reason.startswith("Sharing ")
    assert job.fewer_plan().steps == 2
    moved = job.at(1)  # the slider overrides the planner, at the planner's places
    assert (moved.planned, moved.request.budget, moved.branch_call) == (None, 0.0, 1)
    assert moved.timesteps == job.timesteps


def test_a_job_without_a_budget_is_told_what_its_evaluations_would_buy(arranged, monkeypatch):
    monkeypatch.setattr(jobs, "planning_of", lambda _: None)
    assert arranged().advice is None
    monkeypatch.setattr(jobs, "planning_of", lambda _: planning(1e9))
    job = arranged(steps=4, share_ratio=0.5)
    assert job.advice.reason == "Take 3 independent steps: sharing is not expected to pay off."
    assert job.timesteps is None


def test_a_budget_needs_a_measured_model_and_no_rule(arranged, monkeypatch):
    monkeypatch.setattr(jobs, "planning_of", lambda _: None)
    with pytest.raises(ValueError, match="Nothing was measured for planning"):
        arranged(budget=5.0)
    monkeypatch.setattr(jobs, "planning_of", lambda _: planning())
    with pytest.raises(ValueError, match="excludes a budget"):
        arranged(budget=5.0, sharing="adaptive")
    with pytest.raises(ValueError, match=r"UniPC.* has its own timesteps"):
        arranged(budget=5.0, scheduler="unipc")


def test_an_impossible_budget_is_refused(arranged):
    with pytest.raises(ValueError, match=r"budget is 0\.2"):
        arranged(sharing="tree", spend=0.2)


def test_an_adaptive_run_splits_at_the_branch_point_at_the_latest(arranged):
    adaptive = arranged(sharing="adaptive", share_ratio=0.4)
    assert adaptive.rule.latest_step(30) == 12
    assert adaptive.plan == shared_plan(GROUPS, 30, 12)
    assert arranged(sharing="adaptive", share_ratio=0.0).rule.latest == 0


def test_without_a_calibration_nothing_is_predicted(arranged):
    assert [verdict.kind for verdict in arranged(guarded=True).verdicts] == ["unknown"] * 2


def test_the_guard_shortens_what_it_expects_to_suffer(arranged):
    # Of 0.8 the table expects 0.33, of 0.7 it expects 0.6: both above 0.2 when all is shared.
    guarded = arranged(CALIBRATION, share_ratio=0.9, guarded=True)
    assert [verdict.kind for verdict in guarded.verdicts] == ["shorten"] * 2
    first, second = (guarded.plan.branch_step_of(group[0]) for group in GROUPS)
    assert 0 < second < first < 27
    for group, step in ((0, first), (1, second)):
        value = VALUES[GROUPS[group]].item()
        assert CALIBRATION.expected(value, step / 30) <= CALIBRATION.limit


def test_the_guard_judges_whole_steps_not_the_ratio_that_was_asked_for(arranged):
    # 0.2 of 8 steps are 1.6, so 2: at similarity 0.9 a quarter is expected to be 0.025 away.
    tight = Calibration((0.9,), (0.0, 1.0), ((0.0, 0.1),), 0.022, "distance", {})
    (verdict, _) = arranged(tight, share_ratio=0.2, steps=8, guarded=True).verdicts
    assert verdict.expected_distance == pytest.approx(0.025)
    assert verdict.kind == "shorten"
    guarded = arranged(tight, share_ratio=0.2, steps=8, guarded=True)
    assert guarded.plan == shared_plan(GROUPS, 8, 1)


def test_who_insists_is_not_guarded(arranged):
    insisting = arranged(CALIBRATION, share_ratio=0.9)
    assert [verdict.safe for verdict in insisting.verdicts] == [False, False]
    assert insisting.plan == shared_plan(GROUPS, 30, 27)


def test_single_prompts_need_no_verdict(arranged):
    assert arranged(groups=[[0], [1], [2], [3]]).verdicts == (None,) * 4


def test_a_calibration_lies_beside_the_weights_it_was_measured_on(tmp_path):
    CALIBRATION.write(tmp_path)
    spec = replace(builtin_model(), source=str(tmp_path / "nowhere"))
    assert calibration_of(spec) is None
    assert calibration_of(replace(spec, student=tmp_path)) == CALIBRATION


@pytest.mark.parametrize(("scheduler", "calls"), [("ddim", 10), ("heun", 19), ("pndm", 11)])
def test_every_number_of_a_job_counts_calls_of_the_denoiser(arranged, scheduler, calls):
    job = arranged(scheduler=scheduler, steps=10, share_ratio=0.4)
    assert job.calls == calls_of(job.request) == job.plan.steps == calls
    assert job.branch_call == round(0.4 * calls)
    assert job.plan.branch_steps == (job.branch_call,)
    assert job.cost.independent_evaluations == 4 * calls
    assert job.at(3).plan == shared_plan(GROUPS, calls, 3)
    assert job.at(3).branch_call == 3


@pytest.mark.parametrize("scheduler", ["ddim", "heun", "pndm"])
def test_the_guard_counts_calls_as_the_plan_does(arranged, scheduler):
    guarded = arranged(CALIBRATION, scheduler=scheduler, steps=10, share_ratio=0.9, guarded=True)
    for group, verdict in zip(GROUPS, guarded.verdicts, strict=True):
        assert verdict.kind == "shorten"
        shared = guarded.plan.branch_step_of(group[0])
        assert shared == int(verdict.shorter * guarded.calls + 1e-9) < guarded.branch_call


@pytest.mark.parametrize("scheduler", ["ddim", "heun", "pndm", "dpm++2m"])
def test_the_equal_nfe_baseline_costs_no_more_than_the_plan(arranged, scheduler):
    job = arranged(scheduler=scheduler, steps=10, share_ratio=0.5)
    fewer = job.fewer_plan()
    assert job.cost_of(fewer).evaluations <= job.cost.evaluations
    assert not fewer.branch_steps


def test_the_adapter_moves_no_branch_point(arranged, tmp_path):
    plain = arranged(CALIBRATION, share_ratio=0.9, guarded=True)
    trained = arranged(CALIBRATION, share_ratio=0.9, guarded=True, trained=True)
    assert trained.plan == plain.plan
    assert trained.verdicts == plain.verdicts


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", ["ddim", "heun", "pndm", "unipc"])
def test_what_is_estimated_is_what_a_run_spends(tiny_folder, scheduler):
    model = load_model(spec_of(tiny_folder), "cpu")
    asked = {"steps": 5, "tau_min": -1.0, "tau_max": 1.0, "share_ratio": 0.6}
    job = prepare(model, parse_request(TEXT, scheduler=scheduler, **asked))
    *_, done = compare(job)
    assert done.shared.cost == job.cost
    assert done.shared.plan == job.plan
    assert (done.report["calls"], done.report["branch_step"]) == (job.calls, job.branch_call)


def test_a_job_whose_model_is_not_loaded_says_so(arranged):
    with pytest.raises(ValueError, match="not loaded"):
        next(compare(arranged()))


def test_a_tree_within_a_budget_may_pass_through_the_sides_of_a_group(arranged, monkeypatch):
    monkeypatch.setattr(jobs, "planning_of", lambda _: planning(0.0))
    job = arranged(groups=[[0, 1, 2, 3]], budget=2.0, sharing="tree")
    whole = arranged(groups=[[0, 1, 2, 3]], budget=2.0)
    assert job.planned.evaluations <= 2
    assert job.planned.loss <= whole.planned.loss
    assert len(whole.plan.branch_steps) == 1
