"""Teaches the built-in model to draw in 4 or 8 steps without guidance.

    python -m sage.world.train.distil --steps 8 --minutes 15

Progressive distillation (Salimans & Ho 2022, arXiv 2202.00512) in one go: one DDIM step of the
student has to land where several guided DDIM steps of the frozen teacher land. Guidance is part of
what is learnt (Meng et al. 2023, arXiv 2210.03142), so the student needs no unconditional pass. The
student is a LoRA adapter in diffusers' format; sample with it by DDIM in that many steps and
guidance 1. A share of the rows is conditioned on the mean of a group's captions, so that trunks
are drawn in few steps too (ours). Knows data, teacher and student; the loop is the learner's.
"""

import argparse
import copy
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor

from sage.core.solver import DDIM, prediction_table
from sage.jobs.models import available_models, describe_device, device_of
from sage.sd.pipeline import SagePipeline
from sage.training.adapter import Adapter
from sage.training.data import PromptGroups, open_source, picture_side, prepare
from sage.training.settings import DEFAULT_OUT, TrainSettings
from sage.world.train.learner import Learner, Settings, checkpoint, train
from sage.world.train.student import describe, distances, shrink

# All dense layers and convolutions, as LCM-LoRA has it (arXiv 2311.05556, released adapters).
TARGETS = (
    *("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"),
    *("conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv"),
    "time_emb_proj",
)
MEAN_SHARE = 0.25  # share of the rows that follow the mean condition of their group
CHECKED = 32  # captions whose pictures are held against the teacher's


@dataclass(frozen=True)
class DistilSettings:
    """What the student learns.

    Attributes:
        steps: DDIM steps of the student.
        teacher_steps: Guided DDIM steps of the teacher, a multiple of `steps`.
        guidance: Of the teacher; the student has it built in.
        rank: Of the adapter while it is trained.
        stored_rank: Of the adapter as it is saved, made smaller afterwards.
        batch: Rows of a step.
        rate: Peak learning rate of AdamW.
        scenes: Emoji scenes to take captions and pictures from, as in `sage.training`.

    Raises:
        ValueError: If a value is not allowed.
    """

    steps: int = 8
    teacher_steps: int = 16
    guidance: float = 2.0
    rank: int = 32
    stored_rank: int = 16
    batch: int = 32
    rate: float = 8e-4
    scenes: int = 20_000

    def __post_init__(self) -> None:
        if self.steps < 1 or self.teacher_steps % self.steps or self.teacher_steps == self.steps:
            raise ValueError(
                f"teacher_steps is {self.teacher_steps} and steps is {self.steps}; "
                "the first must be a multiple of the second, at least twice as large."
            )


def ladder(pipe: SagePipeline, steps: int) -> tuple[list[int], list[float]]:
    """Timesteps [steps] and noise levels ᾱ [steps + 1] from pure noise to a clean picture."""
    alphas = pipe.scheduler.alphas_cumprod.double()
    t = [round(1000 * (1 - i / steps)) - 1 for i in range(steps)]
    return t, [*(float(alphas[n]) for n in t), 1.0]


