"""Gradio's queue with lanes: rendering takes fair turns, cheap calls never wait behind it.

Gradio's own queue takes whoever came first, counts requests of all kinds against one bound, runs
what nobody reads to its end, and summarises its history in a table after every event.
"""

import asyncio
import math
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

import fastapi
from gradio.block_function import BlockFunction
from gradio.data_classes import PredictBodyInternal
from gradio.queueing import Event, Queue
from gradio.server_messages import EventMessage, ProcessCompletedMessage
from gradio.utils import run_coro_in_background

from sage.core.settings import NUM_PROMPTS, PROMPT_CHARS, Number, settings_of
from sage.jobs.grid import PER_AXIS
from sage.jobs.prompt_sets import expand_sets
from sage.jobs.repeats import REPEATS
from sage.ui.server.admission import Admission, BusyError, Client, Ticket
from sage.ui.server.errors import UnheardError
from sage.ui.server.files import clear_old, workplace
from sage.ui.server.limits import BOUNDS
from sage.ui.server.listeners import Listeners

RENDER = "render"
RENDER_LANE: dict[str, Any] = {"concurrency_id": RENDER, "concurrency_limit": 1}
CHEAP_LANE: dict[str, Any] = {"concurrency_id": "cheap", "concurrency_limit": BOUNDS.cheap}
POLL_SECONDS = 0.01  # how often the queue is looked through; gradio's 1 ms costs 5 % of a core
STEPS = settings_of()["steps"]
MODEL_CHARS = 100  # of a name that nobody has checked yet
UNHEARD = "Nobody read the answer, so the run was dropped before it began. Ask again."
TICKET: ContextVar[Ticket | None] = ContextVar("ticket", default=None)


def require_admission() -> None:
    """Nothing, if the run at hand may go on.

    Raises:
        BusyError: If it was refused; a ValueError with one sentence.
    """
    ticket = TICKET.get()
    if ticket is not None and ticket.refusal is not None:
        raise ticket.refusal


def require_listener() -> None:
    """Nothing, if somebody reads the answer of the run at hand, or if it runs for no client.

    Raises:
        UnheardError: If the reader is gone.
    """
    ticket = TICKET.get()
    if ticket is not None and not ticket.heard():
        raise UnheardError


def work_of(fn: BlockFunction, data: Sequence[Any]) -> tuple[str, float]:
    """What a request that nobody has checked yet asks for: its kind, and prompts × steps × runs.

    The components are known by their names: those of the endpoints, or the page's. Numbers count
    as if they were within their limits: what is outside is refused later, and fails at once.
    """
    given: dict[str, Any] = {}
    for block, value in zip(fn.inputs, data, strict=False):
        name = getattr(block, "elem_id", None) or getattr(block, "label", None) or ""
        given[str(name).removeprefix("explore-")] = value
    units = float(_prompts(str(given.get("prompts", "")))) * _steps(given.get("steps"))
    for axis in ("across-values", "down-values"):
        values = given.get(axis)
        units *= min(PER_AXIS.high, max(1, len(values))) if isinstance(values, list) else 1
    repeats = given.get("repeats")
    units *= repeats if type(repeats) is int and repeats in REPEATS else 1
    return f"{fn.api_name} {str(given.get('model') or '')[:MODEL_CHARS]}", units


def _prompts(text: str) -> int:
    """How many prompts a text stands for, those of its braces among them, within the limits."""
    number = text.strip().count("\n") + 1
    if "{" in text and len(text) <= NUM_PROMPTS.high * (PROMPT_CHARS.high + 1):
        with suppress(ValueError):  # braces that don't match are refused later, and cost nothing
            number = len(expand_sets(text).texts)
    return int(min(NUM_PROMPTS.high, max(1, number)))


def _steps(value: Any) -> float:
    """Steps within their limits; the usual number where they are left to the model."""
    assert isinstance(STEPS, Number)
    try:
        steps = float(value or STEPS.default)
    except (TypeError, ValueError, OverflowError):
        steps = math.nan
    return min(STEPS.high, max(STEPS.low, steps if math.isfinite(steps) else STEPS.default))


