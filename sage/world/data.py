"""Labels by their earlier address; new code reads `sage.world.labels` instead."""

from sage.world.labels import Labels, labels

__all__ = ["Labels", "labels"]
