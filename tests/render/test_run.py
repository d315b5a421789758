"""What a run leaves in its folder, and that nothing changes it."""

import errno
import hashlib
import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from huggingface_hub import constants as hub_constants
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from PIL import Image
from safetensors.torch import load_file, save_file

from sage.core.plan import independent_plan, shared_plan
from sage.core.settings import Sampling
from sage.jobs import conditions, models
from sage.render import local
from sage.render import run as run_module
from sage.render import store as store_module
from sage.render.command import Unbroken, main
from sage.render.settings import RenderSettings, differences
from sage.render.store import SCHEMA, Store, StoreError
from sage.render.work import DIED, Unit, failed
from sage.render.worker import Recipe, Worker
from sage.sd.pipeline import SagePipeline

from .conftest import Quiet, content

pytestmark = pytest.mark.slow


def manifest(folder):
    return pq.read_table(folder / "manifest.parquet").to_pylist()


def test_every_row_has_its_picture_and_its_line(render, rows):
    folder = render()
    lines = manifest(folder)
    assert [line["id"] for line in lines] == [row["id"] for row in rows]
    assert [line["row"] for line in lines] == list(range(1, len(rows) + 1))
    for line, row in zip(lines, rows, strict=True):
        assert (line["prompt"], line["seed"], line["error"]) == (row["prompt"], row["seed"], None)
        data = (folder / line["file"]).read_bytes()
        assert line["file"] == f"pictures/{row['id']}.png"
        assert hashlib.sha256(data).hexdigest() == line["sha256"]
        with Image.open(folder / line["file"]) as picture:
            assert (picture.format, picture.mode, picture.size) == ("PNG", "RGB", (16, 16))
            assert not picture.info.keys() - {"dpi"}  # nothing in it depends on time or place
    assert len({line["sha256"] for line in lines}) > len(lines) / 2
    assert max(line["group"] for line in lines) < len(rows) - 1  # some share


def test_a_picture_is_that_of_the_pipeline(render, rows, tiny_folder):
    folder = render(unit=100, rows=32)
    lines = manifest(folder)
    pipe = SagePipeline.from_pretrained(tiny_folder)
    groups = {}
    for n, line in enumerate(lines):
        groups.setdefault(line["group"], []).append(n)
    order = sorted(groups.values(), key=min)
    output = pipe(
        [line["prompt"] for line in lines],
        groups=order,
        seeds=[line["seed"] for line in lines],
        num_inference_steps=3,
        guidance_scale=2.0,
    )
    for line, image in zip(lines, output.images, strict=True):
        with Image.open(folder / line["file"]) as picture:
            difference = torch.tensor(list(picture.tobytes())) - torch.tensor(list(image.tobytes()))
        assert difference.abs().max() <= 1  # rows stand in another order in the batch
    assert sum(line["nfe"] for line in lines) == pytest.approx(output.cost.evaluations)
    # The negative prompt is encoded once for many pictures, and not counted.
    spent = output.cost.flops.total - pipe.flops.text_encoder
    assert sum(line["flops"] for line in lines) == pytest.approx(spent, rel=1e-6)


@pytest.mark.parametrize("scheduler", ["ddim", "heun", "pndm"])
def test_the_speed_is_measured_on_runs_that_succeed(tiny_folder, scheduler):
    recipe = Recipe(str(tiny_folder), None, Sampling(steps=3, scheduler=scheduler), "float32", 4, 1)
    worker = Worker(recipe, "cpu")
    for steps in (2, 4):
        rendered = worker.render(run_module._blank(3, worker.pipe.denoiser_calls(steps)))
        assert [picture.error for picture in rendered.pictures] == [None] * 3


@pytest.mark.parametrize("sharing", ["adaptive", "tree"])
def test_trees_and_adaptive_runs_are_rendered_too(render, sharing):
    lines = manifest(render(sampling={"sharing": sharing, "spend": 0.8}, unit=24))
    assert [line["error"] for line in lines] == [None] * 24
    assert any(line["nfe"] != 3 for line in lines)


def test_the_way_of_a_picture_adds_up(render):
    for line in manifest(render()):
        way = [tuple(map(int, part.split("x"))) for part in line["plan"].split()]
        assert sum(steps for _, steps in way) == 3
        assert line["nfe"] == pytest.approx(sum(steps / size for size, steps in way))


