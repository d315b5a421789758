"""The probe: a small classifier that says what is in a picture, used only to judge.

It is trained on painted scenes, blurred and noised a little so that it is fair to generated
pictures, and shares nothing with the networks it judges. Knows labels, not captions.
"""

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sage.world.labels import SIZES, Labels
from sage.world.words import Words

WIDTHS = (48, 96, 160, 224)
NARROW = 64  # channels that the heads of a new probe read


class Block(nn.Module):
    """Two 3×3 convolutions beside a shortcut; halves the picture."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(8, inner), nn.GroupNorm(8, outer)
        self.conv1 = nn.Conv2d(inner, outer, 3, 2, 1)
        self.conv2 = nn.Conv2d(outer, outer, 3, 1, 1)
        self.short = nn.Conv2d(inner, outer, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inner, H, W] to [B, outer, H/2, W/2]."""
        h = self.conv1(F.silu(self.norm1(x)))
        return self.conv2(F.silu(self.norm2(h))) + self.short(F.avg_pool2d(x, 2))


def head_sizes(
    things: int, places: int, styles: int, counts: int = 3, sizes: int = 0
) -> dict[str, int]:
    """Classes of every head, by the names of :class:`sage.world.labels.Labels`."""
    heads = {"things": things, "place": places, "style": styles, "count": counts}
    heads |= {"left": things, "right": things}
    return heads | ({"left_size": sizes, "right_size": sizes} if sizes else {})


def sizes_of(words: Words) -> dict[str, int]:
    """Arguments of :func:`head_sizes` for a model's words."""
    tables = {"things": words.things, "places": words.places, "styles": words.styles}
    return {name: len(table) for name, table in tables.items()} | {
        "counts": max((1, *words.counts)),
        "sizes": len(SIZES),
    }


