"""Switching an adapter on and off is a pair that leaves no trace."""

import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict

from tests.conftest import build_tiny_pipeline

pytestmark = pytest.mark.slow

PROMPTS = ["a fox", "a dog"]


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """A LoRA adapter with random weights, as diffusers saves it."""
    folder = tmp_path_factory.mktemp("adapter")
    unet = build_tiny_pipeline().unet
    unet.add_adapter(
        LoraConfig(r=2, lora_alpha=4, init_lora_weights=False, target_modules=["to_q", "to_v"])
    )
    layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(unet))
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=layers)
    return folder


def latents(pipe):
    groups = [(0, 1)]
    return pipe(PROMPTS, groups=groups, num_inference_steps=3, output_type="latent").latents


def state(pipe):
    return {name: value.clone() for name, value in pipe.unet.state_dict().items()}


def test_off_leaves_no_trace(tiny, adapter):
    weights, before, flops = state(tiny), latents(tiny), tiny.flops
    modules = [type(module) for module in tiny.unet.modules()]
    for _ in range(2):
        tiny.use_lora(adapter)
        assert tiny.lora == adapter
        assert (latents(tiny) - before).abs().max() > 1e-3
        tiny.use_lora(None)
        assert tiny.lora is None
        assert torch.equal(latents(tiny), before)
    after = state(tiny)
    assert list(after) == list(weights)
    assert all(torch.equal(after[name], weights[name]) for name in weights)
    assert [type(module) for module in tiny.unet.modules()] == modules
    assert tiny.flops == flops
    assert not hasattr(tiny.unet, "peft_config")


def test_on_twice_is_on_once(tiny, adapter, caplog):
    tiny.use_lora(adapter)
    assert not caplog.records
    once = latents(tiny)
    tiny.use_lora(adapter / "pytorch_lora_weights.safetensors")
    assert torch.equal(latents(tiny), once)


def test_off_without_on_does_nothing(tiny):
    before = latents(tiny)
    tiny.use_lora(None)
    assert torch.equal(latents(tiny), before)


def test_an_unusable_adapter_is_refused_and_leaves_the_model_plain(tiny, adapter, tmp_path):
    before = latents(tiny)
    tiny.use_lora(adapter)
    broken = tmp_path / "pytorch_lora_weights.safetensors"
    with pytest.raises(ValueError, match="cannot be used as a LoRA adapter"):
        tiny.use_lora(broken)
    broken.write_bytes(b"not weights")
    with pytest.raises(ValueError, match="cannot be used as a LoRA adapter"):
        tiny.use_lora(tmp_path)
    assert tiny.lora is None
    assert torch.equal(latents(tiny), before)


def test_an_adapter_of_another_network_is_refused(tiny, adapter, tmp_path):
    from safetensors.torch import load_file, save_file

    weights = load_file(adapter / "pytorch_lora_weights.safetensors")
    wide = {name: torch.cat([value, value], dim=-1) for name, value in weights.items()}
    save_file(wide, tmp_path / "pytorch_lora_weights.safetensors")
    before = latents(tiny)
    with pytest.raises(ValueError, match="cannot be used as a LoRA adapter"):
        tiny.use_lora(tmp_path)
    elsewhere = {name.replace("unet.", "transformer."): value for name, value in weights.items()}
    save_file(elsewhere, tmp_path / "pytorch_lora_weights.safetensors")
    with pytest.raises(ValueError, match="no layers for this UNet"):
        tiny.use_lora(tmp_path)
    assert torch.equal(latents(tiny), before)


@pytest.mark.filterwarnings("ignore:While injecting the PEFT adapters")
def test_half_an_adapter_is_refused(tiny, tmp_path):
    """Attention in diffusers' older names beside convolutions in peft's: the loader drops one."""
    unet = build_tiny_pipeline().unet
    targets = ["to_q", "conv1"]
    unet.add_adapter(LoraConfig(r=2, init_lora_weights=False, target_modules=targets))
    layers = get_peft_model_state_dict(unet)
    mixed = convert_state_dict_to_diffusers(dict(layers))
    before = latents(tiny)
    StableDiffusionPipeline.save_lora_weights(tmp_path, unet_lora_layers=mixed)
    with pytest.raises(ValueError, match=f"only .* of its {len(layers)} tensors fit this UNet"):
        tiny.use_lora(tmp_path)
    assert torch.equal(latents(tiny), before)
    StableDiffusionPipeline.save_lora_weights(tmp_path, unet_lora_layers=layers)
    tiny.use_lora(tmp_path)
    loaded, wanted = get_peft_model_state_dict(tiny.unet, adapter_name="default_0"), layers
    assert {k: v for k, v in loaded.items() if not torch.equal(v, wanted[k])} == {}
