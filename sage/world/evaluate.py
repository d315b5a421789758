"""Measures the built-in model: pictures by the probe, the autoencoder, CLIP, the bounds τ.

Every figure is a plain function of networks and scenes; :func:`evaluate` writes them down with
their conditions. Trains nothing; the probe shares nothing with what it judges.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from PIL import Image
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer

from sage.world import probe, stages
from sage.world.captions import caption
from sage.world.data import Pool, captions, draw_scenes, labels, paint_all
from sage.world.export import read_json, write_json
from sage.world.scenes import Painter, Scene
from sage.world.vocabulary import PLACE_BY_NAME, THING_BY_NAME, THINGS

BAR_CAPTIONS, BAR_SEED, STEPS = 300, 20_260_101, 30
FRESH_SEED = 777_777_777  # scenes that no pool holds


def bar_prompts(number: int = BAR_CAPTIONS, seed: int = BAR_SEED) -> tuple[list[Scene], list[str]]:
    """Held-out one-thing scenes and captions that name both the thing and the place."""
    rng = np.random.default_rng(seed)
    scenes = draw_scenes(number, seed, "held_out")
    return scenes, [_naming_place(scene, rng) for scene in scenes]


def _naming_place(scene: Scene, rng: np.random.Generator) -> str:
    while True:
        text = caption(scene, rng)
        if any(text.endswith(phrase) for phrase in PLACE_BY_NAME[scene.place].phrases):
            return text


def load(folder: Path) -> StableDiffusionPipeline:
    """The exported model in float32, without progress bars."""
    pipe = StableDiffusionPipeline.from_pretrained(
        folder, safety_checker=None, torch_dtype=torch.float32
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def sample(
    pipe: StableDiffusionPipeline,
    texts: Sequence[str],
    guidance: float,
    steps: int = STEPS,
    batch: int = 20,
) -> np.ndarray:
    """Independent guided pictures uint8 [N, 64, 64, 3]; picture n starts from seed n."""
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


def judge(referee: probe.Probe, images: np.ndarray, scenes: list[Scene]) -> dict[str, float]:
    """Shares of pictures with the right background, the named thing, style and count.

    "confidence" is the mean probability that the named things are there, a finer measure.
    """
    found, true = probe.read(referee, images), labels(scenes)
    shares = probe.accuracy(found, true)
    return {
        "background": shares["place"],
        **{name: shares[name] for name in ("thing", "style", "count")},
        "confidence": float(found.things[true.things > 0].mean()),
    }


def fresh(number: int, seed: int = FRESH_SEED) -> tuple[list[Scene], np.ndarray]:
    """Newly painted training-split scenes that no pool holds."""
    scenes = draw_scenes(number, seed)
    return scenes, paint_all(scenes, Painter())[0]


@torch.no_grad()
def round_trip(vae: AutoencoderKL, images: np.ndarray, batch: int = 50) -> np.ndarray:
    """Pictures uint8 [N, 64, 64, 3] encoded (the posterior's mean) and decoded again."""
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


@torch.no_grad()
def embed_texts(clip: CLIPModel, words: CLIPTokenizer, texts: Sequence[str]) -> Tensor:
    """Unit-length projected embeddings [N, 128] of texts."""
    ids = stages.tokens(words, list(texts))
    pooled = clip.get_text_features(input_ids=ids)
    return torch.nn.functional.normalize(getattr(pooled, "pooler_output", pooled), dim=-1)


@torch.no_grad()
def embed_images(clip: CLIPModel, images: np.ndarray) -> Tensor:
    """Unit-length projected embeddings [N, 128] of pictures."""
    pooled = clip.get_image_features(pixel_values=probe.to_pixels(images))
    return torch.nn.functional.normalize(getattr(pooled, "pooler_output", pooled), dim=-1)


def retrieval(clip: CLIPModel, words: CLIPTokenizer, number: int = 100) -> dict[str, float]:
    """How often a caption finds its picture among ``number`` fresh ones, and the reverse."""
    scenes, images = fresh(number, FRESH_SEED + 1)
    texts = captions(scenes, np.random.default_rng(FRESH_SEED))
    match = embed_texts(clip, words, texts) @ embed_images(clip, images).T
    own = torch.arange(number)
    return {
        "text_to_image": float((match.argmax(1) == own).float().mean()),
        "image_to_text": float((match.argmax(0) == own).float().mean()),
        "of": number,
    }


# --- calibration -----------------------------------------------------------------------------


def caption_pairs(number: int, seed: int) -> dict[str, list[tuple[str, str]]]:
    """Labelled pairs of captions.

    "same": the same scene in other words. "share": things of one category in the same place.
    "apart": another category of thing in another place.
    """
    rng = np.random.default_rng(seed)
    pairs: dict[str, list[tuple[str, str]]] = {"same": [], "share": [], "apart": []}
    while min(map(len, pairs.values())) < number:
        a, b = (_plain(scene) for scene in draw_scenes(2, int(rng.integers(2**31))))
        near = Scene(_relative(a, rng), 1, "normal", a.place, a.style, a.seed)
        kinds = {"same": a, "share": near}
        if _category(a) != _category(b) and a.place != b.place:
            kinds["apart"] = b
        for kind, other in kinds.items():
            pairs[kind].append((_naming_place(a, rng), _naming_place(other, rng)))
    return {kind: found[:number] for kind, found in pairs.items()}


def _plain(scene: Scene) -> Scene:
    return Scene(scene.things[:1], 1, "normal", scene.place, scene.style, scene.seed)


def _category(scene: Scene) -> str:
    return THING_BY_NAME[scene.things[0]].category


def _relative(scene: Scene, rng: np.random.Generator) -> tuple[str]:
    """Another thing of the scene's category."""
    like = [t.name for t in THINGS if t.category == _category(scene) and t.name != scene.things[0]]
    return (like[int(rng.integers(len(like)))],)


def threshold(low: np.ndarray, high: np.ndarray) -> float:
    """The cosine that best tells ``low`` values from ``high`` ones (mean of both shares right)."""
    candidates = np.linspace(-0.2, 1, 241)
    right = [(low < c).mean() + (high >= c).mean() for c in candidates]
    best = np.flatnonzero(np.isclose(right, max(right)))
    return float(candidates[best].mean())  # the middle, where several are as good


def bounds(clip: CLIPModel, words: CLIPTokenizer, number: int = 500) -> dict[str, Any]:
    """tau_min and tau_max from labelled pairs, with how well they separate them."""
    cosines = {}
    for kind, pairs in caption_pairs(number, 11).items():
        first, second = (embed_texts(clip, words, side) for side in zip(*pairs, strict=True))
        cosines[kind] = (first * second).sum(1).numpy()
    tau_min = round(threshold(cosines["apart"], cosines["share"]), 2)
    tau_max = round(threshold(cosines["share"], cosines["same"]), 2)
    quantiles = {
        kind: [round(float(q), 3) for q in np.quantile(values, [0.05, 0.5, 0.95])]
        for kind, values in cosines.items()
    }
    inside = (cosines["share"] >= tau_min) & (cosines["share"] <= tau_max)
    shares = {
        "share_inside": float(inside.mean()),
        "apart_below": float((cosines["apart"] < tau_min).mean()),
        "same_above": float((cosines["same"] > tau_max).mean()),
    }
    return {"tau_min": tau_min, "tau_max": tau_max, "quantiles_5_50_95": quantiles} | shares


def latent_rgb(latents: np.ndarray, images: np.ndarray) -> dict[str, Any]:
    """Least squares from latents [N, C, h, w] to pictures of the same size in [0, 1]."""
    N, C, h, w = latents.shape
    k = images.shape[1] // h
    small = images.reshape(N, h, k, w, k, 3).mean((2, 4)).reshape(-1, 3) / 255
    flat = latents.transpose(0, 2, 3, 1).reshape(-1, C).astype(np.float64)
    A = np.concatenate([flat, np.ones((len(flat), 1))], 1)
    fit, *_ = np.linalg.lstsq(A, small, rcond=None)
    return {"weight": fit[:C].T.round(5).tolist(), "bias": fit[C].round(5).tolist()}


def calibrate(clip: CLIPModel, words: CLIPTokenizer, out: Path, pool: Pool) -> dict[str, Any]:
    """What sage.json needs that is measured before pictures are made; keeps what is known."""
    latents = np.load(out / "latents.npy", mmap_mode="r")[:1000]
    record = read_json(out / "calibration.json") | bounds(clip, words)
    return record | {"latent_rgb": latent_rgb(latents, np.asarray(pool.images[:1000]))}


def best_guidance(
    pipe: StableDiffusionPipeline, referee: probe.Probe, scales: Sequence[float], number: int
) -> tuple[float, dict[str, dict[str, float]]]:
    """The guidance scale that the probe likes best, and what it says of every one."""
    scenes, texts = bar_prompts(number, BAR_SEED + 1)  # not the captions of the bar
    figures = {g: judge(referee, sample(pipe, texts, g), scenes) for g in scales}
    keys = ("background", "thing", "confidence")
    best = max(scales, key=lambda g: sum(figures[g][key] for key in keys))
    return best, {str(g): found for g, found in figures.items()}


# --- the whole report ------------------------------------------------------------------------


def sheet(images: np.ndarray, columns: int = 12, zoom: int = 2) -> Image.Image:
    """A contact sheet of pictures uint8 [N, H, W, 3], row by row."""
    N, H, W, _ = images.shape
    rows = -(-N // columns)
    board = np.full((rows * columns, H, W, 3), 255, np.uint8)
    board[:N] = images
    joined = board.reshape(rows, columns, H, W, 3).transpose(0, 2, 1, 3, 4)
    picture = Image.fromarray(joined.reshape(rows * H, columns * W, 3))
    return picture.resize((columns * W * zoom, rows * H * zoom), Image.Resampling.NEAREST)


def evaluate(folder: Path, number: int = BAR_CAPTIONS) -> dict[str, Any]:
    """Judge an exported folder; writes evaluation.json and sheet.png into it."""
    pipe, referee = load(folder), probe.load(folder / "probe")
    guidance = read_json(folder / "sage.json")["guidance_scale"]
    scenes, texts = bar_prompts(number)
    start = time.monotonic()
    images = sample(pipe, texts, guidance)
    seconds = time.monotonic() - start
    record = {
        "bar": judge(referee, images, scenes),
        # Judged as if each picture belonged to the next caption: what chance would score.
        "control": judge(referee, images, scenes[1:] + scenes[:1]),
        "conditions": {
            "captions": number,
            "pairs": len({(scene.things[0], scene.place) for scene in scenes}),
            "split": "held-out pairs of thing and place, one thing each",
            "steps": STEPS,
            "guidance_scale": guidance,
            "seeds": f"0 to {number - 1}",
            "precision": "float32",
            "seconds": round(seconds, 1),
        },
        "two_things": two_things(pipe, referee, guidance),
    } | parts(folder, referee)
    write_json(folder / "evaluation.json", record)
    sheet(images[:96]).save(folder / "sheet.png", optimize=True)
    return record


def two_things(
    pipe: StableDiffusionPipeline, referee: probe.Probe, guidance: float, number: int = 60
) -> dict[str, float]:
    """How often captions of two different things get both, and in the right order."""
    scenes = [s for s in draw_scenes(12 * number, BAR_SEED + 2) if len(s.things) == 2][:number]
    texts = captions(scenes, np.random.default_rng(BAR_SEED))
    true = labels(scenes)
    found = probe.read(referee, sample(pipe, texts, guidance))
    both = (found.things[true.things > 0].reshape(len(scenes), 2) > 0.5).all(1)
    order = (found.left == true.left) & (found.right == true.right)
    return {"both": float(both.mean()), "order": float(order.mean()), "captions": len(scenes)}


def parts(folder: Path, referee: probe.Probe, number: int = 1000) -> dict[str, Any]:
    """The probe on fresh scenes and on their round trip, and CLIP's retrieval."""
    scenes, images = fresh(number)
    vae = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32)
    again = round_trip(vae, images)
    clip = CLIPModel.from_pretrained(folder / "clip", dtype=torch.float32).eval()
    words = CLIPTokenizer.from_pretrained(folder / "clip")
    true = labels(scenes)
    return {
        "probe_on_fresh_scenes": probe.accuracy(probe.read(referee, images), true),
        "probe_after_round_trip": probe.accuracy(probe.read(referee, again), true),
        "round_trip_psnr_db": psnr(images, again),
        "clip_retrieval": retrieval(clip, words),
        "scenes": number,
    }
