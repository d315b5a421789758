"""Forms groups of 2 to 5 out of very many captions without the matrix of all similarities.

Knows embeddings and numbers; nothing of texts, files or pictures. Two steps: for each caption a few
neighbours within [tau_min, tau_max], found block by block; then groups inside these neighbourhoods
in which *every* pair lies within the bounds, as in `sage.core.grouping`.

The arrays need at most `memory_bound` bytes: 3.2 GB for 600,000 captions of width 768 and 32
neighbours, of which the embeddings are 1.8 GB. A test counts them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from sage.core.plan import Group

Prefer = Literal["any", "closest"]
ROWS, COLUMNS = 1024, 8192  # a block of similarities
# Values of 4 bytes for each pair of a block that live at once: similarities, masks, keys of 4 and
# of 8 bytes, and what choosing the smallest ones needs.
BLOCK_VALUES = 10
LIMIT = 2**31 - 1  # more captions than that have no room in a key
NOBODY = 2**63 - 1  # key of a pair that may not share


@dataclass(frozen=True)
class GroupingRule:
    """Which captions may form a group, and which of them do.

    Attributes:
        tau_min: Lowest cosine similarity inside a group.
        tau_max: Highest.
        max_group_size: Largest group. Each group gets its own limit, drawn from 2 to this, so that
            all sizes occur (the paper trains on groups of 2 to 5 and does not say how often each).
        neighbours: k, how many candidates each caption keeps.
        prefer: Among those within the bounds, "closest" keeps the most similar ones, so that most
            groups end up just below tau_max. "any" keeps a random choice, so that groups are
            spread over the whole window; ours, and the default.
        seed: Of that choice and of the limits.

    Raises:
        ValueError: If a value is not allowed.
    """

    tau_min: float
    tau_max: float
    max_group_size: int = 5
    neighbours: int = 32
    prefer: Prefer = "any"
    seed: int = 0

    def __post_init__(self) -> None:
        if not -1 <= self.tau_min <= self.tau_max <= 1:
            raise ValueError(
                f"tau_min is {self.tau_min} and tau_max is {self.tau_max}; "
                "allowed are -1 <= tau_min <= tau_max <= 1."
            )
        if self.max_group_size < 2 or self.neighbours < 1:
            raise ValueError(
                f"max_group_size is {self.max_group_size} and neighbours is {self.neighbours}; "
                "allowed are 2 or more and 1 or more."
            )
        if self.prefer not in get_args(Prefer):
            raise ValueError(f"prefer is {self.prefer!r}; allowed are 'any' and 'closest'.")


def memory_bound(captions: int, width: int, neighbours: int = 32) -> int:
    """Most bytes that the arrays of `form_groups` hold at once.

    Args:
        captions: N.
        width: D.
        neighbours: k.
    """
    embeddings = 4 * captions * width
    # 12 bytes a candidate pair, twice while blocks are put together, and what sorting adds.
    edges = 48 * captions * neighbours
    owners_marks_limits = 8 * 4 * captions
    block = 4 * BLOCK_VALUES * ROWS * COLUMNS
    return embeddings + edges + owners_marks_limits + block


def find_neighbours(
    embeddings: Tensor, owners: Tensor, rule: GroupingRule
) -> Iterator[tuple[Tensor, Tensor]]:
    """For blocks of captions, the k best candidates of each; never all similarities at once.

    Args:
        embeddings: [N, D] float32, unit length; the work is done on their device.
        owners: [N] int64; captions of one owner (of one picture) are no candidates of each other.
        rule: Bounds, k and preference.

    Yields:
        The block's rows [R] int64, and the packed keys of their candidates [R, k] int64, best
        first; NOBODY where there is no further one. See `unpacked`.
    """
    N, device = len(embeddings), embeddings.device
    marks = _marks(N, rule.seed).to(device)
    for start in range(0, N, ROWS):
        rows = torch.arange(start, min(start + ROWS, N), device=device)
        best = torch.full((len(rows), rule.neighbours), NOBODY, device=device)
        for left in range(0, N, COLUMNS):
            columns = torch.arange(left, min(left + COLUMNS, N), device=device)
            keys = _keys(embeddings, owners, marks, (rows, columns), rule)
            fresh = keys.topk(min(rule.neighbours, len(columns)), largest=False).values
            both = torch.cat([best, fresh], dim=1)
            best = both.topk(rule.neighbours, largest=False, sorted=True).values
        yield rows, best


def unpacked(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Packed keys as (key, index of the candidate); no two candidates have the same packed key."""
    return keys >> 31, keys & LIMIT


def _marks(captions: int, seed: int) -> Tensor:
    """[N] int32, a random number for each caption."""
    drawn = torch.Generator().manual_seed(seed)
    return torch.randint(LIMIT, (captions,), generator=drawn, dtype=torch.int32)


