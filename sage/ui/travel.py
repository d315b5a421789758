"""What goes out of the Studio and comes back in: its address, and records of runs.

Listeners that fill the form from `sage.ui.links`; what a file holds is made in `downloads`. The
form's own listeners then do the rest, as if a visitor had typed it.
"""

from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from sage.plan import branch_step_from_ratio
from sage.request import LIMITS
from sage.ui import views
from sage.ui.form import Form
from sage.ui.handlers import Handlers, Updates
from sage.ui.layout import Layout
from sage.ui.links import Settings, link_query, prompts_text, read_link, read_record
from sage.ui.shelf import Shelf

RECORD_BYTES = 2**20
OPENED = "Opened from a {0}: press Render to see it."
# The clipboard is the browser's, and so is the address that the query belongs to.
COPY = "(query) => { if (query) navigator.clipboard?.writeText(query); }"
QUERY = "(link, steps) => [location.search, steps]"
ADDRESS = "(query) => query && location.origin + location.pathname + query"


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
        form = Form(*values)
        try:
            query = link_query(form.check(), form.model)
        except ValueError as error:
            return {self.layout.link: gr.skip(), self.layout.travel_note: _error(error)}
        note = views.note("Copied. Whoever opens it finds these settings.")
        return {
            self.layout.link: gr.Textbox(query, visible=True),
            self.layout.travel_note: note,
        }

    def open_link(self, query: str, steps: int) -> Updates:
        """The form as a link describes it; nothing changes without one."""
        settings = read_link(str(query or "")[:65536], self._models())
        return self._fill(settings, "link", steps) if settings else {self.layout.opened: ""}

    def open_file(self, path: str | None, steps: int) -> Updates:
        """The form as an uploaded record describes it."""
        if path is None:
            return {self.layout.travel_note: gr.skip()}
        file = Path(path)
        text = file.read_bytes()[:RECORD_BYTES].decode("utf-8", "replace")
        return self.open_text(text, steps)

    def open_text(self, text: str, steps: int) -> Updates:
        """The form as a pasted record describes it."""
        try:
            settings = read_record(str(text or "")[:RECORD_BYTES], self._models())
        except ValueError as error:
            return {self.layout.travel_note: _error(error)}
        filled = self._fill(settings, "record", steps)
        return {**filled, self.layout.travel_note: views.note("Loaded.")}

    def _models(self) -> dict[str, Any]:
        return {spec.key: spec for spec in self.shelf.specs}

    def _fill(self, settings: Settings, source: str, steps: int) -> Updates:
        page, values = self.layout, dict(settings.values)
        spec = self.shelf.spec(values.get("model", self.shelf.default.key))
        updates: Updates = {}
        if "model" in values:
            updates |= self.handlers.pick_model(values.pop("model"))
        if "prompts" in values:
            updates[page.prompts] = prompts_text(values.pop("prompts"))
        if "guarded" in values:
            updates[page.insist] = not values.pop("guarded")
        if "trained" in values:
            possible = spec.adapter is not None
            updates[page.trained] = gr.Checkbox(value=values.pop("trained"), visible=possible)
        updates |= self._branch(values, steps)
        updates |= {getattr(page, name): value for name, value in values.items()}
        sentence = settings.problem or OPENED.format(source)
        return {**updates, page.opened: views.banner(sentence)}

    def _branch(self, values: dict[str, Any], before: int) -> Updates:
        """Steps and branch point, taken out of the values.

        Where the number of steps changes, the page itself moves the slider and its end, from the
        share ratio; a second hand on it could leave it beyond its end for a moment.
        """
        if not {"steps", "share_ratio"} & set(values):
            return {}
        steps = values.pop("steps", before)
        ratio = values.pop("share_ratio", LIMITS["share_ratio"].default)
        page, point = self.layout, branch_step_from_ratio(ratio, int(steps))
        here = {page.branch_step: point} if steps == before else {}
        return {page.steps: steps, page.share_ratio: point / steps, **here}


def wire_travel(page: Layout, travel: Travel, arrived: Any, quick: dict[str, Any]) -> None:
    """Wires links and records.

    Args:
        page: The Studio's components.
        travel: The listeners.
        arrived: The event after which the page stands, so that a link may change it.
        quick: Settings of listeners that act at once.
    """
    filled: list[Component] = [
        *(part for part in page.form if part not in (page.fewer_steps, page.measure)),
        *(part for part in page.own_settings if part not in page.form),
        page.share_ratio,
        page.opened,
    ]
    both = [*filled, page.travel_note]
    arrived.then(
        travel.open_link, [page.link, page.steps], filled, js=QUERY, api_name="open_link", **quick
    )
    page.copy_link.click(
        travel.link, page.form, [page.link, page.travel_note], api_name="on_link", **quick
    ).then(None, [page.link], [page.link], js=ADDRESS, api_name="show_link").then(
        None, [page.link], None, js=COPY, api_name="copy_link"
    )
    page.upload.upload(
        travel.open_file, [page.upload, page.steps], both, api_name="open_file", **quick
    )
    page.load_text.click(
        travel.open_text, [page.paste, page.steps], both, api_name="open_text", **quick
    )


def _error(error: ValueError) -> str:
    return views.note(str(error), "error")
