"""Which rendering may still write to the page: each has a turn, and a stopped one ends by itself.

Gradio can cancel a listener, but updates on their way then arrive after the word "stopped", and
every place that the listener fills is marked with a bare "Error". So a rendering is asked to stop
instead: it looks at each update whether it should, and its own last words are the last ones.
Knows nothing of components or models.
"""

import secrets
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator
from threading import Lock
from typing import Any, Literal

from sage.ui.server.limits import BOUNDS

State = Literal["waiting", "running", "stopped", "over"]


class Turns:
    """The turns of all visitors; safe between threads."""

    def __init__(self) -> None:
        self._states: OrderedDict[str, State] = OrderedDict()
        self._begun: OrderedDict[str, str] = OrderedDict()  # by page
        self._asks: OrderedDict[str, int] = OrderedDict()  # by page
        self._running: set[str] = set()
        self._lock = Lock()

    def fresh(self, page: str = "") -> str:
        """A turn that waits to come up; its name cannot be guessed.

        Args:
            page: What began it, for `begun`; "" if that is not known.
        """
        turn = secrets.token_hex(8)
        with self._lock:
            _set_last(self._states, turn, "waiting")
            if page:
                _set_last(self._begun, page, turn)
        return turn

    def begun(self, page: str) -> str:
        """The turn that a page began last, live or not; "" if it began none."""
        with self._lock:
            return self._begun.get(page, "")

    def busy(self, turn: str, page: str, begun: str) -> bool:
        """Whether a page renders, or began to since a listener was asked.

        An answer that is slow may reach a page on which something has begun meanwhile; it would
        take the buttons and pictures of the rendering for those of an idle page.

        Args:
            turn: What the page said of itself when it asked.
            page: Which page it is.
            begun: `begun` of that page when it asked.
        """
        now = self.begun(page)
        with self._lock:  # one that was stopped while it waited has freed the page
            renders = self._states.get(now) in ("waiting", "running")
        return renders or now != begun or self.live(turn)

    def ask(self, page: str) -> int:
        """Numbers what a page asks of the listener that follows its form."""
        with self._lock:
            _set_last(self._asks, page, self._asks.get(page, 0) + 1)
            return self._asks[page]

    def outdated(self, page: str, ask: int) -> bool:
        """Whether a page has asked again since.

        Where a model is loaded meanwhile, the later answer can be the earlier one to be ready; the
        other must not take its place. Without a page ("") nothing is outdated.
        """
        with self._lock:
            return bool(page) and self._asks.get(page, ask) != ask

    def stop(self, turn: str) -> State:
        """Asks a turn to end, and says how it stood.

        One that was "waiting" will do and say nothing; one that was "running" will say its last
        words within a step.
        """
        with self._lock:
            state = self._states.get(turn, "over")
            if state in ("waiting", "running"):
                self._states[turn] = "stopped"
        return state

    def live(self, turn: str) -> bool:
        """Whether a turn waits or runs, or is on its way to its last words."""
        with self._lock:
            return turn in self._states

    def work(
        self,
        turn: str,
        updates: Generator[dict[Any, Any], None, None],
        last_words: Callable[[dict[Any, Any]], dict[Any, Any]],
    ) -> Iterator[dict[Any, Any]]:
        """The updates until the turn is stopped; nothing at all if that was before it came up.

        A turn runs once: whoever brings it a second time gets nothing either.

        Args:
            turn: Of this work.
            updates: What is done; closed when the turn ends.
            last_words: From all that was shown, what to show when the turn was stopped.
        """
        shown: dict[Any, Any] = {}
        if not self._start(turn):
            return updates.close()
        try:
            for update in updates:
                if self._stopped(turn):
                    yield last_words(shown)
                    return
                shown |= update
                yield update
        finally:
            updates.close()
            self._forget(turn)

    def _start(self, turn: str) -> bool:
        with self._lock:
            if turn in self._running:
                return False
            waiting = self._states.get(turn) == "waiting"
            if waiting:
                self._states[turn] = "running"
                self._running.add(turn)
            else:
                self._states.pop(turn, None)
        return waiting

    def _stopped(self, turn: str) -> bool:
        with self._lock:
            return self._states.get(turn) == "stopped"

    def _forget(self, turn: str) -> None:
        with self._lock:
            self._running.discard(turn)
            self._states.pop(turn, None)


def _set_last(known: OrderedDict[str, Any], key: str, value: Any) -> None:
    """Sets the newest entry; the oldest ones go, whose visitors left long ago."""
    known[key] = value
    known.move_to_end(key)
    while len(known) > BOUNDS.turns:
        known.popitem(last=False)
