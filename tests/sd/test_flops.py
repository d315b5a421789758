"""Counted FLOPs: on the CPU, on the meta device and by hand they are the same."""

import pytest
import torch
from diffusers.models.attention_processor import Attention
from torch import nn

from sage.core.cost import plan_cost
from sage.core.plan import independent_plan, shared_plan
from sage.sd import flops as counts
from sage.sd.flops import count_bytes, count_flops, model_flops
from sage.sd.pipeline import SagePipeline


def flops_by_hand(module, call):
    """2 FLOPs a multiply-add: convolutions, linear layers and the two products of attention."""
    total = 0

    def count(layer, inputs, output):
        nonlocal total
        if isinstance(layer, nn.Conv2d):
            patch = layer.in_channels // layer.groups * layer.kernel_size[0] * layer.kernel_size[1]
            total += 2 * output.numel() * patch
        elif isinstance(layer, nn.Linear):
            total += 2 * output.numel() * layer.in_features

    def attend(layer, inputs, kwargs, output):
        nonlocal total
        hidden = inputs[0] if inputs else kwargs["hidden_states"]
        cond = kwargs.get("encoder_hidden_states")
        size = hidden.shape[1] if hidden.ndim == 3 else hidden.shape[-1] * hidden.shape[-2]
        context = size if cond is None else cond.shape[1]
        total += 2 * 2 * len(hidden) * size * context * layer.inner_dim

    hooks = []
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            hooks.append(layer.register_forward_hook(count))
        elif isinstance(layer, Attention):
            hooks.append(layer.register_forward_hook(attend, with_kwargs=True))
    with torch.no_grad():
        call()
    for hook in hooks:
        hook.remove()
    return total


@pytest.fixture
def parts(tiny):
    size = tiny.unet.config.sample_size
    z, t = torch.zeros(1, 4, size, size), torch.zeros(1, dtype=torch.long)
    cond = torch.zeros(1, 16, 32)
    ids = torch.zeros(1, 16, dtype=torch.long)
    return {
        "denoiser": (tiny.unet, lambda: tiny.unet(z, t, cond)),
        "decoder": (tiny.vae, lambda: tiny.vae.decode(z)),
        "text_encoder": (tiny.text_encoder, lambda: tiny.text_encoder(ids)),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["denoiser", "decoder", "text_encoder"])
def test_cpu_and_meta_device_count_the_same(tiny, parts, name):
    flops = model_flops(tiny.text_encoder, tiny.unet, tiny.vae, tokens=16, latent_size=8)
    assert count_flops(parts[name][1]) == getattr(flops, name) > 0


@pytest.mark.parametrize("name", ["denoiser", "decoder"])
def test_the_count_is_the_hand_formula(tiny, parts, name):
    counted = getattr(tiny.flops, name)
    assert counted == pytest.approx(flops_by_hand(*parts[name]), rel=1e-3)


def test_the_text_encoder_is_the_hand_formula(tiny, parts):
    # transformers' attention is no diffusers Attention: its two products are added here.
    config, length = tiny.text_encoder.config, 16
    products = config.num_hidden_layers * 2 * 2 * length * length * config.hidden_size
    by_hand = flops_by_hand(*parts["text_encoder"]) + products
    assert tiny.flops.text_encoder == pytest.approx(by_hand, rel=1e-3)


def test_attention_is_counted():
    q = torch.zeros(1, 2, 8, 4)
    attend = torch.nn.functional.scaled_dot_product_attention
    assert count_flops(lambda: attend(q, q, q)) == 2 * 2 * 2 * 8 * 8 * 4


def test_a_batch_costs_its_rows(tiny):
    size, cond = tiny.unet.config.sample_size, torch.zeros(5, 16, 32)
    z, t = torch.zeros(5, 4, size, size), torch.zeros(5, dtype=torch.long)
    assert count_flops(lambda: tiny.unet(z, t, cond)) == 5 * tiny.flops.denoiser


@pytest.mark.slow
def test_a_whole_run_costs_what_the_cost_model_says(tiny):
    """Counted while running on the CPU, text encoder, guidance and decoder included."""
    model = tiny.flops  # counted before, or its own counting would be counted; memory likewise
    tiny(["a fox"], num_inference_steps=1)
    for plan in (independent_plan(3, 4), shared_plan([(0, 2), (1,)], 4, 2)):
        counted = count_flops(
            lambda plan=plan: tiny(["a fox", "a dog", "a cat"], plan=plan, guidance_scale=5.0)
        )
        assert counted == pytest.approx(plan_cost(plan, model).flops.total, rel=1e-3)


@pytest.mark.slow
def test_what_follows_from_a_configuration_is_counted_once_in_a_process(
    tiny, tiny_folder, monkeypatch
):
    before = tiny.flops, count_bytes(tiny.vae, (4, 8, 8))
    monkeypatch.setattr(counts, "count_flops", None)
    monkeypatch.setattr(counts, "PeakBytes", None)
    other = SagePipeline.from_pretrained(tiny_folder)
    assert (other.flops, count_bytes(other.vae, (4, 8, 8))) == before
    other.to(torch.bfloat16)
    assert (other.flops, count_bytes(other.vae, (4, 8, 8))) == (before[0], before[1] / 2)
    with pytest.raises(TypeError, match="not callable"):  # another shape is another count
        other.cost(independent_plan(1, 1), height=32)


def test_counting_leaves_other_threads_their_kernels():
    """Attention's kernels are the whole process's choice, and last bits depend on it."""
    seen = []

    def look():
        torch.zeros(1)
        seen.append(
            (torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.math_sdp_enabled())
        )

    before = torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.math_sdp_enabled()
    count_flops(look)
    assert seen == [before]
