"""An exact denoiser on a 2-D mixture of Gaussians: the whole method with no weights.

Prompts are modes. A prompt's condition is a one-hot weight over the modes, so the mean condition of
a group is the mixture of its members' modes, and every prediction is known in closed form: also the
moment at which a group's classes separate. `assets/ui/lesson/toy.js` is the same in the browser,
held to this file by a test.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sage.core.solver import DDIM
from sage.core.trunk import Denoiser


def cosine_alphas(steps: int) -> Tensor:
    """ᾱ = cos²(π/2·t) on steps + 1 even times (arXiv 2102.09672 without its offset): [steps + 1].

    From almost pure noise (ᾱ = 1e-4, so that x0 stays defined) down to clean data (ᾱ = 1).
    """
    t = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    return torch.cos(t * torch.pi / 2).square().clamp_min(1e-4)


def step_of_alpha(alpha: float, steps: int) -> float:
    """The number of finished steps after which `cosine_alphas` has come to ᾱ, not rounded.

    Args:
        alpha: ᾱ in [0, 1].
        steps: T.
    """
    return steps * (1 - 2 / math.pi * math.acos(math.sqrt(alpha)))


def toy_solver(steps: int) -> DDIM:
    """DDIM on the cosine schedule; its timesteps are the step indices."""
    alphas = cosine_alphas(steps).tolist()
    return DDIM.from_alphas(range(steps), alphas[:-1], alphas[1:])


@dataclass(frozen=True)
class Mixture:
    """Equal, round Gaussians in the plane.

    Attributes:
        means: [K, 2] centres of the modes.
        std: Standard deviation of each mode.
    """

    means: Tensor
    std: float

    def responsibilities(self, x: Tensor, alpha: Tensor, weights: Tensor) -> Tensor:
        """Posterior probability of each mode given noisy points: [R, K].

        Args:
            x: [R, 2] points at noise level alpha.
            alpha: [R] ᾱ.
            weights: [R, K] prior probability of each mode.
        """
        centre = alpha.sqrt()[:, None, None] * self.means.to(x)  # (R, K, 2)
        spread = alpha * self.std**2 + 1 - alpha  # (R,) variance of each noisy mode
        square = (x[:, None] - centre).square().sum(-1)  # (R, K)
        return torch.softmax(weights.log() - square / (2 * spread[:, None]), dim=-1)

    def clean(self, x: Tensor, alpha: Tensor, weights: Tensor) -> Tensor:
        """E[x0 | x], the expected clean point (Tweedie's formula): [R, 2].

        Args:
            x: [R, 2] points at noise level alpha.
            alpha: [R] ᾱ.
            weights: [R, K] prior probability of each mode.
        """
        r = self.responsibilities(x, alpha, weights)
        signal = alpha.sqrt()[:, None, None]
        spread = (alpha * self.std**2 + 1 - alpha)[:, None, None]
        means = self.means.to(x)
        # Each mode pulls a point towards its centre as Gaussian conditioning says.
        pull = means + signal * self.std**2 / spread * (x[:, None] - signal * means)  # (R, K, 2)
        return (r[..., None] * pull).sum(1)

    def denoiser(self, alphas: Tensor) -> Denoiser:
        """The exact noise prediction for the sampler.

        Args:
            alphas: [steps] or longer, ᾱ of each step.
        """

        def denoise(x: Tensor, index: Tensor, weights: Tensor) -> Tensor:
            alpha = alphas.to(x)[index]
            signal, noise = alpha.sqrt()[:, None], (1 - alpha).sqrt()[:, None]
            return (x - signal * self.clean(x, alpha, weights)) / noise

        return denoise


def gaussian_flow(x: Tensor, start: float, stop: float, mean: Tensor, std: float) -> Tensor:
    """Where the probability-flow ODE carries points of one Gaussian, in closed form.

    The flow keeps a point's number of standard deviations from the moving centre
    (arXiv 2011.13456, eq. 13, solved for Gaussian data; ours).

    Args:
        x: [..., 2] points at noise level start.
        start: ᾱ at which the points are.
        stop: ᾱ at which they are wanted.
        mean: [2] centre of the clean data.
        std: Standard deviation of the clean data.
    """

    def spread(alpha: float) -> float:
        return (alpha * std**2 + 1 - alpha) ** 0.5

    return stop**0.5 * mean + spread(stop) / spread(start) * (x - start**0.5 * mean)


def speciation_alpha(means: Tensor, std: float) -> float | None:
    """ᾱ at which the classes of a group separate: its trajectories begin to choose a mode.

    To second order around the middle of the modes, with Γ = ᾱσ² + 1 − ᾱ and C the covariance of
    the means,

        log p(x) = const − ½ xᵀ (I/Γ − ᾱ·C/Γ²) x

    has one peak as long as the bracket is positive. Its smallest eigenvalue is zero where
    ᾱ·Λ = Γ, with Λ the largest eigenvalue of C, so ᾱ = 1 / (1 + Λ − σ²). This is the speciation
    time of Biroli, Bonnaire, de Bortoli and Mézard 2024 (arXiv 2402.18491), who have
    ½·log Λ for ᾱ = exp(−2t) in the limit of many dimensions, where Γ is 1; Γ is kept here (ours).
    For two modes the expansion around the middle is exact.

    Args:
        means: [K, 2] centres of the group's modes, equally likely.
        std: σ of each mode.

    Returns:
        ᾱ in (0, 1), or None if the modes overlap so much that they never separate (Λ <= σ²).
    """
    spread = means.double() - means.double().mean(0)
    largest = float(torch.linalg.eigvalsh(spread.T @ spread / len(means))[-1])
    return 1 / (1 + largest - std**2) if largest > std**2 else None
