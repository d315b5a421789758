"""The public endpoints, for programs: /analyze, /estimate and /compare.

They take plain values under the names of `sage.jobs.request` and answer with plain JSON and
pictures; their docstrings are what a client reads. The page has its own, private listeners.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from typing import Any

import gradio as gr

from sage.core.cost import Cost
from sage.jobs.arrangement import Arrangement, arrange, calibration_of, find_groups
from sage.jobs.compare import Comparison
from sage.jobs.compare import compare as render_both
from sage.jobs.models import LoadedModel
from sage.jobs.request import CHOICES, LIMITS, Request, parse_request
from sage.jobs.variants import shared_side
from sage.sd.pipeline import SageOutput
from sage.ui.export.links import OWN
from sage.ui.lease import Lease
from sage.ui.server.errors import as_client_error
from sage.ui.server.files import fresh_folder
from sage.ui.server.lanes import CHEAP_LANE, RENDER_LANE, require_admission
from sage.ui.shelf import Shelf
from sage.ui.studio.examples import FIRST_EXAMPLE

# Each name of `Question`, in the words that a client or a language model reads.
WORDS = {
    "prompts": "2 to 16 prompts, one a line, at most 300 characters each.",
    "model": 'key of a model in the page\'s picker; "" is the first one.',
    "tau_min": "lowest cosine similarity inside a group; 0 is the model's own.",
    "tau_max": "highest cosine similarity inside a group; 0 is the model's own.",
    "max_group_size": "largest group, 1 to 16.",
    "share_ratio": "share of the steps that a group has in common, 0 to 1.",
    "steps": "sampling steps, 2 to 100; 0 is the model's own number.",
    "guidance_scale": "classifier-free guidance, 1 to 20; 0 is the model's own.",
    "seed": "seed of the first prompt; the others count up from it.",
    "trained": "whether the shared side runs with the adapter that was trained for sharing.",
    "scheduler": "which scheduler samples.",
    "trunk": "what a trunk follows while prompts share it.",
    "fresh_noise": "share of each prompt's noise that is renewed where it splits off, 0 to 1.",
    "sharing": "groups with one branch point, a tree within a budget, or adaptive splitting.",
    "budget": "for a tree: share of independent sampling's evaluations to spend, 0.1 to 1.",
    "guarded": "whether groups that are predicted to suffer share less, or not at all.",
}


@dataclass(frozen=True)
class Question:
    """What a client sends, unchecked; the defaults are those of the endpoints."""

    prompts: str = FIRST_EXAMPLE.text
    model: str = ""
    tau_min: float = 0.0
    tau_max: float = 0.0
    max_group_size: int = LIMITS["max_group_size"].default
    share_ratio: float = LIMITS["share_ratio"].default
    steps: int = 0
    guidance_scale: float = 0.0
    seed: int = LIMITS["seed"].default
    trained: bool = False
    scheduler: str = CHOICES["scheduler"].default
    trunk: str = CHOICES["trunk"].default
    fresh_noise: float = LIMITS["fresh_noise"].default
    sharing: str = CHOICES["sharing"].default
    budget: float = LIMITS["budget"].default
    guarded: bool = False

    def check(self, shelf: Shelf) -> tuple[Request, LoadedModel]:
        """The question as a request, and its model.

        Raises:
            ValueError: With one sentence, if anything is not allowed.
        """
        model = shelf.get(self.model or shelf.default.key)
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        prompts = values.pop("prompts")
        del values["model"]
        values |= {name: _unless_zero(values[name]) for name in (*OWN, "steps")}
        return parse_request(prompts, **values, defaults=model.spec), model


def _unless_zero(value: Any) -> Any:
    """None, which is the model's own, for 0; anything else is for `parse_request` to judge."""
    return None if value == 0 and not isinstance(value, bool) else value


def analyze(request: Request, model: LoadedModel, lease: Lease) -> dict:
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


