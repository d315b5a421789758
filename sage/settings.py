"""What a model brings along beside its weights: `sage.json` in its folder.

Bounds of similarity belong to a text encoder (cosines of different encoders share no scale), so
they are stored with the model, as are its usual guidance and the colours of its previews.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from sage.preview import LatentRGB
from sage.request import PaperDefaults

FILE_NAME = "sage.json"


@dataclass(frozen=True)
class ModelSettings:
    """Defaults of one model.

    Attributes:
        tau_min: Lowest similarity inside a group.
        tau_max: Highest similarity inside a group.
        guidance_scale: Usual classifier-free guidance.
        latent_rgb: Preview colours; None is fitted to the decoder when first needed.
        known_words: Words the model was trained on; None if it was trained on the open web.
    """

    tau_min: float = PaperDefaults.tau_min
    tau_max: float = PaperDefaults.tau_max
    guidance_scale: float = PaperDefaults.guidance_scale
    latent_rgb: LatentRGB | None = None
    known_words: frozenset[str] | None = None

    @classmethod
    def read(cls, folder: str | Path) -> "ModelSettings":
        """Reads a model folder's `sage.json`; without one, the paper's values stand.

        Raises:
            ValueError: If the file is not JSON or a value has the wrong kind.
        """
        path = Path(folder) / FILE_NAME
        if not path.is_file():
            return cls()
        try:
            values = json.loads(path.read_text("utf-8"))
            return cls()._with(values)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} cannot be read as settings of a model: {error}") from error

    def _with(self, values: dict) -> "ModelSettings":
        rgb, words = values.get("latent_rgb"), values.get("known_words")
        return replace(
            self,
            **{
                k: float(values[k]) for k in ("tau_min", "tau_max", "guidance_scale") if k in values
            },
            latent_rgb=rgb and LatentRGB(torch.tensor(rgb["weight"]), torch.tensor(rgb["bias"])),
            known_words=None if words is None else frozenset(words),
        )
