"""What each stage learns: CLIP, autoencoder, decoder, probe and UNet, as tasks for the learner.

Each task holds its network, draws batches from the pool and states its loss. Files other than the
pool, and the order of the stages, are :mod:`sage.world.train`'s business.
"""

from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

from sage.world import networks, probe
from sage.world.data import PLACES, STYLES, THINGS, Labels, Pool, captions, labels

EMPTY_CAPTIONS = 0.1  # share trained without a caption, for classifier-free guidance
OBJECT_WEIGHT = 3.0  # how much more a latent under a thing counts than one of the background


def on_device(record: Labels, device: torch.device) -> dict[str, Tensor]:
    """Labels as tensors by name."""
    return {f.name: torch.from_numpy(getattr(record, f.name)).to(device) for f in fields(record)}


def tokens(words: CLIPTokenizer, texts: list[str]) -> Tensor:
    """Token ids [B, 32], padded with the end token and cut to fit."""
    return words(
        texts, padding="max_length", truncation=True, max_length=networks.MAX_TOKENS,
        return_tensors="pt",
    ).input_ids  # fmt: skip


class _Stage:
    """A network, a pool, and where it computes."""

    name: str

    def __init__(self, model: nn.Module, pool: Pool, device: torch.device) -> None:
        self.model, self.pool, self.device = model, pool, device

    def rows(self, rng: np.random.Generator, size: int) -> np.ndarray:
        """Sorted random rows of the pool (sorted reads are kinder to the disk)."""
        return np.sort(rng.integers(len(self.pool), size=size))

    def pixels(self, rows: np.ndarray) -> Tensor:
        """The rows' pictures in [-1, 1], float32."""
        return probe.to_pixels(self.pool.images[rows]).to(self.device)


class TwoTowers(nn.Module):
    """CLIP with throw-away label heads on both pooled towers, which speed up learning."""

    def __init__(self, clip: CLIPModel) -> None:
        super().__init__()
        self.clip = clip
        width = clip.config.projection_dim
        sizes = {"things": len(THINGS), "place": len(PLACES), "style": len(STYLES), "count": 3}
        sizes |= {"left": len(THINGS), "right": len(THINGS)}
        self.text_heads = nn.ModuleDict({k: nn.Linear(width, n) for k, n in sizes.items()})
        self.image_heads = nn.ModuleDict({k: nn.Linear(width, n) for k, n in sizes.items()})

    def forward(self, ids: Tensor, pixels: Tensor) -> tuple[Tensor, dict, dict]:
        """Logits [B, B] of text against image, and both towers' label logits."""
        out = self.clip(input_ids=ids, pixel_values=pixels)
        # transformers 5 projects the pooled outputs in place: [B, 128] on both sides.
        text, image = out.text_model_output, out.vision_model_output
        return (
            out.logits_per_text,
            {k: head(text.pooler_output) for k, head in self.text_heads.items()},
            {k: head(image.pooler_output) for k, head in self.image_heads.items()},
        )


class Clip(_Stage):
    """Contrast of captions and pictures, and what both say about the scene."""

    name = "clip"

    def __init__(self, words: CLIPTokenizer, pool: Pool, device: torch.device) -> None:
        super().__init__(TwoTowers(networks.clip(words)), pool, device)
        self.words = words

    def batch(self, rng: np.random.Generator, size: int) -> tuple[np.ndarray, list[str]]:
        """Rows of the pool, and a caption for each."""
        rows = self.rows(rng, size)
        return rows, captions([self.pool.scenes[i] for i in rows], rng)

    def loss(self, batch: tuple, noise: torch.Generator) -> dict[str, Tensor]:
        """Contrastive loss (Radford et al. 2021, figure 3) plus both label losses."""
        rows, texts = batch
        scenes = [self.pool.scenes[i] for i in rows]
        pixels = probe.blur_and_noise(self.pixels(rows), noise).bfloat16()
        ids = tokens(self.words, texts).to(self.device)
        logits, text, image = self.model(ids, pixels)
        true = on_device(labels(scenes), self.device)
        text_loss, image_loss = probe.loss(text, true)["loss"], probe.loss(image, true)["loss"]
        contrast = _contrast(logits.float(), _twins(scenes).to(self.device))
        total = contrast + 0.3 * (text_loss + image_loss)
        return {"loss": total, "contrast": contrast, "text": text_loss, "image": image_loss}


