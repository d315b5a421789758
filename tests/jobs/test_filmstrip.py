"""A filmstrip shows what separate runs would, and pays every trunk once."""

import pytest

from sage.jobs.compare import compare
from sage.jobs.filmstrip import branch_points, filmstrip, filmstrip_evaluations
from sage.jobs.job import prepare
from sage.jobs.models import load_model
from sage.jobs.request import parse_request
from sage.sd.store import StateStore
from tests.jobs.test_models import spec_of

pytestmark = pytest.mark.slow

TEXT = "a red fox\na blue fox\na pizza"
STEPS = 6


@pytest.fixture(scope="module")
def model(tiny_folder):
    return load_model(spec_of(tiny_folder), "cpu")


def job(model, **more):
    asked = {"steps": STEPS, "tau_min": -1.0, "tau_max": 1.0} | more
    return prepare(model, parse_request(TEXT, **asked))


def test_its_pictures_are_those_of_separate_runs(model):
    frames = {f.at: f for f in filmstrip(job(model), [0, 2, 6]) if f.side == "shared"}
    for point, frame in frames.items():
        *_, alone = compare(job(model, share_ratio=point / STEPS))
        assert [i.tobytes() for i in frame.output.images] == [
            i.tobytes() for i in alone.shared.images
        ]
        assert frame.scores.twin == alone.twin_distance


def test_every_trunk_is_paid_once_and_the_measured_run_is_its_beginning(model):
    keep, half = StateStore(), job(model, share_ratio=0.5)
    *_, done = compare(half, keep=keep)
    assert done.shared.reused == 0
    frames = list(filmstrip(half, [0, 2, 3, 6], keep=keep))
    assert [(f.side, f.at) for f in frames] == [
        ("independent", 6),
        ("shared", 6),
        ("shared", 3),
        ("shared", 2),
        ("shared", 0),
    ]
    # All of both sides is there; the longest trunk goes on from 3; nothing shared is run again.
    assert [f.output.reused for f in frames] == [18, 3, 3 + 9, 2, 18]
    assert frames[-1].done == 1
    assert [f.done for f in frames] == sorted(f.done for f in frames)


def test_fewer_steps_are_rendered_for_every_branch_point(model):
    frames = list(filmstrip(job(model), [0, 3], fewer_steps=True))
    fewer = [f for f in frames if f.side == "fewer"]
    # 3 shared steps of 6 leave 3 + 9 evaluations for 3 prompts: 4 steps.
    assert [(f.at, f.output.cost.evaluations) for f in fewer] == [(6, 18), (4, 12)]
    assert fewer[0].scores.twin == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("trunk", ["mean", "alternate", "prediction", "control_once"])
def test_what_it_costs_is_known_before(model, trunk):
    whole, points = job(model, trunk=trunk), (0, 2, 6)
    expected = filmstrip_evaluations(whole, points)
    frames = [f for f in filmstrip(whole, points) if f.side == "shared"]
    spent = sum(f.output.cost.evaluations - f.output.reused for f in frames)
    # The unshared run is the independent one, which the strip renders anyway.
    assert spent == expected - 3 * STEPS


@pytest.mark.parametrize(("steps", "points"), [(30, 11), (6, 7), (100, 11), (31, 12)])
def test_branch_points_are_spread_over_all_steps(steps, points):
    found = branch_points(steps, 11, steps // 2)
    assert {0, steps, steps // 2} <= set(found)
    assert abs(len(found) - points) <= 1


def test_only_groups_have_a_filmstrip(model):
    with pytest.raises(ValueError, match="Only groups"):
        next(filmstrip(job(model, sharing="tree"), [1]))
    with pytest.raises(ValueError, match="no branch points"):
        next(filmstrip(job(model), []))
    with pytest.raises(ValueError, match="branch point is 7; allowed are 0 to 6"):
        next(filmstrip(job(model), [7]))
