"""What takes a while: rendering both sides with previews, and all branch points of a run.

Translates the library's steps into updates of the page; one rendering at a time, which ends within
a step when its turn is stopped or its generator closed. What acts at once is in `handlers`.
"""

import time
from dataclasses import replace
from functools import partial
from typing import Any

import gradio as gr

from sage.core.words import plural
from sage.jobs.compare import CompareStep, Comparison
from sage.jobs.filmstrip import Frame, branch_points, filmstrip_evaluations
from sage.jobs.job import calls_of
from sage.sd.store import StateStore
from sage.ui import kit
from sage.ui.export.downloads import RunFiles, remove_run, save_run
from sage.ui.html import views
from sage.ui.html.outcome import outcome_of, outcome_words
from sage.ui.html.pictures import live_grid, picture_grid
from sage.ui.html.words import flagged_words
from sage.ui.kit import Running, Updates
from sage.ui.server.errors import explain
from sage.ui.server.lanes import require_admission
from sage.ui.server.limits import BOUNDS
from sage.ui.shelf import Shelf
from sage.ui.studio import results
from sage.ui.studio.analysis import Analysis, analyze
from sage.ui.studio.form import Form, Run
from sage.ui.studio.handlers import (
    UNFINISHED,
    expectation,
    finish_button,
    grid_of,
    no_costs,
    outcome_view,
    pace,
    plan_view,
    scrub_button,
    scrub_words,
    split,
)
from sage.ui.studio.layout import DOWNLOADS, Layout
from sage.ui.studio.pace import work_of
from sage.ui.turns import Turns
from sage.ui.work import compare_request, filmstrip_request

PREVIEW_SECONDS = 0.06  # at least this long between two previews; a browser shows no more
SCRUB_POINTS = 11  # branch points of a filmstrip; the slider shows the nearest one
RENDERING = "Rendering …"