def _twins(scenes: list) -> Tensor:
    """[B, B] true where two different rows show the same content and must not repel."""
    content = [(s.things, s.count, s.size, s.place, s.style) for s in scenes]
    same = torch.tensor([[a == b for b in content] for a in content])
    return same & ~torch.eye(len(content), dtype=torch.bool)


def _contrast(logits: Tensor, twins: Tensor) -> Tensor:
    logits = logits.masked_fill(twins, -1e4)
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


class Autoencoder(_Stage):
    """Pictures through 16×16×4 latents and back; sharp edges and things count most."""

    name = "vae"

    def __init__(self, pool: Pool, device: torch.device) -> None:
        super().__init__(networks.autoencoder(), pool, device)

    def batch(self, rng: np.random.Generator, size: int) -> tuple[np.ndarray]:
        """Rows of the pool."""
        return (self.rows(rng, size),)

    def loss(self, batch: tuple, noise: torch.Generator) -> dict[str, Tensor]:
        """Weighted L1 of pixels and of their differences, and a little KL divergence."""
        (rows,) = batch
        pixels = self.pixels(rows)
        posterior = self.model.encode(pixels.bfloat16()).latent_dist
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        grain = torch.randn(mean.shape, generator=noise, device=self.device)
        z = mean + (0.5 * logvar).exp() * grain
        kl = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).mean()
        sharp = picture_loss(self.model.decode(z.bfloat16()).sample, pixels, self.weight(rows))
        return {"loss": sharp["loss"] + 3e-4 * kl, "kl": kl, "l1": sharp["l1"]}

    def weight(self, rows: np.ndarray) -> Tensor:
        """[B, 1, 64, 64]: 1 on the background, 3 on things."""
        mask = torch.from_numpy(self.pool.masks[rows]).to(self.device)[:, None].float() / 255
        return 1 + 2 * F.interpolate(mask, scale_factor=4.0)


def picture_loss(made: Tensor, real: Tensor, weight: Tensor) -> dict[str, Tensor]:
    """Weighted L1 of pictures [B, 3, H, W], of their slopes, and of both at half size (ours)."""
    difference = made.float() - real
    terms = {"l1": (weight * difference.abs()).mean()}
    total = terms["l1"]
    for _ in range(2):
        total = total + (weight[..., 1:] * difference.diff(dim=-1).abs()).mean()
        total = total + (weight[..., 1:, :] * difference.diff(dim=-2).abs()).mean()
        difference, weight = F.avg_pool2d(difference, 2), F.avg_pool2d(weight, 2)
        total = total + (weight * difference.abs()).mean()
    return {"loss": total, **terms}


class Decoder(Autoencoder):
    """The decoder alone, on the frozen encoder's latents with a little noise on them.

    The noise makes it forgiving: a UNet's latents are never quite those of a picture.
    """

    name = "decoder"

    def __init__(
        self, vae: AutoencoderKL, latents: np.ndarray, pool: Pool, device: torch.device
    ) -> None:
        _Stage.__init__(self, vae.requires_grad_(False), pool, device)
        vae.decoder.requires_grad_(True)
        vae.post_quant_conv.requires_grad_(True)
        self.latents = latents

    def rows(self, rng: np.random.Generator, size: int) -> np.ndarray:
        """Random rows of the pool that are encoded."""
        return np.sort(rng.integers(len(self.latents), size=size))

    def loss(self, batch: tuple, noise: torch.Generator) -> dict[str, Tensor]:
        """The autoencoder's picture loss, decoding noisy latents of the pool."""
        (rows,) = batch
        z = torch.from_numpy(self.latents[rows]).to(self.device).float()
        spread = 0.1 * torch.rand(len(z), 1, 1, 1, generator=noise, device=self.device)
        z = z + spread * torch.randn(z.shape, generator=noise, device=self.device)
        made = self.model.decode(z.bfloat16()).sample
        return picture_loss(made, self.pixels(rows), self.weight(rows))


