"""Puts the page together: layout, listeners, endpoints, and the settings it is served with."""

from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from sage.ui.api import add_endpoints
from sage.ui.evidence import build_evidence
from sage.ui.examples import EXAMPLE_SETS
from sage.ui.explore.tab import build_explore, wire_taking
from sage.ui.html.prose import TITLE
from sage.ui.kit import QUICK, changes, on_change, start_button, stop_button
from sage.ui.lesson import build_lesson
from sage.ui.server.cache import PICTURE
from sage.ui.server.files import workplace
from sage.ui.server.limits import BOUNDS
from sage.ui.server.page import Page
from sage.ui.server.wrap import middleware
from sage.ui.shelf import Shelf
from sage.ui.studio.first import FOLDER as FIRST
from sage.ui.studio.handlers import Handlers
from sage.ui.studio.layout import Layout, build_layout
from sage.ui.studio.looking import Looking
from sage.ui.studio.rendering import Rendering
from sage.ui.theme import page_theme
from sage.ui.travel import Travel, wire_travel
from sage.ui.turns import Turns

ASSETS = Path(__file__).resolve().parents[2] / "assets" / "ui"
STYLES = ("style", "tree", "lesson", "explore", "present", "phone")


def build_demo(shelf: Shelf) -> gr.Blocks:
    """The page on a shelf of models; serve it with `launch_settings`."""
    workplace()  # before there is any component: each remembers where gradio's files lie
    with Page(
        title="SAGE: shared-trajectory diffusion",
        analytics_enabled=False,
        fill_width=True,
        delete_cache=(BOUNDS.file_seconds // 4, BOUNDS.file_seconds),
    ) as demo:
        gr.HTML(TITLE, elem_id="sage-title", apply_default_css=False, js_on_load=None)
        with gr.Tabs(elem_id="sage-tabs"):
            with gr.Tab("Studio", id="studio", elem_id="tab-studio"):
                layout, turns = build_layout(shelf), Turns()
                handlers = Handlers(layout, shelf, turns)
                _wire_inputs(demo, layout, handlers)
                wire_travel(layout, Travel(layout, handlers, shelf), demo.load)
                rendering = Rendering(layout, shelf, turns)
                _wire_rendering(layout, rendering)
                _wire_looking(layout, Looking(rendering))
            with gr.Tab("Lesson", id="lesson", elem_id="tab-lesson"):
                build_lesson(shelf)
            with gr.Tab("Explore", id="explore", elem_id="tab-explore"):
                explore = build_explore(shelf)
            with gr.Tab("Evidence", id="evidence", elem_id="tab-evidence") as evidence:
                build_evidence(evidence)
        settings = {**layout.controls, "share_ratio": layout.share_ratio}
        wire_taking(explore, layout.model, layout.prompts, settings)
        gr.set_static_paths([PICTURE, FIRST])
        add_endpoints(shelf)
    _paint(handlers)  # outside of Blocks: inside, an update would become a part of the page
    return demo.queue(api_open=False)


def launch_settings(proxy: bool = False, host: str | None = None) -> dict[str, Any]:
    """Arguments of `launch()` that belong to the page: looks, and what is served to whom.

    Args:
        proxy: Whether a proxy in front is declared, whose headers are believed.
        host: A name under which the page is reached besides those of this machine.
    """
    return {
        "theme": page_theme(),
        "head": f"<script>{(ASSETS / 'tree.js').read_text(encoding='utf-8')}</script>",
        "css_paths": [ASSETS / f"{name}.css" for name in STYLES],
        "js": (ASSETS / "studio.js").read_text(encoding="utf-8"),
        "footer_links": ["api", "gradio", "settings"],
        "show_error": False,
        "max_file_size": BOUNDS.upload_bytes,  # records, for "Load a record"
        "allowed_paths": [],
        "enable_monitoring": False,
        "run_history": False,
        "state_session_capacity": BOUNDS.sessions,
        "ssr_mode": False,
        "app_kwargs": {"middleware": middleware(proxy, [host] if host else [])},
    }


def _paint(handlers: Handlers) -> None:
    """Puts the first comparison into the page itself: it is seen before the page asks anything."""
    for part, shown in handlers.first_paint().items():
        if isinstance(part, gr.HTML):
            part.value = shown


# A list: one listener after another.
def _wire_inputs(demo: gr.Blocks, page: Layout, handlers: Handlers) -> None:
    """Everything that acts at once: no listener here renders."""
    set_by, follows = page.controls, [*page.consequences, page.told]
    asked = [*page.form, page.run, page.chosen, page.told, page.turn, page.nudge]
    heard = [*page.form, page.chosen, page.nudge]
    on_change(heard, handlers.follow, asked, follows, "follow", also=[demo.load])
    gr.on(
        changes([set_by["sharing"]]),
        handlers.pick_sharing,
        [set_by["sharing"]],
        [set_by["spend"]],
        api_name="on_sharing",
        **QUICK,
    )
    calls = [set_by["steps"], set_by["scheduler"]]
    # Only a visitor's own hand changes the ratio; the slider also moves when the steps change.
    # The handle overrules the planner: whoever moves it decides the branch point.
    page.branch_call.input(
        handlers.keep_ratio,
        [page.branch_call, *calls],
        [page.share_ratio, set_by["budget"]],
        api_name="on_ratio",
        **QUICK,
    )
    gr.on(
        changes(calls),
        handlers.resize,
        [*calls, page.share_ratio],
        [page.branch_call],
        api_name="on_steps",
        **QUICK,
    )
    for event, pick, name in (
        (page.model.input, handlers.pick_model, "on_model"),
        (page.other.click, handlers.pick_other, "on_other"),
    ):
        event(
            pick,
            [page.model, set_by["scheduler"]],
            [*page.own_settings, page.branch_call, page.model_note, page.share_ratio, page.nudge],
            api_name=name,
            **QUICK,
        )
    page.random_seed.click(
        handlers.random_seed, None, [set_by["seed"]], api_name="on_random", **QUICK
    )
    _wire_examples(page, handlers)


def _wire_examples(page: Layout, handlers: Handlers) -> None:
    for button, example in zip(page.examples, EXAMPLE_SETS, strict=True):
        button.click(
            partial(handlers.fill, example),
            [page.model],
            [
                page.prompts,
                *(page.controls[n] for n in ("tau_min", "tau_max", "guarded")),
                page.nudge,
            ],
            api_name=f"fill_{example.key}",
            **QUICK,
        )


def _wire_rendering(page: Layout, rendering: Rendering) -> None:
    """Render, scrub and stop; one rendering at a time, and it never blocks what acts at once."""
    busy, inputs = busy_parts(page), [page.turn, *page.form, page.run]
    for button, handler, name in (
        (page.render, rendering.render, "render"),
        (page.scrub, rendering.scrub, "scrub"),
    ):
        announce = (rendering.announce, [page.turn], busy)
        start_button(button, announce, (handler, inputs, page.results), name)
    ending = (rendering.stop, [page.turn, page.run], [*busy, page.run, page.banner, page.nudge])
    stop_button(page.stop, ending, "stop")


def busy_parts(page: Layout) -> list[Component]:
    """What says that something is rendered, or no longer."""
    buttons = [page.render, page.scrub, page.look, page.finish, page.other, page.stop]
    return [page.turn, page.progress, *buttons]


def _wire_looking(page: Layout, looking: Looking) -> None:
    """Look first, the ticks, and finishing; they take turns with everything that renders."""
    announce = (looking.rendering.announce, [page.turn], busy_parts(page))
    form = [*page.form, page.run]
    look = (looking.look, [page.turn, page.chosen, *form], page.results)
    finish = (looking.finish, [page.turn, page.chosen, *form], page.results)
    start_button(page.look, announce, look, "look")
    start_button(page.finish, announce, finish, "finish")
