"""What should a trunk follow: the mean embedding of its prompts, or something else?

Five rules at the same branch point: the paper's mean, ours at the members' length, the medoid,
the members in turn, and the mean of their predictions, which costs as much as not sharing and is
what the soft target of L_SAGE trains the first one to be.
"""

import sys
from collections.abc import Mapping
from typing import Any

from sage.core.trunk import TRUNKS
from sage.studies.engine.contest import (
    Contest,
    Entry,
    differing,
    hold,
    panels_of,
    quality_keys,
    rows,
    told,
)
from sage.studies.engine.lab import Lab
from sage.studies.engine.results import result
from sage.studies.main_table import INDEPENDENT

NAME, TITLE = "aggregators", "What a trunk follows"
DEFAULTS = {"pictures": 336, "seeds": 1}
RATIO = 0.4


def run(lab: Lab) -> dict[str, Any]:
    """All rules at one branch point, without training and with the SAGE adapter."""
    adapter = lab.settings.sage_adapter
    entries = [Entry(INDEPENDENT, f"{lab.settings.steps} steps", lab.setting())]
    for trunk, title in TRUNKS.items():
        # The mean is the default: its cells are those of the other studies.
        options = () if trunk == "mean" else (("trunk", trunk),)
        for label, chosen in (("untrained", None), ("SAGE", adapter)):
            entries.append(Entry(title, label, lab.setting(RATIO, chosen, options=options)))
    found = hold(lab, entries)
    return result(
        sys.modules[__name__],
        lab,
        rows(found),
        finding(found),
        prompts=lab.prompts,
        conditions_={"adapter": lab.adapter_digest(adapter)},
    )


def finding(found: Contest) -> str:
    """One sentence: which rules differ from the paper's, beyond chance."""
    keys = quality_keys(found)
    paper = {entry.label: entry for entry in found if entry.name == TRUNKS["mean"]}
    said = []
    for title in [title for trunk, title in TRUNKS.items() if trunk != "mean"]:
        pairs = [(e, paper[e.label]) for e in found if e.name == title]
        for sign, word in ((1, "better"), (-1, "worse")):
            if where := differing(found, pairs, sign):
                said.append(f"{title.lower()} is {word} in {where}")
    first = next(iter(paper.values()))
    against = f"Against the paper's mean embedding ({told(found, first, keys)} {first.label})"
    return f"{against}, {'; '.join(said) if said else 'no other rule differs'} beyond chance."


def figure(found: Mapping[str, Any]) -> dict[str, Any]:
    """Quality against evaluations, a line for each rule."""
    return panels_of(found)
