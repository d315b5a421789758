"""Grouping keeps its promise for any similarity matrix and says why."""

from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sage.core import grouping as grouping_module
from sage.core.grouping import cosine_similarity, group_prompts

PAPER = {"tau_min": 0.6, "tau_max": 0.9}


@st.composite
def similarities(draw, max_prompts=8):
    """A symmetric matrix with distinct entries, so that nothing is decided by chance."""
    n = draw(st.integers(1, max_prompts))
    pairs = list(combinations(range(n), 2))
    values = draw(
        st.lists(st.integers(0, 10_000), min_size=len(pairs), max_size=len(pairs), unique=True)
    )
    s = torch.eye(n)
    for (i, j), value in zip(pairs, values, strict=True):
        s[i, j] = s[j, i] = value / 10_000
    return s


def matrix(n, **values):
    """A matrix from s01=0.8, s12=0.7 and so on; the rest is 0.1."""
    s = torch.full((n, n), 0.1).fill_diagonal_(1)
    for name, value in values.items():
        i, j = int(name[1]), int(name[2])
        s[i, j] = s[j, i] = value
    return s


@given(similarities(), st.integers(1, 6))
def test_every_pair_of_a_group_lies_within_the_bounds(s, size):
    grouping = group_prompts(s, **PAPER, max_group_size=size)
    assert sorted(n for g in grouping.groups for n in g) == list(range(len(s)))
    for group in grouping.groups:
        assert len(group) <= size
        assert all(0.6 <= round(float(s[i, j]), 6) <= 0.9 for i, j in combinations(group, 2))


@pytest.mark.slow
@given(similarities(), st.integers(2, 6), st.data())
def test_the_order_of_the_prompts_does_not_matter(s, size, data):
    order = data.draw(st.permutations(range(len(s))))
    there = group_prompts(s, **PAPER, max_group_size=size).groups
    permuted = group_prompts(s[order][:, order], **PAPER, max_group_size=size).groups
    back = {frozenset(order[n] for n in group) for group in permuted}
    assert back == {frozenset(group) for group in there}


@given(similarities())
def test_no_two_groups_could_still_be_merged(s):
    groups = group_prompts(s, **PAPER).groups
    for a, b in combinations(groups, 2):
        fits = all(0.6 <= round(float(s[i, j]), 6) <= 0.9 for i in a for j in b)
        assert not fits or len(a) + len(b) > 5


@given(similarities())
def test_every_pair_has_a_decision_that_is_true(s):
    grouping = group_prompts(s, **PAPER, max_group_size=3)
    group_of = {n: g for g in grouping.groups for n in g}
    assert [(p.first, p.second) for p in grouping.pairs] == list(combinations(range(len(s)), 2))
    for pair in grouping.pairs:
        mine, other = group_of[pair.first], group_of[pair.second]
        assert pair.together == (mine is other)
        assert (pair.kind == "too_far") == (pair.similarity < 0.6)
        assert (pair.kind == "near_duplicate") == (pair.similarity > 0.9)
        if pair.kind == "too_large":
            assert len(mine) + len(other) > 3


def test_the_reasons_read_as_sentences():
    s = matrix(6, s01=0.83, s23=0.97, s04=0.62, s05=0.41)
    reasons = {(p.first, p.second): p.reason for p in group_prompts(s, **PAPER).pairs}
    assert reasons[0, 1] == "0.83: same group"
    assert reasons[0, 5] == "0.41 is below 0.60"
    assert reasons[2, 3] == "0.97 is above 0.90: near-duplicate"
    assert reasons[0, 4] == (
        "0.62 fits, but 1 fits better with 2 (0.83), and 2 does not fit 5 (0.10)"
    )


def test_a_full_group_says_so():
    s = torch.full((3, 3), 0.7).fill_diagonal_(1)
    s[0, 1] = s[1, 0] = 0.8
    grouping = group_prompts(s, **PAPER, max_group_size=2)
    assert grouping.groups == ((0, 1), (2,))
    assert grouping.pairs[1].reason == "0.70 fits, but would make the group larger than 2"


def test_a_value_beside_a_bound_is_shown_exactly_enough():
    s = matrix(2, s01=0.5999)
    assert group_prompts(s, **PAPER).pairs[0].reason == "0.5999 is below 0.60"


def test_near_duplicates_stay_apart_unless_the_bound_is_one():
    same = cosine_similarity(torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]]))
    assert group_prompts(same, 0.6, 0.9).groups == ((0,), (1,))
    assert group_prompts(same, 0.6, 1.0).groups == ((0, 1),)


def test_a_bound_is_inside():
    assert group_prompts(matrix(2, s01=0.6), **PAPER).groups == ((0, 1),)
    assert group_prompts(matrix(2, s01=0.9), **PAPER).groups == ((0, 1),)


@given(st.integers(1, 6), st.integers(1, 8), st.integers(0, 2**31))
def test_cosine_similarity_is_symmetric_and_bounded(n, d, seed):
    z = torch.randn(n, d, generator=torch.Generator().manual_seed(seed))
    s = cosine_similarity(z)
    assert torch.equal(s, s.T)
    assert float(s.abs().max()) <= 1
    assert torch.equal(s.diagonal(), torch.ones(n))
    expected = torch.nn.functional.cosine_similarity(z[:, None], z[None], dim=-1)
    assert (s - expected).abs().max() < 1e-5


def test_pairs_know_when_they_are_together():
    pair = group_prompts(matrix(2, s01=0.7), **PAPER).pairs[0]
    assert pair.together
    assert not group_prompts(matrix(2), **PAPER).shares


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: group_prompts(torch.ones(2, 3)), "need \\[N, N\\]"),
        (lambda: group_prompts(torch.tensor([[1.0, 0.2], [0.8, 1.0]])), "not symmetric"),
        (lambda: group_prompts(torch.full((2, 2), float("nan"))), "not a number"),
        (lambda: group_prompts(torch.eye(2), 0.9, 0.6), "tau_min is 0.9"),
        (lambda: group_prompts(torch.eye(2), 0.6, 1.1), "tau_max is 1.1"),
        (lambda: group_prompts(torch.eye(2), max_group_size=0), "max_group_size is 0"),
    ],
)
def test_bad_input_says_what_is_allowed(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_pairs_are_decided_when_they_are_asked_for(monkeypatch):
    """There are 50 million of 10,000 prompts."""
    monkeypatch.setattr(grouping_module, "_Reasons", None)
    grouping = group_prompts(matrix(3, s01=0.7), **PAPER)
    assert grouping.groups == ((0, 1), (2,))
    with pytest.raises(TypeError):
        _ = grouping.pairs
