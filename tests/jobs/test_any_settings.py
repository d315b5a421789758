"""Whatever is accepted runs, as it was planned, in every way of running it; the rest is refused."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sage.core.settings import SCHEDULERS, SHARING, SPACINGS, TRUNKS
from sage.jobs.compare import compare
from sage.jobs.filmstrip import branch_points, filmstrip, filmstrip_evaluations
from sage.jobs.job import prepare
from sage.jobs.look import finish, look, look_report, look_step
from sage.jobs.models import load_model
from sage.jobs.request import parse_request
from sage.sd.schedulers import has_table
from tests.conftest import build_tiny_pipeline
from tests.core.test_planner import planning
from tests.jobs.test_models import spec_of

TEXTS = ["a fox", "a dog", "a cat", "an owl"]
ANY = {
    "tau_min": st.sampled_from([-1.0, 0.5]),
    "tau_max": st.just(1.0),
    "max_group_size": st.sampled_from([1, 2, 5]),
    "steps": st.integers(2, 8),
    "share_ratio": st.sampled_from([0.0, 0.2, 0.4, 0.5, 0.9, 1.0]),
    "guidance_scale": st.sampled_from([1.0, 3.0]),
    "scheduler": st.sampled_from(list(SCHEDULERS)),
    "spacing": st.sampled_from(["model", "model", *SPACINGS]),
    "trunk": st.sampled_from(list(TRUNKS)),
    "fresh_noise": st.sampled_from([0.0, 0.0, 0.5]),
    "sharing": st.sampled_from(["groups", *SHARING]),
    "budget": st.sampled_from([0.0, 0.0, 2.0, 3.5]),
    "spend": st.sampled_from([0.4, 0.7, 1.0]),
    "guarded": st.booleans(),
    "seed": st.integers(0, 5),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny model that knows of planning what a planner must."""
    folder = tmp_path_factory.mktemp("planned")
    build_tiny_pipeline().save_pretrained(folder)
    planning().write(folder)
    return load_model(spec_of(folder), "cpu")


@pytest.mark.slow
@settings(max_examples=25, derandomize=True, suppress_health_check=list(HealthCheck))
@given(how=st.fixed_dictionaries(ANY), number=st.integers(2, 4), data=st.data())
def test_what_is_planned_is_what_runs(model, how, number, data):
    try:
        job = prepare(model, parse_request("\n".join(TEXTS[:number]), **how))
    except ValueError:
        return  # refused before anything was shown
    *_, whole = compare(job, fewer_steps=True)
    json.dumps(whole.report, allow_nan=False)
    if job.settled:
        assert whole.shared.plan == job.plan
        assert whole.shared.cost == job.cost
    if whole.fewer is not None:
        assert whole.fewer.cost.evaluations <= whole.shared.cost.evaluations
    if looks(job):
        chosen = data.draw(st.sets(st.integers(0, number - 1), min_size=1))
        check_look(model, job, whole, sorted(chosen))
    if job.settled and how["sharing"] == "groups" and not how["budget"]:
        points = branch_points(job.calls, 3, job.branch_call)
        frames = [f for f in filmstrip(job, points) if f.side == "shared"]
        spent = sum(f.output.cost.evaluations - f.output.reused for f in frames)
        if has_table(job.loaded_sides.plain.scheduler):
            together = sum(len(group) for group in job.groups if len(group) > 1)
            # What nobody shares is the independent run, which the strip renders anyway.
            assert spent <= filmstrip_evaluations(job, points) + job.calls * (number - together)


def looks(job):
    """Whether a job can be looked at before it is finished."""
    try:
        return look_step(job) > 0
    except ValueError:
        return False


def check_look(model, job, whole, chosen):
    """One prompt after the other is finished from a look: the same pictures, and a sound report."""
    *_, seen = look(job)
    for prompt in chosen:
        *_, seen = finish(model, seen, [prompt])
    json.dumps(look_report(seen), allow_nan=False)
    for prompt in chosen:
        pictures = (seen.final[prompt][0], whole.shared.pictures[prompt])
        one, other = (np.asarray(picture, float) for picture in pictures)
        assert abs(one - other).max() <= 1


@pytest.mark.parametrize("scheduler", ["unipc", "pndm", "heun"])
@pytest.mark.parametrize(("setting", "value", "words"), [
    ("spacing", "karras", r"step spacing \(spacing\) is Karras; with .* allowed is The scheduler"),
    ("spacing", "planned", r"The step spacing \(spacing\) is Planned"),
    ("fresh_noise", 0.3, r"fresh noise at the split \(fresh_noise\) is 0\.3; with .* allowed is 0"),
])  # fmt: skip
def test_what_a_scheduler_cannot_do_is_said_before_anything_is_shown(
    model, scheduler, setting, value, words
):
    how = {"scheduler": scheduler, setting: value, "steps": 6}
    with pytest.raises(ValueError, match=words):
        prepare(model, parse_request("a fox\na dog", **how))


def test_steps_that_cannot_be_placed_are_refused_before_anything_is_shown(model):
    how = {"spacing": "planned", "steps": 40}
    with pytest.raises(ValueError, match="40 steps cannot be planned; allowed are 1 to 6"):
        prepare(model, parse_request("a fox\na dog", **how))
