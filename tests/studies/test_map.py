"""When sharing pays: the map on a tiny model, and what the stored one promises and says."""

import json
import math
from dataclasses import replace

import pytest

from sage.core.planner import Planning
from sage.sd.pipeline import SagePipeline
from sage.sd.schedulers import make_scheduler
from sage.sd.spacing import solver_key, timesteps_of
from sage.studies import map as study
from sage.studies import schedules
from sage.studies.engine import fitting, sets, teacher
from sage.studies.engine.figures import svg
from sage.studies.engine.lab import RESULTS, Lab
from tests.core.test_planner import planning
from tests.studies.studying import run_study

STORED = json.loads((RESULTS / "map.json").read_text("utf-8"))
CELLS = {(c["budget"], c["size"]): c for c in STORED["cells"] if c["kind"] == study.EVERY}


@pytest.fixture(scope="module")
def pipe():
    return SagePipeline.from_pretrained("assets/emoji-scenes")


# -- what is stored ------------------------------------------------------------------------------


def test_every_budget_and_every_size_was_measured():
    assert set(CELLS) == {(b, n) for b in study.BUDGETS for n in (2, 4, 8, 16)}
    assert study.BUDGETS == (3, 4, 5, 6, 8, 12)
    for cell in CELLS.values():
        assert {"fd", "clip", "probe"} <= set(cell["planned_to_alone"])
        assert {"fd", "clip", "probe"} <= set(cell["planned_to_fixed"])


def test_the_planned_run_is_nowhere_worse_than_independent_steps_or_the_fixed_ratio():
    pairs = ("planned_to_alone", "planned_to_fixed")
    assert study.broken(STORED, pairs) == []
    for pair in pairs:  # and no more single intervals than chance puts there, about
        faults, number = study.worse(STORED, pair)
        assert len(faults) <= max(1, 0.05 * number)


def test_no_other_places_are_better_than_those_that_the_fit_chose():
    labels = {place["label"] for place in STORED["elsewhere"]}
    chosen = STORED["fit"]["spacing"]
    assert labels == {
        f"{b} evaluations, {s}" for b in study.BUDGETS for s in study.RIVALS if s != chosen[str(b)]
    }
    assert study.broken(STORED) == []


def test_nobody_spends_more_than_the_budget():
    for row in STORED["rows"]:
        assert row["evaluations"] <= row["budget"] + 1e-9


def test_what_was_fitted_was_fitted_on_other_prompts():
    assert STORED["conditions"]["fitted_on_sets"] >= 2
    assert set(STORED["fit"]["guidance"]) == {"alone", "shared"}
    tried = STORED["fit"]["tried"]
    solver = STORED["fit"]["scheduler"]
    assert max(tried["schedules"], key=tried["schedules"].get).split()[0] == solver
    for budget, spacing in STORED["fit"]["spacing"].items():
        scores = tried["spacings"][budget]
        assert max(scores, key=scores.get) == spacing
        assert fitting.USUAL in scores


@pytest.mark.slow
def test_the_planner_places_its_steps_where_the_fit_liked_them(pipe):
    known, fit = pipe.settings.planning, STORED["fit"]
    assert known.trunk == schedules.TRUNK
    if known.conditions["model"] != STORED["conditions"]["model"]:
        return  # the map is of another model
    assert known.weight == (fit["weight"] if fit["pays"] else math.inf)
    like = make_scheduler(fit["scheduler"], like=pipe.scheduler)
    for budget, spacing in fit["spacing"].items():
        steps = int(budget)
        expected = timesteps_of(spacing, steps, like, known)
        assert known.places[solver_key(like)][steps - 1] == expected


def test_the_sentences_follow_from_the_cells():
    assert study.sentences(STORED) == STORED["sentences"]
    assert study.in_words(STORED) == STORED["finding"]
    for judge in ("fd", "clip", "probe"):
        cells = study.verdicts(STORED, judge)
        assert sum(map(len, cells.values())) == len(CELLS)


