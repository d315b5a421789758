"""What a study declares, and the one way from a declaration to its result."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sage.studies import STUDIES
from sage.studies.engine.compare import Comparison, Design, measure_all, plain_rows
from sage.studies.engine.figures import Figure
from sage.studies.engine.judges import METRICS
from sage.studies.engine.lab import Lab
from sage.studies.engine.results import Result, Row, conditions


def _nothing(comparison: Comparison) -> dict[str, Any]:
    return {}


def sage_adapter(comparison: Comparison) -> dict[str, Any]:
    """The condition of most studies: which SAGE adapter was used."""
    lab = comparison.lab
    return {"adapter": lab.adapter_digest(lab.settings.sage_adapter)}


@dataclass(frozen=True)
class Study:
    """One question.

    Attributes:
        name: On the command line and of its files.
        title: In lists and figures.
        about: Its module's docstring; the first paragraph is the question.
        design: What is compared.
        answer: The answer in a few words, from a result: what a reader sees first.
        finding: The answer with its numbers, computed from the comparison.
        figure: The answer as a figure.
        rows: The lines of the result.
        more: Further parts of the result.
        conditions: Further conditions of the numbers.
        columns: Values of a row that its table shows beside the numbers, with their titles.
        defaults: Settings of the lab that differ from the usual ones.
    """

    name: str
    title: str
    about: str | None
    design: Callable[[Lab], Design]
    answer: Callable[[Result], str]
    finding: Callable[[Comparison], str]
    figure: Callable[[Result], Figure]
    rows: Callable[[Comparison], list[Row]] = plain_rows
    more: Callable[[Comparison], dict[str, Any]] = _nothing
    conditions: Callable[[Comparison], dict[str, Any]] = sage_adapter
    columns: Mapping[str, str] = field(default_factory=lambda: {"label": ""})
    defaults: Mapping[str, Any] = field(default_factory=dict)

    @property
    def question(self) -> str:
        """The first paragraph of what it says about itself."""
        return (self.about or "").strip().split("\n\n")[0].replace("\n", " ")

    def run(self, lab: Lab) -> Result:
        """Renders what is missing, judges it and answers the question."""
        design = self.design(lab)
        comparison = Comparison(lab, design, measure_all(lab, design), self.rows)
        rows = comparison.rows
        used = {key for line in rows for key in line.get("metrics", {})}
        result = {
            "study": self.name,
            "title": self.title,
            "question": self.question,
            "finding": self.finding(comparison),
            "rows": rows,
            **self.more(comparison),
            "metrics": {
                m.key: {"title": m.title, "about": m.about, "better": m.better}
                for m in METRICS
                if m.key in used
            },
            "conditions": conditions(lab, design.prompts, **self.conditions(comparison)),
        }
        return self.answered(result)

    def answered(self, result: Result) -> Result:
        """A result with its answer in a few words beside the question."""
        first = ("study", "title", "question")
        known = {key: result[key] for key in first} | {"answer": self.answer(result)}
        return known | {key: value for key, value in result.items() if key not in known}


def load(name: str) -> Study:
    """A study by its name.

    Raises:
        ValueError: If there is none of that name.
    """
    if name not in STUDIES:
        raise ValueError(
            f"The study is {name!r}; allowed are {', '.join(STUDIES)}, draw and tables."
        )
    return importlib.import_module(f"sage.studies.{name.replace('-', '_')}").STUDY


def every() -> Sequence[Study]:
    """All studies, in the order of the tables."""
    return [load(name) for name in STUDIES]
