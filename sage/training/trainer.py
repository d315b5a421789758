"""The training loop: accelerate, AdamW, cosine with warm-up, exact resume, checkpoints, log.

Knows how a run proceeds; what is learnt is in `sage.core.losses`, from what in
`sage.training.data`. Groups, timesteps, noise and dropped captions come from (seed, step, micro-
batch, process) alone, so a run that was killed and resumed goes on with the numbers of one that was
not. A trainer is a generator of records: progress bars and tests loop over it.
"""

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, broadcast
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor

from sage.core.losses import (
    GroupBatch,
    LossTerms,
    NoiseLevels,
    TwinBatch,
    sage_loss,
    standard_loss,
    twin_loss,
)
from sage.jobs.models import describe_device, open_pipeline
from sage.training import card, samples
from sage.training.adapter import Adapter
from sage.training.data import (
    OpenSource,
    PromptGroups,
    cache_key,
    in_a_row,
    open_source,
    picture_side,
    prepare,
    write_whole,
)
from sage.training.rollouts import Rollouts, roll_out
from sage.training.settings import TrainSettings

T = TypeVar("T")
CHECKPOINT, LOG = "checkpoint.pt", "log.jsonl"
PREPARING = timedelta(hours=12)  # other processes wait for the first one to prepare the data


@dataclass(frozen=True)
class Record:
    """One optimiser step, averaged over its micro-batches and processes.

    Attributes:
        step: How many are done, from 1.
        progress: Share of the run that is done, in [0, 1].
        rate: The learning rate that was used.
        loss: What was minimised.
        branch: L_branch, or the standard loss.
        shared: L_shared, or None.
        soft: L_soft, or None.
    """

    step: int
    progress: float
    rate: float
    loss: float
    branch: float
    shared: float | None
    soft: float | None

    def line(self, seconds: float) -> dict[str, float]:
        """As plain values for the log; terms that were not computed are left out."""
        values = {name: value for name, value in vars(self).items() if value is not None}
        return values | {"seconds": round(seconds, 2)}


