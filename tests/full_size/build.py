"""Builds models of exactly Stable Diffusion v1.5's shape with random weights: no download.

    python -m tests.full_size.build FOLDER

860 M parameters of UNet, the CLIP-L text tower and the autoencoder for 512 pixels, about 2 GB of
fp16 safetensors. The pictures are noise; time and memory are the real model's.
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from safetensors.torch import save_file
from torch import nn
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
)

from sage.deploy import PRELOADED
from sage.jobs.models import stable_diffusion_v1_5

SCALE = 0.02  # standard deviation of weights: activations stay finite in fp16
TOKENS = 77
TEXT = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
    "bos_token_id": 49406,
    "eos_token_id": 49407,
    "pad_token_id": 1,
}
VISION = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "patch_size": 14,
    "image_size": 224,
}
SMALL_TEXT = TEXT | {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
SMALL_TEXT |= {"num_attention_heads": 4, "projection_dim": 32}
SMALL_VISION = VISION | {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
SMALL_VISION |= {"num_attention_heads": 4}


def networks(small: bool = False) -> dict[str, nn.Module]:
    """UNet, VAE and text encoder on the meta device: full size, or the same layout in small."""
    widths = (32, 64, 64, 64) if small else (320, 640, 1280, 1280)
    vae_widths = (16, 16, 16, 16) if small else (128, 256, 512, 512)
    text = SMALL_TEXT if small else TEXT
    groups = {"norm_num_groups": 8} if small else {}
    with torch.device("meta"):
        return {
            "unet": UNet2DConditionModel(
                sample_size=8 if small else 64,
                cross_attention_dim=text["hidden_size"],
                attention_head_dim=8,
                block_out_channels=widths,
                **groups,
            ),
            "vae": AutoencoderKL(
                block_out_channels=vae_widths,
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                latent_channels=4,
                layers_per_block=2,
                sample_size=64 if small else 512,
                scaling_factor=0.18215,
                **groups,
            ),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**text)),
        }


def random_weights(network: nn.Module, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """A state dict for a network on the meta device; norms are the identity, biases zero."""
    generator = torch.Generator().manual_seed(0)
    pool = (SCALE * torch.randn(2**22, generator=generator)).to(dtype)
    weights = {}
    for name, like in network.state_dict().items():
        if not like.is_floating_point():
            weights[name] = torch.arange(like.numel()).view(like.shape)  # position ids
        elif name.endswith("bias"):
            weights[name] = torch.zeros(like.shape, dtype=dtype)
        elif like.ndim == 1:
            weights[name] = torch.ones(like.shape, dtype=dtype)
        else:
            times = -(-like.numel() // pool.numel())
            shift = len(weights) * 7919 % pool.numel()  # layers differ
            weights[name] = pool.roll(shift).repeat(times)[: like.numel()].view(like.shape).clone()
    return weights


def build_folder(folder: Path, dtype: torch.dtype = torch.float16, small: bool = False) -> Path:
    """A model in Stable Diffusion's layout, without a safety checker.

    Args:
        folder: Where it goes.
        dtype: Of the files.
        small: A model of the same layout with few weights.
    """
    for name, network in networks(small).items():
        _save(network, folder / name, dtype, diffusers=name != "text_encoder")
    _tokenizer(folder / "tokenizer")
    scheduler = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    scheduler |= {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}
    DDIMScheduler(**scheduler).save_pretrained(folder / "scheduler")
    _write(folder / "model_index.json", _index(checker=False))
    return folder


def build_hub_cache(folder: Path, home: Path, dtype: torch.dtype, small: bool = False) -> Path:
    """The models that `preload_from_hub` names, as a cache of the hub; the folder's files by link.

    Args:
        folder: What `build_folder` has made.
        home: Becomes HF_HOME.
        dtype: Of the files.
        small: As for `build_folder`.
    """
    spec = stable_diffusion_v1_5()
    base = _snapshot(home, spec.source, spec.revision)
    for part in ("unet", "vae", "text_encoder", "tokenizer", "scheduler"):
        for file in (folder / part).iterdir():
            (base / part).mkdir(parents=True, exist_ok=True)
            (base / part / file.name).symlink_to(file)
    vision = SMALL_VISION if small else VISION
    text = SMALL_TEXT if small else TEXT
    width = text["projection_dim"]
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=width)
    with torch.device("meta"):
        checker, clip = StableDiffusionSafetyChecker(config), CLIPModel(config)
    _save(checker, base / "safety_checker", dtype)
    CLIPImageProcessorPil().save_pretrained(base / "feature_extractor")
    _write(base / "model_index.json", _index(checker=True))
    own = _snapshot(home, spec.clip_source, spec.clip_revision)
    _save(clip, own, dtype)
    _tokenizer(own)
    CLIPImageProcessorPil().save_pretrained(own)
    for repo, snapshot in ((spec.source, base), (spec.clip_source, own)):
        _keep_only(snapshot, PRELOADED[repo])
    return home


def weight_bytes(folder: Path) -> int:
    """Bytes of all weights under a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*.safetensors"))


def _snapshot(home: Path, repo: str, revision: str) -> Path:
    where = home / "hub" / ("models--" + repo.replace("/", "--"))
    (where / "refs").mkdir(parents=True)
    (where / "refs" / "main").write_text(revision)
    (where / "snapshots" / revision).mkdir(parents=True)
    return where / "snapshots" / revision


def _keep_only(snapshot: Path, names: Iterable[str]) -> None:
    """Removes what a Space would not have preloaded, so that nothing else can be needed."""
    for file in [path for path in snapshot.rglob("*") if not path.is_dir()]:
        if file.relative_to(snapshot).as_posix() not in names:
            file.unlink()


def _save(network: nn.Module, folder: Path, dtype: torch.dtype, diffusers: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    weights = random_weights(network, dtype)
    for name in weights:
        if name.endswith("embeds_weights"):  # thresholds of the safety checker: nothing is flagged
            weights[name] = torch.full_like(weights[name], 2.0)
    if diffusers:
        network.save_config(folder)
    else:
        network.config.save_pretrained(folder)
    name = "diffusion_pytorch_model.safetensors" if diffusers else "model.safetensors"
    save_file(weights, folder / name, metadata={"format": "pt"})


def _tokenizer(folder: Path) -> None:
    """A vocabulary of letters with the special tokens where CLIP has them, no merges."""
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)] + list("0123456789,.'-")
    tokens = letters + [letter + "</w>" for letter in letters]
    vocab = {token: n for n, token in enumerate(tokens)}
    vocab |= {"<|startoftext|>": 49406, "<|endoftext|>": 49407}
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "vocab.json", vocab)
    (folder / "merges.txt").write_text("#version: 0.2\n", "utf-8")
    marks = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>"}
    marks |= {"unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    _write(folder / "special_tokens_map.json", marks)
    config = marks | {"tokenizer_class": "CLIPTokenizer", "model_max_length": TOKENS}
    _write(folder / "tokenizer_config.json", config)


def _index(checker: bool) -> dict:
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.42.0",
        "feature_extractor": ["transformers", "CLIPImageProcessor"] if checker else [None, None],
        "requires_safety_checker": checker,
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    return index if checker else index | {"safety_checker": [None, None]}


def _write(file: Path, values: dict) -> None:
    file.write_text(json.dumps(values, indent=2), "utf-8")


if __name__ == "__main__":
    print(build_folder(Path(sys.argv[1])))
