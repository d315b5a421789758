"""Groups, plans and units of bulk runs."""

import hashlib
import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sage.core.calibration import Calibration
from sage.core.cost import ModelFlops, evaluations, plan_cost
from sage.core.grouping import cosine_similarity
from sage.core.plan import shared_plan
from sage.core.settings import Sampling
from sage.core.tree import budget_plan, dendrogram
from sage.render.planning import (
    Shared,
    embed,
    forest_plans,
    group,
    hours,
    plans_of,
    side_by_side,
    units_of,
)
from sage.render.prompts import Prompt
from sage.render.settings import RenderSettings
from sage.render.store import NAME_BYTES, picture_names
from sage.render.work import DamagedError, Unit
from tests.core.test_planner import planning

FLOPS = ModelFlops(1e6, 1e9, 1e7)


def prompts(number, **changes):
    made = [Prompt(n + 1, f"id{n}", f"prompt {n}", 1000 - n) for n in range(number)]
    return [replace(p, **changes) for p in made]


def unit_vectors(number, width=8, seed=0):
    random = torch.randn(number, width, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(random, dim=-1)


def test_groups_are_a_partition_within_the_bounds():
    embeddings = unit_vectors(400, width=4)
    sampling = Sampling(tau_min=0.8, tau_max=0.99, max_group_size=4)
    groups = group(prompts(400), embeddings, sampling)
    assert sorted(n for g in groups for n in g) == list(range(400))
    assert [min(g) for g in groups] == sorted(min(g) for g in groups)
    assert 2 <= max(map(len, groups)) <= 4
    for g in groups:
        similarity = cosine_similarity(embeddings[list(g)])
        pairs = similarity[~torch.eye(len(g), dtype=torch.bool)]
        assert ((pairs >= 0.8 - 1e-6) & (pairs <= 0.99 + 1e-6)).all()


def test_the_smallest_seed_leads_a_group():
    made = prompts(100)
    groups = group(made, unit_vectors(100, width=3), Sampling(tau_min=0.7, tau_max=1.0))
    assert any(len(g) > 2 for g in groups)
    assert all(made[g[0]].seed == min(made[n].seed for n in g) for g in groups)


def test_an_embedding_that_is_not_a_number_shares_with_nobody():
    embeddings = unit_vectors(20, width=2)
    embeddings[7] = torch.nan
    groups = group(prompts(20), embeddings, Sampling(tau_min=0.0, tau_max=1.0))
    assert (7,) in groups
    assert sum(len(g) > 1 for g in groups) > 3


def test_no_groups_if_the_largest_has_one_prompt():
    sampling = Sampling(max_group_size=1, tau_min=-1.0, tau_max=1.0)
    groups = group(prompts(9), unit_vectors(9), sampling)
    assert groups == tuple((n,) for n in range(9))


@pytest.mark.parametrize("size", [1, 2, 7, 64])
def test_units_hold_whole_groups_and_every_prompt_once(size):
    made = prompts(300)
    groups = group(made, unit_vectors(300, width=3), Sampling(tau_min=0.7, tau_max=1.0))
    shared = plans_of(groups, unit_vectors(300, width=3), Sampling(), 10)
    units = list(units_of(made, shared, size))
    assert [u.number for u in units] == list(range(len(units)))
    assert sorted(row for u in units for row in u.rows) == list(range(1, 301))
    held = Counter(number for u in units for number in set(u.groups))
    assert set(held.values()) == {1}  # no group is torn apart
    assert all(len(u.rows) <= max(size, 5) for u in units)
    if size == 64:  # full, but for what the last groups leave
        assert all(len(u.rows) > 64 - 5 for u in units[:-1])
    for u in units:
        assert u.plan.num_prompts == len(u.rows)
        for row in u.plan.rows(0):
            assert len({u.groups[n] for n in row}) == 1
            assert u.seeds[row[0]] == min(u.seeds[n] for n in row)
    assert sum(evaluations(u.plan) for u in units) == shared.evaluations("mean")


def filled_up(units, rows):
    """Rows that fill up last calls, where only full ones give the same bits; and all others."""
    counts = [len(unit.plan.rows(step)) for unit in units for step in range(unit.plan.steps)]
    return sum(-count % rows for count in counts), sum(counts)


def test_negative_prompts_of_their_own_fill_calls_as_a_common_one_does():
    """Of 200 prompts with 20 negative prompts, each of which had units of its own before."""
    made = [replace(p, negative_prompt=f"no {n % 20}") for n, p in enumerate(prompts(200))]
    embeddings = unit_vectors(200, width=2)
    groups = group(made, embeddings, Sampling(tau_min=0.8, tau_max=1.0))
    shared = plans_of(groups, embeddings, Sampling(), 30)
    size = RenderSettings(Path(), Path(), Sampling(), "").unit_size(200)
    units = list(units_of(made, shared, size))
    for u in units:
        assert u.negative_prompts == tuple(made[row - 1].negative_prompt for row in u.rows)
        pairs = set(zip(u.groups, u.negative_prompts, strict=True))
        assert len(pairs) == len(set(u.groups))
    common = list(units_of(prompts(200), shared, size))
    assert [u.rows for u in units] == [u.rows for u in common]
    padding, rows = filled_up(units, size)
    apart = [
        u
        for negative in {p.negative_prompt for p in made}
        for u in units_of(made, only(shared, made, negative), size)
    ]
    before, same_rows = filled_up(apart, size)
    print(f"{rows} rows are filled up with {padding}; in units by negative prompt, {before}")
    assert rows == same_rows
    assert before > 2 * padding


def only(shared, made, negative):
    """The groups of one negative prompt."""
    kept = [n for n, g in enumerate(shared.groups) if made[g[0]].negative_prompt == negative]
    chosen = (tuple(values[n] for n in kept) for values in (shared.groups, shared.plans))
    return Shared(*chosen, Counter())


def test_a_unit_of_an_older_plan_is_read():
    unit = Unit(0, (1, 2), *[("a", "b")] * 2, (0, 1), (0, 1), ("a", "b"), ("rain", "rain"),
                shared_plan([(0, 1)], 4, 2))  # fmt: skip
    body = json.loads(unit.to_bytes()[32:])
    body["negative_prompt"] = body.pop("negative_prompts")[0]
    older = json.dumps(body).encode()
    assert Unit.from_bytes(hashlib.sha256(older).digest() + older) == unit


def test_a_unit_travels_as_bytes_and_notices_damage():
    plan = shared_plan([(0, 1), (2,)], 10, 4)
    texts = ("a fox", "snö", "a 🦊")
    unit = Unit(3, (1, 2, 3), texts, texts, (7, 8, 9), (0, 0, 1), texts, ("rain", "rain", ""), plan)
    message = unit.to_bytes()
    assert Unit.from_bytes(message) == unit
    for place in (0, 40, len(message) - 1):
        damaged = bytearray(message)
        damaged[place] ^= 1
        with pytest.raises(DamagedError, match="did not arrive as it was sent"):
            Unit.from_bytes(bytes(damaged))
    with pytest.raises(DamagedError):
        Unit.from_bytes(message[:-1])


def test_plans_side_by_side_cost_their_sum():
    plans = [
        shared_plan([(0, 1, 2)], 10, 4),
        shared_plan([(0,)], 10, 0),
        shared_plan([(0, 1)], 10, 9),
    ]
    whole = side_by_side(plans)
    assert whole.num_prompts == 6
    assert evaluations(whole) == sum(map(evaluations, plans))
    assert whole.rows(5) == ((0,), (1,), (2,), (3,), (4, 5))


def test_the_cost_of_all_plans_is_that_of_one_plan_of_all():
    made, embeddings = prompts(40), unit_vectors(40, width=3)
    sampling = Sampling(tau_min=0.5, tau_max=1.0, guidance_scale=3.0, trunk="prediction")
    shared = plans_of(group(made, embeddings, sampling), embeddings, sampling, 10)
    whole = plan_cost(side_by_side(shared.plans), FLOPS, True, "prediction")
    cost = shared.cost(FLOPS, sampling)
    assert cost.evaluations == whole.evaluations
    assert cost.independent_evaluations == whole.independent_evaluations == 400
    assert cost.passes == whole.passes
    assert cost.flops.branches == whole.flops.branches
    assert cost.flops.trunk == whole.flops.trunk


@pytest.mark.parametrize("budget", [0.45, 0.6, 0.8, 1.0])
def test_a_forest_keeps_to_its_budget_and_spends_most_of_it(budget):
    embeddings = unit_vectors(60, width=3)
    groups = group(prompts(60), embeddings, Sampling(tau_min=0.3, tau_max=1.0, max_group_size=8))
    sampling = Sampling(sharing="tree", spend=budget)
    shared = plans_of(groups, embeddings, sampling, 20)
    assert [p.num_prompts for p in shared.plans] == [len(g) for g in groups]
    spent = shared.evaluations("mean") / (20 * 60)
    assert budget - 0.05 < spent <= budget


def test_a_forest_of_one_tree_is_that_tree_within_its_budget():
    tree = dendrogram(cosine_similarity(unit_vectors(7, width=3)))
    for budget in (0.3, 0.5, 0.75, 1.0):
        assert forest_plans([tree], 12, budget) == (budget_plan(tree, 12, budget),)


def test_a_budget_below_one_trunk_for_each_group_is_refused():
    trees = [dendrogram(cosine_similarity(unit_vectors(n, seed=n))) for n in (2, 1, 1)]
    with pytest.raises(ValueError, match=r"The budget is 0.7; with these groups 0.750 of the"):
        forest_plans(trees, 10, 0.7)


@settings(max_examples=30)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=8), st.integers(1, 12), st.floats(0.1, 1))
def test_a_forest_never_spends_more_than_its_budget(sizes, calls, budget):
    trees = [dendrogram(cosine_similarity(unit_vectors(n, 4, n + k))) for k, n in enumerate(sizes)]
    if budget < len(sizes) / sum(sizes):
        return
    spent = sum(map(evaluations, forest_plans(trees, calls, budget)))
    assert spent <= budget * calls * sum(sizes) + 1e-6


