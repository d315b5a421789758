"""The planner: budgets are kept, nothing cheaper is better, and to share nothing is an answer."""

import math
from dataclasses import replace
from itertools import combinations, pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sage.core.cost import evaluations
from sage.core.plan import independent_plan, shared_plan
from sage.core.planner import FILE_NAME, Planning, plan_within, sharing_levels

M = 6


def planning(weight=1.0, bias=0.02, power=1.0, seed=0):
    """Errors that grow with the square of a jump, and a bias that grows with time and size."""
    draw = torch.Generator().manual_seed(seed)
    rows = tuple(
        tuple(
            float((j - i) ** 2 * (1 + torch.rand((), generator=draw))) / 10
            for j in range(i + 1, M + 1)
        )
        for i in range(M)
    )
    biases = tuple(
        tuple(bias * math.log2(size) * level for level in range(M + 1)) for size in (1, 2, 4)
    )
    return Planning(
        levels=tuple(range(999, 999 - 100 * M, -100)),
        errors={"ddim": rows, "dpm++2m": rows},
        sizes=(1, 2, 4),
        bias=biases,
        trunk="alternate",
        weight=weight,
        power=power,
        conditions={},
    )


def by_hand(known, size, budget):
    """The least loss of one group over all paths and branch points, tried one by one."""
    jumps, best = known.jumps("ddim"), math.inf
    harm = known.weight * known.bias_of(size)
    for steps in range(1, M + 1):
        for rest in combinations(range(1, M), steps - 1):
            path = (0, *rest, M)
            lost = sum(float(jumps[a, b]) for a, b in pairwise(path))
            for shared in range(steps):
                cost = (shared + size * (steps - shared)) / size
                if cost <= budget + 1e-9:
                    best = min(best, lost + float(harm[path[shared]]))
    return best


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("budget", [1.0, 1.75, 2.5, 3.0, 4.2])
def test_no_path_and_no_branch_point_is_better(size, budget):
    known = planning(seed=size)
    chosen = plan_within(known, [(tuple(range(size)),)], budget, "ddim")
    assert chosen.loss == pytest.approx(by_hand(known, size, budget))
    assert chosen.evaluations <= budget + 1e-9


@pytest.mark.parametrize("weight", [math.inf, 1e6])
def test_where_sharing_harms_much_nobody_shares(weight):
    known = planning(weight)
    chosen = plan_within(known, [((0, 1, 2, 3),)], 3.0, "ddim")
    assert chosen.plan == independent_plan(4, 3)
    assert chosen.timesteps == known.timesteps(3, "ddim")
    assert chosen.loss == pytest.approx(chosen.alone_loss)
    assert chosen.reason == "Take 3 independent steps: sharing is not expected to pay off."


def test_where_sharing_is_free_the_trunk_is_long():
    chosen = plan_within(planning(0.0), [((2, 0, 1, 3),)], 2.0, "ddim")
    assert (chosen.plan.steps, chosen.plan.branch_steps) == (5, (4,))  # 4/4 + 1
    assert chosen.plan.rows(3) == ((2, 0, 1, 3),)
    assert chosen.alone == 2
    assert chosen.reason.startswith("Sharing 4 of 5 steps is better than 2 independent steps: ")


def test_sharing_can_be_had_where_it_is_not_best():
    chosen = plan_within(planning(1e6), [((0, 1), (2, 3))], 3.0, "ddim", must_share=True)
    assert chosen.shared_steps == 1
    assert chosen.loss > chosen.alone_loss
    with pytest.raises(ValueError, match="does not pay"):
        plan_within(planning(), [((0, 1),)], 1.0, "ddim", must_share=True)


def test_the_plan_never_loses_to_independent_steps_by_its_own_measure():
    for seed in range(5):
        known = planning(seed=seed)
        for budget in (1, 2, 3.5, 5, 9):
            chosen = plan_within(known, [((0, 1), (2,), (3, 4, 5))], budget, "ddim")
            assert chosen.loss <= chosen.alone_loss + 1e-12
            assert chosen.evaluations <= budget


def test_a_tree_passes_through_the_sides_of_a_group():
    close = torch.tensor([[1.0, 0.2, 0.9, 0.2], [0.2, 1, 0.2, 0.9], [0.9, 0.2, 1, 0.2],
                          [0.2, 0.9, 0.2, 1]])  # fmt: skip
    levels = sharing_levels([(3, 0, 1, 2)], close)
    assert levels[0] == ((3, 0, 1, 2),)
    assert sorted(levels[1]) == [(0, 2), (3, 1)]
    assert sharing_levels([(0, 1, 2), (3,)], close) == [((0, 1, 2), (3,))]
    chosen = plan_within(planning(0.0), levels, 2.0, "ddim")
    assert chosen.evaluations <= 2
    assert chosen.loss <= plan_within(planning(0.0), levels[:1], 2.0, "ddim").loss


def test_many_prompts_keep_to_their_budget():
    groups = [tuple(range(i, i + 3)) for i in range(0, 99, 3)] + [(99,)]
    chosen = plan_within(planning(0.1), [groups], 2.5, "ddim")
    assert 2 < chosen.evaluations <= 2.5


