"""A student is made small by the best approximation there is, and says what it needs."""

import json

import pytest
import torch
from safetensors.torch import load_file

from sage.sd.adapters import LORA_FILE
from sage.sd.model_settings import ModelSettings
from sage.sd.pipeline import SagePipeline
from sage.training.adapter import Adapter
from sage.world.train.distil import TARGETS
from sage.world.train.student import describe, distances, low_rank, shrink

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


@pytest.fixture
def student(tiny, tmp_path):
    """An adapter of rank 3 with random weights on every kind of layer."""
    adapter = Adapter(tiny.unet, 3, 3.0, TARGETS)
    generator = torch.Generator().manual_seed(0)
    adapter.average = [0.1 * torch.randn(v.shape, generator=generator) for v in adapter.values]
    adapter.save(tmp_path)
    tiny.unet.unload_lora()
    return tmp_path


def product(a, b):
    return b.flatten(1) @ a.flatten(1)


@pytest.mark.parametrize("shape", [(4, 10), (4, 6, 3, 3)])
def test_what_is_left_out_is_the_smallest_part(shape):
    generator = torch.Generator().manual_seed(1)
    a = torch.randn(shape, generator=generator)
    b = torch.randn((5, 4, *(1 for _ in shape[2:])), generator=generator)
    whole = product(a, b)
    values = torch.linalg.svdvals(whole)
    for rank in (1, 2, 3):
        left_out = (product(*low_rank(a, b, rank)) - whole).norm()
        assert float(left_out) == pytest.approx(float(values[rank:].norm()), rel=1e-4)
    for rank in (4, 9):  # nothing is left out, and every layer has the rank that the header says
        small_a, small_b = low_rank(a, b, rank)
        assert (len(small_a), small_b.shape[1]) == (rank, rank)
        assert (product(small_a, small_b) - whole).abs().max() < 1e-5


def test_a_smaller_student_is_loaded_whole_and_draws_nearly_the_same(tiny, student):
    z, t, c = torch.randn(2, 4, 8, 8), torch.tensor([10, 700]), torch.randn(2, 16, 32)

    def output():
        tiny.use_lora(student)
        with torch.no_grad():
            return tiny.unet(z, t, c).sample

    before, size = output(), (student / LORA_FILE).stat().st_size
    shrink(student / LORA_FILE, 3)
    assert {value.dtype for value in load_file(student / LORA_FILE).values()} == {torch.float16}
    assert (student / LORA_FILE).stat().st_size < 0.7 * size
    assert 0 < (output() - before).abs().max() < 1e-2
    shrink(student / LORA_FILE, 1)
    assert (output() - before).abs().max() > 1e-2


def test_it_says_what_it_needs_and_what_was_measured(tiny_folder, student):
    teacher = {"steps": 2, "teacher_steps": 4, "guidance": 2.0}
    found = distances(tiny_folder, student, ["a fox", "a dog"], **teacher, device=CPU)
    assert list(found) == [
        "without it, 2 steps, guidance 2",
        "without it, 1 steps, guidance 2",
        "without it, 2 steps, no guidance",
        "with it, 2 steps, no guidance",
    ]
    assert min(found.values()) > 0
    about = {"rank": 3, "stored_rank": 3, "batch": 2, "minutes": 1.0, "step": 5, "checked": 2}
    about |= {"hardware": "one abacus"}
    describe(student, "tiny", teacher | about | {"distance_to_teacher": found})
    settings = ModelSettings.read(student, ModelSettings(tau_min=0.1, guidance_scale=3.0))
    assert (settings.steps, settings.guidance_scale, settings.tau_min) == (2, 1.0, 0.1)
    assert json.loads((student / "distil.json").read_text())["distance_to_teacher"] == found
    card = (student / "README.md").read_text()
    assert (
        f"| with it, 2 steps, no guidance | {found['with it, 2 steps, no guidance']:.3f} |" in card
    )
    assert "on one abacus" in card
    assert "{" not in card.split("```")[0]


def test_a_merged_student_costs_nothing_and_stays(tiny, tiny_folder, student):
    groups = [(0, 1)]

    def latents(pipe):
        options = {"groups": groups, "num_inference_steps": 3, "output_type": "latent"}
        return pipe(["a fox", "a dog"], **options).latents

    plain, flops = latents(tiny), tiny.flops
    tiny.use_lora(student)
    wanted = latents(tiny)
    tiny.use_lora(None)
    tiny.merge_lora(student)
    assert tiny.lora is None
    assert tiny.flops == flops
    assert not any("lora" in name for name, _ in tiny.unet.named_modules())
    assert (latents(tiny) - wanted).abs().max() < 1e-4
    assert (wanted - plain).abs().max() > 1e-2
    tiny.use_lora(None)
    assert (latents(tiny) - wanted).abs().max() < 1e-4
    other = SagePipeline.from_pretrained(tiny_folder)
    with pytest.raises(ValueError, match="cannot be used as a LoRA adapter"):
        other.merge_lora(student / "gone")
    assert torch.equal(latents(other), plain)
