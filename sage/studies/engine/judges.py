"""Who judges pictures, and what each number is called.

Makes features of pictures; the arithmetic is in `sage.core.metrics`, the intervals in
`sage.core.resampling`. Knows networks and their names; nothing of sampling. A number's
name says whose features it is made of: CLIP score and CMMD are on the model's own CLIP (the
published CMMD is on CLIP ViT-L/14@336), the Fréchet distance is on ImageNet's EfficientNet-Lite0
and is never called FID. FID itself, LPIPS and OpenAI's CLIP score come through torchmetrics where
they are asked for (`hub`); their weights are fetched.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from sage.core.resampling import COMPONENTS
from sage.sd.features import (
    ClipFeatures,
    EfficientNetLite0,
    Features,
    check_torchmetrics,
    inception_fid,
    lpips_distance,
    openai_clip_score,
)
from sage.sd.pipeline import SagePipeline
from sage.studies.engine.prompts import PromptSet

if TYPE_CHECKING:
    from sage.world.probe import Probe

SIDE = 128  # of the built-in model's pictures; 224 costs three times as much
COUNT = f"{COMPONENTS} principal components of the real pictures"


@dataclass(frozen=True)
class Metric:
    """One column.

    Attributes:
        key: Short name in the JSON.
        title: Name in a table.
        better: 1 if higher is better, -1 if lower is, 0 if neither.
        digits: Decimals in a table.
        about: What it is, in one sentence.
    """

    key: str
    title: str
    better: int
    digits: int
    about: str


METRICS = (
    Metric(
        "fd", "FD-EffLite0", -1, 2,
        "Fréchet distance to real pictures of the same prompts on ImageNet EfficientNet-Lite0 "
        f"features ({SIDE} pixels), in the {COUNT}; not FID",
    ),
    Metric(
        "cmmd", "CMMD", -1, 3,
        "1000 · MMD² to the same real pictures on the model's own CLIP image features",
    ),
    Metric("clip", "CLIP score", 1, 4, "mean cosine of a picture and its prompt, model's own CLIP"),
    Metric(
        "probe", "probe", 1, 3,
        "share of pictures in which the probe finds the named things, and the place where the "
        "prompt names one",
    ),
    Metric(
        "inside", "diversity inside", 1, 4,
        "mean over groups of the mean 1 − cosine of EfficientNet-Lite0 features between the "
        "pictures of one group",
    ),
    Metric(
        "between", "diversity between", 1, 4,
        "the same between the pictures of a group and those of all other groups",
    ),
    Metric(
        "layout", "layout agreement", 1, 4,
        "mean over groups of the mean correlation of the pictures of a group, as 8 × 8 grey values",
    ),
    Metric(
        "centres", "distance of things", -1, 4,
        "mean over groups of the mean distance between the places of the things in the pictures of "
        "a group, in picture sides; a place is the centre of what the probe's most likely thing "
        "depends on",
    ),
    Metric(
        "sizes", "things of one size", 1, 3,
        "mean over groups of the share of pairs of pictures in a group whose leftmost things are "
        "small, normal or big alike, by the probe",
    ),
    Metric(
        "twin", "distance to twin", -1, 4,
        "mean 1 − cosine of EfficientNet-Lite0 features between a picture and the untrained "
        "model's independent picture of the same prompt and seed",
    ),
    Metric(
        "pixels", "pixel distance to twin", -1, 4,
        "root mean square difference of the same two pictures, in [0, 1]",
    ),
    Metric("lpips", "LPIPS to twin", -1, 4, "LPIPS (AlexNet) of the same two pictures"),
    Metric(
        "clip_l14", "OpenAI CLIP score", 1, 4,
        "mean cosine of a picture and its prompt, OpenAI CLIP ViT-L/14",
    ),
)  # fmt: skip
METRIC = {metric.key: metric for metric in METRICS}
FID = "fid"  # a number without an interval: torchmetrics gives no resamples


class Judges:
    """The networks that judge the pictures of one model."""

    def __init__(
        self,
        pipe: SagePipeline,
        source: str | Path,
        compiled: bool = False,
        hub: bool = False,
    ) -> None:
        """Loads what is there; what is missing is not judged.

        Args:
            pipe: Its CLIP is the judge of CLIP score and CMMD, if it has one.
            source: The model's folder; may hold `probe/`.
            compiled: Use torch.compile on EfficientNet-Lite0.
            hub: Also FID, LPIPS and OpenAI's CLIP score, through torchmetrics.

        Raises:
            ImportError: If `hub` is asked for and a package or its weights are missing.
        """
        self.pipe, self.hub = pipe, hub
        if hub:  # said now, not after hours of rendering
            check_torchmetrics()
        self.features: dict[str, Features] = {}
        self.missing: list[str] = []
        self._load("efflite", lambda: _efficientnet(str(pipe.device), compiled))
        if pipe.clip is None:
            self.missing.append("CLIP: the model has none, so no CLIP score and no CMMD.")
        else:
            self.features["clip"] = ClipFeatures(pipe.clip, "the model's own CLIP")
        folder = Path(source) / "probe"
        self.probe = _load_probe(folder) if folder.is_dir() else None

    def _load(self, key: str, load: Callable[[], Features]) -> None:
        try:
            self.features[key] = load()
        except ImportError as error:
            self.missing.append(str(error))

    def names(self) -> dict[str, str]:
        """What the features are made by."""
        return {key: features.name for key, features in self.features.items()}

    def look(self, judge: str, pictures: np.ndarray) -> np.ndarray:
        """Features [N, D] float32 of pictures [N, H, W, 3] uint8."""
        return self.features[judge](_images(pictures)).numpy()

    def by_hub(
        self,
        pictures: np.ndarray,
        twins: np.ndarray,
        texts: Sequence[str],
        real: np.ndarray | None,
    ) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        """What torchmetrics says: numbers of each picture, and of all of them together.

        Args:
            pictures: [N, H, W, 3] uint8.
            twins: [N, H, W, 3] the independent pictures of the same prompts and seeds.
            texts: N prompts.
            real: [R, H, W, 3] real pictures, if there are any.
        """
        images = _images(pictures)
        each = {
            "lpips": lpips_distance(images, _images(twins)).numpy(),
            "clip_l14": openai_clip_score(images, texts).numpy(),
        }
        return each, {} if real is None else {FID: inception_fid(images, _images(real))}

    def right(
        self, pictures: np.ndarray, prompts: PromptSet, members: Sequence[int] | np.ndarray
    ) -> np.ndarray | None:
        """For each picture of a scene whether the probe finds what its prompt names: [n] of 0, 1.

        Right are the k most likely things, if they are the k things of the scene, and the most
        likely place, if the prompt names one.

        Args:
            pictures: [n, H, W, 3] uint8.
            prompts: All prompts.
            members: [n] the prompt of each picture.

        Returns:
            None without a probe or without scenes.
        """
        if self.probe is None or prompts.scenes is None:
            return None
        from sage.world.labels import labels
        from sage.world.probe import read

        seen = read(self.probe, pictures)
        true = labels([prompts.scenes[n] for n in members])
        ranked = np.argsort(-seen.things, axis=1)
        hits = [
            bool(true.things[n, ranked[n, : int(true.things[n].sum())]].all())
            for n in range(len(pictures))
        ]
        place = (seen.place == true.place) | ~prompts.names_place[np.asarray(members)]
        return (np.array(hits) & place).astype(float)


def _efficientnet(device: str, compiled: bool) -> EfficientNetLite0:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        judge = EfficientNetLite0.load(SIDE, device)
    judge.network.to(memory_format=torch.channels_last)
    if compiled:
        judge.network.extract_features = torch.compile(judge.network.extract_features)
    return judge


def _load_probe(folder: Path) -> "Probe":
    from sage.world.probe import load

    return load(folder)


def _images(pictures: np.ndarray) -> Sequence[Image.Image]:
    return [Image.fromarray(picture) for picture in pictures]
