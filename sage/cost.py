"""Computes what a plan costs and saves, without running it: arithmetic on a plan.

An evaluation is one row through the denoiser at one step; classifier-free guidance doubles its
FLOPs, not its number. FLOPs are counted for a model by `sage.flops`; this module only multiplies.
For equal shares the saving of evaluations is β·(1 − G/N) (arXiv 2509.15865, our derivation).
"""

from dataclasses import dataclass

from sage.plan import Plan


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
class Cost:
    """What a plan costs, beside sampling every prompt alone.

    Attributes:
        evaluations: Rows through the denoiser, over all steps.
        independent_evaluations: steps x prompts.
        flops: Of the plan, by stage.
        independent_flops: Of independent sampling, by stage.
    """

    evaluations: int
    independent_evaluations: int
    flops: StageFlops
    independent_flops: StageFlops

    @property
    def saving(self) -> float:
        """Share of evaluations saved, in [0, 1]."""
        return 1 - self.evaluations / self.independent_evaluations

    @property
    def flops_saving(self) -> float:
        """Share of all FLOPs saved, text encoder and decoder included, in [0, 1]."""
        return 1 - self.flops.total / self.independent_flops.total


def evaluations(plan: Plan) -> int:
    """Rows through the denoiser, over all steps."""
    return sum(segment.stop - segment.start for segment in plan.segments)


def trunk_evaluations(plan: Plan) -> int:
    """Evaluations of rows that stand for more than one prompt."""
    return sum(s.stop - s.start for s in plan.segments if len(s.members) > 1)


def plan_cost(plan: Plan, model: ModelFlops, guided: bool = True) -> Cost:
    """Cost of a plan on a model.

    Args:
        plan: The plan.
        model: FLOPs of one call of each part.
        guided: Whether every evaluation also runs the unconditional pass.
    """
    independent = plan.steps * plan.num_prompts
    return Cost(
        evaluations(plan),
        independent,
        _stage_flops(plan, trunk_evaluations(plan), evaluations(plan), model, guided),
        _stage_flops(plan, 0, independent, model, guided),
    )


def _stage_flops(plan: Plan, trunk: int, total: int, model: ModelFlops, guided: bool) -> StageFlops:
    step = model.denoiser * (2 if guided else 1)
    # The empty (or negative) prompt of guidance is encoded once for a run.
    texts = plan.num_prompts + (1 if guided else 0)
    return StageFlops(
        encode=model.text_encoder * texts,
        trunk=step * trunk,
        branches=step * (total - trunk),
        decode=model.decoder * plan.num_prompts,
    )
