"""SAGE: prompts that mean similar things share the early steps of their denoising.

Notation, paper (arXiv 2509.15865) to code:

    N, G        num_prompts, num_groups     prompts, groups
    T           steps                       sampling steps
    T*          branch_step                 first step that is no longer shared (0 = independent)
    β           share_ratio                 branch_step / steps (β alone is the noise schedule's)
    c_n, c̄     cond, group mean            text-encoder hidden states; their mean over a group
    τ_min, τ_max  tau_min, tau_max          bounds of the cosine similarity inside a group
    λ1, λ2      lambda_shared, lambda_soft  weights of the loss terms

The core (grouping, plan, cost, solver, sampling) needs torch and nothing else. The classes that
meet diffusers live in `sage.sd.pipeline` and `sage.jobs.models` and are imported from there.
"""

from sage.core.cost import Cost, ModelFlops, plan_cost
from sage.core.grouping import Grouping, cosine_similarity, group_prompts
from sage.core.plan import Plan, Segment, independent_plan, shared_plan
from sage.core.sampling import State, in_prompt_order, sample
from sage.core.solver import DDIM

__version__ = "0.1.0"

__all__ = [
    "DDIM",
    "Cost",
    "Grouping",
    "ModelFlops",
    "Plan",
    "Segment",
    "State",
    "cosine_similarity",
    "group_prompts",
    "in_prompt_order",
    "independent_plan",
    "plan_cost",
    "sample",
    "shared_plan",
]
