"""Rules with a memory: exact where they must be, and counted as they are run."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sage.core import lending, sampling
from sage.core.adaptive import AdaptiveRule, sample_adaptively
from sage.core.cost import ModelFlops, evaluations, evaluations_of, plan_cost
from sage.core.lending import RULES, Control, Held
from sage.core.noise import fresh_noise
from sage.core.plan import independent_plan, shared_plan
from sage.core.sampling import in_prompt_order, moved, only, sample
from sage.core.tree import shared_steps
from tests.core.test_sampling import NoScalarReads, inputs, linear_denoiser
from tests.strategies import plans
from tests.toy import cosine_alphas, toy_solver


def result(plan, cond, noise, trunk, denoise=None, **more):
    *_, last = sample(
        denoise or linear_denoiser(), toy_solver(plan.steps), plan, cond, noise, trunk=trunk, **more
    )
    return in_prompt_order(last)


@pytest.fixture
def rule(monkeypatch):
    """Makes a rule known under a name for as long as the test runs."""

    def known(one):
        rules = {**RULES, "tested": one}
        for module in (sampling, lending):
            monkeypatch.setattr(module, "RULES", rules)
        return "tested"

    return known


@pytest.mark.parametrize("trunk", RULES)
def test_a_prompt_alone_follows_itself_bit_for_bit(trunk):
    cond, noise = inputs(3)
    plan = independent_plan(3, 6)
    assert torch.equal(result(plan, cond, noise, trunk), result(plan, cond, noise, "mean"))


@pytest.mark.parametrize("trunk", RULES)
def test_equal_prompts_share_as_if_they_were_one(trunk):
    cond, noise = inputs(3)
    cond = cond[:1].repeat(3, 1)
    # Held members skip steps, so that equal ones are as one only where all are evaluated.
    steps, point = (6, 1) if isinstance(RULES[trunk], Held) else (6, 4)
    shared = result(shared_plan([(0, 1, 2)], steps, point), cond, noise, trunk)
    alone = result(independent_plan(1, steps), cond[:1], noise[:1], "mean")
    assert (shared - alone).abs().max() < 1e-12


@pytest.mark.parametrize("trunk", RULES)
def test_permuting_the_prompts_permutes_the_result(trunk):
    cond, noise = inputs(4)
    order = [2, 0, 3, 1]
    place = {n: i for i, n in enumerate(order)}
    there = result(shared_plan([(0, 2, 3), (1,)], 7, 4), cond, noise, trunk)
    renamed = [tuple(place[n] for n in group) for group in [(0, 2, 3), (1,)]]
    here = result(shared_plan(renamed, 7, 4), cond[order], noise[order], trunk)
    assert (here - there[order]).abs().max() < 1e-12


@pytest.mark.slow
@given(plan=plans())
def test_with_a_snapshot_at_every_step_it_is_the_mean_of_the_predictions(plan):
    cond, noise = inputs(plan.num_prompts)
    rules = {**RULES, "tested": Control(1)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "RULES", rules)
        here = result(plan, cond, noise, "tested")
    there = result(plan, cond, noise, "prediction")
    assert (here - there).abs().max() < 1e-10


@pytest.mark.slow
@given(plan=plans())
def test_without_differences_it_is_the_members_in_turn(plan):
    """A denoiser that ignores what the prompts differ in leaves nothing to correct."""
    cond, noise = inputs(plan.num_prompts)

    def same(x, index, cond):
        return linear_denoiser()(x, index, torch.ones_like(cond))

    here = result(plan, cond, noise, "control", same)
    assert (here - result(plan, cond, noise, "alternate", same)).abs().max() < 1e-10


def test_differences_that_do_not_change_are_corrected_exactly():
    """Where a condition adds a constant, one snapshot is as good as one at every step."""
    cond, noise = inputs(4)

    def denoise(x, index, cond):
        return 0.3 * x + cond

    plan = shared_plan([(0, 1, 2), (3,)], 8, 5)
    once, turn = (result(plan, cond, noise, t, denoise) for t in ("control_once", "alternate"))
    wanted = result(plan, cond, noise, "prediction", denoise)
    assert (once - wanted).abs().max() < 1e-12
    assert (turn - wanted).abs().max() > 1e-3


def test_the_first_own_step_costs_one_evaluation_a_group():
    plan = shared_plan([(0, 1, 2), (3,)], 8, 4)
    control = RULES["control"]
    assert [len(control.asks(plan, i)) for i in range(8)] == [4, 2, 2, 4, 2, 4, 4, 4]
    assert control.asks(plan, 4) == (1, 3)
    assert evaluations(plan, "control") == 26
    assert evaluations(plan, "control", range(2, 5)) == 8
    assert evaluations(plan, "held") == evaluations(plan, "alternate") == 4 * 2 + 4 * 4
    cost = plan_cost(plan, ModelFlops(0, 1, 0), False, "control")
    # The snapshots' and the single prompt's own evaluations are not the trunk's.
    assert (cost.flops.trunk, cost.flops.branches) == (3 + 1 + 1 + 3 + 1, 26 - 9)


@pytest.mark.slow
@pytest.mark.parametrize("trunk", RULES)
@given(plan=plans())
def test_the_denoiser_sees_as_many_rows_as_the_cost_says(trunk, plan):
    calls = []
    result(plan, *inputs(plan.num_prompts), trunk, linear_denoiser(calls))
    assert len(calls) == plan.steps
    cost = plan_cost(plan, ModelFlops(0, 1, 0), False, trunk)
    assert sum(calls) == cost.evaluations == cost.passes == cost.flops.total
    assert calls == [evaluations(plan, trunk, range(i, i + 1)) for i in range(plan.steps)]
    parts = [evaluations_of(plan, trunk, n) for n in range(plan.num_prompts)]
    assert sum(parts) == pytest.approx(sum(calls))


@given(plan=plans(), guided=st.tuples(st.integers(0, 6), st.integers(0, 6)))
def test_guided_steps_count_twice(plan, guided):
    steps = range(min(guided), min(max(guided), plan.steps))
    cost = plan_cost(plan, ModelFlops(0, 1, 0), steps, "control")
    assert cost.passes == evaluations(plan, "control") + evaluations(plan, "control", steps)


@pytest.mark.parametrize("trunk", RULES)
def test_a_run_goes_on_from_any_of_its_states(trunk):
    cond, noise = inputs(4)
    plan, denoise = shared_plan([(0, 1, 2), (3,)], 7, 4), linear_denoiser()
    states = list(sample(denoise, toy_solver(7), plan, cond, noise, trunk=trunk))
    for state in states[:-1]:
        *_, last = sample(denoise, toy_solver(7), plan, cond, noise, trunk=trunk, start=state)
        assert torch.equal(last.x, states[-1].x)
        assert state.rows == plan.rows(state.step)
        assert len(state.x) == len(state.rows)


@pytest.mark.parametrize("trunk", RULES)
def test_some_prompts_go_on_alone_from_a_state_of_all(trunk):
    cond, noise = inputs(4)
    plan, denoise = shared_plan([(0, 1, 2), (3,)], 7, 4), linear_denoiser()
    states = list(sample(denoise, toy_solver(7), plan, cond, noise, trunk=trunk))
    chosen = [2, 3]
    start = moved(only(states[4], chosen), "cpu")
    rest = (independent_plan(2, 7), cond[chosen], noise[chosen])
    *_, last = sample(denoise, toy_solver(7), *rest, trunk=trunk, start=start)
    assert torch.allclose(last.x, states[-1].x[chosen], atol=1e-12)


@pytest.mark.parametrize("trunk", RULES)
def test_a_state_of_another_kind_of_rule_is_refused(trunk):
    cond, noise = inputs(2)
    plan, denoise = shared_plan([(0, 1)], 5, 2), linear_denoiser()
    state = next(sample(denoise, toy_solver(5), plan, cond, noise))
    with pytest.raises(ValueError, match="rule of another kind"):
        next(sample(denoise, toy_solver(5), plan, cond, noise, trunk=trunk, start=state))


@pytest.mark.parametrize("trunk", RULES)
def test_nothing_is_read_back_to_the_host_inside_the_loop(trunk):
    cond, noise = inputs(3)
    plan = shared_plan([(0, 1), (2,)], 8, 3)
    states = sample(linear_denoiser(), toy_solver(8), plan, cond, noise, trunk=trunk)
    next(states)
    with NoScalarReads():
        assert len(list(states)) == 7


def test_products_are_added_up_from_one_row_and_one_column():
    factors = tuple((n // 3, n % 3) for n in range(6))  # 2 things in 3 places
    control = Control(2, factors)
    plan = shared_plan([(0, 1, 2, 3, 4, 5)], 4, 3)
    assert control.asks(plan, 0) == (0, 1, 2, 3)
    assert control.asks(plan, 1) == (1,)
    # Without the member that a sum needs, a prompt is asked itself.
    some = shared_plan([(0, 1, 3, 5), (2,), (4,)], 4, 3)
    assert control.asks(some, 0) == (0, 1, 2, 3, 4, 5)


def test_a_sum_of_factors_is_exact_where_predictions_are_one(rule):
    things, places = torch.randn(2, 2, dtype=torch.double), torch.randn(3, 2, dtype=torch.double)
    factors = tuple((n // 3, n % 3) for n in range(6))
    cond = torch.stack([things[t] + places[p] for t, p in factors])
    noise = inputs(6)[1][:, :2]

    def denoise(x, index, cond):
        return torch.tanh(x) + cond

    plan = shared_plan([tuple(range(6))], 5, 3)
    wanted = result(plan, cond, noise, "prediction", denoise)
    assert (result(plan, cond, noise, rule(Control(1, factors)), denoise) - wanted).abs().max() < (
        1e-12
    )


def test_held_members_keep_their_x0():
    """Between its own evaluations a member's x0 stays what it was."""
    cond, noise = inputs(2)
    plan, seen = shared_plan([(0, 1)], 6, 6), []
    for state in sample(linear_denoiser(), toy_solver(6), plan, cond, noise, trunk="held"):
        seen.append(state.kept[1])  # x0 of both
    assert (seen[0][0] - seen[0][1]).abs().max() < 1e-12  # the second follows the first
    assert (seen[1][0] - seen[0][0]).abs().max() < 1e-12  # the first holds
    assert (seen[2][1] - seen[1][1]).abs().max() < 1e-12
    assert (seen[1][1] - seen[0][1]).abs().max() > 1e-3


