"""Chooses by measurement what `sage.json` says of a model: the bounds τ and the preview's colours.

Also how well CLIP's similarity follows what two scenes have in common. Plain functions of networks
and scenes; trains nothing.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import CLIPTokenizer

from sage.sd.foreign import Network
from sage.world import probe
from sage.world.captions import caption, names_place
from sage.world.labels import common_content, labels
from sage.world.scenes import Scene
from sage.world.train import stages
from sage.world.train.data import draw_scenes
from sage.world.words import Words

PAIRS_SEED = 11


def naming_place(scene: Scene, rng: np.random.Generator, words: Words) -> str:
    """A caption of the scene that says where it is."""
    while True:
        text = caption(scene, rng, words)
        if names_place(text, scene, words):
            return text


@torch.no_grad()
def embed_texts(clip: Network, words: CLIPTokenizer, texts: Sequence[str]) -> Tensor:
    """Unit-length projected embeddings [N, D] of texts."""
    ids = stages.tokens(words, list(texts))
    pooled = clip.get_text_features(input_ids=ids)
    return torch.nn.functional.normalize(getattr(pooled, "pooler_output", pooled), dim=-1)


@torch.no_grad()
def embed_images(clip: Network, images: np.ndarray) -> Tensor:
    """Unit-length projected embeddings [N, D] of pictures uint8 [N, H, W, 3]."""
    pooled = clip.get_image_features(pixel_values=probe.to_pixels(images))
    return torch.nn.functional.normalize(getattr(pooled, "pooler_output", pooled), dim=-1)


def retrieval(
    clip: Network, words: CLIPTokenizer, texts: Sequence[str], images: np.ndarray
) -> dict[str, float]:
    """How often a caption finds its picture among all of them, and the reverse."""
    match = embed_texts(clip, words, texts) @ embed_images(clip, images).T
    own = torch.arange(len(texts))
    return {
        "text_to_image": float((match.argmax(1) == own).float().mean()),
        "image_to_text": float((match.argmax(0) == own).float().mean()),
        "of": len(texts),
    }


# --- does similarity follow content? ----------------------------------------------------------


def related_scenes(number: int, seed: int, words: Words) -> list[tuple[Scene, Scene]]:
    """Pairs of scenes that have everything, something or nothing in common.

    The second scene of a pair is another one that has taken over a random part of the first:
    its things, its place, its style, or several of them.
    """
    rng = np.random.default_rng(seed)
    first, second = (draw_scenes(number, seed + n, words) for n in (1, 2))
    pairs = []
    for a, b in zip(first, second, strict=True):
        kept = {name: getattr(a, name) for name in ("place", "style") if rng.random() < 0.4}
        if rng.random() < 0.4:
            names = ("things", "count", "size", "second_size")
            kept |= {name: getattr(a, name) for name in names}
        pairs.append((a, replace(b, **kept)))
    return pairs


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's coefficient of two rows of numbers [N]; equal numbers share a rank."""
    from scipy.stats import rankdata

    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])


def content_order(
    clip: Network, tokenizer: CLIPTokenizer, words: Words, number: int = 1000
) -> dict[str, float]:
    """Rank correlation of captions' similarity with what their scenes have in common."""
    pairs = related_scenes(number, PAIRS_SEED, words)
    rng = np.random.default_rng(PAIRS_SEED)
    first, second = (
        embed_texts(clip, tokenizer, [naming_place(scene, rng, words) for scene in side])
        for side in zip(*pairs, strict=True)
    )
    content = [common_content(labels(pair, words), words)[0, 1] for pair in pairs]
    return {
        "rank_correlation": rank_correlation((first * second).sum(1).numpy(), np.array(content)),
        "pairs": number,
    }


# --- the bounds ------------------------------------------------------------------------------


def caption_pairs(number: int, seed: int, words: Words) -> dict[str, list[tuple[str, str]]]:
    """Labelled pairs of captions.

    "same": the same scene in other words. "share": things of one category in the same place.
    "apart": another category of thing in another place.
    """
    rng = np.random.default_rng(seed)
    pairs: dict[str, list[tuple[str, str]]] = {"same": [], "share": [], "apart": []}

    def category(scene: Scene) -> str:
        return words.thing[scene.things[0]].category

    while min(map(len, pairs.values())) < number:
        drawn = draw_scenes(2, int(rng.integers(2**31)), words)
        a, b = (Scene(s.things[:1], 1, "normal", s.place, s.style, s.seed) for s in drawn)
        kinds = {"same": a, "share": replace(a, things=(_relative(a, rng, words),))}
        if category(a) != category(b) and a.place != b.place:
            kinds["apart"] = b
        for kind, other in kinds.items():
            one, two = (naming_place(scene, rng, words) for scene in (a, other))
            pairs[kind].append((one, two))
    return {kind: found[:number] for kind, found in pairs.items()}


def _relative(scene: Scene, rng: np.random.Generator, words: Words) -> str:
    """Another thing of the scene's category."""
    name = scene.things[0]
    category = words.thing[name].category
    like = [t.name for t in words.things if t.category == category and t.name != name]
    return like[int(rng.integers(len(like)))]


def threshold(low: np.ndarray, high: np.ndarray) -> float:
    """The cosine that best tells ``low`` values from ``high`` ones (mean of both shares right)."""
    candidates = np.linspace(-0.2, 1, 241)
    right = [(low < c).mean() + (high >= c).mean() for c in candidates]
    best = np.flatnonzero(np.isclose(right, max(right)))
    return float(candidates[best].mean())  # the middle, where several are as good


def bounds(
    clip: Network, tokenizer: CLIPTokenizer, words: Words, number: int = 500
) -> dict[str, Any]:
    """tau_min and tau_max from labelled pairs, with how well they separate them."""
    cosines = {}
    for kind, pairs in caption_pairs(number, PAIRS_SEED, words).items():
        sides = (embed_texts(clip, tokenizer, side) for side in zip(*pairs, strict=True))
        first, second = sides
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
