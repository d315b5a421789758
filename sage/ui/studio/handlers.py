"""What acts at once: translates between the page's widgets and the analysis of a form.

A handler takes widget values, checks them through `Form`, calls the library and returns updates
for components. It renders nothing, computes nothing itself and keeps nothing between calls: what a
session needs to remember lies in its `Run`.
"""

import hashlib
import secrets
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import gradio as gr

from sage.core.plan import branch_step_from_ratio
from sage.core.settings import NUM_PROMPTS, SEED, Sampling
from sage.jobs.job import Job, calls_of, planning_of
from sage.jobs.models import LoadedModel, ModelSpec
from sage.jobs.prompt_sets import set_words
from sage.jobs.request import Request
from sage.sd.model_settings import ModelSettings
from sage.ui import kit
from sage.ui.evidence import picture_set_line, picture_set_words
from sage.ui.examples import ExampleSet
from sage.ui.html import views
from sage.ui.html.cost_bars import no_bars
from sage.ui.html.look import finish_words, first_ticks, look_grid, look_words
from sage.ui.html.matrix import empty_matrix, similarity_matrix
from sage.ui.html.outcome import expected_words, outcome_of, outcome_words
from sage.ui.html.pictures import empty_grid, picture_grid, strip_grid
from sage.ui.html.prose import NOTHING_YET
from sage.ui.html.tree import empty_tree, plan_tree
from sage.ui.kit import Updates
from sage.ui.refused import control_of
from sage.ui.server.errors import tidy
from sage.ui.shelf import Shelf
from sage.ui.studio import results
from sage.ui.studio.analysis import Analysis, analyze, strip_of
from sage.ui.studio.first import Stored, find_stored
from sage.ui.studio.form import Form, Run, ticked
from sage.ui.studio.layout import Layout
from sage.ui.studio.pace import expected, other_label
from sage.ui.turns import Turns

TEASER = "Type two or more prompts, one per line, to see how similar they are."
EARLIER = "These pictures are from earlier settings. Render again to update them."
UNFINISHED = "Stopped: these pictures are unfinished."
AGAIN = "The earlier pictures of these prompts."
AFTER = "Render these pictures first; then all branch points can be rendered."
SET_SIZE = 4  # prompts that share, from which one speaks of a set of pictures
ONLY_GROUPS = "A tree and an adaptive run have no single branch point to move."
NOT_YET = "The examples are precomputed; the model loads when it is first needed."


