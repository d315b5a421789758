"""One step of a solver as arithmetic with a table made before the loop.

Knows noise levels and latents; nothing of plans, prompts or networks. A solver takes a step index
*for each row*, so that rows at different steps can advance in one batch, and it reads nothing back
to the host. What a solver remembers of earlier steps is a tuple of tensors, rows first: a branch
gathers it with the same index as the latents.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

Memory = tuple[Tensor, ...]
Prediction = Literal["epsilon", "v_prediction", "sample"]


class Solver(Protocol):
    """What the sampler asks of a solver; R rows, any latent shape behind them."""

    @property
    def steps(self) -> int:
        """Calls of the denoiser."""
        ...

    @property
    def timesteps(self) -> Tensor:
        """[steps] noise level that the denoiser is told, by step."""
        ...

    @property
    def init_noise_sigma(self) -> float:
        """Standard deviation of the starting noise."""
        ...

    @property
    def after(self) -> Tensor:
        """[steps, 2] signal and noise in x after each step; ValueError if it is not known."""
        ...

    def start(self, x: Tensor) -> Memory:
        """The empty memory for rows x [R, ...]."""
        ...

    def scale_input(self, x: Tensor, index: Tensor) -> Tensor:
        """What the denoiser sees of x [R, ...] at steps index [R]."""
        ...

    def clean(self, x: Tensor, output: Tensor, index: Tensor) -> Tensor:
        """The clean x0 that the denoiser's output for x [R, ...] means."""
        ...

    def step(
        self, x: Tensor, output: Tensor, index: Tensor, memory: Memory, lead: Tensor
    ) -> tuple[Tensor, Tensor, Memory]:
        """Advances x [R, ...] by the denoiser's output.

        `lead` [R] is the first member of each row: whose stream fresh noise is taken from.
        Returns (x, predicted clean x0, memory).
        """
        ...


@dataclass(frozen=True)
class DDIM:
    """Denoising diffusion implicit models with eta = 0 (arXiv 2010.02502, eq. 12).

    For noise level ᾱ and a prediction of the noise ε, the sample x0 or the velocity v
    (arXiv 2202.00512), both x0 and ε are linear in (x, prediction); so is the step

        x' = sqrt(ᾱ')·x0 + sqrt(1 − ᾱ')·ε

    Attributes:
        timesteps: [steps] training timestep of each step.
        table: [steps, 6] columns: x0 from x and from the output, ε from x and from the output,
            and the weights of x0 and ε in the next x.
        clip_sample: x0 is clamped to ±clip_sample; None leaves it alone.
    """

    timesteps: Tensor
    table: Tensor
    clip_sample: float | None = None
    init_noise_sigma: float = 1.0

    @classmethod
    def from_alphas(
        cls,
        timesteps: Sequence[int],
        alphas: Sequence[float],
        next_alphas: Sequence[float],
        *,
        prediction: Prediction = "epsilon",
        clip_sample: float | None = None,
        device: torch.device | str = "cpu",
    ) -> "DDIM":
        """Builds the table in float64.

        Args:
            timesteps: [steps] training timestep of each step, descending.
            alphas: [steps] ᾱ before each step.
            next_alphas: [steps] ᾱ after each step. Usually the next step's `alphas`; diffusers
                rounds the two differently, so both are asked for.
            prediction: What the denoiser predicts.
            clip_sample: Bound of x0, or None.
            device: Where the latents will live.

        Raises:
            ValueError: If the lengths disagree or a prediction cannot be turned into x0 and ε.
        """
        if not len(timesteps) == len(alphas) == len(next_alphas):
            raise ValueError(
                f"There are {len(timesteps)} timesteps, {len(alphas)} noise levels and "
                f"{len(next_alphas)} next ones; need as many of each."
            )
        a, b = (torch.as_tensor(v, dtype=torch.float64) for v in (alphas, next_alphas))
        columns = [*prediction_table(a, prediction), b.sqrt(), (1 - b).sqrt()]
        table = torch.stack(columns, dim=-1).to(device, torch.float32)
        return cls(torch.as_tensor(timesteps, device=device), table, clip_sample)

    @property
    def steps(self) -> int:
        """Number of steps."""
        return len(self.timesteps)

    @property
    def after(self) -> Tensor:
        """[steps, 2] signal and noise in x after each step."""
        return self.table[:, 4:6]

    def start(self, x: Tensor) -> Memory:
        """DDIM remembers nothing."""
        return ()

    def scale_input(self, x: Tensor, index: Tensor) -> Tensor:
        """DDIM shows the denoiser x itself."""
        return x

    def clean(self, x: Tensor, output: Tensor, index: Tensor) -> Tensor:
        """The clean x0 that the denoiser's output for x [R, ...] means."""
        x0_x, x0_out, *_ = _coefficients(self.table, index, x)
        return self._clamped(x0_x * x + x0_out * output)

    def _clamped(self, x0: Tensor) -> Tensor:
        bound = self.clip_sample
        return x0 if bound is None else x0.clamp(-bound, bound)

    def step(
        self, x: Tensor, output: Tensor, index: Tensor, memory: Memory, lead: Tensor
    ) -> tuple[Tensor, Tensor, Memory]:
        """One step of each row.

        Args:
            x: [R, ...] latents.
            output: [R, ...] the denoiser's prediction.
            index: [R] step of each row, int64, on the device of x.
            memory: Empty.
            lead: Unused; nothing here is random.

        Returns:
            x after the step [R, ...], predicted clean x0 [R, ...], the empty memory.
        """
        x0_x, x0_out, eps_x, eps_out, next_x0, next_eps = _coefficients(self.table, index, x)
        x0 = x0_x * x + x0_out * output
        eps = eps_x * x + eps_out * output
        x0 = self._clamped(x0)
        return next_x0 * x0 + next_eps * eps, x0, memory


