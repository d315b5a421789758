"""How a process that serves begins: bounded log and memory, and files that end with it."""

from sage.sd.allocator import MEBIBYTE, keep_memory
from sage.ui.server import logs
from sage.ui.server.files import end_on_sigterm, workplace

# A run's steps are taken by many threads, each with a heap of its own: with a model of Stable
# Diffusion's size they would keep gigabytes that nothing uses any more. The built-in model's
# largest block of a call is 10 MiB; mapped alone, such blocks are a fifth of eight prompts' time.
MEMORY = {"kept": 64 * MEBIBYTE, "largest": 16 * MEBIBYTE, "heaps": 2}


def prepare_process() -> None:
    """Sets up log, memory, files and SIGTERM; before the page is built, in the main thread."""
    logs.configure()
    keep_memory(**MEMORY)
    end_on_sigterm()
    workplace()