def test_a_bad_row_is_in_the_manifest_and_stops_nothing(render, rows):
    rows[3]["prompt"] = None
    rows[5]["seed"] = "soon"
    rows[7]["prompt"] = "x" * 400
    rows[9]["id"] = "p0"
    lines = manifest(render())
    errors = {line["row"]: line["error"] for line in lines if line["error"]}
    assert errors == {
        4: "The prompt is empty.",
        6: "The seed is 'soon'; a number is needed.",
        8: "The prompt has 400 characters; allowed are 1 to 300.",
        10: "The id 'p0' is also that of row 1.",
    }
    assert all((line["file"] is None) == (line["error"] is not None) for line in lines)


def test_only_bad_rows_make_a_manifest_without_pictures(render, rows):
    rows[:] = [{"prompt": ""}, {"prompt": 7}]
    folder = render()
    assert [line["file"] for line in manifest(folder)] == [None, None]


@pytest.fixture
def broken_letter(tiny_folder, tmp_path):
    """A model for which every prompt with a "z" is not a number."""
    pipe = SagePipeline.from_pretrained(tiny_folder)
    token = pipe.tokenizer.convert_tokens_to_ids("z</w>")
    with torch.no_grad():
        pipe.text_encoder.get_input_embeddings().weight[token] = torch.nan
    pipe.save_pretrained(tmp_path / "broken")
    return str(tmp_path / "broken")


def test_a_prompt_that_is_not_a_number_takes_nobody_with_it(
    render, rows, broken_letter, tiny_folder
):
    good = manifest(render("good"))
    rows[4]["prompt"] = rows[13]["prompt"] = "a z"
    lines = manifest(render("bad", model=broken_letter))
    wrong = [line["row"] for line in lines if line["error"]]
    assert wrong == [5, 14]
    assert lines[4]["error"] == "The model produced a value that is not a number."
    assert lines[4]["file"] is None
    assert all(line["sha256"] for line in lines if line["row"] not in wrong)
    assert len(good) == len(lines)


def test_members_of_a_trunk_that_is_not_a_number_are_rendered_alone(tiny_folder, broken_letter):
    def unit(prompts, plan):
        number = len(prompts)
        names = tuple(f"{n}.png" for n in range(number))
        places = tuple(range(number))
        nothing = ("",) * number
        return Unit(0, places, names, tuple(prompts), places, places, names, nothing, plan)

    recipe = Recipe(broken_letter, None, Sampling(steps=3, guidance_scale=2.0), "float32", 4, 1)
    worker = Worker(recipe, "cpu")
    shared = worker.render(unit(["a z", "a fox", "a dog"], shared_plan([(0, 1, 2)], 3, 2)))
    first, second, third = shared.pictures
    assert first.error == "The model produced a value that is not a number."
    assert first.png is None
    assert second.plan == third.plan == "1x3"
    alone = worker.render(unit(["a dog", "a fox"], independent_plan(2, 3)))
    assert len({second.png, third.png}) == 2
    assert [p.error for p in alone.pictures] == [None, None]


def test_a_decoder_that_is_not_finite_is_an_error_and_not_a_black_picture(
    render, tiny_folder, tmp_path
):
    pipe = SagePipeline.from_pretrained(tiny_folder)
    torch.nn.init.constant_(pipe.vae.decoder.conv_out.bias, torch.nan)
    pipe.save_pretrained(tmp_path / "dark")
    lines = manifest(render(model=str(tmp_path / "dark")))
    assert {line["error"] for line in lines} == {"The model produced a value that is not a number."}


def test_what_the_safety_checker_blacks_out_is_flagged(render, rows, monkeypatch):
    def checker(self, pixels, device, dtype):
        flags = [n == 0 for n in range(len(pixels))]
        return torch.where(torch.tensor(flags)[:, None, None, None], -1.0, pixels), flags

    monkeypatch.setattr(SagePipeline, "run_safety_checker", checker)
    folder = render()
    flagged = [line for line in manifest(folder) if line["flags"]]
    assert 0 < len(flagged) < len(rows)
    for line in flagged:
        assert line["flags"] == ["blacked out by the safety checker"]
        with Image.open(folder / line["file"]) as picture:
            assert picture.getextrema() == ((0, 0),) * 3


def test_a_prompt_longer_than_the_tokenizer_reads_is_flagged(render, rows):
    rows[2]["prompt"] = "a very long story of a fox in the snow"
    lines = manifest(render())
    assert [line["row"] for line in lines if line["flags"]] == [3]
    assert lines[2]["flags"] == ["end of the prompt not read"]


