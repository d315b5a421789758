"""Measures the built-in model's pictures by the probe, by sharpness and by a judge from outside.

Every figure is a plain function of pictures and scenes; :func:`evaluate` writes them down with
their conditions. Trains nothing; neither judge shares anything with what it judges.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from PIL import Image
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer

from sage.core.metrics import frechet_distance
from sage.sd.features import EfficientNetLite0
from sage.sd.foreign import Network, Pipeline
from sage.world import probe
from sage.world.captions import caption
from sage.world.labels import Labels, labels
from sage.world.scenes import Painter, Scene, sample_scene
from sage.world.train import calibrate
from sage.world.train.data import draw_scenes
from sage.world.train.export import read_json, write_json
from sage.world.words import FILE_NAME, Words, read_words

BAR_CAPTIONS, BAR_SEED, STEPS = 600, 20_260_101, 30
# What the captions of the bar show, always in combinations that training never met.
BAR_KINDS = {"one": 0.3, "one_sized": 0.1, "two_things": 0.25, "two_sized": 0.1}
BAR_KINDS |= {"two_same": 0.09, "three_same": 0.08, "four_same": 0.08}
FRESH_SEED = 777_777_777  # scenes that training never sees
PAINTINGS = 3  # of every scene of the bar, so that the reference is no smaller than what is judged
SHARP = 0.85  # least gradient energy over painted, for a guidance scale to be chosen
SHEET = "sheet.webp"
SIDE = 128  # pixels at which the judge from outside sees every model's pictures


def bar_prompts(
    words: Words, number: int = BAR_CAPTIONS, seed: int = BAR_SEED
) -> tuple[list[Scene], list[str]]:
    """Held-out scenes, and captions that name what there is and the place."""
    rng = np.random.default_rng(seed)
    kinds = {kind: share for kind, share in BAR_KINDS.items() if kind in words.kinds}
    kinds = {kind: share / sum(kinds.values()) for kind, share in kinds.items()}
    scenes = [sample_scene(rng, "held_out", words=words, kinds=kinds) for _ in range(number)]
    return scenes, [calibrate.naming_place(scene, rng, words) for scene in scenes]


def names_style(text: str, words: Words) -> bool:
    """Whether a caption says in which style."""
    return any(
        text.startswith(style.prefixes) or text.endswith(style.suffixes or ("\0",))
        for style in words.styles
    )


def load(folder: Path, device: torch.device | str = "cpu") -> StableDiffusionPipeline:
    """The exported model in float32 on a device, without progress bars."""
    pipe = StableDiffusionPipeline.from_pretrained(
        folder, safety_checker=None, torch_dtype=torch.float32
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)


def sample(
    pipe: Pipeline,
    texts: Sequence[str],
    guidance: float,
    steps: int = STEPS,
    batch: int = 20,
) -> np.ndarray:
    """Independent guided pictures uint8 [N, H, W, 3]; picture n starts from seed n."""
    parts = []
    for start in range(0, len(texts), batch):
        chunk = list(texts[start : start + batch])
        seeds = [torch.Generator().manual_seed(start + n) for n in range(len(chunk))]
        made = pipe(
            chunk,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=seeds,
            output_type="np",
        ).images
        parts.append((made * 255).round().astype(np.uint8))
    return np.concatenate(parts)


# --- the probe -------------------------------------------------------------------------------


def judge(
    referee: probe.Probe,
    images: np.ndarray,
    scenes: Sequence[Scene],
    words: Words,
    styled: np.ndarray | None = None,
) -> dict[str, float]:
    """Shares of pictures that the probe finds right; each over the scenes it can be asked of.

    "background", "thing" (of one named thing), "both" and "sides" (of two: both are there, and
    each on its side), "count" (of one kind of thing; "several" where it is two or more), "style"
    (over `styled`, or all) and, if the probe knows sizes, "size" (where a size is named).
    "confidence" is the mean probability that the named things are there, a finer measure. Shares
    over no scene are left out.
    """
    hits = answers(referee, images, scenes, words, styled)
    return {name: float(values.mean()) for name, values in hits.items()}


def answers(
    referee: probe.Probe,
    images: np.ndarray,
    scenes: Sequence[Scene],
    words: Words,
    styled: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """What :func:`judge` takes the means of: for every picture that can be asked, 0 or 1."""
    found, true = probe.read(referee, images), labels(scenes, words)
    pairs = true.things.sum(1) > 1
    everywhere = np.ones(len(scenes), bool)
    ends = (found.left == true.left) & (found.right == true.right)
    likeliest = np.take_along_axis(true.things, found.things.argmax(1)[:, None], 1)[:, 0] > 0
    asked = {
        "background": (found.place == true.place, everywhere),
        "thing": (likeliest, ~pairs),
        "both": (_top_two(found.things, true), pairs),
        "sides": (ends & _top_two(found.things, true), pairs),
        "count": (found.count == true.count, ~pairs),
        "several": (found.count == true.count, ~pairs & (true.count > 0)),
        "style": (found.style == true.style, everywhere if styled is None else styled),
    }
    if found.left_size is not None:
        right = (found.left_size == true.left_size) & (found.right_size == true.right_size)
        sized = np.array([scene.sizes != ("normal",) * len(scene.things) for scene in scenes])
        asked["size"] = (right, sized)
    hits = {name: hit[over].astype(float) for name, (hit, over) in asked.items() if over.any()}
    return hits | {"confidence": found.things[true.things > 0]}


def _top_two(things: np.ndarray, true: Labels) -> np.ndarray:
    """[B] whether the two likeliest things are those of the scene."""
    best = np.argsort(-things, axis=1)[:, :2]
    return np.take_along_axis(true.things, best, 1).sum(1) == 2


# --- sharpness and the judge from outside ------------------------------------------------------


def sharpness(images: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Gradient energy of pictures over that of a reference; both uint8 [N, H, W, 3].

    "gradient": mean squared difference of neighbouring pixels. "octave": the same of what a
    picture loses when it is halved and enlarged again, its highest octave.
    """
    pairs = [(_gradient(x), _gradient(_octave(x))) for x in (images, reference)]
    (gradient, octave), (whole, top) = pairs
    return {"gradient": gradient / whole, "octave": octave / top}


