"""What the log says: bounded in length and in number, and nothing that a visitor typed.

A message is one line of limited length. A traceback shows where, not with which values: its last
line names the kind of error and what is left of its message without quoted text. Repeats are
counted instead of written.
"""

import logging
import re
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from types import TracebackType

LINE, FRAMES = 500, 12  # characters of a message; frames of a traceback
REPEATS, PER_SECONDS, KINDS = 5, 60.0, 500
QUOTED = re.compile(r"""'[^'\n]*'|"[^"\n]*"|`[^`\n]*`|\[[^\]\n]*\]|\{[^}\n]*\}""")
FOREIGN = ("uvicorn.error", "asyncio", "gradio", "httpx")
OWN_HANDLERS = ("diffusers", "transformers", "huggingface_hub")


class Bounded(logging.Filter):
    """Shortens records, strips what they quote, and stops repeats.

    Args:
        clock: Seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._seen: OrderedDict[tuple[str, int, str], tuple[float, int]] = OrderedDict()
        self._lock = Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is written; one that is has been shortened."""
        left_out = self._repeats(record)
        if left_out is None:
            return False
        words = one_line(record.getMessage())
        if left_out:
            words += f" ({left_out} more like this were not written)"
        record.msg, record.args = words, ()
        if record.exc_info and record.exc_info[1] is not None:
            record.exc_text = where(record.exc_info[1])
        record.exc_info = record.stack_info = None
        return True

    def _repeats(self, record: logging.LogRecord) -> int | None:
        """How many like this one were left out before it; None if it is left out too."""
        kind = record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else ""
        key, now = (record.name, record.lineno, kind), self._clock()
        with self._lock:
            since, count = self._seen.pop(key, (now, 0))
            left_out = max(0, count - REPEATS)
            if now - since > PER_SECONDS:
                since, count = now, 0
            self._seen[key] = (since, count + 1)
            while len(self._seen) > KINDS:
                self._seen.popitem(last=False)
        if count >= REPEATS:
            return None
        return left_out if count == 0 else 0


def one_line(text: str) -> str:
    """A text on one line of limited length, with control characters as spaces."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * LINE]).split())
    return line if len(line) <= LINE else line[: LINE - 2] + " …"


def kind_of(error: BaseException) -> str:
    """An error's kind and its message without what it quotes: that may be a visitor's."""
    message = one_line(QUOTED.sub("…", str(error)[:4000]))[:120]
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def where(error: BaseException) -> str:
    """Where an error and those it came from happened; files, lines and functions, no values."""
    lines: list[str] = []
    chain: BaseException | None = error
    for _ in range(3):
        if chain is None:
            break
        lines += [*_frames(chain.__traceback__), f"  {kind_of(chain)}"]
        chain = chain.__cause__ or chain.__context__
    return "\n".join(lines)


def _frames(trace: TracebackType | None) -> list[str]:
    frames = traceback.extract_tb(trace)[-FRAMES:]
    return [f"  {frame.filename}:{frame.lineno} in {frame.name}" for frame in frames]


def configure() -> None:
    """Sets up the log of a process that serves: warnings and errors, on standard error."""
    bounded = Bounded()
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handler.addFilter(bounded)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.captureWarnings(True)  # which would go to standard error as they are
    for name in FOREIGN:
        logging.getLogger(name).addFilter(bounded)
    for name in OWN_HANDLERS:  # some of them also pass on what they have written
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
