"""What Studio and Explore both build: controls of settings, cards, and buttons that render.

A control is made from its setting (`sage.core.settings`), so that page, library and API agree on
limits, defaults and titles.
"""

import secrets
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import gradio as gr
from gradio.components import Component

from sage.core import settings
from sage.core.settings import Choice, Setting, Switch, settings_of
from sage.jobs.models import ModelSpec
from sage.jobs.request import Request
from sage.ui.html import views
from sage.ui.html.prose import STOPPING
from sage.ui.server.errors import as_client_error
from sage.ui.server.lanes import RENDER_LANE, require_admission

_Kind = TypeVar("_Kind", bound=Component)

Updates = dict[Component, Any]
Running = Generator[Updates, None, None]

# A listener of the page answers at once, without a place in the queue and without a spinner; its
# name is for the log. "private" keeps it out of the list of endpoints.
QUICK: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
# Where the page's own default is not that of the library: visitors are guarded.
ON_PAGE: dict[str, Any] = {"guarded": True}


def _judged_by_form(kind: type[_Kind]) -> type[_Kind]:
    """A component that lets every value through, for the form to judge.

    Gradio refuses a value outside of a component's range or choices before any listener sees it,
    as an error 500; which range holds can depend on what else was just changed. The check of the
    form answers with a sentence instead.
    """
    # Made, not written as a class: Gradio writes a stub beside the source of each class it finds.
    attributes = {
        "__doc__": kind.__doc__,
        "__module__": kind.__module__,
        "EVENTS": kind.EVENTS,
        "is_template": True,  # the browser's part is that of the component itself
        "preprocess": lambda _, payload: payload,
    }
    return type(kind)(kind.__name__, (kind,), attributes)


Slider = _judged_by_form(gr.Slider)
Number = _judged_by_form(gr.Number)
Dropdown = _judged_by_form(gr.Dropdown)


def page_default(setting: Setting, spec: ModelSpec) -> Any:
    """What a control starts with: the model's own default, the page's, or the setting's."""
    if setting.of_model:
        return getattr(spec, setting.name)
    return ON_PAGE.get(setting.name, setting.default)


def control(
    setting: Setting,
    spec: ModelSpec,
    *,
    prefix: str = "",
    visible: bool = True,
    info: str | None = None,
    value: Any = None,
) -> Component:
    """The control of a setting, with its limits, its title and the model's own default.

    Args:
        setting: Any setting.
        spec: The model that brings its own defaults.
        prefix: Before the name, for the element's id.
        visible: Whether it is shown.
        info: A sentence beside it.
        value: What it starts with, if not with the page's default.
    """
    common = {
        "value": page_default(setting, spec) if value is None else value,
        "label": setting.label,
        "elem_id": prefix + setting.name.replace("_", "-"),
        "visible": visible,
        "info": info,
    }
    match setting:
        case Switch():
            return gr.Checkbox(**common)
        case Choice():
            options = [(title, key) for key, title in setting.titles.items()]
            return Dropdown(options, filterable=False, **common)
        case settings.Number() if setting.whole and setting.high > 10**6:  # too wide for a slider
            return Number(min_width=120, **common)
        case settings.Number():
            return Slider(setting.low, setting.high, step=setting.step, buttons=[], **common)
    raise TypeError(f"{setting.name} has no control.")


def own_values(controls: dict[str, Component], spec: ModelSpec) -> Updates:
    """A model's own defaults for the controls that follow it, and its adapter if it has one."""
    settings = controls_of(controls)
    updates: Updates = {
        part: page_default(settings[name], spec)
        for name, part in controls.items()
        if settings[name].of_model
    }
    if "trained" in controls:
        updates[controls["trained"]] = gr.Checkbox(value=False, visible=spec.adapter is not None)
    return updates


def controls_of(controls: dict[str, Component]) -> dict[str, Setting]:
    """The settings behind some controls, by name."""
    known = settings_of(Request)
    return {name: known[name] for name in controls}


