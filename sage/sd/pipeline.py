"""SagePipeline: prompts to pictures with shared trajectories, in diffusers' conventions.

A `StableDiffusionPipeline` whose denoising loop walks a `Plan`. What it knows beyond that class:
which prompts are similar (CLIP), what a plan costs (FLOPs), how long its stages take, and how to
show a preview of every step. It draws no progress bars and opens no pages. Loading, adapters,
prompts, previews, counts and the checks of arguments are modules of their own beside this one.
"""

from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, Literal, cast

import numpy as np
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from PIL import Image
from torch import Tensor

from sage.core.adaptive import Adapted, AdaptiveRule, Probe, sample_adaptively
from sage.core.cost import Cost, ModelFlops, Probed, evaluations, plan_cost
from sage.core.grouping import Grouping, cosine_similarity, group_prompts, group_within
from sage.core.guidance import guide
from sage.core.lending import RULES
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
from sage.core.planner import Planned, plan_within, sharing_levels
from sage.core.sampling import State, in_prompt_order, moved, prompt_rows, sample
from sage.core.settings import Sampling, settings_of, shortened
from sage.core.solver import Solver
from sage.core.trunk import Denoiser, Trunk
from sage.sd import arguments
from sage.sd import prompts as texts
from sage.sd.adapters import plain_network
from sage.sd.arguments import OutputType
from sage.sd.execution import Execution, Known, Numbers, Part
from sage.sd.flops import count_bytes, model_flops_once
from sage.sd.identity import arithmetic, digest, fingerprint
from sage.sd.kinds import check_components
from sage.sd.loading import ModelPipeline
from sage.sd.preview import Previews, withheld
from sage.sd.schedulers import (
    WrappedScheduler,
    check_timesteps,
    denoiser_calls,
    has_table,
    solver_for,
    steps_for,
)
from sage.sd.spacing import solver_key, timesteps_of
from sage.sd.store import Draft, StateStore
from sage.sd.timing import StageClock, StageSeconds

PAPER = settings_of()
UNPLANNED = (
    "Nothing was measured for planning on this model; `python -m sage.studies schedules` does it."
)
# One pass of so many keeps a CPU busy for a tenth of a second and more; batches win nothing then.
HEAVY_FLOPS = 5e10


@dataclass(frozen=True)
class SageStep:
    """One finished step of a run.

    Attributes:
        step: How many steps are finished, from 1.
        steps: T.
        state: All trajectories after the step.
        withheld: Whether `previews` are blank, because the model has a safety checker and pictures
            are checked when they are finished.
    """

    step: int
    steps: int
    state: State
    _preview: Callable[[Tensor], list[Image.Image]] = field(repr=False)
    withheld: bool = False

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
        timesteps: Where the steps lay, as the scheduler counts noise levels.
        planned: What the planner chose, where the run had a budget.
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
    timesteps: tuple[float, ...] = ()
    planned: Planned | None = None

    @property
    def pictures(self) -> list[Image.Image]:
        """The images of a run whose `output_type` is "pil".

        Raises:
            TypeError: If they are arrays, tensors or latents.
        """
        if not isinstance(self.images, list):
            raise TypeError(f"The images are a {type(self.images).__name__}, not pictures.")
        return self.images

    @property
    def nsfw_content_detected(self) -> list[bool]:
        """Diffusers' name of `flagged`."""
        return list(self.flagged)


