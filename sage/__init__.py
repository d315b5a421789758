"""SAGE: prompts that mean similar things share the early steps of their denoising.

    from sage import SagePipeline
    pipe = SagePipeline.from_pretrained("assets/emoji-scenes")
    output = pipe(["a fox in the snow", "a rabbit in the snow"], share_ratio=0.4)

Notation, paper (arXiv 2509.15865) to code:

    N, G        num_prompts, num_groups     prompts, groups
    T           steps                       sampling steps, as asked for
    NFE         calls                       calls of the denoiser for one trajectory
    T*          branch_step                 first call that is no longer shared (0 = independent)
    β           share_ratio                 share of the calls in common
    c_n, c̄     cond, group mean            text-encoder hidden states; their mean over a group
    τ_min, τ_max  tau_min, tau_max          bounds of the cosine similarity inside a group
    λ1, λ2      lambda_shared, lambda_soft  weights of the loss terms

What is named here is loaded when it is first used: `import sage` costs nothing, and the core
needs torch and nothing else.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sage.core.cost import Cost, ModelFlops, plan_cost
    from sage.core.grouping import Grouping, cosine_similarity, group_prompts
    from sage.core.plan import Plan, Segment, independent_plan, shared_plan
    from sage.core.sampling import State, in_prompt_order, sample
    from sage.core.settings import Sampling
    from sage.core.solver import DDIM
    from sage.jobs.compare import compare
    from sage.jobs.job import Job, prepare
    from sage.jobs.models import load_model
    from sage.jobs.request import Request
    from sage.sd.pipeline import SagePipeline

__version__ = "0.1.0"

_PLACES = {
    "DDIM": "core.solver",
    "Cost": "core.cost",
    "Grouping": "core.grouping",
    "Job": "jobs.job",
    "ModelFlops": "core.cost",
    "Plan": "core.plan",
    "Request": "jobs.request",
    "SagePipeline": "sd.pipeline",
    "Sampling": "core.settings",
    "Segment": "core.plan",
    "State": "core.sampling",
    "compare": "jobs.compare",
    "cosine_similarity": "core.grouping",
    "group_prompts": "core.grouping",
    "in_prompt_order": "core.sampling",
    "independent_plan": "core.plan",
    "load_model": "jobs.models",
    "plan_cost": "core.cost",
    "prepare": "jobs.job",
    "sample": "core.sampling",
    "shared_plan": "core.plan",
}

__all__ = [
    "DDIM",
    "Cost",
    "Grouping",
    "Job",
    "ModelFlops",
    "Plan",
    "Request",
    "SagePipeline",
    "Sampling",
    "Segment",
    "State",
    "compare",
    "cosine_similarity",
    "group_prompts",
    "in_prompt_order",
    "independent_plan",
    "load_model",
    "plan_cost",
    "prepare",
    "sample",
    "shared_plan",
]


def __getattr__(name: str) -> Any:
    """Loads what is asked for by name, and the modules it needs, on first use."""
    if name not in _PLACES:
        raise AttributeError(f"module 'sage' has no attribute {name!r}")
    value = getattr(import_module(f"sage.{_PLACES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})
