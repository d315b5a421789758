"""The training loop on a toy task, and every stage once on a tiny pool."""

import itertools
import json
import os
import shutil
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from sage.world.scenes import Painter, Scene, sample_scene
from sage.world.train import __main__ as train
from sage.world.train import calibrate, data, evaluate, export, gpu, learner, networks, pack, stages
from sage.world.train.learner import Settings
from sage.world.train.table import Table, cutout_keys
from sage.world.words import world_words

CPU = torch.device("cpu")


class Line:
    """Learn y = Wx from noisy batches."""

    name = "line"

    def __init__(self):
        torch.manual_seed(3)
        self.model = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 1))

    def batch(self, rng, size):
        x = rng.normal(size=(size, 32)).astype(np.float32)
        return (torch.from_numpy(x),)

    def loss(self, batch, noise):
        (x,) = batch
        grain = 0.01 * torch.randn(len(x), generator=noise)
        error = self.model(x.bfloat16()).float()[:, 0] - x.sum(1) - grain
        return {"loss": (error**2).mean()}


def run(out, steps, total, resume=False):
    settings = Settings(batch=8, rate=1e-2, steps=total, warmup=5)
    made = learner.Learner(Line(), settings, torch.device("cpu"))
    if resume:
        made.restore(learner.load_state(out, "line"))
    losses = [float(made.learn()["loss"]) for _ in range(steps)]
    learner.save(made, out)
    return losses


def test_an_interrupted_run_is_the_uninterrupted_one(tmp_path):
    whole = run(tmp_path, 20, 20)
    parts = run(tmp_path, 8, 20) + run(tmp_path, 12, 20, resume=True)
    assert parts == whole


