"""Pieces of the page as HTML: notes, chips, tables and numbers.

Pure functions from data to strings. Everything a visitor typed passes `html.escape` here and
nowhere else; knows nothing of gradio or of how pictures are made.
"""

from collections.abc import Mapping, Sequence
from html import escape
from statistics import median
from typing import Any

from sage.core.cost import Cost
from sage.core.grouping import Grouping
from sage.core.guard import Verdict
from sage.core.plan import Group, Plan
from sage.core.words import plural
from sage.jobs.job import Job
from sage.ui.html.palette import Mark
from sage.ui.html.palette import group_marks as marks_of
from sage.ui.html.words import (
    flops_text,
    percent_text,
    saved_text,
    seconds_text,
    span_text,
    split_words,
)

KIND_WORDS = {
    "same_group": "together",
    "too_far": "too far apart",
    "near_duplicate": "near-duplicate",
    "too_large": "group full",
    "better_elsewhere": "better match elsewhere",
}


def heading(number: str, words: str, aside: str = "") -> str:
    """The heading of a card; `aside` is a quieter remark beside it."""
    badge = f'<span class="sage-number">{escape(number)}</span> ' if number else ""
    quiet = f' <span class="sage-aside">{escape(aside)}</span>' if aside else ""
    return f"<h2>{badge}{escape(words)}{quiet}</h2>"


def note(sentence: str, tone: str = "quiet", of: str = "") -> str:
    """A line that keeps its place.

    Args:
        sentence: What it says.
        tone: "quiet", "warn" or "error".
        of: Id of a control that refused a value: the script says the sentence beside it too.
    """
    role = ' role="alert"' if tone == "error" else ""
    about = f' data-of="{escape(of)}"' if of else ""
    return f'<p class="sage-note sage-{tone}"{role}{about}>{escape(sentence) or "&nbsp;"}</p>'


