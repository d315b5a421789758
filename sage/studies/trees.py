"""Do trees, in which closer prompts share longer, beat one level of sharing at equal evaluations?

One-level sharing spends so much; a tree may spend no more. Two kinds of tree: inside the same
groups, and over all prompts at once, whose first steps then stand for dozens. The cut is that of
Decatur et al. 2025 (arXiv 2508.21032); their models, prompts and embeddings are others.
"""

from statistics import mean

from sage.studies.engine.answers import first_judge
from sage.studies.engine.compare import (
    Comparison,
    Design,
    Entry,
    rows_with_front,
)
from sage.studies.engine.figures import by_key, line_figure
from sage.studies.engine.lab import Lab
from sage.studies.engine.methods import INDEPENDENT, INSIDE, OVER_ALL, SAGE, UNTRAINED, tree_plans
from sage.studies.engine.results import Result, Row
from sage.studies.engine.study import Study

RATIOS = (0.3, 0.4, 0.5)
ONE_LEVEL = "one level"


def design(lab: Lab) -> Design:
    """One level and both trees, with the SAGE adapter; untrained at the middle ratio."""
    entries = [Entry(INDEPENDENT, lab.recipe(), {"label": "30 steps"})]
    for method, ratio in (*((SAGE, ratio) for ratio in RATIOS), (UNTRAINED, RATIOS[1])):
        adapter = lab.settings.sage_adapter if method == SAGE else None
        label = {"label": f"{method}, evaluations of ratio {ratio:g}"}
        entries.append(Entry(ONE_LEVEL, lab.recipe(ratio, adapter), label))
        entries += [
            Entry(name, lab.recipe(0.0, adapter, plan=plan), label)
            for name, plan in tree_plans(lab, lab.prompts, ratio).items()
        ]
    return Design(entries, lab.prompts)


def answer(result: Result) -> str:
    """One level beside both kinds of trees, in the first judge."""
    title, value = first_judge(result)
    parts = [
        f"{mean(value(row) for row in result['rows'] if row['name'] == name):.3g} for a {name}"
        for name in (INSIDE, OVER_ALL)
    ]
    level = mean(value(row) for row in result["rows"] if row["name"] == ONE_LEVEL)
    return (
        f"Averaged over equal numbers of evaluations, {title} is {level:.3g} for {ONE_LEVEL}, "
        f"{' and '.join(parts)}."
    )


def finding(comparison: Comparison) -> str:
    """One sentence: where each kind of tree differs from one level, beyond chance."""
    base = {line.label: line for line in comparison.all(ONE_LEVEL)}
    parts = []
    for kind in (INSIDE, OVER_ALL):
        pairs = [(line, base[line.label]) for line in comparison.all(kind)]
        higher, lower = (comparison.differing(pairs, sign) or "nothing" for sign in (1, -1))
        parts.append(f"a {kind} is better in {higher} and worse in {lower}")
    first = next(iter(base.values()))
    return (
        f"Against one level with as many evaluations ({comparison.summary(first)} with "
        f"{first.label}), {'; '.join(parts)}."
    )


def trained(result: Result) -> dict[str, list[Row]]:
    """The figure's lines: all with the SAGE adapter, and independent sampling."""
    return by_key([line for line in result["rows"] if not line["label"].startswith(UNTRAINED)])


STUDY = Study(
    name="trees",
    title="Trees against one level of sharing",
    about=__doc__,
    design=design,
    rows=rows_with_front(),
    answer=answer,
    finding=finding,
    figure=line_figure("evaluations", series=trained),
    defaults={"pictures": 336, "seeds": 1},
)
