"""Pieces of the page as HTML: notes, chips, tables, numbers and the grid of pictures.

Pure functions from data to strings. Everything a visitor typed passes `html.escape` here and
nowhere else; knows nothing of gradio or of how pictures are made.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from PIL import Image

from sage.cost import Cost
from sage.grouping import Grouping
from sage.ui.palette import Mark, prompt_marks
from sage.ui.palette import group_marks as marks_of
from sage.ui.words import (
    flops_text,
    percent_text,
    plural,
    saved_text,
    seconds_text,
    split_words,
)

KIND_WORDS = {
    "same_group": "together",
    "too_far": "too far apart",
    "near_duplicate": "near-duplicate",
    "too_large": "group full",
    "better_elsewhere": "better elsewhere",
}


def heading(number: str, words: str, aside: str = "") -> str:
    """The heading of a card; `aside` is a quieter remark beside it."""
    badge = f'<span class="sage-number">{escape(number)}</span> ' if number else ""
    quiet = f' <span class="sage-aside">{escape(aside)}</span>' if aside else ""
    return f"<h2>{badge}{escape(words)}{quiet}</h2>"


def note(sentence: str, tone: str = "quiet") -> str:
    """A line that keeps its place; tone is "quiet", "warn" or "error"."""
    role = ' role="alert"' if tone == "error" else ""
    return f'<p class="sage-note sage-{tone}"{role}>{escape(sentence) or "&nbsp;"}</p>'


def prompts_note(prompts: Sequence[str], unseen: Sequence[str]) -> str:
    """How many prompts there are and which words the model has never met."""
    if not unseen:
        return note(f"{len(prompts)} prompts")
    marked = ", ".join(f"<mark>{escape(word)}</mark>" for word in unseen[:8])
    more = " …" if len(unseen) > 8 else ""
    return (
        f'<p class="sage-note sage-warn">{len(prompts)} prompts. '
        f"Never seen by this model: {marked}{more}</p>"
    )


def marked_prompt(prompt: str, unseen: Sequence[str]) -> str:
    """A prompt, escaped, with its unseen words marked."""
    words = split_words(prompt)
    words[1::2] = [f"<mark>{escape(w)}</mark>" if w in unseen else escape(w) for w in words[1::2]]
    words[0::2] = [escape(between) for between in words[0::2]]
    return "".join(words)


def badge(mark: Mark) -> str:
    """The letter of a group on its colour."""
    return (
        f'<span class="sage-badge" style="--group:{mark.color};--ink:{mark.ink}" '
        f'title="group {mark.letter}">{mark.letter}</span>'
    )


def group_chips(grouping: Grouping, prompts: Sequence[str], unseen: Sequence[str]) -> str:
    """One chip a group: its letter and its prompts."""
    chips = []
    for group, mark in zip(grouping.groups, marks_of(grouping.groups), strict=True):
        lines = "".join(
            f"<span><b>P{n + 1}</b> {marked_prompt(prompts[n], unseen)}</span>" for n in group
        )
        alone = '<em class="sage-alone">alone</em>' if mark.alone else ""
        chips.append(
            f'<li class="sage-chip" style="--group:{mark.color}">{badge(mark)}'
            f'<div class="sage-members">{lines}</div>{alone}</li>'
        )
    advice = "" if grouping.shares else note(_no_group_advice(grouping), "warn")
    return f'{advice}<ul class="sage-chips">{"".join(chips)}</ul>'


def _no_group_advice(grouping: Grouping) -> str:
    """What to do when nothing is shared, from the commonest reason."""
    kinds = [pair.kind for pair in grouping.pairs]
    if "near_duplicate" in kinds and "too_far" not in kinds:
        return "All pairs are near-duplicates: raise the upper bound to let them share."
    if grouping.max_group_size == 1:
        return "Groups of one share nothing: allow larger groups under Advanced."
    return (
        "No pair is similar enough: lower the bound or change the prompts. "
        "Rendering will be independent."
    )


def pairs_table(grouping: Grouping) -> str:
    """The decision and its reason for every pair."""
    rows = "".join(
        f"<tr><td>P{p.first + 1} – P{p.second + 1}</td><td>{p.similarity:.2f}</td>"
        f"<td>{KIND_WORDS[p.kind]}</td><td>{escape(p.reason)}</td></tr>"
        for p in grouping.pairs
    )
    return (
        '<div class="sage-scroll" tabindex="0" role="region" aria-label="Reason for each pair">'
        "<table><thead><tr><th>Pair</th><th>Similarity</th><th>Decision</th><th>Reason</th></tr>"
        f"</thead><tbody>{rows}</tbody></table></div>"
    )


def estimate(cost: Cost, branch_step: int, steps: int, shares: bool) -> str:
    """What sharing is expected to save, before anything is rendered.

    Args:
        cost: Of the plan.
        branch_step: T*.
        steps: T.
        shares: Whether any group has two prompts or more.
    """
    shared = f"{branch_step} of {plural(steps, 'step')} shared" if shares else "Nothing is shared"
    return (
        f'<p class="sage-branch">{shared} '
        f"<small>share ratio β = {branch_step / steps:.2f}</small></p>"
        '<div class="sage-figures">'
        f"{_figure(percent_text(cost.saving), 'evaluations saved')}"
        f"{_figure(f'{cost.evaluations} of {cost.independent_evaluations}', 'evaluations')}"
        f"{_figure(flops_text(cost.flops.total), f'of {flops_text(cost.independent_flops.total)}')}"
        "</div>"
    )


def no_estimate() -> str:
    """The estimate's place while there is nothing to estimate."""
    empty = "".join(
        _figure("–", words) for words in ("evaluations saved", "evaluations", "FLOPs counted")
    )
    return f'<p class="sage-branch">&nbsp;</p><div class="sage-figures">{empty}</div>'


