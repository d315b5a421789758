"""The sentence of the outcome says the run's numbers, and no time without its conditions."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from sage.jobs.repeats import Mean, SeedScores
from sage.ui.html import look
from sage.ui.html.outcome import (
    FAR,
    NEARNESS,
    Outcome,
    Seconds,
    is_noise,
    nearness,
    outcome_of,
    outcome_words,
)
from sage.ui.studio.first import FOLDER, stored_comparisons

ALL = {stored.key: stored for stored in stored_comparisons(FOLDER)}
PLAIN = Outcome((66, 90), (2.0, 3.0), (0.02, 0.03), at=12)


@pytest.mark.parametrize("stored", ALL.values(), ids=ALL)
def test_every_number_of_a_stored_run_is_that_of_its_report(stored):
    report = stored.report
    words = outcome_words(outcome_of(report))
    runs, saving = report["evaluations"], report["saving"]
    assert f"{runs['shared']} evaluations instead of {runs['independent']}" in words
    assert f"<b>{100 * saving['evaluations']:.0f} % saved</b>" in words
    assert f"{100 * saving['flops']:.0f} % less compute" in words
    assert f"with {report['fewer_steps']['steps']} steps" in words
    assert "in one run" in words


def test_prompts_that_share_nothing_do_not_count_towards_nearness():
    stored = ALL["mixed"]
    outcome = outcome_of(stored.report)
    alone = [n for group in stored.report["groups"] if len(group) == 1 for n in group]
    assert len(outcome.near) == len(stored.request.prompts) - len(alone)
    assert 0 not in outcome.near


def test_one_run_states_no_percentage_of_time():
    words = outcome_words(replace(PLAIN, seconds=Seconds((4.1,), (5.2,), 12)))
    assert "4.1 s instead of 5.2 s in one run" in words
    assert "measured at" not in words  # at the branch point that is shown


def test_seconds_of_another_branch_point_say_at_which():
    words = outcome_words(replace(PLAIN, at=20, seconds=Seconds((4.1,), (5.2,), 12)))
    assert "in one run, measured at 12 shared steps" in words


def test_repeats_give_median_and_range():
    seconds = Seconds((4.3, 4.0, 4.1), (5.2, 5.0, 5.9), 12)
    assert not is_noise(seconds)
    words = outcome_words(replace(PLAIN, seconds=seconds))
    assert "4.1 s (4 to 4.3 s) instead of 5.2 s (5 to 5.9 s)" in words


def test_overlapping_ranges_are_noise_and_said_to_be():
    seconds = Seconds((4.3, 4.0, 5.1), (5.2, 5.0, 5.9), 12)
    assert is_noise(seconds)
    assert is_noise(Seconds(seconds.independent, seconds.shared))
    assert "within noise" in outcome_words(replace(PLAIN, seconds=seconds))


def test_more_than_alone_is_not_called_a_saving():
    words = outcome_words(replace(PLAIN, evaluations=(99, 90), flops=(3.3, 3.0)))
    assert "10 % more spent" in words
    assert "10 % more compute" in words
    assert "saved" not in words


def test_nothing_shared_is_said_so():
    words = outcome_words(Outcome((90, 90), (3.0, 3.0), ()))
    assert "Nothing is saved" in words
    assert "instead" not in words


def test_nearness_goes_from_the_same_to_other_pictures():
    limits = [limit for limit, _ in NEARNESS]
    assert limits == sorted(limits)
    for limit, words in NEARNESS:
        assert nearness([limit]) == words
    assert nearness([1.0]) == FAR


@pytest.mark.parametrize(
    ("theirs", "verdict"),
    [(0.004, "comes closer"), (0.024, "comes about as close"), (0.1, "comes less close")],
)
def test_fewer_steps_are_judged_by_the_same_measure(theirs, verdict):
    words = outcome_words(replace(PLAIN, fewer=(22, (theirs, theirs))))
    assert f"with 22 steps {verdict}" in words
    assert nearness([theirs]) in words


SURE = SeedScores(
    3,
    Mean(0.031, 0.004),
    Mean(0.052, 0.006),
    Mean(0.021, 0.003),
    Mean(0.61, 0.02),
    Mean(0.63, 0.02),
    Mean(-0.02, 0.005),
)


def test_several_seeds_give_intervals_beside_both_rivals():
    words = outcome_words(replace(PLAIN, fewer=(22, (0.02, 0.03)), seeds=SURE))
    assert "Over 3 sets of seeds" in words
    assert "distance 0.031 ± 0.004 (fewer steps: 0.052 ± 0.006)" in words
    assert "CLIP score 0.610 ± 0.020 (independent: 0.630 ± 0.020)" in words
    assert "within noise" not in words
    assert "with 22 steps comes less close" in words  # by the seeds, not by the one that is shown
    assert "sets of seeds" not in outcome_words(PLAIN)


def test_a_difference_whose_interval_holds_none_is_called_noise():
    unsure = replace(SURE, nearer=Mean(0.021, 0.03), gain=Mean(-0.02, 0.02))
    words = outcome_words(replace(PLAIN, fewer=(22, (0.1, 0.1)), seeds=unsure))
    assert "(fewer steps: 0.052 ± 0.006, within noise)" in words
    assert "(independent: 0.630 ± 0.020, within noise)" in words
    assert "with 22 steps comes as close, within noise" in words


def test_without_an_image_encoder_or_a_baseline_the_distance_is_told_alone():
    words = outcome_words(replace(PLAIN, seeds=SeedScores(5, Mean(0.031, 0.004))))
    assert "of the mean: distance 0.031 ± 0.004.</p>" in words


@pytest.mark.parametrize(
    ("spent", "words"),
    [
        (80.0, "20 % less compute,"),
        (106.0, "6 % more compute (every expected picture was decoded),"),
    ],
)
def test_a_look_that_computes_more_for_fewer_evaluations_says_why(monkeypatch, spent, words):
    report = {
        "evaluations": {"look": 20, "spent": 42, "all": 61, "independent": 80},
        "flops": {"spent": spent, "all": 100.0},
        "seconds": {"look": 1.0, "spent": 2.0, "all": 3.0},
    }
    monkeypatch.setattr(look, "look_report", lambda seen: report)
    seen = SimpleNamespace(finishes=(1,), finished=(0,), pictures=(1, 2))
    assert f"42 evaluations instead of 61, {words}" in look.look_words(seen)
