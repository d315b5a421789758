"""A bulk run from beginning to end: plan it or go on with it, render what is missing, conclude.

Says what it does through a `Console`; the command line is one, tests are another.
"""

from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from sage.core.plan import independent_plan
from sage.core.settings import Sampling
from sage.core.words import plural
from sage.jobs.conditions import versions
from sage.jobs.job import calibration_of, calls_of, planning_of
from sage.jobs.models import describe_device
from sage.render import cluster, local
from sage.render.planning import Progress, Shared, embed, group, hours, plans_of, units_of
from sage.render.prompts import Prompt, Refused, read_prompts
from sage.render.settings import RenderSettings, differences
from sage.render.sheets import draw_sheets
from sage.render.store import Store, StoreError
from sage.render.work import Rendered, Unit
from sage.render.worker import Recipe, Worker

SHOWN = 5  # refused rows that are quoted


class Console(Protocol):
    """Where a run says what it does."""

    @property
    def progress(self) -> Progress:
        """Shows how far planning is."""
        ...

    def say(self, sentence: str) -> None:
        """Shows a line."""
        ...

    def count(self, pictures: Iterator[int], done: int, total: int) -> None:
        """Shows the progress of rendering while it goes through numbers of finished pictures."""
        ...


@dataclass(frozen=True)
class Workers:
    """Who renders.

    Attributes:
        devices: One for each worker.
        cluster: The Ray cluster in words; None on this machine alone.
    """

    devices: tuple[str, ...]
    cluster: str | None = None

    @classmethod
    def find(cls, settings: RenderSettings) -> "Workers":
        """The workers that the settings ask for.

        Raises:
            ValueError: If there is no such device or cluster.
        """
        if settings.ray is None:
            return cls(tuple(local.devices(settings.device, settings.workers, settings.threads)))
        words = cluster.connect(settings.ray)
        device, number = cluster.actors(settings.device, settings.workers, settings.threads)
        return cls((device,) * number, words)

    @property
    def kind(self) -> str:
        """Either "cpu" or "cuda"."""
        return self.devices[0].partition(":")[0]

    def __str__(self) -> str:
        number, where = len(self.devices), self.cluster or describe_device(_here(self.devices[0]))
        return f"{plural(number, 'worker')} on {where}"


def _here(device: str) -> torch.device:
    """The device, or this machine's CPU where only a cluster has it."""
    there = device.startswith("cuda") and not torch.cuda.is_available()
    return torch.device("cpu" if there else device)


def run(settings: RenderSettings, console: Console) -> Counter[str]:
    """Renders a file of prompts.

    Returns:
        How many rows have a picture ("pictures") and how many an error ("errors"); nothing after
        a dry run.

    Raises:
        ValueError: If the settings, the file or the model make it impossible.
        StoreError: If the folder cannot be used, or its disk is full.
        OutOfMemory: If a device has no room for so many rows.
    """
    workers = Workers.find(settings)
    settings = settings.on(workers.kind)
    recipe = Recipe.of(settings)
    with Store(settings.out) as store:
        return _Run(settings, recipe, workers, store, console).go()


