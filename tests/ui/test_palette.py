from itertools import combinations

import numpy as np
import pytest

from sage.ui.html.palette import (
    ALONE,
    GROUP_COLORS,
    contrast,
    group_marks,
    luminance,
    prompt_marks,
)

LIGHT_CARD, DARK_CARD = "#FFFFFF", "#161A21"
# Machado, Oliveira and Fernandes 2009, severity 1.0, linear RGB.
SIGHT = {
    "normal": np.eye(3),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.01182, 0.04294, 0.968881],
        ]
    ),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "tritanopia": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.3039],
        ]
    ),
}


def _lab(color, sight):
    channels = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    xyz = to_xyz @ np.clip(sight @ linear, 0, 1) / np.array([0.9505, 1, 1.089])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("sight", SIGHT)
def test_any_two_group_colors_differ_for_every_sight(sight):
    labs = [_lab(color, SIGHT[sight]) for color in (*GROUP_COLORS, ALONE)]
    assert min(np.linalg.norm(a - b) for a, b in combinations(labs, 2)) > 15


@pytest.mark.parametrize("color", [*GROUP_COLORS, ALONE])
def test_a_frame_is_seen_on_both_cards(color):
    assert contrast(color, LIGHT_CARD) >= 3
    assert contrast(color, DARK_CARD) >= 3


@pytest.mark.parametrize("groups", [[(0, 1)], [(0,), (1, 2)], [(n, n + 8) for n in range(8)]])
def test_letters_are_legible_on_their_badge(groups):
    for mark in group_marks(groups):
        assert contrast(mark.ink, mark.color) >= 4.5


def test_groups_take_letters_in_order_and_only_sharing_has_a_color():
    marks = group_marks([(0, 2), (1,), (3, 4)])
    assert [m.letter for m in marks] == ["A", "B", "C"]
    assert [m.alone for m in marks] == [False, True, False]
    assert marks[1].color == ALONE
    assert (marks[0].color, marks[2].color) == GROUP_COLORS[:2]


def test_sixteen_prompts_alone_and_in_pairs_have_marks():
    assert len(group_marks([(n,) for n in range(16)])) == 16
    pairs = group_marks([(2 * n, 2 * n + 1) for n in range(8)])
    assert len({m.color for m in pairs}) == 8


def test_prompt_marks_follow_prompt_order():
    marks = prompt_marks([(0, 3), (1, 2)])
    assert [m.letter for m in marks] == ["A", "B", "B", "A"]


def test_luminance():
    assert luminance("#FFFFFF") == pytest.approx(1)
    assert contrast("#000000", "#FFFFFF") == pytest.approx(21)
