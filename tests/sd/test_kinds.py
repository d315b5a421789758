"""A model that is no Stable Diffusion v1 is refused at loading; a sentence says what it is."""

import json
import os
import re
import shutil
import tempfile
from pathlib import Path

import diffusers
import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from sage.jobs.models import ModelSpec, load_model
from sage.sd.kinds import WrongModelError
from sage.sd.pipeline import SagePipeline
from tests.conftest import build_tiny_pipeline


def with_unet(**changes):
    base = build_tiny_pipeline()
    config = {k: v for k, v in base.unet.config.items() if k[0] != "_"} | changes
    parts = base.components | {"unet": UNet2DConditionModel.from_config(config)}
    return StableDiffusionPipeline(**parts, requires_safety_checker=False)


def with_part(**parts):
    base = build_tiny_pipeline()
    return StableDiffusionPipeline(**(base.components | parts), requires_safety_checker=False)


def with_vae_channels(number):
    vae = AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=number,
        norm_num_groups=8,
    )
    return with_part(vae=vae)


def with_scheduler(name, **options):
    return with_part(scheduler=getattr(diffusers, name)(**options))


class _OwnNoise(diffusers.EulerDiscreteScheduler):
    """As DPMSolverSDEScheduler, which needs torchsde."""

    noise_sampler = None


def with_text(kind, **options):
    config = build_tiny_pipeline().text_encoder.config.to_dict()
    return with_part(text_encoder=kind(CLIPTextConfig(**(config | options))))


WRONG = {
    "inpainting": (lambda: with_unet(in_channels=9), "an inpainting model"),
    "InstructPix2Pix": (lambda: with_unet(in_channels=8), "edits pictures"),
    "upscaler": (lambda: with_unet(in_channels=7), "an upscaler"),
    "depth": (lambda: with_unet(in_channels=5), "depth-to-image"),
    "learned variance": (lambda: with_unet(out_channels=8), "takes 4 channels and gives 8"),
    "classes": (lambda: with_unet(num_class_embeds=10), "takes a class"),
    "unCLIP": (
        lambda: with_unet(class_embed_type="projection", projection_class_embeddings_input_dim=16),
        "takes a class",
    ),
    "SDXL's UNet": (
        lambda: with_unet(
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=80,
        ),
        "Stable Diffusion XL",
    ),
    "LCM": (lambda: with_unet(time_cond_proj_dim=8), "latent consistency model"),
    "another width": (
        lambda: with_unet(cross_attention_dim=64),
        "width 32 and a UNet for width 64",
    ),
    "VAE": (lambda: with_vae_channels(8), "VAE of 8 latent channels"),
    "flow matching": (
        lambda: with_scheduler("FlowMatchEulerDiscreteScheduler"),
        "noise levels are not those",
    ),
    "EDM": (lambda: with_scheduler("EDMEulerScheduler"), "noise levels are not those"),
    "a scheduler towards noise": (
        lambda: with_scheduler("DDIMInverseScheduler"),
        "does not go from noise to a picture",
    ),
    "a scheduler of inpainting": (
        lambda: with_scheduler("RePaintScheduler"),
        "does not go from noise to a picture",
    ),
    "a scheduler of two steps": (
        lambda: with_scheduler("CogVideoXDPMScheduler"),
        "whose steps also take timestep_back, sample",
    ),
    "a scheduler that learns": (
        lambda: with_scheduler("DDPMScheduler", variance_type="learned_range"),
        "a learned variance",
    ),
    "no noise": (
        lambda: with_scheduler("DDIMScheduler", beta_start=0.0, beta_end=0.0),
        "noise does not rise",
    ),
    "text encoder with a projection": (
        lambda: with_text(CLIPTextModelWithProjection, projection_dim=32),
        "has a CLIPTextModelWithProjection",
    ),
    "no tokenizer": (lambda: with_part(tokenizer=None), "has no tokenizer"),
    "no text encoder": (lambda: with_part(text_encoder=None), "has no text_encoder"),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.filterwarnings("ignore")
def test_a_wrong_model_is_refused_loaded_or_on_disk(name, tmp_path):
    make, words = WRONG[name]
    base = make()
    with pytest.raises(WrongModelError, match=words) as error:
        SagePipeline.from_pipe(base)
    assert "\n" not in str(error.value)
    base.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=words):
        SagePipeline.from_pretrained(tmp_path)


