"""Turns prompt embeddings into groups in which every pair is similar enough.

Knows numbers only: no texts, no encoders. The paper (arXiv 2509.15865) groups by the cosine
similarity of CLIP text embeddings within (tau_min, tau_max), groups of 2 to 5; how it searches for
groups is not published. We use complete linkage, because it keeps the promise "every pair lies
within the bounds" and does not depend on the order of the prompts (greedy first-fit does).

Near-duplicates (above tau_max) are kept apart, as the paper's upper bound suggests: sharing would
make them nearly the same picture. Set tau_max to 1 to let them share.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, combinations
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from sage.core.linkage import check_window, complete_linkage
from sage.core.plan import Group

PairKind = Literal["same_group", "too_far", "near_duplicate", "too_large", "better_elsewhere"]


@dataclass(frozen=True)
class PairDecision:
    """Why two prompts do or do not share a trunk.

    Attributes:
        first: Index of a prompt.
        second: Index of another, larger than `first`.
        similarity: Cosine similarity of their embeddings, in [-1, 1].
        kind: The decision as one of five words.
        reason: The decision as a sentence, prompts numbered from 1.
    """

    first: int
    second: int
    similarity: float
    kind: PairKind
    reason: str

    @property
    def together(self) -> bool:
        """Whether the two share a trunk."""
        return self.kind == "same_group"


@dataclass(frozen=True)
class Grouping:
    """A partition of the prompts and the reason for every pair.

    Attributes:
        groups: Groups of prompt indices, each ascending, ordered by their first member.
        similarity: [N, N] cosine similarities.
        tau_min: Lowest similarity allowed inside a group.
        tau_max: Highest similarity allowed inside a group.
        max_group_size: Largest number of prompts in a group.
    """

    groups: tuple[Group, ...]
    similarity: Tensor
    tau_min: float
    tau_max: float
    max_group_size: int

    @property
    def shares(self) -> bool:
        """Whether any two prompts share a trunk."""
        return any(len(group) > 1 for group in self.groups)

    @cached_property
    def pairs(self) -> tuple[PairDecision, ...]:
        """One decision for each pair, in order of (first, second); for few prompts."""
        reasons = _Reasons(self)
        return tuple(reasons.decide(i, j) for i, j in combinations(range(len(self.similarity)), 2))


def cosine_similarity(embeddings: Tensor) -> Tensor:
    """Cosine similarity of every pair.

    Args:
        embeddings: [N, D], any length.

    Returns:
        [N, N] float32 on the CPU, symmetric, in [-1, 1], ones on the diagonal.
    """
    unit = torch.nn.functional.normalize(embeddings.detach().double().cpu(), dim=-1)
    similarity = (unit @ unit.T).clamp(-1.0, 1.0)
    # Six decimals: sums in another order must not turn an equality into a decision.
    similarity = (similarity + similarity.T).div(2).round(decimals=6).fill_diagonal_(1.0)
    return similarity.float()


def group_prompts(
    similarity: Tensor, tau_min: float = 0.6, tau_max: float = 0.9, max_group_size: int = 5
) -> Grouping:
    """Groups in which every pair lies within [tau_min, tau_max], by complete linkage.

    The two clusters whose *least* similar pair is the most similar are merged, again and again,
    as long as every pair stays within the bounds and the size allows it. Prompts with distinct
    similarities get the same groups in any order; exact ties go to the smaller indices.

    Args:
        similarity: [N, N] symmetric, from `cosine_similarity`.
        tau_min: Lowest similarity allowed inside a group (paper: 0.6, for OpenAI CLIP).
        tau_max: Highest similarity allowed inside a group (paper: 0.9, for OpenAI CLIP).
        max_group_size: Largest number of prompts in a group (paper: 5).

    Raises:
        ValueError: If the matrix is not square or symmetric, or the bounds make no sense.
    """
    _check_bounds(similarity, tau_min, tau_max, max_group_size)
    groups = complete_linkage(_decimals(similarity), tau_min, tau_max, max_group_size)
    return Grouping(groups, similarity, tau_min, tau_max, max_group_size)


def group_within(
    labels: Sequence[Hashable], form: Callable[[list[int]], Iterable[Group]]
) -> tuple[Group, ...]:
    """Groups of prompts with the same label; who is in none is alone.

    Args:
        labels: One for each of N prompts.
        form: Maps the prompts of a label to groups of their places among these.

    Returns:
        A partition of 0..N-1, ordered by first members.
    """
    labelled: dict[Hashable, list[int]] = {}
    for n, label in enumerate(labels):
        labelled.setdefault(label, []).append(n)
    groups = [
        tuple(members[place] for place in group)
        for members in labelled.values()
        for group in form(members)
    ]
    alone = set(range(len(labels))).difference(chain.from_iterable(groups))
    return tuple(sorted([*groups, *((n,) for n in alone)], key=min))


def _decimals(similarity: Tensor) -> np.ndarray:
    """A float32 that stands for 0.6 must meet the bound 0.6: compared as decimals, in float64."""
    return np.round(similarity.double().cpu().numpy(), 6)


def _check_bounds(similarity: Tensor, tau_min: float, tau_max: float, max_size: int) -> None:
    if similarity.ndim != 2 or similarity.shape[0] != similarity.shape[1]:
        raise ValueError(f"similarity has shape {tuple(similarity.shape)}; need [N, N].")
    if not torch.allclose(similarity, similarity.T, atol=1e-5):
        raise ValueError("similarity is not symmetric, or holds a value that is not a number.")
    check_window(tau_min, tau_max)
    if max_size < 1:
        raise ValueError(f"max_group_size is {max_size}; allowed is 1 or more.")


class _Reasons:
    """Why each pair is together or apart, once the groups are known."""

    def __init__(self, grouping: Grouping) -> None:
        self.similarity = _decimals(grouping.similarity).tolist()
        self.group_of = {n: group for group in grouping.groups for n in group}
        self.tau_min, self.tau_max = grouping.tau_min, grouping.tau_max
        self.max_size = grouping.max_group_size

    def decide(self, i: int, j: int) -> PairDecision:
        """The decision for one pair."""
        value = self.similarity[i][j]
        kind, reason = self._explain(value, i, j, self.group_of[i], self.group_of[j])
        return PairDecision(i, j, value, kind, reason)

    def _explain(
        self, value: float, i: int, j: int, mine: Group, other: Group
    ) -> tuple[PairKind, str]:
        if mine == other:
            return "same_group", f"{value:.2f}: same group"
        if value < self.tau_min:
            return "too_far", f"{_precise(value, self.tau_min)} is below {self.tau_min:.2f}"
        if value > self.tau_max:
            return (
                "near_duplicate",
                f"{_precise(value, self.tau_max)} is above {self.tau_max:.2f}: near-duplicate",
            )
        if len(mine) + len(other) > self.max_size:
            return (
                "too_large",
                f"{value:.2f} fits, but would make the group larger than {self.max_size}",
            )
        return "better_elsewhere", f"{value:.2f} fits, but {self._rival(i, j, mine, other)}"

    def _rival(self, i: int, j: int, mine: Group, other: Group) -> str:
        """Names the tie that was stronger and the pair that stands in the way."""
        a, b = next((a, b) for a in mine for b in other if not self._fits(a, b))
        blocked = f"{a + 1} does not fit {b + 1} ({self.similarity[a][b]:.2f})"
        ties = [
            (self.similarity[p][q], p, q) for p, g in ((i, mine), (j, other)) for q in g if q != p
        ]
        tie, p, q = max(ties)
        return f"{p + 1} fits better with {q + 1} ({tie:.2f}), and {blocked}"

    def _fits(self, a: int, b: int) -> bool:
        return self.tau_min <= self.similarity[a][b] <= self.tau_max


def _precise(value: float, bound: float) -> str:
    """Two decimals, or as many as it takes to show that the value is not the bound."""
    digits = next((d for d in (2, 3, 4, 5) if round(value, d) != round(bound, d)), 6)
    return f"{value:.{digits}f}"
