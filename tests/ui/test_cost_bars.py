import re

import pytest

from sage.core.plan import independent_plan, shared_plan
from sage.ui.html.cost_bars import Bar, cost_bars, no_bars, pieces
from sage.ui.html.palette import GROUP_COLORS
from sage.ui.html.words import STAGES

from .reader import HOSTILE, Reader

GROUPS = [(0, 2), (1,), (3,)]
PLAN = shared_plan(GROUPS, 10, 4)
AMOUNTS = {"encode": 1.0, "trunk": 4.0, "branches": 32.0, "decode": 2.0}


def shares(source):
    return [float(w) for w in re.findall(r"width:([0-9.]+)%", source)]


def test_pieces_add_up_to_their_stages():
    found = {}
    for piece in pieces(Bar("shared", AMOUNTS, GROUPS, PLAN)):
        found[piece.stage] = found.get(piece.stage, 0) + piece.amount
    assert found == pytest.approx(AMOUNTS)


def test_pieces_belong_to_the_prompts_of_their_group():
    source = cost_bars([Bar("shared", AMOUNTS, GROUPS, PLAN)], "s", 1)
    drawn = Reader(source).all("i")
    trunk = next(a for a in drawn if "sage-trunk" in a["class"])
    assert trunk["data-p"] == "0 2"
    assert GROUP_COLORS[0] in trunk["style"]
    assert [a["data-p"] for a in drawn if "sage-branches" in a["class"]] == ["0 2", "1", "3"]
    assert not any("data-p" in a for a in drawn if "encode" in a["class"])
    assert "39 s" in source


def test_both_runs_share_one_scale():
    runs = [
        Bar("independent", dict.fromkeys(STAGES, 2e12), [(0, 1)], independent_plan(2, 4)),
        Bar("shared", dict.fromkeys(STAGES, 1e12), [(0, 1)], shared_plan([(0, 1)], 4, 2)),
    ]
    first, second = cost_bars(runs, "TFLOP", 1e12).split('class="sage-bar"')[1:]
    # The independent run has no trunk, so a quarter of its amounts is not drawn.
    assert sum(shares(first)) == pytest.approx(75, abs=0.1)
    assert sum(shares(second)) == pytest.approx(50, abs=0.1)
    assert "8 TFLOP" in first


def test_a_bar_is_a_picture_with_words():
    reader = Reader(cost_bars([Bar("shared", AMOUNTS, GROUPS, PLAN)], "s", 1))
    (bar,) = reader.all("div", role="img")
    assert bar["aria-label"].startswith("shared: encoding the prompts 1 s, shared steps 4 s")


def test_a_run_that_costs_nothing_can_be_drawn():
    bar = Bar("shared", dict.fromkeys(STAGES, 0.0), [(0, 1)], shared_plan([(0, 1)], 4, 2))
    assert set(shares(cost_bars([bar], "s", 1))) == {0.0}


def test_the_empty_place_says_why():
    assert Reader(no_bars(HOSTILE)).is_safe
