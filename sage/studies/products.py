"""Prompts that are products, and how well predictions for them add up.

A product of a things and b places has a·b prompts; if ε(t, p) = ε(t, p0) + ε(t0, p) − ε(t0, p0),
then a + b − 1 evaluations say all. Knows prompts and predictions; nothing of pictures.
"""

from functools import partial

import numpy as np
import torch
from torch import Tensor

from sage.core.noise import Streams
from sage.sd.schedulers import solver_for
from sage.studies.engine.lab import Lab
from sage.world.words import model_words

SIDE = 4  # things, and places
SETS = 6
STEPS = 12
SEED = 5


def products(number: int = SETS, side: int = SIDE) -> list[tuple[tuple[str, ...], tuple]]:
    """Random products: captions, things varying slowest, and the factors of each.

    Args:
        number: How many products.
        side: Things and places of each.
    """
    rng, words = np.random.default_rng(SEED), model_words()
    sets = []
    for _ in range(number):
        things = [words.things[i] for i in rng.choice(len(words.things), side, replace=False)]
        places = [words.places[i] for i in rng.choice(len(words.places), side, replace=False)]
        texts = tuple(f"a {t.name} {p.phrases[0]}" for t in things for p in places)
        sets.append((texts, tuple((n // side, n % side) for n in range(side * side))))
    return sets


@torch.inference_mode()
def added_error(lab: Lab) -> list[dict[str, float]]:
    """How far predictions that are added up are from the prompts' own, along a common trunk.

    Returns:
        For each step "signal" (ᾱ before it) and "error": mean square of what is added up less the
        prompt's own, over that of the prompts' own less their mean. 1 is no better than the mean.
    """
    pipe = lab.pipe
    fast = lab.renderer.pipeline(lab.recipe())
    errors: list[list[float]] = []
    for number, (texts, _) in enumerate(products()):
        cond, uncond = pipe.encode(texts), pipe.encode([""])
        streams = Streams([number], pipe._latent_shape())
        x = streams.draw()
        solver = solver_for(pipe.scheduler, STEPS, torch.device("cpu"), streams)
        execution = fast._execution(False)
        denoise = partial(
            fast._denoise, timesteps=solver.timesteps, uncond=uncond,
            guidance=lab.guidance, execution=execution,
        )  # fmt: skip
        errors.append([])
        for i in range(STEPS // 2):
            index = torch.full((len(texts),), i)
            own = denoise(x.expand(len(texts), -1, -1, -1), index, cond)
            errors[-1].append(relative_error(own.unflatten(0, (SIDE, SIDE))))
            x, *_ = solver.step(x, own.mean(0, keepdim=True), index[:1], (), index[:1])
    return [
        {"step": i, "error": round(float(np.mean([e[i] for e in errors])), 4)}
        for i in range(STEPS // 2)
    ]


def relative_error(own: Tensor) -> float:
    """Of predictions [a, b, ...] those that are added up from the first row and column."""
    added = own[:1] + own[:, :1] - own[:1, :1]
    spread = (own - own.flatten(0, 1).mean(0)).square()[1:, 1:].mean()
    return float((added - own).square()[1:, 1:].mean() / spread)
