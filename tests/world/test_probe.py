"""The probe and the measures that use it: shapes, counting, files."""

import numpy as np
import pytest
import torch

from sage.world import evaluate, probe
from sage.world.data import PLACES, STYLES, THINGS, draw_scenes, labels
from sage.world.scenes import Scene, held_out

SIZES = len(THINGS), len(PLACES), len(STYLES)


def reading_of(true):
    """A reading that has everything right."""
    return probe.Reading(
        true.things * 0.8, true.place, true.style, true.count, true.left, true.right
    )


def test_a_perfect_reading_scores_one_and_a_wrong_place_costs_its_share():
    true = labels(draw_scenes(40, 1))
    assert set(probe.accuracy(reading_of(true), true).values()) == {1.0}
    place = true.place.copy()
    place[:10] = (place[:10] + 1) % len(PLACES)
    shares = probe.accuracy(
        probe.Reading(true.things, place, true.style, true.count, true.left, true.right), true
    )
    assert shares["place"] == 0.75
    assert shares["thing"] == shares["things"] == shares["order"] == 1.0


def test_labels_say_what_the_scene_says():
    scene = Scene(("fox", "owl"), 1, "normal", "snow", "flat", 0)
    alone = Scene(("owl",), 3, "normal", "snow", "3d", 0)
    true = labels([scene, alone])
    names = [thing.name for thing in THINGS]
    assert [names[i] for i in (true.left[0], true.right[0])] == ["fox", "owl"]
    assert true.left[1] == true.right[1] == names.index("owl")
    assert true.things.sum(1).tolist() == [2, 1]
    assert true.count.tolist() == [1, 2]


def test_a_saved_probe_reads_the_same(tmp_path):
    torch.manual_seed(0)
    judge = probe.Probe(*SIZES).eval()
    probe.save(judge, tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    one, two = probe.read(judge, images), probe.read(probe.load(tmp_path), images)
    assert one.things.shape == (3, len(THINGS))
    assert np.abs(one.things - two.things).max() < 1e-2  # float16 on disk


def test_reading_does_not_depend_on_the_batch():
    torch.manual_seed(0)
    judge = probe.Probe(*SIZES).eval()
    images = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), np.uint8)
    one, two = probe.read(judge, images), probe.read(judge, images, batch=2)
    assert np.abs(one.things - two.things).max() < 1e-5


def test_bar_prompts_are_held_out_name_the_place_and_never_change():
    scenes, texts = evaluate.bar_prompts(30)
    assert all(held_out(scene.things[0], scene.place) for scene in scenes)
    assert (scenes, texts) == evaluate.bar_prompts(30)
    assert all(len(text.split()) >= 3 for text in texts)


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_threshold_separates_what_can_be_separated(shift):
    low, high = np.array([0.1, 0.2]) + shift, np.array([0.4, 0.6]) + shift
    assert low.max() < evaluate.threshold(low, high) < high.min()


def test_latent_rgb_recovers_a_linear_map():
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(20, 4, 16, 16)).astype(np.float32)
    weight, bias = rng.normal(size=(3, 4)) * 0.03, np.array([0.4, 0.5, 0.6])
    small = np.einsum("rc,nchw->nhwr", weight, latents) + bias
    images = (small.repeat(4, 1).repeat(4, 2) * 255).round().astype(np.uint8)
    fit = evaluate.latent_rgb(latents, images)
    assert np.abs(np.array(fit["weight"]) - weight).max() < 1e-3
    assert np.abs(np.array(fit["bias"]) - bias).max() < 1e-3


def test_psnr_of_a_known_error():
    a = np.zeros((2, 8, 8, 3), np.uint8)
    assert evaluate.psnr(a, a + np.uint8(10)) == pytest.approx(28.13, abs=0.01)


def test_caption_pairs_are_what_their_label_says():
    pairs = evaluate.caption_pairs(20, 3)
    assert {kind: len(found) for kind, found in pairs.items()} == dict.fromkeys(pairs, 20)
    assert set(pairs) == {"same", "share", "apart"}


def test_sheet_holds_every_picture():
    images = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), np.uint8)
    board = np.asarray(evaluate.sheet(images, columns=3, zoom=1))
    assert board.shape == (8, 12, 3)
    assert board[0, 4].tolist() == [1] * 3
    assert board[4, 4].tolist() == [4] * 3
    assert board[-1, -1].tolist() == [255] * 3
