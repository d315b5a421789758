"""From a model folder and a COCO folder to an adapter that diffusers loads, killed and resumed."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from diffusers import StableDiffusionPipeline
from PIL import Image

from sage.core.losses import LossConfig
from sage.sd.pipeline import SagePipeline
from sage.training import card, samples
from sage.training import data as data_module
from sage.training import trainer as trainer_module
from sage.training.__main__ import main
from sage.training.coco import read_coco
from sage.training.data import FileSource, encode_pictures, open_source, prepare
from sage.training.settings import TrainSettings
from sage.training.skips import Skips
from sage.training.trainer import CHECKPOINT, LOG, Trainer
from sage.world.source import SceneSource
from tests.test_imports import ROOT
from tests.training.test_coco import write_coco

pytestmark = pytest.mark.slow

WORDS = ("fox", "dog", "cat", "bus", "tree", "boat", "cake", "kite")


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    """Eight pictures with two captions each."""
    folder = tmp_path_factory.mktemp("coco")
    write_coco(folder, [[f"a {word}", f"one {word} in the snow"] for word in WORDS])
    return folder


# Terms of equal weight: where one hardly counts, Adam makes steps of its gradient's rounding, and
# two equal runs end further apart than these tests allow.
EVEN = LossConfig(lambda_shared=1.0, weighting="prediction")


@pytest.fixture(scope="module")
def settings(tiny_folder, coco, tmp_path_factory):
    """A very short run; bounds so wide that random embeddings form groups."""
    return TrainSettings(
        model=str(tiny_folder),
        data=str(coco),
        cache=tmp_path_factory.mktemp("cache"),
        steps=8,
        batch_groups=2,
        rank=2,
        alpha=4.0,
        warmup=2,
        rate=1e-2,
        ema=0.5,
        tau_min=-1.0,
        tau_max=0.99999,
        save_every=3,
        log_every=1,
        sample_every=0,
        device="cpu",
        loss_config=EVEN,
    )


def run(settings, out, resume=False):
    """All records of a run, and the trainer after it."""
    trainer = Trainer(replace(settings, out=out), resume)
    records = list(trainer)
    trainer.finish()
    return records, trainer


@pytest.fixture(scope="module")
def whole(settings, tmp_path_factory):
    """An uninterrupted run."""
    return run(settings, tmp_path_factory.mktemp("runs") / "whole")


def weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / "pytorch_lora_weights.safetensors")


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def test_a_run_leaves_adapter_card_record_and_log(whole, settings):
    records, trainer = whole
    folder = trainer.folder
    assert [r.step for r in records] == list(range(1, 9))
    assert records[-1].progress == 1
    assert_same_curve(log_of(folder), records)
    about = json.loads((folder / "training.json").read_text())
    assert about["data"]["groups"] == len(trainer.data.groups)
    assert about["run"]["step"] == 8
    text = (folder / "README.md").read_text()
    assert text.startswith("---\nbase_model: ")
    for word in ("L_SAGE", "rank 2, alpha 4", "soft target base", "8 of 2 × 1 × 1 groups"):
        assert word in text
    assert str(folder) not in text
    named = re.findall(r"`(sage/[\w/]+\.py)`", text)
    assert named
    assert all((ROOT / file).is_file() for file in named)
    known = card.card(replace(settings, model="emoji-scenes"), about)
    place = re.findall(r'from_pretrained\("(.+?)"\)', known)[0]
    assert (ROOT / place / "model_index.json").is_file()
    assert not list(folder.glob("*.new"))


def test_only_the_adapter_has_learnt(whole, tiny_folder):
    base = SagePipeline.from_pretrained(tiny_folder).unet.state_dict()
    trained = whole[1].pipe.unet.state_dict()
    frozen = {k.replace(".base_layer", ""): v for k, v in trained.items() if "lora" not in k}
    assert equal(base, frozen)
    assert any(v.abs().max() > 0 for k, v in trained.items() if "lora_B" in k)


def test_diffusers_loads_the_adapter_and_gets_the_average(whole, tiny_folder):
    trainer = whole[1]
    pipe = StableDiffusionPipeline.from_pretrained(tiny_folder, use_safetensors=True)
    z, t, c = torch.randn(2, 4, 8, 8), torch.tensor([10, 700]), torch.randn(2, 16, 32)
    with torch.no_grad():
        plain = pipe.unet(z, t, c).sample
        pipe.load_lora_weights(trainer.folder, local_files_only=True)
        loaded = pipe.unet(z, t, c).sample
        with trainer.adapter.averaged():
            average = trainer.pipe.unet(z, t, c).sample
        latest = trainer.pipe.unet(z, t, c).sample
    assert (loaded - average).abs().max() < 1e-5
    assert (loaded - plain).abs().max() > 1e-3
    assert (loaded - latest).abs().max() > 1e-4


def test_our_own_pipeline_switches_it_on_and_off(whole, tiny):
    def latents():
        return tiny(["a fox", "a dog"], num_inference_steps=2, output_type="latent").latents

    before = latents()
    tiny.use_lora(whole[1].folder)
    assert not torch.equal(latents(), before)
    tiny.use_lora(None)
    assert torch.equal(latents(), before)


def flags(settings, **more):
    """The command line of a run."""
    names = (
        "model", "data", "cache", "steps", "batch_groups", "rank", "alpha", "warmup", "rate",
        "ema", "tau_min", "tau_max", "save_every", "log_every", "sample_every", "device",
    )  # fmt: skip
    values = {name: getattr(settings, name) for name in names} | more
    values |= {"lambda_shared": EVEN.lambda_shared, "weighting": EVEN.weighting}
    return [f"--{k.replace('_', '-')}={v}" for k, v in values.items()]


def log_of(folder):
    return [json.loads(line) for line in (folder / LOG).read_text("utf-8").splitlines()]


def assert_same_curve(lines, records):
    assert [line["step"] for line in lines] == [r.step for r in records]
    for name in ("loss", "branch", "shared", "soft", "rate"):
        ours = [line[name] for line in lines]
        # In absolute terms too: a term near 0 is what is left of a difference.
        assert ours == pytest.approx([getattr(r, name) for r in records], rel=1e-5, abs=1e-8)


def assert_same_adapter(first, second):
    mine, theirs = weights(first), weights(second)
    assert mine.keys() == theirs.keys()
    gaps = {k: float((mine[k] - theirs[k]).abs().max()) for k in mine}
    assert max(gaps.values()) < 1e-5, gaps


SLOW_SIXTH_STEP = """
import sys, time
import sage.training.trainer as trainer
assert not {"gradio", "plotly", "sage.ui"} & set(sys.modules)  # training loads no page
learn = trainer.Trainer._learn
trainer.Trainer._learn = lambda self: (time.sleep(60 * (self.step == 5)), learn(self))[1]
from sage.training.__main__ import main
main(sys.argv[1:])
"""


def test_a_killed_run_goes_on_with_the_same_losses(whole, settings, tmp_path):
    """SIGKILL in the middle of a run in a process of its own, then --resume."""
    words = flags(settings, out=tmp_path)
    process = subprocess.Popen([sys.executable, "-c", SLOW_SIXTH_STEP, *words], cwd=ROOT)
    deadline = time.monotonic() + 300
    while not ((tmp_path / LOG).exists() and len(log_of(tmp_path)) == 5):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    # It may lose what came after its last checkpoint, and no more.
    assert torch.load(tmp_path / CHECKPOINT, weights_only=True)["step"] == 3
    assert main([*words, "--resume"]) == 0
    records, trainer = whole
    assert_same_curve(log_of(tmp_path), records)
    assert_same_adapter(tmp_path, trainer.folder)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def machines(words, number=2):
    """Processes as a scheduler starts them, one a machine; none outlives the test."""
    # On the loopback alone: looking up this machine's own name can take minutes without a network.
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "LOCAL_RANK": "0"}
    common |= {"WORLD_SIZE": str(number), "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "sage", "train", *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "cwd": ROOT}
    processes = [
        subprocess.Popen(command, env=os.environ | common | {"RANK": str(rank)}, **pipes)
        for rank in range(number)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def outcome(processes, seconds=300):
    """Exit codes and outputs; a process that hangs fails the test after a while."""
    outputs = [process.communicate(timeout=seconds)[0] for process in processes]
    return [process.returncode for process in processes], outputs


def test_two_processes_do_what_two_micro_batches_do(settings, tmp_path):
    """The same groups and draws, divided otherwise: equal losses and equal adapters."""
    settings = replace(settings, steps=3)
    two = tmp_path / "two"
    with machines(flags(settings, out=two)) as processes:
        codes, outputs = outcome(processes)
    assert codes == [0, 0], outputs
    records, trainer = run(replace(settings, accumulate=2), tmp_path / "one")
    assert_same_curve(log_of(two), records)
    assert_same_adapter(two, trainer.folder)
    assert json.loads((two / "training.json").read_text())["run"]["processes"] == 2


def test_an_error_of_one_process_ends_all_with_the_same_sentence(settings, tmp_path):
    """Nobody waits for the first process, which has found that no group can be formed."""
    none = replace(settings, tau_min=0.9999999, tau_max=0.9999999, steps=1)
    with machines(flags(none, out=tmp_path)) as processes:
        codes, outputs = outcome(processes)
    assert codes == [2, 2], outputs
    assert all("within 0.9999999 to 0.9999999" in output for output in outputs)


def test_runs_do_not_overwrite_each_other(whole, settings, tmp_path, capsys):
    done = replace(settings, out=whole[1].folder)
    with pytest.raises(ValueError, match="holds a run already"):
        Trainer(done)
    with pytest.raises(ValueError, match="no checkpoint"):
        Trainer(replace(settings, out=tmp_path), resume=True)
    with pytest.raises(ValueError, match="other settings: rank, seed"):
        Trainer(replace(done, rank=3, seed=5), resume=True)
    assert main(["--steps", "1", "--model", str(tmp_path), "--out", str(tmp_path / "x")]) == 2
    assert "cannot be loaded" in capsys.readouterr().err


@pytest.mark.parametrize("kept", [0, 0.5, 0.99, "a list"])
def test_a_damaged_checkpoint_is_refused(whole, settings, tmp_path, kept):
    content = (whole[1].folder / CHECKPOINT).read_bytes()
    if kept == "a list":
        torch.save([1], tmp_path / CHECKPOINT)
    else:
        (tmp_path / CHECKPOINT).write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(ValueError, match=r"checkpoint\.pt is damaged, or no checkpoint") as error:
        Trainer(replace(settings, out=tmp_path), resume=True)
    assert "\n" not in str(error.value)


def test_a_log_of_which_the_end_is_lost_is_read(whole, settings, tmp_path):
    shutil.copytree(whole[1].folder, tmp_path, dirs_exist_ok=True)
    log = tmp_path / LOG
    log.write_bytes(log.read_bytes()[:-20] + b"\n[1]\n\xff\n")
    records, _ = run(settings, tmp_path, resume=True)
    assert records == []
    assert [line["step"] for line in log_of(tmp_path)] == list(range(1, 8))


def test_a_run_goes_on_with_its_own_captions_only(whole, settings, tmp_path):
    out, data = tmp_path / "run", tmp_path / "other" / "data"
    shutil.copytree(whole[1].folder, out)
    write_coco(data, [[f"two {word}", f"{word} at night"] for word in WORDS])
    data = data.rename(data.with_name(Path(settings.data).name))
    with pytest.raises(ValueError, match="learns from other groups of captions"):
        Trainer(replace(settings, out=out, data=str(data)), resume=True)


def test_weights_that_are_not_numbers_are_not_kept(settings, tmp_path):
    trainer = Trainer(replace(settings, out=tmp_path, save_every=2))
    steps = iter(trainer)
    next(steps)
    trainer.save()
    trainer.adapter.values[0].register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(FloatingPointError, match="Step 2 has made weights that are not numbers"):
        next(steps)
    assert torch.load(tmp_path / CHECKPOINT, weights_only=True)["step"] == 1


@pytest.mark.parametrize("place", ["/proc/run", __file__])
def test_a_folder_that_cannot_be_is_refused_before_anything_is_prepared(settings, place):
    nothing = replace(settings, out=Path(place), data="nothing that could be prepared")
    with pytest.raises(ValueError, match=r"^out is .+, which cannot be written: .+\.$"):
        Trainer(nothing)


def test_a_full_disk_is_said_and_leaves_nothing_behind(tmp_path):
    with pytest.raises(OSError, match="cannot be written"):
        trainer_module._save(Path("/dev/full"), {"a": torch.zeros(100_000)})

    def write(new):
        new.write_text("half")
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space left"):
        data_module.write_whole(tmp_path / "file", write)
    assert not list(tmp_path.iterdir())


def test_the_baseline_sees_the_same_groups(whole, settings, tmp_path):
    records, trainer = run(replace(settings, loss="standard", steps=2), tmp_path / "standard")
    assert trainer.data.groups == whole[1].data.groups
    assert records[0].shared is None
    assert records[0].soft is None
    assert records[0].loss == records[0].branch
    assert "the baseline" in (tmp_path / "standard" / "README.md").read_text()


def test_gradient_checkpointing_changes_no_loss(whole, settings, tmp_path):
    records, _ = run(replace(settings, steps=1, checkpointing=True), tmp_path)
    assert records[0].loss == pytest.approx(whole[0][0].loss, rel=1e-5)


@pytest.fixture
def fresh_accelerate():
    """Accelerate keeps one precision for a process; this lets a test have its own."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.usefixtures("fresh_accelerate")
