"""Settings that travel: as an address that rebuilds a run, and out of a record that was kept.

Text in, checked settings out. What is good is kept, what is not is named in one sentence; the
check of each value is `sage.core.settings`'s. Knows nothing of gradio, models or pictures.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any
from urllib.parse import parse_qsl, urlencode

from sage.core.settings import NUM_PROMPTS, Choice, ModelDefaults, Setting, Switch, settings_of
from sage.core.words import listed
from sage.jobs.grid import Grid
from sage.jobs.prompt_sets import as_typed, lines_of
from sage.jobs.repeats import REPEATS
from sage.jobs.request import Request, parse_prompts

VERSION = 2  # of the address; a new number where an old name would come to mean something else
FIRST = "1"  # whose budget was the share that is called spend now, also where that is 1
PROMPT = "prompt"  # one of the prompts in an address
TICK = "tick"  # prompts of a look that are to be finished, by their numbers
SET = "set"  # all of them, as they were typed with braces
# What a form holds beside a request: how it is measured and what stands next to it.
BESIDE: Mapping[str, Setting] = {
    "repeats": Choice(
        name="repeats",
        subject="The number of repeats",
        label="Repeats",
        help="how often both sides are rendered, each time with new seeds.",
        default=str(REPEATS[0]),
        titles={str(number): str(number) for number in REPEATS},
    ),
    "measure": Switch(
        name="measure",
        subject="The switch 'measure time' (measure)",
        label="Measure time (renders both sides from scratch)",
        help="whether both sides run from scratch, so that seconds can be compared.",
        default=True,
    ),
    "fewer_steps": Switch(
        name="fewer_steps",
        subject="The switch 'fewer steps' (fewer_steps)",
        label="Also show fewer steps at the same cost",
        help="whether the equal-NFE baseline is shown too.",
        default=True,
    ),
}
_SCHEDULERS = {"DDIMScheduler": "ddim"}  # as records of the first version named it


@dataclass(frozen=True)
class Settings:
    """Settings from outside, checked one by one.

    Attributes:
        values: Those that can be used, by the names of the settings and of `BESIDE`, and "prompts",
            "model" and "set": the prompts as they were typed with braces.
        problem: One or two sentences about the rest; "" if there is none.
        ticks: Prompts that are to be finished after a look; none is no word about them.
    """

    values: dict[str, Any]
    problem: str = ""
    ticks: tuple[int, ...] = ()


def link_query(
    request: Request, model: str, typed: str = "", beside: Mapping[str, Any] | None = None
) -> str:
    """A request as the query of an address, e.g. "?v=2&model=...&prompt=a+fox&beta=0.4".

    Most settings are left out at their own default (no adapter, DDIM, ...).

    Args:
        request: A checked request.
        model: Key of the model.
        typed: Its prompts as one product in braces, if they were typed so.
        beside: What the form holds beside it, by the names of `BESIDE`.
    """
    pairs: list[tuple[str, str]] = [("v", str(VERSION)), ("model", model)]
    pairs += [(SET, typed)] if typed else [(PROMPT, prompt) for prompt in request.prompts]
    for name, one in settings_of(type(request)).items():
        value = getattr(request, name)
        if one.always_linked or value != one.default:
            pairs.append((one.link, one.text(value)))
    for name, value in (beside or {}).items():
        if BESIDE[name].text(value) != BESIDE[name].text(BESIDE[name].default):
            pairs.append((name, BESIDE[name].text(value)))
    return "?" + urlencode(pairs)


def read_link(
    query: str, models: Mapping[str, ModelDefaults], kind: type[Request] = Request
) -> Settings | None:
    """The settings in an address's query; None if it holds none.

    Args:
        query: What follows the "?" of an address.
        models: The models on offer and their own values, the default one first.
        kind: Whose settings are read.
    """
    values: dict[str, Any] = {}
    known, ticks = _by_link(kind), ()
    for key, text in parse_qsl(query.removeprefix("?"), keep_blank_values=True):
        if key in (PROMPT, "prompts"):
            values.setdefault("prompts", []).extend(lines_of(text))
        elif key in known:
            values[known[key].name] = known[key].parse(text)
        elif key in BESIDE:
            values[key] = BESIDE[key].parse(text)
        elif key == TICK:
            ticks = _ticks([int(t) - 1 for t in text.split(",") if t.isascii() and t.isdigit()])
        elif key in ("v", "model", SET):
            values[key] = text
    if not values:
        return None
    version = values.pop("v", "")
    if "spend" not in values and "budget" in values:
        if version == str(VERSION):
            values["spend"] = settings_of(kind)["spend"].default  # so its budget is no share
        elif version == FIRST and values["budget"] == 1:
            values["spend"] = values.pop("budget")
    settings = replace(check_settings(values, models, "link", kind), ticks=ticks)
    if version in ("", FIRST, str(VERSION)):
        return settings
    note = f"This link is of version {version[:10]}, this page reads version {VERSION}."
    return replace(settings, problem=f"{note} {settings.problem}".strip())


def _ticks(numbers: Any) -> tuple[int, ...]:
    """Indices of prompts; what is none is left out."""
    each = numbers if isinstance(numbers, list) else ()
    return tuple(sorted({n for n in each if type(n) is int and 0 <= n < NUM_PROMPTS.high}))


def _by_link(kind: type[Request]) -> dict[str, Setting]:
    """The settings by their names in a link, short and long."""
    known = settings_of(kind)
    return {**known, **{one.link: one for one in known.values()}}


def read_record(text: str, models: Mapping[str, ModelDefaults]) -> Settings:
    """The settings in a record (JSON) of a run, this version's, an older one's or another's.

    Args:
        text: The record.
        models: The models on offer and their own values, the default one first.

    Raises:
        ValueError: With one sentence, if it is no record of prompts at all.
    """
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError("This is not a record: it is not JSON.") from error
    if not isinstance(record, dict):
        raise ValueError("This is not a record: it has no names and values.")
    inner = record.get("request")
    record = {**record, **inner} if isinstance(inner, dict) else record
    names = ("model", "prompts", *settings_of(Request))
    found = {name: record[name] for name in names if name in record}
    if isinstance(found.get("prompts"), str):
        found["prompts"] = lines_of(found["prompts"])
    if not found.get("prompts"):
        raise ValueError("This is not the record of a run: it has no prompts.")
    if "seed" not in found and isinstance(seeds := record.get("seeds"), list) and seeds:
        found["seed"] = seeds[0]
    scheduler = found.get("scheduler")
    if isinstance(scheduler, str):
        found["scheduler"] = _SCHEDULERS.get(scheduler, scheduler)
    settings = check_settings(found, models, "record")
    problem = f"{settings.problem} {_other_seeds(record)}".strip()
    ticks = _ticks(record.get("finished")) if "looked_after" in record else ()
    return Settings(settings.values, problem, ticks)


def _other_seeds(record: Mapping[str, Any]) -> str:
    seeds = record.get("seeds")
    if not isinstance(seeds, list) or not all(isinstance(seed, int) for seed in seeds):
        return ""
    if all(after == before + 1 for before, after in pairwise(seeds)):
        return ""
    return "Its seeds do not count up; here the first is taken and the others count up from it."


def check_settings(
    values: Mapping[str, Any],
    models: Mapping[str, ModelDefaults],
    source: str,
    kind: type[Request] = Request,
) -> Settings:
    """Keeps what is good, each value on its own, and says what is not.

    Args:
        values: By the names of the settings, and "prompts" and "model".
        models: The models on offer and their own values, the default one first.
        source: What they came from, in a word: "link" or "record".
        kind: Whose settings they are.
    """
    good, bad, known = kind.renamed(values), {}, {**settings_of(kind), **BESIDE}
    model = good.pop("model", None)
    if model is not None and not (isinstance(model, str) and model in models):
        bad["model"] = f"The model is {str(model)[:60]!r}, which is not available here."
        # Bounds and guidance belong to a model: those of one say nothing about another.
        good = {name: value for name, value in good.items() if name not in _OF_ONE_MODEL}
        model = None
    own = models.get(model) if model is not None else None
    own = own or next(iter(models.values()))
    for name in tuple(good):
        if reason := _refusal(name, good[name], known):
            bad[name] = reason
            del good[name]
    beside = {name: good.pop(name) for name in BESIDE if name in good}
    settings = {name: value for name, value in good.items() if name != SET}
    if reason := _together(settings, own, kind):  # each is allowed, but perhaps not together
        bad |= dict.fromkeys(("tau_min", "tau_max"), reason)
        good = {name: value for name, value in good.items() if name not in bad}
    typed = {SET: good.pop(SET)} if SET in good else {}
    checked = kind.from_dict({"prompts": _ANY_PROMPTS, **good}, own).to_dict()
    result = {name: checked[name] for name in checked if name in good} | typed | beside
    return Settings(result | ({"model": model} if model is not None else {}), _problem(bad, source))


_OF_ONE_MODEL = ("tau_min", "tau_max", "guidance_scale")
_ANY_PROMPTS = list(parse_prompts("a fox\na dog"))


def _refusal(name: str, value: Any, known: Mapping[str, Setting]) -> str:
    """Why a setting cannot have a value, or ""."""
    try:
        if name == "prompts":
            Request.from_dict({"prompts": value})
        elif name == SET:
            parse_prompts(value)
        else:
            known[name].check(value)
    except ValueError as error:
        return str(error)
    return ""


def _together(values: Mapping[str, Any], own: ModelDefaults, kind: type[Request]) -> str:
    """Why a request cannot have all of these values, or ""."""
    try:
        kind.from_dict({"prompts": _ANY_PROMPTS, **values}, own)
    except ValueError as error:
        return str(error)
    return ""


def _problem(bad: Mapping[str, str], source: str) -> str:
    if not bad:
        return ""
    names = [_plain_name(name) for name in bad]
    reasons = list(dict.fromkeys(bad.values()))
    more = " ..." if len(reasons) > 2 else ""
    return f"The {source}'s {listed(names)} could not be used. {' '.join(reasons[:2])}{more}"


def _plain_name(name: str) -> str:
    """A setting's name in a sentence."""
    one = settings_of(Request).get(name) or BESIDE.get(name)
    plain = one is not None and one.label.isascii() and "," not in one.label
    return one.label.lower() if plain and one is not None else name.replace("_", " ")


