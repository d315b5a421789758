"""SagePipeline: prompts to pictures with shared trajectories, in diffusers' conventions.

A `StableDiffusionPipeline` whose denoising loop walks a `Plan`. What it knows beyond that class:
which prompts are similar (CLIP), what a plan costs (FLOPs), how long its stages take, and how to
show a preview of every step. It draws no progress bars and opens no pages.
"""

import logging
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from PIL import Image
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sage.core.adaptive import Adapted, AdaptiveRule, Probe, sample_adaptively
from sage.core.cost import Cost, ModelFlops, plan_cost
from sage.core.grouping import Grouping, cosine_similarity, group_prompts
from sage.core.noise import FreshNoise, Streams
from sage.core.noise import fresh_noise as make_fresh_noise
from sage.core.plan import (
    Group,
    Plan,
    Row,
    branch_step_from_ratio,
    independent_plan,
    shared_plan,
    steps_between,
)
from sage.core.sampling import State, in_prompt_order, prompt_rows, sample
from sage.core.solver import Solver
from sage.core.trunk import Denoiser, Trunk, queries
from sage.sd.clip import ClipEncoder
from sage.sd.execution import Execution, Known, Part, structure
from sage.sd.flops import count_bytes, model_flops
from sage.sd.model_settings import ModelSettings
from sage.sd.packed import make_packable
from sage.sd.preview import LatentRGB
from sage.sd.schedulers import (
    WrappedScheduler,
    ddim_scheduler,
    denoiser_calls,
    solver_for,
    steps_for,
)
from sage.sd.store import Draft, StateStore
from sage.sd.timing import StageClock, StageSeconds

OutputType = Literal["pil", "np", "pt", "latent"]
LORA_FILE = "pytorch_lora_weights.safetensors"  # diffusers' own name
# One pass of so many keeps a CPU busy for a tenth of a second and more; batches win nothing then.
HEAVY_FLOPS = 5e10


@dataclass(frozen=True)
class SageStep:
    """One finished step of a run.

    Attributes:
        step: How many steps are finished, from 1.
        steps: T.
        state: All trajectories after the step.
    """

    step: int
    steps: int
    state: State
    _preview: Callable[[Tensor], list[Image.Image]] = field(repr=False)

    @property
    def stage(self) -> Literal["trunk", "branches"]:
        """Whether any prompts still shared this step."""
        return "trunk" if any(len(row) > 1 for row in self.state.rows) else "branches"

    def previews(self) -> list[Image.Image]:
        """The expected clean picture of each prompt, in prompt order; waits for a GPU."""
        pictures = self._preview(self.state.denoised)
        return [pictures[r] for r in prompt_rows(self.state.rows).tolist()]


@dataclass(frozen=True)
class SageOutput:
    """The result of a run; everything is in prompt order.

    Attributes:
        images: N pictures: PIL, an array [N, H, W, 3] or a tensor [N, 3, H, W] in [0, 1], or the
            latents, as `output_type` says.
        plan: What was run.
        cost: What it cost, counted.
        timings: How long it took, measured.
        latents: [N, C, h, w] the final scaled latents, float32.
        seeds: One for each prompt.
        flagged: For each picture whether the model's safety checker blacked it out.
        reused: Evaluations of the plan that were taken from an earlier run.
        probes: Evaluations beyond the plan's that an adaptive rule spent; `cost` counts them.
        memory_retries: How often memory ran out and fewer rows went through a network at once.
        rows: Most rows that the denoiser took in one call, unconditional ones included.
        exact: Whether the pictures do not depend on their company, bit for bit.
    """

    images: list[Image.Image] | np.ndarray | Tensor
    plan: Plan
    cost: Cost
    timings: StageSeconds
    latents: Tensor
    seeds: tuple[int, ...]
    flagged: tuple[bool, ...]
    reused: int = 0
    probes: int = 0
    memory_retries: int = 0
    rows: int = 0
    exact: bool = False


