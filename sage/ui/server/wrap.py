"""What stands between the network and Gradio, in order; handed to `launch()` as `app_kwargs`."""

import os
from collections.abc import Iterable

from starlette.middleware import Middleware

from sage.ui.server.cache import PageCache
from sage.ui.server.errors import Explaining
from sage.ui.server.headers import Guard
from sage.ui.server.listeners import Listening
from sage.ui.server.streams import Streams


def middleware(proxy: bool = False, names: Iterable[str] = ()) -> list[Middleware]:
    """The layers around Gradio's routes, outermost first.

    Args:
        proxy: Whether a proxy in front is declared; a Space has one.
        names: Further names under which this machine is reached.
    """
    declared = proxy or bool(os.environ.get("SPACE_ID"))
    return [
        Middleware(Guard, proxy=declared, names=tuple(names)),
        Middleware(Explaining),
        Middleware(PageCache),
        Middleware(Streams),
        Middleware(Listening),
    ]
