"""Evaluation prompts: groups of similar captions, each with a real picture to compare with.

Three sources: freshly painted emoji scenes, a folder in MS COCO's format, or any list of texts.
Groups are formed by the same rule as for training (`sage.core.grouping_at_scale`). Knows captions,
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
from sage.core.linkage import complete_linkage
from sage.core.plan import Group
from sage.core.settings import Sampling
from sage.sd.pipeline import SagePipeline
from sage.training.coco import read_coco
from sage.training.data import FileSource, embed_all, picture_side, squared
from sage.world.captions import caption
from sage.world.scenes import Painter, Scene, sample_scene
from sage.world.words import model_words

SEED = 30_260_101  # scenes of their own: training draws from seed 0
PAINTINGS = 3  # real pictures of each scene, so that the reference set is not smaller than a row
HELD_OUT_SHARE = 0.25
SCENES = "scenes"
LARGEST: int = Sampling.max_group_size  # group, the paper's


@dataclass(frozen=True, eq=False)
class Reference:
    """Real pictures of prompts.

    Attributes:
        pictures: [R, H, W, 3] uint8.
        prompts: [R] the prompt of each picture; the first one, where several share it.
    """

    pictures: np.ndarray = field(repr=False)
    prompts: np.ndarray = field(repr=False)

    def __len__(self) -> int:
        """R."""
        return len(self.pictures)

    def of(self, prompts: Sequence[int] | np.ndarray) -> np.ndarray:
        """Which pictures are those of some prompts: [R] bool."""
        return np.isin(self.prompts, prompts)


@dataclass(frozen=True, eq=False)
class PromptSet:
    """Prompts in groups, with real pictures to compare with.

    Attributes:
        name: What they are, in words.
        texts: N prompts.
        groups: A partition of the prompts.
        tightness: For each group the mean similarity of its pairs; NaN for a single prompt.
        real: Real pictures of the prompts, or None.
        scenes: The scene of each prompt, if they are emoji scenes.
        units: [G] the independent unit of each group; every group is its own without it.
    """

    name: str
    texts: tuple[str, ...]
    groups: tuple[Group, ...]
    tightness: tuple[float, ...]
    real: Reference | None = None
    scenes: tuple[Scene, ...] | None = field(default=None, repr=False)
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
                any(text.endswith(phrase) for phrase in model_words().place[scene.place].phrases)
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
        subset = ungrouped(self.name, texts, scenes)
        if self.real is None:
            return subset
        position = {int(n): i for i, n in enumerate(order)}
        kept = np.flatnonzero(self.real.of(order))
        prompts = np.array([position[int(n)] for n in self.real.prompts[kept]], np.int64)
        return replace(subset, real=Reference(self.real.pictures[kept], prompts))

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


def ungrouped(
    name: str, texts: Sequence[str], scenes: tuple[Scene, ...] | None = None
) -> PromptSet:
    """Prompts each in a group of its own, without real pictures."""
    groups = tuple((n,) for n in range(len(texts)))
    return PromptSet(name, tuple(texts), groups, (float("nan"),) * len(texts), None, scenes)


def scene_prompts(pipe: SagePipeline, number: int, side: int = 64) -> PromptSet:
    """Captions of freshly painted scenes in groups.

    Args:
        pipe: Its similarity and bounds form the groups.
        number: How many prompts, about; they are chosen out of four times as many, 600 at least.
        side: Of the pictures, in pixels.

    Raises:
        ValueError: If no group is found.
    """
    rng = np.random.default_rng(SEED)
    scenes = _fresh_scenes(max(600, 4 * number), HELD_OUT_SHARE, rng)
    texts = [caption(scene, rng) for scene in scenes]
    prompts, kept = _grouped(pipe, "", texts, range(len(texts)), number)
    kept_scenes = tuple(scenes[n] for n in kept)
    name = (
        f"captions of {len(kept)} freshly painted emoji scenes, "
        f"{HELD_OUT_SHARE:.0%} of combinations held out of training"
    )
    return replace(prompts, name=name, scenes=kept_scenes, real=_paint(kept_scenes, side, rng))


def _fresh_scenes(number: int, held_out_share: float, rng: np.random.Generator) -> list[Scene]:
    splits = np.where(rng.random(number) < held_out_share, "held_out", "train")
    return [sample_scene(rng, str(split)) for split in splits]


def _paint(scenes: Sequence[Scene], side: int, rng: np.random.Generator) -> Reference:
    """Every scene PAINTINGS times, with other positions and backgrounds from the second on."""
    again = [
        replace(s, seed=int(rng.integers(2**31))) for _ in range(PAINTINGS - 1) for s in scenes
    ]
    painter = Painter(side)
    pictures = np.stack([painter.paint(scene)[0] for scene in (*scenes, *again)])
    return Reference(pictures, np.tile(np.arange(len(scenes)), PAINTINGS))


def coco_prompts(pipe: SagePipeline, folder: Path, number: int, side: int) -> PromptSet:
    """Captions of a COCO folder in groups, with their pictures.

    Args:
        pipe: Its similarity and bounds form the groups.
        folder: As `sage.training.coco.read_coco` reads it.
        number: How many prompts, about.
        side: Of the pictures, in pixels.

    Raises:
        ValueError: If there is nothing usable or no group is found.
    """
    data, _ = read_coco(folder)
    source = FileSource(folder.name, data)
    name = f"captions of {folder.name}"
    prompts, kept = _grouped(pipe, name, source.captions, source.owners, number)
    return _with_real(prompts, source, kept, side)


def _with_real(prompts: PromptSet, source: FileSource, kept: Sequence[int], side: int) -> PromptSet:
    """With the pictures of the captions `kept`, each once; unchanged if fewer than two are read."""
    first = {source.owners[n]: place for place, n in reversed(list(enumerate(kept)))}
    pictures, places = [], []
    for owner, place in sorted(first.items()):
        if (picture := _picture(source, owner, side)) is not None:
            pictures.append(picture)
            places.append(place)
    if len(places) < 2:
        return prompts
    return replace(prompts, real=Reference(np.stack(pictures), np.array(places)))


def _picture(source: FileSource, index: int, side: int) -> np.ndarray | None:
    try:
        return np.asarray(squared(source.picture(index), side))
    except OSError:  # a broken picture is not in the reference
        return None


def loose_scenes(number: int, held_out_share: float = HELD_OUT_SHARE) -> PromptSet:
    """Captions of fresh scenes as they come, each alone; `painted` gives them pictures."""
    rng = np.random.default_rng(SEED)
    scenes = _fresh_scenes(number, held_out_share, rng)
    texts = [caption(scene, rng) for scene in scenes]
    return ungrouped(f"captions of {number} fresh emoji scenes, as they come", texts, tuple(scenes))


def painted(prompts: PromptSet, side: int) -> PromptSet:
    """The same prompts with paintings of their scenes; as they are, if they have no scenes."""
    if prompts.scenes is None or prompts.real is not None:
        return prompts
    return replace(prompts, real=_paint(prompts.scenes, side, np.random.default_rng(SEED + 1)))


def loose_coco(folder: Path, number: int, side: int) -> PromptSet:
    """Random captions of a COCO folder, each alone.

    Raises:
        ValueError: If there is nothing usable.
    """
    data, _ = read_coco(folder)
    source = FileSource(folder.name, data)
    order = np.random.default_rng(SEED).permutation(len(data))[:number].tolist()
    prompts = ungrouped(f"captions of {folder.name}", [data.captions[n] for n in order])
    return _with_real(prompts, source, order, side)


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
    if groups is None:
        groups = pipe.group(texts).groups
    ordered = [texts[n] for group in groups for n in group]
    return _prompt_set(name, ordered, groups, pipe.embed(ordered))


def open_prompts(pipe: SagePipeline, data: str, number: int) -> PromptSet:
    """The prompts that `--data` names: "scenes", a COCO folder, or a text file, one prompt a line.

    Raises:
        ValueError: If there is nothing usable under that name.
    """
    if data == SCENES:
        return scene_prompts(pipe, number, painting_side(pipe))
    path = Path(data)
    if path.is_dir():
        return coco_prompts(pipe, path, number, picture_side(pipe))
    if path.is_file():
        lines = [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
        return listed_prompts(pipe, path.name, lines[:number])
    raise ValueError(
        f"data is {data!r}; allowed are 'scenes', a folder in COCO's format and a text file."
    )


def painting_side(pipe: SagePipeline) -> int:
    """Pixels of a painted scene: as many as the model's pictures have, 16 to 256."""
    return min(max(picture_side(pipe), 16), 256)


