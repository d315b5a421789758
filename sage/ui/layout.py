"""The page's components and where they stand; no listeners, no models, no arithmetic."""

from dataclasses import dataclass, fields

import gradio as gr
from gradio.components import Component

from sage.request import LIMITS
from sage.ui import views
from sage.ui.downloads import remove_run
from sage.ui.examples import EXAMPLE_SETS, FIRST_EXAMPLE
from sage.ui.shelf import Shelf

NOTHING_YET = "Nothing rendered yet."
LEGEND = (
    "CLIP: how well a picture fits its words (cosine, higher is better). "
    "Twin: how far apart a prompt's two pictures are (0 is the same picture)."
)
HOW_IT_WORKS = """
A picture is made in **steps** that turn noise into an image. The first steps only settle what goes
where, so prompts that mean similar things do nearly the same work in them. SAGE
([arXiv 2509.15865](https://arxiv.org/abs/2509.15865)) does that work once for a group:

1. **Similarity.** A text encoder (CLIP) turns each prompt into a vector; two prompts are as similar
   as the cosine of their vectors.
2. **Groups.** Every pair inside a group lies between a lower and an upper bound
   (τ<sub>min</sub>, τ<sub>max</sub>). Above the upper bound prompts are near-duplicates: sharing
   would make them almost the same picture.
3. **Branch point, T\\*.** Until it, each group runs one *trunk* on the mean of its prompts; from it
   on, each prompt *branches* and runs on its own.
4. **Saving.** `share ratio × (1 − groups / prompts)` of the evaluations, when all groups share the
   same number of steps. An evaluation is one pass of the denoiser for one trajectory and one step.

Seconds are measured on this machine, both sides in turn; FLOPs are counted, never estimated from
time. Both sides use the same seeds: the first prompt has the seed above, the others count up. A
group's trunk starts from the noise of its first prompt, so that prompt's two pictures are the
closest twins. Sharing loses something when prompts differ or the trunk is long: try the dissimilar
pair with the lower bound moved down, or the branch point moved far to the right.
"""


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
    similarity: gr.Plot
    branch_step: gr.Slider
    estimate: gr.HTML
    plan: gr.Plot
    max_group_size: gr.Slider
    steps: gr.Slider
    guidance_scale: gr.Slider
    seed: gr.Number
    random_seed: gr.Button
    render: gr.Button
    stop: gr.Button
    banner: gr.HTML
    progress: gr.HTML
    pictures: gr.HTML
    pair: gr.Dropdown
    slider: gr.ImageSlider
    seconds: gr.Plot
    flops: gr.Plot
    saving: gr.HTML
    archive: gr.DownloadButton
    record: gr.DownloadButton
    share_ratio: gr.State
    run: gr.State

    @property
    def form(self) -> list[Component]:
        """What a visitor sets, in the order of `handlers.Form`."""
        return [
            self.prompts,
            self.model,
            self.tau_min,
            self.tau_max,
            self.max_group_size,
            self.branch_step,
            self.steps,
            self.guidance_scale,
            self.seed,
        ]

    @property
    def consequences(self) -> list[Component]:
        """What follows from the form without rendering."""
        return [
            self.prompts_note,
            self.chips,
            self.pairs,
            self.similarity,
            self.plan,
            self.estimate,
            self.share_ratio,
            self.banner,
            self.render,
            self.pictures,
        ]

    @property
    def own_settings(self) -> list[Component]:
        """What a model brings along."""
        return [
            self.model,
            self.model_note,
            self.tau_min,
            self.tau_max,
            self.guidance_scale,
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
            self.progress,
            self.banner,
            self.pictures,
            self.pair,
            self.slider,
            self.seconds,
            self.flops,
            self.saving,
            self.archive,
            self.record,
        ]


def build_layout(shelf: Shelf) -> Layout:
    """Lays out the page inside the current Blocks; desktop has two columns, a phone one."""
    parts: dict[str, object] = {
        "share_ratio": gr.State(LIMITS["share_ratio"].default),
        "run": gr.State(None, time_to_live=3600, delete_callback=_forget),
    }
    _model_picker(shelf, parts)
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
            lines=6,
            max_lines=6,
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
    steps = LIMITS["steps"].default
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
        parts["estimate"] = _html("estimate")
        with gr.Accordion("Advanced", open=False, elem_id="advanced"):
            parts["steps"] = _slider("steps", "Steps, T")
            parts["guidance_scale"] = _slider(
                "guidance_scale",
                "Guidance: how strictly the words are followed",
                shelf.default.guidance_scale,
            )
            parts["max_group_size"] = _slider("max_group_size", "Largest group")


def _similarity_card(parts: dict[str, object]) -> None:
    with _card("similarity"):
        _heading("2", "Similarity", "cosine of CLIP embeddings")
        parts["similarity"] = _plot("similarity")


def _plan_card(parts: dict[str, object]) -> None:
    with _card("plan"):
        _heading("3", "Plan", "thick: shared by a group, thin: on its own")
        parts["plan"] = _plot("plan")


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
                parts["pictures"] = _html("pictures")
                gr.HTML(views.note(LEGEND), apply_default_css=False)
            with gr.Column(scale=1, min_width=260, elem_id="sage-closer"):
                parts["pair"] = gr.Dropdown(
                    [], label="Look closer", filterable=False, elem_id="pair", interactive=True
                )
                parts["slider"] = gr.ImageSlider(
                    label="independent | shared",
                    show_label=False,
                    interactive=False,
                    height=280,
                    max_height=280,
                    buttons=["fullscreen"],
                    elem_id="slider",
                )
                gr.HTML(
                    '<p class="sage-ends"><span>independent</span><span>shared</span></p>',
                    apply_default_css=False,
                )


def _cost_card(parts: dict[str, object]) -> None:
    with _card("cost"):
        _heading("4", "Cost", "solid: shared steps, pale: own steps, grey: reading and drawing")
        with gr.Row(elem_id="sage-bars"):
            with gr.Column(min_width=280):
                gr.HTML("<h3>Seconds, measured</h3>", apply_default_css=False)
                parts["seconds"] = _plot("seconds")
            with gr.Column(min_width=280):
                gr.HTML("<h3>FLOPs, counted</h3>", apply_default_css=False)
                parts["flops"] = _plot("flops")
        parts["saving"] = _html("saving")
        with gr.Row(elem_id="sage-downloads"):
            parts["archive"] = gr.DownloadButton(
                "Pictures (zip)", size="sm", interactive=False, elem_id="download-pictures"
            )
            parts["record"] = gr.DownloadButton(
                "Record (JSON)", size="sm", interactive=False, elem_id="download-record"
            )


def _card(name: str) -> gr.Column:
    return gr.Column(elem_id=f"card-{name}", elem_classes="sage-card")


def _heading(number: str, words: str, aside: str = "") -> None:
    gr.HTML(views.heading(number, words, aside), apply_default_css=False)


def _html(name: str, value: str = "") -> gr.HTML:
    return gr.HTML(value, elem_id=name, apply_default_css=False, js_on_load=None)


def _plot(name: str) -> gr.Plot:
    return gr.Plot(show_label=False, container=False, elem_id=f"plot-{name}")


def _slider(name: str, label: str, value: float | None = None) -> gr.Slider:
    limit = LIMITS[name]
    return gr.Slider(
        limit.low,
        limit.high,
        limit.default if value is None else value,
        step=limit.step,
        label=label,
        elem_id=name.replace("_", "-"),
        buttons=[],
    )