def test_alone_its_steps_lie_where_the_judges_liked_them():
    known = replace(planning(math.inf), places={"ddim": ((999,), (999, 500))})
    assert plan_within(known, [((0, 1),)], 2.0, "ddim").timesteps == (999, 500)
    assert plan_within(known, [((0, 1),)], 3.0, "ddim").timesteps == known.timesteps(3, "ddim")
    assert plan_within(known, [((0, 1),)], 2.0, "dpm++2m").timesteps != (999, 500)


def test_less_than_a_step_is_refused():
    with pytest.raises(ValueError, match=r"budget is 0\.5; a picture takes at least 1 evaluation"):
        plan_within(planning(), [((0, 1),)], 0.5, "ddim")


def test_a_planning_is_read_as_it_was_written(tmp_path):
    for weight in (0.25, math.inf):
        known = planning(weight)
        known.write(tmp_path)
        assert Planning.read(tmp_path) == known
    assert Planning.read(tmp_path / "nothing") is None
    for text in ('{"levels": [1]}', "", "[]", "null", "[" * 100_000, "\ufeff{}"):
        (tmp_path / FILE_NAME).write_text(text)
        with pytest.raises(ValueError, match="cannot be read as a planning"):
            Planning.read(tmp_path)
    (tmp_path / FILE_NAME).unlink()
    (tmp_path / FILE_NAME).symlink_to("nowhere")
    with pytest.raises(ValueError, match="cannot be read as a planning"):
        Planning.read(tmp_path)


def test_more_steps_than_the_teacher_took_are_refused():
    with pytest.raises(ValueError, match="7 steps cannot be planned; allowed are 1 to 6"):
        planning().timesteps(7, "ddim")


@given(st.integers(2, 6), st.integers(1, 3), st.integers(2, 9), st.data())
def test_a_trunk_that_is_corrected_costs_what_its_rows_do(size, groups, steps, data):
    """A snapshot asks all members, and the first step alone only one: prices may be of rows."""
    branch = data.draw(st.integers(1, steps - 1))
    members = [tuple(range(g * size, (g + 1) * size)) for g in range(groups)]
    plan = shared_plan(members, steps, branch)
    assert evaluations(plan, "control_once") == evaluations(plan, "alternate")
    assert evaluations(plan, "alternate") == sum(len(plan.rows(i)) for i in range(steps))


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3, 4])
@given(budget=st.floats(1, 5), more=st.floats(0, 2))
def test_a_larger_budget_never_loses_more(size, budget, more):
    known, level = planning(seed=size), [(tuple(range(size)),)]
    small, large = (plan_within(known, level, b, "ddim") for b in (budget, budget + more))
    assert large.loss <= small.loss + 1e-12
    assert small.evaluations <= budget + 1e-9


@pytest.mark.slow
@given(st.floats(0, 50), st.floats(0, 50), st.sampled_from([1.5, 2.0, 2.75, 4.0]))
def test_the_more_sharing_harms_the_less_is_expected_of_it(one, other, budget):
    low, high = sorted((one, other))
    level = [((0, 1, 2, 3),)]
    mild, harsh = (plan_within(planning(w), level, budget, "ddim") for w in (low, high))
    assert mild.loss <= harsh.loss + 1e-12
    assert harsh.loss <= harsh.alone_loss + 1e-12
    assert mild.alone_loss == harsh.alone_loss


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_bias_lies_between_the_sizes_that_were_measured(power):
    known = planning(power=power)
    two, three, four = (known.bias_of(n) for n in (2, 3, 4))
    assert (known.bias_of(1) == 0).all()
    assert (two <= three).all()
    assert (three <= four).all()
    assert two.tolist() == pytest.approx([b**power for b in known.bias[1]])
    assert known.bias_of(9).tolist() == four.tolist()  # beyond the largest: as that one


@pytest.mark.parametrize("change", [
    {"errors": {"ddim": ((0.1, 0.2), (0.1,))}},
    {"bias": ((0.0,) * 7,)},
    {"bias": ((0.0,) * 6,) * 3},
])  # fmt: skip
def test_tables_of_another_shape_are_refused(change):
    with pytest.raises(ValueError, match=r"no triangle of 6 rows|bias needs 3 rows of 7 numbers"):
        replace(planning(), **change)


@pytest.mark.parametrize(("change", "words"), [
    *(({"errors": {"ddim": tuple((v,) * n for n in range(M, 0, -1))}}, "errors of ddim must")
      for v in (math.nan, math.inf, -1.0)),
    ({"bias": ((math.nan,) * (M + 1),) * 3}, "bias must be finite"),
    ({"levels": tuple(range(M))}, "levels must be whole numbers from 0, descending"),
    ({"levels": tuple(n + 0.5 for n in range(M, 0, -1))}, "levels must be whole"),
    ({"places": {"ddim": ((9,), (5, 5))}}, "places of ddim must be whole"),
    ({"places": {"ddim": ((9, 5),)}}, "places of ddim must be whole"),
    ({"sizes": (4, 2, 1)}, "must ascend from 1"),
    ({"weight": math.nan}, "weight is nan"),
    ({"power": 0.0}, "power is 0"),
    ({"trunk": "median"}, "'median'; allowed are mean"),
])  # fmt: skip
def test_values_without_a_meaning_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        replace(planning(), **change)