class SagePipeline(StableDiffusionPipeline):
    """Stable Diffusion with shared trajectories (SAGE, arXiv 2509.15865).

    Attributes:
        clip: Encoder for the similarity of prompts; without one, the pooled output of the text
            encoder stands in, which is a different scale.
        settings: The model's own bounds of similarity, guidance and preview colours.
        max_rows: Most rows that go through a network in one call, guidance not counted; it is fewer
            where memory is short. More rows than this take no less time for each.
        exact_rows: Passes in every call of the denoiser with `exact`; 0 is what suits the device.
    """

    clip: ClipEncoder | None = None
    settings: ModelSettings = ModelSettings()
    max_rows: int = 32
    exact_rows: int = 0
    _lora: Path | None = None
    _merged: tuple[Path, ...] = ()

    @classmethod
    def from_pretrained(
        cls,
        folder_or_repo: str | Path,
        revision: str | None = None,
        dtype: torch.dtype = torch.float32,
        clip: ClipEncoder | None = None,
        local_files_only: bool = False,
    ) -> "SagePipeline":
        """Loads a model in Stable Diffusion's layout, safetensors only.

        Args:
            folder_or_repo: A folder or the id of a hub repository.
            revision: Commit of the repository.
            dtype: Precision of the weights.
            clip: Encoder for similarity; a local folder's own `clip/` is used without it.
            local_files_only: Never ask the hub.
        """
        pipe = super().from_pretrained(
            str(folder_or_repo),
            revision=revision,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=local_files_only,
        )
        own_clip = Path(folder_or_repo) / "clip"
        if clip is None and own_clip.is_dir():
            clip = ClipEncoder.from_pretrained(own_clip, local_files_only=True)
        pipe.clip, pipe.settings = clip, ModelSettings.read(folder_or_repo)
        pipe.scheduler = ddim_scheduler(pipe.scheduler)
        for network in (pipe.unet, pipe.vae):
            make_packable(network)
        return pipe

    @classmethod
    def from_pipe(
        cls, pipeline: DiffusionPipeline, clip: ClipEncoder | None = None
    ) -> "SagePipeline":
        """Uses the parts of a loaded pipeline; nothing is copied.

        Args:
            pipeline: A StableDiffusionPipeline.
            clip: Encoder for similarity.
        """
        # Not diffusers' own from_pipe: that one casts, which a shared model must not suffer.
        needed = pipeline.config.requires_safety_checker
        pipe = cls(**pipeline.components, requires_safety_checker=needed)
        pipe.clip = clip or getattr(pipeline, "clip", None)
        pipe.settings = getattr(pipeline, "settings", ModelSettings())
        pipe.scheduler = ddim_scheduler(pipe.scheduler)
        return pipe

    def to(self, *args: Any, **kwargs: Any) -> "SagePipeline":
        """Moves the parts, as in diffusers, and the encoder for similarity with them."""
        super().to(*args, **kwargs)
        if self.clip is not None:
            self.clip.to(self.device)
        return self

    def use_lora(self, adapter: str | Path | None) -> None:
        """Switches an adapter on, or with None off; off leaves the weights bit for bit as before.

        An adapter is never fused into the weights. It belongs to the UNet, so pipelines that share
        one (see `from_pipe`) share its adapter too. FLOPs are counted without it.

        Args:
            adapter: Folder or file with LoRA weights in diffusers' format, safetensors only.

        Raises:
            ValueError: If it cannot be read or does not fit; no adapter is then on.
        """
        self.unload_lora_weights()
        self._lora = None
        if adapter is None:
            return
        path = Path(adapter)
        try:
            if not path.exists():
                raise FileNotFoundError("there is no such file or folder")
            folder, name = (path.parent, path.name) if path.is_file() else (path, LORA_FILE)
            # It would warn that the text encoder stays as it is, which is meant.
            with _quiet("diffusers.loaders.lora_base"):
                self.load_lora_weights(
                    str(folder), weight_name=name, use_safetensors=True, local_files_only=True
                )
            self._all_layers_fit(folder / name)
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            self.unload_lora_weights()
            raise ValueError(f"{path} cannot be used as a LoRA adapter: {error}") from error
        self._lora = path

    def merge_lora(self, adapter: str | Path) -> None:
        """Adds an adapter to the UNet's weights for good: no cost in a step, and no switching off.

        Args:
            adapter: As for `use_lora`.

        Raises:
            ValueError: If it cannot be read or does not fit; the weights are then as before.
        """
        self.use_lora(adapter)
        self.fuse_lora(components=["unet"])
        self.unload_lora_weights()
        self._lora, self._merged = None, (*self._merged, Path(adapter))

    def _all_layers_fit(self, file: Path) -> None:
        """The loader drops what it does not know; half an adapter would draw worse pictures."""
        if not getattr(self.unet, "peft_config", None):
            raise ValueError("it has no layers for this UNet")
        with safe_open(file, "pt") as tensors:
            held = sum(key.startswith("unet.") for key in tensors.keys())  # noqa: SIM118
        found = sum("lora_" in name for name, _ in self.unet.named_parameters())
        if found < held:
            raise ValueError(f"only {found} of its {held} tensors fit this UNet")

    @property
    def lora(self) -> Path | None:
        """The adapter that `use_lora` switched on, or None."""
        return self._lora

    @cached_property
    def _embeddings(self) -> dict[str, Tensor]:
        return {}

    @cached_property
    def _warm_sizes(self) -> set[int]:
        return set()

    @cached_property
    def _known(self) -> Known:
        return Known()

    @cached_property
    def _flops(self) -> dict[tuple[int, ...], ModelFlops]:
        return {}

    # -- what the page asks before it renders ------------------------------------------------

    def embed(self, prompts: Sequence[str]) -> Tensor:
        """Embeddings whose cosine is the similarity of prompts: [N, D], unit length."""
        known = dict(self._embeddings)  # a copy: other visitors' threads may clear it
        missing = [p for p in dict.fromkeys(prompts) if p not in known]
        if missing:
            fresh = dict(zip(missing, self._embed(missing), strict=True))
            if len(known) > 4096:  # about 10 MB; a visitor's session is far smaller
                self._embeddings.clear()
            self._embeddings.update(fresh)
            known |= fresh
        return torch.stack([known[p] for p in prompts])

    @torch.inference_mode()
    def _embed(self, prompts: Sequence[str]) -> Tensor:
        if self.clip is not None:
            return self.clip.embed_texts(prompts)
        ids, mask = self._tokenize(prompts)
        pooled = self.text_encoder(ids, attention_mask=mask).pooler_output
        return torch.nn.functional.normalize(pooled.float().cpu(), dim=-1)

    def group(
        self,
        prompts: Sequence[str],
        tau_min: float | None = None,
        tau_max: float | None = None,
        max_group_size: int = 5,
    ) -> Grouping:
        """Which prompts share, and why; bounds default to the model's own."""
        low = self.settings.tau_min if tau_min is None else tau_min
        high = self.settings.tau_max if tau_max is None else tau_max
        return group_prompts(cosine_similarity(self.embed(prompts)), low, high, max_group_size)

    def plan(
        self, groups: Sequence[Group], num_inference_steps: int = 30, share_ratio: float = 0.4
    ) -> Plan:
        """One trunk for each group up to share_ratio of the steps, then one branch a prompt."""
        calls = self.denoiser_calls(num_inference_steps)
        return shared_plan(groups, calls, branch_step_from_ratio(share_ratio, calls))

    def denoiser_calls(self, num_inference_steps: int) -> int:
        """Calls of the denoiser, the steps of a plan: more than asked for with Heun or PNDM."""
        return denoiser_calls(self.scheduler, num_inference_steps)

    def cost(
        self,
        plan: Plan,
        guidance_scale: float | None = None,
        *,
        trunk: Trunk = "mean",
        guidance_interval: tuple[float, float] = (0.0, 1.0),
    ) -> Cost:
        """What a plan costs on this model, counted and not run; arguments as in `stream`."""
        guided = steps_between(guidance_interval, plan.steps)
        return plan_cost(
            plan, self.flops, guided if self._guidance(guidance_scale) > 1 else False, trunk
        )

    @property
    def flops(self) -> ModelFlops:
        """FLOPs of one call of each part, counted once for the parts in use."""
        key = (id(self.unet), id(self.vae), id(self.text_encoder))
        if key not in self._flops:
            length, size = self.tokenizer.model_max_length, self.unet.config.sample_size
            parts = (self.text_encoder, self.unet, self.vae)
            self._flops = {key: model_flops(*parts, tokens=length, latent_size=size)}
        return self._flops[key]

    def truncated(self, prompts: Sequence[str]) -> tuple[int, ...]:
        """Prompts that are longer than the tokenizer reads; their end is ignored."""
        limit = self.tokenizer.model_max_length
        lengths = [len(ids) for ids in self.tokenizer(list(prompts)).input_ids]
        return tuple(n for n, length in enumerate(lengths) if length > limit)

    # -- running -----------------------------------------------------------------------------

    def __call__(
        self,
        prompts: Sequence[str],
        *,
        share_ratio: float = 0.4,
        num_inference_steps: int = 30,
        guidance_scale: float | None = None,
        seeds: Sequence[int] | None = None,
        negative_prompt: str = "",
        groups: Sequence[Group] | None = None,
        plan: Plan | None = None,
        output_type: OutputType = "pil",
        reuse: StateStore | None = None,
        trunk: Trunk = "mean",
        fresh_noise: float = 0.0,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        adaptive: AdaptiveRule | None = None,
        exact: bool | None = False,
    ) -> SageOutput:
        """Renders the prompts; see `stream` for the arguments."""
        *_, output = self.stream(
            prompts,
            share_ratio=share_ratio,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            seeds=seeds,
            negative_prompt=negative_prompt,
            groups=groups,
            plan=plan,
            output_type=output_type,
            reuse=reuse,
            trunk=trunk,
            fresh_noise=fresh_noise,
            guidance_interval=guidance_interval,
            adaptive=adaptive,
            exact=exact,
        )
        return output

    def filmstrip(
        self,
        prompts: Sequence[str],
        share_ratios: Sequence[float],
        *,
        num_inference_steps: int = 30,
        guidance_scale: float | None = None,
        seeds: Sequence[int] | None = None,
        negative_prompt: str = "",
        groups: Sequence[Group] | None = None,
        output_type: OutputType = "pil",
        reuse: StateStore | None = None,
        trunk: Trunk = "mean",
        fresh_noise: float = 0.0,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        exact: bool | None = False,
    ) -> tuple[SageOutput, ...]:
        """Renders the prompts at several branch points from one trunk for each group.

        Args:
            prompts: N texts.
            share_ratios: The branch points; the trunk is paid once, up to the last of them.
            num_inference_steps: As in `stream`, like all that follow.
            guidance_scale: Classifier-free guidance.
            seeds: One for each prompt.
            negative_prompt: What to guide away from.
            groups: A partition of the prompts.
            output_type: "pil", "np", "pt" or "latent".
            reuse: Where states are kept; a store of its own without it.
            trunk: What the trunks follow.
            fresh_noise: Share of the noise that is renewed at a split.
            guidance_interval: Where guidance is on.
            exact: Whether the pictures do not depend on their company.

        Returns:
            One output for each share ratio, in the order asked for.
        """
        reuse = StateStore() if reuse is None else reuse
        outputs = {
            ratio: self(
                prompts,
                share_ratio=ratio,
                num_inference_steps=num_inference_steps,
                guidance_scale=guidance_scale,
                seeds=seeds,
                negative_prompt=negative_prompt,
                groups=groups,
                output_type=output_type,
                reuse=reuse,
                trunk=trunk,
                fresh_noise=fresh_noise,
                guidance_interval=guidance_interval,
                exact=exact,
            )
            for ratio in sorted(set(share_ratios), reverse=True)  # the longest trunk first
        }
        return tuple(outputs[ratio] for ratio in share_ratios)

    def stream(
        self,
        prompts: Sequence[str],
        *,
        share_ratio: float = 0.4,
        num_inference_steps: int = 30,
        guidance_scale: float | None = None,
        seeds: Sequence[int] | None = None,
        negative_prompt: str = "",
        groups: Sequence[Group] | None = None,
        plan: Plan | None = None,
        output_type: OutputType = "pil",
        reuse: StateStore | None = None,
        trunk: Trunk = "mean",
        fresh_noise: float = 0.0,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        adaptive: AdaptiveRule | None = None,
        exact: bool | None = False,
    ) -> Iterator[SageStep | SageOutput]:
        """Renders the prompts step by step.

        Args:
            prompts: N texts.
            share_ratio: β, the share of steps in common; 0 is independent sampling.
            num_inference_steps: T, what the scheduler is asked for.
            guidance_scale: Classifier-free guidance (arXiv 2207.12598); 1 or less is none. The
                trunk guides with its group's mean embedding and shares the unconditional pass.
            seeds: One for each prompt, 0, 1, 2, ... without it. A prompt's starting noise is
                torch.randn from a CPU generator with its seed, so it does not depend on the other
                prompts. A trunk starts from the noise of its member with the smallest seed (the
                first one, with the default seeds): so the order of the prompts has no effect.
            negative_prompt: What to guide away from, for all prompts.
            groups: A partition of the prompts; by default found by `group`.
            plan: Any plan at all, instead of groups, steps and share ratio; it counts calls
                of the denoiser.
            output_type: "pil", "np", "pt" or "latent".
            reuse: Keeps the states of runs and goes on from those of a run that began alike, so
                that moving the branch point costs the branches only. Bitwise equal to a run from
                the start. Schedulers without a table always run from the start.
            trunk: What a trunk follows: "mean" embedding of its members (paper), "norm_mean" (ours:
                the mean at the members' length), "medoid" (the most central member), "alternate"
                (the members in turn) or "prediction" (the mean of the members' predictions; costs
                one evaluation for each of them). See `sage.core.trunk`.
            fresh_noise: Share of the noise's variance, in [0, 1], that every branch, the first
                member's too, exchanges for noise from its own seed where it splits off; keeps the
                noise level. 0 leaves siblings alike. Needs a scheduler with a table: DDIM,
                DPM-Solver++, Euler, Euler ancestral or LCM. See `sage.core.noise`.
            guidance_interval: From and to, in shares of the steps: guidance is on from the first
                to before the second, and no unconditional pass is run elsewhere (Kynkäänniemi et
                al. 2024, arXiv 2404.07724, who give the interval in noise levels).
            adaptive: Splits groups while sampling, where their predictions disagree, instead of at
                `share_ratio`. The output's plan is the realised one; its probes are counted.
                Excludes `plan`, and `reuse`: no state is known before the probes are.
            exact: Whether a picture is bit for bit the same whatever its company, `max_rows`, free
                memory and reused states; see `sage.sd.execution` and `exact_costs_nothing`. None
                is wherever it costs nothing.

        Yields:
            A SageStep for every step that is run, then one SageOutput.

        Raises:
            ValueError: If arguments disagree.
            FloatingPointError: If the denoiser or the decoder gave a value that is not a number.
            MemoryError: If memory does not suffice for a single row.
        """
        prompts = list(prompts)
        seeds = tuple(range(len(prompts))) if seeds is None else tuple(seeds)
        _check_inputs(prompts, seeds, negative_prompt, output_type)
        if adaptive is not None and (plan is not None or reuse is not None):
            raise ValueError("adaptive finds its own plan: it excludes plan and reuse.")
        if plan is None:
            groups = self.group(prompts).groups if groups is None else groups
            by_seed = [tuple(sorted(g, key=lambda n: (seeds[n], n))) for g in groups]
            plan = self.plan(by_seed, num_inference_steps, 1.0 if adaptive else share_ratio)
        guidance = self._guidance(guidance_scale)
        guided = steps_between(guidance_interval, plan.steps) if guidance > 1 else range(0)
        # An adaptive plan may part one prompt at a time.
        depth = plan.depth if adaptive is None else len(prompts)
        fresh = self._fresh(fresh_noise, seeds, depth)
        run = _Run(prompts, plan, guidance, guided, seeds, negative_prompt, trunk, fresh, adaptive)
        run = replace(run, exact=self.exact_costs_nothing() if exact is None else exact)
        return self._run(run, output_type, reuse)

    def _run(
        self, run: "_Run", output_type: OutputType, reuse: StateStore | None
    ) -> Iterator[SageStep | SageOutput]:
        clock = StageClock(self._execution_device)
        # 1. Condition, noise and solver.
        parts = self._parts(run, clock)
        # 2. Trunks and branches, one step at a time.
        if isinstance(parts.solver, WrappedScheduler):
            reuse = None  # its counters are not in the state
        inputs = self._inputs(run)
        state = None if reuse is None else reuse.latest(inputs, run.plan, run.share_renewed)
        draft = None if reuse is None else Draft(reuse, inputs, run.plan, run.share_renewed)
        execution = parts.execution
        first = 0 if state is None else state.step + 1
        done = Adapted(state, run.plan)
        walk, probes = self._walk(run, parts, state), []
        for i in range(first, run.plan.steps):
            shares: dict[str, float] = {}  # known after the step: a probe may split rows
            with torch.inference_mode(), clock.measure(shares):
                done = next(walk)
            shares |= _step_shares(done.state.rows)
            probes += [done.probed] if done.probed else []
            # Other rows at once, other last bits: not what a run from the start would give.
            if draft is not None and (run.exact or not execution.retries):
                draft.add(done.state, execution.finite)
            try:
                yield SageStep(i + 1, run.plan.steps, done.state, self.preview)
            except GeneratorExit:  # stopped: what was done is good for a later run
                if draft is not None:
                    draft.publish()
                raise
        # 3. Pictures.
        latents = in_prompt_order(done.state)
        with torch.inference_mode(), clock.measure({"decode": 1.0}):
            images, flagged = self._decode(latents, output_type, execution)
        if draft is not None:  # a run that failed leaves nothing
            draft.publish()
        reused = sum(queries(run.trunk, done.plan.rows(i)) for i in range(first))
        guided = run.guided if run.guidance > 1 else False
        cost = plan_cost(done.plan, self.flops, guided, run.trunk, probes)
        extra, seconds = sum(probe.extra for probe in probes), clock.read()
        yield SageOutput(
            images,
            done.plan,
            cost,
            seconds,
            latents,
            run.seeds,
            flagged,
            reused,
            extra,
            memory_retries=execution.retries,
            rows=execution.largest,
            exact=run.exact,
        )

    def _walk(self, run: "_Run", parts: "_Parts", state: State | None) -> Iterator[Adapted]:
        """All steps after a state, by a plan or by a rule."""
        options = {"trunk": run.trunk, "fresh": run.fresh}
        if run.adaptive is not None:
            inputs = (parts.solver, run.plan.rows(0), parts.cond, parts.noise)
            options |= {"probe": parts.probe, "rule": run.adaptive}
            yield from sample_adaptively(parts.denoise, *inputs, **options)
            return
        used = None
        for i in range(0 if state is None else state.step + 1, run.plan.steps):
            if parts.denoise(i) is not used:
                used = parts.denoise(i)
                inputs = (parts.solver, run.plan, parts.cond, parts.noise)
                states = sample(used, *inputs, **options, start=state)
            state = next(states)
            yield Adapted(state, run.plan)

    def _parts(self, run: "_Run", clock: StageClock) -> "_Parts":
        """What a run needs, on the device."""
        device = self._execution_device
        # A probe compares with the unconditional prediction whether or not the run is guided.
        needed = run.guided or (run.adaptive and run.adaptive.compare == "direction")
        execution = self._execution(run.exact)
        texts = Part("text encoder", self.encode, self.max_rows)
        with torch.inference_mode(), clock.measure({"encode": 1.0}):
            cond = torch.cat(execution.one_by_one(texts, run.prompts))  # (N, L, D)
            uncond = self.encode([run.negative_prompt]) if needed else None  # (1, L, D)
        streams = self._streams(run.seeds)
        noise = streams.draw().to(device)  # (N, C, h, w)
        steps = steps_for(self.scheduler, run.plan.steps)
        solver = solver_for(self.scheduler, steps, device, streams)
        if run.fresh is not None:
            _ = solver.after  # raises now if this scheduler has none
        call = partial(self._denoise, timesteps=solver.timesteps, execution=execution)
        denoisers = (
            partial(call, uncond=None, guidance=1.0),
            partial(call, uncond=uncond, guidance=run.guidance),
        )
        return _Parts(
            cond,
            noise * solver.init_noise_sigma,
            solver,
            lambda i: denoisers[i in run.guided],
            lambda i: partial(
                self._probe,
                timesteps=solver.timesteps,
                execution=execution,
                uncond=uncond,
                guidance=run.guidance if i in run.guided else 1.0,
            ),
            execution,
        )

    def _inputs(self, run: "_Run") -> Hashable:
        """Everything that a state depends on beside the history of its rows."""
        parts = (id(self.unet), id(self.text_encoder), self.lora, self._merged)
        scheduler = (
            type(self.scheduler).__name__,
            repr(sorted(self.scheduler.config.items(), key=str)),
        )
        size = (run.plan.steps, "exact" if run.exact else self.max_rows)
        return (
            tuple(run.prompts),
            run.seeds,
            (run.guidance, run.guided, run.negative_prompt, run.trunk),
            parts,
            scheduler,
            size,
        )

    def warm_up(self, rows: int, guidance_scale: float | None = None) -> None:
        """Runs encoder, denoiser and decoder once at a batch size, so that timing starts warm.

        A size that has run before costs nothing. For a model whose single pass takes seconds here,
        nothing is run: being first costs it milliseconds.
        """
        if rows not in self._warm_sizes and not self._is_heavy:
            plan = independent_plan(rows, 1)
            self([""] * rows, plan=plan, guidance_scale=guidance_scale)
            self._warm_sizes.add(rows)

    def exact_costs_nothing(self) -> bool:
        """Whether `exact` runs at the batch sizes that it would run at without; found out once.

        So it is where batches of all sizes give the same rows, and where one pass fills the device.
        """
        if self._is_heavy:
            return True
        execution = self._execution(exact=True)
        key = structure(self.unet)
        if key not in self._known.free_exact:
            generator = torch.Generator().manual_seed(0)
            x, t, cond = (
                torch.randn(16, *self._latent_shape, generator=generator),
                torch.arange(16) * 50,
                torch.randn(16, *self._cond_shape, generator=generator),
            )
            rows = [r.to(self._execution_device) for r in (x, t, cond)]
            with torch.inference_mode():
                for size in (1, 4, 6, 8, 16):
                    self._predict(*(r[:size] for r in rows), execution)
            self._known.free_exact[key] = all(self._known.same_rows.values())
        return self._known.free_exact[key]

    # -- parts -------------------------------------------------------------------------------

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Text-encoder hidden states c_n of prompts: [N, L, D]."""
        ids, mask = self._tokenize(prompts)
        return self.text_encoder(ids, attention_mask=mask)[0]

    def _tokenize(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        length = self.tokenizer.model_max_length
        tokens = self.tokenizer(
            list(prompts),
            padding="max_length",
            max_length=length,
            truncation=True,
            return_tensors="pt",
        ).to(self._execution_device)
        use_mask = getattr(self.text_encoder.config, "use_attention_mask", False)
        return tokens.input_ids, tokens.attention_mask if use_mask else None

    def starting_noise(self, seeds: Sequence[int]) -> Tensor:
        """Standard normal noise [N, C, h, w] on the CPU, each from its own seed."""
        return self._streams(seeds).draw()

    @property
    def _latent_shape(self) -> tuple[int, int, int]:
        size = self.unet.config.sample_size
        return self.unet.config.in_channels, size, size

    def _streams(self, seeds: Sequence[int]) -> Streams:
        return Streams(seeds, self._latent_shape)

    def _fresh(self, share: float, seeds: Sequence[int], depth: int) -> FreshNoise | None:
        """Noise that branches exchange, where the latents live."""
        fresh = make_fresh_noise(share, seeds, self._latent_shape, depth)
        return fresh and replace(fresh, draws=fresh.draws.to(self._execution_device))

    def _denoise(
        self,
        x: Tensor,
        index: Tensor,
        cond: Tensor,
        *,
        timesteps: Tensor,
        uncond: Tensor | None,
        guidance: float,
        execution: Execution,
    ) -> Tensor:
        """The UNet as the sampler wants it, with classifier-free guidance (arXiv 2207.12598)."""
        t = timesteps[index]
        if uncond is None:
            return self._predict(x, t, cond, execution)
        both = torch.cat([uncond.expand_as(cond), cond])  # (2R, L, D), both halves in one batch
        output = self._predict(torch.cat([x, x]), torch.cat([t, t]), both, execution, 2)
        without, with_prompt = output.chunk(2)
        return without + guidance * (with_prompt - without)

    def _probe(
        self,
        x: Tensor,
        index: Tensor,
        cond: Tensor,
        of: Tensor,
        *,
        timesteps: Tensor,
        uncond: Tensor | None,
        guidance: float,
        execution: Execution,
    ) -> tuple[Tensor, Tensor | None]:
        """Predictions of several conditions for each row, which share one unconditional pass."""
        how = {"timesteps": timesteps, "execution": execution}
        ask = partial(self._denoise, uncond=None, guidance=1.0, **how)
        if uncond is None:
            return ask(x[of], index[of], cond), None
        where = torch.cat([torch.arange(len(x), device=of.device), of])
        both = torch.cat([uncond.expand(len(x), -1, -1), cond])
        base, output = ask(x[where], index[where], both).tensor_split([len(x)])
        return base[of] + guidance * (output - base[of]), base

    def _predict(
        self, x: Tensor, t: Tensor, cond: Tensor, execution: Execution, passes: int = 1
    ) -> Tensor:
        """The UNet's output for passes, of which each row has so many."""
        dtype = self.unet.dtype  # latents stay float32 between steps, the network runs in its own
        part = Part(
            "denoiser",
            lambda z, t, cond: self.unet(z, t, cond).sample,
            passes * self.max_rows,
            structure(self.unet),
            partial(count_bytes, self.unet, self._latent_shape, self._cond_shape),
        )
        return execution.predict(part, x.to(dtype), t, cond.to(dtype)).to(x.dtype)

    @property
    def _cond_shape(self) -> tuple[int, int]:
        return self.tokenizer.model_max_length, self.unet.config.cross_attention_dim

    @property
    def _is_heavy(self) -> bool:
        """Whether one pass alone keeps the device busy for long."""
        return self._execution_device.type == "cpu" and self.flops.denoiser > HEAVY_FLOPS

    def _execution(self, exact: bool) -> Execution:
        device = self._execution_device
        check = not self._is_heavy and not self.exact_rows
        return Execution(device, exact, self._known, check, self.exact_rows)

    def preview(self, latents: Tensor) -> list[Image.Image]:
        """Cheap pictures of latents [R, C, h, w], in the size of the real ones."""
        if self.settings.latent_rgb is None:
            self.settings = replace(self.settings, latent_rgb=LatentRGB.fit(self.vae))
        height, width = (side * self.vae_scale_factor for side in latents.shape[-2:])
        return self.settings.latent_rgb.pictures(latents, (width, height))

    def _decode(
        self, latents: Tensor, output_type: OutputType, execution: Execution
    ) -> tuple[list[Image.Image] | np.ndarray | Tensor, tuple[bool, ...]]:
        # The one flag that is read of a run: its states' and its predictions' together.
        if not bool(torch.isfinite(latents).all() & execution.finite):
            raise FloatingPointError("The denoiser produced a value that is not a number.")
        if output_type == "latent":
            return latents, (False,) * len(latents)
        decoder = Part(
            "decoder",
            lambda z: self.vae.decode(z).sample,
            self.max_rows,
            structure(self.vae),
            partial(count_bytes, self.vae, self._latent_shape),
        )
        z = latents.to(self.vae.dtype) / self.vae.config.scaling_factor
        pixels = torch.cat(execution.one_by_one(decoder, z))
        if not bool(torch.isfinite(pixels).all()):
            raise FloatingPointError("The decoder produced a value that is not a number.")
        checker = Part("safety checker", self._checked, self.max_rows)
        pixels, flags = zip(*execution.one_by_one(checker, pixels), strict=True)
        images = self.image_processor.postprocess(torch.cat(pixels), output_type=output_type)
        return images, tuple(flag for some in flags for flag in some)

    def _checked(self, pixels: Tensor) -> tuple[Tensor, Sequence[bool]]:
        """Pictures after the model's safety checker, and whether it blacked each out."""
        checked, flags = self.run_safety_checker(pixels, pixels.device, self.dtype)
        return checked, flags or (False,) * len(pixels)

    def _guidance(self, guidance_scale: float | None) -> float:
        return self.settings.guidance_scale if guidance_scale is None else guidance_scale


