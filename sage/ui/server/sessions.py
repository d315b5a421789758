"""What the server remembers of a session: its state, and not a second copy of its page.

Gradio describes every component for each new session (20 ms of CPU) and keeps what each shows
(pictures too), for links to a session's page. This page has no such links: its own carry settings.
Its tables of components and listeners are shared until a session changes a component.
"""

from copy import copy
from types import SimpleNamespace
from typing import Any

from gradio.blocks import Blocks
from gradio.components import State
from gradio.state_holder import SessionState, StateHolder


class _Shared:
    """Stands for an object that a copy of would be wasted on."""

    def __init__(self, thing: Any) -> None:
        self._thing = thing

    def __copy__(self) -> Any:
        return self._thing


class LeanState(SessionState):
    """A session's state without descriptions of its components."""

    def __init__(self, blocks: Blocks) -> None:
        self._owns = False
        empty = SimpleNamespace(default_config=_Shared(blocks.default_config), blocks={})
        super().__init__(empty)  # type: ignore[arg-type]

    def __setitem__(self, key: int, value: Any) -> None:
        if isinstance(self.blocks_config.blocks.get(key), State):
            super().__setitem__(key, value)
            self.config_values.clear()
            return
        if not self._owns:
            self.blocks_config, self._owns = copy(self.blocks_config), True
        self.blocks_config.blocks[key] = value

    def _update_config(self, key: int) -> None:
        pass

    def _update_value_in_config(self, key: int, value: Any) -> None:
        pass


class LeanSessions(StateHolder):
    """The sessions of a page; the longest silent ones go first, and their files with them."""

    def __getitem__(self, session_id: str) -> SessionState:
        if session_id not in self.session_data:
            self.session_data[session_id] = LeanState(self.blocks)
        return super().__getitem__(session_id)

    def forget(self, session_id: str) -> None:
        """Drops a session that nobody can come back to."""
        self.delete_state(session_id)
        with self.lock:
            self.session_data.pop(session_id, None)
            self.time_last_used.pop(session_id, None)

    def update(self, session_id: str) -> None:
        """Notes that a session was used, and drops the longest silent one beyond the bound."""
        while len(self.session_data) > self.capacity:
            oldest = next(iter(self.session_data))
            if oldest == session_id:
                break
            self.forget(oldest)
        super().update(session_id)
