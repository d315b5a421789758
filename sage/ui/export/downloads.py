"""What a visitor takes home from a finished comparison: pictures, a sheet, a record, a script.

Writes files into a folder it is given; knows nothing of gradio.
"""

import json
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from sage.core.settings import SCHEDULERS
from sage.core.words import plural
from sage.jobs.compare import Comparison, Scores
from sage.jobs.look import Look, look_report
from sage.jobs.models import ModelSpec
from sage.ui.export.lines import python_lines
from sage.ui.html.palette import prompt_marks
from sage.ui.html.sheet import Block, Shot, draw_sheet
from sage.ui.html.words import percent_text, saved_text, span_text
from sage.ui.server.files import filled_folder

_NAMES = ("sage-record.json", "sage-grid.png", "sage-run.py")


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
    sides = _sides(comparison)
    with filled_folder() as folder:
        paths = {side: _save_pictures(folder, side, images) for side, images in sides.items()}
        record, sheet, lines = (folder / name for name in _NAMES)
        report = comparison.report | {"request": comparison.request.to_dict()}
        record.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        run_sheet(comparison, spec.title).save(sheet)
        lines.write_text(_lines(comparison, spec), encoding="utf-8")
        archive = _zipped(
            folder, [*(p for side in paths.values() for p in side), sheet, record, lines]
        )
        pairs = tuple(zip(paths["independent"], paths["shared"], strict=True))
        return RunFiles(folder, archive, record, sheet, lines, pairs)


def save_look(seen: Look, spec: ModelSpec) -> RunFiles:
    """Writes what a look offers for download: what was expected, and what was finished of it."""
    report, job = look_report(seen), seen.job
    with filled_folder() as folder:
        expected = _save_pictures(folder, "expected", seen.pictures)
        finished = {n: folder / f"P{n + 1:02d}-finished.png" for n in seen.finished}
        for n, path in finished.items():
            seen.final[n][0].save(path)
        record, sheet, lines = (folder / name for name in _NAMES)
        record.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        look_sheet(seen, spec.title).save(sheet)
        how = {"device": _device(report), "dtype": report["dtype"]}
        code = python_lines(job.request, spec, job.plan, job.grouping.groups, **how)
        lines.write_text(code, encoding="utf-8")
        archive = _zipped(folder, [*expected, *finished.values(), sheet, record, lines])
        return RunFiles(folder, archive, record, sheet, lines, ())


def look_sheet(seen: Look, model: str) -> Image.Image:
    """Every prompt's expected picture, and the finished one beside it."""
    marks, final = prompt_marks(seen.job.groups), seen.final
    blocks = [
        Block(
            f"P{n + 1} {prompt}",
            (
                Shot(seen.pictures[n], f"expected after {seen.step} steps"),
                *([Shot(final[n][0], "finished")] if n in final else []),
            ),
            marks[n],
        )
        for n, prompt in enumerate(seen.job.request.prompts)
    ]
    spent = f"{seen.evaluations} evaluations, {seen.job.cost.evaluations} to finish all."
    title = "SAGE: looked at first, then finished in part"
    return draw_sheet(title, [f"{model}; {seen.job.calls} steps.", spent], blocks, columns=2)


def _lines(comparison: Comparison, spec: ModelSpec) -> str:
    plan, groups = comparison.shared.plan, comparison.grouping.groups
    how = {"device": _device(comparison.report), "dtype": comparison.report["dtype"]}
    return python_lines(comparison.request, spec, plan, groups, **how)


def _device(report: Mapping[str, Any]) -> str:
    # Not where the latents are: out of a lease they come back on the CPU.
    return "cpu" if report["device"].startswith("CPU") else "cuda"


def _zipped(folder: Path, paths: Sequence[Path]) -> Path:
    archive = folder / "sage-pictures.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as box:
        for path in paths:
            box.write(path, path.name)
    return archive


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
    sides = _sides(comparison)
    names = {side: side for side in sides}
    if comparison.fewer is not None:
        names["fewer"] = f"fewer steps: {plural(comparison.fewer.plan.steps, 'step')}"
    blocks = [
        Block(
            f"P{n + 1} {prompt}",
            tuple(
                Shot(images[n], _shot_words(names[side], side, comparison.scores[side], n))
                for side, images in sides.items()
            ),
            marks[n],
        )
        for n, prompt in enumerate(request.prompts)
    ]
    title = "SAGE: the same prompts and seeds, independent and shared"
    return draw_sheet(title, _settings_words(comparison, model), blocks, columns=2)


def _sides(comparison: Comparison) -> dict[str, Sequence[Image.Image]]:
    """The pictures of every side that ran, the equal-cost one last."""
    order = ("independent", "shared", "fewer")
    return {s: comparison.outputs[s].pictures for s in order if s in comparison.outputs}


def _shot_words(name: str, side: str, scores: Scores, n: int) -> str:
    clip, twin = scores.clip and scores.clip[n], scores.twin[n]
    words = [] if clip is None else [f"CLIP {clip:.2f}"]
    words += [f"distance {twin:.2f}"] if side != "independent" and twin is not None else []
    return f"{name}\n{', '.join(words)}"


def _settings_words(comparison: Comparison, model: str) -> list[str]:
    """What was asked for and what it saved, in a sentence each."""
    request, cost = comparison.request, comparison.shared.cost
    stops = comparison.shared.plan.branch_steps
    how = {
        "groups": f"{span_text(stops)} shared" if stops else "nothing shared",
        "tree": f"a tree within {percent_text(request.spend)} of the evaluations",
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
