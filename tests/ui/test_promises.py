"""The table of promises names tests that exist."""

import re

from .visitors import ROOT

FOLDER = ROOT / "tests" / "ui"
ROWS = [
    [cell.strip() for cell in line[1:-1].split("|")]
    for line in (ROOT / ".github" / "PROMISES.md").read_text("utf-8").splitlines()
    if line.startswith("| ") and not line.endswith("| | |")
]


def test_every_promise_names_tests_that_exist():
    file, checked = None, 0
    for promise, _, tests in ROWS[2:]:
        named = re.findall(r"`([^`]+)`", tests)
        assert named or tests.startswith("…"), promise
        for name in named:
            if name.endswith(".py"):
                file = (FOLDER.parent if "/" in name else FOLDER) / name
                assert file.is_file(), promise
            else:
                words = re.escape(name)
                assert re.search(rf"^def test_\w*{words}", file.read_text("utf-8"), re.M), name
            checked += 1
    assert checked > 30
