"""What a folder, file or loaded pipeline is, before it is used as Stable Diffusion v1.

Many models share that layout and are something else: inpainting, XL, upscalers, video. Each is
named in one sentence while it is loaded, not by a failure in the middle of a run.
"""

import inspect
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    SingleFileComponentError,
    infer_diffusers_model_type,
)
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from sage.core.settings import shortened
from sage.sd.adapters import LORA_FILE, PEFT_FILE, plain_network
from sage.sd.foreign import Scheduler

INDEX = "model_index.json"
NEEDED = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
OPTIONAL = ("safety_checker", "feature_extractor", "image_encoder")
VOCABULARIES = ("tokenizer.json", "vocab.json")
PREDICTIONS = ("epsilon", "v_prediction", "sample")
_NOT_FROM_NOISE = ("Inverse", "RePaint", "UnCLIP")  # by a part of a scheduler's name
_MANY = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
LARGEST_LATENT = 1024  # a side; 8192 pixels

# What a model is, by the names of its parts; the first that is there says it.
_KINDS_BY_PART = {
    "text_encoder_3": "Stable Diffusion 3",
    "transformer": "a transformer model (such as Stable Diffusion 3, Flux or a video model)",
    "text_encoder_2": "Stable Diffusion XL",
    "prior": "a model with a prior (such as Stable Cascade, Kandinsky or unCLIP)",
    "prior_prior": "Stable Cascade or Kandinsky",
    "decoder": "Stable Cascade or unCLIP",
    "image_normalizer": "Stable unCLIP",
    "prior_tokenizer": "Stable unCLIP",
    "image_noising_scheduler": "Stable unCLIP",
    "movq": "Kandinsky",
    "vqvae": "a VQ model (latent diffusion or VQ diffusion)",
    "bert": "LDM text-to-image",
    "low_res_scheduler": "an upscaler of Stable Diffusion",
    "motion_adapter": "AnimateDiff, a video model",
    "adapter": "a T2I-Adapter pipeline",
    "controlnet": "a ControlNet pipeline",
    "depth_estimator": "Stable Diffusion depth-to-image",
}
_KINDS_BY_CLASS = {
    "ControlNet": "a ControlNet, not a whole model",
    "UNetMotion": "a video model",
    "UNet3D": "a video model",
    "UNetSpatioTemporal": "a video model",
    "UNet2DModel": "a diffusion model without text",
    "Transformer": "a transformer model",
    "T2IAdapter": "a T2I-Adapter, not a whole model",
    "MotionAdapter": "a motion adapter, not a whole model",
    "FlaxUNet2DConditionModel": "a model for Flax",
    "Onnx": "a model for ONNX",
}
_KINDS_BY_CHANNELS = {
    9: "an inpainting model",
    8: "a model that edits pictures (InstructPix2Pix)",
    7: "an upscaler (Stable Diffusion x4)",
    5: "a depth-to-image model",
    3: "a model of pixels (such as DeepFloyd IF)",
}


class WrongModelError(ValueError):
    """A model that is something else than Stable Diffusion v1, or is damaged."""


def source_text(source: Any) -> str:
    """What a caller names as a model, as text.

    Raises:
        WrongModelError: If it is neither a path nor a text.
    """
    if not isinstance(source, (str, os.PathLike)) or not str(source).strip():
        raise WrongModelError(
            f"The model is {shortened(source)}; give a folder or the id of a repository."
        )
    return os.fspath(source)


def check_source(source: str | Path, given: Mapping[str, Any]) -> None:
    """Says what a local file or folder is, if it is no pipeline of Stable Diffusion v1.

    Args:
        source: What is to be loaded; the id of a hub repository passes.
        given: Parts that the caller brings along; they need not be in the folder.

    Raises:
        WrongModelError: With one sentence.
        OSError: With one sentence, if something may not be read.
    """
    try:
        _check_source(source, given)
    except OSError as error:
        where = f" ({error.filename})" if error.filename and len(str(source)) < 300 else ""
        shown = str(source)[:100]
        raise OSError(f"{shown} cannot be read{where}: {error.strerror or error}.") from error


