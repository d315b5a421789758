"""Complete linkage under bounds for a thousand prompts: the rule of `sage.core.grouping`, faster.

`sage.core.grouping` explains every pair and is made for the prompts of one visitor; this one only
finds the groups. Knows numbers only.
"""

import numpy as np

from sage.core.plan import Group


def complete_linkage(
    similarity: np.ndarray, tau_min: float, tau_max: float, max_group_size: int = 5
) -> tuple[Group, ...]:
    """Groups in which every pair lies within the bounds.

    The two clusters whose least similar pair is the most similar are merged, again and again, as
    long as every pair stays within the bounds and the size allows it.

    Args:
        similarity: [N, N] symmetric.
        tau_min: Lowest similarity allowed inside a group.
        tau_max: Highest.
        max_group_size: Largest group.

    Returns:
        Groups, each ascending, ordered by their first member.
    """
    number = len(similarity)
    rounded = np.round(similarity.astype(np.float64), 6)
    # Between clusters, at their smallest members: least similar pair; -2 where they may not merge.
    weakest = np.where((rounded >= tau_min) & (rounded <= tau_max), rounded, -2.0)
    np.fill_diagonal(weakest, -2.0)
    clusters: dict[int, Group] = {n: (n,) for n in range(number)}
    sizes = np.ones(number, int)
    while number > 1:
        first, second = sorted(divmod(int(weakest.argmax()), number))
        if weakest[first, second] == -2.0:
            break
        clusters[first] = tuple(sorted(clusters[first] + clusters.pop(second)))
        sizes[first] += sizes[second]
        # A pair that is out of bounds has -2, which the minimum keeps.
        weakest[first] = np.minimum(weakest[first], weakest[second])
        weakest[first, first] = -2.0
        weakest[second], weakest[:, second] = -2.0, -2.0
        weakest[first, sizes + sizes[first] > max_group_size] = -2.0
        weakest[:, first] = weakest[first]
    return tuple(clusters[n] for n in sorted(clusters))
