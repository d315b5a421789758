"""From a finished comparison to what the page shows of it: pictures, bars, sentences.

Rendered here or precomputed, both become the same rows of pictures and the same bars. Knows
nothing of gradio.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from PIL import Image

from sage.core.cost import Cost
from sage.core.plan import Group, Plan
from sage.jobs.compare import Comparison, Scores
from sage.jobs.filmstrip import Frame
from sage.jobs.job import Job
from sage.jobs.repeats import seed_scores
from sage.sd.pipeline import SageOutput
from sage.ui.html import cost_bars
from sage.ui.html.cost_bars import Bar
from sage.ui.html.outcome import Outcome, known, outcome_words, seconds_of
from sage.ui.html.pictures import Row, picture_source, row_of
from sage.ui.html.strip import Side, Strip, StripRow, make_strip
from sage.ui.html.words import STAGES
from sage.ui.studio.first import Stored

NO_BARS = "Shown once both sides have run."
REUSED = "Not measured: evaluations were taken from an earlier run."
_ORDER: tuple[Side, ...] = ("independent", "shared", "fewer")


def frames_strip(frames: Iterable[Frame], quality: int = 84) -> Strip:
    """The frames of a filmstrip as one strip."""
    return make_strip([(frame_row(frame), frame.output.pictures) for frame in frames], quality)


def frame_row(frame: Frame) -> StripRow:
    """What a frame did and how its pictures fare."""
    return _strip_row(frame.side, frame.at, frame.output, frame.scores)


def picture_rows(done: Comparison) -> list[Row]:
    """The sides of a finished comparison as rows of the grid, the independent one first."""
    rows = []
    for side in _ORDER:
        if side not in done.outputs:
            continue
        output, scores = done.outputs[side], done.scores[side]
        at = done.job.branch_call if side == "shared" else output.plan.steps
        if side == "shared" and done.request.sharing != "groups":
            at = -1  # a tree has no single branch point
        sources = [picture_source(picture) for picture in output.pictures]
        rows.append(row_of(_strip_row(side, at, output, scores), sources))
    return rows


def _strip_row(side: Side, at: int, output: SageOutput, scores: Scores) -> StripRow:
    plan = output.plan
    prompts = range(plan.num_prompts)
    # A guarded group shares less than was asked; in a tree each prompt has its own branch point.
    steps = [plan.branch_step_of(n) if side == "shared" else plan.steps for n in prompts]
    return StripRow(side, at, output.cost.evaluations, tuple(steps), scores.twin, scores.clip)


def strip_outcomes(job: Job, strip: Strip, report: Mapping[str, Any] | None) -> dict[int, str]:
    """What each branch point of a strip comes to; seconds are those of the measured run."""
    return {point: strip_outcome(job, strip, report, point) for point in strip.points}


def strip_outcome(job: Job, strip: Strip, report: Mapping[str, Any] | None, point: int) -> str:
    """What one of them comes to."""
    cost, row, fewer = job.at(point).cost, strip.shared(point), strip.fewer(point)
    together = [n for group in job.groups if len(group) > 1 and point for n in group]
    # Other seeds were run at the branch point of the run only, which the guard may have shortened.
    asked = (point, cost.evaluations)
    if report and (report["branch_step"], report["evaluations"]["shared"]) == asked:
        seeds = seed_scores(report, together)
    else:
        seeds = None
    outcome = Outcome(
        (cost.evaluations, cost.independent_evaluations),
        (cost.flops.total, cost.independent_flops.total),
        known(row.twin, together),
        seconds_of(report, report["branch_step"]) if report else None,
        (fewer.at, known(fewer.twin, together)) if fewer else None,
        point,
        seeds,
    )
    return outcome_words(outcome)


def fork_previews(forks: Mapping[int, Image.Image]) -> dict[int, str]:
    """The previews at the forks of a plan as sources of pictures."""
    return {index: picture_source(picture) for index, picture in forks.items()}


def seconds_bars(
    report: Mapping[str, Any], groups: Sequence[Group], plan: Plan, independent: Plan
) -> str:
    """Measured seconds as bars; a sentence where nothing comparable was measured."""
    if report["saving"]["seconds"] is None:
        return cost_bars.no_bars(REUSED)
    return cost_bars.cost_bars(_bars(report["seconds"], groups, plan, independent), "s", 1)


def flops_bars(cost: Cost, groups: Sequence[Group], plan: Plan, independent: Plan) -> str:
    """Counted FLOPs as bars."""
    amounts = {"independent": cost.independent_flops, "shared": cost.flops}
    total = cost.independent_flops.total
    unit, scale = ("TFLOP", 1e12) if total >= 1e12 else ("GFLOP", 1e9)
    stages = {side: vars(flops) for side, flops in amounts.items()}
    return cost_bars.cost_bars(_bars(stages, groups, plan, independent), unit, scale)


def _bars(
    amounts: dict[str, dict], groups: Sequence[Group], plan: Plan, independent: Plan
) -> list[Bar]:
    plans = {"independent": independent, "shared": plan}
    return [
        Bar(side, {stage: amounts[side][stage] for stage in STAGES}, groups, plans[side])
        for side in plans
    ]


def stored_words(stored: Stored) -> str:
    """Says that a comparison is precomputed; its conditions stand with the costs."""
    seeds, points = stored.report["seeds"], stored.strip.points
    apart = max(after - before for before, after in pairwise(points))
    where = f", pictures {apart} branch points apart" if apart > 1 else ""
    return (
        f"Precomputed: {stored.report['steps']} steps, seeds {seeds[0]} to {seeds[-1]}{where}. "
        "Move the branch point freely; after any other change, render again."
    )