def test_eight_planned_steps_are_as_good_as_twelve_uniform_ones():
    """Up to a thousandth of the value: a paired interval shows differences that nobody sees."""
    stored = json.loads((RESULTS / "schedules.json").read_text("utf-8"))
    for solver, gaps in stored["differences"].items():
        (uniform,) = (
            row["metrics"]
            for row in stored["rows"]
            if (row["solver"], row["steps"]) == (solver, schedules.UNIFORM)
        )
        for judge in ("fd", "clip", "probe"):
            small = abs(gaps[judge]["value"]) <= uniform[judge]["value"] / 1000
            assert gaps[judge]["sign"] >= 0 or small, (solver, judge)


# -- how it is made ------------------------------------------------------------------------------


@pytest.fixture
def few(monkeypatch, settings):
    """A lab on emoji scenes with few captions, steps and choices."""
    monkeypatch.setattr(sets, "SAMPLE", 150)
    monkeypatch.setattr(teacher, "TEACHER_STEPS", 4)
    monkeypatch.setattr(study, "BUDGETS", (2, 3))
    monkeypatch.setattr(study, "FIT_SETS", 1)
    monkeypatch.setattr(schedules, "FIT_SETS", 1)
    monkeypatch.setattr(fitting, "MIDDLE", 2)
    monkeypatch.setattr(fitting, "WEIGHTS", (0.3, 3.0))
    monkeypatch.setattr(fitting, "GUIDANCE", (1.0,))
    return Lab(replace(settings, data="scenes", pictures=32, seeds=1))


@pytest.mark.slow
def test_the_map_is_measured_fitted_and_drawn(few):
    found = run_study("map", few)
    assert [c["kind"] for c in found["cells"]] == [study.EVERY, study.LOOSE, study.TIGHT] * 8
    assert {(c["budget"], c["size"]) for c in found["cells"]} == {
        (b, n) for b in (2, 3) for n in (2, 4, 8, 16)
    }
    for row in found["rows"]:
        assert row["evaluations"] <= row["budget"]
    for cell in found["cells"]:
        assert set(cell["sharing"]) <= set(study.JUDGES)
    stored = Planning.read(few.settings.out / "planning")
    fit = found["fit"]
    assert stored.weight == (fit["weight"] if fit["pays"] else math.inf)
    signs = [sign for judged in fit["tried"]["sharing"].values() for sign in judged.values()]
    assert fit["pays"] == (1 in signs and -1 not in signs)
    assert fit["pays"] or not any(cell["taken"] for cell in found["cells"])
    assert set(found["fit"]["spacing"]) == {"2", "3"}
    (places,) = stored.places.values()
    assert [len(some) for some in places] == list(range(1, 31))


@pytest.mark.slow
def test_schedules_are_compared_with_both_solvers(few):
    few.pipe.settings = replace(few.pipe.settings, planning=deep_planning())
    found = run_study("schedules", few)
    assert len(found["rows"]) == 2 * 7
    assert set(found["differences"]) == {"ddim", "dpm++2m"}
    assert not (few.settings.out / "planning").exists()


def deep_planning():
    """One that plans twelve steps."""
    known = planning()
    rows = tuple(tuple(0.1 * (k + 1) for k in range(14 - i)) for i in range(14))
    levels = tuple(range(999, 999 - 70 * 14, -70))
    return replace(known, levels=levels, errors={"ddim": rows, "dpm++2m": rows},
                   bias=tuple((0.0,) * 15 for _ in known.sizes))  # fmt: skip


