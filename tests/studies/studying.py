"""Runs a study as the command line does, and checks what every result must have."""

from types import SimpleNamespace

import numpy as np

from sage.studies.engine.judges import METRIC
from sage.studies.engine.results import read, write
from sage.studies.engine.study import load


def run_study(name, lab):
    """A study's result, as it is written and read again."""
    study = load(name)
    result = study.run(lab)
    path = write(lab.settings.out, result, study.figure(result))
    assert path.with_suffix(".svg").read_text().startswith("<svg")
    stored = read(lab.settings.out, name)
    assert stored is not None
    assert stored["question"].endswith("?")
    assert stored["finding"].endswith(".")
    assert stored["answer"].endswith(".")
    assert len(stored["answer"]) < 240
    assert set(stored["metrics"]) <= set(METRIC)
    return stored


class Level:
    """A number whose difference from another is beyond chance from 0.01 on."""

    def __init__(self, value):
        self.value = value

    def minus(self, other):
        gap = self.value - other.value
        return SimpleNamespace(sign=0 if abs(gap) < 0.01 else int(np.sign(gap)))


def measured(flops=0.0, **values):
    """Numbers with a known chance."""
    return SimpleNamespace(flops=flops, metrics={k: Level(v) for k, v in values.items()})
