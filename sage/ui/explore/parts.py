"""Components of the tab "Explore", what a visitor sets there and what a session remembers.

No listeners, no models, no arithmetic.
"""

from dataclasses import dataclass, field
from typing import Any

import gradio as gr
from gradio.components import Component

from sage.core.plan import Plan
from sage.jobs.grid import AXES, SWITCH, Axis, Frame, Grid, Trace, value_words
from sage.jobs.request import CHOICES, LIMITS, Request, parse_request
from sage.ui.html import grids, views
from sage.ui.html.prose import TRAINED
from sage.ui.shelf import Shelf
from sage.ui.studio.examples import EXAMPLE_SETS
from sage.ui.studio.layout import turn_box

ALL = "all"
FIRST = next(example for example in EXAMPLE_SETS if example.key == "two").prompts[:4:2]
EMPTY_GRID = "Choose two settings and render: every cell of the grid is one run."
EMPTY_CELL = "Choose a picture of the grid to see it large, with its settings."
EMPTY_STEPS = (
    "A trunk and its branches, picture by picture: render them to see where the prompts part."
)
PREDICTED, LATENTS = "what each step expects", "the latents themselves"
CLICKS = """
element.addEventListener("click", (event) => {
  const cell = event.target.closest("[data-cell]");
  if (cell) trigger("click", { cell: Number(cell.dataset.cell) });
});
"""


@dataclass(frozen=True)
class Steps:
    """One run laid open.

    Attributes:
        request: What was rendered.
        plan: Who shared with whom.
        frames: Its rows at several steps.
        end: The finished run, or None if it was stopped.
    """

    request: Request
    plan: Plan
    frames: tuple[Frame, ...]
    end: Trace | None = None


@dataclass(frozen=True)
class Explored:
    """What a session remembers of its grid.

    Attributes:
        model: Key of the model.
        grid: What was varied.
        plans: What each cell runs.
        done: The finished cells.
        chosen: The cell shown large, or None.
        steps: One run step by step, or None.
    """

    model: str = ""
    grid: Grid | None = None
    plans: dict[int, Plan] = field(default_factory=dict)
    done: dict[int, grids.Shown] = field(default_factory=dict)
    chosen: int | None = None
    steps: Steps | None = None

    @property
    def finished(self) -> bool:
        """Whether every cell has been rendered."""
        return self.grid is not None and len(self.done) == len(self.grid.requests)


@dataclass(frozen=True)
class Form:
    """What a visitor has set in the tab, unchecked, in the order of `Parts.form`."""

    prompts: str
    model: str
    across: str
    across_values: list[Any]
    down: str
    down_values: list[Any]
    share_ratio: float
    steps: int
    guidance_scale: float
    seed: int
    scheduler: str
    trunk: str
    trained: bool

    def grid(self) -> Grid:
        """The form as a grid.

        Raises:
            ValueError: With one sentence a visitor understands.
        """
        across = Axis.parse(self.across, self.across_values)
        return Grid(self.request(), across, Axis.parse(self.down, self.down_values))

    def request(self) -> Request:
        """What all cells have in common.

        Raises:
            ValueError: With one sentence a visitor understands.
        """
        return parse_request(
            self.prompts,
            share_ratio=self.share_ratio,
            steps=self.steps,
            guidance_scale=self.guidance_scale,
            seed=self.seed,
            scheduler=self.scheduler,
            trunk=self.trunk,
            trained=self.trained,
        )


@dataclass(frozen=True)
class Parts:
    """The tab's components."""

    prompts: gr.Textbox
    model: gr.Dropdown
    across: gr.Dropdown
    across_values: gr.Dropdown
    down: gr.Dropdown
    down_values: gr.Dropdown
    share_ratio: gr.Slider
    steps: gr.Slider
    guidance_scale: gr.Slider
    seed: gr.Number
    scheduler: gr.Dropdown
    trunk: gr.Dropdown
    trained: gr.Checkbox
    cost: gr.HTML
    render: gr.Button
    stop: gr.Button
    progress: gr.HTML
    show: gr.Dropdown
    table: gr.HTML
    sheet: gr.DownloadButton
    cell: gr.HTML
    trace: gr.Button
    stop_trace: gr.Button
    trace_progress: gr.HTML
    look: gr.Radio
    tree: gr.HTML
    explored: gr.State
    turn: gr.Textbox
    trace_turn: gr.Textbox

    @property
    def form(self) -> list[Component]:
        """What a visitor sets, in the order of `Form`."""
        return [getattr(self, name) for name in Form.__dataclass_fields__]


def build_parts(shelf: Shelf) -> Parts:
    """Lays the tab out inside the current block; desktop has two columns, a phone one."""
    parts: dict[str, Any] = {"explored": gr.State(Explored(), time_to_live=3600)}
    parts |= {name: turn_box(f"explore-{name}") for name in ("turn", "trace_turn")}
    with gr.Row(elem_id="sage-explore"):
        with gr.Column(elem_id="explore-inputs"):
            _grid_card(shelf, parts)
        with gr.Column(elem_id="explore-results"):
            _pictures_card(parts)
            with _card("cell"):
                _heading("One run")
                parts["cell"] = _html("explore-cell", views.note(EMPTY_CELL))
            _steps_card(parts)
    return Parts(**parts)


