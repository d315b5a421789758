"""`python -m sage render`: the command line of bulk runs, its bars and its exit codes."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from tqdm import tqdm

from sage.render.settings import parse

OK, WITH_ERRORS, REFUSED, STOPPED_BY_DISK, INTERRUPTED = 0, 1, 2, 3, 130


class Terminal:
    """Sentences to the standard output, bars to the standard error."""

    def say(self, sentence: str) -> None:
        """Prints a line."""
        print(sentence, flush=True)

    @contextmanager
    def progress(self, name: str, total: int | None) -> Iterator[Callable[[int], object]]:
        """A bar that goes away when it is full."""
        with tqdm(total=total, desc=name, leave=False, mininterval=0.5) as bar:
            yield bar.update

    def count(self, pictures: Iterator[int], done: int, total: int) -> None:
        """The bar of rendering, in prompts."""
        with tqdm(total=total, initial=done, desc="Rendering", unit="prompt") as bar:
            for number in pictures:
                bar.update(number)


def main(arguments: Sequence[str] | None = None) -> int:
    """Renders as the command line says.

    Returns:
        0 if every row has its picture, 1 if some have an error in the manifest, 2 if nothing could
        be done, 3 if the folder could not be written any further, 130 after Ctrl-C.
    """
    settings = parse(arguments)
    from sage.render.run import run  # heavy: not needed for --help
    from sage.render.store import StoreError
    from sage.render.worker import OutOfMemory

    console = Terminal()
    try:
        counts = run(settings, console)
    except StoreError as error:
        return _stop(error, STOPPED_BY_DISK)
    except (ValueError, OutOfMemory) as error:
        return _stop(error, REFUSED)
    except KeyboardInterrupt:
        return _stop("Stopped. The same command goes on from here.", INTERRUPTED)
    if settings.dry_run:
        return OK
    errors = f"; {counts['errors']:,} rows have an error" if counts["errors"] else ""
    console.say(f"{counts['pictures']:,} pictures in {settings.out}{errors}; see manifest.parquet.")
    return WITH_ERRORS if counts["errors"] else OK


def _stop(reason: object, code: int) -> int:
    print(f"error: {reason}" if code != INTERRUPTED else reason, file=sys.stderr)
    return code
