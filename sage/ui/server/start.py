"""How a process that serves begins: a log that is bounded, and files that end with it."""

from sage.ui.server import logs
from sage.ui.server.files import end_on_sigterm, workplace


def prepare_process() -> None:
    """Sets up log, files and SIGTERM; before the page is built, in the main thread."""
    logs.configure()
    end_on_sigterm()
    workplace()
