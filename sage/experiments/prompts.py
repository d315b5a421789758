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

from sage.pipeline import SagePipeline
from sage.plan import Group
from sage.training.coco import read_coco
from sage.training.data import FileSource, embed_all, squared
from sage.training.grouping import GroupingRule, form_groups
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
    """

    name: str
    texts: tuple[str, ...]
    groups: tuple[Group, ...]
    tightness: tuple[float, ...]
    real: np.ndarray | None = field(default=None, repr=False)
    scenes: tuple[Scene, ...] | None = field(default=None, repr=False)

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
    pool: int = 4000,
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
        pool: Scenes to choose from.
        seed: Of the scenes and groups.
        side: Of the pictures, in pixels.

    Raises:
        ValueError: If no group is found.
    """
    rng = np.random.default_rng(seed)
    splits = np.where(rng.random(pool) < held_out_share, "held_out", "train")
    scenes = [sample_scene(rng, str(split)) for split in splits]
    texts = [caption(scene, rng) for scene in scenes]
    embeddings = embed_all(texts, pipe, progress=False)
    groups = _groups(embeddings, range(pool), pipe, tau, sizes, seed)
    chosen = _choose(groups, number, seed)
    kept = [n for group in chosen for n in group]
    mine = tuple(scenes[n] for n in kept)
    painter = Painter(side)
    real = np.stack([painter.paint(again)[0] for again in _repaint(mine, rng)])
    name = f"captions of {len(kept)} freshly painted emoji scenes"
    if held_out_share:
        name += f", {held_out_share:.0%} of combinations held out of training"
    made = _prompt_set(name, [texts[n] for n in kept], chosen, embeddings[kept])
    return replace(made, real=real, scenes=mine)


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
    groups = _groups(embeddings, source.owners, pipe, tau, sizes, seed)
    chosen = _choose(groups, number, seed)
    kept = [n for group in chosen for n in group]
    texts = [source.captions[n] for n in kept]
    real = [_picture(source, n, side) for n in dict.fromkeys(source.owners[n] for n in kept)]
    real = [picture for picture in real if picture is not None]
    made = _prompt_set(f"captions of {folder.name}", texts, chosen, embeddings[kept])
    return replace(made, real=np.stack(real) if len(real) > 1 else None)


def _picture(source: FileSource, index: int, side: int) -> np.ndarray | None:
    try:
        return np.asarray(squared(source.picture(index), side))
    except OSError:  # a broken picture is not in the reference
        return None


def listed_prompts(
    pipe: SagePipeline, name: str, texts: Sequence[str], groups: Sequence[Group] | None = None
) -> PromptSet:
    """Any texts; grouped by the model's own rule where no groups are given."""
    found = pipe.group(texts).groups if groups is None else tuple(map(tuple, groups))
    order = [n for group in found for n in group]
    made = _prompt_set(
        name, [texts[n] for n in order], found, pipe.embed([texts[n] for n in order])
    )
    return made


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
    embeddings: Tensor,
    owners: Sequence[int],
    pipe: SagePipeline,
    tau: tuple[float, float] | None,
    sizes: tuple[int, int],
    seed: int,
) -> tuple[Group, ...]:
    low, high = tau or (pipe.settings.tau_min, pipe.settings.tau_max)
    rule = GroupingRule(low, high, max_group_size=sizes[1], seed=seed)
    found = form_groups(embeddings, torch.tensor(list(owners)), rule)
    found = tuple(group for group in found if len(group) >= sizes[0])
    if not found:
        raise ValueError(
            f"No group of {sizes[0]} to {sizes[1]} among {len(embeddings)} captions has all its "
            f"similarities within {low} to {high}."
        )
    return found


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
    tightness = tuple(_tightness(embeddings[list(place)]) for place in places)
    return PromptSet(name, tuple(texts), places, tightness)


def _tightness(embeddings: Tensor) -> float:
    """Mean cosine of the pairs of a group."""
    if len(embeddings) < 2:
        return float("nan")
    first, second = torch.triu_indices(len(embeddings), len(embeddings), 1)
    return float((embeddings @ embeddings.T)[first, second].mean())
