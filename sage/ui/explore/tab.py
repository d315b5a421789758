"""The tab "Explore": a grid over two settings, a cell of it large, and one run step by step.

Listeners only: the components are in `parts`, what is computed lies in `sage.jobs.grid`,
how it looks in `sage.ui.html.grids`. A session remembers its grid in an `Explored`; rendering takes
its turn with the rest of the page.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from threading import Lock
from typing import Any

import gradio as gr
from gradio.components import Component
from gradio.context import get_render_context

from sage.core.words import plural
from sage.jobs.conditions import grid_conditions
from sage.jobs.grid import Cell, CellDone, CellStep, Grid, GridCost, Trace, plan_grid
from sage.jobs.job import prepare
from sage.jobs.prompt_sets import set_words
from sage.ui import kit
from sage.ui.explore.first import stored_grid
from sage.ui.explore.parts import (
    ALL,
    DOWNLOADS,
    EARLIER,
    EMPTY_CELL,
    EMPTY_GRID,
    EMPTY_STEPS,
    LATENTS,
    Explored,
    Form,
    Parts,
    Steps,
    axis_values,
    build_parts,
)
from sage.ui.export.grid_files import GridFiles, grid_record, save_grid
from sage.ui.export.links import (
    AXES,
    SET,
    grid_query,
    link_query,
    prompts_text,
    read_grid_link,
)
from sage.ui.html import grids, views
from sage.ui.html.words import shorten, unseen_words
from sage.ui.kit import QUICK, Running, Updates, start_button, stop_button
from sage.ui.refused import control_of
from sage.ui.server.errors import explain
from sage.ui.server.lanes import require_admission
from sage.ui.shelf import Shelf
from sage.ui.turns import State, Turns
from sage.ui.work import render_grid_of, trace_request

LINK_BYTES = 2**16


class Speed:
    """The last measured speed of each model, for rough seconds in advance; safe between threads."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[float, float]] = {}
        self._lock = Lock()

    def measured(self, model: str, done: CellDone) -> None:
        """Takes over the seconds of a finished cell, if it ran anything."""
        run = done.numbers
        ran = run.evaluations - run.reused
        if ran > 0 and run.seconds is not None and run.around is not None:
            with self._lock:
                self._last[model] = (run.seconds / ran, run.around)

    def seconds(self, model: str, cost: GridCost) -> float | None:
        """What a grid would take at that speed; None if nothing has been measured."""
        with self._lock:
            each, around = self._last.get(model, (None, 0.0))
        if each is None:
            return None
        return each * (cost.evaluations - cost.reused) + around * (cost.runs + cost.compared)


def build_explore(shelf: Shelf) -> "Exploring":
    """Builds the tab inside the current `gr.Tab`; it loads nothing before it is opened."""
    parts, place = build_parts(shelf), get_render_context()
    tab = Exploring(parts, shelf)
    _wire(parts, tab, place)
    return tab