def _check_source(source: str | Path, given: Mapping[str, Any]) -> None:
    path = Path(source)
    if path.is_file():
        raise WrongModelError(f"{source} {_file(path)}.")
    if not path.is_dir():
        return
    os.listdir(path)  # `is_file` takes what it may not see for missing
    if not (path / INDEX).is_file():
        raise WrongModelError(f"{source} {_folder(path)}.")
    index = _json(path / INDEX)
    check_index(source, index)
    named = [part for part in OPTIONAL if _is_named(index.get(part))]
    wanted = [part for part in (*NEEDED, *named) if part not in given]
    for part in wanted:
        if not _is_named(index.get(part)):
            raise WrongModelError(f"{source} has no {part}, which {INDEX} does not name.")
        if not (path / part).is_dir():
            instead = "" if part in NEEDED else f"; load it with {part}=None to go without"
            raise WrongModelError(
                f"{source} has no {part}: the folder {part}/ is missing{instead}."
            )
    config = path / "unet" / "config.json"
    known = "unet" not in given and config.is_file()
    if known and (reason := _unet_reason(_json(config))):
        raise WrongModelError(f"{source} {reason}.")
    _check_files(source, [path / part for part in wanted])


def _is_named(value: Any) -> bool:
    """Whether an entry of `model_index.json` names a class: [library, class]."""
    return isinstance(value, list) and len(value) > 0 and value[-1] is not None


def _check_files(source: str | Path, folders: Iterable[Path]) -> None:
    """Every file of the parts can be read; loaders go on without some that cannot."""
    for folder in folders:
        for name in sorted(os.listdir(folder)):
            if name.endswith(".json"):
                _json(folder / name)
            elif name.endswith(".safetensors"):
                check_weights(folder / name)
        names = VOCABULARIES if folder.name == "tokenizer" else ()
        if names and not any((folder / name).is_file() for name in names):
            raise WrongModelError(
                f"{source} has no words: tokenizer/ holds neither {' nor '.join(names)}."
            )


def check_index(source: str | Path, index: Mapping[str, Any]) -> None:
    """Says what kind of pipeline a `model_index.json` describes, if it is not ours.

    Raises:
        WrongModelError: With one sentence.
    """
    name = str(index.get("_class_name", "no class"))
    parts = {part: value for part, value in index.items() if _is_named(value)}
    for part, kind in _KINDS_BY_PART.items():
        if part in parts:
            raise WrongModelError(f"{source} is {kind} ({name}), not Stable Diffusion v1.")
    if "unet" in parts:
        unet = str(parts["unet"][-1])
        for start, kind in _KINDS_BY_CLASS.items():
            if start in unet:
                raise WrongModelError(f"{source} is {kind} ({unet}), not Stable Diffusion v1.")


def check_weights(file: Path) -> None:
    """Reads the header of a safetensors file, which says how long the file must be.

    Raises:
        WrongModelError: If it is damaged or cut.
    """
    try:
        with file.open("rb"), safe_open(file, "pt"):
            pass
    except PermissionError as error:
        raise OSError(f"{'/'.join(file.parts[-2:])} may not be read.") from error
    except (SafetensorError, OSError) as error:
        where = "/".join(file.parts[-2:])
        raise WrongModelError(f"{where} is damaged or cut: {error}.") from error


def check_whole(source: str | Path, pipe: DiffusionPipeline, given: Mapping[str, Any]) -> None:
    """Says which part of a folder lacks weights: loaders make up what is missing, with a warning.

    Args:
        source: A folder; the id of a hub repository passes.
        pipe: What was loaded from it.
        given: Parts that the caller brought along.

    Raises:
        WrongModelError: With one sentence.
    """
    if "quantization_config" in given:  # whose weights have other names and values
        return
    for part in ("unet", "vae", "text_encoder"):
        files = list((Path(source) / part).glob("*.safetensors"))
        if part in given or not files:
            continue
        weights = getattr(pipe, part).state_dict()
        missing = _made_up(weights, files)
        if missing:
            raise WrongModelError(
                f"{source} has {len(weights) - len(missing)} of the {len(weights)} weights of its "
                f"{part}, and not {missing[0]}: it is damaged."
            )


# Old files have other names for some tensors: before diffusers 0.18, and transformers 5.
_OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def _made_up(weights: Mapping[str, Tensor], files: Iterable[Path]) -> list[str]:
    """Weights of a network that are in none of its files: by name, or else by their values."""
    names: dict[str, Path] = {}
    for file in files:
        with safe_open(file, "pt") as opened:
            names |= dict.fromkeys(opened.keys(), file)
    missing = [name for name in weights if not any(old in names for old in _names_of(name))]
    unused = names.keys() - {old for name in weights for old in _names_of(name)}
    return [name for name in missing if not _is_among(weights[name], unused, names)]


def _names_of(name: str) -> tuple[str, ...]:
    """What a weight may be called in a file."""
    older = name
    for new, old in _OLD_NAMES.items():
        older = older.replace(f".{new}.", f".{old}.")
    return name, f"text_model.{name}", name.removeprefix("text_model."), older


