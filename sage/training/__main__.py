"""The command line of training: settings, a progress bar, the trainer."""

import sys
from typing import TYPE_CHECKING

from tqdm import tqdm

from sage.imports import many_imports
from sage.training.settings import parse

if TYPE_CHECKING:
    from sage.training.trainer import Trainer


def main(arguments: list[str] | None = None) -> int:
    """Train as the command line says; returns the exit code."""
    settings, resume = parse(arguments)
    with many_imports():  # not needed for --help
        from sage.training.trainer import Trainer

    try:
        return _train(Trainer(settings, resume))
    except (ValueError, FloatingPointError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _train(trainer: "Trainer") -> int:
    shown = trainer.accelerator.is_local_main_process
    if shown:
        for sentence in trainer.data.skips.sentences():
            print(sentence)
        print(f"{len(trainer.data.groups)} groups, {trainer.adapter.size:,} trained values")
    with tqdm(total=100, unit="%", disable=not shown, mininterval=1) as bar:
        bar.update(round(100 * trainer.progress, 1))
        for record in trainer:
            bar.update(round(100 * record.progress - bar.n, 2))
            bar.set_postfix(step=record.step, loss=f"{record.loss:.4f}")
    folder = trainer.finish()
    if shown:
        print(f"The adapter is in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
