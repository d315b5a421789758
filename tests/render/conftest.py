"""Small runs of a tiny real model, in a folder of their own."""

import contextlib
import json
from collections import Counter

import pytest
import torch

from sage.core.settings import Sampling
from sage.render.planning import silent
from sage.render.run import run
from sage.render.settings import RenderSettings

WORDS = ("fox", "dog", "cat", "owl", "car", "tree", "ship", "moon")
# The tiny text encoder is random: all its texts are near each other.
SAMPLING = {
    "tau_min": 0.5,
    "tau_max": 0.999999,
    "steps": 3,
    "guidance_scale": 2.0,
    "max_group_size": 3,
}


def texts(number):
    return [f"a {WORDS[n % 8]} {n // 8}" for n in range(number)]


class Quiet:
    """A console that keeps what is said, and counts what is finished."""

    def __init__(self, after=None):
        self.said, self.units, self.after = [], 0, after

    progress = staticmethod(silent)

    def say(self, sentence):
        self.said.append(sentence)

    def count(self, pictures, done, total):
        for _ in pictures:
            self.units += 1
            if self.after is not None:
                self.after(self.units)


@pytest.fixture
def rows():
    """A prompt file's rows; tests may add to them."""
    return [{"id": f"p{n}", "prompt": text, "seed": 40 + n} for n, text in enumerate(texts(24))]


@pytest.fixture
def render(tmp_path, tiny_folder, rows):
    """Renders the rows into a folder of a name, with changed settings."""

    def go(name="out", console=None, sampling=(), **changes):
        file = tmp_path / f"{changes.pop('file', 'prompts')}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        chosen = Sampling(**(SAMPLING | dict(sampling)))
        options = {"model": str(tiny_folder), "device": "cpu", "workers": 1, "unit": 6, "rows": 4}
        options["precision"] = "float32"  # the same on every machine
        options |= changes
        settings = RenderSettings(file, tmp_path / name, chosen, **options)
        counts = run(settings, console or Quiet())
        assert isinstance(counts, Counter)
        return tmp_path / name

    torch.set_num_threads(1)
    return go


def descendants(*names):
    """Processes that this one started, directly or not, whose command line holds all names."""
    import psutil

    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if all(name in " ".join(process.cmdline()) for name in names):
                found.append(process)
    return found


def workers():
    """Processes of a bulk run: forks of one that has imported everything."""
    found = descendants("forkserver")
    servers = {process.pid for process in found}
    return [process for process in found if process.ppid() in servers]


def content(folder):
    """Every file that a run leaves for its user, as bytes by name."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".render" not in path.parts
    }