def test_noise_is_renewed_a_step_after_the_split():
    cond, noise = inputs(3)
    plan = shared_plan([(0, 1, 2)], 8, 4)
    fresh = fresh_noise(1.0, range(3), noise.shape[1:], 1)
    fresh = replace(fresh, draws=fresh.draws.to(noise))
    with_noise, without = (
        list(
            sample(linear_denoiser(), toy_solver(8), plan, cond, noise, trunk="control", fresh=some)
        )
        for some in (fresh, None)
    )
    same = [torch.equal(a.x, b.x) for a, b in zip(with_noise, without, strict=True)]
    assert same == [True] * 5 + [False] * 3


@pytest.mark.parametrize("threshold", [0.0, float("inf")])
def test_a_snapshot_is_a_probe_for_nothing(threshold):
    """Probes at the steps of the snapshots ask nothing that would not be asked anyway."""
    cond, noise = inputs(4)
    calls, groups = [], [(0, 1, 2), (3,)]
    denoise = linear_denoiser(calls)

    def probe(x, index, cond, of):
        return denoise(x[of], index[of], cond), torch.zeros_like(x)

    rule = AdaptiveRule(threshold, earliest=0.0, latest=0.5, every=3)
    *_, last = sample_adaptively(
        lambda i: denoise, toy_solver(12), groups, cond, noise,
        probe=lambda i: probe, rule=rule, trunk="control",
    )  # fmt: skip
    assert sum(calls) == evaluations(last.plan, "control") + (
        3 if threshold == 0.0 else 0  # who parts in the first step starts from other noise
    )
    wanted = result(last.plan, cond, noise, "control")
    assert (in_prompt_order(last.state) - wanted).abs().max() < 1e-12