def prompts_text(prompts: Sequence[str]) -> str:
    """Prompts as the page's text box holds them: their braces are no alternatives."""
    return "\n".join(map(as_typed, prompts))


# -- a grid of Explore -----------------------------------------------------------------------------

GRID = "x-"  # before the names of a grid's settings: one address holds both forms
AXES = ("across", "down")


def grid_query(grid: Grid, model: str, typed: str = "") -> str:
    """A grid as a part of an address, e.g. "?x-model=...&x-across=beta:0,0.2&x-down=steps:10"."""
    pairs = [
        (GRID + name, text)
        for name, text in parse_qsl(link_query(grid.base, model, typed).removeprefix("?"))
        if name != "v"
    ]
    for name in AXES:
        axis = getattr(grid, name)
        values = ",".join(axis.setting.text(value) for value in axis.values)
        pairs.append((GRID + name, f"{axis.setting.link}:{values}"))
    if grid.repeats != REPEATS[0]:
        pairs.append((f"{GRID}repeats", str(grid.repeats)))
    return "?" + urlencode(pairs)


def read_grid_link(query: str, models: Mapping[str, ModelDefaults]) -> Settings | None:
    """A grid in an address's query; None if it holds none.

    "across" and "down" are a setting's name and the texts of its values; `Axis.parse` checks those.
    """
    pairs = [
        (name.removeprefix(GRID), text)
        for name, text in parse_qsl(query.removeprefix("?"), keep_blank_values=True)
        if name.startswith(GRID)
    ]
    settings = read_link(urlencode([pair for pair in pairs if pair[0] not in AXES]), models)
    if settings is None:
        return None
    known = _by_link(Request)
    for name, text in pairs:
        setting, _, values = text.partition(":")
        if name in AXES and setting in known and known[setting].axis:
            settings.values[name] = (known[setting].name, values.split(","))
    return settings
