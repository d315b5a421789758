"""Every study runs on a tiny model, goes on after a kill, and says what its numbers say."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from sage.core.grouping import cosine_similarity, group_prompts
from sage.jobs.models import ASSETS
from sage.sd import features
from sage.studies import main_table
from sage.studies.__main__ import main
from sage.studies.engine import methods, tables
from sage.studies.engine.cells import Renderer
from sage.studies.engine.judges import Judges
from sage.studies.engine.lab import DryRun, Lab
from sage.studies.engine.prompts import (
    bounds,
    linked,
    loose_scenes,
    open_prompts,
    painted,
    ungrouped,
)
from sage.studies.engine.results import read, write
from sage.studies.engine.sets import cliques
from sage.studies.engine.study import every, load
from sage.studies.grouping import random_pairs
from sage.studies.loss_forks import changes
from sage.studies.main_table import verdict
from sage.studies.open_domain import free_phrasing, separation, unknown_words
from sage.world.scenes import held_out
from sage.world.words import model_words
from tests.studies.studying import run_study

pytestmark = pytest.mark.slow


def test_the_main_table_has_every_method_at_every_ratio(tiny_lab):
    found = run_study("main-table", tiny_lab)
    shared = (methods.FEWER, methods.UNTRAINED, methods.STANDARD)
    shared += (methods.SAGE, methods.NO_SOFT, methods.IN_TURN)
    names = [(line["name"], line["compared_at"]) for line in found["rows"]]
    assert names[0] == (methods.INDEPENDENT, 0.0)
    assert set(names[1:]) == {(name, r) for name in shared for r in main_table.RATIOS}
    base = found["rows"][0]
    assert base["metrics"]["pixels"]["value"] == 0
    assert base["metrics"]["twin"]["value"] == pytest.approx(0, abs=1e-12)
    assert base["evaluations"] == 2
    for line in found["rows"]:
        assert line["pictures"] == 2 * tiny_lab.prompts.summary()["prompts"]
        for number in line["metrics"].values():
            assert number["low"] <= number["high"]
    # Not one of the metrics needs a CLIP that the model does not have.
    assert not {"clip", "cmmd", "probe"} & set(found["metrics"])
    assert [claim["claim"].split()[0] for claim in found["claims"]] == ["cost", "FID", "diversity"]


def test_a_run_that_was_killed_renders_only_what_is_missing(settings, monkeypatch):
    monkeypatch.setattr(main_table, "RATIOS", (methods.RATIO,))
    rendered, real, most = [], Renderer.render, 3

    def counted(self, cell, *more):
        if len(rendered) == most:
            raise KeyboardInterrupt
        rendered.append(cell.key("model", self.precision))
        return real(self, cell, *more)

    monkeypatch.setattr(Renderer, "render", counted)
    with pytest.raises(KeyboardInterrupt):
        main_table.STUDY.run(Lab(settings))
    first = list(rendered)
    assert len(first) == 3
    with pytest.raises(DryRun, match=r"^7 of 10 cells"):
        main_table.STUDY.run(Lab(replace(settings, dry_run=True)))
    most = 100
    main_table.STUDY.run(Lab(settings))
    assert len(set(rendered)) == len(rendered) >= 10
    rendered.clear()
    load("soft-target").run(Lab(settings))
    assert not rendered  # both of its rows are in the main table


def test_the_loss_forks_name_what_differs(tiny_lab):
    found = run_study("loss-forks", tiny_lab)
    assert [line["name"] for line in found["rows"]] == ["untrained", "base"]
    assert "difference" in found["rows"][0]
    default = {"settings": {"rank": 16, "loss_config": {"lambda_soft": 1.0, "weighting": "x0"}}}
    other = {"settings": {"rank": 16, "loss_config": {"lambda_soft": 0.0, "weighting": "x0"}}}
    assert changes(other, default) == {"lambda_soft": 0.0}


def test_the_branch_point_is_swept_by_tightness(settings):
    lab = Lab(replace(settings, pictures=16, seeds=1, data="scenes"))
    found = run_study("branch-point", lab)
    bins = {line["groups"] for line in found["rows"]}
    assert len(bins) in (1, 4)
    assert 0.7 in found["pareto"] or 0.0 in found["pareto"]
    every = [line for line in found["rows"] if line["groups"] == "all groups"]
    assert [line["saving"] for line in every] == sorted(line["saving"] for line in every)


def test_the_soft_target_is_compared_in_pairs(tiny_lab):
    found = run_study("soft-target", tiny_lab)
    # The same adapter stands for both: every difference is exactly nothing.
    assert all(gap["value"] == gap["low"] == 0 for gap in found["difference"].values())
    assert [line["seed"] for line in found["by_seed"]] == [0, 1]
    assert "does not visibly change" in found["finding"]


def test_sensitivity_names_settings_that_nothing_beats(settings):
    found = run_study("sensitivity", Lab(replace(settings, pictures=6, seeds=1)))
    optimal = [line for line in found["rows"] if line["pareto"]]
    assert [line["name"] for line in optimal] == found["pareto"]
    for line in found["rows"]:
        value = line["metrics"]["twin"]["value"]
        beaten = any(
            other["saving"] >= line["saving"]
            and other["metrics"]["twin"]["value"] <= value
            and (other["saving"], other["metrics"]["twin"]["value"]) != (line["saving"], value)
            for other in found["rows"]
        )
        assert beaten != line["pareto"]


def test_open_domain_has_four_kinds(settings):
    found = run_study("open-domain", Lab(replace(settings, pictures=8, seeds=1, data="scenes")))
    assert [line["kind"] for line in found["rows"][::2]] == [
        "trained combinations", "unseen combinations", "unknown words", "free phrasing",
    ]  # fmt: skip
    assert all(0 <= line["groupable"] <= 1 for line in found["rows"])


def test_groups_grow_to_sixteen(settings):
    lab = Lab(replace(settings, pictures=16, seeds=1, data="scenes"))
    found = run_study("group-size", lab)
    sizes = {line["size"]: line["saving"] for line in found["rows"]}
    # With two steps and share ratio 0.4, one of two is shared: half of what the trunk replaces.
    assert sizes == pytest.approx({1: 0, 2: 0.25, 4: 0.375, 8: 0.4375, 16: 0.46875}, abs=1e-4)


def test_grouping_counts_prompts_and_pairs(tiny_lab, monkeypatch):
    from sage.studies import grouping

    monkeypatch.setattr(grouping, "COUNTS", (10, 40))
    monkeypatch.setattr(grouping, "mini_lm", lambda: _raise(ImportError("not here")))
    found = run_study("grouping", tiny_lab)
    assert [line["prompts"] for line in found["rows"]] == [10, 40]
    assert found["conditions"]["not_studied"] == ["all-MiniLM-L6-v2: not here"]
    for line in found["rows"]:
        parts = [line[f"pairs_{where}"] for where in ("below", "within", "above")]
        assert sum(parts) == pytest.approx(1, abs=1e-3)
        assert sum(int(n) * k for n, k in line["sizes"].items()) == line["prompts"]


def _raise(error):
    raise error


def test_a_model_and_a_coco_folder_train_and_are_evaluated(
    settings, model_folder, tmp_path, monkeypatch
):
    from sage.training.__main__ import main as train

    monkeypatch.setattr(main_table, "RATIOS", (methods.RATIO,))
    folders = {}
    twins = ["--loss", "twins", "--rollout-steps", "4"]
    ways = {"sage": [], "standard": ["--loss", "standard"], "twins": twins}
    for name, flags in ways.items():
        folders[name] = tmp_path / name
        run = ["--model", str(model_folder), "--data", settings.data, "--steps", "2"]
        run += ["--batch-groups", "2", "--rank", "2", "--sample-every", "0", "--device", "cpu"]
        run += ["--cache", str(tmp_path / "groups"), "--out", str(folders[name]), *flags]
        assert train(run) == 0
    run = ["main-table", "--model", str(model_folder), "--data", settings.data]
    run += ["--pictures", "8", "--seeds", "1", "--steps", "2", "--device", "cpu", "--quiet"]
    run += ["--sage-adapter", str(folders["sage"]), "--nosoft-adapter", str(folders["sage"])]
    run += ["--standard-adapter", str(folders["standard"])]
    run += ["--twins-adapter", str(folders["twins"])]
    run += ["--cache", str(settings.cache), "--out", str(settings.out)]
    assert main(run) == 0
    found = read(settings.out, "main-table")
    digests = found["conditions"]["adapters"]
    trained = [digests[n] for n in (methods.SAGE, methods.STANDARD, methods.TWINS)]
    assert len(set(trained)) == 3
    assert found["conditions"]["prompts"]["source"].startswith("captions of coco")
    assert "fd" in found["metrics"]


def test_the_hub_s_judges_add_columns(settings, monkeypatch):
    """Stand-ins for torchmetrics: what they are asked about, and where their numbers go."""
    asked = []

    class Stand:
        def __init__(self, name):
            self.name, self.seen = name, {True: 0, False: 0}

        def update(self, pixels, real):
            self.seen[real] += len(pixels)

        def compute(self):
            return torch.tensor(float(self.seen[False]))

        def __call__(self, a, b):
            asked.append(b)
            return (a - b).square().mean() if isinstance(b, torch.Tensor) else torch.tensor(31.0)

    monkeypatch.setattr(features, "_torchmetric", lambda module, name, settings: Stand(name))
    monkeypatch.setattr(main_table, "RATIOS", (methods.RATIO,))
    lab = Lab(replace(settings, hub=True))
    found = run_study("main-table", lab)
    first, *others = found["rows"]
    assert first["metrics"]["lpips"]["value"] == 0  # it is its own twin
    assert max(line["metrics"]["lpips"]["value"] for line in others) > 0
    assert {line["metrics"]["clip_l14"]["value"] for line in found["rows"]} == {0.31}
    assert {line["plain"]["fid"] for line in found["rows"]} == {first["pictures"]}
    assert set(lab.prompts.texts) == {text for text in asked if isinstance(text, str)}
    path = write(settings.out, found, main_table.STUDY.figure(found))
    table = tables.main_block(path.parent, path.parent)
    assert "| FID ↓ |" in table
    assert "OpenAI CLIP score ↑" in table


def test_without_torchmetrics_nothing_is_rendered(settings, monkeypatch):
    def missing(module, name, settings):
        raise ImportError(f"{name} needs torchmetrics")

    monkeypatch.setattr(features, "_torchmetric", missing)
    monkeypatch.setattr(Renderer, "render", None)  # would fail if it were called
    with pytest.raises(ImportError, match="needs torchmetrics"):
        main_table.STUDY.run(Lab(replace(settings, hub=True)))


def test_mistakes_on_the_command_line_are_sentences(settings, capsys):
    assert main(["nothing"]) == 2
    assert "allowed are map, schedules, main-table" in capsys.readouterr().err
    assert main(["main-table", "--pictures", "0"]) == 2
    assert "pictures is 0" in capsys.readouterr().err
    assert main(["main-table", "--model", "nowhere/at-all", "--device", "cpu"]) == 2
    assert "cannot be loaded" in capsys.readouterr().err
    assert main(["--list"]) == 0
    told = capsys.readouterr().out
    assert all(f"{study.name:14} {study.question}" in told for study in every())
    assert "tables" in told


# --- parts ----------------------------------------------------------------------------------


def test_prompts_lie_within_the_bounds_and_are_fresh(tiny_lab, scene_lab):
    for lab in (tiny_lab, scene_lab):
        prompts = open_prompts(lab.pipe, lab.settings.data, 8)
        similarity = cosine_similarity(lab.pipe.embed(prompts.texts)).numpy()
        for group in prompts.groups:
            assert 2 <= len(group) <= 5
            inside = similarity[np.ix_(group, group)][~np.eye(len(group), dtype=bool)]
            assert inside.max() <= bounds(lab.pipe)[1] + 1e-6
        assert sorted(n for g in prompts.groups for n in g) == list(range(len(prompts)))
        assert len(prompts.real) == len(prompts.real.prompts)
    again = open_prompts(scene_lab.pipe, "scenes", 8)
    assert again.digest == prompts.digest


def test_held_out_scenes_are_held_out():
    sample = painted(loose_scenes(12, held_out_share=1.0), 16)
    assert all(held_out(scene.things[0], scene.place) for scene in sample.scenes)
    assert len(sample.real) == 36
    some = sample.take([5, 2])
    assert some.texts == (sample.texts[5], sample.texts[2])
    assert np.array_equal(
        some.real.pictures[some.real.of([0])], sample.real.pictures[sample.real.of([5])]
    )


def test_the_probe_finds_what_painted_scenes_show(tiny):
    judge = Judges(tiny, ASSETS / "emoji-scenes")
    sample = painted(loose_scenes(24), model_words().image_size)
    pictures, members = sample.real.pictures, sample.real.prompts
    right = judge.right(pictures, sample, members)
    wrong = judge.right(pictures, sample, (members + 1) % len(sample))
    assert right.mean() > 0.9
    assert wrong.mean() < 0.2
    assert judge.right(pictures, ungrouped("texts", sample.texts), members) is None


def test_the_fast_linkage_is_that_of_the_page():
    for seed in range(5):
        vectors = torch.randn(24, 4, generator=torch.Generator().manual_seed(seed))
        similarity = cosine_similarity(vectors)
        expected = group_prompts(similarity, 0.2, 0.95, 5).groups
        assert linked(similarity.numpy(), 0.2, 0.95) == expected


def test_cliques_fit_each_other():
    similarity = np.where(np.add.outer(np.arange(12), np.arange(12)) % 2 == 0, 0.6, 0.1)
    found = cliques(similarity, (0.5, 0.9), 3, 4)
    assert sorted(n for clique in found for n in clique) == list(range(12))
    assert all(len({n % 2 for n in clique}) == 1 for clique in found)
    assert not cliques(similarity, (0.7, 0.9), 2, 4)


def test_topics_are_told_apart():
    topics = np.array([0, 0, 1, 1])
    apart = np.kron(np.eye(2), np.ones((2, 2)))
    assert separation(apart, topics) == 1.0
    assert separation(np.ones((4, 4)), topics) == 0.5
    assert separation(apart, np.arange(4)) is None
    for written in (unknown_words(), free_phrasing()):
        assert [len(topic) for topic in written] == [4] * 12
        assert len({text for topic in written for text in topic}) == 48


def test_random_pairs_are_of_two_prompts():
    pairs = random_pairs(torch.eye(5), 200, np.random.default_rng(0))
    assert pairs.max() == 0  # no prompt with itself


@pytest.mark.parametrize(
    ("low", "high", "claimed", "expected"),
    [
        (-0.01, 0.02, 0.05, "no difference beyond chance"),
        (-0.08, -0.03, -0.05, "agrees"),
        (-0.02, -0.01, -0.05, "agrees in direction, smaller"),
        (-0.20, -0.10, -0.05, "agrees in direction, larger"),
        (0.01, 0.02, -0.05, "the other way"),
    ],
)
def test_verdicts(low, high, claimed, expected):
    assert verdict(low, high, claimed) == expected
