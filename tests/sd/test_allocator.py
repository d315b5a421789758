"""Memory that a process keeps for its next call; in processes of their own, whose setting it is."""

import platform
import subprocess
import sys

import pytest

from sage.render import worker
from sage.ui.server import start

COUNT = """
import resource, sys
import torch
from sage.sd.allocator import keep_memory
kept, largest, heaps, size, number = map(int, sys.argv[1:])
assert keep_memory(kept, largest, heaps or None)
def layers():
    return [torch.ones(size // 4) for _ in range(number)]
for _ in range(3):
    layers()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(25):
    layers()
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults / (25 * number * size / resource.getpagesize()))
"""


def cleared_again(kept, largest, heaps, size, number):
    """The share of the pages of 25 calls that the system had to hand out anew."""
    given = [str(value) for value in (kept, largest, heaps or 0, size, number)]
    ran = subprocess.run([sys.executable, "-c", COUNT, *given], capture_output=True, check=True)
    return float(ran.stdout)


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
@pytest.mark.parametrize(
    ("memory", "size", "number"),
    [
        (start.MEMORY, 3 * 2**20, 8),
        (start.MEMORY, 10 * 2**20, 3),
        (worker.MEMORY, 24 * 2**20, 4),
    ],
    ids=["page", "page, large", "bulk"],
)
def test_memory_of_a_call_is_kept_for_the_next(memory, size, number):
    kept, largest, heaps = memory["kept"], memory["largest"], memory.get("heaps")
    assert cleared_again(kept, largest, heaps, size, number) < 0.1


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_larger_blocks_of_the_page_leave_it_at_once():
    memory = start.MEMORY
    size = 2 * memory["largest"]
    assert cleared_again(memory["kept"], memory["largest"], memory["heaps"], size, 4) > 0.9
