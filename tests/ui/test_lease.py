"""The same work in place and in a lease; a lease is a forked process with `spaces`' rules."""

import multiprocessing
import pickle
from dataclasses import dataclass

import pytest
import torch

from sage.jobs.compare import CompareStep, Comparison
from sage.jobs.grid import Axis, Grid
from sage.jobs.models import LoadedModel, ModelSpec, zero_gpu
from sage.jobs.request import parse_request
from sage.sd.store import StateStore
from sage.ui.lease import LONGEST_SECONDS, START_SECONDS, Lease, lease_seconds, portable
from sage.ui.work import compare_request, filmstrip_request, render_grid_of, trace_request

pytestmark = pytest.mark.slow


class OneModel:
    """A shelf with a single model."""

    def __init__(self, model):
        self.model = model

    def loaded(self, key):
        return self.model

    def get(self, key):
        if key != "tiny":
            raise ValueError(f"Unknown model {key!r}")
        return self.model

    for_run = get


@pytest.fixture
def shelf(tiny):
    return OneModel(LoadedModel(ModelSpec("tiny", "Tiny", "nowhere"), tiny))


@pytest.fixture
def request_():
    return parse_request("a fox\na dog", steps=3, guidance_scale=2.0, tau_min=-1.0, tau_max=1.0)


def works(request):
    """Everything that the page renders."""
    axes = (Axis.parse("share_ratio", (0.3, 0.7)), Axis.parse("seed", (0,)))
    return [
        (compare_request, (request,), {"keep": StateStore(), "fewer_steps": True}),
        (filmstrip_request, (request, (0, 2)), {"keep": StateStore()}),
        (render_grid_of, (Grid(request, *axes),), {}),
        (trace_request, (request,), {}),
    ]


def test_outside_of_zerogpu_the_work_runs_in_place(shelf, request_):
    assert not zero_gpu()
    items = list(Lease(shelf).run(compare_request, "tiny", request_, flops=1e9))
    assert [type(item) for item in items] == [CompareStep] * 3 + [Comparison]


def test_an_unknown_model_gets_its_sentence(shelf, request_):
    with pytest.raises(ValueError, match="Unknown model"):
        Lease(shelf).run(compare_request, "gone", request_, flops=1e9)


def test_everything_that_is_rendered_can_leave_a_process(shelf, request_):
    """As `spaces` does it: arguments and every value are pickled."""
    lease = Lease(shelf)
    for work, arguments, options in works(request_):
        there = {name: None if name == "keep" else value for name, value in options.items()}
        asked = pickle.loads(pickle.dumps((work, "tiny", arguments, there, 1e9)))
        for item in lease.remote(*asked):
            assert type(pickle.loads(pickle.dumps(item))) is type(item)


def test_a_forked_process_renders_the_same_pictures(shelf, request_):
    lease = Lease(shelf)
    here = list(lease.run(compare_request, "tiny", request_, flops=1e9))[-1]
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()

    def leased():
        *_, last = lease.remote(compare_request, "tiny", (request_,), {}, 1e9)
        theirs.send([image.tobytes() for image in last.shared.images])

    process = context.Process(target=leased)
    process.start()
    assert ours.poll(120)
    there = ours.recv()
    process.join()
    assert there == [image.tobytes() for image in here.shared.images]


def test_a_lease_goes_on_from_what_its_process_keeps(shelf, request_):
    lease = Lease(shelf)
    first = list(
        lease.remote(compare_request, "tiny", (request_,), {"keep": None, "measure": False}, 1e9)
    )
    again = list(
        lease.remote(compare_request, "tiny", (request_,), {"keep": None, "measure": False}, 1e9)
    )
    assert first[-1].shared.reused == 0
    assert again[-1].shared.reused > 0


def test_a_lease_lasts_as_long_as_its_work_and_no_longer():
    assert lease_seconds(0) == START_SECONDS
    # Four prompts, both sides, 30 steps of Stable Diffusion v1.5: 240 evaluations of 1.6 TFLOP.
    assert 20 <= lease_seconds(240 * 1.6e12) <= 60
    assert lease_seconds(1e18) == LONGEST_SECONDS


def test_zerogpu_is_known_by_its_variable(monkeypatch):
    for value, known in (("true", True), ("1", True), ("", False), ("false", False)):
        monkeypatch.setenv("SPACES_ZERO_GPU", value)
        assert zero_gpu() is known


def test_tensors_are_brought_back_wherever_they_are():
    @dataclass(frozen=True)
    class Inner:
        latents: torch.Tensor
        name: str

    inner = Inner(torch.ones(2, device="meta"), "x")
    with pytest.raises(NotImplementedError):  # .cpu() of a meta tensor: it was reached
        portable({"a": [inner]})
    plain = {"a": [1, "two", None], "b": (3.0,)}
    assert portable(plain) == plain