@dataclass(frozen=True)
class Multistep:
    """Solvers that are linear in what they know: Euler, DPM-Solver++ (2M), ancestral ones, LCM.

        x0 = x0_x·x + x0_out·output
        x' = keep·x + now·x0 + before·(x0 of the step before) + fresh·noise

    The builders in `sage.sd.schedulers` name the source of each set of coefficients.

    Attributes:
        timesteps: [steps] noise level that the denoiser is told, by step.
        table: [steps, 9] columns: scale of the denoiser's input, the six above, and signal and
            noise in what comes out.
        init_noise_sigma: Standard deviation of the starting noise.
        noise: [steps, N, ...] fresh noise, a stream for each prompt; None if `fresh` is 0.
    """

    timesteps: Tensor
    table: Tensor
    init_noise_sigma: float = 1.0
    noise: Tensor | None = None

    @property
    def steps(self) -> int:
        """Number of steps."""
        return len(self.timesteps)

    @property
    def after(self) -> Tensor:
        """[steps, 2] signal and noise in x after each step."""
        return self.table[:, 7:9]

    def start(self, x: Tensor) -> Memory:
        """The x0 of the step before; there is none yet, and its weight is 0."""
        return (torch.zeros_like(x),)

    def scale_input(self, x: Tensor, index: Tensor) -> Tensor:
        """Rows x [R, ...] on the scale that the denoiser was trained on."""
        return _coefficients(self.table, index, x)[0] * x

    def clean(self, x: Tensor, output: Tensor, index: Tensor) -> Tensor:
        """The clean x0 that the denoiser's output for x [R, ...] means."""
        _, x0_x, x0_out, *_ = _coefficients(self.table, index, x)
        return x0_x * x + x0_out * output

    def step(
        self, x: Tensor, output: Tensor, index: Tensor, memory: Memory, lead: Tensor
    ) -> tuple[Tensor, Tensor, Memory]:
        """One step of each row.

        Args:
            x: [R, ...] latents.
            output: [R, ...] the denoiser's prediction.
            index: [R] step of each row, int64, on the device of x.
            memory: The x0 of the step before, [R, ...].
            lead: [R] prompt whose stream of noise each row takes.

        Returns:
            x after the step [R, ...], predicted clean x0 [R, ...], the new memory.
        """
        _, x0_x, x0_out, keep, now, before, fresh, *_ = _coefficients(self.table, index, x)
        x0 = x0_x * x + x0_out * output
        after = keep * x + now * x0 + before * memory[0]
        if self.noise is not None:
            after = after + fresh * self.noise[index, lead]
        return after, x0, (x0,)


def _coefficients(table: Tensor, index: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    """The columns of a table at steps index [R], each of a shape that multiplies x [R, ...]."""
    rows = table.to(x.dtype)[index]  # (R, columns)
    return tuple(column.view(-1, *(1,) * (x.ndim - 1)) for column in rows.unbind(-1))


def prediction_table(a: Tensor, prediction: Prediction) -> tuple[Tensor, ...]:
    """Columns x0_x, x0_out, eps_x, eps_out for noise levels a [steps], by kind of prediction.

    Raises:
        ValueError: If the kind is unknown, or a level leaves nothing to tell x0 or ε by.
    """
    s, n = a.sqrt(), (1 - a).sqrt()  # signal and noise: x = s·x0 + n·ε
    if prediction == "v_prediction":  # v = s·ε − n·x0
        return s, -n, n, s
    if prediction == "epsilon":
        if bool((a == 0).any()):
            raise ValueError("epsilon cannot be told from x at zero signal; use v_prediction.")
        return 1 / s, -n / s, torch.zeros_like(a), torch.ones_like(a)
    if prediction == "sample":
        if bool((a == 1).any()):
            raise ValueError("sample prediction leaves no noise to find at full signal.")
        return torch.zeros_like(a), torch.ones_like(a), 1 / n, -s / n
    raise ValueError(
        f"prediction is {prediction!r}; allowed are 'epsilon', 'v_prediction' and 'sample'."
    )
