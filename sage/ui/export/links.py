"""Settings that travel: as an address that rebuilds a run, and out of a record that was kept.

Text in, checked settings out. What is good is kept, what is not is named in one sentence; the
check of each value is `sage.jobs.request`'s. Knows nothing of gradio, models or pictures.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any
from urllib.parse import parse_qsl, urlencode

from sage.jobs.request import LIMITS, Defaults, Request, parse_prompts

VERSION = 1  # of the address; a new number where an old name would come to mean something else
SHORT = {"share_ratio": "beta", "guidance_scale": "guidance", "prompts": "prompt"}
LONG = {short: name for name, short in SHORT.items()}
NAMES = tuple(field.name for field in fields(Request))
# Bounds and guidance belong to a model: those of one say nothing about another.
OWN = ("tau_min", "tau_max", "guidance_scale")
_SCHEDULERS = {"DDIMScheduler": "ddim"}  # as records of the first version named it
_TALKING = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


@dataclass(frozen=True)
class Settings:
    """Settings from outside, checked one by one.

    Attributes:
        values: Those that can be used, by the names of `Request`, and "model".
        problem: One or two sentences about the rest; "" if there is none.
    """

    values: dict[str, Any]
    problem: str = ""


def link_query(request: Request, model: str) -> str:
    """A request as the query of an address, e.g. "?v=1&model=...&prompt=a+fox&beta=0.4".

    What a request holds at its own default (no adapter, DDIM, ...) is left out.
    """
    always = {field.name for field in fields(Request) if field.name in _REQUIRED}
    plain = Request(**{name: getattr(request, name) for name in always})
    pairs: list[tuple[str, str]] = [("v", str(VERSION)), ("model", model)]
    pairs += [(SHORT["prompts"], prompt) for prompt in request.prompts]
    for name in NAMES:
        value = getattr(request, name)
        if name != "prompts" and (name in always or value != getattr(plain, name)):
            pairs.append((SHORT.get(name, name), _shown(value)))
    return "?" + urlencode(pairs)


def read_link(query: str, models: Mapping[str, Defaults]) -> Settings | None:
    """The settings in an address's query; None if it holds none.

    Args:
        query: What follows the "?" of an address.
        models: The models on offer and their own values, the default one first.
    """
    found: dict[str, Any] = {}
    for key, text in parse_qsl(query.removeprefix("?"), keep_blank_values=True):
        name = LONG.get(key, key)
        if name == "prompts":
            found.setdefault(name, []).extend(text.splitlines())
        elif name in NAMES:
            found[name] = _value(name, text)
        elif name in ("v", "model"):
            found[name] = text
    if not found:
        return None
    version = found.pop("v", str(VERSION))
    settings = check_settings(found, models, "link")
    if version == str(VERSION):
        return settings
    note = f"This link is of version {version[:10]}, this page reads version {VERSION}."
    return Settings(settings.values, f"{note} {settings.problem}".strip())


def read_record(text: str, models: Mapping[str, Defaults]) -> Settings:
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
        raise ValueError("This is no record: it is not JSON.") from error
    if not isinstance(record, dict):
        raise ValueError("This is no record: it has no names and values.")
    inner = record.get("request")
    record = {**record, **inner} if isinstance(inner, dict) else record
    found = {name: record[name] for name in ("model", *NAMES) if name in record}
    if isinstance(found.get("prompts"), str):
        found["prompts"] = found["prompts"].splitlines()
    if not found.get("prompts"):
        raise ValueError("This is no record of a run: it has no prompts.")
    if "seed" not in found and isinstance(seeds := record.get("seeds"), list) and seeds:
        found["seed"] = seeds[0]
    scheduler = found.get("scheduler")
    if isinstance(scheduler, str):
        found["scheduler"] = _SCHEDULERS.get(scheduler, scheduler)
    settings = check_settings(found, models, "record")
    return Settings(settings.values, f"{settings.problem} {_other_seeds(record)}".strip())


def _other_seeds(record: Mapping[str, Any]) -> str:
    seeds = record.get("seeds")
    if not isinstance(seeds, list) or not all(isinstance(seed, int) for seed in seeds):
        return ""
    if all(after == before + 1 for before, after in pairwise(seeds)):
        return ""
    return "Its seeds do not count up; here the first is taken and the others count up from it."


def check_settings(
    found: Mapping[str, Any], models: Mapping[str, Defaults], source: str
) -> Settings:
    """Keeps what is good, each value on its own, and says what is not.

    Args:
        found: Values by the names of `Request`, and "model".
        models: The models on offer and their own values, the default one first.
        source: What they came from, in a word: "link" or "record".
    """
    good, bad = dict(found), {}
    model = good.pop("model", None)
    if model is not None and not (isinstance(model, str) and model in models):
        bad["model"] = f"The model is {str(model)[:60]!r}, which is not on offer here."
        good = {name: value for name, value in good.items() if name not in OWN}
        model = None
    own = models.get(model) or next(iter(models.values()))
    for name in tuple(good):
        reason = _refusal({**_WIDE.get(name, {}), name: good[name]}, own)
        if reason:
            bad[name] = reason
            del good[name]
    reason = _refusal(good, own)  # each is allowed, but perhaps not together
    if reason:
        bad |= dict.fromkeys(("tau_min", "tau_max"), reason)
        good = {name: value for name, value in good.items() if name not in bad}
    checked = Request.from_dict({"prompts": _ANY_PROMPTS, **good}, own).to_dict()
    values = {name: checked[name] for name in NAMES if name in good}
    return Settings(values | ({"model": model} if model in models else {}), _problem(bad, source))


def _refusal(values: Mapping[str, Any], own: Defaults) -> str:
    """Why a request cannot have these values, or ""."""
    try:
        Request.from_dict({"prompts": _ANY_PROMPTS, **values}, own)
    except ValueError as error:
        return str(error)
    return ""


def _problem(bad: Mapping[str, str], source: str) -> str:
    if not bad:
        return ""
    names = [_WORDS.get(name, name.replace("_", " ")) for name in bad]
    listed = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    reasons = list(dict.fromkeys(bad.values()))
    more = " ..." if len(reasons) > 2 else ""
    return f"The {source}'s {listed} could not be used. {' '.join(reasons[:2])}{more}"


_WORDS = {"guidance_scale": "guidance", "max_group_size": "largest group"}
# A bound is judged beside the widest other one; how they stand to each other is judged later.
_WIDE = {
    "tau_min": {"tau_max": LIMITS["tau_max"].high},
    "tau_max": {"tau_min": LIMITS["tau_min"].low},
}
_ANY_PROMPTS = list(parse_prompts("a fox\na dog"))
_REQUIRED = {
    *("prompts", "tau_min", "tau_max", "max_group_size", "share_ratio", "steps"),
    *("guidance_scale", "seed"),
    "guarded",  # the page has it on, a request off: left out, it would depend on who reads
}


def _shown(value: Any) -> str:
    """A value in an address: six digits tell any two values of a slider apart."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _value(name: str, text: str) -> Any:
    """A value out of an address; what is no number stays a text, for the check to refuse."""
    kind = next(field.type for field in fields(Request) if field.name == name)
    if kind in (bool, "bool"):
        return _TALKING.get(text.lower(), text)
    if kind in (str, "str"):
        return text
    try:
        return float(text)
    except ValueError:
        return text


def prompts_text(prompts: Sequence[str]) -> str:
    """Prompts as the page's text box holds them."""
    return "\n".join(prompts)
