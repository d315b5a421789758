"""Components of the tab "Explore", what a visitor sets there and what a session remembers.

No listeners, no models, no arithmetic.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import gradio as gr
from gradio.components import Component

from sage.core.plan import Plan
from sage.core.settings import Choice, settings_of
from sage.core.words import plural
from sage.jobs.grid import Axis, Grid, RowFrame, Trace, axes
from sage.jobs.prompt_sets import table_of
from sage.jobs.repeats import REPEATS
from sage.jobs.request import Request, parse_request
from sage.ui import kit
from sage.ui.examples import EXAMPLE_SETS
from sage.ui.html import grids, views
from sage.ui.html.prose import NO_GRID_FILES, TRAINED
from sage.ui.refused import check_controls
from sage.ui.server.limits import BOUNDS
from sage.ui.shelf import Shelf

ALL = "all"
FIRST = next(example for example in EXAMPLE_SETS if example.key == "two").prompts[:4:2]
FIRST_AXES = {"across": "share_ratio", "down": "steps"}
EMPTY_GRID = "Choose two settings and render: every cell of the grid is one run."
EARLIER = "This grid is from earlier settings. Render again to update it."
EMPTY_CELL = "Choose a picture of the grid to see it large, with its settings."
EMPTY_STEPS = (
    "A trunk and its branches, picture by picture: render them to see where the prompts branch."
)
DOWNLOADS = {"sheet": "Pictures (PNG)", "table": "Numbers (CSV)", "record": "All (JSON)"}
PREDICTED, LATENTS = "expected pictures", "latents"
CLICKS = """
element.addEventListener("click", (event) => {
  const cell = event.target.closest("[data-cell]");
  if (cell) trigger("click", { cell: Number(cell.dataset.cell) });
});
"""


@dataclass(frozen=True)
class Steps:
    """One run, step by step.

    Attributes:
        request: What was rendered.
        plan: Who shared with whom.
        frames: Its rows at several steps.
        end: The finished run, or None if it was stopped.
    """

    request: Request
    plan: Plan
    frames: tuple[RowFrame, ...]
    end: Trace | None = None


@dataclass(frozen=True)
class Explored:
    """What a session remembers of its grid.

    Attributes:
        model: Key of the model.
        grid: What was varied.
        plans: What each cell runs.
        done: The finished cells.
        conditions: Hardware and versions of the finished cells.
        stored: Whether it was precomputed.
        chosen: The cell shown large, or None.
        steps: One run step by step, or None.
    """

    model: str = ""
    grid: Grid | None = None
    conditions: Mapping[str, Any] = field(default_factory=dict)
    stored: bool = False
    plans: dict[int, Plan] = field(default_factory=dict)
    done: dict[int, grids.Shown] = field(default_factory=dict)
    chosen: int | None = None
    steps: Steps | None = None


@dataclass(frozen=True)
class Form:
    """What a visitor has set in the tab, unchecked.

    Attributes:
        prompts: One a line.
        model: Key of the model.
        across: The setting that changes from left to right.
        across_values: Its values.
        down: The setting that changes from top to bottom.
        down_values: Its values.
        repeats: How often each cell is run, with other seeds.
        settings: What all cells have in common, by the names of `Sampling`.
    """

    prompts: str
    model: str
    across: str
    across_values: list[Any]
    down: str
    down_values: list[Any]
    repeats: int
    settings: Mapping[str, Any]

    FIELDS: ClassVar[tuple[str, ...]] = (
        "prompts",
        "model",
        "across",
        "across_values",
        "down",
        "down_values",
        "repeats",
    )

    @classmethod
    def of(cls, values: Sequence[Any]) -> "Form":
        """The form from the values of `Parts.form`."""
        head, rest = values[: len(cls.FIELDS)], values[len(cls.FIELDS) :]
        settings = dict(zip(axes(), rest, strict=True))
        return cls(**dict(zip(cls.FIELDS, head, strict=True)), settings=settings)

    @property
    def typed(self) -> str:
        """The prompts as one product in braces, if they are typed so."""
        try:
            return str(self.prompts).strip() if table_of(str(self.prompts or "")) else ""
        except ValueError:  # the check says why
            return ""

    def grid(self) -> Grid:
        """The form as a grid.

        Raises:
            ValueError: With one sentence a visitor understands.
        """
        across = Axis.parse(self.across, self.across_values)
        down = Axis.parse(self.down, self.down_values)
        return Grid(self.request(), across, down, self.repeats)

    def request(self) -> Request:
        """What all cells have in common.

        Raises:
            ValueError: With one sentence a visitor understands.
        """
        check_controls(self.settings)
        return parse_request(self.prompts, **self.settings)


class Parts:
    """The tab's components by name, and the controls of its settings."""

    def __init__(self) -> None:
        self.parts: dict[str, Any] = {}
        self.controls: dict[str, Component] = {}

    def add(self, name: str, part: Any) -> Any:
        """Takes a component in under a name."""
        self.parts[name] = part
        return part

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["parts"][name]
        except KeyError:
            raise AttributeError(f"Explore has no component {name!r}.") from None

    @property
    def downloads(self) -> list[gr.DownloadButton]:
        """The buttons that hand out a finished grid's files."""
        return [self.parts[name] for name in DOWNLOADS]

    @property
    def form(self) -> list[Component]:
        """What a visitor sets, in the order of `Form.of`."""
        return [*(self.parts[name] for name in Form.FIELDS), *self.controls.values()]