def test_prompts_with_other_negative_prompts_do_not_share(render, rows):
    for n, row in enumerate(rows):
        row["negative_prompt"] = "rain" if n % 2 else None
    lines = manifest(render())
    by_group = {}
    for line in lines:
        by_group.setdefault(line["group"], set()).add(line["negative_prompt"])
    assert all(len(negatives) == 1 for negatives in by_group.values())
    assert {line["negative_prompt"] for line in lines} == {"", "rain"}
    assert any(len([m for m in lines if m["group"] == g]) > 1 for g in by_group)


def test_a_negative_prompt_has_no_effect_on_other_groups_of_its_unit(render, rows):
    """Bit for bit, although they fill calls together."""
    for n, row in enumerate(rows):
        row["negative_prompt"] = ("rain", "", "snow")[n % 3]
    together = manifest(render("together", unit=24))
    assert manifest(render("apart", unit=3)) == together
    assert {line["error"] for line in together} == {None}
    rows[:] = [row for row in rows if row["negative_prompt"] == "rain"]
    sums = {line["id"]: line["sha256"] for line in together}
    for line in manifest(render("one", unit=24)):
        assert line["sha256"] == sums[line["id"]]


def test_a_picture_depends_on_its_group_alone(render, rows):
    """Bit for bit: other units, another order of the file, and other prompts beside it."""
    pictures = {line["id"]: line for line in manifest(render("a", unit=6))}
    rows.reverse()
    for line in manifest(render("b", unit=24)):
        assert line["sha256"] == pictures[line["id"]]["sha256"]
    one = min(pictures.values(), key=lambda line: line["nfe"])
    rows[:] = [r for r in rows if pictures[r["id"]]["group"] == one["group"]]
    assert len(rows) > 1
    for line in manifest(render("c", unit=24)):
        assert line["sha256"] == pictures[line["id"]]["sha256"]
        assert line["plan"] == pictures[line["id"]]["plan"]


# -- going on ------------------------------------------------------------------------------------


class Stop(Exception):  # noqa: N818
    """As if somebody had pressed Ctrl-C."""


def stop_after(number):
    def stop(units):
        if units == number:
            raise Stop

    return Quiet(stop)


def test_a_group_that_raises_changes_no_other_group_of_its_unit(render, rows, monkeypatch):
    """Not even in its last bits: the others go on sharing as they would without it."""
    whole = {line["id"]: line for line in manifest(render("whole", unit=24))}
    bad = max(whole.values(), key=lambda line: line["row"])
    original = SagePipeline.stream

    def stream(self, prompts, **how):
        if bad["prompt"] in prompts:
            raise ValueError("This prompt is cursed.")
        return original(self, prompts, **how)

    monkeypatch.setattr(SagePipeline, "stream", stream)
    shared = 0
    for line in manifest(render("cursed", unit=24)):
        if line["id"] == bad["id"]:
            assert line["error"] == "It could not be rendered: This prompt is cursed."
        elif line["group"] != bad["group"]:
            assert line["sha256"] == whole[line["id"]]["sha256"]
            shared += line["nfe"] < 3
        else:
            assert line["error"] is None
    assert shared


def test_a_stopped_run_goes_on_and_renders_nothing_twice(render, monkeypatch):
    whole = content(render("whole"))
    rendered, original = [], Worker.render

    def counted(self, unit):
        if unit.ids[0]:  # not one of those that measure the speed
            rendered.append(unit.number)
        return original(self, unit)

    monkeypatch.setattr(Worker, "render", counted)
    with pytest.raises(Stop):
        render("parts", console=stop_after(2))
    console = Quiet()
    folder = render("parts", console=console)
    assert "Going on: 12 of 24 prompts are finished." in console.said
    assert sorted(rendered) == [0, 1, 2, 3]
    assert content(folder) == whole


def test_where_a_process_died_the_next_one_has_another_render(render, tmp_path, monkeypatch):
    """A prompt that ends its process would otherwise end the run whenever it goes on."""
    whole, seen = content(render("whole")), []

    def in_processes(recipe, devices, messages):
        seen.append(devices)
        return local.run_here(Worker(recipe, devices[0]), messages)

    monkeypatch.setattr(local, "run_in_processes", in_processes)
    for units in (1, 1):  # it was stopped, which is not dying
        with pytest.raises(Stop):
            render("out", console=stop_after(units))
    assert not seen
    mark = tmp_path / "out" / ".render" / "rendering"
    mark.touch()
    assert content(render("out")) == whole
    assert seen == [("cpu",)]
    assert not mark.exists()


