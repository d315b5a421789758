"""Only listed models are loaded, safetensors only, and a missing one is replaced with a note."""

import json
import re
import shutil

import pytest
import torch

from sage.jobs import models
from sage.jobs.models import ModelSpec, available_models, find_model, load_model
from sage.sd.model_settings import ModelSettings


def spec_of(folder):
    return ModelSpec("tiny", "Tiny", str(folder), settings=ModelSettings.read(folder))


def test_hub_models_are_pinned_to_a_commit():
    for spec in (models.stable_diffusion_v1_5(),):
        assert re.fullmatch("[0-9a-f]{40}", spec.revision)
        assert re.fullmatch("[0-9a-f]{40}", spec.clip_revision)


def test_the_paper_model_is_first_where_there_is_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [spec.key for spec in available_models()] == [
        "sd-v1-5",
        "emoji-scenes",
        "emoji-scenes-4-step",
    ]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    offered = [spec.key for spec in available_models()]
    assert offered == ["emoji-scenes", "emoji-scenes-4-step"]


def test_a_folder_from_the_command_line_comes_first(tiny_folder):
    first, *rest = available_models(str(tiny_folder))
    assert first.source == str(tiny_folder)
    assert "emoji-scenes" in [spec.key for spec in rest]


def test_a_model_on_the_list_can_be_named_by_key_or_source():
    for name in ("sd-v1-5", "stable-diffusion-v1-5/stable-diffusion-v1-5"):
        assert available_models(name)[0].revision == models.stable_diffusion_v1_5().revision


def test_an_unknown_key_is_refused_with_the_list():
    with pytest.raises(ValueError, match="Unknown model 'dall-e'; available: emoji-scenes"):
        find_model("dall-e", available_models())


def test_a_folder_loads_on_the_cpu(tiny_folder):
    model = load_model(spec_of(tiny_folder), "cpu")
    assert model.spec.key == "tiny"
    assert model.note == ""
    assert model.device_name.startswith("CPU")
    assert model.known_words is None


def test_a_model_that_cannot_be_reached_is_replaced_with_a_note(tiny_folder, monkeypatch):
    monkeypatch.setattr(models, "builtin_model", lambda: spec_of(tiny_folder))
    missing = ModelSpec("gone", "A model that is gone", "/no/such/folder")
    model = load_model(missing, "cpu")
    assert model.spec.key == "tiny"
    assert "A model that is gone could not be loaded" in model.note


def test_weights_that_are_no_safetensors_are_not_loaded(tiny_folder, tmp_path, monkeypatch):
    import shutil

    folder = shutil.copytree(tiny_folder, tmp_path / "pickled")
    weights = next((folder / "unet").glob("*.safetensors"))
    torch.save({}, weights.with_suffix(".bin"))
    weights.unlink()
    monkeypatch.setattr(models, "builtin_model", lambda: spec_of(tiny_folder))
    assert load_model(ModelSpec("p", "Pickled", str(folder)), "cpu").spec.key == "tiny"


def test_settings_are_read_from_the_model_folder(tmp_path):
    values = {
        "tau_min": 0.2,
        "guidance_scale": 3,
        "latent_rgb": {"weight": [[0.1] * 4] * 3, "bias": [0.5] * 3},
        "known_words": ["fox"],
    }
    (tmp_path / "sage.json").write_text(json.dumps(values))
    settings = ModelSettings.read(tmp_path)
    assert (settings.tau_min, settings.tau_max, settings.guidance_scale) == (0.2, 0.9, 3.0)
    assert settings.latent_rgb.weight.shape == (3, 4)
    assert settings.known_words == frozenset({"fox"})


@pytest.mark.parametrize("text", ["{", '{"tau_min": "low"}', '{"latent_rgb": {"bias": [1]}}'])
def test_broken_settings_name_the_file(tmp_path, text):
    (tmp_path / "sage.json").write_text(text)
    with pytest.raises(ValueError, match=r"sage\.json cannot be read"):
        ModelSettings.read(tmp_path)


DAMAGE = {
    "empty": b"",
    "cut": b'{"_class_name": "CLIPText',
    "list": b"[1, 2]",
    "null": b"null",
    "junk": bytes(range(256)),
    "folder": None,
}


@pytest.mark.slow
@pytest.mark.parametrize("how", DAMAGE)
def test_whatever_is_damaged_in_a_folder_is_one_sentence_at_loading(tiny_folder, tmp_path, how):
    """Every file of a model, its settings included; nothing is raised before it is loaded."""
    whole = tmp_path / "whole"
    shutil.copytree(tiny_folder, whole)
    (whole / "sage.json").write_text("{}")
    (whole / "words.json").write_text('{"things": [], "places": [], "categories": []}')
    names = [
        f.relative_to(whole) for f in whole.rglob("*") if f.suffix in (".json", ".safetensors")
    ]
    for number, name in enumerate(names):
        folder = tmp_path / str(number)
        shutil.copytree(whole, folder)
        (folder / name).unlink()
        if DAMAGE[how] is None:
            (folder / name).mkdir()
        else:
            (folder / name).write_bytes(DAMAGE[how])
        (spec, *_) = available_models(str(folder))
        with pytest.raises((ValueError, OSError)) as caught:  # what `load_model` falls back from
            models._assemble(spec, torch.float32)
        assert "\n" not in str(caught.value), (name, caught.value)
        assert 20 < len(str(caught.value)) < 500, (name, caught.value)


def test_a_tokenizer_without_words_is_refused(tiny_folder, tmp_path):
    """Transformers would make an empty one, for which all prompts are the same."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    for name in ("tokenizer.json", "vocab.json", "merges.txt"):
        (folder / "tokenizer" / name).unlink(missing_ok=True)
    with pytest.raises(ValueError, match=r"has no words: tokenizer/ holds neither"):
        models.open_pipeline(str(folder), torch.device("cpu"))


@pytest.mark.parametrize("name", ["tpu", "", "cuda:99", "cuda:x", 5])
def test_a_device_that_is_not_there_is_one_sentence(name):
    with pytest.raises(ValueError, match=r"^The device is .*(allowed are|no such GPU)"):
        load_model(models.builtin_model(), device=name)