class Probe(nn.Module):
    """Things, place, style, count, leftmost and rightmost thing of a picture, and their sizes."""

    def __init__(self, image: int = 64, narrow: int = 0, **sizes: int) -> None:
        """For pictures of `image` pixels a side; `sizes` as in :func:`head_sizes`.

        The heads read a 4×4 map, of `narrow` channels if it is given.
        """
        super().__init__()
        self.sizes = {"image": image, "narrow": narrow, **sizes}
        # Reduced to 32×32 at once: normalising large maps would cost more than all the rest.
        patch = image // 32
        self.stem = nn.Conv2d(3, WIDTHS[0], 2 * patch, patch, patch // 2)
        self.blocks = nn.Sequential(*(Block(a, b) for a, b in pairwise(WIDTHS)))
        flat = (narrow or WIDTHS[-1]) * 16
        self.norm = nn.GroupNorm(8, WIDTHS[-1])
        self.narrow = nn.Conv2d(WIDTHS[-1], narrow, 1) if narrow else nn.Identity()
        # Heads read the 4×4 map with its positions: left and right are positions.
        heads = head_sizes(**sizes)
        self.heads = nn.ModuleDict({name: nn.Linear(flat, n) for name, n in heads.items()})

    @classmethod
    def of(cls, words: Words) -> "Probe":
        """An untrained probe for a model's words and picture size."""
        return cls(words.image_size, narrow=NARROW, **sizes_of(words))

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        """Logits by head for pictures [B, 3, H, H] in [-1, 1]."""
        x = self.narrow(F.silu(self.norm(self.blocks(self.stem(pictures))))).flatten(1)
        x = F.dropout(x, 0.1, self.training)
        return {name: head(x) for name, head in self.heads.items()}


@dataclass(frozen=True)
class Reading:
    """What the probe found in B pictures: one array for each head, in vocabulary order."""

    things: np.ndarray  # [B, T] float, probability that a thing is there
    place: np.ndarray  # [B] int
    style: np.ndarray  # [B] int
    count: np.ndarray  # [B] int, number of things minus one
    left: np.ndarray  # [B] int
    right: np.ndarray  # [B] int
    left_size: np.ndarray | None = None  # [B] int, if the probe was taught sizes
    right_size: np.ndarray | None = None  # [B] int


@torch.no_grad()
def read(probe: Probe, images: np.ndarray, batch: int = 100) -> Reading:
    """What the probe finds in pictures uint8 [B, H, H, 3]."""
    parts: dict[str, list[Tensor]] = {name: [] for name in probe.heads}
    for start in range(0, len(images), batch):
        pixels = to_pixels(images[start : start + batch])
        for name, logits in probe(pixels).items():
            parts[name].append(logits.sigmoid() if name == "things" else logits.argmax(1))
    return Reading(**{name: torch.cat(values).numpy() for name, values in parts.items()})


def to_pixels(images: np.ndarray | Tensor) -> Tensor:
    """Pictures uint8 [B, H, W, 3] as float32 [B, 3, H, W] in [-1, 1]."""
    # A copy: PyTorch wants to own what a file maps.
    pixels = torch.from_numpy(np.array(images)) if isinstance(images, np.ndarray) else images
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1


def accuracy(found: Reading, true: Labels) -> dict[str, float]:
    """Share of pictures that each head has right; the heads are the keys.

    "things": exactly the right set at probability 0.5; "thing": the most likely thing is in the
    picture; "order": in pictures of two different things, both ends are right (left as 1.0 if
    there is no such picture).
    """
    pairs = true.left != true.right
    order = (found.left == true.left) & (found.right == true.right)
    best = true.things[np.arange(len(true.place)), found.things.argmax(1)] > 0
    exact = ((found.things > 0.5) == (true.things > 0.5)).all(1)
    right = {name: getattr(found, name) == getattr(true, name) for name in _CLASSES}
    shares = {"things": exact, "thing": best, **right}
    if found.left_size is not None:
        sizes = (found.left_size == true.left_size) & (found.right_size == true.right_size)
        shares["size"] = sizes
    return {name: float(np.mean(hit)) for name, hit in shares.items()} | {
        "order": float(order[pairs].mean()) if pairs.any() else 1.0
    }


_CLASSES = ("place", "style", "count")


def loss(logits: dict[str, Tensor], labels: dict[str, Tensor]) -> dict[str, Tensor]:
    """Cross-entropies of all heads; ``labels`` has the names of :class:`Labels`."""
    terms = {
        name: F.cross_entropy(value.float(), labels[name])
        for name, value in logits.items()
        if name != "things"
    }
    things = F.binary_cross_entropy_with_logits(logits["things"].float(), labels["things"])
    # Summed over things rather than averaged: each thing counts as much as a head.
    terms["things"] = things * logits["things"].shape[1]
    return {"loss": sum(terms.values(), start=things.new_zeros(())), **terms}


def blur_and_noise(pixels: Tensor, noise: torch.Generator) -> Tensor:
    """Pictures as an autoencoder might return them: half are softened, all a little noisy."""
    B, device = len(pixels), pixels.device
    soft = F.avg_pool2d(F.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, 1)
    amount = torch.rand(B, 1, 1, 1, generator=noise, device=device) * 2 - 1
    spread = 0.08 * torch.rand(B, 1, 1, 1, generator=noise, device=device)
    grain = torch.randn(pixels.shape, generator=noise, device=device)
    light = 0.1 * torch.randn(B, 3, 1, 1, generator=noise, device=device)
    return torch.lerp(pixels, soft, amount.clamp(min=0)) + spread * grain + light


def save(probe: Probe, folder: Path) -> None:
    """Write config.json and model.safetensors (float16)."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(probe.sizes, indent=2) + "\n")
    weights = {name: value.half().contiguous() for name, value in probe.state_dict().items()}
    save_file(weights, folder / "model.safetensors")


def load(folder: Path) -> Probe:
    """The probe saved in ``folder``, in float32.

    Raises:
        FileNotFoundError: if there is none.
    """
    probe = Probe(**json.loads((folder / "config.json").read_text()))
    weights = load_file(folder / "model.safetensors")
    probe.load_state_dict({name: value.float() for name, value in weights.items()})
    return probe.eval().requires_grad_(False)
