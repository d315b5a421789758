"""The examples of the API run against the page, and do what is said about them."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sage.jobs.models import builtin_model
from sage.ui.export.links import read_link

SECTION = (Path(__file__).resolve().parents[2] / "sage" / "ui" / "API.md").read_text("utf-8")
ADDRESS = "http://127.0.0.1:7860"


def block(language, server):
    (found,) = re.findall(rf"```{language}\n(.*?)```", SECTION, re.DOTALL)
    assert ADDRESS in found
    return found.replace(ADDRESS, server)


@pytest.mark.slow
def test_the_python_example_runs(server, tmp_path):
    example = block("python", server).replace("steps=20", "steps=2")
    run = [sys.executable, "-c", example]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "[[0" in done.stdout
    assert "'shared'" in done.stdout
    assert (tmp_path / "fox.webp").stat().st_size > 0


def test_the_shell_example_runs(server, tmp_path):
    run = ["bash", "-euo", "pipefail", "-c", block("bash", server)]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "event: complete" in done.stdout
    (answer,) = json.loads(re.search(r"^data: (.*)$", done.stdout, re.MULTILINE)[1])
    assert answer["evaluations"]["independent"] == 60


def test_the_address_in_the_text_is_a_link():
    (query,) = re.findall(r"`/(\?v=2[^`#]*)#studio`", SECTION)
    read = read_link(query, {"emoji-scenes": builtin_model()})
    assert read.problem == ""
    assert read.values["share_ratio"] == pytest.approx(0.4)
    assert len(read.values["prompts"]) == 2
