"""The command line of the studies."""

import argparse
import sys
import warnings
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

from sage.imports import many_imports
from sage.studies import STUDIES

PUBLISHING = {
    "draw": "Draw the figures of all results anew.",
    "tables": "Write the tables of all results: in README.md and in the results' own page.",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line says; returns the exit code."""
    given = vars(_parser().parse_args(arguments))
    name, listing = given.pop("name"), given.pop("list")
    if listing or name is None:
        _list()
        return 0
    _quiet()
    given = {key: value for key, value in given.items() if value is not None}
    name = "tables" if name == "readme" else name  # its former name
    try:
        if name in PUBLISHING:
            return _publish(name, given.get("out"))
        return _run(name, given)
    except (ValueError, ImportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _list() -> None:
    from sage.studies.engine.study import every

    questions = {study.name: study.question for study in every()} | PUBLISHING
    for name, words in questions.items():
        print(f"{name:14} {words}")


def _quiet() -> None:
    """Other libraries report errors only: a study has its own progress bar."""
    import diffusers.utils.logging as diffusers_log
    import transformers.utils.logging as transformers_log

    for log in (diffusers_log, transformers_log):
        log.set_verbosity_error()
        log.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", module="torch._dynamo")


def _run(name: str, given: dict[str, Any]) -> int:
    from sage.studies.engine.lab import DryRun, Lab, LabSettings
    from sage.studies.engine.results import write
    from sage.studies.engine.study import load

    study = load(name)
    lab = Lab(LabSettings(**{**study.defaults, **given}))
    try:
        result = study.run(lab)
    except DryRun as plan:
        print(plan)
        return 0
    path = write(lab.settings.out, result, study.figure(result))
    print(result["finding"])
    print(f"The result is in {path}")
    return 0


def _publish(name: str, folder: Path | None) -> int:
    """Draw the figures of all results, or write their tables."""
    from sage.studies.engine.lab import RESULTS
    from sage.studies.engine.publish import draw_all, update_all

    paths = (draw_all if name == "draw" else update_all)(folder or RESULTS)
    for path in paths:
        print(path)
    if not paths:
        print("Everything is up to date.")
    return 0


def _parser() -> argparse.ArgumentParser:
    with many_imports():
        from sage.studies.engine.lab import LabSettings

    parser = argparse.ArgumentParser(
        prog="python -m sage.studies",
        description="Run a study; what was rendered is kept, so a run goes on after a kill.",
    )
    parser.add_argument("name", nargs="?", help=f"the study: {', '.join((*STUDIES, *PUBLISHING))}")
    parser.add_argument("--list", action="store_true", help="name the studies and their questions")
    hints = get_type_hints(LabSettings, include_extras=True)
    for f in fields(LabSettings):
        flag, (words,) = f"--{f.name.replace('_', '-')}", hints[f.name].__metadata__
        if isinstance(f.default, bool):
            parser.add_argument(flag, action="store_true", default=None, help=words)
        else:
            default = f" (default: {f.default})" if f.default is not None else ""
            kind = float if f.default is None else type(f.default)
            parser.add_argument(flag, type=kind, default=None, help=words + default)
    return parser


if __name__ == "__main__":
    sys.exit(main())
