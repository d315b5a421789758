"""The page itself, rendered once: HTML, configuration, the API's description, scripts as bytes.

Gradio renders all three anew for every visitor: half a second of CPU and 0.9 MB, uncompressed.
They depend on nothing but the address under which the page is reached, so each is rendered once
for each address, compressed, and answered from memory; a browser that has it gets a 304. Gradio's
scripts are compressed once too, better than is possible while somebody waits; their names change
with their content, so that a browser need not ask again. What a listener answers is compressed.
"""

import asyncio
import gzip
import hashlib
import re
from collections import OrderedDict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import brotli
from starlette.datastructures import Headers
from starlette.middleware.gzip import GZipMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sage.ui.server.limits import BOUNDS
from sage.ui.server.preview import own_preview
from sage.ui.server.styles import with_pictures, with_styles

# What is cached, and the query that it depends on; everything else in a query is ignored: a link's
# settings, the theme and the view are read by the browser.
CACHED: dict[str, tuple[str, ...]] = {
    "/": (),
    "/config": ("page",),
    "/config/": ("page",),
    "/gradio_api/info": ("page",),
    "/gradio_api/info/": ("page",),
}
# The browser knows best under which address it reached the page; only the path before it is ours.
ROOT = re.compile(rb"window\.gradio_config = (\{.*?\});</script>", re.DOTALL)
BROWSER_ROOT = (
    b"window.gradio_config = %s;window.gradio_config.root = location.origin + "
    b'new URL(window.gradio_config.root || "/", location.href).pathname.replace(/\\/$/, "");'
    b"</script>"
)
SCRIPT = re.compile(r"/assets/[\w-]+\.(js|css)")
LASTING = b"public, max-age=31536000, immutable"
ANSWER = "/gradio_api/run/"
PICTURE = Path(__file__).resolve().parents[3] / "assets" / "ui" / "card.png"
CARD = f"/gradio_api/file={PICTURE}"  # the picture of a link preview
BROTLI_QUALITY, GZIP_LEVEL = 9, 9


@dataclass(frozen=True)
class Rendered:
    """One answer in every encoding.

    Attributes:
        config: The configuration it was made from; another one makes it stale.
        kind: Its content type.
        bodies: Its bytes by content encoding; "" is as it is.
        tag: Names the content.
        lasting: Whether a browser may keep it without asking.
    """

    config: Any
    kind: bytes
    bodies: dict[str, bytes]
    tag: str
    lasting: bool = False

    def pick(self, accepted: str) -> str:
        """The smallest encoding that a client takes, from its Accept-Encoding."""
        offers = [part.split(";") for part in accepted.replace(" ", "").lower().split(",")]
        taken = {name for name, *weight in offers if weight not in (["q=0"], ["q=0.0"])}
        return next((name for name in ("br", "gzip") if name in taken), "")


