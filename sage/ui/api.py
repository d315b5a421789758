"""The public endpoints, for programs: /analyze, /estimate, /compare and /look_first.

They take plain values under the names of `sage.jobs.request` and answer with plain JSON and
pictures; their docstrings are what a client reads. The page has its own, private listeners.
"""

import inspect
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import gradio as gr
from PIL import Image

from sage.core.settings import NUM_PROMPTS, PROMPT_CHARS, Choice, Setting, settings_of, shortened
from sage.jobs.compare import Comparison
from sage.jobs.job import find_groups, prepare
from sage.jobs.look import Look, look_report
from sage.jobs.models import LoadedModel
from sage.jobs.repeats import REPEATS, check_repeats
from sage.jobs.request import Request, parse_prompts
from sage.jobs.sides import adapter_of
from sage.ui import kit
from sage.ui.examples import FIRST_EXAMPLE
from sage.ui.kit import sentences
from sage.ui.lease import Lease
from sage.ui.server.files import filled_folder
from sage.ui.server.lanes import CHEAP_LANE, RENDER_LANE
from sage.ui.shelf import Shelf
from sage.ui.work import compare_request, finish_request, look_request


@dataclass(frozen=True)
class Argument:
    """An argument of the endpoints: its default, and its words for a client or a language model."""

    name: str
    default: Any
    words: str
    setting: Setting | None = None


def arguments(kind: type[Request] = Request) -> tuple[Argument, ...]:
    """What the endpoints take: prompts, a model, and every setting."""
    prompts = (
        f"{NUM_PROMPTS.allowed} prompts, one per line, at most {PROMPT_CHARS.high} characters each."
    )
    model = 'key of a model in the page\'s picker; "" is the first one.'
    return (
        Argument("prompts", FIRST_EXAMPLE.text, prompts),
        Argument("model", "", model),
        *(_argument(one) for one in settings_of(kind).values()),
    )


# What some endpoints take beside the settings.
EXTRAS: dict[str, tuple[Argument, ...]] = {
    "compare": (
        Argument(
            "repeats",
            REPEATS[0],
            f"how often both sides are rendered, each time with new seeds; "
            f"{', '.join(map(str, REPEATS))}.",
        ),
        Argument(
            "fewer_steps",
            False,
            "whether each prompt also runs alone with as many steps as sharing pays for; what that "
            "gives is in the report.",
        ),
    ),
    "look_first": (
        Argument(
            "finish",
            "",
            'numbers of the prompts to finish, such as "1, 3"; "all" is every one, "" is none.',
        ),
    ),
}


def _argument(setting: Setting) -> Argument:
    """A setting of the model's own has the default 0, since a client's number cannot be null."""
    words = setting.help.removesuffix(".")
    if not isinstance(setting.default, bool) and not isinstance(setting, Choice):
        words += f", {setting.allowed}"
    words += "; 0 is the model's own." if _zero_is_own(setting) else "."
    default = 0 if _zero_is_own(setting) else setting.default
    return Argument(setting.name, type(setting.default)(default), words, setting)


def _zero_is_own(setting: Setting) -> bool:
    # A share ratio of 0 is independent sampling: that one has a default in numbers.
    return setting.of_model and setting.name != "share_ratio"


def check_arguments(
    values: Mapping[str, Any], shelf: Shelf, kind: type[Request] = Request
) -> tuple[Request, LoadedModel]:
    """What a client sent as a request, and its model.

    Raises:
        ValueError: With one sentence, if anything is not allowed.
    """
    rest = dict(values)
    prompts, key = rest.pop("prompts"), rest.pop("model")
    model = shelf.get(key or shelf.default.key)
    for name, one in settings_of(kind).items():
        value = rest[name]
        if _zero_is_own(one) and value == 0 and not isinstance(value, bool):
            rest[name] = None
    request = kind.of(model.spec, prompts=parse_prompts(prompts), **rest)
    if request.trained:
        adapter_of(model)  # also where nothing is rendered: an answer would not be what was asked
    return request, model


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
    """What sharing would cost and save: evaluations and FLOPs, counted without rendering.

    An adaptive run is decided while sampling: its numbers hold if nothing parts before the branch
    point, and "settled" is false.
    """
    job = prepare(model, request)
    cost = job.cost
    sides = {"shared": cost.flops, "independent": cost.independent_flops}
    return {
        "model": model.spec.key,
        "groups": [list(group) for group in job.groups],
        "steps": request.steps,
        "calls": job.calls,
        "settled": job.settled,
        "share_ratio": request.share_ratio,
        "branch_step": job.branch_call,
        "evaluations": {
            "shared": cost.evaluations,
            "independent": cost.independent_evaluations,
        },
        "flops": {side: asdict(flops) | {"total": flops.total} for side, flops in sides.items()},
        "saving": {"evaluations": cost.saving, "flops": cost.flops_saving},
    }


def compare(
    request: Request, model: LoadedModel, lease: Lease, repeats: int, fewer_steps: bool
) -> Iterator[tuple[Any, Any, dict]]:
    """Renders both ways: independent pictures, shared pictures, report.

    While it runs, the report is the progress (step, steps, stage) and the galleries are empty.
    """
    how = {"repeats": check_repeats(repeats), "fewer_steps": bool(fewer_steps)}
    cost = prepare(model, request).cost
    once = cost.flops.total * (2 if fewer_steps else 1) + cost.independent_flops.total
    flops = once * how["repeats"]
    for item in lease.run(compare_request, model.spec.key, request, flops=flops, **how):
        if isinstance(item, Comparison):
            alone, shared = item.independent.pictures, item.shared.pictures
            pictures = [_gallery(request, enumerate(side)) for side in (alone, shared)]
            yield pictures[0], pictures[1], item.report
        else:
            yield gr.skip(), gr.skip(), _progress(item)


