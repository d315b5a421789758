"""The coefficient table does what diffusers' DDIM does, for every setting it can have."""

import pytest
import torch
from diffusers import DDIMScheduler, PNDMScheduler

from sage.core.noise import Streams
from sage.core.solver import DDIM
from sage.sd.schedulers import ddim_scheduler, solver_for

LEAD = torch.arange(3)
BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def streams(num_prompts=3, shape=(4, 5, 5)):
    """Noise from which the start has been drawn."""
    made = Streams(range(num_prompts), shape)
    made.draw()
    return made


def run_diffusers(scheduler, outputs, x):
    scheduler.set_timesteps(len(outputs))
    trail = []
    for t, output in zip(scheduler.timesteps, outputs, strict=True):
        step = scheduler.step(output, t, x)
        x = step.prev_sample
        trail.append((x, step.pred_original_sample))
    return trail


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("clip", [False, True])
def test_every_step_equals_diffusers(prediction, spacing, clip):
    scheduler = DDIMScheduler(
        **BETAS, prediction_type=prediction, timestep_spacing=spacing, clip_sample=clip
    )
    steps = 7
    outputs = torch.randn(steps, 3, 4, 5, 5, generator=torch.Generator().manual_seed(1))
    x = torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(2))
    solver = solver_for(scheduler, steps, "cpu", streams())
    ours = x
    for i, (theirs, their_x0) in enumerate(run_diffusers(scheduler, outputs, x)):
        ours, x0, memory = solver.step(ours, outputs[i], torch.full((3,), i), (), LEAD)
        assert memory == ()
        assert (ours - theirs).abs().max() < 1e-4 * (1 + theirs.abs().max())
        assert (x0 - their_x0).abs().max() < 1e-4 * (1 + their_x0.abs().max())


def test_zero_terminal_signal_works_with_velocity_prediction():
    scheduler = DDIMScheduler(
        **BETAS,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
        clip_sample=False,
    )
    solver = solver_for(scheduler, 5, "cpu", streams())
    assert torch.isfinite(solver.table).all()
    assert solver.timesteps.tolist() == [999, 799, 599, 399, 199]


def test_rows_at_different_steps_advance_in_one_batch():
    solver = solver_for(DDIMScheduler(**BETAS, clip_sample=False), 6, "cpu", streams())
    x, output = torch.randn(2, 3, 4, 4)
    index = torch.tensor([0, 5, 2])
    together, _, _ = solver.step(x, output, index, (), LEAD)
    for r, i in enumerate(index.tolist()):
        alone, _, _ = solver.step(
            x[r : r + 1], output[r : r + 1], torch.tensor([i]), (), LEAD[r : r + 1]
        )
        assert torch.equal(together[r : r + 1], alone)


@pytest.mark.parametrize("steps", range(2, 101))
def test_there_are_as_many_timesteps_as_steps(steps):
    scheduler = DDIMScheduler(**BETAS, timestep_spacing="trailing", clip_sample=False)
    solver = solver_for(scheduler, steps, "cpu", streams())
    assert len(solver.timesteps) == solver.steps == steps
    assert all(0 <= t < 1000 for t in solver.timesteps.tolist())


def test_reading_a_scheduler_leaves_it_alone():
    scheduler = DDIMScheduler(**BETAS)
    scheduler.set_timesteps(4)
    before = scheduler.timesteps.clone()
    solver_for(scheduler, 9, "cpu", streams())
    assert torch.equal(scheduler.timesteps, before)
    assert scheduler.num_inference_steps == 4


def test_another_scheduler_keeps_its_noise_levels():
    pndm = PNDMScheduler(**BETAS, steps_offset=1, skip_prk_steps=True)
    ddim = ddim_scheduler(pndm)
    assert torch.equal(ddim.alphas_cumprod, pndm.alphas_cumprod)
    assert ddim.config.steps_offset == 1


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: solver_for(DDIMScheduler(thresholding=True), 5, "cpu", streams()), "thresholding"),
        (lambda: DDIM.from_alphas([3], [0.5, 0.6], [0.7]), "1 timesteps, 2 noise levels"),
        (lambda: DDIM.from_alphas([3], [0.0], [0.7]), "zero signal"),
        (lambda: DDIM.from_alphas([3], [1.0], [1.0], prediction="sample"), "full signal"),
        (lambda: DDIM.from_alphas([3], [0.5], [0.7], prediction="flow"), "'flow'; allowed"),
    ],
)
def test_what_cannot_be_solved_says_why(make, words):
    with pytest.raises(ValueError, match=words):
        make()
