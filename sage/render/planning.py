"""From prompts to units of work: who shares, until when, and what is rendered together.

Everything that decides what a picture looks like is settled here, once, before the first picture.
`plans_of` is the one place that turns groups into plans; another way to spend a budget enters
there.
"""

import math
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from sage.core.calibration import Calibration
from sage.core.cost import Cost, ModelFlops, StageFlops, evaluations, plan_cost
from sage.core.grouping import cosine_similarity, group_within
from sage.core.grouping_at_scale import GroupingRule, form_groups
from sage.core.plan import Group, Plan, Segment, shared_plan
from sage.core.planner import Planned, Planning, Rows, plan_within, sharing_levels
from sage.core.settings import Sampling
from sage.core.tree import Fork, dendrogram, falling_cut, tree_plan
from sage.jobs.job import branch_call_of, solver_of, verdict_of
from sage.render.prompts import Prompt
from sage.render.store import picture_names
from sage.render.work import Unit
from sage.sd.pipeline import UNPLANNED, SagePipeline

EMBEDDED = {"cpu": 64, "cuda": 256}  # prompts in a call of the encoder: as many as a cache holds


class Progress(Protocol):
    """Shows how far something is: a context in which amounts of work are reported."""

    def __call__(
        self, name: str, total: int | None
    ) -> AbstractContextManager[Callable[[int], object]]:
        """A bar of a name, and of so much work if that is known."""
        ...


@contextmanager
def silent(name: str, total: int | None) -> Iterator[Callable[[int], object]]:
    """Shows nothing."""
    yield lambda amount: None


@dataclass(frozen=True)
class Shared:
    """Groups with their plans.

    Attributes:
        groups: Indices of prompts, the one with the smallest seed first: it lends the noise.
        plans: For each group, its own plan, over 0..n-1 in the group's order.
        verdicts: How many groups of several prompts the guard called what; within a budget, how
            many the planner lets share.
        timesteps: For each group where its steps lie, if that was planned; else empty.
        trunk: What trunks follow, if the planner chose it.
    """

    groups: tuple[Group, ...]
    plans: tuple[Plan, ...]
    verdicts: Counter[str]
    timesteps: tuple[tuple[int, ...], ...] = ()
    trunk: str | None = None

    def evaluations(self, trunk: str) -> int:
        """Rows through the denoiser; of adaptive runs, if no prediction parts early.

        Args:
            trunk: What trunks follow where the planner chose nothing.
        """
        return sum(evaluations(plan, self.trunk or trunk) for plan in self.plans)

    def cost(self, flops: ModelFlops, sampling: Sampling) -> Cost:
        """What all plans cost together."""
        kinds, guided = Counter(self.plans), sampling.guidance_scale > 1
        trunk = self.trunk or sampling.trunk
        costs = [(n, plan_cost(plan, flops, guided, trunk)) for plan, n in kinds.items()]

        def total(of: Callable[[Cost], float]) -> float:
            return sum(n * of(cost) for n, cost in costs)

        def stages(of: Callable[[Cost], StageFlops]) -> StageFlops:
            names = ("encode", "trunk", "branches", "decode")
            return StageFlops(*(total(lambda c, s=s: getattr(of(c), s)) for s in names))

        return Cost(
            int(total(lambda c: c.evaluations)),
            int(total(lambda c: c.independent_evaluations)),
            stages(lambda c: c.flops),
            stages(lambda c: c.independent_flops),
            int(total(lambda c: c.passes)),
            int(total(lambda c: c.independent_passes)),
        )


# -- similarity ----------------------------------------------------------------------------------


def embed(pipe: SagePipeline, texts: Sequence[str], progress: Progress = silent) -> Tensor:
    """Embeddings whose cosine is the similarity of prompts, each text computed once.

    Args:
        pipe: The model.
        texts: N texts.
        progress: Shows progress.

    Returns:
        [N, D] float32 on the CPU, unit length.
    """
    distinct = sorted(dict.fromkeys(texts), key=len)  # texts of one length need no padding
    place = {text: n for n, text in enumerate(distinct)}
    parts, size = [], EMBEDDED.get(pipe.device.type, min(EMBEDDED.values()))
    with progress("Embedding", len(distinct)) as report:
        for start in range(0, len(distinct), size):
            parts.append(_embed(pipe, distinct[start : start + size]))
            report(len(parts[-1]))
    return torch.cat(parts)[[place[text] for text in texts]]


def _embed(pipe: SagePipeline, texts: Sequence[str]) -> Tensor:
    """A batch; a text whose embedding is not a number is near to none, and takes nobody with it."""
    try:
        return _embed_all(pipe, texts)
    except FloatingPointError:
        if len(texts) > 1:
            return torch.cat([_embed(pipe, [text]) for text in texts])
    clip, encoder = pipe.clip, pipe.text_encoder
    width = encoder.config.hidden_size if clip is None else clip.model.config.projection_dim
    return torch.full((1, width), torch.nan)