def look_first(
    request: Request, model: LoadedModel, lease: Lease, finish: str
) -> Iterator[tuple[Any, Any, dict]]:
    """Stops at the branch point: what each prompt is heading for, finished pictures, report.

    Only the prompts named in `finish` are finished; the report counts what was spent, beside
    finishing all. While it runs, the report is the progress and the galleries are empty.
    """
    wanted, key = _numbered(finish, len(request.prompts)), model.spec.key
    flops = prepare(model, request).cost.flops.total
    seen = yield from _looked(lease.run(look_request, key, request, flops=flops))
    if wanted:
        seen = yield from _looked(lease.run(finish_request, key, seen, wanted, flops=flops))
    finished = ((n, picture) for n, (picture, _) in sorted(seen.final.items()))
    yield (
        _gallery(request, enumerate(seen.pictures)),
        _gallery(request, finished),
        look_report(seen),
    )


def _looked(run: Iterator[Any]) -> Generator[tuple[Any, Any, dict], None, Look]:
    """Passes the progress of a run on, and returns the look that it ends with."""
    for item in run:
        if isinstance(item, Look):
            return item
        yield gr.skip(), gr.skip(), _progress(item)
    raise AssertionError("a look raises or ends with what was seen")


def _numbered(text: str, count: int) -> tuple[int, ...]:
    """Prompts by their numbers, which count from 1.

    Raises:
        ValueError: If there is no such prompt.
    """
    words = str(text).replace(",", " ").split()
    if words == ["all"]:
        return tuple(range(count))
    numbers = [int(word) if word.isascii() and word.isdigit() else 0 for word in words]
    for word, number in zip(words, numbers, strict=True):
        if not 1 <= number <= count:
            raise ValueError(
                f"A prompt to finish is {shortened(word)}; allowed are 1 to {count}, or all."
            )
    return tuple(sorted({number - 1 for number in numbers}))


def _progress(item: Any) -> dict[str, Any]:
    return {name: getattr(item, name) for name in ("step", "steps", "stage")}


def _gallery(
    request: Request, pictures: Iterable[tuple[int, Image.Image]]
) -> list[tuple[str, str]]:
    """Pictures by prompt, with captions; the files lie where no other run's address leads."""
    shown = []
    with filled_folder() as folder:
        for number, image in pictures:
            path = folder / f"P{number + 1:02d}.png"
            image.save(path)
            shown.append((str(path), f"P{number + 1} {request.prompts[number]}"))
    return shown


def add_endpoints(shelf: Shelf, kind: type[Request] = Request) -> None:
    """Registers the endpoints in the current Blocks, on components that no browser builds."""
    with gr.Row(visible=False):
        inputs = {one.name: _input(one) for one in arguments(kind)}
        galleries = [gr.Gallery(label=side, visible=False) for side in ("independent", "shared")]
        answer = gr.JSON(label="answer", visible=False)
        button = gr.Button(visible=False)
    for function, outputs, lane in (
        (analyze, [answer], CHEAP_LANE),
        (estimate, [answer], CHEAP_LANE),
        (compare, [*galleries, answer], RENDER_LANE),
        (look_first, [*galleries, answer], RENDER_LANE),
    ):
        button.click(
            _endpoint(function, shelf, kind),
            [*inputs.values(), *map(_input, EXTRAS.get(function.__name__, ()))],
            outputs,
            api_name=function.__name__,
            api_description=description(function, kind),
            **lane,
        )


def description(function: Callable[..., Any], kind: type[Request] = Request) -> str:
    """What an endpoint does and what it takes, as a client reads it."""
    taken = (*arguments(kind), *EXTRAS.get(function.__name__, ()))
    lines = "\n".join(f"{argument.name}: {argument.words}" for argument in taken)
    return f"{inspect.getdoc(function)}\n\n{lines}"


def _input(argument: Argument) -> gr.Textbox | gr.Number | gr.Dropdown | gr.Checkbox:
    name, default = argument.name, argument.default
    if isinstance(default, bool):
        return gr.Checkbox(default, label=name, visible=False)
    if isinstance(argument.setting, Choice):
        choices = list(argument.setting.titles)
        return kit.Dropdown(choices, value=default, label=name, visible=False)
    if isinstance(default, str):
        return gr.Textbox(default, label=name, visible=False)
    return kit.Number(default, label=name, visible=False)


def _endpoint(
    function: Callable[..., Any], shelf: Shelf, kind: type[Request]
) -> Callable[..., Any]:
    """The function as a listener that takes all arguments."""
    extras = EXTRAS.get(function.__name__, ())
    taken = (*arguments(kind), *extras)
    names = [argument.name for argument in taken]

    def call(values: Sequence[Any]) -> Any:
        given = dict(zip(names, values, strict=True))
        beside = {argument.name: given.pop(argument.name) for argument in extras}
        return function(*check_arguments(given, shelf, kind), shelf.lease, **beside)

    def answer(*values: Any) -> Any:
        with sentences():
            return call(values)

    def answer_in_parts(*values: Any) -> Iterator[Any]:
        with sentences():
            yield from call(values)

    listener = answer_in_parts if inspect.isgeneratorfunction(function) else answer
    parameters = [
        inspect.Parameter(
            argument.name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=argument.default,
            annotation=type(argument.default),
        )
        for argument in taken
    ]
    listener.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    listener.__name__ = function.__name__
    # Gradio reads the words for each argument of an MCP tool from here.
    lines = "".join(f"\n    {argument.name}: {argument.words}" for argument in taken)
    listener.__doc__ = f"{inspect.getdoc(function)}\n\nArgs:{lines}"
    return listener
