"""How much diversity inside a group does fresh noise at the split bring back, and at what price?

Every branch exchanges a share of its noise for its own. Beside it independent sampling, where each
prompt has noise of its own from the start: the diversity there is to be had.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from sage.studies.engine import figures
from sage.studies.engine.contest import Contest, Entry, hold, no_worse, quality_keys, rows
from sage.studies.engine.judges import METRIC
from sage.studies.engine.lab import Lab
from sage.studies.engine.results import better, result
from sage.studies.main_table import INDEPENDENT

NAME, TITLE = "diversity", "Diversity inside groups against fidelity"
DEFAULTS = {"pictures": 336, "seeds": 1}
RATIOS = (0.3, 0.5)
SHARES = (0.0, 0.1, 0.25, 0.5, 1.0)


def run(lab: Lab) -> dict[str, Any]:
    """Shares of fresh noise × branch points, with the SAGE adapter."""
    adapter = lab.settings.sage_adapter
    entries = [Entry(INDEPENDENT, "noise of its own from the start", lab.setting())]
    for ratio in RATIOS:
        for share in SHARES:
            options = (("fresh_noise", share),) if share else ()
            label = f"{share:.0%} fresh noise"
            setting = lab.setting(ratio, adapter, options=options)
            entries.append(Entry(f"ratio {ratio:g}", label, setting))
    found = hold(lab, entries)
    return result(
        sys.modules[__name__],
        lab,
        rows(found),
        finding(found),
        prompts=lab.prompts,
        conditions_={"adapter": lab.adapter_digest(adapter)},
    )


def finding(found: Contest) -> str:
    """One sentence: the most diversity that fresh noise brings without harm, if it brings any."""
    base = next(iter(found.values()))
    if "inside" not in base.metrics:
        return "Diversity was not judged."
    keys = quality_keys(found)
    said = "; ".join(_gain(found, ratio, keys) for ratio in RATIOS)
    judges = ", ".join(METRIC[key].title for key in keys)
    return (
        f"Independent pictures have a diversity inside groups of "
        f"{base.metrics['inside'].value:.3f}; {said} (harm: {judges}, beyond chance)."
    )


def _gain(found: Contest, ratio: float, keys: Sequence[str]) -> str:
    mine = [entry for entry in found if entry.name == f"ratio {ratio:g}"]
    none = found[mine[0]]
    before = none.metrics["inside"].value
    gaining = [e for e in mine[1:] if better(found[e], none, "inside") > 0]
    harmless = [e for e in gaining if no_worse(found[e], none, keys)]
    if gaining and not harmless:
        return f"at ratio {ratio:g} fresh noise brings more than {before:.3f} only with harm"
    if not gaining:
        return f"at ratio {ratio:g} fresh noise brings no more than {before:.3f}"
    best = max(harmless, key=lambda e: found[e].metrics["inside"].value)
    after = found[best].metrics["inside"].value
    return f"at ratio {ratio:g} {best.label} brings {before:.3f} to {after:.3f} without harm"


def figure(found: Mapping[str, Any]) -> dict[str, Any]:
    """Quality against diversity."""
    wanted = [key for key in ("fd", "clip", "probe", "pixels") if key in found["metrics"]][:3]
    x = "inside" if "inside" in found["metrics"] else "pixels"
    names = dict.fromkeys(line["name"] for line in found["rows"])
    traces = []
    for panel, key in enumerate(wanted, 1):
        for n, name in enumerate(names):
            lines = [line for line in found["rows"] if line["name"] == name]
            traces.append(
                figures.interval_trace(
                    name,
                    [line["metrics"][x]["value"] for line in lines],
                    [line["metrics"][key] for line in lines],
                    **figures.style(n),
                    texts=[line["label"] for line in lines],
                    axes=panel,
                    legend=panel == 1,
                )
            )
    across = found["metrics"][x]["title"]
    titles = [(across, figures.axis_title(found["metrics"][key])) for key in wanted]
    return figures.panels(traces, titles, title=TITLE, note=figures.caption(found))