class ProbeStage(_Stage):
    """The judge, on softened and noisy scenes."""

    name = "probe"

    def __init__(self, pool: Pool, device: torch.device) -> None:
        super().__init__(probe.Probe(len(THINGS), len(PLACES), len(STYLES)), pool, device)

    def batch(self, rng: np.random.Generator, size: int) -> tuple[np.ndarray]:
        """Rows of the pool."""
        return (self.rows(rng, size),)

    def loss(self, batch: tuple, noise: torch.Generator) -> dict[str, Tensor]:
        """Cross-entropy of every head."""
        (rows,) = batch
        pixels = probe.blur_and_noise(self.pixels(rows), noise).bfloat16()
        true = on_device(labels([self.pool.scenes[i] for i in rows]), self.device)
        return probe.loss(self.model(pixels), true)


@dataclass(frozen=True)
class Frozen:
    """What the UNet learns from and does not change."""

    words: CLIPTokenizer
    text: CLIPTextModel
    latents: np.ndarray  # [N, 4, 16, 16] float16, of the pool's pictures


class Denoiser(_Stage):
    """The UNet: predict v from noised latents and a caption's states."""

    name = "unet"

    def __init__(self, frozen: Frozen, pool: Pool, device: torch.device) -> None:
        super().__init__(networks.unet(), pool, device)
        self.frozen = frozen
        frozen.text.to(device)
        self.alphas = networks.scheduler().alphas_cumprod.to(device)  # [1000]

    def rows(self, rng: np.random.Generator, size: int) -> np.ndarray:
        """Random rows of the pool that are encoded."""
        return np.sort(rng.integers(len(self.frozen.latents), size=size))

    def batch(self, rng: np.random.Generator, size: int) -> tuple[np.ndarray, list[str], Tensor]:
        """Rows, captions (some empty) and timesteps, one from each of ``size`` equal strata."""
        rows = self.rows(rng, size)
        texts = captions([self.pool.scenes[i] for i in rows], rng, EMPTY_CAPTIONS)
        strata = (rng.permutation(size) + rng.random(size)) / size
        return rows, texts, torch.from_numpy((strata * len(self.alphas)).astype(np.int64))

    def loss(self, batch: tuple, noise: torch.Generator) -> dict[str, Tensor]:
        """Squared error of v = √ᾱ ε - √(1-ᾱ) z (Salimans & Ho 2022), heavier under things."""
        rows, texts, t = batch
        t = t.to(self.device)
        z = torch.from_numpy(self.frozen.latents[rows]).to(self.device).float()
        eps = torch.randn(z.shape, generator=noise, device=self.device)
        a = self.alphas[t].sqrt()[:, None, None, None]
        s = (1 - self.alphas[t]).sqrt()[:, None, None, None]
        v = self.model((a * z + s * eps).bfloat16(), t, self.states(texts)).sample.float()
        error = (v - (a * eps - s * z)) ** 2
        mask = torch.from_numpy(self.pool.masks[rows]).to(self.device)[:, None].float() / 255
        weight = 1 + OBJECT_WEIGHT * mask
        return {"loss": (weight * error).mean() / weight.mean(), "plain": error.mean()}

    @torch.no_grad()
    def states(self, texts: list[str]) -> Tensor:
        """Text states [B, 32, 128] of the frozen tower."""
        ids = tokens(self.frozen.words, texts).to(self.device)
        return self.frozen.text(ids).last_hidden_state.bfloat16()