def test_a_finished_run_does_nothing_again(render, monkeypatch):
    before = content(render())
    monkeypatch.setattr(Worker, "render", None)
    assert content(render()) == before


def test_a_lost_or_cut_picture_is_made_again(render):
    folder = render()
    before = content(folder)
    (folder / "pictures" / "p3.png").unlink()
    (folder / "pictures" / "p20.png").write_bytes(b"cut")
    assert content(render()) == before


def test_what_was_lost_with_its_process_is_tried_again(render, monkeypatch):
    whole = content(render("whole"))
    original = Worker.render

    def lost(self, unit):
        return failed(unit, DIED) if unit.number == 1 and unit.ids[0] else original(self, unit)

    with monkeypatch.context() as patch:
        patch.setattr(Worker, "render", lost)
        lines = manifest(render("lost"))
    assert [line["error"] for line in lines if line["error"]] == [DIED] * 6
    assert content(render("lost")) == whole


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"PAR1"])
def test_a_damaged_plan_is_a_sentence_and_parts_belong_to_their_plan(render, damage):
    folder = render()
    whole, plan = content(folder), folder / ".render" / "plan.parquet"
    plan.write_bytes(damage(plan.read_bytes()))
    with pytest.raises(StoreError, match="is damaged, so the run cannot go on"):
        render()
    plan.unlink()
    (folder / ".render" / "parts" / "0000099.parquet").write_bytes(b"of another plan")
    assert content(render()) == whole


def test_a_model_may_be_moved_while_a_run_is_stopped(render, tiny_folder, tmp_path):
    shutil.copytree(tiny_folder, tmp_path / "before")
    with pytest.raises(Stop):
        render(model=str(tmp_path / "before"), console=stop_after(2))
    (tmp_path / "before").rename(tmp_path / "after")
    console = Quiet()
    render(model=str(tmp_path / "after"), console=console)
    assert "Going on: 12 of 24 prompts are finished." in console.said


def test_a_disk_without_locks_is_not_another_process(render, monkeypatch):
    def lock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(store_module.fcntl, "flock", lock)
    with pytest.raises(StoreError, match=r"has no locks \(No locks available\); choose a folder"):
        render()


def test_a_file_system_that_does_not_sync_folders_will_do(tmp_path, monkeypatch):
    def unable(handle):
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(store_module.os, "fsync", unable)
    store_module._sync(tmp_path)
    with Store(tmp_path / "out") as store, pytest.raises(StoreError, match="Invalid argument"):
        store.write_sheet("sheet.png", b"a file has to be synced")


def test_a_name_that_is_no_utf8_is_recorded(render, rows, tmp_path):
    del rows[2:]
    folder = render(file="p\udce9")
    assert json.loads((folder / "record.json").read_text())["prompts"] == "p\udce9.jsonl"


def test_another_run_does_not_go_into_the_same_folder(render, rows):
    render()
    with pytest.raises(StoreError, match=r"holds another run: share_ratio was 0.4, now 0.5"):
        render(sampling={"share_ratio": 0.5})
    rows.append({"prompt": "one more"})
    with pytest.raises(StoreError, match="holds another run: prompts has other content"):
        render()