class Rendering:
    """The page's listeners that render.

    Args:
        layout: The components they update.
        shelf: The models they use.
        turns: Those of the page, where its other listeners look at them too.
    """

    def __init__(self, layout: Layout, shelf: Shelf, turns: Turns | None = None) -> None:
        self.layout = layout
        self.shelf = shelf
        self.states = StateStore(BOUNDS.store_bytes)
        self.turns = turns or Turns()

    def announce(self, before: str = "", request: gr.Request | None = None) -> Updates:
        """Shown at once after the click, while the run waits for its turn.

        Args:
            before: The page's turn so far; while it is live, another click changes nothing.
            request: Tells the page.
        """
        page = self.layout
        if self.turns.live(before):
            return {page.turn: gr.skip()}
        return {
            page.turn: self.turns.fresh(kit.page_of(request)),
            page.progress: views.progress(0, 1, self.shelf.waiting, "live"),
            page.render: gr.Button(RENDERING, interactive=False),
            page.scrub: gr.Button(interactive=False),
            page.look: gr.Button(interactive=False),
            page.other: gr.Button(interactive=False),
            page.finish: gr.Button(interactive=False),
            page.stop: gr.Button("Stop", interactive=True),
        }

    def render(self, turn: str, *values: Any) -> Running:
        """Renders both sides with previews, until it is done or its turn is stopped."""
        form, before = split(values, self.shelf)
        steps = self.explained(self._render(form, before))
        yield from self.turns.work(turn, steps, partial(self.last_words, before))

    def scrub(self, turn: str, *values: Any) -> Running:
        """Renders the run on the page at many branch points, for scrubbing without any call."""
        form, run = split(values, self.shelf)
        steps = self.explained(self._scrub(form, run))
        yield from self.turns.work(turn, steps, partial(self.last_words, run))

    def stop(self, turn: str, run: Run | None) -> Updates:
        """Asks the rendering to end; it says so itself, unless it has not begun."""
        state = self.turns.stop(turn)
        if state == "waiting":
            return self.last_words(run, {})
        button = gr.skip() if state == "running" else gr.Button("Stop", interactive=False)
        return {self.layout.stop: button}

    def last_words(self, before: Run | None, shown: Updates) -> Updates:
        """How far a rendering came that was stopped, from the run before and all it showed."""
        page, run = self.layout, shown.get(self.layout.run, before)
        if run is None or run.done:
            line = views.progress(0, 1, "Stopped; the previous pictures are shown.")
            return {page.progress: line, **self.ready(run)}
        line = f"Stopped after step {run.step} of {run.calls}."
        run = replace(run, ended=kit.nudged())
        return {
            page.run: run,
            page.progress: views.progress(run.step, run.calls, line, "warn"),
            page.banner: views.banner(UNFINISHED),
            **self.ready(run, run.ended),
        }

    def explained(self, updates: Running) -> Running:
        """The updates; whatever goes wrong ends them with a sentence."""
        try:
            require_admission()
            yield from updates
        except Exception as error:
            yield self._failed(explain(error, "Rendering"))

    def _failed(self, sentence: str) -> Updates:
        return {self.layout.progress: views.progress(0, 1, sentence, "error"), **self.ready(None)}

    def ready(self, run: Run | None, nudge: str = "") -> Updates:
        """The buttons as they stand when nothing runs; by now the form may ask for something else.

        Args:
            run: What is on the page.
            nudge: `Run.ended`, where it ends now.
        """
        page = self.layout
        return {
            page.turn: "",
            page.nudge: nudge or kit.nudged(),
            page.render: gr.Button("Render", interactive=True),
            page.scrub: scrub_button(run, run is not None and run.can_scrub),
            page.look: gr.Button(interactive=True),
            page.other: gr.Button(interactive=True),
            page.finish: finish_button(run),
            page.stop: gr.Button("Stop", interactive=False),
        }

    # -- both sides --------------------------------------------------------------------------

    def _render(self, form: Form, before: Run | None) -> Running:
        request = form.check()
        calls = calls_of(request)
        run = Run(request, form.model, calls, table=form.table)
        analysis = analyze(request, form.model, self.shelf, run)  # under the guard, stored or not
        yield self.begin(analysis)
        shown, reset = 0.0, self._reset(form, analysis)
        for item in self.shelf.lease.run(
            compare_request,
            form.model,
            request,
            flops=work_of(analysis.job, form),
            fewer_steps=form.fewer_steps,
            keep=self.states,
            measure=form.measure,
            repeats=form.repeats,
        ):
            if isinstance(item, Comparison):
                yield self._finished(run, item, analysis, form)
            elif time.monotonic() - shown > PREVIEW_SECONDS:
                shown = time.monotonic()
                yield reset | self._preview(replace(run, step=item.step), item, analysis, form)
                if reset:  # taken away only once the step is on the page
                    remove_run(before.files if before else None)
                reset = {}

    def begin(self, analysis: Analysis) -> Updates:
        """What is said before the first step; the pictures from before stand until there is one."""
        line = views.progress(0, analysis.job.calls, "Encoding the prompts", "live")
        return {**expectation(self.layout, analysis), self.layout.progress: line}

    def _reset(self, form: Form, analysis: Analysis) -> Updates:
        """What the first step clears away."""
        page = self.layout
        return {
            page.outcome: outcome_view(analysis, None),
            page.banner: "",
            page.scrub_note: views.note(""),
            **{part: gr.DownloadButton(interactive=False) for part in page.downloads},
            **no_costs(page),
        }

    def _preview(self, run: Run, step: CompareStep, analysis: Analysis, form: Form) -> Updates:
        page = self.layout
        words = "shared" if step.stage == "trunk" else "each prompt on its own"
        line = f"Step {step.step} of {step.steps}, {words}"
        if step.repeat:
            line = f"Repeat {step.repeat + 1} of {form.repeats}, new seeds: {line}"
        sides = {side: getattr(step, side) for side in form.sides}
        groups = analysis.job.groups
        return {
            page.run: run,
            page.progress: views.progress(step.step, step.steps, line, "live"),
            page.plan: plan_view(analysis, None),  # the form may ask for another one by now
            page.pictures: live_grid(run.request.prompts, groups, sides, step.step, run.table),
        }

    def _finished(self, run: Run, done: Comparison, analysis: Analysis, form: Form) -> Updates:
        page, request = self.layout, done.request
        for side in ("shared", "independent"):  # seconds of steps that were reused say nothing
            if not done.report["reused"][side]:
                amounts = (done.report[kind][side]["total"] for kind in ("flops", "seconds"))
                self.shelf.note_speed(run.model, *amounts)
        files = save_run(done, self.shelf.spec(run.model))
        run = replace(
            run,
            step=run.calls,
            done=True,
            files=files,
            plan=done.shared.plan,
            previews=results.fork_previews(done.forks),
            report=done.report,
            rows=tuple(results.picture_rows(done)),
            ended=kit.nudged(),
        )
        plans = (done.shared.plan, done.independent.plan)
        costs = (
            results.seconds_bars(done.report, done.groups, *plans),
            results.flops_bars(done.shared.cost, done.groups, *plans),
            views.saving_words(done.report, done.shared.plan, done.shared.cost),
        )
        run = replace(run, costs=costs)
        return {
            page.run: run,
            page.progress: views.progress(1, 1, done_words(done), "done"),
            page.pictures: picture_grid(
                request.prompts, done.groups, run.rows, "done", table=run.table
            ),
            page.plan: plan_view(replace(analysis, request=request), run),
            page.outcome: outcome_words(outcome_of(done.report)),
            **dict(zip((page.seconds, page.flops, page.saving), costs, strict=True)),
            **filled(page, files),
            **self.ready(run, run.ended),
            **pace(page, self.shelf, analysis.job, form),
        }

    # -- all branch points -------------------------------------------------------------------

    def _scrub(self, form: Form, run: Run | None) -> Running:
        request = form.check()
        if run is None or not run.can_scrub or not run.fits(request, form.model):
            raise ValueError("Render first; then all its branch points can be rendered.")
        frames: list[Frame] = []
        job = analyze(request, form.model, self.shelf).job
        points = branch_points(job.calls, SCRUB_POINTS, job.branch_call)
        cost = job.cost
        evaluation = cost.independent_flops.branches / cost.independent_evaluations
        work = filmstrip_evaluations(job, points) * evaluation
        for frame in self.shelf.lease.run(
            filmstrip_request,
            form.model,
            request,
            points,
            flops=work * (2 if form.fewer_steps else 1),
            keep=self.states,
            fewer_steps=form.fewer_steps,
        ):
            frames.append(frame)
            ready = sum(frame.side == "shared" for frame in frames)
            yield self._scrubbing(frame, ready, len(points))
        run = replace(run, strip=results.frames_strip(frames), ended=kit.nudged())
        yield self._scrubbed(run, frames, analyze(request, form.model, self.shelf, run))

    def _scrubbing(self, frame: Frame, ready: int, number: int) -> Updates:
        line = f"{ready} of {plural(number, 'branch point')} ready"
        return {self.layout.progress: views.progress(round(100 * frame.done), 100, line, "live")}

    def _scrubbed(self, run: Run, frames: list[Frame], analysis: Analysis) -> Updates:
        page = self.layout
        spent = sum(frame.output.cost.evaluations for frame in frames)
        reused = sum(frame.output.reused for frame in frames)
        line = f"Done: {reused} of {spent} evaluations were taken from earlier runs."
        return {
            **expectation(page, analysis),
            page.run: run,
            page.progress: views.progress(1, 1, line, "done"),
            page.plan: plan_view(analysis, run),
            page.outcome: outcome_view(analysis, run),
            page.pictures: grid_of(run, analysis),
            page.scrub_note: views.note(scrub_words(run)),
            **self.ready(run, run.ended),
        }


def filled(page: Layout, files: RunFiles) -> Updates:
    """The download buttons with the files of a run."""
    return {
        getattr(page, name): gr.DownloadButton(value=str(getattr(files, name)), interactive=True)
        for name in DOWNLOADS
    }


def done_words(done: Comparison) -> str:
    """What was done, in a line."""
    request, reused = done.request, sum(done.report["reused"].values())
    again = f" {plural(reused, 'evaluation')} reused." if reused else ""
    sides = done.report["flagged"].values()
    black = flagged_words(n for side in sides for n, flag in enumerate(side) if flag)
    trained = " The shared pictures are from the model trained for sharing."
    return (
        f"Done: {plural(request.steps, 'step')}, seeds {request.seeds[0]} to "
        f"{request.seeds[-1]}.{trained if request.trained else ''}{again}{black}"
    )
