"""What each stage learns: CLIP, autoencoder, decoder, probe and UNet, as tasks for the learner.

Each task holds its network, draws its batches and states its loss. Files, and the order of the
stages, are the command line's business.
"""

from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import Tensor, nn
from transformers import CLIPTokenizer

from sage.sd.foreign import Network
from sage.world import probe
from sage.world.labels import Labels, common_content, labels
from sage.world.scenes import Scene
from sage.world.train import networks
from sage.world.train.data import Stream
from sage.world.words import Words

EMPTY_CAPTIONS = 0.1  # share trained without a caption, for classifier-free guidance
LIKENESS = 4.0  # weight of the cosines' own loss, whose values are about 0.02
CONTRAST = 4.0  # weight of local contrast, while the decoder alone is trained
CONTRAST_FLOOR = 0.02  # slopes below it count as none, where a root would be steep
OBJECT_WEIGHT = 3.0  # how much more a latent under a thing counts than one of the background


def on_device(record: Labels, device: torch.device) -> dict[str, Tensor]:
    """Labels as tensors by name."""
    return {f.name: torch.from_numpy(getattr(record, f.name)).to(device) for f in fields(record)}


def tokens(words: CLIPTokenizer, texts: list[str]) -> Tensor:
    """Token ids [B, L], padded with the end token to the tokenizer's length and cut to fit."""
    return words(
        texts, padding="max_length", truncation=True, max_length=words.model_max_length,
        return_tensors="pt",
    ).input_ids  # fmt: skip


class _Stage:
    """A network, a stream of scenes, and where it computes."""

    name: str

    def __init__(self, model: Network, stream: Stream, device: torch.device) -> None:
        self.model, self.stream, self.device = model, stream, device

    def pixels(self, images: Tensor) -> Tensor:
        """Pictures in [-1, 1], float32 [B, 3, H, W]."""
        return probe.to_pixels(images).to(self.device)

    def labels(self, scenes: tuple[Scene, ...]) -> dict[str, Tensor]:
        """What is true of the scenes, on the device."""
        return on_device(labels(scenes, self.stream.words), self.device)


class TwoTowers(nn.Module):
    """CLIP with throw-away label heads on both pooled towers, which speed up learning."""

    def __init__(self, clip: Network, words: Words) -> None:
        super().__init__()
        self.clip = clip
        width = clip.config.projection_dim
        sizes = probe.head_sizes(**probe.sizes_of(words))
        self.text_heads = nn.ModuleDict({k: nn.Linear(width, n) for k, n in sizes.items()})
        self.image_heads = nn.ModuleDict({k: nn.Linear(width, n) for k, n in sizes.items()})

    def forward(self, ids: Tensor, pixels: Tensor) -> tuple[Tensor, dict, dict, list[Tensor]]:
        """Logits [B, B] of text against image, both towers' label logits, and cosines.

        The cosines [B, B] are those of texts among each other and of pictures.
        """
        out = self.clip(input_ids=ids, pixel_values=pixels)
        # transformers 5 projects the pooled outputs in place: [B, 128] on both sides.
        text, image = out.text_model_output, out.vision_model_output
        return (
            out.logits_per_text,
            {k: head(text.pooler_output) for k, head in self.text_heads.items()},
            {k: head(image.pooler_output) for k, head in self.image_heads.items()},
            [unit @ unit.T for unit in (out.text_embeds, out.image_embeds)],
        )


