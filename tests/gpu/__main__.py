"""Everything about a GPU in one command and at most eight minutes, from nothing but the checkout.

    python -m tests.gpu                  on the GPU, with a model of Stable Diffusion v1.5's shape
    python -m tests.gpu --device cpu     the same code with small networks, to try it

Writes `gpu.json` and `gpu.md`, a table for the README, into the folder `--out`.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from diffusers import StableDiffusionPipeline

from sage.jobs.conditions import versions
from sage.sd.pipeline import SagePipeline
from tests.full_size.build import build_folder
from tests.gpu.checks import CHECKS, Bench

MINUTES = 8


def run(
    device: torch.device,
    minutes: float = MINUTES,
    small: bool | None = None,
    only: Collection[str] = (),
) -> dict:
    """Runs the checks in order while there is time; a check that fails is named with its reason.

    Args:
        device: Where.
        minutes: Time for all of them; a check that would begin after it is left out.
        small: Small networks and short runs; by default on a CPU.
        only: Names of the checks to run; all without it.
    """
    start = time.monotonic()
    if device.type == "cuda" and device.index is None:  # some of torch's calls want the number
        device = torch.device("cuda", torch.cuda.current_device())
    small = device.type == "cpu" if small is None else small
    report: dict[str, Any] = {"conditions": _conditions(device, small), "checks": {}}
    with tempfile.TemporaryDirectory() as temporary:
        bench = _bench(build_folder(Path(temporary), small=small), device, small)
        for check in CHECKS:
            name = check.__name__
            if only and name not in only:
                continue
            if time.monotonic() - start > 60 * minutes:
                report["checks"][name] = {"left_out": f"{minutes:g} minutes were over"}
                continue
            begun = time.monotonic()
            try:
                found = check(bench)
            except Exception as error:  # the other checks are still worth running
                found = {"error": f"{type(error).__name__}: {error}"[:400]}
            report["checks"][name] = found | {"check_seconds": time.monotonic() - begun}
            print(f"{name}: {json.dumps(report['checks'][name])}", file=sys.stderr, flush=True)
    report["seconds"] = time.monotonic() - start
    return report


def _bench(folder: Path, device: torch.device, small: bool) -> Bench:
    def load(dtype: torch.dtype) -> SagePipeline:
        return _quiet(SagePipeline.from_pretrained(folder, dtype=dtype)).to(device)

    def base(dtype: torch.dtype) -> StableDiffusionPipeline:
        return _quiet(StableDiffusionPipeline.from_pretrained(folder, dtype=dtype)).to(device)

    short = {"steps": 4, "batches": (1, 2), "repeats": 1} if small else {}
    return Bench(device, load, base, **short)


def _quiet(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _conditions(device: torch.device, small: bool) -> dict[str, Any]:
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "device": gpu or f"CPU ({platform.machine()}, {torch.get_num_threads()} threads)",
        "model": "small random networks" if small else "Stable Diffusion v1.5's shape, random",
        "versions": versions(),
    }


def table(report: dict) -> str:
    """The report as a table in Markdown: one line a number."""
    lines = ["| check | measured | value |", "| --- | --- | ---: |"]
    for name, found in report["checks"].items():
        lines += [f"| {name} | {path} | {value} |" for path, value in _flat(found)]
    conditions = report["conditions"]
    return "\n".join([*lines, "", f"{conditions['device']}; {conditions['model']}."]) + "\n"


def _flat(values: dict, path: str = "") -> list[tuple[str, str]]:
    lines = []
    for key, value in values.items():
        here = f"{path} {key}".strip().replace("_", " ")
        if isinstance(value, dict):
            lines += _flat(value, here)
        else:
            lines.append((here, f"{value:.4g}" if isinstance(value, float) else str(value)))
    return lines


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns 1 if a check failed."""
    parser = argparse.ArgumentParser("python -m tests.gpu", description="Everything about a GPU.")
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=default, help=f"cuda, cuda:N or cpu (here: {default})")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="time for everything")
    parser.add_argument("--out", type=Path, default=Path(), help="folder of gpu.json and gpu.md")
    names = [check.__name__ for check in CHECKS]
    parser.add_argument("--only", nargs="+", choices=names, default=(), help="checks to run")
    flags = parser.parse_args(arguments)
    report = run(torch.device(flags.device), flags.minutes, only=flags.only)
    flags.out.mkdir(parents=True, exist_ok=True)
    (flags.out / "gpu.json").write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    (flags.out / "gpu.md").write_text(table(report), "utf-8")
    print(table(report))
    return int(any("error" in found for found in report["checks"].values()))


if __name__ == "__main__":
    sys.exit(main())
