"""Where files are kept that are no part of the project."""

import tempfile
from pathlib import Path

from sage.core.places import cache_folder


def test_a_user_without_a_home_has_a_folder_too(monkeypatch):
    assert cache_folder() == Path.home() / ".cache" / "sage-studio"

    def nobody(cls):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", classmethod(nobody))
    assert cache_folder() == Path(tempfile.gettempdir()) / ".cache" / "sage-studio"
