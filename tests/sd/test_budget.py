"""A pipeline within a budget, and with its steps at other places."""

from dataclasses import replace

import pytest
import torch

from sage.core.plan import shared_plan
from sage.core.settings import Sampling
from sage.sd.schedulers import make_scheduler
from sage.sd.store import StateStore
from tests.core.test_planner import planning

pytestmark = pytest.mark.slow

PROMPTS = ["a red fox", "a blue fox", "a pizza", "a red fish"]
GROUPS = [(0, 1, 3), (2,)]


@pytest.fixture
def planned(tiny):
    tiny.settings = replace(tiny.settings, planning=planning(0.0))
    return tiny


def test_a_budget_finds_steps_places_and_branch_point(planned):
    output = planned(PROMPTS, budget=2.0, groups=GROUPS, guidance_scale=1, output_type="latent")
    found = output.planned
    assert output.plan == found.plan
    assert output.timesteps == found.timesteps
    assert output.cost.evaluations / 4 == found.evaluations <= 2
    assert 0 < found.shared_steps < found.plan.steps
    again = planned(PROMPTS, plan=found.plan, timesteps=found.timesteps, trunk="alternate",
                    guidance_scale=1, output_type="latent")  # fmt: skip
    assert torch.equal(again.latents, output.latents)
    assert again.planned is None


def test_a_budget_that_pays_no_sharing_is_planned_independent_sampling(planned):
    planned.settings = replace(planned.settings, planning=planning(1e9))
    how = {"guidance_scale": 1, "output_type": "latent"}
    output = planned(PROMPTS, budget=3.0, groups=GROUPS, **how)
    alone = planned(PROMPTS, share_ratio=0, steps=3, spacing="planned", **how)
    assert output.plan.branch_steps == ()
    assert torch.equal(output.latents, alone.latents)
    assert alone.timesteps == planning().timesteps(3, "ddim")


def test_the_least_budget_is_one_step(planned):
    output = planned(PROMPTS, budget=1, groups=GROUPS, guidance_scale=1, output_type="latent")
    assert (output.plan.steps, output.cost.evaluations) == (1, 4)


@pytest.mark.parametrize("how", [{"budget": 3.0}, {"spacing": "planned", "steps": 3}])
def test_a_solver_that_was_not_measured_is_refused(planned, how):
    errors = {"ddim": planning().errors["ddim"]}
    planned.settings = replace(planned.settings, planning=replace(planning(), errors=errors))
    planned.scheduler = make_scheduler("dpm++2m", like=planned.scheduler)
    with pytest.raises(ValueError, match=r"with the solver dpm\+\+2m; measured: ddim"):
        planned.stream(PROMPTS, groups=GROUPS, **how)


@pytest.mark.parametrize("key", ["ddim", "dpm++2m"])
def test_states_are_not_taken_from_a_run_with_other_places(tiny, key):
    tiny.scheduler = make_scheduler(key, like=tiny.scheduler)
    plan, reuse = shared_plan([(0, 1), (2,), (3,)], 4, 2), StateStore()
    how = {"plan": plan, "guidance_scale": 1, "output_type": "latent", "reuse": reuse}
    steps = [[999, 700, 400, 100], [999, 700, 300, 100]]
    first = tiny(PROMPTS, timesteps=steps[0], **how)
    other = tiny(PROMPTS, timesteps=steps[1], **how)
    same = tiny(PROMPTS, timesteps=steps[0], **how)
    assert (other.reused, same.reused) == (0, first.cost.evaluations)
    assert torch.equal(same.latents, first.latents)
    assert not torch.equal(other.latents, first.latents)


def test_timesteps_say_how_many_steps_there_are(tiny):
    steps = (999, 600, 50)
    output = tiny(PROMPTS, timesteps=steps, share_ratio=0, guidance_scale=1, output_type="latent")
    assert (output.plan.steps, output.timesteps) == (3, steps)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"budget": 5.0}, "Nothing was measured for planning on this model"),
        ({"spacing": "planned"}, "This model has no planned timesteps"),
        ({"timesteps": [5, 9]}, "timesteps is 5, 9; need whole numbers from 999 to 0, descending"),
        ({"timesteps": [9, 5], "plan": shared_plan([(0, 1, 2, 3)], 3, 1)}, "2 timesteps were giv"),
    ],
)
def test_what_cannot_be_placed_is_refused(tiny, how, words):
    with pytest.raises(ValueError, match=words):
        tiny(PROMPTS, **how)


def test_a_share_is_no_budget_and_a_filmstrip_takes_none(planned):
    for budget in (0.5, Sampling(budget=0.5).budget):
        with pytest.raises(ValueError, match=r"budget is 0\.5; a picture takes at least 1"):
            planned(PROMPTS, budget=budget, groups=GROUPS)
    with pytest.raises(ValueError, match="budget is not for a filmstrip"):
        planned.filmstrip(PROMPTS, [0.5], budget=5.0)
