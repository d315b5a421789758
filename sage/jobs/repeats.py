"""A measured comparison several times over, so that its seconds and scores have a spread.

Every repeat has seeds of its own: what holds for one noise need not hold for the next.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean, median, stdev
from typing import Any

from sage.jobs.compare import CompareStep, Comparison, compare
from sage.jobs.job import Job
from sage.jobs.request import Request

REPEATS = (1, 3, 5)

# Student's t at 97.5 %, by the number of values: with so few, the normal 1.96 would be too narrow.
_STUDENT = {3: 4.303, 5: 2.776}


def check_repeats(repeats: Any) -> int:
    """The number of repeats.

    Raises:
        ValueError: If so many are not on offer.
    """
    if isinstance(repeats, bool) or repeats not in REPEATS:
        allowed = ", ".join(map(str, REPEATS))
        raise ValueError(f"The number of repeats is {repeats}; allowed are {allowed}.")
    return int(repeats)


def repeated(request: Request, repeat: int) -> Request:
    """The request with the seeds of a repeat, which no earlier repeat has used.

    Raises:
        ValueError: If there are no such seeds.
    """
    return replace(request, seed=request.seed + repeat * len(request.prompts))


def compare_repeatedly(
    job: Job, repeats: int = 1, **options: Any
) -> Iterator[CompareStep | Comparison]:
    """Renders both sides of a job, and as often as is asked for with other seeds.

    Args:
        job: From `sage.jobs.job.prepare`.
        repeats: One of `REPEATS`.
        options: Of `sage.jobs.compare.compare`.

    Yields:
        A CompareStep for every step of every repeat, then the first Comparison. Its report's
        "seconds" are those of each side's median repeat, by stage, and its "repeats" hold the
        totals of all of them, in the order they were measured; with several, "over_seeds" holds the
        first seed of each repeat, what its shared side spent, and the scores of each prompt.

    Raises:
        ValueError: If so many repeats are not on offer, or there are not so many seeds.
    """
    number = check_repeats(repeats)
    jobs = [replace(job, request=repeated(job.request, n)) for n in range(number)]
    done: list[Comparison] = []
    for n, one in enumerate(jobs):
        # Later runs of the form start from its own seeds, so only their states are worth keeping.
        how: dict[str, Any] = {**options, "keep": None} if n else options
        for item in compare(one, **how):
            if isinstance(item, CompareStep):
                yield replace(item, repeat=n)
            else:
                done.append(item if n == 0 else replace(item, outputs={}, forks={}))
    seeds = {"over_seeds": _over_seeds(done)} if number > 1 else {}
    yield replace(done[0], report={**done[0].report, **_seconds(done), **seeds})


def _seconds(done: Sequence[Comparison]) -> dict[str, Any]:
    """What a report says of time: each side's median repeat stands for it, as its number is odd."""
    by_side = {
        side: [one.report["seconds"][side] for one in done] for side in ("shared", "independent")
    }
    totals = {side: [each["total"] for each in runs] for side, runs in by_side.items()}
    medians = {
        side: runs[totals[side].index(median(totals[side]))] for side, runs in by_side.items()
    }
    saving = dict(done[0].report["saving"])
    if saving["seconds"] is not None:
        saving["seconds"] = 1 - medians["shared"]["total"] / medians["independent"]["total"]
    return {"seconds": medians, "repeats": totals, "saving": saving}


def _over_seeds(done: Sequence[Comparison]) -> dict[str, Any]:
    sides = [side for side in done[0].scores if all(side in one.scores for one in done)]
    clips = {side: [one.scores[side].clip for one in done] for side in sides}
    known = all(clip is not None for each in clips.values() for clip in each)
    return {
        "seeds": [one.request.seed for one in done],
        "evaluations": [one.report["evaluations"]["shared"] for one in done],
        "twin_distance": {
            side: [list(one.scores[side].twin) for one in done]
            for side in sides
            if side != "independent"
        },
        "clip_score": {s: [list(c or ()) for c in each] for s, each in clips.items()}
        if known
        else None,
    }


# -- what repeats come to --------------------------------------------------------------------------


@dataclass(frozen=True)
class Mean:
    """A mean over repeats; `half` is half its 95 % interval, None for a single value."""

    value: float
    half: float | None

    @property
    def is_noise(self) -> bool:
        """Whether, as a difference, it may as well be none: zero lies in its interval."""
        return self.half is None or abs(self.value) <= self.half


def mean_of(scores: Sequence[Sequence[float | None] | None]) -> Mean | None:
    """The mean over prompts and repeats, with an interval over the repeats.

    Args:
        scores: For each repeat, one number a prompt; those of pictures that a checker blacked out
            are None and don't count.

    Returns:
        None where no repeat has a number. The interval is Student's over the repeats' means.
    """
    known = [[v for v in one if v is not None] for one in scores if one is not None]
    means = [mean(one) for one in known if one]
    if not means:
        return None
    factor = _STUDENT.get(len(means))
    half = factor * stdev(means) / len(means) ** 0.5 if factor else None
    return Mean(mean(means), half)


@dataclass(frozen=True)
class SeedScores:
    """Scores over several seeds, of prompts that share.

    Attributes:
        seeds: How many.
        distance: Of the shared pictures to the independent ones.
        fewer: Of the equal-NFE baseline's pictures to the same; None if it did not run.
        nearer: How much nearer the shared ones are, from differences within each prompt and seed.
        clip: CLIP score of the shared pictures; None without an image encoder.
        alone: Of the independent ones.
        gain: The former less the latter, likewise from differences.
    """

    seeds: int
    distance: Mean | None
    fewer: Mean | None = None
    nearer: Mean | None = None
    clip: Mean | None = None
    alone: Mean | None = None
    gain: Mean | None = None


def seed_scores(report: Mapping[str, Any], prompts: Sequence[int]) -> SeedScores | None:
    """What the repeats of a report say of some prompts; None without repeats or prompts.

    Args:
        report: Of a comparison from `compare_repeatedly`.
        prompts: Indices of the prompts that count.
    """
    found = report.get("over_seeds")
    if found is None or not prompts:
        return None
    near = {side: _only(each, prompts) for side, each in found["twin_distance"].items()}
    clip = {side: _only(each, prompts) for side, each in (found["clip_score"] or {}).items()}
    shared, fewer = near["shared"], near.get("fewer", [])
    return SeedScores(
        len(found["seeds"]),
        mean_of(shared),
        mean_of(fewer),
        mean_of(_differences(fewer, shared)) if fewer else None,
        mean_of(clip.get("shared", [])),
        mean_of(clip.get("independent", [])),
        mean_of(_differences(clip["shared"], clip["independent"])) if clip else None,
    )


_Scores = list[list[float | None]]


def _only(scores: Sequence[Sequence[float | None]], prompts: Sequence[int]) -> _Scores:
    return [[one[n] for n in prompts] for one in scores]


def _differences(these: _Scores, those: _Scores) -> _Scores:
    """Within each repeat and prompt, where neither is missing."""
    return [
        [None if a is None or b is None else a - b for a, b in zip(one, other, strict=True)]
        for one, other in zip(these, those, strict=True)
    ]
