"""Several ways to spend evaluations, side by side: entries, their rows, the front, the figure.

Knows settings and measured numbers; nothing of what the entries are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sage.studies.engine import figures
from sage.studies.engine.cells import Setting
from sage.studies.engine.judges import METRIC
from sage.studies.engine.lab import Lab
from sage.studies.engine.measure import Measured
from sage.studies.engine.prompts import PromptSet
from sage.studies.engine.results import better, row

COSTS = {"evaluations": "evaluations a picture", "gigaflops": "GFLOPs a picture"}


@dataclass(frozen=True)
class Entry:
    """One way.

    Attributes:
        name: Of the method: entries of one name are one line of the figure.
        label: What tells it from others of that name.
        setting: How it is sampled.
    """

    name: str
    label: str
    setting: Setting


Contest = dict[Entry, Measured]


def hold(lab: Lab, entries: Sequence[Entry], prompts: PromptSet | None = None) -> Contest:
    """Renders what is missing and measures every entry."""
    prompts = lab.prompts if prompts is None else prompts
    settings = [lab.setting(), *(entry.setting for entry in entries)]
    lab.render([(setting, prompts) for setting in settings])
    return {entry: lab.measure(entry.setting, prompts) for entry in entries}


def rows(found: Contest, cost: str = "evaluations") -> list[dict[str, Any]]:
    """Lines of a result; `front` names the metrics in which nothing cheaper is as good."""
    lines = [row(entry.name, m, label=entry.label) for entry, m in found.items()]
    for line in lines:
        line["front"] = [key for key in line["metrics"] if on_front(line, lines, key, cost)]
    return lines


def on_front(
    line: Mapping[str, Any], lines: Sequence[Mapping[str, Any]], key: str, cost: str
) -> bool:
    """Whether no other line costs no more and is better, or is as good and costs less."""
    sign = METRIC[key].better or 1
    mine = (line[cost], -sign * line["metrics"][key]["value"])
    others = ((o[cost], -sign * o["metrics"][key]["value"]) for o in lines if key in o["metrics"])
    return not any(c <= mine[0] and v <= mine[1] and (c, v) != mine for c, v in others)


def no_worse(first: Measured, second: Measured, keys: Sequence[str]) -> bool:
    """Whether the paired interval of every metric leaves open that first is as good as second."""
    return all(better(first, second, key) >= 0 for key in keys if key in first.metrics)


def quality_keys(found: Contest) -> tuple[str, ...]:
    """The metrics that say how good pictures are, of those that were measured."""
    known = next(iter(found.values())).metrics
    judged = tuple(key for key in ("fd", "clip", "probe") if key in known)
    return judged or ("pixels",)


def panels_of(
    found: Mapping[str, Any],
    keys: Sequence[str] = ("fd", "clip", "probe"),
    cost: str = "evaluations",
    title: str | None = None,
    loose: Sequence[str] = (),
) -> dict[str, Any]:
    """Metrics against cost, a line for each name; points of `loose` names are not joined."""
    wanted = [key for key in keys if key in found["metrics"]] or ["pixels"]
    names = list(dict.fromkeys(line["name"] for line in found["rows"]))
    traces = []
    for panel, key in enumerate(wanted, 1):
        for n, name in enumerate(names):
            lines = [line for line in found["rows"] if line["name"] == name]
            lines.sort(key=lambda line: line[cost])
            traces.append(
                figures.interval_trace(
                    name,
                    [line[cost] for line in lines],
                    [line["metrics"][key] for line in lines],
                    **figures.style(n),
                    line=name not in loose,
                    texts=[f"{name}, {line['label']}" for line in lines],
                    axes=panel,
                    legend=panel == 1,
                )
            )
    titles = [(COSTS[cost], figures.axis_title(found["metrics"][key])) for key in wanted]
    note = figures.caption(found)
    return figures.panels(traces, titles, title=title or found["title"], note=note)


def differing(found: Contest, pairs: Sequence[tuple[Entry, Entry]], sign: int) -> str:
    """The metrics in which the first of each pair differs from the second, beyond chance.

    Args:
        found: What was measured.
        pairs: Entries and what each is held against.
        sign: 1 for better, -1 for worse.

    Returns:
        Titles, each with the labels of its pairs if not all of them differ; "" if none does.
    """
    named = []
    for key in quality_keys(found):
        at = [a.label for a, b in pairs if better(found[a], found[b], key) == sign]
        some = f" ({'; '.join(at)})" if len(at) < len(pairs) else ""
        named += [METRIC[key].title + some] if at else []
    return ", ".join(named)


def told(found: Contest, entry: Entry, keys: Sequence[str]) -> str:
    """An entry's quality in words."""
    numbers = found[entry].metrics
    return ", ".join(f"{METRIC[key].title} {numbers[key].value:.3g}" for key in keys)
