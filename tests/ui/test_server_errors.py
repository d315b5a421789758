"""Every failure has a reason: a sentence for visitors, an id for the log, nothing else leaves."""

import errno
import json
import logging
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import gradio as gr
import httpx
import pytest
import torch

from sage.ui.server import errors, logs
from sage.ui.server.errors import UnheardError, explain, tidy
from sage.ui.server.files import filled_folder, workplace
from sage.ui.server.logs import LINE, REPEATS, Bounded, where
from sage.ui.shelf import Shelf

from .conftest import PROMPTS
from .visitors import ROOT

SECRET = "a purple unicorn signing a contract"


def raised(error, note=SECRET):
    """An error as it arrives: raised, in a frame that holds what a visitor typed."""
    try:
        assert note
        raise error
    except type(error) as caught:
        return caught


def of_a_library(text):
    """A ValueError that a library raises for reasons of its own."""
    try:
        json.loads(text)
    except ValueError as error:
        return error


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), errors.MEMORY),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), errors.MEMORY),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried 9 bytes"), errors.MEMORY),
        (RuntimeError("std::bad_alloc"), errors.MEMORY),
        (RuntimeError("CUDA error: out of memory"), errors.MEMORY),
        (MemoryError(), errors.MEMORY),
        (OSError(errno.ENOSPC, "No space left on device", "/srv/secret/P01.png"), errors.DISK),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), errors.DISK),
        (FloatingPointError("NaN in the latents"), errors.NUMBERS),
        (RuntimeError("Function 'MulBackward0' returned nan values"), errors.NUMBERS),
        (RuntimeError("PytorchStreamReader failed reading zip archive"), errors.MODEL_FILE),
        (OSError("unexpected end of file in /srv/model.safetensors"), errors.MODEL_FILE),
        (ValueError("steps must be between 2 and 100, not 3000."), "steps must be between 2"),
        (UnheardError(), errors.GONE),
    ],
)
def test_what_can_be_helped_has_its_own_sentence(error, sentence, caplog):
    assert explain(raised(error)).startswith(sentence)
    assert "Traceback" not in caplog.text
    assert not any(record.exc_info for record in caplog.records)


def test_a_cause_counts_too():
    memory = RuntimeError("CUDA out of memory")
    wrapped = ValueError("the component failed")
    wrapped.__cause__ = memory
    assert explain(wrapped) == errors.MEMORY


@pytest.mark.parametrize(
    "error",
    [KeyError("x"), TypeError("y"), ZeroDivisionError(), of_a_library(SECRET), IndexError()],
)
def test_our_own_fault_has_an_id_that_finds_the_line(error, caplog):
    with caplog.at_level(logging.ERROR):
        sentence = explain(raised(error) if error.__traceback__ is None else error, "Rendering")
    key = re.search(r"error ([0-9a-f]{8})", sentence).group(1)
    (record,) = caplog.records
    assert key in record.getMessage()
    assert record.exc_info
    assert sentence.startswith("Rendering failed")


@pytest.mark.parametrize(
    ("text", "gone"),
    [
        ("no file /srv/models/sd/unet.bin here", "/srv/models"),
        ("open('/root/.cache/huggingface/x')", "/root"),
        (r"C:\Users\me\model.safetensors is cut", "Users"),
        ("~/models/x", "models"),
        ("file:///etc/passwd", "/etc"),
        ("\x00\x1b[31mred\n" + "x" * 10_000, "\x1b"),
    ],
)
def test_a_sentence_is_one_short_line_without_paths(text, gone):
    line = tidy(text)
    assert gone not in line
    assert "\n" not in line
    assert len(line) <= errors.LONGEST


def test_fractions_and_addresses_are_no_paths():
    for text in ("1/2 of the steps", "and/or", "see https://example.com/a/b", "4.8 s/step"):
        assert tidy(text) == text


# -- the log -----------------------------------------------------------------------------------