class Exploring:
    """The tab's listeners.

    Args:
        parts: The components they update.
        shelf: The models they use.
    """

    def __init__(self, parts: Parts, shelf: Shelf) -> None:
        self.parts = parts
        self.shelf = shelf
        self.speed = Speed()
        self.turns, self.trace_turns = Turns(), Turns()

    def _split(self, values: tuple[Any, ...]) -> tuple[Form, Explored]:
        """The widgets' values as a form, with emoji as words, and what the session remembers."""
        *asked, explored = values
        form = Form.of(asked)
        return replace(form, prompts=self.shelf.spelled(form.model, form.prompts)), explored

    # -- at once -----------------------------------------------------------------------------

    def pick_axis(self, name: str) -> tuple[Any, str]:
        """The values an axis starts with, and a nudge: nothing else says that both are there."""
        return axis_values(name), kit.nudged()

    def pick_model(self, key: str) -> Updates:
        """A model's own steps and guidance, and its adapter if it has one."""
        return kit.own_values(self.parts.controls, self.shelf.spec(key))

    def follow(self, *values: Any) -> Updates:
        """What follows from the form: a grid that was made before, or what one would cost."""
        parts, (form, explored) = self.parts, self._split(values)
        stored = stored_grid(form.model) if explored.grid is None else None
        if stored is None or not stored.is_asked_by(form):
            return self.estimate(*values)
        explored = stored.explored
        return {
            parts.explored: explored,
            parts.show: self._show(form),
            parts.progress: views.progress(1, 1, stored.words, "done"),
            **self.estimate(*values[:-1], explored),
            parts.cells: self._table(explored, "0"),
            **_handed_out(parts, stored.files),
        }

    def follow_beside(self, request: gr.Request | None, *values: Any) -> Updates:
        """What follows from the form, without what belongs to something that is rendered now.

        Args:
            request: Tells the page that asks; None outside of a server.
            values: The form, what the session remembers, and the turns of grid and steps.
        """
        *asked, turn, trace_turn = values
        visit = kit.page_of(request)
        begun, begun_trace = self.turns.begun(visit), self.trace_turns.begun(visit)
        ask = self.turns.ask(visit)
        parts, shown = self.parts, self.follow(*asked)
        if self.turns.outdated(visit, ask):
            return {parts.cost: gr.skip()}
        held = [parts.trace] if self.trace_turns.busy(trace_turn, visit, begun_trace) else []
        if self.turns.busy(turn, visit, begun):
            held += [parts.render, parts.banner, parts.show, parts.cells, parts.progress]
            held += [parts.explored, *parts.downloads]
        return {part: value for part, value in shown.items() if part not in held}

    def open_link(self, query: str) -> Updates:
        """The form as an address describes it; nothing changes where it describes none."""
        parts = self.parts
        models = {spec.key: spec for spec in self.shelf.specs}
        settings = read_grid_link(str(query or "")[:LINK_BYTES], models)
        if settings is None:
            return {parts.nudge: kit.nudged()}
        values = dict(settings.values)
        own = self.shelf.spec(values.get("model", self.shelf.default.key))
        updates: Updates = {parts.model: own.key, **kit.own_values(parts.controls, own)}
        if "prompts" in values:
            updates[parts.prompts] = prompts_text(values["prompts"])
        if SET in values:
            updates[parts.prompts] = values[SET]
        for name in AXES:
            if name in values:
                setting, texts = values[name]
                updates[getattr(parts, name)] = setting
                updates[getattr(parts, f"{name}_values")] = axis_values(setting, values=texts)
        if "repeats" in values:
            updates[parts.repeats] = int(values["repeats"])
        if "trained" in values:
            possible = own.adapter is not None
            updates[parts.controls["trained"]] = gr.Checkbox(
                values.pop("trained"), visible=possible
            )
        updates |= {parts.controls[n]: values[n] for n in parts.controls if n in values}
        problem = views.banner(settings.problem)
        return {**updates, parts.banner: problem, parts.nudge: kit.nudged()}

    def estimate(self, *values: Any) -> Updates:
        """What the grid would cost, after a change of the form."""
        parts, (form, explored) = self.parts, self._split(values)
        try:
            grid = form.grid()
            cost = self._cost(form, grid, explored)
        except ValueError as error:
            return {
                parts.prompts_note: "",
                parts.cost: views.note(str(error), "error", control_of(error, "explore-")),
                parts.banner: views.banner(EARLIER if explored.done else ""),
                parts.render: gr.Button(interactive=False),
                parts.trace: gr.Button(interactive=False),
            }
        fits = not explored.done or (explored.model, explored.grid) == (form.model, grid)
        prompts, known = grid.base.prompts, self.shelf.spec(form.model).settings.known_words
        unseen = unseen_words(prompts, known)
        return {
            parts.prompts_note: views.prompts_note(prompts, unseen, set_words(form.prompts)),
            parts.cost: grids.cost_words(cost, self.speed.seconds(form.model, cost)),
            parts.banner: views.banner("" if fits else EARLIER),
            parts.address: views.address(self._query(form, grid)),
            parts.render: gr.Button(interactive=True),
            parts.trace: gr.Button(interactive=True),
            parts.show: gr.skip() if explored.done else self._show(form),
            parts.cells: gr.skip() if explored.done else grids.grid_table(grid, [0], {}),
        }

    def _query(self, form: Form, grid: Grid) -> str:
        """What the address says of the grid; nothing of the one that everybody meets first."""
        stored = stored_grid(form.model)
        first = stored is not None and stored.is_asked_by(form)
        return "" if first else grid_query(grid, form.model, form.typed)

    def _cost(self, form: Form, grid: Grid, explored: Explored) -> GridCost:
        """What a grid costs; of one that is stored it is known without a model."""
        stored = stored_grid(form.model) if explored.stored else None
        if stored is not None and stored.is_asked_by(form):
            return stored.cost
        return GridCost.of(self._plan(form, grid))

    def _plan(self, form: Form, grid: Grid) -> tuple[Cell, ...]:
        return plan_grid(self.shelf.get(form.model), grid)

    def take(self, model: str, prompts: str, *values: Any) -> Updates:
        """The Studio's prompts, model and settings, as far as the tab has controls for them."""
        parts = self.parts
        settings = dict(zip(parts.controls, values, strict=True))
        adapter = self.shelf.spec(model).adapter is not None
        trained = gr.Checkbox(value=settings.pop("trained"), visible=adapter)
        return {
            parts.prompts: prompts,
            parts.model: model,
            parts.controls["trained"]: trained,
            **{parts.controls[name]: value for name, value in settings.items()},
        }

    def _show(self, form: Form) -> gr.Dropdown:
        prompts = form.request().prompts
        names = [f"P{n + 1} {shorten(prompt, 40)}" for n, prompt in enumerate(prompts)]
        choices = [(name, str(n)) for n, name in enumerate(names)]
        return gr.Dropdown(choices=[*choices, ("All prompts", ALL)], value="0")

    def show(self, which: str, explored: Explored) -> Updates:
        """Other prompts' pictures in the cells, without rendering anything."""
        return {self.parts.cells: self._table(explored, which)}

    def choose(self, which: str, explored: Explored, event: gr.EventData) -> Updates:
        """A cell, large, with its settings."""
        cell = getattr(event, "cell", None)
        if cell not in explored.done:
            return {self.parts.explored: gr.skip()}
        explored = replace(explored, chosen=cell)
        return {
            self.parts.explored: explored,
            self.parts.cells: self._table(explored, which),
            self.parts.cell: self._cell(explored),
            self.parts.trace: gr.Button("Show the steps of this cell"),
        }

    def look(self, look: str, explored: Explored) -> str:
        """The tree of steps with the pictures expected, or with the latents."""
        return self._tree(explored, look)

    def _table(self, explored: Explored, which: str, running: int | None = None) -> str:
        if explored.grid is None:
            return views.note(EMPTY_GRID)
        everyone = range(len(explored.grid.base.prompts))
        prompts = everyone if which == ALL else [int(which)]
        return grids.grid_table(explored.grid, prompts, explored.done, running, explored.chosen)

    def _cell(self, explored: Explored) -> str:
        cell, grid = explored.chosen, explored.grid
        if cell is None or grid is None:
            return views.note(EMPTY_CELL)
        address = link_query(grid.requests[cell], explored.model)
        shown, plan = explored.done[cell], explored.plans[cell]
        return grids.cell_details(grid, cell, shown, plan, address)

    def _tree(self, explored: Explored, look: str) -> str:
        steps = explored.steps
        if steps is None:
            return views.note(EMPTY_STEPS)
        return grids.step_tree(
            steps.request, steps.plan, steps.frames, steps.end, latents=look == LATENTS
        )

    # -- rendering ---------------------------------------------------------------------------

    def announce(self, before: str = "", request: gr.Request | None = None) -> Updates:
        """Shown at once after the click, while the grid waits for its turn."""
        if self.turns.live(before):
            return {self.parts.turn: gr.skip()}
        return {
            self.parts.turn: self.turns.fresh(kit.page_of(request)),
            self.parts.progress: views.progress(0, 1, self.shelf.waiting, "live"),
            self.parts.render: gr.Button(interactive=False),
            self.parts.stop: gr.Button("Stop", interactive=True),
        }

    def render(self, turn: str, *values: Any) -> Running:
        """Renders the grid cell by cell, until it is done or its turn is stopped."""
        parts, (form, explored) = self.parts, self._split(values)
        steps = self._explained(self._render(form), parts.progress, parts.render, parts.stop)
        yield from self.turns.work(turn, steps, partial(self._last_words, explored))

    def _render(self, form: Form) -> Running:
        parts, grid = self.parts, form.grid()
        cells = self._plan(form, grid)
        cost = GridCost.of(cells)
        plans = {cell.place: cell.job.plan for cell in cells if cell.place is not None}
        conditions = grid_conditions(cells[0].job)
        explored, shown = Explored(form.model, grid, conditions, plans=plans), 0.0
        yield {
            parts.explored: explored,
            parts.show: self._show(form),
            parts.banner: "",
            parts.cell: self._cell(explored),
            parts.cells: self._table(explored, "0"),
            **{button: gr.DownloadButton(interactive=False) for button in parts.downloads},
        }
        for item in self.shelf.lease.run(render_grid_of, form.model, grid, flops=cost.flops):
            if isinstance(item, CellDone):
                self.speed.measured(form.model, item)
                explored = _with_cell(explored, item)
                yield {parts.explored: explored, parts.cells: self._table(explored, "0")}
            elif time.monotonic() - shown > 0.2:
                shown = time.monotonic()
                yield self._on_the_way(explored, item, cells)
        yield self._finished(explored, cost, form)

    def _on_the_way(self, explored: Explored, item: CellStep, cells: Sequence[Cell]) -> Updates:
        flops = [cell.flops for cell in cells]
        done = sum(flops[: item.run]) + flops[item.run] * item.step / item.steps
        words = ", independent to compare with" if item.cell is None else ""
        line = f"Run {item.run + 1} of {len(cells)}{words}: step {item.step} of {item.steps}"
        bar = views.progress(round(100 * done / max(sum(flops), 1.0)), 100, line, "live")
        table = self._table(explored, "0", running=item.cell)
        return {self.parts.progress: bar, self.parts.cells: table}

    def _finished(self, explored: Explored, cost: GridCost, form: Form) -> Updates:
        parts = self.parts
        line = f"Done: {plural(cost.runs, 'run')}, {cost.evaluations - cost.reused} evaluations"
        line += (
            f"; {cost.reused} more were reused from runs with the same start."
            if cost.reused
            else "."
        )
        return {
            parts.progress: views.progress(1, 1, line, "done"),
            parts.cost: grids.cost_words(cost, self.speed.seconds(form.model, cost)),
            **_handed_out(parts, self._files(explored)),
            **self._ready(parts.render, parts.stop),
        }

    def _files(self, explored: Explored) -> GridFiles:
        assert explored.grid is not None
        record = grid_record(explored.grid, explored.done, explored.plans, explored.conditions)
        title = self.shelf.spec(explored.model).title
        return save_grid(explored.grid, explored.done, record, title)

    def stop(self, turn: str, explored: Explored) -> Updates:
        """Asks the grid to end; it says so itself, unless it has not begun."""
        words = partial(self._last_words, explored)
        return self._stop(self.turns.stop(turn), self.parts.stop, words)

    def _stop(
        self, state: State, button: gr.Button, words: Callable[[Updates], Updates]
    ) -> Updates:
        if state == "waiting":
            return words({})
        return {button: gr.skip() if state == "running" else gr.Button("Stop", interactive=False)}

    def _last_words(self, before: Explored, shown: Updates) -> Updates:
        """What of a grid that was stopped is finished."""
        parts, explored = self.parts, shown.get(self.parts.explored, before)
        if not explored.done and before.done:  # nothing came of it: what was there stands again
            line = "Stopped before the first run finished; the previous grid is shown."
            return {
                parts.progress: views.progress(0, 1, line, "warn"),
                parts.explored: before,
                parts.cells: self._table(before, "0"),
                parts.cell: self._cell(before),
                **{button: gr.DownloadButton(interactive=True) for button in parts.downloads},
                **self._ready(parts.render, parts.stop),
            }
        number = len(explored.grid.requests) * explored.grid.repeats if explored.grid else 0
        ready = sum(len(cell.runs) for cell in explored.done.values())
        line = f"Stopped: {ready} of {plural(number, 'run')} finished."
        return {
            parts.progress: views.progress(ready, max(1, number), line, "warn"),
            parts.cells: self._table(explored, "0"),
            **self._ready(parts.render, parts.stop),
        }

    def announce_trace(self, before: str = "", request: gr.Request | None = None) -> Updates:
        """Shown at once after the click, while the run waits for its turn."""
        if self.trace_turns.live(before):
            return {self.parts.trace_turn: gr.skip()}
        return {
            self.parts.trace_turn: self.trace_turns.fresh(kit.page_of(request)),
            self.parts.trace_progress: views.progress(0, 1, self.shelf.waiting, "live"),
            self.parts.trace: gr.Button(interactive=False),
            self.parts.stop_trace: gr.Button("Stop", interactive=True),
        }

    def trace(self, turn: str, look: str, *values: Any) -> Running:
        """One run with previews of every row: the chosen cell, or the form as it stands."""
        parts, (form, explored) = self.parts, self._split(values)
        updates = self._trace(look, form, explored)
        steps = self._explained(updates, parts.trace_progress, parts.trace, parts.stop_trace)
        yield from self.trace_turns.work(turn, steps, self._last_steps)

    def _trace(self, look: str, form: Form, explored: Explored) -> Running:
        parts = self.parts
        if explored.chosen is None or explored.grid is None:
            key, request = form.model, form.request()
        else:
            key, request = explored.model, explored.grid.requests[explored.chosen]
        job = prepare(self.shelf.get(key), request)
        steps = Steps(request, job.plan, ())
        flops = job.cost.flops.total
        for item in self.shelf.lease.run(trace_request, key, request, flops=flops):
            if isinstance(item, Trace):
                steps = replace(steps, plan=item.plan, end=item)
                line, at, tone = "Done.", 1.0, "done"
            else:
                steps = replace(steps, frames=(*steps.frames, item))
                line, at, tone = f"Step {item.step} of {item.steps}", item.step / item.steps, "live"
            explored = replace(explored, steps=steps)
            yield {
                parts.explored: explored,
                parts.tree: self._tree(explored, look),
                parts.trace_progress: views.progress(round(100 * at), 100, line, tone),
            }
        yield self._ready(parts.trace, parts.stop_trace)

    def stop_trace(self, turn: str) -> Updates:
        """Asks the steps to end; they say so themselves, unless they have not begun."""
        return self._stop(self.trace_turns.stop(turn), self.parts.stop_trace, self._last_steps)

    def _last_steps(self, shown: Updates) -> Updates:
        """Says that the steps stay as far as they came."""
        parts = self.parts
        words = "Stopped; the steps so far are shown." if parts.tree in shown else "Stopped."
        return {
            parts.trace_progress: views.progress(0, 1, words, "warn"),
            **self._ready(parts.trace, parts.stop_trace),
        }

    def _ready(self, start: gr.Button, stop: gr.Button) -> Updates:
        """The buttons when nothing runs; by now the form may ask for something else."""
        parts = self.parts
        return {
            parts.turn if start is parts.render else parts.trace_turn: "",
            start: gr.Button(interactive=True),
            stop: gr.Button("Stop", interactive=False),
            parts.nudge: kit.nudged(),
        }

    def _explained(
        self, updates: Running, progress: gr.HTML, start: gr.Button, stop: gr.Button
    ) -> Running:
        """The updates; whatever goes wrong ends them with a sentence."""
        sentence = ""
        try:
            require_admission()
            yield from updates
        except Exception as error:
            sentence = explain(error, "Rendering")
        if sentence:
            line = views.progress(0, 1, sentence, "error")
            yield {progress: line, **self._ready(start, stop)}


