"""Turns a diffusers scheduler into a solver: a table where it is linear, a wrapper elsewhere.

Only reads a scheduler; none is stepped or changed by a run. The tables are made before the loop,
so their solvers read nothing back to the host. A step of a solver is one call of the denoiser:
Heun's 10 steps are 19 calls, PNDM's 30 are 31.
"""

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import diffusers
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
)
from torch import Tensor

from sage.core.noise import Streams
from sage.core.settings import SCHEDULER_KINDS, SCHEDULERS
from sage.core.solver import DDIM, Memory, Multistep, Solver, prediction_table
from sage.core.words import plural
from sage.sd.arguments import whole_number
from sage.sd.foreign import Scheduler


def make_scheduler(key: str, like: Scheduler) -> Scheduler:
    """The scheduler of a name with the noise levels and the kind of prediction of another one.

    Args:
        key: One of SCHEDULERS.
        like: The scheduler that a model came with, or any other of that model.

    Raises:
        ValueError: If the name is unknown.
    """
    if key not in SCHEDULERS:
        raise ValueError(f"scheduler is {key!r}; allowed are {', '.join(SCHEDULERS)}.")
    kind, options = _class(key), SCHEDULER_KINDS[key].options
    if kind is DDIMScheduler:
        return ddim_scheduler(like)
    config = dict(like.config)
    zero_snr = config.get("rescale_betas_zero_snr", False)
    if zero_snr and "rescale_betas_zero_snr" not in inspect.signature(kind).parameters:
        # These would forget that the last level is pure noise; diffusers' others end at 2^-24 too.
        levels = torch.as_tensor(like.alphas_cumprod).double().clone()
        levels[-1] = 2**-24
        before = torch.cat([torch.ones(1, dtype=levels.dtype), levels[:-1]])
        options = {**options} | {"trained_betas": (1 - levels / before).tolist()}
    return kind.from_config(config, **options)


def _class(key: str) -> Any:
    """The class of diffusers that stands behind a key."""
    return getattr(diffusers, SCHEDULER_KINDS[key].diffusers)


def ddim_scheduler(scheduler: Scheduler) -> DDIMScheduler:
    """The DDIM scheduler of the same noise levels; the paper samples with DDIM."""
    if isinstance(scheduler, DDIMScheduler):
        return scheduler
    return _class("ddim").from_config(scheduler.config, clip_sample=False)


def solver_for(
    scheduler: Scheduler,
    steps: int,
    device: torch.device | str,
    streams: Streams,
    timesteps: Sequence[int] | None = None,
) -> Solver:
    """The solver that does what a scheduler would do in so many steps.

    Args:
        scheduler: Any diffusers scheduler of a Stable Diffusion pipeline, at its defaults for
            noise (DDIM: eta = 0; Euler: no churn).
        steps: What the scheduler is asked for; `solver.steps` is the number of denoiser calls.
        device: Where the latents live.
        streams: Noise of the prompts, from which the starting noise has been drawn.
        timesteps: Where the steps lie, `steps` of them; the scheduler's own without it.

    Raises:
        ValueError: If the scheduler cannot make such steps or is not meant for latents.
    """
    if getattr(scheduler.config, "thresholding", False):
        raise ValueError("The scheduler uses thresholding, which is for pixels, not latents.")
    with torch.device("cpu"):  # whatever the process's default is
        levels = _with_steps(scheduler, steps)
        if isinstance(levels, DDIMScheduler):
            return _ddim(levels, steps, device, timesteps)
        if timesteps is not None:
            _place(levels, check_timesteps(timesteps, levels))
        table = _TABLES.get(type(levels), lambda _: None)(levels)
        if table is None:
            return WrappedScheduler(levels, device, streams)
        return _multistep(levels, torch.stack(table, dim=-1), device, streams)


