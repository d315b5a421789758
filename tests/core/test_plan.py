"""A plan is a forest in which every prompt stands in one row at every step."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.core.plan import (
    Plan,
    Segment,
    branch_step_from_ratio,
    independent_plan,
    shared_plan,
    steps_between,
)
from tests.strategies import plans


@given(plans())
def test_every_prompt_stands_in_exactly_one_row_at_every_step(plan):
    for i in range(plan.steps):
        assert sorted(n for row in plan.rows(i) for n in row) == list(range(plan.num_prompts))


@given(plans())
def test_a_row_continues_a_row_that_stood_for_its_members(plan):
    for i in range(1, plan.steps):
        before, parents = plan.rows(i - 1), plan.parents(i)
        for row, parent in zip(plan.rows(i), parents, strict=True):
            assert set(row) <= set(before[parent])


@given(plans())
def test_rows_change_only_where_the_plan_says_that_it_splits(plan):
    for i in range(1, plan.steps):
        if not plan.splits_at(i):
            assert plan.rows(i) == plan.rows(i - 1)
            assert plan.parents(i) == tuple(range(len(plan.rows(i))))


def test_a_group_shares_until_its_branch_point():
    plan = shared_plan([(0, 2, 3), (1,)], steps=30, branch_step=12)
    assert plan.rows(0) == plan.rows(11) == ((0, 2, 3), (1,))
    assert plan.rows(12) == ((0,), (1,), (2,), (3,))
    assert plan.parents(12) == (0, 1, 0, 0)
    assert [plan.branch_step_of(n) for n in range(4)] == [12, 0, 12, 12]


def test_branch_step_zero_is_independent_and_steps_never_branches():
    assert shared_plan([(0, 1)], 5, 0) == independent_plan(2, 5)
    assert shared_plan([(0, 1)], 5, 5).rows(4) == ((0, 1),)


def test_groups_may_branch_at_different_steps():
    plan = shared_plan([(0, 1), (2, 3)], 10, [3, 7])
    assert plan.rows(5) == ((0,), (1,), (2, 3))


def test_the_branch_steps_are_those_of_groups_of_several():
    assert shared_plan([(0, 1), (2, 3), (4,)], 30, [12, 9, 20]).branch_steps == (9, 12)
    assert independent_plan(3, 30).branch_steps == ()


def test_trees_are_plans():
    plan = Plan(
        6,
        (
            Segment((0, 1, 2), 0, 2),
            Segment((0, 1), 2, 4, 0),
            Segment((2,), 2, 6, 0),
            Segment((0,), 4, 6, 1),
            Segment((1,), 4, 6, 1),
        ),
    )
    assert [len(plan.rows(i)) for i in range(6)] == [1, 1, 2, 2, 3, 3]
    assert plan.branch_step_of(2) == 2
    assert plan.branch_step_of(0) == 4


@pytest.mark.parametrize(
    ("ratio", "steps", "expected"), [(0, 30, 0), (0.4, 30, 12), (0.25, 30, 8), (1, 7, 7)]
)
def test_the_branch_step_is_the_rounded_share_of_steps(ratio, steps, expected):
    assert branch_step_from_ratio(ratio, steps) == expected


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: branch_step_from_ratio(1.2, 30), "share_ratio is 1.2"),
        (lambda: branch_step_from_ratio(float("nan"), 30), "share_ratio is nan"),
        (lambda: shared_plan([(0, 1)], 10, 11), "branch_step is 11"),
        (lambda: shared_plan([(0, 1)], 10, 2.5), "branch_step is 2.5; allowed are whole numbers"),
        (lambda: shared_plan([(0, 1)], 10, float("nan")), "branch_step is nan"),
        (lambda: shared_plan([(0, 1)], 10, [1, 2]), "2 branch points"),
        (lambda: shared_plan([(0,), (0, 1)], 10, 2), "each of 0..N-1 once"),
        (lambda: shared_plan([(0, 2)], 10, 2), "each of 0..N-1 once"),
        (lambda: independent_plan(0, 10), "each of 0..N-1 once"),
        (lambda: independent_plan(1, 0), "steps is 0"),
        (lambda: Plan(4, (Segment((0, 1), 0, 2), Segment((0,), 2, 4, 0))), "Step 2 covers"),
        (lambda: Plan(4, (Segment((0,), 0, 2), Segment((0,), 3, 4, 0))), "does not continue"),
        (lambda: Plan(4, (Segment((0,), 0, 2), Segment((0,), 2, 4))), "without a parent"),
        (lambda: Plan(4, (Segment((0,), 2, 1),)), "runs from 2 to 1"),
        (lambda: Plan(4, (Segment((0,), 0, 2), Segment((0,), 2, 4, 5))), "must stand before"),
        (lambda: Plan(4, (Segment((0, 0), 0, 4),)), "need distinct ones"),
    ],
)
def test_a_plan_that_cannot_be_says_why(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@given(st.integers(1, 6), st.integers(1, 9))
def test_an_independent_plan_never_splits(num_prompts, steps):
    plan = independent_plan(num_prompts, steps)
    assert [i for i in range(steps) if plan.splits_at(i)] == [0]


@given(plans())
def test_a_plan_is_what_its_rows_say(plan):
    again = Plan.from_rows([plan.rows(i) for i in range(plan.steps)])
    assert [again.rows(i) for i in range(plan.steps)] == [plan.rows(i) for i in range(plan.steps)]
    assert [again.parents(i) for i in range(plan.steps)] == [
        plan.parents(i) for i in range(plan.steps)
    ]


@given(plans(), st.data())
def test_its_beginning_is_a_plan_of_its_own(plan, data):
    step = data.draw(st.integers(1, plan.steps))
    begun = plan.until(step)
    assert begun.steps == step
    assert begun.until(step) == begun
    for i in range(step):
        assert begun.rows(i) == plan.rows(i)
        assert begun.parents(i) == plan.parents(i)
        assert begun.branching(i) == plan.branching(i)


@given(plans())
def test_depth_is_the_most_splits_on_the_way_to_a_picture(plan):
    def splits(prompt):
        sizes = [len(plan.rows(i)[plan.row_of(prompt, i)]) for i in range(plan.steps)]
        return sum(a != b for a, b in pairwise(sizes))

    every = range(plan.num_prompts)
    assert plan.depth == max(splits(n) for n in every)
    for n in every:
        path = [plan.branching(i)[plan.row_of(n, i)] for i in range(plan.steps)]
        assert [d for d in path if d] == list(range(1, splits(n) + 1))


@given(plans())
def test_a_prompt_is_alone_from_its_branch_step_on(plan):
    for n in range(plan.num_prompts):
        alone = [plan.rows(i)[plan.row_of(n, i)] == (n,) for i in range(plan.steps)]
        assert plan.branch_step_of(n) == alone.count(False)
        assert alone == sorted(alone)
    assert max(plan.branch_steps, default=0) == max(
        plan.branch_step_of(n) for n in range(plan.num_prompts)
    )


@pytest.mark.parametrize("step", [-1, 6, 100])
def test_a_step_outside_the_plan_is_refused(step):
    with pytest.raises(IndexError, match=f"step is {step}; allowed are 0 to 5"):
        independent_plan(2, 6).rows(step)


@given(st.floats(0, 1), st.floats(0, 1), st.integers(1, 60))
def test_an_interval_is_rounded_as_branch_points_are(one, other, steps):
    first, last = sorted((one, other))
    between = steps_between((first, last), steps)
    assert between.start == branch_step_from_ratio(first, steps)
    assert between.stop == branch_step_from_ratio(last, steps)
    before, after = steps_between((0.0, first), steps), steps_between((first, 1.0), steps)
    assert [*before, *after] == list(range(steps))


@pytest.mark.parametrize("interval", [(-0.1, 1), (0, 1.1), (0.6, 0.5), (float("nan"), 1)])
def test_an_interval_that_cannot_be_says_why(interval):
    with pytest.raises(ValueError, match=f"The interval is {interval[0]} to {interval[1]}"):
        steps_between(interval, 30)


def test_numbers_of_other_libraries_are_branch_points():
    wanted = shared_plan([(0, 1), (2, 3)], 10, 4)
    assert shared_plan([(0, 1), (2, 3)], 10, np.int64(4)) == wanted
    assert shared_plan([(0, 1), (2, 3)], 10, np.array([4, 4])) == wanted
