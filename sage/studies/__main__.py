"""The command line of the studies."""

import argparse
import importlib
import sys
import warnings
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from sage.studies import STUDIES

HELP = {
    "model": "folder, repository id or key of a model",
    "data": "'scenes', a folder in MS COCO's format, or a text file with one prompt a line",
    "pictures": "pictures of a row, over all seeds",
    "seeds": "seeds of the starting noise",
    "steps": "sampling steps",
    "guidance": "classifier-free guidance (default: the model's own)",
    "sage_adapter": "adapter trained with L_SAGE",
    "standard_adapter": "adapter of ordinary fine-tuning",
    "nosoft_adapter": "adapter trained with lambda_soft = 0",
    "twins_adapter": "adapter trained with --loss twins (main-table; left out if there is none)",
    "adapters": "folder with one sub-folder for each variant (loss-forks)",
    "precision": "of bulk rendering: auto (bf16 on a CPU, fp16 on a GPU), fp32, bf16 or fp16",
    "compiled": "use torch.compile: faster after a minute",
    "device": "auto, cpu, cuda or cuda:N",
    "cache": "where rendered cells are kept",
    "out": "where results are written",
    "hub": "also judge by FID, LPIPS and OpenAI CLIP (torchmetrics); grouping: also OpenAI CLIP",
    "dry_run": "say what would be rendered, and stop",
    "quiet": "no progress bars",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line says; returns the exit code."""
    parser = _parser()
    chosen = vars(parser.parse_args(arguments))
    name, listed = chosen.pop("name"), chosen.pop("list")
    if listed or name is None:
        for key, module in STUDIES.items():
            print(f"{key:14} {importlib.import_module(module).__doc__.splitlines()[0]}")
        print("draw           Draw the figures of all results as SVG (needs playwright, Chromium).")
        print("readme         Write the README's tables from the results.")
        return 0
    _quiet()
    try:
        return _run(name, chosen)
    except (ValueError, ImportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _quiet() -> None:
    """Other libraries report errors only: a study has its own progress bar."""
    import diffusers.utils.logging as diffusers_log
    import transformers.utils.logging as transformers_log

    for log in (diffusers_log, transformers_log):
        log.set_verbosity_error()
        log.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", module="torch._dynamo")


def _run(name: str, chosen: dict) -> int:
    if name in ("readme", "draw"):
        return _publish(name, chosen)
    from sage.studies.engine.lab import DryRun, Lab, LabSettings
    from sage.studies.engine.results import write

    if name not in STUDIES:
        raise ValueError(
            f"The study is {name!r}; allowed are {', '.join(STUDIES)}, draw and readme."
        )
    study = importlib.import_module(STUDIES[name])
    given = {key: value for key, value in chosen.items() if value is not None}
    lab = Lab(LabSettings(**(getattr(study, "DEFAULTS", {}) | given)))
    try:
        found = study.run(lab)
    except DryRun as told:
        print(told)
        return 0
    path = write(lab.settings.out, found, study.figure(found))
    print(found["finding"])
    print(f"The result is in {path}")
    return 0


def _publish(name: str, chosen: dict) -> int:
    """Draw the figures of all results, or write the README's tables from them."""
    from sage.studies.engine.lab import RESULTS

    folder = chosen["out"] or RESULTS
    if name == "draw":
        from sage.studies.engine.draw import draw
        from sage.studies.engine.results import read, write

        for key, module in STUDIES.items():
            if found := read(folder, key):
                write(folder, found, importlib.import_module(module).figure(found))
        for path in draw(sorted(folder.glob("*.figure.json"))):
            print(path)
        return 0
    from sage.studies.engine.tables import README, update

    print("README.md was rewritten." if update(README, folder) else "README.md is up to date.")
    return 0


def _parser() -> argparse.ArgumentParser:
    from sage.studies.engine.lab import LabSettings

    parser = argparse.ArgumentParser(
        prog="python -m sage.studies",
        description="Run a study; what was rendered is kept, so a run goes on after a kill.",
    )
    parser.add_argument("name", nargs="?", help="the study, or draw, or readme")
    parser.add_argument("--list", action="store_true", help="name the studies")
    for f in fields(LabSettings):
        flag = f"--{f.name.replace('_', '-')}"
        kind = {"int": int, "float": float, "Path": Path}.get(_type_name(f.type), str)
        if _type_name(f.type) == "bool":
            parser.add_argument(flag, action="store_true", default=None, help=HELP[f.name])
        else:
            default = f" (default: {f.default})" if f.default is not None else ""
            parser.add_argument(flag, type=kind, default=None, help=HELP[f.name] + default)
    return parser


def _type_name(kind: object) -> str:
    return getattr(kind, "__name__", str(kind)).removesuffix(" | None")


if __name__ == "__main__":
    sys.exit(main())
