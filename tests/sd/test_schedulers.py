"""Any scheduler: equal to diffusers' own where nothing is shared, and split equals unsplit."""

import diffusers
import pytest
import torch

from sage.core.noise import Streams
from sage.core.plan import Plan, Segment, independent_plan
from sage.core.solver import DDIM, Multistep
from sage.sd.pipeline import SagePipeline
from sage.sd.schedulers import WrappedScheduler, denoiser_calls, solver_for, steps_for
from tests.conftest import build_tiny_pipeline
from tests.core.test_sampling import NoScalarReads

TABLES = {
    "DDIM": ("DDIMScheduler", {}),
    "Euler": ("EulerDiscreteScheduler", {}),
    "Euler, Karras": ("EulerDiscreteScheduler", {"use_karras_sigmas": True}),
    "Euler, trailing": ("EulerDiscreteScheduler", {"timestep_spacing": "trailing"}),
    "Euler ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "DPM-Solver++ 2M": ("DPMSolverMultistepScheduler", {}),
    "DPM-Solver++ 2M, Karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "DPM-Solver++ 2M, last sigma": (
        "DPMSolverMultistepScheduler",
        {"final_sigmas_type": "sigma_min", "lower_order_final": False},
    ),
    "DPM-Solver++ 1": ("DPMSolverMultistepScheduler", {"solver_order": 1}),
    "LCM": ("LCMScheduler", {}),
}
WRAPPED = {
    "UniPC": ("UniPCMultistepScheduler", {}),
    "PNDM": ("PNDMScheduler", {"skip_prk_steps": True}),
    "Heun": ("HeunDiscreteScheduler", {}),
    "DEIS": ("DEISMultistepScheduler", {}),
    "KDPM2": ("KDPM2DiscreteScheduler", {}),
    "KDPM2 ancestral": ("KDPM2AncestralDiscreteScheduler", {}),
    "LMS": ("LMSDiscreteScheduler", {}),
    "DPM-Solver++ 3M": ("DPMSolverMultistepScheduler", {"solver_order": 3}),
    "DPM-Solver SDE": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "DDPM": ("DDPMScheduler", {}),
    "PNDM, Runge-Kutta": ("PNDMScheduler", {"skip_prk_steps": False}),
    "TCD": ("TCDScheduler", {}),  # diffusers' pipeline sets its share of noise to 0
}
ALL = TABLES | WRAPPED
STEPS = 9


def pipeline(name, prediction="epsilon"):
    base = build_tiny_pipeline(prediction)
    kind, options = ALL[name]
    base.scheduler = getattr(diffusers, kind).from_config(base.scheduler.config, **options)
    base.set_progress_bar_config(disable=True)
    pipe = SagePipeline.from_pipe(base)
    pipe.scheduler = base.scheduler
    return base, pipe


@pytest.mark.slow
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", ALL)
def test_no_sharing_equals_diffusers(name, prediction):
    base, pipe = pipeline(name, prediction)
    seeds = (3, 8)
    arguments = {"num_inference_steps": STEPS, "guidance_scale": 3.0, "output_type": "latent"}
    ours = pipe(["a fox", "a dog"], share_ratio=0.0, seeds=seeds, **arguments).latents
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    noise = torch.stack([torch.randn(4, 8, 8, generator=g) for g in generators])
    theirs = base(["a fox", "a dog"], latents=noise, generator=generators, **arguments).images
    assert (ours - theirs).abs().max() < 1e-3 * (1 + theirs.abs().max())


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_a_run_that_is_split_equals_one_that_is_not(name):
    """Two equal prompts with equal seeds: at every branch point the memory goes along."""
    _, pipe = pipeline(name)
    calls = pipe.denoiser_calls(STEPS)
    arguments = {"guidance_scale": 3.0, "output_type": "latent"}
    whole = pipe(["a fox"], plan=independent_plan(1, calls), seeds=[5], **arguments).latents
    for point in {1, 2, calls // 2, calls - 1}:
        trunk, parts = Segment((0, 1), 0, point), [Segment((n,), point, calls, 0) for n in (0, 1)]
        split = pipe(["a fox"] * 2, plan=Plan(calls, (trunk, *parts)), seeds=[5, 5], **arguments)
        assert (split.latents - whole).abs().max() < 1e-4 * (1 + whole.abs().max()), point


@pytest.mark.parametrize("name", ALL)
def test_the_number_of_calls_is_known_in_advance(name):
    _, pipe = pipeline(name)
    calls = denoiser_calls(pipe.scheduler, STEPS)
    assert steps_for(pipe.scheduler, calls) == STEPS
    assert len(list(pipe.stream(["a fox"], num_inference_steps=STEPS))) == calls + 1


def test_a_number_of_calls_that_cannot_be_is_refused():
    _, pipe = pipeline("Heun")
    with pytest.raises(ValueError, match="HeunDiscreteScheduler cannot make exactly 4"):
        steps_for(pipe.scheduler, 4)


def test_a_number_of_steps_that_cannot_be_is_refused():
    _, pipe = pipeline("PNDM, Runge-Kutta")
    with pytest.raises(ValueError, match=r"^PNDMScheduler cannot make 2 steps: .+$"):
        pipe.stream(["a fox"], num_inference_steps=2)


@pytest.mark.parametrize("name", TABLES)
def test_the_process_s_default_device_changes_nothing(name):
    _, pipe = pipeline(name)
    streams, again = Streams([0], (4, 8, 8)), Streams([0], (4, 8, 8))
    wanted = solver_for(pipe.scheduler, STEPS, "cpu", streams)
    with torch.device("meta"):
        found = solver_for(pipe.scheduler, STEPS, "cpu", again)
        drawn = again.draw()
    assert torch.equal(found.table, wanted.table)
    assert torch.equal(drawn, streams.draw())


@pytest.mark.parametrize("name", TABLES)
def test_tables_read_nothing_back_to_the_host(name):
    _, pipe = pipeline(name)
    stream = pipe.stream(["a fox", "a dog"], groups=[(0, 1)], num_inference_steps=STEPS)
    next(stream)
    with NoScalarReads():
        for _ in range(STEPS - 1):
            next(stream)


@pytest.mark.parametrize("name", ALL)
def test_tables_and_the_wrapper_are_used_where_they_should(name):
    _, pipe = pipeline(name)
    streams = Streams([0], (4, 8, 8))
    solver = solver_for(pipe.scheduler, STEPS, "cpu", streams)
    assert isinstance(solver, (DDIM, Multistep) if name in TABLES else WrappedScheduler)


@pytest.mark.parametrize("name", ["Euler ancestral", "DDPM"])
def test_siblings_get_noise_of_their_own_after_the_branch(name):
    _, pipe = pipeline(name)
    arguments = {"groups": [(0, 1)], "num_inference_steps": STEPS, "output_type": "latent"}
    same = pipe(["a fox"] * 2, seeds=[5, 5], **arguments).latents
    own = pipe(["a fox"] * 2, seeds=[5, 6], **arguments).latents
    assert torch.equal(same[0], same[1])
    assert (own[0] - own[1]).abs().max() > 0.1
    assert (own[0] - same[0]).abs().max() < 1e-4


def test_streams_do_not_depend_on_their_company():
    alone, company = Streams([7], (2, 3)), Streams([1, 7], (2, 3))
    for _ in range(3):
        assert torch.equal(alone.draw()[0], company.draw()[1])
