"""Guidance in an interval of the steps: no unconditional row is run outside of it, or counted."""

import diffusers
import pytest
import torch

from sage.core.plan import steps_between
from sage.sd.schedulers import SCHEDULERS, make_scheduler
from sage.sd.store import StateStore

pytestmark = pytest.mark.slow

PROMPTS = ["a fox", "a dog", "a cat"]
STEPS = 8
USUAL = {"groups": [(0, 1), (2,)], "num_inference_steps": STEPS, "output_type": "latent"}


def steps_of(tiny, **arguments):
    *steps, output = tiny.stream(PROMPTS, **(USUAL | {"guidance_scale": 3.0} | arguments))
    return steps, output


def test_the_whole_interval_is_ordinary_guidance_and_the_empty_one_is_none(tiny):
    whole, empty = (steps_of(tiny, guidance_interval=(0.0, end))[1].latents for end in (1.0, 0.0))
    assert torch.equal(whole, steps_of(tiny)[1].latents)
    assert torch.equal(empty, steps_of(tiny, guidance_scale=1.0)[1].latents)


def test_each_stretch_is_what_the_other_kind_of_run_would_do_there(tiny):
    """Up to its beginning the run is an unguided one; from there on it has a life of its own."""
    late, plain = steps_of(tiny, guidance_interval=(0.5, 1.0))[0], steps_of(tiny, guidance_scale=1)
    for i in range(STEPS // 2):
        assert torch.equal(late[i].state.x, plain[0][i].state.x)
    assert (late[-1].state.x - plain[0][-1].state.x).abs().max() > 1e-4
    early, guided = steps_of(tiny, guidance_interval=(0.0, 0.5))[0], steps_of(tiny)[0]
    for i in range(STEPS // 2):
        assert torch.equal(early[i].state.x, guided[i].state.x)


@pytest.mark.parametrize("interval", [(0.0, 1.0), (0.25, 0.75), (0.0, 0.3), (0.4, 0.4)])
def test_the_rows_of_the_network_are_the_counted_ones(tiny, monkeypatch, interval):
    rows, forward = [], tiny.unet.forward
    monkeypatch.setattr(
        tiny.unet, "forward", lambda z, *a, **k: (rows.append(len(z)), forward(z, *a, **k))[1]
    )
    _, output = steps_of(tiny, guidance_interval=interval)
    assert sum(rows) == output.cost.passes
    assert output.cost.independent_passes == 2 * STEPS * len(PROMPTS)
    assert output.cost == tiny.cost(output.plan, 3.0, guidance_interval=interval)
    assert output.cost.evaluations == tiny.cost(output.plan, 3.0).evaluations


@pytest.mark.parametrize("key", SCHEDULERS)
def test_every_scheduler_keeps_its_memory_where_guidance_changes(tiny, key):
    """A guidance of almost one is almost none, however often it is switched."""
    tiny.scheduler = make_scheduler(key, like=tiny.scheduler)
    plain = steps_of(tiny, guidance_scale=1.0)[1].latents
    switched = steps_of(tiny, guidance_scale=1 + 1e-6, guidance_interval=(0.3, 0.7))[1].latents
    assert (plain - switched).abs().max() < 1e-3 * (1 + plain.abs().max())


def test_another_interval_reuses_nothing(tiny):
    store = StateStore()
    steps_of(tiny, guidance_interval=(0.2, 0.8), reuse=store)
    assert steps_of(tiny, guidance_interval=(0.2, 0.9), reuse=store)[1].reused == 0
    assert steps_of(tiny, guidance_interval=(0.2, 0.8), reuse=store)[1].reused > 0


def test_an_interval_is_rounded_as_a_branch_point_is():
    assert steps_between((0.0, 1.0), 30) == range(30)
    assert steps_between((0.25, 0.35), 10) == range(3, 4)


@pytest.mark.parametrize("interval", [(-0.1, 1), (0.5, 0.4), (0, 1.2), (0, float("nan"))])
def test_an_interval_that_is_none_says_so(tiny, interval):
    with pytest.raises(ValueError, match=r"guidance_interval is .*0 <= from <= to <= 1"):
        tiny(PROMPTS, guidance_scale=3.0, guidance_interval=interval)


@pytest.mark.parametrize("key", SCHEDULERS)
def test_a_scheduler_by_name_keeps_the_models_levels_and_prediction(key):
    model = diffusers.DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
    )
    made = make_scheduler(key, like=model)
    assert made.config.prediction_type == "v_prediction"
    ours, theirs = made.alphas_cumprod, model.alphas_cumprod
    assert (ours[:-1] - theirs[:-1]).abs().max() < 1e-5
    assert ours[-1] < 1e-6


def test_an_unknown_name_says_what_is_allowed(tiny):
    with pytest.raises(ValueError, match="scheduler is 'ddpm'; allowed are ddim, dpm"):
        make_scheduler("ddpm", like=tiny.scheduler)
