"""What is taken home holds what the page showed, and the script repeats it."""

import os
import re
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sage.core.plan import independent_plan, shared_plan
from sage.jobs.compare import compare
from sage.jobs.job import prepare
from sage.jobs.models import builtin_model, load_model, stable_diffusion_v1_5
from sage.jobs.request import Request, parse_request
from sage.ui.export.downloads import remove_run, save_run
from sage.ui.export.lines import LINE, python_lines
from sage.ui.export.links import read_record
from sage.ui.html.palette import group_marks
from sage.ui.html.sheet import MARGIN, SMALL, TEXT, WIDTH, Block, Shot, draw_sheet, wrap

ROOT = Path(__file__).resolve().parents[2]
PROMPTS = "a fox in the snow\na rabbit in the snow\na pizza on a wooden table"


@pytest.fixture(scope="module")
def taken():
    """A comparison of few steps on the built-in model, and its files."""
    model = load_model(builtin_model(), "cpu")
    request = parse_request(PROMPTS, steps=4, share_ratio=0.5, seed=3, defaults=model.spec)
    *_, done = compare(prepare(model, request))
    files = save_run(done, model.spec)
    yield done, files
    remove_run(files)


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB"), dtype=int)


def run_script(source, folder):
    (folder / "assets").symlink_to(ROOT / "assets")
    env = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    run = [sys.executable, "-c", source]
    return subprocess.run(run, cwd=folder, env=env, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_script_renders_the_pictures_of_the_page(taken, tmp_path):
    _, files = taken
    ran = run_script(files.lines.read_text("utf-8"), tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "saved" in ran.stdout
    made = sorted(path.name for path in tmp_path.glob("*.png"))
    assert len(made) == 6
    for name in made:
        # The same arithmetic in another process: at most a rounding apart.
        assert np.abs(pixels(tmp_path / name) - pixels(files.folder / name)).max() <= 1


def test_the_record_asks_for_the_same_again(taken):
    done, files = taken
    read = read_record(files.record.read_text("utf-8"), {"emoji-scenes": builtin_model()})
    assert read.problem == ""
    assert read.values.pop("model") == "emoji-scenes"
    assert Request.from_dict(read.values) == done.request


def test_the_archive_holds_everything(taken):
    _, files = taken
    with zipfile.ZipFile(files.archive) as box:
        names = box.namelist()
    pairs = [path.name for pair in files.pairs for path in pair]
    assert sorted(names) == sorted([*pairs, "sage-grid.png", "sage-record.json", "sage-run.py"])


@pytest.mark.slow
def test_the_sheet_shows_every_picture(taken):
    done, files = taken
    sheet = Image.open(files.sheet)
    assert sheet.width == WIDTH
    # Two prompts a row, so three prompts make two rows of square pictures under their captions.
    assert sheet.height > WIDTH / 2
    colours = {colour for _, colour in sheet.getcolors(sheet.width * sheet.height)}
    for mark in group_marks(done.grouping.groups):
        assert tuple(int(mark.color[i : i + 2], 16) for i in (1, 3, 5)) in colours


@pytest.mark.parametrize("length", [1, 60, 300])
def test_a_long_prompt_is_wrapped_and_never_cut(length):
    prompt = ("word " * 100)[:length].strip()
    assert " ".join(wrap(prompt, TEXT, 600)) == prompt
    long_word = "x" * length
    assert "".join(wrap(long_word, TEXT, 600)) == long_word


def test_letters_can_be_read_on_a_phone():
    assert min(TEXT, SMALL) * 390 / WIDTH >= 10


@pytest.mark.parametrize("count", [1, 2, 5, 16])
def test_nothing_on_a_sheet_leaves_it(count):
    image = Image.new("RGB", (8, 8), "red")
    blocks = [Block("a prompt " * 9, (Shot(image, "words"),) * 2)] * count
    sheet = draw_sheet("Title", ["notes"], blocks, columns=2)
    edge = np.asarray(sheet)
    for margin in (edge[:20], edge[-20:], edge[:, :20], edge[:, -20:]):
        assert (margin == 255).all()
    assert sheet.height > MARGIN


def test_letters_that_are_not_latin_are_drawn():
    blank = draw_sheet("T", [], [Block("", (Shot(Image.new("RGB", (8, 8)), ""),))], columns=1)
    drawn = draw_sheet("T", [], [Block("лиса", (Shot(Image.new("RGB", (8, 8)), ""),))], columns=1)
    assert drawn.height > blank.height


# -- lines ---------------------------------------------------------------------------------------


GROUPS = ((0, 1), (2,))
PLANS = {
    "plain": shared_plan(GROUPS, 7, 3),
    "guarded": shared_plan(GROUPS, 7, [2, 0]),
    "split up": independent_plan(3, 7),
}


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"scheduler": "euler"},
        {"trunk": "medoid", "fresh_noise": 0.2},
        {"trained": True},
        {"prompts": ('it\'s "quoted" \\ back', "狐と雪", "a")},
    ],
)
@pytest.mark.parametrize("kind", PLANS)
@pytest.mark.parametrize("spec", [builtin_model(), stable_diffusion_v1_5()])
def test_the_lines_are_python_and_hold_every_setting(change, kind, spec):
    request = replace(parse_request(PROMPTS, steps=7, seed=5), **change)
    source = python_lines(request, spec, PLANS[kind], GROUPS, device="cuda", dtype="float16")
    compile(source, "lines", "exec")
    for prompt in request.prompts:
        assert repr(prompt)[1:-1] in source or prompt in source
    for name, value in change.items():
        if name not in ("prompts", "trained"):
            assert str(value) in source
    assert all(len(line) <= LINE + 8 for line in source.splitlines())
    assert ("share_ratio=0.4" in source) == (kind == "plain")
    if spec.revision:
        assert spec.revision in source
        assert spec.clip_revision in source


def test_the_plain_lines_are_short():
    request = parse_request(PROMPTS, steps=7)
    source = python_lines(request, builtin_model(), PLANS["plain"], GROUPS)
    assert len(source.splitlines()) <= 22
    assert not re.search(r"\bNone\b|torch|Plan", source)


def test_a_plan_made_on_the_way_is_written_out():
    request = parse_request(PROMPTS, steps=7, sharing="tree")
    source = python_lines(request, builtin_model(), PLANS["guarded"], GROUPS)
    written = source[source.index("plan = Plan(") : source.index("shared = ")]
    found = {}
    exec("from sage.core.plan import Plan, Segment\n" + written, found)
    assert found["plan"] == PLANS["guarded"]