class Lines(logging.Handler):
    """Keeps what is written."""

    def __init__(self):
        super().__init__()
        self.setFormatter(logging.Formatter("%(name)s: %(message)s"))
        self.lines = []

    def emit(self, record):
        self.lines.append(self.format(record))


@pytest.fixture
def written():
    """A logger under the server's rules, and what it writes; its clock is told."""
    seconds = [0.0]
    handler, logger = Lines(), logging.getLogger("under-test")
    handler.addFilter(Bounded(lambda: seconds[0]))
    logger.handlers, logger.propagate = [handler], False
    yield logger, handler.lines, seconds
    logger.handlers = []


def test_a_line_of_the_log_is_short_and_one(written):
    logger, lines, _ = written
    logger.warning("start\n%s\x1b[0m end", "x" * 10**7)
    assert len(lines[0]) < LINE + 50
    assert "\n" not in lines[0]
    assert "\x1b" not in lines[0]


def test_repeats_are_counted_and_not_written(written):
    logger, lines, seconds = written
    for n in range(500):
        if n == 499:
            seconds[0] = logs.PER_SECONDS + 1
        logger.error("it failed %d", n)
    assert len(lines) == REPEATS + 1
    assert f"{499 - REPEATS} more like this" in lines[-1]


def test_a_traceback_says_where_and_never_what_was_typed(written):
    logger, lines, _ = written
    error = raised(KeyError(SECRET))
    logger.error("it failed", exc_info=error)
    assert "test_server_errors.py" in lines[0]
    assert "KeyError" in lines[0]
    assert "unicorn" not in lines[0]
    nested = raised(RuntimeError(f"bad input {[SECRET]!r} {{'a': 1}} and `{SECRET}`"))
    assert "unicorn" not in where(nested)
    assert "bad input" in where(nested)


@pytest.mark.slow
@pytest.mark.parametrize("ci", ["", "true"])  # transformers asks for it
def test_warnings_and_libraries_with_handlers_of_their_own_are_bounded_too(ci):
    code = (
        "import logging, warnings, diffusers, transformers; "
        "from sage.ui.server.logs import configure; configure(); "
        "[logging.getLogger(f'{name}.below').error('x' * 10**5) for name in "
        "('diffusers', 'transformers', 'huggingface_hub', 'sage')]; warnings.warn('y' * 10**5)"
    )
    command = [sys.executable, "-c", code]
    env = os.environ | {"CI": ci}
    ran = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True, env=env)
    written = ran.stderr
    assert written.count("xxx…") + written.count("xxx …") == 4
    assert max(map(len, written.splitlines())) < LINE + 100
    assert "yyy" in written


def test_a_long_chain_of_frames_is_cut():
    def deep(n):
        return deep(n - 1) if n else 1 / 0

    with pytest.raises(ZeroDivisionError) as caught:
        deep(200)
    assert len(where(caught.value).splitlines()) <= logs.FRAMES + 1


# -- on a served page ------------------------------------------------------------------------------


def failing(server, name="compare", data=None, **body):
    """The last event of a call's answer."""
    address = f"{server}/gradio_api/call/"
    if data is None:
        asked = {"prompts": PROMPTS, "steps": 2, "model": "tiny"} | body
        call = httpx.post(f"{address}v2/{name}", json=asked)
    else:
        call = httpx.post(f"{address}{name}", json={"data": data})
    if call.status_code != 200:
        return call.json()
    answer = httpx.get(f"{address}{name}/{call.json()['event_id']}", timeout=60).text
    *_, last = [line[6:] for line in answer.splitlines() if line.startswith("data: ")]
    assert "event: error" in answer
    return json.loads(last)


def good(server, name="compare", **body):
    """What a call answers in the end."""
    address, asked = f"{server}/gradio_api/call/", {"prompts": PROMPTS, "steps": 2, "model": "tiny"}
    event = httpx.post(f"{address}v2/{name}", json=asked | body).json()["event_id"]
    text = httpx.get(f"{address}{name}/{event}", timeout=60).text
    assert "event: complete" in text
    return json.loads([line[6:] for line in text.splitlines() if line.startswith("data: ")][-1])


