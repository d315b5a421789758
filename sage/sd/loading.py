"""A Stable Diffusion pipeline as it is loaded, saved and adapted here.

What it adds to diffusers' own: it says what a model is that it cannot use, reads safetensors only,
brings the encoder for similarity and the model's settings along, and switches adapters whole.
"""

import json
import os
from functools import cache
from pathlib import Path
from typing import Any, Self

import torch
from diffusers import (
    DiffusionPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
)

from sage.sd import adapters, kinds
from sage.sd.building import BUILDING
from sage.sd.clip import ClipEncoder
from sage.sd.direct import make_direct
from sage.sd.foreign import Scheduler
from sage.sd.model_settings import ModelSettings
from sage.sd.packed import make_packable
from sage.sd.schedulers import ddim_scheduler

CLIP_FOLDER = "clip"  # of a model's folder


class ModelPipeline(StableDiffusionPipeline):
    """A StableDiffusionPipeline with what sharing needs to know of its model.

    Attributes:
        clip: Encoder for the similarity of prompts; without one, the pooled output of the text
            encoder stands in, which is a different scale.
        settings: The model's own bounds of similarity, guidance and preview colours.
    """

    clip: ClipEncoder | None = None
    settings: ModelSettings = ModelSettings()
    _lora: Path | None = None
    scheduler: Scheduler
    image_processor: Any  # what it returns depends on an argument

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        revision: str | None = None,
        dtype: torch.dtype | None = None,
        clip: ClipEncoder | None = None,
        local_files_only: bool = False,
        **options: Any,
    ) -> Self:
        """Loads a model in Stable Diffusion's layout, safetensors only.

        Args:
            pretrained_model_name_or_path: A folder or the id of a hub repository.
            revision: Commit of the repository.
            dtype: Precision of the weights; float32 without it.
            clip: Encoder for similarity; a local folder's own `clip/` is used without it.
            local_files_only: Never ask the hub.
            options: What `StableDiffusionPipeline.from_pretrained` takes: parts (`unet`, `vae`,
                `safety_checker`, ...), `variant`, `torch_dtype`, `token`, `cache_dir`, ...

        Raises:
            ValueError: If it is no Stable Diffusion v1 model, or is damaged; it says what it is.
            OSError: If it cannot be reached.
        """
        source = kinds.source_text(pretrained_model_name_or_path)
        if options.pop("use_safetensors", None) is False:
            raise ValueError("use_safetensors=False is not supported: pickles can run code.")
        if dtype is None and "torch_dtype" not in options:
            dtype = torch.float32
        where = {"revision": revision, "local_files_only": local_files_only}
        if not os.path.isdir(source):  # takes minutes, in which other models can be loaded
            with kinds.in_one_sentence(source, options):
                super().download(source, use_safetensors=True, **where, **options)
            options.pop("force_download", None)
        with BUILDING, kinds.in_one_sentence(source, options):
            pipe = super().from_pretrained(
                source,
                use_safetensors=True,
                **where,
                **({} if dtype is None else {"dtype": dtype}),
                **options,
            )
            kinds.check_components(pipe, source)
            kinds.check_whole(source, pipe, options)
            own_clip = Path(source) / CLIP_FOLDER
            if clip is None and own_clip.is_dir():
                clip = ClipEncoder.from_pretrained(own_clip, local_files_only=True)
            pipe._ready(clip, ModelSettings.read(source), "scheduler" in options)
        return pipe._own_networks()

    @classmethod
    def from_single_file(
        cls,
        pretrained_model_link_or_path: str | Path,
        clip: ClipEncoder | None = None,
        **options: Any,
    ) -> Self:
        """Loads a model from one .safetensors file.

        Args:
            pretrained_model_link_or_path: The file, or its address on the hub.
            clip: Encoder for similarity.
            options: As in diffusers. The configurations of the parts come from the hub, or from
                the folder that `config` names.

        Raises:
            ValueError: If it is no Stable Diffusion v1 model in a safetensors file.
        """
        source = kinds.source_text(pretrained_model_link_or_path)
        kinds.check_single_file(source, options)
        if isinstance(options.get("config"), Path):
            options["config"] = str(options["config"])
        with BUILDING, kinds.in_one_sentence(source, None):
            pipe = super().from_single_file(source, **options)
            kinds.check_components(pipe, source)
            pipe._ready(clip, ModelSettings())
        return pipe._own_networks()

    @classmethod
    def from_pipe(
        cls, pipeline: DiffusionPipeline, clip: ClipEncoder | None = None, **parts: Any
    ) -> Self:
        """Uses the parts of a loaded pipeline; nothing is copied.

        Args:
            pipeline: A StableDiffusionPipeline.
            clip: Encoder for similarity.
            parts: Parts to use instead of the pipeline's, `vae=...`.

        Raises:
            ValueError: If it is no pipeline of Stable Diffusion v1.
        """
        if not isinstance(pipeline, DiffusionPipeline):
            name = type(pipeline).__name__
            raise kinds.WrongModelError(
                f"A {name} is no pipeline; give a loaded StableDiffusionPipeline."
            )
        needs = parts.pop("requires_safety_checker", None)
        dtype = parts.pop("torch_dtype", parts.pop("dtype", None))
        if dtype is not None:
            raise ValueError(
                "from_pipe copies nothing and so casts nothing; call .to(dtype) on the pipeline."
            )
        if unknown := parts.keys() - pipeline.components.keys():
            raise ValueError(f"{min(unknown)} is no part of a {type(pipeline).__name__}.")
        kinds.check_components(pipeline, f"This {type(pipeline).__name__}", parts)
        # Not diffusers' own from_pipe: that one casts, which a shared model must not suffer.
        needed = pipeline.config.get("requires_safety_checker", False) if needs is None else needs
        own = {name: part for name, part in pipeline.components.items() if name in _parts_of(cls)}
        own |= parts
        # diffusers' constructor asks for the truth of a part, which a compiled one does not have.
        plain = {name: adapters.plain_network(part) for name, part in own.items()}
        pipe = cls(**plain, requires_safety_checker=needed)
        for name, part in own.items():
            if part is not plain[name]:
                setattr(pipe, name, part)
        if isinstance(pipeline, ModelPipeline):
            pipe._lora = pipeline._lora
        settings = getattr(pipeline, "settings", ModelSettings())
        return pipe._ready(clip or getattr(pipeline, "clip", None), settings, "scheduler" in parts)

    def _ready(
        self, clip: ClipEncoder | None, settings: ModelSettings, chosen: bool = False
    ) -> Self:
        """With what a StableDiffusionPipeline does not have.

        The paper samples with DDIM, whatever a model came with; a scheduler that was chosen stays.
        """
        if clip is not None and not isinstance(clip, ClipEncoder):
            raise ValueError(f"clip is a {type(clip).__name__}; it must be a ClipEncoder.")
        _link(type(self))
        self.clip, self.settings = clip, settings
        if not chosen:
            self.scheduler = ddim_scheduler(self.scheduler)
        return self

    def _own_networks(self) -> Self:
        """With networks of its own, whose layers may be ones that compute the same in less time."""
        for network in (self.unet, self.vae):
            make_packable(network)
            make_direct(network)
        return self

    def save_pretrained(self, save_directory: str | Path, *args: Any, **options: Any) -> None:
        """Writes the model with its CLIP and its settings; diffusers' own classes load it too.

        Args:
            save_directory: Where to.
            args: As in diffusers.
            options: As in diffusers.

        Raises:
            ValueError: If an adapter is on: its layers would be written and not be understood.
        """
        if any(adapters.has_adapter(part) for part in (self.unet, self.text_encoder)):
            raise ValueError("An adapter is on; merge it or take it off before the model is saved.")
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        self.settings.write(folder)
        if self.clip is not None:
            self.clip.save_pretrained(folder / CLIP_FOLDER)
        super().save_pretrained(folder, *args, **options)

    def to_json_string(self) -> str:
        """The configuration as diffusers writes it: of a class that diffusers knows."""
        values = json.loads(super().to_json_string())
        return json.dumps(values | {"_class_name": StableDiffusionPipeline.__name__}, indent=2)

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Moves the parts, as in diffusers, and the encoder for similarity with them."""
        super().to(*args, **kwargs)
        if self.clip is not None and self.device.type != "meta":
            self.clip.to(self.device)
        return self

    # -- adapters ----------------------------------------------------------------------------

    def use_lora(self, adapter: str | Path | None) -> None:
        """Switches an adapter on, or with None off; off leaves the weights bit for bit as before.

        An adapter is never fused into the weights. It belongs to the UNet and the text encoder, so
        pipelines that share these (see `from_pipe`) share its adapter too. FLOPs are counted
        without it. Adapters that were loaded by diffusers' own calls are taken off.

        Args:
            adapter: File or folder with LoRA weights as diffusers, peft or kohya write them,
                safetensors only.

        Raises:
            ValueError: If it cannot be read or does not fit whole; no adapter is then on.
        """
        path = None if adapter is None else adapters.adapter_path(adapter)
        adapters.unload_adapters(self)
        self._lora = None
        if path is not None:
            adapters.load_adapter(self, path)
            self._lora = path

    def merge_lora(self, adapter: str | Path) -> None:
        """Adds an adapter to the weights for good: no cost in a step, and no switching off.

        Args:
            adapter: As for `use_lora`.

        Raises:
            ValueError: If it cannot be read or does not fit whole; the weights are then as before.
        """
        self.use_lora(adapters.adapter_path(adapter))
        adapters.merge_adapters(self)
        self._lora = None

    @property
    def lora(self) -> Path | None:
        """The adapter that `use_lora` switched on, or None; also if it was taken off elsewhere."""
        on = any(adapters.has_adapter(part) for part in (self.unet, self.text_encoder))
        return self._lora if on else None


@cache
def _link(kind: type[StableDiffusionPipeline]) -> None:
    """Lets diffusers' AutoPipelines take the parts of such a pipeline for their tasks.

    They find the classes of a task by the name of a pipeline's class, in tables of their own.
    """
    from diffusers.pipelines import auto_pipeline as auto  # 0.2 s: not before there is a pipeline

    name = kind.__name__
    auto.SUPPORTED_TASKS_MAPPINGS.append({name: kind})
    tables: list[tuple[Any, type[DiffusionPipeline]]] = [
        (auto.AUTO_TEXT2IMAGE_PIPELINES_MAPPING, StableDiffusionPipeline),
        (auto.AUTO_IMAGE2IMAGE_PIPELINES_MAPPING, StableDiffusionImg2ImgPipeline),
        (auto.AUTO_INPAINT_PIPELINES_MAPPING, StableDiffusionInpaintPipeline),
    ]
    for table, task in tables:
        table[name] = task


def _parts_of(kind: type[StableDiffusionPipeline]) -> set[str]:
    parts, _ = kind._get_signature_keys(kind)
    return set(parts)
