"""The networks' shapes and promises, on untrained weights."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from sage.world.probe import Probe
from sage.world.train import networks
from sage.world.train.networks import TINY, Sizes
from sage.world.train.stages import tokens
from sage.world.words import world_words

CAPTIONS = ["a fox in the snow", "two red balloons at night", "a flat drawing of a whale"] * 20


@pytest.fixture(scope="module")
def words():
    return networks.tokenizer(CAPTIONS, 600)


@pytest.mark.parametrize("text", ["a fox in the snow", "quizzical zebras, 42!", "naïve ☃ 東京"])
def test_any_text_survives_the_tokenizer(words, text):
    ids = words(text).input_ids
    assert (ids[0], ids[-1]) == (words.bos_token_id, words.eos_token_id)
    assert words.decode(ids[1:-1]).replace(" ", "") == text.replace(" ", "")
    assert words.unk_token_id not in ids[1:-1]


def test_saved_tokenizer_gives_the_same_ids(words, tmp_path):
    words.save_pretrained(tmp_path)
    again = type(words).from_pretrained(tmp_path)
    assert again(CAPTIONS).input_ids == words(CAPTIONS).input_ids
    assert again.model_max_length == 32
    assert again.pad_token_id == again.eos_token_id == words.eos_token_id


def test_frequent_words_are_one_token_and_rare_ones_several(words):
    assert len(words("fox").input_ids) == 3
    assert len(words("xylophone").input_ids) > 5


def test_tokenizer_refuses_a_vocabulary_without_room_for_the_bytes():
    with pytest.raises(ValueError, match="514"):
        networks.tokenizer(CAPTIONS, 300)


def test_padding_changes_no_embedding(words):
    clip = networks.clip(words, TINY).eval()
    short = words(["a fox in the snow"], return_tensors="pt").input_ids
    padded = tokens(words, ["a fox in the snow"])
    assert short.shape[1] < padded.shape[1] == TINY.tokens
    with torch.no_grad():
        a, b = (clip.get_text_features(input_ids=ids).pooler_output for ids in (short, padded))
    assert (a - b).abs().max() < 1e-5


def test_a_long_text_is_cut_to_the_towers_length(words):
    assert tokens(words, ["fox " * 100]).shape == (1, TINY.tokens)


@pytest.mark.parametrize("sizes", [Sizes(), TINY], ids=["whole", "tiny"])
def test_autoencoder_and_unet_agree_on_the_latents(sizes):
    vae, unet = networks.autoencoder(sizes).eval(), networks.unet(sizes).eval()
    with torch.no_grad():
        z = vae.encode(torch.zeros(1, 3, sizes.image, sizes.image)).latent_dist.mean
        v = unet(z, torch.tensor(500), torch.zeros(1, sizes.tokens, sizes.text)).sample
        assert vae.decode(z).sample.shape == (1, 3, sizes.image, sizes.image)
    assert z.shape == v.shape == (1, sizes.channels, sizes.latent, sizes.latent)


def test_a_latent_has_256_positions():
    assert Sizes().latent == TINY.latent == 16


def test_the_whole_model_fits_into_its_folder(words):
    whole = Sizes()
    clip = networks.clip(words, whole)
    table = (whole.vocabulary - len(words)) * whole.text  # these words are fewer
    parts = [networks.autoencoder(whole), networks.unet(whole), clip, clip.text_model]
    parts.append(Probe.of(world_words()))
    numbers = 2 * table + sum(p.numel() for part in parts for p in part.parameters())
    # float16; 5.4 MB for student and adapter, 1 MB for everything that is no weight
    assert 2 * numbers < 64_000_000 - 6_400_000


def test_standardise_moves_the_latents_and_not_the_pictures():
    torch.manual_seed(0)
    vae = networks.autoencoder(TINY).eval()
    pixels = torch.rand(3, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        before = vae.encode(pixels).latent_dist
        made = vae.decode(before.mean).sample
        mean, spread = before.mean.mean((0, 2, 3)), before.mean.std((0, 2, 3))
        networks.standardise(vae, mean, spread)
        after = vae.encode(pixels).latent_dist
        assert (vae.decode(after.mean).sample - made).abs().max() < 1e-4
    assert after.mean.mean((0, 2, 3)).abs().max() < 1e-4
    assert (after.mean.std((0, 2, 3)) - 1).abs().max() < 1e-4
    assert torch.allclose(after.std, before.std / spread[:, None, None], rtol=1e-3)


def test_the_schedule_ends_in_pure_noise_and_starts_clean():
    schedule = networks.scheduler()
    assert isinstance(schedule, DDIMScheduler)
    schedule.set_timesteps(30)
    assert float(schedule.alphas_cumprod[-1]) < 1e-6
    assert float(schedule.final_alpha_cumprod) == 1
    assert schedule.timesteps[0] == 999
    assert np.all(np.diff(schedule.alphas_cumprod.numpy()) < 0)
