"""Groups out of many captions: equal to brute force, within the bounds, within the memory."""

import json
import time
import weakref
import zlib
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sage.core import grouping_at_scale as grouping
from sage.core.grouping_at_scale import (
    NOBODY,
    GroupingRule,
    find_neighbours,
    form_groups,
    memory_bound,
    unpacked,
)

CAPTIONS = Path(__file__).parents[1] / "data" / "coco_captions_5k.jsonl"
RULE = GroupingRule(0.35, 0.8, neighbours=16)


@cache
def coco():
    """Hashed bags of words of 5,000 COCO captions [5000, 256], unit length, and their pictures."""
    records = [json.loads(line) for line in CAPTIONS.read_text("utf-8").splitlines()]
    bags = torch.zeros(len(records), 256)
    for row, record in enumerate(records):
        for word in record["caption"].lower().strip(".").split():
            bags[row, zlib.crc32(word.encode()) % 256] += 1
    # Rare words say more: weigh by the inverse of their frequency.
    bags *= (len(bags) / (1 + (bags > 0).sum(0))).log()
    owners = torch.tensor([record["image_id"] for record in records])
    return torch.nn.functional.normalize(bags, dim=1), owners


def small(n=300):
    embeddings, owners = coco()
    return embeddings[:n], owners[:n]


def allowed_pairs(embeddings, owners, rule):
    """The full matrix, as brute force has it."""
    similarity = embeddings @ embeddings.T
    fits = (similarity >= rule.tau_min) & (similarity <= rule.tau_max)
    return similarity, fits & (owners[:, None] != owners[None]) & ~torch.eye(len(fits)).bool()


