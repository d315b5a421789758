"""Arguments of a run, checked before anything is computed; each refusal is one sentence.

Settings check themselves (`sage.core.settings`). Here is the rest: texts, seeds, groups, sizes, and
the arguments of diffusers' own call that mean nothing for a run that shares steps.
"""

import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

from sage.core.plan import Group, Plan
from sage.core.sampling import State
from sage.core.settings import (
    ModelDefaults,
    Sampling,
    plain,
    real_number,
    settings_of,
    shortened,
)

OutputType = Literal["pil", "np", "pt", "latent"]
LARGEST_SEED = 2**63 - 1
LARGEST_SIDE = 8192  # pixels

# What diffusers' call takes and a shared run does not: the values that change nothing there, and
# what to do instead.
_Neutral = tuple[tuple[Any, ...], str]
DIFFUSERS_ARGUMENTS: Mapping[str, _Neutral] = {
    "num_images_per_prompt": ((None, 1), "give the prompt several times, each with its own seed"),
    "generator": (
        (None,),
        "give `seeds`; seed n draws what a CPU generator with that seed draws",
    ),
    "latents": ((None,), "give `seeds`, from which the starting noise follows"),
    "prompt_embeds": ((None,), "give texts: grouping compares them"),
    "negative_prompt_embeds": ((None,), "give `negative_prompt`"),
    "ip_adapter_image": ((None,), "IP-Adapters are not supported"),
    "ip_adapter_image_embeds": ((None,), "IP-Adapters are not supported"),
    "sigmas": ((None,), "set them in the scheduler's configuration"),
    "eta": ((None, 0, 0.0), "`fresh_noise` adds noise where prompts split"),
    "guidance_rescale": ((None, 0, 0.0), "lower `guidance_scale`, or narrow `guidance_interval`"),
    "cross_attention_kwargs": ((None, {}), "for the strength of an adapter, call `set_adapters`"),
    "callback_on_step_end": ((None,), "loop over `stream`, which yields every step"),
    "callback_on_step_end_tensor_inputs": (
        (None, [], ["latents"]),
        "loop over `stream`, which yields every step",
    ),
    "callback": ((None,), "loop over `stream`, which yields every step"),
    "callback_steps": ((None, 1), "loop over `stream`, which yields every step"),
    "return_dict": ((None, True), "the result is always a SageOutput"),
}


def settings_for(
    model: ModelDefaults,
    sampling: Sampling | None,
    given: Mapping[str, Any],
    planned: bool = False,
) -> Sampling:
    """The settings of a run: a model's, or those of `sampling`, changed by keywords.

    Args:
        model: Its defaults stand where nothing is given.
        sampling: Settings as an object.
        given: From `named_settings`; None is the default.
        planned: Whether the run has a plan or a rule. What only a job can honour went into that.

    Raises:
        ValueError: If a value is not allowed, or a pipeline alone cannot honour it.
    """
    for name in given:
        if not settings_of()[name].for_pipeline:
            raise ValueError(_job_only(name))
    if sampling is None:
        defaults = {name: one.default for name, one in settings_of().items() if not one.of_model}
        filled = {n: defaults.get(n) if v is None else v for n, v in given.items()}
        return Sampling.of(model, **filled)
    if not isinstance(sampling, Sampling):
        raise ValueError(f"sampling is {shortened(sampling)}; it must be a Sampling.")
    for name, one in settings_of().items():
        unmet = not one.for_pipeline and getattr(sampling, name) != one.default
        if unmet and not planned and name not in ("spend", "scheduler"):
            raise ValueError(_job_only(name))
    return replace(sampling, **{name: v for name, v in given.items() if v is not None})


# What settings by keyword would say once more.
_SAID_BY = {
    "plan": ("share_ratio", "budget"),
    "adaptive": ("share_ratio", "budget"),
    "timesteps": ("spacing", "budget"),
}


def check_together(given: Mapping[str, Any], **beside: Any) -> None:
    """That no setting contradicts a plan, a rule or timesteps, which would win without a word.

    Args:
        given: Settings by keyword; one that is off contradicts nothing.
        beside: The arguments of `_SAID_BY`, None where they are not given.

    Raises:
        ValueError: If one does.
    """
    off = {"budget": 0, "spacing": settings_of()["spacing"].default}
    for name, value in beside.items():
        for other in _SAID_BY[name] if value is not None else ():
            if given.get(other) not in (None, off.get(other)):
                raise ValueError(f"{name} says what {other} would; leave one of the two out.")