def denoiser_calls(scheduler: Scheduler, steps: int) -> int:
    """How many denoiser calls a scheduler makes of so many steps.

    Raises:
        ValueError: If it cannot make so many steps.
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}; at least 1 is needed.")
    levels_known = scheduler.config.get("num_train_timesteps", steps)
    if steps > levels_known:
        raise ValueError(f"steps is {steps}; this model has {levels_known} noise levels.")
    if isinstance(scheduler, DDIMScheduler):
        return steps
    return len(_with_steps(scheduler, steps).timesteps)


def _with_steps(scheduler: Scheduler, steps: int) -> Scheduler:
    """A copy of a scheduler with so many steps; the scheduler may be shared between threads.

    Raises:
        ValueError: If it cannot make so many.
    """
    levels = copy.deepcopy(scheduler)
    try:
        levels.set_timesteps(steps)
    except (ValueError, LookupError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        name, number = type(scheduler).__name__, plural(steps, "step")
        raise ValueError(f"{name} cannot make {number}: {reason}") from error
    return levels


def steps_for(scheduler: Scheduler, calls: int) -> int:
    """How many steps to ask a scheduler for, so that it makes so many denoiser calls.

    Raises:
        ValueError: If no number of steps does (Heun makes odd numbers of calls only).
    """
    for steps in range(calls, 0, -1):
        if denoiser_calls(scheduler, steps) == calls:
            return steps
    raise ValueError(f"{type(scheduler).__name__} cannot make exactly {calls} denoiser calls.")


def has_table(scheduler: Scheduler) -> bool:
    """Whether a scheduler's solver is a table, whose whole state is in the run's."""
    table = _TABLES.get(type(scheduler))
    if table is None:
        return isinstance(scheduler, DDIMScheduler)
    return table(_with_steps(scheduler, 2)) is not None


def check_timesteps(timesteps: Sequence[int], scheduler: Scheduler) -> list[int]:
    """Timesteps of a run, as a list.

    Raises:
        ValueError: If they are no whole numbers of this scheduler, descending, or it takes none.
    """
    if not has_table(scheduler):
        raise ValueError(f"{type(scheduler).__name__} has its own timesteps; no others are taken.")
    top = scheduler.config.num_train_timesteps - 1
    try:
        given = None if isinstance(timesteps, (str, bytes, Mapping, set)) else list(timesteps)
    except TypeError:  # one number, or an array without dimensions
        given = None
    whole = [whole_number(t) for t in given or ()]
    listed = [t for t in whole if t is not None]
    fits = listed and len(listed) == len(whole) and top >= listed[0] and listed[-1] >= 0
    if not fits or any(a <= b for a, b in pairwise(listed)):
        shown = str(timesteps) if given is None else ", ".join(map(str, given))
        raise ValueError(
            f"timesteps is {shown[:60] or 'empty'}; need whole numbers from {top} to 0, descending."
        )
    return listed


def _place(levels: Scheduler, timesteps: Sequence[int]) -> None:
    """Moves the steps of a copied scheduler; the level after the last one stays."""
    chosen = torch.tensor(timesteps)
    alphas = torch.as_tensor(levels.alphas_cumprod).double()[chosen]
    levels.timesteps = chosen.to(levels.timesteps)
    levels.num_inference_steps = len(timesteps)
    if hasattr(levels, "sigmas"):
        sigmas = torch.cat([((1 - alphas) / alphas).sqrt(), levels.sigmas[-1:].double()])
        levels.sigmas = sigmas.to(levels.sigmas)


def _ddim(
    levels: Scheduler, steps: int, device: torch.device | str, chosen: Sequence[int] | None
) -> DDIM:
    config = levels.config
    if chosen is None:
        timesteps = levels.timesteps.tolist()[:steps]  # rounding may yield one too many
        stride = config.num_train_timesteps // steps
        following = [t - stride for t in timesteps]
    else:
        timesteps = check_timesteps(chosen, levels)
        following = [*timesteps[1:], -1]
    alphas = levels.alphas_cumprod.double()
    last = float(levels.final_alpha_cumprod)
    return DDIM.from_alphas(
        timesteps,
        [float(alphas[t]) for t in timesteps],
        [float(alphas[t]) if t >= 0 else last for t in following],
        prediction=config.prediction_type,
        clip_sample=config.clip_sample_range if config.clip_sample else None,
        device=device,
    )


# -- tables: input scale, x0 from x and from the output, keep, now, before, fresh, signal, noise --

Table = tuple[Tensor, ...]


def _multistep(
    levels: Scheduler, table: Tensor, device: torch.device | str, streams: Streams
) -> Multistep:
    fresh = bool((table[:, 6] != 0).any())
    noise = torch.stack([streams.draw() for _ in range(len(table))]).to(device) if fresh else None
    return Multistep(
        levels.timesteps.to(device),
        table.to(device, torch.float32),
        float(levels.init_noise_sigma),
        noise,
    )


def _sigma_columns(levels: Scheduler, sigma: Tensor) -> Table:
    """Columns of solvers whose x = x0 + σ·ε (arXiv 2206.00364): input scale, x0 from x and output.

    The denoiser sees x / sqrt(σ² + 1), which has the noise level ᾱ = 1 / (σ² + 1).
    """
    scale = (sigma**2 + 1).rsqrt()
    x0_x, x0_out, _, _ = prediction_table(scale**2, levels.config.prediction_type)
    return scale, x0_x * scale, x0_out


def _euler(levels: Scheduler) -> Table:
    """Euler's step of the probability-flow ODE (arXiv 2206.00364, Algorithm 2 without churn)."""
    sigma, after = levels.sigmas.double()[:-1], levels.sigmas.double()[1:]
    keep = after / sigma
    zero, one = torch.zeros_like(sigma), torch.ones_like(sigma)
    return (*_sigma_columns(levels, sigma), keep, 1 - keep, zero, zero, one, after)


