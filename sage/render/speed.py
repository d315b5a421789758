"""`python -m sage.render.speed`: what a picture takes in bulk, beside the pipeline group by group.

Everything in one run and in turn, so that whatever else the machine does falls on all. First in the
processors' own time, with one thread, which a busy machine changes little: the pipeline called for
one group after the other, in a process of its own that nothing of bulk has touched, and a bulk
worker in this one. Beside it the share of that which the denoiser's calls explain: what the same
rows cost in calls of a group's own size and in full calls. With `--rates`, pictures a second too:
the pipeline with one thread and with one for each core, one bulk worker and as many as there are;
the time in which workers start is left out, as it does not grow with the number of prompts.
"""

import argparse
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from sage.core.settings import Sampling
from sage.core.words import plural
from sage.jobs.job import calls_of
from sage.jobs.models import available_models, open_pipeline
from sage.render.local import devices, run_in_processes
from sage.render.planning import Shared, embed, group, plans_of, units_of
from sage.render.prompts import Prompt
from sage.render.settings import RenderSettings
from sage.render.work import Unit
from sage.render.worker import Recipe, Worker, png_bytes
from sage.sd.pipeline import SagePipeline
from sage.sd.precision import dtype_for

KERNEL_CALLS = 5  # of each size
GROUPS, BULK = "group by group", "bulk"
UNITS_EACH = 3  # fewest of a worker whose rate is measured: the first one is left out
THINGS = ("fox", "rabbit", "owl", "dog", "cat", "bear", "whale", "car")
PLACES = (
    "in the snow",
    "on the beach",
    "at night",
    "in the forest",
    "under the moon",
    "in the city",
)


@dataclass(frozen=True)
class Work:
    """What is rendered in both ways.

    Attributes:
        recipe: How.
        device: Where.
        prompts: N prompts.
        shared: Their groups and plans.
    """

    recipe: Recipe
    device: str
    prompts: tuple[Prompt, ...]
    shared: Shared

    def units(self, size: int) -> list[Unit]:
        """The work in units for bulk workers."""
        return list(units_of(self.prompts, self.shared, size))

    @property
    def evaluations(self) -> int:
        """Rows through the denoiser."""
        return self.shared.evaluations(self.recipe.sampling.trunk)

    @property
    def calls(self) -> Counter[int]:
        """How often group by group calls the denoiser with how many rows."""
        plans = self.shared.plans
        return Counter(len(plan.rows(step)) for plan in plans for step in range(plan.steps))


class GroupByGroup:
    """The pipeline as anybody would call it, in a process of its own."""

    def __init__(self, work: Work) -> None:
        context = multiprocessing.get_context("spawn")
        self.executor = ProcessPoolExecutor(1, context, initializer=_begin, initargs=(work,))

    def seconds(self, threads: int = 1) -> tuple[float, float]:
        """Seconds of processors, and of the clock, for all prompts."""
        return self.executor.submit(_all_groups, threads).result()

    def close(self) -> None:
        """Ends the process."""
        self.executor.shutdown()


_work: Work | None = None
_pipe: SagePipeline | None = None


def _begin(work: Work) -> None:
    global _work, _pipe
    device = torch.device(work.device)
    precision = dtype_for(work.recipe.precision, device)
    _work, _pipe = work, open_pipeline(work.recipe.model, device, precision)[1]


def _all_groups(threads: int) -> tuple[float, float]:
    assert _work is not None
    assert _pipe is not None
    torch.set_num_threads(threads)
    start = time.process_time(), time.perf_counter()
    for members in _work.shared.groups:
        output = _pipe(
            [_work.prompts[n].text for n in members],
            groups=[tuple(range(len(members)))],
            seeds=[_work.prompts[n].seed for n in members],
            num_inference_steps=_work.recipe.sampling.steps,
        )
        images: Any = output.images
        for image in images:
            png_bytes(image)
    return time.process_time() - start[0], time.perf_counter() - start[1]


def bulk_seconds(worker: Worker, units: Sequence[Unit]) -> float:
    """Seconds of processors that a worker in this process takes for units."""
    start = time.process_time()
    for unit in units:
        worker.render(unit)
    return time.process_time() - start


def kernel_seconds(worker: Worker, calls: Counter[int]) -> tuple[float, float]:
    """Seconds of processors of denoiser calls of some sizes, and of as many rows in full calls."""
    full = worker.pipe.max_rows
    found: dict[int, list[float]] = {}
    for _ in range(KERNEL_CALLS + 1):  # the first is slower
        for rows in sorted({*calls, full}):
            found.setdefault(rows, []).append(_one_call(worker, rows))
    took = {rows: median(values[1:]) for rows, values in found.items()}
    own = sum(number * took[rows] for rows, number in calls.items())
    return own, sum(rows * number for rows, number in calls.items()) * took[full] / full


def _one_call(worker: Worker, rows: int) -> float:
    pipe = worker.pipe
    passes = rows * (2 if worker.recipe.sampling.guidance_scale > 1 else 1)
    noise = pipe.starting_noise(range(passes)).to(pipe.device)
    cond = torch.zeros(passes, *pipe.encode([""]).shape[1:], device=pipe.device)
    execution = pipe._execution(exact=False)
    with torch.inference_mode():
        for _ in range(2):  # weights are packed in the first
            start = time.process_time()
            pipe._predict(noise, torch.full((passes,), 500, device=pipe.device), cond, execution)
    return time.process_time() - start


