"""What comes in and goes out around every request: hosts, routes, sizes, and a browser's rules.

Gradio builds addresses from the Host header and from what proxies add; both are anybody's to
write. Only the names of this machine are believed, and a proxy's words only where one is declared.
Routes that the page does not use are closed.
"""

import ipaddress
import re
import socket
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sage.ui.server.errors import refusal
from sage.ui.server.limits import BOUNDS

PROXY_HEADERS = re.compile(rb"x-forwarded-.*|forwarded|x-real-ip|x-gradio-server")
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")

# What gradio's page, its clients and the endpoints need; "api" is a listener's name.
READ = re.compile(
    r"/|/config/?|/theme\.css|/favicon\.ico|/robots\.txt|/manifest\.json|"
    r"/(assets|static|svelte)/.+|"
    r"/gradio_api/(info/?|app_id/?|startup-events|theme\.css|queue/data|upload_progress|"
    r"heartbeat/[^/]+|call/(v2/)?(?P<api>[^/]+)/[^/]+|file=.+)"
)
WRITE = re.compile(
    r"/gradio_api/(queue/join|cancel|reset/?|upload|run/(?P<fn>[^/]+)|call/(v2/)?(?P<api>[^/]+)/?)"
)
TOOLS = re.compile(r"/gradio_api/mcp(/.*)?")
UPLOAD = "/gradio_api/upload"

# Gradio's page has scripts inside its HTML and compiles its components' templates.
POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self' data: blob:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'self' https://huggingface.co https://*.hf.space",
    )
)
SAFETY = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin-allow-popups",
}
# Gradio's scripts and styles: many and small, and what they may do the page's policy decides.
PARTS = "/assets/"
NO_GUESSING = {"x-content-type-options": SAFETY["x-content-type-options"]}


class TooLargeError(Exception):
    """A request's body is longer than allowed."""


class Guard:
    """ASGI middleware around everything.

    Args:
        app: What answers.
        proxy: Whether a proxy in front is declared: then its Host and X-Forwarded-* are believed.
        names: Further names under which this machine is reached, e.g. that of `--host`.
    """

    def __init__(self, app: ASGIApp, proxy: bool = False, names: Iterable[str] = ()) -> None:
        self.app = app
        self.proxy = proxy
        own = socket.gethostname().lower()
        self._names = {*LOCAL_NAMES, own, f"{own}.local", *(name.lower() for name in names if name)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Checks a request, and adds to its answer what a browser has to know."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await self._guarded(scope, receive, send)
        else:  # the page has no web sockets
            await send({"type": "websocket.close", "code": 1008})

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        blocks = scope["app"].get_blocks()
        believed = self.proxy or bool(blocks.share)
        scope = {**scope, "headers": scope["headers"] if believed else self._own(scope)}
        if believed:
            scope["client"] = _forwarded_client(scope)

        path = scope["path"].removeprefix(scope.get("root_path", "")) or "/"

        async def safe(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in (NO_GUESSING if path.startswith(PARTS) else SAFETY).items():
                    headers[name] = value
            await send(message)

        if not self._is_open(path, scope["method"], blocks):
            await refusal(404, "There is nothing at this address.")(scope, receive, safe)
            return
        limit = BOUNDS.body_bytes + (BOUNDS.upload_bytes if path == UPLOAD else 0)
        await self._bounded(scope, receive, safe, limit)

    def _own(self, scope: Scope) -> list[tuple[bytes, bytes]]:
        """The headers without a proxy's words, and with a Host that is this machine's."""
        kept = [(k, v) for k, v in scope["headers"] if not PROXY_HEADERS.fullmatch(k)]
        host = Headers(raw=kept).get("host", "")
        if host and self._is_own(host, scope):
            return kept
        address, port = scope.get("server") or ("127.0.0.1", 80)
        own = f"[{address}]:{port}" if ":" in str(address) else f"{address}:{port}"
        return [*((k, v) for k, v in kept if k != b"host"), (b"host", own.encode())]

    def _is_own(self, host: str, scope: Scope) -> bool:
        match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[\w.-]+)(:\d{1,5})?", host)
        if match is None:
            return False
        name = match.group(1).strip("[]").lower().rstrip(".")
        address, _ = scope.get("server") or ("", 0)
        return name in self._names or _same_address(name, str(address))

    def _is_open(self, path: str, method: str, blocks: Any) -> bool:
        if blocks.mcp_server and TOOLS.fullmatch(path):
            return True
        match = {"GET": READ, "HEAD": READ, "POST": WRITE}.get(method)
        found = match.fullmatch(path) if match is not None else None
        if found is None:
            return method == "OPTIONS" and bool(WRITE.fullmatch(path) or READ.fullmatch(path))
        names = found.groupdict()
        known = {fn.api_name for fn in blocks.fns.values()}
        # The page names a listener by its number in the body, below one address for all of them.
        own = {None, "predict", *known}
        return names.get("fn") in own and names.get("api") in {None, *_public(blocks)}

    async def _bounded(self, scope: Scope, receive: Receive, send: Send, limit: int) -> None:
        length = Headers(scope=scope).get("content-length", "")
        if length.isdecimal() and int(length[:15]) > limit:
            await _too_large(limit)(scope, receive, send)
            return
        read, started = 0, False

        async def count() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > limit:
                raise TooLargeError
            return message

        async def note(message: Message) -> None:
            nonlocal started
            if started or read <= limit:  # what a route says about a body cut short is not sent
                started = True
                await send(message)

        with suppress(TooLargeError):
            await self.app(scope, count, note)
        if read > limit and not started:
            await _too_large(limit)(scope, receive, send)


def _too_large(limit: int) -> Any:
    return refusal(413, f"The request is too large: at most {limit // 2**10} kB are read.")


def _public(blocks: Any) -> set[str]:
    return {fn.api_name for fn in blocks.fns.values() if fn.api_visibility == "public"}


def _same_address(name: str, address: str) -> bool:
    try:
        return ipaddress.ip_address(name) == ipaddress.ip_address(address)
    except ValueError:
        return False


def _forwarded_client(scope: Scope) -> tuple[str, int] | None:
    """Who the declared proxy says that asks: the last address is the one it saw itself."""
    line = Headers(scope=scope).get("x-forwarded-for", "")
    last = line.rsplit(",", 1)[-1].strip()
    return (last[:64], 0) if last else scope.get("client")
