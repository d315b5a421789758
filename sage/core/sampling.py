"""Walks a plan: gather rows, ask the denoiser, step, yield.

Knows plans, a denoiser (any callable), a solver and tensors; nothing of texts, pictures, devices,
files or progress bars. The sampler is a generator of states: stop it by not asking for the next.
Before its branch point a row stands for a group, after it for one prompt; the loop does not know
the difference.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sage.core.lending import RULES, Answered, Exchange, Kept, Lending
from sage.core.noise import FreshNoise
from sage.core.plan import Plan, Row
from sage.core.solver import Memory, Solver
from sage.core.trunk import Denoiser, Trunk, beside, changes_by_step, question


@dataclass(frozen=True)
class State:
    """All trajectories after a step.

    Attributes:
        step: The step just taken, 0-based.
        rows: The prompts behind each row.
        x: [R, ...] latents after the step.
        denoised: [R, ...] the clean x0 that the step predicted: what a preview shows.
        memory: What the solver remembers, rows first.
        kept: With a rule of `sage.core.lending` each prompt's latent, what the solver remembers of
            it and what the rule does; prompts first.
    """

    step: int
    rows: tuple[Row, ...]
    x: Tensor
    denoised: Tensor
    memory: Memory = ()
    kept: Kept = ()


# As many arguments as there are things that meet on a walk.
def sample(  # noqa: PLR0913
    denoise: Denoiser,
    solver: Solver,
    plan: Plan,
    cond: Tensor,
    noise: Tensor,
    *,
    trunk: Trunk = "mean",
    fresh: FreshNoise | None = None,
    start: State | None = None,
    base: Tensor | None = None,
) -> Iterator[State]:
    """Runs a plan and yields the state after every step.

    Args:
        denoise: Predicts from rows, their steps and their conditions.
        solver: Turns predictions into steps; `solver.steps` must equal `plan.steps`.
        plan: Who shares with whom, and until when.
        cond: [N, ...] one condition for each prompt.
        noise: [N, ...] one starting latent for each prompt. A row that stands for several
            prompts starts from that of its first member.
        trunk: What a row that stands for several prompts follows; see `sage.core.trunk` and
            `sage.core.lending`.
        fresh: Noise that rows exchange for their own where they branch; None leaves them alike.
        start: A state of a run that began like this one, to go on from; None begins at noise.
        base: [N, ...] what each prompt is guided away from, the same one for all that share; the
            denoiser then takes pairs, `sage.core.trunk.beside`. None where it knows.

    Yields:
        One State a step after `start`; `in_prompt_order` of the last one is the result.

    Raises:
        ValueError: If the numbers of steps or prompts disagree, or `start` has other rows.
    """
    _check(solver, plan, len(cond), len(noise), start)
    first = 0 if start is None else start.step + 1
    if trunk in RULES:
        prompts = _Prompts(denoise, solver, plan, cond, RULES[trunk], fresh, base)
        yield from prompts.sample(noise, start)
        return
    # Everything that comes from the host is on the device before the loop begins.
    remaining = range(first, plan.steps)
    moves = {i: _Move.at(plan, i, cond) for i in remaining if i == first or plan.splits_at(i)}
    asked = (i for i in remaining if i in moves or changes_by_step(trunk))
    questions = {i: question(trunk, cond, plan.rows(i), i, base) for i in asked}
    if start is None:
        x = denoised = noise[moves[0].lead]  # (R, ...)
        memory = solver.start(x)
    else:
        x, denoised, memory = start.x, start.denoised, start.memory
    for i in remaining:
        if i in moves:
            move = moves[i]
            x = x[move.parents]  # branch: every new row copies the row it came from
            memory = tuple(m[move.parents] for m in memory)
            if fresh is not None and move.branches:
                levels = solver.after[i - 1]
                x = fresh.exchange(x, denoised[move.parents], levels, move.depth, move.lead)
        if i in questions:
            ask = questions[i]
        index = move.steps + i
        output = ask(denoise, solver.scale_input(x, index), index)
        x, denoised, memory = solver.step(x, output, index, memory, move.lead)
        yield State(i, move.rows, x, denoised, memory)


def _check(solver: Solver, plan: Plan, conditions: int, noises: int, start: State | None) -> None:
    """That the numbers of steps and prompts agree, and that a start has the plan's rows."""
    if solver.steps != plan.steps:
        raise ValueError(f"The solver has {solver.steps} steps, the plan {plan.steps}.")
    if not conditions == noises == plan.num_prompts:
        raise ValueError(
            f"The plan has {plan.num_prompts} prompts, but there are {conditions} conditions "
            f"and {noises} starting latents."
        )
    if start is not None and start.rows != plan.rows(start.step):
        raise ValueError(f"The state at step {start.step} has other rows than the plan.")


@dataclass(frozen=True)
class _Move:
    """What changes where rows split: their members and origin."""

    rows: tuple[Row, ...]
    parents: Tensor  # [R] int64
    lead: Tensor  # [R] int64, first member of each row
    depth: Tensor  # [R] int64, how often each row has branched if it does so here, otherwise 0
    branches: bool  # whether any does
    steps: Tensor  # [R] zeros, to which the step is added

    @classmethod
    def at(cls, plan: Plan, step: int, cond: Tensor) -> "_Move":
        rows, depth = plan.rows(step), plan.branching(step)
        parents = torch.tensor(plan.parents(step), device=cond.device)
        lead = torch.tensor([row[0] for row in rows], device=cond.device)
        depths = torch.tensor(depth, device=cond.device)
        return cls(rows, parents, lead, depths, any(depth), torch.zeros_like(parents))


