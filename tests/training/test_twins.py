"""Rollouts hold what the pipeline does, and a run on them learns, is kept and goes on."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from sage.core.losses import LossConfig
from sage.core.plan import independent_plan
from sage.jobs.models import open_pipeline
from sage.training import rollouts
from sage.training.rollouts import FIRST_SEED, branch_steps, roll_out
from sage.training.trainer import Trainer
from tests.training.test_training import coco, run, settings  # noqa: F401 -- fixtures

pytestmark = pytest.mark.slow


def short(settings, out):  # noqa: F811
    ratios = LossConfig(share_ratio=(0.25, 0.5))
    return replace(settings, loss="twins", rollout_steps=4, loss_config=ratios, out=out)


def test_rollouts_are_those_of_the_pipeline(settings, tmp_path):  # noqa: F811
    trainer = Trainer(short(settings, tmp_path / "run"))
    made, pipe, captions = trainer.rollouts, trainer.pipe, trainer.data.captions
    assert made.splits == (1, 2)
    assert made.trunks.shape[:2] == (len(made.groups), 3)
    levels = pipe.scheduler
    levels.set_timesteps(4)
    assert made.timesteps.tolist() == levels.timesteps[:3].tolist()
    group = made.groups[0]
    prompts, seeds = [captions[n] for n in group], [FIRST_SEED] * len(group)
    plan = independent_plan(len(group), 4)
    with trainer.adapter.off():
        twins = pipe(prompts, plan=plan, seeds=seeds, output_type="latent").latents
        two = pipe.plan([tuple(range(len(group)))], 4, 0.5)
        states = [
            event.state
            for event in pipe.stream(prompts, plan=two, seeds=seeds, output_type="latent")
            if hasattr(event, "state")
        ]
    assert (made.twins_of(group) - twins).abs().max() < 0.02  # kept in half precision
    noise = pipe.starting_noise(seeds)[0]
    for step, latent in enumerate([noise, states[0].x[0], states[1].x[0]]):
        assert (made.trunk_of(group, step) - latent).abs().max() < 0.02


def test_rollouts_are_made_once(settings, tmp_path, monkeypatch):  # noqa: F811
    first = Trainer(short(settings, tmp_path / "first"))
    monkeypatch.setattr("sage.training.rollouts._make", None)  # would fail if it were called
    second = Trainer(short(settings, tmp_path / "second"))
    assert np.array_equal(first.rollouts.trunks, second.rollouts.trunks)
    assert branch_steps(second.pipe, second.settings) == (1, 2)


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p.scheduler.register_to_config(timestep_spacing="linspace"),
        lambda p: p.scheduler.register_to_config(beta_end=0.03),
        lambda p: setattr(p, "scheduler", DDPMScheduler.from_config(p.scheduler.config)),
        lambda p: p.tokenizer.add_tokens(["fox"]),
        lambda p: p.unet.conv_in.weight.data.mul_(2),
        lambda p: setattr(p, "settings", replace(p.settings, guidance_scale=9.0)),
    ],
    ids=["spacing", "betas", "solver", "words", "weights", "guidance"],
)
@pytest.mark.filterwarnings("ignore")
def test_rollouts_depend_on_all_that_they_are_made_of(made, monkeypatch, change):
    data, chosen = made
    _, pipe = open_pipeline(chosen.model, torch.device("cpu"))
    monkeypatch.setattr(rollouts, "_make", None)
    roll_out(pipe, data, chosen, progress=False)  # read
    change(pipe)
    with pytest.raises(TypeError):  # made anew
        roll_out(pipe, data, chosen, progress=False)


@pytest.fixture
def made(settings, tmp_path):  # noqa: F811
    chosen = short(settings, tmp_path / "run")
    return Trainer(chosen).data, chosen


def test_a_kill_loses_the_rollouts_in_progress_only(settings, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(rollouts, "GROUPS_AT_ONCE", 1)
    made, make = [], rollouts._make_some

    def killed(pipe, data, start, *rest):
        if made:
            raise KeyboardInterrupt
        made.append(start)
        return make(pipe, data, start, *rest)

    chosen = replace(short(settings, tmp_path / "run"), cache=tmp_path / "cache")
    monkeypatch.setattr(rollouts, "_make_some", killed)
    with pytest.raises(KeyboardInterrupt):
        Trainer(chosen)
    monkeypatch.setattr(rollouts, "_make_some", lambda *a: made.append(a[2]) or make(*a))
    second = Trainer(chosen)
    assert made == list(range(len(second.rollouts.groups)))  # each of them once
    assert len(list((tmp_path / "cache").glob("rollouts-*"))) == 1  # no parts are left


def test_a_run_learns_to_reach_the_twins(settings, tmp_path):  # noqa: F811
    chosen = replace(short(settings, tmp_path / "run"), steps=40, rate=3e-3, batch_groups=4)
    records, trainer = run(chosen, tmp_path / "run")
    trainer.step = 0  # the batch and the noise of the first step once more
    assert trainer._terms(0).branch.item() < records[0].branch
    assert records[0].shared < 1e-10  # an untrained adapter leaves the trunk where it is
    assert records[0].soft is None
    text = (trainer.folder / "README.md").read_text()
    assert "# Twin LoRA" in text
    assert "rollouts of 4 steps" in text


def test_a_resumed_run_has_the_same_losses(settings, tmp_path):  # noqa: F811
    whole, _ = run(replace(short(settings, tmp_path), steps=4), tmp_path / "whole")
    part = Trainer(replace(short(settings, tmp_path), steps=4, out=tmp_path / "part"))
    some = iter(part)
    for _ in range(3):  # a checkpoint is written after the third step
        next(some)
    part.save()
    rest, _ = run(replace(short(settings, tmp_path), steps=4), tmp_path / "part", resume=True)
    assert [r.step for r in rest] == [4]
    assert torch.isclose(torch.tensor(rest[0].loss), torch.tensor(whole[3].loss), rtol=1e-6)