def estimate(request: Request, model: LoadedModel, lease: Lease) -> dict:
    """What sharing would cost and save: evaluations and FLOPs, counted without rendering."""
    arrangement, cost = _arranged(request, model)
    sides = {"shared": cost.flops, "independent": cost.independent_flops}
    return {
        "model": model.spec.key,
        "groups": [list(group) for group in arrangement.groups],
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


def compare(request: Request, model: LoadedModel, lease: Lease) -> Iterator[tuple[Any, Any, dict]]:
    """Renders both ways: independent pictures, shared pictures, report.

    While it runs, the report is the progress (step, steps, stage) and the galleries are empty.
    """
    _, cost = _arranged(request, model)
    flops = cost.flops.total + cost.independent_flops.total
    for item in lease.run(render_both, model.spec.key, request, flops=flops):
        if isinstance(item, Comparison):
            yield _gallery(item, item.independent), _gallery(item, item.shared), item.report
        else:
            yield gr.skip(), gr.skip(), {k: getattr(item, k) for k in ("step", "steps", "stage")}


def _arranged(request: Request, model: LoadedModel) -> tuple[Arrangement, Cost]:
    pipe = shared_side(model, request)
    steps = pipe.denoiser_calls(request.steps)
    known = calibration_of(model.spec, request.trained)
    arrangement = arrange(find_groups(pipe, request), request, steps, calibration=known)
    return arrangement, arrangement.cost(pipe)


def _gallery(done: Comparison, output: SageOutput) -> list[tuple[str, str]]:
    """Pictures and captions; the files lie where no other run's address leads."""
    folder, shown = fresh_folder(), []
    for number, (image, prompt) in enumerate(zip(output.images, done.request.prompts, strict=True)):
        path = folder / f"P{number + 1:02d}.png"
        image.save(path)
        shown.append((str(path), f"P{number + 1} {prompt}"))
    return shown


def add_endpoints(shelf: Shelf) -> None:
    """Registers the endpoints in the current Blocks, on components that are never shown."""
    with gr.Row(visible=False):
        inputs = [_input(field.name, field.default) for field in fields(Question)]
        galleries = [gr.Gallery(label="independent"), gr.Gallery(label="shared")]
        answer = gr.JSON(label="answer")
        button = gr.Button()
    for function, outputs, lane in (
        (analyze, [answer], CHEAP_LANE),
        (estimate, [answer], CHEAP_LANE),
        (compare, [*galleries, answer], RENDER_LANE),
    ):
        button.click(
            _endpoint(function, shelf),
            inputs,
            outputs,
            api_name=function.__name__,
            api_description=description(function),
            **lane,
        )


def description(function: Callable[..., Any]) -> str:
    """What an endpoint does and what it takes, as a client reads it."""
    lines = "\n".join(f"{name}: {words}" for name, words in WORDS.items())
    return f"{inspect.getdoc(function)}\n\n{lines}"


def _input(name: str, default: Any) -> gr.Textbox | gr.Number | gr.Dropdown | gr.Checkbox:
    if isinstance(default, bool):
        return gr.Checkbox(default, label=name)
    if name in CHOICES:
        return gr.Dropdown(list(CHOICES[name].titles), value=default, label=name)
    kind = gr.Textbox if isinstance(default, str) else gr.Number
    return kind(default, label=name)


def _endpoint(function: Callable[..., Any], shelf: Shelf) -> Callable[..., Any]:
    """The function as a listener that takes the fields of `Question`."""

    def answer(*values: Any) -> Any:
        with _sentences():
            return function(*Question(*values).check(shelf), shelf.lease)

    def answer_in_parts(*values: Any) -> Iterator[Any]:
        with _sentences():
            yield from function(*Question(*values).check(shelf), shelf.lease)

    listener = answer_in_parts if inspect.isgeneratorfunction(function) else answer
    listener.__signature__ = inspect.signature(Question)  # the names that clients see
    listener.__name__ = function.__name__
    # Gradio reads the words for each argument of an MCP tool from here.
    arguments = "".join(f"\n    {name}: {words}" for name, words in WORDS.items())
    listener.__doc__ = f"{inspect.getdoc(function)}\n\nArgs:{arguments}"
    return listener


@contextmanager
def _sentences() -> Iterator[None]:
    """Whatever goes wrong reaches the client as a sentence; only our own faults are logged."""
    try:
        require_admission()
        yield
    except Exception as error:
        raise as_client_error(error) from None
