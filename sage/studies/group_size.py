"""What happens in groups larger than the paper's five?

The same prompts, in sets of sixteen that all fit each other, are run as groups of 2, 4, 8 and 16:
saving, quality and diversity against the size of a group. The unit of the intervals is the set.
"""

from typing import Any

from sage.studies.engine.answers import first_judge
from sage.studies.engine.compare import Comparison, Design, Entry
from sage.studies.engine.figures import Figure, caption, metric_panels
from sage.studies.engine.lab import Lab
from sage.studies.engine.methods import INDEPENDENT, RATIO, SAGE, UNTRAINED
from sage.studies.engine.results import Result
from sage.studies.engine.sets import SIZES, WHOLE, divide, sets_of
from sage.studies.engine.study import Study


def design(lab: Lab) -> Design:
    """The same prompts in groups of every size, untrained and with the SAGE adapter."""
    prompts, among = sets_of(lab, WHOLE)
    divided = {size: divide(prompts, among, size) for size in SIZES}
    entries = [Entry(INDEPENDENT, lab.recipe(), {"size": 1}, divided[WHOLE])]
    entries += [
        Entry(name, lab.recipe(RATIO, adapter), {"size": size}, divided[size])
        for name, adapter in ((UNTRAINED, None), (SAGE, lab.settings.sage_adapter))
        for size in SIZES
    ]
    return Design(entries, divided[WHOLE])


def conditions(comparison: Comparison) -> dict[str, Any]:
    """The share ratio, and how many sets of prompts there are."""
    prompts = comparison.design.prompts
    return {"share_ratio": RATIO, "sets": len(prompts or ()) // WHOLE}


def answer(result: Result) -> str:
    """The smallest group beside the largest."""
    title, value = first_judge(result)
    rows = {row["size"]: row for row in result["rows"] if row["name"] == SAGE}
    least, most = rows[min(rows)], rows[max(rows)]
    return (
        f"Groups of {max(rows)} save {most['saving']:.0%} of the evaluations, groups of "
        f"{min(rows)} {least['saving']:.0%}; {title} is {value(most):.3g} and {value(least):.3g}."
    )


def finding(comparison: Comparison) -> str:
    """One sentence: saving, quality and diversity from the smallest to the largest group."""
    by_size = {size: comparison.one(SAGE, size=size) for size in SIZES}
    key = "fd" if "fd" in by_size[WHOLE].measured.metrics else "pixels"
    title, parts = {"fd": "FD-EffLite0", "pixels": "pixel distance"}[key], []
    for size, line in by_size.items():
        text = f"{size}: saves {line.measured.saving:.0%}, {title} {line.value(key):.3g}"
        if "inside" in line.measured.metrics:
            text += f", diversity inside {line.value('inside'):.3f}"
        parts.append(text)
    four, sixteen = (by_size[size].measured.metrics[key] for size in (4, WHOLE))
    worse = sixteen.minus(four).sign > 0
    return (
        f"At share ratio {RATIO:g} with the SAGE adapter, groups of {'; '.join(parts)}: sixteen "
        f"{'are worse than' if worse else 'are not visibly worse than'} four."
    )


def figure(result: Result) -> Figure:
    """Quality and diversity against size; every line begins at independent sampling."""
    alone = [line for line in result["rows"] if line["size"] == 1]
    panels = []
    for key in (key for key in ("fd", "clip", "inside") if key in result["metrics"]):
        series = {
            name: (alone if key != "inside" else [])  # its diversity is of groups of sixteen
            + [line for line in result["rows"] if line["name"] == name]
            for name in (UNTRAINED, SAGE)
        }
        ticks = SIZES if key == "inside" else (1, *SIZES)
        panels += metric_panels(
            result, [key], series, lambda line: line["size"], "prompts in a group",
            log=True, ticks=ticks,
        )  # fmt: skip
    return Figure(result["title"], panels, caption(result))


STUDY = Study(
    name="group-size",
    title="Groups of 2 to 16",
    about=__doc__,
    design=design,
    conditions=conditions,
    answer=answer,
    finding=finding,
    figure=figure,
    columns={"size": "prompts in a group"},
    defaults={"pictures": 192, "seeds": 1},
)