def _figure(number: str, words: str) -> str:
    return f"<div><b>{escape(number)}</b><span>{escape(words)}</span></div>"


def progress(step: int, steps: int, sentence: str, tone: str = "quiet") -> str:
    """A bar and a line such as "Step 14 of 30, shared"; keeps its place when idle."""
    share = 100 * step / steps if steps else 0
    return (
        f'<div class="sage-progress sage-{tone}"><div class="sage-track" role="progressbar" '
        f'aria-label="Rendering" aria-valuemin="0" aria-valuemax="{steps}" aria-valuenow="{step}">'
        f'<i style="width:{share:.1f}%"></i></div><p>{escape(sentence)}</p></div>'
    )


def banner(sentence: str) -> str:
    """A remark above the results, such as "for earlier settings"; nothing if empty."""
    return f'<p class="sage-banner" role="status">{escape(sentence)}</p>' if sentence else ""


@dataclass(frozen=True)
class Shot:
    """One picture of the grid: its source and the words under it."""

    source: str
    words: str


@dataclass(frozen=True)
class PairView:
    """The two pictures of one prompt."""

    prompt: str
    mark: Mark
    independent: Shot
    shared: Shot


def pair_views(
    prompts: Sequence[str],
    groups: Sequence[Sequence[int]],
    independent: Sequence[Shot],
    shared: Sequence[Shot],
) -> tuple[PairView, ...]:
    """One view for each prompt, in prompt order."""
    marks = prompt_marks(groups)
    return tuple(
        PairView(*parts) for parts in zip(prompts, marks, independent, shared, strict=True)
    )


def empty_shots(number: int) -> tuple[Shot, ...]:
    """Reserved boxes, before anything is rendered."""
    return (Shot("", ""),) * number


def picture_grid(pairs: Sequence[PairView], state: str) -> str:
    """Pictures side by side for each prompt, framed in the group's colour.

    Args:
        pairs: In prompt order.
        state: "empty", "live", "done" or "unfinished"; the style sheet tells them apart.
    """
    cells = "".join(_pair(n, pair) for n, pair in enumerate(pairs, start=1))
    return f'<div class="sage-pairs" data-state="{state}" data-pairs="{len(pairs)}">{cells}</div>'


def _pair(number: int, pair: PairView) -> str:
    return (
        f'<figure class="sage-pair" style="--group:{pair.mark.color}"><figcaption>'
        f"{badge(pair.mark)}<b>P{number}</b>"
        f'<span class="sage-prompt" title="{escape(pair.prompt)}">{escape(pair.prompt)}</span>'
        f"</figcaption>"
        f"{_shot('independent', number, pair.prompt, pair.independent)}"
        f"{_shot('shared', number, pair.prompt, pair.shared)}</figure>"
    )


def _shot(side: str, number: int, prompt: str, shot: Shot) -> str:
    alt = escape(f"P{number}, {side}: {prompt}")
    picture = f'<img src="{shot.source}" alt="{alt}">' if shot.source else "<i></i>"
    words = shot.words or "&nbsp;"
    return (
        f'<div class="sage-shot sage-{side}"><div class="sage-frame">{picture}</div>'
        f"<p>{side}</p><p>{words}</p></div>"
    )


def picture_source(image: Image.Image) -> str:
    """A picture as a data URI: lossless when small, WebP when it would weigh too much."""
    small = image.width * image.height <= 192 * 192
    data = io.BytesIO()
    if small:
        image.save(data, "PNG", compress_level=1)
    else:
        image.save(data, "WEBP", quality=92)
    kind = "png" if small else "webp"
    return f"data:image/{kind};base64,{base64.b64encode(data.getvalue()).decode()}"


def shot_words(clip_score: float | None, twin_distance: float | None) -> str:
    """Words under a finished picture: CLIP score and distance to its twin."""
    parts = []
    if clip_score is not None:
        parts.append(f'<abbr title="cosine of picture and prompt">CLIP</abbr> {clip_score:.2f}')
    if twin_distance is not None:
        title = "distance to the same prompt's other picture; 0 is the same picture"
        parts.append(f'<abbr title="{title}">twin</abbr> {twin_distance:.2f}')
    return " · ".join(parts)


def saving_words(report: dict) -> str:
    """The saving of a finished comparison as sentences."""
    seconds, flops, runs = report["seconds"], report["flops"], report["evaluations"]
    saving = report["saving"]
    return (
        f"<p>Sharing took <b>{seconds_text(seconds['shared']['total'])}</b> instead of "
        f"{seconds_text(seconds['independent']['total'])}: "
        f"<b>{saved_text(saving['seconds'])}</b> time, measured with {escape(_place(report))}."
        f"</p><p>It used <b>{runs['shared']} of {runs['independent']}</b> denoiser evaluations "
        f"({saved_text(saving['evaluations'], 'fewer')}) and "
        f"<b>{flops_text(flops['shared']['total'])}</b> of "
        f"{flops_text(flops['independent']['total'])} ({saved_text(saving['flops'])}), counted.</p>"
    )


def no_saving() -> str:
    """The place of the saving before there is one."""
    return "<p>&nbsp;</p><p>&nbsp;</p>"


def _place(report: dict) -> str:
    return f"{report['model']} on {report['device']}, {plural(report['steps'], 'step')}"


def known_things(groups: dict[str, Sequence[str]]) -> str:
    """What a model knows, as titled lists of words."""
    lists = "".join(
        f"<dt>{escape(title)}</dt><dd>{escape(', '.join(words))}</dd>"
        for title, words in groups.items()
    )
    return f'<dl class="sage-known" tabindex="0">{lists}</dl>'