def _ancestral(levels: Scheduler) -> Table:
    """Euler to a lower level, then fresh noise up to the wanted one (k-diffusion, ancestral)."""
    sigma, after = levels.sigmas.double()[:-1], levels.sigmas.double()[1:]
    up = (after**2 * (sigma**2 - after**2) / sigma**2).sqrt()
    keep = (after**2 - up**2).clamp_min(0).sqrt() / sigma
    zero, one = torch.zeros_like(sigma), torch.ones_like(sigma)
    return (*_sigma_columns(levels, sigma), keep, 1 - keep, zero, up, one, after)


def _lcm(levels: Scheduler) -> Table | None:
    """Consistency sampling: predict the end, add fresh noise (arXiv 2310.04378, Algorithm 3)."""
    if levels.config.clip_sample:
        return None
    t = levels.timesteps
    a = levels.alphas_cumprod.double()[t]
    after = torch.cat([a[1:], torch.ones(1, dtype=a.dtype)])  # the last step adds no noise
    skip, out = levels.get_scalings_for_boundary_condition_discrete(t.double())
    x0_x, x0_out, _, _ = prediction_table(a, levels.config.prediction_type)
    one, zero = torch.ones_like(a), torch.zeros_like(a)
    signal, noise = after.sqrt(), (1 - after).sqrt()
    return one, x0_x, x0_out, signal * skip, signal * out, zero, noise, signal, noise


def _dpm_solver(levels: Scheduler) -> Table | None:
    """DPM-Solver++ of order 1 or 2, midpoint (arXiv 2211.01095, eq. 4.1 and Algorithm 2)."""
    config = levels.config
    known = config.algorithm_type == "dpmsolver++" and config.solver_type == "midpoint"
    if not known or config.solver_order > 2 or config.use_flow_sigmas:
        return None
    sigma = levels.sigmas.double()  # (steps + 1,), of x0 + σ·ε
    alpha = (sigma**2 + 1).rsqrt()
    log_snr = -sigma.log()  # λ = log(α/σ); infinite at the end, where exp(-h) is 0
    h = log_snr[1:] - log_snr[:-1]
    gain = alpha[1:] * -torch.expm1(-h)  # weight of x0 in a first-order step
    before = -0.5 * gain * h / torch.cat([h[:1], h[:-1]])
    before = before.masked_fill(~_second_order(levels, len(h)), 0)
    x0_x, x0_out, _, _ = prediction_table(alpha[:-1] ** 2, config.prediction_type)
    noise = sigma * alpha
    one, zero = torch.ones_like(h), torch.zeros_like(h)
    columns = (one, x0_x, x0_out, noise[1:] / noise[:-1], gain - before, before, zero)
    return *columns, alpha[1:], noise[1:]


def _second_order(levels: Scheduler, steps: int) -> Tensor:
    """Which steps look back: none in order 1, not the first, and not the last if so configured."""
    config = levels.config
    looks_back = torch.full((steps,), config.solver_order == 2)
    looks_back[0] = False
    short = config.lower_order_final and steps < 15
    if config.euler_at_final or short or config.final_sigmas_type == "zero":
        looks_back[-1] = False
    return looks_back