def _gradient(images: np.ndarray) -> float:
    x = images.astype(np.float32)
    return float(np.square(np.diff(x, axis=1)).mean() + np.square(np.diff(x, axis=2)).mean())


def _octave(images: np.ndarray) -> np.ndarray:
    x = images.astype(np.float32)
    N, H, W, C = x.shape
    half = x.reshape(N, H // 2, 2, W // 2, 2, C).mean((2, 4))
    return x - half.repeat(2, 1).repeat(2, 2)


def paintings(scenes: Sequence[Scene], side: int, first: int = 0, number: int = 1) -> np.ndarray:
    """Pictures of scenes as the painter makes them, `number` of each with jitter of its own."""
    painter = Painter(side)
    varied = [
        replace(scene, seed=scene.seed + first + n) for n in range(number) for scene in scenes
    ]
    return np.stack([painter.paint(scene)[0] for scene in varied])


def outside_distance(images: np.ndarray, reference: np.ndarray) -> dict[str, Any]:
    """FD-EffLite0: Fréchet distance on ImageNet EfficientNet-Lite0's features at 128 pixels.

    Raises:
        ImportError: If the judge's packages are not installed.
    """
    network = EfficientNetLite0.load(SIDE)
    made, real = (network([Image.fromarray(x) for x in some]) for some in (images, reference))
    distance = frechet_distance(made, real)
    return {"fd_efflite0": distance, "pictures": len(made), "paintings": len(real)}


# --- the autoencoder -------------------------------------------------------------------------


def fresh(words: Words, number: int, seed: int = FRESH_SEED) -> tuple[list[Scene], np.ndarray]:
    """Newly painted training-split scenes."""
    scenes = draw_scenes(number, seed, words)
    return scenes, paintings(scenes, words.image_size)


@torch.no_grad()
def round_trip(vae: Network, images: np.ndarray, batch: int = 50) -> np.ndarray:
    """Pictures uint8 [N, H, W, 3] encoded (the posterior's mean) and decoded again."""
    parts = []
    for start in range(0, len(images), batch):
        z = vae.encode(probe.to_pixels(images[start : start + batch])).latent_dist.mean
        parts.append(to_images(vae.decode(z).sample))
    return np.concatenate(parts)


def to_images(pixels: Tensor) -> np.ndarray:
    """[B, 3, H, W] in [-1, 1] as uint8 [B, H, W, 3]."""
    scaled = ((pixels.float() + 1) * 127.5).round().clamp(0, 255)
    return scaled.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Mean peak signal-to-noise ratio of pictures uint8, in dB."""
    error = ((a.astype(np.float32) - b.astype(np.float32)) ** 2).mean((1, 2, 3))
    return float((10 * np.log10(255**2 / np.maximum(error, 1e-3))).mean())


# --- the whole report ------------------------------------------------------------------------


def best_guidance(
    pipe: StableDiffusionPipeline,
    referee: probe.Probe,
    words: Words,
    scales: Sequence[float],
    number: int,
) -> tuple[float, dict[str, dict[str, float]]]:
    """The lowest guidance scale that the probe likes as well as the best, and what it says of all.

    As well is within one standard error of the difference, from the same captions and seeds: more
    guidance makes layouts settle earlier, so that less can be shared. Scales whose pictures are
    softer than `SHARP` are left out, if not all are: the probe asks for no details.
    """
    scenes, texts = bar_prompts(words, number, BAR_SEED + 1)  # not the captions of the bar
    styled = np.array([names_style(text, words) for text in texts])
    real = paintings(scenes, words.image_size)
    hits: dict[float, dict[str, np.ndarray]] = {}
    figures: dict[float, dict[str, float]] = {}
    for scale in scales:
        images = sample(pipe, texts, scale)
        hits[scale] = answers(referee, images, scenes, words, styled)
        shares = {name: float(values.mean()) for name, values in hits[scale].items()}
        figures[scale] = shares | {"gradient": sharpness(images, real)["gradient"]}
    sharp = [scale for scale in scales if figures[scale]["gradient"] >= SHARP] or scales
    best = lowest_as_good({scale: hits[scale] for scale in sharp})
    return best, {str(scale): found for scale, found in figures.items()}


def lowest_as_good(hits: Mapping[float, Mapping[str, np.ndarray]]) -> float:
    """The lowest of several scales whose summed shares are within chance of the best one's.

    Args:
        hits: By scale, what :func:`answers` gives; each entry has as many values for all scales.
    """
    keys = ("background", "thing", "both", "sides", "count", "style", "confidence")
    asked = [key for key in keys if all(key in found for found in hits.values())]
    best = max(hits, key=lambda g: sum(hits[g][key].mean() for key in asked))

    def as_good(scale: float) -> bool:
        gaps = [hits[best][key] - hits[scale][key] for key in asked]
        error = sum(gap.var() / len(gap) for gap in gaps) ** 0.5
        return sum(gap.mean() for gap in gaps) <= error

    return min(scale for scale in hits if as_good(scale))


def sheet(images: np.ndarray, columns: int = 12, zoom: int = 1) -> Image.Image:
    """A contact sheet of pictures uint8 [N, H, W, 3], row by row."""
    N, H, W, _ = images.shape
    rows = -(-N // columns)
    board = np.full((rows * columns, H, W, 3), 255, np.uint8)
    board[:N] = images
    joined = board.reshape(rows, columns, H, W, 3).transpose(0, 2, 1, 3, 4)
    picture = Image.fromarray(joined.reshape(rows * H, columns * W, 3))
    return picture.resize((columns * W * zoom, rows * H * zoom), Image.Resampling.NEAREST)


def beside(made: np.ndarray, painted: np.ndarray, number: int, columns: int = 12) -> Image.Image:
    """A contact sheet: each row of made pictures above the same scenes as they were painted."""
    rows = []
    for start in range(0, number, columns):
        rows += [made[start : start + columns], painted[start : start + columns]]
    return sheet(np.concatenate(rows), columns)


def evaluate(
    folder: Path,
    number: int = BAR_CAPTIONS,
    outside: bool = True,
    sheets: Path | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """Judge an exported folder; writes evaluation.json and a contact sheet into it.

    Args:
        folder: Of the model, with its probe, CLIP and words.
        number: Captions of the bar.
        outside: Also ask the judge from outside, which needs two packages.
        sheets: Where larger contact sheets go: of all captions, and of those of two things.
        device: Where pictures are drawn; judges stay on the CPU.
    """
    pipe, referee = load(folder, device), probe.load(folder / "probe")
    words = read_words(folder / FILE_NAME)
    guidance = read_json(folder / "sage.json")["guidance_scale"]
    scenes, texts = bar_prompts(words, number)
    start = time.monotonic()
    images = sample(pipe, texts, guidance)
    seconds = time.monotonic() - start
    styled = np.array([names_style(text, words) for text in texts])
    real = paintings(scenes, words.image_size)
    record = {
        "bar": judge(referee, images, scenes, words, styled),
        # Judged as if each picture belonged to the next caption: what chance would score.
        "control": judge(referee, images, scenes[1:] + scenes[:1], words),
        "sharpness": sharpness(images, real),
        "conditions": {
            "captions": number,
            "of_two_things": sum(len(scene.things) == 2 for scene in scenes),
            "naming_a_style": int(styled.sum()),
            "split": "every thing in a place it was never seen in",
            "steps": STEPS,
            "guidance_scale": guidance,
            "seeds": f"0 to {number - 1}",
            "precision": "float32",
            "seconds": round(seconds, 1),
        },
    }
    if outside:
        record["outside"] = outside_distance(images, paintings(scenes, SIDE, 1, PAINTINGS))
    record |= parts(folder, referee, words)
    write_json(folder / "evaluation.json", record)
    write_sheet(folder / SHEET, images, real, 60)
    if sheets is not None:
        two = [n for n, scene in enumerate(scenes) if len(scene.things) == 2]
        write_large_sheets(sheets, images, real, two)
    return record


def write_large_sheets(
    folder: Path, images: np.ndarray, real: np.ndarray, two: Sequence[int]
) -> None:
    """Contact sheets of all captions, and of those of two things, which have these numbers."""
    write_sheet(folder / "all.webp", images, real, 120)
    write_sheet(folder / "two-things.webp", images[two], real[two], 120)


def write_sheet(file: Path, made: np.ndarray, painted: np.ndarray, most: int) -> None:
    """Write a contact sheet of at most so many pictures beside as many painted ones."""
    beside(made, painted, min(most, len(made))).save(file, quality=88, method=6)


def parts(
    folder: Path, referee: probe.Probe, words: Words, number: int = 1000, found_among: int = 200
) -> dict[str, Any]:
    """The probe on fresh scenes and on their round trip, the autoencoder, and CLIP."""
    scenes, images = fresh(words, number)
    vae = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32)
    again = round_trip(vae, images)
    clip = CLIPModel.from_pretrained(folder / "clip", dtype=torch.float32).eval()
    tokenizer = CLIPTokenizer.from_pretrained(folder / "clip")
    true = labels(scenes, words)
    rng = np.random.default_rng(FRESH_SEED)
    few = scenes[:found_among]
    texts = [caption(scene, rng, words) for scene in few]
    return {
        "probe_on_fresh_scenes": probe.accuracy(probe.read(referee, images), true),
        "probe_after_round_trip": probe.accuracy(probe.read(referee, again), true),
        "round_trip_psnr_db": psnr(images, again),
        "round_trip_sharpness": sharpness(again, images),
        "clip_retrieval": calibrate.retrieval(clip, tokenizer, texts, images[: len(few)]),
        "clip_content": calibrate.content_order(clip, tokenizer, words),
        "scenes": number,
    }
