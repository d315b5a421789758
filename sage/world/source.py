"""Emoji scenes as captions with pictures, for `sage.training` (`--data scenes`)."""

import numpy as np
from PIL import Image

from sage.training.settings import TrainSettings
from sage.training.skips import Skips
from sage.world.captions import caption
from sage.world.scenes import Painter, sample_scene

SIDES = (16, 256)  # pixels that the painter can paint


class SceneSource:
    """Emoji scenes of the training split, each with one caption."""

    name = "emoji scenes"

    def __init__(self, number: int, side: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.scenes = [sample_scene(rng, "train") for _ in range(number)]
        self.captions = [caption(scene, rng) for scene in self.scenes]
        self.owners = range(number)
        self.painter = Painter(min(max(side, SIDES[0]), SIDES[1]))

    def picture(self, index: int) -> Image.Image:
        """The painted scene."""
        return Image.fromarray(self.painter.paint(self.scenes[index])[0])

    def picture_name(self, index: int) -> str:
        """All that the painter is told."""
        return f"{self.painter.size}: {self.scenes[index]}"


def open_scenes(settings: TrainSettings, side: int) -> tuple[SceneSource, Skips]:
    """As many scenes as the settings say, in the size of a model's pictures."""
    return SceneSource(settings.scenes, side, settings.seed), Skips()