def in_bulk(recipe: Recipe, places: Sequence[str], messages: Sequence[bytes]) -> float:
    """Pictures a second of workers, from the first unit that each has finished."""
    if len(messages) < UNITS_EACH * len(places):
        raise ValueError(f"{len(messages)} units are too few for {len(places)} workers.")
    arrivals: list[tuple[float, int]] = []
    for rendered in run_in_processes(recipe, places, messages):
        arrivals.append((time.perf_counter(), len(rendered.pictures)))
    first = arrivals[len(places) - 1][0]
    return sum(number for _, number in arrivals[len(places) :]) / (arrivals[-1][0] - first)


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="emoji-scenes")
    parser.add_argument("--steps", type=int, help="default: the model's")
    parser.add_argument("--prompts", type=int, default=192)
    parser.add_argument("--unit", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--rates", action="store_true", help="pictures a second of workers too")
    return parser.parse_args(arguments)


def work_of(asked: argparse.Namespace, place: str) -> tuple[Work, Worker]:
    """Prompts with their groups, and a worker for them."""
    steps = {} if asked.steps is None else {"steps": asked.steps}
    sampling = Sampling.of(available_models(asked.model)[0], **steps)
    nowhere = Path()  # nothing is read or written
    settings = RenderSettings(
        nowhere, nowhere, sampling, asked.model, precision=asked.precision, rows=asked.rows
    )
    recipe = Recipe.of(settings.on(place.partition(":")[0]))
    worker = Worker(recipe, place)
    texts = [f"a {thing} {where}" for where in PLACES for thing in THINGS]
    texts = [texts[n % len(texts)] for n in range(asked.prompts)]
    prompts = tuple(Prompt(n + 1, str(n), text, n) for n, text in enumerate(texts))
    embeddings = embed(worker.pipe, texts)
    groups = group(prompts, embeddings, sampling)
    shared = plans_of(groups, embeddings, sampling, calls_of(sampling))
    return Work(recipe, place, prompts, shared), worker


def compare(work: Work, worker: Worker, unit: int, repeats: int) -> tuple[list[float], list[float]]:
    """Seconds of processors group by group and in bulk, in turn."""
    groups, units = GroupByGroup(work), work.units(unit)
    alone, bulk = [], []
    try:
        for _ in range(repeats):
            alone.append(groups.seconds()[0])
            bulk.append(bulk_seconds(worker, units))
    finally:
        groups.close()
    return alone, bulk


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints a table with its conditions."""
    asked = parsed(arguments)
    places = devices(asked.device, None, 1)
    work, worker = work_of(asked, places[0])
    number, sampling = len(work.prompts), work.recipe.sampling
    print(
        f"{number} prompts, {len(work.shared.groups)} groups, "
        f"{work.evaluations / number:.1f} evaluations a picture of {sampling.steps} steps, "
        f"{work.recipe.precision}, {worker.pipe.max_rows} rows a call, "
        f"load {os.getloadavg()[0]:.1f}"
    )
    if places[0] == "cpu":
        alone, bulk = compare(work, worker, asked.unit, asked.repeats)
        for name, values in ((GROUPS, alone), (BULK, bulk)):
            each = [1e3 * v / number for v in values]
            print(f"{name}: {median(each):.0f} ms of processors a picture "
                  f"({min(each):.0f} to {max(each):.0f})")  # fmt: skip
        print(f"ratio: {median(alone) / median(bulk):.2f}")
        own, full = (1e3 * v / number for v in kernel_seconds(worker, work.calls))
        print(
            f"of that the denoiser: {own:.0f} ms in calls of the groups' sizes, {full:.0f} ms in "
            f"full calls ({own / full:.2f})"
        )
    if asked.rates:
        unit = min(asked.unit, max(1, number // (UNITS_EACH * len(places))))
        found = rates(work, places, unit, asked.repeats)
        base = max(median(values) for (way, _), values in found.items() if way == GROUPS)
        print(f"on the clock, in units of {unit} prompts:")
        for (way, size), values in found.items():
            of = plural(size, "thread" if way == GROUPS else "worker")
            spread = f"{min(values):.2f} to {max(values):.2f}"
            print(f"{way}, {of}: {median(values):.2f} pictures/s ({spread}), "
                  f"x {median(values) / base:.2f}")  # fmt: skip
    return 0


def rates(
    work: Work, places: Sequence[str], unit: int, repeats: int
) -> dict[tuple[str, int], list[float]]:
    """Pictures a second group by group and in bulk, in turn.

    Args:
        work: What is rendered.
        places: Of the bulk workers; measured are one of them and all.
        unit: Prompts in a unit.
        repeats: Rates of each.

    Returns:
        By `GROUPS` or `BULK` and the number of threads or workers.
    """
    messages = [one.to_bytes() for one in work.units(unit)]
    groups, found = GroupByGroup(work), dict[tuple[str, int], list[float]]()
    try:
        for _ in range(repeats):
            for threads in sorted({1, len(devices("cpu", None, 1))}):
                rate = len(work.prompts) / groups.seconds(threads)[1]
                found.setdefault((GROUPS, threads), []).append(rate)
            for workers in sorted({1, len(places)}):
                rate = in_bulk(work.recipe, places[:workers], messages)
                found.setdefault((BULK, workers), []).append(rate)
    finally:
        groups.close()
    return found


if __name__ == "__main__":
    sys.exit(main())
