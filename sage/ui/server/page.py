"""The page's Blocks: plain configuration, its own queue, and failures with a sentence.

Gradio copies the page's configuration for every visitor. Whatever an object in it refers to is
copied along: from a listener's function that is the handlers, the shelf, and the weights of every
loaded model. So the configuration is reduced to JSON once, where it is made.
"""

from typing import Any

import gradio as gr
import orjson
from gradio.state_holder import StateHolder

from sage.ui.server.errors import as_client_error
from sage.ui.server.lanes import Lanes
from sage.ui.server.limits import BOUNDS
from sage.ui.server.listeners import Listeners
from sage.ui.server.sessions import LeanSessions


class Page(gr.Blocks):
    """A `gr.Blocks` to serve to many.

    Attributes:
        listeners: Who reads answers now.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.listeners = Listeners()
        super().__init__(*arguments, **options)

    @property
    def state_holder(self) -> StateHolder:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What is remembered of each session."""
        return self._sessions

    @state_holder.setter
    def state_holder(self, holder: StateHolder) -> None:  # gradio makes it, and sets it here
        holder.__class__ = LeanSessions
        self._sessions = holder

    def get_config_file(self) -> Any:
        """The configuration as a browser reads it: callables are left out, the rest is JSON."""
        return plain(super().get_config_file())

    def queue(self, *arguments: Any, **options: Any) -> "Page":
        """Sets the queue, as gradio does, but with lanes; `BOUNDS` say how much may wait."""
        super().queue(*arguments, **options)
        self._queue = Lanes(
            live_updates=True,
            concurrency_count=self.max_threads,
            update_intervals=1,
            max_size=BOUNDS.queue,
            blocks=self,
        )
        return self

    async def process_api(self, *arguments: Any, **options: Any) -> Any:
        """Runs a listener; whatever it raises reaches the client as a sentence.

        Raises:
            gr.Error: Instead of any other error.
        """
        try:
            return await super().process_api(*arguments, **options)
        except Exception as error:
            raise as_client_error(error) from None


def plain(config: Any) -> Any:
    """A configuration without anything that could be called, as JSON gives it back."""
    options = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_PASSTHROUGH_DATETIME
    return orjson.loads(orjson.dumps(_without_callables(config), option=options, default=str))


def _without_callables(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_callables(v) for k, v in value.items() if not callable(v)}
    if isinstance(value, (list, tuple)):
        return [_without_callables(item) for item in value if not callable(item)]
    return value
