"""Where files for visitors lie: one folder a process, gone when it ends, or when the next begins.

Gradio's temporary pictures and the downloads of runs lie in it. Each run's files are in a folder
whose name cannot be guessed, so that an address says nothing about any other.
"""

import atexit
import os
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import NoReturn

from filelock import FileLock, Timeout

from sage.ui.server.limits import BOUNDS

PREFIX, LOCK = "sage-studio", ".lock"  # the lock lies beside the folder, out of reach


def home(parent: Path | None = None) -> Path:
    """The folder of all processes of this user.

    Raises:
        PermissionError: If somebody else made it.
    """
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    folder = (parent or Path(tempfile.gettempdir())) / f"{PREFIX}-{user}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if hasattr(os, "getuid") and (folder.is_symlink() or folder.stat().st_uid != os.getuid()):
        raise PermissionError(f"{folder} belongs to somebody else.")
    return folder


@cache
def workplace() -> Path:
    """This process's folder, made at the first call; gradio is told to use it.

    It must be called before gradio's components are made: each remembers the folder.
    """
    folder = open_workplace(home())
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    return folder


def open_workplace(parent: Path) -> Path:
    """A fresh folder that is removed with the process; those of processes that are gone go now."""
    clear_abandoned(parent)
    folder = parent / f"{os.getpid()}-{secrets.token_hex(8)}"
    lock = FileLock(folder.with_name(folder.name + LOCK))
    lock.acquire()  # first: a folder without a lock is one that a process beginning now clears away
    folder.mkdir(mode=0o700)
    atexit.register(_close, folder, lock, os.getpid())
    return folder


def _close(folder: Path, lock: FileLock, owner: int) -> None:
    if os.getpid() == owner:  # not in a process that was forked for a lease
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)


def clear_abandoned(parent: Path) -> None:
    """Removes folders whose process was killed: nobody holds their lock."""
    for folder in parent.iterdir():
        if not folder.is_dir() or folder.is_symlink():
            continue
        lock = FileLock(folder.with_name(folder.name + LOCK))
        try:
            lock.acquire(timeout=0)
        except (Timeout, OSError):
            continue
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)


def fresh_folder() -> Path:
    """A new folder in the workplace; its name is a secret of 192 bits."""
    folder = workplace() / secrets.token_urlsafe(24)
    folder.mkdir(mode=0o700)
    return folder


@contextmanager
def filled_folder() -> Iterator[Path]:
    """A new folder for the files of a run; if writing them fails, nothing of it is left."""
    folder = fresh_folder()
    try:
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def clear_old(
    folder: Path,
    seconds: float = BOUNDS.file_seconds,
    now: float | None = None,
    most: int = BOUNDS.files_bytes,
) -> None:
    """Removes what has lain in a workplace for too long, and beyond its room the oldest.

    Args:
        folder: The workplace.
        seconds: How long files can be downloaded.
        now: In seconds since 1970; by default, the moment.
        most: Room for all files, in bytes.
    """
    now = time.time() if now is None else now
    kept: list[tuple[float, int, Path]] = []
    with suppress(OSError):
        for item in folder.iterdir():
            with suppress(OSError):
                since = item.stat().st_mtime
                if now - since > seconds:
                    _remove(item)
                else:
                    kept.append((since, size_of(item), item))
    room = most
    for _, size, item in sorted(kept, reverse=True):
        room -= size
        if room < 0:
            with suppress(OSError):
                _remove(item)


def size_of(item: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    files = [item] if item.is_file() else [p for p in item.rglob("*") if p.is_file()]
    total = 0
    for file in files:
        with suppress(OSError):  # gone in the meantime
            total += file.stat().st_size
    return total


def _remove(item: Path) -> None:
    shutil.rmtree(item) if item.is_dir() else item.unlink()


def end_on_sigterm() -> None:
    """Makes SIGTERM an end at which the workplace is removed."""
    signal.signal(signal.SIGTERM, lambda *_: end(128 + signal.SIGTERM))


def end(code: int) -> NoReturn:
    """Ends this process as usual, but for the interpreter, which is not taken down.

    torch's threads may be at work, and abort then.
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
