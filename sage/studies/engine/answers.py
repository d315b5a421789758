"""What the short answers have in common: numbers and verdicts out of the rows of a result."""

from collections.abc import Callable, Container, Iterable, Mapping

from sage.studies.engine.figures import QUALITY, Result, Row
from sage.studies.engine.judges import METRIC

Gaps = Mapping[str, Mapping[str, float]]


def quality_of(metrics: Container[str]) -> tuple[str, ...]:
    """The metrics that say how good pictures are, of those that were measured."""
    return tuple(key for key in QUALITY if key in metrics) or ("pixels",)


def first_judge(result: Result) -> tuple[str, Callable[[Row], float]]:
    """The title of the first of them, and how to read it in a row."""
    key = quality_of(result["metrics"])[0]
    return METRIC[key].title, lambda row: row["metrics"][key]["value"]


def tally(gaps: Iterable[Gaps], keys: Iterable[str]) -> str:
    """How many of some differences are for the better or for the worse.

    Args:
        gaps: One mapping for each comparison; "sign" is 1 where it is better beyond chance.
        keys: The judges to count. Where they contradict each other, neither is counted.
    """
    keys = tuple(keys)
    signs = [{gap[key]["sign"] for key in keys if key in gap} for gap in gaps]
    better = sum(1 in some and -1 not in some for some in signs)
    worse = sum(-1 in some and 1 not in some for some in signs)
    return f"better beyond chance in {better} of {len(signs)} settings, worse in {worse}"


def signed(number: float, form: str) -> str:
    """A number with its sign, as it is printed: a minus is not a hyphen."""
    text = format(number, f"+{form}").replace("-", "\N{MINUS SIGN}")
    return text if any(digit in text for digit in "123456789") else text[1:]  # no "−0"
