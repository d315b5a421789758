"""Groups of a thousand prompts by the page's rule, without a reason for every pair."""

import numpy as np

from sage.core.linkage import complete_linkage as linked
from sage.core.plan import Group


def complete_linkage(
    similarity: np.ndarray, tau_min: float, tau_max: float, max_group_size: int = 5
) -> tuple[Group, ...]:
    """The groups that `sage.core.grouping.group_prompts` forms.

    Args:
        similarity: [N, N] symmetric.
        tau_min: Lowest similarity allowed inside a group.
        tau_max: Highest.
        max_group_size: Largest group.

    Returns:
        Groups, each ascending, ordered by their first member.
    """
    return linked(np.round(similarity.astype(np.float64), 6), tau_min, tau_max, max_group_size)
