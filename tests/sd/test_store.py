"""What is reused is bitwise what a run from the start would give, and is counted."""

import copy
import pickle

import diffusers
import pytest
import torch

from sage.core.plan import independent_plan, shared_plan
from sage.core.sampling import State
from sage.sd.store import StateStore, history

pytestmark = pytest.mark.slow

PROMPTS = ["a fox", "a dog", "a pizza", "a cat"]
GROUPS = [(0, 1, 3), (2,)]
STEPS = 8


@pytest.fixture
def rows_run(tiny, monkeypatch):
    """Rows that really went through the network, guidance included."""
    rows, kind = [], type(tiny.unet)
    forward = kind.forward
    # Of the class: what a function of the network itself holds belongs to what it computes.
    monkeypatch.setattr(
        kind, "forward", lambda net, z, *a, **k: (rows.append(len(z)), forward(net, z, *a, **k))[1]
    )
    return rows


def run(tiny, ratio, **arguments):
    arguments = {"groups": GROUPS, "num_inference_steps": STEPS} | arguments
    return tiny(PROMPTS, share_ratio=ratio, output_type="latent", **arguments)


@pytest.mark.parametrize("scheduler", ["DDIM", "EulerAncestralDiscrete", "DPMSolverMultistep"])
def test_moving_the_branch_point_reruns_the_branches_only(tiny, rows_run, scheduler):
    kind = getattr(diffusers, f"{scheduler}Scheduler")
    tiny.scheduler = kind.from_config(tiny.scheduler.config)
    store = StateStore()
    run(tiny, 0.75, reuse=store)
    rows_run.clear()
    moved = run(tiny, 0.5, reuse=store)
    assert rows_run == [2 * len(PROMPTS)] * 4  # no row of a trunk
    assert moved.reused == 4 * len(GROUPS)
    cold = run(tiny, 0.5)
    assert cold.reused == 0
    assert torch.equal(moved.latents, cold.latents)


def test_a_later_branch_point_goes_on_with_the_trunk(tiny, rows_run):
    store = StateStore()
    run(tiny, 0.25, reuse=store)
    rows_run.clear()
    moved = run(tiny, 0.5, reuse=store)
    assert rows_run == [2 * len(GROUPS)] * 2 + [2 * len(PROMPTS)] * 4
    assert torch.equal(moved.latents, run(tiny, 0.5).latents)


def test_a_run_that_was_finished_before_costs_nothing(tiny, rows_run):
    store = StateStore()
    first = run(tiny, 0.0, reuse=store)
    rows_run.clear()
    again = run(tiny, 0.0, reuse=store)
    assert rows_run == []
    assert again.reused == again.cost.evaluations
    assert torch.equal(again.latents, first.latents)


@pytest.mark.parametrize(
    "change",
    [
        {"seeds": [1, 2, 3, 4]},
        {"guidance_scale": 2.0},
        {"negative_prompt": "rain"},
        {"num_inference_steps": 9},
        {"groups": [(0, 1), (3,), (2,)]},
    ],
)
def test_any_other_input_starts_anew(tiny, change):
    store = StateStore()
    run(tiny, 0.5, reuse=store)
    changed = run(tiny, 0.5, reuse=store, **change)
    assert changed.reused == 0
    assert torch.equal(changed.latents, run(tiny, 0.5, **change).latents)


def test_another_scheduler_or_network_starts_anew(tiny):
    store = StateStore()
    run(tiny, 0.5, reuse=store)
    tiny.scheduler = type(tiny.scheduler).from_config(
        tiny.scheduler.config, timestep_spacing="trailing"
    )
    assert run(tiny, 0.5, reuse=store).reused == 0
    tiny.unet = type(tiny.unet).from_config(tiny.unet.config).eval()
    assert run(tiny, 0.5, reuse=store).reused == 0


def test_a_scheduler_without_a_table_always_starts_anew(tiny):
    tiny.scheduler = diffusers.UniPCMultistepScheduler.from_config(tiny.scheduler.config)
    store = StateStore()
    run(tiny, 0.5, reuse=store)
    assert run(tiny, 0.5, reuse=store).reused == 0
    assert len(store) == 0


def test_a_filmstrip_pays_for_one_trunk(tiny, rows_run):
    ratios = [0.0, 0.25, 0.75, 0.5, 0.25]
    strip = tiny.filmstrip(
        PROMPTS, ratios, groups=GROUPS, num_inference_steps=STEPS, output_type="latent"
    )
    branches = sum(len(PROMPTS) * (STEPS - point) for point in (0, 2, 4, 6))
    assert sum(rows_run) == 2 * (6 * len(GROUPS) + branches)
    for ratio, output in zip(ratios, strip, strict=True):
        assert torch.equal(output.latents, run(tiny, ratio).latents)


def test_the_store_keeps_its_bound_and_drops_what_was_used_least_recently():
    def state(step):
        return State(step, ((0,),), torch.zeros(1, 10), torch.zeros(1, 10))

    plan = independent_plan(1, 9)
    store = StateStore(max_bytes=240)  # three states of 80 bytes
    for name in "abc":
        store.add(name, plan, state(0))
    assert store.latest("a", plan) is not None  # now "b" is the oldest
    store.add("d", plan, state(0))
    assert store.used_bytes <= 240
    assert store.latest("b", plan) is None
    assert all(store.latest(name, plan) is not None for name in "acd")
    store.clear()
    assert (len(store), store.used_bytes) == (0, 0)


def test_a_state_larger_than_the_store_is_not_kept():
    store = StateStore(max_bytes=10)
    big = State(0, ((0,),), torch.zeros(1, 10), torch.zeros(1, 10))
    store.add("a", independent_plan(1, 3), big)
    assert len(store) == 0


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))]
)
def test_copies_begin_without_what_was_kept(tiny, copied):
    store = StateStore(10**6)
    run(tiny, 0.5, reuse=store)
    tiny.embed(PROMPTS)
    own, other = copied(store), copied(tiny)
    assert (len(own), own.used_bytes, own.max_bytes) == (0, 0, 10**6)
    assert not {"_embeddings", "_known", "_previews"} & vars(other).keys()
    assert torch.equal(run(other, 0.5, reuse=own).latents, run(tiny, 0.5).latents)
    assert len(own) == len(store) > 0


def test_plans_that_begin_alike_have_one_history():
    early, late = (shared_plan(GROUPS, STEPS, point) for point in (3, 5))
    assert history(early, 2) == history(late, 2)
    assert history(early, 3) != history(late, 3)