class PageCache:
    """ASGI middleware that answers the page from memory; everything else passes through.

    Args:
        app: What renders.
        pages: How many renderings are kept.
    """

    def __init__(self, app: ASGIApp, pages: int = BOUNDS.pages) -> None:
        self.app = app
        self._pages = pages
        self._kept: OrderedDict[tuple[str, ...], Rendered] = OrderedDict()
        self._scripts: OrderedDict[str, Rendered] = OrderedDict()
        self._zipped = GZipMiddleware(app, minimum_size=1000)
        self._lock = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request for the page; see the class."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        path = scope["path"].removeprefix(scope.get("root_path", "")) or "/"
        if scope["method"] not in ("GET", "HEAD"):
            app = self._zipped if path.startswith(ANSWER) else self.app
            return await app(scope, receive, send)
        rendered, server = None, scope["app"]
        if SCRIPT.fullmatch(path):
            rendered = await self._script(scope, path)
        elif path in CACHED and server.auth is None and server.auth_dependency is None:
            rendered = await self._rendered(scope, path)
        if rendered is None:  # it says itself what is wrong
            return await self.app(scope, receive, send)
        return await _answer(rendered, scope, send)

    async def _rendered(self, scope: Scope, path: str) -> Rendered | None:
        config, query = scope["app"].get_blocks().config, _query(scope, CACHED[path])
        headers = Headers(scope=scope)
        origin = (
            headers.get(name, "") for name in ("host", "x-forwarded-host", "x-forwarded-proto")
        )
        key = (path, query, scope.get("scheme", ""), scope.get("root_path", ""), *origin)
        async with self._lock:
            rendered = self._kept.get(key)
            if rendered is None or rendered.config is not config:
                rendered = await self._render(scope, query, config)
                if rendered is None:
                    return None
                self._kept[key] = rendered
            self._kept.move_to_end(key)
            while len(self._kept) > self._pages:
                self._kept.popitem(last=False)
        return rendered

    async def _script(self, scope: Scope, path: str) -> Rendered | None:
        """A file of Gradio's page; None where there is none, or one too large to keep."""
        most, largest = BOUNDS.scripts
        async with self._lock:
            script = self._scripts.get(path)
            if script is None:
                script = await self._render(scope, "", None)
                if script is None or len(script.bodies[""]) > largest:
                    return None
                self._scripts[path] = replace(script, lasting=True)
            self._scripts.move_to_end(path)
            while len(self._scripts) > most:
                self._scripts.popitem(last=False)
            return self._scripts[path]

    async def _render(self, scope: Scope, query: str, config: Any) -> Rendered | None:
        """What the app itself answers, or None if that is no success."""
        plain = [(k, v) for k, v in scope["headers"] if k not in (b"accept-encoding", b"range")]
        asked = {**scope, "method": "GET", "query_string": query.encode(), "headers": plain}
        start: dict[str, Any] = {}
        body = bytearray()

        asks = iter([{"type": "http.request", "body": b"", "more_body": False}])

        async def receive() -> Message:
            message = next(asks, None)
            if message is None:  # whoever streams a file listens for a client that leaves
                await asyncio.Event().wait()
            return message or {}

        async def keep(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
            elif message["type"] == "http.response.body":
                body.extend(message.get("body", b""))

        await self.app(asked, receive, keep)
        if start.get("status") != 200:
            return None
        kind = dict(start["headers"]).get(b"content-type", b"application/json")
        return await asyncio.to_thread(_pack, config, kind, bytes(body))


def _query(scope: Scope, names: tuple[str, ...]) -> str:
    given = parse_qs(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
    known = [name for name in names if given.get(name) == [""]]  # there is one page, named ""
    return "&".join(f"{name}=" for name in known)


def _kinds(config: Any) -> set[str]:
    """Types of the components that a browser builds."""
    return {one["type"] for one in config["components"] if one["props"].get("visible", True)}


def _pack(config: Any, kind: bytes, body: bytes) -> Rendered:
    if kind.startswith(b"text/html"):
        body = with_styles(own_preview(body, CARD), _kinds(config))
        body = with_pictures(body, (one["props"].get("value") for one in config["components"]))
        body = ROOT.sub(lambda match: BROWSER_ROOT % match.group(1), body, count=1)
    bodies = {
        "": body,
        "br": brotli.compress(body, mode=brotli.MODE_TEXT, quality=BROTLI_QUALITY),
        "gzip": gzip.compress(body, GZIP_LEVEL, mtime=0),
    }
    return Rendered(config, kind, bodies, hashlib.sha256(body).hexdigest()[:20])


async def _answer(rendered: Rendered, scope: Scope, send: Send) -> None:
    headers = Headers(scope=scope)
    encoding = rendered.pick(headers.get("accept-encoding", ""))
    tag = f'"{rendered.tag}{"-" + encoding if encoding else ""}"'
    fresh = tag in [
        part.strip().removeprefix("W/") for part in headers.get("if-none-match", "").split(",")
    ]
    body = rendered.bodies[encoding]
    answer = [
        (b"content-type", rendered.kind),
        (b"etag", tag.encode()),
        (b"cache-control", LASTING if rendered.lasting else b"no-cache"),
        (b"vary", b"accept-encoding"),
    ]
    if not fresh:
        answer.append((b"content-length", str(len(body)).encode()))
    if encoding and not fresh:
        answer.append((b"content-encoding", encoding.encode()))
    await send({"type": "http.response.start", "status": 304 if fresh else 200, "headers": answer})
    silent = fresh or scope["method"] == "HEAD"
    await send({"type": "http.response.body", "body": b"" if silent else body})
