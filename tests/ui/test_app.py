import re
import sys
import threading
import time
from types import SimpleNamespace

import gradio as gr
import pytest

import app
from sage.jobs.models import ModelSpec, load_model
from sage.sd.pipeline import SagePipeline
from sage.ui.demo import launch_settings
from sage.ui.server.start import block
from sage.ui.shelf import Shelf


def test_flags_have_safe_defaults(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["app.py"])
    flags = app.parse_flags()
    assert (flags.model, flags.host, flags.port, flags.share) == (None, None, None, False)
    assert flags.device == flags.precision == "auto"


def test_a_mistyped_flag_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["app.py", "--modle", "x"])
    with pytest.raises(SystemExit):
        app.parse_flags()
    assert "--modle" in capsys.readouterr().err


@pytest.fixture
def started(monkeypatch, shelf):
    """Runs main() with flags on the tiny models; gives what was served and when what happened."""
    served, order, before = {}, [], set(threading.enumerate())

    def start(*flags):
        monkeypatch.setattr(sys, "argv", ["app.py", *flags])
        monkeypatch.setattr(app, "available_models", lambda extra: shelf.specs)
        monkeypatch.setattr(app, "load_model", lambda spec, **how: load(spec))
        monkeypatch.setattr(gr.Blocks, "launch", launch)
        monkeypatch.setattr(gr.Blocks, "block_thread", lambda demo: order.append("block"))
        monkeypatch.setattr("sage.ui.server.start.end", order.append)
        monkeypatch.setattr(app, "prepare_process", lambda: None)
        app.main()
        return served, order

    def load(spec):
        order.append("load")
        return shelf.get(spec.key)

    def launch(demo, **settings):
        served.update(settings)
        order.append("launch")

    yield start
    for warming in set(threading.enumerate()) - before:  # torch at work would abort Python's end
        warming.join(60)


@pytest.mark.slow
def test_main_serves_the_page(started):
    served, _ = started("--port", "7999")
    assert served["server_port"] == 7999
    assert served["share"] is False
    assert served["show_error"] is False
    assert served["allowed_paths"] == []
    assert served["run_history"] is False
    assert not served["mcp_server"]


@pytest.mark.slow
def test_the_server_does_not_wait_for_the_model(started, monkeypatch):
    begun, go_on = threading.Event(), threading.Event()

    def warm_up(shelf):
        begun.set()
        go_on.wait(30)

    monkeypatch.setattr(Shelf, "warm_up", warm_up)
    _, order = started()
    assert begun.wait(10)
    assert order == ["launch", "block", 0]  # and a process ends while torch may be at work
    go_on.set()


def test_ctrl_c_pressed_twice_ends_the_page_as_once(monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    codes = []
    monkeypatch.setattr("sage.ui.server.start.end", codes.append)
    block(SimpleNamespace(block_thread=interrupted))
    assert codes == [0]


def test_a_model_whose_pass_takes_seconds_is_measured_with_one(monkeypatch, page_folder):
    """Its first visitors' pictures are computed beside that, and want their memory."""
    monkeypatch.setattr(SagePipeline, "is_heavy", True)
    spec = ModelSpec("tiny", "Tiny", str(page_folder))
    model, passes = load_model(spec, "cpu"), []
    model.pipe.unet.register_forward_pre_hook(lambda _, args: passes.append(len(args[0])))
    shelf = Shelf([spec], lambda _: model)
    shelf.warm_up()
    assert passes == [2]  # one step of one prompt, with guidance
    assert shelf.expected_seconds("tiny", 1.0) is not None


def test_a_visitors_run_is_measured_beside_nothing_of_ours(page_folder):
    """Warming up gives way: a run of ours that has begun is waited for, no other one begins."""
    spec = ModelSpec("tiny", "Tiny", str(page_folder))
    model, begun, go_on, taken = load_model(spec, "cpu"), threading.Event(), threading.Event(), []
    model.pipe.warm_up = lambda rows: (taken.append(rows), begun.set(), go_on.wait(30))
    shelf = Shelf([spec], lambda _: model)
    warming = threading.Thread(target=shelf.warm_up)
    warming.start()
    assert begun.wait(30)
    visitor = threading.Thread(target=lambda: taken.append(shelf.for_run("tiny")))
    visitor.start()
    while not shelf._visited.is_set():
        time.sleep(0.01)
    assert taken == [1]  # the visitor waits
    go_on.set()
    warming.join(30)
    visitor.join(30)
    assert taken == [1, model]
    assert shelf.expected_seconds("tiny", 1.0) is None


@pytest.mark.slow
def test_on_zerogpu_the_model_is_there_before_the_server(started, monkeypatch):
    monkeypatch.setattr(app, "zero_gpu", lambda: True)
    _, order = started()
    assert order[:2] == ["load", "launch"]


def test_tools_for_language_models_need_an_extra(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["app.py", "--mcp"])
    monkeypatch.setattr(app.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        app.parse_flags()
    assert "pip install 'gradio[mcp]'" in capsys.readouterr().err


@pytest.mark.slow
def test_tools_for_language_models_are_offered_on_demand(started, monkeypatch):
    monkeypatch.setattr(app.importlib.util, "find_spec", lambda name: object())
    served, _ = started("--mcp")
    assert served["mcp_server"] is True


def test_the_app_stays_a_page_of_code():
    with open(app.__file__, encoding="utf-8") as source:
        assert len(source.readlines()) <= 60


def test_style_sheets_have_no_commas_inside_parentheses_of_selectors():
    # Gradio puts its prefix after every comma of a selector: inside :is() that changes the meaning.
    for path in launch_settings()["css_paths"]:
        text = re.sub(r"/\*.*?\*/", "", path.read_text("utf-8"), flags=re.DOTALL)
        for selector in re.findall(r"([^{};]+)\{", text):
            assert not re.search(r":(is|where|not|has)\([^)]*,", selector), (
                f"{path.name}: {selector}"
            )