def target(x: Tensor, after: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The x0 whose one DDIM step from x leads to where the teacher went (arXiv 2202.00512, eq. 8).

    Args:
        x: [R, ...] latents at noise levels a.
        after: [R, ...] the teacher's latents at noise levels b.
        a: [R, 1, 1, 1] ᾱ before.
        b: [R, 1, 1, 1] ᾱ after.
    """
    ratio = ((1 - b) / (1 - a)).sqrt()
    return (after - ratio * x) / (b.sqrt() - ratio * a.sqrt())


class Distillation:
    """Task for the learner: a student's step equals several of the teacher's."""

    def __init__(self, pipe: SagePipeline, data: PromptGroups, settings: DistilSettings) -> None:
        self.name, self.settings, self.pipe, self.data = "distil", settings, pipe, data
        self.teacher = copy.deepcopy(pipe.unet).bfloat16().eval().requires_grad_(False)
        self.adapter = Adapter(pipe.unet, settings.rank, settings.rank, TARGETS)
        self.device = pipe.device
        if self.device.type == "cpu":
            # The fused attention's backward pass is slower in half precision there than this one.
            pipe.unet.set_attn_processor(AttnProcessor())
        self.model: UNet2DConditionModel = pipe.unet
        t, levels = ladder(pipe, settings.teacher_steps)
        kind = pipe.scheduler.config.prediction_type
        self.walk = DDIM.from_alphas(
            t, levels[:-1], levels[1:], prediction=kind, device=self.device
        )
        self.levels = torch.tensor(levels, device=self.device)
        self.substeps = settings.teacher_steps // settings.steps
        with torch.no_grad():
            self.uncond = pipe.encode([""])

    def batch(self, rng: np.random.Generator, size: int) -> tuple:
        """Latents [R, C, h, w], conditions [R, L, D] and the student's step of each row [R]."""
        groups = [self.data.groups[i] for i in rng.integers(len(self.data.groups), size=size)]
        members = [group[rng.integers(len(group))] for group in groups]
        follows = rng.random(size) < MEAN_SHARE
        texts = [
            list(group) if mean else [one]
            for group, one, mean in zip(groups, members, follows, strict=True)
        ]
        captions = [str(self.data.captions[n]) for some in texts for n in some]
        with torch.no_grad():
            parts = self.pipe.encode(captions).split([len(some) for some in texts])
            cond = torch.stack([part.mean(0) for part in parts])
        steps = torch.from_numpy(rng.integers(self.settings.steps, size=size))
        return self.data.clean_latents(members).to(self.device), cond, steps.to(self.device)

    def loss(self, batch: tuple, noise: torch.Generator) -> dict[str, Tensor]:
        """Mean squared error of v, the loss that Salimans & Ho call SNR + 1."""
        clean, cond, step = batch
        index = step * self.substeps
        a, b = (self.levels[i].view(-1, 1, 1, 1) for i in (index, index + self.substeps))
        grain = torch.randn(clean.shape, generator=noise, device=self.device)
        x = a.sqrt() * clean + (1 - a).sqrt() * grain
        wanted = target(x, self._teach(x, cond, index), a, b)
        output = _predict(self.model, x, self.walk.timesteps[index], cond)
        loss = (self._x0(x, output, a) - wanted).square() / (1 - a)
        return {"loss": loss.mean(), "first": loss[step == 0].sum() / loss.numel()}

    @torch.no_grad()
    def _teach(self, x: Tensor, cond: Tensor, index: Tensor) -> Tensor:
        both = torch.cat([self.uncond.expand_as(cond), cond])
        for i in range(self.substeps):
            t = self.walk.timesteps[index + i]
            output = _predict(self.teacher, torch.cat([x, x]), torch.cat([t, t]), both)
            without, with_ = output.chunk(2)
            guided = without + self.settings.guidance * (with_ - without)
            x, _, _ = self.walk.step(x, guided, index + i, (), index)
        return x

    def _x0(self, x: Tensor, output: Tensor, a: Tensor) -> Tensor:
        kind = self.pipe.scheduler.config.prediction_type
        x0_x, x0_out, _, _ = prediction_table(a, kind)
        return x0_x * x + x0_out * output


def _predict(unet: UNet2DConditionModel, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
    return unet(x.bfloat16(), t, cond.bfloat16()).sample.float()


def main(arguments: Sequence[str] | None = None) -> int:
    """Distil as the command line says; returns the exit code."""
    chosen = vars(_parser().parse_args(arguments))
    minutes, resume, out = (chosen.pop(name) for name in ("minutes", "resume", "out"))
    model, device = chosen.pop("model"), chosen.pop("device")
    try:
        settings, place = DistilSettings(**chosen), device_of(device)
        out = out or DEFAULT_OUT / f"few-step-{settings.steps}"
        run(model, settings, minutes, out, resume, place)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def run(
    model: str,
    settings: DistilSettings,
    minutes: float,
    out: Path,
    resume: bool,
    device: torch.device,
) -> Path:
    """Trains, saves the adapter and a record of what it can do; returns the folder.

    Args:
        model: Key or folder of the model.
        settings: What the student learns.
        minutes: Training time; the time of earlier runs counts when resumed.
        out: Folder of checkpoint, log, adapter and record.
        resume: Go on from the checkpoint.
        device: Where to learn.

    Raises:
        ValueError: If there is a run in `out` already and it is not to be resumed.
    """
    if checkpoint(out, "distil").exists() and not resume:
        raise ValueError(f"{out} holds a run already; go on with --resume or choose another --out.")
    spec = available_models(model)[0]
    pipe = SagePipeline.from_pretrained(spec.source, spec.revision).to(device)
    pipe.set_progress_bar_config(disable=True)
    common = TrainSettings(model=model, minutes=minutes, scenes=settings.scenes)
    data = prepare(*open_source(common, picture_side(pipe)), pipe, common)
    task = Distillation(pipe, data, settings)
    how = Settings(
        settings.batch, settings.rate, minutes=minutes, warmup=50, ema=0.995, muon=False, decay=0.0
    )
    learner = train(task, how, out, device, resume=resume)
    save(task, learner, out)
    check = [data.captions[group[0]] for group in data.groups[:CHECKED]]
    teacher = {name: getattr(settings, name) for name in ("steps", "teacher_steps", "guidance")}
    record = asdict(settings) | {
        "minutes": round(learner.seconds / 60, 2),
        "step": learner.step,
        "checked": len(check),
        "hardware": describe_device(device),
        "distance_to_teacher": distances(spec.source, out, check, device=device, **teacher),
    }
    describe(out, spec.key, record)
    print(record["distance_to_teacher"])
    print(f"The adapter is in {out}")
    return out


def save(task: Distillation, learner: Learner, out: Path) -> Path:
    """Writes the averaged adapter, made small, as `pytorch_lora_weights.safetensors`."""
    pairs = zip(learner.average, learner.live, strict=True)
    task.adapter.average = [average.view_as(value) for average, value in pairs]
    file = task.adapter.save(out)
    shrink(file, task.settings.stored_rank)
    return file


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sage.world.train.distil", description=__doc__)
    usual = DistilSettings()
    parser.add_argument("--model", default="emoji-scenes", help="key or folder of the model")
    parser.add_argument("--minutes", type=float, default=15.0, help="training time")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--out", type=Path, help=f"folder (default: under {DEFAULT_OUT})")
    for name, value in asdict(usual).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    return parser


if __name__ == "__main__":
    sys.exit(main())
