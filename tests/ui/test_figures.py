import json

import pytest
import torch

from sage.grouping import group_prompts
from sage.plan import Plan, Segment, independent_plan, shared_plan
from sage.ui import figures
from sage.ui.figures import Bar, cost_figure, plan_figure, similarity_figure
from sage.ui.palette import ALONE, GROUP_COLORS
from sage.ui.words import STAGES

PROMPTS = ("a fox", "a <b>whale</b> under water", "a dog", "x" * 300)
HOSTILE = "<img src=x onerror=alert(1)><b>bold</b><a href='javascript:1'>a</a>"


def grouping(low=0.5, high=0.95):
    values = torch.tensor(
        [[1, 0.1, 0.8, 0.2], [0.1, 1, 0.2, 0.7], [0.8, 0.2, 1, 0.3], [0.2, 0.7, 0.3, 1.0]]
    )
    return group_prompts(values, low, high)


def texts(figure):
    """Every string that reaches the browser."""
    return json.dumps(figure.to_dict(), default=str)


def test_the_heat_map_is_ordered_by_group():
    figure = similarity_figure(grouping(), PROMPTS)
    (heat,) = figure.data
    assert list(heat.x) == ["P1", "P3", "P2", "P4"]
    assert heat.z[0][1] == pytest.approx(0.8)
    assert heat.z[2][3] == pytest.approx(0.7)


def test_groups_are_outlined_in_their_colors():
    shapes = similarity_figure(grouping(), PROMPTS).layout.shapes
    assert [s.line.color for s in shapes] == list(GROUP_COLORS[:2])
    assert [(s.x0, s.x1) for s in shapes] == [(-0.5, 1.5), (1.5, 3.5)]
    alone = similarity_figure(grouping(low=0.9), PROMPTS).layout.shapes
    assert {s.line.color for s in alone} == {ALONE}
    assert len(alone) == 4


def test_pairs_within_the_bounds_are_bold_and_hover_gives_the_reason():
    (heat,) = similarity_figure(grouping(), PROMPTS).data
    assert heat.text[0][1] == "<b>0.80</b>"
    assert heat.text[0][2] == "0.10"
    assert "same group" in heat.customdata[0][1]
    assert "below 0.50" in heat.customdata[0][2]


def test_many_prompts_have_no_numbers_in_the_cells():
    many = group_prompts(torch.eye(16), 0.5, 0.9)
    (heat,) = similarity_figure(many, ["a"] * 16).data
    assert heat.texttemplate is None
    assert len(heat.z) == 16


def test_a_trunk_is_thick_and_splits_at_the_branch_point():
    plan = shared_plan([(0, 2), (1, 3)], 30, 12)
    figure = plan_figure(plan, [(0, 2), (1, 3)], PROMPTS)
    trunk, left, right = figure.data[:3]
    assert trunk.line.width > 2 * left.line.width
    assert (trunk.x[0], trunk.x[-1]) == (0, 12)
    assert left.x[0] == right.x[0] == 12
    assert left.y[0] == right.y[0] == trunk.y[-1]
    assert left.x[-1] == 30
    assert [line.line.color for line in figure.data] == [
        color for color in GROUP_COLORS[:2] for _ in range(3)
    ]


@pytest.mark.parametrize(
    "plan",
    [
        independent_plan(4, 30),
        shared_plan([(0, 1, 2, 3)], 30, 30),
        shared_plan([(0, 1), (2,), (3,)], 2, 1),
        shared_plan([(0, 2), (1, 3)], 30, [5, 20]),
        Plan(
            9,
            (
                Segment((0, 1, 2, 3), 0, 3),
                Segment((0, 1), 3, 6, 0),
                Segment((2, 3), 3, 9, 0),
                Segment((0,), 6, 9, 1),
                Segment((1,), 6, 9, 1),
            ),
        ),
    ],
)
def test_any_plan_can_be_drawn_and_every_prompt_is_a_leaf(plan):
    groups = [(0, 1), (2, 3)]
    figure = plan_figure(plan, groups, PROMPTS)
    assert len(figure.data) == len(plan.segments)
    labels = [a for a in figure.layout.annotations if a.text.startswith("<b>P")]
    assert sorted(a.text[3:5] for a in labels) == ["P1", "P2", "P3", "P4"]
    assert len({a.y for a in labels}) == 4


def test_bars_add_up_to_their_stages_in_the_groups_colors():
    groups = [(0, 2), (1,), (3,)]
    plan = shared_plan(groups, 10, 4)
    stages = {"encode": 1.0, "trunk": 4.0, "branches": 32.0, "decode": 2.0}
    figure = cost_figure([Bar("shared", stages, groups, plan)], "s", 1)
    amounts = {}
    for piece in figure.data:
        stage = piece.name.split()[-1]
        amounts[stage] = amounts.get(stage, 0) + piece.x[0]
    assert amounts == pytest.approx(stages)
    trunks = [piece for piece in figure.data if piece.name.endswith("trunk")]
    assert [piece.marker.color for piece in trunks] == ["rgba(43,108,217,1)"]
    assert "39 s" in figure.layout.yaxis.ticktext[0]


def test_both_runs_share_one_scale():
    groups = [(0, 1)]
    runs = [
        Bar("independent", dict.fromkeys(STAGES, 2e12), groups, independent_plan(2, 4)),
        Bar("shared", dict.fromkeys(STAGES, 1e12), groups, shared_plan(groups, 4, 2)),
    ]
    figure = cost_figure(runs, "TFLOP", 1e12)
    assert figure.layout.xaxis.range[1] >= 8
    assert figure.layout.barmode == "stack"
    assert [t.split("<br>")[0] for t in figure.layout.yaxis.ticktext] == ["independent", "shared"]


def test_a_run_that_costs_nothing_can_be_drawn():
    bar = Bar("shared", dict.fromkeys(STAGES, 0.0), [(0, 1)], shared_plan([(0, 1)], 4, 2))
    assert cost_figure([bar], "s", 1).layout.xaxis.range[1] > 0


@pytest.mark.parametrize("prompt", [HOSTILE, "5 < 6 & 7 > 2", "%{z} {text}"])
def test_prompts_are_escaped_everywhere(prompt):
    plan = shared_plan([(0, 2), (1, 3)], 30, 12)
    prompts = [prompt] * 4
    for figure in (
        similarity_figure(grouping(), prompts),
        plan_figure(plan, [(0, 2), (1, 3)], prompts),
    ):
        found = texts(figure)
        assert "<img" not in found
        assert "<a href" not in found
        assert "<b>bold" not in found


def test_figures_are_transparent_sized_and_untitled():
    plan = shared_plan([(0, 2), (1, 3)], 30, 12)
    bar = Bar("shared", dict.fromkeys(STAGES, 1.0), [(0, 2), (1, 3)], plan)
    for figure in (
        similarity_figure(grouping(), PROMPTS),
        plan_figure(plan, [(0, 2), (1, 3)], PROMPTS),
        cost_figure([bar], "s", 1),
        figures.message_figure("Nothing yet.", 100),
    ):
        assert figure.layout.paper_bgcolor == figure.layout.plot_bgcolor == "rgba(0,0,0,0)"
        assert figure.layout.height > 0
        assert figure.layout.title.text is None
