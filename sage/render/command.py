"""`python -m sage render`: the command line of bulk runs, its bars and its exit codes."""

import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from tqdm import tqdm

from sage.core.words import plural
from sage.imports import many_imports
from sage.render.settings import RenderSettings, parse

OK, WITH_ERRORS, REFUSED, STOPPED_BY_DISK, INTERRUPTED = 0, 1, 2, 3, 130


class Unbroken:
    """A stream of text whose end is nobody's end: a run goes on without a reader.

    A pipe may be closed (`| head`), a terminal gone, the disk of a log full, an encoding too small.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self.stream = stream or io.StringIO()  # Python has none where it was closed before
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> None:
        """Writes, if that is possible."""
        self._attempt(lambda: self.stream.write(text))

    def flush(self) -> None:
        """Sends on what was written."""
        self._attempt(self.stream.flush)

    def _attempt(self, act: Callable[[], object]) -> None:
        try:
            act()
        except OSError:
            with suppress(OSError):  # Python would try again at its end, and complain
                os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class Terminal:
    """Sentences to the standard output, bars and what went wrong to the standard error."""

    def __init__(self) -> None:
        self.out, self.err = Unbroken(sys.stdout), Unbroken(sys.stderr)

    def say(self, sentence: str) -> None:
        """Prints a line."""
        print(sentence, file=self.out, flush=True)

    def stop(self, reason: object, code: int) -> int:
        """Prints why a run ends; returns its exit code."""
        print(reason, file=self.err, flush=True)
        return code

    @contextmanager
    def progress(self, name: str, total: int | None) -> Iterator[Callable[[int], object]]:
        """A bar that goes away when it is full."""
        with self._bar(total=total, desc=name, leave=False, mininterval=0.5) as bar:
            yield bar.update

    def count(self, pictures: Iterator[int], done: int, total: int) -> None:
        """The bar of rendering, in prompts."""
        with self._bar(total=total, initial=done, desc="Rendering", unit="prompt") as bar:
            for number in pictures:
                bar.update(number)

    def _bar(self, **how: Any) -> tqdm:
        # Of other streams than Python's own, tqdm asks for the width only like this.
        return tqdm(file=self.err, dynamic_ncols=True, **how)


def main(arguments: Sequence[str] | None = None) -> int:
    """Renders as the command line says.

    Returns:
        0 if every row has its picture, 1 if some have an error in the manifest, 2 if nothing could
        be done, 3 if the folder could not be used any further, 130 after Ctrl-C.
    """
    console = Terminal()
    try:
        return _run(parse(arguments), console)
    except KeyboardInterrupt:
        return console.stop("Stopped. The same command goes on from here.", INTERRUPTED)


def _run(settings: RenderSettings, console: Terminal) -> int:
    with many_imports():  # not needed for --help
        from sage.render.run import run
        from sage.render.store import StoreError

    try:
        counts = run(settings, console)
    except StoreError as error:
        return console.stop(f"error: {error}", STOPPED_BY_DISK)
    except (ValueError, RuntimeError, OSError, MemoryError) as error:
        return console.stop(f"error: {str(error) or type(error).__name__}", REFUSED)
    if settings.dry_run:
        return OK
    pictures, errors = plural(counts["pictures"], "picture"), counts["errors"]
    bad = f"; {plural(errors, 'row')} {'has' if errors == 1 else 'have'} an error" * bool(errors)
    console.say(f"{pictures} in {settings.out}{bad}; see manifest.parquet.")
    return WITH_ERRORS if errors else OK