def build_parts(shelf: Shelf) -> Parts:
    """Lays the tab out inside the current block; desktop has two columns, a phone one."""
    parts = Parts()
    parts.add("explored", gr.State(Explored(), time_to_live=BOUNDS.session_seconds))
    for name in ("turn", "trace_turn", "nudge"):  # the last asks when nothing else changes
        parts.add(name, kit.hidden_box(f"explore-{name}"))
    with gr.Row(elem_id="sage-explore"):
        with gr.Column(elem_id="explore-inputs"):
            _grid_card(shelf, parts)
        with gr.Column(elem_id="explore-results"):
            _pictures_card(parts)
            with kit.card("cell"):
                kit.heading("One run")
                parts.add("cell", kit.html("explore-cell", views.note(EMPTY_CELL)))
            _steps_card(parts)
    return parts


# A list of what stands there.
def _grid_card(shelf: Shelf, parts: Parts) -> None:
    with kit.card("explore-form"):
        kit.heading("Grid", "two settings, every combination")
        parts.add("address", kit.html("explore-address"))
        parts.add(
            "prompts",
            gr.Textbox(
                "\n".join(FIRST),
                label="Prompts, one per line",
                lines=3,
                max_lines=8,
                elem_id="explore-prompts",
            ),
        )
        parts.add("prompts_note", kit.html("explore-prompts-note", views.prompts_note(FIRST, ())))
        take = gr.Button(
            "Copy prompts and settings from the Studio", size="sm", elem_id="explore-take"
        )
        parts.add("take", take)
        for side, words in (("across", "Across"), ("down", "Down")):
            first = FIRST_AXES[side]
            picker = gr.Dropdown(
                [(axes()[name].label, name) for name in offered_axes(shelf)],
                value=first,
                label=words,
                filterable=False,
                elem_id=f"explore-{side}",
            )
            parts.add(side, picker)
            values = axis_values(first, f"{words}: values", f"explore-{side}-values")
            parts.add(f"{side}_values", values)
        repeats = kit.Dropdown(
            [(plural(n, "seed"), n) for n in REPEATS],
            value=REPEATS[0],
            label="Repeats per cell",
            info="Three or more give the scores a confidence interval.",
            filterable=False,
            elem_id="explore-repeats",
        )
        parts.add("repeats", repeats)
        with gr.Accordion("More settings", open=False, elem_id="explore-rest"):
            _rest(shelf, parts)
        parts.add("cost", kit.html("explore-cost", "<p>&nbsp;</p>" + views.note("")))
        with gr.Row(elem_id="explore-actions"):
            render = gr.Button("Render the grid", variant="primary", elem_id="explore-go")
            parts.add("render", render)
            stop = gr.Button("Stop", interactive=False, elem_id="explore-stop", min_width=80)
            parts.add("stop", stop)


