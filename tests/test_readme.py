"""What stands in README and Spacefile is true: code runs, heads are valid, links lead somewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text("utf-8")
CONTRIBUTING = (ROOT / ".github" / "CONTRIBUTING.md").read_text("utf-8")
NOTES = (ROOT / "assets" / "results" / "NOTES.md").read_text("utf-8")
HEAD = yaml.safe_load(README.split("---")[1])
SPACE = yaml.safe_load((ROOT / "Spacefile").read_text("utf-8"))

# The keys of Spacefile v0 (deta/space-cli, internal/spacefile/schemas/spacefile.schema.json).
TOP_KEYS = {"v", "icon", "app_name", "auto_pwa", "micros"}
MICRO_KEYS = {
    *("name", "src", "engine", "primary", "path", "serve", "commands", "include", "run", "dev"),
    *("presets", "public_routes", "public", "provide_actions", "actions"),
}
ENGINES = {
    *("static", "react", "svelte", "vue", "next", "nuxt", "svelte-kit"),
    *("python3.9", "python3.8", "nodejs16", "custom"),
}
COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}


def code_blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.mark.slow
def test_the_library_example_runs(tmp_path):
    (example,) = [block for block in code_blocks("python") if "SagePipeline" in block]
    assert len([line for line in example.splitlines() if line.strip()]) <= 10
    (more,) = [block for block in code_blocks("python") if "merge_lora" in block]
    example += more + "print(len(images), 'in four steps')\n"  # the README goes on from there
    (tmp_path / "assets").symlink_to(ROOT / "assets")
    env = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    run = [sys.executable, "-c", example]
    done = subprocess.run(run, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"saved \d+% of the evaluations", done.stdout)
    assert len(list(tmp_path.glob("*.png"))) == 3
    assert "3 in four steps" in done.stdout


def test_the_two_commands_name_files_that_exist():
    commands = "\n".join(code_blocks("bash"))
    assert "pip install -r requirements.txt && python app.py" in commands
    assert "pip install -r tests/requirements.txt && pytest" in commands
    for name in ("requirements.txt", "tests/requirements.txt", "app.py"):
        assert (ROOT / name).is_file()


PAGES = (
    "README.md",
    ".github/CONTRIBUTING.md",
    "assets/results/NOTES.md",
    "assets/results/README.md",
    "sage/training/README.md",
    "sage/render/README.md",
    "sage/ui/API.md",
)


@pytest.mark.parametrize("page", PAGES)
def test_every_relative_link_leads_to_a_file(page):
    path = ROOT / page
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", path.read_text("utf-8"))
    for link in links:
        assert (path.parent / link).exists(), link
    assert links or page != "README.md"


def test_the_readme_is_read_in_five_minutes():
    text = README.split("---", 2)[2]
    assert len(text.split()) < 1300  # at 260 words a minute


def test_everything_on_the_map_exists_and_every_folder_is_on_it():
    block = CONTRIBUTING.split("## Map of the house")[1].split("```")[1]
    for name in re.findall(r"\b\w+\.py\b", block):
        assert list(ROOT.glob(f"sage/**/{name}")) or (ROOT / name).is_file(), name
    for name in re.findall(r"\b(\w+)/", block):
        assert list(ROOT.glob(f"**/{name}/")), name
    for folder in (ROOT / "sage").iterdir():
        if folder.is_dir() and (folder / "__init__.py").is_file():
            assert f"{folder.name}/" in block, folder.name


def test_every_line_of_what_none_of_the_others_has_names_its_code_and_its_study():
    from sage.studies import STUDIES

    section = NOTES.split("## What none of the others has")[1].split("\n## ")[0]
    lines = [line.split("|")[2] for line in section.splitlines() if line.startswith("| ")][2:]
    assert len(lines) == 11
    for line in lines:
        named = re.findall(r"`([^`]+)`", line)
        assert named, line
        for name in named:
            assert name in STUDIES or (ROOT / name).exists(), name
            assert name not in STUDIES or (ROOT / f"assets/results/{name}.json").is_file(), name


def test_the_head_is_what_spaces_read():
    assert HEAD["sdk"] == "gradio"
    assert HEAD["app_file"] == "app.py"
    assert len(HEAD["short_description"]) <= 60
    assert {HEAD["colorFrom"], HEAD["colorTo"]} <= COLOURS
    assert HEAD["license"] == "apache-2.0"
    assert "2509.15865" in README


def test_the_head_agrees_with_the_requirements():
    wanted = (ROOT / "requirements.txt").read_text()
    low, high = re.search(r"^gradio>=([\d.]+),<(\d+)$", wanted, re.MULTILINE).groups()
    version = [int(part) for part in HEAD["sdk_version"].split(".")]
    assert version[:2] >= [int(part) for part in low.split(".")]
    assert version[0] < int(high)


def test_the_head_names_the_models_of_the_list():
    from sage.jobs.models import stable_diffusion_v1_5

    spec = stable_diffusion_v1_5()
    assert HEAD["models"] == [spec.source, spec.clip_source]


def test_the_spacefile_is_valid():
    assert set(SPACE) <= TOP_KEYS
    assert SPACE["v"] == 0
    assert len(SPACE["app_name"]) <= 12
    assert Image.open(ROOT / SPACE["icon"]).size == (512, 512)
    assert 1 <= len(SPACE["micros"]) <= 5
    for micro in SPACE["micros"]:
        assert set(micro) <= MICRO_KEYS
        assert {"name", "src", "engine"} <= set(micro)
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", micro["name"])
        assert micro["engine"] in ENGINES
        assert (ROOT / micro["src"]).is_dir()
        assert not ({"public", "public_routes"} <= set(micro))
        assert "serve" not in micro
        for name in micro["include"]:
            assert (ROOT / name).exists(), name


def test_the_spacefile_agrees_with_the_readme():
    (micro,) = SPACE["micros"]
    assert micro["run"] == f"python {HEAD['app_file']}"
    assert SPACE["app_name"] == HEAD["title"]
    assert micro["commands"] == ["pip install -r requirements.txt"]


def test_the_top_level_holds_what_was_agreed():
    agreed = {"app.py", "sage", "assets", "tests", "requirements.txt", "README.md", "Spacefile"}
    listing = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listing.returncode:
        pytest.fail("not a git checkout")
    names = {line.split("/")[0] for line in listing.stdout.splitlines()}
    assert {n for n in names if not n.startswith(".")} - {"LICENSE"} <= agreed
