"""The studies beyond the paper run on a tiny model and say what their numbers say."""

from dataclasses import replace

import numpy as np
import pytest

from sage.core.calibration import Calibration
from sage.core.cost import evaluations
from sage.core.settings import TRUNKS
from sage.jobs.models import ASSETS
from sage.studies import adaptive, diversity, pareto
from sage.studies.engine import calibrate, methods
from sage.studies.engine.cells import Cell, Recipe, adapter_file, file_digest
from sage.studies.engine.compare import Comparison, Design, Entry, Line, on_front
from sage.studies.engine.lab import Lab
from tests.studies.studying import measured, run_study


@pytest.fixture
def lab(settings):
    """Five steps, one seed, eight pictures."""
    return Lab(replace(settings, pictures=8, seeds=1, steps=5))


@pytest.mark.slow
def test_trees_spend_no_more_than_one_level(lab):
    found = run_study("trees", lab)
    spent = {(line["name"], line["label"]): line["evaluations"] for line in found["rows"]}
    for (name, label), value in spent.items():
        if name.startswith("tree"):
            assert value <= spent["one level", label] + 1e-9
    plans = methods.tree_plans(lab, lab.prompts, 0.4)
    one = evaluations(lab.pipe.plan(lab.prompts.groups, 5, 0.4))
    assert all(evaluations(plan) <= one for plan in plans.values())
    inside = plans[methods.INSIDE]
    owner = lab.prompts.owner
    assert all(len({owner[n] for n in s.members}) == 1 for s in inside.segments)


@pytest.mark.slow
def test_every_rule_of_the_trunk_is_compared(lab):
    found = run_study("aggregators", lab)
    names = [line["name"] for line in found["rows"]]
    assert {names.count(title) for title in TRUNKS.values()} == {2}
    prediction = [line for line in found["rows"] if line["name"] == TRUNKS["prediction"]]
    assert all(line["saving"] == 0 for line in prediction)


@pytest.mark.slow
def test_diversity_is_swept_by_fresh_noise(lab):
    found = run_study("diversity", lab)
    assert len(found["rows"]) == 1 + len(diversity.RATIOS) * len(diversity.SHARES)


def test_diversity_says_what_fresh_noise_brings_and_what_it_costs():
    def finding(some, more):
        lines = [Line("independent", {}, measured(inside=0.6, clip=0.6))]
        for ratio in diversity.RATIOS:
            for label, (inside, clip) in (("0%", (0.5, 0.6)), ("50%", some), ("100%", more)):
                numbers = measured(inside=inside, clip=clip)
                lines.append(Line(f"ratio {ratio:g}", {"label": label}, numbers))
        return diversity.finding(Comparison(None, Design(), lines))

    gain = "at ratio 0.3 50% brings 0.500 to 0.540 without harm"
    assert gain in finding((0.54, 0.6), (0.55, 0.5))
    none = "at ratio 0.5 fresh noise brings no more than 0.500"
    assert none in finding((0.5, 0.6), (0.501, 0.7))
    assert "brings more than 0.500 only with harm" in finding((0.54, 0.5), (0.55, 0.5))


@pytest.mark.slow
def test_few_steps_are_shared_and_not(lab, adapter_folder, monkeypatch):
    monkeypatch.setattr(methods, "student", lambda lab, steps: adapter_folder)
    found = run_study("few-step", lab)
    names = {line["name"] for line in found["rows"]}
    assert names >= {"distilled, alone", "distilled, shared at 0.25", "DDIM, shared at 0.4"}
    assert "DDIM, 4 steps: " in found["finding"]
    table = Calibration.read(lab.settings.out / "calibration" / adapter_folder.name)
    assert table.share_ratio == tuple(n / 8 for n in range(9))  # of the last one
    assert table.conditions["steps"] == 8
    assert table.conditions["guidance_scale"] == 1
    assert table.expected(0.0, 0.0) == 0 < table.expected(0.0, 1.0)


@pytest.mark.slow
def test_adaptive_branch_points_are_held_against_fixed_ones(lab):
    found = run_study("adaptive", lab)
    fixed = [line for line in found["rows"] if line["name"] == adaptive.FIXED]
    assert len(fixed) == len(adaptive.RATIOS)
    assert {line["name"] for line in found["rows"]} >= {adaptive.BEFORE, adaptive.WHILE}
    folders = lab.settings.out / "calibration"
    tables = [Calibration.read(folders / lab.settings.sage_adapter.name)]
    tables.append(Calibration.read(folders / "untrained"))
    assert all(table.distance[0][0] == 0 for table in tables)  # the twin itself
    assert all(table.conditions["random_pictures"] == 4 for table in tables)
    limits = [line["limit"] for line in found["calibrations"].values()]
    assert limits == [table.limit for table in tables]
    assert "saves" in found["finding"]


