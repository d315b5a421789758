"""The studies of trunks, of when to branch, and of what sharing gives that fewer steps do not."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sage.core.lending import ONCE
from sage.core.metrics import layout
from sage.core.resampling import Estimate
from sage.core.settings import TRIED_TRUNKS, Sampling, settings_of
from sage.jobs.job import adaptive_rule
from sage.studies import pay_once
from sage.studies.coherence import agreement, picture_set
from sage.studies.engine.lab import RESULTS
from sage.studies.engine.results import read
from sage.studies.engine.rival import Rival, against
from sage.studies.products import products, relative_error


def line(flops, value, spread=0.0):
    replicates = value + spread * np.linspace(-1, 1, 101)
    metrics = {"clip": Estimate(value, replicates), "fd": Estimate(-value, -replicates)}
    return SimpleNamespace(measured=SimpleNamespace(flops=flops, metrics=metrics))


def test_a_rival_lies_on_the_straight_line_between_its_neighbours():
    rival = Rival([line(4.0, 0.4), line(2.0, 0.2), line(8.0, 0.5)])
    assert [round(rival.at(f, "clip").value, 6) for f in (1, 2, 3, 4, 6, 9)] == [
        0.2, 0.2, 0.3, 0.4, 0.45, 0.5,
    ]  # fmt: skip


def test_better_has_one_sign_whichever_way_a_judge_points():
    rival = Rival([line(2.0, 0.2), line(4.0, 0.4)])
    signs = {key: gap["sign"] for key, gap in against(line(3.0, 0.35, 0.01), rival).items()}
    assert signs == {"clip": 1, "fd": 1}
    signs = {key: gap["sign"] for key, gap in against(line(3.0, 0.35, 0.2), rival).items()}
    assert signs == {"clip": 0, "fd": 0}


def test_predictions_that_are_sums_leave_no_error_and_products_leave_some():
    things, places = torch.randn(3, 1, 5), torch.randn(1, 4, 5)
    assert relative_error(things + places) < 1e-10
    assert relative_error(things * places) > 0.1


def test_products_hold_every_pair_once():
    texts, factors = products(1, 3)[0]
    assert len(set(texts)) == len(set(factors)) == 9


def test_equal_pictures_have_one_layout_and_inverted_ones_the_opposite():
    rng = np.random.default_rng(0)
    some = rng.integers(0, 256, (1, 16, 16, 3), dtype=np.uint8)
    prompts = SimpleNamespace(groups=((0, 1), (2,)))
    for second, wanted in ((some, 1.0), (255 - some, -1.0)):
        three = np.concatenate([some, second, some])[None]
        found = agreement(three, prompts, None)
        assert found["layout"].value == pytest.approx(wanted)
    assert layout(torch.rand(2, 16, 16, 3)).shape == (2, 64)


def test_a_stored_trunk_costs_less_for_every_use():
    for row in pay_once.costs():
        assert 0 < row["with"] < row["without"]
        assert row["saved"] == pytest.approx(1 - row["with"] / row["without"], abs=1e-4)


def test_a_rule_that_did_not_win_is_for_programs_only():
    rule = next(iter(TRIED_TRUNKS))
    assert Sampling(trunk=rule).trunk == rule
    with pytest.raises(ValueError, match=f"'{rule}'; allowed are mean"):
        settings_of()["trunk"].check(rule)


def test_the_picture_set_says_what_the_study_found():
    stored = read(RESULTS, "coherence")
    assert stored is not None
    found = picture_set(stored["rows"], stored["conditions"]["model"])
    assert found == stored["picture_set"]
    assert f"{found['numbers']['layout']['shared']['value']:.2f}" in found["words"]
    Sampling(**found["settings"])


def test_the_corrected_trunk_splits_by_information_and_the_others_by_direction():
    """Where the noise levels are not known, all of them do."""
    rules = {
        (trunk, scheduler): adaptive_rule(
            Sampling(sharing="adaptive", trunk=trunk, scheduler=scheduler)
        )
        for trunk in ("mean", "control_once")
        for scheduler in ("ddim", "pndm")
    }
    by_information = {at for at, rule in rules.items() if rule.compare == "information"}
    assert by_information == {("control_once", "ddim")}
    assert rules["control_once", "ddim"].probed_steps(30) == range(0, 12, ONCE)
