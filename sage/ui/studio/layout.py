"""The Studio's components and where they stand; no listeners, no models, no arithmetic."""

from enum import Flag, auto
from typing import Any

import gradio as gr
from gradio.components import Component

from sage.core.plan import branch_step_from_ratio
from sage.core.settings import NUM_PROMPTS, settings_of
from sage.jobs.job import planning_of
from sage.jobs.repeats import REPEATS
from sage.jobs.request import Request
from sage.ui import kit
from sage.ui.examples import EXAMPLE_SETS, FIRST_EXAMPLE
from sage.ui.export.downloads import remove_run
from sage.ui.html import views
from sage.ui.html.cost_bars import no_bars
from sage.ui.html.prose import (
    BARS,
    CLOSER,
    CURVE,
    HANDLE,
    HOW_IT_WORKS,
    IN_TURN,
    LEGEND,
    NO_FILES,
    NOTHING_YET,
    TOOLS,
    TRAINED,
)
from sage.ui.server.limits import BOUNDS
from sage.ui.shelf import Shelf
from sage.ui.studio.form import Form, branch_point
from sage.ui.studio.results import NO_BARS


class Role(Flag):
    """When a component changes."""

    NONE = 0
    FOLLOWS = auto()  # from the form, without rendering
    OWN = auto()  # with the model
    RESULT = auto()  # with a rendering; a precomputed comparison is one too


class Layout:
    """Every component that a listener reads or writes, by name.

    Args:
        kind: Whose settings have controls.
    """

    def __init__(self, kind: type[Request] = Request) -> None:
        self.kind = kind
        self.parts: dict[str, Any] = {}
        self.controls: dict[str, Component] = {}
        self._roles: dict[str, Role] = {}

    def add(self, name: str, part: Any, role: Role = Role.NONE) -> Any:
        """Takes a component in under a name."""
        self.parts[name], self._roles[name] = part, role
        return part

    def control(self, name: str, shelf: Shelf, **how: Any) -> None:
        """Adds the control of a setting."""
        setting = settings_of(self.kind)[name]
        self.controls[name] = kit.control(setting, shelf.default, **how)

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["parts"][name]
        except KeyError:
            raise AttributeError(f"The page has no component {name!r}.") from None

    @property
    def form(self) -> list[Component]:
        """What a visitor sets, in the order of `Form.of`."""
        names = Form.setting_names(self.kind)
        return [*(self.parts[n] for n in Form.FIELDS), *(self.controls[n] for n in names)]

    def _with(self, role: Role) -> list[Component]:
        return [self.parts[name] for name, own in self._roles.items() if role in own]

    @property
    def consequences(self) -> list[Component]:
        """What follows from the form without rendering; a precomputed comparison is one too."""
        follows = self._with(Role.FOLLOWS)
        return [*follows, *(part for part in self.results if part not in follows)]

    @property
    def beside(self) -> list[Component]:
        """What follows from the form alone, also while something else is rendered."""
        return [self.parts[name] for name, own in self._roles.items() if own is Role.FOLLOWS]

    @property
    def own_settings(self) -> list[Component]:
        """What changes with the model."""
        names = [name for name, one in settings_of(self.kind).items() if one.of_model]
        own = [self.controls[name] for name in (*names, "trained") if name in self.controls]
        return [*self._with(Role.OWN), *own]

    @property
    def results(self) -> list[Component]:
        """What rendering changes."""
        return self._with(Role.RESULT)

    @property
    def downloads(self) -> list[gr.DownloadButton]:
        """The buttons that hand out a finished run's files."""
        return [self.parts[name] for name in DOWNLOADS]


def build_layout(shelf: Shelf, kind: type[Request] = Request) -> Layout:
    """Lays out the page inside the current Blocks; desktop has two columns, a phone one.

    Args:
        shelf: The models.
        kind: Whose settings have controls.
    """
    page = Layout(kind)
    page.add("share_ratio", gr.State(shelf.default.share_ratio), Role.FOLLOWS)
    page.add(
        "run",
        gr.State(None, time_to_live=BOUNDS.session_seconds, delete_callback=_forget),
        Role.RESULT,
    )
    page.add("turn", kit.hidden_box("turn"), Role.RESULT)
    # What the browser was told of the form last, and what asks for it when nothing else changes.
    page.add("told", kit.hidden_box("told"))
    page.add("nudge", kit.hidden_box("nudge"), Role.RESULT)
    page.add("query", kit.hidden_box("query"))  # of the address, on arrival
    with gr.Column(elem_id="sage-model"):
        page.add("model", kit.model_picker(shelf.specs, "model"), Role.OWN)
        page.add("model_note", kit.html("model-note"), Role.FOLLOWS)
    page.add("opened", kit.html("opened"))
    page.add("address", kit.html("address"), Role.FOLLOWS)
    with gr.Row(elem_id="sage-main"):
        with gr.Column(elem_id="sage-inputs"):
            _prompts_card(shelf, page)
            _similarity_card(page)
        with gr.Column(elem_id="sage-results"):
            _tree_card(shelf, page)
    _folds(shelf, page)
    kit.html("closer", CLOSER)
    return page


