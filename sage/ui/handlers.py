"""Translates between the page's widgets and the library; every listener of the page is here.

A handler takes widget values, checks them with `sage.request`, calls the library and returns
updates for components. It computes nothing itself and keeps nothing between calls: what a session
needs to remember lies in its `Run`.
"""

import logging
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr
import plotly.graph_objects as go
import torch
from gradio.components import Component
from gradio.components.plot import PlotData

from sage.compare import CompareStep, Comparison, compare, find_groups
from sage.grouping import Grouping
from sage.models import LoadedModel
from sage.plan import Plan, branch_step_from_ratio
from sage.request import LIMITS, Limit, Request, parse_request
from sage.ui import figures, views
from sage.ui.downloads import RunFiles, remove_run, save_run
from sage.ui.layout import Layout
from sage.ui.shelf import Shelf
from sage.ui.words import shorten, unseen_words

log = logging.getLogger(__name__)

Updates = dict[Component, Any]
PREVIEW_SECONDS = 0.06  # at least this long between two previews; a browser shows no more
TEASER = "Type two or more prompts, one a line, to see how similar they are."
EARLIER = "These pictures are for earlier settings. Render again to bring them up to date."
UNFINISHED = "Stopped: these pictures are unfinished."


@dataclass(frozen=True)
class Form:
    """What a visitor has set on the page, unchecked, in the order of `Layout.form`."""

    prompts: str
    model: str
    tau_min: float
    tau_max: float
    max_group_size: int
    branch_step: int
    steps: int
    guidance_scale: float
    seed: int

    def check(self) -> Request:
        """The form as a request.

        Raises:
            ValueError: With one sentence a visitor understands.
        """
        steps = int(LIMITS["steps"].check(self.steps))
        point = Limit("The branch point", 0, 0, steps, 1).check(self.branch_step)
        return parse_request(
            self.prompts,
            tau_min=self.tau_min,
            tau_max=self.tau_max,
            max_group_size=self.max_group_size,
            share_ratio=point / steps,
            steps=steps,
            guidance_scale=self.guidance_scale,
            seed=self.seed,
        )


@dataclass(frozen=True)
class Run:
    """What a session remembers of its last rendering.

    Attributes:
        request: What was asked for.
        model: Key of the model.
        step: Steps finished.
        done: Whether it came to its end.
        files: Pictures and record on disk, once done.
    """

    request: Request
    model: str
    step: int = 0
    done: bool = False
    files: RunFiles | None = None

    def fits(self, request: Request, model: str) -> bool:
        """Whether its pictures are what the form asks for now."""
        return (self.request, self.model) == (request, model)


@dataclass(frozen=True)
class _Analysis:
    """A checked form with everything that follows from it without rendering."""

    request: Request
    model: LoadedModel
    grouping: Grouping
    plan: Plan
    unseen: tuple[str, ...]

    @classmethod
    def of(cls, request: Request, model: LoadedModel) -> "_Analysis":
        grouping = find_groups(model.pipe, request)
        plan = model.pipe.plan(grouping.groups, request.steps, request.share_ratio)
        unseen = unseen_words(request.prompts, model.known_words)
        return cls(request, model, grouping, plan, unseen)


