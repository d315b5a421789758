"""What a trunk follows: equalities that hold for every rule, and each rule by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sage.core.cost import ModelFlops, evaluations, plan_cost
from sage.core.plan import independent_plan, shared_plan
from sage.core.sampling import in_prompt_order, sample
from sage.core.trunk import TRUNKS, group_mean, question
from tests.core.test_sampling import NoScalarReads, inputs, linear_denoiser
from tests.strategies import plans
from tests.toy import toy_solver

ROWS = ((2, 0, 3), (1,), (5, 4))


def result(plan, cond, noise, trunk, denoise=None):
    *_, last = sample(
        denoise or linear_denoiser(), toy_solver(plan.steps), plan, cond, noise, trunk=trunk
    )
    return in_prompt_order(last)


@pytest.mark.parametrize("trunk", TRUNKS)
def test_a_prompt_alone_follows_itself_bit_for_bit(trunk):
    cond, noise = inputs(3)
    plan = independent_plan(3, 6)
    assert torch.equal(result(plan, cond, noise, trunk), result(plan, cond, noise, "mean"))


@pytest.mark.parametrize("trunk", TRUNKS)
def test_equal_prompts_share_as_if_they_were_one(trunk):
    cond, noise = inputs(3)
    cond = cond[:1].repeat(3, 1)
    shared = result(shared_plan([(0, 1, 2)], 6, 4), cond, noise, trunk)
    alone = result(independent_plan(1, 6), cond[:1], noise[:1], "mean")
    assert (shared - alone).abs().max() < 1e-12


@pytest.mark.parametrize("trunk", TRUNKS)
def test_permuting_the_prompts_permutes_the_result(trunk):
    cond, noise = inputs(4)
    order = [2, 0, 3, 1]
    place = {n: i for i, n in enumerate(order)}
    there = result(shared_plan([(0, 2, 3), (1,)], 7, 4), cond, noise, trunk)
    renamed = [tuple(place[n] for n in group) for group in [(0, 2, 3), (1,)]]
    here = result(shared_plan(renamed, 7, 4), cond[order], noise[order], trunk)
    assert (here - there[order]).abs().max() < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("trunk", TRUNKS)
@given(plan=plans())
def test_the_denoiser_sees_as_many_rows_as_the_cost_says(trunk, plan):
    calls = []
    result(plan, *inputs(plan.num_prompts), trunk, linear_denoiser(calls))
    assert len(calls) == plan.steps
    cost = plan_cost(plan, ModelFlops(0, 1, 0), False, trunk)
    assert sum(calls) == cost.evaluations == cost.passes == cost.flops.total
    assert sum(calls) == evaluations(plan, trunk)


@pytest.mark.parametrize("trunk", TRUNKS)
def test_nothing_is_read_back_to_the_host_inside_the_loop(trunk):
    cond, noise = inputs(3)
    plan = shared_plan([(0, 1), (2,)], 8, 3)
    states = sample(linear_denoiser(), toy_solver(8), plan, cond, noise, trunk=trunk)
    next(states)  # the medoid is found before the loop
    with NoScalarReads():
        assert len(list(states)) == 7


def asked(trunk, cond, step=0):
    """Conditions that the denoiser is shown for ROWS."""
    seen = []
    x = torch.zeros(len(ROWS), 2)
    question(trunk, cond, ROWS, step)(
        lambda x, index, c: seen.append(c) or x, x, torch.zeros(len(ROWS), dtype=torch.long)
    )
    return seen[0]


def test_each_rule_by_hand():
    cond = torch.randn(6, 4, 5)
    assert torch.equal(asked("mean", cond), group_mean(cond, ROWS))
    assert torch.equal(asked("alternate", cond, 0), cond[[2, 1, 5]])
    assert torch.equal(asked("alternate", cond, 4), cond[[0, 1, 5]])
    assert torch.equal(asked("prediction", cond), cond[[0, 2, 3, 1, 4, 5]])
    long, mean = asked("norm_mean", cond), group_mean(cond, ROWS)
    wanted = cond[[0, 2, 3]].norm(dim=-1).mean(0)
    assert torch.allclose(long[0].norm(dim=-1), wanted)
    assert torch.allclose(torch.cosine_similarity(long, mean, dim=-1), torch.ones(3, 4))
    cond[3] = (cond[0] + cond[2]) / 2
    assert torch.equal(asked("medoid", cond), cond[[3, 1, 4]])


@given(st.integers(1, 5), st.integers(0, 3))
def test_the_mean_prediction_is_the_mean_of_the_members_predictions(size, others):
    generator = torch.Generator().manual_seed(size)
    cond, x = torch.randn(2, size + others, 3, generator=generator, dtype=torch.float64)
    rows = (tuple(range(size)), *((size + n,) for n in range(others)))
    index = torch.arange(len(rows))
    denoise = linear_denoiser()
    got = question("prediction", cond, rows, 0)(denoise, x[: len(rows)], index)
    for r, row in enumerate(rows):
        each = denoise(x[r].expand(len(row), -1), index[r].expand(len(row)), cond[list(row)])
        assert (got[r] - each.mean(0)).abs().max() < 1e-12


def test_where_the_denoiser_is_linear_in_the_condition_two_rules_are_one():
    def denoise(x, index, cond):
        return 0.3 * x + cond

    cond, noise = inputs(3)
    plan = shared_plan([(0, 1, 2)], 6, 4)
    mean, prediction = (
        result(plan, cond, noise, trunk, denoise) for trunk in ("mean", "prediction")
    )
    assert (mean - prediction).abs().max() < 1e-12


def test_an_unknown_rule_says_what_is_allowed():
    with pytest.raises(ValueError, match="trunk is 'median'; allowed are mean, norm_mean"):
        result(independent_plan(1, 2), *inputs(1), "median")