class Clip(_Stage):
    """Contrast of captions and pictures, and what both say about the scene."""

    name = "clip"

    def __init__(
        self, words: CLIPTokenizer, sizes: networks.Sizes, stream: Stream, device: torch.device
    ) -> None:
        model = TwoTowers(networks.clip(words, sizes), stream.words)
        super().__init__(model, stream, device)
        self.words = words

    def batch(self, rng: np.random.Generator, size: int) -> tuple:
        """Scenes, and the tokens of a caption for each."""
        drawn = self.stream.draw(rng, size)
        return drawn, tokens(self.words, self.stream.captions(drawn.scenes, rng))

    def loss(self, batch: tuple, noise: torch.Generator) -> dict[str, Tensor]:
        """Contrastive loss (Radford et al. 2021, figure 3) plus label and likeness losses.

        Contrast alone pushes all that differs equally far apart; the likeness loss (ours) asks for
        cosines that say how much two scenes have in common.
        """
        drawn, ids = batch
        painted, ids = self.stream.paint(drawn), ids.to(self.device)
        pixels = probe.blur_and_noise(self.pixels(painted.images), noise).bfloat16()
        logits, text, image, cosines = self.model(ids, pixels)
        facts = labels(painted.scenes, self.stream.words)
        content = torch.from_numpy(common_content(facts, self.stream.words)).to(self.device)
        true = on_device(facts, self.device)
        text_loss, image_loss = probe.loss(text, true)["loss"], probe.loss(image, true)["loss"]
        contrast = _contrast(logits.float(), _twins(painted.scenes).to(self.device))
        squares = [(found.float() - content).square().mean() for found in cosines]
        likeness = sum(squares, start=content.new_zeros(()))
        total = contrast + 0.3 * (text_loss + image_loss) + LIKENESS * likeness
        terms = {"contrast": contrast, "text": text_loss, "image": image_loss}
        return {"loss": total, "likeness": likeness, **terms}


def _twins(scenes: tuple[Scene, ...]) -> Tensor:
    """[B, B] true where two different rows show the same content and must not repel."""
    numbers: dict[tuple, int] = {}
    content = [(s.things, s.count, s.sizes, s.place, s.style) for s in scenes]
    kind = torch.tensor([numbers.setdefault(facts, len(numbers)) for facts in content])
    return (kind[:, None] == kind) & ~torch.eye(len(kind), dtype=torch.bool)


def _contrast(logits: Tensor, twins: Tensor) -> Tensor:
    logits = logits.masked_fill(twins, -1e4)
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


class Autoencoder(_Stage):
    """Pictures through latents and back; sharp edges and things count most."""

    name = "vae"

    def __init__(self, sizes: networks.Sizes, stream: Stream, device: torch.device) -> None:
        super().__init__(networks.autoencoder(sizes), stream, device)

    def batch(self, rng: np.random.Generator, size: int) -> tuple:
        """Scenes."""
        return (self.stream.draw(rng, size),)

    def loss(self, batch: tuple, noise: torch.Generator) -> dict[str, Tensor]:
        """Weighted L1 of pixels and of their differences, and a little KL divergence."""
        painted = self.stream.paint(*batch)
        pixels = self.pixels(painted.images)
        posterior = self.model.encode(pixels.bfloat16()).latent_dist
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        grain = torch.randn(mean.shape, generator=noise, device=self.device)
        z = mean + (0.5 * logvar).exp() * grain
        kl = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).mean()
        made = self.model.decode(z.bfloat16()).sample
        found = picture_loss(made, pixels, self.weight(painted.masks))
        return found | {"loss": found["loss"] + 3e-4 * kl, "kl": kl}

    def weight(self, masks: Tensor) -> Tensor:
        """[B, 1, H, W] from masks [B, 16, 16]: 1 on the background, 3 on things."""
        mask = masks.to(self.device)[:, None].float() / 255
        return 1 + 2 * F.interpolate(mask, scale_factor=self.stream.size / mask.shape[-1])


def picture_loss(made: Tensor, real: Tensor, weight: Tensor) -> dict[str, Tensor]:
    """Weighted L1 of pictures [B, 3, H, W], of their slopes, and of both at half size (ours)."""
    difference = made.float() - real
    decibels = -10 * ((difference / 2) ** 2).mean((1, 2, 3)).clamp(min=1e-8).log10().mean()
    terms = {"l1": (weight * difference.abs()).mean(), "psnr": decibels.detach()}
    total = terms["l1"]
    for _ in range(2):
        total = total + (weight[..., 1:] * difference.diff(dim=-1).abs()).mean()
        total = total + (weight[..., 1:, :] * difference.diff(dim=-2).abs()).mean()
        difference, weight = F.avg_pool2d(difference, 2), F.avg_pool2d(weight, 2)
        total = total + (weight * difference.abs()).mean()
    return {"loss": total, **terms}


