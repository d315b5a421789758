"""What a comparison came to, in one sentence for anybody, and one on what fewer steps would do.

Pure functions from a run's numbers to HTML; a number's conditions are said elsewhere on the page.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from statistics import median
from typing import Any

from sage.core.cost import Cost
from sage.core.words import plural
from sage.jobs.repeats import SeedScores, seed_scores
from sage.ui.html.words import mean_text, percent_text, saved_text, seconds_text

# Root mean square pixel differences up to which two pictures are called so; seen on the built-in
# model's strips. The last words hold beyond all of them.
NEARNESS = (
    (0.012, "visually the same pictures"),
    (0.045, "nearly the same pictures"),
    (0.11, "similar pictures that differ in details"),
    (0.17, "visibly different pictures"),
)
FAR = "entirely different pictures"


@dataclass(frozen=True)
class Seconds:
    """Measured times of both sides.

    Attributes:
        shared: One time a repeat, in seconds.
        independent: Likewise, in the same order.
        at: Branch point they were measured at, in calls; None where there is no single one.
    """

    shared: tuple[float, ...]
    independent: tuple[float, ...]
    at: int | None = None


@dataclass(frozen=True)
class Outcome:
    """The numbers behind the sentence.

    Attributes:
        evaluations: What the shared side spent, and the independent one.
        flops: Likewise, in FLOPs.
        near: For each prompt that shares, the distance of its picture to its independent one.
        seconds: Measured times; None if nothing comparable was measured.
        fewer: Steps of the equal-NFE baseline, and its distances; None if it did not run.
        at: Branch point of the pictures, in calls; None where there is no single one.
        seeds: Scores over several seeds of what is shown; None if there was one only.
    """

    evaluations: tuple[int, int]
    flops: tuple[float, float]
    near: tuple[float, ...]
    seconds: Seconds | None = None
    fewer: tuple[int, tuple[float, ...]] | None = None
    at: int | None = None
    seeds: SeedScores | None = None


def outcome_of(report: Mapping[str, Any]) -> Outcome:
    """The numbers of a finished run, out of its report."""
    sharing = sorted({n for part in report["plan"] for n in _members(part)})
    runs, flops, fewer = report["evaluations"], report["flops"], report.get("fewer_steps")
    at = report["branch_step"] if report["sharing"] == "groups" else None
    distances = report["twin_distance"]
    return Outcome(
        (runs["shared"], runs["independent"]),
        (flops["shared"]["total"], flops["independent"]["total"]),
        known(distances, sharing),
        seconds_of(report, at),
        (fewer["steps"], known(fewer["twin_distance"], sharing)) if fewer else None,
        at,
        seed_scores(report, sharing),
    )


def known(distances: Sequence[float | None], prompts: Sequence[int]) -> tuple[float, ...]:
    """The distances of some prompts, without those of pictures that a checker blacked out."""
    return tuple(d for n in prompts if (d := distances[n]) is not None)


def _members(part: Mapping[str, Any]) -> list[int]:
    return part["members"] if len(part["members"]) > 1 else []


def seconds_of(report: Mapping[str, Any], at: int | None) -> Seconds | None:
    """The measured times of a report; None if a side took something from an earlier run."""
    if report["saving"]["seconds"] is None:
        return None
    totals = {side: report["seconds"][side]["total"] for side in ("shared", "independent")}
    repeats = report.get("repeats") or {side: [total] for side, total in totals.items()}
    return Seconds(tuple(repeats["shared"]), tuple(repeats["independent"]), at)


def expected_words(cost: Cost, *, settled: bool = True) -> str:
    """What is expected before anything has run: what is counted, and nothing else."""
    spent, alone = cost.evaluations, cost.independent_evaluations
    words = f"Expected: {_counted(spent, alone)}. Render to see how close the pictures come."
    if not settled:
        saved = percent_text(cost.saving)
        words = f"Up to <b>{saved} saved</b>: how much is decided while sampling."
    elif spent == alone:
        words = _nothing(alone)
    return f'<div class="sage-outcome"><p class="sage-result">{words}</p></div>'


def outcome_words(outcome: Outcome) -> str:
    """What is saved and how near the pictures are, and what fewer steps would have done.

    Where several seeds were run, their means follow with their intervals.
    """
    lines = (_fewer_words(outcome), _seeds_words(outcome.seeds) if outcome.seeds else "")
    second = "".join(f'<p class="sage-rival">{line}</p>' for line in lines if line)
    place = "" if outcome.at is None else f' data-point="{outcome.at}"'
    return (
        f'<div class="sage-outcome"{place}><p class="sage-result">{_saved_words(outcome)}</p>'
        f"{second}</div>"
    )


def _saved_words(outcome: Outcome) -> str:
    spent, alone = outcome.evaluations
    if spent == alone:
        return _nothing(alone)
    arithmetic = saved_text(1 - outcome.flops[0] / outcome.flops[1])
    parts = [
        f"{_counted(spent, alone)}, {arithmetic} compute",
        *([_seconds_words(outcome)] if outcome.seconds else []),
    ]
    near = f" Sharing gives <b>{nearness(outcome.near)}</b>." if outcome.near else ""
    return f"{', '.join(parts)}.{near}"


def _nothing(alone: int) -> str:
    return f"<b>Nothing is saved</b>: all {alone} evaluations are needed."


def _counted(spent: int, alone: int) -> str:
    saved = percent_text(1 - spent / alone) + " saved"
    if spent > alone:
        saved = percent_text(spent / alone - 1) + " more spent"
    return f"<b>{saved}</b>: {spent} evaluations instead of {alone}"


def nearness(distances: Sequence[float]) -> str:
    """How near pictures are to others, in words, from the mean of their distances."""
    mean = sum(distances) / len(distances)
    return next((words for limit, words in NEARNESS if mean <= limit), FAR)


def _seconds_words(outcome: Outcome) -> str:
    seconds = outcome.seconds
    if seconds is None:
        return ""
    where = ""
    if seconds.at is not None and seconds.at != outcome.at:
        where = f", measured at {plural(seconds.at, 'shared step')}"
    if len(seconds.shared) == 1:
        one, other = seconds.shared[0], seconds.independent[0]
        return f"{seconds_text(one)} instead of {seconds_text(other)} in one run{where}"
    if is_noise(seconds):
        return f"{_spread(seconds.shared)} and {_spread(seconds.independent)}: within noise{where}"
    return f"{_spread(seconds.shared)} instead of {_spread(seconds.independent)}{where}"


def is_noise(seconds: Seconds) -> bool:
    """Whether the ranges of both sides overlap, so that their order says nothing."""
    one, other = seconds.shared, seconds.independent
    return max(min(one), min(other)) <= min(max(one), max(other))


def _spread(times: Sequence[float]) -> str:
    """Median and range, "4.1 s (4.0 to 4.3)"."""
    low, high = (escape(seconds_text(end)) for end in (min(times), max(times)))
    return f"{seconds_text(median(times))} ({low.removesuffix(' s')} to {high})"


def _fewer_words(outcome: Outcome) -> str:
    if outcome.fewer is None or not outcome.near:
        return ""
    steps, distances = outcome.fewer
    if not distances:
        return ""
    theirs, ours = sum(distances) / len(distances), sum(outcome.near) / len(outcome.near)
    verdict = "comes closer" if theirs < ours else "comes less close"
    nearer = outcome.seeds.nearer if outcome.seeds else None
    if nearer is not None and nearer.half is not None:
        verdict = "comes closer" if nearer.value < 0 else "comes less close"
        if nearer.is_noise:
            verdict = "comes as close, within noise"
    elif nearness(distances) == nearness(outcome.near):
        verdict = "comes about as close"
    return (
        f"At the same cost, independent sampling with {plural(steps, 'step')} {verdict}: "
        f"{nearness(distances)}."
    )


def _seeds_words(seeds: SeedScores) -> str:
    """Means over several seeds; differences whose interval holds zero are called noise."""
    parts = []
    if seeds.distance is not None:
        rival = ""
        if seeds.fewer is not None and seeds.nearer is not None:
            noise = ", within noise" if seeds.nearer.is_noise else ""
            rival = f" (fewer steps: {mean_text(seeds.fewer, 3)}{noise})"
        parts.append(f"distance {mean_text(seeds.distance, 3)}{rival}")
    if seeds.clip is not None and seeds.gain is not None:
        noise = ", within noise" if seeds.gain.is_noise else ""
        alone = f" (independent: {mean_text(seeds.alone, 3)}{noise})"
        parts.append(f"CLIP score {mean_text(seeds.clip, 3)}{alone}")
    if not parts:
        return ""
    return (
        f"Over {plural(seeds.seeds, 'set')} of seeds, with 95 % intervals of the mean: "
        f"{'; '.join(parts)}."
    )
