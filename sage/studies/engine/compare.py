"""Recipes side by side: what is compared, what was measured, and which is better beyond chance.

Knows recipes and measured numbers; nothing of what a study asks.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from sage.studies.engine.answers import quality_of
from sage.studies.engine.cells import Recipe
from sage.studies.engine.judges import METRIC
from sage.studies.engine.lab import Lab
from sage.studies.engine.measure import Measured
from sage.studies.engine.prompts import PromptSet
from sage.studies.engine.results import Row, better, row


@dataclass(frozen=True, eq=False)
class Entry:
    """What becomes one line of a result.

    Attributes:
        name: Of the method: entries of one name are one line of a figure.
        recipe: How its pictures are made.
        values: Further plain values of the line; "label" tells it from others of that name.
        prompts: Instead of the study's own.
        only: Numbers of the groups to judge; all without it.
    """

    name: str
    recipe: Recipe
    values: Mapping[str, Any] = field(default_factory=dict)
    prompts: PromptSet | None = None
    only: tuple[int, ...] | None = None


@dataclass(frozen=True, eq=False)
class Design:
    """Everything a study compares.

    Attributes:
        entries: In the order of the result's lines.
        prompts: What the pictures are of; None where every entry says so itself.
        facts: What else was found out before the first picture was judged.
    """

    entries: Sequence[Entry] = ()
    prompts: PromptSet | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def prompts_of(self, entry: Entry) -> PromptSet:
        """An entry's own prompts, or those of the study.

        Raises:
            ValueError: If there are none.
        """
        prompts = self.prompts if entry.prompts is None else entry.prompts
        if prompts is None:
            raise ValueError(f"The entry {entry.name!r} has no prompts.")
        return prompts


@dataclass(frozen=True, eq=False)
class Line:
    """An entry and its numbers."""

    name: str
    values: Mapping[str, Any]
    measured: Measured

    @property
    def label(self) -> str:
        """What tells it from others of its name."""
        return self.values.get("label", "")

    def value(self, key: str) -> float:
        """A metric of it."""
        return self.measured.metrics[key].value


def plain_rows(comparison: "Comparison") -> list[Row]:
    """Every line with its values."""
    return [row(line.name, line.measured, **line.values) for line in comparison.lines]


@dataclass(eq=False)
class Comparison:
    """The measured lines of a study.

    Attributes:
        lab: Where it ran.
        design: What was compared.
        lines: One for each entry.
        make_rows: The study's way to its rows.
    """

    lab: Lab
    design: Design
    lines: Sequence[Line]
    make_rows: Callable[["Comparison"], list[Row]] = plain_rows

    @cached_property
    def rows(self) -> list[Row]:
        """The lines as they are written."""
        return self.make_rows(self)

    def all(self, name: str | None = None, **values: Any) -> list[Line]:
        """The lines of a name, with certain values."""
        return [
            line
            for line in self.lines
            if name in (None, line.name)
            and all(line.values.get(key) == value for key, value in values.items())
        ]

    def one(self, name: str | None = None, **values: Any) -> Line:
        """The first line of a name, with certain values.

        Raises:
            LookupError: If there is none.
        """
        lines = self.all(name, **values)
        if not lines:
            raise LookupError(f"There is no line {name!r} with {values}.")
        return lines[0]

    @property
    def quality(self) -> tuple[str, ...]:
        """The metrics that say how good pictures are, of those that were measured."""
        return quality_of(self.lines[0].measured.metrics)

    def summary(self, line: Line) -> str:
        """A line's quality in words."""
        return ", ".join(f"{METRIC[key].title} {line.value(key):.3g}" for key in self.quality)

    def differing(self, pairs: Sequence[tuple[Line, Line]], sign: int) -> str:
        """The metrics in which the first of each pair differs from the second, beyond chance.

        Args:
            pairs: Lines, and what each is compared with.
            sign: 1 for better, -1 for worse.

        Returns:
            Titles, each with the labels of its pairs if not all of them differ; "" if none does.
        """
        titles = []
        for key in self.quality:
            at = [a.label for a, b in pairs if better(a.measured, b.measured, key) == sign]
            some = f" ({'; '.join(at)})" if len(at) < len(pairs) else ""
            titles += [METRIC[key].title + some] if at else []
        return ", ".join(titles)


def measure_all(lab: Lab, design: Design) -> list[Line]:
    """Renders what is missing and measures every entry."""
    work = [(entry.recipe, design.prompts_of(entry)) for entry in design.entries]
    twins = [(lab.recipe(), prompts) for _, prompts in work]
    lab.render([*twins, *work])
    return [
        Line(entry.name, entry.values, lab.measure(*each, entry.only))
        for entry, each in zip(design.entries, work, strict=True)
    ]


def rows_with_front(cost: str = "evaluations") -> Callable[[Comparison], list[Row]]:
    """Rows whose "front" names the metrics in which nothing cheaper is as good."""

    def rows(comparison: Comparison) -> list[Row]:
        lines = plain_rows(comparison)
        for line in lines:
            line["front"] = [key for key in line["metrics"] if on_front(line, lines, key, cost)]
        return lines

    return rows


def on_front(
    line: Mapping[str, Any], lines: Sequence[Mapping[str, Any]], key: str, cost: str
) -> bool:
    """Whether no other line costs no more and is better, or is as good and costs less."""
    sign = METRIC[key].better or 1
    points = [(o[cost], -sign * o["metrics"][key]["value"]) for o in lines if key in o["metrics"]]
    return unbeaten((line[cost], -sign * line["metrics"][key]["value"]), points)


def unbeaten(point: tuple[float, float], points: Sequence[tuple[float, float]]) -> bool:
    """Whether no other point is as low in both coordinates."""
    return not any(
        cost <= point[0] and loss <= point[1] and (cost, loss) != point for cost, loss in points
    )


def no_worse(first: Measured, second: Measured, keys: Sequence[str]) -> bool:
    """Whether the paired interval of every metric leaves open that first is as good as second."""
    return all(better(first, second, key) >= 0 for key in keys if key in first.metrics)
