"""How glibc hands out memory to a process that computes on a CPU.

By itself it gives memory back as soon as it is free and takes it again for the next layer, whose
pages the system has to clear: a seventh of a call of eight passes of a small model, more where
large blocks are mapped alone. Kept without a bound, every thread's heap would hold what it needed
once. The settings are the process's, so a library never makes them by itself.
"""

import ctypes

MEBIBYTE = 2**20
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # of <malloc.h>


def keep_memory(kept: int, largest: int, heaps: int | None = None) -> bool:
    """Keeps freed memory for the next call, within bounds; returns whether this C library can.

    Args:
        kept: Bytes at the end of each heap that stay with the process.
        largest: Blocks of more bytes are mapped alone and given back at once; glibc's own most
            is 32 MiB.
        heaps: Heaps that threads share; glibc has eight a core.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # not glibc
        return False
    options = {_TRIM_THRESHOLD: kept, _MMAP_THRESHOLD: largest}
    options |= {} if heaps is None else {_ARENA_MAX: heaps}
    taken = [bool(mallopt(option, value)) for option, value in options.items()]
    return all(taken)
