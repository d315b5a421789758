"""Sampling a plan: equalities that hold for any denoiser and any plan."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from sage.core.cost import evaluations
from sage.core.plan import independent_plan, shared_plan
from sage.core.sampling import in_prompt_order, sample
from sage.core.trunk import group_mean
from tests.strategies import plans
from tests.toy import toy_solver

DIM = 3


def linear_denoiser(calls=None):
    """A denoiser in which every part of the input matters; notes the rows of each call."""

    def denoise(x, index, cond):
        if calls is not None:
            calls.append(len(x))
        return torch.sin(x * 0.3 + cond) + 0.01 * index[:, None]

    return denoise


def inputs(num_prompts, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, num_prompts, DIM, generator=generator, dtype=torch.float64)


def result(plan, cond, noise, solver=None, denoise=None):
    states = sample(
        denoise or linear_denoiser(), solver or toy_solver(plan.steps), plan, cond, noise
    )
    *_, last = states
    return in_prompt_order(last)


@pytest.mark.slow
@given(plans())
def test_one_call_a_step_and_as_many_rows_as_the_cost_model_says(plan):
    calls = []
    list(sample(linear_denoiser(calls), toy_solver(plan.steps), plan, *inputs(plan.num_prompts)))
    assert len(calls) == plan.steps
    assert sum(calls) == evaluations(plan)


@given(st.integers(1, 5), st.integers(1, 8))
def test_no_sharing_equals_each_prompt_alone(num_prompts, steps):
    cond, noise = inputs(num_prompts)
    groups = [tuple(range(num_prompts))]
    together = result(shared_plan(groups, steps, 0), cond, noise)
    for n in range(num_prompts):
        alone = result(independent_plan(1, steps), cond[n : n + 1], noise[n : n + 1])
        assert (together[n] - alone[0]).abs().max() < 1e-12


@pytest.mark.slow
@given(plans(), st.randoms(use_true_random=False))
def test_permuting_the_prompts_permutes_the_result(plan, random):
    order = list(range(plan.num_prompts))
    random.shuffle(order)
    place = {n: i for i, n in enumerate(order)}
    cond, noise = inputs(plan.num_prompts)
    renamed = type(plan)(
        plan.steps,
        tuple(
            type(s)(tuple(place[m] for m in s.members), s.start, s.stop, s.parent)
            for s in plan.segments
        ),
    )
    there = result(plan, cond, noise)
    here = result(renamed, cond[order], noise[order])
    assert (here - there[order]).abs().max() < 1e-9


def test_branches_differ_after_the_split_and_are_one_before():
    plan = shared_plan([(0, 1, 2)], 6, 3)
    cond, noise = inputs(3)
    states = list(sample(linear_denoiser(), toy_solver(6), plan, cond, noise))
    assert [len(state.x) for state in states] == [1, 1, 1, 3, 3, 3]
    final = in_prompt_order(states[-1])
    assert (final[0] - final[1]).abs().max() > 1e-3
    assert torch.equal(*in_prompt_order(states[2])[:2])


def test_two_equal_prompts_are_two_rows_with_one_result_when_they_share():
    plan = shared_plan([(0, 1)], 6, 3)
    cond, noise = inputs(2)
    cond[1] = cond[0]
    final = result(plan, cond, noise)
    alone = result(independent_plan(1, 6), cond[:1], noise[:1])
    assert torch.equal(final[0], final[1])
    assert (final[0] - alone[0]).abs().max() < 1e-12


def test_a_trunk_starts_from_the_noise_of_its_first_member():
    cond, noise = inputs(3)
    changed = noise.clone()
    changed[2] += 1
    assert torch.equal(
        result(shared_plan([(1, 2), (0,)], 5, 5), cond, noise),
        result(shared_plan([(1, 2), (0,)], 5, 5), cond, changed),
    )
    first_changed = noise.clone()
    first_changed[1] += 1
    other = result(shared_plan([(1, 2), (0,)], 5, 5), cond, first_changed)
    assert not torch.equal(result(shared_plan([(1, 2), (0,)], 5, 5), cond, noise)[1:], other[1:])


def test_a_group_that_never_branches_has_one_result():
    final = result(shared_plan([(0, 1)], 4, 4), *inputs(2))
    assert torch.equal(final[0], final[1])


@dataclass(frozen=True)
class Remembering:
    """Wraps a solver with a memory of the last prediction, as multistep solvers have."""

    inner: object

    @property
    def steps(self):
        return self.inner.steps

    def start(self, x):
        return (torch.zeros_like(x),)

    def scale_input(self, x, index):
        return x

    def step(self, x, output, index, memory, lead):
        (last,) = memory
        x, x0, _ = self.inner.step(x, 1.5 * output - 0.5 * last, index, (), lead)
        return x, x0, (output,)


@given(st.integers(2, 8), st.data())
def test_a_solver_with_memory_runs_the_same_whether_or_not_the_run_is_split(steps, data):
    """Two equal prompts with equal noise: the branch must carry the trunk's memory along."""
    branch = data.draw(st.integers(1, steps - 1))
    cond, noise = (v[:1].repeat(2, 1) for v in inputs(1))
    solver = Remembering(toy_solver(steps))
    split = result(shared_plan([(0, 1)], steps, branch), cond, noise, solver)
    whole = result(independent_plan(1, steps), cond[:1], noise[:1], solver)
    assert (split - whole).abs().max() < 1e-12


def test_the_mean_condition_of_one_is_that_one_bit_for_bit():
    cond = torch.randn(3, 4, 5)
    rows = ((1,), (2, 0))
    mean = group_mean(cond, rows)
    assert torch.equal(mean[0], cond[1])
    assert (mean[1] - (cond[0] + cond[2]) / 2).abs().max() < 1e-6


class NoScalarReads(TorchDispatchMode):
    """Fails when a tensor's value is read back to the host: on a GPU that waits for it."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert "_local_scalar_dense" not in str(func), "a scalar is read inside the loop"
        return func(*args, **(kwargs or {}))


def test_nothing_is_read_back_to_the_host_inside_the_loop():
    states = sample(linear_denoiser(), toy_solver(8), shared_plan([(0, 1), (2,)], 8, 3), *inputs(3))
    with NoScalarReads():
        assert len(list(states)) == 8


def test_the_guard_against_scalar_reads_can_fail():
    with NoScalarReads(), pytest.raises(AssertionError, match="scalar is read"):
        torch.ones(1).item()


def test_stopping_is_not_asking_for_the_next_state():
    calls = []
    states = sample(linear_denoiser(calls), toy_solver(9), independent_plan(2, 9), *inputs(2))
    next(states)
    next(states)
    states.close()
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("prompts", "steps", "words"), [(2, 5, "The solver has 5 steps"), (3, 4, "plan has 2 prompts")]
)
def test_arguments_that_disagree_say_so(prompts, steps, words):
    plan = independent_plan(2, 4)
    with pytest.raises(ValueError, match=words):
        next(sample(linear_denoiser(), toy_solver(steps), plan, *inputs(prompts)))
