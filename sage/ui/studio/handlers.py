"""What acts at once: translates between the page's widgets and the analysis of a form.

A handler takes widget values, checks them with `sage.jobs.request`, calls the library and returns
updates for components. It renders nothing, computes nothing itself and keeps nothing between
calls: what a session needs to remember lies in its `Run`.
"""

import secrets
from collections.abc import Sequence
from typing import Any

import gradio as gr
from gradio.components import Component

from sage.core.plan import branch_step_from_ratio
from sage.jobs.models import LoadedModel, ModelSpec
from sage.jobs.request import LIMITS, Request
from sage.sd.model_settings import ModelSettings
from sage.ui.html import views
from sage.ui.html.cost_bars import no_bars
from sage.ui.html.matrix import empty_matrix, similarity_matrix
from sage.ui.html.pictures import empty_grid, picture_grid, strip_rows
from sage.ui.html.plan_drawing import empty_plan, plan_drawing
from sage.ui.shelf import Shelf
from sage.ui.studio import results
from sage.ui.studio.analysis import Analysis, analyze, strip_of
from sage.ui.studio.examples import ExampleSet
from sage.ui.studio.first import find_stored
from sage.ui.studio.form import Form, Run
from sage.ui.studio.layout import Layout

Updates = dict[Component, Any]
TEASER = "Type two or more prompts, one a line, to see how similar they are."
EARLIER = "These pictures are for earlier settings. Render again to bring them up to date."
UNFINISHED = "Stopped: these pictures are unfinished."
NOT_YET = "The examples are precomputed; the model is loaded when it is first needed."


