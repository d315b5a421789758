"""Which trunk is best at equal cost, and is any better than fewer steps alone?

Groups of eight. Each rule for what a trunk follows is run with few and with more steps, and stands
beside independent sampling of the same cost: between two numbers of steps, on the straight line
between them. That starts from one noise a group, as trunks do, so that luck with the noise does
not count; beside it, from noise of its own. Every line has that guidance of a few which suits it
best, on both sides, because what suits 12 steps does not suit 4. The cost is FLOPs, because a trunk
without guidance saves no evaluation, only its unconditional half.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sage.core.plan import branch_step_from_ratio, shared_plan
from sage.core.settings import TRIED_TRUNKS, TRUNKS
from sage.studies.engine.answers import tally
from sage.studies.engine.compare import Comparison, Design, Entry, Line
from sage.studies.engine.figures import QUALITY, Figure, caption, metric_panels, wanted
from sage.studies.engine.judges import METRIC
from sage.studies.engine.lab import Lab
from sage.studies.engine.methods import INDEPENDENT
from sage.studies.engine.results import Result, Row, row
from sage.studies.engine.rival import Rival, against, differences_in_words
from sage.studies.engine.sets import sets_of
from sage.studies.engine.study import Study
from sage.studies.products import added_error
from sage.training.data import picture_side

SIZE = 8  # prompts in a group
ALONE = (3, 4, 5, 6, 8)  # steps of independent sampling
# Steps, and how many of them are shared: 3.4, 4.1 and 5.4 evaluations a picture.
SHARED = ((6, 3), (5, 1), (8, 3))
GUIDANCE = (1.0, 0.75, 1.25)  # times the lab's own
RULES = ("mean", "alternate", "control_once", "held")
ONE_NOISE = "independent, one noise a group"
UNGUIDED = "The prompts in turn, without guidance"
TITLES = {**TRUNKS, **TRIED_TRUNKS}
JUDGES = ("fd", "cmmd", "clip", "probe")


def design(lab: Lab) -> Design:
    """Every rule at every plan and guidance, and independent sampling at every number of steps."""
    prompts, _ = sets_of(lab, SIZE)
    scales = guidance_scales(lab)

    def entry(
        name: str, steps: int, shared: int, scale: float, one_noise: bool = False, **how: Any
    ) -> Entry:
        plan = shared_plan(prompts.groups, steps, shared) if shared else None
        recipe = lab.recipe(0.0, plan=plan, steps=steps, guidance_scale=scale, **how)
        recipe = replace(recipe, common_noise=one_noise)
        label = f"{steps} steps" + (f", {shared} shared" if shared else "")
        return Entry(name, recipe, {"label": label, "shared": shared, "guidance": scale})

    entries = [entry(INDEPENDENT, steps, 0, scale) for scale in scales for steps in ALONE]
    entries += [entry(ONE_NOISE, n, 0, scale, True) for scale in scales for n in ALONE[:4]]
    for scale in scales:
        for steps, shared in SHARED:
            entries += [entry(TITLES[r], steps, shared, scale, trunk=r) for r in RULES]
            guided = (shared / steps, 1.0)
            assert branch_step_from_ratio(guided[0], steps) == shared
            how = {"trunk": "alternate", "guidance_interval": guided}
            entries.append(entry(UNGUIDED, steps, shared, scale, **how))
    return Design(entries, prompts)


def guidance_scales(lab: Lab) -> list[float]:
    """The scales that are tried, the lab's own first."""
    return [round(factor * lab.guidance, 3) for factor in GUIDANCE]


# -- the guidance of each line ---------------------------------------------------------------------


def tuned(lines: Sequence[Line]) -> list[Line]:
    """Of lines that differ in guidance only, the one that suits best; in the order of the first.

    Best is the largest sum over the judges of the value in half intervals of the first such line.
    """
    alike: dict[tuple[str, str], list[Line]] = {}
    for line in lines:
        alike.setdefault((line.name, line.label), []).append(line)
    return [max(some, key=lambda line: _score(line, some[0])) for some in alike.values()]


def _score(line: Line, unit: Line) -> float:
    known = [key for key in JUDGES if key in line.measured.metrics]
    score = 0.0
    for key in known:
        estimate = unit.measured.metrics[key]
        spread = (estimate.high - estimate.low) / 2 or 1.0
        score += (METRIC[key].better or 1) * line.value(key) / spread
    return score


