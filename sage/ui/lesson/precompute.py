"""Makes every picture and number of the lesson: `python -m sage.ui.lesson.precompute`.

Writes sheets of small pictures and one JSON file into assets/ui/lesson. To be run again when the
built-in model or its adapter changes; with an adapter shipped, the lesson's step on training shows
it by itself. Knows the pipeline; nothing of the page.
"""

import argparse
import json
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from sage.core.metrics import pixel_distance
from sage.core.plan import Plan, independent_plan, shared_plan
from sage.jobs.conditions import versions
from sage.jobs.models import LoadedModel, builtin_model, load_model
from sage.sd.features import pixels_of
from sage.sd.pipeline import SagePipeline, SageStep
from sage.ui.lesson.content import (
    ALIKE,
    FOLDER,
    PICTURE_SEED,
    PROMPTS,
    RESULTS,
    SEEDS,
    STEPS,
    UNLIKE,
)

DIGITS = 4
QUALITY = 84  # of WebP
GROUPS = {"alike": ALIKE, "unlike": UNLIKE}


@dataclass(frozen=True)
class Film:
    """A run, step by step.

    Attributes:
        latents: [STEPS + 1, N, C, h, w] the noise, then what each step left, in prompt order.
        guesses: [STEPS + 1, N, C, h, w] the clean latent guessed from each of them; the last one
            is the finished latent itself.
    """

    latents: Tensor
    guesses: Tensor


def run_film(pipe: SagePipeline, prompts: Sequence[str], plan: Plan, seed: int) -> Film:
    """Runs a plan with one seed for all prompts and keeps every step."""
    seeds = [seed] * len(prompts)
    items = pipe.stream(prompts, plan=plan, seeds=seeds, output_type="latent")
    steps = [item for item in items if isinstance(item, SageStep)]
    latents = [_rows(step, step.state.x) for step in steps]
    guesses = [_rows(step, step.state.denoised) for step in steps]
    # The pipeline draws a prompt's noise from a CPU generator with its seed.
    noise = torch.randn(1, *latents[0].shape[1:], generator=torch.Generator().manual_seed(seed))
    first = noise.expand_as(latents[0])
    return Film(torch.stack([first, *latents]), torch.stack([*guesses, latents[-1]]))


def _rows(step: SageStep, rows: Tensor) -> Tensor:
    """Rows of a step as one latent for each prompt: [N, C, h, w] float32 on the CPU."""
    order = [next(r for r, row in enumerate(step.state.rows) if n in row) for n in _members(step)]
    return rows[order].float().cpu()


def _members(step: SageStep) -> list[int]:
    return sorted(n for row in step.state.rows for n in row)


@torch.inference_mode()
def decode(pipe: SagePipeline, latents: Tensor) -> Any:
    """Pictures of scaled latents [N, C, h, w], a list of N."""
    z = (latents / pipe.vae.config.scaling_factor).to(pipe.device, pipe.vae.dtype)
    pixels = torch.cat([pipe.vae.decode(part).sample for part in z.split(32)])
    return pipe.image_processor.postprocess(pixels, output_type="pil")


def difference(first: Tensor, second: Tensor) -> list[float]:
    """Root mean square difference of two films' latents [S, C, h, w], step by step."""
    return (first - second).flatten(1).square().mean(1).sqrt().tolist()


def branch_points(
    pipe: SagePipeline, group: Sequence[int], seed: int
) -> Iterator[tuple[int, list[Image.Image]]]:
    """Pictures of a group at each branch point from STEPS down to 0; the trunk is run once."""
    prompts = [PROMPTS[n] for n in group]
    ratios = [step / STEPS for step in reversed(range(STEPS + 1))]
    everyone = [tuple(range(len(group)))]
    settings = {"groups": everyone, "seeds": [seed] * len(group), "num_inference_steps": STEPS}
    for step, output in zip(
        reversed(range(STEPS + 1)), pipe.filmstrip(prompts, ratios, **settings), strict=True
    ):
        yield step, output.pictures


def sharing(pipe: SagePipeline, group: Sequence[int], twins: dict[int, list[Image.Image]]) -> dict:
    """What each branch point does to a group.

    Args:
        pipe: The model.
        group: Prompts of the lesson.
        twins: By seed, the independent pictures of all prompts, without an adapter.

    Returns:
        "pictures": [STEPS + 1] lists of pictures with the first seed; "distance": [STEPS + 1, N]
        to the independent pictures, means over the seeds.
    """
    pictures: dict[int, list[Image.Image]] = {}
    distance = torch.zeros(STEPS + 1, len(group))
    for seed, alone in twins.items():
        reference = pixels_of([alone[n] for n in group])
        for step, images in branch_points(pipe, group, seed):
            if seed == PICTURE_SEED:
                pictures[step] = images
            distance[step] += pixel_distance(pixels_of(images), reference) / len(twins)
        _say(f"branch points of {len(group)} prompts, seed {seed}")
    ordered = [pictures[step] for step in range(STEPS + 1)]
    return {"pictures": ordered, "distance": _round(distance)}


