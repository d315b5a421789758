"""Where a run's steps lie: the spacings that diffusers has, and the one planned for a model."""

from collections.abc import Sequence

import numpy as np
from diffusers import DPMSolverMultistepScheduler
from diffusers.schedulers import AysSchedules

from sage.core.planner import Planning
from sage.core.settings import SPACINGS
from sage.sd.foreign import Scheduler
from sage.sd.schedulers import check_timesteps

OPTIONS = {
    "trailing": {"timestep_spacing": "trailing"},
    "karras": {"use_karras_sigmas": True},
    "beta": {"use_beta_sigmas": True},
    "exponential": {"use_exponential_sigmas": True},
}


def timesteps_of(
    spacing: str, steps: int, scheduler: Scheduler, planning: Planning | None
) -> tuple[int, ...] | None:
    """The timesteps of a spacing; None for the scheduler's own.

    Args:
        spacing: A key of SPACINGS.
        steps: How many.
        scheduler: Whose noise levels they are.
        planning: Of the model, for "planned".

    Raises:
        ValueError: If there is no such spacing, the model has no plan, or the scheduler takes no
            timesteps.
    """
    if spacing == "model":
        return None
    if spacing == "planned":
        if planning is None:
            raise ValueError(
                "This model has no planned timesteps; `python -m sage.studies schedules` measures "
                "what they need."
            )
        found: Sequence[int] = planning.timesteps(steps, solver_key(scheduler))
    elif spacing == "ays":
        found = _align_your_steps(steps)
    elif spacing in OPTIONS:
        found = _by_diffusers(steps, scheduler, OPTIONS[spacing])
    else:
        raise ValueError(f"spacing is {spacing!r}; allowed are {', '.join(SPACINGS)}.")
    return tuple(check_timesteps(found, scheduler))


def solver_key(scheduler: Scheduler) -> str:
    """Whose jump errors hold for a scheduler: those of second order have their own."""
    return "dpm++2m" if isinstance(scheduler, DPMSolverMultistepScheduler) else "ddim"


def _by_diffusers(steps: int, scheduler: Scheduler, options: dict) -> list[int]:
    """The timesteps that diffusers' DPM-Solver++ gives, distinct, from the first noise level on.

    For a model whose last level is pure noise they are those of its levels before that was made
    so: between that level and the next all of these spacings would waste most of their steps.
    """
    config = dict(scheduler.config) | {"algorithm_type": "dpmsolver++", "solver_order": 2}
    config.pop("_use_default_values", None)  # else diffusers takes these for unset
    if config.get("rescale_betas_zero_snr"):
        config |= {"rescale_betas_zero_snr": False, "trained_betas": None}
    levels: Scheduler = DPMSolverMultistepScheduler.from_config(config | options)
    levels.set_timesteps(steps)
    number = int(levels.config.num_train_timesteps)
    return _distinct([number - 1, *(int(t) for t in levels.timesteps[1:])], number)


def _distinct(timesteps: Sequence[int], number: int) -> list[int]:
    """Timesteps that rounding made equal, moved apart as little as that takes."""
    result: list[int] = []
    for t in timesteps:
        result.append(min(t, result[-1] - 1) if result else min(t, number - 1))
    for n in reversed(range(len(result))):  # and none below 0
        result[n] = max(result[n], len(result) - 1 - n)
    return result


def _align_your_steps(steps: int) -> list[int]:
    """The ten timesteps of Sabour et al. (arXiv 2404.14507), interpolated to another number."""
    nodes = np.array([*AysSchedules["StableDiffusionTimesteps"], 0.0])
    places = np.linspace(0, len(nodes) - 1, steps + 1)[:-1]
    rounded = np.interp(places, np.arange(len(nodes)), nodes).round()
    return _distinct([int(t) for t in rounded], int(nodes[0]) + 1)
