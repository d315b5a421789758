"""The models a visitor may pick, with pinned revisions, and how one is loaded.

Only these ids, or the one given on the command line, are ever loaded; never one typed into the
page. Safetensors only, no code from repositories.
"""

import hashlib
import logging
import os
import platform
from dataclasses import dataclass, field
from pathlib import Path

import torch

from sage.core.settings import shortened
from sage.core.words import plural
from sage.sd.clip import ClipEncoder
from sage.sd.model_settings import ModelSettings
from sage.sd.pipeline import SagePipeline
from sage.sd.precision import dtype_for
from sage.sd.preview import LatentRGB

ASSETS = Path(__file__).resolve().parents[2] / "assets"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelSpec:
    """One model on the list.

    Attributes:
        key: Short name, used by the page and the API.
        title: Name for people.
        source: Folder, or id of a hub repository.
        revision: Commit of the repository.
        clip_source: Repository of the CLIP whose text tower the model uses.
        clip_revision: Commit of that repository.
        needs_gpu: Whether it is too slow to be offered without one.
        settings: Bounds of similarity, guidance and previews.
        adapter: LoRA that was trained for sharing; None if there is none.
        student: LoRA that makes it a model of few steps, merged when it is loaded; None for a
            model as it is.
    """

    key: str
    title: str
    source: str
    revision: str | None = None
    clip_source: str | None = None
    clip_revision: str | None = None
    needs_gpu: bool = False
    settings: ModelSettings = field(default=ModelSettings(), repr=False)
    adapter: Path | None = None
    student: Path | None = None

    @property
    def tau_min(self) -> float:
        """Default lowest similarity inside a group."""
        return self.settings.tau_min

    @property
    def tau_max(self) -> float:
        """Default highest similarity inside a group."""
        return self.settings.tau_max

    @property
    def steps(self) -> int:
        """Default number of steps."""
        return self.settings.steps

    @property
    def guidance_scale(self) -> float:
        """Default classifier-free guidance."""
        return self.settings.guidance_scale

    @property
    def share_ratio(self) -> float:
        """Default share of steps in common."""
        return self.settings.share_ratio


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to run.

    Attributes:
        spec: Which one.
        pipe: The pipeline.
        note: What a visitor should know about the choice, or "".
    """

    spec: ModelSpec
    pipe: SagePipeline
    note: str = ""

    @property
    def known_words(self) -> frozenset[str] | None:
        """Words the model was trained on; None if it was trained on the open web."""
        return self.pipe.settings.known_words

    @property
    def device_name(self) -> str:
        """The hardware it runs on, in words."""
        return describe_device(self.pipe.device)


def builtin_model() -> ModelSpec:
    """Emoji scenes, kept in this repository."""
    folder = ASSETS / "emoji-scenes"
    settings = ModelSettings.read(folder)
    return ModelSpec(
        "emoji-scenes",
        "Emoji scenes (built in)",
        str(folder),
        settings=settings,
        adapter=ASSETS / "emoji-scenes-sage-lora",
    )


def few_step_model() -> ModelSpec:
    """Emoji scenes distilled to few steps without guidance (`sage.world.train.distil`)."""
    plain, folder = builtin_model(), ASSETS / "emoji-scenes-4-step-lora"
    settings = ModelSettings.read(folder, plain.settings)
    title = f"Emoji scenes in {settings.steps} steps (distilled)"
    return ModelSpec(
        folder.name.removesuffix("-lora"), title, plain.source, settings=settings, student=folder
    )


def stable_diffusion_v1_5() -> ModelSpec:
    """Stable Diffusion v1.5, the paper's model, with the CLIP that holds its text encoder."""
    return ModelSpec(
        key="sd-v1-5",
        title="Stable Diffusion v1.5",
        source="stable-diffusion-v1-5/stable-diffusion-v1-5",
        revision="451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
        clip_source="openai/clip-vit-large-patch14",
        clip_revision="32bd64288804d66eefd0ccbe215aa642df71cc41",
        needs_gpu=True,
        settings=ModelSettings(latent_rgb=LatentRGB.stable_diffusion_1()),
    )


def available_models(extra: str | None = None) -> tuple[ModelSpec, ...]:
    """Models to offer on this machine, the default one first.

    Args:
        extra: A folder, a repository id or a key from the list; it comes first.
    """
    known = [builtin_model(), few_step_model(), stable_diffusion_v1_5()]
    offered = sorted(known, key=lambda spec: spec.needs_gpu, reverse=True)
    offered = [spec for spec in offered if torch.cuda.is_available() or not spec.needs_gpu]
    if extra is None:
        return tuple(offered)
    chosen = next((s for s in known if extra in (s.key, s.source)), None) or _other(extra)
    return (chosen, *(spec for spec in offered if spec.key != chosen.key))


