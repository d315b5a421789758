"""Repeats measure the same job again: the pictures are the first run's, the seconds everybody's."""

import pytest

from sage.jobs.compare import CompareStep
from sage.jobs.job import prepare
from sage.jobs.models import load_model
from sage.jobs.repeats import compare_repeatedly
from sage.jobs.request import parse_request
from sage.ui.html.outcome import outcome_of, outcome_words
from tests.jobs.test_models import spec_of


@pytest.fixture
def job(tiny_folder):
    model = load_model(spec_of(tiny_folder), "cpu")
    return prepare(model, parse_request("a fox\na dog", steps=3, tau_min=-1.0, tau_max=1.0))


def test_three_repeats_give_three_times_and_a_sentence_with_a_spread(job):
    *steps, done = compare_repeatedly(job, 3)
    assert len(steps) == 9
    assert all(isinstance(step, CompareStep) for step in steps)
    times = done.report["repeats"]
    assert {side: len(each) for side, each in times.items()} == {"shared": 3, "independent": 3}
    assert times["shared"][0] == done.report["seconds"]["shared"]["total"]
    assert outcome_of(done.report).seconds.shared == tuple(times["shared"])
    words = outcome_words(outcome_of(done.report))
    assert "in one run" not in words
    assert " to " in words


def test_what_is_not_measured_is_not_repeated(job):
    *steps, _ = compare_repeatedly(job, 5, measure=False)
    assert len(steps) == 3


def test_other_numbers_get_a_sentence(job):
    with pytest.raises(ValueError, match="repeats is 2; allowed are 1, 3, 5"):
        next(compare_repeatedly(job, 2))
