"""What the server remembers of a session: its state, and not a second copy of its page.

Gradio describes every component for each new session (20 ms of CPU) and keeps what each shows
(pictures too), for links to a session's page. This page has no such links: its own carry settings.
"""

from types import SimpleNamespace
from typing import Any

from gradio.blocks import Blocks
from gradio.components import State
from gradio.state_holder import SessionState, StateHolder


class LeanState(SessionState):
    """A session's state without descriptions of its components."""

    def __init__(self, blocks: Blocks) -> None:
        super().__init__(SimpleNamespace(default_config=blocks.default_config, blocks={}))  # type: ignore[arg-type]

    def __setitem__(self, key: int, value: Any) -> None:
        if isinstance(self.blocks_config.blocks.get(key), State):
            super().__setitem__(key, value)
            self.config_values.clear()
        else:
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

    def update(self, session_id: str) -> None:
        """Notes that a session was used, and drops the longest silent one beyond the bound."""
        while len(self.session_data) > self.capacity:
            oldest = next(iter(self.session_data))
            if oldest == session_id:
                break
            self.delete_state(oldest)
            with self.lock:
                self.session_data.pop(oldest, None)
                self.time_last_used.pop(oldest, None)
        super().update(session_id)