def _keys(
    embeddings: Tensor,
    owners: Tensor,
    marks: Tensor,
    block: tuple[Tensor, Tensor],
    rule: GroupingRule,
) -> Tensor:
    """[R, C] int64: how good a candidate is (small is good), then its index; NOBODY if none."""
    rows, columns = block
    similarity = embeddings[rows] @ embeddings[columns].T
    refused = (similarity < rule.tau_min) | (similarity > rule.tau_max)
    refused |= owners[rows][:, None] == owners[columns][None]
    refused |= rows[:, None] == columns[None]
    if rule.prefer == "closest":
        keys = similarity.clamp_(-1, 1).neg_().add_(1).mul_(2**29).to(torch.int32)
    else:
        # Random, and yet a candidate's candidates are mine too: the exclusive or is a metric, in
        # which near things are near each other (Kademlia). So groups of more than two come about.
        keys = marks[rows][:, None] ^ marks[columns][None]
    packed = keys.long().bitwise_left_shift_(31).bitwise_or_(columns[None])
    return packed.masked_fill_(refused, NOBODY)


def form_groups(
    embeddings: Tensor, owners: Tensor, rule: GroupingRule, device: torch.device | str = "cpu"
) -> tuple[Group, ...]:
    """Disjoint groups of 2 to max_group_size captions, every pair within the bounds.

    Candidate pairs are taken in the order of the rule's preference; two clusters are joined if
    every pair between them is within the bounds and of different owners, and the size allows it.

    Args:
        embeddings: [N, D] float32, unit length, on the CPU.
        owners: [N] int64, such as the picture of each caption.
        rule: The rule.
        device: Where similarities are computed.

    Returns:
        Groups of caption indices, each ascending, ordered by their first member. Captions without
        a group are in none.

    Raises:
        ValueError: If there are too many captions.
    """
    if len(embeddings) >= LIMIT:
        raise ValueError(f"There are {len(embeddings)} captions; allowed are fewer than {LIMIT}.")
    blocks = find_neighbours(embeddings.to(device), owners.to(device), rule)
    found = [torch.zeros(0, 3, dtype=torch.int32), *(_edges(*block) for block in blocks)]
    edges = torch.cat(found)  # (E, 3): key, first, second
    del found
    edges = _sorted(edges)
    search = _Clusters(embeddings, owners, rule, _limits(len(embeddings), rule).tolist())
    for part in edges.split(100_000):  # a Python list of all would be many times larger
        for first, second in part[:, 1:].tolist():
            search.join(first, second)
    return search.groups()


def _edges(rows: Tensor, packed: Tensor) -> Tensor:
    """[E, 3] int32 on the CPU: key, smaller and larger index of each candidate pair."""
    real = packed != NOBODY
    keys, second = unpacked(packed[real])
    first = rows[:, None].expand_as(packed)[real]
    low, high = torch.minimum(first, second), torch.maximum(first, second)
    return torch.stack([keys, low, high], dim=1).to("cpu", torch.int32)


def _sorted(edges: Tensor) -> Tensor:
    """Edges by key, then by indices; a pair found from both ends stands twice, harmlessly."""
    for column in (2, 1, 0):  # least important first: every sort is stable
        edges = edges[edges[:, column].sort(stable=True).indices]
    return edges


def _limits(captions: int, rule: GroupingRule) -> Tensor:
    """[N] the size limit of a cluster whose smallest member is caption n: uniform in 2..max."""
    drawn = torch.Generator().manual_seed(rule.seed + 1)
    return torch.randint(2, rule.max_group_size + 1, (captions,), generator=drawn)


class _Clusters:
    """Clusters that grow by joining."""

    def __init__(
        self, embeddings: Tensor, owners: Tensor, rule: GroupingRule, limits: Sequence[int]
    ) -> None:
        self.embeddings, self.rule, self.limits = embeddings, rule, limits
        self.owners = owners.tolist()
        self.cluster: dict[int, list[int]] = {}

    def join(self, first: int, second: int) -> None:
        """Join the clusters of two captions if the rule allows it."""
        a, b = self.cluster.get(first, [first]), self.cluster.get(second, [second])
        if a is b or len(a) + len(b) > self.limits[min(a[0], b[0])]:
            return
        # Two single captions are a pair from the list, which is within the bounds.
        if len(a) + len(b) > 2 and not self._fit(a, b):
            return
        union = sorted(a + b)
        for n in union:
            self.cluster[n] = union

    def _fit(self, a: list[int], b: list[int]) -> bool:
        if {self.owners[n] for n in a} & {self.owners[n] for n in b}:
            return False
        similarity = self.embeddings[a] @ self.embeddings[b].T
        inside = (similarity >= self.rule.tau_min) & (similarity <= self.rule.tau_max)
        return bool(inside.all())

    def groups(self) -> tuple[Group, ...]:
        """All clusters, each once."""
        return tuple(tuple(g) for n, g in sorted(self.cluster.items()) if n == g[0])