def write_sheet(name: str, rows: Sequence[Sequence[Image.Image]], folder: Path) -> None:
    """Writes rows of equal pictures as one WebP: a column a step."""
    width, height = rows[0][0].size
    sheet = Image.new("RGB", (width * len(rows[0]), height * len(rows)))
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            sheet.paste(picture, (x * width, y * height))
    sheet.save(folder / name, "WEBP", quality=QUALITY, method=6)


def precompute(model: LoadedModel, folder: Path = FOLDER) -> None:
    """Makes and writes everything."""
    pipe = model.pipe
    pipe.use_lora(None)
    folder.mkdir(parents=True, exist_ok=True)
    alone = {seed: run_film(pipe, PROMPTS, _alone(len(PROMPTS)), seed) for seed in SEEDS}
    _say("independent runs")
    twins = {seed: decode(pipe, film.latents[-1]) for seed, film in alone.items()}
    shown = alone[PICTURE_SEED]
    trunks = [_trunk(pipe, group) for group in GROUPS.values()]
    write_sheet("noisy.webp", _by_prompt(pipe, shown.latents), folder)
    write_sheet("guess.webp", [*_by_prompt(pipe, shown.guesses), *trunks], folder)
    found = {name: sharing(pipe, group, twins) for name, group in GROUPS.items()}
    found |= _with_adapter(model, twins)
    for name, result in found.items():
        write_sheet(f"{name}.webp", list(zip(*result.pop("pictures"), strict=True)), folder)
    record = {"conditions": _conditions(model), "side": twins[PICTURE_SEED][0].width}
    record |= _similarity(pipe) | {"sharing": found, "difference": _differences(alone)}
    text = json.dumps(record, indent=1)
    (folder / RESULTS).write_text(_compact(text) + "\n", "utf-8")
    if "trained" not in found:
        (folder / "trained.webp").unlink(missing_ok=True)


def _alone(num_prompts: int) -> Plan:
    return independent_plan(num_prompts, STEPS)


def _trunk(pipe: SagePipeline, group: Sequence[int]) -> list[Image.Image]:
    """What a trunk guesses at each step when the group never branches."""
    plan = shared_plan([tuple(range(len(group)))], STEPS, STEPS)
    film = run_film(pipe, [PROMPTS[n] for n in group], plan, PICTURE_SEED)
    return decode(pipe, film.guesses[:, 0])


def _by_prompt(pipe: SagePipeline, latents: Tensor) -> list[list[Image.Image]]:
    """Pictures of latents [S, N, ...]: N rows of S."""
    return [decode(pipe, latents[:, n]) for n in range(latents.shape[1])]


def _with_adapter(model: LoadedModel, twins: dict[int, list[Image.Image]]) -> dict[str, dict]:
    """The similar group with the adapter that is trained for sharing; nothing without one."""
    # Twins stay those of the model without it: that is what sharing should come close to.
    if model.spec.adapter is None:
        return {}
    model.pipe.use_lora(model.spec.adapter)
    try:
        return {"trained": sharing(model.pipe, ALIKE, twins)}
    finally:
        model.pipe.use_lora(None)


def _differences(alone: dict[int, Film]) -> dict[str, list[float]]:
    """For every pair of prompts, how far apart their latents are after 0..STEPS steps."""
    pairs = [(i, j) for j in range(len(PROMPTS)) for i in range(j)]
    found = {}
    for i, j in pairs:
        curves = [difference(film.latents[:, i], film.latents[:, j]) for film in alone.values()]
        found[f"{i}-{j}"] = _round(torch.tensor(curves).mean(0))
    return found


def _similarity(pipe: SagePipeline) -> dict[str, Any]:
    grouping = pipe.group(PROMPTS)
    return {
        "prompts": list(PROMPTS),
        "similarity": _round(grouping.similarity),
        "groups": [list(group) for group in grouping.groups],
        "tau_min": grouping.tau_min,
        "tau_max": grouping.tau_max,
    }


def _conditions(model: LoadedModel) -> dict[str, Any]:
    adapter = model.spec.adapter
    return {
        "model": model.spec.title,
        "adapter": adapter.name if adapter else None,
        "scheduler": type(model.pipe.scheduler).__name__,
        "steps": STEPS,
        "guidance_scale": model.pipe.settings.guidance_scale,
        "picture_seed": PICTURE_SEED,
        "seeds": list(SEEDS),
        "device": model.device_name,
        "dtype": str(model.pipe.dtype).removeprefix("torch."),
        "versions": versions(),
    }


def _round(values: Tensor) -> list:
    """Nested lists with few digits, so that the file stays small and readable."""
    return (
        [_round(row) for row in values]
        if values.ndim > 1
        else [round(v, DIGITS) for v in values.tolist()]
    )


def _compact(text: str) -> str:
    """JSON with each innermost list on one line."""
    return re.sub(r"\[[^\[\]{}]*\]", lambda m: re.sub(r"\s+", " ", m[0]), text)


_STARTED = time.monotonic()


def _say(what: str) -> None:
    print(f"{time.monotonic() - _STARTED:6.0f} s  {what}", flush=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder to write into")
    flags = parser.parse_args()
    precompute(load_model(builtin_model(), flags.device), flags.out)


if __name__ == "__main__":
    main()
