"""Plans of many levels: prompts that are closer share longer.

A dendrogram of the prompts (complete linkage of 1 − cosine similarity) is cut ever lower while
sampling goes on; where the cut passes a fork, the prompts under it part. Knows
similarities and steps; nothing of texts, networks or time.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from sage.core.cost import evaluations
from sage.core.linkage import complete_linkage, joins
from sage.core.plan import Group, Plan, Segment

SplitStep = Callable[[float], int]  # distance of a fork -> first step at which its sides part


@dataclass(frozen=True)
class Fork:
    """A node of the dendrogram.

    Attributes:
        members: Prompts under it, ascending.
        height: Distance (1 − similarity) at which its two sides join; 0 for a single prompt.
        sides: Its two parts; none for a single prompt.
    """

    members: Group
    height: float = 0.0
    sides: tuple["Fork", ...] = ()


def dendrogram(similarity: Tensor) -> Fork:
    """The tree of the prompts by complete linkage, closest ones joined first.

    A fork's height is the distance of the two least similar prompts under it, so all pairs below
    are at least that close.

    Args:
        similarity: [N, N] cosine similarities.

    Raises:
        ValueError: If there is no prompt or the matrix is not square.
    """
    if similarity.ndim != 2 or similarity.shape[0] != similarity.shape[1] or not len(similarity):
        raise ValueError(f"similarity has shape {tuple(similarity.shape)}; need [N, N], N >= 1.")
    closeness = -_distances(1 - similarity.double().cpu().numpy())
    forks = {n: Fork((n,)) for n in range(len(similarity))}
    for join in joins(closeness):
        sides = (forks[join.first], forks.pop(join.second))
        members = tuple(sorted(sides[0].members + sides[1].members))
        forks[join.first] = Fork(members, -join.link, sides)
    return forks[0]


def clusters(distance: Tensor, threshold: float) -> tuple[Group, ...]:
    """Clusters in which no two prompts are further apart than a threshold, by complete linkage.

    Args:
        distance: [M, M] distances, on any device; read to the host.
        threshold: At least 0.

    Returns:
        A partition of 0..M-1, each cluster ascending, ordered by their first members.

    Raises:
        FloatingPointError: If a distance is not a number: what it was measured on has failed.
    """
    values = distance.double().cpu().numpy()
    if np.isnan(values).any():
        raise FloatingPointError("A distance between predictions is not a number.")
    return complete_linkage(-_distances(values), -threshold)


def _distances(values: np.ndarray) -> np.ndarray:
    """The same without what rounding did to symmetry and sign."""
    return np.clip((values + values.T) / 2, 0, None)


def tree_plan(tree: Fork, steps: int, split_step: SplitStep) -> Plan:
    """The plan in which every fork parts at its own step.

    Args:
        tree: From `dendrogram`.
        steps: T.
        split_step: First step at which the sides of a fork are apart, from its height; clipped to
            0..steps. A fork never parts before the one above it.
    """
    segments: list[Segment] = []

    def grow(fork: Fork, start: int, parent: int | None) -> None:
        stop = steps
        if fork.sides:
            stop = max(start, min(steps, split_step(fork.height)))
        if stop > start:
            segments.append(Segment(fork.members, start, stop, parent))
            parent = len(segments) - 1
        if stop < steps:
            for side in fork.sides:
                grow(side, stop, parent)

    grow(tree, 0, None)
    return Plan(steps, tuple(segments))


def falling_cut(tau: float, steps: int) -> SplitStep:
    """Decatur et al. 2025 (arXiv 2508.21032): at step k the tree is cut at τ·(1 − k/T).

    A fork parts at the first step whose cut lies below its height: τ = 0 is independent sampling.

    Args:
        tau: Height of the first cut, a distance; at least 0.
        steps: T.
    """
    if not tau >= 0:
        raise ValueError(f"tau is {tau}; allowed is 0 or more.")

    def split_step(height: float) -> int:
        # The same comparison as a cut of the tree makes, step by step: no rounding of a division.
        return next((k for k in range(steps) if tau * (1 - k / steps) < height), steps)

    return split_step


def budget_plan(tree: Fork, steps: int, budget: float) -> Plan:
    """The plan with the least sharing that spends no more than a share of the evaluations.

    Sharing grows with τ of the falling cut; the smallest τ that keeps to the budget is taken.

    Args:
        tree: From `dendrogram`.
        steps: T.
        budget: Largest share of independent sampling's evaluations, in (0, 1].

    Raises:
        ValueError: If the budget lies outside (0, 1], or below 1/N, what one trunk without any
            branch would cost.
    """
    num_prompts = len(tree.members)
    if not 0 < budget <= 1:
        raise ValueError(f"budget is {budget}; allowed are more than 0 and at most 1.")
    if budget * num_prompts < 1:
        raise ValueError(
            f"budget is {budget}; {num_prompts} prompts cost at least {1 / num_prompts:.3f}."
        )
    allowed = int(budget * steps * num_prompts + 1e-9)
    for tau in _critical_taus(tree, steps):
        plan = tree_plan(tree, steps, falling_cut(tau, steps))
        if evaluations(plan) <= allowed:
            return plan
    # Only identical evaluations at the cheapest plan remain: one trunk to the end.
    return tree_plan(tree, steps, lambda _: steps)


def _critical_taus(tree: Fork, steps: int) -> list[float]:
    """Every τ at which some fork's split step changes, ascending."""
    heights = sorted({fork.height for fork in _forks(tree)})
    taus = {0.0} | {h / (1 - k / steps) for h in heights for k in range(steps)}
    # A hair above, so that the fork is inside the cut whatever the rounding.
    return sorted(tau * (1 + 1e-12) for tau in taus)


def _forks(tree: Fork) -> list[Fork]:
    return [tree, *(f for side in tree.sides for f in _forks(side))] if tree.sides else []


def shared_steps(plan: Plan, first: int, second: int) -> int:
    """For how many steps two prompts are in one row."""
    both = [s for s in plan.segments if first in s.members and second in s.members]
    return sum(segment.stop - segment.start for segment in both)
