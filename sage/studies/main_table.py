"""What does sharing cost and save, and does training for it help?

Share ratios × methods: independent sampling; independent sampling with as many evaluations as
sharing uses; sharing without training, after standard fine-tuning, after training with L_SAGE, and
after training with L_SAGE without its soft target, and after training branches to reach their twins
(ours), where there is such an adapter; and without training, with the prompts in turn as the trunk
(ours). Beside it the paper's relative claims (SAGE against standard
fine-tuning under the same sharing, arXiv 2509.15865, abstract) and ours.
"""

from typing import Any

from sage.core.cost import evaluations
from sage.studies.engine.compare import Comparison, Design, Entry, Line, plain_rows
from sage.studies.engine.figures import QUALITY, by_key, line_figure
from sage.studies.engine.judges import METRIC
from sage.studies.engine.lab import Lab
from sage.studies.engine.methods import (
    FEWER,
    IN_TURN,
    INDEPENDENT,
    NO_SOFT,
    RATIO,
    SAGE,
    STANDARD,
    TURNS,
    TWINS,
    UNTRAINED,
    adapters,
)
from sage.studies.engine.results import Result, Row, better, difference, percent
from sage.studies.engine.study import Study
from sage.studies.engine.tables import compared

RATIOS = (0.2, 0.3, 0.4, 0.5)
SHOWN = (FEWER, UNTRAINED, STANDARD, SAGE, TWINS, IN_TURN)  # in the figure
# metric -> (what the paper calls it, its relative change against standard LoRA + share)
CLAIMS = {
    "fd": ("FID", -0.050),
    "clip": ("CLIP score", 0.054),
    "inside": ("diversity", 1.60),
}
PAPER_SAVING = 0.255
SECONDS = (
    "time of sharing as a share of independent sampling, of the processors on a CPU: float32, no "
    "adapter (a merged adapter costs nothing), 16 prompts or so in one batch, interleaved, median "
    "of 3"
)


def design(lab: Lab) -> Design:
    """All methods at all share ratios."""

    def at(ratio: float) -> dict[str, float]:
        return {"compared_at": ratio}

    entries = [Entry(INDEPENDENT, lab.recipe(), at(0.0))]
    entries += [Entry(FEWER, lab.recipe(steps=equal_steps(lab, r)), at(r)) for r in RATIOS]
    entries += [
        Entry(name, lab.recipe(ratio, adapter), at(ratio))
        for name, adapter in adapters(lab).items()
        for ratio in RATIOS
    ]
    entries += [Entry(IN_TURN, lab.recipe(ratio, **TURNS), at(ratio)) for ratio in RATIOS]
    return Design(entries, lab.prompts)


def equal_steps(lab: Lab, ratio: float) -> int:
    """Steps of independent sampling that take as many evaluations as sharing, to the nearest."""
    plan = lab.pipe.plan(lab.prompts.groups, lab.settings.steps, ratio)
    return max(1, round(evaluations(plan) / plan.num_prompts))


def rows(comparison: Comparison) -> list[Row]:
    """Savings against the usual number of steps, and measured seconds."""
    lab, lines = comparison.lab, plain_rows(comparison)
    seconds = {} if lab.settings.untimed else lab.seconds(RATIOS, lab.prompts)
    for line, judged in zip(lines, comparison.lines, strict=True):
        line["saving"] = round(1 - judged.measured.evaluations / lab.settings.steps, 4)
        timed = None if line["name"] == FEWER else seconds.get(line["compared_at"])
        line["seconds"] = None if timed is None else round(timed, 4)
        if line["name"] == INDEPENDENT:
            line["seconds"] = 1.0
    return lines


def conditions(comparison: Comparison) -> dict[str, Any]:
    """Adapters, the error of half precision, and the scale on which distances are to be read."""
    lab = comparison.lab
    return {
        "adapters": {name: lab.adapter_digest(path) for name, path in adapters(lab).items()},
        "half_precision_against_float32": lab.check_precision(lab.recipe(RATIO), lab.prompts),
        "two_independent_pictures_of_one_prompt_are_apart_by": lab.noise_distance(lab.prompts),
        "seconds": "not measured" if lab.settings.untimed else SECONDS,
    }


