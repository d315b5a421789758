"""Predictions from a calibration: monotone, bounded, and silent where nothing was measured."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sage.core.calibration import FILE_NAME, Calibration, lowest_similarity
from sage.core.guard import predict

WORDS = {"limit": 0.2, "measure": "made up", "conditions": {"pictures": 3}}
TABLE = Calibration(
    (0.4, 0.6, 0.8), (0.0, 0.3, 0.6), ((0, 0.3, 0.6), (0, 0.1, 0.4), (0, 0, 0.2)), **WORDS
)

shares = st.floats(0, 1)


@st.composite
def noisy_tables(draw):
    rows, columns = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    values = draw(st.lists(shares, min_size=rows * columns, max_size=rows * columns))
    weights = draw(st.lists(st.integers(1, 50), min_size=rows, max_size=rows))
    return np.array(values).reshape(rows, columns), weights


def fit(values, weights):
    rows, columns = values.shape
    axes = np.linspace(0.3, 0.9, rows), np.linspace(0, 0.6, columns)
    return Calibration.fit(*axes, values, weights, **WORDS)


@pytest.mark.slow
@given(noisy_tables(), shares, shares, st.floats(0, 0.6), st.floats(0, 0.6))
def test_closer_prompts_and_shorter_trunks_are_never_expected_to_do_worse(table, s, t, r, q):
    made = fit(*table)
    near, far, short, long = max(s, t), min(s, t), min(r, q), max(r, q)
    assert made.expected(near, short) <= made.expected(far, long) + 1e-9
    assert made.longest_safe(far) <= made.longest_safe(near) + 1e-9


@given(noisy_tables())
def test_what_is_monotone_already_is_kept(table):
    values, weights = table
    monotone = -np.sort(-np.sort(values, axis=1), axis=0)
    assert np.allclose(fit(monotone, weights).distance, monotone, atol=1e-6)


@given(shares, st.floats(0, 0.6))
def test_a_verdict_says_what_the_table_says(similarity, ratio):
    verdict = predict(similarity, ratio, TABLE)
    expected = TABLE.expected(similarity, ratio)
    assert verdict.expected_distance == expected
    assert verdict.safe == TABLE.is_safe(similarity, ratio)
    if verdict.kind == "shorten":
        assert predict(similarity, verdict.shorter, TABLE).safe
        assert verdict.shorter < ratio


def test_entries_of_the_table_are_met_and_its_ends_are_level():
    for b, similarity in enumerate(TABLE.similarity):
        for k, ratio in enumerate(TABLE.share_ratio):
            assert TABLE.expected(similarity, ratio) == pytest.approx(TABLE.distance[b][k])
    assert TABLE.expected(0.1, 0.3) == TABLE.expected(0.4, 0.3)
    assert TABLE.expected(0.5, 0.3) == pytest.approx(0.2)
    assert TABLE.expected(0.5, 0.9) == TABLE.expected(0.5, 0.6)


def test_each_kind_of_verdict():
    safe, shorten = predict(0.8, 0.6, TABLE), predict(0.6, 0.6, TABLE)
    assert (safe.kind, shorten.kind) == ("safe", "shorten")
    assert shorten.shorter == pytest.approx(0.4)
    assert "up to 40% of the steps" in shorten.reason
    hard = Calibration((0.4,), (0.0, 0.01), ((0.0, 0.9),), **WORDS)
    refused = predict(0.4, 0.4, hard)
    assert refused.kind == "refuse"
    assert not refused.safe
    assert "lowest similarity 0.40" in refused.reason


def test_other_steps_than_the_measured_ones_are_named():
    words = WORDS | {"conditions": {"steps": 30}}
    table = Calibration(TABLE.similarity, TABLE.share_ratio, TABLE.distance, **words)
    assert "measured at" not in predict(0.6, 0.6, table, 30).reason
    assert "(measured at 30 steps)" in predict(0.6, 0.6, table, 8).reason


def test_a_model_that_is_not_calibrated_is_not_judged():
    verdict = predict(0.1, 0.9, None)
    assert verdict.kind == "unknown"
    assert verdict.safe
    assert verdict.expected_distance is None
    assert "nothing is predicted" in verdict.reason


def test_the_least_similar_pair_of_a_group():
    similarity = torch.tensor([[1.0, 0.9, 0.5], [0.9, 1.0, 0.7], [0.5, 0.7, 1.0]])
    assert lowest_similarity(similarity, (0, 1, 2)) == 0.5
    assert lowest_similarity(similarity, (1, 2)) == pytest.approx(0.7)
    assert lowest_similarity(similarity, (1,)) == 1


def test_a_file_gives_back_what_was_written(tmp_path):
    assert Calibration.read(tmp_path) is None
    TABLE.write(tmp_path)
    assert Calibration.read(tmp_path) == TABLE
    (tmp_path / FILE_NAME).write_text('{"limit": 1}')
    with pytest.raises(ValueError, match="cannot be read as a calibration"):
        Calibration.read(tmp_path)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (((0.4,), (0.0, 0.3), ((0.1,),)), "need \\(1, 2\\)"),
        (((0.4, 0.3), (0.0,), ((0.1,), (0.1,))), "similarity is .* must ascend"),
        (((), (), ()), "need \\(0, 0\\)"),
    ],
)
def test_a_table_that_is_none_says_so(table, words):
    with pytest.raises(ValueError, match=words):
        Calibration(*table, **WORDS)
    for change in ({"limit": float("nan")}, {"distance": ((float("inf"),),)}):
        with pytest.raises(ValueError, match="must be numbers"):
            replace(Calibration((0.4,), (0.0,), ((0.1,),), **WORDS), **change)
    with pytest.raises(ValueError, match="conditions is a int; need names"):
        replace(TABLE, conditions=3)


def test_a_ratio_outside_its_bounds_says_so():
    with pytest.raises(ValueError, match=r"share_ratio is 1\.2"):
        predict(0.5, 1.2, TABLE)