def _embed_all(pipe: SagePipeline, texts: Sequence[str]) -> Tensor:
    return pipe.embed(texts) if pipe.clip is None else pipe.clip.embed_texts(texts, "longest")


def group(
    prompts: Sequence[Prompt], embeddings: Tensor, sampling: Sampling, progress: Progress = silent
) -> tuple[Group, ...]:
    """Groups in which every pair lies within the bounds, and the prompts that are alone.

    Only prompts with the same negative prompt share: a trunk has one.

    Args:
        prompts: N prompts.
        embeddings: [N, D] unit length; a row that is not finite shares with nobody.
        sampling: Bounds and largest group.
        progress: Shows progress.

    Returns:
        A partition of 0..N-1, ordered by first members; in a group the smallest seed is first.
    """
    size = sampling.max_group_size
    if size == 1:
        return tuple((n,) for n in range(len(prompts)))
    rule = GroupingRule(sampling.tau_min, sampling.tau_max, size, prefer="closest", sizes="largest")
    finite = torch.isfinite(embeddings).all(1).tolist()
    labels = [prompt.negative_prompt if finite[n] else n for n, prompt in enumerate(prompts)]
    with progress("Grouping", len(prompts)) as report:
        groups = group_within(labels, lambda some: _formed(embeddings, some, rule, report))
    return tuple(tuple(sorted(g, key=lambda n: (prompts[n].seed, n))) for g in groups)


def _formed(
    embeddings: Tensor, members: Sequence[int], rule: GroupingRule, report: Callable[[int], object]
) -> Sequence[Group]:
    """Groups among some prompts; tells how many have been looked at."""
    told = 0

    def tell(share: float) -> None:
        nonlocal told
        now = int(share * len(members))
        report(now - told)
        told = now

    if len(members) < 2:
        tell(1.0)
        return ()
    return form_groups(embeddings[members], torch.arange(len(members)), rule, report=tell)


# -- plans ---------------------------------------------------------------------------------------


def plans_of(
    groups: Sequence[Group],
    embeddings: Tensor,
    sampling: Sampling,
    calls: int,
    calibration: Calibration | None = None,
    *,
    planning: Planning | None = None,
) -> Shared:
    """How long every group shares.

    Args:
        groups: From `group`.
        embeddings: [N, D] unit length.
        sampling: With "tree", the budget is kept by all groups together.
        calls: Of the denoiser for one trajectory.
        calibration: Of the model, for the guard; None predicts nothing.
        planning: Of the model, for a budget of evaluations a picture; every group keeps to it.

    Raises:
        ValueError: If the budget cannot be kept, or nothing is known for planning.
    """
    groups = tuple(groups)
    if sampling.budget:
        return _within_budget(groups, embeddings, sampling, planning)
    if sampling.sharing == "tree":
        trees = [_tree(embeddings, g) for g in groups]
        return Shared(groups, forest_plans(trees, calls, sampling.spend), Counter())
    verdicts: Counter[str] = Counter()
    plans = []
    for members in groups:
        verdict = None
        if len(members) > 1:
            similarity = cosine_similarity(embeddings[list(members)])
            own = tuple(range(len(members)))
            verdict = verdict_of(similarity, own, sampling, calls, calibration)
        if verdict is not None:
            verdicts[verdict.kind] += 1
        plans.append(_one_group(len(members), calls, branch_call_of(sampling, calls, verdict)))
    return Shared(groups, tuple(plans), verdicts)


def _within_budget(
    groups: tuple[Group, ...],
    embeddings: Tensor,
    sampling: Sampling,
    planning: Planning | None,
) -> Shared:
    """Every group at its best for the budget: its own steps, trunk and branch points."""
    if planning is None:
        raise ValueError(UNPLANNED)
    if sampling.sharing == "adaptive":
        raise ValueError("An adaptive run finds its own plan: it excludes a budget.")
    solver, budget, found = solver_of(sampling), sampling.budget, []
    for members in groups:
        own = tuple(range(len(members)))
        tree = sampling.sharing == "tree" and len(members) > 3
        near = cosine_similarity(embeddings[list(members)]) if tree else None
        levels = tuple(sharing_levels([own], near))
        found.append(_one_budget(planning, levels, budget, solver))
    several = [p for p, group in zip(found, groups, strict=True) if len(group) > 1]
    verdicts = Counter("share" if p.shared_steps else "alone" for p in several)
    places = tuple(p.timesteps for p in found)
    return Shared(groups, tuple(p.plan for p in found), verdicts, places, planning.trunk)


@lru_cache(maxsize=4096)
def _one_budget(
    planning: Planning, levels: tuple[Rows, ...], budget: float, solver: str
) -> Planned:
    return plan_within(planning, levels, budget, solver)


@lru_cache(maxsize=4096)
def _one_group(size: int, calls: int, branch_call: int) -> Plan:
    return shared_plan([tuple(range(size))], calls, branch_call)


