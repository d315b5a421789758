"""Real classes at tiny size, saved to disk once: no downloads, no mocks of diffusers."""

import copy
import gc
import os
import ssl

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

from collections import Counter
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import settings

# A busy machine takes longer for an example, and that is no fault.
settings.register_profile("tests", deadline=None)
settings.load_profile("tests")

gc.disable()  # until everything is imported: see `pytest_collection_finish`

# Every client of a page on this machine would read the certificates of the whole world anew.
ssl.create_default_context = cache(ssl.create_default_context)

# Tiny networks gain nothing from more threads, and lose much where threads are few.
torch.set_num_threads(1)


WORKERS = 4  # each holds models and pages of its own: about 2 GB


def pytest_xdist_auto_num_workers(config):
    """Processes of a run: for folders one a core; for chosen files and for rehearsals none.

    To start them takes seconds, and what is measured wants the machine for itself.
    """
    folders = all(Path(arg).is_dir() for arg in config.args)
    alone = {"rehearsal", "gpu"} & set(config.option.markexpr.replace("not rehearsal", "").split())
    if alone or not folders:
        return 0
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of programs that tests start beside others
    return min(len(os.sched_getaffinity(0)), WORKERS)


# Files of half a minute and more.
LONGEST = {
    "test_browser.py",
    "test_browser_explore.py",
    "test_cluster.py",
    "test_execution.py",
    "test_full_size.py",
    "test_lesson_browser.py",
    "test_processes.py",
    "test_run.py",
    "test_served_numbers.py",
    "test_visitors.py",
}


def pytest_collection_modifyitems(items):
    """The longest files first, then those with the most slow tests: none is left for the end."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: (item.path.name not in LONGEST, -slow[item.path]))


def pytest_collection_finish(session):
    """Leaves what was imported out of garbage collection, which takes an eighth of a run's time."""
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
    gc.enable()


def _tokenizer():
    from transformers import CLIPTokenizer

    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)] + list("0123456789,.'-")
    tokens = (
        letters + [letter + "</w>" for letter in letters] + ["<|startoftext|>", "<|endoftext|>"]
    )
    vocab = {token: n for n, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=16)


def build_tiny_pipeline(prediction_type="epsilon", **scheduler):
    """A StableDiffusionPipeline of real classes with random weights: 16x16 pixels, 8x8 latents."""
    from sage.sd.building import BUILDING

    with BUILDING:  # a page of another test may be loading its model
        return _tiny_pipeline(prediction_type, **scheduler)


def _tiny_pipeline(prediction_type, **scheduler):
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    tokenizer = _tokenizer()
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=16,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=8,
        norm_num_groups=8,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=16,
    )
    config = {
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
        "prediction_type": prediction_type,
    }
    return StableDiffusionPipeline(
        vae=vae.eval(),
        text_encoder=CLIPTextModel(text).eval(),
        tokenizer=tokenizer,
        unet=unet.eval(),
        scheduler=DDIMScheduler(**(config | scheduler)),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> Path:
    """A model in Stable Diffusion's layout on disk, safetensors only."""
    folder = tmp_path_factory.mktemp("tiny")
    build_tiny_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def _loaded(tiny_folder):
    from sage.sd.pipeline import SagePipeline

    pipe = SagePipeline.from_pretrained(tiny_folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def tiny(_loaded):
    """The same model as a SagePipeline, a copy for each test: it takes a third of loading."""
    return copy.deepcopy(_loaded)


@pytest.fixture(scope="session")
def adapter(tiny_folder, tmp_path_factory):
    """A LoRA for it in diffusers' format whose weights are not zero."""
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    from sage.sd.building import BUILDING
    from sage.sd.pipeline import SagePipeline

    pipe = SagePipeline.from_pretrained(tiny_folder)
    with BUILDING:  # a page of another test may be loading its model
        pipe.unet.add_adapter(LoraConfig(r=2, lora_alpha=64, target_modules=["to_q", "to_v"]))
    torch.manual_seed(0)
    for name, parameter in pipe.unet.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter)
    folder = tmp_path_factory.mktemp("adapter")
    layers = get_peft_model_state_dict(pipe.unet)
    SagePipeline.save_lora_weights(folder, unet_lora_layers=layers)
    return folder