def test_the_guard_shortens_trunks_and_counts_its_verdicts():
    table = ((0.0, 0.05, 0.5), (0.0, 0.01, 0.02))
    calibration = Calibration((0.5, 0.99), (0.0, 0.4, 0.8), table, 0.1, "distance", {})
    angle = torch.tensor([0.0, 0.1, 3.0, 3.9])  # a close pair, and one that is less so
    embeddings = torch.stack([angle.cos(), angle.sin()], 1)
    groups = ((0, 1), (2, 3))
    asked = Sampling(share_ratio=0.8, guarded=True)
    shared = plans_of(groups, embeddings, asked, 10, calibration)
    assert shared.verdicts == Counter(safe=1, shorten=1)
    close, wide = (plan.branch_steps[0] for plan in shared.plans)
    assert close == 8
    assert 0 < wide < 8
    unguarded = plans_of(groups, embeddings, replace(asked, guarded=False), 10, calibration)
    assert [plan.branch_steps for plan in unguarded.plans] == [(8,), (8,)]


def test_a_text_is_embedded_once_and_stands_where_it_was(tiny):
    seen, original = [], tiny.embed

    def counted(texts):
        seen.extend(texts)
        return original(texts)

    tiny.embed = counted
    texts = ["a fox", "a dog in the snow", "a fox", "x"]
    embeddings = embed(tiny, texts)
    assert sorted(seen) == sorted(set(texts))
    assert torch.equal(embeddings[0], embeddings[2])
    assert torch.allclose(embeddings, original(texts), atol=1e-6)


