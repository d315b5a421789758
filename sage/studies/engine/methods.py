"""Methods that several studies compare: their names, their adapters, their plans."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sage.core.adaptive import AdaptiveRule
from sage.core.cost import evaluations
from sage.core.grouping import cosine_similarity
from sage.core.plan import Plan
from sage.core.tree import budget_plan, dendrogram
from sage.jobs.models import ASSETS
from sage.sd.adapters import LORA_FILE
from sage.studies.engine.lab import Lab
from sage.studies.engine.prompts import PromptSet

RATIO = 0.4  # share ratio of the paper's claims, as far as is published
INDEPENDENT, FEWER = "independent", "independent, as many evaluations"
UNTRAINED, STANDARD = "share, untrained", "standard LoRA + share"
SAGE, NO_SOFT = "SAGE + share", "SAGE without soft target + share"
TWINS = "twins (ours) + share"
IN_TURN = "share, prompts in turn (ours)"
TURNS: dict[str, Any] = {
    "trunk": "alternate"
}  # the conditioning rule that did best in `aggregators`

INSIDE, OVER_ALL = "tree in groups", "tree over all prompts"
APART = -1.0  # similarity of prompts of different groups, so that only a last resort joins them

STUDENT_STEPS = (4, 8)
SHARED_AT = (0.25, 0.4)  # one and two of four steps

# Cosines of guidance directions and x0 of the built-in model lie in these ranges.
PROBING = (
    *(AdaptiveRule(threshold, 0.1, 0.6, every=3) for threshold in (0.8, 1.0, 1.2)),
    *(AdaptiveRule(t, 0.1, 0.6, every=3, compare="clean") for t in (1.5, 2.0)),
)


def probing_label(rule: AdaptiveRule) -> str:
    """What tells a rule from the others."""
    return f"{rule.compare} {rule.threshold:g}"


def adapters(lab: Lab) -> dict[str, Path | None]:
    """The adapter of each method that shares."""
    asked = lab.settings
    by_method = {
        UNTRAINED: None,
        STANDARD: asked.standard_adapter,
        SAGE: asked.sage_adapter,
        NO_SOFT: asked.nosoft_adapter,
    }
    if (asked.twins_adapter / LORA_FILE).is_file():
        by_method[TWINS] = asked.twins_adapter
    return by_method


def student(lab: Lab, steps: int) -> Path | None:
    """The adapter for so many steps: shipped, or as `sage.world.train.distil` leaves it; None if none."""
    folders = (
        ASSETS / f"emoji-scenes-{steps}-step-lora",
        lab.settings.adapters.parent / f"few-step-{steps}",
    )
    return next((folder for folder in folders if (folder / LORA_FILE).is_file()), None)


def tree_plans(lab: Lab, prompts: PromptSet, ratio: float) -> dict[str, Plan]:
    """Trees that spend no more than one level of sharing at a ratio."""
    one_level = lab.pipe.plan(prompts.groups, lab.settings.steps, ratio)
    calls = one_level.steps
    budget = evaluations(one_level) / (len(prompts) * calls)
    similarity = cosine_similarity(lab.pipe.embed(prompts.texts))
    matrices = {INSIDE: kept_apart(similarity, prompts), OVER_ALL: similarity}
    return {name: budget_plan(dendrogram(s), calls, budget) for name, s in matrices.items()}


def kept_apart(similarity: Tensor, prompts: PromptSet) -> Tensor:
    """Similarities in which prompts of different groups have nothing in common: [N, N]."""
    owner = torch.from_numpy(prompts.owner)
    return torch.where(owner[:, None] == owner, similarity, torch.tensor(APART))