@pytest.mark.slow
def test_the_loss_falls_and_the_log_says_so(tmp_path):
    settings = Settings(batch=32, rate=3e-2, steps=200, warmup=10)
    learner.train(Line(), settings, tmp_path, torch.device("cpu"), resume=False)
    lines = [json.loads(line) for line in (tmp_path / "line.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [50, 100, 150, 200]
    assert lines[-1]["loss"] < 0.5 * lines[0]["loss"]


def test_a_run_that_is_asked_to_end_saves_and_goes_on_later(tmp_path):
    class Interrupted(Line):
        def batch(self, rng, size):
            if self.ends and next(self.steps) == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().batch(rng, size)

    task, settings = Interrupted(), Settings(batch=8, rate=1e-2, steps=6, warmup=5)
    task.steps, task.ends = itertools.count(), True
    common = task, settings, tmp_path, torch.device("cpu")
    with pytest.raises(SystemExit, match="asked to end at step 4"):
        learner.train(*common, resume=True)
    assert learner.load_state(tmp_path, "line")["step"] == 4
    task.ends = False
    assert learner.train(*common, resume=True).step == 6


@pytest.mark.slow
def test_processes_that_draw_ahead_outlive_a_request_to_end():
    def make(number):
        os.kill(os.getpid(), signal.SIGTERM)
        return number

    assert list(data.ahead(make, range(3), 1)) == [0, 1, 2]


def test_the_rate_warms_up_and_ends_low():
    settings = Settings(batch=1, rate=1.0, steps=100, warmup=10)
    made = learner.Learner(Line(), settings, torch.device("cpu"))
    rates = []
    for made.step in (0, 9, 50, 100):
        rates.append(made.rate)
    assert rates[0] == pytest.approx(0.1, rel=1e-6)
    assert rates[1] > 0.95
    assert rates[3] == pytest.approx(settings.last_rate)


def test_a_weight_that_a_loss_leaves_out_has_no_gradient_of_an_earlier_step():
    made = learner.Learner(Line(), Settings(batch=8, rate=1e-2, steps=9), CPU)
    made.learn()
    made._take_gradients()
    assert all(not weight.grad.any() for weight in made.master)


def test_local_contrast_asks_for_edges_not_for_their_places():
    step = torch.zeros(1, 3, 16, 16)
    step[..., 8:] = 1
    aside = torch.zeros(1, 3, 16, 16)
    aside[..., 9:] = 1
    blurred = torch.nn.functional.avg_pool2d(step, 5, 1, 2, count_include_pad=False)
    even = torch.ones(1, 1, 16, 16)
    there, near, soft = (stages.contrast_loss(x, step, even) for x in (step, aside, blurred))
    assert there == 0
    assert near < 0.7 * soft
    assert (step - aside).square().sum() > (step - blurred).square().sum()  # which pixels prefer


def test_the_lowest_scale_that_is_as_good_within_chance_is_chosen():
    right = np.repeat([1.0, 0.0], [180, 20])
    other = np.repeat([1.0, 0.0, 1.0], [178, 4, 18])  # 16 more right, 2 others wrong
    worse = np.repeat([1.0, 0.0], [120, 80])
    hits = {1.0: {"thing": worse}, 3.0: {"thing": other}, 2.0: {"thing": right}}
    assert evaluate.lowest_as_good(hits) == 3.0
    close = np.repeat([1.0, 0.0, 1.0], [178, 4, 18])
    close[:17] = 0
    assert evaluate.lowest_as_good(hits | {3.0: {"thing": close}}) == 2.0


def test_the_average_follows_the_weights(tmp_path):
    run(tmp_path, 20, 20)
    state = learner.load_state(tmp_path, "line")
    model = learner.averaged(Line().model, tmp_path, "line")
    assert torch.equal(model[0].weight, state["average"]["0.weight"])
    assert not torch.equal(model[0].weight, state["master"]["0.weight"])


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    run(tmp_path, 1, 1)
    task = Line()
    task.model = nn.Linear(32, 1)
    made = learner.Learner(task, Settings(batch=1, rate=1.0, steps=1), torch.device("cpu"))
    with pytest.raises(ValueError, match="another network"):
        made.restore(learner.load_state(tmp_path, "line"))


def test_a_missing_checkpoint_names_the_stage(tmp_path):
    with pytest.raises(FileNotFoundError, match="unet"):
        learner.load_state(tmp_path, "unet")


@pytest.mark.parametrize("kind", [{}, {"minutes": 1.0, "steps": 2}])
def test_a_run_ends_by_minutes_or_by_steps(kind):
    with pytest.raises(ValueError, match="exactly one"):
        Settings(batch=1, rate=1.0, **kind)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Every stage for one step at tiny sizes; the run's folder and the export's."""
    out, folder = tmp_path_factory.mktemp("run"), tmp_path_factory.mktemp("model") / "scenes"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "CHUNK", 4)
        patch.setattr(train, "CAPTIONS", 300)
        patch.setattr(train, "MEASURED", 8)
        bounds = calibrate.bounds
        patch.setattr(calibrate, "bounds", lambda *models: bounds(*models, number=10))
        common = ["--out", str(out), "--folder", str(folder), "--steps", "1", "--batch", "2"]
        # The last two stages need minutes of sampling; test_export.py calls their parts.
        for stage in list(train.STAGES)[:-2]:
            options = [stage, *common, "--scenes", "8", "--device", "cpu"]
            train.main(options, networks.TINY)
    return out, folder


@pytest.mark.slow
def test_every_stage_runs_and_the_export_loads(trained):
    from diffusers import StableDiffusionPipeline

    _, folder = trained
    pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    assert pipe.unet.dtype == pipe.vae.dtype == pipe.text_encoder.dtype == torch.float32
    pipe.set_progress_bar_config(disable=True)
    image = pipe("a fox in the snow", num_inference_steps=2, guidance_scale=2.0).images[0]
    assert isinstance(image, Image.Image)
    assert image.size == (128, 128)


def test_export_keeps_its_promises(trained):
    _, folder = trained
    shards = list(folder.rglob("*.safetensors"))
    assert max(path.stat().st_size for path in shards) < 10_000_000
    assert export.folder_bytes(folder) <= export.FOLDER_BYTES
    record = export.read_json(folder / "sage.json")
    assert np.shape(record["latent_rgb"]["weight"]) == (3, networks.TINY.channels)
    assert record["tau_min"] <= record["tau_max"]
    assert record["image_size"] == 128
    assert "fox" in record["known_words"]


def test_a_model_takes_its_words_along(trained):
    from sage.world.words import read_words

    _, folder = trained
    assert read_words(folder / "words.json").index == world_words().index


@pytest.mark.slow
def test_a_second_export_keeps_the_reports(trained):
    out, folder = trained
    (folder / "README.md").write_text("kept")
    export.export(out, folder, networks.TINY, world_words())
    assert (folder / "README.md").read_text() == "kept"
    assert not folder.with_name(folder.name + ".old").exists()


@pytest.mark.slow
def test_latents_that_are_there_are_not_made_again(trained, monkeypatch):
    out, _ = trained
    monkeypatch.setattr(train, "CHUNK", 4)
    files = sorted((out / "latents").iterdir())
    before = [file.stat().st_mtime_ns for file in files]
    files[0].unlink()
    train.main(["latents", "--out", str(out), "--scenes", "8", "--device", "cpu"], networks.TINY)
    assert [file.stat().st_mtime_ns for file in files][1:] == before[1:]
    assert files[0].exists()


@pytest.mark.slow
def test_the_denoiser_learns_from_scenes_that_fit_their_latents(trained, monkeypatch):
    from diffusers import AutoencoderKL

    out, _ = trained
    monkeypatch.setattr(train, "CHUNK", 4)
    run = train.Run(out=out, device=torch.device("cpu"), scenes=8, sizes=networks.TINY)
    frozen = train.frozen(run)
    assert len(frozen.scenes) == len(frozen.latents) == len(frozen.masks) == 8
    vae = AutoencoderKL.from_pretrained(out / "vae").eval()
    again = train.encode(vae, train.painted(run, frozen.scenes[5:6]).images)
    latents = frozen.latents.numpy()
    assert np.abs(again - latents[5:6]).max() < 0.2  # they were made in bfloat16
    others = np.abs(again - latents).mean((1, 2, 3))
    assert others.argmin() == 5


@pytest.mark.slow
def test_alignment_is_learnt_for_half_a_run_and_not_exported(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "CHUNK", 4)
    out = tmp_path / "run"
    shutil.copytree(trained[0], out, ignore=shutil.ignore_patterns("unet*"))
    options = ["--steps", "4", "--batch", "2", "--scenes", "8", "--device", "cpu"]
    train.main(["unet", "--out", str(out), "--align", "0.5", *options], networks.TINY)
    record = json.loads((out / "unet.jsonl").read_text().splitlines()[-1])
    # Two of four steps were aligned, and the mean is over all.
    assert 0.2 < record["apart"] < 1.0
    assert "align.weight" in learner.load_state(out, "unet")["average"]
    export.export(out, tmp_path / "model", networks.TINY, world_words())
    weights = load_file(tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors")
    assert not [name for name in weights if "align" in name]


def test_hours_are_divided_among_the_stages_that_learn():
    run = train.Run(out=None, device=torch.device("cpu"), hours=10)
    minutes = [run.settings(name).minutes for name in train.RECIPES]
    assert sum(minutes) == pytest.approx(600)
    assert run.settings("unet").minutes > 300


def test_a_stream_is_new_scenes_that_follow_the_generator():
    stream = data.Stream(world_words(), 32)
    one, two = (stream.paint(stream.draw(np.random.default_rng(4), 3)) for _ in range(2))
    assert one.scenes == two.scenes
    assert torch.equal(one.images, two.images)
    assert one.images.shape == (3, 32, 32, 3)
    assert one.masks.shape == (3, 16, 16)
    assert one.masks.max() > 100
    assert stream.draw(np.random.default_rng(5), 3).scenes != one.scenes


def test_pictures_of_the_same_content_do_not_repel_each_other():
    fox = Scene(("fox",), 1, "normal", "snow", "flat", 1)
    scenes = (fox, replace(fox, seed=2), replace(fox, size="big"), replace(fox, seed=3))
    assert stages._twins(scenes).int().tolist() == [
        [0, 1, 0, 1],
        [1, 0, 0, 1],
        [0, 0, 0, 0],
        [1, 1, 0, 0],
    ]


def test_some_captions_are_empty():
    stream = data.Stream(world_words(), 32)
    scenes = data.draw_scenes(300, 1, world_words())
    texts = stream.captions(scenes, np.random.default_rng(0), empty=0.3)
    assert 0.2 < np.mean([not text for text in texts]) < 0.4


@pytest.mark.slow
def test_a_table_paints_what_the_painter_paints():
    words, rng = world_words(), np.random.default_rng(2)
    scenes = [sample_scene(rng, words=words) for _ in range(24)]
    painter = Painter(64)
    keys = {piece.key for scene in scenes for piece in painter.pieces(scene)}
    table = Table(words, torch.device("cpu"), 64, sorted(keys), workers=0)
    stream = data.Stream(words, table=table)
    made = stream.paint(stream.prepare(scenes))
    images, masks = data.paint_all(scenes, painter)
    assert np.array_equal(made.images.numpy(), images)
    assert np.abs(made.masks.numpy().astype(int) - masks).max() <= 1


@pytest.mark.slow
def test_a_table_knows_every_cutout_that_a_scene_can_need():
    words, rng = world_words(), np.random.default_rng(3)
    painter, keys = Painter(128), set(cutout_keys(world_words(), 128))
    for _ in range(500):
        scene = sample_scene(rng, words=words)
        assert {piece.key for piece in painter.pieces(scene)} <= keys


@pytest.mark.slow
def test_batches_made_ahead_are_the_same_ones():
    made = [learner.Learner(Line(), Settings(4, 0.1, steps=9), torch.device("cpu"))]
    ahead = learner.Learner(Line(), Settings(4, 0.1, steps=9, workers=2), torch.device("cpu"))
    for one, two, _ in zip(made[0].batches(), ahead.batches(), range(5), strict=False):
        assert one[0] == two[0]
        assert torch.equal(one[1][0], two[1][0])
    here, there = made[0].learn(), ahead.learn(ahead.batches())
    assert torch.equal(here["loss"], there["loss"])


@pytest.mark.slow
def test_a_pack_is_small_and_a_run_goes_on_from_it(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "CHUNK", 4)
    out, _ = trained
    pack.pack(out, tmp_path / "pack")
    pack.pack(out, tmp_path / "pack")
    files = list((tmp_path / "pack").iterdir())
    assert max(file.stat().st_size for file in files) < 16_000_000
    assert len(files) <= 8
    pack.unpack(tmp_path / "pack", tmp_path / "run")
    assert "unet 1 steps" in (tmp_path / "run" / "note.txt").read_text()
    before, after = (learner.load_state(x, "unet") for x in (out, tmp_path / "run"))
    assert (after["step"], after["seconds"]) == (1, 0.0)
    for name, value in before["average"].items():
        assert (after["master"][name] - value).abs().max() < 2e-3
    for stage in ("vae", "clip", "latents", "unet", "decoder"):
        common = ["--steps", "2", "--batch", "2", "--scenes", "8", "--device", "cpu"]
        train.main([stage, "--out", str(tmp_path / "run"), *common], networks.TINY)
    assert learner.load_state(tmp_path / "run", "unet")["step"] == 2
    with pytest.raises(ValueError, match="holds a run already"):
        pack.unpack(tmp_path / "pack", tmp_path / "run")


@pytest.mark.slow
def test_the_gpu_script_does_all_stages_within_its_minutes(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "CHUNK", 4)
    monkeypatch.setattr(train, "CAPTIONS", 300)
    monkeypatch.setattr(train, "MEASURED", 8)
    monkeypatch.setattr(gpu, "SPARE_MINUTES", 0.0)
    small = ["--device", "cpu", "--workers", "1", "--scenes", "8", "--batch", "2"]
    options = ["--minutes", "0.01", "--out", str(tmp_path / "run"), "--pack", str(tmp_path / "p")]
    gpu.main([*options, *small], networks.TINY)
    gpu.main(["--unpack", str(tmp_path / "p"), "--out", str(tmp_path / "again")])
    assert {file.stem for file in (tmp_path / "again").glob("*.ckpt")} == {
        "clip", "probe", "unet", "decoder"
    }  # fmt: skip
    assert (tmp_path / "again" / "vae").exists()


@pytest.mark.slow
def test_the_time_of_what_is_learnt_goes_to_the_others():
    stages = ("vae", "clip", "probe", "unet", "decoder")
    for learnt in ((), ("vae",), gpu.SETTLED):
        left, spent = 10.0, {}
        for stage in stages:
            spent[stage] = gpu.share_of(stage, left, learnt)
            left -= spent[stage]
        assert left == pytest.approx(0)
        assert {stage for stage in stages if not spent[stage]} == set(learnt)
    assert gpu.share_of("latents", 5.0, ()) == 0
