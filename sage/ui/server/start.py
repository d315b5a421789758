"""How a process that serves begins: a log that is bounded, and files that end with it."""

import ctypes
import sys

from sage.ui.server import logs
from sage.ui.server.files import end_on_sigterm, workplace

_M_ARENA_MAX, ARENAS = -8, 2  # of mallopt(3)


def prepare_process() -> None:
    """Sets up log, files, memory and SIGTERM; before the page is built, in the main thread."""
    logs.configure()
    end_on_sigterm()
    share_arenas()
    workplace()


def share_arenas() -> None:
    """Lets threads share freed memory, where the C library is glibc.

    It gives each thread an arena of its own, and rendering moves from one of the server's threads
    to the next: each would keep what a run needed at most.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(_M_ARENA_MAX, ARENAS)