def _rest(shelf: Shelf, parts: Parts) -> None:
    parts.add("model", kit.model_picker(shelf.specs, "explore-model"))
    for name, setting in axes().items():
        trained = name == "trained"
        parts.controls[name] = kit.control(
            setting,
            shelf.default,
            prefix="explore-",
            visible=name in offered_axes(shelf),
            info=TRAINED if trained else None,
            # A grid shows what sharing does, good or bad; the guard is there to be switched on.
            value=None if setting.of_model else setting.default,
        )


def _pictures_card(parts: Parts) -> None:
    with kit.card("explore-grid"):
        kit.heading("Pictures", "one run per cell; click one")
        with gr.Row(elem_id="explore-head"):
            show = gr.Dropdown(
                [*((f"P{n + 1} {p}", str(n)) for n, p in enumerate(FIRST)), ("All prompts", ALL)],
                value="0",
                label="Show",
                filterable=False,
                elem_id="explore-show",
                min_width=160,
            )
            parts.add("show", show)
            for name, label in DOWNLOADS.items():
                button = gr.DownloadButton(
                    label,
                    size="sm",
                    interactive=False,
                    elem_id=f"explore-save-{name}",
                    min_width=80,
                )
                parts.add(name, button)
        kit.html(
            "explore-no-files", f'<p class="sage-note sage-downloads-note">{NO_GRID_FILES}</p>'
        )
        parts.add("banner", kit.html("explore-banner"))
        progress = kit.html("explore-progress", views.progress(0, 1, EMPTY_GRID))
        parts.add("progress", progress)
        cells = gr.HTML(elem_id="explore-table", apply_default_css=False, js_on_load=CLICKS)
        parts.add("cells", cells)


def _steps_card(parts: Parts) -> None:
    with kit.card("explore-steps-card"):
        kit.heading("Step by step", "where the prompts branch")
        with gr.Row(elem_id="explore-steps-head"):
            parts.add("trace", gr.Button("Show the steps", elem_id="explore-trace", min_width=140))
            stop = gr.Button("Stop", interactive=False, elem_id="explore-stop-trace", min_width=80)
            parts.add("stop_trace", stop)
            look = gr.Radio(
                [PREDICTED, LATENTS],
                value=PREDICTED,
                label="Pictures of",
                elem_id="explore-look",
                min_width=240,
            )
            parts.add("look", look)
        progress = kit.html("explore-trace-progress", views.progress(0, 1, EMPTY_STEPS))
        parts.add("trace_progress", progress)
        parts.add("tree", kit.html("explore-tree"))


def offered_axes(shelf: Shelf) -> list[str]:
    """What can be varied; the adapter only where a model has one."""
    trained = any(spec.adapter is not None for spec in shelf.specs)
    return [name for name in axes() if trained or name != "trained"]


def axis_values(
    name: str,
    label: str | None = None,
    elem_id: str | None = None,
    values: Sequence[str] | None = None,
) -> gr.Dropdown:
    """The picker of an axis' values; numbers may also be typed.

    Args:
        name: Of the setting.
        label: Of the picker.
        elem_id: Of the picker.
        values: What is picked, as texts; the setting's own first choice without it.
    """
    setting = settings_of(Request)[name]
    first = [setting.text(value) for value in setting.axis] if values is None else list(values)
    offered = setting.titles if isinstance(setting, Choice) else setting.axis
    choices = [(setting.words(value), setting.text(value)) for value in offered]
    named: dict[str, Any] = {"label": label, "elem_id": elem_id} if label else {}  # of a new one
    return gr.Dropdown(
        choices,
        value=first,
        multiselect=True,
        # Numbers may be typed. Whatever else arrives, also values of the axis from before, is for
        # `Axis.parse` to refuse with a sentence; Gradio's own check would be an error 500.
        allow_custom_value=True,
        **named,
    )
