"""Muon: momentum whose step is an orthogonal matrix, written for a CPU with matrix units.

Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks", scaled as in
Liu et al. 2025 (arXiv 2502.16982, equation 4) so that it shares AdamW's learning rate. PyTorch's
own class takes the matrices one by one and copies each product once more: twice the time here.
"""

from collections import defaultdict

import torch
from torch import Tensor

# The quintic of Jordan et al.: p(x) = ax + bx³ + cx⁵ pushes singular values towards 1.
A, B, C = 3.4445, -4.7750, 2.0315
ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Learns two-dimensional weights."""

    def __init__(
        self, weights: list[Tensor], lr: float, weight_decay: float, momentum: float = 0.95
    ) -> None:
        for weight in weights:
            if weight.ndim != 2:
                raise ValueError(f"a weight has shape {tuple(weight.shape)}; Muon needs matrices")
        super().__init__(weights, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """One update from the weights' gradients; weights of one shape go together."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is not None:
                    shapes[weight.shape].append(weight)
            for weights in shapes.values():
                self._update(weights, group)

    def _update(self, weights: list[Tensor], group: dict) -> None:
        momentum, rate = group["momentum"], group["lr"]
        grads = [weight.grad for weight in weights if weight.grad is not None]
        averages = [self._average(weight) for weight in weights]
        torch._foreach_lerp_(averages, grads, 1 - momentum)
        torch._foreach_lerp_(grads, averages, momentum)  # Nesterov: look one step ahead
        steps = orthogonal(torch.stack(grads).bfloat16()).float()
        torch._foreach_mul_(weights, 1 - rate * group["weight_decay"])
        scale = 0.2 * max(weights[0].shape) ** 0.5
        torch._foreach_add_(weights, list(steps.unbind()), alpha=-rate * scale)

    def _average(self, weight: Tensor) -> Tensor:
        state = self.state[weight]
        if "average" not in state:
            state["average"] = torch.zeros_like(weight)
        return state["average"]


def orthogonal(matrices: Tensor) -> Tensor:
    """The orthogonal matrices nearest to [K, n, m], roughly: singular values end near 1."""
    X = matrices.mT.contiguous() if matrices.shape[-2] > matrices.shape[-1] else matrices
    X = X / X.float().flatten(1).norm(dim=1).clamp(min=1e-7)[:, None, None].to(X.dtype)
    eye = A * torch.eye(X.shape[-2], dtype=X.dtype, device=X.device)
    for _ in range(ITERATIONS):
        G = torch.bmm(X, X.mT)  # `@` would first look at the shapes, for longer than it computes
        # aX + bGX + cG²X = (aI + bG + cG²)X: one wide product less.
        X = torch.bmm(torch.baddbmm(torch.add(eye, G, alpha=B), G, G, alpha=C), X)
    return X.mT if matrices.shape[-2] > matrices.shape[-1] else X