class Lanes(Queue):
    """A queue for a page that has `listeners` and `admission`; see the module."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.sleep_when_free = POLL_SECONDS
        self.admission = Admission()
        self.loop: asyncio.AbstractEventLoop | None = None  # of the server, once it runs
        self._unread_since: dict[str, float] = {}

    @property
    def listeners(self) -> Listeners:
        """Who reads."""
        return self.blocks.listeners  # type: ignore[attr-defined]

    def compute_analytics_summary(self, records: Any) -> dict[str, Any]:
        """Nothing: gradio makes a table of ten thousand rows here, after every event."""
        return self.cached_event_analytics_summary

    def start(self) -> None:
        """Starts gradio's loops and the one that clears away."""
        super().start()
        self.loop = asyncio.get_running_loop()
        run_coro_in_background(self._sweep_while_running)

    def send_message(self, event: Event, event_message: EventMessage) -> None:
        """Hands a message to whoever reads; the last one tells whether the run succeeded."""
        if isinstance(event_message, ProcessCompletedMessage):
            event.succeeded = event_message.success  # type: ignore[attr-defined]
        super().send_message(event, event_message)

    # -- coming in ---------------------------------------------------------------------------

    async def push(
        self, body: PredictBodyInternal, request: fastapi.Request, username: str | None
    ) -> Any:
        """Takes a request in, or refuses it at once.

        A call without a session is refused by its status and a `Retry-After`; the page and
        gradio's clients read the sentence in the stream of their answers.
        """
        fn = self.blocks.fns.get(body.fn_index) if body.fn_index is not None else None
        if fn is None:
            raise fastapi.HTTPException(404, "There is no such endpoint.")
        if fn.concurrency_id != RENDER:
            return await super().push(body, request, username)
        client = Client(_address(request), "" if body.simple_format else body.session_hash or "")
        ticket = Ticket(client, *work_of(fn, body.data))
        ticket.refusal = self.admission.refuse(ticket, self._in_line())
        if ticket.refusal is not None and body.simple_format:
            raise _too_many(ticket.refusal)
        done, event_id, state = await super().push(body, request, username)
        event = self.event_ids_to_events.get(event_id) if isinstance(event_id, str) else None
        if event is not None:
            ticket.heard = lambda: self._is_read(event)
            event.ticket = ticket  # type: ignore[attr-defined]
            await self._bound_unheard()
        return done, event_id, state

    def _waiting(self) -> list[Event]:
        lane = self.event_queue_per_concurrency_id.get(RENDER)
        return list(lane.queue) if lane else []

    def _in_line(self) -> list[Ticket]:
        tickets = (_ticket(event) for event in self._waiting())
        return [ticket for ticket in tickets if ticket is not None and ticket.refusal is None]

    def _is_read(self, event: Event) -> bool:
        if not event.alive or not self.listeners.reads(event.session_hash, event._id):
            return False
        messages = self.pending_messages_per_session.get(event.session_hash)
        return messages is None or messages.qsize() <= BOUNDS.unread_messages

    async def _bound_unheard(self) -> None:
        unheard = [e for e in self._waiting() if not self._is_read(e)]
        for event in unheard[: -BOUNDS.unheard]:
            await self._drop(event)

    async def _drop(self, event: Event) -> None:
        """Takes a run out of the line; whoever reads its answer after all is told why."""
        output = {"error": UNHEARD, "duration": 10, "visible": True, "title": "Error"}
        self.send_message(event, ProcessCompletedMessage(output=output, success=False))
        await self.clean_events(event_id=event._id)

    # -- going on ----------------------------------------------------------------------------

    def get_events(self) -> tuple[list[Event], bool, str] | None:
        """What is worked on next: refusals, then cheap calls, then whose turn it is to render."""
        refused = next((e for e in self._waiting() if _refused(e)), None)
        if refused is not None:
            return self._take(refused)
        for name, lane in self.event_queue_per_concurrency_id.items():
            limit = lane.concurrency_limit
            if (
                name != RENDER
                and lane.queue
                and (limit is None or lane.current_concurrency < limit)
            ):
                return self._take(lane.queue[0])
        lane = self.event_queue_per_concurrency_id.get(RENDER)
        if (
            lane is None
            or not lane.queue
            or lane.current_concurrency >= (lane.concurrency_limit or 1)
        ):
            return None
        by_ticket = {_ticket(event): event for event in lane.queue}
        picked = self.admission.pick([ticket for ticket in by_ticket if ticket is not None])
        return self._take(by_ticket[picked]) if picked is not None else None

    def _take(self, event: Event) -> tuple[list[Event], bool, str]:
        self.event_queue_per_concurrency_id[event.concurrency_id].queue.remove(event)
        return [event], False, event.concurrency_id

    async def process_events(
        self, events: list[Event], batch: bool, begin_time: float, fn: BlockFunction
    ) -> None:
        """Works on an event; the handlers find its ticket in their context."""
        event, ticket = events[0], _ticket(events[0])
        TICKET.set(ticket)
        counted = ticket if ticket is not None and ticket.refusal is None else None
        if counted is not None:
            self.admission.begin(counted)
        try:
            await super().process_events(events, batch, begin_time, fn)
        finally:
            if counted is not None:
                self.admission.end(counted, finished=event.alive and _succeeded(event))
            if event.session_hash == event._id:  # a call without a session has no later ones
                self.blocks.state_holder.forget(event._id)  # type: ignore[attr-defined]

    # -- clearing away -----------------------------------------------------------------------

    async def _sweep_while_running(self) -> None:
        while not self.stopped:
            await asyncio.sleep(BOUNDS.sweep_seconds)
            with suppress(Exception):  # it comes round again
                await self.sweep()
                await asyncio.to_thread(self._sweep_files)

    def _sweep_files(self) -> None:
        """Removes files that can no longer be downloaded, and their names."""
        clear_old(workplace())
        for names in self.blocks.temp_file_sets:
            names.difference_update([name for name in list(names) if not os.path.exists(name)])

    async def sweep(self, now: float | None = None) -> None:
        """Drops runs, messages and names of sessions that nobody reads."""
        now = time.monotonic() if now is None else now
        for event in self._waiting():
            if now - event.enqueue_time > BOUNDS.unheard_seconds and not self._is_read(event):
                await self._drop(event)
        names = {*self.pending_messages_per_session, *self.pending_event_ids_session}
        busy = {event.session_hash for event in self.event_ids_to_events.values()}
        silent = {name for name in names if not self.listeners.reads(name)} - busy
        self._unread_since = {name: self._unread_since.get(name, now) for name in silent}
        for name, since in list(self._unread_since.items()):
            if now - since > BOUNDS.unheard_seconds:
                self.pending_messages_per_session.pop(name, None)
                self.pending_event_ids_session.pop(name, None)
                del self._unread_since[name]


def _ticket(event: Event) -> Ticket | None:
    return getattr(event, "ticket", None)


def _succeeded(event: Event) -> bool:
    return getattr(event, "succeeded", False)


def _refused(event: Event) -> bool:
    ticket = _ticket(event)
    return ticket is not None and ticket.refusal is not None


def _too_many(busy: BusyError) -> fastapi.HTTPException:
    return fastapi.HTTPException(fastapi.status.HTTP_429_TOO_MANY_REQUESTS, str(busy), busy.headers)


def _address(request: fastapi.Request) -> str:
    return request.client.host if request.client is not None else ""