def contrast_loss(made: Tensor, real: Tensor, weight: Tensor) -> Tensor:
    """Weighted L1 of local contrast: the root mean square of the slopes around every pixel (ours).

    Where latents leave open where an edge lies, L1 of pixels is least for a blurred one. This term
    asks only that there is as much of an edge nearby.

    Args:
        made: [B, 3, H, W] in [-1, 1].
        real: [B, 3, H, W].
        weight: [B, 1, H, W].
    """
    total = made.new_zeros((), dtype=torch.float32)
    for axis in (-1, -2):
        made_here, real_here = (
            (_local_mean(x.float().diff(dim=axis).square()) + CONTRAST_FLOOR**2).sqrt()
            for x in (made, real)
        )
        near = _local_mean(weight.narrow(axis, 1, weight.shape[axis] - 1))
        total = total + (near * (made_here - real_here).abs()).mean()
    return total


def _local_mean(x: Tensor) -> Tensor:
    """Means of windows of 5 × 5 pixels, two pixels apart."""
    return F.avg_pool2d(x, 5, 2, 2, count_include_pad=False)


class Decoder(Autoencoder):
    """The decoder alone, on the frozen encoder's latents with a little noise on them.

    The noise makes it forgiving: a UNet's latents are never quite those of a picture.
    """

    name = "decoder"

    def __init__(self, vae: Network, stream: Stream, device: torch.device) -> None:
        _Stage.__init__(self, vae.requires_grad_(False), stream, device)
        vae.decoder.requires_grad_(True)
        vae.post_quant_conv.requires_grad_(True)

    def loss(self, batch: tuple, noise: torch.Generator) -> dict[str, Tensor]:
        """The autoencoder's picture loss, decoding noisy latents."""
        painted = self.stream.paint(*batch)
        pixels = self.pixels(painted.images)
        with torch.no_grad():
            z = self.model.encode(pixels.bfloat16()).latent_dist.mean.float()
        spread = 0.1 * torch.rand(len(z), 1, 1, 1, generator=noise, device=self.device)
        z = z + spread * torch.randn(z.shape, generator=noise, device=self.device)
        made = self.model.decode(z.bfloat16()).sample
        weight = self.weight(painted.masks)
        terms = picture_loss(made, pixels, weight)
        contrast = contrast_loss(made, pixels, weight)
        return terms | {"loss": terms["loss"] + CONTRAST * contrast, "contrast": contrast}


class ProbeStage(_Stage):
    """The judge, on softened and noisy scenes."""

    name = "probe"

    def __init__(self, stream: Stream, device: torch.device) -> None:
        super().__init__(probe.Probe.of(stream.words), stream, device)

    def batch(self, rng: np.random.Generator, size: int) -> tuple:
        """Scenes."""
        return (self.stream.draw(rng, size),)

    def loss(self, batch: tuple, noise: torch.Generator) -> dict[str, Tensor]:
        """Cross-entropy of every head."""
        painted = self.stream.paint(*batch)
        pixels = probe.blur_and_noise(self.pixels(painted.images), noise).bfloat16()
        return probe.loss(self.model(pixels), self.labels(painted.scenes))


@dataclass(frozen=True)
class Frozen:
    """What the UNet learns from and does not change.

    Attributes:
        words: The tokenizer.
        text: The text tower, a CLIPTextModel.
        scenes: N scenes.
        latents: [N, C, h, w] float16, of the scenes' pictures; where there is room for them.
        masks: [N, h, w] uint8, where their things are.
    """

    words: CLIPTokenizer
    text: Network
    scenes: tuple[Scene, ...]
    latents: Tensor
    masks: Tensor


