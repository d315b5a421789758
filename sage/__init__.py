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
meet diffusers live in `sage.sd.pipeline` and `sage.jobs.models`. Importing this package loads
nothing: each name below is imported when it is first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sage.core.cost import Cost, ModelFlops, plan_cost
    from sage.core.grouping import Grouping, cosine_similarity, group_prompts
    from sage.core.plan import Plan, Segment, independent_plan, shared_plan
    from sage.core.sampling import State, in_prompt_order, sample
    from sage.core.solver import DDIM
    from sage.sd.pipeline import SagePipeline

__version__ = "0.1.0"

_PLACES = {
    "sage.core.cost": ("Cost", "ModelFlops", "plan_cost"),
    "sage.core.grouping": ("Grouping", "cosine_similarity", "group_prompts"),
    "sage.core.plan": ("Plan", "Segment", "independent_plan", "shared_plan"),
    "sage.core.sampling": ("State", "in_prompt_order", "sample"),
    "sage.core.solver": ("DDIM",),
    "sage.sd.pipeline": ("SagePipeline",),
}
_PLACE_OF = {name: module for module, names in _PLACES.items() for name in names}

__all__ = [
    "DDIM",
    "Cost",
    "Grouping",
    "ModelFlops",
    "Plan",
    "SagePipeline",
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


def __getattr__(name: str) -> Any:
    if name not in _PLACE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_PLACE_OF[name]), name)
    globals()[name] = value  # asked for once
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
