"""A model in one file, as Stable Diffusion was first published and as tools for it still write."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sage.sd.pipeline import SagePipeline
from tests.conftest import build_tiny_pipeline

PROMPTS = ["a cat", "a dog"]
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def unet_name(name, layers, attended):
    """The name of a UNet's tensor in the first code for Stable Diffusion."""
    for own, first in ENDS.items():
        if name.startswith(own + "."):
            return name.replace(own, first, 1)
    place, number, kind, rest = re.match(
        r"(down|up|mid)_block(?:s\.(\d+))?\.(\w+)\.(.*)", name
    ).groups()
    index, rest = rest.split(".", 1)
    block, index = int(number or 0), int(index)
    if kind == "resnets":
        part, end = rest.rsplit(".", 1)
        rest = f"{RESNET[part]}.{end}"
    if place == "mid":
        return f"middle_block.{1 if kind == 'attentions' else 2 * index}.{rest}"
    sub = 0 if kind == "resnets" else 1
    if kind == "downsamplers":
        return f"input_blocks.{(layers + 1) * (block + 1)}.0.op.{rest.removeprefix('conv.')}"
    if kind == "upsamplers":
        return f"output_blocks.{(layers + 1) * block + layers}.{2 if attended[block] else 1}.{rest}"
    if place == "down":
        return f"input_blocks.{(layers + 1) * block + index + 1}.{sub}.{rest}"
    return f"output_blocks.{(layers + 1) * block + index}.{sub}.{rest}"


def vae_name(name, blocks):
    """The name of an autoencoder's tensor there."""
    name = re.sub(r"down_blocks\.(\d+)\.resnets\.", r"down.\1.block.", name)
    name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0\.", r"down.\1.downsample.", name)
    name = re.sub(r"up_blocks\.(\d+)\.", lambda m: f"up.{blocks - 1 - int(m[1])}.", name)
    name = name.replace("upsamplers.0.", "upsample.")
    name = re.sub(r"(up\.\d+\.)resnets\.", r"\1block.", name)
    name = re.sub(r"mid_block\.resnets\.(\d+)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    if "mid_block.attentions.0" in name:
        name = name.replace("mid_block.attentions.0", "mid.attn_1")
        for own, first in ATTENTION.items():
            name = name.replace(f".{own}.", f".{first}.")
    return name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")


def write_single_file(pipe, file: Path) -> None:
    """Writes a pipeline's weights as one file."""
    attended = ["Cross" in kind for kind in pipe.unet.config.up_block_types]
    layers, blocks = pipe.unet.config.layers_per_block, len(pipe.vae.config.block_out_channels)
    weights = {}
    for name, value in pipe.unet.state_dict().items():
        weights[f"model.diffusion_model.{unet_name(name, layers, attended)}"] = value
    for name, value in pipe.vae.state_dict().items():
        first = vae_name(name, blocks)
        square = ".attn_1." in first and first.endswith("weight") and ".norm." not in first
        weights[f"first_stage_model.{first}"] = value[..., None, None] if square else value
    for name, value in pipe.text_encoder.state_dict().items():
        weights[f"cond_stage_model.transformer.text_model.{name.removeprefix('text_model.')}"] = (
            value
        )
    save_file({name: value.contiguous() for name, value in weights.items()}, file)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder in diffusers' layout, and the same weights in one file."""
    folder = tmp_path_factory.mktemp("single")
    pipe = build_tiny_pipeline()
    pipe.save_pretrained(folder / "layout")
    write_single_file(pipe, folder / "model.safetensors")
    return folder / "layout", folder / "model.safetensors"


def load(files, file=None, **options):
    folder, whole = files
    return SagePipeline.from_single_file(file or whole, **({"config": folder} | options))


@pytest.mark.slow
def test_one_file_draws_what_the_folder_draws(files):
    how = {"steps": 3, "share_ratio": 0.4, "output_type": "latent"}
    one, two = load(files), SagePipeline.from_pretrained(files[0])
    for pipe in (one, two):
        pipe.set_progress_bar_config(disable=True)
    assert torch.equal(one(PROMPTS, **how).images, two(PROMPTS, **how).images)


@pytest.mark.parametrize("named", ["dtype", "torch_dtype"])
def test_precision_is_what_was_asked_for(files, named, tmp_path):
    assert load(files, **{named: torch.bfloat16}).unet.dtype is torch.bfloat16
    half = tmp_path / "half.safetensors"
    save_file({name: value.half() for name, value in load_file(files[1]).items()}, half)
    assert load(files, half).unet.dtype is torch.float32


def test_parts_that_are_given_need_not_be_in_it(files, tmp_path):
    file, vae = tmp_path / "no-vae.safetensors", build_tiny_pipeline().vae
    weights = load_file(files[1])
    save_file({k: v for k, v in weights.items() if not k.startswith("first_stage_model.")}, file)
    assert load(files, file, vae=vae).vae is vae


UNET = "model.diffusion_model."
FIRST = f"{UNET}input_blocks.1.0.in_layers.2.weight"
XL = {
    "conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias": torch.ones(2),
    f"{UNET}input_blocks.0.0.weight": torch.ones(2, 4, 3, 3),
}
BROKEN = {
    "an adapter": (lambda w: {"unet.to_q.lora_A.weight": torch.ones(2, 2)}, "is a LoRA adapter"),
    "weights": (lambda w: {"layer.weight": torch.ones(2)}, "not a whole model"),
    "XL": (lambda w: XL, "is Stable Diffusion XL"),
    "inpainting": (
        lambda w: w | {f"{UNET}input_blocks.0.0.weight": torch.ones(16, 9, 3, 3)},
        "is an inpainting model",
    ),
    "no autoencoder": (
        lambda w: {k: v for k, v in w.items() if not k.startswith("first_stage_model.")},
        "has no autoencoder; load one and give it as vae=",
    ),
    "no text encoder": (
        lambda w: {k: v for k, v in w.items() if not k.startswith("cond_stage_model.")},
        "has no text encoder; load one and give it as text_encoder=",
    ),
    "one missing": (lambda w: {k: v for k, v in w.items() if k != FIRST}, "it is damaged"),
    "another shape": (lambda w: w | {FIRST: torch.ones(4, 16, 3, 3)}, "cannot be loaded: "),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_wrong_with_a_file_is_one_sentence(files, kind, tmp_path):
    change, sentence = BROKEN[kind]
    file = tmp_path / "other.safetensors"
    save_file(change(load_file(files[1])), file)
    with pytest.raises(ValueError, match=sentence) as caught:
        load(files, file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kept", [0, 5000, -5000])
def test_a_file_that_is_cut_is_said_to_be(files, kept, tmp_path):
    file = tmp_path / "cut.safetensors"
    file.write_bytes(files[1].read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"cut\.safetensors is damaged or cut"):
        load(files, file)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("nowhere.safetensors", "There is no file nowhere.safetensors"),
        ("model.ckpt", "is no .safetensors file"),
        (5, "The model is '5'"),
    ],
)
def test_what_is_no_file_is_said(files, given, sentence):
    with pytest.raises(ValueError, match=sentence):
        load(files, given)


@pytest.mark.parametrize("config", ["/nowhere", "./nowhere", Path("nowhere")])
def test_a_configuration_that_is_not_there_is_said(files, config):
    with pytest.raises(ValueError, match=r"config is '.*nowhere'; it must be the folder"):
        load(files, config=config)
