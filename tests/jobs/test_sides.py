"""A variant shares the weights, and running one leaves the other as it was."""

import shutil
from dataclasses import replace

import pytest
import torch
from diffusers import EulerDiscreteScheduler
from safetensors.torch import load_file, save_file

from sage.jobs.compare import compare
from sage.jobs.job import prepare
from sage.jobs.models import load_model
from sage.jobs.request import parse_request
from sage.jobs.sides import Sides, variant
from tests.jobs.test_models import spec_of

TEXT = "a red fox\na blue fox"


@pytest.fixture
def model(tiny_folder, adapter):
    return load_model(replace(spec_of(tiny_folder), adapter=adapter), "cpu")


def test_plain_is_the_pipeline_itself(model):
    assert variant(model) is model.pipe


def test_a_variant_is_made_once_and_shares_every_weight(model):
    trained = variant(model, trained=True)
    assert variant(model, trained=True) is trained
    ours = {p.data_ptr() for p in model.pipe.unet.parameters()}
    theirs = {p.data_ptr() for n, p in trained.unet.named_parameters() if "lora" not in n}
    assert ours == theirs
    assert trained.vae is model.pipe.vae


@pytest.mark.slow
def test_the_adapter_changes_its_variant_and_nothing_else(model):
    def picture(pipe):
        return pipe(["a fox"], num_inference_steps=3, output_type="pt").images

    before = picture(model.pipe)
    trained = picture(variant(model, trained=True))
    assert not torch.equal(before, trained)
    assert torch.equal(before, picture(model.pipe))
    assert model.pipe.lora is None


def test_a_scheduler_belongs_to_its_variant(model):
    euler = variant(model, "euler")
    assert isinstance(euler.scheduler, EulerDiscreteScheduler)
    assert not isinstance(model.pipe.scheduler, EulerDiscreteScheduler)
    assert euler.unet is model.pipe.unet


def test_only_the_shared_side_is_trained(model):
    request = parse_request(TEXT, trained=True, scheduler="euler")
    sides = Sides.of(model, request)
    assert sides.shared.lora == model.spec.adapter
    assert sides.plain.lora is None


@pytest.mark.slow
def test_a_trained_comparison_names_its_adapter_and_leaves_the_baseline_alone(model):
    plain = parse_request(TEXT, steps=3, tau_min=-1.0, tau_max=1.0)
    *_, without = compare(prepare(model, plain))
    *_, trained = compare(prepare(model, replace(plain, trained=True)))
    assert without.report["adapter"] is None
    assert trained.report["adapter"] == model.spec.adapter.name
    first, second = without.independent.images[0], trained.independent.images[0]
    assert first.tobytes() == second.tobytes()
    assert without.shared.images[0].tobytes() != trained.shared.images[0].tobytes()


def test_a_model_without_an_adapter_says_so(tiny_folder):
    model = load_model(spec_of(tiny_folder), "cpu")
    with pytest.raises(ValueError, match="no adapter that was trained for sharing"):
        variant(model, trained=True)


@pytest.mark.slow
def test_an_adapter_whose_file_has_changed_is_read_again(model, adapter, tmp_path):
    folder = tmp_path / "adapter"
    shutil.copytree(adapter, folder)
    model = replace(model, spec=replace(model.spec, adapter=folder))
    before = variant(model, trained=True)
    assert variant(model, trained=True) is before
    (file,) = folder.glob("*.safetensors")
    save_file({name: 2 * tensor for name, tensor in load_file(file).items()}, file)
    after = variant(model, trained=True)
    assert after is not before
    how = {"num_inference_steps": 2, "output_type": "latent"}
    assert not torch.equal(after(["a fox"], **how).latents, before(["a fox"], **how).latents)
    file.unlink()
    with pytest.raises(ValueError, match="cannot be used as a LoRA adapter: the folder has no"):
        variant(model, trained=True)