@pytest.mark.slow
def test_random_groups_are_whole_and_leave_nobody_alone(lab):
    for pictures in (10, 12, 24, 32):
        groups = calibrate.random_groups(Lab(replace(lab.settings, pictures=pictures))).groups
        assert [n for group in groups for n in group] == list(range(pictures // 2))
        assert all(2 <= len(group) <= 6 for group in groups)


@pytest.mark.slow
def test_twins_in_a_group_start_from_one_noise_and_share_nothing(lab):
    prompts = lab.prompts
    twin = replace(lab.recipe(), common_noise=True)
    seeds = Cell(twin, prompts, 0).noise_seeds
    assert all(seeds[n] == min(group) for group in prompts.groups for n in group)
    assert Cell(lab.recipe(), prompts, 0).noise_seeds == tuple(range(len(prompts)))
    alone, apart = (lab.cell(Cell(s, prompts, 0)) for s in (twin, lab.recipe()))
    assert alone["evaluations"] == apart["evaluations"] == len(prompts) * 5
    first = [min(group) for group in prompts.groups]
    same = (alone["pictures"] == apart["pictures"]).all(axis=(1, 2, 3))
    assert same[first].all()
    assert not same.all()


def test_the_limit_is_where_too_many_pictures_are_lost():
    words = {"limit": 1.0, "measure": "", "conditions": {}}
    table = Calibration((0.5,), (0.1, 0.2, 0.3, 0.4), ((0.0, 0.1, 0.2, 0.3),), **words)
    lost = np.array([[0.0, 0.01, 0.02, 0.5]])
    assert calibrate.limit_of(table, [10], lost) == pytest.approx(0.2)
    assert calibrate.limit_of(table, [10], lost + 0.2) == 0
    assert calibrate.limit_of(table, [10], None) == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("folder", "measured"),
    [
        ("emoji-scenes", "untrained"),
        ("emoji-scenes-sage-lora", "emoji-scenes-sage-lora"),
        ("emoji-scenes-4-step-lora", "emoji-scenes-4-step-lora"),
    ],
)
def test_what_the_guard_reads_was_measured_on_these_weights(folder, measured):
    shipped = Calibration.read(ASSETS / folder)
    assert shipped == Calibration.read(ASSETS / "results" / "calibration" / measured)
    adapter = shipped.conditions["adapter"]
    if folder != "emoji-scenes":
        assert adapter == file_digest(adapter_file(ASSETS / folder))[:12]
    # Unlike prompts that are forced together lose more than similar ones: the negative control.
    assert shipped.expected(0.0, 0.4) > 1.1 * shipped.expected(0.6, 0.4)


@pytest.mark.slow
def test_all_of_it_is_on_one_plot(lab, adapter_folder, monkeypatch):
    monkeypatch.setattr(methods, "student", lambda lab, steps: adapter_folder)
    found = run_study("pareto", lab)
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


def test_a_way_of_sharing_is_beaten_by_what_is_better_and_no_dearer():
    def line(flops, clip, probe):
        return Line("", {}, measured(flops, clip=clip, probe=probe))

    keys, own = ("clip", "probe"), line(10, 0.60, 0.90)
    beating = [line(10, 0.62, 0.90), line(5, 0.60, 0.92)]
    others = [line(11, 0.7, 1.0), line(5, 0.62, 0.88), line(5, 0.605, 0.905)]
    assert all(pareto.beaten(own, [rival], keys) for rival in beating)
    assert not pareto.beaten(own, others, keys)


def test_what_is_compared_is_found_by_its_values():
    lines = [Line("a", {"size": n}, measured()) for n in (2, 4)] + [Line("b", {}, measured())]
    comparison = Comparison(None, Design(), lines)
    assert comparison.all("a") == lines[:2]
    assert comparison.one("a", size=4) is lines[1]
    with pytest.raises(LookupError, match="'b'"):
        comparison.one("b", size=2)


def test_an_entry_without_prompts_is_refused():
    with pytest.raises(ValueError, match="'lost' has no prompts"):
        Design().prompts_of(Entry("lost", Recipe()))