def _forget(run: object) -> None:
    remove_run(getattr(run, "files", None))


def _prompts_card(shelf: Shelf, page: Layout) -> None:
    with kit.card("prompts"):
        page.add(
            "prompts",
            gr.Textbox(
                label=f"Prompts, one per line ({NUM_PROMPTS.allowed})",
                value=FIRST_EXAMPLE.text,
                lines=4,
                max_lines=8,
                placeholder="a {fox|owl} {in the snow|on the beach}",
                elem_id="prompts",
            ),
        )
        page.add("prompts_note", kit.html("prompts-note"), Role.FOLLOWS)
        with gr.Row(elem_id="sage-examples"):
            examples = tuple(
                gr.Button(example.label, size="sm", elem_id=f"example-{example.key}", min_width=60)
                for example in EXAMPLE_SETS
            )
            page.add("examples", examples)
        knows = shelf.default.settings.known_words is not None
        label = "Words this model knows: tap to add"
        with gr.Accordion(label, open=False, visible=knows, elem_id="words") as box:
            page.add("known_box", box, Role.OWN)
            page.add("known", kit.html("known"), Role.OWN)


def _similarity_card(page: Layout) -> None:
    with kit.card("similarity"):
        kit.heading("Similarity", "similar prompts form a group")
        page.add("similarity", kit.html("similarity"), Role.FOLLOWS)


def _tree_card(shelf: Shelf, page: Layout) -> None:  # noqa: PLR0915 (a list of what stands there)
    own = shelf.default
    point = branch_point(own.steps)
    with kit.card("compare"):
        page.add("banner", kit.html("banner"), Role.RESULT)
        with gr.Column(elem_id="sage-tree"):
            page.add("plan", kit.html("plan"), Role.RESULT)
            page.add("pictures", kit.html("pictures"), Role.RESULT)
            kit.html("branch", HANDLE)
            known = planning_of(own) is not None
            with gr.Column(elem_id="sage-budget", visible=known) as box:
                page.add("budget_box", box, Role.OWN)
                page.control("budget", shelf)
                page.add("advice", kit.html("advice"), Role.FOLLOWS | Role.RESULT)
        # What the handle on the tree moves; the form reads it.
        slider = kit.Slider(
            point.low,
            point.high,
            branch_step_from_ratio(own.share_ratio, own.steps),
            step=point.step,
            label=point.label,
            elem_id="branch-step",
            buttons=[],
            visible="hidden",
        )
        page.add("branch_call", slider)
        # The prompts whose ticks are on, as the script finds them on the pictures of a look.
        chosen = gr.Textbox(visible="hidden", label="Ticked", elem_id="chosen", container=False)
        page.add("chosen", chosen, Role.RESULT)
        page.control("spend", shelf, visible=False)
        page.add("outcome", kit.html("outcome"), Role.FOLLOWS | Role.RESULT)
        page.add("as_set", kit.html("as-set"), Role.FOLLOWS | Role.RESULT)
        kit.html("tools", TOOLS)
        with gr.Row(elem_id="sage-actions"):
            render = gr.Button(
                "Render", variant="primary", elem_id="render", scale=2, min_width=140
            )
            page.add("render", render, Role.RESULT)
            finish = gr.Button("Finish", variant="primary", visible=False, elem_id="finish")
            page.add("finish", finish, Role.RESULT)
            look = gr.Button("Look first", elem_id="look", min_width=110)
            page.add("look", look, Role.RESULT)
            stop = gr.Button("Stop", interactive=False, elem_id="stop", min_width=80)
            page.add("stop", stop, Role.RESULT)
            scrub = gr.Button(
                "All branch points", interactive=False, elem_id="scrub", min_width=150
            )
            page.add("scrub", scrub, Role.RESULT)
            page.control("seed", shelf)
            random = gr.Button("Random", size="md", elem_id="random-seed", min_width=80)
            page.add("random_seed", random)
        with gr.Row(elem_id="sage-pace"):
            page.add("pace", kit.html("pace"), Role.FOLLOWS | Role.RESULT)
            other = gr.Button("Fast model", size="sm", visible=False, elem_id="other-model")
            page.add("other", other, Role.FOLLOWS | Role.RESULT)
        progress = kit.html("progress", views.progress(0, 1, NOTHING_YET))
        page.add("progress", progress, Role.RESULT)
        page.add("scrub_note", kit.html("scrub-note"), Role.RESULT)


