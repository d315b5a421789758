"""A cell: pictures of one recipe, one seed and one set of prompts; rendered once, kept on disk.

Knows pipelines, recipes and files; nothing of metrics. A cell's name is a hash of everything it
depends on, so a second study that needs the same pictures gets them for nothing, and a study that
was killed goes on where it stopped. Bulk rendering is not for timing: it runs in half precision
(bf16 on a CPU, fp16 on a GPU) on a copy of the model in which an adapter is merged into the
weights in float32 first. Latents stay float32 between steps, as in the pipeline itself.
"""

import copy
import hashlib
import inspect
import json
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sage.core.adaptive import AdaptiveRule
from sage.core.cost import evaluations
from sage.core.plan import Plan
from sage.core.settings import Sampling
from sage.sd.adapters import LORA_FILE
from sage.sd.pipeline import SageOutput, SagePipeline
from sage.sd.schedulers import make_scheduler
from sage.sd.store import StateStore
from sage.studies.engine.prompts import PromptSet
from sage.training.data import tokenizer_key, weights_digest

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
GPU_ROWS = 256  # of one call in bulk on a GPU, which a small model's usual batch leaves idle
SEED_STRIDE = 1_000_000  # prompt n of seed s starts from noise number s · stride + n

WHOLE_RUN = (0.0, 1.0)
ABOUT_FILES = ("transformers_version", "dtype", "torch_dtype", "_name_or_path", "architectures")


@dataclass(frozen=True)
class Recipe:
    """How pictures are made.

    Attributes:
        sampling: Settings of the run. Grouping, seeds and what needs a job do not count here:
            groups and seeds come with the cell.
        adapter: Folder or file of a LoRA adapter, or None.
        plan: A plan for the whole set of prompts, instead of share ratio and groups.
        guidance_interval: From and to, in shares of the steps: where guidance is on.
        adaptive: Splits groups while sampling.
        timesteps: Where the steps lie; by default, where the settings say.
        common_noise: The prompts of a group start from one noise, as if they shared, whether they
            do or not.
    """

    sampling: Sampling = field(default_factory=Sampling)
    adapter: Path | None = None
    plan: Plan | None = None
    guidance_interval: tuple[float, float] = WHOLE_RUN
    adaptive: AdaptiveRule | None = None
    common_noise: bool = False
    timesteps: tuple[int, ...] | None = None

    @property
    def options(self) -> dict[str, Any]:
        """What is not as usual, as keyword arguments of `SagePipeline.stream`."""
        values = {
            "trunk": (self.sampling.trunk, Sampling.trunk),
            "fresh_noise": (self.sampling.fresh_noise, Sampling.fresh_noise),
            "guidance_interval": (self.guidance_interval, WHOLE_RUN),
            "adaptive": (self.adaptive, None),
            "spacing": (self.sampling.spacing, Sampling.spacing),
            "timesteps": (self.timesteps, None),
        }
        return {name: value for name, (value, usual) in values.items() if value != usual}

    @property
    def shares(self) -> bool:
        """Whether prompts share steps."""
        planned = self.plan is not None or self.adaptive is not None
        return planned or self.sampling.share_ratio > 0

    @property
    def uses_groups(self) -> bool:
        """Whether the groups may matter to the pictures."""
        places = {"spacing", "timesteps"}  # of steps: they concern every prompt alone
        return self.shares or self.common_noise or bool(self.options.keys() - places)

    def key(self) -> list[Any]:
        """Everything that the pictures depend on, as plain values; the adapter by its content.

        Cells on disk are named after it: a change renders everything anew, and a test notices.
        """
        asked = self.sampling
        adapter = None if self.adapter is None else file_digest(adapter_file(self.adapter))
        options = sorted((name, repr(value)) for name, value in self.options.items())
        plan = None if self.plan is None else repr(self.plan)
        ratio = round(asked.share_ratio, 6)
        more = ["common noise"] if self.common_noise else []
        scale = asked.guidance_scale
        return [ratio, asked.steps, scale, adapter, asked.scheduler, options, plan, *more]


@dataclass(frozen=True)
class Cell:
    """One recipe, one set of prompts, one seed."""

    recipe: Recipe
    prompts: PromptSet
    seed: int

    def key(self, model: str, precision: str) -> str:
        """Its name on disk.

        Args:
            model: `model_digest`.
            precision: What it is rendered in.
        """
        groups = self.prompts.groups if self.recipe.uses_groups else None
        parts = [model, precision, self.recipe.key(), self.prompts.digest, groups, self.seed]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]

    @property
    def noise_seeds(self) -> tuple[int, ...]:
        """One for each prompt; with common noise, that of the first prompt of its group."""
        numbers: Sequence[int] = range(len(self.prompts))
        if self.recipe.common_noise:
            numbers = [min(self.prompts.groups[owner]) for owner in self.prompts.owner]
        return tuple(self.seed * SEED_STRIDE + n for n in numbers)


def model_digest(pipe: SagePipeline) -> str:
    """Everything of a model that its pictures depend on: its weights and how it is set."""
    weights = weights_digest(pipe.unet, pipe.vae, pipe.text_encoder)
    return f"{weights} {configuration_digest(pipe)}"


