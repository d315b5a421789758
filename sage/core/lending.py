"""Trunk rules with a memory: what the members of a group lend each other while they share.

A rule says whose prediction is asked for at a step, and what all others take in its place: from
that answer, and from what was predicted earlier. It thinks in prompts, not in rows; where it gives
all members of a row one prediction, their latents stay equal, and they are a trunk in the paper's
sense. What is asked follows from the plan alone, so that a run is counted without running it. Knows
plans, solvers and tensors; nothing of texts, pictures or networks. The rules are ours.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sage.core.plan import Plan, Row
from sage.core.solver import Solver

Kept = tuple[Tensor, ...]  # what a rule remembers, prompts first


@dataclass(frozen=True)
class Answered:
    """What is known at a step when the denoiser has answered.

    Attributes:
        answers: [Q, ...] predictions of the prompts that were asked for.
        x: [N, ...] latents before the step.
        index: [N] the step, on the device of x.
        solver: Turns predictions into clean x0.
    """

    answers: Tensor
    x: Tensor
    index: Tensor
    solver: Solver

    def output(self, clean: Tensor) -> Tensor:
        """The prediction [N, ...] that means a clean x0: `Solver.clean`, which is affine, undone.

        Args:
            clean: [N, ...].
        """
        zeros = torch.zeros_like(self.x)
        without = self.solver.clean(self.x, zeros, self.index)
        slope = self.solver.clean(zeros, torch.ones_like(zeros), self.index)
        return (clean - without) / slope


# (what is known, memory) -> (the prediction that each prompt takes [N, ...], new memory)
Exchange = Callable[[Answered, Kept], tuple[Tensor, Kept]]


class Lending(Protocol):
    """A trunk rule; N prompts, any latent shape behind them."""

    def asks(self, plan: Plan, step: int) -> tuple[int, ...]:
        """The prompts whose prediction is asked for at a step, ascending."""
        ...

    def start(self, x: Tensor) -> Kept:
        """The empty memory for latents x [N, ...]."""
        ...

    def exchange(self, plan: Plan, step: int, device: torch.device) -> Exchange:
        """What is done with the answers of a step; all that comes from the host is moved here."""
        ...


@dataclass(frozen=True)
class Control:
    """A control variate over the members (after SVRG, Johnson and Zhang 2013).

    At a snapshot all members of a row predict at its latent, and what each differs from their mean
    by is kept: r_j = ε_j − mean. Until the next snapshot one member in turn predicts, and is
    corrected: e = ε_j − r_j. The error is how much r_j has changed since; that of the members in
    turn is r_j itself. Where a row parts, its members' first own step is e + r_j, for nothing
    beside the one evaluation of e. With a snapshot at every step it is the mean of the members'
    predictions.

    Attributes:
        every: Steps from one snapshot to the next, the first of which is at step 0.
        factors: For each prompt the two things that it is a product of, such as (thing, place): at
            a snapshot only those that have one in common with their row's first member are asked,
            and the others are added up, ε(t, p) = ε(t, p0) + ε(t0, p) − ε(t0, p0), as far as both
            are there. None asks all.

    Raises:
        ValueError: If `every` is less than 1.
    """

    every: int
    factors: tuple[tuple[int, int], ...] | None = None

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"every is {self.every}; allowed is 1 or more.")

    def asks(self, plan: Plan, step: int) -> tuple[int, ...]:
        """One member of each row, or at a snapshot all that do not follow from others."""
        crews = _crews(plan, step)
        if step % self.every:
            return tuple(sorted(crew[step % len(crew)] for crew in crews))
        return tuple(sorted(n for crew in crews for n in crew if not self._sum_of(n, crew)))

    def start(self, x: Tensor) -> Kept:
        """No differences."""
        return (torch.zeros_like(x),)

    def exchange(self, plan: Plan, step: int, device: torch.device) -> Exchange:
        """The mean of a row's answers, or one of them corrected; at a split each member's own."""
        crews, rows = _crews(plan, step), plan.rows(step)
        base = (self._corrected if step % self.every else self._mean)(plan, step, device)
        if all(row in crews for row in rows):
            return base
        # Those that have just parted from others take the mean of their own differences.
        row_mean = _Means.of([row for row in rows if row not in crews], plan.num_prompts, device)

        def parted(known: Answered, kept: Kept) -> tuple[Tensor, Kept]:
            output, (rest,) = base(known, kept)
            shift = row_mean(rest)
            return output + shift, (rest - shift,)

        return parted

    def _corrected(self, plan: Plan, step: int, device: torch.device) -> Exchange:
        asked, crews = self.asks(plan, step), _crews(plan, step)
        speaker = _speakers(crews, step)
        heard = torch.tensor([asked.index(n) for n in speaker], device=device)
        of = torch.tensor(speaker, device=device)

        def exchange(known: Answered, kept: Kept) -> tuple[Tensor, Kept]:
            return known.answers[heard] - kept[0][of], kept

        return exchange

    def _mean(self, plan: Plan, step: int, device: torch.device) -> Exchange:
        asked, crews = self.asks(plan, step), _crews(plan, step)
        place, crew_of = {n: q for q, n in enumerate(asked)}, {n: c for c in crews for n in c}
        # Own prediction = first + second − third; the latter two are the same where it was asked.
        terms = [
            [place[m] for m in self._sum_of(n, crew_of[n]) or (n, n, n)] for n in sorted(crew_of)
        ]
        first, second, third = torch.tensor(terms, device=device).unbind(1)
        added = self.factors is not None
        mean = _Means.of(crews, plan.num_prompts, device)

        def exchange(known: Answered, kept: Kept) -> tuple[Tensor, Kept]:
            a = known.answers
            own = a[first] + (a[second] - a[third]) if added else a[first]
            base = mean(own)
            return base, (own - base,)

        return exchange

    def _sum_of(self, n: int, crew: Row) -> tuple[int, int, int] | None:
        """The three members that a member is added up from, or None if it is asked itself."""
        if self.factors is None:
            return None
        first, held = self.factors[crew[0]], {self.factors[m]: m for m in crew}
        one, two = self.factors[n]
        across, down = held.get((one, first[1])), held.get((first[0], two))
        if one == first[0] or two == first[1] or across is None or down is None:
            return None
        return across, down, crew[0]


@dataclass(frozen=True)
class Held:
    """Members have latents of their own; one of a row is evaluated a step, the others hold.

    A member that is not evaluated goes on towards its last own x0; one that never was follows the
    member that is evaluated.

    Attributes:
        extrapolate: Share of the change from its last own x0 but one to its last that a member
            goes on adding, step by step.
        borrow: Share of the change of the evaluated member's x0 that the others add to theirs.
    """

    extrapolate: float = 0.0
    borrow: float = 0.0

    def asks(self, plan: Plan, step: int) -> tuple[int, ...]:
        """One member of every row."""
        return tuple(sorted(row[step % len(row)] for row in plan.rows(step)))

    def start(self, x: Tensor) -> Kept:
        """No x0: the last, the last but one, and the steps that they are of."""
        never = torch.full((len(x),), -1.0, dtype=x.dtype, device=x.device)
        return torch.zeros_like(x), torch.zeros_like(x), never, never.clone()

    def exchange(self, plan: Plan, step: int, device: torch.device) -> Exchange:
        """Own answers, and for all others the prediction that means the x0 they hold."""
        asked, speaker = self.asks(plan, step), _speakers(plan.rows(step), step)
        heard = torch.tensor([asked.index(n) for n in speaker], device=device)
        of = torch.tensor(speaker, device=device)
        own = of == torch.arange(len(speaker), device=device)

        def exchange(known: Answered, kept: Kept) -> tuple[Tensor, Kept]:
            last, before, when, earlier = kept
            lent = known.answers[heard]
            clean = known.solver.clean(known.x[of], lent, known.index)
            ever = _wide((when >= 0) & (when[of] >= 0), last)
            last = torch.where(ever, last + self.borrow * (clean - last[of]), last)
            span = _wide((when - earlier).clamp_min(1), last)
            twice = _wide(earlier >= 0, last)
            ahead = self.extrapolate * _wide(step - when, last) * (last - before) / span
            goal = torch.where(_wide(when >= 0, last), last + torch.where(twice, ahead, 0), clean)
            mine = _wide(own, last)
            output = torch.where(mine, lent, known.output(goal))
            now = torch.full_like(when, step)
            return output, (
                torch.where(mine, clean, last),
                torch.where(mine, last, before),
                torch.where(own, now, when),
                torch.where(own, when, earlier),
            )

        return exchange


ONCE = 10_000  # steps from the first snapshot to the next: there is none
RULES: Mapping[str, Lending] = {
    "control": Control(3),
    "control_once": Control(ONCE),
    "held": Held(),
    "extrapolated": Held(extrapolate=0.5),
    "borrowed": Held(borrow=1.0),
}


@dataclass(frozen=True)
class _Means:
    """The mean of each row's members, for all of them; 0 for prompts of no row."""

    members: Tensor  # [N, M], padded with the first one
    weights: Tensor  # [N, M], 0 where padded

    @classmethod
    def of(cls, rows: Sequence[Row], prompts: int, device: torch.device) -> "_Means":
        widest = max(map(len, rows))
        members = [[n] * widest for n in range(prompts)]
        weights = [[0.0] * widest for _ in range(prompts)]
        for row in rows:
            ordered = sorted(row)  # the mean must not depend on who leads
            for n in row:
                members[n] = ordered + ordered[:1] * (widest - len(row))
                weights[n] = [1 / len(row)] * len(row) + [0.0] * (widest - len(row))
        table = torch.tensor(weights, device=device, dtype=torch.float64)
        return cls(torch.tensor(members, device=device), table)

    def __call__(self, values: Tensor) -> Tensor:
        """[N, ...] of values [N, ...]."""
        weights = self.weights.to(values.dtype)
        total = torch.zeros_like(values)
        # One after the other: a sum in one call may depend on how many there are.
        for m in range(weights.shape[1]):
            total = total + _wide(weights[:, m], values) * values[self.members[:, m]]
        return total


def _crews(plan: Plan, step: int) -> tuple[Row, ...]:
    """Rows whose members have one latent before a step; they may part in it."""
    return plan.rows(max(step - 1, 0))


def _speakers(rows: Sequence[Row], step: int) -> list[int]:
    """For each prompt, the member of its row whose turn it is."""
    turn = {n: row[step % len(row)] for row in rows for n in row}
    return [turn[n] for n in range(len(turn))]


def _wide(values: Tensor, x: Tensor) -> Tensor:
    """[N] in a shape that multiplies x [N, ...]."""
    return values.view(-1, *(1,) * (x.ndim - 1))
