"""Turns of renderings: who may still write, without a page."""

from sage.ui.server.limits import BOUNDS
from sage.ui.turns import Turns


def counting():
    """Updates without end, and whether they were closed."""
    closed = []

    def updates():
        try:
            number = 0
            while True:
                yield {"number": number}
                number += 1
        finally:
            closed.append(True)

    return updates(), closed


def test_a_stopped_turn_ends_with_its_last_words():
    turns, (updates, closed) = Turns(), counting()
    turn = turns.fresh()
    work = turns.work(turn, updates, lambda shown: {"last": shown["number"]})
    assert [next(work), next(work)] == [{"number": 0}, {"number": 1}]
    assert turns.stop(turn) == "running"
    assert list(work) == [{"last": 1}]
    assert closed
    assert turns.stop(turn) == "over"


def test_a_turn_that_is_stopped_while_it_waits_never_begins():
    turns, (updates, closed) = Turns(), counting()
    turn = turns.fresh()
    assert turns.stop(turn) == "waiting"
    assert list(turns.work(turn, updates, dict)) == []
    assert not closed  # its first line was never reached


def test_a_turn_that_is_brought_twice_runs_once_and_is_live_until_it_ends():
    turns, (updates, closed) = Turns(), counting()
    turn = turns.fresh()
    work = turns.work(turn, updates, lambda shown: {"last": shown["number"]})
    assert turns.live(turn)
    next(work)
    again, ended = counting()
    assert list(turns.work(turn, again, dict)) == []
    assert not ended  # its first line was never reached
    assert next(work) == {"number": 1}
    assert turns.stop(turn) == "running"
    assert turns.live(turn)
    assert list(turns.work(turn, counting()[0], dict)) == []
    assert list(work) == [{"last": 1}]  # the second one did not take the word "stop" away
    assert closed
    assert not turns.live(turn)


def test_closing_the_work_closes_what_it_does_and_ends_the_turn():
    turns, (updates, closed) = Turns(), counting()
    turn = turns.fresh()
    work = turns.work(turn, updates, dict)
    next(work)
    work.close()
    assert closed
    assert turns.stop(turn) == "over"


def test_turns_are_apart_and_the_oldest_waiting_ones_are_forgotten():
    turns = Turns()
    first = turns.fresh()
    others = [turns.fresh() for _ in range(BOUNDS.turns)]
    assert len({first, *others}) == BOUNDS.turns + 1
    assert turns.stop(first) == "over"
    assert turns.stop(others[0]) == "waiting"
    assert turns.stop("of nobody") == "over"


def test_a_page_is_busy_from_the_start_of_a_turn_until_it_was_stopped_or_over():
    turns = Turns()
    assert not turns.busy("", "page", turns.begun("page"))
    asked = turns.begun("page")  # by a listener whose answer takes long
    turn = turns.fresh("page")
    assert turns.busy("", "page", asked)
    assert turns.busy("", "page", turns.begun("page"))  # asked before the page knew of its turn
    assert not turns.busy("", "another", turns.begun("another"))
    assert not turns.busy("", "", turns.begun(""))
    turns.stop(turn)
    assert turns.busy("", "page", asked)  # the answer is of before
    assert not turns.busy("", "page", turns.begun("page"))
    for n in range(BOUNDS.turns):
        turns.fresh(f"page {n}")
    assert turns.begun("page") == ""  # of pages that were left nothing is kept for good