class Handlers:
    """The page's listeners.

    Args:
        layout: The components they update.
        shelf: The models they use.
    """

    def __init__(self, layout: Layout, shelf: Shelf) -> None:
        self.layout = layout
        self.shelf = shelf

    def welcome(self, *values: Any) -> Updates:
        """What a visitor meets: the default model, its own bounds, the first example analysed."""
        form, _ = _split(values)
        return {
            **self.pick_model(form.model),
            **self.analyze(*values),
            self.layout.seconds: plot(bars_message()),
            self.layout.flops: plot(bars_message()),
            self.layout.saving: views.no_saving(),
        }

    # -- cheap: everything that follows from the inputs --------------------------------------

    def analyze(self, *values: Any) -> Updates:
        """Similarity, groups, plan and estimate, after a change of prompts or bounds."""
        form, run = _split(values)
        try:
            analysis = _Analysis.of(form.check(), self.shelf.get(form.model))
        except ValueError as error:
            return self._nothing(str(error), form, run)
        page, request = self.layout, analysis.request
        note = views.prompts_note(request.prompts, analysis.unseen)
        return {
            page.prompts_note: _with_truncation(note, analysis),
            page.chips: views.group_chips(analysis.grouping, request.prompts, analysis.unseen),
            page.pairs: views.pairs_table(analysis.grouping),
            page.similarity: plot(figures.similarity_figure(analysis.grouping, request.prompts)),
            **self._estimate(analysis, run),
        }

    def estimate(self, *values: Any) -> Updates:
        """Plan and estimate, after a change that leaves the groups alone."""
        form, run = _split(values)
        try:
            analysis = _Analysis.of(form.check(), self.shelf.get(form.model))
        except ValueError as error:
            return self._nothing(str(error), form, run)
        ratio = analysis.request.share_ratio
        return {self.layout.share_ratio: ratio, **self._estimate(analysis, run)}

    def resize(self, steps: float, share_ratio: float) -> Updates:
        """Keeps the share ratio when the number of steps changes."""
        try:
            steps = int(LIMITS["steps"].check(steps))
        except ValueError:
            return {self.layout.branch_step: gr.skip()}
        point = branch_step_from_ratio(share_ratio, steps)
        return {self.layout.branch_step: gr.Slider(maximum=steps, value=point)}

    def mark_earlier(self, *values: Any) -> Updates:
        """Says whether the pictures still belong to the form, after a change of the seed."""
        form, run = _split(values)
        try:
            return {self.layout.banner: _banner(run, form.check(), form.model)}
        except ValueError as error:
            return {
                self.layout.prompts_note: views.note(str(error), "error"),
                self.layout.banner: _banner(run, None, form.model),
            }

    def _estimate(self, analysis: _Analysis, run: Run | None) -> Updates:
        page, request, model = self.layout, analysis.request, analysis.model
        cost = model.pipe.cost(analysis.plan, guidance_scale=request.guidance_scale)
        groups = analysis.grouping.groups
        return {
            page.estimate: views.estimate(
                cost, request.branch_step, request.steps, analysis.grouping.shares
            ),
            page.plan: plot(figures.plan_figure(analysis.plan, groups, request.prompts)),
            page.banner: _banner(run, request, model.spec.key),
            page.render: gr.Button(interactive=True),
            page.pictures: gr.skip() if run else _reserved(request.prompts, groups),
        }

    def _nothing(self, sentence: str, form: Form, run: Run | None) -> Updates:
        """What is shown while the form asks for nothing that can be done."""
        page = self.layout
        empty = not str(form.prompts or "").strip()
        return {
            page.prompts_note: views.note(
                TEASER if empty else sentence, "quiet" if empty else "error"
            ),
            page.chips: views.note("Groups appear here."),
            page.pairs: views.note("No pairs yet."),
            page.similarity: plot(figures.message_figure(TEASER, figures.MATRIX_HEIGHT)),
            page.plan: plot(figures.message_figure("The plan appears here.", figures.PLAN_HEIGHT)),
            page.estimate: views.no_estimate(),
            page.banner: _banner(run, None, form.model),
            page.render: gr.Button(interactive=False),
        }

    # -- choices -----------------------------------------------------------------------------

    def pick_model(self, key: str) -> Updates:
        """Loads a model and takes over its own bounds and guidance."""
        page = self.layout
        try:
            model = self.shelf.get(key)
        except ValueError as error:
            return {page.model_note: views.note(str(error), "error")}
        spec = model.spec
        return {
            page.model: spec.key,
            page.model_note: views.note(model.note or f"Runs on {model.device_name}."),
            page.tau_min: spec.tau_min,
            page.tau_max: spec.tau_max,
            page.guidance_scale: spec.guidance_scale,
            page.known_box: gr.Accordion(visible=model.known_words is not None),
            page.known: views.known_things(known_words(model)),
        }

    def random_seed(self) -> int:
        """A fresh seed; every possible one is allowed by the limits."""
        return secrets.randbelow(int(LIMITS["seed"].high) - int(LIMITS["num_prompts"].high))

    def pick_pair(self, choice: str | None, run: Run | None) -> Any:
        """The two pictures of the chosen prompt, for the slider."""
        if run is None or run.files is None or choice is None:
            return gr.skip()
        independent, shared = run.files.pairs[int(choice)]
        return str(independent), str(shared)

    # -- rendering ---------------------------------------------------------------------------

    def announce(self) -> Updates:
        """Shown at once after the click, while the run waits for its turn."""
        page = self.layout
        return {
            page.progress: views.progress(0, 1, "Waiting for its turn …", "live"),
            page.render: gr.Button("Rendering …", interactive=False),
            page.stop: gr.Button(interactive=True),
        }

    def render(self, *values: Any) -> Iterator[Updates]:
        """Renders both sides with previews; closing the generator stops it within a step."""
        form, before = _split(values)
        try:
            request, model = form.check(), self.shelf.get(form.model)
            remove_run(before.files if before else None)
            yield from self._render(request, model)
        except ValueError as error:
            yield self._failed(str(error))
        except torch.OutOfMemoryError:
            yield self._failed("The memory does not suffice: use fewer prompts.")
        except Exception:
            log.exception("rendering failed")
            yield self._failed("Rendering failed. The server's log says why.")

    def _render(self, request: Request, model: LoadedModel) -> Iterator[Updates]:
        run = Run(request, model.spec.key)
        groups = find_groups(model.pipe, request).groups
        yield {self.layout.run: run, **self._reset_results(request, groups)}
        shown = 0.0
        for item in compare(model, request):
            if isinstance(item, Comparison):
                yield self._finished(run, item)
            elif time.monotonic() - shown > PREVIEW_SECONDS:
                shown = time.monotonic()
                yield self._preview(replace(run, step=item.step), item, groups)

    def _reset_results(self, request: Request, groups: Sequence[Sequence[int]]) -> Updates:
        page = self.layout
        return {
            page.progress: views.progress(0, request.steps, "Reading the prompts", "live"),
            page.banner: "",
            page.pictures: _reserved(request.prompts, groups),
            page.pair: gr.Dropdown(choices=[], value=None),
            page.slider: None,
            page.seconds: plot(bars_message()),
            page.flops: plot(bars_message()),
            page.saving: views.no_saving(),
            page.archive: gr.DownloadButton(interactive=False),
            page.record: gr.DownloadButton(interactive=False),
        }

    def _preview(self, run: Run, step: CompareStep, groups: Sequence[Sequence[int]]) -> Updates:
        page = self.layout
        words = "shared" if step.stage == "trunk" else "each prompt on its own"
        line = f"Step {step.step} of {step.steps}, {words}"
        sides = [_shots(step.independent), _shots(step.shared)]
        pairs = views.pair_views(run.request.prompts, groups, *sides)
        return {
            page.run: run,
            page.progress: views.progress(step.step, step.steps, line, "live"),
            page.pictures: views.picture_grid(pairs, "live"),
        }

    def _finished(self, run: Run, done: Comparison) -> Updates:
        page, files, request = self.layout, save_run(done), done.request
        run = replace(run, step=request.steps, done=True, files=files)
        seeds = f"seeds {request.seeds[0]} to {request.seeds[-1]}"
        choices = [
            (f"P{n + 1} {shorten(prompt, 28)}", str(n)) for n, prompt in enumerate(request.prompts)
        ]
        return {
            page.run: run,
            page.progress: views.progress(
                request.steps, request.steps, f"Done: {request.steps} steps, {seeds}.", "done"
            ),
            page.pictures: finished_grid(done),
            page.pair: gr.Dropdown(choices=choices, value="0"),
            page.slider: self.pick_pair("0", run),
            page.archive: gr.DownloadButton(value=str(files.archive), interactive=True),
            page.record: gr.DownloadButton(value=str(files.record), interactive=True),
            **self._costs(done),
            **self._ready(),
        }

    def _costs(self, done: Comparison) -> Updates:
        page, report = self.layout, done.report
        flops_unit, flops_scale = _flops_unit(report["flops"]["independent"]["total"])
        return {
            page.seconds: plot(figures.cost_figure(_bars(done, report["seconds"]), "s", 1)),
            page.flops: plot(
                figures.cost_figure(_bars(done, report["flops"]), flops_unit, flops_scale)
            ),
            page.saving: views.saving_words(report),
        }

    def _ready(self) -> Updates:
        return {
            self.layout.render: gr.Button("Render", interactive=True),
            self.layout.stop: gr.Button(interactive=False),
        }

    def _failed(self, sentence: str) -> Updates:
        return {self.layout.progress: views.progress(0, 1, sentence, "error"), **self._ready()}

    def stop(self, run: Run | None) -> Updates:
        """Says what was reached; the run itself is cancelled by the listener."""
        page = self.layout
        if run is None or run.done:
            line = views.progress(0, 1, "Stopped before it began.")
            return {page.progress: line, **self._ready()}
        steps = run.request.steps
        line = f"Stopped after step {run.step} of {steps}."
        return {
            page.progress: views.progress(run.step, steps, line, "warn"),
            page.banner: views.banner(UNFINISHED),
            **self._ready(),
        }


