"""Visitors' files: unguessable addresses, gone when the process is, whichever way it ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from filelock import FileLock

from sage.ui.server import files
from sage.ui.server.files import (
    clear_abandoned,
    clear_old,
    fresh_folder,
    home,
    open_workplace,
    workplace,
)

from .conftest import PROMPTS
from .test_server_lanes import ask, read

ROOT = Path(files.__file__).parents[3]
# The package's own __init__ would import torch, which takes longer than all the rest.
CHILD = """
import sys, tempfile, time, types
package = sys.modules["sage"] = types.ModuleType("sage")
package.__path__ = [sys.argv[2] + "/sage"]
tempfile.tempdir = sys.argv[1]
from sage.ui.server.files import end_on_sigterm, fresh_folder
end_on_sigterm()
(fresh_folder() / "picture.png").write_bytes(b"x")
print("ready", flush=True)
while True:
    time.sleep(0.05)
"""


@pytest.fixture
def child(tmp_path):
    """Starts a process that keeps a visitor's file below `tmp_path`."""
    started = []

    def start():
        process = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(tmp_path), str(ROOT)],
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def pictures(folder):
    return list(folder.rglob("picture.png"))


def test_files_are_gone_after_sigterm(child, tmp_path):
    process = child()
    assert len(pictures(tmp_path)) == 1
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 128 + signal.SIGTERM
    assert not pictures(tmp_path)
    assert not list(home(tmp_path).iterdir())


@pytest.mark.slow
def test_files_of_a_killed_process_go_at_the_next_start_and_those_of_others_stay(child, tmp_path):
    first, second = child(), child()
    first.kill()
    first.wait()
    assert len(pictures(tmp_path)) == 2
    child()
    assert len(pictures(tmp_path)) == 2  # the second's and the third's
    second.send_signal(signal.SIGTERM)
    second.wait(20)
    assert len(pictures(tmp_path)) == 1


def test_a_folder_whose_lock_is_held_is_left_alone(tmp_path):
    for name in ("held", "abandoned"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "held")
    with FileLock(tmp_path / f"held{files.LOCK}"):
        clear_abandoned(tmp_path)
    assert (tmp_path / "held").is_dir()
    assert (tmp_path / "link").is_symlink()
    assert not (tmp_path / "abandoned").exists()


def test_old_files_go_while_the_server_runs(tmp_path):
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "picture.png").write_bytes(b"x")
    os.utime(tmp_path / "old", (time.time() - 5000,) * 2)
    clear_old(tmp_path, 3600)
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_the_room_for_files_is_bounded(tmp_path):
    for age, name in enumerate(("newest", "middle", "oldest")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "upload.json").write_bytes(b"x" * 1000)
        os.utime(tmp_path / name, (time.time() - 60 * age,) * 2)
    clear_old(tmp_path, most=2500)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["middle", "newest"]
    clear_old(tmp_path, most=0)
    assert not list(tmp_path.iterdir())


def test_folders_are_for_this_user_only():
    for folder in (home(), workplace(), fresh_folder()):
        assert folder.stat().st_mode & 0o077 == 0
    assert fresh_folder().parent == workplace()
    assert len({fresh_folder().name for _ in range(50)}) == 50
    assert len(fresh_folder().name) >= 32


def test_somebody_elses_folder_is_not_used(tmp_path, monkeypatch):
    (tmp_path / "other").mkdir()
    (tmp_path / f"{files.PREFIX}-{os.getuid()}").symlink_to(tmp_path / "other")
    with pytest.raises(PermissionError):
        home(tmp_path)


def urls(server):
    """Addresses of the pictures of one comparison."""
    event = ask(server, prompts=PROMPTS, steps=2).json()["event_id"]
    (kind, data) = read(server, event)[-1]
    assert kind == "complete"
    return [item["image"]["url"] for side in data[:2] for item in side]


@pytest.mark.slow
def test_two_equal_runs_share_no_address(server):
    first, second = urls(server), urls(server)
    assert len({*first, *second}) == len(first) + len(second) == 16
    assert {Path(url).parent for url in first}.isdisjoint(Path(url).parent for url in second)
    for url in (first[0], second[-1]):
        picture = httpx.get(url)
        assert picture.headers["content-type"] == "image/png"
        assert picture.headers["x-content-type-options"] == "nosniff"


@pytest.mark.slow
def test_a_folder_of_files_cannot_be_listed(server):
    folder = urls(server)[0].rsplit("/", 1)[0]
    for address in (
        folder,
        f"{folder}/",
        f"{folder}/..",
        f"{folder}/..{files.LOCK}",
        f"{folder}/../..{files.LOCK}",
    ):
        assert httpx.get(address).status_code in (403, 404)


def test_a_workplace_is_locked_before_it_is_there(tmp_path, monkeypatch):
    """A process that begins at the same moment clears away what nobody has locked."""
    made = Path.mkdir

    def another_begins(folder, *arguments, **options):
        made(folder, *arguments, **options)
        if folder.parent == tmp_path:
            clear_abandoned(tmp_path)

    monkeypatch.setattr(Path, "mkdir", another_begins)
    assert open_workplace(tmp_path).is_dir()
