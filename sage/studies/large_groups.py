"""Does sharing pay with a student of four steps, in groups of 8, of 16 and of 32?

At most four evaluations a picture, without guidance: the student alone with 2 to 4 steps, and
shared for the first one or two of its four, beside itself alone at the same cost.
"""

from dataclasses import replace

from sage.core.plan import shared_plan
from sage.studies.engine import methods
from sage.studies.engine.answers import tally
from sage.studies.engine.compare import Comparison, Design, Entry
from sage.studies.engine.figures import QUALITY, Figure, caption, metric_panels, wanted
from sage.studies.engine.lab import Lab
from sage.studies.engine.results import Result, Row, row
from sage.studies.engine.rival import Rival, against, differences_in_words
from sage.studies.engine.sets import sets_of
from sage.studies.engine.study import Study
from sage.studies.trunks import JUDGES

STEPS = 4
SIZES = (8, 16, 32)
ALONE = (2, 3, 4)
SHARED = (1, 2)
SHORT = {"mean": "mean embedding", "alternate": "in turn", "control_once": "in turn, corrected"}
STUDENT = "student alone"


def design(lab: Lab) -> Design:
    """The student alone and shared, in groups of every size.

    Raises:
        ValueError: If there is no student.
    """
    folder = methods.student(lab, STEPS)
    if folder is None:
        raise ValueError(f"There is no student of {STEPS} steps; make one with distil.")
    entries = []
    for size in SIZES:
        prompts, _ = sets_of(lab, size)
        for steps in ALONE:
            recipe = lab.recipe(0.0, folder, steps=steps, guidance_scale=1.0)
            values = {"label": f"{steps} steps", "size": size}
            entries.append(Entry(STUDENT, recipe, values, prompts))
        for trunk, name in SHORT.items():
            for shared in SHARED:
                plan = shared_plan(prompts.groups, STEPS, shared)
                recipe = lab.recipe(
                    0.0, folder, plan=plan, steps=STEPS, guidance_scale=1.0, trunk=trunk
                )
                values = {"label": f"{shared} of {STEPS} steps shared", "size": size}
                entries.append(Entry(name, recipe, values, prompts))
    return Design(entries)


def rows(comparison: Comparison) -> list[Row]:
    """Lines with their difference from the student alone at the same cost."""
    lines = []
    for line in comparison.lines:
        lines.append(row(line.name, line.measured, **line.values))
        if line.name != STUDENT:
            rival = Rival(comparison.all(STUDENT, size=line.values["size"]))
            lines[-1]["against"] = against(line, rival)
    return lines


def answer(result: Result) -> str:
    """In how many settings sharing wins or loses."""
    gaps = [row["against"] for row in result["rows"] if "against" in row]
    return f"Beside the student alone at the same cost, sharing is {tally(gaps, JUDGES)}."


def finding(comparison: Comparison) -> str:
    """Where sharing differs from the student alone."""
    parts = []
    for size in SIZES:
        for name in SHORT.values():
            lines = [r for r in comparison.rows if (r["name"], r.get("size")) == (name, size)]
            keys = [key for key in JUDGES if key in lines[0]["metrics"]]
            parts.append(f"{name} in groups of {size}: {differences_in_words(lines, keys)}")
    return (
        f"Against the student alone at the same cost, beyond chance, {'. '.join(parts)}."
    ).replace(". ", "; ")


def figure(result: Result) -> Figure:
    """Quality against evaluations, a panel for each size of group."""
    panels = []
    for size in sorted({line["size"] for line in result["rows"]}):
        series: dict[str, list[Row]] = {}
        for line in (line for line in result["rows"] if line["size"] == size):
            series.setdefault(line["name"], []).append(line)
        some = metric_panels(
            result,
            wanted(result, QUALITY),
            series,
            lambda line: line["evaluations"],
            "evaluations a picture",
        )
        panels += [replace(p, title=f"groups of {size}: {p.title}") for p in some]
    return Figure(result["title"], panels, caption(result))


STUDY = Study(
    name="large-groups",
    title="Four distilled steps in large groups",
    about=__doc__,
    design=design,
    rows=rows,
    answer=answer,
    finding=finding,
    figure=figure,
    conditions=lambda comparison: {
        "student": comparison.lab.adapter_digest(methods.student(comparison.lab, STEPS)),
        "guidance_of_the_student": 1.0,
    },
    columns={"label": "", "size": "prompts in a group"},
    defaults={"pictures": 192, "seeds": 1, "steps": 4},
)
