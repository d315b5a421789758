"""How the server starts: it answers at once, also while a model loads, and ends cleanly."""

import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import pytest

from .visitors import ROOT, stretch

START = """
import os, sys, tempfile, threading
tempfile.tempdir = sys.argv.pop()
# It does not outlive its test, however that ends.
threading.Thread(target=lambda: (os.read(0, 1), os._exit(9)), daemon=True).start()
import app
real = app.load_model
def load(spec, **how):
    print("loading", flush=True)
    model = real(spec, **how)
    enough = os.path.join(tempfile.tempdir, "enough")
    while not os.path.exists(enough):  # a large model: pure Python holds the interpreter
        sum(range(10_000))
    return model
app.load_model = load
app.main()
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """app.py with a model that takes long to load: its address, process and folder."""
    folder, port = tmp_path_factory.mktemp("start"), free_port()
    process = subprocess.Popen(
        [sys.executable, "-c", START, "--port", str(port), str(folder)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    late = threading.Timer(150, process.kill)  # then whatever waits for it fails
    late.start()
    yield f"http://127.0.0.1:{port}", process, folder
    late.cancel()
    process.kill()
    process.wait()


@pytest.mark.slow
def test_the_page_answers_within_a_second_of_binding_and_while_the_model_loads(started):
    url, process, folder = started
    slower = stretch()  # the promise is for a machine that does nothing else
    port, end = httpx.URL(url).port, time.monotonic() + 120
    while True:
        assert process.poll() is None
        assert time.monotonic() < end
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            break
        except OSError:
            time.sleep(0.02)
    start = time.monotonic()
    with httpx.Client(timeout=30) as client:
        page = client.get(url)
        assert page.status_code == 200
        assert time.monotonic() - start <= 1.0 * slower
        assert "SAGE" in page.text
        while "loading" not in process.stdout.readline():
            assert process.poll() is None
        seconds = []
        for path in ("/", "/config", "/gradio_api/info", "/theme.css") * 3:
            begun = time.monotonic()
            assert client.get(url + path).status_code == 200
            seconds.append(time.monotonic() - begun)
    (folder / "enough").touch()
    assert max(seconds) <= 1.0 * slower, seconds


@pytest.mark.slow
def test_sigterm_ends_it_and_leaves_no_files(started):
    _, process, folder = started
    assert list(folder.glob("sage-studio-*/*"))
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 128 + signal.SIGTERM
    assert not list(folder.glob("sage-studio-*/*"))
    log = process.stderr.read()
    assert "Traceback" not in log
