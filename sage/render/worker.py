"""Turns a unit of work into pictures; holds one model on one device and writes nothing.

A picture depends on its group and the recipe alone: every network runs at a fixed shape
(`sage.sd.execution`) with a fixed number of threads, so neither the other groups of the unit nor
what else the machine does can change its last bits. A prompt that fails takes nobody with it:
members of its group are rendered again without it, each alone.
"""

import io
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import diffusers
import numpy as np
import torch
import transformers
from PIL import Image
from torch import Tensor

from sage.core.cost import evaluations_of
from sage.core.plan import Plan, independent_plan
from sage.core.settings import Sampling
from sage.jobs.job import adaptive_rule
from sage.jobs.models import LoadedModel, available_models, describe_device, open_pipeline
from sage.jobs.sides import variant
from sage.render.settings import ROWS, RenderSettings
from sage.render.work import DamagedError, Picture, Rendered, Unit, part_of
from sage.sd.allocator import MEBIBYTE, keep_memory
from sage.sd.execution import is_out_of_memory
from sage.sd.pipeline import SageOutput, SagePipeline
from sage.sd.precision import dtype_for

BLACKED_OUT, CUT = "blacked out by the safety checker", "end of the prompt not read"
NOT_FINITE = "The model produced a value that is not a number."
DECODED = 4  # pictures in every call of the decoder
MEMORY = {"kept": 256 * MEBIBYTE, "largest": 32 * MEBIBYTE}  # of a call, for the next one
PNG_LEVEL = 1  # of zlib: a fifth larger than the usual 6, and several times faster


class OutOfMemory(RuntimeError):  # noqa: N818
    """The device has no room for so many rows in one call."""


@dataclass(frozen=True)
class Recipe:
    """Everything beside a unit that its pictures depend on.

    Attributes:
        model: Folder, repository id or key.
        adapter: Folder of a LoRA adapter to use instead of the model's own; None without one.
        sampling: Settings.
        precision: Of the weights, "float32", "bf16" or "fp16".
        rows: Rows in a call of the denoiser, guidance not counted; None is what suits device and
            model. A last call of fewer rows is filled up, if they came out otherwise without.
        threads: Of the CPU; another number may change the last bits.
    """

    model: str
    adapter: str | None
    sampling: Sampling
    precision: str
    rows: int | None
    threads: int

    @classmethod
    def of(cls, settings: RenderSettings) -> "Recipe":
        """The recipe of settings that are complete, from `RenderSettings.on`."""
        adapter = None if settings.adapter is None else str(settings.adapter.resolve())
        model = settings.model
        if available_models(model)[0].source == model and Path(model).is_dir():
            model = os.path.abspath(model)  # workers of a cluster run in another folder
        return cls(
            model,
            adapter,
            settings.sampling,
            settings.precision,
            settings.rows,
            settings.threads,
        )

    def load(self, device: torch.device) -> LoadedModel:
        """The model of the recipe, with the adapter as its own.

        Raises:
            ValueError: If it cannot be loaded.
        """
        diffusers.utils.logging.disable_progress_bar()  # there are bars of our own
        transformers.utils.logging.disable_progress_bar()
        spec, pipe = open_pipeline(self.model, device, dtype_for(self.precision, device))
        if self.adapter is not None:
            spec = replace(spec, adapter=Path(self.adapter))
        pipe.max_rows = self.rows or ROWS[device.type][pipe.is_heavy]
        pipe.exact_rows = pipe.max_rows * (2 if self.sampling.guidance_scale > 1 else 1)
        return LoadedModel(spec, pipe)

    def pipeline(self, model: LoadedModel) -> SagePipeline:
        """The pipeline that renders: the settings' scheduler, and the adapter if it is asked for.

        Raises:
            ValueError: If there is no adapter, or it does not fit.
        """
        return variant(model, self.sampling.scheduler, self.sampling.trained)


@dataclass(frozen=True)
class _Sampled:
    """Latents of some prompts, and what led to them."""

    latents: Tensor  # [N, C, h, w]
    plan: Plan
    probes: int = 0


