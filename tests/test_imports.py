"""Architecture as a test: what each folder may import, and what a fresh interpreter loads."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOREIGN = ("gradio", "plotly", "diffusers", "transformers", "peft", "accelerate", "PIL", "tqdm")

# What stands in a folder may import these folders of the library, and itself.
MAY_IMPORT = {
    "core": set(),
    "sd": {"core"},
    "jobs": {"core", "sd"},
    "training": {"core", "sd", "jobs"},
    "world": {"core", "sd", "jobs", "training"},
    "render": {"core", "sd", "jobs", "training"},
    "studies": {"core", "sd", "jobs", "training", "world"},
    "ui": {"core", "sd", "jobs"},
}
# Libraries that a folder must do without.
WITHOUT = {
    "core": {*FOREIGN, "spaces", "ray", "pyarrow"},
    "sd": {"gradio", "plotly", "accelerate"},
    "jobs": {"gradio", "plotly", "transformers", "peft", "accelerate"},
    "training": {"gradio", "plotly"},
    "world": {"gradio", "plotly"},
    "render": {"gradio", "plotly"},
    "studies": {"gradio", "plotly"},
    "ui": {"diffusers", "transformers", "peft", "accelerate"},
}


def modules(folder):
    return sorted((ROOT / "sage" / folder).rglob("*.py"))


def imports(path):
    """Names of all modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            if node.module == "sage":
                yield from (f"sage.{alias.name}" for alias in node.names)


def loaded_by(code):
    """Names of the modules that a fresh interpreter holds after some code."""
    script = f"import gc; gc.disable()\n{code}\nimport os, sys\n"
    script += "print('\\n'.join(sys.modules), flush=True)\nos._exit(0)"
    run = [sys.executable, "-c", script]
    return set(
        subprocess.run(run, capture_output=True, text=True, cwd=ROOT, check=True).stdout.split()
    )


def test_every_folder_has_its_rule():
    folders = {p.parent.name for p in (ROOT / "sage").glob("*/__init__.py")}
    assert folders - {"experiments"} == set(MAY_IMPORT) == set(WITHOUT)


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_imports_go_one_way(folder):
    allowed = MAY_IMPORT[folder] | {folder}
    for path in modules(folder):
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "sage" and len(parts) > 1 and (ROOT / "sage" / parts[1]).is_dir():
                assert parts[1] in allowed, f"{path.relative_to(ROOT)} imports {name}"
            assert parts[0] not in WITHOUT[folder], f"{path.relative_to(ROOT)} imports {name}"


# Inside the page, where the files that lie in no folder but these are for everybody.
PAGE_MAY_IMPORT = {
    "html": set(),
    "server": {"html"},
    "export": {"html", "server"},
    "studio": {"html", "server", "export"},
    "explore": {"html", "server", "export"},
    "lesson": {"html", "server"},
}
TOP_OF_THE_PAGE = {"demo", "api", "travel"}


@pytest.mark.parametrize("folder", PAGE_MAY_IMPORT)
def test_the_page_is_built_from_pieces_that_do_not_know_it(folder):
    for path in modules(f"ui/{folder}"):
        for name in imports(path):
            part = (*name.split("."), "", "")[2] if name.startswith("sage.ui") else ""
            where = f"{path.relative_to(ROOT)} imports {name}"
            if part in PAGE_MAY_IMPORT:
                assert part in PAGE_MAY_IMPORT[folder] | {folder}, where
            assert part not in TOP_OF_THE_PAGE, where


def test_importing_the_library_loads_nothing():
    loaded = loaded_by("import sage")
    assert not loaded & {*FOREIGN, "torch", "numpy"}


@pytest.mark.slow
def test_the_core_loads_nothing_but_torch():
    names = [p.stem for p in modules("core") if p.stem != "__init__"]
    loaded = loaded_by("; ".join(f"import sage.core.{name}" for name in names))
    assert not (loaded - loaded_by("import torch")) & set(FOREIGN)


@pytest.mark.slow
def test_the_pipeline_does_not_load_the_page():
    loaded = loaded_by("import sage.jobs.compare")
    assert "diffusers" in loaded
    assert not {"gradio", "plotly", "sage.ui", "sage.world"} & loaded


def test_what_the_library_offers_can_be_loaded_by_name():
    import sage

    for name in sage.__all__:
        assert getattr(sage, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'sorcery'"):
        sage.sorcery  # noqa: B018


@pytest.mark.slow
def test_bulk_runs_load_neither_the_page_nor_ray():
    loaded = loaded_by("import sage.render.run, sage.render.command, sage.render.cluster")
    assert "pyarrow" in loaded
    assert not {"gradio", "plotly", "ray", "sage.ui", "sage.studies", "sage.world"} & loaded


def test_the_register_of_a_cluster_starts_at_once():
    assert "torch" not in loaded_by("import sage.render.register")


def test_the_help_of_bulk_runs_loads_no_model_library():
    assert not {"diffusers", "transformers", "pyarrow"} & loaded_by("import sage.render.settings")