def test_bfloat16_and_a_time_limit(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(samples, "STEPS", 2)
    short = replace(settings, steps=None, minutes=0.002, precision="bf16", sample_every=1)
    records, trainer = run(short, tmp_path / "run")
    assert records[-1].progress == 1
    assert all(value.dtype == torch.float32 for value in trainer.adapter.values)
    with Image.open(sorted((trainer.folder / "samples").iterdir())[0]) as sheet:
        assert sheet.size[1] == 2 * 16


@pytest.mark.parametrize("target", ["model", "base", "ema"])
def test_the_soft_target_is_whose_it_says(settings, tmp_path, target, tiny):
    config = LossConfig(soft_target=target)
    trainer = Trainer(replace(settings, loss_config=config, out=tmp_path))
    for value in trainer.adapter.values:
        torch.nn.init.normal_(value)
    for value in trainer.adapter.average:
        torch.nn.init.normal_(value)
    z, t, c = torch.randn(2, 4, 8, 8), torch.tensor([10, 700]), torch.randn(2, 16, 32)
    with torch.no_grad():
        mine = trainer.pipe.unet(z, t, c).sample
        base = tiny.unet(z, t, c).sample
        with trainer.adapter.averaged():
            average = trainer.pipe.unet(z, t, c).sample
        found = trainer._teacher(z, t, c)
        assert torch.equal(trainer.pipe.unet(z, t, c).sample, mine)
    assert (found - {"model": mine, "base": base, "ema": average}[target]).abs().max() < 1e-6
    assert (mine - base).abs().max() > 1e-3
    assert (mine - average).abs().max() > 1e-3


# --- data -----------------------------------------------------------------------------------


def test_groups_and_latents_are_kept_and_read_again(tiny, settings, coco, monkeypatch):
    source, skips = open_source(settings, 16)
    first = prepare(source, skips, tiny, settings, progress=False)
    monkeypatch.setattr(data_module, "embed_all", None)
    monkeypatch.setattr(data_module, "encode_pictures", None)
    again = prepare(source, skips, tiny, settings, progress=False)
    assert again.groups == first.groups
    assert np.array_equal(again.latents, first.latents)
    with pytest.raises(TypeError):  # other bounds: embedded anew
        prepare(source, skips, tiny, replace(settings, tau_min=-0.5), progress=False)
    for group in first.groups:
        assert len({source.owners[n] for n in group}) == len(group) > 1


def test_what_is_kept_depends_on_all_that_it_is_made_of(tiny, settings, coco, monkeypatch):
    source, skips = open_source(settings, 16)
    prepare(source, skips, tiny, settings, progress=False)
    monkeypatch.setattr(data_module, "encode_pictures", None)
    prepare(source, skips, tiny, settings, progress=False)
    file = next(f for f in source.files if f.is_file())
    whole = file.read_bytes()
    file.write_bytes(whole[:-2] + bytes(2))  # another picture of as many bytes
    with pytest.raises(TypeError):  # encoded anew
        prepare(source, skips, tiny, settings, progress=False)
    file.write_bytes(whole)
    monkeypatch.undo()
    prepare(source, skips, tiny, settings, progress=False)
    monkeypatch.setattr(data_module, "encode_pictures", None)
    tiny.vae.register_to_config(scaling_factor=0.5)
    with pytest.raises(TypeError):
        prepare(source, skips, tiny, settings, progress=False)
    monkeypatch.setattr(data_module, "embed_all", None)
    tiny.tokenizer.add_tokens(["fox"])
    with pytest.raises(TypeError):
        prepare(source, skips, tiny, settings, progress=False)


def test_latents_are_those_of_the_pictures(tiny, settings):
    source, skips = open_source(settings, 16)
    data = prepare(source, skips, tiny, settings, progress=False)
    for n in (data.groups[0][0], data.groups[-1][1]):
        picture = source.picture(source.owners[n])
        expected = encode_pictures([data_module.squared(picture, 16)], tiny)
        assert (data.clean_latents([n]) - expected.float()).abs().max() < 2e-3


def test_a_broken_picture_is_named_and_costs_its_members_only(tiny, settings, tmp_path):
    write_coco(tmp_path, [[f"a {word}"] for word in WORDS])
    broken = tmp_path / "train2017" / "000000000102.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    found, skips = read_coco(tmp_path)
    data = prepare(FileSource("coco", found), skips, tiny, settings, progress=False)
    assert skips.counts["picture cannot be decoded"] == 1
    assert skips.names["picture cannot be decoded"][0].startswith("000000000102.jpg")
    members = {n for group in data.groups for n in group}
    assert 2 not in members
    assert len(data.latents) >= len(members)


def test_no_group_is_an_error_with_the_bounds(tiny, settings):
    source, skips = open_source(settings, 16)
    none = replace(settings, tau_min=0.9999999, tau_max=0.9999999)
    with pytest.raises(ValueError, match=r"within 0.9999999 to 0.9999999"):
        prepare(source, skips, tiny, none, progress=False)


def test_batches_are_numbered_and_every_epoch_has_every_group(tiny, settings):
    source, skips = open_source(settings, 16)
    data = prepare(source, skips, tiny, settings, progress=False)
    G = len(data.groups)
    stream = [g for number in range(2 * G) for g in data.batch(7, number, 3)]
    for epoch in range(6):
        assert sorted(stream[epoch * G : (epoch + 1) * G]) == sorted(data.groups)
    assert data.batch(7, 5, 3) == stream[15:18]


def test_scenes_are_of_the_training_split(settings):
    from sage.world.scenes import held_out

    source, skips = open_source(replace(settings, data="scenes", scenes=40), 64)
    assert len(source.captions) == len(source.owners) == 40
    assert not any(held_out(thing, s.place) for s in source.scenes for thing in s.things)
    assert source.picture(3).size == (64, 64)
    again = SceneSource(40, 64, settings.seed)
    assert again.captions == source.captions
    assert again.picture_name(7) == source.picture_name(7)
    assert not skips.sentences()


def test_scenes_train(settings, tmp_path):
    records, _ = run(replace(settings, data="scenes", scenes=12, steps=1), tmp_path / "run")
    assert len(records) == 1


def test_an_unknown_data_set_is_refused(settings):
    with pytest.raises(ValueError, match="'scenes' and an existing folder"):
        open_source(replace(settings, data="nowhere"), 16)
    assert Skips().sentences() == []