def _with_cell(explored: Explored, item: CellDone) -> Explored:
    """A grid with one run more."""
    cell = explored.done.get(item.cell)
    runs = {item.repeat: item.numbers}
    cell = cell.with_run(item.repeat, item.numbers) if cell else grids.Shown.of(item.images, runs)
    plans = {**explored.plans, item.cell: item.plan}
    return replace(explored, done={**explored.done, item.cell: cell}, plans=plans)


def _handed_out(parts: Parts, files: GridFiles) -> Updates:
    """The download buttons with the files of a grid."""
    return {
        getattr(parts, name): gr.DownloadButton(value=str(getattr(files, name)), interactive=True)
        for name in DOWNLOADS
    }


# -- listeners -------------------------------------------------------------------------------------


def _wire(parts: Parts, tab: Exploring, place: Any) -> None:
    asked = [*parts.form, parts.explored]
    follows = [parts.cost, parts.banner, parts.render, parts.trace, parts.show, parts.cells]
    follows += [parts.address, parts.prompts_note]
    for side, values in ((parts.across, parts.across_values), (parts.down, parts.down_values)):
        picked = [values, parts.nudge]
        side.input(tab.pick_axis, [side], picked, api_name=f"explore_{side.elem_id[8:]}", **QUICK)
    own = list(parts.controls.values())
    parts.model.input(tab.pick_model, [parts.model], own, api_name="explore_model", **QUICK)
    seen = [*follows, parts.progress, parts.explored, *parts.downloads]
    heard = [*asked, parts.turn, parts.trace_turn]
    # Lists of values say when they are first shown that they have changed, and an axis has changed
    # before its values: of these only a visitor's hand on the lists is heard, and what fills them
    # otherwise nudges.
    axes = (parts.across, parts.down, parts.across_values, parts.down_values)
    changing = [part for part in (*parts.form, parts.nudge) if part not in axes]
    by_hand = [parts.across_values.input, parts.down_values.input]
    kit.on_change(changing, tab.follow_beside, heard, seen, "explore_follow", also=by_hand)
    if isinstance(place, gr.Tab):
        filled = [*parts.form, parts.banner, parts.nudge]
        place.select(
            tab.open_link,
            [parts.turn],  # stands for the address, which the browser knows
            filled,
            js="() => [location.search]",
            api_name="explore_link",
            **QUICK,
        )
    results = [*seen, parts.turn, parts.stop, parts.cell, parts.nudge]
    busy = [parts.turn, parts.progress, parts.render, parts.stop]
    work = (tab.render, [parts.turn, *asked], results)
    start_button(parts.render, (tab.announce, [parts.turn], busy), work, "explore")
    said = [parts.progress, parts.cells, parts.render, parts.stop, parts.explored, parts.cell]
    said += [*parts.downloads, parts.turn, parts.nudge]
    stop_button(parts.stop, (tab.stop, [parts.turn, parts.explored], said), "explore_stop")
    chosen = [parts.explored, parts.cells, parts.cell, parts.trace]
    picked = [parts.show, parts.explored]
    parts.cells.click(tab.choose, picked, chosen, api_name="explore_choose", **QUICK)
    parts.show.input(tab.show, picked, [parts.cells], api_name="explore_show", **QUICK)
    _wire_steps(parts, tab, asked)


