"""Look first, finish some: the listeners that stop at the branch point and go on from there.

A look is a run of its own kind (`Run.look`); what is ticked on its pictures is finished. Turns,
refusals and buttons are those of `rendering`.
"""

import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import gradio as gr
from PIL import Image

from sage.core.words import plural
from sage.jobs.job import calls_of
from sage.jobs.look import Look, LookStep, look_step
from sage.jobs.prompt_sets import PromptSet
from sage.ui import kit
from sage.ui.export.downloads import remove_run, save_look
from sage.ui.html import views
from sage.ui.html.look import finish_words, first_ticks, look_grid, look_words
from sage.ui.html.pictures import EMPTY, Grown, Row, Shot, picture_grid, picture_source
from sage.ui.html.words import flagged_words
from sage.ui.kit import Running, Updates
from sage.ui.studio import results
from sage.ui.studio.analysis import Analysis, analyze
from sage.ui.studio.form import Form, Run, ticked
from sage.ui.studio.handlers import finish_button, no_costs, plan_view, split
from sage.ui.studio.rendering import PREVIEW_SECONDS, Rendering, filled
from sage.ui.work import finish_request, look_request

AGAIN = "Look first, then tick which pictures to finish."


class Looking:
    """The page's listeners of a look.

    Args:
        rendering: Those of a rendering, with the turns and buttons that both share.
    """

    def __init__(self, rendering: Rendering) -> None:
        self.rendering = rendering
        self.layout, self.shelf = rendering.layout, rendering.shelf

    def look(self, turn: str, chosen: str, *values: Any) -> Running:
        """Renders the shared side up to the branch point, until it is done or stopped.

        What a link or a record had ticked is ticked again.
        """
        form, before = split(values, self.shelf)
        fresh = before is None or before.look is None  # else the ticks are those of that look
        steps = self.rendering.explained(self._look(form, before, chosen if fresh else ""))
        last_words = partial(self.rendering.last_words, before)
        yield from self.rendering.turns.work(turn, steps, last_words)

    def finish(self, turn: str, chosen: str, *values: Any) -> Running:
        """Finishes what is ticked; stopped, the look stands as it was."""
        form, run = split(values, self.shelf)
        steps = self.rendering.explained(self._finish(form, run, chosen))
        yield from self.rendering.turns.work(turn, steps, partial(self._kept, run, chosen))

    # -- the look ----------------------------------------------------------------------------

    def _look(self, form: Form, before: Run | None, chosen: str) -> Running:
        request = form.check()
        run = Run(request, form.model, calls_of(request), table=form.table)
        analysis = analyze(request, form.model, self.shelf, run)
        look_step(analysis.job)  # says why not, before anything is taken away
        yield self.rendering.begin(analysis)
        shown, reset = 0.0, self._reset(analysis)
        flops = analysis.job.cost.flops.total
        for item in self.shelf.lease.run(look_request, form.model, request, flops=flops):
            if isinstance(item, Look):
                yield self._seen(run, item, analysis, ticked(chosen, replace(run, look=item)))
            elif time.monotonic() - shown > PREVIEW_SECONDS:
                shown = time.monotonic()
                yield reset | self._preview(replace(run, step=item.step), item, analysis)
                if reset:  # taken away only once the step is on the page
                    remove_run(before.files if before else None)
                reset = {}

    def _reset(self, analysis: Analysis) -> Updates:
        page = self.layout
        return {
            page.plan: plan_view(analysis, None),
            page.outcome: "",
            page.banner: "",
            page.scrub_note: views.note(""),
            page.chosen: "",
            **{part: gr.DownloadButton(interactive=False) for part in page.downloads},
            **no_costs(page),
        }

    def _preview(self, run: Run, step: LookStep, analysis: Analysis) -> Updates:
        page = self.layout
        line = f"Step {step.step} of {step.steps}, stopping after step {look_step(analysis.job)}"
        return {
            page.run: run,
            page.progress: views.progress(step.step, step.steps, line, "live"),
            page.pictures: _live(analysis, step.previews, step.step, run.table),
        }

    def _seen(
        self, run: Run, seen: Look, analysis: Analysis, wanted: tuple[int, ...] = ()
    ) -> Updates:
        """A look as it stands, with nothing or something finished."""
        page, on = self.layout, wanted or first_ticks(seen)
        remove_run(run.files)
        files = save_look(seen, self.shelf.spec(run.model))
        run = replace(
            run,
            step=seen.step,
            done=True,
            files=files,
            look=seen,
            plan=seen.job.plan,
            previews=results.fork_previews(seen.forks),
            ended=kit.nudged(),
        )
        line = f"Stopped to look after step {seen.step} of {seen.job.calls}."
        if seen.finishes:
            line = f"Done: {plural(len(seen.finished), 'picture')} finished."
        black = (
            n for f in seen.finishes for n, bad in zip(f.prompts, f.flagged, strict=True) if bad
        )
        line += flagged_words((*black, *(n for n, bad in enumerate(seen.flagged) if bad)))
        return {
            page.run: run,
            page.progress: views.progress(seen.step, seen.job.calls, line, "done"),
            page.plan: plan_view(analysis, run),
            page.pictures: look_grid(seen, on, table=run.table),
            page.outcome: look_words(seen),
            page.chosen: " ".join(map(str, on)),
            page.scrub_note: views.note(finish_words(seen, on) if seen.open else ""),
            **filled(page, files),
            **self.rendering.ready(run, run.ended),
            page.finish: finish_button(run, on),
        }

    # -- finishing ---------------------------------------------------------------------------

    def _finish(self, form: Form, run: Run | None, chosen: str) -> Running:
        request = form.check()
        if run is None or run.look is None or not run.fits(request, form.model):
            raise ValueError(AGAIN)
        page, seen, wanted = self.layout, run.look, ticked(chosen, run)
        analysis = analyze(request, form.model, self.shelf, run)
        evaluation = seen.job.flops.denoiser * (2 if request.guidance_scale > 1 else 1)
        flops, shown = seen.remaining(len(wanted)) * evaluation, 0.0
        for item in self.shelf.lease.run(finish_request, form.model, seen, wanted, flops=flops):
            if isinstance(item, Look):
                yield self._seen(run, item, analysis)
            elif time.monotonic() - shown > PREVIEW_SECONDS:
                shown = time.monotonic()
                line = f"Step {item.step} of {item.steps}, {plural(len(wanted), 'picture')}"
                yield {
                    page.progress: views.progress(item.step, item.steps, line, "live"),
                    page.pictures: look_grid(seen, wanted, item.previews, run.table),
                }

    def _kept(self, run: Run | None, chosen: str, shown: Updates) -> Updates:
        """After a stop: the look as it was, with the same ticks."""
        page = self.layout
        words = self.rendering.last_words(run, shown)
        if run is None or run.look is None:
            return words
        on = ticked(chosen, run)
        return {
            **words,
            page.pictures: look_grid(run.look, on, table=run.table),
            page.finish: finish_button(run, on),
        }


def _live(
    analysis: Analysis, previews: Mapping[int, Image.Image], step: int, table: PromptSet | None
) -> str:
    """Previews on the way to the branch point, beside the boxes of what may be finished."""
    job, prompts = analysis.job, analysis.request.prompts
    shots = [
        Shot(picture_source(previews[n])) if n in previews else EMPTY for n in range(len(prompts))
    ]
    rows = [Row("expected", tuple(shots)), Row("shared", (EMPTY,) * len(prompts))]
    return picture_grid(prompts, job.groups, rows, "live", grown=Grown(step), table=table)
