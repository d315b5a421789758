"""A plan as a picture: x is the step, one line a trajectory, as wide as the prompts it stands for.

A function of a plan to HTML with inline SVG. The lines are stretched to the width of the card, the
words beside them are not, so that one drawing fits a desktop and a phone. Draws whatever a `Plan`
holds: groups, trees, realised plans. Knows nothing of gradio or models.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from sage.core.plan import Group, Plan, Segment
from sage.ui.html.palette import prompt_marks
from sage.ui.html.words import plural

_TICKS = (1, 2, 5, 10, 20, 25, 50)
_APART = 0.16  # of all steps: how far apart two numbers above the lines have to be


@dataclass(frozen=True)
class _Lane:
    """Where a trajectory runs: its height, and that of its parent, in prompts from the top."""

    height: float
    origin: float


def plan_drawing(
    plan: Plan,
    groups: Sequence[Group],
    prompts: Sequence[str],
    order: Sequence[int] | None = None,
    previews: Mapping[int, str] | None = None,
) -> str:
    """The plan with its steps, branch points and prompts.

    Args:
        plan: What is or was run.
        groups: Who shares a trunk, for the colours.
        prompts: N texts.
        order: The prompts from top to bottom; group by group without it.
        previews: For the index of a segment, the source of a picture of what it had reached when
            it split.
    """
    order = list(order or [n for group in groups for n in group])
    lanes = _lanes(plan, order)
    colors = [mark.color for mark in prompt_marks(groups)]
    lines = "".join(
        _line(plan, segment, lane, colors[segment.members[0]])
        for segment, lane in zip(plan.segments, lanes, strict=True)
    )
    thumbs = "".join(_thumb(plan, lanes, i, src) for i, src in (previews or {}).items())
    names = "".join(_name(n, prompts[n], colors[n], order.index(n), plan) for n in order)
    return (
        f'<div class="sage-plan" style="--n:{len(order)}"><div class="sage-lines">'
        f'<svg viewBox="0 0 {plan.steps} {plan.num_prompts}" preserveAspectRatio="none" '
        f'role="img" aria-label="{escape(plan_words(plan))}">{lines}</svg>'
        f"{_branch_points(plan)}{thumbs}{_ticks(plan.steps)}</div>"
        f'<ul class="sage-leaves" data-roving>{names}</ul></div>'
    )


def empty_plan(sentence: str) -> str:
    """The plan's place while there is nothing to plan."""
    return f'<div class="sage-plan sage-empty"><p>{escape(sentence)}</p></div>'


def plan_words(plan: Plan) -> str:
    """The plan in a sentence, for who cannot see it."""
    shared = [s for s in plan.segments if len(s.members) > 1]
    parts = [f"{_names(s)} share steps {s.start + 1} to {s.stop}" for s in shared]
    return f"{plural(plan.steps, 'step')}. " + ("; ".join(parts) or "Nothing is shared") + "."


def _lanes(plan: Plan, order: Sequence[int]) -> list[_Lane]:
    """A segment runs at the mean height of its prompts."""
    heights: list[float] = []
    lanes = []
    for segment in plan.segments:
        height = 0.5 + sum(order.index(n) for n in segment.members) / len(segment.members)
        heights.append(height)
        lanes.append(_Lane(height, height if segment.parent is None else heights[segment.parent]))
    return lanes


def _line(plan: Plan, segment: Segment, lane: _Lane, color: str) -> str:
    bend = min(segment.start + max(1.0, plan.steps / 14), segment.stop)
    path = f"M{segment.start} {lane.origin:g}L{bend:g} {lane.height:g}H{segment.stop}"
    shared = len(segment.members) > 1
    width = min(2.2 + 1.7 * len(segment.members), 16) if shared else 2.2
    how = "shared" if shared else "on its own"
    words = f"{_names(segment)}: steps {segment.start + 1} to {segment.stop}, {how}"
    members = " ".join(map(str, segment.members))
    # The wide, invisible line is what a pointer hits.
    return (
        f'<g data-p="{members}" class="sage-line" style="--group:{color}">'
        f'<title>{escape(words)}</title><path class="sage-hit" d="{path}"/>'
        f'<path d="{path}" stroke-width="{width:g}"/></g>'
    )


def _names(segment: Segment) -> str:
    return ", ".join(f"P{n + 1}" for n in sorted(segment.members))


def _name(n: int, prompt: str, color: str, place: int, plan: Plan) -> str:
    top = 100 * (place + 0.5) / plan.num_prompts
    return (
        f'<li style="top:{top:.2f}%"><button type="button" tabindex="-1" data-p="{n}" '
        f'class="sage-leaf" style="--group:{color}" title="{escape(prompt)}">'
        f"<b>P{n + 1}</b> {escape(prompt)}</button></li>"
    )


def _branch_points(plan: Plan) -> str:
    """A dotted line at every step at which prompts part; one alone is named T*.

    Numbers too close for a phone stand in a second row, and where that is full there are none.
    """
    stops = plan.branch_steps
    named = "T* = " if len(stops) == 1 else ""
    ends = {"": -plan.steps, " sage-high": -plan.steps}  # of each row, where its last number stands
    drawn = []
    for stop in stops:
        free = (row for row, end in ends.items() if stop - end >= _APART * plan.steps)
        row = next(free, None)
        words = "" if row is None else f"{named}{stop}"
        if row is not None:
            ends[row] = stop
        left = f"{100 * stop / plan.steps:.2f}%"
        drawn.append(f'<span class="sage-split{row or ""}" style="left:{left}">{words}</span>')
    return "".join(drawn)


def _thumb(plan: Plan, lanes: Sequence[_Lane], index: int, source: str) -> str:
    segment, lane = plan.segments[index], lanes[index]
    left, top = 100 * segment.stop / plan.steps, 100 * lane.height / plan.num_prompts
    members = " ".join(map(str, segment.members))
    return (
        f'<img class="sage-thumb" data-p="{members}" src="{source}" '
        f'style="left:{left:.2f}%;top:{top:.2f}%" '
        f'alt="What {_names(segment)} had in common after step {segment.stop}">'
    )


def _ticks(steps: int) -> str:
    every = next((tick for tick in _TICKS if steps / tick <= 6), 50)
    marks = "".join(
        f'<span style="left:{100 * k / steps:.2f}%">{k}</span>' for k in range(0, steps + 1, every)
    )
    return f'<div class="sage-ticks" aria-hidden="true">{marks}<em>step</em></div>'
