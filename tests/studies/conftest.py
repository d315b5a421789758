"""A tiny model and a tiny COCO folder, and a lab on them that takes seconds."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from sage.studies.engine import judges, lab
from sage.studies.engine.lab import Lab, LabSettings
from tests.training.test_coco import write_coco

WORDS = ("fox", "dog", "cat", "bus", "tree", "boat", "cake", "kite")


@pytest.fixture(scope="session")
def model_folder(tiny_folder, tmp_path_factory):
    """The tiny model, with bounds so wide that random embeddings form groups."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    shutil.copytree(tiny_folder, folder)
    settings = {"tau_min": -1.0, "tau_max": 0.99999, "guidance_scale": 2.0}
    (folder / "sage.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="session")
def coco_folder(tmp_path_factory):
    """Eight pictures with two captions each."""
    folder = tmp_path_factory.mktemp("coco")
    write_coco(folder, [[f"a {word}", f"one {word} in the snow"] for word in WORDS])
    return folder


@pytest.fixture(scope="session")
def adapter_folder(model_folder, tmp_path_factory):
    """An adapter with random weights, as training saves it."""
    from sage.sd.pipeline import SagePipeline
    from sage.training.adapter import Adapter

    pipe = SagePipeline.from_pretrained(model_folder)
    pipe.unet.requires_grad_(False)
    made = Adapter(pipe.unet, 2, 2.0, ("to_q", "to_k", "to_v", "to_out.0"), 0)
    torch.manual_seed(1)
    with torch.no_grad():
        for value in made.values:
            value.add_(0.2 * torch.randn_like(value))
    made.follow(0.0, 0)
    folder = tmp_path_factory.mktemp("adapters") / "base"
    folder.mkdir()
    made.save(folder)
    return folder


@pytest.fixture
def small_judge(monkeypatch):
    """The judge looks at small pictures: fast, and the arithmetic is the same."""
    monkeypatch.setattr(judges, "SIDE", 32)
    monkeypatch.setattr(lab, "SIDE", 32)


@pytest.fixture
def settings(model_folder, coco_folder, adapter_folder, tmp_path, small_judge):
    """Eight pictures a row, two steps."""
    return LabSettings(
        model=str(model_folder),
        data=str(coco_folder),
        pictures=12,
        seeds=2,
        steps=2,
        sage_adapter=adapter_folder,
        standard_adapter=adapter_folder,
        nosoft_adapter=adapter_folder,
        twins_adapter=tmp_path / "none",
        adapters=adapter_folder.parent,
        device="cpu",
        cache=tmp_path / "cache",
        out=tmp_path / "out",
        quiet=True,
    )


@pytest.fixture
def tiny_lab(settings):
    """A lab on the tiny model and the COCO folder."""
    return Lab(settings)


@pytest.fixture
def scene_lab(settings):
    """The same on emoji scenes."""
    return Lab(replace(settings, data="scenes"))