class Handlers:
    """The page's listeners that render nothing.

    Args:
        layout: The components they update.
        shelf: The models they use.
        turns: Of what renders on the page.
    """

    def __init__(self, layout: Layout, shelf: Shelf, turns: Turns | None = None) -> None:
        self.layout = layout
        self.shelf = shelf
        self.turns = turns or Turns()

    def follow(self, request: gr.Request | None, *values: Any) -> Updates:
        """What follows from the form, without what the browser holds already.

        Args:
            request: Tells the page that asks; None outside of a server.
            values: The form, the run, the ticks of a look, what the browser was told last (""
                before anything but the page as it was served), the page's turn and its nudge.
        """
        *asked, chosen, told, turn, nudge = values
        visit = kit.page_of(request)
        begun, ask = self.turns.begun(visit), self.turns.ask(visit)
        page, shown = self.layout, self.analyze(*asked)
        if self.turns.outdated(visit, ask):
            return {page.chips: gr.skip()}
        shown |= self._ticks(shown, chosen, *asked)
        if self.turns.busy(turn, visit, begun):
            shown = self._beside(shown)
        else:
            shown = self._after(shown, asked[-1], nudge)
        if not told:
            held: Updates = {p: p.value for p in page.consequences if isinstance(p, gr.HTML)}
            shown = {p: v for p, v in shown.items() if held.get(p, p) != v}
        if page.similarity in shown or not told:  # the largest part, and the same at most moves
            drawn = shown.get(page.similarity, page.similarity.value)
            digest = hashlib.sha256(str(drawn).encode()).hexdigest()[:16]
            if digest == told:
                del shown[page.similarity], shown[page.pairs]
            shown[page.told] = digest
        return shown or {page.chips: gr.skip()}

    def _beside(self, shown: Updates) -> Updates:
        """What may change while something is rendered: until its end all else belongs to it."""
        page, beside = self.layout, [*self.layout.beside]
        beside += [] if page.plan in shown else [page.scrub_note]  # why it is refused
        return {part: shown[part] for part in beside if part in shown}

    def _after(self, shown: Updates, run: Run | None, nudge: str) -> Updates:
        """What follows, where a rendering may just have ended.

        If other prompts were typed meanwhile, its pictures stand, marked as earlier ones, until
        the next change.
        """
        page = self.layout
        if run is None or not run.ended or run.ended != nudge:
            return shown
        seen = {page.run: replace(run, ended="")}
        if shown.get(page.run, run) is run:  # nothing else was typed; what comes now is later
            return shown | seen
        stands = [*page.beside, page.render, page.look, page.finish, page.scrub, page.scrub_note]
        stands += [page.pace, page.other]
        earlier = seen | {page.banner: views.banner(EARLIER)}
        return {part: shown[part] for part in stands if part in shown} | earlier

    def _ticks(self, shown: Updates, chosen: str, *asked: Any) -> Updates:
        """The button that finishes, and what that takes, as the ticks of a look stand."""
        page, (form, run) = self.layout, split(asked, self.shelf)
        run = shown.get(page.run, run)
        if run is None or run.look is None or run.hidden or page.plan not in shown:
            return {}
        if not run.look.open or not run.fits(form.check(), form.model):
            return {}
        on = ticked(chosen, run)
        words = views.note(finish_words(run.look, on))
        return {page.finish: finish_button(run, on), page.scrub_note: words}

    def first_paint(self) -> Updates:
        """The default model's own settings and words, and what follows from the form as served.

        The latter where it is known without a model: of an example that is precomputed.
        """
        values = [part.value for part in (*self.layout.form, self.layout.run)]
        form, _ = split(values, self.shelf)
        own = self._own(self.shelf.spec(form.model))
        if find_stored(form.check(), form.model) is None:
            return own
        return {**own, **self.analyze(*values)}

    # -- everything that follows from the inputs ---------------------------------------------

    def analyze(self, *values: Any) -> Updates:
        """Similarity, groups, plan, estimate and whether the pictures still belong to the form."""
        form, run = split(values, self.shelf)
        if self._is_on_its_way(form):
            return {self.layout.chips: gr.skip()}
        try:
            analysis = analyze(form.check(), form.model, self.shelf, run)
        except ValueError as error:
            return self._nothing(error, form, run)
        page, job = self.layout, analysis.job
        prompts = analysis.request.prompts
        matrix = similarity_matrix(job.grouping, prompts, job.groups, analysis.order)
        return {
            page.prompts_note: _with_truncation(analysis, set_words(form.prompts)),
            page.pairs: views.pairs_table(job.grouping),
            page.similarity: matrix,
            **self._estimate(analysis, form, run),
        }

    def keep_ratio(self, branch_call: float, steps: float, scheduler: str) -> Any:
        """The share ratio that a visitor chose with the branch slider, which overrides a budget."""
        calls = self._calls(steps, scheduler)
        return min(branch_call / calls, 1.0) if calls else gr.skip(), Sampling.budget

    def resize(self, steps: float, scheduler: str, share_ratio: float) -> Updates:
        """Keeps the share ratio when the number of calls changes."""
        calls = self._calls(steps, scheduler)
        if not calls:
            return {self.layout.branch_call: gr.skip()}
        point = branch_step_from_ratio(share_ratio, calls)
        return {self.layout.branch_call: kit.Slider(maximum=calls, value=point)}

    def _is_on_its_way(self, form: Form) -> bool:
        """Whether the steps have just changed, and the branch slider has yet to follow.

        What listens to the steps alone asks in between; the answer to what follows is the one that
        counts.
        """
        calls = self._calls(form.settings["steps"], form.settings["scheduler"])
        number = isinstance(form.branch_call, int | float)
        return bool(calls) and number and form.branch_call > calls

    def _calls(self, steps: float, scheduler: str) -> int:
        """Calls of the denoiser; 0 where a number or a name is not allowed."""
        try:
            return calls_of(Sampling.of(steps=steps, scheduler=scheduler))
        except ValueError:
            return 0

    def pick_sharing(self, sharing: str) -> Updates:
        """A tree has a share to spend in place of a branch point."""
        return {self.layout.controls["spend"]: gr.Slider(visible=sharing == "tree")}

    def _estimate(self, analysis: Analysis, form: Form, run: Run | None) -> Updates:
        page, request, job = self.layout, analysis.request, analysis.job
        shown = self._stored(analysis, form, run) if analysis.stored else {}
        run = shown.get(page.run, run)
        shown = {**self._pictures(analysis, form, run), **shown}
        run = shown.get(page.run, run)
        return {
            page.model_note: views.note(_model_words(self.shelf.loaded(form.model))),
            **expectation(page, analysis),
            page.plan: plan_view(analysis, run),
            page.outcome: outcome_view(analysis, run),
            page.address: views.address(form.query(request)),
            page.banner: banner(run, request, analysis.spec.key),
            page.render: gr.Button(interactive=True),
            **pace(page, self.shelf, job, form),
            page.look: gr.Button(interactive=True),
            page.finish: finish_button(run if run and run.fits(request, form.model) else None),
            **self._scrubbing(run, request, analysis.spec.key),
            **shown,
            **self._counted(analysis, run),
        }

    def _pictures(self, analysis: Analysis, form: Form, run: Run | None) -> Updates:
        """Boxes for prompts that have no pictures; pictures that belong to the prompts again."""
        page, job, prompts = self.layout, analysis.job, analysis.request.prompts
        empty = {page.pictures: empty_grid(prompts, job.groups, form.sides, form.table)}
        if run is None:
            return empty
        if run.request.prompts != prompts:
            if run.hidden:
                return empty
            idle = views.progress(0, 1, NOTHING_YET)
            hidden = {page.run: replace(run, hidden=True), page.progress: idle}
            return {**empty, **hidden, **no_costs(page)}
        if not run.hidden and run.done and run.table != form.table:
            told = replace(run, table=form.table)  # the same prompts, written in another way
            return {page.pictures: grid_of(told, analysis), page.run: told}
        if not (run.hidden and (run.strip or run.rows or run.look)):
            return empty if run.hidden else {page.pictures: gr.skip()}
        again = views.progress(1, 1, AGAIN, "done")
        shown = replace(run, hidden=False, table=form.table)
        places = (page.seconds, page.flops, page.saving)
        costs: Updates = dict(zip(places, run.costs, strict=False))
        return {
            page.pictures: grid_of(shown, analysis),
            page.run: shown,
            page.progress: again,
        } | costs

    def _stored(self, analysis: Analysis, form: Form, run: Run | None) -> Updates:
        """The precomputed comparison, unless something that fits is on the page already."""
        stored, job = analysis.stored, analysis.job
        if stored is None or (run is not None and run.fits(analysis.request, job.spec.key)):
            return {}
        page, strip, calls = self.layout, stored.strip, job.calls
        outcomes = results.strip_outcomes(job, strip, stored.report)
        shown = (job.request.prompts, job.groups, strip, job.branch_call, outcomes)
        bars = results.seconds_bars(stored.report, job.groups, stored.plan, stored.independent)
        run = replace(_stored_run(stored, analysis), table=form.table, costs=(bars,))
        return {
            page.run: run,
            page.progress: views.progress(calls, calls, results.stored_words(stored), "done"),
            page.pictures: strip_grid(*shown, form.table),
            page.seconds: bars,
            **{part: gr.DownloadButton(interactive=False) for part in page.downloads},
        }

    def _counted(self, analysis: Analysis, run: Run | None) -> Updates:
        """What is counted follows the branch point; seconds stay where they were measured."""
        if strip_of(analysis, run) is None or run is None or run.report is None:
            return {}
        page, job = self.layout, analysis.job
        bars = results.flops_bars(job.cost, job.groups, job.plan, job.independent)
        words = views.saving_words(run.report, run.plan or job.plan, job.cost)
        return {page.flops: bars, page.saving: words}

    def _scrubbing(self, run: Run | None, request: Request, model: str) -> Updates:
        """Whether the branch points can be rendered, or are there already."""
        can, words = False, AFTER
        if run is not None and run.done and run.fits(request, model):
            can, words = run.can_scrub, "" if run.can_scrub else ONLY_GROUPS
            if run.look is not None:
                words = finish_words(run.look, first_ticks(run.look)) if run.look.open else ""
            elif run.strip is not None:
                words = "" if run.stored else scrub_words(run)
        return {
            self.layout.scrub: scrub_button(run, can),
            self.layout.scrub_note: views.note(words),
        }

    def _nothing(self, error: ValueError, form: Form, run: Run | None) -> Updates:
        """What is shown while the form asks for nothing that can be done.

        Pictures stay, with the tree and the matrix they belong to, and are marked as earlier ones.
        """
        page, sentence, control = self.layout, str(error), control_of(error)
        empty = not str(form.prompts or "").strip()
        said = views.note(TEASER if empty else sentence, "quiet" if empty else "error")
        told = self._waits("" if empty else sentence, control)
        if not control:
            told[page.prompts_note] = said
        if control or not (run is None or run.hidden):
            return {**told, page.banner: banner(run, None, form.model)}
        return {  # in place of boxes for prompts that are no longer there
            **told,
            page.pictures: "",
            page.chips: views.note("Groups appear here."),
            page.pairs: views.note("No pairs yet."),
            page.similarity: empty_matrix(TEASER),
            page.plan: empty_tree("The tree appears here."),
            page.estimate: views.no_estimate(),
            page.outcome: "",
            page.advice: "",
            page.as_set: "",
            page.banner: "",
        }

    def _waits(self, sentence: str, control: str = "") -> Updates:
        """Nothing can be rendered; a sentence says why, beside a control if it is about one."""
        page = self.layout
        told = views.note(f"Cannot render yet: {sentence}" if sentence else "", "warn", control)
        return {
            page.render: gr.Button(interactive=False),
            page.look: gr.Button(interactive=False),
            page.finish: gr.Button(visible=False),
            page.scrub_note: told,
            page.scrub: gr.Button(interactive=False),
        }

    # -- choices -----------------------------------------------------------------------------

    def pick_model(self, key: str, scheduler: str) -> Updates:
        """Loads a model and takes over its own bounds, steps, guidance and share of steps."""
        try:
            model = self.shelf.get(key)
        except ValueError as error:
            return {self.layout.model_note: views.note(str(error), "error")}
        spec = model.spec
        return {
            self.layout.model_note: views.note(_model_words(model)),
            self.layout.share_ratio: spec.share_ratio,
            self.layout.nudge: kit.nudged(),
            **self._own(spec),
            **self.resize(spec.steps, scheduler, spec.share_ratio),
        }

    def pick_other(self, key: str, scheduler: str) -> Updates:
        """The same network in few steps, or back."""
        other = self.shelf.fast(key)
        if other is None:
            return {self.layout.model: gr.skip()}
        return {self.layout.model: other.key, **self.pick_model(other.key, scheduler)}

    def _own(self, spec: ModelSpec) -> Updates:
        page = self.layout
        return {
            page.model: spec.key,
            **kit.own_values(page.controls, spec),
            page.budget_box: gr.Column(visible=planning_of(spec) is not None),
            page.known_box: gr.Accordion(visible=spec.settings.known_words is not None),
            page.known: views.known_things(known_words(spec.settings)),
        }

    def fill(self, example: ExampleSet, key: str) -> Updates:
        """An example set: its prompts, the bounds under which it is shown, and the guard."""
        controls = self.layout.controls
        low, high = example.bounds(self.shelf.spec(key))
        return {
            self.layout.prompts: example.text,
            controls["tau_min"]: low,
            controls["tau_max"]: high,
            controls["guarded"]: not example.forced,
            self.layout.nudge: kit.nudged(),
        }

    def random_seed(self) -> int:
        """A fresh seed; every prompt's own counts up from it and stays within the limits."""
        return secrets.randbelow(int(SEED.high) - int(NUM_PROMPTS.high))


