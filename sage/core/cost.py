"""Computes what a plan costs and saves, without running it: arithmetic on a plan.

An evaluation is one condition through the denoiser at one step; classifier-free guidance doubles
its FLOPs, not its number. FLOPs are counted for a model by `sage.sd.flops`; this module only
multiplies.
For equal shares the saving of evaluations is β·(1 − G/N) (arXiv 2509.15865, our derivation).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sage.core.lending import RULES
from sage.core.plan import Plan
from sage.core.trunk import Trunk, queries


@dataclass(frozen=True)
class ModelFlops:
    """FLOPs (2 x multiply-adds) of one call of each part of a model, for one sample.

    Attributes:
        text_encoder: One prompt.
        denoiser: One row, one step, without guidance.
        decoder: One picture.
    """

    text_encoder: float
    denoiser: float
    decoder: float


@dataclass(frozen=True)
class Stages:
    """Amounts of a run by stage."""

    encode: float
    trunk: float
    branches: float
    decode: float

    @property
    def total(self) -> float:
        """Sum over the stages."""
        return self.encode + self.trunk + self.branches + self.decode


class StageFlops(Stages):
    """FLOPs of a run by stage."""


@dataclass(frozen=True)
class Probed:
    """A probe of `sage.core.adaptive` at one step.

    Attributes:
        step: The step.
        asked: Conditions that were run to find out who disagrees.
        answered: Evaluations of the plan's rows that this spared.
        base: Rows that were run without a condition, one for each trunk or none.
    """

    step: int
    asked: int
    answered: int
    base: int

    @property
    def extra(self) -> int:
        """Evaluations beyond those of the plan."""
        return self.asked - self.answered


@dataclass(frozen=True)
class Cost:
    """What a plan costs, beside sampling every prompt alone.

    Attributes:
        evaluations: Conditions through the denoiser, over all steps, probes included.
        independent_evaluations: steps x prompts.
        flops: Of the plan, by stage.
        independent_flops: Of independent sampling, by stage, guided in all steps.
        passes: Rows through the network, unconditional ones included.
        independent_passes: The same for independent sampling.
    """

    evaluations: int
    independent_evaluations: int
    flops: StageFlops
    independent_flops: StageFlops
    passes: int
    independent_passes: int

    @property
    def saving(self) -> float:
        """Share of evaluations saved, in [0, 1]."""
        return 1 - self.evaluations / self.independent_evaluations

    @property
    def flops_saving(self) -> float:
        """Share of all FLOPs saved, text encoder and decoder included, in [0, 1]."""
        return 1 - self.flops.total / self.independent_flops.total


def evaluations(plan: Plan, trunk: Trunk = "mean", steps: range | None = None) -> int:
    """Evaluations of a plan, in all of its steps or in some.

    Args:
        plan: The plan.
        trunk: What the trunks follow.
        steps: Consecutive steps; all without it.
    """
    both = _asked(plan, trunk, range(plan.steps) if steps is None else steps)
    return sum(both)


def evaluations_of(plan: Plan, trunk: Trunk, prompt: int) -> float:
    """A prompt's part of a plan's evaluations: what its rows are asked, divided by their members.

    Args:
        plan: The plan.
        trunk: What the trunks follow.
        prompt: The prompt.
    """
    if trunk in RULES:
        rule, total = RULES[trunk], 0.0
        for step in range(plan.steps):
            # Of the row before: where one has just parted, its members may be asked in common.
            row = next(row for row in plan.rows(max(step - 1, 0)) if prompt in row)
            total += len(set(rule.asks(plan, step)).intersection(row)) / len(row)
        return total
    return sum(
        (s.stop - s.start) * queries(trunk, [s.members]) / len(s.members)
        for s in plan.segments
        if prompt in s.members
    )


def _asked(plan: Plan, trunk: Trunk, steps: range) -> tuple[int, int]:
    """Evaluations in some steps: those that prompts have in common, and those for one prompt."""
    if trunk in RULES:
        rule, shared, alone = RULES[trunk], 0, 0
        for step in steps:
            asked = rule.asks(plan, step)
            single = {n for row in plan.rows(step) if len(row) == 1 for n in row}
            # A prompt that is alone is asked for itself, unless others with it are not.
            crews = [row for row in plan.rows(max(step - 1, 0)) if set(row) <= set(asked)]
            own = sum(n in single for row in crews for n in row)
            shared, alone = shared + len(asked) - own, alone + own
        return shared, alone
    counts = [0, 0]
    for segment in plan.segments:
        taken = range(max(segment.start, steps.start), min(segment.stop, steps.stop))
        counts[len(segment.members) == 1] += queries(trunk, [segment.members]) * len(taken)
    return counts[0], counts[1]


def plan_cost(
    plan: Plan,
    model: ModelFlops,
    guided: bool | range = True,
    trunk: Trunk = "mean",
    probes: Sequence[Probed] = (),
) -> Cost:
    """Cost of a plan on a model.

    Args:
        plan: The plan.
        model: FLOPs of one call of each part.
        guided: Whether every evaluation also runs the unconditional pass, or the steps in which
            it does. Independent sampling, beside which the cost stands, is guided in all steps
            or, if this is False, in none.
        trunk: What the trunks follow; "prediction" costs an evaluation for each member.
        probes: What was run beside the plan's own rows.
    """
    steps = range(plan.steps if guided else 0) if isinstance(guided, bool) else guided
    shared, alone = _Passes.of_rows(plan, steps, trunk)
    shared += _Passes.of_probes(probes, steps)
    total = plan.steps * plan.num_prompts
    everything = _Passes(total, 0 if guided is False else total)
    return Cost(
        shared.conditional + alone.conditional,
        total,
        _stage_flops(plan, shared, alone, model),
        _stage_flops(plan, _Passes(0, 0), everything, model),
        shared.total + alone.total,
        everything.total,
    )


@dataclass(frozen=True)
class _Passes:
    """Rows through the network, with a prompt's condition and without."""

    conditional: int
    unconditional: int

    def __add__(self, other: "_Passes") -> "_Passes":
        return _Passes(
            self.conditional + other.conditional, self.unconditional + other.unconditional
        )

    @property
    def total(self) -> int:
        return self.conditional + self.unconditional

    @classmethod
    def of_rows(cls, plan: Plan, guided: range, trunk: Trunk) -> tuple["_Passes", "_Passes"]:
        """Passes that prompts have in common, and those for one prompt."""
        asked = _asked(plan, trunk, range(plan.steps))
        both = _asked(plan, trunk, guided)
        return cls(asked[0], both[0]), cls(asked[1], both[1])

    @classmethod
    def of_probes(cls, probes: Sequence[Probed], guided: range) -> "_Passes":
        """Passes beyond those of the plan; siblings that have just parted share their base."""
        base = sum(p.base - p.answered * (p.step in guided) for p in probes)
        return cls(sum(p.extra for p in probes), base)


def _stage_flops(plan: Plan, trunk: _Passes, branches: _Passes, model: ModelFlops) -> StageFlops:
    # The empty (or negative) prompt of guidance is encoded once for a run, if at all.
    texts = plan.num_prompts + bool(trunk.unconditional + branches.unconditional)
    return StageFlops(
        encode=model.text_encoder * texts,
        trunk=model.denoiser * trunk.total,
        branches=model.denoiser * branches.total,
        decode=model.decoder * plan.num_prompts,
    )
