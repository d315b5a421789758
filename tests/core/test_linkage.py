"""Complete linkage exists once: equal to brute force and to SciPy, in and out of bounds."""

import json
import zlib
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from sage.core.grouping import cosine_similarity, group_prompts
from sage.core.linkage import complete_linkage, joins
from sage.core.tree import clusters, dendrogram
from tests.core.test_grouping import similarities

CAPTIONS = Path(__file__).parents[1] / "data" / "coco_captions_5k.jsonl"


def brute_force(values, low, high, size):
    """All pairs of clusters are compared before every join; ties as `joins` documents them."""
    groups = [(n,) for n in range(len(values))]

    def links(first, second):
        return sorted(float(values[a][b]) for a in first for b in second)

    def fits(first, second):
        inside = all(low <= link <= high for link in links(first, second))
        return inside and len(first) + len(second) <= size

    while pairs := [pair for pair in combinations(groups, 2) if fits(*pair)]:
        first, second = max(pairs, key=lambda pair: links(*pair))
        groups = [g for g in groups if g not in (first, second)]
        groups = sorted([*groups, tuple(sorted(first + second))])
    return tuple(groups)


@st.composite
def few_values(draw):
    """A symmetric matrix with very few different entries: nearly all links are equal."""
    n = draw(st.integers(1, 8))
    s = torch.eye(n)
    for i, j in combinations(range(n), 2):
        s[i, j] = s[j, i] = draw(st.sampled_from([0.25, 0.5, 0.75, 1.0]))
    return s


@pytest.mark.slow
@given(
    st.one_of(similarities(), few_values()),
    st.sampled_from([(-1.0, 1.0), (0.3, 0.9), (0.5, 0.75)]),
    st.integers(1, 9),
)
def test_the_groups_are_those_of_brute_force(s, bounds, size):
    values = np.round(s.double().numpy(), 6)
    expected = brute_force(values, *bounds, size)
    assert complete_linkage(values, *bounds, size) == expected
    assert group_prompts(s, *bounds, size).groups == expected


def coco(number, width=64):
    """Hashed bags of words of COCO captions."""
    bags = torch.zeros(number, width)
    lines = CAPTIONS.read_text("utf-8").splitlines()[:number]
    for row, line in enumerate(lines):
        for word in json.loads(line)["caption"].lower().strip(".").split():
            bags[row, zlib.crc32(word.encode()) % width] += 1
    return bags


def test_the_groups_of_coco_captions_are_those_of_brute_force():
    """Short captions have many equal similarities, so the rule for ties is at work too."""
    similarity = cosine_similarity(coco(60))
    values = np.round(similarity.double().numpy(), 6)
    assert len(np.unique(values)) < 60 * 59 / 2
    expected = brute_force(values, 0.45, 0.8, 5)
    assert complete_linkage(values, 0.45, 0.8, 5) == expected
    assert {len(group) for group in expected} >= {1, 2, 3}


def test_without_bounds_it_is_scipys():
    """Points without equal distances: the same tree, and the same cuts."""
    points = torch.randn(300, 6, generator=torch.Generator().manual_seed(0))
    similarity = cosine_similarity(points).double()
    similarity += 1e-9 * torch.rand(300, 300, generator=torch.Generator().manual_seed(1))
    similarity = (similarity + similarity.T) / 2
    distance = (1 - similarity).clamp_min(0).fill_diagonal_(0)
    theirs = linkage(squareform(distance.numpy(), checks=False), "complete")
    ours = [-join.link for join in joins(-distance.numpy())]
    assert np.allclose(ours, theirs[:, 2], rtol=0, atol=1e-12)
    for threshold in (0.1, 0.5, 1.0, 1.5):
        labels = fcluster(theirs, threshold, "distance")
        expected = {tuple(np.flatnonzero(labels == label).tolist()) for label in labels}
        assert set(clusters(distance, threshold)) == expected
    assert dendrogram(similarity).height == pytest.approx(theirs[-1, 2], abs=1e-12)


@pytest.mark.slow
def test_very_many_equal_prompts_fill_groups_in_order():
    groups = complete_linkage(np.ones((400, 400)), 0.5, 1.0, 5)
    assert groups == tuple(tuple(range(n, n + 5)) for n in range(0, 400, 5))


def test_rounding_in_a_nearly_symmetric_matrix_has_no_say():
    values = np.array([[1, 0.7], [0.7000001, 1]])
    assert [join.link for join in joins(values)] == [0.7]
    assert complete_linkage(values[::-1, ::-1], 0.5) == ((0, 1),)


@pytest.mark.parametrize("number", [0, 1])
def test_nothing_to_join(number):
    assert complete_linkage(np.ones((number, number)), 0.0) == tuple((n,) for n in range(number))


def test_a_value_that_is_not_a_number_is_refused():
    with pytest.raises(ValueError, match="not a number"):
        complete_linkage(np.array([[1, np.nan], [np.nan, 1]]), 0.0)