def test_a_rule_that_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="every is 0; allowed is 1 or more"):
        Control(0)


def informed(threshold, denoise=None, trunk="control", every=3, latest=0.5):
    """A run of 12 steps of three prompts in a group, and one alone, that splits by information."""
    cond, noise = inputs(4)
    calls, groups, steps = [], [(0, 1, 2), (3,)], 12
    denoise = denoise or linear_denoiser(calls)

    def probe(x, index, cond, of):
        return denoise(x[of], index[of], cond), None

    rule = AdaptiveRule(threshold, 0.0, latest, every=every, compare="information")
    *_, last = sample_adaptively(
        lambda i: denoise, toy_solver(steps), groups, cond, noise,
        probe=lambda i: probe, rule=rule, trunk=trunk,
    )  # fmt: skip
    return last, calls, cond, noise


def test_information_is_the_sum_of_squared_differences_of_noise_over_log_snr():
    """By hand, where a condition adds a constant to the predicted noise."""

    def denoise(x, index, cond):
        return 0.3 * x + cond

    cond, _ = inputs(4)
    signal = cosine_alphas(12).double()
    snr = signal / (1 - signal).clamp_min(1e-18)
    apart = (cond[0] - cond[1]).square().sum()
    # ‖Δε‖² · ΔSNR / SNR: the integral over log SNR where x0 is held within a step.
    before = torch.cat([torch.zeros(1, dtype=torch.double), snr[1:-1]])
    told = (apart / 2 * (snr[1:] - before) / snr[:-1]).cumsum(0)
    for steps in (2, 5, 9):
        for factor, together in ((0.999, steps), (1.001, steps + 1)):
            nats = float(told[steps]) * factor
            plan = informed(nats, denoise, every=1, latest=1.0)[0].plan
            assert shared_steps(plan, 0, 1) == together


