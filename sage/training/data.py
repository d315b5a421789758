"""Prompt groups with the latents of their pictures: what a training step reads.

Knows captions, pictures and a pipeline's encoders; nothing of losses or adapters. Groups and
latents are kept on disk under a hash of everything they depend on, and each file appears only
when it is complete. Pictures are encoded once; a latent is the mean of the posterior (ours; drawing
from it would add noise far below that of training).
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from itertools import count, islice
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn
from tqdm import tqdm

from sage.core.grouping_at_scale import GroupingRule, form_groups
from sage.core.plan import Group
from sage.sd.features import pixels_of
from sage.sd.pipeline import SagePipeline
from sage.training.coco import CaptionedPictures, read_coco
from sage.training.pictures import READING, read_picture, to_rgb
from sage.training.settings import SCENES, TrainSettings
from sage.training.skips import Skips

EMBED_BATCH, ENCODE_BATCH = 256, 16


class Source(Protocol):
    """Captions, each with a picture."""

    @property
    def name(self) -> str:
        """For messages and reports."""
        ...

    @property
    def captions(self) -> Sequence[str]:
        """N texts."""
        ...

    @property
    def owners(self) -> Sequence[int]:
        """For each caption, its picture."""
        ...

    def picture(self, index: int) -> Image.Image:
        """One picture; raises OSError if it is broken."""
        ...

    def picture_name(self, index: int) -> str:
        """Its name, for messages and for the hash of the cache.

        A source may have a `picture_key` for the hash, which changes with the picture.
        """
        ...


class FileSource:
    """Captions of picture files, as MS COCO has them."""

    def __init__(self, name: str, data: CaptionedPictures) -> None:
        self.name, self.files = name, data.pictures
        self.captions, self.owners = data.captions, data.owners

    def picture(self, index: int) -> Image.Image:
        """The decoded picture, RGB and upright; raises OSError if it cannot be."""
        return read_picture(self.files[index])

    def picture_name(self, index: int) -> str:
        """File name and size in bytes."""
        try:
            size = f"{self.files[index].stat().st_size} bytes"
        except OSError:
            size = "gone"
        name = self.files[index].name.encode("utf-8", "replace").decode()
        return f"{name}, {size}"

    def picture_key(self, index: int) -> str:
        """What changes when a picture is replaced, also by one of equal size."""
        try:
            known = self.files[index].stat()
        except OSError:
            return self.picture_name(index)
        return f"{self.picture_name(index)}, {known.st_ino}, {known.st_mtime_ns}"


# What opens a source: (settings, side of the model's pictures in pixels) -> source and skips.
OpenSource = Callable[[TrainSettings, int], tuple[Source, Skips]]
# Names for --data, and where their factories are. They are looked up when they are asked for, so
# that training knows of no data set, and works where one is left out.
NAMED_SOURCES = {SCENES: "sage.world.source:open_scenes"}


def open_source(settings: TrainSettings, side: int) -> tuple[Source, Skips]:
    """The captions and pictures that the settings name, and what had to be skipped.

    Args:
        settings: Their `data`, `scenes`, `annotations` and `seed` are used. `data` is a folder, a
            name in `NAMED_SOURCES`, or "module:factory" of an `OpenSource`.
        side: Of the model's pictures, in pixels.

    Raises:
        ValueError: If there is no such folder or nothing usable in it.
    """
    folder = Path(settings.data)
    if settings.data and folder.is_dir() and settings.data not in NAMED_SOURCES:
        data, skips = read_coco(folder, settings.annotations)
        return FileSource(folder.name, data), skips
    place = NAMED_SOURCES.get(settings.data, settings.data)
    module, colon, factory = place.partition(":")
    if not colon or not module.replace(".", "").isidentifier():
        names = ", ".join(map(repr, NAMED_SOURCES))
        raise ValueError(
            f"data is {settings.data!r}; allowed are {names} and an existing folder, "
            "or the 'module:factory' of a source of your own."
        )
    try:
        opened: OpenSource = getattr(import_module(module), factory)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"data is {settings.data!r}, which cannot be imported: {error}.") from None
    return opened(settings, side)


@dataclass(frozen=True)
class PromptGroups:
    """Groups of prompts, each prompt with the latents of its picture.

    Attributes:
        captions: Texts.
        latent_of: For each caption, the row of its latents.
        groups: Groups of two or more captions.
        latents: [P, C, h, w] float16, scaled as the UNet sees them; mapped from disk.
        skips: What was left out.
    """

    captions: Sequence[str]
    latent_of: dict[int, int]
    groups: tuple[Group, ...]
    latents: np.ndarray
    skips: Skips

    @property
    def texts(self) -> list[list[str]]:
        """The captions of each group."""
        return [[self.captions[n] for n in group] for group in self.groups]

    def batch(self, seed: int, number: int, size: int) -> list[Group]:
        """The groups of batch `number`; the same whether or not the ones before were asked for."""
        epoch, place = divmod(number * size, len(self.groups))
        order = (
            self.groups[i]
            for e in count(epoch)
            for i in np.random.default_rng((seed, e)).permutation(len(self.groups))
        )
        return list(islice(order, place, place + size))

    def clean_latents(self, members: Sequence[int]) -> Tensor:
        """[B, C, h, w] float32 latents of captions."""
        rows = [self.latent_of[n] for n in members]
        return torch.from_numpy(self.latents[rows]).float()


def in_a_row(groups: Sequence[Group]) -> tuple[Group, ...]:
    """The places of members when those of all groups are written one after the other."""
    ends = np.cumsum([len(group) for group in groups]).tolist()
    return tuple(tuple(range(e - len(g), e)) for g, e in zip(groups, ends, strict=True))


def prepare(
    source: Source, skips: Skips, pipe: SagePipeline, settings: TrainSettings, progress: bool = True
) -> PromptGroups:
    """Forms the groups and encodes their pictures, or reads what an earlier run has kept.

    Args:
        source: Captions and pictures.
        skips: What was skipped so far; added to.
        pipe: Gives the embeddings for grouping, the VAE and default bounds.
        settings: Of the grouping and the cache.
        progress: Whether to draw progress bars.

    Raises:
        ValueError: If no group is found.
    """
    rule = GroupingRule(
        tau_min=pipe.settings.tau_min if settings.tau_min is None else settings.tau_min,
        tau_max=pipe.settings.tau_max if settings.tau_max is None else settings.tau_max,
        max_group_size=settings.max_group_size,
        neighbours=settings.neighbours,
        prefer=settings.prefer,
        seed=settings.seed,
    )
    settings.cache.mkdir(parents=True, exist_ok=True)
    groups = _choose(_groups(source, pipe, rule, settings.cache, progress), settings)
    if not groups:
        raise ValueError(
            f"No two of the {len(source.captions)} captions of {source.name} have a similarity "
            f"within {rule.tau_min} to {rule.tau_max}."
        )
    needed = sorted({source.owners[n] for group in groups for n in group})
    latents, broken = _latents(source, needed, pipe, settings.cache, progress)
    for index, reason in sorted(broken.items()):
        skips.add("picture cannot be decoded", f"{source.picture_name(index)}: {reason}")
    rows = {picture: row for row, picture in enumerate(p for p in needed if p not in broken)}
    groups = tuple(_whole_groups(groups, source.owners, rows, skips))
    if not groups:
        raise ValueError(
            f"No group has two pictures that can be read. {' '.join(skips.sentences())}"
        )
    latent_of = {n: rows[source.owners[n]] for group in groups for n in group}
    return PromptGroups(source.captions, latent_of, groups, latents, skips)


def _choose(groups: tuple[Group, ...], settings: TrainSettings) -> tuple[Group, ...]:
    """A random choice of max_groups groups, in their order."""
    if settings.max_groups is None or settings.max_groups >= len(groups):
        return groups
    chosen = np.random.default_rng(settings.seed).permutation(len(groups))[: settings.max_groups]
    return tuple(groups[i] for i in sorted(chosen))


def _whole_groups(
    groups: Iterable[Group], owners: Sequence[int], rows: dict[int, int], skips: Skips
) -> Iterator[Group]:
    """Groups without the members whose picture is broken."""
    for group in groups:
        left = tuple(n for n in group if owners[n] in rows)
        if len(left) > 1:
            yield left
        else:
            skips.add("group has fewer than two pictures left", f"group {group}")


# --- what is kept between runs --------------------------------------------------------------


def weights_digest(*modules: nn.Module | None) -> str:
    """A hash of all weights, so that a cache never outlives the model it was made with."""
    digest = hashlib.sha256()
    for module in modules:
        for name, value in (module.state_dict() if module is not None else {}).items():
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            flat = value.detach().cpu().contiguous().view(-1)
            digest.update(flat.view(torch.uint8).numpy())
    return digest.hexdigest()


def tokenizer_key(tokenizer: Any) -> list[Any]:
    """What the tokens of a text depend on."""
    words = sorted(tokenizer.get_vocab().items(), key=itemgetter(1))
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = {} if backend is None else json.loads(backend.to_str())
    # What calls have set last.
    rules = {name: rule for name, rule in rules.items() if name not in ("padding", "truncation")}
    return [words, tokenizer.model_max_length, rules]


def cache_key(*parts: object) -> str:
    """A name for a file that depends on these values."""
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:24]


def _groups(
    source: Source, pipe: SagePipeline, rule: GroupingRule, cache: Path, progress: bool
) -> tuple[Group, ...]:
    encoder, tokenizer = (
        (pipe.text_encoder, pipe.tokenizer)
        if pipe.clip is None
        else (pipe.clip.model, pipe.clip.tokenizer)
    )
    key = cache_key(
        list(source.captions), list(source.owners), asdict(rule),
        weights_digest(encoder), tokenizer_key(tokenizer),
    )  # fmt: skip
    path = cache / f"groups-{key}.json"
    if path.is_file():
        return tuple(map(tuple, json.loads(path.read_text("utf-8"))))
    embeddings = embed_all(source.captions, pipe, progress)
    groups = form_groups(embeddings, torch.tensor(list(source.owners)), rule, pipe.device)
    write_whole(path, lambda new: new.write_text(json.dumps(groups), encoding="utf-8"))
    return groups


def embed_all(captions: Sequence[str], pipe: SagePipeline, progress: bool = True) -> Tensor:
    """Embeddings for similarity of all captions [N, D], in chunks."""
    starts = range(0, len(captions), EMBED_BATCH)
    embeddings: Tensor | None = None
    for start in tqdm(starts, "captions", disable=not progress, mininterval=1):
        part = pipe.embed(captions[start : start + EMBED_BATCH])
        if (
            embeddings is None
        ):  # filled in place: putting parts together would need twice the memory
            embeddings = torch.empty(len(captions), part.shape[1])
        embeddings[start : start + len(part)] = part
    return embeddings if embeddings is not None else torch.zeros(0, 1)


def _latents(
    source: Source, needed: Sequence[int], pipe: SagePipeline, cache: Path, progress: bool
) -> tuple[np.ndarray, dict[int, str]]:
    """[P, C, h, w] float16 of the readable pictures, in order; why the others are not readable."""
    side, name = picture_side(pipe), getattr(source, "picture_key", source.picture_name)
    scale = pipe.vae.config.scaling_factor
    key = cache_key([name(n) for n in needed], side, scale, weights_digest(pipe.vae), READING)
    path, notes = cache / f"latents-{key}.npy", cache / f"latents-{key}.json"
    if not (path.is_file() and notes.is_file()):
        broken = _encode_all(source, needed, pipe, path, progress)
        write_whole(notes, lambda new: new.write_text(json.dumps(broken), encoding="utf-8"))
    broken = json.loads(notes.read_text("utf-8"))
    return np.load(path, mmap_mode="r"), {int(index): why for index, why in broken.items()}


def _encode_all(
    source: Source, needed: Sequence[int], pipe: SagePipeline, path: Path, progress: bool
) -> dict[int, str]:
    broken: dict[int, str] = {}
    shape = (pipe.unet.config.in_channels, *(pipe.unet.config.sample_size,) * 2)
    starts = range(0, len(needed), ENCODE_BATCH)

    def write(new: Path) -> None:
        # Not through a memory map: on a full disk that ends the process without a word.
        with new.open("wb") as file:
            _write_header(file, (len(needed), *shape))
            for start in tqdm(starts, "pictures", disable=not progress, mininterval=1):
                images = []
                for index in needed[start : start + ENCODE_BATCH]:
                    try:
                        images.append(squared(source.picture(index), picture_side(pipe)))
                    except Exception as error:  # whatever a source meets, it costs one picture
                        broken[index] = str(error) or type(error).__name__
                if images:
                    file.write(encode_pictures(images, pipe).numpy().tobytes())
            file.seek(0)  # as many rows as there are pictures that could be read
            _write_header(file, (len(needed) - len(broken), *shape))

    write_whole(path, write)
    return broken


def _write_header(file: BinaryIO, shape: tuple[int, ...]) -> None:
    """The beginning of a .npy file of float16; as long for any number of rows."""
    described = {"descr": np.dtype(np.float16).str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, described)


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file in one piece: a reader sees none or the whole."""
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        write(new)
        os.replace(new, path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def picture_side(pipe: SagePipeline) -> int:
    """Height and width of a model's pictures, in pixels."""
    return pipe.unet.config.sample_size * pipe.vae_scale_factor


def squared(image: Image.Image, side: int) -> Image.Image:
    """The middle square of a picture, resized (Lanczos) to side × side."""
    return ImageOps.fit(to_rgb(image), (side, side), Image.Resampling.LANCZOS)


@torch.no_grad()
def encode_pictures(images: Sequence[Image.Image], pipe: SagePipeline) -> Tensor:
    """[B, C, h, w] float16 on the CPU: mean latents, scaled as the UNet sees them."""
    pixels = (pixels_of(images) * 2 - 1).to(pipe.vae.device, pipe.vae.dtype)
    mean = pipe.vae.encode(pixels).latent_dist.mean
    return (mean.float() * pipe.vae.config.scaling_factor).half().cpu()
