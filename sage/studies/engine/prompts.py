"""Evaluation prompts: groups of similar captions, each with a real picture to compare with.

Three sources: freshly painted emoji scenes, a folder in MS COCO's format, or any list of texts.
Groups are formed by the same rule as for training (`sage.training.grouping`). Knows captions,
pictures and groups; nothing of sampling or metrics.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sage.core.grouping_at_scale import GroupingRule, form_groups
from sage.core.plan import Group
from sage.sd.pipeline import SagePipeline
from sage.training.coco import read_coco
from sage.training.data import FileSource, embed_all, squared
from sage.world.captions import caption
from sage.world.scenes import Painter, Scene, sample_scene
from sage.world.vocabulary import PLACE_BY_NAME

SEED = 30_260_101  # scenes of their own: training draws from seed 0
PAINTINGS = 3  # real pictures of each scene, so that the reference set is not smaller than a row
HELD_OUT_SHARE = 0.25
SCENES = "scenes"


@dataclass(frozen=True, eq=False)
class PromptSet:
    """Prompts in groups, with real pictures.

    Attributes:
        name: What they are, in words.
        texts: N prompts.
        groups: A partition of the prompts.
        tightness: For each group the mean similarity of its pairs; NaN for a single prompt.
        real: [R, H, W, 3] uint8, real pictures of the prompts: the reference; or None.
        scenes: The scene of each prompt, if they are emoji scenes.
        real_of: [R] the prompt of each real picture; the first one, where several share it.
        units: [G] the independent unit of each group; every group is its own without it.
    """

    name: str
    texts: tuple[str, ...]
    groups: tuple[Group, ...]
    tightness: tuple[float, ...]
    real: np.ndarray | None = field(default=None, repr=False)
    scenes: tuple[Scene, ...] | None = field(default=None, repr=False)
    real_of: np.ndarray | None = field(default=None, repr=False)
    units: np.ndarray | None = field(default=None, repr=False)

    def __len__(self) -> int:
        """N."""
        return len(self.texts)

    @cached_property
    def digest(self) -> str:
        """A hash of the texts."""
        return hashlib.sha256(json.dumps(self.texts).encode()).hexdigest()

    @property
    def owner(self) -> np.ndarray:
        """For each prompt, the number of its group: [N]."""
        owner = np.zeros(len(self), np.int64)
        for number, group in enumerate(self.groups):
            owner[list(group)] = number
        return owner

    @property
    def names_place(self) -> np.ndarray:
        """For each prompt of a scene, whether it names the place: [N] bool."""
        return np.array(
            [
                any(text.endswith(phrase) for phrase in PLACE_BY_NAME[scene.place].phrases)
                for text, scene in zip(self.texts, self.scenes or (), strict=True)
            ]
        )

    def head(self, number: int) -> "PromptSet":
        """The first groups, of together at least `number` prompts; no real pictures."""
        ends = np.cumsum([len(group) for group in self.groups])
        kept = min(len(ends), int(np.searchsorted(ends, number)) + 1)
        prompts = int(ends[kept - 1])
        scenes = None if self.scenes is None else self.scenes[:prompts]
        groups, tightness = self.groups[:kept], self.tightness[:kept]
        return PromptSet(self.name, self.texts[:prompts], groups, tightness, None, scenes)

    def take(self, order: Sequence[int]) -> "PromptSet":
        """Some prompts in another order, each alone, with their real pictures."""
        texts = tuple(self.texts[n] for n in order)
        scenes = None if self.scenes is None else tuple(self.scenes[n] for n in order)
        groups, loose = tuple((n,) for n in range(len(texts))), (float("nan"),) * len(texts)
        some = PromptSet(self.name, texts, groups, loose, None, scenes)
        if self.real is None:
            return some
        place = {int(n): i for i, n in enumerate(order)}
        kept = [r for r, n in enumerate(self.real_of) if int(n) in place]
        owners = np.array([place[int(self.real_of[r])] for r in kept], np.int64)
        return replace(some, real=self.real[kept], real_of=owners)

    def summary(self) -> dict:
        """Sizes and similarities as plain values."""
        sizes = [len(group) for group in self.groups]
        tight = np.array(self.tightness)
        return {
            "source": self.name,
            "prompts": len(self),
            "groups": len(self.groups),
            "sizes": {str(n): sizes.count(n) for n in sorted(set(sizes))},
            "mean_similarity_in_groups": round(float(np.nanmean(tight)), 3)
            if np.isfinite(tight).any()
            else None,
            "real_pictures": 0 if self.real is None else len(self.real),
        }


def scene_prompts(
    pipe: SagePipeline,
    number: int,
    *,
    tau: tuple[float, float] | None = None,
    sizes: tuple[int, int] = (2, 5),
    held_out_share: float = HELD_OUT_SHARE,
    pool: int | None = None,
    seed: int = SEED,
    side: int = 64,
) -> PromptSet:
    """Captions of freshly painted scenes in groups.

    Args:
        pipe: Its similarity and bounds form the groups.
        number: How many prompts, about.
        tau: Bounds, instead of the model's own.
        sizes: Smallest and largest group.
        held_out_share: Share of scenes whose pair of thing and place is held out of training.
        pool: Scenes to choose from; four times as many without it, and 600 at least.
        seed: Of the scenes and groups.
        side: Of the pictures, in pixels.

    Raises:
        ValueError: If no group is found.
    """
    rng = np.random.default_rng(seed)
    pool = max(600, 4 * number) if pool is None else pool
    splits = np.where(rng.random(pool) < held_out_share, "held_out", "train")
    scenes = [sample_scene(rng, str(split)) for split in splits]
    texts = [caption(scene, rng) for scene in scenes]
    embeddings = embed_all(texts, pipe, progress=False)
    groups = _groups(embeddings, range(pool), tau or bounds(pipe), sizes)
    chosen = _choose(groups, number, seed)
    kept = [n for group in chosen for n in group]
    mine = tuple(scenes[n] for n in kept)
    painter = Painter(side)
    real = np.stack([painter.paint(again)[0] for again in _repaint(mine, rng)])
    name = f"captions of {len(kept)} freshly painted emoji scenes"
    if held_out_share:
        name += f", {held_out_share:.0%} of combinations held out of training"
    made = _prompt_set(name, [texts[n] for n in kept], chosen, embeddings[kept])
    return replace(made, real=real, scenes=mine, real_of=np.tile(np.arange(len(kept)), PAINTINGS))


def _repaint(scenes: Sequence[Scene], rng: np.random.Generator) -> list[Scene]:
    """Every scene PAINTINGS times, with other positions and backgrounds."""
    again = [
        replace(s, seed=int(rng.integers(2**31))) for _ in range(PAINTINGS - 1) for s in scenes
    ]
    return [*scenes, *again]


def coco_prompts(
    pipe: SagePipeline,
    folder: Path,
    number: int,
    *,
    tau: tuple[float, float] | None = None,
    sizes: tuple[int, int] = (2, 5),
    side: int,
    seed: int = SEED,
) -> PromptSet:
    """Captions of a COCO folder in groups, with their pictures.

    Args:
        pipe: Its similarity and bounds form the groups.
        folder: As `sage.training.coco.read_coco` reads it.
        number: How many prompts, about.
        tau: Bounds, instead of the model's own.
        sizes: Smallest and largest group.
        side: Of the pictures, in pixels.
        seed: Of the groups.

    Raises:
        ValueError: If there is nothing usable or no group is found.
    """
    data, _ = read_coco(folder)
    source = FileSource(folder.name, data)
    embeddings = embed_all(source.captions, pipe, progress=False)
    groups = _groups(embeddings, source.owners, tau or bounds(pipe), sizes)
    chosen = _choose(groups, number, seed)
    kept = [n for group in chosen for n in group]
    texts = [source.captions[n] for n in kept]
    made = _prompt_set(f"captions of {folder.name}", texts, chosen, embeddings[kept])
    return _with_real(made, source, kept, side)


def _with_real(made: PromptSet, source: FileSource, kept: Sequence[int], side: int) -> PromptSet:
    """With the pictures of the captions, each once."""
    first = {source.owners[n]: place for place, n in reversed(list(enumerate(kept)))}
    real = {place: _picture(source, owner, side) for owner, place in sorted(first.items())}
    there = [place for place, picture in real.items() if picture is not None]
    if len(there) < 2:
        return made
    return replace(made, real=np.stack([real[p] for p in there]), real_of=np.array(there))


def _picture(source: FileSource, index: int, side: int) -> np.ndarray | None:
    try:
        return np.asarray(squared(source.picture(index), side))
    except OSError:  # a broken picture is not in the reference
        return None


def loose_scenes(
    number: int, held_out_share: float = HELD_OUT_SHARE, seed: int = SEED
) -> PromptSet:
    """Captions of fresh scenes as they come, each alone; `painted` gives them pictures."""
    rng = np.random.default_rng(seed)
    splits = np.where(rng.random(number) < held_out_share, "held_out", "train")
    scenes = [sample_scene(rng, str(split)) for split in splits]
    texts = tuple(caption(scene, rng) for scene in scenes)
    groups, loose = tuple((n,) for n in range(number)), (float("nan"),) * number
    name = f"captions of {number} fresh emoji scenes, as they come"
    return PromptSet(name, texts, groups, loose, None, tuple(scenes))


def painted(prompts: PromptSet, side: int, seed: int = SEED) -> PromptSet:
    """The same prompts with paintings of their scenes; as they are, if they have no scenes."""
    if prompts.scenes is None or prompts.real is not None:
        return prompts
    painter, rng = Painter(side), np.random.default_rng(seed + 1)
    real = np.stack([painter.paint(scene)[0] for scene in _repaint(prompts.scenes, rng)])
    return replace(prompts, real=real, real_of=np.tile(np.arange(len(prompts)), PAINTINGS))


def loose_coco(folder: Path, number: int, side: int, seed: int = SEED) -> PromptSet:
    """Random captions of a COCO folder, each alone.

    Raises:
        ValueError: If there is nothing usable.
    """
    data, _ = read_coco(folder)
    source = FileSource(folder.name, data)
    order = np.random.default_rng(seed).permutation(len(data))[:number].tolist()
    groups, loose = tuple((n,) for n in range(len(order))), (float("nan"),) * len(order)
    texts = tuple(data.captions[n] for n in order)
    made = PromptSet(f"captions of {folder.name}", texts, groups, loose)
    return _with_real(made, source, order, side)


def regrouped(
    prompts: PromptSet, similarity: Tensor | np.ndarray, groups: Sequence[Group]
) -> PromptSet:
    """The same prompts in other groups.

    Args:
        prompts: The prompts; their order stays.
        similarity: [N, N].
        groups: A partition of them.
    """
    tightness = tuple(_pair_mean(np.asarray(similarity), group) for group in groups)
    return replace(prompts, groups=tuple(map(tuple, groups)), tightness=tightness)


def _pair_mean(similarity: np.ndarray, group: Group) -> float:
    if len(group) < 2:
        return float("nan")
    first, second = np.triu_indices(len(group), 1)
    index = np.array(group)
    return float(similarity[index[first], index[second]].mean())


def listed_prompts(
    pipe: SagePipeline, name: str, texts: Sequence[str], groups: Sequence[Group] | None = None
) -> PromptSet:
    """Any texts; grouped by the model's own rule where no groups are given."""
    found = pipe.group(texts).groups if groups is None else tuple(map(tuple, groups))
    order = [n for group in found for n in group]
    ordered = [texts[n] for n in order]
    return _prompt_set(name, ordered, found, pipe.embed(ordered))


