"""Models that are loaded at the same time, as by visitors who pick different ones."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import nn

from sage.core.settings import SCHEDULERS
from sage.sd.clip import ClipEncoder
from sage.sd.pipeline import SagePipeline
from sage.sd.schedulers import make_scheduler
from tests.conftest import build_tiny_pipeline
from tests.test_parts import clip_folder  # noqa: F401

pytestmark = pytest.mark.slow

PROMPTS = ["a cat", "a dog"]


@pytest.fixture
def at_once():
    """Calls functions in threads that begin together; returns what they do."""

    def call(*functions):
        together = threading.Barrier(len(functions))

        def run(function):
            together.wait()
            return function()

        with ThreadPoolExecutor(len(functions)) as threads:
            return list(threads.map(run, functions))

    return call


def values(pipe):
    return {
        f"{part}.{name}": value
        for part in ("unet", "vae", "text_encoder")
        for name, value in getattr(pipe, part).state_dict().items()
    }


def test_models_loaded_at_once_are_whole_and_leave_torch_as_it_was(
    tiny_folder,
    adapter,
    clip_folder,  # noqa: F811
    at_once,
):
    before = nn.Module.register_parameter, nn.init.normal_, torch.get_default_dtype()
    plain = values(SagePipeline.from_pretrained(tiny_folder))
    adapted = SagePipeline.from_pretrained(tiny_folder)
    adapted.use_lora(adapter)
    adapted = values(adapted)

    def load():
        return SagePipeline.from_pretrained(tiny_folder)

    def half():
        return SagePipeline.from_pretrained(tiny_folder, dtype=torch.bfloat16)

    def with_adapter():
        pipe = SagePipeline.from_pretrained(tiny_folder)
        pipe.use_lora(adapter)
        return pipe

    def encoder():
        return ClipEncoder.from_pretrained(clip_folder)

    for _ in range(5):
        one, other, third, clip = at_once(load, half, with_adapter, encoder)
        for pipe, right in ((one, plain), (third, adapted)):
            found = values(pipe)
            assert found.keys() == right.keys()
            assert all(torch.equal(found[name], right[name]) for name in right)
        assert {value.dtype for value in values(other).values()} == {torch.bfloat16}
        assert all(value.device.type == "cpu" for value in clip.model.state_dict().values())
    after = nn.Module.register_parameter, nn.init.normal_, torch.get_default_dtype()
    assert after == before


def test_while_one_is_downloaded_another_is_loaded(tiny_folder, monkeypatch):
    asked, go_on = threading.Event(), threading.Event()

    def download(name, **where):
        asked.set()
        assert go_on.wait(60)
        raise OSError("no such repository")

    monkeypatch.setattr(DiffusionPipeline, "download", download)
    with ThreadPoolExecutor(1) as thread:
        slow = thread.submit(SagePipeline.from_pretrained, "someone/something")
        assert asked.wait(60)
        try:
            assert SagePipeline.from_pretrained(tiny_folder).unet is not None
        finally:
            go_on.set()
        with pytest.raises(OSError, match="no such repository"):
            slow.result()


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_run_does_not_see_that_another_model_is_loading(scheduler):
    """Libraries set torch's default dtype for the whole process while they build in half."""

    def render():
        pipe = SagePipeline.from_pipe(build_tiny_pipeline())
        pipe.set_progress_bar_config(disable=True)
        pipe.scheduler = make_scheduler(scheduler, pipe.scheduler)
        torch.set_default_dtype(default)
        return pipe(PROMPTS, steps=4, share_ratio=0.5, output_type="latent").images

    try:
        default = torch.float32
        right = render()
        default = torch.bfloat16
        torch.set_default_dtype(torch.float32)
        assert torch.equal(render(), right)
    finally:
        torch.set_default_dtype(torch.float32)