FAULTS = {
    "memory": (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"), "memory"),
    "numbers": (FloatingPointError("not a number"), "not finite"),
    "fault": (KeyError(SECRET), "the fault is ours (error"),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_while_rendering_reaches_the_client_as_a_sentence(server, shelf, fault, caplog):
    error, words = FAULTS[fault]

    def fail(*_):
        raise error

    handle = shelf.get("tiny").pipe.unet.register_forward_pre_hook(fail)
    try:
        answer = failing(server)
    finally:
        handle.remove()
    assert words in answer["error"]
    assert "unicorn" not in answer["error"] + caplog.text.replace(
        SECRET, "" if fault == "fault" else SECRET
    )
    assert "/" not in answer["error"].replace("and/or", "")


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/tmp/x")


@pytest.mark.slow
@pytest.mark.parametrize("place", ["sage.ui.api.filled_folder", "PIL.Image.Image.save"])
def test_a_full_disk_is_said(server, monkeypatch, place):
    before = set(workplace().iterdir())
    monkeypatch.setattr(place, full)
    assert failing(server)["error"] == errors.DISK
    assert set(workplace().iterdir()) <= before  # nothing half written stays


@pytest.mark.parametrize("place", ["zipfile.ZipFile.write", "PIL.Image.Image.save"])
def test_a_full_disk_leaves_no_half_a_download(monkeypatch, place):
    from PIL import Image

    from sage.ui.export.downloads import _save_pictures, _zipped

    before = set(workplace().iterdir())
    monkeypatch.setattr(place, full)
    with pytest.raises(OSError, match="No space"), filled_folder() as folder:
        _zipped(folder, _save_pictures(folder, "shared", [Image.new("RGB", (4, 4))]))
    assert set(workplace().iterdir()) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "calls"),
    [("unet", ["compare"]), ("vae", ["compare"]), ("text_encoder", ["analyze", "compare"])],
)
def test_numbers_that_are_none_get_a_sentence_wherever_they_arise(server, shelf, part, calls):
    """And nothing of them is kept: the same call is right once the fault is gone."""
    *_, weight = getattr(shelf.get("tiny").pipe, part).parameters()
    whole = weight.detach().clone()
    asked = {"prompts": "a dog in fog\na fox in fog"}
    try:
        with torch.no_grad():
            weight.fill_(float("nan"))
        for name in calls:
            assert "not finite" in failing(server, name, **asked)["error"]
    finally:
        with torch.no_grad():
            weight.copy_(whole)
    assert good(server, **asked)[2]["steps"] == 2


def test_a_models_file_that_is_cut_is_said(page_folder, tmp_path):
    import shutil

    from sage.jobs.models import LoadedModel, ModelSpec
    from sage.sd.pipeline import SagePipeline

    folder = tmp_path / "cut"
    shutil.copytree(page_folder, folder)
    weights = next((folder / "unet").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:1000])
    tries = []

    def load(spec):
        tries.append(spec)
        return LoadedModel(spec, SagePipeline.from_pretrained(spec.source))

    shelf = Shelf([ModelSpec("cut", "Cut model", str(folder))], load)
    for _ in range(3):
        with pytest.raises(ValueError, match="Cut model cannot be loaded here") as caught:
            shelf.get("cut")
        assert "damaged" in str(caught.value)
        assert str(tmp_path) not in str(caught.value)
        assert len(str(caught.value)) < 300
    assert len(tries) == 1  # and nobody waits for further tries


