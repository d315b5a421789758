"""Prompts for questions of budget and group size: sets of sixteen that divide into groups.

Each set is a unit of the intervals. Half of the sets are tight, half are loose; those that
something is fitted to and those that judge it have no scene in common.
"""

from dataclasses import replace

import numpy as np
from torch import Tensor

from sage.core.grouping import cosine_similarity
from sage.studies.engine.lab import Lab
from sage.studies.engine.prompts import PromptSet, bounds, regrouped

SIZES = (2, 4, 8, 16)  # of groups
WHOLE = max(SIZES)
TIGHT = 0.09  # how much nearer than the model's bounds the prompts of a tight set are
FIT, HELD_OUT = 0, 1
SAMPLE = 6000  # captions among which the sets are found


def cliques(
    similarity: np.ndarray, tau: tuple[float, float], size: int, number: int, seed: int = 0
) -> list[tuple[int, ...]]:
    """Disjoint sets of prompts in which every pair lies within the bounds, found greedily.

    Args:
        similarity: [N, N].
        tau: Bounds.
        size: Prompts of a set.
        number: Most sets that are looked for.
        seed: Of the order in which prompts are tried.
    """
    fits = (similarity >= tau[0]) & (similarity <= tau[1])
    np.fill_diagonal(fits, False)
    sets: list[tuple[int, ...]] = []
    for start in np.random.default_rng(seed).permutation(len(similarity)):
        clique, open_ = [int(start)], fits[start].copy()
        while open_.any() and len(clique) < size:
            # The candidate that leaves most others open.
            candidates = np.flatnonzero(open_)
            best = candidates[(fits[candidates] & open_).sum(1).argmax()]
            clique.append(int(best))
            open_ &= fits[best]
        if len(clique) == size and not any(set(clique) & set(other) for other in sets):
            sets.append(tuple(sorted(clique)))
            fits[:, clique] = False
        if len(sets) == number:
            break
    return sets


def sets_of(lab: Lab, size: int) -> tuple[PromptSet, Tensor]:
    """Prompts in sets of one size that all fit each other, and their similarities [N, N].

    Args:
        lab: Its settings say how many prompts.
        size: Prompts of a set.

    Raises:
        ValueError: If there is no such set.
    """
    # The larger the set, the rarer are captions that all fit each other.
    sample = lab.loose_prompts(max(1500, 12 * lab.settings.prompts, 8 * size**2))
    similarity = cosine_similarity(lab.pipe.embed(sample.texts))
    wanted = max(1, lab.settings.prompts // size)
    sets = cliques(similarity.numpy(), bounds(lab.pipe), size, wanted)
    if not sets:
        raise ValueError(f"No {size} of {len(sample)} captions are all within the bounds.")
    order = [n for clique in sets for n in clique]
    among = similarity[order][:, order]
    prompts = lab.painted(sample.take(order))
    groups = [tuple(range(i, i + size)) for i in range(0, len(prompts), size)]
    return regrouped(prompts, among, groups), among


def divide(prompts: PromptSet, similarity: Tensor, size: int) -> PromptSet:
    """The prompts of the sets, in groups of one size; the sets are the units."""
    groups = [tuple(range(i, i + size)) for i in range(0, len(prompts), size)]
    units = np.repeat(np.arange(len(prompts) // WHOLE), WHOLE // size)
    return replace(regrouped(prompts, similarity, groups), units=units)


def budget_sets(lab: Lab, part: int, number: int) -> tuple[PromptSet, Tensor]:
    """Sets of sixteen similar prompts with real pictures: first loose ones, then as many tight.

    Args:
        lab: Gives captions and similarities.
        part: FIT or HELD_OUT: which half of the captions.
        number: Of sets of each kind.

    Returns:
        The prompts, each set a group, and their similarities [N, N].

    Raises:
        ValueError: If there are no such sets.
    """
    sample = lab.loose_prompts(SAMPLE)
    half = list(range(part, len(sample), 2))
    sample = sample.take(half)
    similarity = cosine_similarity(lab.pipe.embed(sample.texts))
    low, high = bounds(lab.pipe)
    values = similarity.numpy().copy()
    sets: list[tuple[int, ...]] = []
    for least in (low + TIGHT, low):
        found = cliques(values, (least, high + TIGHT * (least > low)), WHOLE, number)
        taken = [n for one in found for n in one]
        values[taken] = values[:, taken] = -1.0  # no prompt is in two sets
        sets = found + sets
    if len(sets) < 2:
        raise ValueError(f"No sets of {WHOLE} of {len(sample)} captions are within the bounds.")
    order = [n for one in sets for n in one]
    prompts, among = lab.painted(sample.take(order)), similarity[order][:, order]
    return divide(prompts, among, WHOLE), among


def divided(prompts: PromptSet, similarity: Tensor, size: int) -> PromptSet:
    """The prompts of the sets in groups of one size; 1 is everyone alone."""
    if size == 1:
        groups = [(n,) for n in range(len(prompts))]
        units = np.arange(len(prompts)) // WHOLE
        return replace(regrouped(prompts, similarity, groups), units=units)
    return divide(prompts, similarity, size)


def only_sets(prompts: PromptSet, sets: range) -> tuple[int, ...]:
    """Numbers of the groups that belong to some sets, for judging these only."""
    return tuple(g for g, group in enumerate(prompts.groups) if group[0] // WHOLE in sets)
