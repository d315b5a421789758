"""Where the steps of a run lie: the best few out of many, by dynamic programming.

A teacher of many steps visits M + 1 noise levels; what is stored of it says, for every jump from
one level to a later one, how far a single step would land from the teacher (one prediction serves
all jumps that begin at it). The best n steps are the path with the least sum (GITS, arXiv
2405.11326; OSS, arXiv 2503.21774). Knows latents, levels and numbers; nothing of networks or files.
"""

import torch
from torch import Tensor

FIRST_ORDER, SECOND_ORDER = "ddim", "dpm++2m"  # keys of `sage.core.settings.SCHEDULERS`


def jump_errors(x: Tensor, clean: Tensor, alphas: Tensor, solver: str = FIRST_ORDER) -> Tensor:
    """How far one step lands from the teacher, for every jump.

    A latent is x = s·x0 + n·ε with s² + n² = 1. In these coordinates an error at any level comes
    through to the picture at about its own size: exactly so for Gaussian data of unit variance,
    whose probability flow only rotates (x0, ε).

    Args:
        x: [M + 1, P, ...] the teacher's latents, from noise to the end, of P prompts.
        clean: [M, P, ...] the x0 that it predicted at each but the last.
        alphas: [M + 1] ᾱ of each level, ascending; the last one may be 1.
        solver: "ddim", or "dpm++2m": a step of second order (arXiv 2211.01095) whose step before
            was as long in log SNR as it is itself, or began at the first level; first order from
            the first level and into a last one without noise.

    Returns:
        [M + 1, M + 1] float64 root mean square distance to the teacher after a jump from row to
        column; infinite where the column does not lie behind the row.

    Raises:
        ValueError: If the shapes disagree or there is no such solver.
    """
    levels = len(alphas)
    if not len(x) == len(clean) + 1 == levels:
        raise ValueError(f"{len(x)} latents and {len(clean)} predictions for {levels} levels.")
    if solver not in (FIRST_ORDER, SECOND_ORDER):
        raise ValueError(f"solver is {solver!r}; allowed are ddim and dpm++2m.")
    signal, noise = alphas.double().sqrt(), (1 - alphas.double()).sqrt()
    floor = 2.0**-12  # of signal and noise, so that their ratio has a logarithm
    log_snr = signal.clamp_min(floor).log() - noise.clamp_min(floor).log()
    errors = torch.full((levels, levels), torch.inf, dtype=torch.float64)
    for i in range(levels - 1):
        x_i, x0 = x[i].double(), clean[i].double()
        eps = (x_i - signal[i] * x0) / noise[i]
        for j in range(i + 1, levels):
            guess = x0
            if solver == SECOND_ORDER and i > 0 and noise[j] > 0:
                h = log_snr[j] - log_snr[i]
                before = int((log_snr[i] - log_snr[:i] - h).abs().argmin())
                ratio = h / (log_snr[i] - log_snr[before])
                # x' = keep·x + gain·((1 + r/2)·x0 − r/2·x0 before), which is a step with this x0:
                gain = signal[j] * -torch.expm1(-h)
                landed = noise[j] / noise[i] * x_i
                landed = landed + gain * (x0 + ratio / 2 * (x0 - clean[before].double()))
            else:
                landed = signal[j] * guess + noise[j] * eps
            errors[i, j] = (landed - x[j].double()).square().mean().sqrt()
    return errors


def best_paths(errors: Tensor, most: int) -> tuple[list[tuple[int, ...]], list[float]]:
    """The cheapest paths of 1, 2, ..., `most` jumps from the first level to the last.

    Args:
        errors: [L, L] price of every jump; infinite for those that do not lead on.
        most: n; at most L − 1.

    Returns:
        For each number of jumps the levels at which they begin, and the sum of their prices.

    Raises:
        ValueError: If there are not so many levels.
    """
    levels = len(errors)
    if not 1 <= most < levels:
        raise ValueError(f"most is {most}; allowed are 1 to {levels - 1}.")
    spent = torch.full((levels,), torch.inf, dtype=torch.float64)
    spent[0] = 0.0
    origins: list[Tensor] = []
    paths: list[tuple[int, ...]] = []
    sums: list[float] = []
    for _ in range(most):
        spent, origin = (spent[:, None] + errors).min(0)  # over the level a jump begins at
        origins.append(origin)
        sums.append(float(spent[-1]))
        place, path = levels - 1, []
        for one in reversed(origins):
            place = int(one[place])
            path.append(place)
        paths.append(tuple(reversed(path)))
    return paths, sums