class Denoiser(_Stage):
    """The UNet: predict v from noised latents and a caption's states."""

    name = "unet"

    def __init__(
        self,
        sizes: networks.Sizes,
        frozen: Frozen,
        stream: Stream,
        device: torch.device,
        compiled: bool = False,
    ) -> None:
        unet = networks.unet(sizes)
        if device.type == "cuda":  # where fused attention is the fast one
            unet.set_attn_processor(AttnProcessor2_0())
        super().__init__(unet, stream, device)
        # Its weights are the model's own; it is compiled when it is first called.
        self.predict = torch.compile(unet, dynamic=False) if compiled else unet
        self.frozen = frozen
        frozen.text.to(device)
        self.alphas = networks.scheduler().alphas_cumprod.to(device)  # [1000]

    def batch(self, rng: np.random.Generator, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """Rows, captions' tokens (some empty) and timesteps, one from each of `size` strata."""
        rows = np.sort(rng.integers(len(self.frozen.scenes), size=size))
        texts = self.stream.captions([self.frozen.scenes[i] for i in rows], rng, EMPTY_CAPTIONS)
        strata = (rng.permutation(size) + rng.random(size)) / size
        t = torch.from_numpy((strata * len(self.alphas)).astype(np.int64))
        return torch.from_numpy(rows), tokens(self.frozen.words, texts), t

    def loss(self, batch: tuple, noise: torch.Generator) -> dict[str, Tensor]:
        """Squared error of v = √ᾱ ε - √(1-ᾱ) z (Salimans & Ho 2022), heavier under things."""
        rows, ids, t = batch
        rows, t = rows.to(self.frozen.latents.device), t.to(self.device)
        z = self.frozen.latents[rows].to(self.device).float()
        eps = torch.randn(z.shape, generator=noise, device=self.device)
        a = self.alphas[t].sqrt()[:, None, None, None]
        s = (1 - self.alphas[t]).sqrt()[:, None, None, None]
        v = self.predict((a * z + s * eps).bfloat16(), t, self.states(ids)).sample.float()
        error = (v - (a * eps - s * z)) ** 2
        mask = self.frozen.masks[rows].to(self.device)[:, None].float() / 255
        weight = 1 + OBJECT_WEIGHT * mask
        return {"loss": (weight * error).mean() / weight.mean(), "plain": error.mean()}

    @torch.no_grad()
    def states(self, ids: Tensor) -> Tensor:
        """Text states [B, L, D] of the frozen tower."""
        return self.frozen.text(ids.to(self.device)).last_hidden_state.bfloat16()


class Aligned(Denoiser):
    """The UNet, whose middle is also asked to say what CLIP's image tower sees in the picture.

    Representation alignment (REPA, arXiv 2410.06940) with the model's own image tower instead of a
    large one: a linear map of the UNet's 8×8 states is drawn to the tower's 8×8 patch states of
    the clean picture. It helps early and holds back later, so it ends half-way (arXiv 2505.16792).
    """

    END = 0.5  # share of the run

    def __init__(
        self,
        sizes: networks.Sizes,
        frozen: Frozen,
        stream: Stream,
        device: torch.device,
        *,
        tower: Network,
        weight: float,
    ) -> None:
        super().__init__(sizes, frozen, stream, device)
        self.tower, self.weight, self.progress = tower.to(device), weight, 0.0
        # Saved with the UNet's weights, and left out of its export.
        self.model.align = nn.Linear(sizes.unet[1], tower.config.hidden_size)
        self.model.down_blocks[1].register_forward_hook(self._keep)
        self.kept: Tensor | None = None

    def _keep(self, _: nn.Module, __: tuple, output: tuple) -> None:
        """Keep the block's states before they are halved: [B, D, h/2, w/2]."""
        self.kept = output[1][0]

    def batch(self, rng: np.random.Generator, size: int) -> tuple:
        """The denoiser's batch, and the scenes of its rows while alignment lasts."""
        rows, *rest = super().batch(rng, size)
        drawn = None
        if self.progress < self.END:
            drawn = self.stream.prepare([self.frozen.scenes[i] for i in rows])
        return (rows, *rest, drawn)

    def loss(self, batch: tuple, noise: torch.Generator) -> dict[str, Tensor]:
        """The denoiser's loss, and how far the states are from the tower's (1 - cosine)."""
        *plain, drawn = batch
        terms = super().loss(tuple(plain), noise)
        if self.kept is None:
            raise RuntimeError("the UNet's second block was not called")
        mine = self.model.align(self.kept.flatten(2).mT)
        if drawn is None or self.progress >= self.END:
            return terms | {"loss": terms["loss"] + 0 * mine.sum()}
        with torch.no_grad():
            pixels = self.pixels(self.stream.paint(drawn).images)
            seen = self.tower(pixel_values=pixels).last_hidden_state[:, 1:]
        apart = 1 - F.cosine_similarity(mine.float(), seen.float(), dim=-1).mean()
        return terms | {"loss": terms["loss"] + self.weight * apart, "apart": apart}