def result(**signs):
    """A map of one judge whose cells have these signs, by budget and size."""
    cells = [
        {"budget": int(at[1]), "size": int(at[3:]), "kind": study.EVERY, "taken": sign > 0,
         "sharing": {"clip": {"sign": sign, "value": 0.1, "low": 0.0, "high": 0.2}}}
        for at, sign in signs.items()
    ]  # fmt: skip
    rows = [
        {"name": study.SHARED, "kind": study.EVERY, "budget": c["budget"], "size": c["size"],
         "shared_steps": 1, "steps": 3} for c in cells
    ]  # fmt: skip
    return {"cells": cells, "rows": rows, "title": "When?", "conditions": {"model": "M"}}


def test_the_words_say_where_sharing_wins_and_where_not():
    told = study.sentences(result(b3n2=1, b3n4=0, b4n2=-1, b4n4=-1))
    assert told[0].startswith("In CLIP score sharing wins in 1 of 4 cells (at 3 evaluations a pic")
    assert "fewer steps win in 2 (at 4 evaluations a picture, groups of 2, 4)" in told[0]
    assert told[1].startswith("On the model *M*, the planner shares in 1 of them")
    assert "wins nowhere" in study.sentences(result(b3n2=0))[0]


def test_the_figure_has_a_tile_for_each_cell(monkeypatch):
    monkeypatch.setattr(study, "BUDGETS", (3, 4))
    monkeypatch.setattr(study, "SIZES", (2, 4))
    monkeypatch.setattr(study, "SHOWN", ("clip",))
    monkeypatch.setattr(study, "caption", lambda _: "")
    drawn = svg(study.figure(result(b3n2=1, b3n4=0, b4n2=-1, b4n4=-1)))
    assert [drawn.count(f'class="t{n} f{n}"') for n in (0, 1, 2)] == [1, 1, 2]
    assert drawn.count(">1/3<") == 4


def test_a_broken_promise_is_said():
    gap = {"sign": -1, "value": 1.0, "low": 0.2, "high": 1.8}  # 2.45 standard errors, of many sets
    sets = {"conditions": {"sets": 1000}}
    cell = {"budget": 3, "size": 2, "planned_to_alone": {"fd": gap}}
    told = "FD-EffLite0 at 3 evaluations, groups of 2"
    assert study.broken(sets | {"cells": [cell]}) == [f"{told}: worse than independent steps"]
    others = [{"budget": 4, "size": n, "planned_to_alone": {"fd": gap | {"sign": 0}}}
              for n in range(20)]  # fmt: skip
    assert study.broken(sets | {"cells": [cell, *others]}) == []  # one of 21 may be chance
    assert told in study.promise(sets | {"cells": [cell, *others]})


def test_other_places_count_in_the_promise():
    gap = {"sign": -1, "value": 1.0, "low": 0.2, "high": 1.8}
    place = {"label": "3 evaluations, trailing", "budget": 3, "planned_to_elsewhere": {"fd": gap}}
    sets = {"conditions": {"sets": 1000}}
    assert study.broken(sets | {"cells": [], "elsewhere": [place]}) == [
        "FD-EffLite0 at 3 evaluations, trailing: worse than independent steps elsewhere"
    ]


def test_the_caption_names_every_guidance():
    scales = [s for side in STORED["fit"]["guidance"].values() for s in side.values()]
    ends = f"{min(scales):g} to {max(scales):g}, fitted to the budget"
    told = ends if len(set(scales)) > 1 else f"{scales[0]:g}"
    assert f"guidance {told}" in svg(study.figure(STORED))


@pytest.mark.slow
def test_minutes_buy_sets(few, monkeypatch):
    prompts = sets.budget_sets(few, sets.FIT, 1)[0]
    monkeypatch.setattr(Lab, "evaluation_seconds", lambda *_: 0.01)
    for minutes, number in ((None, 5), (100, 5), (1.06, 2)):
        few.settings = replace(few.settings, minutes=minutes)
        assert study.affordable(few, prompts, 5) == number
    few.settings = replace(few.settings, minutes=0.1)
    with pytest.raises(ValueError, match=r"minutes is 0\.1; the smallest map takes about"):
        study.affordable(few, prompts, 5)