def test_a_folder_with_other_things_is_left_alone(render, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("important")
    with pytest.raises(StoreError, match="is not empty and holds no run"):
        render("mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_two_processes_do_not_write_into_one_folder(render, tmp_path):
    with Store(tmp_path / "out"), pytest.raises(StoreError, match="Another process"):
        render("out")


def test_a_full_disk_is_a_sentence_and_the_run_goes_on_later(render, rows, monkeypatch):
    del rows[6:]
    whole = content(render("whole", unit=3))
    original, left = os.fsync, [0]

    def full(handle):
        if left[0] <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        left[0] -= 1
        return original(handle)

    # Full before the plan, at a picture, before a part, and at the manifest.
    for allowed in (0, 4, 5, 12):
        left[0] = allowed
        with monkeypatch.context() as patch:
            patch.setattr(store_module.os, "fsync", full)
            with pytest.raises(StoreError, match=r"is full\. What is finished is kept"):
                render("full", unit=3)
    assert content(render("full", unit=3)) == whole


def test_a_dry_run_stops_at_the_plan(render, tmp_path):
    console = Quiet()
    folder = render(console=console, dry_run=True)
    assert any(line.startswith("Evaluations: ") for line in console.said)
    assert any(line.startswith("Expected time: about") for line in console.said)
    assert not content(folder)
    assert len(manifest(render())) == 24  # the run then takes that plan


def test_a_plan_of_which_nothing_is_rendered_may_be_replaced(render, rows):
    """Dry runs with one setting and another are how one finds out what to choose."""
    said = []
    for ratio in (0.3, 0.9):
        console = Quiet()
        folder = render(console=console, dry_run=True, sampling={"share_ratio": ratio})
        said.append(next(line for line in console.said if line.startswith("Evaluations: ")))
    assert said[0] != said[1]
    rows[0]["prompt"] = "a ship 9"  # and another file
    with pytest.raises(Stop):
        render(console=stop_after(1), sampling={"share_ratio": 0.9})
    with pytest.raises(StoreError, match=r"holds another run: share_ratio was 0.9, now 0.3"):
        render(dry_run=True, sampling={"share_ratio": 0.3})
    assert manifest(render(sampling={"share_ratio": 0.9}))[0]["prompt"] == "a ship 9"
    assert folder.is_dir()


@pytest.mark.parametrize("place", ["prompts.jsonl/out", "prompts.jsonl/a/b"])
def test_a_folder_that_cannot_be_made_is_a_sentence(render, place):
    with pytest.raises(StoreError, match=r"(out|b) cannot be used: Not a directory\.$"):
        render(place)


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_folder_that_cannot_be_written_is_a_sentence(render, monkeypatch, code):
    def refuse(*_, **how):
        raise OSError(code, os.strerror(code), "out")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(StoreError, match=rf"out cannot be used: {os.strerror(code)}\.$"):
        render()


def test_what_the_plan_says_is_what_the_run_spends(render):
    console = Quiet()
    folder = render(console=console)
    spent = sum(line["nfe"] for line in manifest(folder))
    alone = 3 * len(manifest(folder))
    line = next(line for line in console.said if line.startswith("Evaluations"))
    assert line.startswith(
        f"Evaluations: {round(spent)} instead of {alone} ({1 - spent / alone:.1%}"
    )
    record = json.loads((folder / "record.json").read_text())
    assert record["plan"]["evaluations"] == round(spent)
    assert record["sampling"]["steps"] == 3


# -- what it is read with ------------------------------------------------------------------------


def test_the_manifest_opens_in_pandas(render, rows):
    frame = pd.read_parquet(render() / "manifest.parquet")
    assert list(frame.columns) == SCHEMA.names
    assert frame["prompt"].tolist() == [row["prompt"] for row in rows]


def test_the_pictures_open_in_datasets(render, rows, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    rows[3]["prompt"] = None
    folder = render()
    cache = str(tmp_path / "cache")
    pictures = datasets.load_dataset(
        "imagefolder", data_dir=str(folder / "pictures"), split="train", cache_dir=cache
    )
    table = datasets.load_dataset(
        "parquet", data_files=str(folder / "manifest.parquet"), split="train", cache_dir=cache
    )
    assert len(table) == len(pictures) + 1 == len(rows)
    assert {one["id"]: one["prompt"] for one in pictures}["p5"] == rows[5]["prompt"]
    assert pictures[0]["image"].size == (16, 16)


def test_contact_sheets_show_every_picture(render):
    folder = render(grid=True)
    with Image.open(folder / "sheets" / "sheet-00001.png") as sheet:
        assert sheet.size == (8 * 132 + 4, 3 * 146 + 4)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--steps", "0"], "The number of steps is 0; allowed are 1 to 1000."),
        (["--steps", "many"], "The number of steps is 'many'; a number is needed."),
        (["--scheduler", "fast"], "The scheduler is 'fast'; allowed are ddim"),
        (["--spend", "0.5", "--sharing", "groups"], "--spend is for --sharing tree"),
        (["--rows", "0"], "--rows is 0; allowed is 1 or more."),
        (["--ray", ""], "--ray is empty; allowed are local, auto"),
        (["--budget", "0.5"], "--budget is 0.5; a picture takes at least 1."),
        (["--budget", "5", "--share-ratio", "0.3"], "leave out --share-ratio."),
        (["--budget", "5", "--steps", "8"], "leave out --steps."),
        (["--budget", "5", "--spend", "0.5"], "leave out --spend."),
        (["--out", "x" * 300], "File name too long"),
        (["--out", os.devnull], "a file; name a folder."),
        (["--out", __file__], "a file; name a folder."),
        (["--columns", "prompt"], "--columns has 'prompt'"),
        (["--columns", "prompt=a,prompt=b"], "it names a column of ours twice."),
        (["--adapter", "nowhere"], "There is no adapter nowhere."),
        (["--device", "tpu"], "The device is 'tpu'; allowed are"),
        (["--model", "nowhere"], "cannot be loaded"),
    ],
)
def test_a_command_that_makes_no_sense_is_answered_in_a_sentence(
    tmp_path, capsys, arguments, sentence
):
    (tmp_path / "p.txt").write_text("a fox\n")
    try:
        code = main([str(tmp_path / "p.txt"), "--out", str(tmp_path / "out"), *arguments])
    except SystemExit as stopped:
        code = stopped.code
    assert code == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("gone.txt", None, "There is no file"),
        ("a.txt", "", "holds no prompt."),
        ("a.txt", "\n \n", "holds no prompt."),
        ("a.csv", "prompt\n", "holds no prompt."),
        ("a.csv", "caption\na fox\n", "a.csv has the columns caption; a column 'prompt' is needed"),
        ("a.jsonl", '{"text": "a fox"}\n', "has the columns text; a column 'prompt' is needed"),
    ],
)
def test_a_file_without_prompts_is_said_in_a_sentence(
    tmp_path, capsys, tiny_folder, name, content, sentence
):
    file = tmp_path / name
    if content is not None:
        file.write_text(content)
    command = [str(file), "--out", str(tmp_path / "out"), "--model", str(tiny_folder)]
    try:
        code = main([*command, "--device", "cpu"])
    except SystemExit as stopped:
        code = stopped.code
    assert code == 2
    assert sentence in capsys.readouterr().err