def _tree(embeddings: Tensor, members: Group) -> Fork:
    return dendrogram(cosine_similarity(embeddings[list(members)])) if len(members) > 1 else _LEAF


_LEAF = Fork((0,))


def forest_plans(trees: Sequence[Fork], calls: int, budget: float) -> tuple[Plan, ...]:
    """The plans with the least sharing that together keep to a budget.

    As `sage.core.tree.budget_plan`, for many trees that are cut at one height: the smallest τ of
    the falling cut that keeps to the budget.

    Args:
        trees: One for each group.
        calls: Of the denoiser for one trajectory.
        budget: Largest share of independent sampling's evaluations, in (0, 1].

    Raises:
        ValueError: If even one trunk for each group, without any branch, costs more.
    """
    independent = calls * sum(len(tree.members) for tree in trees)
    least = len(trees) / sum(len(tree.members) for tree in trees)
    if budget < least:
        raise ValueError(
            f"The budget is {budget:g}; with these groups {least:.3f} of the evaluations is the "
            "least, so allow more, or lower tau_min for larger groups."
        )
    allowed = int(budget * independent + 1e-9)
    heights = np.array([fork.height for tree in trees for fork in _forks(tree)])
    steps = np.arange(calls)
    taus = np.unique(np.append(np.outer(np.unique(heights), 1 / (1 - steps / calls)), 0.0))
    taus = taus * (1 + 1e-12)  # a hair above, so that a fork is inside the cut

    def spent(tau: float) -> int:
        cuts = (tau * (1 - steps / calls))[::-1]  # ascending; as `falling_cut` compares
        return independent - int((calls - np.searchsorted(cuts, heights)).sum())

    low, high = 0, len(taus) - 1  # spending falls with τ
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if spent(taus[middle]) <= allowed else (middle + 1, high)
    # Where only the cheapest plan is left, one trunk to the end.
    cut = falling_cut(float(taus[low]), calls) if spent(taus[low]) <= allowed else lambda _: calls
    return tuple(tree_plan(tree, calls, cut) for tree in trees)


def _forks(tree: Fork) -> Iterator[Fork]:
    if tree.sides:
        yield tree
        for side in tree.sides:
            yield from _forks(side)


# -- units ---------------------------------------------------------------------------------------


def units_of(prompts: Sequence[Prompt], shared: Shared, size: int) -> Iterator[Unit]:
    """Units of whole groups, filled to `size` prompts wherever the groups allow it.

    Args:
        prompts: N prompts.
        shared: Their groups and plans.
        size: Most prompts in a unit; a larger group is a unit of its own.
    """
    files = picture_names(prompts)
    sets: dict[Any, list[int]] = {}  # of groups that have their steps in common
    for number in range(len(shared.groups)):
        steps = shared.timesteps[number] if shared.timesteps else None
        sets.setdefault(steps, []).append(number)
    fillings = (filling for numbers in sets.values() for filling in _fill(numbers, shared, size))
    for number, filling in enumerate(fillings):
        members = [n for g in filling for n in shared.groups[g]]
        yield Unit(
            number,
            tuple(prompts[n].row for n in members),
            tuple(prompts[n].id for n in members),
            tuple(prompts[n].text for n in members),
            tuple(prompts[n].seed for n in members),
            tuple(g for g in filling for _ in shared.groups[g]),
            tuple(files[n] for n in members),
            tuple(prompts[n].negative_prompt for n in members),
            side_by_side([shared.plans[g] for g in filling]),
            shared.timesteps[filling[0]] if shared.timesteps else None,
            shared.trunk,
        )


def _fill(numbers: Sequence[int], shared: Shared, size: int) -> Iterator[list[int]]:
    """Groups by units: always the first one that still fits."""
    waiting: dict[int, deque[int]] = {}
    for number in numbers:
        waiting.setdefault(len(shared.groups[number]), deque()).append(number)
    while waiting:
        room, filling = size, []
        while fitting := [s for s in waiting if s <= room or not filling]:
            chosen = min(fitting, key=lambda s: waiting[s][0])
            filling.append(waiting[chosen].popleft())
            room -= chosen
            if not waiting[chosen]:
                del waiting[chosen]
        yield filling


def side_by_side(plans: Sequence[Plan]) -> Plan:
    """One plan of several for other prompts, numbered on."""
    segments: list[Segment] = []
    first = 0
    for plan in plans:
        offset = len(segments)
        segments += [
            Segment(
                tuple(first + n for n in s.members),
                s.start,
                s.stop,
                None if s.parent is None else offset + s.parent,
            )
            for s in plan.segments
        ]
        first += plan.num_prompts
    return Plan(plans[0].steps, tuple(segments))


def hours(seconds: float) -> str:
    """A time in words, "2 h 5 min" or "40 s"."""
    minutes = math.ceil(seconds / 60)
    if seconds < 90:
        return f"{math.ceil(seconds)} s"
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