def card(name: str) -> gr.Column:
    """A card of the page, to be filled."""
    return gr.Column(elem_id=f"card-{name}", elem_classes="sage-card")


def heading(words: str, aside: str = "", number: str = "") -> None:
    """The heading of a card."""
    gr.HTML(views.heading(number, words, aside), apply_default_css=False, js_on_load=None)


def html(name: str, value: str = "") -> gr.HTML:
    """A place for HTML of our own."""
    return gr.HTML(value, elem_id=name, apply_default_css=False, js_on_load=None)


def hidden_box(name: str) -> gr.Textbox:
    """Holds a text in the browser that no visitor sees, to be sent along with what they do."""
    return gr.Textbox(visible="hidden", label=name, elem_id=name, container=False)


def nudged() -> str:
    """A value that a box has not had, so that its change is heard."""
    return secrets.token_hex(4)


def page_of(request: gr.Request | None) -> str:
    """Which page of which visitor asks: every load has a name of its own; "" outside of a page."""
    return str(getattr(request, "session_hash", None) or "")


def model_picker(specs: Sequence[ModelSpec], elem_id: str) -> gr.Dropdown:
    """The models on offer; the first is the default."""
    return Dropdown(
        [(spec.title, spec.key) for spec in specs],
        value=specs[0].key,
        label="Model",
        elem_id=elem_id,
        filterable=False,
    )


def changes(components: Sequence[Component]) -> list[Any]:
    """The events of a change; every component that takes a value has one."""
    return [getattr(component, "change") for component in components]  # noqa: B009


def on_change(
    components: Sequence[Component],
    handler: Callable[..., Any],
    inputs: list[Component],
    outputs: list[Component],
    name: str,
    also: Sequence[Any] = (),
) -> None:
    """One listener for several components; only the last of a burst of changes counts.

    Answers to two listeners could arrive in the wrong order, and the older one would stay: what
    shows what follows from a form is told by one listener, which is asked again after changes that
    came while it waited.

    Args:
        components: What may change.
        handler: The listener.
        inputs: What it reads.
        outputs: What it writes.
        name: Of the listener.
        also: Further events that it hears.
    """
    gr.on(
        [*also, *changes(components)],
        handler,
        inputs,
        outputs,
        api_name=name,
        trigger_mode="always_last",
        **QUICK,
    )


def start_button(
    button: gr.Button,
    announce: tuple[Callable[..., Updates], list[Component], list[Component]],
    work: tuple[Callable[..., Running], list[Component], list[Component]],
    name: str,
) -> None:
    """A button that says at once that it was heard, and renders when its turn comes.

    Args:
        button: The button.
        announce: What is said at once, its inputs, and the components that say it.
        work: The listener that renders, its inputs and its outputs.
        name: Of the listener.
    """
    heard = button.click(*announce, api_name=f"on_{name}", **QUICK)
    heard.then(
        *work,
        api_name=name,
        show_progress="hidden",
        api_visibility="private",
        trigger_mode="multiple",  # one that was stopped while it waited may still be in line
        **RENDER_LANE,
    )


def stop_button(
    button: gr.Button,
    stop: tuple[Callable[..., Updates], list[Component], list[Component]],
    name: str,
) -> None:
    """A button that says at once that it was heard, and then asks the rendering to end."""
    heard = button.click(acknowledge_stop, None, [button], api_name=f"on_{name}", **QUICK)
    heard.then(*stop, api_name=f"after_{name}", **QUICK)


def acknowledge_stop() -> gr.Button:
    """Shown at once after the click; what was reached is said when it has stopped."""
    return gr.Button(STOPPING, interactive=False)


@contextmanager
def sentences() -> Iterator[None]:
    """Whatever goes wrong reaches the client as a sentence; only our own faults are logged."""
    try:
        require_admission()
        yield
    except Exception as error:
        raise as_client_error(error) from None
