"""The page on real classes at tiny size: a quick model, a slow one and one that is out of reach."""

import json
import shutil
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import gradio as gr
import pytest

from sage.jobs.models import ModelSpec, builtin_model, load_model
from sage.sd.model_settings import ModelSettings
from sage.ui.demo import build_demo, launch_settings
from sage.ui.shelf import Shelf
from sage.ui.studio.form import Form
from sage.ui.studio.handlers import Handlers
from sage.ui.studio.layout import build_layout
from sage.ui.studio.rendering import Rendering

from . import browser
from .browser import PROMPTS

SLEEP = 0.2  # seconds a call of the slow model's denoiser sleeps
SLOW_RUN = 2 * 100 * SLEEP  # so 100 steps of both sides take at least this long
KNOWN = ["a", "an", "the", "fox", "dog", "cat", "in", "snow", "whale", "under", "water", "two"]


@pytest.fixture(scope="session")
def page_folder(tiny_folder, tmp_path_factory):
    """The tiny model with bounds under which the first two prompts of PROMPTS share."""
    folder = tmp_path_factory.mktemp("page") / "tiny"
    shutil.copytree(tiny_folder, folder)
    own = {"tau_min": 0.95, "tau_max": 1.0, "guidance_scale": 3.0, "known_words": KNOWN}
    (folder / "sage.json").write_text(json.dumps(own))
    return folder


@pytest.fixture(scope="session")
def shelf(page_folder):
    settings = ModelSettings.read(page_folder)
    tiny = ModelSpec("tiny", "Tiny", str(page_folder), settings=settings)
    slow, gone = replace(tiny, key="slow", title="Slow"), replace(tiny, key="gone", title="Gone")
    return Shelf([tiny, slow, gone], _load)


def _load(spec):
    if spec.key == "gone":
        raise OSError("no such host\nand more lines that nobody should read")
    model = load_model(spec, "cpu")
    model.pipe.set_progress_bar_config(disable=True)
    if spec.key == "slow":
        model.pipe.unet.register_forward_pre_hook(lambda *_: time.sleep(SLEEP))
    return model


@pytest.fixture(scope="session")
def demo(shelf):
    return build_demo(shelf)


@pytest.fixture(scope="session")
def server(demo):
    """Address of the running page."""
    _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True, **launch_settings())
    yield url.rstrip("/")
    demo.close()


@pytest.fixture(scope="module")
def arrival():
    """Address of the page on the built-in model, of which only what is stored can be had."""

    def refuse(spec):
        raise OSError("there is no model in this test")

    demo = build_demo(Shelf([builtin_model()], refuse))
    _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True, **launch_settings())
    yield url.rstrip("/")
    demo.close()


@pytest.fixture(scope="session")
def adapted(page_folder, adapter):
    """Address of a page with the tiny model, its adapter and the same network in four steps."""
    settings = ModelSettings.read(page_folder)
    tiny = ModelSpec("tiny", "Tiny", str(page_folder), settings=settings, adapter=adapter)
    quick = replace(settings, steps=4, guidance_scale=1.0)
    fast = replace(
        tiny, key="fast", title="Fast", settings=quick, student=Path("none"), adapter=None
    )

    def load(spec):
        model = load_model(replace(spec, student=None), "cpu")
        model.pipe.set_progress_bar_config(disable=True)
        return replace(model, spec=spec)

    demo = build_demo(Shelf([tiny, fast], load))
    _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True, **launch_settings())
    yield url.rstrip("/")
    demo.close()


@pytest.fixture(scope="module")
def chromium():
    """A browser, for one file: as long as it runs, no other event loop can."""
    with browser.launched() as chromium:
        yield chromium


@pytest.fixture(scope="module")
def pages(chromium):
    """Pages of the browser, each used by one test after another."""
    return browser.Pages(chromium)


@pytest.fixture
def arrive(pages, arrival):
    """Opens the page as it is met, before any model is loaded."""
    with browser.visits(pages, arrival, browser.STUDIO) as open_page:
        yield open_page


@pytest.fixture(scope="session")
def layout(shelf):
    """The Studio's components, which nothing changes."""
    with gr.Blocks():
        return build_layout(shelf)


@pytest.fixture
def page(layout, shelf):
    """Handlers called without a server."""
    return Handlers(layout, shelf)


@pytest.fixture
def rendering(page):
    """What renders, on the same layout."""
    return Rendering(page.layout, page.shelf)


@pytest.fixture
def form():
    return make_form()


def make_form(**changes):
    """Four prompts of which two share, on the tiny model."""
    values = {
        "prompts": PROMPTS,
        "model": "tiny",
        "tau_min": 0.95,
        "tau_max": 1.0,
        "max_group_size": 5,
        "branch_call": 4,
        "steps": 10,
        "guidance_scale": 3.0,
        "seed": 7,
        "trained": False,
        "scheduler": "ddim",
        "spacing": "model",
        "trunk": "mean",
        "fresh_noise": 0.0,
        "sharing": "groups",
        "budget": 0.0,
        "spend": 0.7,
        "guarded": True,
        "fewer_steps": True,
        "measure": True,
        "repeats": 1,
    }
    values |= changes
    head = {name: values.pop(name) for name in Form.FIELDS}
    return Form(**head, settings={name: values[name] for name in Form.setting_names()})


def changed(form, **changes):
    """A form with other values, of its own fields or of settings."""
    own = {name: changes.pop(name) for name in Form.FIELDS if name in changes}
    return replace(form, **own, settings={**form.settings, **changes})


def values_of(form, *rest):
    """What gradio hands to a listener: the widgets' values, in the order of `Layout.form`."""
    return (*(getattr(form, name) for name in Form.FIELDS), *form.settings.values(), *rest)


def names_of(layout):
    """The components' names, of the layout's parts and of its controls."""
    return {
        part: name
        for name, part in (*layout.parts.items(), *layout.controls.items())
        if not isinstance(part, tuple)
    }


@contextmanager
def raises_sentence(kind, *words):
    """The block raises one readable sentence that holds the words."""
    with pytest.raises(kind) as caught:
        yield
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert len(message) < 300
    assert "Traceback" not in message
