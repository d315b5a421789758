"""What stands between the network and Gradio, in order; handed to `launch()` as `app_kwargs`."""

from starlette.middleware import Middleware

from sage.ui.server.cache import PageCache


def middleware() -> list[Middleware]:
    """The layers around Gradio's routes, outermost first."""
    return [Middleware(PageCache)]