# --- groups ---------------------------------------------------------------------------------


def bounds(pipe: SagePipeline) -> tuple[float, float]:
    """The model's own bounds of similarity."""
    return pipe.settings.tau_min, pipe.settings.tau_max


def linked(similarity: np.ndarray, tau_min: float, tau_max: float) -> tuple[Group, ...]:
    """Groups of one to five prompts in which every pair lies within the bounds.

    As `sage.core.grouping.group_prompts` forms them, without its reasons for every pair.
    """
    # A float32 that stands for 0.6 must meet the bound 0.6: compared as decimals, in float64.
    values = np.round(similarity.astype(np.float64), 6)
    return complete_linkage(values, tau_min, tau_max, LARGEST)


def _grouped(
    pipe: SagePipeline, name: str, texts: Sequence[str], owners: Sequence[int], number: int
) -> tuple[PromptSet, list[int]]:
    """About `number` of many captions, in groups as for training; and which ones they are."""
    low, high = bounds(pipe)
    embeddings = embed_all(texts, pipe, progress=False)
    rule = GroupingRule(low, high, max_group_size=LARGEST, seed=SEED)
    groups = form_groups(embeddings, torch.tensor(list(owners)), rule)
    groups = _sample([group for group in groups if len(group) > 1], number)
    if not groups:
        raise ValueError(
            f"No group of 2 to {LARGEST} among {len(embeddings)} captions has all its "
            f"similarities within {low} to {high}."
        )
    kept = [n for group in groups for n in group]
    return _prompt_set(name, [texts[n] for n in kept], groups, embeddings[kept]), kept


def _sample(groups: Sequence[Group], number: int) -> list[Group]:
    """Random groups of together `number` prompts, or somewhat fewer."""
    sample: list[Group] = []
    left = number
    for i in np.random.default_rng(SEED).permutation(len(groups)):
        if len(groups[i]) <= left or not sample:
            sample.append(groups[i])
            left -= len(groups[i])
    return sample


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
