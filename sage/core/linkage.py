"""Complete linkage under bounds: the one place that joins clusters by their least similar pair.

Knows a matrix of similarities and nothing else. The page's groups (`sage.core.grouping`), trees
and adaptive sampling (`sage.core.tree`) and the studies all read the joins that are made here. For
more prompts than a matrix has room for, see `sage.core.grouping_at_scale`.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sage.core.plan import Group

NEVER = -math.inf  # link of two clusters that may not be joined


@dataclass(frozen=True)
class Join:
    """Two clusters that become one.

    Attributes:
        first: Smallest member of one cluster; the joined cluster goes on under this number.
        second: Smallest member of the other, larger than `first`.
        link: Similarity of the least similar pair between them.
    """

    first: int
    second: int
    link: float


def check_window(tau_min: float, tau_max: float) -> None:
    """Refuses bounds of a cosine similarity that make no sense.

    Raises:
        ValueError: Unless -1 <= tau_min <= tau_max <= 1.
    """
    if not -1 <= tau_min <= tau_max <= 1:
        raise ValueError(
            f"tau_min is {tau_min} and tau_max is {tau_max}; "
            "allowed are -1 <= tau_min <= tau_max <= 1."
        )


def joins(
    similarity: np.ndarray, low: float = NEVER, high: float = math.inf, max_size: float = math.inf
) -> Iterator[Join]:
    """The joins of complete linkage, strongest first.

    The two clusters whose *least* similar pair is the most similar are joined, again and again, as
    long as every pair stays within the bounds and the size allows it. Of two candidates with equal
    weakest links the one with the better remaining links is taken (the weakest ones compared
    first), then the one with the smaller members. Takes O(N²) time unless very many values are
    equal, and 17·N² bytes.

    Args:
        similarity: [N, N] symmetric; any scale, larger is closer. Only what is above the diagonal
            is read.
        low: Lowest value allowed inside a cluster.
        high: Highest value allowed inside a cluster.
        max_size: Largest cluster.

    Yields:
        Each join as it is made.

    Raises:
        ValueError: If a value is not a number.
    """
    # The upper half decides, so that rounding in a nearly symmetric matrix has no say.
    similarity = np.triu(np.asarray(similarity, np.float64), 1)
    similarity += similarity.T
    if np.isnan(similarity).any():
        raise ValueError("similarity holds a value that is not a number.")
    number = len(similarity)
    if number < 2 or max_size < 2:
        return
    # Between clusters, at their smallest members: the least similar pair. A pair that is out of
    # bounds has NEVER, which every later minimum keeps.
    links = np.where((similarity >= low) & (similarity <= high), similarity, NEVER)
    np.fill_diagonal(links, NEVER)
    best = links.max(1)  # of each row, so that a join looks at few rows and not at the matrix
    members = [[n] for n in range(number)]
    sizes = np.ones(number)
    while (link := float(best.max())) > NEVER:
        first, second = map(int, _strongest(similarity, links, best, members))
        yield Join(first, second, link)
        near = (links[first] == best) | (links[second] == best)
        members[first] = sorted(members[first] + members[second])
        sizes[first] += sizes[second]
        links[first] = np.minimum(links[first], links[second])
        links[first, sizes + sizes[first] > max_size] = NEVER
        links[second], links[:, second] = NEVER, NEVER
        links[first, [first, second]] = NEVER
        links[:, first] = links[first]
        stale = near & (links[first] < best)  # lost the cluster that was their best
        stale[[first, second]] = True
        best[stale] = links[stale].max(1)


def _strongest(
    similarity: np.ndarray, links: np.ndarray, best: np.ndarray, members: list[list[int]]
) -> tuple[int, int]:
    """The pair of clusters to join next."""
    rows = np.flatnonzero(best == best.max())
    # Two single prompts have one link, and any list that goes on after it is the larger one: only
    # pairs with a wider cluster have to be compared, of which there are few.
    wide = np.array([n for n in rows if len(members[n]) > 1], np.intp)
    places, columns = np.nonzero(links[wide] == best.max())
    pairs = sorted({(min(a, b), max(a, b)) for a, b in zip(wide[places], columns, strict=True)})
    if not pairs:  # two single prompts, the smallest ones
        return int(rows[0]), int(links[rows[0]].argmax())
    return max(pairs, key=lambda pair: _all_links(similarity, *(members[c] for c in pair)))


def _all_links(similarity: np.ndarray, first: list[int], second: list[int]) -> list[float]:
    return sorted(similarity[np.ix_(first, second)].ravel().tolist())


def complete_linkage(
    similarity: np.ndarray, low: float, high: float = math.inf, max_size: float = math.inf
) -> tuple[Group, ...]:
    """Clusters in which every pair lies within the bounds; see `joins`.

    Args:
        similarity: [N, N] symmetric.
        low: Lowest value allowed inside a cluster.
        high: Highest value allowed inside a cluster.
        max_size: Largest cluster.

    Returns:
        A partition of 0..N-1, each cluster ascending, ordered by their first members.
    """
    clusters: dict[int, list[int]] = {n: [n] for n in range(len(similarity))}
    for join in joins(similarity, low, high, max_size):
        clusters[join.first] += clusters.pop(join.second)
    return tuple(tuple(sorted(clusters[n])) for n in sorted(clusters))
