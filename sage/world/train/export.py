"""Writes the trained networks as one model folder in Stable Diffusion's layout.

Knows files and formats: float16 safetensors in shards under 10 MB, ``model_index.json`` for
diffusers' StableDiffusionPipeline, ``sage.json`` for this project. Trains and judges nothing.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, StableDiffusionPipeline
from transformers import CLIPImageProcessor, CLIPModel, CLIPTextModel, CLIPTokenizer

from sage.sd.model_settings import PAPER
from sage.world.train import learner, networks
from sage.world.words import FILE_NAME, WORLD_FOLDER, Words

STAGES = ("clip", "vae", "probe", "unet", "decoder")
SHARD = "9MB"
FOLDER_BYTES = 64_000_000
TITLE = "Emoji scenes (built in)"


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Write a record with an end of line, in one piece."""
    new = path.with_name(path.name + ".new")
    new.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(new, path)


def read_json(path: Path) -> dict[str, Any]:
    """A record written by :func:`write_json`; {} where there is no such file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def trained_vae(out: Path) -> AutoencoderKL:
    """The frozen autoencoder, with the later decoder where one was trained."""
    vae = AutoencoderKL.from_pretrained(out / "vae")
    if learner.checkpoint(out, "decoder").exists():
        learner.averaged(vae, out, "decoder")
    return vae


def export(out: Path, folder: Path, sizes: networks.Sizes, words: Words) -> None:
    """Write the model folder from the checkpoints in ``out``; readers see the old or the new one.

    What the evaluation wrote into an older export (README.md, evaluation.json, the contact sheet)
    is kept.

    Raises:
        FileNotFoundError: if a stage has not been trained.
        ValueError: if the folder would be larger than 64 MB.
    """
    new = folder.with_name(folder.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    save_pipeline(out, new, sizes)
    save_judges(out, new, sizes)
    shutil.copy2(WORLD_FOLDER / FILE_NAME, new / FILE_NAME)
    write_json(new / "sage.json", settings(out, words))
    write_json(new / "training.json", spent(out))
    if (size := folder_bytes(new)) > FOLDER_BYTES:
        raise ValueError(f"the model folder has {size} bytes; allowed: {FOLDER_BYTES}")
    _swap(new, folder)


def save_pipeline(out: Path, folder: Path, sizes: networks.Sizes) -> None:
    """The five parts of a Stable Diffusion pipeline."""
    # A dict, because diffusers does not say which of them may be None.
    parts: dict[str, Any] = {
        "vae": trained_vae(out).half(),
        "text_encoder": CLIPTextModel.from_pretrained(out / "clip").half(),
        "tokenizer": CLIPTokenizer.from_pretrained(out / "tokenizer"),
        "unet": learner.averaged(networks.unet(sizes), out, "unet").half(),
        "scheduler": networks.scheduler(),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }
    pipe = StableDiffusionPipeline(**parts)
    pipe.save_pretrained(folder, safe_serialization=True, max_shard_size=SHARD)
    _loads_as_float32(folder / "text_encoder")


def save_judges(out: Path, folder: Path, sizes: networks.Sizes) -> None:
    """CLIP with both towers and its picture preparation, and the probe."""
    clip = CLIPModel.from_pretrained(out / "clip")
    clip.half().save_pretrained(folder / "clip", max_shard_size=SHARD)
    _loads_as_float32(folder / "clip")
    shape = {"height": sizes.image, "width": sizes.image}
    CLIPImageProcessor(
        size=shape, do_center_crop=False, image_mean=[0.5] * 3, image_std=[0.5] * 3
    ).save_pretrained(folder / "clip")
    CLIPTokenizer.from_pretrained(out / "tokenizer").save_pretrained(folder / "clip")
    if (out / "probe").exists():
        shutil.copytree(out / "probe", folder / "probe")


def _loads_as_float32(folder: Path) -> None:
    """Say float32 in config.json: transformers would load what was saved, float16, on a CPU."""
    config = read_json(folder / "config.json")
    parts = [part for part in config.values() if isinstance(part, dict)]
    for part in [config, *parts]:
        if "dtype" in part:
            part["dtype"] = "float32"
    write_json(folder / "config.json", config)


def settings(out: Path, words: Words) -> dict[str, Any]:
    """What sage.json says: how this project uses the folder."""
    calibration = read_json(out / "calibration.json")
    return {
        "title": TITLE,
        "tau_min": calibration.get("tau_min", 0.6),
        "tau_max": calibration.get("tau_max", 0.95),
        "guidance_scale": calibration.get("guidance_scale", 3.0),
        # As far as the guard lets similar prompts share: measured after the export, by hand.
        "share_ratio": calibration.get("share_ratio", PAPER["share_ratio"].default),
        "image_size": words.image_size,
        "latent_rgb": calibration.get("latent_rgb"),
        "known_words": sorted(words.known()),
    }


def spent(out: Path) -> dict[str, Any]:
    """Steps and minutes of every trained stage, from the checkpoints.

    What else should be known of a run stands in ``note.txt`` beside them, and is kept as "note".
    """
    names = [name for name in STAGES if learner.checkpoint(out, name).exists()]
    states = {name: learner.load_state(out, name) for name in names}
    note = out / "note.txt"
    return {
        name: {"steps": state["step"], "minutes": round(state["seconds"] / 60, 1)}
        for name, state in states.items()
    } | ({"note": note.read_text(encoding="utf-8").strip()} if note.exists() else {})


def folder_bytes(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _swap(new: Path, folder: Path) -> None:
    """Put ``new`` in the place of ``folder``, keeping the old one's reports."""
    if folder.exists():
        for path in folder.iterdir():
            if path.is_file() and not (new / path.name).exists():
                shutil.copy2(path, new / path.name)
        old = folder.with_name(folder.name + ".old")
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
        new.rename(folder)
        shutil.rmtree(old)
    else:
        new.rename(folder)
