"""Cost is arithmetic on a plan and agrees with the closed formula."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.core.cost import (
    ModelFlops,
    evaluations,
    evaluations_of,
    plan_cost,
)
from sage.core.plan import independent_plan, shared_plan
from tests.strategies import plans

MODEL = ModelFlops(text_encoder=2.0, denoiser=10.0, decoder=5.0)


@given(plans())
def test_evaluations_are_the_rows_of_all_steps(plan):
    assert evaluations(plan) == sum(len(plan.rows(i)) for i in range(plan.steps))


@given(st.integers(2, 5), st.integers(1, 4), st.integers(1, 30), st.data())
def test_saving_is_the_share_ratio_times_one_minus_groups_over_prompts(size, groups, steps, data):
    branch = data.draw(st.integers(0, steps))
    members = [tuple(range(g * size, (g + 1) * size)) for g in range(groups)]
    cost = plan_cost(shared_plan(members, steps, branch), MODEL)
    assert cost.saving == pytest.approx(branch / steps * (1 - 1 / size))


def test_the_papers_setting():
    # 12 of 30 steps shared by 4 prompts: 12 + 4·18 = 84 of 120 evaluations.
    cost = plan_cost(shared_plan([(0, 1, 2, 3)], 30, 12), MODEL)
    assert (cost.evaluations, cost.independent_evaluations) == (84, 120)
    assert cost.saving == pytest.approx(0.3)


@pytest.mark.parametrize("guided", [True, False])
def test_flops_are_calls_times_flops_of_a_call(guided):
    cost = plan_cost(shared_plan([(0, 1), (2,)], 10, 4), MODEL, guided)
    factor = 2 if guided else 1
    assert cost.flops.encode == 2.0 * (4 if guided else 3)
    assert cost.flops.trunk == 4 * 10 * factor
    assert cost.flops.branches == (4 + 3 * 6) * 10 * factor
    assert cost.flops.decode == 15.0
    assert cost.independent_flops.branches == 30 * 10 * factor
    assert cost.flops_saving == pytest.approx(1 - cost.flops.total / cost.independent_flops.total)


def test_an_independent_plan_saves_nothing():
    cost = plan_cost(independent_plan(3, 7), MODEL)
    assert cost.saving == cost.flops_saving == 0
    assert cost.flops == cost.independent_flops


@given(plans(), st.integers(0, 8), st.integers(0, 8))
def test_guidance_in_some_steps_doubles_the_passes_of_those(plan, one, other):
    first, last = sorted((min(one, plan.steps), min(other, plan.steps)))
    cost = plan_cost(plan, MODEL, range(first, last))
    assert cost.passes == evaluations(plan) + evaluations(plan, steps=range(first, last))
    # Beside it stands independent sampling that is guided throughout.
    assert cost.independent_passes == 2 * plan.steps * plan.num_prompts


@pytest.mark.parametrize("trunk", ["mean", "norm_mean", "medoid", "alternate", "prediction"])
@given(plans())
def test_the_parts_of_the_prompts_are_the_whole(trunk, plan):
    parts = [evaluations_of(plan, trunk, n) for n in range(plan.num_prompts)]
    assert sum(parts) == pytest.approx(evaluations(plan, trunk))
    for n, part in enumerate(parts):
        assert part <= plan.steps + 1e-9
        if plan.branch_step_of(n) == 0:
            assert part == plan.steps


@given(plans())
def test_the_mean_of_predictions_saves_nothing(plan):
    assert evaluations(plan, "prediction") == plan.steps * plan.num_prompts


@given(plans(), st.integers(0, 8))
def test_steps_add_up(plan, at):
    cut = min(at, plan.steps)
    parts = (evaluations(plan, steps=r) for r in (range(cut), range(cut, plan.steps)))
    assert sum(parts) == evaluations(plan)