def _folds(shelf: Shelf, page: Layout) -> None:
    """What unfolds beneath: reasons, costs, nearness, settings, and what can be taken along."""
    with gr.Column(elem_id="sage-folds"):
        with gr.Accordion("Why these groups?", open=False, elem_id="fold-groups"):
            with gr.Row():
                page.control("tau_min", shelf)
                page.control("tau_max", shelf)
            page.add("chips", kit.html("chips"), Role.FOLLOWS | Role.RESULT)
            page.add("pairs", kit.html("pairs"), Role.FOLLOWS)
        with gr.Accordion(
            "What does it cost? Time and compute by stage", open=False, elem_id="fold-cost"
        ):
            _costs(page)
        with gr.Accordion(
            "How close are the pictures? Distance by branch point", open=False, elem_id="fold-near"
        ):
            kit.html("curve", CURVE)
            gr.HTML(views.note(LEGEND), apply_default_css=False, js_on_load=None)
        with gr.Accordion("Settings", open=False, elem_id="advanced"):
            _advanced(shelf, page)
        with gr.Accordion("Save, share and load", open=False, elem_id="fold-travel"):
            _downloads(page)
        with gr.Accordion("How it works", open=False, elem_id="fold-method"):
            kit.html("how-it-works", HOW_IT_WORKS)


def _costs(page: Layout) -> None:
    page.add("estimate", kit.html("estimate"), Role.FOLLOWS | Role.RESULT)
    gr.HTML(views.note(BARS), apply_default_css=False, js_on_load=None)
    with gr.Row(elem_id="sage-costs"):
        with gr.Column(min_width=280):
            gr.HTML("<h3>Seconds, measured</h3>", apply_default_css=False, js_on_load=None)
            page.add("seconds", kit.html("seconds", no_bars(NO_BARS)), Role.RESULT)
        with gr.Column(min_width=280):
            gr.HTML("<h3>FLOPs, counted</h3>", apply_default_css=False, js_on_load=None)
            page.add("flops", kit.html("flops", no_bars(NO_BARS)), Role.RESULT)
    page.add("saving", kit.html("saving", views.no_saving()), Role.RESULT)


def _advanced(shelf: Shelf, page: Layout) -> None:
    own = shelf.default
    page.control("trained", shelf, visible=own.adapter is not None, info=TRAINED)
    with gr.Row():
        page.control("sharing", shelf)
        page.control("trunk", shelf, info=IN_TURN)
    with gr.Row():
        page.control("steps", shelf)
        page.control("max_group_size", shelf)
    with gr.Row():
        page.control("guidance_scale", shelf)
        page.control("fresh_noise", shelf)
    with gr.Row():
        page.control("scheduler", shelf)
        page.control("spacing", shelf)
    # Whatever else can be set has its place here; the seed stands beside Render.
    for name in Form.setting_names(page.kind):
        if name not in page.controls and name != "seed":
            page.control(name, shelf)
    page.add(
        "fewer_steps",
        gr.Checkbox(True, label="Also show fewer steps at the same cost", elem_id="fewer-steps"),
    )
    page.add(
        "repeats",
        kit.Dropdown(
            [(str(number), number) for number in REPEATS],
            value=REPEATS[0],
            label="Repeats",
            info="Each repeat uses new seeds: scores get an interval, seconds a range.",
            elem_id="repeats",
            filterable=False,
        ),
    )
    page.add(
        "measure",
        gr.Checkbox(
            True, label="Measure time (renders both sides from scratch)", elem_id="measure"
        ),
    )


DOWNLOADS = {
    "archive": ("Pictures (zip)", "download-pictures"),
    "sheet": ("Grid (PNG)", "download-grid"),
    "record": ("Record (JSON)", "download-record"),
    "lines": ("Python lines", "download-lines"),
}


def _downloads(page: Layout) -> None:
    with gr.Row(elem_id="sage-downloads"):
        for name, (label, elem_id) in DOWNLOADS.items():
            button = gr.DownloadButton(
                label, size="sm", interactive=False, elem_id=elem_id, min_width=110
            )
            page.add(name, button, Role.RESULT)
        copy = gr.Button("Copy link", size="sm", elem_id="copy-link", min_width=110)
        page.add("copy_link", copy)
    kit.html("downloads-note", f'<p class="sage-note sage-downloads-note">{NO_FILES}</p>')
    link = gr.Textbox(
        label="Link to these settings",
        interactive=False,
        visible=False,
        buttons=["copy"],
        max_lines=3,
        elem_id="link",
    )
    page.add("link", link)
    page.add("travel_note", kit.html("travel-note"))
    with gr.Accordion("Load a record", open=False, elem_id="load-record"):
        upload = gr.UploadButton(
            "Choose a record (JSON)", file_types=[".json"], size="sm", elem_id="upload-record"
        )
        page.add("upload", upload)
        paste = gr.Textbox(label="or paste it here", lines=3, max_lines=3, elem_id="paste")
        page.add("paste", paste)
        load = gr.Button("Load the pasted record", size="sm", elem_id="load-text")
        page.add("load_text", load)
