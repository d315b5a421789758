"""Where files are kept that are no part of the project. Knows only folders."""

import tempfile
from pathlib import Path


def cache_folder() -> Path:
    """The user's own; below the system's folder for such files where the user has no home."""
    try:
        home = Path.home()
    except RuntimeError:  # a container's user without a name
        home = Path(tempfile.gettempdir())
    return home / ".cache" / "sage-studio"
