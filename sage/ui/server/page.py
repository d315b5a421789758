"""The page's Blocks: what it tells a browser about itself is plain data, and no more.

Gradio copies the page's configuration for every visitor. Whatever an object in it refers to is
copied along: from a listener's function that is the handlers, the shelf, and the weights of every
loaded model. So the configuration is reduced to JSON once, where it is made.
"""

from typing import Any

import gradio as gr
import orjson


class Page(gr.Blocks):
    """A `gr.Blocks` whose configuration is plain data."""

    def get_config_file(self) -> Any:
        """The configuration as a browser reads it: callables are left out, the rest is JSON."""
        return plain(super().get_config_file())


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
