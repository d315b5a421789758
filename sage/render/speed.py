"""`python -m sage.render.speed`: pictures a second in bulk, beside the pipeline group by group.

Everything in one run and in turn, so that whatever else the machine does falls on all: the pipeline
called for one group after the other, with one thread and with one for each core; bulk workers, one
and as many as there are. The time in which workers start is left out: it does not grow with the
number of prompts. What bulk is compared with is the faster of the two ways of calling groups.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from sage.core.settings import Sampling
from sage.jobs.job import calls_of
from sage.jobs.models import available_models
from sage.render.local import devices, run_in_processes
from sage.render.planning import Shared, embed, group, plans_of, units_of
from sage.render.prompts import Prompt
from sage.render.settings import RenderSettings
from sage.render.worker import Recipe, Worker, png_bytes
from sage.sd.pipeline import SagePipeline

UNIT = 16  # prompts: many units, so that the first and the last of a worker matter little
THINGS = ("fox", "rabbit", "owl", "dog", "cat", "bear", "whale", "car")
PLACES = (
    "in the snow",
    "on the beach",
    "at night",
    "in the forest",
    "under the moon",
    "in the city",
)


def group_by_group(
    pipe: SagePipeline, prompts: Sequence[Prompt], shared: Shared, steps: int
) -> float:
    """Pictures a second of the pipeline, called once for each group."""
    start = time.perf_counter()
    for members in shared.groups:
        output = pipe(
            [prompts[n].text for n in members],
            groups=[tuple(range(len(members)))],
            seeds=[prompts[n].seed for n in members],
            num_inference_steps=steps,
        )
        images: Any = output.images
        for image in images:
            png_bytes(image)
    return len(prompts) / (time.perf_counter() - start)


def in_bulk(recipe: Recipe, places: Sequence[str], messages: Sequence[bytes]) -> float:
    """Pictures a second of workers, from the first unit that each has finished."""
    if len(messages) < 3 * len(places):
        raise ValueError(f"{len(messages)} units are too few for {len(places)} workers.")
    arrivals: list[tuple[float, int]] = []
    for rendered in run_in_processes(recipe, places, messages):
        arrivals.append((time.perf_counter(), len(rendered.pictures)))
    first = arrivals[len(places) - 1][0]
    return sum(number for _, number in arrivals[len(places) :]) / (arrivals[-1][0] - first)


def _asked(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="emoji-scenes")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--prompts", type=int, default=192)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="auto")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints a table with its conditions."""
    asked = _asked(arguments)
    places = devices(asked.device, None, 1)
    sampling = Sampling.of(available_models(asked.model)[0], steps=asked.steps)
    nowhere = Path()  # nothing is read or written
    settings = RenderSettings(nowhere, nowhere, sampling, asked.model)
    settings = settings.on(places[0].partition(":")[0])
    recipe = Recipe.of(settings)
    worker = Worker(recipe, places[0])
    texts = [f"a {thing} {place}" for place in PLACES for thing in THINGS]
    texts = [texts[n % len(texts)] for n in range(asked.prompts)]
    prompts = [Prompt(n + 1, str(n), text, n) for n, text in enumerate(texts)]
    embeddings = embed(worker.pipe, texts)
    groups = group(prompts, embeddings, sampling)
    shared = plans_of(groups, embeddings, sampling, calls_of(sampling))
    messages = [unit.to_bytes() for unit in units_of(prompts, shared, UNIT)]
    pipe = recipe.load(torch.device(places[0])).pipe
    rates: dict[str, list[float]] = {}
    for _ in range(asked.repeats):
        for threads in sorted({1, len(devices("cpu", None, 1))}):
            torch.set_num_threads(threads)
            rates.setdefault(f"group by group, {threads} threads", []).append(
                group_by_group(pipe, prompts, shared, asked.steps)
            )
        for number in sorted({1, len(places)}):
            rates.setdefault(f"bulk, {number} workers", []).append(
                in_bulk(recipe, places[:number], messages)
            )
    load = os.getloadavg()[0]
    print(f"{len(prompts)} prompts, {len(groups)} groups, {asked.steps} steps, load {load:.1f}")
    base = max(median(values) for name, values in rates.items() if name.startswith("group"))
    for name, values in rates.items():
        spread = f"{min(values):.2f} to {max(values):.2f}"
        print(f"{name}: {median(values):.2f} pictures/s ({spread}), x {median(values) / base:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
