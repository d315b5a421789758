"""Fresh noise at a split: the published random step, at the same noise level, by one rule."""

import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import given
from hypothesis import strategies as st

from sage.core.noise import FreshNoise, Streams, fresh_noise
from sage.core.plan import shared_plan
from sage.core.sampling import in_prompt_order, sample
from sage.sd.schedulers import solver_for
from sage.sd.store import StateStore
from tests.core.test_sampling import inputs, linear_denoiser
from tests.toy import Mixture, cosine_alphas, toy_solver

PROMPTS = ["a fox", "a dog", "a cat"]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_after_a_ddim_step_it_is_ddims_own_random_step(share):
    scheduler = DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False)
    solver = solver_for(scheduler, 10, "cpu", Streams([0], (2, 3)))
    scheduler.set_timesteps(10)
    x, output, own = torch.randn(3, 1, 2, 3, dtype=torch.float64)
    i, lead = torch.tensor([4]), torch.tensor([0])
    after, clean, _ = solver.step(x, output, i, (), lead)
    fresh = FreshNoise(share, own[None])
    ours = fresh.exchange(after, clean, solver.after[4], torch.tensor([1]), lead)
    t = int(scheduler.timesteps[4])
    usual = float(scheduler._get_variance(t, t - 100)) ** 0.5  # eta is σ in units of DDPM's
    sigma = share**0.5 * float(solver.after[4, 1])
    theirs = scheduler.step(output, t, x, eta=sigma / usual, variance_noise=own).prev_sample
    assert (ours - theirs).abs().max() < 1e-5


@given(st.floats(0.01, 1), st.floats(0.05, 0.95))
def test_the_noise_level_is_kept(share, alpha):
    generator = torch.Generator().manual_seed(0)
    clean, noise, own = torch.randn(3, 20_000, 1, generator=generator)
    levels = torch.tensor([alpha**0.5, (1 - alpha) ** 0.5])
    fresh = FreshNoise(share, own[None])
    every = torch.arange(20_000)
    ones = torch.ones_like(every)
    x = fresh.exchange(levels[0] * clean + levels[1] * noise, clean, levels, ones, every)
    rest = (x - levels[0] * clean) / levels[1]
    assert float(rest.std()) == pytest.approx(1, abs=0.03)
    assert float((rest * noise).mean()) == pytest.approx((1 - share) ** 0.5, abs=0.03)


@pytest.mark.slow
def test_on_the_exact_toy_siblings_part_and_stay_where_the_data_is():
    """Pairs of equal prompts: with fresh noise two samples of one mode, without it one."""
    pairs, steps, std = 2000, 50, 0.3
    mixture, alphas = Mixture(torch.tensor([[1.0, -0.5]]), std), cosine_alphas(steps)
    plan = shared_plan([(2 * g, 2 * g + 1) for g in range(pairs)], steps, 25)
    noise = torch.randn(2 * pairs, 2, generator=torch.Generator().manual_seed(3))
    weights = torch.ones(2 * pairs, 1)

    def run(share):
        draws = fresh_noise(share, range(2 * pairs), (2,), plan.depth)
        *_, last = sample(
            mixture.denoiser(alphas), toy_solver(steps), plan, weights, noise, fresh=draws
        )
        return in_prompt_order(last).view(pairs, 2, 2)

    same, own = run(0.0), run(0.5)
    assert torch.equal(same[:, 0], same[:, 1])
    assert float((own[:, 0] - own[:, 1]).norm(dim=-1).mean()) > std / 2
    spread = [float(points.flatten(0, 1).std(0).mean()) for points in (own, same)]
    assert spread[0] == pytest.approx(spread[1], rel=0.02)
    assert (own.flatten(0, 1).mean(0) - mixture.means[0]).abs().max() < 0.02


def states(plan, share, seeds, cond, noise):
    draws = fresh_noise(share, seeds, cond.shape[1:], plan.depth)
    return list(sample(linear_denoiser(), toy_solver(plan.steps), plan, cond, noise, fresh=draws))


def test_every_branch_is_treated_alike_and_nothing_else_is_touched():
    cond, noise = inputs(4)
    plan = shared_plan([(0, 1), (2,), (3,)], 6, 3)
    with_, without = (states(plan, share, [7, 8, 9, 10], cond, noise) for share in (0.4, 0.0))
    for i in range(3):
        assert torch.equal(with_[i].x, without[i].x)
    difference = (with_[-1].x - without[-1].x).abs().amax(1)
    assert (difference[:2] > 1e-3).all()  # the member that lent the noise and the other one
    assert (difference[2:] == 0).all()


def test_a_prompts_fresh_noise_follows_from_its_seed_alone():
    alone, company = (fresh_noise(0.5, seeds, (2, 3), 2).draws for seeds in ([7], [1, 7, 9]))
    assert torch.equal(alone[:, 0], company[:, 1])
    starting = Streams([7], (2, 3))
    drawn = torch.stack([starting.draw()[0] for _ in range(4)])
    assert (drawn[:, None] - alone[None, :, 0]).abs().amax((2, 3)).min() > 0.01
    assert (alone[0] - alone[1]).abs().max() > 0.01


@pytest.mark.slow
def test_a_share_of_nothing_is_no_noise_at_all(tiny):
    assert fresh_noise(0.0, [1], (2,), 1) is None
    arguments = {"groups": [(0, 1, 2)], "num_inference_steps": 4, "output_type": "latent"}
    assert torch.equal(
        tiny(PROMPTS, **arguments).latents, tiny(PROMPTS, fresh_noise=0.0, **arguments).latents
    )


@pytest.mark.slow
def test_moving_the_dial_reruns_the_branches_only(tiny):
    arguments = {"groups": [(0, 1, 2)], "num_inference_steps": 6, "output_type": "latent"}
    arguments["share_ratio"] = 0.5
    store = StateStore()
    tiny(PROMPTS, fresh_noise=0.2, reuse=store, **arguments)
    moved = tiny(PROMPTS, fresh_noise=0.6, reuse=store, **arguments)
    assert moved.reused == 3
    assert torch.equal(moved.latents, tiny(PROMPTS, fresh_noise=0.6, **arguments).latents)
    again = tiny(PROMPTS, fresh_noise=0.2, reuse=store, **arguments)
    assert again.reused == 3 + 3 * 3


@pytest.mark.parametrize("key", ["unipc", "pndm", "heun"])
def test_schedulers_that_hold_on_to_their_latent_refuse(tiny, key):
    from sage.sd.schedulers import make_scheduler

    tiny.scheduler = make_scheduler(key, like=tiny.scheduler)
    with pytest.raises(ValueError, match="fresh_noise does not work with"):
        tiny(PROMPTS, fresh_noise=0.5, num_inference_steps=4)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_outside_its_bounds_says_so(share):
    with pytest.raises(ValueError, match=f"fresh_noise is {share}"):
        fresh_noise(share, [1], (2,), 1)


def test_a_streams_noise_does_not_depend_on_who_else_draws():
    """Skipped draws stay the draws of their step, so that a step's noise is that step's."""
    every, some = (Streams([3, 4, 5], (2, 2)) for _ in range(2))
    drawn = [every.draw() for _ in range(3)]
    assert torch.equal(some.draw(), drawn[0])
    some.skip(except_for=[1])  # all but prompt 1 let a step pass
    torch.randn((2, 2), generator=some.generators[1])
    assert torch.equal(some.draw(), drawn[2])
    alone = Streams([4], (2, 2))
    assert all(torch.equal(alone.draw()[0], noise[1]) for noise in drawn)