@dataclass(frozen=True)
class _Prompts:
    """Walks a plan with a latent for each prompt, as rules with a memory think."""

    denoise: Denoiser
    solver: Solver
    plan: Plan
    cond: Tensor  # [N, ...]
    rule: Lending
    fresh: FreshNoise | None
    base: Tensor | None = None  # [N, ...]

    def sample(self, noise: Tensor, start: State | None) -> Iterator[State]:
        """All steps after `start`, or all."""
        plan, solver, device = self.plan, self.solver, self.cond.device
        steps = range(0 if start is None else start.step + 1, plan.steps)
        turns = [_Turn.at(plan, i, self.rule, device) for i in steps]
        if start is None:
            x = noise[turns[0].lead]
            memory, kept = solver.start(x), self.rule.start(x)
            denoised = x
        else:
            if not start.kept:
                raise ValueError(
                    "The state to start from was made by a trunk rule of another kind."
                )
            solved = 2 + len(start.memory)
            (x, denoised, *rest), kept = start.kept[:solved], start.kept[solved:]
            memory = tuple(rest)
        for i, turn in zip(steps, turns, strict=True):
            if self.fresh is not None and turn.parted is not None:
                x = self.fresh.exchange(x, denoised, solver.after[i - 1], turn.parted, turn.lead)
            index = turn.index
            seen = solver.scale_input(x, index)[turn.asked]
            base = None if self.base is None else self.base[turn.asked]
            asked = beside(base, self.cond[turn.asked])
            answers = self.denoise(seen, index[turn.asked], asked)
            output, kept = turn.exchange(Answered(answers, x, index, solver), kept)
            x, denoised, memory = solver.step(x, output, index, memory, turn.lead)
            of, held = turn.rows, (x, denoised, *memory, *kept)
            shown = x[of], denoised[of], tuple(m[of] for m in memory)
            yield State(i, plan.rows(i), *shown, held)


@dataclass(frozen=True)
class _Turn:
    """One step of `_Prompts`: what is asked, and what comes from the host."""

    asked: Tensor  # [Q] int64
    exchange: Exchange
    lead: Tensor  # [N] int64, first member of each prompt's row
    rows: Tensor  # [R] int64, first member of each row
    parted: Tensor | None  # [N] how often each prompt has branched, if it did in the step before
    index: Tensor  # [N] the step

    @classmethod
    def at(cls, plan: Plan, step: int, rule: Lending, device: torch.device) -> "_Turn":
        rows = plan.rows(step)
        first = {n: row[0] for row in rows for n in row}
        # Noise is renewed a step after the split: a first own step may be common still.
        depth = plan.branching(step - 1) if step else ()
        of = {n: d for row, d in zip(plan.rows(max(step - 1, 0)), depth, strict=False) for n in row}

        def tensor(values: Sequence[int]) -> Tensor:
            return torch.tensor(values, device=device)

        return cls(
            tensor(rule.asks(plan, step)),
            rule.exchange(plan, step, device),
            tensor([first[n] for n in range(plan.num_prompts)]),
            tensor([row[0] for row in rows]),
            tensor([of[n] for n in range(plan.num_prompts)]) if any(depth) else None,
            torch.full((plan.num_prompts,), step, device=device),
        )


def in_prompt_order(state: State) -> Tensor:
    """The latents of a state, one for each prompt [N, ...]; shared rows are repeated."""
    return state.x[prompt_rows(state.rows, state.x.device)]


def prompt_rows(rows: Sequence[Row], device: torch.device | str = "cpu") -> Tensor:
    """For each prompt, the row that stands for it: [N] int64."""
    place = {prompt: r for r, row in enumerate(rows) for prompt in row}
    return torch.tensor([place[n] for n in range(len(place))], device=device)


def only(state: State, prompts: Sequence[int]) -> State:
    """The state of some prompts, numbered anew: from it they can be finished without the rest.

    Args:
        state: In which each of them is alone in its row.
        prompts: Which, in the order of their new numbers.

    Raises:
        ValueError: If a prompt still shares its row, or is none of the state's.
    """
    place = {row[0]: r for r, row in enumerate(state.rows) if len(row) == 1}
    if missing := [n for n in prompts if n not in place]:
        raise ValueError(f"Prompt {missing[0]} is not alone after step {state.step}.")
    rows = torch.tensor([place[n] for n in prompts], device=state.x.device)
    own = torch.tensor(list(prompts), device=state.x.device)
    return State(
        state.step,
        tuple((n,) for n in range(len(prompts))),
        state.x[rows],
        state.denoised[rows],
        tuple(m[rows] for m in state.memory),
        tuple(k[own] for k in state.kept),
    )


def moved(state: State, device: torch.device | str) -> State:
    """The state with its tensors on a device."""
    memory, kept = (tuple(t.to(device) for t in some) for some in (state.memory, state.kept))
    return State(
        state.step, state.rows, state.x.to(device), state.denoised.to(device), memory, kept
    )
