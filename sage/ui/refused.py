"""A value of a control that is not allowed: the sentence, and which control holds it.

Knows settings; nothing of gradio.
"""

from collections.abc import Mapping
from typing import Any

from sage.core.settings import settings_of
from sage.jobs.request import Request


class RefusedError(ValueError):
    """One sentence on the value of one setting.

    Attributes:
        name: Of the setting.
    """

    def __init__(self, name: str, sentence: str) -> None:
        self.name = name
        super().__init__(sentence)


def check_controls(values: Mapping[str, Any]) -> None:
    """Checks what controls hold, each by itself; an emptied field is no default of a model.

    Args:
        values: By the names of the settings.

    Raises:
        RefusedError: At the first that is not allowed.
    """
    for name, value in values.items():
        one = settings_of(Request)[name]
        if value is None:
            raise RefusedError(name, f"{one.subject} is empty; allowed are {one.allowed}.")
        try:
            one.check(value)
        except ValueError as error:
            raise RefusedError(name, str(error)) from None


def control_of(error: Exception, prefix: str = "") -> str:
    """The id of the control that an error is about, for the script to say it there; "" if none."""
    return prefix + error.name.replace("_", "-") if isinstance(error, RefusedError) else ""
