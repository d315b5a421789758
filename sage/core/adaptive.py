"""Branch points that depend on the prompts: from their similarity, or measured while sampling.

Before sampling, `branch_step_for` reads a model's calibration. While sampling, an `AdaptiveRule`
lets the members of a trunk predict from the trunk's own latent, again and again; those whose
predictions disagree part. The realised plan is a `Plan` like any other. Knows plans, conditions
and predictions; nothing of texts, pictures or networks. The rules are ours; that there is a moment
up to which sharing is harmless is theory (arXiv 2402.18491, arXiv 2403.01633), and that what tells
two prompts apart is the squared difference of their predictions, added up over log SNR, is as well
(arXiv 2310.07972).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from sage.core.calibration import Calibration, lowest_similarity
from sage.core.cost import Probed
from sage.core.lending import RULES
from sage.core.noise import FreshNoise
from sage.core.plan import Group, Plan, Row, branch_step_from_ratio
from sage.core.sampling import State, sample
from sage.core.solver import Solver
from sage.core.tree import clusters
from sage.core.trunk import Denoiser, Trunk, beside

Compare = Literal["direction", "clean", "information"]
# (x [R, ...], steps [R], conditions [Q, ...], row of each condition [Q]) ->
# predictions [Q, ...] and, for each row, the prediction without a condition [R, ...] or None
Probe = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor | None]]


def branch_step_for(
    similarity: Tensor, group: Group, steps: int, calibration: Calibration | None
) -> int:
    """T* of a group: the latest branch point that the calibration calls safe.

    Args:
        similarity: [N, N] cosine similarities of the prompts.
        group: The group's prompts; its least similar pair decides.
        steps: T.
        calibration: Of the model.

    Raises:
        ValueError: If the model has no calibration.
    """
    if calibration is None:
        raise ValueError("This model is not calibrated; run the study `adaptive` for it first.")
    ratio = calibration.longest_safe(lowest_similarity(similarity, group))
    # Down, not to the nearest: a step more than is safe would not be.
    return int(ratio * steps + 1e-9)


@dataclass(frozen=True)
class AdaptiveRule:
    """When a trunk is probed, and who parts.

    Attributes:
        threshold: Largest distance between any two prompts that stay together; 0 parts all that
            differ at all, infinity none. 1, for directions, is where they no longer agree at all.
        earliest: Share of the steps before which nothing parts.
        latest: Share of the steps at which all part, unasked.
        every: Steps from one probe to the next.
        compare: What is compared. "direction": what a condition changes, ε(c_n) − ε(∅); distance
            1 − cosine, in [0, 2]. (ε itself is mostly the common noise.) "clean": the predicted
            x0; root mean square difference, in the latents' units. "information": nats by which
            their ways would be told apart after the step, ½ Σ ‖ε_i − ε_j‖² · Δ log SNR from the
            start on, of which each term is ½ ‖x0_i − x0_j‖² · Δ SNR. Between two probes the last
            differences count, so that prompts also part there.
        average: Whether a trunk that stays together after a probe follows the mean of its
            probes in that step, which saves its own evaluation. The realised plan then no longer
            says everything about the run.

    Raises:
        ValueError: If a value makes no sense.
    """

    threshold: float = 1.0
    earliest: float = 0.1
    latest: float = 0.6
    every: int = 3
    compare: Compare = "direction"
    average: bool = False

    def __post_init__(self) -> None:
        if not self.threshold >= 0:
            raise ValueError(f"threshold is {self.threshold}; allowed is 0 or more.")
        if not 0 <= self.earliest <= self.latest <= 1:
            raise ValueError(
                f"earliest is {self.earliest} and latest is {self.latest}; "
                "allowed are 0 <= earliest <= latest <= 1."
            )
        if not (self.every >= 1 and float(self.every).is_integer()):
            raise ValueError(f"every is {self.every}; allowed are whole numbers from 1.")
        if self.compare not in get_args(Compare):
            allowed = ", ".join(get_args(Compare))
            raise ValueError(f"compare is {self.compare!r}; allowed are {allowed}.")

    def probed_steps(self, steps: int) -> range:
        """The steps at which trunks are probed."""
        first, last = (branch_step_from_ratio(r, steps) for r in (self.earliest, self.latest))
        return range(first, last, self.every)

    def latest_step(self, steps: int) -> int:
        """The first step that no prompts share, whatever the probes say."""
        return branch_step_from_ratio(self.latest, steps)

    def distances(self, outputs: Tensor, base: Tensor | None, cleans: Tensor) -> Tensor:
        """[M, M] distances of M members of one row.

        Args:
            outputs: [M, ...] their predictions, guided or not.
            base: [...] the prediction without a condition; only "direction" needs it.
            cleans: [M, ...] the x0 they predict.
        """
        if self.compare == "clean":
            flat = cleans.flatten(1).double()
            return (flat[:, None] - flat).square().mean(-1).sqrt()
        if self.compare == "information":
            raise ValueError("Information is of all steps so far, not of one.")
        # Guidance only stretches the direction, so the cosine is the same with and without it.
        if base is None:
            raise ValueError("Directions need the prediction without a condition.")
        unit = torch.nn.functional.normalize((outputs - base).flatten(1).double(), dim=-1)
        # Through differences: exactly 0 for equal directions, unlike 1 − a product.
        return (unit[:, None] - unit).square().sum(-1) / 2


@dataclass(frozen=True)
class Adapted:
    """One finished step of an adaptive run.

    Attributes:
        state: All trajectories after the step.
        plan: What has been run, and what will be if no probe parts anybody any more.
        probed: What the step's probe asked and answered; None without one.
    """

    state: State
    plan: Plan
    probed: Probed | None = None


# As `sampling.sample`, and two arguments more: the rule and what it looks at.
def sample_adaptively(  # noqa: PLR0913
    denoise: Callable[[int], Denoiser],
    solver: Solver,
    groups: Sequence[Group],
    cond: Tensor,
    noise: Tensor,
    *,
    probe: Callable[[int], Probe],
    rule: AdaptiveRule,
    trunk: Trunk = "mean",
    fresh: FreshNoise | None = None,
    base: Tensor | None = None,
) -> Iterator[Adapted]:
    """Runs groups that split when their predictions disagree.

    A probe at a split is that step's evaluation of the prompts that are now alone; it is not run
    again, unless their latents change: by fresh noise, or in the first step, where prompts that
    share nothing start from noise of their own.

    Args:
        denoise: The denoiser of each step.
        solver: Turns predictions into steps.
        groups: A partition of the prompts; each starts as one trunk.
        cond: [N, ...] one condition for each prompt.
        noise: [N, ...] one starting latent for each prompt.
        probe: Predicts for several conditions at one latent, in each step.
        rule: When to probe and who parts.
        trunk: What a trunk follows between probes.
        fresh: Noise that rows exchange where they branch; deep enough for any split.
        base: As in `sample`; probes take pairs then, too.

    Yields:
        One Adapted a step.
    """
    plan = _extended([], tuple(map(tuple, groups)), rule, solver.steps)
    probed_steps = rule.probed_steps(solver.steps)
    told = _Told.of(solver, len(cond)) if rule.compare == "information" else None
    states, state, used, planned = None, None, None, plan
    for i in range(solver.steps):
        here, answers, asked = denoise(i), None, None
        before, rows = [plan.rows(k) for k in range(i)], plan.rows(i)
        if i in probed_steps and any(len(row) > 1 for row in rows):
            x = noise[[row[0] for row in rows]] if state is None else state.x
            pairs = beside(base, cond)
            asked = _Asked.at(rows, i, x, pairs, probe=probe(i), solver=solver)
            rows = asked.parted(rule) if told is None else told.parted_by(asked, rule.threshold)
        elif told is not None and i < rule.latest_step(solver.steps):
            rows = told.parted(rows, i, rule.threshold)
        if rows != plan.rows(i):
            plan = _extended(before, rows, rule, solver.steps)
        if asked is not None:
            # Those who part in the first step start from noise of their own.
            answers = asked.answers(plan, trunk, rule.average, fresh is not None or i == 0)
            here = answers.fill(here)
        if told is not None:
            told.add(i)
        if here is not used or plan is not planned:
            planned = plan
            ways = (here, solver, plan, cond, noise)
            states = sample(*ways, trunk=trunk, fresh=fresh, start=state, base=base)
        assert states is not None  # `here` was another one, or there was none before
        state, used = next(states), here
        yield Adapted(state, plan, answers and answers.cost)


def _extended(
    before: list[tuple[Row, ...]], rows: tuple[Row, ...], rule: AdaptiveRule, steps: int
) -> Plan:
    """The plan that has done so much and goes on with these rows up to the latest split."""
    alone = tuple((n,) for row in rows for n in row)
    last = max(rule.latest_step(steps), len(before))
    return Plan.from_rows([*before, *[rows] * (last - len(before)), *[alone] * (steps - last)])


@dataclass(frozen=True)
class _Asked:
    """A probe: what the members of every trunk predict at its latent."""

    step: int
    rows: tuple[Row, ...]
    place: dict[int, int]  # of each probed prompt among the outputs
    outputs: Tensor  # [Q, ...]
    base: Tensor | None  # [trunks, ...]
    cleans: Tensor  # [Q, ...]

    @classmethod
    def at(
        cls,
        rows: tuple[Row, ...],
        step: int,
        x: Tensor,
        cond: Tensor,
        *,
        probe: Probe,
        solver: Solver,
    ) -> "_Asked":
        trunks = [r for r, row in enumerate(rows) if len(row) > 1]
        prompts = [n for r in trunks for n in rows[r]]
        of = torch.tensor([t for t, r in enumerate(trunks) for _ in rows[r]], device=x.device)
        x = x[trunks]
        index = torch.full((len(trunks),), step, device=x.device)
        outputs, base = probe(solver.scale_input(x, index), index, cond[prompts], of)
        cleans = solver.clean(x[of], outputs, index[of])
        place = {n: q for q, n in enumerate(prompts)}
        return cls(step, rows, place, outputs, base, cleans)

    def parted(self, rule: AdaptiveRule) -> tuple[Row, ...]:
        """The rows after the probe; the first member of each is as far ahead as before."""
        rows, trunk = [], 0
        for row in self.rows:
            if len(row) == 1:
                rows.append(row)
                continue
            q = [self.place[n] for n in row]
            base = None if self.base is None else self.base[trunk]
            distance = rule.distances(self.outputs[q], base, self.cleans[q])
            trunk += 1
            rows += [tuple(row[m] for m in part) for part in clusters(distance, rule.threshold)]
        return tuple(rows)

    def answers(self, plan: Plan, trunk: Trunk, average: bool, moved: bool) -> "_Answers":
        """What need not be asked again of a plan's rows; `moved` rows have another latent now."""
        wanted = rows = plan.rows(self.step)
        if trunk in RULES:
            wanted = tuple((n,) for n in RULES[trunk].asks(plan, self.step))
            moved = moved and not self.step  # elsewhere noise is renewed a step later
        if trunk == "prediction":
            wanted = tuple((n,) for row in rows for n in sorted(row))
        stayed = {n for row in rows if row in self.rows or not moved for n in row}
        known: dict[int, Tensor] = {}
        for q, members in enumerate(wanted):
            if (average or len(members) == 1) and stayed.intersection(self.place) >= set(members):
                known[q] = self.outputs[[self.place[n] for n in members]].mean(0)
        base = 0 if self.base is None else len(self.base)
        cost = Probed(self.step, len(self.outputs), len(known), base)
        return _Answers(len(wanted), known, cost)


