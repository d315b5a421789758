"""How much diversity inside a group does fresh noise at the split bring back, and at what price?

Every branch exchanges a share of its noise for its own. Beside it independent sampling, where each
prompt has noise of its own from the start: the diversity there is to be had.
"""

from sage.studies.engine.compare import (
    Comparison,
    Design,
    Entry,
    no_worse,
    rows_with_front,
)
from sage.studies.engine.figures import QUALITY, Figure, by_key, caption, metric_panels, wanted
from sage.studies.engine.judges import METRIC
from sage.studies.engine.lab import Lab
from sage.studies.engine.methods import INDEPENDENT
from sage.studies.engine.results import Result, better
from sage.studies.engine.study import Study

RATIOS = (0.3, 0.5)
SHARES = (0.0, 0.1, 0.25, 0.5, 1.0)


def design(lab: Lab) -> Design:
    """Shares of fresh noise × branch points, with the SAGE adapter."""
    own = {"label": "noise of its own from the start"}
    entries = [Entry(INDEPENDENT, lab.recipe(), own)]
    entries += [
        Entry(
            f"ratio {ratio:g}",
            lab.recipe(ratio, lab.settings.sage_adapter, fresh_noise=share),
            {"label": f"{share:.0%} fresh noise"},
        )
        for ratio in RATIOS
        for share in SHARES
    ]
    return Design(entries, lab.prompts)


def answer(result: Result) -> str:
    """What fresh noise brings back where most was lost."""
    if "inside" not in result["metrics"]:
        return "Diversity was not judged."
    rows = [row for row in result["rows"] if row["share_ratio"] in (0.0, max(RATIOS))]
    alone, without, fresh = (rows[i]["metrics"]["inside"]["value"] for i in (0, 1, -1))
    return (
        f"Diversity inside groups is {alone:.2f} without sharing, {without:.2f} with "
        f"{max(RATIOS):.0%} shared, and {fresh:.2f} with fresh noise for every branch."
    )


def finding(comparison: Comparison) -> str:
    """One sentence: the most diversity that fresh noise brings without harm, if it brings any."""
    base = comparison.lines[0]
    if "inside" not in base.measured.metrics:
        return "Diversity was not judged."
    gains = "; ".join(_gain(comparison, ratio) for ratio in RATIOS)
    judges = ", ".join(METRIC[key].title for key in comparison.quality)
    return (
        f"Independent pictures have a diversity inside groups of "
        f"{base.value('inside'):.3f}; {gains} (harm: {judges}, beyond chance)."
    )


def _gain(comparison: Comparison, ratio: float) -> str:
    none, *fresh = comparison.all(f"ratio {ratio:g}")
    before, base = none.value("inside"), none.measured
    gaining = [line for line in fresh if better(line.measured, base, "inside") > 0]
    harmless = [line for line in gaining if no_worse(line.measured, base, comparison.quality)]
    if gaining and not harmless:
        return f"at ratio {ratio:g} fresh noise brings more than {before:.3f} only with harm"
    if not gaining:
        return f"at ratio {ratio:g} fresh noise brings no more than {before:.3f}"
    best = max(harmless, key=lambda line: line.value("inside"))
    after = best.value("inside")
    return f"at ratio {ratio:g} {best.label} brings {before:.3f} to {after:.3f} without harm"


def figure(result: Result) -> Figure:
    """Quality against diversity."""
    x = "inside" if "inside" in result["metrics"] else "pixels"
    panels = metric_panels(
        result,
        wanted(result, QUALITY),
        by_key(result["rows"]),
        lambda line: line["metrics"][x]["value"],
        result["metrics"][x]["title"],
        scattered=[f"ratio {ratio:g}" for ratio in RATIOS],
    )
    return Figure(result["title"], panels, caption(result))


STUDY = Study(
    name="diversity",
    title="Diversity inside groups against fidelity",
    about=__doc__,
    design=design,
    rows=rows_with_front(),
    answer=answer,
    finding=finding,
    figure=figure,
    defaults={"pictures": 336, "seeds": 1},
)