# -- names ---------------------------------------------------------------------------------------


def names(*ids, named=True):
    made = [Prompt(n + 1, id_, "a fox in the snow", 0, named=named) for n, id_ in enumerate(ids)]
    return picture_names(made)


def test_a_picture_has_the_name_of_its_id():
    assert names("p1", "a-b_c.d", "2024 (1)") == [
        "pictures/p1.png",
        "pictures/a-b_c.d.png",
        "pictures/2024 (1).png",
    ]


def test_a_picture_without_an_id_has_its_number_and_words():
    assert names("1", "2", named=False)[1] == "pictures/2-a-fox-in-the-snow.png"


@pytest.mark.parametrize(
    "id_",
    ["../../etc/passwd", "/root", "a\0b", "..", ".", "CON:", "a\\b", "a\nb", "é", "x" * 999, "*?"],
)
def test_no_id_leads_out_of_the_folder(id_):
    (name,) = names(id_)
    stem = name.removeprefix("pictures/").removesuffix(".png")
    assert not set(stem) & set('/\\:*?"<>|\0\n')
    assert not stem.startswith(".")
    assert len(stem.encode()) <= NAME_BYTES + 13


def test_ids_that_differ_only_in_case_or_length_have_their_own_files():
    ids = ["Fox", "fox", "FOX", "x" * 400, "x" * 401, "a/b", "a%2Fb", "é", "e\u0301", "..", "."]
    made = [name.lower() for name in names(*ids)]
    assert len(set(made)) == len(ids)
    # An id that looks like what tells another one apart.
    marked = names("b", "B")[1].removeprefix("pictures/").removesuffix(".png")
    assert len({name.lower() for name in names(marked, "b", "B")}) == 3


