"""`python -m sage`: says at once what there is, and runs it."""

import subprocess
import sys
import time
from importlib import import_module
from importlib.util import find_spec

import pytest

from sage.__main__ import COMMANDS, main
from tests.test_imports import ROOT, loaded_by


def run(*words, code=0):
    """What a command prints, in a process of its own."""
    quiet = {"cwd": ROOT, "capture_output": True, "text": True, "timeout": 120}
    done = subprocess.run([sys.executable, "-m", *words], check=False, **quiet)
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def test_help_names_every_command_and_loads_nothing(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert [name for name in COMMANDS if f"  {name}  " in text] == [
        *("demo", "render", "train", "study", "deploy")
    ]
    loaded = loaded_by("import sage.__main__")
    assert not {"torch", "numpy", "diffusers", "gradio"} & loaded


@pytest.mark.slow
@pytest.mark.rehearsal  # a bound of seconds; that nothing heavy is loaded is held above, always
def test_help_takes_no_time():
    start = time.process_time()
    used = loaded_by("import sage.__main__, time; assert time.process_time() < 0.5")
    assert "sage.__main__" in used
    assert time.process_time() - start < 0.5


@pytest.mark.parametrize("words", [[], ["paint"], ["--version"]])
def test_another_command_is_refused_with_those_there_are(words, capsys):
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2
    assert "python -m sage" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_leads_to_a_function(name):
    module, _, function = COMMANDS[name].entry.partition(":")
    assert callable(getattr(import_module(module), function))


@pytest.mark.parametrize("name", ["train", "study", "deploy"])
def test_a_command_gets_its_arguments_and_gives_its_exit_code(name, capsys):
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0
    assert "usage: python -m sage" in capsys.readouterr().out
    with pytest.raises(SystemExit) as end:
        main([name, "--no-such-flag"])
    assert end.value.code == 2


@pytest.mark.slow
def test_the_page_is_a_command():
    assert "--port" in run("sage", "demo", "--help")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "word"),
    [
        ("sage.training", "--loss"),
        ("sage.experiments", "is now python -m sage study"),
        ("sage.world.train", "--minutes"),
        ("sage.deploy", "--dry-run"),
        ("sage.studies", "--list"),
    ],
)
def test_the_names_of_earlier_versions_still_run(module, word):
    assert find_spec(module) is not None
    assert word in run(module, "--help")


@pytest.mark.slow
def test_the_public_names_are_there_and_loaded_when_asked_for():
    assert "torch" not in loaded_by("import sage")
    code = "import sage; assert all(hasattr(sage, n) and n in dir(sage) for n in sage.__all__)"
    assert "diffusers" in loaded_by(code)
    assert "diffusers" not in loaded_by("from sage import Plan, group_prompts")
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        _ = import_module("sage").nothing_of_the_kind
