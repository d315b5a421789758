"""A measured comparison several times over, so that its seconds have a spread."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from sage.jobs.compare import CompareStep, Comparison, compare
from sage.jobs.job import Job

REPEATS = (1, 3, 5)


def check_repeats(repeats: Any) -> int:
    """The number of repeats.

    Raises:
        ValueError: If so many are not on offer.
    """
    if isinstance(repeats, bool) or repeats not in REPEATS:
        allowed = ", ".join(map(str, REPEATS))
        raise ValueError(f"The number of repeats is {repeats}; allowed are {allowed}.")
    return int(repeats)


def compare_repeatedly(
    job: Job, repeats: int = 1, **options: Any
) -> Iterator[CompareStep | Comparison]:
    """Renders both sides once with previews, and measures them as often as is asked for.

    Args:
        job: From `sage.jobs.job.prepare`.
        repeats: One of `REPEATS`.
        options: Of `sage.jobs.compare.compare`; what is not measured is not repeated.

    Yields:
        A CompareStep for every step of every repeat, then the first Comparison; its report's
        "repeats" hold each side's seconds, in total, in the order they were measured.

    Raises:
        ValueError: If so many repeats are not on offer.
    """
    check_repeats(repeats)
    first: Comparison | None = None
    seconds: dict[str, list[float]] = {"shared": [], "independent": []}
    for _ in range(repeats if options.get("measure", True) else 1):
        for item in compare(job, **options):
            if isinstance(item, CompareStep):
                yield item
                continue
            first = first or item
            for side, times in seconds.items():
                times.append(item.report["seconds"][side]["total"])
    if first is not None:
        yield replace(first, report={**first.report, "repeats": seconds})