def _wire_steps(parts: Parts, tab: Exploring, asked: list[Component]) -> None:
    busy = [parts.trace_turn, parts.trace_progress, parts.trace, parts.stop_trace]
    shown = [*busy, parts.tree, parts.explored, parts.nudge]
    work = (tab.trace, [parts.trace_turn, parts.look, *asked], shown)
    announce = (tab.announce_trace, [parts.trace_turn], busy)
    start_button(parts.trace, announce, work, "explore_steps")
    ending = (tab.stop_trace, [parts.trace_turn], [*busy, parts.nudge])
    stop_button(parts.stop_trace, ending, "explore_stop_steps")
    look = [parts.look, parts.explored]
    parts.look.input(tab.look, look, [parts.tree], api_name="explore_look", **QUICK)


def wire_taking(
    tab: Exploring, model: Component, prompts: Component, settings: Mapping[str, Component]
) -> None:
    """One tap takes over what stands in another form.

    Args:
        tab: From `build_explore`.
        model: Where the other form holds the model's key.
        prompts: Where it holds the prompts.
        settings: Where it holds each setting that the tab has a control for, by name.
    """
    parts = tab.parts
    parts.take.click(
        tab.take,
        [model, prompts, *(settings[name] for name in parts.controls)],
        [parts.model, parts.prompts, *parts.controls.values()],
        api_name="explore_take",
        **QUICK,
    )
