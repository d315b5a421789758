"""What a model brings along beside its weights: `sage.json` in its folder.

Bounds of similarity belong to a text encoder (cosines of different encoders share no scale), so
they are stored with the model, as are its usual steps and guidance and the colours of its previews.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from sage.core.calibration import read_stored
from sage.core.planner import Planning
from sage.core.settings import settings_of
from sage.sd.preview import LatentRGB
from sage.sd.vocabulary import Vocabulary

PAPER = settings_of()
FILE_NAME = "sage.json"


@dataclass(frozen=True)
class ModelSettings:
    """Defaults of one model.

    Attributes:
        tau_min: Lowest similarity inside a group.
        tau_max: Highest similarity inside a group.
        steps: Usual number of steps.
        guidance_scale: Usual classifier-free guidance.
        share_ratio: Usual share of steps in common.
        latent_rgb: Preview colours; None is fitted to the decoder when first needed.
        known_words: Words the model was trained on; None if it was trained on the open web.
        planning: What is known for planning within a budget; None if nothing was measured.
        vocabulary: What it can show, by name; None as well for the open web.
    """

    tau_min: float = PAPER["tau_min"].default
    tau_max: float = PAPER["tau_max"].default
    steps: int = PAPER["steps"].default
    guidance_scale: float = PAPER["guidance_scale"].default
    share_ratio: float = PAPER["share_ratio"].default
    latent_rgb: LatentRGB | None = None
    known_words: frozenset[str] | None = None
    vocabulary: Vocabulary | None = None
    planning: Planning | None = None

    @classmethod
    def read(cls, folder: str | Path, base: "ModelSettings | None" = None) -> "ModelSettings":
        """Reads a model folder's `sage.json`.

        Args:
            folder: Of a model, or of an adapter.
            base: What stands where the file says nothing; the paper's values without it.

        Raises:
            ValueError: If the file is not JSON or a value has the wrong kind.
        """
        known = base or cls()
        if (vocabulary := Vocabulary.read(folder)) is not None:
            known = replace(known, vocabulary=vocabulary)
        if (planning := Planning.read(folder)) is not None:
            known = replace(known, planning=planning)
        path = Path(folder) / FILE_NAME
        return read_stored(path, "settings of a model", known._with) or known

    def write(self, folder: str | Path) -> None:
        """Writes what `read` reads; the file of a folder that has one keeps its other values."""
        path = Path(folder) / FILE_NAME
        before = json.loads(path.read_text("utf-8")) if path.is_file() else {}
        values: dict = {name: getattr(self, name) for name, one in PAPER.items() if one.of_model}
        if (rgb := self.latent_rgb) is not None:
            values["latent_rgb"] = {"weight": rgb.weight.tolist(), "bias": rgb.bias.tolist()}
        if self.known_words is not None:
            values["known_words"] = sorted(self.known_words)
        text = json.dumps(before | values, indent=2, ensure_ascii=False)
        path.write_text(text + "\n", "utf-8")

    def _with(self, values: dict) -> "ModelSettings":
        own = (one for one in PAPER.values() if one.of_model and one.name in values)
        found: dict = {one.name: one.check(values[one.name], library=True) for one in own}
        if rgb := values.get("latent_rgb"):
            weight, bias = torch.tensor(rgb["weight"]), torch.tensor(rgb["bias"])
            finite = bool(torch.isfinite(weight).all() & torch.isfinite(bias).all())
            if weight.ndim != 2 or len(weight) != 3 or bias.shape != (3,) or not finite:
                raise ValueError("latent_rgb is no map from a latent to three colours")
            found["latent_rgb"] = LatentRGB(weight, bias)
        if (words := values.get("known_words")) is not None:
            if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
                raise ValueError("known_words is no list of words")
            found["known_words"] = frozenset(words)
        return replace(self, **found)
