"""Who may render, and who renders next: fair shares, places in line, and how long to wait.

Rendering is one at a time. What waits is bounded in places and in seconds of work, for each client
and for all. Next comes whoever has used the least of late: first among network addresses, then
among an address's sessions, so that neither many requests nor large ones push others back. Knows
neither gradio nor models.
"""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from threading import Lock

from sage.ui.server.limits import BOUNDS, HOUR, Bounds

UNKNOWN_SPEED = 0.05  # seconds a unit, until a run has been measured
KEPT = 0.7  # of what earlier runs told, at each new one


class BusyError(ValueError):
    """A refusal, as a sentence with how long to wait.

    Attributes:
        seconds: After how long a next try is likely to be taken.
    """

    def __init__(self, why: str, seconds: float) -> None:
        self.seconds = max(1, math.ceil(min(seconds, HOUR)))
        super().__init__(f"{why} Try again in about {self.seconds} s.")

    @property
    def headers(self) -> dict[str, str]:
        """What the answer to a request that is refused says beside the sentence."""
        return {"Retry-After": str(self.seconds)}


@dataclass(frozen=True)
class Client:
    """Who asks.

    Attributes:
        address: Of the network, behind a declared proxy as that names it.
        session: A page's or a program's; "" for calls without one, which count as one client.
    """

    address: str
    session: str = ""


@dataclass(eq=False)  # two runs that ask for the same are two
class Ticket:
    """One run that was asked for.

    Attributes:
        client: Who asks.
        kind: Which listener and model; each has its own speed.
        units: Prompts times steps, for the time that it will take.
        heard: Whether somebody reads the answer now.
        refusal: Why it will not run, if it will not.
    """

    client: Client
    kind: str
    units: float
    heard: Callable[[], bool] = lambda: True
    refusal: BusyError | None = None
    started: float | None = field(default=None, repr=False)


class Admission:
    """Decides on tickets; safe between threads.

    Args:
        bounds: How much may wait.
        clock: Seconds.
    """

    def __init__(
        self, bounds: Bounds = BOUNDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.bounds = bounds
        self._clock = clock
        self._lock = Lock()
        self._spent: dict[str, tuple[float, float]] = {}  # seconds and units of late, by kind
        self._used: dict[Client | str, tuple[float, float]] = {}  # seconds rendered, as of when
        self._running: list[Ticket] = []

    def seconds(self, ticket: Ticket) -> float:
        """How long a run will take, from what such runs took."""
        with self._lock:
            speeds = {kind: seconds / units for kind, (seconds, units) in self._spent.items()}
        known = speeds.get(ticket.kind, max(speeds.values(), default=UNKNOWN_SPEED))
        return ticket.units * known

    def wait(self, waiting: Iterable[Ticket]) -> float:
        """Seconds until all that run and wait now would be done."""
        with self._lock:
            running = list(self._running)
        now = self._clock()
        left = [max(0.0, self.seconds(t) - (now - (t.started or now))) for t in running]
        return sum(left) + sum(map(self.seconds, waiting))

    def refuse(self, ticket: Ticket, waiting: Sequence[Ticket]) -> BusyError | None:
        """Why a ticket gets no place now, or None.

        Args:
            ticket: The new one.
            waiting: Those in line.
        """
        bounds, client = self.bounds, ticket.client
        own = [t for t in waiting if t.client == client]
        if len(own) >= bounds.line_of_client:
            why = f"You have {len(own)} runs in the queue already."
            return BusyError(why, self.wait(own))
        heard = [t for t in waiting if t.heard()]
        if len(heard) >= bounds.line:
            return BusyError(self._crowd(heard), self.wait(heard) / len(heard))
        near = [t for t in heard if t.client.address == client.address]
        if len(near) >= bounds.line_of_address:
            return BusyError(self._crowd(heard), self.wait(heard) / len(heard))
        ahead = self.wait(heard)
        if heard and ahead + self.seconds(ticket) > bounds.line_seconds:
            return BusyError(self._crowd(heard), ahead + self.seconds(ticket) - bounds.line_seconds)
        return None

    def _crowd(self, heard: Sequence[Ticket]) -> str:
        return f"The queue is full: {len(heard)} runs are waiting."

    def pick(self, waiting: Sequence[Ticket]) -> Ticket | None:
        """Who comes next, of those whose answer somebody reads."""
        heard = [ticket for ticket in waiting if ticket.heard()]
        if not heard:
            return None
        # The order of arrival decides between equals: min takes the first. All shares are of one
        # moment: read one after the other, a client's own later run would have the smaller one.
        now = self._clock()
        return min(
            heard, key=lambda t: (self.share(t.client.address, now), self.share(t.client, now))
        )

    def share(self, who: Client | str, now: float | None = None) -> float:
        """Seconds that a client or an address rendered of late; half as many count a while on."""
        with self._lock:
            used, then = self._used.get(who, (0.0, 0.0))
        age = (self._clock() if now is None else now) - then
        return used * 0.5 ** (age / self.bounds.memory_seconds)

    def begin(self, ticket: Ticket) -> None:
        """The ticket's run starts."""
        ticket.started = self._clock()
        with self._lock:
            self._running.append(ticket)

    def end(self, ticket: Ticket, finished: bool) -> None:
        """The ticket's run is over; if it gave an answer, it tells how fast such runs are.

        One that failed or was left tells nothing: a wrong argument is refused in a millisecond,
        whatever amount of work it named. Sums, and not a mean of speeds: what a run costs beside
        its work, loading a model above all, must not stand for the speed because a run was short.
        """
        now = self._clock()
        seconds = now - (ticket.started if ticket.started is not None else now)
        shares = {who: self.share(who) + seconds for who in (ticket.client, ticket.client.address)}
        with self._lock:
            self._running.remove(ticket)
            for who, share in shares.items():
                self._used.pop(who, None)
                self._used[who] = (share, now)
            while len(self._used) > self.bounds.clients:
                self._used.pop(next(iter(self._used)))
            if finished and ticket.units:
                before = self._spent.get(ticket.kind, (0.0, 0.0))
                self._spent[ticket.kind] = (
                    KEPT * before[0] + seconds,
                    KEPT * before[1] + ticket.units,
                )
