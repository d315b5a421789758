"""What sharing does to a model's pictures, as measured: distance by similarity and share ratio.

Bounds of similarity belong to a text encoder and distances to a model, so every model (and every
adapter) has a table of its own, `calibration.json` in its folder, measured by the studies
`adaptive` and `few-step`. A model without that file is not calibrated, and nothing is predicted for
it. Knows numbers and one file; nothing of texts, pictures or networks.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from torch import Tensor

from sage.core.plan import Group

FILE_NAME = "calibration.json"
T = TypeVar("T")


def read_stored(path: Path, what: str, build: Callable[[Any], T]) -> T | None:
    """What a JSON file holds; None if there is no such file.

    Args:
        path: Of the file.
        what: It should be, with its article, for the sentence.
        build: Makes it of the JSON's object.

    Raises:
        ValueError: If the file is damaged, or cannot be read.
    """
    try:
        if not path.exists() and not path.is_symlink():
            return None
        values = json.loads(path.read_text("utf-8"))
        if not isinstance(values, dict):
            raise ValueError(f"it holds a {type(values).__name__}, not an object")
        return build(values)
    except (
        *(OSError, RecursionError),
        *(LookupError, TypeError, AttributeError, ValueError, OverflowError),  # odd values
    ) as error:
        raise ValueError(f"{path} cannot be read as {what}: {error}") from error


def check_conditions(conditions: Any) -> None:
    """That what a table says of its making are names with values.

    Raises:
        ValueError: If they are not.
    """
    if not isinstance(conditions, Mapping):
        raise ValueError(f"conditions is a {type(conditions).__name__}; need names with values.")


def lowest_similarity(similarity: Tensor, group: Group) -> float:
    """Similarity of the two least similar prompts of a group; 1 for a single prompt."""
    return float(similarity[list(group)][:, list(group)].min())


@dataclass(frozen=True)
class Calibration:
    """A measured table, monotone in both directions.

    Attributes:
        similarity: [B] lowest similarity inside a group, ascending.
        share_ratio: [K] β, ascending from 0.
        distance: [B, K] mean distance of a picture to the one that its prompt gives alone from
            the same starting noise; falls with similarity, grows with β.
        limit: Largest distance that counts as safe.
        measure: What the distance is, in words with its unit.
        conditions: Model, steps, guidance, seeds, number of pictures: where the numbers are from.

    Raises:
        ValueError: If the table has another shape, an axis does not ascend, or a number is none.
    """

    similarity: tuple[float, ...]
    share_ratio: tuple[float, ...]
    distance: tuple[tuple[float, ...], ...]
    limit: float
    measure: str
    conditions: dict

    def __post_init__(self) -> None:
        shape = (len(self.similarity), len(self.share_ratio))
        if np.shape(self.distance) != shape or 0 in shape:
            raise ValueError(f"distance has shape {np.shape(self.distance)}; need {shape}.")
        for name in ("similarity", "share_ratio"):
            if not (np.diff(getattr(self, name)) > 0).all():
                raise ValueError(f"{name} is {getattr(self, name)}; it must ascend.")
        if not np.isfinite(self.distance).all() or not 0 <= self.limit < np.inf:
            raise ValueError("The distances must be numbers, and the limit one from 0.")
        check_conditions(self.conditions)

    @classmethod
    def fit(
        cls,
        similarity: Sequence[float],
        share_ratio: Sequence[float],
        distances: np.ndarray,
        weights: Sequence[float],
        *,
        limit: float,
        measure: str,
        conditions: dict,
    ) -> "Calibration":
        """The closest monotone table.

        Args:
            similarity: [B] of the bins, ascending.
            share_ratio: [K] ascending.
            distances: [B, K] means of the bins.
            weights: [B] how many pictures each bin holds.
            limit: Largest distance that counts as safe.
            measure: What the distance is.
            conditions: Where the numbers are from.
        """
        from scipy.optimize import isotonic_regression  # only to fit: 0.2 s of every start

        # Least squares for each ratio; a running maximum keeps that order and adds the other one.
        columns = [
            isotonic_regression(column, weights=weights, increasing=False).x
            for column in np.asarray(distances, dtype=np.float64).T
        ]
        table = np.maximum.accumulate(np.stack(columns, axis=1), axis=1)
        rows = tuple(tuple(round(float(v), 6) for v in row) for row in table)
        axes = tuple(map(float, similarity)), tuple(map(float, share_ratio))
        return cls(*axes, rows, float(limit), measure, conditions)

    @classmethod
    def read(cls, folder: str | Path) -> "Calibration | None":
        """The calibration in a model's or an adapter's folder; None if there is none.

        Raises:
            ValueError: If the file is damaged.
        """
        return read_stored(Path(folder) / FILE_NAME, "a calibration", cls._of_json)

    @classmethod
    def _of_json(cls, values: dict[str, Any]) -> "Calibration":
        for name in ("similarity", "share_ratio"):
            values[name] = tuple(values[name])
        values["distance"] = tuple(map(tuple, values["distance"]))
        return cls(**values)

    def write(self, folder: str | Path) -> Path:
        """Writes the file into a folder."""
        path = Path(folder) / FILE_NAME
        path.write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n", "utf-8")
        return path

    def expected(self, similarity: float, share_ratio: float) -> float:
        """Expected distance, linear between the table's entries and level beyond its ends."""
        column = [np.interp(share_ratio, self.share_ratio, row) for row in self.distance]
        return float(np.interp(similarity, self.similarity, column))

    def is_safe(self, similarity: float, share_ratio: float) -> bool:
        """Whether the expected distance is within the limit, rounding aside."""
        return self.expected(similarity, share_ratio) <= self.limit + 1e-9

    def longest_safe(self, similarity: float) -> float:
        """The largest share ratio, in hundredths, whose expected distance is within the limit.

        Never beyond the largest one that was measured.
        """
        ratios = np.arange(round(100 * self.share_ratio[-1]) + 1) / 100
        safe = [r for r in ratios if self.is_safe(similarity, r)]
        return float(max(safe, default=0.0))