def _grid_card(shelf: Shelf, parts: dict[str, Any]) -> None:
    with _card("explore-form"):
        _heading("Grid", "two settings, every combination")
        parts["prompts"] = gr.Textbox(
            "\n".join(FIRST),
            label="Prompts, one a line",
            lines=3,
            max_lines=8,
            elem_id="explore-prompts",
        )
        for side, words, first in (("across", "Across", "share_ratio"), ("down", "Down", "seed")):
            parts[side] = gr.Dropdown(
                [(AXES[name][0], name) for name in offered_axes(shelf)],
                value=first,
                label=words,
                filterable=False,
                elem_id=f"explore-{side}",
            )
            parts[f"{side}_values"] = axis_values(
                first, f"{words}: values", f"explore-{side}-values"
            )
        with gr.Accordion("Everything else", open=False, elem_id="explore-rest"):
            _rest(shelf, parts)
        parts["cost"] = _html("explore-cost", "<p>&nbsp;</p>" + views.note(""))
        with gr.Row(elem_id="explore-actions"):
            parts["render"] = gr.Button("Render the grid", variant="primary", elem_id="explore-go")
            parts["stop"] = gr.Button(
                "Stop", interactive=False, elem_id="explore-stop", min_width=80
            )


def _rest(shelf: Shelf, parts: dict[str, Any]) -> None:
    own = shelf.default
    parts["model"] = gr.Dropdown(
        [(spec.title, spec.key) for spec in shelf.specs],
        value=own.key,
        label="Model",
        filterable=False,
        elem_id="explore-model",
    )
    values = {"steps": own.steps, "guidance_scale": own.guidance_scale}
    for name in ("share_ratio", "steps", "guidance_scale"):
        limit = LIMITS[name]
        parts[name] = gr.Slider(
            limit.low,
            limit.high,
            values.get(name, limit.default),
            step=limit.step,
            label=AXES[name][0],
            buttons=[],
            elem_id=f"explore-{name.replace('_', '-')}",
        )
    parts["seed"] = gr.Number(
        LIMITS["seed"].default, label=AXES["seed"][0], precision=0, elem_id="explore-seed"
    )
    for name in ("scheduler", "trunk"):
        parts[name] = gr.Dropdown(
            [(title, key) for key, title in CHOICES[name].titles.items()],
            value=CHOICES[name].default,
            label=AXES[name][0],
            filterable=False,
            elem_id=f"explore-{name}",
        )
    parts["trained"] = gr.Checkbox(
        False,
        label=AXES["trained"][0],
        elem_id="explore-trained",
        info=TRAINED,
        visible="trained" in offered_axes(shelf),
    )


def _pictures_card(parts: dict[str, Any]) -> None:
    with _card("explore-grid"):
        _heading("Pictures", "one run a cell; choose one")
        with gr.Row(elem_id="explore-head"):
            parts["show"] = gr.Dropdown(
                [*((f"P{n + 1} {p}", str(n)) for n, p in enumerate(FIRST)), ("All prompts", ALL)],
                value="0",
                label="Show",
                filterable=False,
                elem_id="explore-show",
                min_width=160,
            )
            parts["sheet"] = gr.DownloadButton(
                "Grid (PNG)", size="sm", interactive=False, elem_id="explore-sheet", min_width=100
            )
        parts["progress"] = _html("explore-progress", views.progress(0, 1, EMPTY_GRID))
        parts["table"] = gr.HTML(
            elem_id="explore-table", apply_default_css=False, js_on_load=CLICKS
        )


def _steps_card(parts: dict[str, Any]) -> None:
    with _card("explore-steps-card"):
        _heading("Step by step", "where the prompts part")
        with gr.Row(elem_id="explore-steps-head"):
            parts["trace"] = gr.Button("Show the steps", elem_id="explore-trace", min_width=140)
            parts["stop_trace"] = gr.Button(
                "Stop", interactive=False, elem_id="explore-stop-trace", min_width=80
            )
            parts["look"] = gr.Radio(
                [PREDICTED, LATENTS],
                value=PREDICTED,
                label="Pictures of",
                elem_id="explore-look",
                min_width=240,
            )
        parts["trace_progress"] = _html("explore-trace-progress", views.progress(0, 1, EMPTY_STEPS))
        parts["tree"] = _html("explore-tree")


def offered_axes(shelf: Shelf) -> list[str]:
    """What can be varied; the adapter only where a model has one."""
    trained = any(spec.adapter is not None for spec in shelf.specs)
    return [name for name in AXES if trained or name != "trained"]


def axis_values(name: str, label: str | None = None, elem_id: str | None = None) -> gr.Dropdown:
    """The picker of an axis' values; numbers may also be typed."""
    first = [_plain(name, value) for value in AXES[name][1]]
    titles = CHOICES[name].titles if name in CHOICES else {}
    choices = [(value_words(name, key), key) for key in titles] or first
    settings = {"label": label} if label else {}
    return gr.Dropdown(
        choices,
        value=first,
        multiselect=True,
        allow_custom_value=name in LIMITS,
        elem_id=elem_id,
        **settings,
    )


def _plain(name: str, value: Any) -> str:
    return SWITCH[value] if isinstance(value, bool) else value if name in CHOICES else f"{value:g}"


def _card(name: str) -> gr.Column:
    return gr.Column(elem_id=f"card-{name}", elem_classes="sage-card")


def _heading(words: str, aside: str = "") -> None:
    gr.HTML(views.heading("", words, aside), apply_default_css=False, js_on_load=None)


def _html(name: str, value: str = "") -> gr.HTML:
    return gr.HTML(value, elem_id=name, apply_default_css=False, js_on_load=None)