def plot(figure: go.Figure) -> PlotData:
    """A figure for `gr.Plot`, without plotly's tool bar, whose zoom would lose the place."""
    return PlotData(type="plotly", plot=_with_config(figure))


def bars_message() -> go.Figure:
    """The place of the cost bars before there is anything to draw."""
    return figures.message_figure("Appears when both sides have run.", figures.BARS_HEIGHT)


def _with_config(figure: go.Figure) -> str:
    body = figure.to_json()
    return body[:-1] + ',"config":{"displayModeBar":false,"doubleClick":false}}'


def _split(values: Sequence[Any]) -> tuple[Form, Run | None]:
    *form, run = values
    return Form(*form), run


def _with_truncation(note: str, analysis: _Analysis) -> str:
    cut = analysis.model.pipe.truncated(analysis.request.prompts)
    if not cut:
        return note
    names = ", ".join(f"P{n + 1}" for n in cut)
    return note + views.note(f"{names}: longer than the model reads; the end is ignored.", "warn")


def _banner(run: Run | None, request: Request | None, model: str) -> str:
    """Whether the pictures on the page still belong to the form."""
    if run is None:
        return ""
    if request is None or not run.fits(request, model):
        return views.banner(EARLIER)
    return "" if run.done else views.banner(UNFINISHED)


