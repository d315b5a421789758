"""Figures drawn from a grouping, a plan or a comparison: heat map, trajectories, cost bars.

Each is a function of data to a plotly figure. Knows nothing of gradio, models or sampling. Prompts
reach a figure only through `hover_text`, because plotly reads tags in labels.
"""

import html
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from sage.grouping import Grouping, PairDecision
from sage.plan import Plan, Segment
from sage.ui.palette import Mark, group_marks, prompt_marks, translucent
from sage.ui.words import STAGE_WORDS, STAGES, shorten, three_digits

MATRIX_HEIGHT = PLAN_HEIGHT = 330
BARS_HEIGHT = 150
GREY = "#7C8594"
# A colour that no one else uses: assets/ui/style.css turns text of this colour into the page's
# text colour, so that one figure reads on a light and on a dark card.
INK = "rgb(1,2,3)"
# Opacity instead of lightness: the same figure reads on a light and on a dark card, and numbers
# in the page's text colour stay legible on the darkest cell.
MATRIX_SCALE = [[0.0, "rgba(100,116,139,0.03)"], [1.0, "rgba(100,116,139,0.62)"]]
NUMBERS_UP_TO = 10  # prompts; beyond, the cells are too small for two decimals


def hover_text(prompt: str) -> str:
    """A prompt for a hover box: escaped and wrapped."""
    return "<br>".join(html.escape(line) for line in textwrap.wrap(prompt, 48))


def message_figure(sentence: str, height: int) -> go.Figure:
    """An empty figure that says why it is empty and keeps the place."""
    figure = _figure(height)
    figure.add_annotation(
        text="<br>".join(textwrap.wrap(html.escape(sentence), 44)),
        x=0.5,
        y=0.5,
        xref="paper",
        yref="paper",
        showarrow=False,
        font={"size": 14, "color": GREY},
    )
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    return figure


def similarity_figure(grouping: Grouping, prompts: Sequence[str]) -> go.Figure:
    """Heat map of the similarities, ordered by group, groups outlined in their colours."""
    order = [n for group in grouping.groups for n in group]
    names = [f"P{n + 1}" for n in order]
    matrix = grouping.similarity.tolist()
    decisions = {(pair.first, pair.second): pair for pair in grouping.pairs}
    figure = _figure(MATRIX_HEIGHT)
    figure.add_heatmap(
        z=[[matrix[i][j] for j in order] for i in order],
        x=names,
        y=names,
        text=[[_cell_text(decisions, grouping, i, j) for j in order] for i in order],
        texttemplate="%{text}" if len(order) <= NUMBERS_UP_TO else None,
        customdata=[[_cell_hover(decisions, prompts, i, j) for j in order] for i in order],
        hovertemplate="%{customdata}<extra></extra>",
        colorscale=MATRIX_SCALE,
        zmin=0,
        zmax=1,
        showscale=False,
        xgap=2,
        ygap=2,
        textfont={"size": 13 if len(order) <= 6 else 11, "color": INK},
    )
    _outline_groups(figure, grouping)
    figure.update_yaxes(autorange="reversed", scaleanchor="x", constrain="domain", **_PLAIN_AXIS)
    figure.update_xaxes(side="top", constrain="domain", **_PLAIN_AXIS)
    figure.update_layout(margin={"l": 34, "r": 34, "t": 26, "b": 8})
    return figure


def _cell_text(
    decisions: dict[tuple[int, int], PairDecision], grouping: Grouping, i: int, j: int
) -> str:
    if i == j:
        return ""
    value = decisions[min(i, j), max(i, j)].similarity
    inside = grouping.tau_min <= value <= grouping.tau_max
    return f"<b>{value:.2f}</b>" if inside else f"{value:.2f}"


def _cell_hover(
    decisions: dict[tuple[int, int], PairDecision], prompts: Sequence[str], i: int, j: int
) -> str:
    first = f"<b>P{i + 1}</b> {hover_text(prompts[i])}"
    if i == j:
        return first
    reason = html.escape(decisions[min(i, j), max(i, j)].reason)
    return f"{first}<br><b>P{j + 1}</b> {hover_text(prompts[j])}<br>{reason}"


