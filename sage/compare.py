"""Renders both sides of the comparison, interleaved and measured, and writes the report.

Shared and independent runs have the same prompts, seeds, steps and guidance. They advance step by
step in turn (A B, B A, A B, ...), so that whatever else the machine does falls on both.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version

import torch
from PIL import Image
from torch import Tensor

import sage
from sage.cost import Stages
from sage.grouping import Grouping
from sage.metrics import clip_score, pixel_distance
from sage.models import LoadedModel
from sage.pipeline import SageOutput, SagePipeline, SageStep
from sage.plan import Group, Plan, independent_plan
from sage.request import Request


@dataclass(frozen=True)
class CompareStep:
    """Both sides after a step, as previews in prompt order.

    Attributes:
        step: How many steps are finished, from 1.
        steps: T.
        stage: Whether any prompts still shared this step.
        shared: N previews.
        independent: N previews.
    """

    step: int
    steps: int
    stage: str
    shared: list[Image.Image]
    independent: list[Image.Image]


@dataclass(frozen=True)
class Comparison:
    """Both sides finished.

    Attributes:
        request: What was asked for.
        grouping: Who shared and why.
        shared: The shared run.
        independent: The independent run.
        clip_scores: For "shared" and "independent", the CLIP score of each picture; None where
            the model has no CLIP image encoder.
        twin_distance: Root mean square pixel difference of each shared picture to its
            independent twin, in [0, 1].
        report: All of it as plain numbers and texts, ready for JSON.
    """

    request: Request
    grouping: Grouping
    shared: SageOutput
    independent: SageOutput
    clip_scores: dict[str, list[float]] | None
    twin_distance: list[float]
    report: dict


def compare(
    model: LoadedModel, request: Request, groups: Sequence[Group] | None = None
) -> Iterator[CompareStep | Comparison]:
    """Renders shared and independent pictures of a request.

    Args:
        model: The model.
        request: A checked request.
        groups: Groups to use instead of those found by similarity.

    Yields:
        A CompareStep for every step, then one Comparison.
    """
    pipe = model.pipe
    grouping = find_groups(pipe, request)
    groups = groups or grouping.groups
    plans = {
        "shared": pipe.plan(groups, request.steps, request.share_ratio),
        "independent": independent_plan(len(request.prompts), pipe.denoiser_calls(request.steps)),
    }
    _warm_up(pipe, plans.values(), request.guidance_scale)
    runs = {side: _run(pipe, request, plan) for side, plan in plans.items()}
    for i in range(plans["shared"].steps):
        here = _advance(runs, first="shared" if i % 2 == 0 else "independent")
        yield _both(here["shared"], here["independent"])
    outputs = _advance(runs, first="shared")
    yield _finish(model, request, grouping, groups, outputs)


def find_groups(pipe: SagePipeline, request: Request) -> Grouping:
    """The groups a request leads to."""
    return pipe.group(request.prompts, request.tau_min, request.tau_max, request.max_group_size)


def _run(pipe: SagePipeline, request: Request, plan: Plan) -> Iterator[SageStep | SageOutput]:
    return pipe.stream(
        request.prompts,
        plan=plan,
        guidance_scale=request.guidance_scale,
        seeds=request.seeds,
    )


def _advance(
    runs: dict[str, Iterator[SageStep | SageOutput]], first: str
) -> dict[str, SageStep | SageOutput]:
    order = sorted(runs, key=lambda side: side != first)
    return {side: next(runs[side]) for side in order}


def _both(shared: SageStep, independent: SageStep) -> CompareStep:
    return CompareStep(
        shared.step, shared.steps, shared.stage, shared.previews(), independent.previews()
    )


def _warm_up(pipe: SagePipeline, plans: Sequence[Plan], guidance_scale: float) -> None:
    """Runs every batch size of the plans once, so that no side pays for being first."""
    sizes = {len(plan.rows(i)) for plan in plans for i in range(plan.steps) if plan.splits_at(i)}
    for rows in sorted(sizes):
        pipe.warm_up(rows, guidance_scale)


def _finish(
    model: LoadedModel,
    request: Request,
    grouping: Grouping,
    groups: Sequence[Group],
    outputs: dict[str, SageOutput],
) -> Comparison:
    shared, independent = outputs["shared"], outputs["independent"]
    scores = _clip_scores(model.pipe, request.prompts, outputs)
    distance = pixel_distance(_pixels(shared), _pixels(independent)).tolist()
    report = _report(model, request, groups, shared, independent)
    report |= {"clip_score": scores, "twin_distance": distance}
    return Comparison(request, grouping, shared, independent, scores, distance, report)


def _clip_scores(
    pipe: SagePipeline, prompts: Sequence[str], outputs: dict[str, SageOutput]
) -> dict[str, list[float]] | None:
    if pipe.clip is None:
        return None
    texts = pipe.embed(prompts)  # known since the prompts were grouped
    return {
        side: clip_score(pipe.clip.embed_images(output.images), texts).tolist()
        for side, output in outputs.items()
    }


def _pixels(output: SageOutput) -> Tensor:
    """[N, H, W, 3] in [0, 1]."""
    arrays = [torch.frombuffer(bytearray(im.tobytes()), dtype=torch.uint8) for im in output.images]
    return torch.stack(arrays).float() / 255


def _report(
    model: LoadedModel,
    request: Request,
    groups: Sequence[Group],
    shared: SageOutput,
    independent: SageOutput,
) -> dict:
    cost = shared.cost
    return {
        "model": model.spec.key,
        "source": f"{model.spec.source}@{model.spec.revision}"
        if model.spec.revision
        else model.spec.key,
        "prompts": list(request.prompts),
        "groups": [list(group) for group in groups],
        "seeds": list(request.seeds),
        "steps": request.steps,
        "guidance_scale": request.guidance_scale,
        "share_ratio": request.share_ratio,
        "branch_step": request.branch_step,
        "tau_min": request.tau_min,
        "tau_max": request.tau_max,
        "max_group_size": request.max_group_size,
        "scheduler": type(model.pipe.scheduler).__name__,
        "evaluations": {
            "shared": cost.evaluations,
            "independent": cost.independent_evaluations,
        },
        "flops": {
            "shared": _stages(cost.flops),
            "independent": _stages(cost.independent_flops),
        },
        "seconds": {
            "shared": _stages(shared.timings),
            "independent": _stages(independent.timings),
        },
        "saving": {
            "evaluations": cost.saving,
            "flops": cost.flops_saving,
            "seconds": 1 - shared.timings.total / independent.timings.total,
        },
        "device": model.device_name,
        "dtype": str(model.pipe.dtype).removeprefix("torch."),
        "versions": versions(),
    }


def _stages(stages: Stages) -> dict[str, float]:
    return asdict(stages) | {"total": stages.total}


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    packages = ("torch", "diffusers", "transformers")
    return {"sage": sage.__version__} | {name: version(name) for name in packages}
