"""Which ways of saving are on the front of quality against FLOPs, alone and multiplied?

Fewer steps, faster solvers, guidance in an interval, sharing at fixed, tree-shaped and measured
branch points, few-step students, and products of these. The cost is FLOPs, because guidance in an
interval saves no evaluation, only its unconditional half.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from sage.studies.adaptive import RULES, rule_name
from sage.studies.engine.contest import (
    Contest,
    Entry,
    hold,
    no_worse,
    panels_of,
    quality_keys,
    rows,
)
from sage.studies.engine.judges import METRIC
from sage.studies.engine.lab import Lab
from sage.studies.engine.measure import Measured
from sage.studies.engine.results import better, result
from sage.studies.few_step import SHARED_AT, STUDENT_STEPS, student
from sage.studies.main_table import INDEPENDENT, TURNS
from sage.studies.trees import OVER_ALL, tree_plans

NAME, TITLE = "pareto", "Everything on one plot"
DEFAULTS = {"pictures": 336, "seeds": 1}
RATIOS = (0.3, 0.4, 0.5)
RATIO = 0.4  # of the products: the paper's
INTERVALS = ((0.0, 0.6), (0.1, 0.8))
MULTIPLIED, TURNS_MULTIPLIED = "SAGE + share, multiplied", "share, prompts in turn, multiplied"
INTERVAL, DISTILLED_SHARED = "guidance interval", "distilled + share"
FAST = ("dpm++2m", 15)


def run(lab: Lab) -> dict[str, Any]:
    """Renders what the other studies have not."""
    found = hold(lab, entries(lab))
    lines = rows(found, "gigaflops")
    return result(
        sys.modules[__name__],
        lab,
        lines,
        finding(found, lines),
        prompts=lab.prompts,
        conditions_={"adapter": lab.adapter_digest(lab.settings.sage_adapter)},
    )


def entries(lab: Lab) -> list[Entry]:
    """All ways; the cells of most are those of other studies."""
    adapter, steps = lab.settings.sage_adapter, lab.settings.steps
    made = [Entry(INDEPENDENT, f"{steps} steps", lab.setting())]
    made += [Entry("fewer DDIM steps", f"{n} steps", lab.setting(steps=n)) for n in (4, 8, 15, 20)]
    made += [
        Entry("DPM-Solver++", f"{n} steps", lab.setting(steps=n, scheduler="dpm++2m"))
        for n in (8, 10, 15)
    ]
    made += [Entry(INTERVAL, _span(span), lab.setting(options=_guided(span))) for span in INTERVALS]
    made += [Entry("SAGE + share", f"ratio {r:g}", lab.setting(r, adapter)) for r in RATIOS]
    made += [
        Entry("share, prompts in turn", f"ratio {r:g}", lab.setting(r, options=TURNS))
        for r in RATIOS
    ]
    for r in (RATIO, RATIOS[-1]):
        tree = tree_plans(lab, lab.prompts, r)[OVER_ALL]
        made.append(Entry("SAGE + tree", f"as ratio {r:g}", lab.setting(0.0, adapter, plan=tree)))
    made += [
        Entry("SAGE + probing", rule_name(rule), lab.setting(0.0, adapter, options=_rule(rule)))
        for rule in RULES[:3]
    ]
    return made + _products(lab) + _students(lab)


def _products(lab: Lab) -> list[Entry]:
    """Sharing with a faster solver, with an interval, and with both."""
    adapter, (key, steps) = lab.settings.sage_adapter, FAST
    name, span = MULTIPLIED, INTERVALS[0]
    return [
        Entry(
            name, f"{key}, {steps} steps", lab.setting(RATIO, adapter, steps=steps, scheduler=key)
        ),
        Entry(name, _span(span), lab.setting(RATIO, adapter, options=_guided(span))),
        Entry(
            name,
            f"{key}, {steps} steps, {_span(span)}",
            lab.setting(RATIO, adapter, steps=steps, scheduler=key, options=_guided(span)),
        ),
        Entry(
            TURNS_MULTIPLIED,
            f"{key}, {steps} steps",
            lab.setting(RATIO, steps=steps, scheduler=key, options=TURNS),
        ),
    ]


def _students(lab: Lab) -> list[Entry]:
    found = []
    for steps in STUDENT_STEPS:
        folder = student(lab, steps)
        for ratio in (0.0, *SHARED_AT) if folder else ():
            name, at = (DISTILLED_SHARED, f", ratio {ratio:g}") if ratio else ("distilled", "")
            setting = lab.setting(ratio, folder, steps=steps, guidance=1.0)
            found.append(Entry(name, f"{steps} steps{at}", setting))
    return found


def _span(span: tuple[float, float]) -> str:
    return f"guidance in {span[0]:.0%} to {span[1]:.0%} of the steps"


def _guided(span: tuple[float, float]) -> tuple[tuple[str, Any], ...]:
    return (("guidance_interval", span),)


def _rule(rule: object) -> tuple[tuple[str, Any], ...]:
    return (("adaptive", rule),)


def finding(found: Contest, lines: list[dict[str, Any]]) -> str:
    """What is on the front in every metric of quality, and which ways of sharing are beaten."""
    keys = quality_keys(found)
    front = [
        f"{_words(line)} at {line['gigaflops']:.3g} GFLOPs"
        for line in sorted(lines, key=lambda line: line["gigaflops"])
        if set(keys) <= set(line["front"])
    ]
    ways = list(zip(lines, found, found.values(), strict=True))
    plain = [(line, judged) for line, entry, judged in ways if not _shares(entry)]
    sharing = [(line, judged) for line, entry, judged in ways if _shares(entry)]
    left = [_words(line) for line, judged in sharing if not _beaten(line, judged, plain, keys)]
    titles = " and ".join(METRIC[key].title for key in keys)
    return (
        f"Independent sampling takes {lines[0]['gigaflops']:.3g} GFLOPs a picture; on the front in "
        f"{titles} are {'; '.join(front) if front else 'none in all at once'}. Of {len(sharing)} "
        f"ways that share, {len(sharing) - len(left)} are beaten by one that does not share and "
        "costs no more (better in one of these beyond chance, worse in none); not beaten: "
        f"{'; '.join(left) if left else 'none'}."
    )


def _words(line: Mapping[str, Any]) -> str:
    return f"{line['name']} ({line['label']})"


def _shares(entry: Entry) -> bool:
    asked = entry.setting
    return asked.share_ratio > 0 or asked.plan is not None or "adaptive" in dict(asked.options)


def _beaten(
    line: Mapping[str, Any],
    judged: Measured,
    rivals: Sequence[tuple[Mapping[str, Any], Measured]],
    keys: Sequence[str],
) -> bool:
    """Whether a rival that costs no more is better in a metric and worse in none."""
    return any(
        other["gigaflops"] <= line["gigaflops"]
        and no_worse(rival, judged, keys)
        and any(better(rival, judged, key) > 0 for key in keys)
        for other, rival in rivals
    )


def figure(found: Mapping[str, Any]) -> dict[str, Any]:
    """Quality against FLOPs."""
    return panels_of(
        found, cost="gigaflops", loose=(MULTIPLIED, TURNS_MULTIPLIED, INTERVAL, DISTILLED_SHARED)
    )