@pytest.mark.parametrize("threshold", [0.0, 0.05, 0.5, 5.0, float("inf")])
def test_splitting_by_information_costs_what_the_plan_says(threshold):
    last, calls, cond, noise = informed(threshold)
    first = last.plan.branch_step_of(0) == 0  # nothing is shared: other noise, asked again
    assert sum(calls) == evaluations(last.plan, "control") + 3 * first
    wanted = result(last.plan, cond, noise, "control")
    assert (in_prompt_order(last.state) - wanted).abs().max() < 1e-12


def test_more_nats_share_longer():
    spent = [
        evaluations(informed(nats, every=100)[0].plan, "control_once")
        for nats in (0.0, 0.1, 1.0, 10.0, float("inf"))
    ]
    assert spent == sorted(spent, reverse=True)
    assert spent[0] > spent[-1]


def test_prompts_part_between_probes_too():
    """One probe, at step 0, whose differences of x0 count in all later steps."""

    def denoise(x, index, cond):
        return 0.3 * x + cond

    cond, _ = inputs(4)
    signal = cosine_alphas(12).double()
    snr = signal / (1 - signal).clamp_min(1e-18)
    told = (cond[0] - cond[1]).square().sum() / 2 * snr[1:] / snr[0]
    plan = informed(float(told[4]) * 0.999, denoise, every=100)[0].plan
    assert shared_steps(plan, 0, 1) == 4