def _is_among(weight: Tensor, unused: Iterable[str], names: Mapping[str, Path]) -> bool:
    """Whether a file has these values under a name that is not known here."""
    if weight.is_meta:
        return False
    for name in unused:
        with safe_open(names[name], "pt") as opened:
            held = opened.get_tensor(name)
        plain = weight.detach().cpu().flatten()
        if held.numel() == plain.numel() and torch.equal(held.flatten().to(plain.dtype), plain):
            return True
    return False


def check_components(
    pipe: DiffusionPipeline, what: str = "This pipeline", instead: Mapping[str, Any] | None = None
) -> None:
    """Says why a loaded pipeline cannot run here.

    Args:
        pipe: The pipeline.
        what: How the sentence calls it.
        instead: Parts that take the place of its own.

    Raises:
        WrongModelError: With one sentence.
    """
    named = {part: getattr(pipe, part, None) for part in (*NEEDED, *_KINDS_BY_PART)}
    if reason := _components_reason(SimpleNamespace(**(named | dict(instead or {})))):
        raise WrongModelError(f"{what} {reason}.")


@contextmanager
def in_one_sentence(source: str, given: Mapping[str, Any] | None) -> Iterator[None]:
    """Around the loading of a model: what goes wrong is one sentence about it.

    Args:
        source: What is loaded.
        given: Parts that the caller brings along; None for a single file.

    Raises:
        WrongModelError: If it is something else than Stable Diffusion v1, or damaged.
        OSError: If it cannot be reached.
    """
    if given is not None:
        check_source(source, given)
    try:
        yield
    except WrongModelError:
        raise
    except NotImplementedError as error:  # torch says it of a layer that has got no values
        raise WrongModelError(f"{source} lacks weights of a network: it is damaged.") from error
    except OSError as error:
        raise OSError(f"{source[:100]} cannot be loaded: {one_line(error)}") from error
    except (
        *(ValueError, TypeError, LookupError, AttributeError),  # odd values in a configuration
        *(RuntimeError, SafetensorError, SingleFileComponentError),
        ImportError,  # it was saved by a package that is not here, for numbers of few bits
    ) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise WrongModelError(f"{source} cannot be loaded: {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """The first sentence of an error, without line breaks."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:297]}..."


# -- files -----------------------------------------------------------------------------------------

_SINGLE = {
    "unet": ("UNet", "model.diffusion_model."),
    "vae": ("autoencoder", "first_stage_model."),
    "text_encoder": ("text encoder", ("cond_stage_model.", "conditioner.")),
}
_SINGLE_KINDS = {"v1": "", "v2": ""} | {
    "inpainting": "an inpainting model",
    "xl_base": "Stable Diffusion XL",
    "xl_refiner": "a refiner of Stable Diffusion XL",
    "upscale": "an upscaler of Stable Diffusion",
    "instruct-pix2pix": "an InstructPix2Pix model",
}


def check_single_file(source: str, given: Mapping[str, Any]) -> None:
    """Says what a file on disk is, if it is no Stable Diffusion v1 model with all its parts.

    Args:
        source: The file; an address passes.
        given: Parts that the caller brings along, and `config`.

    Raises:
        WrongModelError: With one sentence.
    """
    if not source.endswith(".safetensors"):
        raise WrongModelError(f"{source} is no .safetensors file; only those are read.")
    config = given.get("config")
    local = isinstance(config, Path) or str(config).startswith(("/", ".", "~"))
    if local and not Path(str(config)).is_dir():
        raise WrongModelError(f"config is {str(config)!r}; it must be the folder of a model.")
    if "://" in source:
        return
    if not (file := Path(source)).is_file():
        raise WrongModelError(f"There is no file {source}.")
    check_weights(file)
    with safe_open(file, "pt") as opened:
        shapes = {name: opened.get_slice(name).get_shape() for name in opened.keys()}  # noqa: SIM118
    parts = {
        part for part, (_, start) in _SINGLE.items() if any(n.startswith(start) for n in shapes)
    }
    if not parts:
        raise WrongModelError(f"{source} {_names_reason(shapes)}.")
    kind = infer_diffusers_model_type(
        {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    )
    if what := _SINGLE_KINDS.get(kind, f"of the kind {kind}"):
        raise WrongModelError(f"{source} is {what}, not Stable Diffusion v1.")
    for part, (title, _) in _SINGLE.items():
        if part not in parts and part not in given:
            raise WrongModelError(f"{source} has no {title}; load one and give it as {part}=.")


def _file(path: Path) -> str:
    if path.suffix != ".safetensors":
        return "is a file; a model is a folder, or one .safetensors file for `from_single_file`"
    try:
        with safe_open(path, "pt") as opened:
            names = list(opened.keys())
    except (SafetensorError, OSError):
        return "is a damaged file of weights"
    if any(name.startswith(_SINGLE["unet"][1]) for name in names):
        return "is a model in a single file; load it with SagePipeline.from_single_file"
    return _names_reason(names)


def _names_reason(names: Iterable[str]) -> str:
    if any("lora" in name for name in names):
        return "is a LoRA adapter, not a model; load a model, then `use_lora` it"
    return "is a file of weights, not a whole model"


def _folder(path: Path) -> str:
    files = {file.name for file in path.iterdir()}
    if not files:
        return "is an empty folder"
    if LORA_FILE in files or PEFT_FILE in files:
        return "is a LoRA adapter, not a model; load a model, then `use_lora` it"
    if "config.json" in files:
        name = str(_json(path / "config.json").get("_class_name", "a single network"))
        for start, kind in _KINDS_BY_CLASS.items():
            if start in name:
                return f"is {kind} ({name})"
        return f"is one part of a model ({name}); load the folder above it"
    single = sorted(n for n in files if n.endswith((".safetensors", ".ckpt")))
    if single:
        return f"has no {INDEX}, but {single[0]}: a model in a single file is for from_single_file"
    return f"is no folder of a model: it has no {INDEX}"


def _json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text("utf-8"))
    except PermissionError as error:
        raise OSError(f"{'/'.join(path.parts[-2:])} may not be read.") from error
    except (OSError, ValueError) as error:
        where = "/".join(path.parts[-2:])
        raise WrongModelError(f"{where} cannot be read: {one_line(error)}.") from error
    if not isinstance(values, dict):
        raise WrongModelError(f"{'/'.join(path.parts[-2:])} is no JSON object.")
    return values


# -- components ------------------------------------------------------------------------------------


def _components_reason(pipe: Any) -> str:
    """Why these parts do not make a Stable Diffusion v1, or ""."""
    for part, kind in _KINDS_BY_PART.items():
        if getattr(pipe, part, None) is not None:
            return f"is {kind}, not Stable Diffusion v1"
    missing = [part for part in NEEDED if getattr(pipe, part, None) is None]
    if missing:
        return f"has no {missing[0]}, which Stable Diffusion v1 needs"
    unet = plain_network(pipe.unet)
    if not isinstance(unet, UNet2DConditionModel):
        return _network_kind(unet)
    return (
        _unet_reason(unet.config)
        or _text_reason(pipe, unet.config)
        or _vae_reason(plain_network(pipe.vae), unet.config)
        or _scheduler_reason(pipe.scheduler)
    )


def _network_kind(unet: nn.Module) -> str:
    name = type(unet).__name__
    for start, kind in _KINDS_BY_CLASS.items():
        if start in name:
            return f"is {kind} ({name}), not Stable Diffusion v1"
    return f"has a {name} where Stable Diffusion v1 has a UNet2DConditionModel"


def _unet_reason(config: Mapping[str, Any]) -> str:  # noqa: PLR0911 (one return a kind)
    """What a UNet wants that a run of Stable Diffusion v1 does not give it."""
    get = config.get
    name, channels = get("_class_name", UNet2DConditionModel.__name__), get("in_channels", 4)
    for start, kind in _KINDS_BY_CLASS.items():
        if start in str(name):
            return f"is {kind} ({name}), not Stable Diffusion v1"
    if get("addition_embed_type") == "text_time":
        return "is Stable Diffusion XL (its UNet takes sizes and a second text), not v1"
    if get("addition_embed_type") not in (None, "text"):
        return f"has a UNet that takes {get('addition_embed_type')!r} beside the text (Kandinsky)"
    if get("time_cond_proj_dim") is not None:
        return (
            "is a latent consistency model whose UNet takes the guidance scale as an input "
            "(time_cond_proj_dim); use its LoRA on the plain model instead"
        )
    if get("encoder_hid_dim_type") == "ip_image_proj":
        return "has an IP-Adapter, which needs a picture; call unload_ip_adapter() first"
    if get("encoder_hid_dim_type") not in (None, "text_proj"):
        return f"has a UNet that takes pictures ({get('encoder_hid_dim_type')}), not text alone"
    if get("out_channels", channels) != channels:
        kind = _KINDS_BY_CHANNELS.get(channels)
        if kind:
            return f"is {kind}: its UNet takes {channels} channels, Stable Diffusion v1 takes 4"
        given = get("out_channels")
        return f"has a UNet that takes {channels} channels and gives {given}; both must agree"
    sample = get("sample_size")
    sides = sample if isinstance(sample, (list, tuple)) else [sample]
    whole = all(type(side) is int and 1 <= side <= LARGEST_LATENT for side in sides)
    if sample is not None and not (whole and len(sides) <= 2):
        return (
            f"has a UNet for latents of {sample!r}; need whole numbers from 1 to {LARGEST_LATENT}"
        )
    if get("class_embed_type") is not None or get("num_class_embeds") is not None:
        return "has a UNet that takes a class beside the text (an upscaler or unCLIP)"
    return ""


def _text_reason(pipe: Any, unet: Mapping[str, Any]) -> str:
    encoder = plain_network(pipe.text_encoder)
    text, name = encoder.config, type(encoder).__name__
    if name.endswith("WithProjection") or not hasattr(text, "max_position_embeddings"):
        return f"has a {name} as its text encoder; Stable Diffusion v1 has a CLIPTextModel"
    width, wanted = getattr(text, "hidden_size", None), unet.get("cross_attention_dim")
    if unet.get("encoder_hid_dim_type") == "text_proj":
        wanted = unet.get("encoder_hid_dim")
    widths = set(wanted) if isinstance(wanted, (list, tuple)) else {wanted}
    if widths != {width}:
        shown = ", ".join(str(w) for w in sorted(widths, key=str))
        return f"has a text encoder of width {width} and a UNet for width {shown}"
    vocabulary, positions = text.vocab_size, text.max_position_embeddings
    if len(pipe.tokenizer) > pipe.text_encoder.get_input_embeddings().num_embeddings:
        return f"has a tokenizer of {len(pipe.tokenizer)} tokens and a text encoder of {vocabulary}"
    if pipe.tokenizer.model_max_length > positions:
        return (
            f"has a tokenizer that writes up to {pipe.tokenizer.model_max_length} tokens and a "
            f"text encoder that reads {positions}; set tokenizer.model_max_length"
        )
    return ""


def _vae_reason(vae: nn.Module, unet: Mapping[str, Any]) -> str:
    channels = getattr(vae.config, "latent_channels", None)
    if channels != unet.get("in_channels"):
        return f"has a VAE of {channels} latent channels and a UNet of {unet.get('in_channels')}"
    factor = getattr(vae.config, "scaling_factor", ...)
    if factor is ...:
        return f"has a {type(vae).__name__} without a scaling factor, not a VAE of Stable Diffusion"
    if not isinstance(factor, (int, float)) or not (math.isfinite(factor) and factor > 0):
        return f"has a VAE whose scaling factor is {factor!r}; a number above 0 is needed"
    return ""


def _scheduler_reason(scheduler: Scheduler) -> str:
    """Flow matching and EDM have noise levels of another kind than Stable Diffusion v1."""
    name = type(scheduler).__name__
    if any(kind in name for kind in _NOT_FROM_NOISE):
        return f"has the scheduler {name}, which does not go from noise to a picture"
    if not hasattr(scheduler, "alphas_cumprod"):
        return f"has the scheduler {name}, whose noise levels are not those of Stable Diffusion v1"
    levels = torch.as_tensor(scheduler.alphas_cumprod).double()
    falling = bool((levels.diff() <= 0).all()) and len(levels) > 0
    if not falling or not 0 <= float(levels[-1]) < float(levels[0]) <= 1:
        return f"has a scheduler whose noise does not rise from step to step ({name})"
    if len(levels) < (known := scheduler.config.get("num_train_timesteps", 0)):
        return f"has a scheduler of {known} timesteps with {len(levels)} noise levels ({name})"
    prediction = scheduler.config.get("prediction_type", "epsilon")
    if prediction not in PREDICTIONS:
        return f"predicts {prediction!r}; known are {', '.join(PREDICTIONS)}"
    return _step_reason(scheduler)


def _step_reason(scheduler: Scheduler) -> str:
    """What a scheduler's step wants beside the prediction, its timestep and the latents."""
    name, step = type(scheduler).__name__, inspect.signature(scheduler.step).parameters.values()
    needed = [one.name for one in step if one.default is one.empty and one.kind not in _MANY]
    if len(needed) > 3:
        return f"has the scheduler {name}, whose steps also take {', '.join(needed[3:])}"
    if str(scheduler.config.get("variance_type")).startswith("learned"):
        return f"has the scheduler {name} with a learned variance, which its UNet does not predict"
    if hasattr(scheduler, "noise_sampler"):
        return f"has the scheduler {name}, which draws its noise by itself, not from seeds"
    return ""
