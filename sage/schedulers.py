"""Turns a diffusers scheduler into a solver: its noise levels, timesteps and kind of prediction.

Only reads a scheduler; none is stepped, so none is changed by a run.
"""

import torch
from diffusers import DDIMScheduler, SchedulerMixin

from sage.solver import DDIM, Solver


def ddim_scheduler(scheduler: SchedulerMixin) -> DDIMScheduler:
    """The DDIM scheduler of the same noise levels; the paper samples with DDIM."""
    if isinstance(scheduler, DDIMScheduler):
        return scheduler
    return DDIMScheduler.from_config(scheduler.config, clip_sample=False)


def solver_for(scheduler: SchedulerMixin, steps: int, device: torch.device | str) -> Solver:
    """The solver that does what a scheduler would do in so many steps.

    Args:
        scheduler: A DDIMScheduler (eta = 0).
        steps: T.
        device: Where the latents live.

    Raises:
        ValueError: If the scheduler is of another kind or cannot make so many steps.
    """
    if not isinstance(scheduler, DDIMScheduler):
        raise ValueError(
            f"The scheduler is a {type(scheduler).__name__}; allowed is DDIMScheduler. "
            "Its noise levels can be kept: DDIMScheduler.from_config(scheduler.config)."
        )
    config = scheduler.config
    if config.thresholding:
        raise ValueError("The scheduler uses thresholding, which is for pixels, not latents.")
    # A fresh one: set_timesteps writes into the scheduler, which may be shared between threads.
    levels = DDIMScheduler.from_config(config)
    levels.set_timesteps(steps)
    timesteps = levels.timesteps.tolist()[:steps]
    stride = config.num_train_timesteps // steps
    following = [t - stride for t in timesteps]
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