@pytest.mark.slow
def test_a_damaged_settings_file_is_said_on_the_page(page_folder, tmp_path, monkeypatch):
    import shutil

    from sage.jobs import models
    from sage.ui.studio.handlers import Handlers
    from sage.ui.studio.layout import build_layout

    folder = tmp_path / "mine"
    shutil.copytree(page_folder, folder)
    (folder / "sage.json").write_text('{"tau_min": ')
    tiny = models.ModelSpec("tiny", "Tiny", str(page_folder))
    monkeypatch.setattr(models, "builtin_model", lambda: tiny)
    shelf = Shelf([models._other(str(folder)), tiny], lambda spec: models.load_model(spec, "cpu"))
    shelf.get("mine")
    with gr.Blocks():
        page = Handlers(build_layout(shelf), shelf)
    values = [part.value for part in (*page.layout.form, page.layout.run)]
    said = page.analyze(*values)[page.layout.model_note]
    assert "mine could not be loaded, so the built-in model is used" in said
    assert "sage.json cannot be read as settings of a model" in said
    assert str(tmp_path) not in said


def test_loading_a_model_blocks_no_other(page_folder):
    from threading import Event, Thread

    from sage.jobs.models import ModelSpec

    begun, go_on = Event(), Event()

    class Model:
        pipe = SimpleNamespace(unet=torch.nn.Identity())

    def load(spec):
        if spec.key == "big":
            begun.set()
            go_on.wait(10)
        return Model()

    shelf = Shelf([ModelSpec("small", "S", ""), ModelSpec("big", "B", "")], load)
    loading = Thread(target=shelf.get, args=("big",))
    loading.start()
    assert begun.wait(5)
    assert shelf.get("small")
    go_on.set()
    loading.join()


@pytest.mark.parametrize(
    ("data", "name"),
    [([], "analyze"), ([1] * 3, "analyze"), ([None] * 60, "compare"), (["x"] * 17, "estimate")],
)
def test_arguments_of_the_wrong_number_or_kind_get_a_sentence(server, data, name):
    answer = failing(server, name, data)
    assert len(answer["error"]) > 10
    assert "Traceback" not in answer["error"]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/gradio_api/queue/join", {}),
        ("POST", "/gradio_api/queue/join", {"data": [], "fn_index": 10**6, "session_hash": "x"}),
        ("POST", "/gradio_api/queue/join", {"data": [], "fn_index": None, "session_hash": "x"}),
        ("POST", "/gradio_api/queue/join", {"data": 3, "fn_index": "a", "session_hash": []}),
        ("POST", "/gradio_api/call/v2/analyze", {"nonsense": 1}),
        ("POST", "/gradio_api/call/v2/analyze", [1, 2]),
        ("POST", "/gradio_api/call/nothing", {"data": []}),
        ("POST", "/gradio_api/run/nothing", {"data": []}),
        ("POST", "/gradio_api/cancel", {"session_hash": 3}),
        ("GET", "/gradio_api/queue/data", None),
        ("GET", "/gradio_api/call/analyze/unknown", None),
        ("GET", "/gradio_api/queue/data?session_hash=nobody", None),
    ],
)
def test_requests_that_mean_nothing_get_a_reason(server, method, path, body):
    answer = httpx.request(method, server + path, json=body, timeout=20)
    assert answer.status_code in (200, 400, 404, 422)
    assert len(answer.text) > 10
    if answer.status_code == 422:
        assert answer.json()["error"] == errors.BAD_REQUEST  # and nothing of what was sent
    assert '"error": null' not in answer.text
    assert "Traceback" not in answer.text
    assert ".py" not in answer.text


@pytest.mark.slow
def test_a_number_in_other_digits_and_an_adapter_that_is_not_there_are_refused(server):
    assert "steps" in failing(server, "estimate", steps="１２")["error"]
    assert "adapter" in failing(server, "analyze", trained=True)["error"]
    assert "adapter" in failing(server, "compare", trained=True)["error"]


def test_prompts_never_reach_the_log(server, caplog):
    with caplog.at_level(logging.DEBUG, logger="sage"):
        failing(server, steps=10**9, prompts=f"{SECRET}\n{SECRET}")
        failing(server, "estimate", [SECRET] * 16)
        httpx.post(f"{server}/gradio_api/call/v2/analyze", json={"prompts": [SECRET]})
    assert "unicorn" not in caplog.text