def prompts_note(prompts: Sequence[str], unseen: Sequence[str], made: str = "") -> str:
    """How many prompts there are, how braces made them, and which words the model never met."""
    number = made or f"{len(prompts)} prompts"
    if not unseen:
        return note(number)
    marked = ", ".join(f"<mark>{escape(word)}</mark>" for word in unseen[:8])
    more = " …" if len(unseen) > 8 else ""
    return (
        f'<p class="sage-note sage-warn">{escape(number)}. '
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


def group_chips(job: Job, unseen: Sequence[str], guarded: bool) -> str:
    """One chip a group: its letter, its prompts, and whether sharing is predicted to be safe.

    Args:
        job: Who shares with whom.
        unseen: Words that the model has never met.
        guarded: Whether a rendering would heed the prediction.
    """
    groups, prompts = job.groups, job.request.prompts
    parts = zip(groups, marks_of(groups), job.verdicts, strict=True)
    chips = "".join(
        _chip(group, mark, prompts, unseen, _judgement(job, group, verdict, guarded, unseen))
        for group, mark, verdict in parts
    )
    advice = "" if job.shares else note(_advice(job), "warn")
    return f'{advice}<ul class="sage-chips">{chips}</ul>'


def planner_words(job: Job) -> str:
    """What the planner chose, or would choose for as many evaluations; "" if nothing is known."""
    advice = job.advice
    if advice is None:
        return ""
    spent = plural(advice.budget, "evaluation")
    return note(f"Planner, for {spent} per picture: {advice.reason}", "planner")


def _chip(
    group: Group, mark: Mark, prompts: Sequence[str], unseen: Sequence[str], guard: str
) -> str:
    lines = "".join(
        f'<button type="button" class="sage-name" data-p="{n}" aria-pressed="false">'
        f"<b>P{n + 1}</b> {marked_prompt(prompts[n], unseen)}</button>"
        for n in group
    )
    alone = '<em class="sage-alone">independent</em>' if mark.alone else ""
    return (
        f'<li class="sage-chip" style="--group:{mark.color}">{badge(mark)}'
        f'<div class="sage-members">{lines}{guard}</div>{alone}</li>'
    )


def _judgement(
    job: Job, group: Group, verdict: Verdict | None, guarded: bool, unseen: Sequence[str]
) -> str:
    """The guard's words; of a group with words the model never met, nothing can be predicted."""
    texts = [job.request.prompts[n] for n in group]
    strange = [word for text in texts for word in split_words(text)[1::2] if word in unseen]
    if len(group) == 1 or not strange:
        return guard_words(job, group, verdict, guarded)
    return (
        '<span class="sage-guard sage-warn">Cannot be judged: this model has never seen '
        f"“{escape(strange[0])}”.</span>"
    )


def guard_words(job: Job, group: Group, verdict: Verdict | None, guarded: bool) -> str:
    """Whether sharing is predicted to be safe for a group, and what follows; "" if unknown."""
    if verdict is None or verdict.kind == "unknown":
        return ""
    if verdict.safe:
        return f'<span class="sage-guard" title="{escape(verdict.reason)}">safe to share</span>'
    asked, shared = job.branch_call, job.plan.branch_step_of(group[0])
    if shared >= asked and guarded:  # pictures that are there already, whatever the guard says
        effect = (
            f"Shown as requested; Render would {'shorten it' if verdict.shorter else 'not share'}."
        )
    elif shared >= asked:
        effect = "Shared anyway."
    else:
        effect = f"Shares {plural(shared, 'step')} instead." if shared else "Not shared."
    return f'<span class="sage-guard sage-warn">{escape(verdict.reason)} {effect}</span>'


def _advice(job: Job) -> str:
    """What to do when nothing is shared, from the reason."""
    if any(len(group) > 1 for group in job.groups):
        if job.branch_call == 0:
            return "No step is shared: move the branch point to let the groups share."
        return "No group shares a step: sharing is predicted to harm the pictures."
    return _no_group_advice(job.grouping)


def _no_group_advice(grouping: Grouping) -> str:
    kinds = {pair.kind for pair in grouping.pairs}
    if "near_duplicate" in kinds:
        every = "All pairs are" if kinds == {"near_duplicate"} else "Some pairs are"
        return f"{every} near-duplicates: raise the upper bound to let them share."
    if grouping.max_group_size == 1:
        return "Groups of one share nothing: allow larger groups under Settings."
    return (
        "No pair is similar enough: lower the bound or change the prompts. "
        "All prompts will be rendered independently."
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


def estimate(job: Job) -> str:
    """What sharing is expected to save, before anything is rendered."""
    cost = job.cost
    if not job.settled:
        return _undecided(job)
    return (
        f'<p class="sage-branch">{_shared_words(job) if job.shares else "Nothing is shared"}'
        '</p><div class="sage-figures">'
        f"{_figure(percent_text(cost.saving), 'evaluations saved')}"
        f"{_figure(f'{cost.evaluations} of {cost.independent_evaluations}', 'evaluations')}"
        f"{_figure(flops_text(cost.flops.total), f'of {flops_text(cost.independent_flops.total)}')}"
        "</div>"
    )


def _undecided(job: Job) -> str:
    """An adaptive run has no plan yet: only its bounds are known."""
    most = f"{percent_text(job.cost.saving)} at most"
    return (
        '<p class="sage-branch">Decided while sampling '
        f"<small>up to {job.branch_call} of {plural(job.calls, 'step')} shared</small></p>"
        '<div class="sage-figures">'
        f"{_figure(most, 'evaluations saved')}"
        f"{_figure('–', 'evaluations')}{_figure('–', 'FLOPs counted')}</div>"
    )


def _shared_words(job: Job) -> str:
    """Until when prompts share, in words."""
    plan, stops = job.plan, job.plan.branch_steps
    words = f"{span_text(stops)} of {plural(plan.steps, 'step')} shared"
    if len(stops) != 1:
        return words
    return f"{words} <small>share ratio β = {stops[0] / plan.steps:.2f}</small>"


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


def address(query: str) -> str:
    """The address of the form, for the script to put into the browser's own."""
    return f'<i hidden data-query="{escape(query)}"></i>'


def banner(sentence: str, unseen: bool = False) -> str:
    """A remark above the results, such as "for earlier settings"; nothing if empty.

    Args:
        sentence: The remark.
        unseen: Whether it holds only as long as there are no pictures.
    """
    if not sentence:
        return ""
    kind = "sage-banner sage-unseen" if unseen else "sage-banner"
    return f'<p class="{kind}" role="status">{escape(sentence)}</p>'


def saving_words(report: Mapping[str, Any], plan: Plan, cost: Cost) -> str:
    """The saving of a finished comparison as sentences.

    Args:
        report: Of the comparison, whose seconds were measured.
        plan: What its shared side ran.
        cost: Of the pictures that are shown, at whatever branch point.
    """
    return (
        f"<p>{_seconds_words(report, plan)}</p>"
        f"<p>It uses <b>{cost.evaluations} of {cost.independent_evaluations}</b> denoiser "
        f"evaluations ({saved_text(cost.saving, 'fewer')}) and "
        f"<b>{flops_text(cost.flops.total)}</b> of "
        f"{flops_text(cost.independent_flops.total)} ({saved_text(cost.flops_saving)}), "
        "counted.</p>"
    )


def _seconds_words(report: Mapping[str, Any], plan: Plan) -> str:
    seconds, saved = report["seconds"], report["saving"]["seconds"]
    stops = plan.branch_steps if report["sharing"] == "groups" else ()
    shared = f" with {span_text(stops)} shared" if stops else ""
    place = escape(f"{_place(report)}{shared}")
    if saved is None:
        reused = sum(report["reused"].values())
        return f"{plural(reused, 'evaluation')} reused, so no time is compared; {place}."
    one, other = (seconds[side]["total"] for side in ("shared", "independent"))
    repeats = report.get("repeats", {"shared": [one], "independent": [other]})
    number = len(repeats["shared"])
    one, other = (median(repeats[side]) for side in ("shared", "independent"))
    took = f"Sharing took <b>{seconds_text(one)}</b> instead of {seconds_text(other)}"
    if number == 1:
        return f"{took} in a single run, so expect some noise; measured with {place}."
    return f"{took}, medians of {plural(number, 'run')}, measured with {place}."


def no_saving() -> str:
    """The place of the saving before there is one."""
    return "<p>&nbsp;</p><p>&nbsp;</p>"


def _place(report: Mapping[str, Any]) -> str:
    return f"{report['model']} on {report['device']}, {plural(report['steps'], 'step')}"


def known_things(groups: dict[str, Sequence[str]]) -> str:
    """What a model knows, as titled lists of words; a tap puts one into the prompts."""
    signs = "".join(_word(sign, sign) for sign in "{|}") + _word("\n", "new line")
    lists = "".join(
        f"<dt>{escape(title)}</dt><dd>{''.join(_word(word, word) for word in words)}</dd>"
        for title, words in groups.items()
    )
    signed = f"<dt>for several prompts at once</dt><dd>{signs}</dd>" if groups else ""
    return f'<dl class="sage-known">{signed}{lists}</dl>'


def _word(word: str, shown: str) -> str:
    return f'<button type="button" data-word="{escape(word)}">{escape(shown)}</button>'
