"""Both sides have the same inputs, and the report says what was done."""

import json

import pytest

from sage.jobs.compare import CompareStep, Comparison, compare
from sage.jobs.job import prepare
from sage.jobs.models import load_model
from sage.jobs.request import parse_request
from tests.jobs.test_models import spec_of

pytestmark = pytest.mark.slow

TEXT = "a red fox\na blue fox\na pizza"


@pytest.fixture
def model(tiny_folder):
    return load_model(spec_of(tiny_folder), "cpu")


def finished(model, **arguments):
    *steps, result = compare(prepare(model, parse_request(TEXT, **arguments)))
    return steps, result


def test_every_step_shows_both_sides_in_prompt_order(model):
    steps, result = finished(model, steps=5, tau_min=-1.0, tau_max=1.0)
    assert isinstance(result, Comparison)
    assert all(isinstance(step, CompareStep) for step in steps)
    assert [step.step for step in steps] == [1, 2, 3, 4, 5]
    assert [step.stage for step in steps] == ["trunk"] * 2 + ["branches"] * 3
    assert all(len(step.shared) == len(step.independent) == 3 for step in steps)


def test_without_sharing_both_sides_are_the_same_pictures(model):
    _, result = finished(model, steps=4, share_ratio=0.0)
    assert result.twin_distance == (0.0, 0.0, 0.0)
    for ours, twin in zip(result.shared.images, result.independent.images, strict=True):
        assert ours.tobytes() == twin.tobytes()
    assert result.report["saving"]["evaluations"] == 0


def test_the_report_is_plain_json_with_all_conditions(model):
    _, result = finished(model, steps=5, tau_min=-1.0, tau_max=1.0, seed=7, share_ratio=0.4)
    report = json.loads(json.dumps(result.report, allow_nan=False))
    assert report["prompts"] == TEXT.splitlines()
    assert report["groups"] == [[0, 1, 2]]
    assert report["seeds"] == [7, 8, 9]
    assert (report["steps"], report["branch_step"], report["share_ratio"]) == (5, 2, 0.4)
    assert report["evaluations"] == {"shared": 2 + 9, "independent": 15}
    assert report["saving"]["evaluations"] == pytest.approx(1 - 11 / 15)
    for measure in ("flops", "seconds"):
        for side in ("shared", "independent"):
            stages = report[measure][side]
            parts = [stages[k] for k in ("encode", "trunk", "branches", "decode")]
            assert stages["total"] == pytest.approx(sum(parts))
    assert report["seconds"]["independent"]["trunk"] == 0
    assert report["seconds"]["shared"]["trunk"] > 0
    assert set(report) >= {"model", "guidance_scale", "clip_score", "device", "versions"}


def test_groups_can_be_given(model):
    request = parse_request(TEXT, steps=4, tau_min=-1.0, tau_max=1.0)
    *_, result = compare(prepare(model, request, groups=[(0, 2), (1,)]))
    assert result.report["groups"] == [[0, 2], [1]]


def test_the_same_request_gives_the_same_pictures(model):
    _, first = finished(model, steps=4)
    _, second = finished(model, steps=4)
    assert [i.tobytes() for i in first.shared.images] == [i.tobytes() for i in second.shared.images]


def test_without_an_image_encoder_there_is_no_clip_score(model):
    _, result = finished(model, steps=2)
    assert result.report["clip_score"] is None


def test_fewer_steps_spend_no_more_than_sharing(model):
    request = parse_request(TEXT, steps=6, tau_min=-1.0, tau_max=1.0, share_ratio=0.5)
    *_, result = compare(prepare(model, request), fewer_steps=True)
    assert result.report["fewer_steps"]["steps"] == 4
    assert result.fewer.cost.evaluations == 12 <= result.shared.cost.evaluations
    assert len(result.fewer.images) == 3


def test_where_sharing_pays_for_no_step_there_is_no_row_with_fewer(model):
    request = parse_request(TEXT, steps=2, tau_min=-1.0, tau_max=1.0, share_ratio=1.0)
    *_, result = compare(prepare(model, request), fewer_steps=True)
    assert result.fewer is None
    assert result.report["fewer_steps"] is None
