"""Where steps lie: jump errors are those of real steps, and no other path is cheaper."""

from itertools import combinations, pairwise

import pytest
import torch

from sage.core.solver import DDIM
from sage.core.timesteps import best_paths, jump_errors

ALPHAS = torch.tensor([0.02, 0.2, 0.5, 0.8, 1.0], dtype=torch.float64)


def teacher(predict, prompts=3):
    """A run of DDIM over all levels: latents and predicted x0."""
    torch.manual_seed(0)
    x = [torch.randn(prompts, 2, 3)]
    clean = []
    solver = DDIM.from_alphas(range(4, 0, -1), ALPHAS[:-1].tolist(), ALPHAS[1:].tolist())
    for i in range(4):
        index = torch.full((prompts,), i)
        after, x0, _ = solver.step(x[-1], predict(x[-1], i), index, (), index)
        x.append(after)
        clean.append(x0)
    return torch.stack(x), torch.stack(clean)


def bent(x, step):
    return torch.tanh(x) * (0.5 + 0.1 * step)


def test_a_jump_to_the_next_level_is_the_teachers_own_step():
    errors = jump_errors(*teacher(bent), ALPHAS)
    assert torch.allclose(errors.diagonal(1), torch.zeros(4, dtype=torch.float64), atol=1e-6)
    assert (errors.diagonal(2) > 1e-3).all()
    assert errors.tril().isinf().sum() == 15  # nothing leads back


def test_a_jump_is_a_real_step_of_the_solver():
    x, clean = teacher(bent)
    jump = DDIM.from_alphas([4], [float(ALPHAS[1])], [float(ALPHAS[3])])
    landed, _, _ = jump.step(x[1], bent(x[1], 1), torch.zeros(3, dtype=torch.int64), (), None)
    error = (landed - x[3]).square().mean().sqrt()
    assert float(jump_errors(x, clean, ALPHAS)[1, 3]) == pytest.approx(float(error), rel=1e-5)


def test_second_order_needs_a_step_before_and_noise_behind():
    x, clean = teacher(bent)
    first, second = (jump_errors(x, clean, ALPHAS, key) for key in ("ddim", "dpm++2m"))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[:, -1], second[:, -1])
    assert not torch.equal(first[1, 3], second[1, 3])


def test_second_order_is_exact_where_x0_is_linear_in_log_snr():
    levels = torch.linspace(-3, 3, 13, dtype=torch.float64)  # log of signal over noise
    alphas = torch.sigmoid(2 * levels)
    signal, noise = alphas.sqrt(), (1 - alphas).sqrt()
    eps, slope = torch.randn(2, 4, 5, dtype=torch.float64)
    # x/noise grows by exp(λ)·x0(λ): with x0 = a + b·λ the integral is exp(λ)·(a + b·(λ − 1)).
    x = torch.stack(
        [n * eps + s * slope * (v - 1) for s, n, v in zip(signal, noise, levels, strict=True)]
    )
    clean = torch.stack([slope * v for v in levels[:-1]])
    first, second = (jump_errors(x, clean, alphas, key) for key in ("ddim", "dpm++2m"))
    assert (second[4:8, 9] < 0.35 * first[4:8, 9]).all()


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_no_other_path_is_cheaper(steps):
    torch.manual_seed(steps)
    errors = torch.rand(7, 7, dtype=torch.float64).fill_diagonal_(torch.inf)
    errors[torch.ones(7, 7).tril().bool()] = torch.inf
    paths, sums = best_paths(errors, 5)
    every = [(0, *rest, 6) for rest in combinations(range(1, 6), steps - 1)]
    totals = [sum(float(errors[a, b]) for a, b in pairwise(p)) for p in every]
    assert sums[steps - 1] == pytest.approx(min(totals))
    assert (*paths[steps - 1], 6) == every[totals.index(min(totals))]


def test_more_steps_than_levels_are_refused():
    with pytest.raises(ValueError, match="most is 4; allowed are 1 to 3"):
        best_paths(torch.ones(4, 4), 4)


def test_a_solver_that_is_not_measured_is_refused():
    with pytest.raises(ValueError, match="allowed are ddim and dpm"):
        jump_errors(*teacher(bent), ALPHAS, "euler")
