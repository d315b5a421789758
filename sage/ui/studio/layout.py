"""The page's components and where they stand; no listeners, no models, no arithmetic."""

from dataclasses import dataclass, fields

import gradio as gr
from gradio.components import Component

from sage.jobs.request import CHOICES, LIMITS
from sage.ui.export.downloads import remove_run
from sage.ui.html import views
from sage.ui.html.cost_bars import no_bars
from sage.ui.html.prose import CLOSER, HOW_IT_WORKS, IN_TURN, LEGEND, NEARBY, NOTHING_YET, TRAINED
from sage.ui.shelf import Shelf
from sage.ui.studio.examples import EXAMPLE_SETS, FIRST_EXAMPLE
from sage.ui.studio.form import Form
from sage.ui.studio.results import NO_BARS


@dataclass(frozen=True)
class Layout:
    """Every component that a listener reads or writes."""

    model: gr.Dropdown
    model_note: gr.HTML
    prompts: gr.Textbox
    examples: tuple[gr.Button, ...]
    prompts_note: gr.HTML
    known: gr.HTML
    known_box: gr.Accordion
    tau_min: gr.Slider
    tau_max: gr.Slider
    chips: gr.HTML
    pairs: gr.HTML
    similarity: gr.HTML
    branch_step: gr.Slider
    budget: gr.Slider
    estimate: gr.HTML
    trained: gr.Checkbox
    scrub: gr.Button
    scrub_note: gr.HTML
    plan: gr.HTML
    max_group_size: gr.Slider
    steps: gr.Slider
    guidance_scale: gr.Slider
    scheduler: gr.Dropdown
    sharing: gr.Dropdown
    trunk: gr.Dropdown
    fresh_noise: gr.Slider
    insist: gr.Checkbox
    fewer_steps: gr.Checkbox
    measure: gr.Checkbox
    seed: gr.Number
    random_seed: gr.Button
    render: gr.Button
    stop: gr.Button
    banner: gr.HTML
    progress: gr.HTML
    pictures: gr.HTML
    seconds: gr.HTML
    flops: gr.HTML
    saving: gr.HTML
    archive: gr.DownloadButton
    record: gr.DownloadButton
    sheet: gr.DownloadButton
    lines: gr.DownloadButton
    copy_link: gr.Button
    link: gr.Textbox
    upload: gr.UploadButton
    paste: gr.Textbox
    load_text: gr.Button
    travel_note: gr.HTML
    opened: gr.HTML
    share_ratio: gr.State
    run: gr.State
    turn: gr.Textbox

    @property
    def form(self) -> list[Component]:
        """What a visitor sets, in the order of `form.Form`."""
        return [getattr(self, field.name) for field in fields(Form)]

    @property
    def consequences(self) -> list[Component]:
        """What follows from the form without rendering; a precomputed comparison is one too."""
        return [
            self.model_note,
            self.prompts_note,
            self.chips,
            self.pairs,
            self.similarity,
            self.estimate,
            self.share_ratio,
            *self.results,
        ]

    @property
    def own_settings(self) -> list[Component]:
        """What a model brings along."""
        return [
            self.model,
            self.tau_min,
            self.tau_max,
            self.steps,
            self.guidance_scale,
            self.trained,
            self.known_box,
            self.known,
        ]

    @property
    def results(self) -> list[Component]:
        """What rendering changes."""
        return [
            self.run,
            self.render,
            self.stop,
            self.scrub,
            self.scrub_note,
            self.progress,
            self.banner,
            self.chips,
            self.estimate,
            self.plan,
            self.pictures,
            self.seconds,
            self.flops,
            self.saving,
            self.archive,
            self.record,
            self.sheet,
            self.lines,
        ]


def build_layout(shelf: Shelf) -> Layout:
    """Lays out the page inside the current Blocks; desktop has two columns, a phone one."""
    parts: dict[str, object] = {
        "share_ratio": gr.State(LIMITS["share_ratio"].default),
        "run": gr.State(None, time_to_live=3600, delete_callback=_forget),
        "turn": turn_box("turn"),
    }
    _model_picker(shelf, parts)
    parts["opened"] = _html("opened")
    with gr.Row(elem_id="sage-main"):
        with gr.Column(elem_id="sage-inputs"):
            _prompts_card(parts)
            _groups_card(shelf, parts)
            _branch_card(shelf, parts)
        with gr.Column(elem_id="sage-results"):
            with gr.Row(elem_id="sage-figures"):
                _similarity_card(parts)
                _plan_card(parts)
            _compare_card(parts)
            _cost_card(parts)
    with _card("method"):
        _heading("", "How it works")
        gr.Markdown(HOW_IT_WORKS, elem_id="how-it-works")
    return Layout(**{field.name: parts[field.name] for field in fields(Layout)})


