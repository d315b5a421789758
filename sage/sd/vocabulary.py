"""The words a model was trained on, as its own folder lists them: `words.json`.

Only a model that was trained on few words has such a file; one of the open web has none.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sage.core.calibration import read_stored

FILE_NAME = "words.json"


@dataclass(frozen=True)
class Vocabulary:
    """What a model can show, by name.

    Attributes:
        topics: Titled lists of names: each category of things, and the places.
        emoji: Emoji with the words they stand for.
    """

    topics: Mapping[str, tuple[str, ...]]
    emoji: Mapping[str, str]

    @classmethod
    def read(cls, folder: str | Path) -> "Vocabulary | None":
        """The vocabulary in a model's folder; None if there is none.

        Raises:
            ValueError: If the file is damaged.
        """
        return read_stored(Path(folder) / FILE_NAME, "a list of words", cls._of_json)

    @classmethod
    def _of_json(cls, record: dict[str, Any]) -> "Vocabulary":
        things, places = record["things"], record["places"]
        topics = {
            category: tuple(t["name"] for t in things if t["category"] == category)
            for category in record["categories"]
        }
        topics["place"] = tuple(place["phrases"][0] for place in places)
        emoji = {thing["emoji"]: thing["name"] for thing in things if thing.get("emoji")}
        emoji |= {p["emoji"]: p["phrases"][0] for p in places if p.get("emoji")}
        return cls({title: names for title, names in topics.items() if names}, emoji)