class Worker:
    """Renders units by a recipe on a device."""

    def __init__(self, recipe: Recipe, device: str, model: LoadedModel | None = None) -> None:
        torch.set_num_threads(recipe.threads)
        keep_memory(**MEMORY)
        self.recipe, self.device = recipe, torch.device(device)
        self.pipe = recipe.pipeline(model or recipe.load(self.device))
        self.flops = self.pipe.flops
        self.rule = adaptive_rule(recipe.sampling)
        self.nothing = torch.zeros_like(self.pipe.starting_noise([0])[0])  # in place of a failure

    def answer(self, message: bytes) -> bytes:
        """A unit of work as bytes to its pictures as bytes."""
        try:
            unit = Unit.from_bytes(message)
        except DamagedError:
            return Rendered(-1, ()).to_bytes()
        return self.render(unit).to_bytes()

    def render(self, unit: Unit) -> Rendered:
        """The pictures of a unit.

        Raises:
            OutOfMemory: If the device has no room.
        """
        started = time.perf_counter()
        try:
            pictures = self._pictures(unit)
        except (MemoryError, RuntimeError) as error:
            if is_out_of_memory(error):
                raise OutOfMemory(
                    f"{describe_device(self.device)} has no room for a call of "
                    f"{self.pipe.max_rows} rows; choose fewer --rows, in another folder."
                ) from error
            raise
        seconds = time.perf_counter() - started
        return Rendered(unit.number, pictures, describe_device(self.device), seconds)

    def _pictures(self, unit: Unit) -> tuple[Picture, ...]:
        found = self._sample(unit, range(len(unit.prompts)), unit.plan)
        sampled = [found[n] for n in range(len(unit.prompts))]
        latents = torch.stack([
            self.nothing if isinstance(one, str) else one[0].latents[one[1]] for one in sampled
        ])  # fmt: skip
        images, flagged, finite = self._decode(latents)
        with ThreadPoolExecutor(max(1, min(8, self.recipe.threads))) as threads:
            files = list(threads.map(png_bytes, images))
        cut = set(self.pipe.truncated(unit.prompts))
        pictures = []
        for n, one in enumerate(sampled):
            if isinstance(one, str):
                pictures.append(Picture(None, "", 0.0, 0.0, error=one))
                continue
            cost = self._cost(*one, unit)
            flags = (BLACKED_OUT,) * flagged[n] + (CUT,) * (n in cut)
            pictures.append(
                Picture(files[n], flags=flags, **cost) if finite[n]
                else Picture(None, error=NOT_FINITE, **cost)
            )  # fmt: skip
        return tuple(pictures)

    # -- sampling ----------------------------------------------------------------------------

    def _sample(
        self, unit: Unit, members: Sequence[int], plan: Plan
    ) -> dict[int, tuple[_Sampled, int] | str]:
        """For some members, the run that holds a latent and its place there, or why none does.

        Where they fail together they are rendered by groups, and then each alone.
        """
        run, problem = self._attempt(unit, members, plan)
        good = _finite_rows(run, len(members))
        found: dict[int, tuple[_Sampled, int] | str] = {
            n: (run, place) if run is not None and good[place] else problem or NOT_FINITE
            for place, n in enumerate(members)
        }
        groups: dict[int, list[int]] = {}
        for place, n in enumerate(members):
            groups.setdefault(unit.groups[n], []).append(place)
        if problem and len(groups) > 1:  # one of them is to blame: the others keep their way
            for places in groups.values():
                found |= self._sample(unit, [members[p] for p in places], part_of(plan, places))
            return found
        for place, n in enumerate(members):
            # Who was alone from the start would fail again.
            shared = len(members) > 1 and (problem or plan.branch_step_of(place))
            if not good[place] and shared:
                found |= self._sample(unit, (n,), independent_plan(1, plan.steps))
        return found

    def _attempt(
        self, unit: Unit, members: Sequence[int], plan: Plan
    ) -> tuple[_Sampled | None, str | None]:
        """A run of some members, or the sentence of what it raised."""
        try:
            return self._run(unit, members, plan), None
        except (ValueError, RuntimeError, ArithmeticError, LookupError, TypeError) as error:
            if is_out_of_memory(error):
                raise
            reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            return None, f"It could not be rendered: {reason}"

    def _run(self, unit: Unit, members: Sequence[int], plan: Plan) -> _Sampled:
        sampling = self.recipe.sampling
        how: dict[str, Any] = {"plan": plan, "spacing": sampling.spacing}  # it knows its steps
        if unit.timesteps is not None:
            how["timesteps"] = unit.timesteps
        if self.rule is not None and len(members) > 1:
            how = {"groups": plan.rows(0), "adaptive": self.rule, "steps": sampling.steps}
            how["spacing"] = sampling.spacing
        steps = self.pipe.stream(
            [unit.prompts[n] for n in members],
            guidance_scale=sampling.guidance_scale,
            seeds=[unit.seeds[n] for n in members],
            negative_prompt=[unit.negative_prompts[n] for n in members],
            output_type="latent",
            exact=True,
            trunk=unit.trunk or sampling.trunk,
            fresh_noise=sampling.fresh_noise,
            **how,
        )
        rows, state, probes = [], None, 0
        try:
            for step in steps:
                if isinstance(step, SageOutput):
                    probes = step.probes
                else:
                    state = step.state
                    rows.append(state.rows)
        except FloatingPointError:  # some rows are not finite; the others are good
            if state is None or len(rows) < plan.steps:
                raise
        assert state is not None
        place = {n: r for r, row in enumerate(state.rows) for n in row}
        latents = state.x[[place[n] for n in range(len(members))]]
        return _Sampled(latents.float().cpu(), Plan.from_rows(rows), probes)

    def _cost(self, run: _Sampled, member: int, unit: Unit) -> Mapping[str, Any]:
        """A prompt's way through a run and its share of the cost."""
        trunk = unit.trunk or self.recipe.sampling.trunk
        nfe, way = run.probes / run.plan.num_prompts, []
        nfe += evaluations_of(run.plan, trunk, member)
        for segment in run.plan.segments:
            if member in segment.members:
                steps, size = segment.stop - segment.start, len(segment.members)
                way.append(f"{size}x{steps}")
        flops, guided = self.flops, self.recipe.sampling.guidance_scale > 1
        total = flops.text_encoder + flops.denoiser * nfe * (1 + guided) + flops.decoder
        return {"plan": " ".join(way), "nfe": round(nfe, 6), "flops": float(round(total))}

    # -- pictures ----------------------------------------------------------------------------

    @torch.inference_mode()
    def _decode(self, latents: Tensor) -> tuple[list[Image.Image], list[bool], list[bool]]:
        """Pictures of latents [N, C, h, w], which were blacked out, and which are finite."""
        images: list[Image.Image] = []
        flagged: list[bool] = []
        finite: list[bool] = []
        vae = self.pipe.vae
        for part in latents.split(DECODED):
            # Filled up to a fixed size, as the denoiser's calls are.
            full = torch.cat([part, self.nothing.expand(DECODED - len(part), *part.shape[1:])])
            z = torch.nan_to_num(full).to(self.device, vae.dtype) / vae.config.scaling_factor
            pixels = vae.decode(z).sample
            finite += torch.isfinite(pixels).flatten(1).all(1).tolist()[: len(part)]
            pixels, flags = self.pipe.checked(torch.nan_to_num(pixels))
            some = self.pipe.image_processor.postprocess(pixels, output_type="pil")
            images += cast("list[Image.Image]", some)[: len(part)]
            flagged += flags[: len(part)]
        return images, flagged, finite


def _finite_rows(run: _Sampled | None, number: int) -> list[bool]:
    if run is None:
        return [False] * number
    return torch.isfinite(run.latents).flatten(1).all(1).tolist()


def png_bytes(image: Image.Image) -> bytes:
    """A picture as a PNG file; equal pictures give equal bytes."""
    file = io.BytesIO()
    Image.fromarray(np.asarray(image.convert("RGB"))).save(file, "PNG", compress_level=PNG_LEVEL)
    return file.getvalue()