def turn_box(name: str) -> gr.Textbox:
    """Holds the turn of a rendering in the browser, so that a click sends the one it belongs to."""
    return gr.Textbox(visible="hidden", label="Turn", elem_id=name, container=False)


def _forget(run: object) -> None:
    remove_run(getattr(run, "files", None))


def _model_picker(shelf: Shelf, parts: dict[str, object]) -> None:
    with gr.Column(elem_id="sage-model"):
        parts["model"] = gr.Dropdown(
            [(spec.title, spec.key) for spec in shelf.specs],
            value=shelf.default.key,
            label="Model",
            elem_id="model",
            filterable=False,
        )
        parts["model_note"] = _html("model-note")


def _prompts_card(parts: dict[str, object]) -> None:
    limit = LIMITS["num_prompts"]
    with _card("prompts"):
        _heading("1", "Prompts")
        parts["prompts"] = gr.Textbox(
            label=f"One a line, {limit.low:g} to {limit.high:g}",
            value=FIRST_EXAMPLE.text,
            lines=5,
            max_lines=5,
            placeholder="a fox in the snow\na dog in the snow",
            elem_id="prompts",
        )
        parts["prompts_note"] = _html("prompts-note")
        with gr.Row(elem_id="sage-examples"):
            parts["examples"] = tuple(
                gr.Button(example.label, size="sm", elem_id=f"example-{example.key}", min_width=80)
                for example in EXAMPLE_SETS
            )
        with gr.Accordion("What this model knows", open=False) as parts["known_box"]:
            parts["known"] = _html("known")


def _groups_card(shelf: Shelf, parts: dict[str, object]) -> None:
    with _card("groups"):
        _heading("2", "Groups", "similar enough to share")
        with gr.Row():
            own = shelf.default
            parts["tau_min"] = _slider("tau_min", "Lowest, τ min", own.tau_min)
            parts["tau_max"] = _slider("tau_max", "Highest, τ max", own.tau_max)
        parts["chips"] = _html("chips")
        with gr.Accordion("Why? The reason for each pair", open=False):
            parts["pairs"] = _html("pairs")


def _branch_card(shelf: Shelf, parts: dict[str, object]) -> None:
    steps = shelf.default.steps
    with _card("branch"):
        _heading("3", "Branch point", "T*, where each goes its own way")
        parts["branch_step"] = gr.Slider(
            0,
            steps,
            round(LIMITS["share_ratio"].default * steps),
            step=1,
            label="Shared steps",
            elem_id="branch-step",
            buttons=[],
        )
        parts["budget"] = _slider("budget", "Share of the evaluations to spend", visible=False)
        parts["estimate"] = _html("estimate")
        parts["trained"] = _checkbox(
            "trained",
            "Trained for sharing",
            False,
            visible=shelf.default.adapter is not None,
            info=TRAINED,
        )
        parts["scrub"] = gr.Button(
            "Scrub all branch points", size="sm", interactive=False, elem_id="scrub"
        )
        parts["scrub_note"] = _html("scrub-note")
        with gr.Accordion("Advanced", open=False, elem_id="advanced"):
            _advanced(shelf, parts)


def _advanced(shelf: Shelf, parts: dict[str, object]) -> None:
    parts["sharing"] = _choice("sharing", "How prompts share")
    with gr.Row():
        parts["steps"] = _slider("steps", "Steps, T", shelf.default.steps)
        parts["max_group_size"] = _slider("max_group_size", "Largest group")
    with gr.Row():
        parts["guidance_scale"] = _slider(
            "guidance_scale", "Guidance", shelf.default.guidance_scale
        )
        parts["fresh_noise"] = _slider("fresh_noise", "Fresh noise")
    parts["scheduler"] = _choice("scheduler", "Scheduler")
    parts["trunk"] = _choice("trunk", "What the trunk follows", IN_TURN)
    parts["insist"] = _checkbox("insist", "Share anyway, also where it is predicted to fail", False)
    parts["fewer_steps"] = _checkbox("fewer-steps", "Also show fewer steps at equal cost", True)
    parts["measure"] = _checkbox("measure", "Measure time: render both sides from the start", True)


def _similarity_card(parts: dict[str, object]) -> None:
    with _card("similarity"):
        _heading("", "Similarity", "cosine of CLIP embeddings")
        parts["similarity"] = _html("similarity")


def _plan_card(parts: dict[str, object]) -> None:
    with _card("plan"):
        _heading("", "Plan", "the thicker, the more prompts share")
        parts["plan"] = _html("plan")


