"""The command line: one name for everything that can be run.

Nothing is imported before a command is known, so `--help` answers at once.
"""

import argparse
import os
import runpy
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "app.py"


@dataclass(frozen=True)
class Command:
    """Something that can be run.

    Attributes:
        help: What it does, in a line.
        entry: "module:function" of a main function that takes the arguments and returns the exit
            code or None.
    """

    help: str
    entry: str


COMMANDS = {
    "demo": Command("serve the page", "sage.__main__:serve_page"),
    "render": Command("draw a list of prompts into a folder", "sage.render.command:main"),
    "train": Command("train a LoRA adapter on groups of prompts", "sage.training.__main__:main"),
    "study": Command("run a study, or list them", "sage.studies.__main__:main"),
    "deploy": Command("check or upload the Hugging Face Space", "sage.deploy:main"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the arguments name; returns its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    name, rest = _parser().parse_args(given[:1]).command, given[1:]
    # Otherwise most commands begin with notices about an image library that is not needed.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    module, _, function = COMMANDS[name].entry.partition(":")
    return getattr(import_module(module), function)(rest) or 0


def _parser() -> argparse.ArgumentParser:
    lines = "\n".join(f"  {name:8} {command.help}" for name, command in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="python -m sage",
        usage="python -m sage COMMAND [ARGUMENTS]",
        description="Diffusion in which similar prompts share their early steps (SAGE).",
        epilog=f"commands:\n{lines}\n\npython -m sage COMMAND --help explains one of them.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, help=argparse.SUPPRESS)
    return parser


def serve_page(arguments: Sequence[str]) -> None:
    """Run app.py: it is a program, so that a Space can start it, and reads `sys.argv`."""
    sys.argv = ["python -m sage demo", *arguments]
    runpy.run_path(str(PAGE), run_name="__main__")


if __name__ == "__main__":
    sys.exit(main())
