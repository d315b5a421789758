"""Splitting while sampling: equal to fixed plans at both ends, counted, and in time on the toy."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sage.core.adaptive import AdaptiveRule, branch_step_for, sample_adaptively
from sage.core.calibration import Calibration
from sage.core.plan import Plan, shared_plan
from sage.core.sampling import in_prompt_order, sample
from sage.core.tree import clusters
from sage.sd.schedulers import SCHEDULERS, make_scheduler
from sage.sd.store import StateStore
from tests.core.test_sampling import inputs, linear_denoiser
from tests.strategies import plans
from tests.toy import Mixture, cosine_alphas, toy_solver

PROMPTS = ["a fox", "a dog", "a pizza", "a cat"]
GROUPS = [(0, 1, 3), (2,)]
STEPS = 9
USUAL = {"groups": GROUPS, "num_inference_steps": STEPS, "output_type": "latent"}
GUIDED = USUAL | {"guidance_scale": 3.0}


def close(one, other):
    return (one - other).abs().max() < 1e-4 * (1 + other.abs().max())


def rows(plan):
    return [plan.rows(i) for i in range(plan.steps)]


@pytest.fixture
def rows_run(tiny, monkeypatch):
    rows, forward = [], tiny.unet.forward
    monkeypatch.setattr(
        tiny.unet, "forward", lambda z, *a, **k: (rows.append(len(z)), forward(z, *a, **k))[1]
    )
    return rows


def middling(tiny, **arguments):
    """A rule that parts one of the three prompts and keeps the other two together."""

    def run(threshold, compare):
        rule = AdaptiveRule(threshold, 0.2, 0.8, every=2, compare=compare)
        output = tiny(PROMPTS, adaptive=rule, **(GUIDED | arguments))
        return rule, output, [len(row) for i in range(STEPS) for row in output.plan.rows(i)]

    for compare in ("direction", "clean"):
        low, high = -6.0, 1.0
        *_, latest = run(math.inf, compare)
        for _ in range(16):
            rule, output, sizes = run(10 ** ((low + high) / 2), compare)
            if 2 in sizes:
                return rule, output
            if sizes == latest:  # nobody disagrees that much
                high = (low + high) / 2
            else:
                low = (low + high) / 2
    pytest.fail("no threshold parts one prompt of three")


# -- both ends -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("compare", ["direction", "clean"])
def test_a_threshold_that_never_splits_is_the_latest_branch_point(tiny, compare, guidance):
    rule = AdaptiveRule(math.inf, 0.2, 2 / 3, every=1, compare=compare)
    arguments = USUAL | {"guidance_scale": guidance}
    adapted = tiny(PROMPTS, adaptive=rule, **arguments)
    fixed = tiny(PROMPTS, share_ratio=2 / 3, **arguments)
    assert rows(adapted.plan) == rows(fixed.plan)
    assert torch.equal(adapted.latents, fixed.latents)
    assert adapted.probes == 4 * 3  # steps 2 to 5, three members
    assert adapted.cost.evaluations == fixed.cost.evaluations + adapted.probes


@pytest.mark.slow
@pytest.mark.parametrize("key", SCHEDULERS)
def test_a_threshold_that_always_splits_is_the_earliest_branch_point(tiny, key):
    tiny.scheduler = make_scheduler(key, like=tiny.scheduler)
    calls = tiny.denoiser_calls(STEPS)
    for earliest in (0.0, 1 / 3):
        rule = AdaptiveRule(0.0, earliest, 0.9)
        adapted = tiny(PROMPTS, adaptive=rule, **GUIDED)
        fixed = tiny(PROMPTS, share_ratio=earliest, **GUIDED)
        assert rows(adapted.plan) == rows(fixed.plan)
        assert adapted.plan.steps == calls
        assert close(adapted.latents, fixed.latents)
        # Every probe was that step's own evaluation, but for those of the starting noise.
        assert adapted.probes == (0 if earliest else 3)
        assert adapted.cost.evaluations == fixed.cost.evaluations + adapted.probes


@pytest.mark.slow
@pytest.mark.parametrize("key", SCHEDULERS)
def test_the_realised_plan_run_as_a_fixed_plan_gives_the_same_pictures(tiny, key):
    tiny.scheduler = make_scheduler(key, like=tiny.scheduler)
    rule, output = (AdaptiveRule(0.0, 0.2), None) if key != "ddim" else middling(tiny)
    output = output or tiny(PROMPTS, adaptive=rule, **GUIDED)
    arguments = {"guidance_scale": 3.0, "output_type": "latent"}
    again = tiny(PROMPTS, plan=output.plan, **arguments)
    assert close(again.latents, output.latents)


# -- in between ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("trunk", ["mean", "alternate", "prediction"])
def test_only_those_who_disagree_part(tiny, rows_run, trunk):
    rule, _ = middling(tiny, trunk=trunk)
    rows_run.clear()
    output = tiny(PROMPTS, adaptive=rule, trunk=trunk, **GUIDED)
    assert sum(rows_run) == output.cost.passes
    arguments = {"guidance_scale": 3.0, "output_type": "latent", "trunk": trunk}
    assert close(tiny(PROMPTS, plan=output.plan, **arguments).latents, output.latents)


@pytest.mark.parametrize("threshold", [0.0, math.inf])
@pytest.mark.parametrize("interval", [(0.0, 1.0), (0.5, 1.0), (0.0, 0.0)])
@pytest.mark.parametrize("fresh", [0.0, 0.5])
@pytest.mark.parametrize("average", [False, True])
def test_what_is_run_is_what_is_counted(tiny, rows_run, threshold, interval, fresh, average):
    rule = AdaptiveRule(threshold, 0.2, 0.7, every=2, average=average)
    arguments = GUIDED | {"guidance_interval": interval, "fresh_noise": fresh}
    output = tiny(PROMPTS, adaptive=rule, **arguments)
    assert sum(rows_run) == output.cost.passes
    assert output.probes == output.cost.evaluations - tiny.cost(output.plan).evaluations


@pytest.mark.slow
def test_fresh_noise_moves_a_branch_so_its_probe_is_no_evaluation(tiny):
    rule = AdaptiveRule(0.0, 1 / 3)
    adapted = tiny(PROMPTS, adaptive=rule, fresh_noise=0.5, **GUIDED)
    fixed = tiny(PROMPTS, share_ratio=1 / 3, fresh_noise=0.5, **GUIDED)
    assert close(adapted.latents, fixed.latents)
    assert adapted.probes == 3


def test_averaged_probes_at_every_step_are_the_mean_prediction():
    cond, noise = inputs(3)
    rule = AdaptiveRule(math.inf, 0.0, 0.5, every=1, average=True)
    denoise = linear_denoiser()
    *_, adapted = sample_adaptively(
        lambda i: denoise,
        toy_solver(8),
        [(0, 2), (1,)],
        cond,
        noise,
        probe=lambda i: probe_of(denoise),
        rule=rule,
    )
    plan = shared_plan([(0, 2), (1,)], 8, 4)
    *_, fixed = sample(denoise, toy_solver(8), plan, cond, noise, trunk="prediction")
    assert (in_prompt_order(adapted.state) - in_prompt_order(fixed)).abs().max() < 1e-12


def probe_of(denoise):
    def probe(x, index, cond, of):
        return denoise(x[of], index[of], cond), denoise(x, index, 0 * cond[: len(x)])

    return probe


# -- the exact toy -------------------------------------------------------------------------------

MEANS = torch.tensor([[-2.0, 0.6], [-2.0, -0.6], [3.0, 0.0]], dtype=torch.float64)


@pytest.mark.parametrize("seed", range(5))
def test_on_the_toy_it_splits_before_the_modes_separate(seed):
    """A trunk of two modes commits to one of them; by then the rule has split it."""
    steps, one_hot = 100, torch.eye(3, dtype=torch.float64)
    mixture, alphas = Mixture(MEANS, 0.3), cosine_alphas(steps)
    denoise, solver = mixture.denoiser(alphas), toy_solver(steps)
    noise = torch.randn(3, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    def probe(x, index, weights, of):
        return denoise(x[of], index[of], weights), denoise(x, index, torch.ones(len(x), 3).double())

    rule = AdaptiveRule(0.5, 0.0, 1.0, every=2)
    *_, adapted = sample_adaptively(
        lambda i: denoise,
        solver,
        [(0, 1), (2,)],
        one_hot,
        noise,
        probe=lambda i: probe,
        rule=rule,
    )
    split = adapted.plan.branch_step_of(0)
    states = sample(denoise, solver, shared_plan([(0, 1), (2,)], steps, steps), one_hot, noise)
    pair = torch.tensor([[0.5, 0.5, 0.0]], dtype=torch.float64)
    sides = [
        mixture.responsibilities(state.x[:1], alphas[i + 1 : i + 2].double(), pair)
        for i, state in enumerate(states)
    ]
    committed = next(i for i, side in enumerate(sides) if float(side.max()) > 0.9)
    assert 0 < split < committed
    final = in_prompt_order(adapted.state)
    assert torch.cdist(final, MEANS).argmin(1).tolist() == [0, 1, 2]


# -- parts ---------------------------------------------------------------------------------------


@given(plans())
def test_a_plan_can_be_told_by_its_rows(plan):
    again = Plan.from_rows(rows(plan))
    assert rows(again) == rows(plan)
    assert [again.parents(i) for i in range(plan.steps)] == [
        plan.parents(i) for i in range(plan.steps)
    ]


def test_rows_that_join_are_no_plan():
    with pytest.raises(ValueError, match="without a parent"):
        Plan.from_rows([((0,), (1,)), ((0, 1),)])


@given(st.integers(1, 6), st.floats(0, 2), st.integers(0, 99))
def test_in_a_cluster_no_two_are_further_apart_than_the_threshold(size, threshold, seed):
    points = torch.rand(size, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    distance = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    found = clusters(distance, threshold)
    assert sorted(n for part in found for n in part) == list(range(size))
    assert all(distance[a, b] <= threshold + 1e-12 for part in found for a in part for b in part)


def test_distances_by_hand():
    base, outputs = torch.zeros(2), torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]])
    direction = AdaptiveRule(0.5).distances(outputs, base, outputs)
    wanted = [[0, 0, 1, 2], [0, 0, 1, 2], [1, 1, 0, 1], [2, 2, 1, 0]]
    assert torch.allclose(direction, torch.tensor(wanted, dtype=torch.float64))
    clean = AdaptiveRule(0.5, compare="clean").distances(outputs, None, outputs)
    assert float(clean[0, 1]) == pytest.approx(math.sqrt(0.5))


def test_the_branch_point_of_a_similarity_is_never_longer_than_what_is_safe():
    table = Calibration((0.5, 0.9), (0.0, 0.5), ((0.0, 0.4), (0.0, 0.1)), 0.2, "made up", {})
    similarity = torch.tensor([[1.0, 0.9, 0.5], [0.9, 1.0, 0.9], [0.5, 0.9, 1.0]])
    assert branch_step_for(similarity, (0, 1), 30, table) == 15
    assert branch_step_for(similarity, (0, 1, 2), 30, table) == 7
    assert branch_step_for(similarity, (0,), 30, table) == 15
    with pytest.raises(ValueError, match="not calibrated"):
        branch_step_for(similarity, (0, 1), 30, None)


@pytest.mark.parametrize(
    "other", [{"plan": shared_plan(GROUPS, STEPS, 3)}, {"reuse": StateStore()}]
)
def test_a_rule_excludes_a_plan_and_stored_states(tiny, other):
    with pytest.raises(ValueError, match="excludes plan and reuse"):
        tiny(PROMPTS, adaptive=AdaptiveRule(0.5), **(USUAL | other))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"threshold": -1}, "threshold is -1"),
        ({"threshold": float("nan")}, "threshold is nan"),
        ({"earliest": 0.7}, "earliest is 0.7 and latest is 0.6"),
        ({"latest": 1.1}, "latest is 1.1"),
        ({"every": 0}, "every is 0"),
        ({"every": 1.5}, "every is 1.5"),
        ({"compare": "noise"}, "compare is 'noise'"),
    ],
)
def test_a_rule_that_makes_no_sense_says_so(values, words):
    with pytest.raises(ValueError, match=words):
        AdaptiveRule(**({"threshold": 0.5} | values))