class Trainer:
    """One run: `for record in trainer: ...`, then `finish`."""

    def __init__(
        self, settings: TrainSettings, resume: bool = False, data_from: OpenSource = open_source
    ) -> None:
        """Loads the model and the data.

        Args:
            settings: Of the run.
            resume: Go on from the checkpoint.
            data_from: What opens the captions and pictures; the default does as `settings.data`
                says.

        Raises:
            ValueError: If a run is there already and is not to be resumed, or the other way round;
                if model or data cannot be used.
        """
        self.settings, self.folder = settings, settings.folder
        self.accelerator = accelerator = Accelerator(
            cpu=settings.device == "cpu",
            mixed_precision=settings.precision,
            gradient_accumulation_steps=settings.accumulate,
            log_with="tensorboard" if _has_tensorboard() else None,
            project_dir=str(self.folder),
            kwargs_handlers=[InitProcessGroupKwargs(timeout=PREPARING)],
        )
        before = _checkpoint_of(self.folder, resume, settings)
        if accelerator.is_main_process:  # before the data are prepared, which may take hours
            _open_folder(self.folder, 0 if before is None else before["step"])
        self.pipe = open_pipeline(settings.model, accelerator.device)[1]
        self._open_data(data_from)
        self._freeze()
        self._open_adapter()
        self.step, self.seconds = 0, 0.0
        if before is not None:
            self._restore(before)
        if _has_tensorboard():
            accelerator.init_trackers("log")

    def _open_data(self, data_from: OpenSource) -> None:
        """Groups of captions and, where the loss needs them, what the plain model makes of them."""
        settings, pipe = self.settings, self.pipe
        shown = self.accelerator.is_local_main_process
        self.data: PromptGroups = self._first_process_first(
            lambda: prepare(*data_from(settings, picture_side(pipe)), pipe, settings, shown)
        )
        self.rollouts: Rollouts | None = None
        if settings.loss == "twins":
            self.rollouts = self._first_process_first(
                lambda: roll_out(pipe, self.data, settings, shown)
            )

    def _open_adapter(self) -> None:
        """The weights that are trained, their optimizer, and the constants of the loss."""
        settings, pipe = self.settings, self.pipe
        self.adapter = Adapter(
            pipe.unet, settings.rank, settings.alpha, settings.targets, settings.seed
        )
        optimizer = torch.optim.AdamW(
            self.adapter.values, lr=settings.rate, weight_decay=settings.decay
        )
        self.model, self.optimizer = self.accelerator.prepare(pipe.unet.train(), optimizer)
        config = pipe.scheduler.config
        alphas = pipe.scheduler.alphas_cumprod.to(self.accelerator.device)
        self.levels = NoiseLevels(alphas, config["prediction_type"])
        self.uncond = pipe.encode([""])  # (1, L, D)

    def _first_process_first(self, make: Callable[[], T]) -> T:
        """What `make` gives; the other processes find in the cache what the first one has kept.

        An error is raised only after all have been let in: they would wait for the first one for
        as long as preparing may take, and meet the same error when they try themselves.
        """
        result, error = None, None
        with self.accelerator.main_process_first():
            try:
                result = make()
            except Exception as fault:
                error = fault
        if error is not None:
            raise error
        return cast(T, result)

    def _freeze(self) -> None:
        """Frozen parts take the precision of the run; the adapter will stay in float32."""
        half = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(self.settings.precision)
        for part in (self.pipe.vae, self.pipe.text_encoder, self.pipe.unet):
            part.requires_grad_(False)
            if half is not None:
                part.to(half)
        if half is not None and self.accelerator.device.type == "cpu":
            # The fused attention's backward pass is slower in half precision on a CPU than this.
            self.pipe.unet.set_attn_processor(AttnProcessor())
        if self.settings.checkpointing:
            self.pipe.unet.enable_gradient_checkpointing()

    # -- one step ----------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Record]:
        """Trains to the end; yields after every step, checkpoints in between."""
        while self.progress < 1:
            record = self._learn()
            self._log(record)
            if self.step % self.settings.save_every == 0:
                self.save()
            if self.settings.sample_every and self.step % self.settings.sample_every == 0:
                self.sample()
            yield record

    def _agreed(self, seconds: float) -> float:
        """The first process's clock: all have to stop at the same step."""
        if self.accelerator.num_processes == 1:
            return seconds
        mine = torch.tensor([seconds], device=self.accelerator.device)
        return float(cast(Tensor, broadcast(mine)))

    @property
    def progress(self) -> float:
        """Share of the run that is done, by steps or by time."""
        s = self.settings  # which has exactly one of steps and minutes
        if s.minutes is None:
            return min(1.0, self.step / (s.steps or 1))
        return min(1.0, self.seconds / (60 * s.minutes))

    @property
    def rate(self) -> float:
        """Learning rate of the next step: linear warm-up, and a cosine to `last_rate`."""
        s = self.settings
        warm = min(1.0, (self.step + 1) / s.warmup)
        cosine = 0.5 * (1 + math.cos(math.pi * self.progress))
        return s.rate * warm * (s.last_rate + (1 - s.last_rate) * cosine)

    def _learn(self) -> Record:
        start, rate = time.monotonic(), self.rate
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        parts = [self._micro_step(micro) for micro in range(self.settings.accumulate)]
        self.adapter.follow(self.settings.ema, self.step)
        self.step += 1
        mean = cast(Tensor, self.accelerator.reduce(torch.stack(parts).mean(0), "mean"))
        loss, branch, shared, soft = mean.tolist()
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"The loss of step {self.step} is {loss}; the run stops, and its last checkpoint "
                "stays as it is."
            )
        self.seconds = self._agreed(self.seconds + time.monotonic() - start)
        terms = (None if math.isnan(value) else value for value in (shared, soft))
        return Record(self.step, self.progress, rate, loss, branch, *terms)

    def _micro_step(self, micro: int) -> Tensor:
        """Forward and backward of one micro-batch: its terms [4], NaN for those there are not."""
        accelerator = self.accelerator
        with accelerator.accumulate(self.model):
            terms = self._terms(micro)
            accelerator.backward(terms.total)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(self.adapter.values, self.settings.clip_norm)
            self.optimizer.step()
            self.optimizer.zero_grad()
        values = (terms.total, terms.branch, terms.shared, terms.soft)
        missing = torch.tensor(math.nan, device=accelerator.device)
        return torch.stack([missing if v is None else v.detach().float() for v in values])

    def _terms(self, micro: int) -> LossTerms:
        place = self.step * self.settings.accumulate + micro
        number = place * self.accelerator.num_processes + self.accelerator.process_index
        rng = np.random.default_rng((self.settings.seed, 1, number))
        config = self.settings.loss_config
        if self.settings.loss == "twins":
            batch = self._twin_batch(number, rng)
            generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
            guidance = self.pipe.settings.guidance_scale
            return twin_loss(
                self._network, self._frozen, batch, self.levels, config,
                guidance=guidance, generator=generator,
            )  # fmt: skip
        batch = self._batch(number, rng)
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        if self.settings.loss == "standard":
            return standard_loss(self._network, batch, self.levels, config, generator=generator)
        return sage_loss(
            self._network, self._teacher, batch, self.levels, config, generator=generator
        )

    def _batch(self, number: int, rng: np.random.Generator) -> GroupBatch:
        """Groups with their latents and conditions; some groups lose their captions, all at once.

        A group loses them as a whole: its mean condition is then the one that guidance uses.
        """
        groups = self.data.batch(self.settings.seed, number, self.settings.batch_groups)
        members = [n for group in groups for n in group]
        device = self.accelerator.device
        with torch.no_grad():
            cond = self.pipe.encode([self.data.captions[n] for n in members])
        dropped = rng.random(len(groups)) < self.settings.caption_dropout
        blank = [d for group, d in zip(groups, dropped, strict=True) for _ in group]
        keep = ~torch.tensor(blank, device=device).view(-1, 1, 1)
        cond = torch.where(keep, cond, self.uncond)
        latents = self.data.clean_latents(members).to(device)
        return GroupBatch(latents, cond, in_a_row(groups))

    def _twin_batch(self, number: int, rng: np.random.Generator) -> TwinBatch:
        """Groups with a branch point each, and a step of the trunk up to it."""
        rollouts, device = self.rollouts, self.accelerator.device
        assert rollouts is not None, "only runs with the loss 'twins' come here"
        groups = self.data.batch(self.settings.seed, number, self.settings.batch_groups)
        splits = [int(step) for step in rng.choice(rollouts.splits, len(groups))]
        steps = [int(rng.integers(split + 1)) for split in splits]
        with torch.no_grad():
            cond = self.pipe.encode([self.data.captions[n] for group in groups for n in group])
        index = torch.tensor([g for g, group in enumerate(groups) for _ in group])
        at_split = [rollouts.trunk_of(g, k) for g, k in zip(groups, splits, strict=True)]
        return TwinBatch(
            split=torch.stack(at_split)[index].to(device),
            split_t=rollouts.timesteps[torch.tensor(splits)][index].to(device),
            twins=torch.cat([rollouts.twins_of(group) for group in groups]).to(device),
            cond=cond,
            uncond=self.uncond,
            trunk=torch.stack(
                [rollouts.trunk_of(g, k) for g, k in zip(groups, steps, strict=True)]
            ).to(device),
            trunk_t=rollouts.timesteps[torch.tensor(steps)].to(device),
            groups=in_a_row(groups),
        )

    def _frozen(self, z: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """The network without its adapter."""
        unet = self.accelerator.unwrap_model(self.model)
        with self.adapter.off():
            return unet(z.to(cond.dtype), t, cond).sample.float()

    def _network(self, z: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        return self.model(z.to(cond.dtype), t, cond).sample.float()

    def _teacher(self, z: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """The network of the soft target; the bare UNet, as nothing is to be learnt from it."""
        unet, target = self.accelerator.unwrap_model(self.model), self.settings.loss_config
        if target.soft_target == "model":
            return unet(z.to(cond.dtype), t, cond).sample.float()
        other = self.adapter.off if target.soft_target == "base" else self.adapter.averaged
        with other():
            return unet(z.to(cond.dtype), t, cond).sample.float()

    # -- what is kept ------------------------------------------------------------------------

    def _log(self, record: Record) -> None:
        last = record.progress >= 1
        if not self.accelerator.is_main_process or (
            record.step % self.settings.log_every and not last
        ):
            return
        line = record.line(self.seconds)
        with (self.folder / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if _has_tensorboard():
            self.accelerator.log({k: v for k, v in line.items() if k != "step"}, step=record.step)

    def save(self) -> None:
        """Write a checkpoint and the adapter, each in one piece."""
        if not all(bool(torch.isfinite(value).all()) for value in self.adapter.values):
            raise FloatingPointError(
                f"Step {self.step} has made weights that are not numbers; the run stops, and its "
                "last checkpoint stays as it is."
            )
        if not self.accelerator.is_main_process:
            return
        scaler = self.accelerator.scaler
        state = self.adapter.state() | {
            "optimizer": self.optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else None,
            "step": self.step,
            "seconds": self.seconds,
            "settings": json.dumps(self.settings.record()),
            "data": cache_key(self.data.texts),
        }
        write_whole(self.folder / CHECKPOINT, lambda new: _save(new, state))
        self.adapter.save(self.folder)

    def _restore(self, state: dict[str, Any]) -> None:
        if state.get("data", data := cache_key(self.data.texts)) != data:
            raise ValueError(f"The run in {self.folder} learns from other groups of captions.")
        self.adapter.restore(state)
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"] is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step, self.seconds = state["step"], state["seconds"]

    def sample(self) -> None:
        """A picture of a few groups, shared and independent, with the averaged adapter."""
        if self.accelerator.is_main_process:
            unet = self.accelerator.unwrap_model(self.model)
            with self.adapter.averaged():
                samples.grid(self.pipe, self.data, self.folder, self.step)
            unet.train()

    def finish(self) -> Path:
        """Save everything, with model card and record; returns the folder of the adapter."""
        self.save()
        if self.accelerator.is_main_process:
            run = {
                "step": self.step,
                "seconds": round(self.seconds, 1),
                "device": describe_device(self.accelerator.device),
                "processes": self.accelerator.num_processes,
                "trained_values": self.adapter.size,
            }
            card.write(self.folder, self.settings, card.record(self.settings, self.data, run))
        self.accelerator.wait_for_everyone()
        self.accelerator.end_training()
        return self.folder


def _has_tensorboard() -> bool:
    return find_spec("tensorboard") is not None or find_spec("tensorboardX") is not None


def _checkpoint_of(folder: Path, resume: bool, settings: TrainSettings) -> dict[str, Any] | None:
    """What a run goes on from, of the same settings; None for a new one."""
    path = folder / CHECKPOINT
    if not resume:
        if path.exists():
            raise ValueError(
                f"{folder} holds a run already; go on with --resume or choose another --out."
            )
        return None
    if not path.exists():
        raise ValueError(f"{folder} has no checkpoint to resume from.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        before = json.loads(state["settings"])
        if missing := {"values", "average", "optimizer", "scaler", "step"} - state.keys():
            raise ValueError(f"it has no {min(missing)}")
    except Exception as error:  # a file that is cut makes torch raise nearly anything
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise ValueError(f"{path} is damaged, or no checkpoint: {reason}.") from error
    now = settings.record()
    changed = sorted(name for name in now if now[name] != before.get(name))
    if changed:
        raise ValueError(f"The run in {folder} had other settings: {', '.join(changed)}.")
    return state


def _open_folder(folder: Path, step: int) -> None:
    """Makes a run's folder, with the log of so many steps."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _cut_log(folder / LOG, step)
    except OSError as error:
        raise ValueError(f"out is {folder}, which cannot be written: {error.strerror}.") from error


def _save(path: Path, state: dict[str, Any]) -> None:
    try:
        torch.save(state, path)
    except RuntimeError as error:  # what torch says of a disk that is full
        raise OSError(f"The checkpoint {path} cannot be written: {error}") from error


def _cut_log(path: Path, step: int) -> None:
    """Drop what was logged after the checkpoint: those steps will be done again."""
    lines = path.read_text("utf-8", "replace").splitlines() if path.exists() and step else []
    kept = "".join(line + "\n" for line in lines if _step_of(line) <= step)
    write_whole(path, lambda new: new.write_text(kept, "utf-8"))


def _step_of(line: str) -> float:
    """The step of a line of the log; infinite for half a line, as a full disk leaves it."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, LookupError, TypeError):
        return math.inf
