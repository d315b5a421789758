"""Where steps lie: every spacing is descending whole timesteps, and a solver takes just those."""

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

from sage.core.noise import Streams
from sage.core.planner import Planning
from sage.core.settings import SPACINGS
from sage.sd.schedulers import make_scheduler, solver_for
from sage.sd.spacing import timesteps_of

OPTIONS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
ZERO_SNR = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing",
            "prediction_type": "v_prediction"}  # fmt: skip
NAMED = [name for name in SPACINGS if name not in ("model", "planned")]


def scheduler(key="ddim", **more):
    own = DDIMScheduler(**{**OPTIONS, "clip_sample": False, **more})
    return make_scheduler(key, like=own)


def solver(of, steps, timesteps=None):
    return solver_for(of, steps, "cpu", Streams(range(2), (3, 4)), timesteps)


def run(one, x):
    torch.manual_seed(1)
    memory = one.start(x)
    for i in range(one.steps):
        index = torch.full((len(x),), i)
        output = torch.tanh(one.scale_input(x, index))
        x, _, memory = one.step(x, output, index, memory, torch.arange(len(x)))
    return x


@pytest.mark.parametrize("more", [{}, ZERO_SNR], ids=["plain", "zero snr"])
@pytest.mark.parametrize("spacing", NAMED)
@pytest.mark.parametrize("steps", [1, 3, 10, 40])
def test_every_spacing_is_so_many_descending_timesteps(spacing, steps, more):
    found = timesteps_of(spacing, steps, scheduler(**more), None)
    assert len(found) == steps
    assert found == tuple(sorted(set(found), reverse=True))
    assert found[0] == 999
    assert found[-1] >= 0


@pytest.mark.parametrize("key", ["ddim", "dpm++2m", "euler"])
def test_spacings_differ_and_do_not_depend_on_the_scheduler(key):
    found = {name: timesteps_of(name, 8, scheduler(key, **ZERO_SNR), None) for name in NAMED}
    assert len(set(found.values())) == len(NAMED)
    assert found == {n: timesteps_of(n, 8, scheduler(**ZERO_SNR), None) for n in NAMED}


def test_the_model_keeps_its_own():
    assert timesteps_of("model", 5, scheduler(), None) is None


@pytest.mark.parametrize("key", ["ddim", "dpm++2m", "euler", "lcm"])
def test_its_own_timesteps_given_by_hand_change_nothing(key):
    of = scheduler(key, timestep_spacing="trailing")
    own = solver(of, 8)
    given = solver(of, 8, [int(t) for t in own.timesteps.tolist()])
    x = torch.randn(2, 3, 4) * own.init_noise_sigma
    assert torch.equal(given.timesteps, own.timesteps)
    assert torch.allclose(given.table, own.table, rtol=1e-4, atol=1e-5)
    assert torch.allclose(run(given, x), run(own, x), rtol=1e-3, atol=1e-3)


def test_custom_timesteps_are_those_of_diffusers():
    steps = [999, 850, 500, 400, 120, 30]
    of = scheduler("dpm++2m", **ZERO_SNR)
    theirs = DPMSolverMultistepScheduler.from_config(of.config)
    theirs.set_timesteps(timesteps=steps)
    x = ours = torch.randn(2, 3, 4)
    for t in theirs.timesteps:
        x = theirs.step(torch.tanh(x), t, x, return_dict=False)[0]
    assert torch.allclose(run(solver(of, 6, steps), ours), x, rtol=1e-4, atol=1e-4)


def test_ddim_ends_at_the_final_level():
    table = solver(scheduler(**ZERO_SNR), 3, [999, 600, 200])
    assert table.timesteps.tolist() == [999, 600, 200]
    assert table.after[-1].tolist() == [1.0, 0.0]
    alphas = scheduler(**ZERO_SNR).alphas_cumprod
    assert float(table.after[0, 0]) == pytest.approx(float(alphas[600].sqrt()))


@pytest.mark.parametrize(
    ("steps", "words"),
    [([], "empty"), ([999, 999], "999, 999"), ([1000], "1000"), ([5, -1], "5, -1"), ([5, 9], "9")],
)
def test_other_timesteps_are_refused(steps, words):
    with pytest.raises(ValueError, match=f"timesteps is .*{words}.*from 999 to 0, descending"):
        solver(scheduler(), max(len(steps), 1), steps)


@pytest.mark.parametrize("key", ["unipc", "pndm", "heun"])
def test_schedulers_without_a_table_take_no_timesteps(key):
    with pytest.raises(ValueError, match="has its own timesteps; no others are taken"):
        timesteps_of("karras", 6, scheduler(key), None)


def test_planned_timesteps_need_a_measured_model():
    with pytest.raises(ValueError, match=r"no planned timesteps; `python -m sage.studies sched"):
        timesteps_of("planned", 6, scheduler(), None)
    known = Planning((999, 500), {"ddim": ((0.1, 0.5), (0.2,)), "dpm++2m": ((0.3, 0.2), (0.2,))},
                     (1,), ((0, 0, 0),), "mean", 1.0, 1.0, {})  # fmt: skip
    assert timesteps_of("planned", 2, scheduler(), known) == (999, 500)
    assert timesteps_of("planned", 1, scheduler("dpm++2m"), known) == (999,)
