"""Which ways of saving are on the front of quality against FLOPs, alone and multiplied?

Fewer steps, faster solvers, guidance in an interval, sharing at fixed, tree-shaped and measured
branch points, few-step students, and products of these. The cost is FLOPs, because guidance in an
interval saves no evaluation, only its unconditional half.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sage.studies.engine import methods
from sage.studies.engine.answers import quality_of
from sage.studies.engine.cells import Recipe
from sage.studies.engine.compare import (
    Comparison,
    Design,
    Entry,
    Line,
    no_worse,
    rows_with_front,
)
from sage.studies.engine.figures import line_figure
from sage.studies.engine.judges import METRIC
from sage.studies.engine.lab import Lab
from sage.studies.engine.methods import INDEPENDENT, RATIO, SAGE, TURNS
from sage.studies.engine.results import Result, Row, better
from sage.studies.engine.study import Study

RATIOS = (0.3, 0.4, 0.5)
INTERVALS = ((0.0, 0.6), (0.1, 0.8))
FEWER_STEPS, SOLVER = "fewer DDIM steps", "DPM-Solver++"
IN_TURN, TREE, PROBING = "share, prompts in turn", "SAGE + tree", "SAGE + probing"
MULTIPLIED, TURNS_MULTIPLIED = f"{SAGE}, multiplied", f"{IN_TURN}, multiplied"
INTERVAL, DISTILLED, DISTILLED_SHARED = "guidance interval", "distilled", "distilled + share"
# Lines of the figure and the methods they are made of; joined where one number changes.
SERIES = {
    "DDIM, 4 to 30 steps": (INDEPENDENT, FEWER_STEPS),
    "DPM-Solver++, 8 to 15 steps": (SOLVER,),
    "few-step students": (DISTILLED,),
    "guidance in an interval": (INTERVAL,),
    "sharing, trunk on the mean": (SAGE, TREE, PROBING, MULTIPLIED, DISTILLED_SHARED),
    "sharing, prompts in turn": (IN_TURN, TURNS_MULTIPLIED),
}
SCATTERED = tuple(SERIES)[3:]
FAST: dict[str, Any] = {"scheduler": "dpm++2m", "steps": 15}


def design(lab: Lab) -> Design:
    """All ways; the cells of most are those of other studies."""
    adapter, steps = lab.settings.sage_adapter, lab.settings.steps
    entries = [_entry(INDEPENDENT, f"{steps} steps", lab.recipe())]
    entries += [_entry(FEWER_STEPS, f"{n} steps", lab.recipe(steps=n)) for n in (4, 8, 15, 20)]
    entries += [
        _entry(SOLVER, f"{n} steps", lab.recipe(steps=n, scheduler="dpm++2m")) for n in (8, 10, 15)
    ]
    entries += [
        _entry(INTERVAL, _span(span), lab.recipe(guidance_interval=span)) for span in INTERVALS
    ]
    entries += [_entry(SAGE, f"ratio {r:g}", lab.recipe(r, adapter)) for r in RATIOS]
    entries += [_entry(IN_TURN, f"ratio {r:g}", lab.recipe(r, **TURNS)) for r in RATIOS]
    for r in (RATIO, RATIOS[-1]):
        plan = methods.tree_plans(lab, lab.prompts, r)[methods.OVER_ALL]
        entries.append(_entry(TREE, f"as ratio {r:g}", lab.recipe(0.0, adapter, plan=plan)))
    entries += [
        _entry(PROBING, methods.probing_label(rule), lab.recipe(0.0, adapter, adaptive=rule))
        for rule in methods.PROBING[:3]
    ]
    return Design([*entries, *_products(lab), *_students(lab)], lab.prompts)


def _entry(name: str, label: str, recipe: Recipe) -> Entry:
    return Entry(name, recipe, {"label": label})


def _products(lab: Lab) -> list[Entry]:
    """Sharing with a faster solver, with an interval, and with both."""
    adapter, span = lab.settings.sage_adapter, INTERVALS[0]
    fast = f"{FAST['scheduler']}, {FAST['steps']} steps"
    both = lab.recipe(RATIO, adapter, guidance_interval=span, **FAST)
    return [
        _entry(MULTIPLIED, fast, lab.recipe(RATIO, adapter, **FAST)),
        _entry(MULTIPLIED, _span(span), lab.recipe(RATIO, adapter, guidance_interval=span)),
        _entry(MULTIPLIED, f"{fast}, {_span(span)}", both),
        _entry(TURNS_MULTIPLIED, fast, lab.recipe(RATIO, **FAST, **TURNS)),
    ]


def _students(lab: Lab) -> list[Entry]:
    entries = []
    for steps in methods.STUDENT_STEPS:
        folder = methods.student(lab, steps)
        for ratio in (0.0, *methods.SHARED_AT) if folder else ():
            name, at = (DISTILLED_SHARED, f", ratio {ratio:g}") if ratio else (DISTILLED, "")
            recipe = lab.recipe(ratio, folder, steps=steps, guidance_scale=1.0)
            entries.append(_entry(name, f"{steps} steps{at}", recipe))
    return entries


def _span(span: tuple[float, float]) -> str:
    return f"guidance in {span[0]:.0%} to {span[1]:.0%} of the steps"


def answer(result: Result) -> str:
    """How many ways on the front of every judge share."""
    keys, rows = quality_of(result["metrics"]), result["rows"]
    front = [row for row in rows if set(keys) <= set(row["front"])]
    share = sum(bool(row["share_ratio"] or row["saving"]) for row in front)
    return (
        f"Of {len(rows)} ways, {len(front)} are the best at their cost in every judge; "
        f"{share} of these share."
    )


def finding(comparison: Comparison) -> str:
    """What is on the front in every metric of quality, and which ways of sharing are beaten."""
    keys, rows = comparison.quality, comparison.rows
    front = [
        f"{_words(row)} at {row['gigaflops']:.3g} GFLOPs"
        for row in sorted(rows, key=lambda row: row["gigaflops"])
        if set(keys) <= set(row["front"])
    ]
    lines = comparison.lines
    rivals = [line for line in lines if not line.measured.recipe.shares]
    sharing = [
        (row, line) for row, line in zip(rows, lines, strict=True) if line.measured.recipe.shares
    ]
    left = [_words(row) for row, line in sharing if not beaten(line, rivals, keys)]
    titles = " and ".join(METRIC[key].title for key in keys)
    return (
        f"Independent sampling takes {rows[0]['gigaflops']:.3g} GFLOPs a picture; on the front in "
        f"{titles} are {'; '.join(front) if front else 'none in all at once'}. Of {len(sharing)} "
        f"ways that share, {len(sharing) - len(left)} are beaten by one that does not share and "
        "costs no more (better in one of these beyond chance, worse in none); not beaten: "
        f"{'; '.join(left) if left else 'none'}."
    )


def _words(row: Mapping[str, Any]) -> str:
    return f"{row['name']} ({row['label']})"


def beaten(line: Line, rivals: Sequence[Line], keys: Sequence[str]) -> bool:
    """Whether a rival that costs no more is better in a metric and worse in none."""
    return any(
        rival.measured.flops <= line.measured.flops
        and no_worse(rival.measured, line.measured, keys)
        and any(better(rival.measured, line.measured, key) > 0 for key in keys)
        for rival in rivals
    )


def series(result: Result) -> dict[str, list[Row]]:
    """The figure's lines."""
    return {
        title: [line for line in result["rows"] if line["name"] in names]
        for title, names in SERIES.items()
    }


STUDY = Study(
    name="pareto",
    title="Everything on one plot",
    about=__doc__,
    design=design,
    rows=rows_with_front("gigaflops"),
    answer=answer,
    finding=finding,
    figure=line_figure("gigaflops", series=series, scattered=SCATTERED),
    defaults={"pictures": 336, "seeds": 1},
)