def named_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by the names of `Sampling`, without the arguments of diffusers' own call.

    Raises:
        ValueError: If there is no such setting, or one of those arguments would change something.
    """
    rest = {}
    for name, value in given.items():
        if name not in DIFFUSERS_ARGUMENTS:
            rest[name] = value
            continue
        neutral, instead = DIFFUSERS_ARGUMENTS[name]
        own = list(value) if isinstance(value, tuple) else plain(value)
        if not any(type(own) is type(n) and own == n for n in neutral):
            raise ValueError(f"{name} is not supported when prompts share steps: {instead}.")
    return Sampling.named(rest)


def _job_only(name: str) -> str:
    if name == "scheduler":
        return "A pipeline alone has one scheduler; set pipe.scheduler = make_scheduler(...)."
    return f"{name} is a setting of a whole job, not of a pipeline alone; use sage.prepare."


def _listed(what: str, values: Any, need: str, sets: bool = False) -> list[Any]:
    """Several values in an order, or, where sets are allowed, in any.

    Raises:
        ValueError: If it is one value, or has no order.
    """
    wrong = (str, bytes, Mapping, *(() if sets else (set, frozenset)))
    try:
        if not isinstance(values, wrong) and isinstance(values, Iterable):
            return list(values)
    except TypeError:  # an array without dimensions
        pass
    raise ValueError(f"{what} is {shortened(values)}; {need}.")


def check_prompts(prompts: Any) -> list[str]:
    """The prompts as a list; one text is one prompt.

    Raises:
        ValueError: If they are anything else than texts in an order.
    """
    if isinstance(prompts, str):
        prompts = [prompts]
    texts = _listed("prompts", prompts, "need a list of at least one text")
    if not texts:
        raise ValueError("prompts is empty; need a list of at least one text.")
    for n, text in enumerate(texts):
        if not isinstance(text, str):
            kind = type(text).__name__
            raise ValueError(f"prompts[{n}] is a {kind}; need a list of at least one text.")
    return [_readable(f"prompts[{n}]", str(text)) for n, text in enumerate(texts)]


def _readable(what: str, text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{what} holds half a character (a lone surrogate), no text.") from None
    return text


def check_negative_prompt(negative: Any, num_prompts: int) -> tuple[str, ...]:
    """The negative prompt of each prompt; None is the empty one, and a text is that of all.

    Raises:
        ValueError: If it is no text, and not a text for each prompt.
    """
    if negative is None or isinstance(negative, str):
        return (_readable("negative_prompt", str(negative or "")),) * num_prompts
    need = "negative_prompt must be one text, or one for each prompt"
    listed = _listed("negative_prompt", negative, need)
    texts = [str(text) for text in listed if isinstance(text, str)]
    if len(texts) != len(listed) or len(texts) != num_prompts:
        raise ValueError(f"negative_prompt is {shortened(negative)}; {need}.")
    return tuple(_readable(f"negative_prompt[{n}]", text) for n, text in enumerate(texts))


def check_guided_alike(negatives: Sequence[str], plan: Plan) -> None:
    """That prompts which share have one negative prompt: a trunk is guided away from one.

    Raises:
        ValueError: If they have different ones.
    """
    for row in plan.rows(0):
        if len({negatives[n] for n in row}) > 1:
            raise ValueError(
                f"negative_prompt differs among prompts that share, {', '.join(map(str, row))}; "
                "a trunk is guided away from one, so give groups or a plan that keep them apart, "
                "or neither."
            )


def check_seeds(seeds: Any, num_prompts: int, first: int) -> tuple[int, ...]:
    """One seed for each prompt; without any, consecutive ones.

    Raises:
        ValueError: If there are too many or too few, or one is no whole number in range.
    """
    if seeds is None:
        return tuple(range(first, first + num_prompts))
    need = "give one for each prompt, or `seed` for the first one"
    whole = check_noise_seeds(_listed("seeds", seeds, need))
    if len(whole) != num_prompts:
        raise ValueError(f"{len(whole)} seeds were given for {num_prompts} prompts.")
    return whole


def check_noise_seeds(seeds: Any) -> tuple[int, ...]:
    """Seeds of noise, as many as there are.

    Raises:
        ValueError: If one is no whole number in range.
    """
    listed = _listed("seeds", seeds, "need a list of whole numbers")
    if not listed:
        raise ValueError("seeds is empty; need at least one whole number.")
    return tuple(_whole(f"seeds[{n}]", seed, 0, LARGEST_SEED) for n, seed in enumerate(listed))


def check_count(what: str, value: Any) -> int:
    """A whole number from 1.

    Raises:
        ValueError: If it is none.
    """
    if (number := _whole(what, value, -LARGEST_SEED, LARGEST_SEED)) < 1:
        raise ValueError(f"{what} is {number}; allowed is 1 or more.")
    return number


def whole_number(value: Any) -> int | None:
    """A whole number of any library's kind; None for anything else, truth values and floats too."""
    if isinstance(value, bool) or str(getattr(value, "dtype", "")) in ("bool", "torch.bool"):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def _whole(what: str, value: Any, low: int, high: int) -> int:
    """A whole number in a range."""
    number = whole_number(value)
    if number is None:
        raise ValueError(f"{what} is {shortened(value)}; a whole number is needed.")
    if not low <= number <= high:
        raise ValueError(f"{what} is {number}; allowed are {low} to {high}.")
    return number