def _outline_groups(figure: go.Figure, grouping: Grouping) -> None:
    corner = -0.5
    for group, mark in zip(grouping.groups, group_marks(grouping.groups), strict=True):
        far = corner + len(group)
        line = {"color": mark.color, "width": 1.5 if mark.alone else 3.5}
        figure.add_shape(type="rect", x0=corner, y0=corner, x1=far, y1=far, line=line)
        figure.add_annotation(
            text=f"<b>{mark.letter}</b>",
            x=1,
            xref="x domain",
            y=(corner + far) / 2,
            xanchor="left",
            xshift=8,
            showarrow=False,
            font={"color": mark.color, "size": 14},
        )
        corner = far


@dataclass(frozen=True)
class _Lane:
    """Where a trajectory runs in the plan's picture: its height, and that of its parent."""

    height: float
    origin: float


def plan_figure(plan: Plan, groups: Sequence[Sequence[int]], prompts: Sequence[str]) -> go.Figure:
    """The plan as a picture: x is the step, one line a trajectory; trunks are thick."""
    marks = prompt_marks(groups)
    lanes = _lanes(plan, [n for group in groups for n in group])
    figure = _figure(PLAN_HEIGHT)
    for segment, lane in zip(plan.segments, lanes, strict=True):
        mark = marks[segment.members[0]]
        _draw_trajectory(figure, segment, lane, mark=mark, steps=plan.steps, prompts=prompts)
    for n, lane in _leaves(plan, lanes).items():
        _label_leaf(figure, plan.steps, lane, n, prompts[n])
    _mark_branch_points(figure, plan)
    figure.update_xaxes(
        range=[-0.3, plan.steps],
        title={"text": "step", "standoff": 4, "font": {"size": 13}},
        **_PLAIN_AXIS,
    )
    figure.update_yaxes(range=[plan.num_prompts - 0.4, -0.6], visible=False, fixedrange=True)
    figure.update_layout(margin={"l": 12, "r": 162, "t": 26, "b": 36})
    return figure


def _lanes(plan: Plan, order: Sequence[int]) -> list[_Lane]:
    """A segment runs at the mean height of its prompts; prompts stand in the order of groups."""
    heights: list[float] = []
    lanes = []
    for segment in plan.segments:
        height = sum(order.index(n) for n in segment.members) / len(segment.members)
        heights.append(height)
        lanes.append(_Lane(height, height if segment.parent is None else heights[segment.parent]))
    return lanes


def _draw_trajectory(
    figure: go.Figure,
    segment: Segment,
    lane: _Lane,
    *,
    mark: Mark,
    steps: int,
    prompts: Sequence[str],
) -> None:
    shared = len(segment.members) > 1
    bend = min(segment.start + max(1.0, steps / 12), segment.stop)
    names = "<br>".join(f"<b>P{n + 1}</b> {hover_text(prompts[n])}" for n in segment.members)
    span = f"steps {segment.start + 1} to {segment.stop}"
    figure.add_scatter(
        x=[segment.start, bend, segment.stop],
        y=[lane.origin, lane.height, lane.height],
        mode="lines",
        line={"color": mark.color, "width": 3.0 + 1.6 * len(segment.members) if shared else 2.2},
        hoverinfo="text",
        text=f"{names}<br>{span}, {'shared' if shared else 'on its own'}",
        name=f"{mark.letter} {'trunk' if shared else 'branch'}",
    )


def _leaves(plan: Plan, lanes: Sequence[_Lane]) -> dict[int, float]:
    """Where each prompt's picture hangs; several at one place spread by half a line."""
    last = [(s, lane) for s, lane in zip(plan.segments, lanes, strict=True) if s.stop == plan.steps]
    return {
        n: lane.height + position - (len(s.members) - 1) / 2
        for s, lane in last
        for position, n in enumerate(s.members)
    }


def _label_leaf(figure: go.Figure, steps: int, height: float, n: int, prompt: str) -> None:
    figure.add_annotation(
        text=f"<b>P{n + 1}</b> {html.escape(shorten(prompt, 20))}",
        hovertext=hover_text(prompt),
        x=steps,
        y=height,
        xanchor="left",
        xshift=6,
        showarrow=False,
        align="left",
    )


def _mark_branch_points(figure: go.Figure, plan: Plan) -> None:
    for stop in sorted({s.stop for s in plan.segments if len(s.members) > 1}):
        figure.add_vline(x=stop, line={"color": GREY, "width": 1, "dash": "dot"})
        figure.add_annotation(
            text=f"T* = {stop}",
            font={"color": GREY},
            x=stop,
            y=1,
            yref="paper",
            yanchor="bottom",
            showarrow=False,
        )