def configuration_digest(pipe: SagePipeline) -> str:
    """A hash of what a model's parts are set to: scheduler, networks and tokenizer.

    Values that are usual for a class don't count: a new version brings new ones.
    """
    parts = [pipe.scheduler, pipe.unet, pipe.vae]
    settings = [[type(part).__name__, _unusual(part)] for part in parts]
    words = pipe.text_encoder.config.to_diff_dict()
    words = sorted((k, v) for k, v in words.items() if k not in ABOUT_FILES)
    whole = [settings, words, tokenizer_key(pipe.tokenizer)]
    return hashlib.sha256(json.dumps(whole, default=str).encode()).hexdigest()[:16]


def _unusual(part: Any) -> list[tuple[str, Any]]:
    """What a part of a pipeline is set to, where that is not its class's default."""
    usual = inspect.signature(type(part).__init__).parameters
    return sorted(
        (name, value)
        for name, value in part.config.items()
        if name in usual and json.dumps(value, default=str) != _default(usual[name])
    )


def _default(parameter: inspect.Parameter) -> str:
    return json.dumps(parameter.default, default=str)


def adapter_file(adapter: Path) -> Path:
    """The file with an adapter's weights.

    Raises:
        ValueError: If there is none.
    """
    path = adapter if adapter.is_file() else adapter / LORA_FILE
    if not path.is_file():
        raise ValueError(f"There is no adapter at {adapter}; train one with sage.training.")
    return path


def file_digest(path: Path) -> str:
    """Hash of a file's content."""
    return _file_digest(path, path.stat().st_mtime_ns)


