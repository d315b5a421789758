"""How a program of ours imports large libraries."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def many_imports() -> Iterator[None]:
    """Within it, nothing is collected as garbage; what is there at its end never is.

    torch, diffusers and gradio make objects by the hundred thousand, which all stay, and Python
    would look through them again and again: 1.9 of the 7.3 seconds that the page's imports took.
    It is for programs; a library has no say in how its user's process collects garbage.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collecting:
            gc.enable()