@dataclass
class _Run:
    """One run in an open folder."""

    settings: RenderSettings
    recipe: Recipe
    workers: Workers
    store: Store
    console: Console
    worker: Worker | None = None  # made for the plan, and used again if nobody else renders

    def go(self) -> Counter[str]:
        identity = self.settings.identity(self.workers.kind)
        summary = self._summary(identity)
        finished = self.store.finished()
        units = list(self.store.units())
        left = [(size, message) for number, size, message in units if number not in finished]
        total, missing = sum(size for _, size, _ in units), sum(size for size, _ in left)
        share = missing / total if total else 0.0
        for line in describe(summary, self.workers, self.settings, share):
            self.console.say(line)
        if finished:
            self.console.say(f"Going on: {total - missing:,} of {total:,} prompts are finished.")
        if self.settings.dry_run:
            return Counter()
        with closing(self._write([message for _, message in left])) as written:
            self.console.count(written, total - missing, total)
        return self._conclude(identity, summary)

    # -- plan --------------------------------------------------------------------------------

    def _summary(self, identity: Mapping[str, Any]) -> dict[str, Any]:
        """What the plan says, made now or when the run was begun."""
        saved = self.store.saved_plan()
        different = differences(saved[0], identity) if saved else []
        if saved is None or (different and not self.store.is_begun()):  # as after dry runs
            return self._plan(identity)
        if different:
            raise StoreError(
                f"{self.settings.out} holds another run: {'; '.join(different)}. "
                "Choose another folder, or give the command as it was."
            )
        return saved[1]

    def _plan(self, identity: Mapping[str, Any]) -> dict[str, Any]:
        settings, sampling, progress = self.settings, self.settings.sampling, self.console.progress
        prompts: list[Prompt] = []
        refused: list[Refused] = []
        rows = read_prompts(settings.prompts, sampling.seed, settings.columns)
        with progress("Reading", None) as report:
            for row in rows:
                if isinstance(row, Prompt):
                    prompts.append(row)
                else:
                    refused.append(row)
                report(1)
        if not prompts and not refused:
            raise ValueError(f"{settings.prompts} holds no prompt.")
        device = _here(self.workers.devices[0])
        model = self.recipe.load(device)
        worker = self.worker = Worker(self.recipe, str(device), model)
        embeddings = self._embed(worker, prompts)
        groups = group(prompts, embeddings, sampling, progress)
        calls, calibration = calls_of(sampling), calibration_of(model.spec)
        planning = planning_of(model.spec)
        shared = plans_of(groups, embeddings, sampling, calls, calibration, planning=planning)
        seconds = None
        if device.type == self.workers.kind and prompts:
            seconds = _expected_seconds(worker, shared) / len(self.workers.devices)
        summary = summarise(prompts, refused, shared, worker, seconds)
        size = settings.unit_size(len(prompts))
        units = list(units_of(prompts, shared, size))
        summary |= {"units": len(units), "unit": size}
        self.store.save_plan(identity, units, refused, summary)
        return summary

    def _embed(self, worker: Worker, prompts: Sequence[Prompt]) -> torch.Tensor:
        """With all cores: the workers do not run yet."""
        if not prompts:
            return torch.zeros(0, 1)
        torch.set_num_threads(len(local.devices("cpu", None, 1)))
        try:
            return embed(worker.pipe, [p.text for p in prompts], self.console.progress)
        finally:
            torch.set_num_threads(self.recipe.threads)

    # -- pictures ----------------------------------------------------------------------------

    def _write(self, messages: Sequence[bytes]) -> Generator[int, None, None]:
        """Renders and writes; yields how many prompts were finished, unit by unit."""
        if not messages:
            return
        by_number = {Unit.from_bytes(m).number: m for m in messages}
        with self.store.rendering() as died, closing(self._rendered(messages, died)) as finished:
            for rendered in finished:
                unit = Unit.from_bytes(by_number.pop(rendered.number))
                self.store.write(unit, rendered)
                yield len(unit.rows)

    def _rendered(self, messages: Sequence[bytes], died: bool) -> Generator[Rendered, None, None]:
        """By whoever renders; where a process died of it, no longer in this one."""
        devices = self.workers.devices
        if self.workers.cluster is not None:
            self.worker = None
            return cluster.run_on_cluster(self.recipe, devices[0], len(devices), messages)
        if len(devices) == 1 and not died:
            return local.run_here(self.worker or Worker(self.recipe, devices[0]), messages)
        self.worker = None  # its memory is theirs
        return local.run_in_processes(self.recipe, devices, messages)

    # -- end ---------------------------------------------------------------------------------

    def _conclude(self, identity: Mapping[str, Any], summary: Mapping[str, Any]) -> Counter[str]:
        table = self.store.write_manifest(record(self.settings, identity, summary))
        if self.settings.grid:
            for name, png in draw_sheets(table, self.settings.out, self.console.progress):
                self.store.write_sheet(name, png)
        pictures = table["error"].null_count
        return Counter(pictures=pictures, errors=len(table) - pictures)


def _expected_seconds(worker: Worker, shared: Shared) -> float:
    """What one worker would need, from a few steps that are measured now."""
    rows = worker.pipe.max_rows
    calls = [worker.pipe.denoiser_calls(steps) for steps in (2, 4)]
    worker.render(_blank(rows, calls[0]))  # the first run of all is slower
    few, more = (worker.render(_blank(rows, number)).seconds / rows for number in calls)
    call = max(more - few, 0.0) / (calls[1] - calls[0])
    rest = max(few - call * calls[0], 0.0)  # of a picture: text encoder, decoder, file
    spent = shared.evaluations(worker.recipe.sampling.trunk)
    return call * spent + rest * sum(map(len, shared.groups))


def _blank(number: int, calls: int) -> Unit:
    places, empty = tuple(range(number)), ("",) * number
    plan = independent_plan(number, calls)
    return Unit(0, places, empty, empty, places, places, empty, empty, plan)