def test_a_run_goes_on_when_nobody_reads_what_it_says(tmp_path, capfd):
    """As with `| head`, a log on a full disk, or an encoding that lacks a character."""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", encoding="ascii") as nobody:
        stream = Unbroken(nobody)
        for _ in range(3):
            print("fünf", file=stream, flush=True)
    with (tmp_path / "log").open("w", encoding="ascii") as log:
        print("fünf", file=Unbroken(log), flush=True)
    assert (tmp_path / "log").read_text() == "f\\xfcnf\n"
    print("into nothing", file=Unbroken(None), flush=True)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("error", [OSError("gone"), RuntimeError("CUDA error"), MemoryError()])
def test_whatever_ends_a_run_is_a_sentence(tmp_path, monkeypatch, capsys, error):
    def fail(*_):
        raise error

    (tmp_path / "p.txt").write_text("a fox\n")
    monkeypatch.setattr(run_module, "run", fail)
    assert main([str(tmp_path / "p.txt"), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == f"error: {str(error) or 'MemoryError'}\n"


def test_the_plan_is_said_in_plain_words():
    summary = {"prompts": 1, "refused": 1, "refused_rows": [[2, "The prompt is empty."]]}
    summary |= {"groups": {"1": 1, "3": 2}, "verdicts": {"refuse": 2}, "units": 1, "unit": 16}
    summary |= {"evaluations": 9, "independent_evaluations": 12, "seconds": 60.0}
    summary |= {"flops": 5e9, "independent_flops": 1e10}
    settings = RenderSettings(Path("p.txt"), Path("out"), Sampling(guarded=False), "tiny")
    workers = run_module.Workers(("cpu",))
    said = list(run_module.describe(summary, workers, settings, 0.5))
    assert said[:5] == [
        "p.txt: 1 prompt; 1 row cannot be rendered, as the manifest says:",
        "  row 2: The prompt is empty.",
        "Groups: 2 of 3 prompts (6 prompts); 1 prompt is alone.",
        "Guard is off (--guarded follows it); it would say of the groups: 2 refuse.",
        "Evaluations: 9 instead of 12 (25.0% saved); 5.0 GFLOP (50.0% saved).",
    ]
    assert said[5].startswith("Work: 1 unit of up to 16 prompts; 1 worker on ")
    assert said[6].startswith("Expected time for what is left: about 30 s, ")
    assert "Expected time" not in " ".join(run_module.describe(summary, workers, settings, 0.0))
    guarded = replace(settings, sampling=Sampling(guarded=True))
    assert list(run_module.describe(summary, workers, guarded))[3] == "Guard; groups: 2 refuse."


def test_an_adapter_changes_the_pictures_and_is_part_of_the_run(
    render, rows, tiny_folder, tmp_path
):
    del rows[4:]
    adapter = tmp_path / "adapter"
    pipe = SagePipeline.from_pretrained(tiny_folder)
    torch.manual_seed(0)
    pipe.unet.add_adapter(
        LoraConfig(r=2, lora_alpha=32, target_modules=["to_q", "to_v"], init_lora_weights=False)
    )
    SagePipeline.save_lora_weights(adapter, unet_lora_layers=get_peft_model_state_dict(pipe.unet))
    plain = manifest(render("plain"))
    folder = render("with", adapter=adapter, sampling={"trained": True})
    lines = manifest(folder)
    assert [line["error"] for line in lines] == [None] * len(rows)
    assert {line["sha256"] for line in lines}.isdisjoint(line["sha256"] for line in plain)
    assert json.loads((folder / "record.json").read_text())["adapter"] == "adapter"
    groups = {}
    for n, line in enumerate(lines):
        groups.setdefault(line["group"], []).append(n)
    pipe = SagePipeline.from_pretrained(tiny_folder)
    pipe.use_lora(adapter)
    output = pipe(
        [line["prompt"] for line in lines],
        groups=list(groups.values()),
        seeds=[line["seed"] for line in lines],
        num_inference_steps=3,
        guidance_scale=2.0,
        share_ratio=Sampling().share_ratio,
    )
    for line, wanted in zip(lines, output.pictures, strict=True):
        with Image.open(folder / line["file"]) as picture:
            off = np.abs(np.asarray(picture, int) - np.asarray(wanted, int))
        assert off.max() <= 1
    with pytest.raises(StoreError, match=r'another run: adapter was "[0-9a-f]+", now null'):
        render("with", sampling={"trained": True})


def rewritten(name, change):
    """A change of a JSON file of the model's folder."""

    def apply(folder):
        file = folder / name
        values = json.loads(file.read_text())
        change(values)
        file.write_text(json.dumps(values))

    return apply


def other_weights(part):
    def apply(folder):
        (file,) = (folder / part).glob("*.safetensors")
        save_file({k: v + 1 for k, v in load_file(file).items()}, file)

    return apply


@pytest.mark.parametrize(
    ("word", "change"),
    [
        ("model", other_weights("unet")),
        ("model", other_weights("vae")),
        ("model", other_weights("text_encoder")),
        ("model", rewritten("scheduler/scheduler_config.json", lambda v: v.update(beta_end=0.03))),
        ("model", rewritten("vae/config.json", lambda v: v.update(scaling_factor=0.5))),
        ("model", rewritten("tokenizer/tokenizer_config.json", lambda v: v.update(x=1))),
        ("model", lambda folder: (folder / "unet" / "more.bin").write_bytes(b"x")),
        ("adapter", lambda folder: (folder.parent / "a.bin").write_bytes(b"another")),
        ("precision", {"precision": "bf16"}),
        ("rows", {"rows": 2}),
        ("threads", {"threads": 2}),
        *(("versions", name) for name in ("torch", "diffusers", "tokenizers", "peft", "pillow")),
    ],
)
def test_everything_that_pictures_depend_on_is_part_of_the_run(
    tiny_folder, tmp_path, monkeypatch, word, change
):
    folder, prompts, adapter = tmp_path / "model", tmp_path / "p.txt", tmp_path / "a.bin"
    shutil.copytree(tiny_folder, folder)
    prompts.write_text("a fox")
    adapter.write_bytes(b"one")
    settings = RenderSettings(prompts, tmp_path / "out", Sampling(), str(folder), adapter, rows=4)
    before = settings.identity("cpu")
    if isinstance(change, dict):
        settings = replace(settings, **change)
    elif isinstance(change, str):
        known = conditions.version
        monkeypatch.setattr(conditions, "version", lambda n: "9" if n == change else known(n))
    else:
        change(folder)
    (found,) = differences(before, settings.identity("cpu"))
    assert re.split("[: ]", found)[0] == word
    assert word != "versions" or f'{change} was "' in found
    assert word not in ("model", "adapter") or "has other content" in found


def test_the_models_own_adapter_is_part_of_the_run(tmp_path, monkeypatch):
    own = tmp_path / "adapter"
    shutil.copytree(models.builtin_model().adapter, own)
    spec = replace(models.builtin_model(), adapter=own)
    monkeypatch.setattr(models, "available_models", lambda _: [spec])
    (tmp_path / "p.txt").write_text("a fox")
    settings = RenderSettings(tmp_path / "p.txt", tmp_path, Sampling(trained=True), spec.key)
    before = settings.identity("cpu")
    assert settings.identity("cpu") == before
    next(own.glob("*.safetensors")).write_bytes(b"another")
    assert [s.split()[0] for s in differences(before, settings.identity("cpu"))] == ["model"]


def test_a_hub_repository_is_known_by_its_commit(tmp_path, monkeypatch):
    """A branch moves on; what was begun on one commit does not go on with another."""
    cache = tmp_path / "hub" / "models--someone--tiny"
    for commit in ("a" * 40, "b" * 40):
        (cache / "snapshots" / commit).mkdir(parents=True)
        (cache / "snapshots" / commit / "model_index.json").write_text("{}")
    (cache / "refs").mkdir()
    monkeypatch.setattr(hub_constants, "HF_HUB_CACHE", str(cache.parent))
    monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", True)
    (tmp_path / "p.txt").write_text("a fox")
    settings = RenderSettings(tmp_path / "p.txt", tmp_path / "out", Sampling(), "someone/tiny")
    seen = []
    for commit in ("a" * 40, "a" * 40, "b" * 40):
        (cache / "refs" / "main").write_text(commit)
        seen.append(settings.identity("cpu")["model"])
    assert seen == ["someone/tiny@" + c * 40 for c in "aab"]


def test_a_file_that_changes_between_resumes_is_another_run(render, rows):
    render(console=Quiet())
    rows[0]["prompt"] += "!"
    with pytest.raises(StoreError, match="holds another run: prompts has other content"):
        render(console=Quiet())


def test_a_picture_that_is_deleted_by_hand_is_made_again_with_its_own_bytes(render):
    folder = render()
    before = content(folder)
    for file in sorted((folder / "pictures").glob("*.png"))[:3]:
        file.unlink()
    (folder / "manifest.parquet").unlink()
    assert content(render()) == before


@pytest.mark.parametrize("id_", ["../up", "a/b\\c", "CON", ".", "..", "é\u0301" * 200, "x" * 900])
def test_odd_ids_have_files_inside_the_folder(render, rows, id_):
    del rows[3:]
    rows[0]["id"], rows[1]["id"], rows[2]["id"] = id_, id_.swapcase() + "~", "P"
    folder = render(unit=8)
    lines = manifest(folder)
    assert [line["error"] for line in lines] == [None] * 3
    files = [(folder / line["file"]).resolve() for line in lines]
    assert {file.parent for file in files} == {folder.resolve() / "pictures"}
    assert len({str(file).lower() for file in files}) == 3


@pytest.mark.parametrize(("fast", "precision"), [(True, "bf16"), (False, "float32")])
def test_the_precision_is_what_the_device_computes_fastest(monkeypatch, tmp_path, fast, precision):
    monkeypatch.setattr("sage.sd.precision.has_fast_bf16", lambda: fast)
    settings = RenderSettings(tmp_path, tmp_path, Sampling(), "emoji-scenes")
    assert settings.on("cpu").precision == precision
    assert replace(settings, precision="float32").on("cpu").precision == "float32"
    with pytest.raises(ValueError, match="fp16"):
        replace(settings, precision="fp16").on("cpu")


@pytest.mark.parametrize(("heavy", "rows"), [(False, 16), (True, 4)])
def test_a_call_holds_as_many_rows_as_suit_the_model(tiny_folder, monkeypatch, heavy, rows):
    monkeypatch.setattr(SagePipeline, "is_heavy", heavy)
    recipe = Recipe(str(tiny_folder), None, Sampling(guidance_scale=2.0), "float32", None, 1)
    pipe = recipe.load(torch.device("cpu")).pipe
    assert (pipe.max_rows, pipe.exact_rows) == (rows, 2 * rows)
    asked = replace(recipe, rows=3).load(torch.device("cpu")).pipe
    assert (asked.max_rows, asked.exact_rows) == (3, 6)


def test_every_promise_names_tests_that_exist():
    here = Path(__file__).parent
    source = "\n".join(path.read_text("utf-8") for path in here.parent.rglob("test_*.py"))
    table = (here.parents[1] / "sage" / "render" / "README.md").read_text("utf-8")
    promises = [line for line in table.splitlines() if line.startswith("| ") and "test_" in line]
    assert len(promises) > 12
    for promise in promises:
        for name in re.findall(r"`(test_[^`]+)`", promise):
            file = here / name if name.endswith(".py") else None
            found = re.search(rf"^def {name.removesuffix('…')}", source, re.M)
            assert (file and file.is_file()) or found, name
