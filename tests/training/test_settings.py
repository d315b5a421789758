"""The command line says what the dataclasses say."""

from dataclasses import fields
from pathlib import Path

import pytest

from sage.core.losses import LossConfig
from sage.training.settings import TrainSettings, parse


def test_without_flags_the_defaults_stand():
    settings, resume = parse(["--steps", "5"])
    assert settings == TrainSettings(steps=5)
    assert not resume


def test_every_field_has_a_flag():
    flags = (
        "--minutes 2.5 --loss standard --targets to_q to_v --checkpointing --tau-min 0.5 --resume "
        "--annotations a.json b.json --share-ratio 0.3 0.3 --lambda-soft 2 --soft-target ema "
        "--out there --rank 4"
    )
    settings, resume = parse(flags.split())
    assert resume
    assert settings == TrainSettings(
        minutes=2.5,
        loss="standard",
        targets=("to_q", "to_v"),
        checkpointing=True,
        tau_min=0.5,
        annotations=(Path("a.json"), Path("b.json")),
        out=Path("there"),
        rank=4,
        loss_config=LossConfig(share_ratio=(0.3, 0.3), lambda_soft=2.0, soft_target="ema"),
    )


def test_help_names_every_setting(capsys):
    with pytest.raises(SystemExit):
        parse(["--help"])
    text = capsys.readouterr().out
    names = [f.name for kind in (TrainSettings, LossConfig) for f in fields(kind)]
    assert all("--" + n.replace("_", "-") in text for n in names if n != "loss_config")


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        ("", "exactly one"),
        ("--steps 5 --minutes 1", "exactly one"),
        ("--steps 0", "steps is 0"),
        ("--steps 5 --rank 0", "rank is 0"),
        ("--steps 5 --ema 1.5", "ema is 1.5"),
        ("--steps 5 --lambda-soft -1", "lambda_soft"),
        ("--steps 5 --share-ratio 0.5 0.2", "share_ratio"),
        ("--steps 5 --loss other", "invalid choice"),
        ("--stepz 5", "unrecognized"),
        *((f"--steps 5 --rate {rate}", "rate is") for rate in ("0", "-1", "nan", "inf")),
        ("--steps 5 --decay -1", "decay is -1.0; allowed is 0 or more"),
        ("--steps 5 --seed -1", "seed is -1; allowed are 0 to"),
        ("--steps 5 --alpha inf", "alpha is 'inf'; a number is needed"),
        ("--steps 5 --loss twins --rollout-steps 1", "rollout_steps is 1; twins need 2 or more"),
        ("--minutes inf", "minutes is 'inf'; a number is needed"),
    ],
)
def test_nonsense_is_refused_with_a_sentence(flags, word, capsys):
    with pytest.raises(SystemExit):
        parse(flags.split())
    assert word in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "words"),
    [
        *(({"steps": steps}, "steps is '.*'; a whole number") for steps in ("10", 1.5, True)),
        ({"steps": 1, "seed": None}, "seed is 'None'; a whole number"),
        ({"steps": 1, "rate": "1e-3"}, "rate is '1e-3'; a number"),
        ({"steps": 1, "targets": "to_q"}, "targets is 'to_q'; give at least one name"),
    ],
)
def test_values_of_another_kind_are_refused(given, words):
    with pytest.raises(ValueError, match=words):
        TrainSettings(**given)


def test_what_a_run_is_like_does_not_depend_on_where_it_is_kept():
    one = TrainSettings(steps=5, out=Path("a"), cache=Path("b"), save_every=3, data="/x/coco")
    two = TrainSettings(steps=5, out=Path("c"), cache=Path("d"), save_every=4, data="/y/coco")
    assert one.record() == two.record()
    assert one.record() != TrainSettings(steps=5, data="coco", seed=1).record()
