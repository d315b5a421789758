"""Repeats run a job again with other seeds: the pictures are the first run's, the rest counts."""

from dataclasses import replace
from statistics import median

import pytest

from sage.core.settings import SEED
from sage.jobs.compare import CompareStep
from sage.jobs.job import prepare
from sage.jobs.models import load_model
from sage.jobs.repeats import Mean, compare_repeatedly, seed_scores
from sage.jobs.request import parse_request
from sage.sd.store import StateStore
from sage.ui.html.outcome import outcome_of, outcome_words
from tests.jobs.test_models import spec_of


@pytest.fixture
def job(tiny_folder):
    model = load_model(spec_of(tiny_folder), "cpu")
    return prepare(model, parse_request("a fox\na dog", steps=3, tau_min=-1.0, tau_max=1.0))


@pytest.mark.slow
def test_three_repeats_give_three_times_and_a_sentence_with_a_spread(job):
    *steps, done = compare_repeatedly(job, 3)
    assert len(steps) == 9
    assert all(isinstance(step, CompareStep) for step in steps)
    times = done.report["repeats"]
    assert {side: len(each) for side, each in times.items()} == {"shared": 3, "independent": 3}
    # What is drawn by stage is the run whose total is told.
    seconds = {side: stages["total"] for side, stages in done.report["seconds"].items()}
    assert seconds == {side: median(each) for side, each in times.items()}
    assert done.report["saving"]["seconds"] == 1 - seconds["shared"] / seconds["independent"]
    assert outcome_of(done.report).seconds.shared == tuple(times["shared"])
    words = outcome_words(outcome_of(done.report))
    assert "in one run" not in words
    assert " to " in words


@pytest.mark.slow
def test_scores_have_an_interval_also_where_nothing_is_measured(job):
    keep = StateStore()
    *_, first = compare_repeatedly(job, keep=keep)
    *_, done = compare_repeatedly(job, 3, measure=False, keep=keep)
    assert done.report["reused"]["shared"] > 0
    assert outcome_of(done.report).seconds is None  # of steps that were taken from an earlier run
    seeds = outcome_of(done.report).seeds
    assert seeds.seeds == 3
    assert seeds.distance.half is not None
    assert done.report["over_seeds"]["twin_distance"]["shared"][0] == pytest.approx(
        first.report["twin_distance"]
    )


def test_other_numbers_get_a_sentence(job):
    with pytest.raises(ValueError, match="repeats is 2; allowed are 1, 3, 5"):
        next(compare_repeatedly(job, 2))


@pytest.mark.slow
def test_each_repeat_has_other_seeds_and_only_the_first_one_is_kept(job):
    keep = StateStore(2**24)
    *steps, done = compare_repeatedly(job, 3, fewer_steps=True, keep=keep)
    assert [step.repeat for step in steps] == [0] * 3 + [1] * 3 + [2] * 3
    found = done.report["over_seeds"]
    assert found["seeds"] == [job.request.seed + n for n in (0, 2, 4)]
    assert found["evaluations"] == [done.shared.cost.evaluations] * 3
    near = found["twin_distance"]
    assert near["shared"][0] == done.report["twin_distance"]
    assert near["fewer"][0] == done.report["fewer_steps"]["twin_distance"]
    assert len({tuple(one) for one in near["shared"]}) == 3
    alone, states = StateStore(2**24), len(keep)
    *_, once = compare_repeatedly(job, 1, fewer_steps=True, keep=alone)
    assert len(alone) == states
    assert "over_seeds" not in once.report


def test_seeds_that_do_not_exist_are_refused_before_anything_runs(job):
    last = replace(job, request=replace(job.request, seed=int(SEED.high) - 1))
    with pytest.raises(ValueError, match="seed"):
        next(compare_repeatedly(last, 3))


def report_of(shared, alone, near, fewer):
    """What three repeats of two prompts left; the second prompt of the last one was flagged."""
    each = {"shared": shared, "independent": alone}
    clip = {side: [[v, v] for v in values] for side, values in each.items()}
    clip["shared"][2][1] = None
    distance = {"shared": [[d, 9.0] for d in near], "fewer": [[d, 9.0] for d in fewer]}
    return {"over_seeds": {"seeds": [0, 2, 4], "twin_distance": distance, "clip_score": clip}}


def test_differences_are_taken_within_each_seed():
    # The seeds differ by far more than the sides do; within a seed the sides differ alike.
    report = report_of((0.5, 0.6, 0.7), (0.48, 0.58, 0.68), (0.1, 0.3, 0.2), (0.2, 0.2, 0.2))
    found = seed_scores(report, [0])
    assert found.seeds == 3
    assert found.gain.value == pytest.approx(0.02)
    assert not found.gain.is_noise
    assert found.clip.half > 0.2
    assert found.distance.value == pytest.approx(0.2)
    assert found.nearer.value == pytest.approx(0)
    assert found.nearer.is_noise
    assert seed_scores(report, []) is None
    assert seed_scores({}, [0]) is None
    assert seed_scores(report, [0, 1]).gain.value == pytest.approx(0.02)


def test_one_value_says_nothing_of_a_difference():
    assert Mean(0.3, None).is_noise
    assert not Mean(-0.3, 0.2).is_noise
