"""Says before rendering whether a group can share its steps without harm.

A prediction from a model's calibration, no more: what a picture really lost is measured after
rendering. Knows similarities and a calibration; nothing of texts, pictures or networks.
"""

from dataclasses import dataclass
from typing import Literal

from sage.core.calibration import Calibration

Kind = Literal["safe", "shorten", "refuse", "unknown"]


@dataclass(frozen=True)
class Verdict:
    """What is expected of a group.

    Attributes:
        kind: "safe"; "shorten": only a shorter trunk is; "refuse": none is; "unknown": the model
            is not calibrated, and nothing is predicted.
        reason: The verdict as a sentence.
        expected_distance: Expected distance of its pictures to independent ones, in the unit of
            the calibration; None if unknown.
        limit: Largest distance that counts as safe; None if unknown.
        shorter: The longest safe share ratio, if the asked one is not and there is one.
    """

    kind: Kind
    reason: str
    expected_distance: float | None = None
    limit: float | None = None
    shorter: float | None = None

    @property
    def safe(self) -> bool:
        """Whether nothing speaks against sharing; True as well where nothing is known."""
        return self.kind in ("safe", "unknown")


def predict(
    similarity: float, share_ratio: float, calibration: Calibration | None, steps: int = 30
) -> Verdict:
    """Whether a group may share so much.

    Args:
        similarity: Of the two least similar prompts of the group (`lowest_similarity`).
        share_ratio: β that is asked for.
        calibration: Of the model; None if it has none.
        steps: T; a trunk of less than one step is no trunk, and a verdict says if the calibration
            was measured at another T.

    Raises:
        ValueError: If the ratio lies outside [0, 1].
    """
    if not 0.0 <= share_ratio <= 1.0:
        raise ValueError(f"share_ratio is {share_ratio}; allowed are 0 to 1.")
    if calibration is None:
        return Verdict("unknown", "Not calibrated for this model: nothing is predicted.")
    expected, limit = calibration.expected(similarity, share_ratio), calibration.limit
    measured = calibration.conditions.get("steps", steps)
    where = "" if measured == steps else f" (measured at {measured} steps)"
    numbers = f"expected distance {expected:.3f}, limit {limit:.3f}{where}"
    if calibration.is_safe(similarity, share_ratio):
        return Verdict("safe", f"Safe to share: {numbers}.", expected, limit)
    longest = calibration.longest_safe(similarity)
    if int(longest * steps + 1e-9) < 1:
        reason = f"Too different to share at all: lowest similarity {similarity:.2f}, {numbers}."
        return Verdict("refuse", reason, expected, limit)
    reason = f"Too long a trunk: {numbers}; up to {longest:.0%} of the steps would be safe."
    return Verdict("shorten", reason, expected, limit, longest)