def _other(source: str) -> ModelSpec:
    """A model of the same class that is not on the list.

    What is damaged in its folder is said when it is loaded, settings included.
    """
    name = Path(source).name
    try:
        settings = ModelSettings.read(source)
    except ValueError:
        settings = ModelSettings()
    return ModelSpec(name, name, source, settings=settings)


def weights_digest(spec: ModelSpec) -> str:
    """A short digest of a local model's weights and, if it has one, its adapter."""
    digest = hashlib.sha256()
    for folder in (spec.source, *([spec.adapter] if spec.adapter else [])):
        for path in sorted(Path(folder).rglob("*.safetensors")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def find_model(key: str, models: tuple[ModelSpec, ...]) -> ModelSpec:
    """The model of a key.

    Raises:
        ValueError: If no model on the list has it.
    """
    for spec in models:
        if key == spec.key:
            return spec
    allowed = ", ".join(spec.key for spec in models)
    raise ValueError(f"Unknown model {str(key)[:60]!r}; available: {allowed}.")


def load_model(spec: ModelSpec, device: str = "auto", precision: str = "float32") -> LoadedModel:
    """Loads a model; one that cannot be reached is replaced by the built-in one, with a note.

    Args:
        spec: Which one.
        device: As for `device_of`.
        precision: "float32", which is the same on every device, "bf16", "fp16", or "auto": what
            the device computes fastest (see `sage.sd.precision`).

    Raises:
        ValueError: If there is no such device or precision here.
    """
    target = device_of(device)
    dtype = dtype_for(precision, target)
    builtin = builtin_model()
    if spec.key == builtin.key:
        no_gpu = "" if torch.cuda.is_available() else _NO_GPU
        return LoadedModel(spec, _load(spec, target, dtype), no_gpu)
    try:
        return LoadedModel(spec, _load(spec, target, dtype))
    except (OSError, ValueError) as error:  # not on disk, no hub, or not this kind of model
        log.warning("%s could not be loaded: %s", spec.source, error)
        # Its place on this machine is nobody's concern.
        reason = str(error).replace(str(spec.source), spec.title)
        note = f"{spec.title} could not be loaded, so the built-in model is used: {reason}"
        return LoadedModel(builtin, _load(builtin, target, dtype), note)


def open_pipeline(
    model: str, device: torch.device, dtype: torch.dtype = torch.float32
) -> tuple[ModelSpec, SagePipeline]:
    """A model to work with, for training, studies and rendering in bulk.

    Args:
        model: Folder, repository id or key.
        device: Where it goes.
        dtype: Precision of the weights.

    Raises:
        ValueError: If it cannot be loaded; there is no falling back to another one.
    """
    spec = available_models(model)[0]
    try:
        pipe = _assemble(spec, dtype)
    except (OSError, ValueError) as error:
        raise ValueError(f"model is {model!r}, which cannot be loaded: {error}") from error
    pipe.set_progress_bar_config(disable=True)
    return spec, pipe.to(device)


_NO_GPU = "No GPU here, so the built-in model is used; with one, Stable Diffusion v1.5 is offered."


def zero_gpu() -> bool:
    """Whether this is a Space on ZeroGPU, where CUDA exists only while a GPU is leased."""
    return os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")  # as `spaces` reads


def _load(spec: ModelSpec, target: torch.device, dtype: torch.dtype) -> SagePipeline:
    pipe = _assemble(spec, dtype)
    pipe.to(target)
    if zero_gpu() and pipe.clip is not None:
        pipe.clip.to("cpu")  # similarities are wanted at every key press, outside of leases
    return pipe


def _assemble(spec: ModelSpec, dtype: torch.dtype) -> SagePipeline:
    """The pipeline of a model with its CLIP, its student and its settings."""
    clip = None
    if spec.clip_source is not None:
        # bfloat16 has too few digits for similarities: groups would depend on the precision.
        exact = torch.float32 if dtype is torch.bfloat16 else dtype
        clip = ClipEncoder.from_pretrained(spec.clip_source, spec.clip_revision, dtype=exact)
    pipe = SagePipeline.from_pretrained(spec.source, spec.revision, dtype=dtype, clip=clip)
    if spec.student is not None:
        pipe.merge_lora(spec.student)
    pipe.settings = spec.settings
    return pipe


def device_of(name: str) -> torch.device:
    """A device by its name: "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:N".

    Raises:
        ValueError: If there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        known = "auto, cpu, cuda and cuda:N"
        raise ValueError(f"The device is {shortened(name)}; allowed are {known}.")
    # Where GPUs are leased there is none before the first lease.
    if device.type == "cuda" and not zero_gpu() and not _has_gpu(device.index or 0):
        raise ValueError(f"The device is {shortened(name)}, but there is no such GPU.")
    return device


def _has_gpu(number: int) -> bool:
    return torch.cuda.is_available() and number < torch.cuda.device_count()


def describe_device(device: torch.device) -> str:
    """The hardware in words, for reports: a GPU's name, or the CPU and its threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"CPU ({platform.machine()}, {plural(threads, 'thread')})"
