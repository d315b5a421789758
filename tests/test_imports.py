"""Architecture as a test: what a fresh interpreter loads for the core."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CORE = (
    "grouping",
    "plan",
    "cost",
    "solver",
    "sampling",
    "losses",
    "metrics",
    "toy",
    "timing",
    "request",
)
FOREIGN = ("gradio", "plotly", "diffusers", "transformers", "peft", "accelerate", "PIL", "tqdm")


def loaded_by(code):
    """Names of the modules that a fresh interpreter holds after some code."""
    script = f"{code}\nimport sys\nprint('\\n'.join(sys.modules))"
    run = [sys.executable, "-c", script]
    return set(
        subprocess.run(run, capture_output=True, text=True, cwd=ROOT, check=True).stdout.split()
    )


@pytest.mark.parametrize("modules", [("",), tuple(f".{name}" for name in CORE)])
def test_the_core_loads_nothing_but_torch(modules):
    loaded = loaded_by("; ".join(f"import sage{name}" for name in modules))
    assert not (loaded - loaded_by("import torch")) & set(FOREIGN)


def test_the_pipeline_does_not_load_the_page():
    loaded = loaded_by("import sage.jobs.compare")
    assert "diffusers" in loaded
    assert not {"gradio", "plotly", "sage.ui"} & loaded


def test_only_the_page_imports_gradio_and_plotly():
    for path in (ROOT / "sage").rglob("*.py"):
        if "ui" not in path.relative_to(ROOT / "sage").parts:
            text = path.read_text()
            assert "import gradio" not in text, path
            assert "import plotly" not in text, path