class Handlers:
    """The page's listeners that render nothing.

    Args:
        layout: The components they update.
        shelf: The models they use.
    """

    def __init__(self, layout: Layout, shelf: Shelf) -> None:
        self.layout = layout
        self.shelf = shelf

    def welcome(self, *values: Any) -> Updates:
        """What a visitor meets: the default model's own settings, the first example finished."""
        form, _ = split(values)
        spec = self.shelf.spec(form.model)
        note = views.note(_model_words(self.shelf.loaded(form.model)))
        return {self.layout.model_note: note, **self._own(spec), **self.analyze(*values)}

    def first_paint(self) -> Updates:
        """What `welcome` says where it is known without a model, for the page as it is served."""
        values = [part.value for part in (*self.layout.form, self.layout.run)]
        form, _ = split(values)
        if find_stored(form.check(), form.model) is None:
            return {}
        return self.welcome(*values)

    # -- everything that follows from the inputs ---------------------------------------------

    def analyze(self, *values: Any) -> Updates:
        """Similarity, groups, plan and estimate, after a change of prompts or bounds."""
        form, run = split(values)
        try:
            analysis = analyze(form.check(), form.model, self.shelf, run)
        except ValueError as error:
            return self._nothing(str(error), form, run)
        page, request = self.layout, analysis.request
        grouping, groups = analysis.arrangement.grouping, analysis.arrangement.groups
        matrix = similarity_matrix(grouping, request.prompts, groups, analysis.order)
        return {
            page.prompts_note: _with_truncation(analysis),
            page.pairs: views.pairs_table(grouping),
            page.similarity: matrix,
            **self._estimate(analysis, form, run),
        }

    def estimate(self, *values: Any) -> Updates:
        """Plan and estimate, after a change that leaves the groups alone."""
        form, run = split(values)
        try:
            analysis = analyze(form.check(), form.model, self.shelf, run)
        except ValueError as error:
            return self._nothing(str(error), form, run)
        ratio = analysis.request.share_ratio
        return {self.layout.share_ratio: ratio, **self._estimate(analysis, form, run)}

    def resize(self, steps: float, share_ratio: float) -> Updates:
        """Keeps the share ratio when the number of steps changes."""
        try:
            steps = int(LIMITS["steps"].check(steps))
        except ValueError:
            return {self.layout.branch_step: gr.skip()}
        point = branch_step_from_ratio(share_ratio, steps)
        return {self.layout.branch_step: gr.Slider(maximum=steps, value=point)}

    def pick_sharing(self, sharing: str) -> Updates:
        """A tree has a budget in place of a branch point."""
        tree = sharing == "tree"
        return {
            self.layout.branch_step: gr.Slider(visible=not tree),
            self.layout.budget: gr.Slider(visible=tree),
        }

    def mark_earlier(self, *values: Any) -> Updates:
        """Says whether the pictures still belong to the form, after a change of the seed."""
        form, run = split(values)
        try:
            request = form.check()
        except ValueError as error:
            return {
                self.layout.prompts_note: views.note(str(error), "error"),
                self.layout.banner: banner(run, None, form.model),
            }
        return {
            self.layout.banner: banner(run, request, form.model),
            **self._scrubbing(None, run, request, form.model),
        }

    def _estimate(self, analysis: Analysis, form: Form, run: Run | None) -> Updates:
        page, request = self.layout, analysis.request
        arrangement = analysis.arrangement
        shown = self._stored(analysis, form, run) if analysis.stored else {}
        run = shown.get(page.run, run)
        model = self.shelf.loaded(form.model)
        return {
            page.model_note: views.note(_model_words(model)),
            **expectation(page, analysis),
            page.plan: plan_view(analysis, run),
            page.banner: banner(run, request, analysis.spec.key),
            page.render: gr.Button(interactive=True),
            page.pictures: gr.skip()
            if run
            else empty_grid(request.prompts, arrangement.groups, form.sides),
            **self._counted(analysis, run),
            **self._scrubbing(analysis, run, request, analysis.spec.key),
            **shown,
        }

    def _stored(self, analysis: Analysis, form: Form, run: Run | None) -> Updates:
        """The precomputed comparison, unless something that fits is on the page already."""
        stored, request = analysis.stored, analysis.request
        if run is not None and run.fits(request, analysis.spec.key):
            return {}
        page, strip = self.layout, stored.strip
        groups, prompts = analysis.arrangement.groups, request.prompts
        steps = stored.request.steps
        report = stored.report
        plans = (stored.plan, stored.independent)
        return {
            page.run: Run(request, stored.model, steps, done=True, strip=strip, stored=stored.key),
            page.progress: views.progress(steps, steps, results.stored_words(stored), "done"),
            page.pictures: picture_grid(
                prompts, groups, strip_rows(strip, request.branch_step), "done", strip
            ),
            page.seconds: results.seconds_bars(report, groups, *plans),
            page.saving: views.saving_words(report, stored.plan),
            page.archive: gr.DownloadButton(interactive=False),
            page.record: gr.DownloadButton(interactive=False),
            page.sheet: gr.DownloadButton(interactive=False),
            page.lines: gr.DownloadButton(interactive=False),
        }

    def _counted(self, analysis: Analysis, run: Run | None) -> Updates:
        """FLOPs follow the branch point, because they are counted; seconds were measured."""
        if strip_of(analysis, run) is None:
            return {}
        arrangement = analysis.arrangement
        plans = (arrangement.plan, arrangement.independent)
        bars = results.flops_bars(analysis.cost, arrangement.groups, *plans)
        return {self.layout.flops: bars}

    def _scrubbing(
        self, analysis: Analysis | None, run: Run | None, request: Request, model: str
    ) -> Updates:
        """Whether the branch points can be rendered, or are there already."""
        page = self.layout
        fits = run is not None and run.done and run.fits(request, model)
        if fits and run.strip is not None:
            words = scrub_words(run)
            return {page.scrub: gr.Button(interactive=False), page.scrub_note: views.note(words)}
        possible = fits and request.sharing == "groups"
        return {page.scrub: gr.Button(interactive=possible), page.scrub_note: views.note("")}

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
            page.similarity: empty_matrix(TEASER),
            page.plan: empty_plan("The plan appears here."),
            page.estimate: views.no_estimate(),
            page.banner: banner(run, None, form.model),
            page.render: gr.Button(interactive=False),
            page.scrub: gr.Button(interactive=False),
        }

    # -- choices -----------------------------------------------------------------------------

    def pick_model(self, key: str, share_ratio: float) -> Updates:
        """Loads a model and takes over its own bounds, steps and guidance."""
        try:
            model = self.shelf.get(key)
        except ValueError as error:
            return {self.layout.model_note: views.note(str(error), "error")}
        spec = model.spec
        return {
            self.layout.model_note: views.note(_model_words(model)),
            **self._own(spec),
            **self.resize(spec.steps, share_ratio),  # else the branch point could lie outside
        }

    def _own(self, spec: ModelSpec) -> Updates:
        page = self.layout
        return {
            page.model: spec.key,
            page.tau_min: spec.tau_min,
            page.tau_max: spec.tau_max,
            page.steps: spec.steps,
            page.guidance_scale: spec.guidance_scale,
            page.trained: gr.Checkbox(value=False, visible=spec.adapter is not None),
            page.known_box: gr.Accordion(visible=spec.settings.known_words is not None),
            page.known: views.known_things(known_words(spec.settings)),
        }

    def fill(self, example: ExampleSet, key: str) -> Updates:
        """An example set: its prompts, the bounds under which it is shown, and the guard."""
        page = self.layout
        low, high = example.bounds(self.shelf.spec(key))
        return {
            page.prompts: example.text,
            page.tau_min: low,
            page.tau_max: high,
            page.insist: example.forced,
        }

    def random_seed(self) -> int:
        """A fresh seed; every possible one is allowed by the limits."""
        return secrets.randbelow(int(LIMITS["seed"].high) - int(LIMITS["num_prompts"].high))