def more(comparison: Comparison) -> dict[str, Any]:
    """The paper's claims, and SAGE and ours against the others at every ratio, paired."""
    firsts = [name for name in (SAGE, TWINS, IN_TURN) if comparison.all(name)]
    differences = [
        {
            "first": first,
            "second": second,
            "share_ratio": ratio,
            "metrics": difference(
                comparison.one(first, compared_at=ratio).measured,
                comparison.one(second, compared_at=ratio).measured,
            ),
        }
        for ratio in RATIOS
        for first in firsts
        for second in (STANDARD, UNTRAINED, NO_SOFT, FEWER)
    ]
    return {"claims": compare_claims(comparison), "differences": differences}


def compare_claims(comparison: Comparison) -> list[dict[str, Any]]:
    """The paper's relative claims beside ours, computed its way: SAGE against standard LoRA."""
    ours = comparison.one(SAGE, compared_at=RATIO).measured
    base = comparison.one(STANDARD, compared_at=RATIO).measured
    claims = [
        {
            "claim": "cost against independent sampling",
            "paper": -PAPER_SAVING,
            "ours": {key: round(-ours.saving, 4) for key in ("value", "low", "high")},
            "verdict": "depends on group sizes alone: share ratio · (1 − groups / prompts)",
        }
    ]
    for key, (name, theirs) in CLAIMS.items():
        if key not in ours.metrics:
            continue
        change = ours.metrics[key].relative_to(base.metrics[key])
        title = METRIC[key].title
        claims.append(
            {
                "claim": f"{name} (ours: {title})",
                "measure": title,
                "paper": theirs,
                "ours": change.plain(),
                "verdict": verdict(change.low, change.high, theirs),
            }
        )
    return claims


def verdict(low: float, high: float, claimed: float) -> str:
    """Whether an interval of a relative change agrees with a claimed one."""
    if low <= 0 <= high:
        return "no difference beyond chance"
    if (low > 0) != (claimed > 0):
        return "the other way"
    if low <= claimed <= high:
        return "agrees"
    larger = min(abs(low), abs(high)) > abs(claimed)
    return "agrees in direction, larger" if larger else "agrees in direction, smaller"


def answer(result: Result) -> str:
    """What sharing saves, and what as many evaluations give without it."""
    sage = next(r for r in result["rows"] if r["name"] == SAGE and r["compared_at"] == RATIO)
    return (
        f"Sharing {RATIO:.0%} of the steps saves {sage['saving']:.0%} of the evaluations; "
        f"independent sampling with as few is {compared(result, SAGE)} sharing after training."
    )


def finding(comparison: Comparison) -> str:
    """The claims and the rival, in words; a number has our measure's name, never the paper's."""
    sage, fewer, turns, untrained = (
        comparison.one(name, compared_at=RATIO) for name in (SAGE, FEWER, IN_TURN, UNTRAINED)
    )
    changes = [
        f"{claim['measure']} {percent(claim['ours'])}, the paper's {claim['claim'].split(' (')[0]} "
        f"{100 * claim['paper']:+.1f} %: {claim['verdict']}".replace(" -", " \N{MINUS SIGN}")
        for claim in compare_claims(comparison)[1:]
    ]
    return (
        f"At share ratio {RATIO:g} sharing saves {sage.measured.saving:.1%} of the evaluations; "
        f"SAGE training against standard fine-tuning under the same sharing: {'; '.join(changes)}. "
        "Independent sampling with as many evaluations as SAGE + share has "
        f"{_side_by_side(fewer, sage)}. Without training, trunks whose prompts take turns have "
        f"{_side_by_side(turns, untrained)} for the mean embedding."
    )


def _side_by_side(first: Line, second: Line) -> str:
    """What judges of quality say of two lines; whether they differ beyond chance, where they do."""
    parts = []
    for key in QUALITY:
        if key not in first.measured.metrics:
            continue
        one, other = (f"{line.value(key):.{METRIC[key].digits}f}" for line in (first, second))
        apart = " (beyond chance)" if better(first.measured, second.measured, key) else ""
        parts.append(f"{METRIC[key].title} {one} against {other}{apart}")
    return ", ".join(parts) or "no judge here"


def series(result: Result) -> dict[str, list[Row]]:
    """The figure's lines, each of which begins at independent sampling."""
    methods = by_key(result["rows"])
    (base,) = methods[INDEPENDENT]
    steps = result["conditions"]["steps"]
    return {
        name: [row | {"saving": 1 - row["evaluations"] / steps} for row in (base, *methods[name])]
        for name in SHOWN
        if name in methods
    }


STUDY = Study(
    name="main-table",
    title="What sharing costs and saves",
    about=__doc__,
    design=design,
    rows=rows,
    more=more,
    conditions=conditions,
    answer=answer,
    finding=finding,
    figure=line_figure("saving", series=series, title="Quality against saving", percent=True),
)
