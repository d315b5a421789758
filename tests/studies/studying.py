"""Runs a study as the command line does, and checks what every result must have."""

import importlib
import json

from sage.studies import STUDIES
from sage.studies.engine.judges import METRIC
from sage.studies.engine.results import read, write


def made(name, lab):
    """A study's result and figure, as they are written."""
    import plotly.graph_objects as go

    study = importlib.import_module(STUDIES[name])
    found = study.run(lab)
    path = write(lab.settings.out, found, study.figure(found))
    figure = json.loads(path.with_name(f"{name}.figure.json").read_text())
    assert go.Figure(figure).layout.title.text
    found = read(lab.settings.out, name)
    assert found["question"].endswith("?")
    assert found["finding"].endswith(".")
    assert set(found["metrics"]) <= set(METRIC)
    return found
