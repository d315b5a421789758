"""What a look at the branch point shows: expected pictures, ticks, and what finishing costs.

Pure functions from a look to strings. Knows nothing of gradio or of how pictures are made.
"""

from collections.abc import Collection, Mapping
from typing import Any

from PIL import Image

from sage.core.words import plural
from sage.jobs.look import Look, look_report
from sage.jobs.prompt_sets import PromptSet
from sage.ui.html.pictures import EMPTY, Grown, Row, Shot, picture_grid, picture_source, score_words
from sage.ui.html.words import percent_text, saved_text, seconds_text


def look_grid(
    seen: Look,
    ticked: Collection[int],
    live: Mapping[int, Image.Image] | None = None,
    table: PromptSet | None = None,
) -> str:
    """What every prompt is heading for, beside what is finished or can be ticked to be.

    Args:
        seen: The look.
        ticked: Prompts whose tick is on.
        live: Previews of those that are being finished; nothing can be ticked meanwhile.
        table: The product that the prompts are.
    """
    every, final = range(len(seen.pictures)), seen.final
    clips = seen.clip or (None,) * len(every)
    after, more = f"after {plural(seen.step, 'step')}", seen.job.calls - seen.step
    expected = tuple(
        Shot(picture_source(picture), after, score_words(clip, None))
        for picture, clip in zip(seen.pictures, clips, strict=True)
    )

    def end_of(n: int) -> Shot:
        if n in final:
            picture, clip = final[n]
            done = f"{more} steps later"
            return Shot(picture_source(picture), done, score_words(clip, None))
        if live is not None:
            return Shot(picture_source(live[n])) if n in live else EMPTY
        return Shot(tick=n in ticked)

    rows = [Row("expected", expected), Row("shared", tuple(map(end_of, every)))]
    return picture_grid(
        seen.job.request.prompts,
        seen.job.groups,
        rows,
        "look",
        grown=Grown(seen.step, seen.finished),
        table=table,
    )


def look_words(seen: Look) -> str:
    """What was spent so far, beside finishing all."""
    report = look_report(seen)
    line = _looked(seen, report) if not seen.finishes else _spent(seen, report)
    alone = report["evaluations"]["independent"]
    return (
        f'<div class="sage-outcome"><p class="sage-result">{line}</p><p class="sage-rival">'
        f"Rendering every prompt independently would take {alone} evaluations.</p></div>"
    )


def _looked(seen: Look, report: Mapping[str, Any]) -> str:
    counts, took = report["evaluations"], seconds_text(report["seconds"]["look"])
    rest = counts["all"] - counts["look"]
    return (
        f"<b>Stopped after step {seen.step} of {seen.job.calls}</b>: {counts['look']} evaluations "
        f"and {took} spent. Finishing all {len(seen.pictures)} takes {rest} more evaluations; tick "
        "the ones worth finishing."
    )


def _spent(seen: Look, report: Mapping[str, Any]) -> str:
    counts, seconds, compute = report["evaluations"], report["seconds"], _compute(report["flops"])
    number, whole = len(seen.finished), len(seen.pictures)
    took = seconds_text(seconds["spent"])
    if number == whole:
        return (
            f"<b>All {whole} finished</b>: {counts['spent']} evaluations, as many as without a "
            f"look, and {compute}; {took}."
        )
    return (
        f"<b>{number} of {whole} finished, {percent_text(1 - counts['spent'] / counts['all'])} "
        f"saved</b> against finishing all: {counts['spent']} evaluations instead of "
        f"{counts['all']}, {compute}, {took} "
        f"instead of about {seconds_text(seconds['all'])}."
    )


def _compute(flops: Mapping[str, float]) -> str:
    """The FLOPs beside those of finishing all at once, and why they are more where they are."""
    words = f"{saved_text(1 - flops['spent'] / flops['all'])} compute"
    more = round(100 * flops["spent"] / flops["all"]) > 100
    return f"{words} (every expected picture was decoded)" if more else words


def first_ticks(seen: Look) -> tuple[int, ...]:
    """What is ticked before anybody ticks: everything at first, nothing once some are finished."""
    return () if seen.finishes else seen.open


def finish_words(seen: Look, ticked: Collection[int]) -> str:
    """What it takes to finish what is ticked."""
    number = len(set(ticked) & set(seen.open))
    if not number:
        return "Tick a picture to finish it."
    return f"Finishing {number} of {len(seen.pictures)} takes {seen.remaining(number)} evaluations."
