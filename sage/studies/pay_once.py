"""What is a trunk worth that is paid once and used again, in evaluations, and how good is it?

Three uses of a stored trunk of eight prompts: looking at all of them at the branch point and
finishing the best two; scrubbing through all branch points; adding a prompt that the trunk was not
made for. Each beside the same without a trunk. How good: whether a look orders the pictures of a
group by CLIP score as the finished ones do, and how prompts that a trunk never followed fare beside
those that it did.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from sage.core.cost import evaluations
from sage.core.metrics import clip_score
from sage.core.plan import independent_plan, shared_plan
from sage.core.resampling import Estimate, Resampling
from sage.sd.pipeline import SageStep
from sage.studies.engine.cells import Recipe
from sage.studies.engine.compare import Comparison, Design, Entry
from sage.studies.engine.figures import Bars, Figure, caption
from sage.studies.engine.lab import Lab
from sage.studies.engine.prompts import PromptSet
from sage.studies.engine.results import Result, Row
from sage.studies.engine.sets import sets_of
from sage.studies.engine.study import Study
from sage.studies.trunks import SIZE

STEPS, SHARED, KEPT = 8, 3, 2
ALIKE = "in turn"  # follows its first three members only
CORRECTED = "in turn, corrected"
RULES = {ALIKE: "alternate", CORRECTED: "control_once"}


def design(lab: Lab) -> Design:
    """The finished pictures of both rules."""
    prompts, _ = sets_of(lab, SIZE)
    plan = shared_plan(prompts.groups, STEPS, SHARED)
    how: dict[str, Any] = {"steps": STEPS, "plan": plan}
    return Design(
        [Entry(n, lab.recipe(0.0, trunk=t, **how), {"label": n}) for n, t in RULES.items()], prompts
    )


def costs() -> list[Row]:
    """Evaluations of every use for one group, with a trunk and without."""
    group, trunk = tuple(range(SIZE)), RULES[CORRECTED]
    plan = shared_plan([group], STEPS, SHARED)
    look = evaluations(plan, trunk, range(SHARED + 1))
    rest = KEPT * (STEPS - SHARED - 1)
    points = range(STEPS)
    plans = [shared_plan([group], STEPS, point) for point in points]
    apart = [evaluations(p) for p in plans]
    once = STEPS - 1 + sum(SIZE * (STEPS - point) for point in points)
    alone = evaluations(independent_plan(SIZE, SHARED + 1))
    uses = (
        (f"look at all {SIZE}, finish {KEPT}", look + rest, alone + rest),
        (f"scrub through {len(points)} branch points", once, sum(apart)),
        ("add a prompt to a stored trunk", STEPS - SHARED, STEPS),
    )
    return [
        {"name": name, "with": paid, "without": full, "saved": round(1 - paid / full, 4)}
        for name, paid, full in uses
    ]


def rows(comparison: Comparison) -> list[Row]:
    """The costs; what they are worth is said beside them."""
    return costs()


# -- how good --------------------------------------------------------------------------------------


@torch.inference_mode()
def looks(lab: Lab, recipe: Recipe, prompts: PromptSet) -> np.ndarray:
    """What each prompt's x0 is after its first own step, as pictures [N, H, W, 3] uint8."""
    stream = lab.renderer.pipeline(recipe).stream(
        prompts.texts, plan=recipe.plan, guidance_scale=recipe.sampling.guidance_scale,
        seeds=range(len(prompts)), trunk=recipe.sampling.trunk, output_type="pt",
    )  # fmt: skip
    for event in stream:
        if isinstance(event, SageStep) and event.step == SHARED + 1:
            vae = lab.renderer.pipeline(recipe).vae
            pixels = vae.decode(event.state.denoised / vae.config.scaling_factor).sample
            whole = ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
            return whole.permute(0, 2, 3, 1).cpu().numpy()
    raise RuntimeError("The run ended before it branched.")