def split(values: Sequence[Any], shelf: Shelf) -> tuple[Form, Run | None]:
    """The widgets' values as a form, with emoji as words, and the session's run."""
    *form, run = values
    return spelled(Form.of(form), shelf), run


def spelled(form: Form, shelf: Shelf) -> Form:
    """The form with emoji as words."""
    return replace(form, prompts=shelf.spelled(form.model, form.prompts))


def _stored_run(stored: Stored, analysis: Analysis) -> Run:
    """A precomputed comparison as what the session remembers."""
    return Run(
        analysis.request,
        stored.model,
        analysis.job.calls,
        step=analysis.job.calls,
        done=True,
        strip=stored.strip,
        stored=stored.key,
        plan=stored.plan,
        report=stored.report,
    )


def grid_of(run: Run, analysis: Analysis) -> str:
    """The pictures of a finished run."""
    job, strip = analysis.job, run.strip
    if run.look is not None:
        return look_grid(run.look, first_ticks(run.look), table=run.table)
    if strip is None:
        return picture_grid(run.request.prompts, job.groups, run.rows, "done", table=run.table)
    outcomes = results.strip_outcomes(job, strip, run.report)
    shown = (run.request.prompts, job.groups, strip, job.branch_call, outcomes)
    return strip_grid(*shown, run.table)