def test_a_part_exchanged_later_is_refused_before_a_run(tiny):
    tiny.unet = with_unet(in_channels=9).unet
    with pytest.raises(ValueError, match="an inpainting model"):
        tiny.stream(["a fox"])


def test_a_text_encoder_that_is_none_of_clip_is_named():
    config = T5Config(vocab_size=99, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    with pytest.raises(WrongModelError, match="has a T5EncoderModel as its text encoder"):
        SagePipeline.from_pipe(with_part(text_encoder=T5EncoderModel(config)))


@pytest.mark.slow
@pytest.mark.parametrize("prediction", ["v_prediction", "sample"])
def test_other_predictions_are_fine(prediction):
    pipe = SagePipeline.from_pipe(build_tiny_pipeline(prediction))
    assert pipe(["a fox"], num_inference_steps=2).images


def index(folder, **changes):
    path = folder / "model_index.json"
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in values.items() if v != "gone"}))


def scheduler(folder, **changes):
    config(folder, "scheduler", name="scheduler_config.json", **changes)


def config(folder, part, name="config.json", **changes):
    path = folder / part / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def shards(folder):
    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    empty(folder / "unet")
    unet.save_pretrained(folder / "unet", max_shard_size="100KB")
    return sorted((folder / "unet").glob("*.safetensors"))


def renamed(file, old, new):
    weights = {n.replace(old, new): t for n, t in load_file(file).items()}
    assert any(new in name for name in weights)
    # Not what a layer begins with.
    weights = {name: t + 0.01 * (new in name) for name, t in weights.items()}
    save_file(weights, file, metadata={"format": "pt"})


def cut(file):
    file.write_bytes(file.read_bytes()[:-1000])


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def only(folder, name, data=b""):
    empty(folder)
    (folder / name).write_bytes(data)