_TABLES: dict[type, Callable[[Any], Table | None]] = {
    EulerDiscreteScheduler: _euler,
    EulerAncestralDiscreteScheduler: _ancestral,
    LCMScheduler: _lcm,
    DPMSolverMultistepScheduler: _dpm_solver,
}


# -- every other scheduler -----------------------------------------------------------------------


class WrappedScheduler:
    """Any other diffusers scheduler (UniPC, PNDM, Heun, DEIS, ...), with its memory laid open.

    What the scheduler keeps between steps (every tensor of the latents' shape among its
    attributes) is handed to the sampler, gathered at a branch, and put back. All rows must be at
    the same step, and the host is read: two things that the tables do without.
    """

    def __init__(self, levels: Scheduler, device: torch.device | str, streams: Streams) -> None:
        levels.set_timesteps(levels.num_inference_steps, device=device)
        self._pristine, self._levels = levels, copy.deepcopy(levels)
        self._slots: list[tuple[str, int | None]] = []
        self._streams = streams
        self.timesteps = levels.timesteps
        self.steps = len(levels.timesteps)
        self.init_noise_sigma = float(levels.init_noise_sigma)
        taken = inspect.signature(levels.step).parameters
        self._random = "generator" in taken
        # As diffusers' pipeline says it; by themselves some take another one (TCD).
        self._how = {"return_dict": False} | ({"eta": 0.0} if "eta" in taken else {})

    @property
    def after(self) -> Tensor:
        """Not known: a scheduler may hold on to the latent it began a step with (Heun, UniPC)."""
        raise ValueError(f"{type(self._levels).__name__} does not say what its steps lead to.")

    def start(self, x: Tensor) -> Memory:
        """A scheduler that has not stepped yet remembers nothing."""
        self._levels, self._slots = copy.deepcopy(self._pristine), []
        return ()

    def scale_input(self, x: Tensor, index: Tensor) -> Tensor:
        """Rows x [R, ...] on the scale that the denoiser was trained on."""
        return self._levels.scale_model_input(x, self.timesteps[int(index[0])])

    def step(
        self, x: Tensor, output: Tensor, index: Tensor, memory: Memory, lead: Tensor
    ) -> tuple[Tensor, Tensor, Memory]:
        """One step of all rows, by the scheduler itself."""
        t = self.timesteps[int(index[0])]
        clean = self.clean(x, output, index)
        self._put_back(memory)
        after = self._advance(output, t, x, lead.tolist())
        return after, clean, self._take_out(after)

    def _advance(self, output: Tensor, t: Tensor, x: Tensor, prompts: list[int]) -> Tensor:
        """The scheduler's own step, with noise from the streams of the rows' first members."""
        if not self._random:
            return self._levels.step(output, t, x, **self._how)[0]
        own = [self._streams.generators[n] for n in prompts]
        before = own[0].get_state()
        after = self._levels.step(output, t, x, generator=own, **self._how)[0]
        if not torch.equal(before, own[0].get_state()):  # not every call draws
            self._streams.skip(except_for=prompts)
        return after

    def clean(self, x: Tensor, output: Tensor, index: Tensor) -> Tensor:
        """x0 from what the denoiser saw; the schedulers' own answers differ in what they mean."""
        seen, t = self.scale_input(x, index), self.timesteps[int(index[0])]
        level = int(t.round().clamp(0, len(self._levels.alphas_cumprod) - 1))
        a = self._levels.alphas_cumprod[level].double().reshape(1).cpu()
        x0_x, x0_out, _, _ = prediction_table(a, self._levels.config.prediction_type)
        return float(x0_x) * seen + float(x0_out) * output

    def _put_back(self, memory: Memory) -> None:
        for (name, place), tensor in zip(self._slots, memory, strict=True):
            if place is None:
                setattr(self._levels, name, tensor)
            else:
                getattr(self._levels, name)[place] = tensor

    def _take_out(self, like: Tensor) -> Memory:
        """Every tensor of the latents' shape among the scheduler's attributes."""
        found: list[tuple[tuple[str, int | None], Tensor]] = []
        for name, value in vars(self._levels).items():
            items = enumerate(value) if isinstance(value, list) else [(None, value)]
            for place, item in items:
                if isinstance(item, Tensor) and item.shape == like.shape:
                    found.append(((name, place), item))
        self._slots = [slot for slot, _ in found]
        return tuple(tensor for _, tensor in found)
