"""What goes out of the Studio and comes back in: its address, and records of runs.

Listeners that fill the form from `sage.ui.export.links`; what a file holds is made in `downloads`.
The form's own listeners then do the rest, as if a visitor had typed it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from sage.jobs.request import parse_prompts
from sage.jobs.sides import PLAIN
from sage.ui import kit
from sage.ui.examples import FIRST_EXAMPLE
from sage.ui.export.links import (
    BESIDE,
    SET,
    Settings,
    prompts_text,
    read_link,
    read_record,
)
from sage.ui.html import views
from sage.ui.html.matrix import empty_matrix
from sage.ui.html.prose import NOTHING_YET
from sage.ui.html.tree import empty_tree
from sage.ui.kit import QUICK, Updates
from sage.ui.shelf import Shelf
from sage.ui.studio.form import Form, Run
from sage.ui.studio.handlers import Handlers, no_costs, spelled
from sage.ui.studio.layout import Layout

LOADING = "Loading …"
RECORD_BYTES, LINK_BYTES = 2**20, 2**16
OPENED = "These settings come from a {0}. Render to see their pictures."
# The clipboard is the browser's, and so is the address that the query belongs to.
COPY = "(query) => { if (query) navigator.clipboard?.writeText(query); }"
# Held as it was on arrival: the address follows the form, and the form may change meanwhile.
ARRIVED = "() => location.search"
# Between the two, the page's script keeps what a visitor types, and then puts it back.
OPENING = "(source) => (dispatchEvent(new Event('sage-opening')), [source])"
IS_OPEN = "() => void dispatchEvent(new Event('sage-opened'))"
ADDRESS = """(query) => {
  const tick = new URLSearchParams(location.search).get("tick"); // the ticks of a look
  return query && location.origin + location.pathname + query + (tick ? `&tick=${tick}` : "");
}"""


class Travel:
    """The listeners of links and records.

    Args:
        layout: The components they update.
        handlers: The page's own, which know what a model brings along.
        shelf: The models on offer.
    """

    def __init__(self, layout: Layout, handlers: Handlers, shelf: Shelf) -> None:
        self.layout = layout
        self.handlers = handlers
        self.shelf = shelf

    def link(self, *values: Any) -> Updates:
        """The query that rebuilds the form; the browser puts its own address before it."""
        form = spelled(Form.of(values), self.shelf)
        try:
            query = form.query(form.check())
        except ValueError as error:
            return {self.layout.link: gr.skip(), self.layout.travel_note: _error(error)}
        note = views.note("Copied. Opening it brings back these settings.")
        return {
            self.layout.link: gr.Textbox(query, visible=True),
            self.layout.travel_note: note,
        }

    def open_link(self, query: str, run: Run | None = None) -> Updates:
        """The form as a link describes it; nothing changes without one."""
        settings = self._from_link(query)
        return self._fill(settings, "link", run) if settings else {self.layout.opened: ""}

    def link_steps(self, query: str, steps: int) -> Updates:
        """Only the steps of a link and the share of them in common."""
        settings = self._from_link(query)
        return self._steps(settings.values if settings else {}, steps)

    def open_record(self, record: str, run: Run | None = None) -> Updates:
        """The form as a record describes it."""
        try:
            settings = read_record(record, self._models())
        except ValueError as error:
            return {self.layout.travel_note: _error(error)}
        return {
            **self._fill(settings, "record", run),
            self.layout.travel_note: views.note("Loaded."),
        }

    def record_steps(self, record: str, steps: int) -> Updates:
        """Only the steps of a record and the share of them in common."""
        try:
            return self._steps(read_record(record, self._models()).values, steps)
        except ValueError:
            return self._steps({}, steps)

    def read_file(self, path: str | None) -> str:
        """The text of an uploaded file, for the box where records are pasted."""
        if path is None:
            return ""
        return Path(path).read_bytes()[:RECORD_BYTES].decode("utf-8", "replace")

    def read_text(self, text: str | None) -> str:
        """What was pasted, no longer than a record may be."""
        return str(text or "")[:RECORD_BYTES]

    def cleared(self) -> Updates:
        """No pictures, and nothing that belongs to any."""
        page = self.layout
        return {
            page.run: None,
            page.pictures: "",
            page.outcome: "",
            page.progress: views.progress(0, 1, NOTHING_YET),
            **no_costs(page),
            page.plan: empty_tree(LOADING),
            page.similarity: empty_matrix(LOADING),
            page.told: LOADING,
        }

    def _models(self) -> dict[str, Any]:
        return {spec.key: spec for spec in self.shelf.specs}

    def _from_link(self, query: str) -> Settings | None:
        return read_link(str(query or "")[:LINK_BYTES], self._models())

    def _steps(self, values: dict[str, Any], before: int) -> Updates:
        """Steps, scheduler and share ratio; from these the page moves the branch slider."""
        page, own = self.layout, self.shelf.default
        if not {"steps", "share_ratio", "model", "scheduler"} & set(values):
            return {page.opened: gr.skip()}
        steps = before
        if "model" in values:
            own = self.shelf.spec(values["model"])
            steps = own.steps
        updates = {
            page.controls["steps"]: values.get("steps", steps),
            page.share_ratio: values.get("share_ratio", own.share_ratio),
        }
        if "scheduler" in values:
            updates[page.controls["scheduler"]] = values["scheduler"]
        return updates

    def _fill(self, settings: Settings, source: str, run: Run | None) -> Updates:
        """Everything but steps, scheduler and branch point, which are in place by then.

        What is on the page of other prompts is taken away at once: a model may have to be loaded
        before their own boxes are there.
        """
        page, values = self.layout, dict(settings.values)
        model = values.pop("model", None)
        updates: Updates = {}
        if model is not None:
            updates |= self.handlers.pick_model(model, values.get("scheduler", PLAIN))
            for part in (page.controls["steps"], page.branch_call, page.share_ratio):
                updates.pop(part, None)
        if "prompts" in values:
            updates[page.prompts] = prompts_text(values.pop("prompts"))
        if SET in values:
            updates[page.prompts] = values.pop(SET)
        if page.prompts in updates and not _is_of(run, updates[page.prompts]):
            updates |= self.cleared()
        if "trained" in values:
            possible = self.shelf.spec(model or self.shelf.default.key).adapter is not None
            trained = gr.Checkbox(value=values.pop("trained"), visible=possible)
            updates[page.controls["trained"]] = trained
        for name in BESIDE:
            if name in values:
                value = values.pop(name)
                updates[getattr(page, name)] = int(value) if name == "repeats" else value
        in_place = ("steps", "share_ratio", "scheduler")
        plain = (name for name in values if name not in in_place)
        updates |= {page.controls[name]: values[name] for name in plain}
        sentence = settings.problem or OPENED.format(source)
        opened = views.banner(sentence, unseen=not settings.problem)
        updates[page.chosen] = " ".join(map(str, settings.ticks))
        return {**updates, page.opened: opened, page.nudge: kit.nudged()}


def _is_of(run: Run | None, prompts: str) -> bool:
    """Whether what is on the page is of these prompts; as served, it is of the first example."""
    shown = FIRST_EXAMPLE.prompts if run is None else run.request.prompts
    try:
        return shown == parse_prompts(prompts)
    except ValueError:
        return False


def wire_travel(page: Layout, travel: Travel, arrival: Callable[..., Any]) -> None:
    """Wires links and records.

    Args:
        page: The Studio's components.
        travel: The listeners.
        arrival: The event of the page's arrival, after which a link may change it.
    """
    arrival(None, None, [page.query], js=ARRIVED, api_name="arrived")
    _then_fill(page, travel, page.query.change, "link")
    page.copy_link.click(
        travel.link, page.form, [page.link, page.travel_note], api_name="on_link", **QUICK
    ).then(None, [page.link], [page.link], js=ADDRESS, api_name="show_link").then(
        None, [page.link], None, js=COPY, api_name="copy_link"
    )
    for event, name in ((page.upload.upload, "file"), (page.load_text.click, "text")):
        source = page.upload if name == "file" else page.paste
        take = travel.read_file if name == "file" else travel.read_text
        begun = event(take, [source], [page.paste], js=OPENING, api_name=f"take_{name}", **QUICK)
        _then_fill(page, travel, begun.then, name)


def _filled(page: Layout, travel: Travel, earlier: list[Component]) -> list[Component]:
    """What a link or a record sets, but for what was set earlier."""
    return [
        *(part for part in page.form if part not in earlier),
        *(part for part in page.own_settings if part not in page.form),
        *(() if page.model_note in page.own_settings else (page.model_note,)),
        page.opened,
        page.travel_note,
        page.chosen,
        page.nudge,
        *travel.cleared(),
    ]


def _then_fill(page: Layout, travel: Travel, event: Callable[..., Any], name: str) -> None:
    """At an event, fills the form in an order in which it is always valid.

    First the steps, then the branch point that lies within them, then the rest: each change wakes
    the page's own listeners, which send the form as it stands at that moment. What a visitor
    changes meanwhile is put back at the end.
    """
    link = name == "link"
    source = page.query if link else page.paste
    fill, steps = (
        (travel.open_link, travel.link_steps) if link else (travel.open_record, travel.record_steps)
    )
    calls = [page.controls["steps"], page.controls["scheduler"]]
    event(
        steps,
        [source, page.controls["steps"]],
        [*calls, page.share_ratio, page.opened],
        api_name=f"steps_of_{name}",
        **QUICK,
    ).then(
        travel.handlers.resize,
        [*calls, page.share_ratio],
        [page.branch_call],
        api_name=f"branch_of_{name}",
        **QUICK,
    ).then(
        fill,
        [source, page.run],
        _filled(page, travel, [page.branch_call, *calls]),
        api_name=f"open_{name}",
        **QUICK,
    ).then(None, None, None, js=IS_OPEN, api_name=f"opened_{name}")


def _error(error: ValueError) -> str:
    return views.note(str(error), "error")