def quality(comparison: Comparison) -> dict[str, Any]:
    """Of looks and of prompts that a trunk never followed."""
    lab, prompts = comparison.lab, comparison.design.prompts
    assert prompts is not None
    if "clip" not in lab.judges.features:
        return {}
    texts = lab.pipe.embed(prompts.texts)
    scores: dict[str, Tensor] = {}
    for entry in comparison.design.entries:
        x = torch.from_numpy(lab.features("clip", entry.recipe, prompts)[0])
        scores[entry.name] = clip_score(x, texts)
    recipe = comparison.design.entries[1].recipe
    seen = lab.judges.look("clip", looks(lab, recipe, prompts))
    early = clip_score(torch.from_numpy(seen), texts)
    units = np.arange(len(prompts.groups))
    resampling = Resampling(len(units))

    def mean(values: list[float]) -> Estimate:
        return resampling.mean(np.array(values), units)

    late = scores[CORRECTED]
    groups = [list(group) for group in prompts.groups]
    chosen = [float(late[g][early[g].topk(KEPT).indices].mean()) for g in groups]
    everyone = [float(late[g].mean()) for g in groups]
    best = [float(late[g].topk(KEPT).values.mean()) for g in groups]
    unheard = [float(scores[ALIKE][g[SHARED:]].mean()) for g in groups]
    heard = [float(scores[CORRECTED][g[SHARED:]].mean()) for g in groups]
    return {
        "same_order": mean([_agreement(early[g], late[g]) for g in groups]).plain(),
        "chosen_by_look": mean(chosen).minus(mean(everyone)).plain(),
        "chosen_when_finished": mean(best).minus(mean(everyone)).plain(),
        "added_less_followed": mean(unheard).minus(mean(heard)).plain(),
    }


def _agreement(first: Tensor, second: Tensor) -> float:
    """Share of pairs that two scores [M] put in the same order."""
    pairs = torch.triu_indices(len(first), len(first), 1)
    signs = [(x[pairs[0]] - x[pairs[1]]).sign() for x in (first, second)]
    return float((signs[0] == signs[1]).double().mean())


def more(comparison: Comparison) -> dict[str, Any]:
    """How good the uses are."""
    return {"quality": quality(comparison)}


def answer(result: Result) -> str:
    """What every use saves."""
    parts = [f"{row['saved']:.0%} to {row['name']}" for row in result["rows"]]
    return f"It saves {'; '.join(parts)}, in evaluations."


def finding(comparison: Comparison) -> str:
    """What every use saves, and what it is worth."""
    saved = "; ".join(
        f"{line['name']} takes {line['with']} evaluations instead of {line['without']} "
        f"({line['saved']:.0%} saved)"
        for line in comparison.rows
    )
    text = f"In a group of {SIZE} with {SHARED} of {STEPS} steps shared: {saved}."
    if not (q := quality(comparison)):
        return text
    added = q["added_less_followed"]
    sure = "beyond chance" if added["low"] > 0 or added["high"] < 0 else "not beyond chance"
    words = (
        f"{text} A look orders {q['same_order']['value']:.0%} of the pairs as the finished "
        f"pictures do by CLIP score (chance: 50%); the {KEPT} that it chooses score "
        f"{q['chosen_by_look']['value']:+.4f} above their group, the {KEPT} best "
        f"{q['chosen_when_finished']['value']:+.4f}. Prompts added to a trunk that never followed "
        f"them score {added['value']:+.4f} beside a trunk that did ({sure})."
    )
    return words.replace(" -", " \N{MINUS SIGN}")


def figure(result: Result) -> Figure:
    """Evaluations with and without a trunk."""

    def number(value: float) -> dict[str, float]:
        return {"value": value, "low": value, "high": value}

    lines = [(r["name"], [number(r["with"]), number(r["without"])]) for r in result["rows"]]
    bars = Bars("evaluations", lines, (("with a stored trunk", 1), ("without", 0)), zero=True)
    return Figure(result["title"], [bars], caption(result))


STUDY = Study(
    name="pay-once",
    title="A trunk that is paid once",
    about=__doc__,
    design=design,
    rows=rows,
    more=more,
    answer=answer,
    finding=finding,
    figure=figure,
    conditions=lambda comparison: {"group_size": SIZE, "guidance": comparison.lab.guidance},
    columns={"with": "with a trunk", "without": "without", "saved": "saved"},
    defaults={"pictures": 96, "seeds": 1, "steps": 12},
)
