"""A rival of exactly the same cost, out of runs of lower and of higher cost.

Knows measured lines; nothing of what a study asks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sage.core.resampling import Estimate
from sage.studies.engine.compare import Line
from sage.studies.engine.judges import METRIC
from sage.studies.engine.results import Row


@dataclass(frozen=True)
class Rival:
    """Independent sampling at a cost between those that were run.

    Attributes:
        lines: Of independent sampling, each at its guidance.
    """

    lines: Sequence[Line]

    def at(self, flops: float, key: str) -> Estimate:
        """A metric on the straight line between the two neighbours; at an end, the end's."""
        ordered = sorted(self.lines, key=lambda line: line.measured.flops)
        costs = [line.measured.flops for line in ordered]
        upper = int(np.clip(np.searchsorted(costs, flops), 1, len(costs) - 1))
        low, high = (ordered[i].measured.metrics[key] for i in (upper - 1, upper))
        weight = float(np.clip((flops - costs[upper - 1]) / np.diff(costs)[upper - 1], 0, 1))
        return Estimate(
            (1 - weight) * low.value + weight * high.value,
            (1 - weight) * low.replicates + weight * high.replicates,
        )


def against(line: Line, rival: Rival) -> dict[str, dict[str, float]]:
    """What a line differs by from independent sampling of its cost; "sign" 1 is better."""
    gaps = {}
    for key, estimate in line.measured.metrics.items():
        gap = estimate.minus(rival.at(line.measured.flops, key))
        gaps[key] = gap.plain() | {"sign": gap.sign * (METRIC[key].better or 1)}
    return gaps


def differences_in_words(rows: Sequence[Row], keys: Sequence[str]) -> str:
    """Judges in which rows differ from their rivals beyond chance, and where.

    Args:
        rows: With "label" and "against".
        keys: Of the judges.
    """
    words = [w for sign in (1, -1) if (w := _where(rows, keys, sign))]
    return "; ".join(words) if words else "no difference"


def _where(rows: Sequence[Row], keys: Sequence[str], sign: int) -> str:
    places = {
        METRIC[key].title: [row["label"] for row in rows if row["against"][key]["sign"] == sign]
        for key in keys
    }
    found = [
        title + (f" ({'; '.join(at)})" if len(at) < len(rows) else " everywhere")
        for title, at in places.items()
        if at
    ]
    return f"{'better' if sign > 0 else 'worse'} in {', '.join(found)}" if found else ""