def rows(comparison: Comparison) -> list[Row]:
    """The lines at their best guidance, each with its difference from independent sampling."""
    best = tuned(comparison.lines)
    rivals = {name: Rival([x for x in best if x.name == name]) for name in (INDEPENDENT, ONE_NOISE)}
    lines = []
    for line in best:
        lines.append(row(line.name, line.measured, **line.values))
        if line.name not in rivals:
            lines[-1]["against"] = against(line, rivals[ONE_NOISE])
            lines[-1]["against_own_noise"] = against(line, rivals[INDEPENDENT])
    return lines


def more(comparison: Comparison) -> dict[str, Any]:
    """Every guidance that was tried; products added up; and whether a smaller trunk is possible."""
    tried = [
        {"name": line.name, **line.values}
        | {key: round(line.value(key), 5) for key in JUDGES if key in line.measured.metrics}
        for line in comparison.lines
    ]
    lab = comparison.lab
    return {"tried": tried, "products": added_error(lab), "low_resolution": low_resolution(lab)}


def low_resolution(lab: Lab) -> dict[str, float]:
    """What the model paints of the first prompts at half its size: share that the probe finds."""
    prompts, _ = sets_of(lab, SIZE)
    few, whole = prompts.head(24), picture_side(lab.pipe)
    found = {}
    for side in (whole // 2, whole):
        output = lab.pipe(
            few.texts, num_inference_steps=8, share_ratio=0.0, output_type="pt",
            height=side, width=side,
        )  # fmt: skip
        assert isinstance(output.images, Tensor)  # output_type="pt"
        pixels = torch.nn.functional.interpolate(output.images.float(), (whole,) * 2)
        pictures = (pixels * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        right = lab.judges.right(pictures, few, range(len(few)))
        if right is not None:
            found[str(side)] = round(float(right.mean()), 4)
    return found


# -- in words --------------------------------------------------------------------------------------


def answer(result: Result) -> str:
    """In how many settings a trunk wins or loses."""
    gaps = [row["against"] for row in result["rows"] if "against" in row]
    return f"Beside fewer steps of the same cost, trunks are {tally(gaps, JUDGES)}."


def finding(comparison: Comparison) -> str:
    """Where each rule differs from independent sampling of the same cost, beyond chance."""
    shared = [line for line in comparison.rows if "against" in line]
    keys = [key for key in JUDGES if key in shared[0]["metrics"]]
    parts = []
    for name in dict.fromkeys(line["name"] for line in shared):
        lines = [line for line in shared if line["name"] == name]
        parts.append(f"{name.lower()}: {differences_in_words(lines, keys)}")
    steps = f"{ALONE[0]} to {ALONE[-1]}"
    found = ". ".join(part[:1].upper() + part[1:] for part in parts)
    return (
        f"Against independent sampling of the same cost and noise ({steps} steps, guidance retuned "
        f"on both sides), in groups of {SIZE}, beyond chance: {found}."
    )


def series(result: Result) -> Mapping[str, list[Row]]:
    """The figure's lines: those that start from one noise a group."""
    names = {ONE_NOISE: ONE_NOISE, **SHORT}
    return {
        short: [line for line in result["rows"] if line["name"] == name]
        for name, short in names.items()
    }


SHORT = {
    TITLES["mean"]: "mean embedding",
    TITLES["alternate"]: "in turn",
    TITLES["control_once"]: "in turn, corrected",
    TITLES["held"]: "held",
    UNGUIDED: "in turn, unguided",
}


def figure(result: Result) -> Figure:
    """Quality against cost."""
    panels = metric_panels(
        result,
        wanted(result, QUALITY),
        series(result),
        lambda line: line["gigaflops"],
        "GFLOPs a picture",
    )
    return Figure(result["title"], panels, caption(result))


def conditions(comparison: Comparison) -> dict[str, Any]:
    """How groups and guidance were chosen."""
    return {
        "group_size": SIZE,
        "guidance_tried": guidance_scales(comparison.lab),
        "guidance_chosen": "the largest sum of all judges' values in half intervals, on the same "
        "pictures, with as many choices on both sides",
    }


STUDY = Study(
    name="trunks",
    title="Trunks at equal cost",
    about=__doc__,
    design=design,
    rows=rows,
    more=more,
    answer=answer,
    finding=finding,
    figure=figure,
    conditions=conditions,
    columns={"label": "", "guidance": "guidance"},
    defaults={"pictures": 96, "seeds": 1, "steps": 12},
)
