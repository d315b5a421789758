"""SagePipeline equals diffusers where nothing is shared, and keeps the sampler's promises."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, PNDMScheduler
from PIL import Image

from sage.core.adaptive import AdaptiveRule
from sage.sd.pipeline import SageOutput, SagePipeline
from tests.conftest import build_tiny_pipeline
from tests.core.test_planner import planning
from tests.core.test_sampling import NoScalarReads

PROMPTS = ["a red fox", "a blue fox", "a pizza"]


def latents(output):
    return output.latents


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("guidance", [1.0, 6.0])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_no_sharing_equals_diffusers(prediction, guidance, spacing):
    base = build_tiny_pipeline(prediction, timestep_spacing=spacing)
    base.set_progress_bar_config(disable=True)
    pipe = SagePipeline.from_pipe(base)
    seeds = (5, 0, 3)
    ours = pipe(
        PROMPTS,
        share_ratio=0.0,
        num_inference_steps=9,
        guidance_scale=guidance,
        seeds=seeds,
        negative_prompt="rain",
        output_type="pt",
    )
    theirs = base(
        PROMPTS,
        num_inference_steps=9,
        guidance_scale=guidance,
        negative_prompt=["rain"] * 3,
        latents=pipe.starting_noise(seeds),
        output_type="pt",
    )
    assert (ours.images - theirs.images).abs().max() < 1e-3


def test_from_pipe_shares_the_parts():
    base = build_tiny_pipeline()
    pipe = SagePipeline.from_pipe(base)
    assert pipe.unet is base.unet
    assert pipe.vae is base.vae
    assert not hasattr(base, "settings")


def test_the_paper_samples_with_ddim_whatever_the_model_came_with():
    base = build_tiny_pipeline()
    base.scheduler = PNDMScheduler.from_config(base.scheduler.config, skip_prk_steps=True)
    assert isinstance(SagePipeline.from_pipe(base).scheduler, DDIMScheduler)
    assert isinstance(base.scheduler, PNDMScheduler)


@pytest.mark.slow
def test_a_scheduler_can_be_assigned(tiny):
    before = tiny(PROMPTS, num_inference_steps=4, output_type="latent").latents
    tiny.scheduler = DDIMScheduler.from_config(tiny.scheduler.config, timestep_spacing="trailing")
    after = tiny(PROMPTS, num_inference_steps=4, output_type="latent").latents
    assert (after - before).abs().max() > 1e-4


@pytest.mark.slow
def test_the_network_is_called_once_a_step_however_many_groups(tiny, monkeypatch):
    calls, forward = [], tiny.unet.forward
    monkeypatch.setattr(
        tiny.unet, "forward", lambda z, *a, **k: (calls.append(len(z)), forward(z, *a, **k))[1]
    )
    groups = [(0, 1), (2,), (3, 4, 5)]
    output = tiny(list("abcdef"), groups=groups, num_inference_steps=5, share_ratio=0.4)
    assert len(calls) == 5
    assert sum(calls) == 2 * output.cost.evaluations  # guidance doubles the rows
    calls.clear()
    tiny.max_rows = 2
    tiny(list("abcdef"), groups=groups, num_inference_steps=5, share_ratio=0.4)
    assert max(calls) == 4
    assert sum(calls) == 2 * output.cost.evaluations


@pytest.mark.slow
def test_chunks_do_not_change_the_pictures(tiny):
    arguments = {"groups": [(0, 1), (2,)], "num_inference_steps": 4, "output_type": "pt"}
    whole = tiny(PROMPTS, **arguments)
    tiny.max_rows = 1
    assert (tiny(PROMPTS, **arguments).images - whole.images).abs().max() < 1e-4


def test_a_prompts_noise_does_not_depend_on_its_company(tiny):
    assert torch.equal(tiny.starting_noise([7])[0], tiny.starting_noise([3, 7, 9])[1])
    expected = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(7))
    assert torch.equal(tiny.starting_noise([7])[0], expected)


@pytest.mark.slow
def test_an_unshared_picture_does_not_depend_on_its_company(tiny):
    alone = tiny(["a pizza"], seeds=[4], num_inference_steps=5, output_type="pt")
    arguments = {"seeds": [1, 2, 4], "groups": [(0, 1), (2,)], "num_inference_steps": 5}
    company = tiny(PROMPTS, **arguments, output_type="pt")
    assert (alone.images[0] - company.images[2]).abs().max() < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("order", [(2, 0, 1), (1, 0, 2)])
def test_permuting_the_prompts_and_their_seeds_permutes_the_pictures(tiny, order):
    seeds = (11, 12, 13)
    there = tiny(PROMPTS, seeds=seeds, num_inference_steps=5, output_type="pt")
    here = tiny(
        [PROMPTS[n] for n in order],
        seeds=[seeds[n] for n in order],
        num_inference_steps=5,
        output_type="pt",
    )
    assert any(len(row) > 1 for row in there.plan.rows(0)), "nothing was shared: no test"
    assert (here.images - there.images[list(order)]).abs().max() < 1e-4


@pytest.mark.slow
def test_two_equal_prompts_are_two_pictures(tiny):
    output = tiny(["a fox", "a fox"], groups=[(0, 1)], num_inference_steps=4, output_type="np")
    assert output.images.shape == (2, 16, 16, 3)
    assert np.array_equal(*output.images)  # one trunk, equal branches
    apart = tiny(["a fox", "a fox"], share_ratio=0, num_inference_steps=4, output_type="np")
    assert not np.array_equal(*apart.images)  # two seeds


@pytest.mark.slow
def test_the_stream_yields_every_step_and_then_the_output(tiny):
    *steps, output = tiny.stream(PROMPTS, groups=[(0, 1, 2)], num_inference_steps=5)
    assert [step.step for step in steps] == [1, 2, 3, 4, 5]
    assert [step.stage for step in steps] == ["trunk"] * 2 + ["branches"] * 3
    assert isinstance(output, SageOutput)
    for step in steps:
        previews = step.previews()
        assert len(previews) == 3
        assert all(picture.size == (16, 16) for picture in previews)
    assert steps[0].previews()[0].tobytes() == steps[0].previews()[2].tobytes()


def test_arguments_are_checked_before_the_first_step_is_asked_for(tiny):
    with pytest.raises(ValueError, match="seeds were given"):
        tiny.stream(PROMPTS, seeds=[1])


def test_the_output_is_frozen_and_complete(tiny):
    output = tiny(PROMPTS, groups=[(0, 1), (2,)], num_inference_steps=5, share_ratio=0.4)
    assert all(isinstance(image, Image.Image) for image in output.images)
    assert output.latents.shape == (3, 4, 8, 8)
    assert output.seeds == (0, 1, 2)
    assert output.plan.rows(0) == ((0, 1), (2,))
    assert output.cost.evaluations == 2 * 2 + 3 * 3
    timings = output.timings
    assert min(timings.encode, timings.trunk, timings.branches, timings.decode) > 0
    with pytest.raises(AttributeError):
        output.images = []


def test_nothing_is_read_back_to_the_host_while_the_network_runs(tiny):
    stream = tiny.stream(PROMPTS, groups=[(0, 1), (2,)], num_inference_steps=6)
    next(stream)  # tables are made on the way to the first step
    with NoScalarReads():
        for _ in range(5):
            next(stream)


@pytest.mark.slow
def test_a_value_that_is_not_a_number_is_never_shown(tiny):
    with torch.no_grad():
        tiny.unet.conv_out.bias.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="not a number"):
        tiny(PROMPTS, num_inference_steps=2)
    for compare in ("direction", "clean", "information"):
        rule = AdaptiveRule(earliest=0.0, latest=1.0, compare=compare)
        with pytest.raises(FloatingPointError, match="not a number"):
            tiny(PROMPTS, num_inference_steps=2, groups=[(0, 1, 2)], adaptive=rule)


@pytest.mark.slow
@pytest.mark.parametrize("how", [{}, {"adaptive": AdaptiveRule()}, {"budget": 2.0}])
def test_prompts_with_other_negative_prompts_do_not_share(tiny, how):
    """Of four that would be one group, those with the same negative prompt are one each."""
    tiny.settings = replace(tiny.settings, planning=planning(0.0))
    how = {"tau_min": -1, "tau_max": 1, "output_type": "latent", "seed": 3} | how
    if "budget" not in how:
        how["num_inference_steps"] = 4
    prompts = [*PROMPTS, "a red fish"]
    assert tiny(prompts, **how).plan.rows(0) == ((0, 1, 2, 3),)
    negatives = ["rain", "snow", "rain", "snow"]
    found = tiny(prompts, negative_prompt=negatives, **how)
    assert found.plan.rows(0) == ((0, 2), (1, 3))
    given = tiny(prompts, negative_prompt=negatives, groups=[(0, 2), (1, 3)], **how)
    assert torch.equal(found.latents, given.latents)


def test_long_prompts_are_reported(tiny):
    assert tiny.truncated(["a fox", "a very long prompt about a fox and a dog"]) == (1,)


def test_embeddings_are_unit_vectors_and_kept(tiny, monkeypatch):
    first = tiny.embed(PROMPTS)
    assert (first.norm(dim=-1) - 1).abs().max() < 1e-5
    monkeypatch.setattr(tiny, "_embed", lambda prompts: pytest.fail("encoded again"))
    assert torch.equal(tiny.embed(PROMPTS[::-1]), first.flip(0))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"prompts": []}, "at least one text"),
        ({"prompts": [1, 2]}, "at least one text"),
        ({"negative_prompt": ["rain"]}, "negative_prompt must be one text"),
        ({"output_type": "jpg"}, "output_type is 'jpg'"),
        ({"share_ratio": 2}, r"\(share_ratio\) is 2;"),
        ({"groups": [(0, 1)]}, "plan has 2 prompts"),
        ({"num_inference_steps": 0}, "steps is 0"),
    ],
)
def test_bad_arguments_say_what_is_allowed(tiny, arguments, words):
    with pytest.raises(ValueError, match=words):
        tiny(**({"prompts": PROMPTS} | arguments))
