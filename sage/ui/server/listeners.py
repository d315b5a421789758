"""Who reads answers now: work that nobody listens to does not start, and ends if it has."""

from collections import Counter
from threading import Lock
from urllib.parse import parse_qs

from starlette.types import ASGIApp, Message, Receive, Scope, Send

STREAM, CALL = "/gradio_api/queue/data", "/gradio_api/call/"


class Listeners:
    """Sessions and events whose stream of answers is open; safe between threads."""

    def __init__(self) -> None:
        self._open: Counter[str] = Counter()
        self._lock = Lock()

    def came(self, name: str) -> None:
        """A stream of a session or an event was opened."""
        with self._lock:
            self._open[name] += 1

    def left(self, name: str) -> None:
        """A stream was closed, by whichever side."""
        with self._lock:
            self._open[name] -= 1
            if self._open[name] <= 0:
                del self._open[name]

    def reads(self, *names: str) -> bool:
        """Whether somebody reads the answers to any of these."""
        return any(name in self._open for name in names)


class Listening:
    """ASGI middleware that notes which streams of answers are open.

    Args:
        app: What answers; `scope["app"].get_blocks().listeners` is told.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes everything on; see the class."""
        name = _stream_name(scope)
        if name is None:
            return await self.app(scope, receive, send)
        listeners: Listeners = scope["app"].get_blocks().listeners
        here = True

        def leave() -> None:
            nonlocal here
            if here:
                here = False
                listeners.left(name)

        async def hear() -> Message:
            message = await receive()
            if message["type"] == "http.disconnect":
                leave()
            return message

        listeners.came(name)
        try:
            await self.app(scope, hear, send)
        finally:
            leave()


def _stream_name(scope: Scope) -> str | None:
    """The session or the event whose answers a request reads."""
    if scope["type"] != "http" or scope["method"] != "GET":
        return None
    path = scope["path"].removeprefix(scope.get("root_path", ""))
    if path == STREAM:
        query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
        return query.get("session_hash", [None])[0]
    return path.rsplit("/", 1)[1] if path.startswith(CALL) else None