def check_groups(groups: Any, num_prompts: int | None = None) -> tuple[Group, ...]:
    """Groups that hold each prompt once.

    Args:
        groups: Any values in any order that can be read as such.
        num_prompts: How many prompts there are; None for as many as the groups hold.

    Raises:
        ValueError: If they do not.
    """
    last = "N-1" if num_prompts is None else num_prompts - 1
    need = f"need tuples that hold each of 0 to {last} once"
    listed = [
        _listed("a group in groups", group, need, sets=True)
        for group in _listed("groups", groups, need, sets=True)
    ]
    num_prompts = sum(map(len, listed)) if num_prompts is None else num_prompts
    largest = max(num_prompts - 1, 0)
    found = [tuple(_whole("a prompt in groups", n, 0, largest) for n in one) for one in listed]
    members = sorted(n for group in found for n in group)
    if members != list(range(num_prompts)) or not found or not all(found):
        raise ValueError(
            f"groups is {shortened(found)}: such a plan has {len(members)} prompts for "
            f"{num_prompts}; {need}."
        )
    return tuple(found)


def check_plan(plan: Any, num_prompts: int | None = None) -> Plan:
    """A plan, of so many prompts.

    Raises:
        ValueError: If it is none.
    """
    if not isinstance(plan, Plan):
        raise ValueError(f"plan is {shortened(plan)}; it must be a Plan.")
    if num_prompts is not None and plan.num_prompts != num_prompts:
        raise ValueError(f"The plan has {plan.num_prompts} prompts, but {num_prompts} were given.")
    return plan


def check_state(name: str, state: Any) -> State:
    """A state of a run.

    Raises:
        ValueError: If it is none.
    """
    if not isinstance(state, State):
        raise ValueError(f"{name} is a {type(state).__name__}; it must be a State.")
    return state


def check_output_type(output_type: Any) -> OutputType:
    """One of the four kinds of output.

    Raises:
        ValueError: If it is none.
    """
    allowed = get_args(OutputType)
    if not isinstance(output_type, str) or output_type not in allowed:
        shown = ", ".join(map(repr, allowed))
        raise ValueError(f"output_type is {shortened(output_type)}; allowed are {shown}.")
    return output_type  # type: ignore[return-value]


def check_interval(interval: Any) -> tuple[float, float]:
    """From and to, in shares of the steps.

    Raises:
        ValueError: If these are not two numbers, 0 <= from <= to <= 1.
    """
    need = "need two numbers, 0 <= from <= to <= 1"
    ends = [real_number(x) for x in _listed("guidance_interval", interval, need)]
    if len(ends) != 2 or not 0 <= ends[0] <= ends[1] <= 1:
        raise ValueError(f"guidance_interval is {shortened(interval)}; {need}.")
    return ends[0], ends[1]


def check_ratios(ratios: Any) -> list[float]:
    """Branch points, as shares of the steps.

    Raises:
        ValueError: If they are no numbers from 0 to 1.
    """
    listed = _listed("share_ratios", ratios, "need a list of numbers")
    return [settings_of()["share_ratio"].check(ratio, library=True) for ratio in listed]


def check_size(what: str, pixels: Any, multiple: int) -> int:
    """A side of a picture in latents, from pixels.

    Raises:
        ValueError: If it is no multiple of what the decoder and diffusers need.
    """
    multiple = math.lcm(multiple, 8)  # 8 is diffusers' rule for any model
    side = _whole(what, pixels, multiple, LARGEST_SIDE)
    if side % multiple:
        raise ValueError(f"{what} is {side}; it must be a multiple of {multiple}.")
    return side


def check_clip_skip(clip_skip: Any, layers: int) -> int | None:
    """How many of the text encoder's last layers are left out.

    Raises:
        ValueError: If there are not so many.
    """
    return None if clip_skip is None else _whole("clip_skip", clip_skip, 0, layers - 1)


def check_exact(exact: Any) -> None:
    """That `exact` is a yes, a no or left open.

    Raises:
        ValueError: If it is something else.
    """
    if exact is not None and not isinstance(exact, bool):
        raise ValueError(f"exact is {exact!r}; allowed are True, False and None.")