def split(values: Sequence[Any]) -> tuple[Form, Run | None]:
    """The widgets' values as a form, and the session's run."""
    *form, run = values
    return Form(*form), run


def plan_view(analysis: Analysis, run: Run | None) -> str:
    """The plan as it will be run, or as it was run if that is what is on the page."""
    arrangement, plan, previews = analysis.arrangement, analysis.arrangement.plan, {}
    ran = run is not None and run.plan and run.request == analysis.request
    # A strip shows the branch point as asked, also where the guard had shortened the run itself.
    if ran and (run.strip is None or run.plan == plan):
        plan, previews = run.plan, run.previews
    prompts = analysis.request.prompts
    return plan_drawing(plan, arrangement.groups, prompts, analysis.order, previews)


def expectation(page: Layout, analysis: Analysis) -> Updates:
    """Who will share, whether that is safe, and what it will cost."""
    request, shares = analysis.request, analysis.shares
    arrangement, unseen = analysis.arrangement, analysis.unseen
    chips = views.group_chips(arrangement, request.prompts, unseen, shares, request.guarded)
    estimate = views.estimate(analysis.cost, arrangement.plan, request, shares)
    return {page.chips: chips, page.estimate: estimate}


def scrub_words(run: Run) -> str:
    """What can be scrubbed."""
    strip = run.strip
    if len(strip.points) > run.request.steps:
        return "All branch points are ready: move the slider above."
    return f"Ready at {len(strip.points)} branch points: move the slider above."


def banner(run: Run | None, request: Request | None, model: str) -> str:
    """Whether the pictures on the page still belong to the form."""
    if run is None:
        return ""
    if request is None or not run.fits(request, model):
        return views.banner(EARLIER)
    return "" if run.done else views.banner(UNFINISHED)


def no_costs(page: Layout) -> Updates:
    """The places of the costs before there are any."""
    return {
        page.seconds: no_bars(results.NO_BARS),
        page.flops: no_bars(results.NO_BARS),
        page.saving: views.no_saving(),
    }


def _with_truncation(analysis: Analysis) -> str:
    note = views.prompts_note(analysis.request.prompts, analysis.unseen)
    if not analysis.truncated:
        return note
    names = ", ".join(f"P{n + 1}" for n in analysis.truncated)
    return note + views.note(f"{names}: longer than the model reads; the end is ignored.", "warn")


def _model_words(model: LoadedModel | None) -> str:
    if model is None:
        return NOT_YET
    return model.note or f"Runs on {model.device_name}."


def known_words(settings: ModelSettings) -> dict[str, Sequence[str]]:
    """What a model was trained on, as titled lists; empty if it was trained on the open web."""
    words = settings.known_words
    if words is None:
        return {}
    from sage.world import vocabulary

    things: dict[str, list[str]] = {}
    for thing in vocabulary.THINGS:
        if set(vocabulary.words_of(thing.name)) <= words:
            things.setdefault(thing.category, []).append(thing.name)
    places = [place.phrases[0] for place in vocabulary.PLACES]
    return {**things, "place": places, "every word": sorted(words)}