def _reserved(prompts: Sequence[str], groups: Sequence[Sequence[int]]) -> str:
    boxes = views.empty_shots(len(prompts))
    return views.picture_grid(views.pair_views(prompts, groups, boxes, boxes), "empty")


def _shots(images: Sequence[Any]) -> list[views.Shot]:
    return [views.Shot(views.picture_source(image), "") for image in images]


def finished_grid(done: Comparison) -> str:
    """The pictures of a finished comparison with their scores."""
    count = len(done.request.prompts)
    scores = done.clip_scores or {"independent": [None] * count, "shared": [None] * count}
    sides = {
        side: [
            views.Shot(views.picture_source(image), views.shot_words(score, twin))
            for image, score, twin in zip(
                output.images, scores[side], done.twin_distance, strict=True
            )
        ]
        for side, output in (("independent", done.independent), ("shared", done.shared))
    }
    groups = done.grouping.groups
    pairs = views.pair_views(done.request.prompts, groups, sides["independent"], sides["shared"])
    return views.picture_grid(pairs, "done")


def _bars(done: Comparison, amounts: dict[str, dict[str, float]]) -> list[figures.Bar]:
    outputs = {"independent": done.independent, "shared": done.shared}
    return [
        figures.Bar(
            side,
            {stage: amounts[side][stage] for stage in figures.STAGES},
            done.grouping.groups,
            output.plan,
        )
        for side, output in outputs.items()
    ]


def _flops_unit(total: float) -> tuple[str, float]:
    return ("TFLOP", 1e12) if total >= 1e12 else ("GFLOP", 1e9)


def known_words(model: LoadedModel) -> dict[str, Sequence[str]]:
    """What the model was trained on, as titled lists; empty if it was trained on the open web."""
    words = model.known_words
    if words is None:
        return {}
    from sage.world import vocabulary

    things: dict[str, list[str]] = {}
    for thing in vocabulary.THINGS:
        if set(vocabulary.words_of(thing.name)) <= words:
            things.setdefault(thing.category, []).append(thing.name)
    places = [place.phrases[0] for place in vocabulary.PLACES]
    return {**things, "place": places, "every word": sorted(words)}
