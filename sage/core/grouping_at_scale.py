"""Forms groups of 2 to 5 out of very many prompts without the matrix of all similarities.

Knows embeddings and numbers; nothing of texts, files or pictures. Two steps: for each prompt a few
neighbours within [tau_min, tau_max], found block by block; then groups inside these neighbourhoods
in which *every* pair lies within the bounds, as in `sage.core.grouping`.

The preference "any" deals prompts into blocks by the leading bits of a random mark and takes the
candidates whose marks are nearest by exclusive or. All of block `a ^ x` are nearer to block `a`
than those of `a ^ (x + 1)`: blocks are met in that order, and a prompt that has its neighbours
takes no further part. So the search ends early where many pairs fit; where few do, every pair is
computed once.

"closest" puts similar prompts into one block, by halving them again and again along the direction
in which they differ most. A block meets the blocks nearest to it, until each of its prompts has met
`MET` others: so every pair is computed up to that many prompts, and beyond it the work grows with
the number of prompts, not with its square. A neighbour can then be missed.

The arrays need at most `memory_bound` bytes: 3.2 GB for 600,000 prompts of width 768 and 32
neighbours, of which the embeddings are 1.8 GB. A test counts them.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from sage.core.linkage import check_window
from sage.core.plan import Group

Prefer = Literal["any", "closest"]
Sizes = Literal["mixed", "largest"]
Report = Callable[[float], object]  # told the share of the work that is done, in [0, 1]
# Most prompts of a block, on average. What is near is met in small blocks: there nearly every pair
# may be of use; afterwards few are, and large blocks make few calls.
NEAR_BLOCK, BLOCK = 256, 2048
# Bytes that live at once for each pair of a block: a similarity, masks, and for the pairs that may
# be of use (few, but for near blocks) their places, their keys, and what sorting adds.
PAIR_BYTES = 24
MET = 65_536  # others that a prompt meets at least with "closest", if there are so many
SAMPLED, ALONG = 1024, 65_536  # prompts that tell a direction, and that are laid along it at once
TURNS = 8  # of the power iteration for a direction; it need not be exact
ROUNDS = 64  # of "closest" after the near blocks, for progress only
MARK_BITS = 31
LIMIT = 2**MARK_BITS - 1  # more prompts than that have no room in a key
NOBODY = 2**63 - 1  # key of a candidate that is not there
EDGE_ROWS = 16_384  # rows of candidates that become pairs at once
PYTHON_EDGES = 100_000  # pairs that become a Python list at once; all would be many times larger
SCALE = 2**29  # steps of a key over a distance of 1


@dataclass(frozen=True)
class GroupingRule:
    """Which prompts may form a group, and which of them do.

    Attributes:
        tau_min: Lowest cosine similarity inside a group.
        tau_max: Highest.
        max_group_size: Largest group.
        neighbours: k, how many candidates each prompt keeps.
        prefer: Among those within the bounds, "closest" keeps the most similar ones, so that most
            groups end up just below tau_max. "any" keeps a random choice, so that groups are
            spread over the whole window; ours, and the default.
        seed: Of that choice and of the limits.
        sizes: "mixed" draws a limit for each group, from 2 to max_group_size, so that training sees
            all sizes (the paper trains on groups of 2 to 5 and does not say how often each).
            "largest" lets every group grow as far as it can, which saves the most.

    Raises:
        ValueError: If a value is not allowed.
    """

    tau_min: float
    tau_max: float
    max_group_size: int = 5
    neighbours: int = 32
    prefer: Prefer = "any"
    seed: int = 0
    sizes: Sizes = "mixed"

    def __post_init__(self) -> None:
        check_window(self.tau_min, self.tau_max)
        if self.max_group_size < 2 or self.neighbours < 1:
            raise ValueError(
                f"max_group_size is {self.max_group_size} and neighbours is {self.neighbours}; "
                "allowed are 2 or more and 1 or more."
            )
        for name, choices in (("prefer", get_args(Prefer)), ("sizes", get_args(Sizes))):
            if getattr(self, name) not in choices:
                words = " and ".join(map(repr, choices))
                raise ValueError(f"{name} is {getattr(self, name)!r}; allowed are {words}.")


def memory_bound(prompts: int, width: int, neighbours: int = 32) -> int:
    """Most bytes that the arrays of `form_groups` hold at once.

    Args:
        prompts: N.
        width: D.
        neighbours: k.
    """
    embeddings = 4 * prompts * width
    # 8 bytes a candidate; 12 bytes a pair, twice while blocks are put together, and what sorting
    # adds.
    candidates = 8 * prompts * neighbours
    edges = 48 * prompts * neighbours + 64 * min(EDGE_ROWS, prompts) * neighbours
    owners_marks_limits = 8 * 8 * prompts
    rows = min(1.25 * BLOCK, prompts)  # random blocks are of about one size
    block = int(PAIR_BYTES * rows**2 + 8 * rows * width)
    return embeddings + candidates + edges + owners_marks_limits + block


class _Neighbours:
    """The best candidates of each prompt so far.

    Attributes:
        best: [N, k] int64 keys of candidates, best first, with the candidate's index in the lower
            bits; NOBODY where there is no further one.
        least: [N] float32, the lowest similarity that would still be of use to a prompt.
    """

    def __init__(self, embeddings: Tensor, owners: Tensor, rule: GroupingRule) -> None:
        number, device = len(embeddings), embeddings.device
        self.embeddings, self.owners, self.rule = embeddings, owners, rule
        self.marks = _marks(number, rule.seed).to(device)
        self.shared_owners = len(owners.unique()) < number
        self.best = torch.full((number, rule.neighbours), NOBODY, device=device)
        self.least = torch.full((number,), rule.tau_min, device=device)

    def blocks(self, size: int) -> list[Tensor]:
        """Prompts in 2^n blocks of up to this size on average, what is near in near blocks."""
        bits = max(0, math.ceil(math.log2(max(len(self.marks), 1) / size)))
        if self.rule.prefer == "closest":
            return _halved(self.embeddings, bits)
        block_of = self.marks >> (MARK_BITS - bits)
        order = block_of.sort(stable=True).indices
        return list(order.split(block_of.long().bincount(minlength=2**bits).tolist()))

    def rounds(self) -> Iterator[list[tuple[Tensor, Tensor]]]:
        """Who meets whom, near blocks first; all prompts have a part in a round of "any"."""
        small = self.blocks(min(NEAR_BLOCK, BLOCK))
        ratio = len(small) // 2 ** max(0, math.ceil(math.log2(max(len(self.marks), 1) / BLOCK)))
        large = [torch.cat(small[n : n + ratio]) for n in range(0, len(small), ratio)]
        for x in range(ratio):
            yield _pairs_apart(small, x)
        if self.rule.prefer == "any":
            for x in range(1, len(large)):
                yield _pairs_apart(large, x)
            return
        pairs = _nearest_blocks(self.embeddings, large)
        size = -(-len(pairs) // ROUNDS)
        for start in range(0, len(pairs), max(size, 1)):
            yield [(large[a], large[b]) for a, b in pairs[start : start + size]]

    def meet(self, rows: Tensor, columns: Tensor) -> None:
        """Let the prompts of two blocks, or of one, become candidates of each other."""
        if rows is columns:
            self._keep(*self._pairs(rows, rows))
            return
        hungry = [block[self.least[block] < math.inf] for block in (rows, columns)]
        one_by_one = len(hungry[0]) * len(columns) + len(hungry[1]) * len(rows)
        if one_by_one < len(rows) * len(columns):
            self._keep(*self._pairs(hungry[0], columns))
            self._keep(*self._pairs(hungry[1], rows))
            return
        first, second, keys = self._pairs(rows, columns)
        self._keep(first, second, keys)
        self._keep(second, first, keys)

    def _pairs(self, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Prompts [E] and [E] that may share, where one has use for the other, and keys [E]."""
        similarity = self.embeddings[rows] @ self.embeddings[columns].T
        fits = similarity >= self.least[rows][:, None]
        fits |= similarity >= self.least[columns][None]
        places = _true_places(fits)
        values = similarity.view(-1)[places]
        first, second = rows[places // len(columns)], columns[places % len(columns)]
        keep = (values <= self.rule.tau_max) & (first != second)
        if self.shared_owners:
            keep &= self.owners[first] != self.owners[second]
        first, second, values = first[keep], second[keep], values[keep]
        if self.rule.prefer == "closest":
            keys = values.clamp_(-1, 1).neg_().add_(1).mul_(SCALE).to(torch.int32)
        else:
            # Random, and yet a candidate's candidates are mine too: the exclusive or is a metric,
            # in which near things are near each other (Kademlia). So groups of more than two come
            # about.
            keys = self.marks[first] ^ self.marks[second]
        return first, second, keys

    def _keep(self, mine: Tensor, others: Tensor, keys: Tensor) -> None:
        """Put candidates `others` [E] of prompts `mine` [E] among their best."""
        keys = keys.long().bitwise_left_shift_(MARK_BITS).bitwise_or_(others)
        useful = keys < self.best[mine, -1]
        mine, keys = mine[useful], keys[useful]
        if not len(mine):
            return
        # By prompt, then by key: the second sort is stable.
        keys, order = keys.sort()
        mine, by_prompt = mine[order].sort(stable=True)
        keys = keys[by_prompt]
        prompts, counts = mine.unique_consecutive(return_counts=True)
        starts = counts.cumsum(0) - counts
        rank = torch.arange(len(mine), device=mine.device) - starts.repeat_interleave(counts)
        near = rank < self.rule.neighbours
        row = torch.arange(len(prompts), device=mine.device).repeat_interleave(counts)
        fresh = torch.full((len(prompts), self.rule.neighbours), NOBODY, device=mine.device)
        fresh[row[near], rank[near]] = keys[near]
        both = torch.cat([self.best[prompts], fresh], 1).sort(1).values
        self.best[prompts] = both[:, : self.rule.neighbours]
        self._raise_least(prompts)

    def _raise_least(self, prompts: Tensor) -> None:
        """What a prompt with all its neighbours need not look at any more."""
        worst = self.best[prompts, -1]
        prompts, worst = prompts[worst != NOBODY], worst[worst != NOBODY]
        if self.rule.prefer == "any":  # later blocks are further away
            self.least[prompts] = math.inf
            return
        # A little less than the worst kept similarity: keys are whole steps.
        similarity = 1 - ((worst >> MARK_BITS) + 2).double() / SCALE
        self.least[prompts] = similarity.float().clamp_min(self.rule.tau_min)


def find_neighbours(
    embeddings: Tensor, owners: Tensor, rule: GroupingRule, report: Report | None = None
) -> Tensor:
    """The k best candidates of each prompt; never all similarities at once.

    Args:
        embeddings: [N, D] float32, unit length; the work is done on their device.
        owners: [N] int64; prompts of one owner (captions of one picture) are no candidates of each
            other.
        rule: Bounds, k and preference.
        report: Told how much is done.

    Returns:
        [N, k] int64 packed keys of the candidates, best first; NOBODY where there is no further
        one. See `unpacked`.
    """
    search = _Neighbours(embeddings, owners, rule)
    rounds = list(search.rounds())
    met, every = 0, sum(len(a) * len(b) for meetings in rounds for a, b in meetings)
    for meetings in rounds:
        for rows, columns in meetings:
            search.meet(rows, columns)
            met += len(rows) * len(columns)
        if report is not None:
            report(met / max(every, 1))
        if bool((search.least == math.inf).all()):
            break
    return search.best


def _pairs_apart(blocks: list[Tensor], x: int) -> list[tuple[Tensor, Tensor]]:
    """Every block with that whose number is its own by exclusive or with x; each pair once."""
    return [(blocks[a], blocks[a ^ x]) for a in range(len(blocks)) if a <= a ^ x]


def _halved(embeddings: Tensor, times: int) -> list[Tensor]:
    """Prompts in 2^times parts of one size, neighbours in the list being near each other."""
    parts = [torch.arange(len(embeddings), device=embeddings.device)]
    for _ in range(times):
        parts = [half for part in parts for half in _halves(embeddings, part)]
    return parts


def _halves(embeddings: Tensor, part: Tensor) -> tuple[Tensor, Tensor]:
    """Two halves of some prompts, apart along the direction in which a sample differs most."""
    sample = embeddings[part[:: max(1, len(part) // SAMPLED)]]
    sample = sample - sample.mean(0)
    direction = sample[sample.square().sum(1).argmax()] if len(sample) else embeddings.new_zeros(0)
    for _ in range(TURNS if len(sample) else 0):  # towards the first principal component
        direction = torch.nn.functional.normalize(sample.T @ (sample @ direction), dim=0)
    if not len(part):
        return part, part
    along = torch.cat([embeddings[some] @ direction for some in part.split(ALONG)])
    order, middle = along.sort(stable=True).indices, len(part) // 2
    return part[order[:middle]], part[order[middle:]]


def _nearest_blocks(embeddings: Tensor, blocks: list[Tensor]) -> list[tuple[int, int]]:
    """Pairs of blocks that meet, nearest first; each block is in so many that `MET` is kept."""
    number = len(blocks)
    if number < 2:
        return []
    centres = torch.stack([embeddings[block].mean(0) for block in blocks])
    nearness = torch.nn.functional.normalize(centres, dim=1)
    nearness = nearness @ nearness.T
    others = min(number - 1, math.ceil(MET / min(map(len, blocks))) if len(blocks[0]) else number)
    nearness.fill_diagonal_(math.inf)  # itself, which it has met
    near = nearness.topk(others + 1, dim=1).indices[:, 1:]
    meets = torch.zeros(number, number, dtype=torch.bool, device=embeddings.device)
    meets.scatter_(1, near, True)
    first, second = (meets | meets.T).triu(1).nonzero(as_tuple=True)
    order = nearness[first, second].sort(descending=True, stable=True).indices
    return list(zip(first[order].tolist(), second[order].tolist(), strict=True))


def _true_places(mask: Tensor) -> Tensor:
    """[E] int64, where a flattened mask is true."""
    if mask.device.type == "cpu":  # NumPy's is several times faster there
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.view(-1).nonzero().view(-1)


def unpacked(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Packed keys as (key, index of the candidate); no two candidates have the same packed key."""
    return keys >> MARK_BITS, keys & LIMIT


def _marks(prompts: int, seed: int) -> Tensor:
    """[N] int32, a random number for each prompt."""
    drawn = torch.Generator().manual_seed(seed)
    return torch.randint(LIMIT, (prompts,), generator=drawn, dtype=torch.int32)


def form_groups(
    embeddings: Tensor,
    owners: Tensor,
    rule: GroupingRule,
    device: torch.device | str = "cpu",
    report: Report | None = None,
) -> tuple[Group, ...]:
    """Disjoint groups of 2 to max_group_size prompts, every pair within the bounds.

    Candidate pairs are taken in the order of the rule's preference; two clusters are joined if
    every pair between them is within the bounds and of different owners, and the size allows it.

    Args:
        embeddings: [N, D] float32, unit length, on the CPU.
        owners: [N] int64, such as the picture of each caption; `torch.arange(N)` if all differ.
        rule: The rule.
        device: Where similarities are computed.
        report: Told how much is done, from 0 to 1; finding neighbours counts as nine tenths.

    Returns:
        Groups of prompt indices, each ascending, ordered by their first member. Prompts without a
        group are in none.

    Raises:
        ValueError: If there are too many prompts, or owners for another number of them.
    """
    if len(embeddings) >= LIMIT:
        raise ValueError(f"There are {len(embeddings)} prompts; allowed are fewer than {LIMIT}.")
    if len(owners) != len(embeddings):
        raise ValueError(f"There are {len(embeddings)} embeddings and {len(owners)} owners.")
    if report is None:
        report = _nobody_listens
    best = find_neighbours(
        embeddings.to(device), owners.to(device), rule, lambda share: report(0.9 * share)
    )
    edges = torch.cat([torch.zeros(0, 3, dtype=torch.int32), *_edges(best)])
    del best
    edges = _sorted(edges)  # (E, 3): key, first, second
    clusters = _Clusters(embeddings, owners, rule, _limits(len(embeddings), rule).tolist())
    parts = edges.split(PYTHON_EDGES)
    for number, part in enumerate(parts):
        for first, second in clusters.open(part[:, 1:]).tolist():
            clusters.join(first, second)
        report(0.9 + 0.1 * (number + 1) / len(parts))
    report(1.0)
    return clusters.groups()


def _nobody_listens(share: float) -> None:
    pass


def _edges(best: Tensor) -> Iterator[Tensor]:
    """[E, 3] int32 on the CPU: key, smaller and larger index of each candidate pair."""
    for start in range(0, len(best), EDGE_ROWS):
        packed = best[start : start + EDGE_ROWS]
        places = (packed != NOBODY).nonzero(as_tuple=True)
        keys, second = unpacked(packed[places])
        first = places[0] + start
        low, high = torch.minimum(first, second), torch.maximum(first, second)
        yield torch.stack([keys, low, high], dim=1).to("cpu", torch.int32)


def _sorted(edges: Tensor) -> Tensor:
    """Edges by key, then by indices; a pair found from both ends once."""
    for column in (2, 1, 0):  # least important first: every sort is stable
        edges = edges[edges[:, column].sort(stable=True).indices]
    fresh = torch.ones(len(edges), dtype=torch.bool)
    fresh[1:] = (edges[1:] != edges[:-1]).any(1)
    return edges[fresh]


def _limits(prompts: int, rule: GroupingRule) -> Tensor:
    """[N] the size limit of a cluster whose smallest member is prompt n: uniform in 2..max."""
    if rule.sizes == "largest":
        return torch.full((prompts,), rule.max_group_size)
    drawn = torch.Generator().manual_seed(rule.seed + 1)
    return torch.randint(2, rule.max_group_size + 1, (prompts,), generator=drawn)


class _Clusters:
    """Clusters that grow by joining."""

    def __init__(
        self, embeddings: Tensor, owners: Tensor, rule: GroupingRule, limits: Sequence[int]
    ) -> None:
        # NumPy: for a handful of vectors a call of torch takes many times as long.
        self.embeddings, self.rule, self.limits = embeddings.numpy(), rule, limits
        self.owners = owners.tolist()
        self.cluster: dict[int, list[int]] = {}
        self.full = np.zeros(len(embeddings), bool)  # in a cluster that no other can join

    def open(self, pairs: Tensor) -> Tensor:
        """Those of pairs [E, 2] that might still be joined; most need not be looked at alone."""
        return pairs[torch.from_numpy(~self.full[pairs.numpy()].any(1))]

    def join(self, first: int, second: int) -> None:
        """Join the clusters of two prompts if the rule allows it."""
        a, b = self.cluster.get(first, [first]), self.cluster.get(second, [second])
        if a is b or len(a) + len(b) > self.limits[min(a[0], b[0])]:
            return
        # Two single prompts are a pair from the list, which is within the bounds.
        if len(a) + len(b) > 2 and not self._fit(a, b):
            return
        union = sorted(a + b)
        for n in union:
            self.cluster[n] = union
        if len(union) >= self.rule.max_group_size:
            self.full[union] = True

    def _fit(self, a: list[int], b: list[int]) -> bool:
        if {self.owners[n] for n in a} & {self.owners[n] for n in b}:
            return False
        similarity = self.embeddings[a] @ self.embeddings[b].T
        inside = (similarity >= self.rule.tau_min) & (similarity <= self.rule.tau_max)
        return bool(inside.all())

    def groups(self) -> tuple[Group, ...]:
        """All clusters, each once."""
        return tuple(tuple(g) for n, g in sorted(self.cluster.items()) if n == g[0])
