"""Who is believed, what is open, and what a browser is told."""

import asyncio
import re

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from sage.ui.server.headers import Guard
from sage.ui.server.limits import BOUNDS

EVIL = "evil.example"
UNUSED = [
    ("GET", "/gradio_api/token"),
    ("GET", "/gradio_api/user"),
    ("GET", "/gradio_api/dev/reload"),
    ("GET", "/gradio_api/deep_link?session_hash=x"),
    ("GET", "/gradio_api/openapi.json"),
    ("GET", "/gradio_api/runs"),
    ("GET", "/gradio_api/queue/status"),
    ("GET", "/gradio_api/proxy=https://x.hf.space/"),
    ("GET", "/gradio_api/custom_component/x/client/component/index.js"),
    ("GET", "/gradio_api/stream/a/b/1/playlist.m3u8"),
    ("GET", "/gradio_api/call/render/x"),
    ("GET", "/logout"),
    ("GET", "/monitoring"),
    ("GET", "/docs"),
    ("GET", "/openapi.json"),
    ("POST", "/login"),
    ("POST", "/gradio_api/component_server"),
    ("POST", "/gradio_api/call/render"),
    ("POST", "/gradio_api/call/v2/welcome"),
    ("POST", "/gradio_api/api/analyze"),
    ("DELETE", "/"),
    ("PUT", "/config"),
]
OUTSIDE = [
    "/etc/passwd",
    "/proc/self/environ",
    "/proc/self/cwd/app.py",
    "app.py",
    "requirements.txt",
    "sage/ui/demo.py",
    "README.md",
    ".git/config",
    "..%2f..%2f..%2fetc/passwd",
    "../../../../etc/passwd",
    "%2e%2e/%2e%2e/etc/passwd",
    "assets/emoji-scenes/unet/diffusion_pytorch_model.safetensors",
    "~/.ssh/id_rsa",
    "file:///etc/passwd",
    "http://127.0.0.1:1/",
    "http://169.254.169.254/latest/meta-data",
    "\\\\server\\share",
    "C:\\Windows\\win.ini",
    "/dev/zero",
    "/",
    "%00",
]


@pytest.mark.parametrize("name", ["host", "x-forwarded-host", "x-gradio-server", "forwarded"])
def test_nobody_can_name_the_pages_root(server, name):
    value = {"x-gradio-server": f"http://{EVIL}", "forwarded": f"host={EVIL}"}.get(name, EVIL)
    for path in ("/", "/config", "/gradio_api/info"):
        answer = httpx.get(server + path, headers={name: value})
        assert answer.status_code == 200
        assert EVIL not in answer.text
        assert EVIL not in str(answer.headers)


def test_names_of_this_machine_are_its_own(server):
    port = httpx.URL(server).port
    for name in ("localhost", "127.0.0.1"):
        config = httpx.get(f"{server}/config", headers={"host": f"{name}:{port}"}).json()
        assert config["root"] == f"http://{name}:{port}"


@pytest.mark.parametrize("host", ["", "a b", "x" * 5000, "[::1", "evil.example:99999999", "@", "ß"])
def test_a_host_that_is_none_is_replaced(server, host):
    answer = httpx.get(f"{server}/config", headers={b"host": host.encode()})
    assert answer.status_code in (200, 400)  # uvicorn itself refuses some
    if answer.status_code == 200:
        assert httpx.URL(answer.json()["root"]).host == "127.0.0.1"


def guarded(**settings):
    """What a route behind a guard sees."""

    async def seen(request: Request):
        return PlainTextResponse(f"{request.headers.get('host')} {request.client.host}")

    class Blocks:
        share, mcp_server, fns = False, False, {}

    app = Starlette(routes=[Route("/config", seen)])
    app.get_blocks = Blocks

    def ask(**headers):
        async def call():
            transport = httpx.ASGITransport(app=_Outer(Guard(app, **settings), app))
            async with httpx.AsyncClient(
                transport=transport, base_url="http://127.0.0.1"
            ) as client:
                return (await client.get("/config", headers=headers)).text

        return asyncio.run(call())

    return ask


class _Outer:
    """Puts the application into the scope, as a real one does."""

    def __init__(self, guard, app):
        self.guard, self.app = guard, app

    async def __call__(self, scope, receive, send):
        await self.guard({**scope, "app": self.app}, receive, send)


