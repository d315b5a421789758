"""Look first, finish some: the same pictures as a run in one go, for what was asked for only."""

import json
from itertools import pairwise

import pytest
import torch

from sage.core.cost import evaluations
from sage.core.plan import shared_plan
from sage.core.sampling import only
from sage.core.settings import TRUNKS
from sage.jobs.job import prepare
from sage.jobs.look import Look, LookStep, finish, look, look_report, look_step
from sage.jobs.models import load_model
from sage.jobs.request import parse_request
from sage.sd.pipeline import SageOutput
from tests.jobs.test_models import spec_of

TEXT = "a fox\na dog\na cat"


@pytest.fixture(scope="module")
def model(tiny_folder):
    return load_model(spec_of(tiny_folder), "cpu")


def job_of(model, **settings):
    open_bounds = {"tau_min": -1.0, "tau_max": 1.0, "steps": 8, "share_ratio": 0.5}
    return prepare(model, parse_request(TEXT, **(open_bounds | settings)))


def whole(job):
    """The shared side in one go."""
    request = job.request
    return job.loaded_sides.shared(
        request.prompts,
        plan=job.plan,
        seeds=request.seeds,
        guidance_scale=request.guidance_scale,
        trunk=request.trunk,
        fresh_noise=request.fresh_noise,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"scheduler": "dpm++2m", "trunk": "alternate"},
        {"scheduler": "euler_a", "fresh_noise": 0.4},
        {"sharing": "tree", "spend": 0.7},
        {"share_ratio": 0.0},
        *({"trunk": trunk} for trunk in TRUNKS),
        *({"trunk": trunk, "fresh_noise": 0.5} for trunk in TRUNKS),
    ],
)
def test_finished_pictures_are_those_of_a_run_in_one_go(model, settings):
    job = job_of(model, **settings)
    *steps, seen = look(job)
    assert isinstance(seen, Look)
    assert [step.step for step in steps] == list(range(1, look_step(job) + 1))
    assert all(isinstance(step, LookStep) and len(step.previews) == 3 for step in steps)
    trunks = {i for i, s in enumerate(job.plan.segments) if len(s.members) > 1}
    assert set(seen.forks) == trunks
    *_, some = finish(model, seen, [2])
    *_, every = finish(model, some, [0, 1])
    assert (some.finished, some.open) == ((2,), (0, 1))
    assert (every.finished, every.open) == ((0, 1, 2), ())
    pictures = whole(job).pictures
    for n, (picture, _) in every.final.items():
        one, other = (
            torch.frombuffer(bytearray(p.tobytes()), dtype=torch.uint8).int()
            for p in (picture, pictures[n])
        )
        assert (one - other).abs().max() <= 1, n  # other batches, other last bits


@pytest.mark.slow
def test_what_is_spent_is_counted_and_finishing_all_costs_what_the_plan_does(model):
    job = job_of(model)
    *_, seen = look(job)
    assert seen.cost.evaluations == 4 + 3  # one trunk, then a step for each
    assert seen.remaining(2) == 6
    *_, some = finish(model, seen, [0, 2])
    report = look_report(some)
    assert report["evaluations"] == {"look": 7, "spent": 13, "all": 16, "independent": 24}
    assert report["flops"]["spent"] < report["flops"]["all"] < report["flops"]["independent"]
    assert 0 < report["seconds"]["look"] < report["seconds"]["spent"] < report["seconds"]["all"]
    assert look_report(seen)["seconds"]["all"] is None
    assert json.loads(json.dumps(report))["finished"] == [0, 2]
    *_, every = finish(model, some, [1])
    assert every.evaluations == job.cost.evaluations


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sharing": "adaptive"}, "adaptive run has no branch point"),
        ({"share_ratio": 1.0}, "8 of 8 steps, which leaves nothing to finish"),
        ({"share_ratio": 7 / 8}, "may be 6 at most"),
    ],
)
def test_what_cannot_be_looked_at_says_why(model, settings, words):
    with pytest.raises(ValueError, match=words):
        next(look(job_of(model, **settings)))


@pytest.mark.parametrize(("prompts", "words"), [
    ((), "tick at least one"), ((3,), "P4 is"), (("0",), "'0' is finished already, or is no"),
])  # fmt: skip
def test_only_open_prompts_of_the_look_can_be_finished(model, prompts, words):
    *_, seen = look(job_of(model))
    with pytest.raises(ValueError, match=words):
        next(finish(model, seen, prompts))


def test_a_plan_that_stops_early_costs_what_was_run():
    plan = shared_plan([(0, 2), (1,)], 8, 3)
    counts = [evaluations(plan.until(step)) for step in range(1, 9)]
    assert counts == [2, 4, 6, 9, 12, 15, 18, 21]
    assert all(a < b for a, b in pairwise(counts))
    for step in (0, 9):
        with pytest.raises(ValueError, match="allowed are 1 to 8"):
            plan.until(step)


def test_a_run_goes_on_from_a_state_only_where_that_is_the_same_run(tiny):
    plan = shared_plan([(0, 1)], 4, 1)
    *steps, _ = tiny.stream(["a fox", "a dog"], plan=plan)
    with pytest.raises(ValueError, match="not alone after step 0"):
        only(steps[0].state, [1])
    with pytest.raises(ValueError, match="it needs plan"):
        tiny.stream(["a fox", "a dog"], start=steps[1].state)
    with pytest.raises(ValueError, match="none is left"):
        tiny.stream(["a fox", "a dog"], plan=plan, start=steps[3].state)
    *_, output = tiny.stream(["a fox", "a dog"], plan=plan, start=steps[1].state)
    assert isinstance(output, SageOutput)
    assert output.reused == 3
