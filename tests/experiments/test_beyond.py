"""The studies beyond the paper run on a tiny model and say what their numbers say."""

from dataclasses import replace

import numpy as np
import pytest

from sage.calibration import Calibration
from sage.cost import evaluations
from sage.experiments import adaptive, aggregators, diversity, few_step, pareto, trees
from sage.experiments.contest import on_front
from sage.experiments.lab import Lab
from tests.experiments.studying import made


@pytest.fixture
def lab(settings):
    """Five steps, one seed, eight pictures."""
    return Lab(replace(settings, pictures=8, seeds=1, steps=5))


def test_trees_spend_no_more_than_one_level(lab):
    found = made("trees", lab)
    spent = {(line["name"], line["label"]): line["evaluations"] for line in found["rows"]}
    for (name, label), value in spent.items():
        if name.startswith("tree"):
            assert value <= spent["one level", label] + 1e-9
    plans = trees.tree_plans(lab, lab.prompts, 0.4)
    one = evaluations(lab.pipe.plan(lab.prompts.groups, 5, 0.4))
    assert all(evaluations(plan) <= one for plan in plans.values())
    inside = plans[trees.INSIDE]
    owner = lab.prompts.owner
    assert all(len({owner[n] for n in s.members}) == 1 for s in inside.segments)


def test_every_rule_of_the_trunk_is_compared(lab):
    found = made("aggregators", lab)
    names = [line["name"] for line in found["rows"]]
    assert {names.count(title) for title in aggregators.TRUNKS.values()} == {2}
    prediction = [
        line for line in found["rows"] if line["name"] == aggregators.TRUNKS["prediction"]
    ]
    assert all(line["saving"] == 0 for line in prediction)


def test_diversity_is_swept_by_fresh_noise(lab):
    found = made("diversity", lab)
    assert len(found["rows"]) == 1 + len(diversity.RATIOS) * len(diversity.SHARES)


def test_few_steps_are_shared_and_not(lab, adapter_folder, monkeypatch):
    monkeypatch.setattr(few_step, "student", lambda lab, steps: adapter_folder)
    found = made("few-step", lab)
    names = {line["name"] for line in found["rows"]}
    assert {"distilled, alone", "distilled, shared", "DPM-Solver++ (2M), shared"} <= names


def test_adaptive_branch_points_are_held_against_fixed_ones(lab):
    found = made("adaptive", lab)
    fixed = [line for line in found["rows"] if line["name"] == adaptive.FIXED]
    assert len(fixed) == len(adaptive.RATIOS)
    assert {line["name"] for line in found["rows"]} >= {adaptive.BEFORE, adaptive.WHILE}
    folders = lab.settings.out / "calibration"
    tables = [Calibration.read(folders / lab.settings.sage_adapter.name)]
    tables.append(Calibration.read(folders / "untrained"))
    assert all(table.distance[0][0] == 0 for table in tables)  # the twin itself
    limits = [line["limit"] for line in found["calibrations"].values()]
    assert limits == [table.limit for table in tables]
    assert "saves" in found["finding"]


def test_the_limit_is_where_too_many_pictures_are_lost():
    words = {"limit": 1.0, "measure": "", "conditions": {}}
    made = Calibration((0.5,), (0.1, 0.2, 0.3, 0.4), ((0.0, 0.1, 0.2, 0.3),), **words)
    lost = np.array([[0.0, 0.01, 0.02, 0.5]])
    assert adaptive.limit_of(made, [10], lost) == pytest.approx(0.2)
    assert adaptive.limit_of(made, [10], lost + 0.2) == 0
    assert adaptive.limit_of(made, [10], None) == pytest.approx(0.3)


def test_all_of_it_is_on_one_plot(lab, adapter_folder, monkeypatch):
    monkeypatch.setattr(pareto, "student", lambda lab, steps: adapter_folder)
    found = made("pareto", lab)
    guided = [line for line in found["rows"] if line["name"] == "guidance interval"]
    base = found["rows"][0]
    assert all(line["evaluations"] == base["evaluations"] for line in guided)
    assert all(line["gigaflops"] < base["gigaflops"] for line in guided)
    assert any(line["front"] for line in found["rows"])


def test_the_front_is_what_nothing_beats():
    def line(cost, value):
        return {"evaluations": cost, "metrics": {"fd": {"value": value}}}

    lines = [line(1, 5.0), line(2, 4.0), line(2, 4.5), line(3, 4.0)]
    assert [on_front(one, lines, "fd", "evaluations") for one in lines] == [
        True,
        True,
        False,
        False,
    ]
