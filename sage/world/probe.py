"""The probe: a small classifier that says what is in a 64×64 picture, used only to judge.

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

from sage.world.data import Labels

WIDTHS = (48, 96, 160, 224)


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


class Probe(nn.Module):
    """Things, place, style, count, leftmost and rightmost thing of a picture."""

    def __init__(self, things: int, places: int, styles: int) -> None:
        super().__init__()
        self.sizes = {"things": things, "places": places, "styles": styles}
        # Halved at once: normalising 64×64 maps would cost more than all the rest.
        self.stem = nn.Conv2d(3, WIDTHS[0], 4, 2, 1)
        self.blocks = nn.Sequential(*(Block(a, b) for a, b in pairwise(WIDTHS)))
        flat = WIDTHS[-1] * 16
        self.norm = nn.GroupNorm(8, WIDTHS[-1])
        # Heads read the 4×4 map with its positions: left and right are positions.
        self.heads = nn.ModuleDict(
            {
                "things": nn.Linear(flat, things),
                "place": nn.Linear(flat, places),
                "style": nn.Linear(flat, styles),
                "count": nn.Linear(flat, 3),
                "left": nn.Linear(flat, things),
                "right": nn.Linear(flat, things),
            }
        )

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        """Logits by head for pictures [B, 3, 64, 64] in [-1, 1]."""
        x = F.silu(self.norm(self.blocks(self.stem(pictures)))).flatten(1)
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


@torch.no_grad()
def read(probe: Probe, images: np.ndarray, batch: int = 100) -> Reading:
    """What the probe finds in pictures uint8 [B, 64, 64, 3]."""
    parts: dict[str, list[Tensor]] = {name: [] for name in probe.heads}
    for start in range(0, len(images), batch):
        pixels = to_pixels(images[start : start + batch])
        for name, logits in probe(pixels).items():
            parts[name].append(logits.sigmoid() if name == "things" else logits.argmax(1))
    return Reading(**{name: torch.cat(values).numpy() for name, values in parts.items()})


def to_pixels(images: np.ndarray) -> Tensor:
    """Pictures uint8 [B, H, W, 3] as float32 [B, 3, H, W] in [-1, 1]."""
    # A copy: PyTorch wants to own what a file maps.
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


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
    return {"loss": sum(terms.values()), **terms}


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
