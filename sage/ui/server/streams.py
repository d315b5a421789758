"""How many streams stay open at once: each holds a connection, a file handle and memory.

A stream ends when its client wants it to: a session's heartbeat never, answers that nobody reads
hardly ever. So they have places, for each address and in all; who has none is told so at once, and
whoever has one keeps it.
"""

import re
from collections import Counter

from starlette.types import ASGIApp, Receive, Scope, Send

from sage.ui.server.admission import BusyError
from sage.ui.server.errors import refusal
from sage.ui.server.limits import BOUNDS, Bounds

# What gradio answers with events, one after the other, for as long as they are read.
STREAM = re.compile(
    r"/gradio_api/(queue/data|upload_progress|heartbeat/[^/]+|call/(v2/)?[^/]+/[^/]+|mcp(/.*)?)"
)


class Places:
    """Open streams by address.

    Args:
        bounds: How many there may be.
    """

    def __init__(self, bounds: Bounds = BOUNDS) -> None:
        self.bounds = bounds
        self._open: Counter[str] = Counter()

    def take(self, address: str) -> BusyError | None:
        """Takes a place, or says why there is none."""
        own, every = self._open[address], self._open.total()
        if own >= self.bounds.streams_of_address:
            used = f"Your network address has {own}"
        elif every >= self.bounds.streams:
            used = f"There are {every}"
        else:
            self._open[address] += 1
            return None
        why = f"{used} streams of answers open, and no more are allowed: close some."
        return BusyError(why, self.bounds.stream_retry_seconds)

    def give_back(self, address: str) -> None:
        """A stream is closed."""
        self._open[address] -= 1
        if self._open[address] <= 0:
            del self._open[address]


class Streams:
    """ASGI middleware that refuses streams beyond the bounds; runs in the server's loop only.

    Args:
        app: What answers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.places = Places()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes everything on; see the class."""
        if not _is_stream(scope):
            return await self.app(scope, receive, send)
        address = (scope.get("client") or ("", 0))[0]
        if (busy := self.places.take(address)) is not None:
            return await refusal(429, str(busy), busy.headers)(scope, receive, send)
        try:
            await self.app(scope, receive, send)
        finally:
            self.places.give_back(address)


def _is_stream(scope: Scope) -> bool:
    if scope["type"] != "http" or scope["method"] != "GET":
        return False
    return bool(STREAM.fullmatch(scope["path"].removeprefix(scope.get("root_path", ""))))