def test_a_declared_proxy_is_believed():
    forwarded = {"host": "studio.example", "x-forwarded-for": "6.6.6.6, 203.0.113.9"}
    assert guarded(proxy=True)(**forwarded) == "studio.example 203.0.113.9"
    assert guarded()(**forwarded).split()[0].startswith("127.0.0.1")
    assert guarded()(**forwarded).split()[1] != "203.0.113.9"


def test_a_name_given_by_flag_is_this_machines():
    assert guarded(names=["studio.lan"])(host="studio.lan:7860").startswith("studio.lan:7860")


@pytest.mark.parametrize(
    "path", ["/", "/config", "/theme.css", "/gradio_api/info", "/gradio_api/file=x", "/nowhere"]
)
def test_every_answer_tells_a_browser_the_rules(server, path):
    headers = httpx.get(server + path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    policy = dict(
        part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";")
    )
    assert policy["default-src"] == "'self'"
    assert policy["object-src"] == "'none'"
    assert "*" not in policy["script-src"] + policy["connect-src"] + policy["img-src"]


@pytest.mark.parametrize(("method", "path"), UNUSED)
def test_routes_that_the_page_does_not_use_are_closed(server, method, path):
    answer = httpx.request(method, server + path)
    assert answer.status_code in (404, 405)
    assert answer.json()["error"]


def test_every_route_of_gradio_is_known(demo):
    """A new version of gradio that brings a route is noticed here: open it, or leave it closed."""
    paths = set(_paths(demo.app.routes))
    assert len(paths) > 60
    guard = Guard(demo.app)
    opened = {p for p in paths if any(guard._is_open(_filled(p), m, demo) for m in ("GET", "POST"))}
    assert opened == {
        "/",
        "/config",
        "/config/",
        "/theme.css",
        "/favicon.ico",
        "/robots.txt",
        "/manifest.json",
        "/assets/{path:path}",
        "/static/{path:path}",
        "/svelte/{path:path}",
        "/gradio_api/info",
        "/gradio_api/info/",
        "/gradio_api/app_id",
        "/gradio_api/app_id/",
        "/gradio_api/startup-events",
        "/gradio_api/theme.css",
        "/gradio_api/queue/join",
        "/gradio_api/queue/data",
        "/gradio_api/cancel",
        "/gradio_api/reset",
        "/gradio_api/reset/",
        "/gradio_api/upload",
        "/gradio_api/upload_progress",
        "/gradio_api/heartbeat/{session_hash}",
        "/gradio_api/run/{api_name}",
        "/gradio_api/call/{api_name}",
        "/gradio_api/call/{api_name}/",
        "/gradio_api/call/{api_name}/{event_id}",
        "/gradio_api/call/v2/{api_name}",
        "/gradio_api/call/v2/{api_name}/",
        "/gradio_api/call/v2/{api_name}/{event_id}",
        "/gradio_api/file={path_or_url:path}",
    }


def _paths(routes):
    for route in routes:
        inner = getattr(route, "routes", None) or getattr(
            getattr(route, "original_router", None), "routes", []
        )
        yield from _paths(inner) if inner else [getattr(route, "path", "")]


def _filled(path):
    return re.sub(r"\{[^}]*\}", "x", path.replace("{api_name}", "compare"))


@pytest.mark.parametrize("path", OUTSIDE)
def test_nothing_else_of_the_machine_is_served(server, path):
    answer = httpx.get(f"{server}/gradio_api/file={path}")
    assert answer.status_code in (400, 403, 404)
    assert "root:" not in answer.text


@pytest.mark.parametrize("prefix", ["/static/", "/assets/", "/svelte/"])
def test_gradios_own_files_lead_nowhere_else(server, prefix):
    for path in (
        "../../../../etc/passwd",
        "..%2f..%2froutes.py",
        "%2e%2e/%2e%2e/blocks.py",
        "/etc/passwd",
    ):
        assert httpx.get(server + prefix + path).status_code in (400, 403, 404)


def test_a_large_body_is_refused_before_it_is_read(server):
    address = f"{server}/gradio_api/call/compare"
    big = b"[" + b"1," * BOUNDS.body_bytes + b"1]"
    assert httpx.post(address, content=big).status_code == 413

    def parts():
        for _ in range(40):
            yield b"x" * 2**16

    assert httpx.post(address, content=parts()).status_code == 413  # no length was announced


@pytest.mark.slow
def test_web_sockets_are_closed(server):
    import socket

    url = httpx.URL(server)
    with socket.create_connection((url.host, url.port), timeout=5) as line:
        line.sendall(
            b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        assert line.recv(100).split()[1] in (b"403", b"200", b"400", b"426")
