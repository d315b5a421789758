"""What does sharing cost and save, and does training for it help?

Share ratios × methods: independent sampling; independent sampling with as many evaluations as
sharing uses; sharing without training, after standard fine-tuning, after training with L_SAGE, and
after training with L_SAGE without its soft target, and after training branches to reach their twins
(ours), where there is such an adapter; and without training, with the prompts in turn as the trunk
(ours). Beside it the paper's relative claims (SAGE against standard
fine-tuning under the same sharing, arXiv 2509.15865, abstract) and ours.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sage.core.cost import evaluations
from sage.sd.adapters import LORA_FILE
from sage.studies.engine import figures
from sage.studies.engine.judges import METRIC
from sage.studies.engine.lab import Lab
from sage.studies.engine.measure import Measured
from sage.studies.engine.results import better, difference, percent, result, row

NAME, TITLE = "main-table", "What sharing costs and saves"
RATIOS = (0.2, 0.3, 0.4, 0.5)
RATIO = 0.4  # the paper's claims are at this one, as far as is published
INDEPENDENT, FEWER = "independent", "independent, as many evaluations"
UNTRAINED, STANDARD = "share, untrained", "standard LoRA + share"
SAGE, NO_SOFT = "SAGE + share", "SAGE without soft target + share"
TWINS = "twins (ours) + share"
IN_TURN = "share, prompts in turn (ours)"
TURNS = (("trunk", "alternate"),)  # the rule that did best in `aggregators`
# metric -> (what the paper calls it, its relative change against standard LoRA + share)
CLAIMS = {
    "fd": ("FID", -0.050),
    "clip": ("CLIP score", 0.054),
    "inside": ("diversity", 1.60),
}
PAPER_SAVING = 0.255


def adapters(lab: Lab) -> dict[str, Path | None]:
    """The adapter of each method that shares."""
    chosen = lab.settings
    found = {
        UNTRAINED: None,
        STANDARD: chosen.standard_adapter,
        SAGE: chosen.sage_adapter,
        NO_SOFT: chosen.nosoft_adapter,
    }
    if (chosen.twins_adapter / LORA_FILE).is_file():
        found[TWINS] = chosen.twins_adapter
    return found


def run(lab: Lab) -> dict[str, Any]:
    """Renders and judges all rows."""
    prompts = lab.prompts
    shared = {
        (name, ratio): lab.setting(ratio, adapter)
        for name, adapter in adapters(lab).items()
        for ratio in RATIOS
    }
    shared |= {(IN_TURN, ratio): lab.setting(ratio, options=TURNS) for ratio in RATIOS}
    settings = {(INDEPENDENT, 0.0): lab.setting()}
    settings |= {(FEWER, ratio): lab.setting(steps=equal_steps(lab, ratio)) for ratio in RATIOS}
    settings |= shared
    lab.render([(setting, prompts) for setting in settings.values()])
    found = {key: lab.measure(setting) for key, setting in settings.items()}
    seconds = lab.seconds(RATIOS, prompts)
    rows = [
        row(
            name,
            measured,
            compared_at=ratio,
            saving=round(1 - measured.evaluations / lab.settings.steps, 4),
            seconds=round(seconds[ratio], 4) if (name, ratio) in shared else _own(name),
        )
        for (name, ratio), measured in found.items()
    ]
    claims = compare_claims(found)
    return result(
        sys.modules[__name__],
        lab,
        rows,
        finding(found, claims),
        prompts=prompts,
        conditions_=_conditions(lab),
        claims=claims,
        differences=_differences(found),
    )


def equal_steps(lab: Lab, ratio: float) -> int:
    """Steps of independent sampling that take as many evaluations as sharing, to the nearest."""
    plan = lab.pipe.plan(lab.prompts.groups, lab.settings.steps, ratio)
    return max(1, round(evaluations(plan) / plan.num_prompts))


def _own(name: str) -> float | None:
    return 1.0 if name == INDEPENDENT else None


def _conditions(lab: Lab) -> dict[str, Any]:
    return {
        "adapters": {name: lab.adapter_digest(path) for name, path in adapters(lab).items()},
        "half_precision_against_float32": lab.check_precision(lab.setting(RATIO), lab.prompts),
        "two_independent_pictures_of_one_prompt_are_apart_by": lab.noise_distance(lab.prompts),
        "seconds": "time of sharing as a share of independent sampling: float32, no adapter (a "
        "merged adapter costs nothing), 16 prompts or so in one batch, interleaved, median of 3",
    }


def _differences(found: Mapping[tuple[str, float], Measured]) -> list[dict[str, Any]]:
    """SAGE, and ours, against the others at every ratio, paired."""
    chosen = [name for name in (SAGE, TWINS, IN_TURN) if (name, RATIO) in found]
    others = [STANDARD, UNTRAINED, NO_SOFT, FEWER]
    pairs = [(name, other, r) for r in RATIOS for name in chosen for other in others]
    return [
        {
            "first": first,
            "second": second,
            "share_ratio": ratio,
            "metrics": difference(found[first, ratio], found[second, ratio]),
        }
        for first, second, ratio in pairs
    ]


def compare_claims(found: Mapping[tuple[str, float], Measured]) -> list[dict[str, Any]]:
    """The paper's relative claims beside ours, computed its way: SAGE against standard LoRA."""
    ours, base = found[SAGE, RATIO], found[STANDARD, RATIO]
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
        said = f"{name} (ours: {title})"
        entry = {"claim": said, "measure": title, "paper": theirs, "ours": change.plain()}
        claims.append(entry | {"verdict": verdict(change.low, change.high, theirs)})
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


