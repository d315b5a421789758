"""What a visitor downloads first: plain data, rendered once, whatever models are loaded."""

import gzip
import re
import time

import brotli
import httpx
import psutil
import pytest
import torch

from sage.jobs.models import ModelSpec, load_model
from sage.ui.demo import build_demo, launch_settings
from sage.ui.server.cache import Rendered
from sage.ui.server.page import plain
from sage.ui.server.styles import FRONTEND, sheets_of, with_pictures, with_styles
from sage.ui.shelf import Shelf

PLAIN = (str, int, float, bool, type(None))
BALLAST_MB = 256  # what a deep copy of the model would add to the process


def walk(value, path=()):
    """Every value inside a configuration, with where it stands."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from walk(item, (*path, key))
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from walk(item, (*path, number))
    else:
        yield path, value


@pytest.fixture(scope="module")
def heavy(page_folder):
    """A page of its own, with a shelf whose model is not loaded yet and cannot be overlooked."""

    def load(spec):
        model = load_model(spec, "cpu")
        model.pipe.unet.register_buffer("ballast", torch.ones(BALLAST_MB * 2**18))
        return model

    shelf = Shelf([ModelSpec("tiny", "Tiny", str(page_folder))], load)
    demo = build_demo(shelf)
    _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True, **launch_settings())
    yield shelf, demo, url.rstrip("/")
    demo.close()


def test_the_configuration_holds_nothing_but_plain_data(demo):
    """From anything else a copy of it would reach handlers, and from there the models."""
    foreign = [
        (path, value) for path, value in walk(demo.get_config_file()) if type(value) not in PLAIN
    ]
    assert not foreign


def test_what_is_served_names_no_object_of_this_process(server):
    for path in ("/", "/config"):
        text = httpx.get(server + path).text
        assert " object at 0x" not in text
        assert "<function" not in text
        assert "functools" not in text


def test_callables_go_and_everything_else_stays():
    config = {"a": 1, "f": print, "deep": [{"g": len, "text": "x"}, (2, None, 0.5)], "": {"": []}}
    assert plain(config) == {"a": 1, "deep": [{"text": "x"}, [2, None, 0.5]], "": {"": []}}


@pytest.mark.slow
def test_loading_the_page_costs_the_same_with_models_loaded(heavy):
    shelf, demo, url = heavy
    process = psutil.Process()

    def load_page():
        """CPU seconds of `/` and `/config`, rendered anew; the least of a few tries."""
        seconds = []
        for _ in range(4):
            demo.config = demo.get_config_file()  # what was rendered before is stale
            start = time.process_time()
            assert (
                client.get(f"{url}/").status_code == client.get(f"{url}/config").status_code == 200
            )
            seconds.append(time.process_time() - start)
        return min(seconds)

    with httpx.Client(timeout=30) as client:
        before = load_page()
        shelf.get("tiny")
        load_page()
        memory = process.memory_info().rss
        after = load_page()
        grown = (process.memory_info().rss - memory) / 2**20
    assert after <= 1.5 * before + 0.05, (before, after)
    assert grown <= 20


def test_a_page_that_was_rendered_costs_little_cpu(server):
    with httpx.Client() as client:
        client.get(server)
        start = time.process_time()
        for _ in range(20):
            client.get(server)
        each = (time.process_time() - start) / 20
    assert each <= 0.05  # and that includes this client


def test_a_browser_that_has_the_page_is_not_sent_it_again(server):
    first = httpx.get(server)
    again = httpx.get(server, headers={"if-none-match": first.headers["etag"]})
    assert (first.status_code, again.status_code, again.content) == (200, 304, b"")
    assert first.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize(
    ("accepts", "encoding", "unpack"),
    [
        ("gzip, deflate, br", "br", brotli.decompress),
        ("gzip", "gzip", gzip.decompress),
        ("br;q=0, gzip;q=0", None, bytes),
        ("", None, bytes),
    ],
)
def test_every_encoding_is_the_same_page(server, accepts, encoding, unpack):
    with httpx.stream("GET", server, headers={"accept-encoding": accepts}) as answer:
        packed = b"".join(answer.iter_raw())
    assert answer.headers.get("content-encoding") == encoding
    assert int(answer.headers["content-length"]) == len(packed)
    assert unpack(packed) == httpx.get(server).content


def test_a_query_changes_nothing_that_the_server_sends(server):
    """Links, themes and views are read by the browser; a query must not fill the memory."""
    page = httpx.get(server)
    for query in ("prompts=a%0Ab&steps=7", "__theme=dark", "view=api", "deep_link=x"):
        assert httpx.get(f"{server}/?{query}").headers["etag"] == page.headers["etag"]


def test_head_has_the_headers_of_get_and_no_body(server):
    head, get = httpx.head(server), httpx.get(server)
    assert head.headers["etag"] == get.headers["etag"]
    assert head.content == b""


def test_the_browser_says_where_the_page_is(server):
    assert "window.gradio_config.root = location.origin" in httpx.get(server).text


def test_the_smallest_encoding_is_picked():
    page = Rendered(None, b"", {}, "")
    assert [page.pick(a) for a in ("br", "GZIP;q=0.5", "identity", "br;q=0,gzip")] == [
        *("br", "gzip", "", "gzip")
    ]


def test_styles_and_fonts_of_the_page_are_in_the_page(server):
    """Gradio asks for forty style sheets; a link that is switched off stands for each."""
    page = httpx.get(server).text
    sheets = re.findall(
        r'"\./assets/([\w-]+)\.css"', page.split("<script>for(const href of ", 1)[1]
    )
    assert len(sheets) > 20
    # As links in the page's text, some browsers would fetch them whether they are off or not.
    assert len(re.findall(r"<link[^>]*\.css", page)) == 1
    assert page.count("@font-face") == 2
    assert len(page) < 1e6


def test_a_script_is_kept_packed_and_need_not_be_asked_for_again(server):
    (name,) = re.findall(r'src="\./(assets/index-[\w-]+\.js)"', httpx.get(server).text)
    with httpx.stream("GET", f"{server}/{name}", headers={"accept-encoding": "br"}) as answer:
        packed = b"".join(answer.iter_raw())
    assert "immutable" in answer.headers["cache-control"]
    script = brotli.decompress(packed)
    assert script == (FRONTEND / name.removeprefix("assets/")).read_bytes()
    assert len(packed) < len(script) / 2
    assert httpx.get(f"{server}/assets/none.js").status_code == 404


def test_the_first_pictures_are_asked_for_before_any_script():
    page = b'<html><head><script src="./assets/index-x.js"></script></head></html>'
    values = [None, 3, '<p>a</p><img class="sage-sheet" hidden src="gradio_api/file=/a.webp?v=1">']
    told = with_pictures(page, values).decode()
    assert told.index('as="image" href="gradio_api/file=/a.webp?v=1"') < told.index("<script")
    assert with_pictures(page, ["<img class='sage-sheet' src='x'>"]) == page


def test_a_frontend_that_is_put_together_otherwise_is_left_as_it_is():
    page = b'<html><head><script type="module" src="./assets/index-x.js"></script></head></html>'
    told = with_styles(page, {"html"})
    assert b"@font-face" in told
    assert b"disabled" not in told
    assert sheets_of("index-x.js", frozenset({"html"})) == {}