def open_prompts(
    pipe: SagePipeline,
    data: str,
    number: int,
    *,
    tau: tuple[float, float] | None = None,
    sizes: tuple[int, int] = (2, 5),
) -> PromptSet:
    """The prompts that `--data` names: "scenes", a COCO folder, or a text file, one prompt a line.

    Raises:
        ValueError: If there is nothing usable under that name.
    """
    side = pipe.unet.config.sample_size * pipe.vae_scale_factor
    if data == SCENES:
        side = min(max(side, 16), 256)
        return scene_prompts(pipe, number, tau=tau, sizes=sizes, side=side)
    path = Path(data)
    if path.is_dir():
        return coco_prompts(pipe, path, number, tau=tau, sizes=sizes, side=side)
    if path.is_file():
        lines = [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
        return listed_prompts(pipe, path.name, lines[:number])
    raise ValueError(
        f"data is {data!r}; allowed are 'scenes', a folder in COCO's format and a text file."
    )


# --- groups ---------------------------------------------------------------------------------


def _groups(
    embeddings: Tensor, owners: Sequence[int], tau: tuple[float, float], sizes: tuple[int, int]
) -> tuple[Group, ...]:
    low, high = tau
    rule = GroupingRule(low, high, max_group_size=sizes[1], seed=SEED)
    found = form_groups(embeddings, torch.tensor(list(owners)), rule)
    found = tuple(group for group in found if len(group) >= sizes[0])
    if not found:
        raise ValueError(
            f"No group of {sizes[0]} to {sizes[1]} among {len(embeddings)} captions has all its "
            f"similarities within {low} to {high}."
        )
    return found


def bounds(pipe: SagePipeline) -> tuple[float, float]:
    """The model's own bounds of similarity."""
    return pipe.settings.tau_min, pipe.settings.tau_max


def _choose(groups: Sequence[Group], number: int, seed: int) -> list[Group]:
    """Random groups of together `number` prompts, or somewhat fewer."""
    chosen: list[Group] = []
    left = number
    for i in np.random.default_rng(seed).permutation(len(groups)):
        if len(groups[i]) <= left or not chosen:
            chosen.append(groups[i])
            left -= len(groups[i])
    return chosen


def _prompt_set(
    name: str, texts: Sequence[str], groups: Sequence[Group], embeddings: Tensor
) -> PromptSet:
    """Prompts in the order of their groups, renumbered from 0."""
    ends = np.cumsum([len(group) for group in groups]).tolist()
    places = tuple(
        tuple(range(end - len(group), end)) for group, end in zip(groups, ends, strict=True)
    )
    similarity = (embeddings @ embeddings.T).numpy()
    tightness = tuple(_pair_mean(similarity, place) for place in places)
    return PromptSet(name, tuple(texts), places, tightness)