class SagePipeline(ModelPipeline):
    """Stable Diffusion with shared trajectories (SAGE, arXiv 2509.15865).

    Attributes:
        max_rows: Most rows that go through a network in one call, guidance not counted; it is fewer
            where memory is short. More rows than this take no less time for each.
        exact_rows: Passes in every call of the denoiser with `exact`; 0 is what suits the device.
    """

    max_rows: int = 32
    exact_rows: int = 0

    def __getstate__(self) -> dict[str, Any]:
        """A copy, here or in another process, finds out anew what is kept by this one's objects."""
        kept = {"_embeddings", "_warm_sizes", "_known", "_previews"}
        return {name: value for name, value in vars(self).items() if name not in kept}

    @cached_property
    def _embeddings(self) -> texts.EmbeddingCache:
        return texts.EmbeddingCache()

    @cached_property
    def _warm_sizes(self) -> set[int]:
        return set()

    @cached_property
    def _known(self) -> Known:
        return Known()

    @cached_property
    def _previews(self) -> Previews:
        return Previews()

    # -- what the page asks before it renders ------------------------------------------------

    def embed(self, prompts: Sequence[str]) -> Tensor:
        """Embeddings whose cosine is the similarity of prompts: [N, D], unit length."""
        listed = arguments.check_prompts(prompts)
        keys = dict(zip(listed, self._embeddings.keys(self, self.clip, listed), strict=True))
        known = self._embeddings.get(list(keys.values()))
        missing = [prompt for prompt, key in keys.items() if key not in known]
        if missing:
            found = self._embed(missing)
            fresh = {keys[prompt]: row for prompt, row in zip(missing, found, strict=True)}
            self._embeddings.update(fresh)
            known |= fresh
        return torch.stack([known[keys[prompt]] for prompt in listed])

    def _embed(self, prompts: Sequence[str]) -> Tensor:
        encode = partial(texts.similarity_vectors, self, self.clip)
        part = Part("encoder for similarity", encode, len(prompts))
        return torch.cat(Execution(self._execution_device).one_by_one(part, list(prompts)))

    def group(
        self,
        prompts: Sequence[str],
        tau_min: float | None = None,
        tau_max: float | None = None,
        max_group_size: int = PAPER["max_group_size"].default,
    ) -> Grouping:
        """Which prompts share, and why; bounds default to the model's own."""
        size = PAPER["max_group_size"].check(max_group_size, library=True)
        given = {"tau_min": tau_min, "tau_max": tau_max}
        low, high = (
            getattr(self.settings, name) if tau is None else PAPER[name].check(tau, library=True)
            for name, tau in given.items()
        )
        return group_prompts(cosine_similarity(self.embed(prompts)), low, high, size)

    def plan(
        self,
        groups: Sequence[Group],
        num_inference_steps: int = PAPER["steps"].default,
        share_ratio: float = PAPER["share_ratio"].default,
    ) -> Plan:
        """One trunk for each group up to share_ratio of the steps, then one branch a prompt."""
        calls = self.denoiser_calls(num_inference_steps)
        ratio = PAPER["share_ratio"].check(share_ratio, library=True)
        members = arguments.check_groups(groups)
        return shared_plan(members, calls, branch_step_from_ratio(ratio, calls))

    def denoiser_calls(self, num_inference_steps: int) -> int:
        """Calls of the denoiser, the steps of a plan: more than asked for with Heun or PNDM."""
        steps = arguments.check_count("num_inference_steps", num_inference_steps)
        return denoiser_calls(self.scheduler, steps)

    def cost(
        self,
        plan: Plan,
        guidance_scale: float | None = None,
        *,
        trunk: Trunk = "mean",
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        height: int | None = None,
        width: int | None = None,
    ) -> Cost:
        """What a plan costs on this model, counted and not run; arguments as in `stream`."""
        interval = arguments.check_interval(guidance_interval)
        guided = steps_between(interval, arguments.check_plan(plan).steps)
        trunk = PAPER["trunk"].check(trunk, library=True)
        if guidance_scale is None:
            guidance_scale = self.settings.guidance_scale
        scale: float = PAPER["guidance_scale"].check(guidance_scale, library=True)
        flops = self._flops_of(self._latent_shape(height, width))
        return plan_cost(plan, flops, guided if scale > 1 else False, trunk)

    @property
    def flops(self) -> ModelFlops:
        """FLOPs of one call of each part, counted once for the parts in use."""
        return self._flops_of(self._latent_shape())

    def _flops_of(self, latent: tuple[int, int, int]) -> ModelFlops:
        length = self.tokenizer.model_max_length
        return model_flops_once(self.text_encoder, self.unet, self.vae, length, latent[1:])

    def truncated(self, prompts: Sequence[str]) -> tuple[int, ...]:
        """Prompts that are longer than the tokenizer reads; their end is ignored."""
        return texts.truncated(self, arguments.check_prompts(prompts))

    # -- running -----------------------------------------------------------------------------

    def __call__(
        self, prompts: Sequence[str] | str | None = None, *args: Any, **how: Any
    ) -> SageOutput:
        """Renders the prompts; see `stream` for the arguments."""
        *_, output = self.stream(prompts, *args, **how)
        return cast(SageOutput, output)  # the last of a stream

    def filmstrip(
        self,
        prompts: Sequence[str] | str,
        share_ratios: Sequence[float],
        sampling: Sampling | None = None,
        *,
        reuse: StateStore | None = None,
        **how: Any,
    ) -> tuple[SageOutput, ...]:
        """Renders the prompts at several branch points from one trunk for each group.

        Args:
            prompts: N texts.
            share_ratios: The branch points; the trunk is paid once, up to the last of them.
            sampling: As in `stream`.
            reuse: Where states are kept; a store of its own without it.
            how: Further arguments of `stream`; a share ratio, a plan or a rule is not among them.

        Returns:
            One output for each share ratio, in the order asked for.

        Raises:
            ValueError: As in `stream`.
        """
        if taken := {"share_ratio", "plan", "adaptive", "budget"} & how.keys():
            raise ValueError(f"{min(taken)} is not for a filmstrip, which has share_ratios.")
        ratios = arguments.check_ratios(share_ratios)
        reuse = StateStore() if reuse is None else reuse
        own = sampling and replace(sampling, budget=0.0)  # the ratios override it
        outputs = {
            ratio: self(prompts, own, share_ratio=ratio, reuse=reuse, **how)
            for ratio in sorted(set(ratios), reverse=True)  # the longest trunk first
        }
        return tuple(outputs[ratio] for ratio in ratios)

    # As many arguments as diffusers' own call: what is not in `Sampling` says how to run, not what.
    # Each is checked in a line of its own, before anything runs.
    def stream(  # noqa: PLR0913, PLR0915
        self,
        prompts: Sequence[str] | str | None = None,
        sampling: Sampling | None = None,
        *,
        groups: Sequence[Group] | None = None,
        plan: Plan | None = None,
        timesteps: Sequence[int] | None = None,
        seeds: Sequence[int] | None = None,
        negative_prompt: str | Sequence[str] | None = "",
        output_type: OutputType = "pil",
        reuse: StateStore | None = None,
        start: State | None = None,
        adaptive: AdaptiveRule | None = None,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        exact: bool | None = None,
        height: int | None = None,
        width: int | None = None,
        clip_skip: int | None = None,
        **settings: Any,
    ) -> Iterator[SageStep | SageOutput]:
        """Renders the prompts step by step.

        Args:
            prompts: N texts; a single text is one prompt. `prompt`, as in diffusers, is the same.
            sampling: Settings as one object; those by keyword change it.
            groups: A partition of the prompts; by default found by `group`.
            plan: Any plan at all, instead of groups, steps and share ratio; it counts calls
                of the denoiser.
            timesteps: Where the steps lie, of the scheduler's noise levels, descending; their
                number is that of the steps, or of the plan's. By default, where `spacing` says.
            seeds: One for each prompt, from 0 to 2^63 - 1; without it `seed` and those that follow.
                A prompt's starting noise is torch.randn from a CPU generator with its seed, so it
                does not depend on the other prompts. A trunk starts from the noise of its member
                with the smallest seed (the first one, with the default seeds): so the order of the
                prompts has no effect.
            negative_prompt: What to guide away from: one text for all prompts, or one for each.
                Prompts with different ones share nothing: groups that are found keep them apart,
                and groups and plans that are given have to.
            output_type: "pil", "np", "pt" or "latent".
            reuse: Keeps the states of runs and goes on from those of a run that began alike, so
                that moving the branch point costs the branches only. Bitwise equal to a run from
                the start, whatever has been changed on the pipeline (`sage.sd.identity`).
                Schedulers without a table always run from the start.
            start: A state of a run that began like this one, to go on from: of all its prompts, or
                of some by `sage.core.sampling.only`. What led to it counts as reused. Needs `plan`;
                excludes `reuse` and `adaptive`.
            adaptive: Splits groups while sampling, where their predictions disagree, instead of at
                `share_ratio`. The output's plan is the realised one; its probes are counted.
                Excludes `plan`, and `reuse`: no state is known before the probes are.
            guidance_interval: From and to, in shares of the steps: guidance is on from the first
                to before the second, and no unconditional pass is run elsewhere (Kynkäänniemi et
                al. 2024, arXiv 2404.07724, who give the interval in noise levels).
            exact: Whether a picture is bit for bit the same whatever its company, `max_rows`, free
                memory and reused states; see `sage.sd.execution`. None is `exact_by_default`.
            height: Of the pictures, in pixels; the model's own without it.
            width: Likewise.
            clip_skip: How many of the text encoder's last layers the prompts leave out.
            settings: Fields of `Sampling` by name, `num_inference_steps` for `steps`; what is not
                given has the model's default. `trunk` and `fresh_noise` are explained in
                `sage.core.trunk` and `sage.core.noise`; guidance of 1 or less is none
                (arXiv 2207.12598), and a trunk guides with its group's mean embedding.

        Yields:
            A SageStep for every step that is run, then one SageOutput.

        Raises:
            ValueError: If an argument is wrong, or arguments disagree; nothing has run then.
            FloatingPointError: If a part gave a value that is not a number; it says which.
            MemoryError: If memory does not suffice for a single row.
        """
        if "prompt" in settings:
            if prompts is not None:
                raise ValueError("prompts and prompt are one argument, and both were given.")
            prompts = settings.pop("prompt")
        listed = arguments.check_prompts(prompts)
        planned = plan is not None or adaptive is not None
        given = arguments.named_settings(settings)
        chosen = arguments.settings_for(self.settings, sampling, given, planned)
        arguments.check_together(given, plan=plan, adaptive=adaptive, timesteps=timesteps)
        check_components(self)
        self._check_checker()
        self._check_rows()
        seeds = arguments.check_seeds(seeds, len(listed), chosen.seed)
        negatives = arguments.check_negative_prompt(negative_prompt, len(listed))
        output_type = arguments.check_output_type(output_type)
        interval = arguments.check_interval(guidance_interval)
        layers = getattr(self.text_encoder.config, "num_hidden_layers", 1)
        skip = arguments.check_clip_skip(clip_skip, layers)
        shape = self._latent_shape(height, width)
        arguments.check_exact(exact)
        _check_reuse(reuse)
        _check_rule(adaptive, plan, reuse)
        tabled = has_table(self.scheduler)
        _check_start(start, plan, reuse, tabled)
        if timesteps is not None:
            timesteps = check_timesteps(timesteps, self.scheduler)
            if plan is None:
                chosen = replace(chosen, steps=given.get("steps") or len(timesteps), budget=0.0)
        found: Planned | None = None
        if plan is not None:
            self._check_plan(plan, groups, len(listed), given.get("steps"))
        elif chosen.budget and adaptive is None:
            found = self.plan_within(listed, chosen, groups, seeds, negatives)
            plan, timesteps = found.plan, found.timesteps
            chosen = replace(chosen, trunk=found.trunk)
        else:
            parts = self._groups_of(listed, seeds, negatives, chosen, groups)
            # A rule finds its own branch points.
            plan = self.plan(parts, chosen.steps, chosen.share_ratio if adaptive is None else 1.0)
        arguments.check_guided_alike(negatives, plan)
        placed = self._placed(timesteps, plan, chosen.spacing)
        if not tabled:
            self._check_untabled(chosen, adaptive)
        guided = steps_between(interval, plan.steps) if chosen.guidance_scale > 1 else range(0)
        run = _Run(
            prompts=listed,
            plan=plan,
            sampling=chosen,
            asked=plan.steps if placed else steps_for(self.scheduler, plan.steps),
            timesteps=placed,
            planned=found,
            guided=guided,
            seeds=seeds,
            negative_prompts=negatives,
            adaptive=adaptive,
            shape=shape,
            clip_skip=skip,
            exact=self.exact_by_default if exact is None else exact,
            start=start,
        )
        _check_state(run, remembers=not isinstance(self.scheduler, DDIMScheduler))
        return self._run(run, output_type, reuse)

    def _check_untabled(self, sampling: Sampling, rule: AdaptiveRule | None) -> None:
        """That nothing is asked for which needs to know where a step leads."""
        informed = rule is not None and rule.compare == "information"
        for name, wanted in {"fresh_noise": sampling.fresh_noise, "information": informed}.items():
            if wanted:
                raise ValueError(f"{name} does not work with {type(self.scheduler).__name__}.")

    def _check_checker(self) -> None:
        """That a checker which was set later has what diffusers' own call makes its input with."""
        without = self.safety_checker is not None and self.feature_extractor is None
        if without and not self._has_own_check:
            raise ValueError("The safety checker needs a feature_extractor; set that, too.")

    def _check_rows(self) -> None:
        arguments.check_count("max_rows", self.max_rows)
        if self.exact_rows:
            arguments.check_count("exact_rows", self.exact_rows)

    def plan_within(
        self,
        prompts: Sequence[str],
        sampling: Sampling,
        groups: Sequence[Group] | None = None,
        seeds: Sequence[int] | None = None,
        negative_prompt: str | Sequence[str] | None = "",
    ) -> Planned:
        """The best plan within a budget: see `sage.core.planner`.

        Args:
            prompts: N texts.
            sampling: Its budget, and the bounds of groups.
            groups: A partition of the prompts; by default found by `group`.
            seeds: One for each prompt: in a group, the smallest leads.
            negative_prompt: As in `stream`.

        Raises:
            ValueError: If nothing was measured for planning on this model.
        """
        if (planning := self.settings.planning) is None:
            raise ValueError(UNPLANNED)
        check_timesteps(planning.levels, self.scheduler)
        negatives = arguments.check_negative_prompt(negative_prompt, len(prompts))
        seeds = seeds or range(len(prompts))
        parts = self._groups_of(prompts, seeds, negatives, sampling, groups)
        return plan_within(
            planning, sharing_levels(parts), sampling.budget, solver_key(self.scheduler)
        )

    def _placed(
        self, timesteps: Sequence[int] | None, plan: Plan, spacing: str
    ) -> tuple[int, ...] | None:
        """Where the steps of a plan lie; None for the scheduler's own places."""
        planning = self.settings.planning
        if timesteps is None:
            return timesteps_of(spacing, plan.steps, self.scheduler, planning)
        if len(timesteps) != plan.steps:
            raise ValueError(f"{len(timesteps)} timesteps were given for {plan.steps} steps.")
        return tuple(timesteps)

    def _check_plan(
        self, plan: Plan, groups: Sequence[Group] | None, number: int, steps: int | None
    ) -> None:
        """A plan is of so many prompts, and nothing else that is given disagrees with it."""
        arguments.check_plan(plan, number)
        if groups is not None:
            raise ValueError("A plan says who shares with whom: it excludes groups.")
        if steps is not None and (calls := self.denoiser_calls(steps)) != plan.steps:
            raise ValueError(
                f"The plan has {plan.steps} calls of the denoiser, and {steps} steps make {calls}."
            )

    def _groups_of(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        negatives: Sequence[str],
        sampling: Sampling,
        groups: Sequence[Group] | None,
    ) -> list[Group]:
        """Groups, given or found, the smallest seed of each first: it lends the noise."""
        if groups is None:
            bounds = (sampling.tau_min, sampling.tau_max, sampling.max_group_size)
            groups = group_within(
                negatives, lambda some: self.group([prompts[n] for n in some], *bounds).groups
            )
        groups = arguments.check_groups(groups, len(prompts))
        return [tuple(sorted(group, key=lambda n: (seeds[n], n))) for group in groups]

    def _run(
        self, run: "_Run", output_type: OutputType, reuse: StateStore | None
    ) -> Iterator[SageStep | SageOutput]:
        execution = self._execution(run.exact)
        clock = StageClock(execution.device)
        # 1. Condition, noise and solver.
        parts = self._parts(run, execution, clock)
        # 2. Trunks and branches, one step at a time.
        draft = self._draft(run, parts, reuse)
        state = draft.latest() if draft else run.start and moved(run.start, parts.noise.device)
        first = 0 if state is None else state.step + 1
        done, probes = yield from self._steps(run, parts, draft, state, clock)
        # 3. Pictures.
        latents = in_prompt_order(done.state)
        with torch.inference_mode(), clock.measure({"decode": 1.0}):
            images, flagged = self._decode(latents, output_type, execution)
        if draft is not None:
            draft.publish()
        guided = run.guided if run.guidance > 1 else False
        self.maybe_free_model_hooks()
        yield SageOutput(
            images=images,
            plan=done.plan,
            cost=plan_cost(done.plan, self._flops_of(run.shape), guided, run.trunk, probes),
            timings=clock.read(),
            latents=latents,
            seeds=run.seeds,
            flagged=flagged,
            reused=evaluations(done.plan, run.trunk, range(first)),
            probes=sum(probe.extra for probe in probes),
            memory_retries=execution.retries,
            rows=execution.largest,
            exact=run.exact,
            timesteps=tuple(parts.solver.timesteps.tolist()),
            planned=run.planned,
        )

    def _steps(
        self,
        run: "_Run",
        parts: "_Parts",
        draft: Draft | None,
        state: State | None,
        clock: StageClock,
    ) -> Generator[SageStep, None, tuple[Adapted, list[Probed]]]:
        """All steps after a state, each noted in the draft; returns the last one and the probes."""
        done = Adapted(cast(State, state), run.plan)  # without one there is a first step
        walk, probes = self._walk(run, parts, state), []
        for i in range(0 if state is None else state.step + 1, run.plan.steps):
            shares: dict[str, float] = {}  # known after the step: a probe may split rows
            with torch.inference_mode(), clock.measure(shares):
                done = next(walk)
            shares |= _step_shares(done.state.rows)
            probes += [done.probed] if done.probed else []
            # Other rows at once, other last bits: not what a run from the start would give.
            if draft is not None and (run.exact or not parts.execution.retries):
                draft.add(done.state, parts.execution.numbers.finite)
            preview = partial(self._preview_of_run, parts.execution.numbers)
            try:
                yield SageStep(i + 1, run.plan.steps, done.state, preview, self.has_checker)
            except GeneratorExit:  # stopped: what was done is good for a later run
                if draft is not None:
                    draft.publish()
                raise
        return done, probes

    def _draft(self, run: "_Run", parts: "_Parts", reuse: StateStore | None) -> Draft | None:
        """Where a run keeps its states; a wrapped scheduler's are not whole: its counters lack."""
        if reuse is None or isinstance(parts.solver, WrappedScheduler):
            return None
        return Draft(reuse, lambda: self._inputs(run, parts), run.plan, run.share_renewed)

    def _walk(self, run: "_Run", parts: "_Parts", state: State | None) -> Iterator[Adapted]:
        """All steps after a state, by a plan or by a rule."""
        options = {"trunk": run.trunk, "fresh": parts.fresh, "base": parts.base}
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

    def _parts(self, run: "_Run", execution: Execution, clock: StageClock) -> "_Parts":
        """What a run needs, on the device."""
        device = execution.device  # the pipeline's own searches all of its modules
        # A probe compares with the unconditional prediction whether or not the run is guided.
        needed = run.guided or (run.adaptive and run.adaptive.compare == "direction")
        encode = partial(texts.encode, self, clip_skip=run.clip_skip, device=device)
        encoder = Part("text encoder", encode, self.max_rows)
        with torch.inference_mode(), clock.measure({"encode": 1.0}):
            cond = execution.encode(encoder, run.prompts)  # (N, L, D)
            uncond = _for_each(run.negative_prompts, encode) if needed else None
            for found in (cond,) if uncond is None else (cond, uncond):
                execution.numbers.note("text encoder", found)
        streams = Streams(run.seeds, run.shape)
        noise = streams.draw().to(device)  # (N, C, h, w)
        solver = solver_for(self.scheduler, run.asked, device, streams, run.timesteps)
        call = partial(self._denoise, timesteps=solver.timesteps, execution=execution)
        denoisers = (
            partial(call, uncond=None, guidance=1.0),
            partial(call, uncond=uncond, guidance=run.guidance),
        )
        return _Parts(
            cond,
            uncond,
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
            self._fresh(run, device),
        )

    def _inputs(self, run: "_Run", parts: "_Parts") -> Hashable:
        """Everything that a state depends on beside the history of its rows, by value."""
        return (
            digest(parts.cond, parts.uncond, parts.noise, parts.solver),
            fingerprint(self.unet),
            (run.guidance, run.guided, run.trunk),
            (run.plan.steps, "exact" if run.exact else self.max_rows),
            (str(parts.execution.device), arithmetic()),
        )

    def warm_up(self, rows: int, guidance_scale: float | None = None) -> None:
        """Runs encoder, denoiser and decoder once at a batch size, so that timing starts warm.

        A size that has run before costs nothing. For a model whose single pass takes seconds here,
        nothing is run: being first costs it milliseconds.
        """
        arguments.check_count("rows", rows)
        if rows not in self._warm_sizes and not self.is_heavy:
            plan = independent_plan(rows, 1)
            self([""] * rows, plan=plan, guidance_scale=guidance_scale)
            self._warm_sizes.add(rows)

    @property
    def exact_by_default(self) -> bool:
        """Whether runs are `exact` unless they are told not to be: where it costs little.

        By precision: the built-in model's runs took 0.4 to 1.8 % longer in bfloat16 on a CPU with
        matrix units, and 38 to 68 % in float32. A compiled network would be compiled for every
        size, and on a GPU nothing has been measured.
        """
        if self.unet.dtype is not torch.bfloat16 or plain_network(self.unet) is not self.unet:
            return False
        return self._execution_device.type == "cpu"

    # -- parts -------------------------------------------------------------------------------

    def encode(self, prompts: Sequence[str], clip_skip: int | None = None) -> Tensor:
        """Text-encoder hidden states c_n of prompts: [N, L, D]."""
        layers = getattr(self.text_encoder.config, "num_hidden_layers", 1)
        skip = arguments.check_clip_skip(clip_skip, layers)
        return texts.encode(self, arguments.check_prompts(prompts), skip)

    def starting_noise(self, seeds: Sequence[int]) -> Tensor:
        """Standard normal noise [N, C, h, w] on the CPU, each from its own seed."""
        return Streams(arguments.check_noise_seeds(seeds), self._latent_shape()).draw()

    def _latent_shape(
        self, height: int | None = None, width: int | None = None
    ) -> tuple[int, int, int]:
        """[C, h, w] of latents, for pictures of so many pixels or of the model's own size.

        Raises:
            ValueError: If a side is no size for a picture.
        """
        own, factor = self.unet.config.sample_size, self.vae_scale_factor
        sides = (own, own) if own is None or isinstance(own, int) else tuple(own)
        given = {"height": height, "width": width}
        latent = []
        for (name, pixels), side in zip(given.items(), sides, strict=True):
            if pixels is None and side is None:
                raise ValueError(f"This model has no size of its own; give {name}.")
            known = pixels is None
            latent.append(side if known else arguments.check_size(name, pixels, factor) // factor)
        return self.unet.config.in_channels, latent[0], latent[1]

    def _fresh(self, run: "_Run", device: torch.device) -> FreshNoise | None:
        """Noise that branches exchange, where the latents live."""
        # An adaptive plan may part one prompt at a time.
        depth = run.plan.depth if run.adaptive is None else len(run.prompts)
        fresh = make_fresh_noise(run.sampling.fresh_noise, run.seeds, run.shape, depth)
        return fresh and replace(fresh, draws=fresh.draws.to(device))

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
        if cond.ndim == 4:  # (R, 2, L, D): rows with bases of their own
            own, cond = cond.unbind(1)
            uncond = None if uncond is None else own
        if uncond is None:
            return self._predict(x, t, cond, execution)
        both = torch.cat([uncond.expand_as(cond), cond])  # (2R, L, D), both halves in one batch
        output = self._predict(torch.cat([x, x]), torch.cat([t, t]), both, execution, 2)
        without, with_prompt = output.chunk(2)
        return guide(without, with_prompt, guidance)

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
        if cond.ndim == 4:  # (Q, 2, L, D): rows with bases of their own, alike for all of a row
            own, cond = cond.unbind(1)
            bases = own.new_empty(len(x), *own.shape[1:]).index_copy_(0, of, own)
        else:
            bases = uncond.expand(len(x), -1, -1)
        both = torch.cat([bases, cond])
        base, output = ask(x[where], index[where], both).tensor_split([len(x)])
        return guide(base[of], output, guidance), base

    def _predict(
        self, x: Tensor, t: Tensor, cond: Tensor, execution: Execution, passes: int = 1
    ) -> Tensor:
        """The UNet's output for passes, of which each row has so many."""
        key, dtype = execution.structure_of(self.unet)
        part = Part(
            "denoiser",
            lambda z, t, cond: self.unet(z, t, cond).sample,
            passes * self.max_rows,
            key,
            partial(count_bytes, self.unet, tuple(x.shape[1:]), tuple(cond.shape[1:])),
        )
        execution.numbers.note(self._scheduler_title, x)
        # Latents stay float32 between steps; the network runs in its own precision.
        return execution.predict(part, x.to(dtype), t, cond.to(dtype)).to(x.dtype)

    @property
    def is_heavy(self) -> bool:
        """Whether one pass alone keeps the device busy for long."""
        return self._is_heavy_on(self._execution_device)

    def _is_heavy_on(self, device: torch.device) -> bool:
        return device.type == "cpu" and self.flops.denoiser > HEAVY_FLOPS

    def _execution(self, exact: bool) -> Execution:
        device = self._execution_device
        # On a GPU, where a full call hardly takes longer, a size of one's own is kept to.
        check = not self._is_heavy_on(device) and (device.type == "cpu" or not self.exact_rows)
        return Execution(device, exact, self._known, check, self.exact_rows)

    def expected(self, state: State) -> tuple[list[Image.Image], tuple[bool, ...]]:
        """The clean picture that each prompt is heading for, decoded, and which are flagged.

        Costs as much as the finished pictures' decoding, and is checked as they are.
        """
        arguments.check_state("state", state)
        clean = state.denoised[prompt_rows(state.rows, state.denoised.device)]
        execution = self._execution(exact=False)
        with torch.inference_mode():
            execution.numbers.note("denoiser", clean)
            images, flagged = self._decode(clean, "pil", execution)
        return cast(list[Image.Image], images), flagged

    def preview(self, latents: Tensor) -> list[Image.Image]:
        """Cheap pictures of latents [R, C, h, w], in the size of the real ones.

        Grey ones where the model has a safety checker: it judges finished pictures only.
        """
        if not isinstance(latents, Tensor) or latents.ndim != 4:
            raise ValueError(f"latents is {shortened(latents)}; need a tensor [R, C, h, w].")
        height, width = (side * self.vae_scale_factor for side in latents.shape[-2:])
        if self.has_checker:
            return withheld(len(latents), (width, height))
        own = self.settings.latent_rgb
        colours = self._previews.colours(self.vae, own, lambda: self._execution_device)
        return colours.pictures(latents, (width, height))

    def _preview_of_run(self, numbers: Numbers, latents: Tensor) -> list[Image.Image]:
        try:
            return self.preview(latents)
        except FloatingPointError:
            numbers.check()  # knows whose value it is
            raise

    @property
    def _scheduler_title(self) -> str:
        return f"scheduler {type(self.scheduler).__name__}"

    @property
    def has_checker(self) -> bool:
        """Whether finished pictures are checked before they are shown, by any checker."""
        return self.safety_checker is not None or self._has_own_check

    @property
    def _has_own_check(self) -> bool:
        own = vars(self).get("run_safety_checker") or type(self).run_safety_checker
        return own is not _NO_CHECKER

    def checked(self, pixels: Tensor) -> tuple[Tensor, list[bool]]:
        """Finished pictures in [-1, 1], and which of them the safety checker made black."""
        judged = self.run_safety_checker(pixels, pixels.device, self.dtype)
        shown, found = judged if isinstance(judged, tuple) and len(judged) == 2 else (None, None)
        if not (isinstance(shown, Tensor) and shown.is_floating_point()) or (
            shown.shape != pixels.shape
        ):
            raise ValueError(
                f"The safety checker gave a {type(judged).__name__}; need the pictures in the "
                "shape and kind of numbers that it was given, and a flag for each."
            )
        pixels = shown
        # None is nobody's word, as in diffusers; some give one for all.
        if found is None or isinstance(found, bool):
            found = [bool(found)] * len(pixels)
        flags = [bool(flag) for flag in found]
        if len(flags) != len(pixels):  # a picture that nobody judged must not be shown
            raise ValueError(f"The safety checker judged {len(flags)} of {len(pixels)} pictures.")
        pixels = pixels.clone()
        pixels[flags] = -1.0  # black, whatever the checker made of it
        return pixels, flags

    def _decode(
        self, latents: Tensor, output_type: OutputType, execution: Execution
    ) -> tuple[list[Image.Image] | np.ndarray | Tensor, tuple[bool, ...]]:
        # The one flag that is read of a run: its states' and its predictions' together.
        execution.numbers.note(self._scheduler_title, latents)
        execution.numbers.check()
        if output_type == "latent":
            return latents, (False,) * len(latents)
        decoder = Part(
            "decoder",
            lambda z: self.vae.decode(z).sample,
            self.max_rows,
            execution.structure_of(self.vae)[0],
            partial(count_bytes, self.vae, tuple(latents.shape[1:])),
        )
        z = latents.to(self.vae.dtype) / self.vae.config.scaling_factor
        pixels = torch.cat(execution.one_by_one(decoder, z))
        _check_pixels(pixels, "decoder")
        checker = Part("safety checker", self.checked, self.max_rows)
        checked, flags = zip(*execution.one_by_one(checker, pixels), strict=True)
        pixels = torch.cat(checked)
        _check_pixels(pixels, "safety checker")
        images = self.image_processor.postprocess(pixels, output_type=output_type)
        return images, tuple(flag for some in flags for flag in some)


def _check_pixels(pixels: Tensor, part: str) -> None:
    if not bool(torch.isfinite(pixels).all()):
        raise FloatingPointError(f"The {part} produced a value that is not a number.")


_NO_CHECKER = StableDiffusionPipeline.run_safety_checker


def _check_reuse(reuse: StateStore | None) -> None:
    if reuse is not None and not isinstance(reuse, StateStore):
        raise ValueError(f"reuse is a {type(reuse).__name__}; it must be a StateStore.")


def _check_rule(rule: AdaptiveRule | None, plan: Plan | None, reuse: StateStore | None) -> None:
    if rule is None:
        return
    if not isinstance(rule, AdaptiveRule):
        raise ValueError(f"adaptive is a {type(rule).__name__}; it must be an AdaptiveRule.")
    if plan is not None or reuse is not None:
        raise ValueError("adaptive finds its own plan: it excludes plan and reuse.")


def _check_start(
    start: State | None, plan: Plan | None, reuse: StateStore | None, has_table: bool
) -> None:
    if start is None:
        return
    arguments.check_state("start", start)
    if plan is None or reuse is not None:
        raise ValueError("start goes on with a plan: it needs plan, and excludes reuse.")
    if not has_table:
        raise ValueError("start does not work with this scheduler, whose counters are not kept.")
    if not 0 <= start.step < plan.steps - 1:
        raise ValueError(f"start is after step {start.step + 1} of {plan.steps}; none is left.")


def _check_state(run: "_Run", remembers: bool) -> None:
    """That a run can go on from its start: of the same rows, size, scheduler and kind of trunk."""
    if (start := run.start) is None:
        return
    if start.rows != run.plan.rows(start.step):
        raise ValueError(f"start is after step {start.step + 1}, with other rows than the plan.")
    need = (len(start.rows), *run.shape)
    for tensor in (start.x, start.denoised, *start.memory):
        if tuple(tensor.shape) != need:
            raise ValueError(f"start has latents of the shape {tuple(tensor.shape)}; need {need}.")
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError("start holds a value that is not a number.")
    if len(start.memory) != remembers:
        raise ValueError("start comes from another scheduler, which remembers something else.")
    if run.trunk in RULES and not start.kept:
        raise ValueError(f"start comes from a trunk of another kind than {run.trunk}.")


@dataclass(frozen=True, kw_only=True)
class _Run:
    """A checked call."""

    prompts: list[str]
    plan: Plan
    sampling: Sampling
    asked: int  # steps that the scheduler is asked for, so that it makes the plan's calls
    guided: range  # the steps with guidance
    seeds: tuple[int, ...]
    negative_prompts: tuple[str, ...]
    adaptive: AdaptiveRule | None
    shape: tuple[int, int, int]  # of a latent
    clip_skip: int | None
    exact: bool = False
    start: State | None = None
    timesteps: tuple[int, ...] | None = None  # where the steps lie; None for the scheduler's own
    planned: Planned | None = None

    @property
    def guidance(self) -> float:
        return self.sampling.guidance_scale

    @property
    def trunk(self) -> Trunk:
        # Where nobody shares there is no trunk, whatever it would follow: one kind of states.
        shares = self.adaptive is not None or self.plan.branch_steps
        return self.sampling.trunk if shares else PAPER["trunk"].default

    @property
    def share_renewed(self) -> float:
        return self.sampling.fresh_noise


@dataclass(frozen=True)
class _Parts:
    """What a run needs, on its device."""

    cond: Tensor  # (N, L, D)
    uncond: Tensor | None  # (1, L, D), or (N, L, D) where prompts have their own
    noise: Tensor  # (N, C, h, w)
    solver: Solver
    denoise: Callable[[int], Denoiser]
    probe: Callable[[int], Probe]
    execution: Execution
    fresh: FreshNoise | None

    @property
    def base(self) -> Tensor | None:
        """What each prompt is guided away from [N, L, D], where it is not the same for all."""
        return self.uncond if self.uncond is not None and len(self.uncond) > 1 else None


def _for_each(negatives: Sequence[str], encode: Callable[..., Tensor]) -> Tensor:
    """Conditions (N, L, D) of negative prompts, or (1, L, D) if all are the same.

    Each is encoded by itself, so that its last bits do not depend on the others.
    """
    known = {text: encode([text], clip_skip=None) for text in dict.fromkeys(negatives)}
    several = len(known) > 1
    return torch.cat([known[text] for text in (negatives if several else known)])


def _step_shares(rows: Sequence[Row]) -> dict[str, float]:
    """How the time of a step is divided: by rows that are shared and rows that are not."""
    trunk = sum(len(row) > 1 for row in rows) / len(rows)
    return {"trunk": trunk, "branches": 1 - trunk}
