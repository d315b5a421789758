"""A plan as data for the drawing in the browser (`assets/ui/tree.js`), and in words.

The script draws what stands here: it moves with the branch point, grows while a run goes on and
has room for pictures, none of which needs a server. Knows nothing of gradio or models.
"""

import json
from collections.abc import Mapping, Sequence
from html import escape

from sage.core.plan import Group, Plan, Segment
from sage.core.words import plural
from sage.ui.html.palette import prompt_marks


def plan_tree(
    plan: Plan,
    groups: Sequence[Group],
    order: Sequence[int] | None = None,
    previews: Mapping[int, str] | None = None,
    *,
    point: int = 0,
    sharing: str = "groups",
    best: int | None = None,
    planned: bool = False,
) -> str:
    """The plan as an empty figure with the data that the script draws.

    Args:
        plan: What is or was run.
        groups: Who shares a trunk: the colours, and what the handle moves.
        order: The prompts from top to bottom; group by group without it.
        previews: For the index of a segment, the source of a picture of what it had reached when
            it split.
        point: The branch point that was asked for.
        sharing: How prompts share: the browser can redraw "groups" while the handle moves, and a
            "tree" has no handle.
        best: The branch point that is recommended; None if there is none.
        planned: Whether a budget chose steps and branch point, and not the handle.
    """
    order = list(order or [n for group in groups for n in group])
    marks = prompt_marks(groups)
    data = {
        "steps": plan.steps,
        "segments": [_segment_data(segment) for segment in plan.segments],
        "order": order,
        "groups": [list(group) for group in groups],
        "colors": [mark.color for mark in marks],
        "inks": [mark.ink for mark in marks],
        "letters": [mark.letter for mark in marks],
        "previews": {str(index): source for index, source in (previews or {}).items()},
        "point": point,
        "sharing": sharing,
        "best": best,
        "planned": planned,
    }
    return (
        f'<div class="sage-plan" data-plan="{escape(json.dumps(data))}" style="--n:{len(order)}">'
        f'<svg role="img" aria-label="{escape(plan_words(plan))}"></svg>'
        '<div class="sage-thumbs" aria-hidden="true"></div><i class="sage-guide"></i></div>'
    )


def empty_tree(sentence: str) -> str:
    """The plan's place while there is nothing to plan."""
    return f'<div class="sage-plan sage-empty"><p>{escape(sentence)}</p></div>'


def plan_words(plan: Plan) -> str:
    """The plan in a sentence, for who cannot see it."""
    shared = [s for s in plan.segments if len(s.members) > 1]
    parts = [f"{_names(s)} share steps {s.start + 1} to {s.stop}" for s in shared]
    return f"{plural(plan.steps, 'step')}. " + ("; ".join(parts) or "Nothing is shared") + "."


def _segment_data(segment: Segment) -> dict:
    members = list(segment.members)
    return {"members": members, "start": segment.start, "stop": segment.stop} | {
        "parent": segment.parent
    }


def _names(segment: Segment) -> str:
    return ", ".join(f"P{n + 1}" for n in sorted(segment.members))
