"""The public endpoints, for programs: /analyze, /estimate and /compare.

They take plain values under the names of `sage.request` and answer with plain JSON and pictures;
their docstrings are what a client reads. The page has its own, private listeners.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from typing import Any

import gradio as gr

from sage.compare import Comparison, find_groups
from sage.compare import compare as render_both
from sage.models import LoadedModel
from sage.pipeline import SageOutput
from sage.request import LIMITS, Request, parse_request
from sage.ui.examples import FIRST_EXAMPLE
from sage.ui.shelf import Shelf

RENDER_QUEUE = {"concurrency_id": "render", "concurrency_limit": 1}

ARGUMENTS = """

prompts: 2 to 16 prompts, one a line, at most 300 characters each.
model: key of a model in the page's picker; "" is the first one.
tau_min: lowest cosine similarity inside a group; 0 is the model's own.
tau_max: highest cosine similarity inside a group; 0 is the model's own.
max_group_size: largest group, 1 to 16.
share_ratio: share of the steps that a group has in common, 0 to 1.
steps: sampling steps, 2 to 100.
guidance_scale: classifier-free guidance, 1 to 20; 0 is the model's own.
seed: seed of the first prompt; the others count up from it."""


@dataclass(frozen=True)
class Question:
    """What a client sends, unchecked; the defaults are those of the endpoints."""

    prompts: str = FIRST_EXAMPLE.text
    model: str = ""
    tau_min: float = 0.0
    tau_max: float = 0.0
    max_group_size: int = LIMITS["max_group_size"].default
    share_ratio: float = LIMITS["share_ratio"].default
    steps: int = LIMITS["steps"].default
    guidance_scale: float = 0.0
    seed: int = LIMITS["seed"].default

    def check(self, shelf: Shelf) -> tuple[Request, LoadedModel]:
        """The question as a request, and its model.

        Raises:
            ValueError: With one sentence, if anything is not allowed.
        """
        model = shelf.get(self.model or shelf.default.key)
        request = parse_request(
            self.prompts,
            tau_min=_unless_zero(self.tau_min),
            tau_max=_unless_zero(self.tau_max),
            max_group_size=self.max_group_size,
            share_ratio=self.share_ratio,
            steps=self.steps,
            guidance_scale=_unless_zero(self.guidance_scale),
            seed=self.seed,
            defaults=model.spec,
        )
        return request, model


def _unless_zero(value: Any) -> Any:
    """None, which is the model's own, for 0; anything else is for `parse_request` to judge."""
    return None if value == 0 and not isinstance(value, bool) else value


def analyze(request: Request, model: LoadedModel) -> dict:
    """Similarity of the prompts, the groups they form, and the reason for every pair."""
    grouping = find_groups(model.pipe, request)
    return {
        "model": model.spec.key,
        "prompts": list(request.prompts),
        "similarity": [[round(v, 6) for v in row] for row in grouping.similarity.tolist()],
        "groups": [list(group) for group in grouping.groups],
        "pairs": [asdict(pair) | {"together": pair.together} for pair in grouping.pairs],
        "tau_min": grouping.tau_min,
        "tau_max": grouping.tau_max,
        "max_group_size": grouping.max_group_size,
    }


def estimate(request: Request, model: LoadedModel) -> dict:
    """What sharing would cost and save: evaluations and FLOPs, counted without rendering."""
    groups = find_groups(model.pipe, request).groups
    plan = model.pipe.plan(groups, request.steps, request.share_ratio)
    cost = model.pipe.cost(plan, guidance_scale=request.guidance_scale)
    sides = {"shared": cost.flops, "independent": cost.independent_flops}
    return {
        "model": model.spec.key,
        "groups": [list(group) for group in groups],
        "steps": request.steps,
        "share_ratio": request.share_ratio,
        "branch_step": request.branch_step,
        "evaluations": {
            "shared": cost.evaluations,
            "independent": cost.independent_evaluations,
        },
        "flops": {side: asdict(flops) | {"total": flops.total} for side, flops in sides.items()},
        "saving": {"evaluations": cost.saving, "flops": cost.flops_saving},
    }


def compare(request: Request, model: LoadedModel) -> Iterator[tuple[Any, Any, dict]]:
    """Renders both ways: independent pictures, shared pictures, report.

    While it runs, the report is the progress (step, steps, stage) and the galleries are empty.
    """
    for item in render_both(model, request):
        if isinstance(item, Comparison):
            yield _gallery(item, item.independent), _gallery(item, item.shared), item.report
        else:
            yield gr.skip(), gr.skip(), {k: getattr(item, k) for k in ("step", "steps", "stage")}


def _gallery(done: Comparison, output: SageOutput) -> list[tuple[Any, str]]:
    captions = (f"P{n} {prompt}" for n, prompt in enumerate(done.request.prompts, start=1))
    return list(zip(output.images, captions, strict=True))


def add_endpoints(shelf: Shelf) -> None:
    """Registers the endpoints in the current Blocks, on components that are never shown."""
    with gr.Row(visible=False):
        inputs = [_input(field.name, field.default) for field in fields(Question)]
        galleries = [gr.Gallery(label="independent"), gr.Gallery(label="shared")]
        answer = gr.JSON(label="answer")
        button = gr.Button()
    quick = {"concurrency_limit": 8}
    for function, outputs, queue in (
        (analyze, [answer], quick),
        (estimate, [answer], quick),
        (compare, [*galleries, answer], RENDER_QUEUE),
    ):
        button.click(
            _endpoint(function, shelf),
            inputs,
            outputs,
            api_name=function.__name__,
            api_description=inspect.getdoc(function) + ARGUMENTS,
            **queue,
        )


def _input(name: str, default: str | float) -> gr.Textbox | gr.Number:
    kind = gr.Textbox if isinstance(default, str) else gr.Number
    return kind(default, label=name)


def _endpoint(function: Callable[..., Any], shelf: Shelf) -> Callable[..., Any]:
    """The function as a listener that takes the fields of `Question`."""

    def answer(*values: Any) -> Any:
        with _sentences():
            return function(*Question(*values).check(shelf))

    def answer_in_parts(*values: Any) -> Iterator[Any]:
        with _sentences():
            yield from function(*Question(*values).check(shelf))

    listener = answer_in_parts if inspect.isgeneratorfunction(function) else answer
    listener.__signature__ = inspect.signature(Question)  # the names that clients see
    return listener


@contextmanager
def _sentences() -> Iterator[None]:
    """A ValueError's sentence reaches the client; any other error stays in the log."""
    try:
        yield
    except ValueError as error:
        raise gr.Error(str(error), print_exception=False) from error
