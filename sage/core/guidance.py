"""Classifier-free guidance, written once. Knows tensors only."""

from torch import Tensor


def guide(without: Tensor, with_prompt: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance (arXiv 2207.12598): ε(∅) + s · (ε(c) − ε(∅)).

    Args:
        without: [...] prediction under the empty or negative condition.
        with_prompt: [...] prediction under the prompt's condition.
        scale: s; 1 gives `with_prompt` up to rounding, 0 gives `without`.
    """
    return without + scale * (with_prompt - without)
