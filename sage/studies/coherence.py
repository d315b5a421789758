"""How much more do the pictures of a group look like one set when they share steps?

Agreement of layout, and of the places and sizes of things, inside groups of eight: for sharing, for
independent sampling from noise of its own, and for independent sampling from one noise a group,
which is the cheapest way to a common composition. Every line that shares stands beside both at the
same cost.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from sage.core.metrics import diversity_inside, layout, pairwise_distance
from sage.core.plan import shared_plan
from sage.core.resampling import Estimate, Resampling
from sage.studies.engine.compare import Comparison, Design, Entry, Line
from sage.studies.engine.figures import Figure, caption, metric_panels, wanted
from sage.studies.engine.judges import METRIC
from sage.studies.engine.lab import Lab
from sage.studies.engine.methods import INDEPENDENT
from sage.studies.engine.prompts import PromptSet
from sage.studies.engine.results import Result, Row, row
from sage.studies.engine.rival import Rival, against
from sage.studies.engine.sets import sets_of
from sage.studies.engine.study import Study
from sage.studies.trunks import ONE_NOISE, SIZE
from sage.world.probe import Probe, read, to_pixels

ALONE = (3, 4, 5, 6)  # steps of independent sampling
SHARED = ((6, 3), (5, 1), (8, 3))  # steps, and how many are shared
RULES = {"alternate": "shared, in turn", "control_once": "shared, in turn, corrected"}
LOOKS = ("layout", "centres", "sizes")


def design(lab: Lab) -> Design:
    """Sharing, and independent sampling from noises of its own and from one noise."""
    prompts, _ = sets_of(lab, SIZE)
    entries = []
    for name, one in ((INDEPENDENT, False), (ONE_NOISE, True)):
        for steps in ALONE:
            recipe = replace(lab.recipe(steps=steps), common_noise=one)
            entries.append(Entry(name, recipe, {"label": f"{steps} steps"}))
    for trunk, name in RULES.items():
        for steps, shared in SHARED:
            plan = shared_plan(prompts.groups, steps, shared)
            recipe = lab.recipe(0.0, plan=plan, steps=steps, trunk=trunk)
            entries.append(Entry(name, recipe, {"label": f"{steps} steps, {shared} shared"}))
    return Design(entries, prompts)


# -- what makes pictures a set ---------------------------------------------------------------------


def agreement(pictures: np.ndarray, prompts: PromptSet, probe: Probe | None) -> dict[str, Estimate]:
    """How far the pictures of each group agree.

    Args:
        pictures: [S, N, H, W, 3] uint8, all seeds.
        prompts: Their groups.
        probe: Sees things; without it only the layout is compared.
    """
    found: dict[str, list[np.ndarray]] = {}
    for some in pictures:
        apart = pairwise_distance(layout(torch.from_numpy(some.copy()) / 255))
        found.setdefault("layout", []).append(1 - _inside(apart, prompts))
        if probe is not None:
            places = centres(probe, some)
            found.setdefault("centres", []).append(_inside(torch.cdist(places, places), prompts))
            sizes = read(probe, some).left_size
            if sizes is not None:
                other = torch.from_numpy(sizes[:, None] != sizes).double()
                found.setdefault("sizes", []).append(1 - _inside(other, prompts))
    resampling = Resampling(len(prompts.groups))
    several = np.array([len(group) > 1 for group in prompts.groups])
    units = np.tile(np.flatnonzero(several), len(pictures))
    return {key: resampling.mean(np.concatenate(v), units) for key, v in found.items()}


def _inside(distances: torch.Tensor, prompts: PromptSet) -> np.ndarray:
    return diversity_inside(distances.double(), prompts.groups).numpy()


def centres(probe: Probe, pictures: np.ndarray) -> torch.Tensor:
    """Where the most likely thing of each picture is: [N, 2] x and y in picture sides.

    The centre of mass of the squared gradient of the thing's logit by the pixels, which is large
    where the probe's decision depends on them (Simonyan et al. 2013, arXiv 1312.6034).

    Args:
        probe: Any.
        pictures: [N, H, W, 3] uint8.
    """
    pixels = to_pixels(pictures).requires_grad_(True)
    with torch.enable_grad():
        logits = probe(pixels)["things"]
        (slope,) = torch.autograd.grad(logits.max(1).values.sum(), pixels)
    weight = F.avg_pool2d(slope.square().sum(1, keepdim=True), 5, 1, 2)[:, 0]  # (N, H, W)
    weight = weight / weight.sum((1, 2), keepdim=True).clamp_min(1e-30)
    height, width = weight.shape[1:]
    x = (weight.sum(1) * (torch.arange(width) + 0.5)).sum(1) / width
    y = (weight.sum(2) * (torch.arange(height) + 0.5)).sum(1) / height
    return torch.stack([x, y], 1).detach()


# -- rows and words --------------------------------------------------------------------------------


def looked_at(comparison: Comparison) -> list[Line]:
    """The lines with the agreement inside groups among their metrics."""
    lab, lines = comparison.lab, []
    for line, entry in zip(comparison.lines, comparison.design.entries, strict=True):
        prompts = comparison.design.prompts_of(entry)
        found = agreement(lab.pictures(entry.recipe, prompts), prompts, lab.judges.probe)
        measured = replace(line.measured, metrics=line.measured.metrics | found)
        lines.append(replace(line, measured=measured))
    return lines


def rows(comparison: Comparison) -> list[Row]:
    """Every line; those that share with their differences from both rivals."""
    lines, written = looked_at(comparison), []
    for line in lines:
        written.append(row(line.name, line.measured, **line.values))
        if line.name in RULES.values():
            for key, rival in (("against", INDEPENDENT), ("against_one_noise", ONE_NOISE)):
                some = Rival([one for one in lines if one.name == rival])
                written[-1][key] = against(line, some)
    return written


def answer(result: Result) -> str:
    """How well the layouts of a group agree, with and without sharing."""
    line = best(result["rows"])
    key = next(key for key in LOOKS if key in line["metrics"])
    shared, gap = line["metrics"][key]["value"], line["against"][key]["value"]
    return (
        f"{METRIC[key].title.capitalize()} inside a group is {shared:.3g} when steps are shared, "
        f"{shared - gap:.3g} for independent sampling of the same cost."
    )


def finding(comparison: Comparison) -> str:
    """Agreement of the best line that shares, beside both rivals of its cost."""
    line = best(comparison.rows)
    parts = [_beside(line, key) for key in LOOKS if key in line["metrics"]]
    return (
        f"At {line['evaluations']:.3g} evaluations a picture ({line['name']}, {line['label']}): "
        f"{'; '.join(parts)}."
    )


def best(lines: Sequence[Row]) -> Row:
    """The line that shares whose layouts agree most, of those that cost no other quality.

    That is: worse in CLIP score or by the probe than neither rival, beyond chance; if none is, the
    one whose layouts agree most.
    """
    shared = [line for line in lines if "against" in line]
    good = [line for line in shared if not _price(line)]
    return max(good or shared, key=lambda line: line["metrics"]["layout"]["value"])


def _price(line: Row) -> bool:
    return any(
        line[rival][key]["sign"] < 0
        for rival in ("against", "against_one_noise")
        for key in ("clip", "probe")
        if key in line["metrics"]
    )


def _beside(line: Row, key: str) -> str:
    value, words = line["metrics"][key]["value"], []
    for rival, name in (
        ("against", "independent sampling"),
        ("against_one_noise", "independent sampling from one noise"),
    ):
        gap = line[rival][key]
        sure = {1: "better beyond chance", -1: "worse beyond chance", 0: "no difference"}
        words.append(f"{value - gap['value']:.3g} for {name} ({sure[gap['sign']]})")
    return f"{METRIC[key].title} {value:.3g}, {', '.join(words)}"


def more(comparison: Comparison) -> dict[str, Any]:
    """The use case "picture set" for the page: words, prompts, settings, numbers."""
    return {"picture_set": picture_set(comparison.rows, comparison.lab.title)}


def picture_set(lines: Sequence[Row], model: str) -> Mapping[str, Any]:
    """What the page says of a set of pictures with one composition, from the study's rows.

    Args:
        lines: The rows.
        model: Its title.

    Returns:
        "title", "words" (one sentence with its numbers), "prompts" (a set as people write them),
        "settings" (by the names of `sage.core.settings.Sampling`) and "numbers": for each measure
        of agreement its value when sharing, and alone from own noises and from one noise.
    """
    line = best(lines)
    numbers = {
        key: {
            "title": METRIC[key].title,
            "shared": line["metrics"][key],
            "own_noise": round(line["metrics"][key]["value"] - line["against"][key]["value"], 5),
            "one_noise": round(
                line["metrics"][key]["value"] - line["against_one_noise"][key]["value"], 5
            ),
            "sign": line["against"][key]["sign"],
            "sign_one_noise": line["against_one_noise"][key]["sign"],
        }
        for key in LOOKS
        if key in line["metrics"]
    }
    seen = numbers["layout"]
    steps, shared = line["steps"], int(line["label"].split(", ")[1].split()[0])
    trunk = next(rule for rule, name in RULES.items() if name == line["name"])
    return {
        "title": "Picture set",
        "words": (
            f"One composition for all: with {shared} of {steps} steps in common, layouts agree by "
            f"{seen['shared']['value']:.2f}; independent pictures of the same cost by "
            f"{seen['own_noise']:.2f}, and by {seen['one_noise']:.2f} from one seed (correlation; "
            f"{model}). "
            + ("It costs quality." if _price(line) else "CLIP score and probe are no worse.")
        ),
        "prompts": "a {fox|rabbit|owl|cat} {in the snow|on the beach}",
        "settings": {"steps": steps, "share_ratio": round(shared / steps, 4), "trunk": trunk},
        "evaluations": line["evaluations"],
        "numbers": numbers,
    }


def figure(result: Result) -> Figure:
    """Agreement against cost."""
    series: dict[str, list[Row]] = {}
    for line in result["rows"]:
        series.setdefault(line["name"], []).append(line)
    panels = metric_panels(
        result,
        wanted(result, (*LOOKS, "clip")),
        series,
        lambda line: line["evaluations"],
        "evaluations a picture",
    )
    return Figure(result["title"], panels, caption(result))


STUDY = Study(
    name="coherence",
    title="One composition for a group",
    about=__doc__,
    design=design,
    rows=rows,
    more=more,
    answer=answer,
    finding=finding,
    figure=figure,
    conditions=lambda comparison: {"group_size": SIZE, "guidance": comparison.lab.guidance},
    defaults={"pictures": 96, "seeds": 1, "steps": 12},
)
