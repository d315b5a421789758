import re

import pytest

from sage.core.plan import Plan, Segment, independent_plan, shared_plan
from sage.ui.html.palette import GROUP_COLORS
from sage.ui.html.plan_drawing import empty_plan, plan_drawing, plan_words

from .reader import HOSTILE, Reader

PROMPTS = ("a fox", "a whale", "a dog", "x" * 300)
TREE = Plan(
    9,
    (
        Segment((0, 1, 2, 3), 0, 3),
        Segment((0, 1), 3, 6, 0),
        Segment((2, 3), 3, 9, 0),
        Segment((0,), 6, 9, 1),
        Segment((1,), 6, 9, 1),
    ),
)
PLANS = [
    independent_plan(4, 30),
    shared_plan([(0, 1, 2, 3)], 30, 30),
    shared_plan([(0, 1), (2,), (3,)], 2, 1),
    shared_plan([(0, 2), (1, 3)], 30, [5, 20]),
    TREE,
]


def widths(source):
    return [float(w) for w in re.findall(r'stroke-width="([0-9.]+)"', source)]


def test_a_trunk_is_thick_and_splits_at_the_branch_point():
    plan = shared_plan([(0, 2), (1, 3)], 30, 12)
    source = plan_drawing(plan, [(0, 2), (1, 3)], PROMPTS)
    lines = Reader(source).all("g")
    assert [line["data-p"] for line in lines] == ["0 2", "0", "2", "1 3", "1", "3"]
    assert [line["style"] for line in lines] == [
        f"--group:{color}" for color in GROUP_COLORS[:2] for _ in range(3)
    ]
    trunk, branch, *_ = widths(source)
    assert trunk > 2 * branch
    assert "T* = 12" in source


def test_widths_of_a_tree_show_how_many_prompts_share():
    four, two, also_two, one, _ = widths(plan_drawing(TREE, [(0, 1, 2, 3)], PROMPTS))
    assert four > two == also_two > one


@pytest.mark.parametrize("plan", PLANS)
def test_any_plan_can_be_drawn_and_every_prompt_is_a_leaf(plan):
    reader = Reader(plan_drawing(plan, [(0, 1), (2, 3)], PROMPTS))
    assert len(reader.all("g")) == len(plan.segments)
    assert [leaf["data-p"] for leaf in reader.all("button")] == ["0", "1", "2", "3"]
    assert reader.all("svg")[0]["aria-label"] == plan_words(plan)


def test_leaves_stand_in_the_order_of_the_matrix():
    plan = shared_plan([(0, 2), (1, 3)], 30, 12)
    reader = Reader(plan_drawing(plan, [(0, 2), (1, 3)], PROMPTS, order=(3, 1, 0, 2)))
    assert [leaf["data-p"] for leaf in reader.all("button")] == ["3", "1", "0", "2"]


def test_a_tree_names_the_steps_of_its_splits_but_no_single_branch_point():
    source = plan_drawing(TREE, [(0, 1, 2, 3)], PROMPTS)
    assert "T*" not in source
    splits = re.findall(r'class="sage-split"[^>]*>(\d+)<', source)
    assert splits == ["3", "6", "9"]


def test_numbers_of_splits_that_are_close_stand_in_two_rows_and_never_on_each_other():
    groups = [(0, 1), (2, 3), (4, 5), (6, 7)]
    plan = shared_plan(groups, 30, [10, 12, 13, 20])
    source = plan_drawing(plan, groups, [f"prompt {n}" for n in range(8)])
    splits = re.findall(r'class="sage-split([^"]*)"[^>]*>(\d*)<', source)
    assert splits == [("", "10"), (" sage-high", "12"), ("", ""), ("", "20")]


def test_previews_stand_at_the_forks():
    source = plan_drawing(TREE, [(0, 1, 2, 3)], PROMPTS, previews={0: "data:,x"})
    (thumb,) = Reader(source).all("img")
    assert thumb["alt"] == "What P1, P2, P3, P4 had in common after step 3"
    assert "left:33.33%" in thumb["style"]


def test_the_plan_is_said_in_words():
    assert plan_words(independent_plan(2, 30)) == "30 steps. Nothing is shared."
    plan = shared_plan([(0, 2), (1,)], 30, 12)
    assert plan_words(plan) == "30 steps. P1, P3 share steps 1 to 12."


def test_hostile_prompts_stay_text():
    plan = shared_plan([(0, 1)], 4, 2)
    assert Reader(plan_drawing(plan, [(0, 1)], [HOSTILE] * 2)).is_safe
    assert Reader(empty_plan(HOSTILE)).is_safe
