"""The probe and the measures that use it: shapes, counting, files."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from sage.world import probe
from sage.world.captions import names_place
from sage.world.labels import common_content, labels
from sage.world.scenes import Scene, held_out
from sage.world.train import calibrate, evaluate
from sage.world.train.data import draw_scenes
from sage.world.words import world_words

WORLD = world_words()
FOX = Scene(("fox",), 1, "normal", "snow", "flat", 0)
BOTH = Scene(("fox", "owl"), 1, "big", "snow", "flat", 0, "small")


def reading_of(true):
    """A reading that has everything right."""
    return probe.Reading(
        true.things * 0.8, true.place, true.style, true.count, true.left, true.right,
        true.left_size, true.right_size,
    )  # fmt: skip


def test_a_perfect_reading_scores_one_and_a_wrong_place_costs_its_share():
    true = labels(draw_scenes(40, 1, WORLD), WORLD)
    assert set(probe.accuracy(reading_of(true), true).values()) == {1.0}
    place = true.place.copy()
    place[:10] = (place[:10] + 1) % len(WORLD.places)
    shares = probe.accuracy(replace(reading_of(true), place=place), true)
    assert shares["place"] == 0.75
    assert shares["thing"] == shares["things"] == shares["order"] == shares["size"] == 1.0


def test_labels_say_what_the_scene_says():
    alone = Scene(("owl",), 3, "normal", "snow", "3d", 0)
    true = labels([BOTH, alone], WORLD)
    names = list(WORLD.thing)
    assert [names[i] for i in (true.left[0], true.right[0])] == ["fox", "owl"]
    assert true.left[1] == true.right[1] == names.index("owl")
    assert true.things.sum(1).tolist() == [2, 1]
    assert true.count.tolist() == [1, 2]
    assert (true.left_size.tolist(), true.right_size.tolist()) == ([2, 1], [0, 1])


def test_labels_of_the_model_are_numbered_as_its_probe_numbers_them():
    assert labels([FOX]).style[0] == 0
    *places, unknown = WORLD.places
    with pytest.raises(KeyError):
        labels([replace(FOX, place=unknown.name)], replace(WORLD, places=tuple(places)))


def test_scenes_have_the_more_in_common_the_more_they_share():
    other = Scene(("castle",), 2, "normal", "beach", "3d", 0)
    scenes = [
        FOX,
        FOX,
        replace(FOX, style="3d"),
        replace(BOTH, size="normal", second_size="normal"),
        replace(FOX, things=("owl",)),
        replace(FOX, things=("castle",)),
        replace(other, place="snow"),
        other,
    ]
    common = common_content(labels(scenes, WORLD), WORLD)
    assert np.allclose(common, common.T)
    assert common[0, 0] == common[0, 1] == pytest.approx(1)
    assert list(common[0]) == sorted(common[0], reverse=True)
    assert common[0, -1] == pytest.approx(0, abs=0.05)


def judged(scenes, **wrong):
    """What the judge says of pictures whose reading is right but for some arrays."""
    true = labels(scenes, WORLD)

    class Referee:
        """Stands for a probe: reads what it is told."""

    found = replace(reading_of(true), **{name: made(true) for name, made in wrong.items()})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probe, "read", lambda *_: found)
        return evaluate.judge(Referee(), np.zeros((len(scenes), 1)), scenes, WORLD)


def test_the_judge_asks_only_what_can_be_asked():
    assert set(judged([FOX])) == {
        "background", "thing", "count", "style", "confidence"
    }  # fmt: skip
    both = judged([BOTH, BOTH])
    assert set(both) == {"background", "both", "sides", "style", "size", "confidence"}
    assert all(value == 1 for name, value in both.items() if name != "confidence")


def test_counts_are_judged_where_there_are_several():
    scenes = [FOX, FOX, replace(FOX, count=3), replace(FOX, count=2)]
    shares = judged(scenes, count=lambda t: np.array([0, 0, 2, 3]))
    assert (shares["count"], shares["several"]) == (0.75, 0.5)


def test_a_missing_second_thing_is_neither_both_nor_on_its_side():
    def one_lost(true):
        things = true.things * 0.8
        things[0, true.right[0]] = 0
        things[0, 5] = 0.1
        return things

    shares = judged([BOTH, BOTH], things=one_lost)
    assert (shares["both"], shares["sides"]) == (0.5, 0.5)
    swapped = judged([BOTH, BOTH], left=lambda t: t.right, right=lambda t: t.left)
    assert (swapped["both"], swapped["sides"]) == (1.0, 0.0)


def test_sharpness_is_one_for_the_same_and_falls_when_softened():
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    assert evaluate.sharpness(images, images) == {"gradient": 1.0, "octave": 1.0}
    soft = images.reshape(4, 16, 2, 16, 2, 3).mean((2, 4)).repeat(2, 1).repeat(2, 2)
    found = evaluate.sharpness(soft.astype(np.uint8), images)
    assert found["octave"] < 0.01
    assert found["gradient"] < 0.5


def test_paintings_of_a_scene_differ_only_in_jitter():
    made = evaluate.paintings([FOX, BOTH], 64, number=2)
    assert made.shape == (4, 64, 64, 3)
    assert not np.array_equal(made[0], made[2])
    same = np.abs(made[0].astype(int) - made[2]).mean()
    assert same < np.abs(made[0].astype(int) - made[1]).mean()


def test_a_saved_probe_reads_the_same(tmp_path):
    torch.manual_seed(0)
    judge = probe.Probe.of(WORLD).eval()
    probe.save(judge, tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (3, 128, 128, 3), np.uint8)
    one, two = probe.read(judge, images), probe.read(probe.load(tmp_path), images)
    assert one.things.shape == (3, len(WORLD.things))
    assert np.abs(one.things - two.things).max() < 1e-2  # float16 on disk


def test_reading_does_not_depend_on_the_batch():
    torch.manual_seed(0)
    judge = probe.Probe.of(WORLD).eval()
    images = np.random.default_rng(0).integers(0, 256, (5, 128, 128, 3), np.uint8)
    one, two = probe.read(judge, images), probe.read(judge, images, batch=2)
    assert np.abs(one.things - two.things).max() < 1e-5


def test_bar_prompts_are_held_out_name_the_place_and_never_change():
    scenes, texts = evaluate.bar_prompts(WORLD, 60)
    assert all(held_out(thing, scene.place) for scene in scenes for thing in scene.things)
    assert (scenes, texts) == evaluate.bar_prompts(WORLD, 60)
    assert all(names_place(*pair, WORLD) for pair in zip(texts, scenes, strict=True))
    assert {len(scene.things) for scene in scenes} == {1, 2}
    assert {scene.count for scene in scenes} == {1, 2, 3, 4}


def test_a_named_style_is_noticed():
    assert evaluate.names_style("a Twemoji of a fox", WORLD)
    assert evaluate.names_style("a fox in the snow, 3D style", WORLD)
    assert not evaluate.names_style("a flat tyre in the snow", WORLD)


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_threshold_separates_what_can_be_separated(shift):
    low, high = np.array([0.1, 0.2]) + shift, np.array([0.4, 0.6]) + shift
    assert low.max() < calibrate.threshold(low, high) < high.min()


def test_latent_rgb_recovers_a_linear_map():
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(20, 4, 16, 16)).astype(np.float32)
    weight, bias = rng.normal(size=(3, 4)) * 0.03, np.array([0.4, 0.5, 0.6])
    small = np.einsum("rc,nchw->nhwr", weight, latents) + bias
    images = (small.repeat(4, 1).repeat(4, 2) * 255).round().astype(np.uint8)
    fit = calibrate.latent_rgb(latents, images)
    assert np.abs(np.array(fit["weight"]) - weight).max() < 1e-3
    assert np.abs(np.array(fit["bias"]) - bias).max() < 1e-3


def test_psnr_of_a_known_error():
    a = np.zeros((2, 8, 8, 3), np.uint8)
    assert evaluate.psnr(a, a + np.uint8(10)) == pytest.approx(28.13, abs=0.01)


def test_caption_pairs_are_what_their_label_says():
    pairs = calibrate.caption_pairs(20, 3, WORLD)
    assert {kind: len(found) for kind, found in pairs.items()} == dict.fromkeys(pairs, 20)
    assert set(pairs) == {"same", "share", "apart"}


def test_related_scenes_share_parts_of_each_other():
    pairs = calibrate.related_scenes(200, 3, WORLD)
    place = np.mean([a.place == b.place for a, b in pairs])
    things = np.mean([a.things == b.things for a, b in pairs])
    assert 0.3 < place < 0.5
    assert 0.3 < things < 0.5


def test_rank_correlation_follows_order_only():
    a = np.array([1.0, 2.0, 5.0, 9.0])
    assert calibrate.rank_correlation(a, a**3) == pytest.approx(1)
    assert calibrate.rank_correlation(a, -a) == pytest.approx(-1)


def test_sheet_holds_every_picture():
    images = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), np.uint8)
    board = np.asarray(evaluate.sheet(images, columns=3))
    assert board.shape == (8, 12, 3)
    assert board[0, 4].tolist() == [1] * 3
    assert board[4, 4].tolist() == [4] * 3
    assert board[-1, -1].tolist() == [255] * 3


@pytest.mark.parametrize(("pictures", "rows"), [(24, 4), (200, 20)])
def test_a_sheet_shows_at_most_so_many_beside_as_many_painted(tmp_path, pictures, rows):
    made, painted = (np.full((pictures, 4, 4, 3), shade, np.uint8) for shade in (0, 255))
    evaluate.write_sheet(tmp_path / "sheet.png", made, painted, 120)
    board = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert board.shape == (4 * rows, 4 * 12, 3)
    assert np.all(board[:4] == 0)
    assert np.all(board[4:8] == 255)
