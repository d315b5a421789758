"""The atlas: complete, credited, and of the colours that captions name."""

import colorsys
import hashlib
import json
from itertools import combinations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from sage.world.build_atlas import SOURCES, attribution, fit
from sage.world.sprites import ATLAS_FOLDER, CELL, Atlas
from sage.world.words import world_words

THINGS = world_words().things
STYLE_NAMES = list(world_words().style)
# Hue in degrees from, to (may wrap), least saturation, least brightness.
COLOURS = {
    "red": (335, 22, 0.25, 0.3),
    "orange": (8, 46, 0.25, 0.3),
    "yellow": (30, 75, 0.25, 0.3),
    "green": (60, 175, 0.25, 0.3),
    "blue": (175, 255, 0.25, 0.3),
    "pink": (290, 25, 0.25, 0.6),
}


@pytest.fixture(scope="module")
def atlas():
    return Atlas.load()


@pytest.fixture(scope="module")
def manifest():
    return json.loads((ATLAS_FOLDER / "manifest.json").read_text(encoding="utf-8"))


def visible(sprite):
    """Colours of the pixels one can see, float [n, 3]."""
    return sprite[sprite[..., 3] > 128][:, :3] / 255


def share_of_colour(sprite, colour):
    """Share of a sprite's visible pixels that anyone would call by the colour."""
    hsv = np.array([colorsys.rgb_to_hsv(*pixel) for pixel in visible(sprite)])
    hue, saturation, value = hsv[:, 0] * 360, hsv[:, 1], hsv[:, 2]
    if colour == "white":
        return ((saturation < 0.25) & (value > 0.75)).mean()
    low, high, least_saturation, least_value = COLOURS[colour]
    inside = (hue >= low) & (hue < high) if low < high else (hue >= low) | (hue < high)
    return (inside & (saturation > least_saturation) & (value > least_value)).mean()


@pytest.mark.slow
def test_every_thing_is_there_in_every_style(atlas):
    assert atlas.things == tuple(thing.name for thing in THINGS)
    assert set(atlas.styles) == set(STYLE_NAMES)
    for thing in THINGS:
        for style in STYLE_NAMES:
            sprite = atlas.sprite(thing.name, style)
            assert sprite.shape == (CELL, CELL, 4)
            assert sprite.dtype == np.uint8
            assert (sprite[..., 3] > 128).mean() > 0.12, (thing.name, style)


def test_sprites_fill_their_cell_and_stay_inside(atlas):
    for thing in THINGS:
        for style in STYLE_NAMES:
            alpha = atlas.sprite(thing.name, style)[..., 3]
            rim = np.concatenate([alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]])
            assert rim.max() == 0
            rows, columns = np.nonzero(alpha > 16)
            assert max(np.ptp(rows), np.ptp(columns)) >= CELL - 6


def test_invisible_pixels_have_no_colour(atlas):
    for thing in THINGS:
        sprite = atlas.sprite(thing.name, "flat")
        assert not sprite[sprite[..., 3] == 0].any()


@pytest.mark.parametrize("style", STYLE_NAMES)
def test_no_two_things_look_alike(atlas, style):
    seen = {}
    for thing in THINGS:
        sprite = atlas.sprite(thing.name, style).astype(np.float32)
        alpha = sprite[..., 3:] / 255
        over_grey = sprite[..., :3] * alpha + 128 * (1 - alpha)
        seen[thing.name] = over_grey.reshape(8, CELL // 8, 8, CELL // 8, 3).mean((1, 3))
    closest = min(combinations(seen, 2), key=lambda two: np.abs(seen[two[0]] - seen[two[1]]).mean())
    assert np.abs(seen[closest[0]] - seen[closest[1]]).mean() > 9, closest


@pytest.mark.parametrize("thing", [thing for thing in THINGS if thing.colour], ids=lambda t: t.name)
def test_a_colour_is_named_only_where_every_style_has_it(atlas, thing):
    for style in STYLE_NAMES:
        assert share_of_colour(atlas.sprite(thing.name, style), thing.colour) > 0.4, style


def test_the_colour_measure_can_say_no(atlas):
    assert share_of_colour(atlas.sprite("butterfly", "noto"), "orange") < 0.4
    assert share_of_colour(atlas.sprite("octopus", "twemoji"), "red") < 0.4


def test_a_sprite_is_a_copy(atlas):
    atlas.sprite("fox", "flat")[:] = 0
    assert atlas.sprite("fox", "flat").any()


def test_unknown_sprites_are_named_in_the_error(atlas):
    with pytest.raises(ValueError, match="'yeti' in style 'flat'"):
        atlas.sprite("yeti", "flat")
    with pytest.raises(ValueError, match="style 'crayon'"):
        atlas.sprite("fox", "crayon")


def test_manifest_matches_the_picture_and_the_vocabulary(manifest):
    picture = (ATLAS_FOLDER / manifest["image"]).read_bytes()
    assert hashlib.sha256(picture).hexdigest() == manifest["sha256"]
    assert manifest["code_points"] == {thing.name: thing.code for thing in THINGS}
    assert {style: entry["licence"] for style, entry in manifest["styles"].items()} == {
        "flat": "MIT",
        "3d": "MIT",
        "noto": "Apache-2.0",
        "twemoji": "CC-BY-4.0",
    }


def test_every_source_is_credited():
    text = (ATLAS_FOLDER / "ATTRIBUTION.md").read_text(encoding="utf-8")
    assert text == attribution()
    for source in SOURCES.values():
        for fact in (source.package, source.version, source.licence, source.credit, source.home):
            assert fact in text


def test_the_assets_stay_small():
    assert sum(file.stat().st_size for file in ATLAS_FOLDER.iterdir()) < 6_000_000


def test_fit_crops_centres_and_keeps_colours_pure():
    # A red disc in a corner; the invisible pixels around it are green and must not bleed.
    picture = Image.new("RGBA", (200, 120), (0, 255, 0, 0))
    ImageDraw.Draw(picture).ellipse((5, 5, 60, 60), fill=(255, 0, 0, 255))
    cell = fit(picture)
    rows, columns = np.nonzero(cell[..., 3] > 16)
    assert abs((rows.min() + rows.max()) - (CELL - 1)) <= 1
    assert abs((columns.min() + columns.max()) - (CELL - 1)) <= 1
    shown = cell[cell[..., 3] > 40]
    assert shown[:, 1].max() <= 8
    assert shown[:, 0].min() >= 247