@cache
def _file_digest(path: Path, changed: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Store:
    """Arrays on disk by name; each file appears in one piece."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.npz"

    def __contains__(self, key: str) -> bool:
        return self._path(key).is_file()

    def get(self, key: str) -> dict[str, np.ndarray] | None:
        """The arrays, or None if there are none or the file is damaged."""
        try:
            with np.load(self._path(key)) as file:
                return dict(file)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile):
            return None

    def put(self, key: str, **arrays: np.ndarray) -> None:
        """Keep arrays under a name."""
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f"{key}.{os.getpid()}.new")
        with new.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        os.replace(new, path)

    def get_or_make(
        self, key: str, make: Callable[[], dict[str, np.ndarray]]
    ) -> dict[str, np.ndarray]:
        """The arrays of a name, made now if they are not there."""
        arrays = self.get(key)
        if arrays is None:
            arrays = make()
            self.put(key, **arrays)
        return arrays


# --- fast copies of a model -----------------------------------------------------------------


class Renderer:
    """Renders cells on a fast copy of a model, one adapter at a time."""

    def __init__(self, pipe: SagePipeline, precision: str, compiled: bool = False) -> None:
        """Nothing is copied yet.

        Args:
            pipe: The float32 pipeline; it is never changed.
            precision: "fp32", "bf16" or "fp16".
            compiled: Use torch.compile: faster after a minute.
        """
        self.pipe, self.precision, self.compiled = pipe, precision, compiled
        self._adapter: Path | None = None
        self._fast: SagePipeline | None = None

    def pipeline(self, recipe: Recipe) -> SagePipeline:
        """The fast copy, set up for a recipe: with its adapter and its scheduler."""
        if self._fast is None:
            self._fast = fast_copy(self.pipe, self.precision, self.compiled)
        if recipe.adapter != self._adapter:
            weights = merged_weights(self.pipe, recipe.adapter)
            self._fast.unet.load_state_dict(weights)  # in place: nothing is compiled anew
            self._adapter = recipe.adapter
        key = recipe.sampling.scheduler
        own = self.pipe.scheduler  # "ddim" is the model's own, whatever its settings
        scheduler: Any = own if key == "ddim" else make_scheduler(key, like=own)
        self._fast.scheduler = scheduler
        return self._fast

    def render(
        self,
        cell: Cell,
        reuse: StateStore | None = None,
        progress: Callable[[int], object] = lambda rows: None,
    ) -> dict[str, np.ndarray]:
        """Renders a cell.

        Args:
            cell: What to render.
            reuse: States of cells that differ in the share ratio only.
            progress: Is told the evaluations of every step.

        Returns:
            "pictures" [N, H, W, 3] uint8, and counts: "evaluations", "flops" and
            "independent_flops".
        """
        recipe, prompts = cell.recipe, cell.prompts
        planned = recipe.plan is not None
        told = planned or recipe.adaptive is not None  # where the groups branch
        stream = self.pipeline(recipe).stream(
            prompts.texts,
            share_ratio=None if told else recipe.sampling.share_ratio,
            num_inference_steps=recipe.sampling.steps,
            guidance_scale=recipe.sampling.guidance_scale,
            seeds=cell.noise_seeds,
            output_type="pt",
            reuse=reuse,
            plan=recipe.plan,
            groups=None if planned else prompts.groups,
            **recipe.options,
        )
        for event in stream:
            if isinstance(event, SageOutput):
                return _arrays(event)
            progress(len(event.state.rows))
        raise RuntimeError("The pipeline ended without an output.")


def _arrays(output: SageOutput) -> dict[str, np.ndarray]:
    assert isinstance(output.images, Tensor)  # output_type="pt"
    return {
        "pictures": _bytes(output.images),
        "evaluations": np.array(output.cost.evaluations),
        "flops": np.array(output.cost.flops.total),
        "independent_flops": np.array(output.cost.independent_flops.total),
    }


def _bytes(pixels: Tensor) -> np.ndarray:
    """[N, 3, H, W] in [0, 1] as [N, H, W, 3] uint8."""
    whole = (pixels.float() * 255).round().clamp(0, 255).to(torch.uint8)
    return whole.permute(0, 2, 3, 1).cpu().numpy()


def fast_copy(pipe: SagePipeline, precision: str, compiled: bool = False) -> SagePipeline:
    """A copy of a pipeline for bulk rendering.

    Args:
        pipe: Stays as it is.
        precision: Of UNet and decoder: "fp32", "bf16" or "fp16"; texts are encoded as before.
        compiled: Use torch.compile on UNet and decoder.
    """
    fast = SagePipeline.from_pipe(pipe)
    if pipe.device.type == "cuda":
        fast.max_rows = GPU_ROWS
    fast.unet, fast.vae = copy.deepcopy(pipe.unet), copy.deepcopy(pipe.vae)
    dtype = PRECISIONS[precision]
    _speed_up(fast.unet, dtype, 2 * fast.max_rows, compiled)
    _speed_up(fast.vae.decoder, dtype, fast.max_rows, compiled)
    return fast


def merged_weights(pipe: SagePipeline, adapter: Path | None) -> dict[str, Tensor]:
    """The UNet's weights with an adapter added in float32; the pipeline stays as it is.

    Raises:
        ValueError: If the adapter does not fit.
    """
    if adapter is None:
        return pipe.unet.state_dict()
    merged = SagePipeline.from_pipe(pipe)
    merged.unet = copy.deepcopy(pipe.unet).float()
    merged.merge_lora(adapter_file(adapter))
    return merged.unet.state_dict()


def _speed_up(module: nn.Module, dtype: torch.dtype, rows: int, compiled: bool) -> None:
    """Lets a network compute in another precision; what goes in and comes out stays as it was.

    Only `forward` of this very object is replaced, so its type and configuration are untouched.
    A compiled network is given batches of `rows` rows only: every other shape would be compiled
    anew, so smaller batches are filled up.
    """
    module.to(dtype)
    if compiled:
        module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    inner = MethodType(type(module).forward, module)
    call = torch.compile(inner, dynamic=False) if compiled else inner

    def forward(*inputs: Any, **named: Any) -> Any:
        before = inputs[0].dtype
        count = len(inputs[0])
        size = rows if compiled and count <= rows else count
        output = call(*(_prepared(x, dtype, count, size) for x in inputs), **named)
        if isinstance(output, Tensor):
            return output[:count].to(before)
        return replace(output, sample=output.sample[:count].to(before))

    module.forward = forward


def _prepared(value: Any, dtype: torch.dtype, count: int, size: int) -> Any:
    """A floating-point tensor in another precision; batches filled up by repeating the last row."""
    if not isinstance(value, Tensor):
        return value
    if value.is_floating_point():
        value = value.to(dtype)
    if value.ndim and len(value) == count < size:
        value = torch.cat([value, value[-1:].expand(size - count, *value.shape[1:])])
    return value


# --- many cells -----------------------------------------------------------------------------


def families(cells: Iterable[Cell]) -> Iterator[list[Cell]]:
    """Cells that differ in their share ratio only, the longest trunk first; adapters together."""
    by_rest: dict[str, list[Cell]] = {}
    for cell in cells:
        rest = with_ratio(cell.recipe, 0.0)
        key = [rest.key(), cell.prompts.digest, cell.prompts.groups, cell.seed]
        by_rest.setdefault(json.dumps(key), []).append(cell)
    for family in sorted(by_rest.values(), key=lambda family: str(family[0].recipe.adapter)):
        yield sorted(family, key=lambda cell: -cell.recipe.sampling.share_ratio)


def with_ratio(recipe: Recipe, share_ratio: float) -> Recipe:
    """The same recipe at another share ratio."""
    return replace(recipe, sampling=replace(recipe.sampling, share_ratio=share_ratio))


def planned_evaluations(pipe: SagePipeline, family: Sequence[Cell]) -> int:
    """Evaluations that a family will take, each shared state once: what `families` yields."""
    total, known = 0, 0
    for cell in family:
        asked = cell.recipe.sampling
        plan = cell.recipe.plan or pipe.plan(cell.prompts.groups, asked.steps, asked.share_ratio)
        # Of a shorter trunk, all of it is known from the longer one before.
        branch = max(map(plan.branch_step_of, range(plan.num_prompts)))
        trunk = sum(len(plan.rows(i)) for i in range(min(branch, known)))
        total += evaluations(plan) - trunk
        known = max(known, branch)
    return total
