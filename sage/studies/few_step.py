"""Does sharing survive few steps: faster solvers, and students distilled to 4 and 8 steps?

DPM-Solver++ (2M) and plain DDIM at few steps, and the few-step students of `sage.world.distil`
(one adapter for each number of steps, no guidance), each alone and shared. The students'
calibrations, for the guard, appear in `calibration/` beside the result.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sage.core.calibration import Calibration
from sage.jobs.models import ASSETS
from sage.sd.adapters import LORA_FILE
from sage.studies.engine.calibrate import swept, written
from sage.studies.engine.contest import Contest, Entry, hold, panels_of, quality_keys, rows
from sage.studies.engine.judges import METRIC
from sage.studies.engine.lab import Lab
from sage.studies.engine.results import result
from sage.studies.main_table import INDEPENDENT

NAME, TITLE = "few-step", "Sharing with few steps"
DEFAULTS = {"pictures": 336, "seeds": 1}
SHARED_AT = (0.25, 0.4)  # one and two of four steps
SOLVERS = {"dpm++2m": ("DPM-Solver++ (2M)", (8, 10, 15)), "ddim": ("DDIM", (4, 8, 15))}
SIDES = {0.0: "alone"} | {ratio: f"shared at {ratio:g}" for ratio in SHARED_AT}
STUDENT_STEPS = (4, 8)


def run(lab: Lab) -> dict[str, Any]:
    """Every sampler alone and shared; students where there are any."""
    students = {steps: student(lab, steps) for steps in STUDENT_STEPS}
    entries = [Entry(INDEPENDENT, f"{lab.settings.steps} steps", lab.setting())]
    for ratio, side in SIDES.items():
        for key, (title, numbers) in SOLVERS.items():
            for steps in numbers:
                setting = lab.setting(ratio, None, steps=steps, scheduler=key)
                entries.append(Entry(f"{title}, {side}", f"{steps} steps", setting))
        for steps, folder in students.items():
            if folder is not None:
                setting = lab.setting(ratio, folder, steps=steps, guidance=1.0)
                entries.append(Entry(f"distilled, {side}", f"{steps} steps", setting))
    found = hold(lab, entries)
    calibrations = {
        folder.name: calibration(lab, steps, folder)
        for steps, folder in students.items()
        if folder is not None
    }
    written(lab, calibrations)
    digests = {str(n): lab.adapter_digest(folder) for n, folder in students.items()}
    return result(
        sys.modules[__name__],
        lab,
        rows(found, "gigaflops"),
        finding(found),
        prompts=lab.prompts,
        conditions_={"students": digests, "shared_at": SHARED_AT},
    )


def student(lab: Lab, steps: int) -> Path | None:
    """The adapter for so many steps: shipped, or as `sage.world.distil` leaves it; None if none."""
    places = (ASSETS / f"emoji-scenes-{steps}-step-lora", lab.settings.adapters.parent)
    folders = (places[0], places[1] / f"few-step-{steps}")
    return next((folder for folder in folders if (folder / LORA_FILE).is_file()), None)


def calibration(lab: Lab, steps: int, folder: Path) -> Calibration:
    """What sharing does to a student, at every branch point it has."""
    ratios = [step / steps for step in range(1, steps + 1)]
    return swept(lab, {r: lab.setting(r, folder, steps=steps, guidance=1.0) for r in ratios}).fit()


def finding(found: Contest) -> str:
    """One sentence: what sharing changes for each sampler."""
    key, said = quality_keys(found)[0], {}
    for entry, measured in found.items():
        name, _, side = entry.name.partition(", ")
        if side:
            value = f"{measured.metrics[key].value:.3g} {side}"
            said.setdefault(f"{name}, {entry.label}", []).append(value)
    base = next(iter(found.values())).metrics[key].value
    told = "; ".join(f"{sampler}: {', '.join(values)}" for sampler, values in said.items())
    return f"{METRIC[key].title} is {base:.3g} for independent sampling; {told}."


def figure(found: Mapping[str, Any]) -> dict[str, Any]:
    """Quality against FLOPs."""
    return panels_of(found, cost="gigaflops")
