"""Small parts: timing, previews, metrics, the CLIP encoder."""

import time
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from sage.core.metrics import clip_score, pixel_distance
from sage.sd.building import BUILDING
from sage.sd.preview import LatentRGB
from sage.sd.timing import StageClock, StageSeconds


def test_a_step_is_divided_among_its_stages():
    clock = StageClock(torch.device("cpu"))
    with clock.measure({"trunk": 0.25, "branches": 0.75}):
        time.sleep(0.02)
    with clock.measure({"decode": 1.0}):
        time.sleep(0.01)
    seconds = clock.read()
    assert seconds.branches == pytest.approx(3 * seconds.trunk)
    assert seconds.trunk + seconds.branches >= 0.02
    assert seconds.decode >= 0.01
    assert seconds.encode == 0
    assert seconds.total == pytest.approx(sum([seconds.trunk, seconds.branches, seconds.decode]))


def test_seconds_outside_a_stage_do_not_count():
    clock = StageClock(torch.device("cpu"))
    time.sleep(0.02)
    assert clock.read() == StageSeconds(0, 0, 0, 0)


def test_previews_are_the_linear_map():
    rgb = LatentRGB(torch.eye(3, 4), torch.tensor([0.0, 0.1, 0.2]))
    z = torch.rand(2, 4, 3, 3)
    expected = (z[:, :3] + torch.tensor([0.0, 0.1, 0.2])[:, None, None]).clamp(0, 1)
    assert (rgb(z) - expected).abs().max() < 1e-6
    assert [picture.size for picture in rgb.pictures(z, (30, 20))] == [(30, 20)] * 2


class LinearDecoder(torch.nn.Module):
    """A decoder that is nothing but a colour map, two times enlarged."""

    config = SimpleNamespace(latent_channels=4, scaling_factor=0.5)
    dtype = torch.float32

    def __init__(self, weight, bias):
        super().__init__()
        self.weight, self.bias = torch.nn.Parameter(weight), bias

    def decode(self, z):
        colour = torch.einsum("kc,rchw->rkhw", self.weight, z) + self.bias[:, None, None]
        return SimpleNamespace(sample=torch.nn.functional.interpolate(colour, scale_factor=2))


def test_fitting_finds_the_colours_of_a_linear_decoder():
    weight, bias = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), torch.zeros(3)
    rgb = LatentRGB.fit(LinearDecoder(weight, bias + 0.4))
    # Scaled latents are half as long as the decoder's; pixels run from -1 to 1.
    assert (rgb.weight - weight / 0.5 / 2).abs().max() < 1e-4
    assert (rgb.bias - (0.4 / 2 + 0.5)).abs().max() < 1e-4


def test_clip_score_is_the_cosine_of_each_pair():
    images = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    texts = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    assert clip_score(images, texts).tolist() == pytest.approx([1.0, 0.0])


def test_pixel_distance_is_the_root_mean_square():
    black, white = torch.zeros(2, 3, 3), torch.ones(2, 3, 3)
    assert pixel_distance(black, white).tolist() == [1.0, 1.0]
    assert pixel_distance(white, white).tolist() == [0.0, 0.0]
    half = torch.stack([white[0] * 0.5, white[1]])
    assert pixel_distance(black, half).tolist() == pytest.approx([0.5, 1.0])


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

    from tests.conftest import build_tiny_pipeline

    torch.manual_seed(0)
    pipe = build_tiny_pipeline()
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 16,
        "patch_size": 8,
    }
    config = CLIPConfig(
        text_config=pipe.text_encoder.config.to_dict(), vision_config=vision, projection_dim=24
    )
    folder = tmp_path_factory.mktemp("clip")
    with BUILDING:
        CLIPModel(config).save_pretrained(folder)
    pipe.tokenizer.save_pretrained(folder)
    size = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
    CLIPImageProcessorPil(**size).save_pretrained(folder)
    return folder


def test_clip_encodes_texts_and_pictures_to_unit_vectors(clip_folder):
    from sage.sd.clip import ClipEncoder

    clip = ClipEncoder.from_pretrained(clip_folder)
    texts = clip.embed_texts(["a fox", "a dog"])
    pictures = clip.embed_images([Image.new("RGB", (64, 64), c) for c in ("red", "blue")])
    assert texts.shape == pictures.shape == (2, 24)
    for vectors in (texts, pictures):
        assert (vectors.norm(dim=-1) - 1).abs().max() < 1e-5
        assert (vectors[0] - vectors[1]).abs().max() > 1e-4


def test_a_prompts_embedding_does_not_depend_on_its_company(clip_folder):
    from sage.sd.clip import ClipEncoder

    clip = ClipEncoder.from_pretrained(clip_folder)
    alone = clip.embed_texts(["a fox"])
    company = clip.embed_texts(["a much longer dog", "a fox"])
    assert (alone[0] - company[1]).abs().max() < 1e-5


def test_a_model_folder_with_clip_uses_it(tiny_folder, clip_folder, tmp_path):
    import shutil

    from sage.sd.pipeline import SagePipeline

    folder = shutil.copytree(tiny_folder, tmp_path / "with_clip")
    shutil.copytree(clip_folder, folder / "clip")
    assert SagePipeline.from_pretrained(folder).embed(["a fox"]).shape == (1, 24)
