"""How a process that serves begins: bounded log and memory, and files that end with it."""

import ctypes

from sage.ui.server import logs
from sage.ui.server.files import end_on_sigterm, workplace

# Of glibc's <malloc.h>: blocks above a threshold are mapped alone, and the number of heaps.
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8


def prepare_process() -> None:
    """Sets up log, memory, files and SIGTERM; before the page is built, in the main thread."""
    logs.configure()
    give_memory_back()
    end_on_sigterm()
    workplace()


def give_memory_back() -> bool:
    """Makes freed tensors leave the process; returns whether this C library can be told to.

    A run's steps are taken by many threads, and glibc keeps what each has freed in a heap of its
    own: with a model of Stable Diffusion's size, gigabytes that nothing uses any more.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # not glibc
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, 4 * 2**20) and mallopt(_M_ARENA_MAX, 2))
