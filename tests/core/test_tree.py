"""Trees: closer prompts share longer, the published cut is met step by step, budgets are kept."""

from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from sage.core.cost import evaluations
from sage.core.plan import independent_plan
from sage.core.tree import budget_plan, dendrogram, falling_cut, shared_steps, tree_plan
from tests.core.test_grouping import similarities


@pytest.mark.slow
@given(similarities(), st.integers(1, 12), st.floats(0, 2))
def test_every_tree_is_a_plan_in_which_closer_forks_part_later(s, steps, tau):
    tree = dendrogram(s)
    plan = tree_plan(tree, steps, falling_cut(tau, steps))
    assert plan.num_prompts == len(s)
    together = {(i, j): shared_steps(plan, i, j) for i, j in combinations(range(len(s)), 2)}
    height = {(i, j): fork_height(tree, i, j) for i, j in together}
    for one, other in combinations(together, 2):
        if height[one] < height[other]:
            assert together[one] >= together[other]


def fork_height(fork, i, j):
    """Distance at which two prompts join."""
    for side in fork.sides:
        if i in side.members and j in side.members:
            return fork_height(side, i, j)
    return fork.height


@pytest.mark.slow
@given(similarities(), st.integers(1, 12), st.floats(0.01, 2))
def test_the_rows_of_a_step_are_scipys_clusters_at_the_falling_cut(s, steps, tau):
    """Decatur et al.: at step k the clusters are those of the tree cut at τ·(1 − k/T)."""
    if len(s) < 2:
        return
    plan = tree_plan(dendrogram(s), steps, falling_cut(tau, steps))
    distance = (1 - s.double()).clamp_min(0).fill_diagonal_(0).numpy()
    joined = linkage(squareform(distance, checks=False), "complete")
    for k in range(steps):
        labels = fcluster(joined, tau * (1 - k / steps), "distance")
        clusters = {tuple(n for n in range(len(s)) if labels[n] == c) for c in labels}
        assert set(plan.rows(k)) == clusters


@pytest.mark.slow
@given(similarities(), st.integers(1, 12), st.floats(0.01, 1))
def test_a_budget_is_kept_with_the_least_sharing(s, steps, budget):
    tree, n = dendrogram(s), len(s)
    if budget * n < 1:
        with pytest.raises(ValueError, match="cost at least"):
            budget_plan(tree, steps, budget)
        return
    plan = budget_plan(tree, steps, budget)
    assert evaluations(plan) <= budget * steps * n + 1e-6
    distinct = float((s - torch.eye(n)).max()) < 1
    if budget == 1 and distinct:  # equal prompts share even where nothing needs saving
        assert plan.rows(0) == independent_plan(n, steps).rows(0)


def test_a_larger_budget_never_shares_more():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(7, 5, generator=generator)
    tree = dendrogram(torch.nn.functional.cosine_similarity(z[:, None], z[None], dim=-1))
    spent = [evaluations(budget_plan(tree, 30, b / 20)) for b in range(3, 21)]
    assert spent == sorted(spent)
    assert spent[-1] == 7 * 30


def test_tau_zero_is_independent_sampling():
    s = torch.full((4, 4), 0.7).fill_diagonal_(1)
    s[0, 1] = s[1, 0] = 0.8
    plan = tree_plan(dendrogram(s), 10, falling_cut(0.0, 10))
    assert plan == independent_plan(4, 10)


def test_three_levels_by_hand():
    s = torch.full((3, 3), 0.5).fill_diagonal_(1)
    s[0, 2] = s[2, 0] = 0.9
    tree = dendrogram(s)
    assert tree.members == (0, 1, 2)
    assert [side.members for side in tree.sides] == [(0, 2), (1,)]
    plan = tree_plan(tree, 10, lambda height: {0.5: 3, 0.1: 8}[round(height, 3)])
    assert [plan.rows(k) for k in (2, 3, 8)] == [
        ((0, 1, 2),),
        ((0, 2), (1,)),
        ((0,), (1,), (2,)),
    ]
    assert shared_steps(plan, 0, 2) == 8
    assert shared_steps(plan, 0, 1) == 3


def test_one_prompt_is_a_tree_of_one():
    assert tree_plan(dendrogram(torch.ones(1, 1)), 4, falling_cut(1.0, 4)) == independent_plan(1, 4)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: dendrogram(torch.ones(2, 3)), "need \\[N, N\\]"),
        (lambda: falling_cut(-1.0, 5), "tau is -1.0"),
        (lambda: falling_cut(float("nan"), 5), "tau is nan"),
        (lambda: budget_plan(dendrogram(torch.eye(2)), 5, 0), "budget is 0"),
        (lambda: budget_plan(dendrogram(torch.eye(2)), 5, 1.2), "budget is 1.2"),
        (lambda: budget_plan(dendrogram(torch.eye(3)), 5, 0.2), "3 prompts cost at least 0.333"),
    ],
)
def test_bad_input_says_what_is_allowed(call, words):
    with pytest.raises(ValueError, match=words):
        call()