def finding(found: Mapping[tuple[str, float], Measured], claims: list[dict[str, Any]]) -> str:
    """The claims and the rival, in words; a number has our measure's name, never the paper's."""
    ours, fewer = found[SAGE, RATIO], found[FEWER, RATIO]
    changes = [
        f"{claim['measure']} {percent(claim['ours'])}, the paper's {claim['claim'].split(' (')[0]} "
        f"{100 * claim['paper']:+.1f} %: {claim['verdict']}".replace(" -", " \N{MINUS SIGN}")
        for claim in claims[1:]
    ]
    turns, untrained = found[IN_TURN, RATIO], found[UNTRAINED, RATIO]
    return (
        f"At share ratio {RATIO:g} sharing saves {ours.saving:.1%} of the evaluations; SAGE "
        f"training against standard fine-tuning under the same sharing: {'; '.join(changes)}. "
        "Independent sampling with as many evaluations as SAGE + share has "
        f"{_side_by_side(fewer, ours)}. Without training, trunks whose prompts take turns have "
        f"{_side_by_side(turns, untrained)} for the mean embedding."
    )


def _side_by_side(first: Measured, second: Measured) -> str:
    """What judges of quality say of two rows; whether they differ beyond chance, where they do."""
    said = []
    for key in ("fd", "clip", "probe"):
        if key not in first.metrics:
            continue
        one, other = (f"{m.metrics[key].value:.{METRIC[key].digits}f}" for m in (first, second))
        apart = " (beyond chance)" if better(first, second, key) else ""
        said.append(f"{METRIC[key].title} {one} against {other}{apart}")
    return ", ".join(said) or "no judge here"


def figure(found: Mapping[str, Any]) -> dict[str, Any]:
    """Quality against saving, for each method."""
    wanted = [key for key in ("fd", "clip", "inside") if key in found["metrics"]]
    styles = {
        FEWER: (figures.GREY, "x"),
        UNTRAINED: (figures.COLOURS[4], "triangle-up"),
        STANDARD: (figures.COLOURS[1], "square"),
        NO_SOFT: (figures.COLOURS[5], "diamond"),
        SAGE: (figures.COLOURS[0], "circle"),
        TWINS: (figures.COLOURS[2], "star"),
        IN_TURN: (figures.COLOURS[3], "cross"),
    }
    base = next(line for line in found["rows"] if line["name"] == INDEPENDENT)
    traces = []
    for panel, key in enumerate(wanted, 1):
        for name, (colour, symbol) in styles.items():
            own = [line for line in found["rows"] if line["name"] == name]
            if not own:
                continue
            lines = [base, *own]
            traces.append(
                figures.interval_trace(
                    name,
                    [_spent(line, found) for line in lines],
                    [line["metrics"][key] for line in lines],
                    colour=colour,
                    symbol=symbol,
                    texts=[f"{line['name']}, ratio {line['compared_at']:g}" for line in lines],
                    axes=panel,
                    legend=panel == 1,
                )
            )
    titles = [("evaluations saved", figures.axis_title(found["metrics"][key])) for key in wanted]
    return figures.panels(
        traces, titles, title="Quality against saving", x_format=".0%", note=figures.caption(found)
    )


def _spent(line: Mapping[str, Any], found: Mapping[str, Any]) -> float:
    return 1 - line["evaluations"] / found["conditions"]["steps"]