def summarise(
    prompts: Sequence[Prompt],
    refused: Sequence[Refused],
    shared: Shared,
    worker: Worker,
    seconds: float | None,
) -> dict[str, Any]:
    """What is known before the first picture, as plain JSON values."""
    cost = shared.cost(worker.pipe.flops, worker.recipe.sampling) if prompts else None
    sizes = Counter(map(len, shared.groups))
    return {
        "prompts": len(prompts),
        "refused": len(refused),
        "refused_rows": [[r.row, r.error] for r in refused[:SHOWN]],
        "groups": {str(size): sizes[size] for size in sorted(sizes)},
        "verdicts": dict(sorted(shared.verdicts.items())),
        "evaluations": cost.evaluations if cost else 0,
        "independent_evaluations": cost.independent_evaluations if cost else 0,
        "flops": cost.flops.total if cost else 0.0,
        "independent_flops": cost.independent_flops.total if cost else 0.0,
        "seconds": seconds,
    }


def describe(
    summary: Mapping[str, Any], workers: Workers, settings: RenderSettings, left: float = 1.0
) -> Iterable[str]:
    """The plan in words.

    Args:
        summary: What `summarise` gave.
        workers: Who renders.
        settings: What was asked for.
        left: Share of the prompts that are not finished yet.
    """
    refused = summary["refused"]
    yield f"{settings.prompts}: {plural(summary['prompts'], 'prompt')}" + (
        f"; {plural(refused, 'row')} cannot be rendered, as the manifest says:" if refused else "."
    )
    for row, error in summary["refused_rows"]:
        yield f"  row {row}: {error}"
    yield _groups_in_words(summary["groups"])
    if verdicts := summary["verdicts"]:
        yield _verdicts_in_words(verdicts, settings.sampling)
    spent, alone = summary["evaluations"], summary["independent_evaluations"]
    if alone:
        saved, flops = 1 - spent / alone, summary["flops"]
        less = 1 - flops / summary["independent_flops"]
        unit, size = ("TFLOP", 1e12) if flops >= 1e12 else ("GFLOP", 1e9)
        adaptive = " if nothing parts early" * (settings.sampling.sharing == "adaptive")
        yield (
            f"Evaluations: {spent:,} instead of {alone:,} ({saved:.1%} saved{adaptive}); "
            f"{flops / size:,.1f} {unit} ({less:.1%} saved)."
        )
    work = plural(summary["units"], "unit")
    yield f"Work: {work} of up to {plural(summary['unit'], 'prompt')}; {workers}."
    if summary["seconds"] is None:
        yield "Expected time: shown once the first units are back."
    elif left:
        rest = "" if left == 1 else " for what is left"
        time = hours(summary["seconds"] * left)
        yield f"Expected time{rest}: about {time}, from a few steps measured when it was planned."


def _groups_in_words(groups: Mapping[str, int]) -> str:
    sizes = {int(size): number for size, number in groups.items()}
    several = {size: number for size, number in sizes.items() if size > 1}
    if not several:
        return "Groups: none; no two prompts are within the bounds of similarity."
    members = sum(size * number for size, number in several.items())
    low, high = min(several), max(several)
    alone = sizes.get(1, 0)
    return (
        f"Groups: {sum(several.values()):,} of {f'{low} to {high}' if low < high else low} prompts "
        f"({plural(members, 'prompt')}); {plural(alone, 'prompt')} "
        f"{'is' if alone == 1 else 'are'} alone."
    )


def _verdicts_in_words(verdicts: Mapping[str, int], sampling: Sampling) -> str:
    """What the planner or the guard says of the groups of several prompts."""
    words = ", ".join(f"{number:,} {kind}" for kind, number in verdicts.items())
    if sampling.budget:
        return f"Planner, {sampling.budget:g} evaluations a picture; groups: {words}."
    if sampling.guarded:
        return f"Guard; groups: {words}."
    return f"Guard is off (--guarded follows it); it would say of the groups: {words}."


def record(
    settings: RenderSettings, identity: Mapping[str, Any], summary: Mapping[str, Any]
) -> dict[str, Any]:
    """What it takes to repeat the run, and its sums; the same for every run of a plan."""
    spent = {k: v for k, v in summary.items() if k not in ("seconds", "refused_rows")}
    return {
        "prompts": settings.prompts.name,
        "model": settings.model,
        "adapter": None if settings.adapter is None else settings.adapter.name,
        "sampling": settings.sampling.to_dict(),
        "identity": dict(identity),
        "plan": spent,
        "versions": versions(),
    }
