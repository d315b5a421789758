"""Units that end their workers: tried a few times, torn, and put together again."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

import sage.render.actor
from sage.core.plan import independent_plan, shared_plan
from sage.render import cluster
from sage.render.actor import Actor
from sage.render.pieces import Pieces
from sage.render.register import NODES, STRIKES, STRIKES_IN_VAIN, Register
from sage.render.work import DIED, Picture, Rendered, Unit, failed
from sage.render.worker import OutOfMemory

GROUPS = ((0, 1, 2), (3,), (4, 5))
PLAN = shared_plan(GROUPS, 4, 2)


def unit(number=7, plan=PLAN, groups=(3, 3, 3, 8, 9, 9)):
    names = tuple(f"{number}-{n}" for n in range(len(groups)))
    rows = tuple(range(1, len(groups) + 1))
    return Unit(number, rows, names, names, rows, groups, names, names, plan)


def rendered(piece):
    """A picture that tells its prompt, and how many it was rendered with."""
    size = len(piece.rows)
    return Rendered(
        piece.number, tuple(Picture(name.encode(), f"{size}", 1.0, 1.0) for name in piece.ids)
    )


def test_a_unit_is_torn_into_groups_and_a_group_into_prompts():
    whole = unit()
    pieces = Pieces([whole.to_bytes()])
    groups = pieces.tear(whole)
    assert [piece.rows for piece in groups] == [(1, 2, 3), (4,), (5, 6)]
    assert [piece.groups for piece in groups] == [(3, 3, 3), (8,), (9, 9)]
    # Each goes its own way, and by itself as it would have gone beside the others.
    wanted = [shared_plan([tuple(range(len(g)))], 4, 2 * (len(g) > 1)) for g in GROUPS]
    assert [piece.plan.rows(k) for piece in groups for k in range(4)] == [
        plan.rows(k) for plan in wanted for k in range(4)
    ]
    prompts = pieces.tear(groups[2])
    assert [(piece.rows, piece.plan) for piece in prompts] == [
        ((5,), independent_plan(1, 4)),
        ((6,), independent_plan(1, 4)),
    ]
    assert pieces.tear(prompts[0]) == pieces.tear(groups[1]) == []
    numbers = [piece.number for piece in (whole, *groups, *prompts)]
    assert len(set(numbers)) == len(numbers)


def test_pictures_of_pieces_are_put_together_in_the_units_order():
    whole = unit()
    pieces = Pieces([whole.to_bytes()])
    first, alone, last = pieces.tear(whole)
    four, five = pieces.tear(last)
    for piece in (five, first, alone):
        assert list(pieces.whole(rendered(piece))) == []
    (result,) = pieces.whole(failed(four, DIED))
    assert result.number == 7
    assert [p.png for p in result.pictures] == [b"7-0", b"7-1", b"7-2", b"7-3", None, b"7-5"]
    assert [p.plan for p in result.pictures] == ["3", "3", "3", "1", "", "1"]
    assert result.lost
    other = rendered(unit(3))
    assert list(pieces.whole(other)) == [other]
    assert not other.lost


def cluster_of(monkeypatch, deadly, nodes_lost=0):
    """Ray as far as it matters here: actors that some prompts end, nodes, and a register.

    The first `nodes_lost` actors go with their nodes, of which there are always more.
    """
    tried: Counter[tuple[str, ...]] = Counter()
    gone: set[str] = set()

    def through(recipe, device, number, messages):
        register = Register(lambda: gone)
        for message in messages:
            sent = Unit.from_bytes(message)
            while register.may_begin(sent.number, node := f"node {len(gone)}"):
                tried[sent.ids] += 1
                if len(gone) < nodes_lost:
                    gone.add(node)
                elif not deadly & set(sent.ids):
                    register.ended(sent.number)
                    yield rendered(sent)
                    break
            else:
                yield failed(sent, DIED)

    monkeypatch.setattr(cluster, "_pass", through)
    return tried


def test_on_a_cluster_a_deadly_prompt_is_tried_a_few_times_and_takes_nobody_with_it(monkeypatch):
    tried = cluster_of(monkeypatch, {"1-4"})
    messages = [unit(n).to_bytes() for n in range(3)]
    results = {r.number: r for r in cluster.run_on_cluster(None, "cpu", 1, messages)}
    assert sorted(results) == [0, 1, 2]
    assert [p.error for p in results[1].pictures] == [None] * 4 + [DIED, None]
    # The other groups shared as planned; who shared with it is alone.
    assert [p.plan for p in results[1].pictures] == ["3", "3", "3", "1", "", "1"]
    assert {p.plan for n in (0, 2) for p in results[n].pictures} == {"6"}
    assert {ids: n for ids, n in tried.items() if "1-4" in ids} == {
        unit(1).ids: STRIKES,
        ("1-4", "1-5"): STRIKES,
        ("1-4",): STRIKES,
    }


@pytest.mark.parametrize(("nodes_lost", "tries"), [(2, 3), (NODES, NODES + 1)])
def test_lost_nodes_do_not_count_against_what_was_rendered_on_them(monkeypatch, nodes_lost, tries):
    tried = cluster_of(monkeypatch, set(), nodes_lost)
    (result,) = cluster.run_on_cluster(None, "cpu", 1, [unit().to_bytes()])
    assert {p.plan for p in result.pictures} == {"6"}
    assert tried == {unit().ids: tries}


def test_a_prompt_fails_alone_though_nodes_were_lost_as_well(monkeypatch):
    tried = cluster_of(monkeypatch, {"7-4"}, nodes_lost=3)
    (result,) = cluster.run_on_cluster(None, "cpu", 9, [unit().to_bytes()])
    assert [p.plan for p in result.pictures] == ["3", "3", "3", "1", "", "1"]
    assert tried[unit().ids] == 3 + STRIKES


def test_a_unit_that_takes_ever_more_nodes_along_is_torn(monkeypatch):
    tried = cluster_of(monkeypatch, set(), nodes_lost=NODES + 1)
    (result,) = cluster.run_on_cluster(None, "cpu", 9, [unit().to_bytes()])
    assert [p.plan for p in result.pictures] == ["3", "3", "3", "1", "2", "2"]
    assert tried[unit().ids] == NODES + 1


def test_a_loss_that_is_noticed_late_does_not_count_either():
    gone: set[str] = set()
    register = Register(lambda: gone)
    assert all(register.may_begin(7, node) for node in "ab")
    assert not register.may_begin(7, "c")
    gone.add("a")
    assert register.may_begin(7, "c")
    assert not register.may_begin(7, "c")


class Remote:
    """A register as Ray hands it out."""

    def __init__(self, register):
        self.register = register

    def __getattr__(self, name):
        return SimpleNamespace(remote=getattr(self.register, name))


def test_an_actor_says_what_it_begins_and_does_not_begin_it_too_often(monkeypatch):
    ray = pytest.importorskip("ray")
    began = []

    class Mortal:
        """A worker that one unit ends."""

        def __init__(self, recipe, device):
            pass

        def answer(self, message):
            number = Unit.from_bytes(message).number
            began.append(number)
            if number == 1:
                raise KeyboardInterrupt
            return rendered(unit(number)).to_bytes()

    monkeypatch.setattr(ray, "get", lambda value: value)
    context = SimpleNamespace(get_actor_id=lambda: "a", get_node_id=lambda: "n")
    monkeypatch.setattr(ray, "get_runtime_context", lambda: context)
    monkeypatch.setattr(sage.render.actor, "Worker", Mortal)
    register = Remote(Register(set))
    batches = [{"unit": np.array([unit(n).to_bytes()], object)} for n in range(3)]
    for _ in range(STRIKES):
        with pytest.raises(KeyboardInterrupt):
            Actor(None, "cpu", register)(batches[1])
    actor = Actor(None, "cpu", register)
    found = [Rendered.from_bytes(actor(batch)["pictures"][0]) for batch in (*batches, batches[0])]
    assert [(r.number, r.lost) for r in found] == [(0, False), (1, True), (2, False), (0, False)]
    assert began == [1] * STRIKES + [0, 2, 0]


def test_actors_that_die_of_everything_end_the_run(monkeypatch):
    messages = [unit(n).to_bytes() for n in range(50)]
    cluster_of(monkeypatch, {name for n in range(50) for name in unit(n).ids})
    with pytest.raises(OutOfMemory, match="Workers die before they finish anything"):
        list(cluster.run_on_cluster(None, "cpu", 2, messages))


def test_an_actor_that_dies_of_its_model_gives_up_if_none_has_loaded_it():
    gone: set[str] = set()
    register = Register(lambda: gone)
    assert all(register.may_load("a", node) for node in "xyz"[:STRIKES_IN_VAIN])
    assert register.may_load("b", "x")
    assert not register.may_load("a", "x")
    gone.add("x")
    assert register.may_load("a", "y")
    assert not register.may_load("a", "y")
    register.loaded()
    assert register.may_load("a", "y")
