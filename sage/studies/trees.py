"""Do trees, in which closer prompts share longer, beat one level of sharing at equal evaluations?

One-level sharing spends so much; a tree may spend no more. Two kinds of tree: inside the same
groups, and over all prompts at once, whose first steps then stand for dozens. The cut is that of
Decatur et al. 2025 (arXiv 2508.21032); their models, prompts and embeddings are others.
"""

import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sage.core.cost import evaluations
from sage.core.grouping import cosine_similarity
from sage.core.plan import Plan
from sage.core.tree import budget_plan, dendrogram
from sage.studies.engine.cells import Setting
from sage.studies.engine.contest import (
    Contest,
    Entry,
    differing,
    hold,
    panels_of,
    quality_keys,
    rows,
    told,
)
from sage.studies.engine.lab import Lab
from sage.studies.engine.prompts import PromptSet
from sage.studies.engine.results import result
from sage.studies.main_table import INDEPENDENT, SAGE, UNTRAINED

NAME, TITLE = "trees", "Trees against one level of sharing"
DEFAULTS = {"pictures": 336, "seeds": 1}
RATIOS = (0.3, 0.4, 0.5)
INSIDE, OVER_ALL = "tree in groups", "tree over all prompts"
APART = -1.0  # similarity of prompts of different groups, so that only a last resort joins them


def run(lab: Lab) -> dict[str, Any]:
    """One level and both trees, with the SAGE adapter; untrained at the middle ratio."""
    prompts, adapter = lab.prompts, lab.settings.sage_adapter
    entries = [Entry(INDEPENDENT, "30 steps", lab.setting())]
    for ratio in RATIOS:
        entries += _entries(lab, prompts, ratio, SAGE)
    entries += _entries(lab, prompts, RATIOS[1], UNTRAINED)
    found = hold(lab, entries)
    digest = {"adapter": lab.adapter_digest(adapter)}
    return result(
        sys.modules[__name__], lab, rows(found), finding(found), prompts=prompts, conditions_=digest
    )


def _entries(lab: Lab, prompts: PromptSet, ratio: float, method: str) -> list[Entry]:
    adapter = lab.settings.sage_adapter if method == SAGE else None
    plans = tree_plans(lab, prompts, ratio)
    label = f"{method}, evaluations of ratio {ratio:g}"

    def planned(plan: Plan) -> Setting:
        return lab.setting(0.0, adapter, plan=plan)

    return [
        Entry("one level", label, lab.setting(ratio, adapter)),
        *(Entry(name, label, planned(plan)) for name, plan in plans.items()),
    ]


def tree_plans(lab: Lab, prompts: PromptSet, ratio: float) -> dict[str, Plan]:
    """Trees that spend no more than one level of sharing at a ratio."""
    pipe = lab.pipe
    one_level = pipe.plan(prompts.groups, lab.settings.steps, ratio)
    steps, budget = one_level.steps, evaluations(one_level) / (len(prompts) * one_level.steps)
    similarity = cosine_similarity(pipe.embed(prompts.texts))
    matrices = {INSIDE: kept_apart(similarity, prompts), OVER_ALL: similarity}
    return {name: budget_plan(dendrogram(s), steps, budget) for name, s in matrices.items()}


def kept_apart(similarity: Tensor, prompts: PromptSet) -> Tensor:
    """Similarities in which prompts of different groups have nothing in common: [N, N]."""
    owner = torch.from_numpy(prompts.owner)
    return torch.where(owner[:, None] == owner, similarity, torch.tensor(APART))


def finding(found: Contest) -> str:
    """One sentence: where each kind of tree differs from one level, beyond chance."""
    base = {entry.label: entry for entry in found if entry.name == "one level"}
    said = []
    for kind in (INSIDE, OVER_ALL):
        pairs = [(entry, base[entry.label]) for entry in found if entry.name == kind]
        higher, lower = (differing(found, pairs, sign) or "nothing" for sign in (1, -1))
        said.append(f"a {kind} is better in {higher} and worse in {lower}")
    keys, first = quality_keys(found), next(iter(base.values()))
    return (
        f"Against one level with as many evaluations ({told(found, first, keys)} with "
        f"{first.label}), {'; '.join(said)}."
    )


def figure(found: Mapping[str, Any]) -> dict[str, Any]:
    """Quality against evaluations."""
    return panels_of(found)
