"""Puts the page together: layout, listeners, endpoints, and the settings it is served with."""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from sage.ui.api import RENDER_QUEUE, add_endpoints
from sage.ui.examples import EXAMPLE_SETS
from sage.ui.handlers import Handlers
from sage.ui.layout import Layout, build_layout
from sage.ui.shelf import Shelf
from sage.ui.theme import page_theme

OTHER_TABS: dict[str, Callable[[Shelf], None]] = {}
with suppress(ImportError):
    from sage.ui.lesson import build_lesson

    OTHER_TABS["Lesson"] = build_lesson
with suppress(ImportError):
    from sage.ui.explore import build_explore

    OTHER_TABS["Explore"] = build_explore

ASSETS = Path(__file__).resolve().parents[2] / "assets" / "ui"
TITLE = (
    "<h1>SAGE <small>shared-trajectory diffusion</small></h1>"
    "<p>Prompts that mean similar things share the <b>early</b> steps of their denoising, "
    "then each goes its own way: fewer evaluations, nearly the same pictures.</p>"
)
HOUR = 3600

# A listener of the page answers at once, without a place in the queue and without a spinner; its
# name is for the log. "private" keeps it out of the list of endpoints.
QUICK: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}


def build_demo(shelf: Shelf) -> gr.Blocks:
    """The page on a shelf of models; serve it with `launch_settings`."""
    with gr.Blocks(
        title="SAGE: shared-trajectory diffusion",
        analytics_enabled=False,
        fill_width=True,
        delete_cache=(HOUR // 2, HOUR),
    ) as demo:
        gr.HTML(TITLE, elem_id="sage-title", apply_default_css=False, js_on_load=None)
        with gr.Tabs(elem_id="sage-tabs"):
            with gr.Tab("Studio", id="studio", elem_id="tab-studio"):
                layout = build_layout(shelf)
                handlers = Handlers(layout, shelf)
                _wire_inputs(demo, layout, handlers)
                _wire_rendering(layout, handlers)
            for title, build in OTHER_TABS.items():
                with gr.Tab(title, id=title.lower(), elem_id=f"tab-{title.lower()}"):
                    build(shelf)
        add_endpoints(shelf)
        _name_cancelling(demo)
    return demo.queue(max_size=20, api_open=False)


def launch_settings() -> dict[str, Any]:
    """Arguments of `launch()` that belong to the page: looks, and what is served to whom."""
    return {
        "theme": page_theme(),
        "css_paths": [ASSETS / "style.css"],
        "js": (ASSETS / "studio.js").read_text(encoding="utf-8"),
        "footer_links": ["api", "gradio", "settings"],
        "show_error": False,
        "max_file_size": "1mb",  # the page has no upload; gradio's route for it stays open
        "allowed_paths": [],
        "enable_monitoring": False,
        "run_history": False,
        "state_session_capacity": 500,
        "ssr_mode": False,
    }


def _wire_inputs(demo: gr.Blocks, page: Layout, handlers: Handlers) -> None:
    """Everything that acts at once: no listener here renders."""
    asked, follows, own = [*page.form, page.run], page.consequences, page.own_settings
    empty = [page.seconds, page.flops, page.saving]
    demo.load(handlers.welcome, asked, [*follows, *own, *empty], api_name="welcome", **QUICK)
    bounds = (page.prompts, page.tau_min, page.tau_max, page.max_group_size)
    _on_change(bounds, handlers.analyze, asked, follows, "on_prompts")
    _on_change(
        (page.branch_step, page.guidance_scale), handlers.estimate, asked, follows, "on_branch"
    )
    _on_change((page.seed,), handlers.mark_earlier, asked, follows, "on_seed")
    page.steps.change(
        handlers.resize,
        [page.steps, page.share_ratio],
        [page.branch_step],
        api_name="on_steps",
        **QUICK,
    ).then(handlers.estimate, asked, follows, api_name="after_steps", **QUICK)
    page.model.input(handlers.pick_model, [page.model], own, api_name="on_model", **QUICK).then(
        handlers.analyze, asked, follows, api_name="after_model", **QUICK
    )
    page.random_seed.click(handlers.random_seed, None, [page.seed], api_name="on_random", **QUICK)
    for button, example in zip(page.examples, EXAMPLE_SETS, strict=True):
        # In the browser: the box fills at once, and its change is what analyses.
        fill = f"() => {json.dumps(example.text)}"
        button.click(None, None, [page.prompts], js=fill, api_name=f"fill_{example.key}")


def _on_change(
    components: Sequence[Component],
    handler: Callable[..., Any],
    inputs: list[Component],
    outputs: list[Component],
    name: str,
) -> None:
    """One listener for several components; only the last of a burst of changes counts."""
    gr.on(
        [component.change for component in components],
        handler,
        inputs,
        outputs,
        api_name=name,
        trigger_mode="always_last",
        **QUICK,
    )


def _wire_rendering(page: Layout, handlers: Handlers) -> None:
    """Render and stop; one rendering at a time, and it never blocks what acts at once."""
    started = page.render.click(
        handlers.announce,
        None,
        [page.progress, page.render, page.stop],
        api_name="on_render",
        **QUICK,
    )
    rendering = started.then(
        handlers.render,
        [*page.form, page.run],
        page.results,
        api_name="render",
        show_progress="hidden",
        api_visibility="private",
        **RENDER_QUEUE,
    )
    page.stop.click(
        handlers.stop,
        [page.run],
        [page.progress, page.banner, page.render, page.stop],
        api_name="on_stop",
        cancels=[rendering],
        **QUICK,
    )
    page.pair.change(
        handlers.pick_pair, [page.pair, page.run], [page.slider], api_name="on_pair", **QUICK
    )


def _name_cancelling(demo: gr.Blocks) -> None:
    """Gradio adds the listener that cancels a run itself, without a name."""
    for function in demo.fns.values():
        if function.is_cancel_function:
            function.api_name = "cancel_render"
