"""The toy is exact, so sampling can be held against closed forms."""

from itertools import pairwise

import torch

from sage.plan import independent_plan, shared_plan
from sage.sampling import in_prompt_order, sample
from sage.toy import Mixture, cosine_alphas, gaussian_flow, toy_solver

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
