"""Rollouts of the frozen model: trunks, and for each member the picture it makes on its own.

Both start from the same noise, so a branch that leaves the trunk has exactly one picture to reach:
its *twin*. Knows a pipeline and groups of captions; nothing of losses or adapters. Rollouts are
made once and kept on disk under a hash of everything they depend on. Ours; the paper has nothing of
the kind. A kill loses the groups in progress only.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from sage.core.plan import Group, Plan, branch_step_from_ratio, independent_plan, shared_plan
from sage.sd.pipeline import SagePipeline, SageStep
from sage.training.data import (
    PromptGroups,
    cache_key,
    in_a_row,
    tokenizer_key,
    weights_digest,
    write_whole,
)
from sage.training.settings import TrainSettings

GROUPS_AT_ONCE = 12
SPLITS = 4  # branch points, evenly spaced over the range of share ratios
FIRST_SEED = 20_000_000  # noise of group g; far from the seeds that studies use


@dataclass(frozen=True)
class Rollouts:
    """Trunks and twins of some groups.

    Attributes:
        groups: The groups of captions, in the order of `trunks`.
        splits: Steps at which a branch may begin, ascending.
        timesteps: [K] training timestep of each step up to the last split.
        trunks: [G, K, C, h, w] float16, the trunk's latent before each of these steps.
        twins: [M, C, h, w] float16 clean latents, the members of all groups one after the other.
    """

    groups: tuple[Group, ...]
    splits: tuple[int, ...]
    timesteps: Tensor
    trunks: np.ndarray
    twins: np.ndarray

    @cached_property
    def _place(self) -> dict[Group, tuple[int, int]]:
        """Of each group: its row in `trunks`, and where its members start in `twins`."""
        starts = np.cumsum([0, *(len(group) for group in self.groups)]).tolist()
        return dict(zip(self.groups, enumerate(starts[:-1]), strict=True))

    def twins_of(self, group: Group) -> Tensor:
        """[n, C, h, w] float32, in the order of the members."""
        _, start = self._place[group]
        return torch.from_numpy(self.twins[start : start + len(group)]).float()

    def trunk_of(self, group: Group, step: int) -> Tensor:
        """[C, h, w] float32, before a step."""
        return torch.from_numpy(self.trunks[self._place[group][0], step]).float()


def roll_out(
    pipe: SagePipeline, data: PromptGroups, settings: TrainSettings, progress: bool = True
) -> Rollouts:
    """Makes the rollouts of all groups, or reads those of an earlier run.

    Args:
        pipe: The frozen model, without an adapter; DDIM.
        data: The groups.
        settings: Steps, range of share ratios, precision and cache.
        progress: Whether to draw a progress bar.
    """
    splits = branch_steps(pipe, settings)
    key = cache_key(
        data.texts,
        settings.rollout_steps, splits, pipe.settings.guidance_scale, settings.precision,
        weights_digest(pipe.unet, pipe.text_encoder), tokenizer_key(pipe.tokenizer),
        type(pipe.scheduler).__name__, sorted(pipe.scheduler.config.items(), key=str),
    )  # fmt: skip
    path = settings.cache / f"rollouts-{key}.npz"
    if not path.is_file():
        arrays, parts = _make(pipe, data, (settings.rollout_steps, splits[-1]), path, progress)
        write_whole(path, lambda new: _save(new, *arrays))
        for part in parts:
            part.unlink(missing_ok=True)
    with np.load(path) as kept:
        trunks, twins = kept["trunks"], kept["twins"]
    timesteps = _timesteps(pipe, settings.rollout_steps)[: splits[-1] + 1]
    return Rollouts(data.groups, splits, timesteps, trunks, twins)


def _timesteps(pipe: SagePipeline, steps: int) -> Tensor:
    """[T] int64, the training timestep of every sampling step."""
    levels = copy.deepcopy(pipe.scheduler)  # set_timesteps writes into the scheduler
    levels.set_timesteps(steps)
    return levels.timesteps[:steps].long().cpu()


def branch_steps(pipe: SagePipeline, settings: TrainSettings) -> tuple[int, ...]:
    """The steps at which branches begin: share ratios evenly spaced over the range."""
    calls = pipe.denoiser_calls(settings.rollout_steps)
    ratios = np.linspace(*settings.loss_config.share_ratio, SPLITS)
    steps = {branch_step_from_ratio(float(ratio), calls) for ratio in ratios}
    return tuple(sorted(min(max(step, 1), calls - 1) for step in steps))


def _make(
    pipe: SagePipeline, data: PromptGroups, steps: tuple[int, int], path: Path, progress: bool
) -> tuple[tuple[np.ndarray, np.ndarray], list[Path]]:
    """Trunks and twins of all groups, and the files in which they were kept on the way.

    `steps`: of the sampler, and the last one at which a branch begins.
    """
    arrays, parts = [], []
    starts = range(0, len(data.groups), GROUPS_AT_ONCE)
    for start in tqdm(starts, "rollouts", disable=not progress, mininterval=1):
        part = path.with_name(f"{path.stem}-{start}.npz")
        if not part.is_file():
            fresh = _make_some(pipe, data, start, *steps)
            write_whole(part, lambda new, fresh=fresh: _save(new, *fresh))
        with np.load(part) as kept:
            arrays.append((kept["trunks"], kept["twins"]))
        parts.append(part)
    trunks, twins = (np.concatenate(some) for some in zip(*arrays, strict=True))
    return (trunks, twins), parts


def _make_some(
    pipe: SagePipeline, data: PromptGroups, start: int, steps: int, last: int
) -> tuple[np.ndarray, np.ndarray]:
    """Trunks and twins of the groups of one batch."""
    some = data.groups[start : start + GROUPS_AT_ONCE]
    prompts = [data.captions[n] for group in some for n in group]
    seeds = [FIRST_SEED + start + g for g, group in enumerate(some) for _ in group]
    plan = independent_plan(len(prompts), pipe.denoiser_calls(steps))
    twins = pipe(prompts, plan=plan, seeds=seeds, output_type="latent").latents
    shared = shared_plan(in_a_row(some), pipe.denoiser_calls(steps), last)
    return _trunks(pipe, prompts, seeds, shared), twins.cpu().half().numpy()


def _trunks(
    pipe: SagePipeline, prompts: Sequence[str], seeds: Sequence[int], plan: Plan
) -> np.ndarray:
    """[G, last + 1, C, h, w] float16: before step 0 the noise, then after every shared step."""
    lead = [row[0] for row in plan.rows(0)]
    latents = [pipe.starting_noise(seeds)[lead]]
    for event in pipe.stream(prompts, plan=plan, seeds=seeds, output_type="latent"):
        if not isinstance(event, SageStep) or event.stage != "trunk":
            break
        latents.append(event.state.x.cpu())
    return torch.stack(latents, 1).half().numpy()


def _save(path: Path, trunks: np.ndarray, twins: np.ndarray) -> None:
    with path.open("wb") as file:  # np.savez would append a suffix to a name
        np.savez(file, trunks=trunks, twins=twins)