def _compare_card(parts: dict[str, object]) -> None:
    with _card("compare"):
        _heading("4", "Compare", "both ways, with the same seeds")
        parts["banner"] = _html("banner")
        with gr.Row(elem_id="sage-actions"):
            parts["render"] = gr.Button(
                "Render", variant="primary", elem_id="render", scale=2, min_width=140
            )
            parts["stop"] = gr.Button("Stop", interactive=False, elem_id="stop", min_width=80)
            parts["seed"] = gr.Number(
                LIMITS["seed"].default, label="Seed", precision=0, elem_id="seed", min_width=120
            )
            parts["random_seed"] = gr.Button(
                "Random", size="md", elem_id="random-seed", min_width=90
            )
        parts["progress"] = _html("progress", views.progress(0, 1, NOTHING_YET))
        with gr.Row(elem_id="sage-sides"):
            with gr.Column(scale=3, min_width=280, elem_id="sage-grid"):
                _html("nearby", NEARBY)  # on a phone the slider itself is a long way up
                parts["pictures"] = _html("pictures")
                gr.HTML(views.note(LEGEND), apply_default_css=False)
            with gr.Column(scale=1, min_width=260, elem_id="sage-closer"):
                _html("closer", CLOSER)


def _cost_card(parts: dict[str, object]) -> None:
    with _card("cost"):
        _heading("", "Cost", "solid: shared steps, pale: own steps, grey: reading and drawing")
        with gr.Row(elem_id="sage-costs"):
            with gr.Column(min_width=280):
                gr.HTML("<h3>Seconds, measured</h3>", apply_default_css=False)
                parts["seconds"] = _html("seconds", no_bars(NO_BARS))
            with gr.Column(min_width=280):
                gr.HTML("<h3>FLOPs, counted</h3>", apply_default_css=False)
                parts["flops"] = _html("flops", no_bars(NO_BARS))
        parts["saving"] = _html("saving", views.no_saving())
        _downloads(parts)


DOWNLOADS = {
    "archive": ("Pictures (zip)", "download-pictures"),
    "sheet": ("Grid (PNG)", "download-grid"),
    "record": ("Record (JSON)", "download-record"),
    "lines": ("Python lines", "download-lines"),
}


def _downloads(parts: dict[str, object]) -> None:
    gr.HTML("<h3>Take it with you</h3>", apply_default_css=False)
    with gr.Row(elem_id="sage-downloads"):
        for name, (label, elem_id) in DOWNLOADS.items():
            parts[name] = gr.DownloadButton(
                label, size="sm", interactive=False, elem_id=elem_id, min_width=110
            )
        parts["copy_link"] = gr.Button("Copy link", size="sm", elem_id="copy-link", min_width=110)
    parts["link"] = gr.Textbox(
        label="Link to these settings",
        interactive=False,
        visible=False,
        buttons=["copy"],
        max_lines=3,
        elem_id="link",
    )
    parts["travel_note"] = _html("travel-note")
    with gr.Accordion("Load a record", open=False, elem_id="load-record"):
        parts["upload"] = gr.UploadButton(
            "Choose a record (JSON)", file_types=[".json"], size="sm", elem_id="upload-record"
        )
        parts["paste"] = gr.Textbox(label="or paste it here", lines=3, max_lines=3, elem_id="paste")
        parts["load_text"] = gr.Button("Load the pasted record", size="sm", elem_id="load-text")


def _card(name: str) -> gr.Column:
    return gr.Column(elem_id=f"card-{name}", elem_classes="sage-card")


def _heading(number: str, words: str, aside: str = "") -> None:
    gr.HTML(views.heading(number, words, aside), apply_default_css=False)


def _html(name: str, value: str = "") -> gr.HTML:
    return gr.HTML(value, elem_id=name, apply_default_css=False, js_on_load=None)


def _slider(name: str, label: str, value: float | None = None, visible: bool = True) -> gr.Slider:
    limit = LIMITS[name]
    return gr.Slider(
        limit.low,
        limit.high,
        limit.default if value is None else value,
        step=limit.step,
        label=label,
        elem_id=name.replace("_", "-"),
        visible=visible,
        buttons=[],
    )


def _choice(name: str, label: str, info: str | None = None) -> gr.Dropdown:
    titles = CHOICES[name].titles
    return gr.Dropdown(
        [(title, key) for key, title in titles.items()],
        value=CHOICES[name].default,
        label=label,
        elem_id=name,
        filterable=False,
        info=info,
    )


def _checkbox(
    name: str, label: str, value: bool, visible: bool = True, info: str | None = None
) -> gr.Checkbox:
    return gr.Checkbox(value, label=label, elem_id=name, visible=visible, info=info)