@dataclass
class _Told:
    """How far the ways of any two prompts could be told apart by now, in nats.

    Attributes:
        gains: For each step, by how much the signal-to-noise ratio rises in it; from 0.
        apart: [N, N] squared distance of what two prompts last predicted as x0, at one latent.
        nats: [N, N] the information up to the step before.
    """

    gains: list[float]
    apart: Tensor
    nats: Tensor

    @classmethod
    def of(cls, solver: Solver, prompts: int) -> "_Told":
        levels = solver.after.double().cpu()
        ratio = (levels[:, 0] / levels[:, 1].clamp_min(1e-9)).square()
        gains = torch.diff(ratio, prepend=torch.zeros(1, dtype=ratio.dtype)).tolist()
        nothing = torch.zeros(prompts, prompts, dtype=torch.float64)
        return cls(gains, nothing, nothing.clone())

    def hear(self, asked: "_Asked") -> None:
        """New differences, of prompts that were probed at one latent."""
        for row in (row for row in asked.rows if len(row) > 1):
            cleans = asked.cleans[[asked.place[n] for n in row]].flatten(1).double()
            index = torch.tensor(row)
            found = (cleans[:, None] - cleans).square().sum(-1).cpu()
            self.apart[index[:, None], index] = found

    def parted_by(self, asked: "_Asked", threshold: float) -> tuple[Row, ...]:
        """The rows after a probe, with what it has told of their prompts."""
        self.hear(asked)
        return self.parted(asked.rows, asked.step, threshold)

    def parted(self, rows: tuple[Row, ...], step: int, threshold: float) -> tuple[Row, ...]:
        """The rows in which no two prompts are told apart by more than so many nats."""
        after = self.nats + self.apart * self.gains[step] / 2
        parts = []
        for row in rows:
            index = torch.tensor(row)
            found = clusters(after[index[:, None], index], threshold) if len(row) > 1 else ((0,),)
            parts += [tuple(row[m] for m in part) for part in found]
        return tuple(parts)

    def add(self, step: int) -> None:
        """What the step has told."""
        self.nats = self.nats + self.apart * self.gains[step] / 2


@dataclass(frozen=True)
class _Answers:
    """Predictions that are known already, by their place among a step's queries."""

    size: int
    known: dict[int, Tensor]
    cost: Probed

    def fill(self, denoise: Denoiser) -> Denoiser:
        """A denoiser that is asked for the others only; for one step."""
        rest = [q for q in range(self.size) if q not in self.known]

        def filled(x: Tensor, index: Tensor, cond: Tensor) -> Tensor:
            output = torch.empty_like(x)
            for q, known in self.known.items():
                output[q] = known
            if rest:
                output[rest] = denoise(x[rest], index[rest], cond[rest])
            return output

        return filled