@pytest.mark.parametrize("id_", ["CON", "nul.txt", "Com1"])
def test_no_picture_has_the_name_of_a_device(id_):
    assert names(id_)[0].startswith(f"pictures/_{id_}")
    assert names("conifer", "com") == ["pictures/conifer.png", "pictures/com.png"]


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "1 s"), (89, "89 s"), (100, "2 min"), (3600, "1 h 0 min")]
)
def test_times_are_written_as_people_say_them(seconds, words):
    assert hours(seconds) == words


def test_a_plan_without_groups_costs_nothing_more():
    shared = Shared(((0,),), (shared_plan([(0,)], 4, 0),), Counter())
    assert shared.cost(FLOPS, Sampling()).saving == 0
    assert math.isclose(shared.cost(FLOPS, Sampling()).flops_saving, 0)


def test_every_group_keeps_to_the_budget_and_only_equal_steps_share_a_unit():
    embeddings, sampling = unit_vectors(24, width=3), Sampling(budget=2.0)
    groups = ((0, 1, 2), (3, 4), (5,), *((n, n + 1, n + 2) for n in range(6, 24, 3)))
    shared = plans_of(groups, embeddings, sampling, 30, planning=planning(0.0))
    for members, plan, steps in zip(groups, shared.plans, shared.timesteps, strict=True):
        assert evaluations(plan) <= 2 * len(members)
        assert len(steps) == plan.steps
    assert shared.verdicts == Counter(share=8)
    units = list(units_of(prompts(24), shared, 8))
    assert sorted(n for unit in units for n in unit.rows) == list(range(1, 25))
    for unit in units:
        assert {shared.timesteps[g] for g in unit.groups} == {unit.timesteps}
        assert (unit.trunk, len(unit.timesteps)) == ("alternate", unit.plan.steps)
        assert Unit.from_bytes(unit.to_bytes()) == unit
    with pytest.raises(ValueError, match="Nothing was measured for planning"):
        plans_of(groups, embeddings, sampling, 30)
