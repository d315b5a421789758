"""Intervals: closed forms, agreement with sage.core.metrics, pairing."""

import math

import numpy as np
import pytest
import torch

from sage.core.metrics import frechet_distance, moments, square_root
from sage.core.resampling import CMMD_SCALE, Estimate, Resampling, Subspace, widened


def test_an_interval_of_equal_values_is_that_value():
    found = Resampling(5).mean(np.full(10, 0.25), np.repeat(np.arange(5), 2))
    assert (found.value, found.low, found.high) == (0.25, 0.25, 0.25)


def test_the_interval_of_a_mean_has_the_width_of_its_standard_error():
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    found = Resampling(400, 4000).mean(values, np.arange(400))
    half = 1.96 * values.std() / 20
    assert found.value == pytest.approx(values.mean())
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.06)


@pytest.mark.slow
@pytest.mark.parametrize("groups", [3, 6, 40])
def test_intervals_of_few_groups_cover_as_often_as_they_say(groups):
    rng, resampling, covered = np.random.default_rng(0), Resampling(groups, 2000), 0
    for _ in range(2000):
        found = resampling.mean(rng.normal(size=groups), np.arange(groups))
        covered += found.low <= 0 <= found.high
    assert 0.935 <= covered / 2000 <= 0.965  # plain percentiles: 0.76, 0.86, 0.93


def test_pictures_of_one_group_go_together():
    """Ten equal pictures of a group say no more than one: the interval must not shrink."""
    values = np.random.default_rng(1).normal(size=40)
    groups = np.arange(40)
    one = Resampling(40).mean(values, groups)
    ten = Resampling(40).mean(np.repeat(values, 10), np.repeat(groups, 10))
    assert (ten.low, ten.high) == pytest.approx((one.low, one.high))


def test_values_that_are_missing_are_left_out():
    values = np.array([1.0, np.nan, 3.0])
    assert Resampling(3).mean(values, np.arange(3)).value == 2.0


def test_a_paired_difference_knows_that_the_groups_are_the_same():
    rng = np.random.default_rng(2)
    base, groups = rng.normal(0, 10, 50), np.arange(50)
    resampling = Resampling(50)
    first, second = (resampling.mean(base + shift, groups) for shift in (0.5, 0.0))
    gap = first.minus(second)
    assert gap.value == pytest.approx(0.5)
    assert (gap.low, gap.high) == pytest.approx((0.5, 0.5))
    assert gap.sign == 1
    assert second.minus(first).sign == -1
    assert first.low < second.high  # the intervals themselves overlap


def test_a_relative_change():
    a, b = Estimate(3.0, np.array([3.0, 4.0])), Estimate(2.0, np.array([2.0, 2.0]))
    change = a.relative_to(b)
    assert change.value == 0.5
    assert change.replicates.tolist() == [0.5, 1.0]


def test_weighted_moments_are_those_of_repeated_rows():
    x = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weights = torch.tensor([0.0, 1, 2, 0, 3, 1])
    repeated = x.repeat_interleave(weights.long(), 0)
    for mine, theirs in zip(moments(x, weights), moments(repeated), strict=True):
        assert torch.allclose(mine, theirs)


def test_the_root_of_a_covariance_squares_to_it():
    x = torch.randn(20, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    cov = moments(x)[1]
    assert torch.allclose(square_root(cov) @ square_root(cov), cov)


def _features(number, width, seed, shift=0.0):
    return torch.randn(number, width, generator=torch.Generator().manual_seed(seed)) + shift


def test_the_frechet_distance_in_all_components_is_the_usual_one():
    x, real = _features(60, 5, 0, 0.5), _features(80, 5, 1)
    space = Subspace(real, components=5)
    assert space.explained == pytest.approx(1.0)
    found = Resampling(12, 50).frechet(x, np.repeat(np.arange(12), 5), space)
    assert found.value == pytest.approx(frechet_distance(x, real), rel=1e-9)
    assert found.low < found.value < found.high


def test_a_subspace_keeps_the_leading_direction():
    real = _features(200, 3, 2) * torch.tensor([5.0, 1.0, 0.1])
    space = Subspace(real, components=1)
    assert abs(space.axes[0, 0]) > 0.99
    assert space.explained == pytest.approx(25 / 26, abs=0.03)
    assert Subspace(real[:2], components=64).components == 1


def cmmd(a, b):
    """The published formula, pair by pair."""
    unit_a, unit_b = (x.double() / x.double().norm(dim=1, keepdim=True) for x in (a, b))

    def kernel(x, y):
        return float((-torch.cdist(x, y).square() / 200).exp().mean())

    return 1000 * (kernel(unit_a, unit_a) + kernel(unit_b, unit_b) - 2 * kernel(unit_a, unit_b))


def test_cmmd_by_groups_is_the_kernel_formula():
    x, real = _features(30, 8, 3, 0.2), _features(40, 8, 4)
    estimate = Resampling(10).cmmd(x, np.repeat(np.arange(10), 3), real)
    assert estimate.value == pytest.approx(cmmd(x, real), rel=1e-6)
    # Every resample by hand: its pictures repeated as often as their groups were drawn.
    resampling = Resampling(10, 3)
    repeats = [torch.from_numpy(counts).repeat_interleave(3) for counts in resampling.counts]
    expected = np.array([cmmd(x.repeat_interleave(counts, 0), real) for counts in repeats])
    three = resampling.cmmd(x, np.repeat(np.arange(10), 3), real)
    expected = widened(expected, 10)
    assert three.replicates == pytest.approx(expected + three.value - expected.mean(), rel=1e-6)
    assert three.replicates.mean() == pytest.approx(three.value)


def test_cmmd_of_two_points_and_of_equal_sets():
    """Opposite unit vectors are 2 apart: MMD² = 2·(1 − exp(−4/200))."""
    a, one = torch.tensor([[1.0, 0.0]]), np.zeros(1, int)
    apart = Resampling(1).cmmd(a, one, -3 * a).value
    assert apart == pytest.approx(CMMD_SCALE * 2 * (1 - math.exp(-0.02)))
    assert Resampling(1).cmmd(a, one, 5 * a).value == 0.0


@pytest.mark.slow
def test_the_interval_of_a_distance_covers_what_other_groups_give():
    """At one count of pictures, over many draws: the interval holds the mean about 95 times."""
    real = Subspace(_features(400, 3, 6), components=3)
    drawn = [_features(60, 3, 100 + seed, 0.3) for seed in range(60)]
    groups = np.repeat(np.arange(30), 2)
    found = [Resampling(30, 150, seed=n).frechet(x, groups, real) for n, x in enumerate(drawn)]
    middle = np.mean([estimate.value for estimate in found])
    inside = sum(estimate.low <= middle <= estimate.high for estimate in found)
    assert inside >= 50


def test_nothing_to_resample_is_refused():
    with pytest.raises(ValueError, match="groups is 0"):
        Resampling(0)
    with pytest.raises(ValueError, match="there are 1"):
        Subspace(torch.zeros(1, 4))


def test_few_pictures_give_the_same_subspace():
    real = _features(6, 9, 5).double()
    few = Subspace(real, components=3)
    centred = real - real.mean(0)
    directions = torch.linalg.svd(centred, full_matrices=False)[2][:3]
    assert torch.allclose((few.axes @ directions.T).abs(), torch.eye(3).double(), atol=1e-8)
    squares = torch.linalg.svdvals(centred).square()
    assert few.explained == pytest.approx(float(squares[:3].sum() / squares.sum()))