WEIGHTS = "diffusion_pytorch_model.safetensors"
FOLDERS = {
    "empty": (empty, "is an empty folder"),
    "no index": (lambda f: (f / "model_index.json").unlink(), "no model_index.json"),
    "index cut": (lambda f: (f / "model_index.json").write_text("{"), "cannot be read"),
    "index a list": (lambda f: (f / "model_index.json").write_text("[]"), "no JSON object"),
    "no tokenizer": (lambda f: shutil.rmtree(f / "tokenizer"), "has no tokenizer"),
    "no scheduler": (lambda f: shutil.rmtree(f / "scheduler"), "has no scheduler"),
    "no scheduler named": (lambda f: index(f, scheduler="gone"), "has no scheduler"),
    "no VAE weights": (lambda f: (f / "vae" / WEIGHTS).unlink(), "cannot be loaded"),
    "UNet cut": (lambda f: cut(f / "unet" / WEIGHTS), "unet/.* is damaged or cut"),
    "VAE cut": (lambda f: cut(f / "vae" / WEIGHTS), "vae/.* is damaged or cut"),
    "text encoder cut": (
        lambda f: cut(f / "text_encoder" / "model.safetensors"),
        "text_encoder/.* is damaged or cut",
    ),
    "weights are a page of HTML": (
        lambda f: (f / "unet" / WEIGHTS).write_text("<html>"),
        "damaged or cut",
    ),
    "UNet's configuration cut": (
        lambda f: (f / "unet" / "config.json").write_text("{"),
        "cannot be read",
    ),
    "a part that is no pair": (lambda f: index(f, unet=[]), "has no unet"),
    "a checker named, not there": (
        lambda f: index(f, safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"]),
        "has no safety_checker: .* load it with safety_checker=None",
    ),
    "noise levels that are none": (
        lambda f: scheduler(f, beta_start=float("nan")),
        "noise does not rise",
    ),
    "too few noise levels": (
        lambda f: scheduler(f, trained_betas=[0.01] * 5),
        "1000 timesteps with 5 noise levels",
    ),
    "weights of a package that is not here": (
        lambda f: config(
            f, "unet", quantization_config={"quant_method": "quanto", "weights_dtype": "int8"}
        ),
        "cannot be loaded: .*quanto",
    ),
    "ONNX": (lambda f: index(f, unet=["diffusers", "OnnxRuntimeModel"]), "a model for ONNX"),
    "VAE without a scale": (lambda f: config(f, "vae", scaling_factor=None), "factor is None"),
    "VAE of scale 0": (lambda f: config(f, "vae", scaling_factor=0.0), "factor is 0.0"),
    "no size": (lambda f: config(f, "unet", sample_size=0), "latents of 0"),
    "size in words": (lambda f: config(f, "unet", sample_size="8"), "latents of '8'"),
    "a huge size": (lambda f: config(f, "unet", sample_size=10**6), "latents of 1000000"),
    "a shard missing": (lambda f: shards(f)[1].unlink(), "does not appear to have a file"),
    "all weights have other names": (
        lambda f: renamed(f / "unet" / WEIGHTS, "", "x."),
        "0 of the 208 weights of its unet",
    ),
    "some weights have other names": (
        lambda f: renamed(f / "vae" / WEIGHTS, "post_quant_conv", "after"),
        "122 of the 124 weights of its vae, and not post_quant_conv",
    ),
    "a pointer for weights": (
        lambda f: (f / "unet" / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1"),
        "damaged or cut",
    ),
    "settings damaged": (lambda f: (f / "sage.json").write_text("{"), "sage.json"),
    "SDXL": (
        lambda f: index(f, text_encoder_2=["transformers", "CLIPTextModelWithProjection"]),
        "Stable Diffusion XL",
    ),
    "SD3": (
        lambda f: index(f, text_encoder_3=["transformers", "T5EncoderModel"]),
        "Stable Diffusion 3",
    ),
    "Flux": (
        lambda f: index(f, transformer=["diffusers", "FluxTransformer2DModel"], unet="gone"),
        "transformer model",
    ),
    "video": (lambda f: index(f, unet=["diffusers", "UNet3DConditionModel"]), "video model"),
    "AnimateDiff": (
        lambda f: index(f, motion_adapter=["diffusers", "MotionAdapter"]),
        "AnimateDiff",
    ),
    "unCLIP": (
        lambda f: index(f, prior=["diffusers", "PriorTransformer"]),
        "a prior",
    ),
    "inpainting by its file alone": (
        lambda f: config(f, "unet", in_channels=9),
        "an inpainting model",
    ),
    "ControlNet": (
        lambda f: only(f, "config.json", b'{"_class_name": "ControlNetModel"}'),
        "a ControlNet",
    ),
    "one part": (
        lambda f: only(f, "config.json", b'{"_class_name": "AutoencoderKL"}'),
        "one part of a model",
    ),
    "LoRA": (lambda f: only(f, "pytorch_lora_weights.safetensors"), "a LoRA adapter"),
    "LoRA of peft": (lambda f: only(f, "adapter_model.safetensors"), "a LoRA adapter"),
    "a single file in a folder": (lambda f: only(f, "model.ckpt"), "single file"),
    "something else": (lambda f: only(f, "notes.txt"), "no model_index.json"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.filterwarnings("ignore")
def test_a_wrong_folder_is_refused_and_the_page_falls_back(name, tiny_folder, tmp_path):
    spoil, words = FOLDERS[name]
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    spoil(folder)
    with pytest.raises((ValueError, OSError), match=words) as error:
        SagePipeline.from_pretrained(folder)
    assert "\n" not in str(error.value)
    loaded = load_model(ModelSpec("other", "Other", str(folder)), "cpu")
    assert loaded.spec.key == "emoji-scenes"
    assert "Other could not be loaded" in loaded.note
    assert re.search(words, loaded.note)
    assert str(tmp_path) not in loaded.note


@pytest.mark.parametrize(
    ("name", "tensors", "words"),
    [
        ("a.ckpt", None, "a model is a folder"),
        ("a.safetensors", None, "damaged file"),
        ("a.safetensors", {"model.diffusion_model.x": torch.ones(1)}, "from_single_file"),
        ("a.safetensors", {"unet.x.lora_A.weight": torch.ones(1)}, "a LoRA adapter"),
        ("a.safetensors", {"conv.weight": torch.ones(1)}, "a file of weights"),
    ],
)
def test_a_file_is_no_folder(name, tensors, words, tmp_path):
    file = tmp_path / name
    file.write_bytes(b"no weights") if tensors is None else save_file(tensors, file)
    with pytest.raises(ValueError, match=words):
        SagePipeline.from_pretrained(file)


@pytest.mark.parametrize("name", ["a.ckpt", "a.safetensors", "nowhere.safetensors"])
def test_a_single_file_that_is_none_is_refused(name, tmp_path):
    file = tmp_path / name
    if "nowhere" not in name:
        file.write_bytes(b"no weights")
    with pytest.raises((ValueError, OSError)) as error:
        SagePipeline.from_single_file(file)
    assert "\n" not in str(error.value)


def test_a_repository_that_cannot_be_reached_is_an_os_error():
    with pytest.raises(OSError, match="cannot be loaded") as error:
        SagePipeline.from_pretrained("nobody/nothing")
    assert "\n" not in str(error.value)


def test_weights_that_are_missing_are_not_made_up(tiny_folder, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    file = folder / "unet" / WEIGHTS
    weights = load_file(file)
    weights.pop("conv_in.weight")
    save_file(weights, file)
    with pytest.raises(
        ValueError,
        match=r"207 of the 208 weights of its unet, and not conv_in\.weight",
    ):
        SagePipeline.from_pretrained(folder)


@pytest.mark.slow
def test_weights_in_shards_and_under_old_names_are_read(tiny_folder, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    assert len(shards(folder)) > 2
    file = folder / "vae" / WEIGHTS
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    weights = load_file(file)
    for new, before in old.items():
        weights = {n.replace(f".{new}.", f".{before}."): t for n, t in weights.items()}
    assert any("query" in name for name in weights)
    save_file(weights, file, metadata={"format": "pt"})
    plain, again = (SagePipeline.from_pretrained(f) for f in (tiny_folder, folder))
    for part in ("unet", "vae"):
        theirs = getattr(again, part).state_dict()
        assert all(torch.equal(t, theirs[n]) for n, t in getattr(plain, part).state_dict().items())


@pytest.fixture
def nobody(tiny_folder):
    """A model's folder, and a user who may not read everything."""
    folder = Path(tempfile.mkdtemp()) / "model"
    shutil.copytree(tiny_folder, folder)
    root = os.geteuid() == 0
    for path in (folder.parent, *folder.rglob("*"), folder):
        path.chmod(0o755 if path.is_dir() else 0o644)
    if root:
        os.seteuid(65534)
    yield folder
    if root:
        os.seteuid(0)
    shutil.rmtree(folder.parent)


@pytest.mark.parametrize(
    "place", ["", "model_index.json", "unet", f"unet/{WEIGHTS}", "vae/config.json", "tokenizer"]
)
def test_what_may_not_be_read_is_one_sentence(nobody, place):
    path, user = nobody / place, os.geteuid()
    if user == 65534:
        os.seteuid(0)
    path.chmod(0)
    os.seteuid(user)
    with pytest.raises(OSError, match=r"denied|may not be read") as error:
        SagePipeline.from_pretrained(nobody)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300
    if place:
        assert place.split("/")[-1] in str(error.value)
    os.seteuid(0 if os.getuid() == 0 else user)
    path.chmod(0o755)


@pytest.mark.parametrize("name", [None, "", " ", 5, True, b"model", "x" * 5000])
def test_what_is_no_path_is_one_sentence(name):
    with pytest.raises((ValueError, OSError), match=r"give a folder|cannot be read") as error:
        SagePipeline.from_pretrained(name)
    assert len(str(error.value)) < 300


def test_a_scheduler_with_noise_of_its_own_is_refused():
    with pytest.raises(ValueError, match="which draws its noise by itself, not from seeds"):
        SagePipeline.from_pipe(with_part(scheduler=_OwnNoise()))


@pytest.mark.parametrize("thing", [None, "a folder", object()])
def test_from_pipe_wants_a_pipeline(thing):
    with pytest.raises(ValueError, match="is no pipeline"):
        SagePipeline.from_pipe(thing)