@pytest.mark.parametrize("prefer", ["closest", "any"])
@pytest.mark.parametrize(("block", "neighbours"), [(2048, 5), (40, 5), (40, 1), (9, 40)])
def test_neighbours_are_those_of_brute_force(prefer, block, neighbours, monkeypatch):
    """In one block and in many, where the search ends early and where it does not."""
    monkeypatch.setattr(grouping, "BLOCK", block)
    monkeypatch.setattr(grouping, "NEAR_BLOCK", block // 4 + 1)
    embeddings, owners = small()
    rule = replace(RULE, prefer=prefer, neighbours=neighbours)
    similarity, fits = allowed_pairs(embeddings, owners, rule)
    marks = grouping._marks(len(embeddings), rule.seed)
    for row, mine in enumerate(find_neighbours(embeddings, owners, rule)):
        keys, found = unpacked(mine[mine != NOBODY])
        candidates = fits[row].nonzero().flatten().tolist()
        assert len(found) == min(neighbours, len(candidates))
        assert set(found.tolist()) <= set(candidates)
        if prefer == "any":
            order = sorted(candidates, key=lambda j: (int(marks[row] ^ marks[j]), j))
            assert found.tolist() == order[:neighbours]
        elif candidates:
            best = similarity[row][candidates].sort(descending=True).values[:neighbours]
            assert (similarity[row][found] - best).abs().max() < 1e-5
            assert keys.tolist() == sorted(keys.tolist())


def test_the_search_ends_when_all_have_their_neighbours(monkeypatch):
    """Where most pairs fit, few blocks are met, and the report says that all is done."""
    monkeypatch.setattr(grouping, "BLOCK", 256)
    monkeypatch.setattr(grouping, "NEAR_BLOCK", 64)
    met, shares = [], []
    meet = grouping._Neighbours.meet
    monkeypatch.setattr(
        grouping._Neighbours, "meet", lambda self, *two: (met.append(two), meet(self, *two))
    )
    embeddings, _ = small(1000)
    wide = GroupingRule(-1.0, 1.0, neighbours=4)
    groups = form_groups(embeddings, torch.arange(1000), wide, report=shares.append)
    blocks = 16
    assert len(met) == blocks
    assert sum(map(len, groups)) > 900
    assert shares == sorted(shares)
    assert shares[-1] == 1


@pytest.mark.slow
def test_beyond_a_number_of_prompts_the_work_grows_with_them_alone(monkeypatch):
    """Each meets those of the blocks nearest to it, and the groups save nearly as much."""
    monkeypatch.setattr(grouping, "BLOCK", 100)
    monkeypatch.setattr(grouping, "NEAR_BLOCK", 50)
    embeddings, owners = coco()
    rule = replace(RULE, prefer="closest", sizes="largest")
    met, meet = [], grouping._Neighbours.meet
    monkeypatch.setattr(
        grouping._Neighbours,
        "meet",
        lambda self, a, b: (met.append(len(a) * len(b)), meet(self, a, b)),
    )
    spent, saved = [], []
    for most in (len(embeddings), 500):
        monkeypatch.setattr(grouping, "MET", most)
        met.clear()
        groups = form_groups(embeddings, owners, rule)
        spent.append(sum(met))
        saved.append(sum(len(group) - 1 for group in groups))
    # Who is near to many is met by many; a pair is computed once.
    assert spent[1] < 2 * 500 * len(embeddings) < spent[0] / 2
    assert saved[1] > 0.85 * saved[0]


@pytest.mark.slow
def test_the_largest_groups_save_more_than_mixed_ones():
    embeddings, owners = small(2000)
    mixed, largest = (
        form_groups(embeddings, owners, GroupingRule(-1.0, 1.0, neighbours=16, sizes=sizes))
        for sizes in ("mixed", "largest")
    )

    def trunks_saved(groups):
        return sum(len(group) - 1 for group in groups)

    assert trunks_saved(largest) > 1.05 * trunks_saved(mixed)
    assert max(map(len, largest)) == RULE.max_group_size


def greedy(embeddings, owners, rule):
    """The same groups from the full list of pairs and plain sets."""
    _, fits = allowed_pairs(embeddings, owners, rule)
    marks = grouping._marks(len(embeddings), rule.seed).tolist()
    limits = grouping._limits(len(embeddings), rule).tolist()
    pairs = [(marks[i] ^ marks[j], i, j) for i, j in fits.nonzero().tolist() if i < j]
    clusters = [frozenset([n]) for n in range(len(embeddings))]
    for _, i, j in sorted(pairs):
        a = next(c for c in clusters if i in c)
        b = next(c for c in clusters if j in c)
        union = a | b
        if a != b and len(union) <= limits[min(union)] and all(fits[p, q] for p in a for q in b):
            clusters = [c for c in clusters if c not in (a, b)] + [union]
    return tuple(sorted(tuple(sorted(c)) for c in clusters if len(c) > 1))


def test_with_all_neighbours_the_groups_are_those_of_brute_force(monkeypatch):
    monkeypatch.setattr(grouping, "BLOCK", 30)
    embeddings, owners = small(200)
    rule = replace(RULE, neighbours=199)
    groups = form_groups(embeddings, owners, rule)
    assert groups == greedy(embeddings, owners, rule)
    assert len(groups) > 10


@pytest.mark.slow
@pytest.mark.parametrize("prefer", ["any", "closest"])
def test_five_thousand_captions(prefer):
    embeddings, owners = coco()
    rule = replace(RULE, prefer=prefer)
    groups = form_groups(embeddings, owners, rule)
    members = [n for group in groups for n in group]
    assert len(members) == len(set(members))
    assert {len(group) for group in groups} == {2, 3, 4, 5}
    for group in groups:
        index = torch.tensor(group)
        similarity = (embeddings[index] @ embeddings[index].T)[~torch.eye(len(group)).bool()]
        assert float(similarity.min()) >= rule.tau_min - 1e-6
        assert float(similarity.max()) <= rule.tau_max + 1e-6
        assert len(set(owners[index].tolist())) == len(group)
    # Brute force, which knows every pair, finds room for few captions more.
    _, fits = allowed_pairs(embeddings, owners, rule)
    assert len(members) > 0.8 * int(fits.any(1).sum())


def test_groups_are_the_same_every_time():
    assert form_groups(*small(1000), RULE) == form_groups(*small(1000), RULE)
    assert form_groups(*small(1000), RULE) != form_groups(*small(1000), replace(RULE, seed=1))


@pytest.mark.slow
def test_any_spreads_over_the_window_and_closest_does_not():
    embeddings, owners = small(2000)

    def mean_similarity(prefer):
        groups = form_groups(embeddings, owners, replace(RULE, prefer=prefer))
        pairs = torch.tensor([group[:2] for group in groups])
        return float((embeddings[pairs[:, 0]] * embeddings[pairs[:, 1]]).sum(1).mean())

    assert mean_similarity("closest") > mean_similarity("any") + 0.03


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all arrays that are alive, and the largest one made."""

    def __init__(self):
        super().__init__()
        self.alive, self.now, self.peak, self.largest = {}, 0, 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else [result]:
            if isinstance(value, torch.Tensor):
                self.count(value)
        return result

    def count(self, value):
        storage = value.untyped_storage()
        where, size = storage.data_ptr(), storage.nbytes()
        users, _ = self.alive.get(where, (0, 0))
        self.alive[where] = (users + 1, size)
        self.now += 0 if users else size
        self.peak, self.largest = max(self.peak, self.now), max(self.largest, size)
        weakref.finalize(value, self.drop, where)

    def drop(self, where):
        users, size = self.alive.pop(where)
        if users > 1:
            self.alive[where] = (users - 1, size)
        else:
            self.now -= size


@pytest.mark.slow
@pytest.mark.parametrize("prefer", ["any", "closest"])
def test_memory_stays_within_the_bound(monkeypatch, prefer):
    """Arrays that are alive are counted; N² similarities would be far over the bound."""
    monkeypatch.setattr(grouping, "BLOCK", 100)
    monkeypatch.setattr(grouping, "NEAR_BLOCK", 25)
    monkeypatch.setattr(grouping, "EDGE_ROWS", 256)
    N, D, k = 3000, 32, 8
    embeddings = torch.nn.functional.normalize(coco()[0][:N, :D] + 0.01, dim=1)
    bound = memory_bound(N, D, k)
    with LiveBytes() as live:
        rule = GroupingRule(0.5, 0.9, neighbours=k, prefer=prefer)
        groups = form_groups(embeddings, torch.arange(N), rule)
    assert len(groups) > 150
    assert live.peak + embeddings.nbytes <= bound
    assert bound < 4 * N * N / 10
    assert live.largest < 4 * N * N / 10


def test_six_hundred_thousand_captions_fit_in_eight_gigabytes():
    assert memory_bound(600_000, 768, 32) < 3.3e9


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"tau_min": 0.9}, "tau_min"),
        ({"max_group_size": 1}, "max_group_size"),
        ({"neighbours": 0}, "neighbours"),
        ({"prefer": "far"}, "prefer"),
        ({"sizes": "small"}, "sizes"),
    ],
)
def test_a_wrong_rule_is_refused(change, word):
    with pytest.raises(ValueError, match=word):
        replace(RULE, **change)


def test_too_few_captions_give_no_groups():
    assert form_groups(torch.ones(1, 4) / 2, torch.zeros(1).long(), RULE) == ()
    assert form_groups(torch.zeros(0, 4), torch.zeros(0).long(), RULE) == ()


@pytest.mark.slow
def test_fifty_thousand_prompts_are_grouped_in_a_quarter_of_three_minutes():
    """A thousand subjects with fifty prompts each; the time grows with the square."""
    drawn = torch.Generator().manual_seed(0)
    subjects = torch.randn(1000, 128, generator=drawn)
    own = torch.randn(50_000, 128, generator=drawn)
    embeddings = subjects[torch.arange(50_000) % 1000] + 0.6 * own
    embeddings = torch.nn.functional.normalize(embeddings, dim=1)
    rule = GroupingRule(0.6, 0.9, prefer="closest", sizes="largest")
    start = time.process_time()  # of all cores: a busy machine is not held against it
    groups = form_groups(embeddings, torch.arange(50_000), rule)
    assert time.process_time() - start < 180 / 4
    assert len(groups) < 15_000
    assert sum(map(len, groups)) > 49_500
