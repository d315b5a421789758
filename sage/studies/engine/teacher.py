"""What planning within a budget needs to know of a model, measured: see `sage.core.planner`.

A teacher of many steps, once for every prompt alone and once for trunks of every size, from one
noise for each set of prompts, so that a member and its trunk differ by sharing only.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sage.core.plan import Plan, independent_plan, shared_plan
from sage.core.planner import Planning
from sage.core.sampling import prompt_rows
from sage.core.timesteps import FIRST_ORDER, SECOND_ORDER, jump_errors
from sage.sd.pipeline import SageStep
from sage.studies.engine.lab import Lab
from sage.studies.engine.prompts import PromptSet

TEACHER_STEPS = 60
DIGITS = 4  # of what is stored


def measure_planning(
    lab: Lab,
    prompts: PromptSet,
    sizes: Sequence[int],
    *,
    trunk: str,
    weight: float,
    power: float,
    steps: int = TEACHER_STEPS,
) -> Planning:
    """Errors of all jumps and the bias of trunks, from runs of a teacher.

    Args:
        lab: Gives the model.
        prompts: In groups as large as the largest of `sizes`; the smaller ones are parts of them.
        sizes: Of groups, ascending, each dividing the next.
        trunk: Rule of the trunks.
        weight: As in `Planning`.
        power: As in `Planning`.
        steps: Of the teacher.
    """
    x, clean, timesteps = _run(lab, prompts, independent_plan(len(prompts), steps), trunk)
    alphas = torch.as_tensor(lab.pipe.scheduler.alphas_cumprod).double()
    levels = torch.cat([alphas[list(timesteps)], torch.ones(1, dtype=torch.float64)])
    errors = {
        solver: _triangle(jump_errors(x, clean, levels, solver))
        for solver in (FIRST_ORDER, SECOND_ORDER)
    }
    bias = [np.zeros(steps + 1)]
    for size in sizes:
        plan = shared_plan(_parts(prompts, size), steps, steps)
        far = (_run(lab, prompts, plan, trunk)[0] - x).flatten(2).square().mean((1, 2)).sqrt()
        bias.append(np.maximum.accumulate(far.numpy()))
    return Planning(
        levels=timesteps,
        errors=errors,
        sizes=(1, *sizes),
        bias=tuple(tuple(round(float(b), DIGITS) for b in row) for row in bias),
        trunk=trunk,
        weight=weight,
        power=power,
        conditions={
            "model": lab.title,
            "prompts": len(prompts),
            "teacher_steps": steps,
            "guidance_scale": lab.guidance,
            "precision": lab.precision,
        },
    )


def _parts(prompts: PromptSet, size: int) -> list[tuple[int, ...]]:
    """The groups of a set, cut into parts of a size."""
    return [group[i : i + size] for group in prompts.groups for i in range(0, len(group), size)]


def _run(
    lab: Lab, prompts: PromptSet, plan: Plan, trunk: str
) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    """Latents [M + 1, N, ...] and predicted x0 [M, N, ...] of each prompt, and the timesteps."""
    seeds = [min(prompts.groups[owner]) for owner in prompts.owner]
    pipe = lab.renderer.pipeline(lab.recipe())
    stream = pipe.stream(
        prompts.texts,
        plan=plan,
        seeds=seeds,
        trunk=trunk,
        guidance_scale=lab.guidance,
        output_type="latent",
    )
    latents, clean = [pipe.starting_noise(seeds)], []
    timesteps: tuple[int, ...] = ()
    for event in stream:
        if isinstance(event, SageStep):
            rows = prompt_rows(event.state.rows)
            latents.append(event.state.x.cpu()[rows])
            clean.append(event.state.denoised.cpu()[rows])
        else:
            timesteps = tuple(int(t) for t in event.timesteps)
    return torch.stack(latents), torch.stack(clean), timesteps


def _triangle(errors: Tensor) -> tuple[tuple[float, ...], ...]:
    number = len(errors) - 1
    return tuple(tuple(round(float(e), DIGITS) for e in errors[i, i + 1 :]) for i in range(number))
