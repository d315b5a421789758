"""How a process that serves begins and ends: bounded log and memory, files that end with it."""

from contextlib import suppress
from typing import NoReturn

import gradio as gr

from sage.sd.allocator import MEBIBYTE, keep_memory
from sage.ui.server import logs
from sage.ui.server.files import end, end_on_sigterm, workplace

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


def block(demo: gr.Blocks) -> NoReturn:
    """Waits for Ctrl-C, and ends the process, whatever is being rendered."""
    with suppress(KeyboardInterrupt):  # pressed again while the server is closed
        demo.block_thread()
    end(0)