@contextmanager
def _quiet(logger: str) -> Iterator[None]:
    """Within it, a logger of another library reports errors only."""
    log = logging.getLogger(logger)
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


@dataclass(frozen=True)
class _Run:
    """A checked call."""

    prompts: list[str]
    plan: Plan
    guidance: float
    guided: range  # the steps with guidance
    seeds: tuple[int, ...]
    negative_prompt: str
    trunk: Trunk
    fresh: FreshNoise | None
    adaptive: AdaptiveRule | None
    exact: bool = False

    @property
    def share_renewed(self) -> float:
        return 0.0 if self.fresh is None else self.fresh.share


@dataclass(frozen=True)
class _Parts:
    """What a run needs, on its device."""

    cond: Tensor  # (N, L, D)
    noise: Tensor  # (N, C, h, w)
    solver: Solver
    denoise: Callable[[int], Denoiser]
    probe: Callable[[int], Probe]
    execution: Execution


def _check_inputs(
    prompts: list[str], seeds: tuple[int, ...], negative_prompt: str, output_type: str
) -> None:
    if not prompts or not all(isinstance(p, str) for p in prompts):
        raise ValueError("prompts must be a list of at least one text.")
    if len(seeds) != len(prompts):
        raise ValueError(f"{len(seeds)} seeds were given for {len(prompts)} prompts.")
    if not isinstance(negative_prompt, str):
        raise ValueError("negative_prompt must be one text: the trunk shares it.")
    if output_type not in ("pil", "np", "pt", "latent"):
        raise ValueError(
            f"output_type is {output_type!r}; allowed are 'pil', 'np', 'pt', 'latent'."
        )


def _step_shares(rows: Sequence[Row]) -> dict[str, float]:
    """How the time of a step is divided: by rows that are shared and rows that are not."""
    trunk = sum(len(row) > 1 for row in rows) / len(rows)
    return {"trunk": trunk, "branches": 1 - trunk}
