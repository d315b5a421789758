"""What a visitor takes home from a finished comparison: pictures, a sheet, a record, a script.

Writes files into a folder it is given; knows nothing of gradio.
"""

import json
import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from sage.core.settings import SCHEDULERS
from sage.jobs.compare import Comparison
from sage.jobs.models import ModelSpec
from sage.ui.export.lines import python_lines
from sage.ui.html.palette import prompt_marks
from sage.ui.html.sheet import Block, Shot, draw_sheet
from sage.ui.html.words import percent_text, saved_text, span_text
from sage.ui.server.files import fresh_folder


@dataclass(frozen=True)
class RunFiles:
    """Files of one finished run.

    Attributes:
        folder: Holds them all; removed with the session.
        archive: Pictures, sheet and record in one zip.
        record: The report as JSON, with all that it takes to ask for the same again.
        sheet: All pictures on one PNG, with prompts and settings.
        lines: The Python that repeats the run with the library.
        pairs: For each prompt, the independent and the shared picture.
    """

    folder: Path
    archive: Path
    record: Path
    sheet: Path
    lines: Path
    pairs: tuple[tuple[Path, Path], ...]


def save_run(comparison: Comparison, spec: ModelSpec) -> RunFiles:
    """Writes everything that a finished comparison on a model offers for download."""
    folder = fresh_folder()
    sides = {"independent": comparison.independent.pictures, "shared": comparison.shared.pictures}
    paths = {side: _save_pictures(folder, side, images) for side, images in sides.items()}
    record, sheet, lines = (
        folder / f"sage-{name}" for name in ("record.json", "grid.png", "run.py")
    )
    report = comparison.report | {"request": comparison.request.to_dict()}
    record.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    run_sheet(comparison, spec.title).save(sheet)
    lines.write_text(_lines(comparison, spec), encoding="utf-8")
    archive = folder / "sage-pictures.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as box:
        for path in (*paths["independent"], *paths["shared"], sheet, record, lines):
            box.write(path, path.name)
    pairs = tuple(zip(paths["independent"], paths["shared"], strict=True))
    return RunFiles(folder, archive, record, sheet, lines, pairs)


def _lines(comparison: Comparison, spec: ModelSpec) -> str:
    plan, groups = comparison.shared.plan, comparison.grouping.groups
    dtype, device = comparison.report["dtype"], comparison.report["device"]
    # Not where the latents are: out of a lease they come back on the CPU.
    device = "cpu" if device.startswith("CPU") else "cuda"
    return python_lines(comparison.request, spec, plan, groups, device=device, dtype=dtype)


def remove_run(files: RunFiles | None) -> None:
    """Deletes a run's folder, if there is one."""
    if files is not None:
        shutil.rmtree(files.folder, ignore_errors=True)


def _save_pictures(folder: Path, side: str, images: Sequence[Image.Image]) -> list[Path]:
    paths = [folder / f"P{n:02d}-{side}.png" for n in range(1, len(images) + 1)]
    for path, image in zip(paths, images, strict=True):
        image.save(path)
    return paths


def run_sheet(comparison: Comparison, model: str) -> Image.Image:
    """Both pictures of every prompt with its words, and above them what was asked for."""
    request, marks = comparison.request, prompt_marks(comparison.groups)
    count = len(request.prompts)
    scores = comparison.clip_scores or {"independent": [None] * count, "shared": [None] * count}
    sides = {"independent": comparison.independent.pictures, "shared": comparison.shared.pictures}
    blocks = [
        Block(
            f"P{n + 1} {prompt}",
            tuple(
                Shot(images[n], _shot_words(side, scores[side][n], comparison.twin_distance[n]))
                for side, images in sides.items()
            ),
            marks[n],
        )
        for n, prompt in enumerate(request.prompts)
    ]
    title = "SAGE: the same prompts and seeds, alone and shared"
    return draw_sheet(title, _settings_words(comparison, model), blocks, columns=2)


def _shot_words(side: str, score: float | None, twin: float | None) -> str:
    words = [] if score is None else [f"CLIP {score:.2f}"]
    words += [f"twin {twin:.2f}"] if side == "shared" and twin is not None else []
    return f"{side}\n{', '.join(words)}"


def _settings_words(comparison: Comparison, model: str) -> list[str]:
    """What was asked for and what it saved, in a sentence each."""
    request, cost = comparison.request, comparison.shared.cost
    stops = comparison.shared.plan.branch_steps
    how = {
        "groups": f"{span_text(stops)} shared" if stops else "nothing shared",
        "tree": f"a tree within {percent_text(request.budget)} of the evaluations",
        "adaptive": "split while sampling",
    }[request.sharing]
    asked = [
        model + (" with its adapter for sharing" if request.trained else ""),
        f"{request.steps} steps ({SCHEDULERS[request.scheduler]}), {how}",
        f"guidance {request.guidance_scale:.3g}",
        f"seeds {request.seeds[0]} to {request.seeds[-1]}",
        f"groups of similarity {request.tau_min:.2f} to {request.tau_max:.2f}",
    ]
    saved = saved_text(cost.saving, "fewer")
    return [
        "; ".join(asked) + ".",
        f"{cost.evaluations} of {cost.independent_evaluations} evaluations: {saved}.",
    ]
