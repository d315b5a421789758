"""Which of the choices that the paper leaves open in its loss does best?

One adapter for each choice, trained like the adapter `base` but for what its row names; each shares
at ratio 0.4 on the same prompts and seeds. Differences are against `base`, and paired. The defaults
of `sage.training` are those of the row `chosen`.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sage.studies.engine import figures
from sage.studies.engine.cells import LORA_FILE
from sage.studies.engine.judges import METRIC
from sage.studies.engine.lab import Lab
from sage.studies.engine.measure import Measured
from sage.studies.engine.results import better, difference, result, row

NAME, TITLE = "loss-forks", "The open choices of the loss"
RATIO = 0.4
BASE, UNTRAINED = "base", "untrained"
DEFAULTS = {"pictures": 336, "seeds": 1}  # many variants, compared in pairs


def variants(folder: Path) -> dict[str, dict[str, Any]]:
    """Adapters of a folder by the name of their sub-folder, with their training settings.

    Raises:
        ValueError: If there is none.
    """
    found = {
        path.parent.name: _record(path.parent) for path in sorted(folder.glob(f"*/{LORA_FILE}"))
    }
    if not found:
        raise ValueError(f"{folder} has no sub-folder with an adapter ({LORA_FILE}).")
    return found


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


def run(lab: Lab) -> dict[str, Any]:
    """Renders and judges every variant."""
    folder = lab.settings.adapters
    records = variants(folder)
    default = records.get(BASE, {})
    settings = {UNTRAINED: lab.setting(RATIO)}
    settings |= {name: lab.setting(RATIO, folder / name) for name in records}
    lab.render([(setting, lab.prompts) for setting in (lab.setting(), *settings.values())])
    found = {name: lab.measure(setting) for name, setting in settings.items()}
    base = found.get(BASE, found[UNTRAINED])
    rows = [
        row(
            name,
            measured,
            changes=changes(records.get(name, {}), default),
            trained=records.get(name, {}).get("run", {}),
            adapter=lab.adapter_digest(settings[name].adapter),
            difference=difference(measured, base),
        )
        for name, measured in found.items()
    ]
    name = BASE if BASE in found else UNTRAINED
    return result(sys.modules[__name__], lab, rows, finding(found), prompts=lab.prompts, base=name)


def finding(found: Mapping[str, Measured]) -> str:
    """One sentence: which variants beat the base beyond chance, metric by metric."""
    base = BASE if BASE in found else UNTRAINED
    told = []
    for key in ("fd", "clip", "inside", "twin"):
        if key not in found[base].metrics:
            continue
        winners = [n for n in found if n != base and better(found[n], found[base], key) > 0]
        losers = [n for n in found if n != base and better(found[n], found[base], key) < 0]
        told.append(
            f"{METRIC[key].title}: better {', '.join(winners) or 'none'}, "
            f"worse {', '.join(losers) or 'none'}"
        )
    return f"Against {base!r} at share ratio {RATIO:g}, beyond chance: {'; '.join(told)}."


def figure(found: Mapping[str, Any]) -> dict[str, Any]:
    """Paired differences from the default, one panel a metric, one line a variant."""
    wanted = [key for key in ("fd", "clip", "inside", "twin") if key in found["metrics"]]
    lines = found["rows"][::-1]  # Plotly's first category is at the bottom
    traces = [
        figures.interval_trace(
            found["metrics"][key]["title"],
            [line["name"] for line in lines],
            [line["difference"][key] for line in lines],
            colour=figures.COLOURS[0],
            line=False,
            axes=panel,
            legend=False,
            sideways=True,
        )
        for panel, key in enumerate(wanted, 1)
    ]
    titles = [(figures.axis_title(found["metrics"][key]), "") for key in wanted]
    title = f"{TITLE}: paired differences from {found['base']!r}"
    note = figures.caption(found)
    made = figures.panels(traces, titles, title=title, height=180 + 24 * len(lines), note=note)
    for key, axis in made["layout"].items():
        if key.startswith("xaxis"):
            axis |= {"zeroline": True, "zerolinecolor": "#777777"}
        elif key.startswith("yaxis"):
            axis |= {"automargin": True, "showticklabels": key == "yaxis"}
    made["layout"]["width"] = 160 + 270 * len(wanted)
    return made
