"""A plan's data for the drawing in the browser, and its words, for whatever plan there is."""

import pytest

from sage.core.plan import Plan, Segment, independent_plan, shared_plan
from sage.ui.html.palette import GROUP_COLORS
from sage.ui.html.tree import empty_tree, plan_tree, plan_words

from .reader import HOSTILE, Reader, plan_data

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


@pytest.mark.parametrize("plan", PLANS)
def test_the_script_gets_every_segment_and_the_same_words(plan):
    source = plan_tree(plan, [(0, 1), (2, 3)])
    data = plan_data(source)
    made = tuple(
        Segment(tuple(s["members"]), s["start"], s["stop"], s["parent"]) for s in data["segments"]
    )
    assert Plan(data["steps"], made) == plan
    assert Reader(source).all("svg")[0]["aria-label"] == plan_words(plan)


def test_groups_have_their_colours_in_the_order_of_the_matrix():
    data = plan_data(
        plan_tree(
            shared_plan([(0, 2), (1, 3)], 30, 12), [(0, 2), (1, 3)], (3, 1, 0, 2), point=12, best=9
        )
    )
    assert data["order"] == [3, 1, 0, 2]
    assert data["colors"] == [GROUP_COLORS[0], GROUP_COLORS[1]] * 2
    assert (data["point"], data["best"], data["sharing"]) == (12, 9, "groups")


def test_previews_are_named_by_their_segment():
    data = plan_data(plan_tree(TREE, [(0, 1, 2, 3)], previews={0: "data:,x"}))
    assert data["previews"] == {"0": "data:,x"}


def test_the_plan_is_said_in_words():
    assert plan_words(independent_plan(2, 30)) == "30 steps. Nothing is shared."
    plan = shared_plan([(0, 2), (1,)], 30, 12)
    assert plan_words(plan) == "30 steps. P1, P3 share steps 1 to 12."


def test_hostile_texts_stay_text():
    assert Reader(plan_tree(TREE, [(0, 1, 2, 3)], previews={0: HOSTILE})).is_safe
    assert Reader(empty_tree(HOSTILE)).is_safe


def test_what_a_budget_chose_is_told_apart_from_what_the_handle_asks():
    assert plan_data(plan_tree(TREE, [(0, 1, 2, 3)], planned=True))["planned"] is True
    assert plan_data(plan_tree(TREE, [(0, 1, 2, 3)]))["planned"] is False
