"""Does sharing survive few steps: faster solvers, and students distilled to 4 and 8 steps?

DPM-Solver++ (2M) and plain DDIM at few steps, and the few-step students of
`sage.world.train.distil` (one adapter for each number of steps, no guidance), each alone and
shared. The students' calibrations, for the guard, appear in `calibration/` beside the result.
"""

from pathlib import Path
from statistics import mean
from typing import Any

from sage.core.calibration import Calibration
from sage.studies.engine import methods
from sage.studies.engine.answers import first_judge, signed
from sage.studies.engine.calibrate import sweep, write_calibrations
from sage.studies.engine.compare import Comparison, Design, Entry, rows_with_front
from sage.studies.engine.figures import by_key, line_figure
from sage.studies.engine.judges import METRIC
from sage.studies.engine.lab import Lab
from sage.studies.engine.methods import INDEPENDENT, SHARED_AT, STUDENT_STEPS
from sage.studies.engine.results import Result, Row
from sage.studies.engine.study import Study

SOLVERS = {"dpm++2m": ("DPM-Solver++ (2M)", (8, 10, 15)), "ddim": ("DDIM", (4, 8, 15))}
SIDES = {0.0: "alone"} | {ratio: f"shared at {ratio:g}" for ratio in SHARED_AT}


def students(lab: Lab) -> dict[int, Path | None]:
    """The adapter for each number of steps."""
    return {steps: methods.student(lab, steps) for steps in STUDENT_STEPS}


def design(lab: Lab) -> Design:
    """Every sampler alone and shared; students where there are any."""

    def steps_(number: int) -> dict[str, str]:
        return {"label": f"{number} steps"}

    entries = [Entry(INDEPENDENT, lab.recipe(), steps_(lab.settings.steps))]
    for ratio, side in SIDES.items():
        entries += [
            Entry(f"{title}, {side}", lab.recipe(ratio, scheduler=key, steps=n), steps_(n))
            for key, (title, numbers) in SOLVERS.items()
            for n in numbers
        ]
        entries += [
            Entry(
                f"distilled, {side}",
                lab.recipe(ratio, folder, steps=n, guidance_scale=1.0),
                steps_(n),
            )
            for n, folder in students(lab).items()
            if folder is not None
        ]
    return Design(entries, lab.prompts)


def calibration(lab: Lab, steps: int, folder: Path) -> Calibration:
    """What sharing does to a student, at every branch point it has."""
    recipe = lab.recipe(0.0, folder, steps=steps, guidance_scale=1.0)
    return sweep(lab, recipe, [step / steps for step in range(1, steps + 1)]).fit()


def more(comparison: Comparison) -> dict[str, Any]:
    """Nothing in the result; the students' calibrations beside it."""
    lab = comparison.lab
    write_calibrations(
        lab,
        {
            folder.name: calibration(lab, steps, folder)
            for steps, folder in students(lab).items()
            if folder is not None
        },
    )
    return {}


def conditions(comparison: Comparison) -> dict[str, Any]:
    """Which students were used."""
    lab = comparison.lab
    digests = {str(n): lab.adapter_digest(folder) for n, folder in students(lab).items()}
    return {"students": digests, "shared_at": SHARED_AT}


def answer(result: Result) -> str:
    """What sharing does to a sampler of few steps, averaged over the samplers."""
    title, value = first_judge(result)
    rows = {(*row["name"].split(", "), row["label"]): value(row) for row in result["rows"][1:]}
    parts = []
    for ratio in SHARED_AT:
        gaps = [
            number - rows[name, SIDES[0.0], label]
            for (name, side, label), number in rows.items()
            if side == SIDES[ratio]
        ]
        parts.append(f"{ratio:.0%} shared change it by {signed(mean(gaps), '.2g')}")
    return (
        f"Averaged over the samplers, {title} is "
        f"{mean(v for (_, side, _), v in rows.items() if side == SIDES[0.0]):.3g} alone; "
        f"{', '.join(parts)}."
    )


def finding(comparison: Comparison) -> str:
    """One sentence: what sharing changes for each sampler."""
    key = comparison.quality[0]
    by_sampler: dict[str, list[str]] = {}
    for line in comparison.lines:
        name, _, side = line.name.partition(", ")
        if side:
            values = by_sampler.setdefault(f"{name}, {line.label}", [])
            values.append(f"{line.value(key):.3g} {side}")
    base = comparison.lines[0].value(key)
    parts = "; ".join(f"{sampler}: {', '.join(v)}" for sampler, v in by_sampler.items())
    return f"{METRIC[key].title} is {base:.3g} for independent sampling; {parts}."


def series(result: Result) -> dict[str, list[Row]]:
    """The figure's lines: each sampler alone and shared most; 30 steps are DDIM's."""
    rows, first = by_key(result["rows"]), "DDIM, alone"
    rows[first] += rows.pop(INDEPENDENT)
    sides = (SIDES[0.0], SIDES[max(SHARED_AT)])
    names = [name for name in rows if name.endswith(sides)]
    return {name: rows[name] for name in sorted(names, key=lambda name: (name != first, name))}


STUDY = Study(
    name="few-step",
    title="Sharing with few steps",
    about=__doc__,
    design=design,
    rows=rows_with_front("gigaflops"),
    more=more,
    conditions=conditions,
    answer=answer,
    finding=finding,
    figure=line_figure("gigaflops", series=series, log=True),
    defaults={"pictures": 336, "seeds": 1},
)
