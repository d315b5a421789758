"""Which of the choices that the paper leaves open in its loss does best?

One adapter for each choice, trained like the adapter `base` but for what its row names; each shares
at ratio 0.4 on the same prompts and seeds. Differences are against `base`, and paired. `base` has
the defaults of `sage.training`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sage.studies.engine.answers import quality_of, tally
from sage.studies.engine.cells import LORA_FILE
from sage.studies.engine.compare import Comparison, Design, Entry, Line, plain_rows
from sage.studies.engine.figures import Bars, Figure, caption, metric_title
from sage.studies.engine.judges import METRIC
from sage.studies.engine.lab import Lab
from sage.studies.engine.methods import RATIO
from sage.studies.engine.results import Result, Row, better, difference
from sage.studies.engine.study import Study

BASE, UNTRAINED = "base", "untrained"
METRICS = ("fd", "clip", "inside", "twin")


def design(lab: Lab) -> Design:
    """Every variant, and no adapter."""
    folder = lab.settings.adapters
    records = variants(folder)
    entries = [Entry(UNTRAINED, lab.recipe(RATIO), _values(lab, {}, records))]
    for name, record in records.items():
        adapter = folder / name
        recipe = lab.recipe(RATIO, adapter)
        entries.append(Entry(name, recipe, _values(lab, record, records, adapter)))
    return Design(entries, lab.prompts)


def _values(
    lab: Lab,
    record: Mapping[str, Any],
    records: Mapping[str, Mapping[str, Any]],
    adapter: Path | None = None,
) -> dict[str, Any]:
    return {
        "changes": changes(record, records.get(BASE, {})),
        "trained": record.get("run", {}),
        "adapter": lab.adapter_digest(adapter),
    }


def variants(folder: Path) -> dict[str, dict[str, Any]]:
    """Adapters of a folder by the name of their sub-folder, with their training settings.

    Raises:
        ValueError: If there is none.
    """
    paths = sorted(folder.glob(f"*/{LORA_FILE}"))
    if not paths:
        raise ValueError(f"{folder} has no sub-folder with an adapter ({LORA_FILE}).")
    return {path.parent.name: _record(path.parent) for path in paths}


def _record(folder: Path) -> dict[str, Any]:
    path = folder / "training.json"
    return json.loads(path.read_text("utf-8")) if path.is_file() else {}


def changes(record: Mapping[str, Any], default: Mapping[str, Any]) -> dict[str, Any]:
    """What a variant's settings differ in from the base's, flat."""
    mine, theirs = _flat(record.get("settings", {})), _flat(default.get("settings", {}))
    return {key: value for key, value in mine.items() if theirs.get(key, value) != value}


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    nested = {k: v for k, v in settings.items() if isinstance(v, dict)}
    plain = {k: v for k, v in settings.items() if k not in nested}
    for inner in nested.values():
        plain |= inner
    return plain


def base_of(comparison: Comparison) -> Line:
    """What all are compared with: the base, or no adapter where there is no such adapter."""
    return (comparison.all(BASE) or comparison.all(UNTRAINED))[0]


def rows(comparison: Comparison) -> list[Row]:
    """Every variant with its difference from the base."""
    lines, base = plain_rows(comparison), base_of(comparison).measured
    for line, judged in zip(lines, comparison.lines, strict=True):
        line["difference"] = difference(judged.measured, base)
    return lines


def more(comparison: Comparison) -> dict[str, Any]:
    """What the differences are from."""
    return {"base": base_of(comparison).name}


def answer(result: Result) -> str:
    """How many variants win or lose."""
    gaps = [row["difference"] for row in result["rows"] if row["name"] != result["base"]]
    verdict = tally(gaps, quality_of(result["metrics"]))
    return f"Beside “{result['base']}”, the other choices are {verdict}."


def finding(comparison: Comparison) -> str:
    """One sentence: which variants beat the base beyond chance, metric by metric."""
    base, parts = base_of(comparison), []
    for key in METRICS:
        if key not in base.measured.metrics:
            continue
        names: dict[int, list[str]] = {1: [], 0: [], -1: []}
        for line in comparison.lines:
            names[better(line.measured, base.measured, key)].append(line.name)
        winners, losers = (", ".join(names[sign]) or "none" for sign in (1, -1))
        parts.append(f"{METRIC[key].title}: better {winners}, worse {losers}")
    return f"Against {base.name!r} at share ratio {RATIO:g}, beyond chance: {'; '.join(parts)}."


def figure(result: Result) -> Figure:
    """Paired differences from the base, for each metric the variants that differ beyond chance."""
    panels = []
    for key in (key for key in METRICS if key in result["metrics"]):
        apart = [line for line in result["rows"] if line["difference"][key].get("sign")]
        shown = sorted(apart, key=lambda line, key=key: line["difference"][key]["value"])
        rows = [(line["name"], [line["difference"][key]]) for line in shown]
        if rows:
            panels.append(Bars(metric_title(result, key), rows, zero=True))
    title = f"{result['title']}: what differs from {result['base']!r} beyond chance, paired"
    return Figure(title, panels, caption(result))


STUDY = Study(
    name="loss-forks",
    title="The open choices of the loss",
    about=__doc__,
    design=design,
    rows=rows,
    more=more,
    conditions=lambda comparison: {},
    answer=answer,
    finding=finding,
    figure=figure,
    columns={},
    defaults={"pictures": 336, "seeds": 1},  # many variants, compared in pairs
)