def plan_view(analysis: Analysis, run: Run | None) -> str:
    """The plan as it will be run, or as it was run if that is what is on the page."""
    job, previews = analysis.job, {}
    plan = job.plan
    # A strip shows the branch point as asked, also where the guard had shortened the run itself.
    if (
        run is not None
        and run.plan is not None
        and run.request == analysis.request
        and (run.strip is None or run.plan == plan)
    ):
        plan, previews = run.plan, run.previews
    point, sharing = job.branch_call, job.request.sharing
    return plan_tree(
        plan,
        job.groups,
        analysis.order,
        previews,
        point=point,
        sharing=sharing,
        best=analysis.best,
        planned=job.planned is not None,
    )


def outcome_view(analysis: Analysis, run: Run | None) -> str:
    """What the pictures on the page came to; before there are any, what is expected."""
    job = analysis.job
    if run is not None and run.done and run.fits(analysis.request, analysis.spec.key):
        if run.look is not None:
            return look_words(run.look)
        strip = strip_of(analysis, run)
        if strip is not None:
            point = strip.nearest(job.branch_call)
            return results.strip_outcome(job, strip, run.report, point)
        if run.report is not None:
            return outcome_words(outcome_of(run.report))
    return expected_words(job.cost, settled=job.settled)


def expectation(page: Layout, analysis: Analysis) -> Updates:
    """Who will share, whether that is safe, and what it will cost."""
    job = analysis.job
    chips = views.group_chips(job, analysis.unseen, analysis.request.guarded)
    many = job.shares and max(map(len, job.groups)) >= SET_SIZE
    return {
        page.chips: chips + (picture_set_words() if job.shares else ""),
        page.estimate: views.estimate(job),
        page.advice: views.planner_words(job),
        page.as_set: picture_set_line() if many else "",
    }