@dataclass(frozen=True)
class Bar:
    """One run in the cost bars.

    Attributes:
        name: "independent" or "shared".
        stages: Amount by stage, keys as in `STAGES`.
        groups: The groups whose rows the plan walks.
        plan: The plan; rows share a stage's amount equally.
    """

    name: str
    stages: dict[str, float]
    groups: Sequence[Sequence[int]]
    plan: Plan


def cost_figure(bars: Sequence[Bar], unit: str, scale: float) -> go.Figure:
    """Stacked horizontal bars by stage; within the sampling stages by group, in its colour.

    Args:
        bars: One for each run; the first stands on top.
        unit: Written at the axis, e.g. "s".
        scale: Amounts are divided by it.
    """
    figure = _figure(BARS_HEIGHT)
    for bar in bars:
        for piece in _pieces(bar):
            _draw_piece(figure, bar.name, piece, unit, scale)
    totals = [sum(bar.stages.values()) / scale for bar in bars]
    names = [
        f"{bar.name}<br><b>{three_digits(total)} {unit}</b>"
        for bar, total in zip(bars, totals, strict=True)
    ]
    figure.update_xaxes(range=[0, max(totals) or 1], nticks=6, **_PLAIN_AXIS)
    figure.update_yaxes(
        autorange="reversed",
        tickvals=[bar.name for bar in bars],
        ticktext=names,
        ticklabelstandoff=8,
        **_PLAIN_AXIS,
    )
    figure.update_layout(barmode="stack", bargap=0.34, margin={"l": 104, "r": 14, "t": 4, "b": 26})
    return figure


@dataclass(frozen=True)
class _Piece:
    stage: str
    mark: Mark | None
    amount: float


def _pieces(bar: Bar) -> list[_Piece]:
    """A bar cut by stage, and the sampling stages by group in proportion to their rows."""
    pieces = [_Piece("encode", None, bar.stages["encode"])]
    for stage in ("trunk", "branches"):
        rows = _rows_by_group(bar, shared=stage == "trunk")
        whole = sum(rows) or 1
        marks = group_marks(bar.groups)
        pieces += [
            _Piece(stage, mark, bar.stages[stage] * count / whole)
            for mark, count in zip(marks, rows, strict=True)
            if count
        ]
    return [*pieces, _Piece("decode", None, bar.stages["decode"])]


def _rows_by_group(bar: Bar, *, shared: bool) -> list[int]:
    """Evaluations of each group in its trunk (shared) or in its branches."""
    return [
        sum(
            s.stop - s.start
            for s in bar.plan.segments
            if s.members[0] in group and (len(s.members) > 1) == shared
        )
        for group in bar.groups
    ]


def _draw_piece(figure: go.Figure, name: str, piece: _Piece, unit: str, scale: float) -> None:
    amount = piece.amount / scale
    own = piece.stage == "branches"
    color = piece.mark.color if piece.mark else GREY
    fill = translucent(color, {"branches": 0.38, "trunk": 1.0}.get(piece.stage, 0.55))
    letter = f"{piece.mark.letter} " if piece.mark else ""
    figure.add_bar(
        y=[name],
        x=[amount],
        orientation="h",
        marker={"color": fill, "line": {"color": color, "width": 1 if own else 0}},
        text=[f"{letter.strip()}"],
        textposition="inside",
        insidetextanchor="middle",
        textangle=0,
        textfont={"color": INK if own or not piece.mark else piece.mark.ink, "size": 12},
        name=f"{name} {letter}{piece.stage}",
        hovertemplate=(
            f"{name}: {letter}{STAGE_WORDS[piece.stage]} ({piece.stage})<br>"
            f"{three_digits(amount)} {unit}<extra></extra>"
        ),
    )


def stage_amounts(stages: object) -> dict[str, float]:
    """The four stages of a timing or of counted FLOPs, by name."""
    return {stage: float(getattr(stages, stage)) for stage in STAGES}


_PLAIN_AXIS = {"showgrid": False, "zeroline": False, "ticks": "", "fixedrange": True}


def _figure(height: int) -> go.Figure:
    """A quiet figure: no background, no legend, no tools, no title."""
    return go.Figure(
        layout={
            "height": height,
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "showlegend": False,
            "hovermode": "closest",
            "dragmode": False,
            "font": {"family": "IBM Plex Sans, system-ui, sans-serif", "size": 13, "color": INK},
            "margin": {"l": 8, "r": 8, "t": 8, "b": 8},
            "template": "none",
        }
    )
