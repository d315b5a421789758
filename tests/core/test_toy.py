"""The toy is exact, so sampling can be held against closed forms."""

import math
from itertools import pairwise

import pytest
import torch

from sage.core.plan import independent_plan, shared_plan
from sage.core.sampling import in_prompt_order, sample
from tests.toy import (
    Mixture,
    cosine_alphas,
    gaussian_flow,
    speciation_alpha,
    step_of_alpha,
    toy_solver,
)

MEANS = torch.tensor([[-1.0, 0.5], [1.0, 0.5], [0.0, -2.0]], dtype=torch.float64)
STD = 0.3
ONE_HOT = torch.eye(3, dtype=torch.float64)


def run(plan, noise, means=MEANS, weights=ONE_HOT):
    mixture, alphas = Mixture(means, STD), cosine_alphas(plan.steps)
    states = sample(mixture.denoiser(alphas), toy_solver(plan.steps), plan, weights, noise)
    *_, last = states
    return in_prompt_order(last)


def noise(seed=0, n=3):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 2, generator=generator, dtype=torch.float64)


def test_ddim_converges_to_the_closed_form_flow_of_one_gaussian():
    start, z = float(cosine_alphas(1)[0]), noise()
    exact = torch.stack([gaussian_flow(z[n], start, 1.0, MEANS[n], STD) for n in range(3)])
    errors = [(run(independent_plan(3, t), z) - exact).abs().max() for t in (50, 100, 200, 400)]
    assert errors[-1] < 0.01
    # First order: half the step, half the error.
    for coarse, fine in pairwise(errors):
        assert 1.5 < coarse / fine < 2.7


def test_a_shared_run_of_equal_modes_follows_the_flow_through_the_branch():
    means = MEANS[:1].repeat(3, 1)
    z = noise()
    exact = gaussian_flow(z[0], float(cosine_alphas(1)[0]), 1.0, means[0], STD)
    shared = run(shared_plan([(0, 1, 2)], 400, 160), z, means)
    assert (shared - exact).abs().max() < 0.01


def test_the_prediction_is_the_score_of_the_noisy_mixture():
    """x0 = (x + (1 − ᾱ)·∇log p(x)) / sqrt(ᾱ), with the gradient taken by autograd."""
    mixture = Mixture(MEANS, STD)
    weights = torch.tensor([[0.2, 0.5, 0.3]], dtype=torch.float64).repeat(4, 1)
    alpha = torch.tensor([0.05, 0.3, 0.7, 0.99], dtype=torch.float64)
    x = noise(1, 4).requires_grad_()
    spread = alpha * STD**2 + 1 - alpha
    square = (x[:, None] - alpha.sqrt()[:, None, None] * MEANS).square().sum(-1)
    density = weights * torch.exp(-square / (2 * spread[:, None])) / spread[:, None]
    (score,) = torch.autograd.grad(density.sum(-1).log().sum(), x)
    expected = (x + (1 - alpha)[:, None] * score) / alpha.sqrt()[:, None]
    assert (mixture.clean(x, alpha, weights) - expected).abs().max() < 1e-9


def test_branches_reach_their_own_modes():
    plan = shared_plan([(0, 1, 2)], 100, 20)
    final = run(plan, noise(3))
    nearest = torch.cdist(final, MEANS).argmin(1)
    assert nearest.tolist() == [0, 1, 2]


def test_a_longer_trunk_takes_pictures_further_from_their_twins():
    z = noise(5)[:1].repeat(3, 1)  # the same noise for all: only sharing differs
    alone = run(independent_plan(3, 100), z)
    distance = [
        (run(shared_plan([(0, 1, 2)], 100, t), z) - alone).norm(dim=1).mean() for t in (10, 50, 90)
    ]
    assert distance[0] < distance[1] < distance[2]


def peak_curvature(means, std, alpha):
    """Largest eigenvalue of the Hessian of log p in the middle of the modes, by autograd."""
    a = torch.tensor(alpha, dtype=torch.float64)

    def log_density(x):
        square = (x - a.sqrt() * means).square().sum(-1)
        return torch.logsumexp(-square / (2 * (a * std**2 + 1 - a)), 0)

    hessian = torch.autograd.functional.hessian(log_density, a.sqrt() * means.mean(0))
    return float(torch.linalg.eigvalsh(hessian)[-1])


# Two modes, and three at equal distances from their middle: there the second order is exact.
SYMMETRIC = [
    torch.tensor([[-1.2, 0.3], [0.8, -0.5]], dtype=torch.float64),
    torch.tensor([[0.0, 1.1], [0.55 * 3**0.5, -0.55], [-0.55 * 3**0.5, -0.55]]).double(),
]


@pytest.mark.parametrize("means", SYMMETRIC)
def test_the_middle_stops_being_a_peak_at_the_speciation_time(means):
    at = speciation_alpha(means, STD)
    assert abs(peak_curvature(means, STD, at)) < 1e-6
    assert peak_curvature(means, STD, at - 0.01) < 0 < peak_curvature(means, STD, at + 0.01)


def test_two_modes_separate_where_the_closed_form_says():
    m = torch.tensor([0.9, 1.2], dtype=torch.float64)  # length 1.5
    at = speciation_alpha(torch.stack([m, -m]), STD)
    assert at == pytest.approx(1 / (1 + 1.5**2 - STD**2))
    # In the paper's time, ᾱ = exp(−2t), far modes come to its ½·log of the largest eigenvalue.
    far = speciation_alpha(torch.stack([100 * m, -100 * m]), STD)
    assert -math.log(far) / 2 == pytest.approx(math.log(150), abs=1e-3)


def test_overlapping_modes_never_separate():
    m = torch.tensor([0.2, 0.1], dtype=torch.float64)
    assert speciation_alpha(torch.stack([m, -m]), STD) is None


def test_the_closer_the_modes_the_later_they_separate():
    m = torch.tensor([1.0, 0.0], dtype=torch.float64)
    levels = [speciation_alpha(torch.stack([k * m, -k * m]), STD) for k in (2.0, 1.0, 0.5)]
    steps = [step_of_alpha(level, 30) for level in levels]
    assert 0 < steps[0] < steps[1] < steps[2] < 30


def test_the_step_of_a_noise_level_inverts_the_schedule():
    alphas = cosine_alphas(30)
    for step in (5, 12, 29, 30):
        assert step_of_alpha(float(alphas[step]), 30) == pytest.approx(step)


def test_before_the_classes_separate_a_trunk_keeps_to_the_middle():
    """Trunks from many noises: their spread along the modes' axis first shrinks, then splits."""
    means = torch.tensor([[-1.5, 0.0], [1.5, 0.0]], dtype=torch.float64)
    steps, z = 200, noise(7, 256)
    at = step_of_alpha(speciation_alpha(means, STD), steps)
    mixture, alphas = Mixture(means, STD), cosine_alphas(steps)
    half = torch.full((256, 2), 0.5, dtype=torch.float64)
    plan = independent_plan(256, steps)
    states = list(sample(mixture.denoiser(alphas), toy_solver(steps), plan, half, z))
    undecided = [
        float(mixture.responsibilities(s.x, alphas[s.step + 1].expand(256), half).amax(1).mean())
        for s in states
    ]
    early, late = undecided[int(at / 2)], undecided[int((at + steps) / 2)]
    assert early < 0.75
    assert late > 0.95
