import json

import pytest
from PIL import Image

from sage.ui.html.pictures import (
    EMPTY,
    Row,
    Shot,
    empty_grid,
    live_grid,
    picture_grid,
    picture_source,
    score_words,
    strip_grid,
)
from sage.ui.html.strip import Strip, StripRow, make_strip

from .reader import HOSTILE, Reader

PROMPTS = ("a fox", "a whale", "a dog")
GROUPS = [(0, 2), (1,)]


def colored(*colors):
    return [Image.new("RGB", (8, 8), color) for color in colors]


@pytest.fixture
def strip():
    rows = [
        (
            StripRow("independent", 30, 90, (30,) * 3, (0.0,) * 3, (0.5,) * 3),
            colored("red", "red", "red"),
        ),
        (
            StripRow("shared", 20, 60, (20, 0, 20), (0.3,) * 3, (0.4,) * 3),
            colored("lime", "lime", "lime"),
        ),
        (
            StripRow("shared", 10, 80, (10, 0, 10), (0.1,) * 3, (0.6,) * 3),
            colored("blue", "blue", "navy"),
        ),
        (
            StripRow("fewer", 26, 78, (26,) * 3, (0.2,) * 3, (0.3,) * 3),
            colored("gray", "gray", "gray"),
        ),
        (
            StripRow("fewer", 19, 57, (19,) * 3, (0.2,) * 3, (0.3,) * 3),
            colored("black", "black", "black"),
        ),
    ]
    return make_strip(rows)


def test_every_picture_has_an_alternative_text_and_its_groups_mark():
    rows = [Row("independent", (Shot("x"),) * 3), Row("shared", (Shot("y"),) * 3)]
    reader = Reader(picture_grid(PROMPTS, GROUPS, rows, "done"))
    assert [a["alt"] for a in reader.all("img")] == [
        f"P{n}, {side}: {prompt}"
        for n, prompt in enumerate(PROMPTS, start=1)
        for side in ("shared", "independent")
    ]
    assert [t for t in reader.texts if t in "AB"] == ["A", "B", "A"]
    assert [a["data-p"] for a in reader.all("figure")] == ["0", "1", "2"]


def test_empty_boxes_keep_the_place_of_every_picture():
    empty = empty_grid(PROMPTS, GROUPS, ("independent", "shared", "fewer"))
    assert empty.count("sage-frame") == 9
    assert "<img" not in empty


def test_a_side_that_has_not_begun_keeps_its_boxes():
    source = live_grid(PROMPTS, GROUPS, {"shared": colored("red", "red", "red"), "fewer": []})
    assert source.count("<img") == 3
    assert source.count("sage-frame") == 6


def test_hostile_prompts_stay_text():
    rows = [Row("shared", (EMPTY, Shot("data:,x")))]
    assert Reader(picture_grid([HOSTILE] * 2, [(0, 1)], rows, "done")).is_safe


@pytest.mark.parametrize(("size", "kind"), [(64, "png"), (512, "webp")])
def test_pictures_travel_in_the_page(size, kind):
    source = picture_source(Image.new("RGB", (size, size), "red"))
    assert source.startswith(f"data:image/{kind};base64,")


def test_scores_are_left_out_when_there_are_none():
    assert score_words(None, None) == ""
    assert "CLIP" not in score_words(None, 0.1)
    assert "0.31" in score_words(0.312, 0.1)


def test_a_strip_gives_the_nearest_branch_point(strip):
    assert strip.points == (10, 20)
    assert [strip.nearest(p) for p in (0, 14, 15, 16, 30)] == [10, 10, 10, 20, 20]
    red, green, blue = strip.picture(strip.shared(12), 2).getpixel((4, 4))
    assert blue > 100 > max(red, green)


def test_fewer_steps_never_spend_more_than_sharing(strip):
    assert strip.fewer(10).at == 26
    assert strip.fewer(20).at == 19


def test_a_strip_survives_json(strip):
    values = json.loads(json.dumps(strip.to_dict()))
    assert Strip.from_dict(values, strip.sheet) == strip


def test_the_grid_of_a_strip_starts_at_a_branch_point_and_holds_them_all(strip):
    source = strip_grid(PROMPTS, GROUPS, strip, 20, {})
    reader = Reader(source)
    assert [t for t in reader.texts if t in ("for 20 steps", "for 0 steps")] == [
        "for 20 steps",
        "for 0 steps",
        "for 20 steps",
    ]
    assert "19 steps" in reader.texts
    (sheet,) = reader.all("img", class_="sage-sheet")
    data = json.loads(sheet["data-strip"])
    assert list(data["points"]) == ["10", "20"]
    assert data["points"]["10"]["shared"]["row"] == 2
    assert data["points"]["20"]["fewer"]["done"] == ["19 steps"] * 3
    assert data["points"]["10"]["shared"]["done"] == ["for 10 steps", "for 0 steps", "for 10 steps"]
    assert "distance" in data["points"]["10"]["shared"]["scores"][0]


def test_large_pictures_are_made_smaller_for_scrubbing():
    row = StripRow("independent", 2, 2, (2,), (0.0,))
    assert make_strip([(row, [Image.new("RGB", (512, 512))])]).tile == 256
