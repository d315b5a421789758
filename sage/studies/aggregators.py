"""What should a trunk follow: the mean embedding of its prompts, or something else?

Five rules at the same branch point: the paper's mean, ours at the members' length, the medoid,
the members in turn, and the mean of their predictions, which costs as much as not sharing and is
what the soft target of L_SAGE trains the first one to be.
"""

from sage.core.settings import TRUNKS
from sage.studies.engine.answers import first_judge
from sage.studies.engine.compare import Comparison, Design, Entry, rows_with_front
from sage.studies.engine.figures import QUALITY, Bars, Figure, by_key, caption, metric_title, wanted
from sage.studies.engine.lab import Lab
from sage.studies.engine.methods import INDEPENDENT
from sage.studies.engine.results import Result
from sage.studies.engine.study import Study

RATIO = 0.4
TRAINED, UNTRAINED = "SAGE", "untrained"


def design(lab: Lab) -> Design:
    """All rules at one branch point, without training and with the SAGE adapter."""
    steps = {"label": f"{lab.settings.steps} steps"}
    entries = [Entry(INDEPENDENT, lab.recipe(), steps)]
    entries += [
        Entry(title, lab.recipe(RATIO, adapter, trunk=trunk), {"label": label})
        for trunk, title in TRUNKS.items()
        for label, adapter in ((UNTRAINED, None), (TRAINED, lab.settings.sage_adapter))
    ]
    return Design(entries, lab.prompts)


def answer(result: Result) -> str:
    """The rule of the best pictures, where nothing was trained."""
    title, value = first_judge(result)
    rules = {row["name"]: value(row) for row in result["rows"] if row["label"] == UNTRAINED}
    best, paper = min(rules, key=rules.__getitem__), TRUNKS["mean"]
    return (
        f"Without training, {title} is lowest for “{best}”: {rules[best]:.3g}; for the paper's "
        f"“{paper}” it is {rules[paper]:.3g}."
    )


def finding(comparison: Comparison) -> str:
    """One sentence: which rules differ from the paper's, beyond chance."""
    paper = {line.label: line for line in comparison.all(TRUNKS["mean"])}
    parts = []
    for title in [title for trunk, title in TRUNKS.items() if trunk != "mean"]:
        pairs = [(line, paper[line.label]) for line in comparison.all(title)]
        for sign, word in ((1, "better"), (-1, "worse")):
            if where := comparison.differing(pairs, sign):
                parts.append(f"{title.lower()} is {word} in {where}")
    first = next(iter(paper.values()))
    against = f"Against the paper's mean embedding ({comparison.summary(first)} {first.label})"
    return f"{against}, {'; '.join(parts) if parts else 'no other rule differs'} beyond chance."


def figure(result: Result) -> Figure:
    """Quality of each rule."""
    panels = []
    for key in wanted(result, QUALITY):
        rows = []
        for name, lines in by_key(result["rows"]).items():
            numbers = {line["label"]: line["metrics"].get(key) for line in lines}
            untrained = numbers.get(UNTRAINED, lines[0]["metrics"].get(key))
            rows.append((name, [untrained, numbers.get(TRAINED)]))
        names = ((UNTRAINED, 0), ("with the SAGE adapter", 1))
        panels.append(Bars(metric_title(result, key), rows, names))
    return Figure(result["title"], panels, caption(result))


STUDY = Study(
    name="aggregators",
    title="What a trunk follows",
    about=__doc__,
    design=design,
    rows=rows_with_front(),
    answer=answer,
    finding=finding,
    figure=figure,
    defaults={"pictures": 336, "seeds": 1},
)
