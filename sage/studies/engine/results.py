"""Writes what a study found: rows with intervals, conditions, one sentence; plain values only.

A result is a JSON file and beside it its figure. Knows the lab's estimates and this checkout's
commit; nothing of rendering.
"""

import json
import os
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sage.core.resampling import LEVEL, Estimate
from sage.jobs.conditions import versions
from sage.studies.engine.figures import Figure, Result, Row, svg
from sage.studies.engine.judges import METRIC, METRICS
from sage.studies.engine.lab import Lab
from sage.studies.engine.measure import Measured
from sage.studies.engine.prompts import PromptSet

ROOT = Path(__file__).resolve().parents[3]


def row(name: str, measured: Measured, **more: Any) -> Row:
    """One line of a result.

    Args:
        name: What the line is about.
        measured: Its numbers.
        **more: Further plain values of this line, such as a group size.
    """
    return {
        "name": name,
        "share_ratio": round(measured.recipe.sampling.share_ratio, 4),
        "steps": measured.recipe.sampling.steps,
        "pictures": measured.pictures,
        "evaluations": round(measured.evaluations, 3),
        "saving": round(measured.saving, 4),
        "gigaflops": round(measured.flops / 1e9, 3),
        "metrics": {
            m.key: measured.metrics[m.key].plain() for m in METRICS if m.key in measured.metrics
        },
        "plain": {key: float(f"{value:.6g}") for key, value in measured.plain.items()},
        **more,
    }


def difference(first: Measured, second: Measured) -> dict[str, dict[str, float]]:
    """First minus second for every metric, with the interval of the paired difference."""
    return {
        key: estimate.minus(second.metrics[key]).plain() | {"sign": better(first, second, key)}
        for key, estimate in first.metrics.items()
        if key in second.metrics
    }


def better(first: Measured, second: Measured, key: str) -> int:
    """1 if first is better than second beyond chance (paired interval), -1 if worse, else 0.

    For a metric that is neither better high nor low: 1 if higher.
    """
    return first.metrics[key].minus(second.metrics[key]).sign * (METRIC[key].better or 1)


def conditions(lab: Lab, prompts: PromptSet | None = None, **more: Any) -> dict[str, Any]:
    """Under what a study's numbers hold.

    Args:
        lab: Its model, precision, seeds and judges.
        prompts: What was rendered.
        **more: Further plain values.
    """
    asked = lab.settings
    known = {
        "model": lab.title,
        "steps": asked.steps,
        "guidance_scale": lab.guidance,
        "scheduler": type(lab.pipe.scheduler).__name__,
        "noise_seeds": asked.seeds,
        # A kept cell does not remember whether it was compiled, and it makes no other difference
        # than rounding.
        "precision": f"{lab.precision} in bulk, compiled or not, latents float32; times in float32",
        "hardware": lab.describe(),
        "versions": versions(),
        "commit": commit(),
        "date": datetime.now(UTC).date().isoformat(),
        "interval": f"{LEVEL:.0%} bootstrap over groups (all seeds of a group together), paired "
        "between rows, widened for few groups (Student's t); those of FD and CMMD hold for this "
        "count of pictures; the real pictures are held fixed",
    }
    if prompts is not None:
        known["prompts"] = prompts.summary()
    return known | {"judges": lab.judges.names(), "not_judged": lab.judges.missing} | more


def commit() -> str:
    """The commit of this checkout, with "+" if files of sage/ differ from it."""
    try:
        head = _git("rev-parse", "--short", "HEAD")
        return head + ("+" if _git("status", "--porcelain", "--", "sage") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    run = ["git", *arguments]
    answer = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=True)
    return answer.stdout.strip()


def write(folder: Path, result: Result, figure: Figure) -> Path:
    """Writes a result and its figure, each in one piece; returns the result's path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result['study']}.json"
    _replace(path, written(result))
    _replace(path.with_suffix(".svg"), svg(figure))
    return path


def written(result: Result) -> str:
    """A result as the text of its file."""
    return json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _replace(path: Path, text: str) -> None:
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    new.write_text(text, encoding="utf-8")
    os.replace(new, path)


def read(folder: Path, name: str) -> Result | None:
    """A result that was written earlier, or None."""
    path = folder / f"{name}.json"
    return json.loads(path.read_text("utf-8")) if path.is_file() else None


def percent(estimate: Estimate | Mapping[str, float]) -> str:
    """A relative change in words: "−3.1 % (−5.0 to −1.2)"."""
    plain = estimate.plain() if isinstance(estimate, Estimate) else estimate
    value, low, high = (f"{100 * plain[key]:+.1f}" for key in ("value", "low", "high"))
    return f"{value} % ({low} to {high})".replace("-", "\N{MINUS SIGN}")