def scrub_words(run: Run) -> str:
    """What can be scrubbed."""
    number = len(run.strip.points) if run.strip else 0
    if number > run.calls:
        return "All branch points are ready: drag the handle."
    return f"Ready at {number} branch points: drag the handle."


def banner(run: Run | None, request: Request | None, model: str) -> str:
    """Whether the pictures on the page still belong to the form."""
    boxes = request is not None and run is not None and run.request.prompts != request.prompts
    if run is None or run.hidden or boxes:
        return ""  # there are no pictures, or boxes for other prompts
    if request is None or not run.fits(request, model):
        return views.banner(EARLIER)
    return "" if run.done else views.banner(UNFINISHED)


def scrub_button(run: Run | None, interactive: bool) -> gr.Button:
    """What renders all branch points; none where they are on the page, or it is a look's."""
    shown = None if run is None or run.hidden else run
    none = shown is not None and (shown.strip is not None or shown.look is not None)
    return gr.Button(visible=not none, interactive=interactive)


def finish_button(run: Run | None, ticked: Collection[int] | None = None) -> gr.Button:
    """What finishes the prompts of a look; there is none without one, or when all are finished.

    Args:
        run: What is on the page.
        ticked: Prompts whose tick is on; those that are ticked at first without it.
    """
    seen = run.look if run is not None and not run.hidden else None
    if seen is None or not seen.open:
        return gr.Button(visible=False)
    number = len(set(first_ticks(seen) if ticked is None else ticked) & set(seen.open))
    label = f"Finish {number} of {len(seen.pictures)}" if number else "Finish"
    return gr.Button(label, visible=True, interactive=bool(number))


def pace(page: Layout, shelf: Shelf, job: Job, form: Form) -> Updates:
    """What Render and the same network in few steps are likely to take."""
    seconds, other = expected(shelf, job, form), other_label(shelf, job, form)
    button = gr.Button(other, visible=True, interactive=True) if other else gr.Button(visible=False)
    return {
        page.pace: views.note(f"Render takes {seconds} here.") if seconds else "",
        page.other: button,
    }


def no_costs(page: Layout) -> Updates:
    """The places of the costs before there are any."""
    return {
        page.seconds: no_bars(results.NO_BARS),
        page.flops: no_bars(results.NO_BARS),
        page.saving: views.no_saving(),
    }


def known_words(settings: ModelSettings) -> dict[str, Sequence[str]]:
    """What a model was trained on, as titled lists; empty if it was trained on the open web."""
    words, vocabulary = settings.known_words, settings.vocabulary
    topics: dict[str, Sequence[str]] = {} if vocabulary is None else dict(vocabulary.topics)
    said = {word for names in topics.values() for name in names for word in name.lower().split()}
    rest = sorted(words - said) if words else []
    return {**topics, "other words": rest} if rest else topics


def _with_truncation(analysis: Analysis, made: str) -> str:
    note = views.prompts_note(analysis.request.prompts, analysis.unseen, made)
    if not analysis.truncated:
        return note
    names = ", ".join(f"P{n + 1}" for n in analysis.truncated)
    return note + views.note(
        f"{names}: longer than the model can read; the end is ignored.", "warn"
    )


def _model_words(model: LoadedModel | None) -> str:
    if model is None:
        return NOT_YET
    return tidy(model.note) if model.note else f"Runs on {model.device_name}."
