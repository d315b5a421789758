"""The training loop on a toy task, and every stage once on a tiny pool."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from sage.world import data, export, learner, train
from sage.world.learner import Settings


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


def test_the_loss_falls_and_the_log_says_so(tmp_path):
    settings = Settings(batch=32, rate=3e-2, steps=200, warmup=10)
    learner.train(Line(), settings, tmp_path, torch.device("cpu"), resume=False)
    lines = [json.loads(line) for line in (tmp_path / "line.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [50, 100, 150, 200]
    assert lines[-1]["loss"] < 0.5 * lines[0]["loss"]


def test_the_rate_warms_up_and_ends_low():
    settings = Settings(batch=1, rate=1.0, steps=100, warmup=10)
    made = learner.Learner(Line(), settings, torch.device("cpu"))
    rates = []
    for made.step in (0, 9, 50, 100):
        rates.append(made.rate)
    assert rates[0] == pytest.approx(0.1, rel=1e-6)
    assert rates[1] > 0.95
    assert rates[3] == pytest.approx(settings.last_rate)


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


def test_pool_size_is_checked(tmp_path):
    with pytest.raises(ValueError, match="2000"):
        data.build_pool(tmp_path / "pool", 1999)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Every stage for one step; the export's folder and the run's folder."""
    out, folder = tmp_path_factory.mktemp("run"), tmp_path_factory.mktemp("model") / "scenes"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "CHUNK", 8)
        patch.setattr(train, "CAPTIONS", 200)
        common = ["--out", str(out), "--folder", str(folder), "--steps", "1", "--batch", "2"]
        # The last two stages need minutes of sampling; test_export.py calls their parts.
        for stage in list(train.STAGES)[:-2]:
            train.main([stage, *common, "--scenes", "16", "--device", "cpu"])
    return out, folder


def test_every_stage_runs_and_the_export_loads(trained):
    from diffusers import StableDiffusionPipeline

    _, folder = trained
    pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    assert pipe.unet.dtype == pipe.vae.dtype == pipe.text_encoder.dtype == torch.float32
    pipe.set_progress_bar_config(disable=True)
    image = pipe("a fox in the snow", num_inference_steps=2, guidance_scale=2.0).images[0]
    assert isinstance(image, Image.Image)
    assert image.size == (64, 64)


def test_export_keeps_its_promises(trained):
    _, folder = trained
    shards = list(folder.rglob("*.safetensors"))
    assert max(path.stat().st_size for path in shards) < 10_000_000
    assert export.folder_bytes(folder) <= export.FOLDER_BYTES
    record = export.read_json(folder / "sage.json")
    assert np.shape(record["latent_rgb"]["weight"]) == (3, 4)
    assert record["tau_min"] <= record["tau_max"]
    assert "fox" in record["known_words"]


def test_a_second_export_keeps_the_reports(trained):
    out, folder = trained
    (folder / "README.md").write_text("kept")
    export.export(out, folder)
    assert (folder / "README.md").read_text() == "kept"
    assert not folder.with_name(folder.name + ".old").exists()


def test_the_pool_does_not_depend_on_the_workers(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "CHUNK", 4)
    for workers in (1, 2):
        data.build_pool(tmp_path / str(workers), 8, seed=5, workers=workers)
    one, two = (data.load_pool(tmp_path / name) for name in "12")
    assert one.scenes == two.scenes
    assert np.array_equal(one.images, two.images)
    assert one.masks.max() > 100
