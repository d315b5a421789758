"""A LoRA adapter on a UNet's attention, its moving average, and what borrows its place.

Knows peft and diffusers' file format; nothing of data, losses or schedules.
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from torch import Tensor

from sage.sd.adapters import LORA_FILE
from sage.sd.building import BUILDING

NAME = "default"  # peft's own name of a model's only adapter


class Adapter:
    """LoRA (arXiv 2106.09685) in float32 on a frozen UNet.

    A starts Gaussian and B at zero, so that an untrained adapter changes nothing.

    Attributes:
        unet: The network; all but the adapter is frozen.
        values: The adapter's parameters.
        average: Their exponential moving average, same order.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        rank: int,
        alpha: float,
        targets: Sequence[str],
        seed: int = 0,
    ) -> None:
        unet.requires_grad_(False)
        scale: Any = alpha  # peft says int, and divides
        config = LoraConfig(
            r=rank, lora_alpha=scale, init_lora_weights="gaussian", target_modules=list(targets)
        )
        with BUILDING, torch.random.fork_rng():
            torch.manual_seed(seed)
            unet.add_adapter(config, adapter_name=NAME)
        self.unet = unet
        trained = [(n, p) for n, p in unet.named_parameters() if p.requires_grad]
        self.names, self.values = zip(*trained, strict=True)
        for value in self.values:
            value.data = value.data.float()  # half-precision weights cannot take small updates
        self.average = [value.detach().clone() for value in self.values]
        self._nothing = [torch.zeros_like(value) for value in self.average]

    @property
    def size(self) -> int:
        """Number of trained values."""
        return sum(value.numel() for value in self.values)

    @torch.no_grad()
    def follow(self, decay: float, step: int) -> None:
        """Move the average after optimiser step `step` (from 0); a young one follows quickly."""
        keep = min(decay, (1 + step) / (10 + step))
        for average, value in zip(self.average, self.values, strict=True):
            average.lerp_(value.data, 1 - keep)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within it, the UNet has the average in place of the adapter."""
        with self._borrowed(self.average):
            yield

    @contextmanager
    def off(self) -> Iterator[None]:
        """Within it, the UNet is the frozen one: B = 0 adds exactly nothing."""
        with self._borrowed(self._nothing):
            yield

    @contextmanager
    def _borrowed(self, others: Sequence[Tensor]) -> Iterator[None]:
        # Swapping storage, not copying into it: autograd sees no change of a parameter.
        mine = [value.data for value in self.values]
        for value, other in zip(self.values, others, strict=True):
            value.data = other
        try:
            yield
        finally:
            for value, own in zip(self.values, mine, strict=True):
                value.data = own

    def state(self) -> dict[str, Any]:
        """Parameters and average by name, on the CPU."""
        return {
            "values": {n: v.detach().cpu() for n, v in zip(self.names, self.values, strict=True)},
            "average": {n: v.cpu() for n, v in zip(self.names, self.average, strict=True)},
        }

    @torch.no_grad()
    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`.

        Raises:
            ValueError: If the state is of another adapter.
        """
        if tuple(state["values"]) != self.names:
            raise ValueError("The checkpoint's adapter is of another network, rank or targets.")
        for mine, saved in ((self.values, "values"), (self.average, "average")):
            for value, other in zip(mine, state[saved].values(), strict=True):
                value.copy_(other)

    def save(self, folder: Path) -> Path:
        """Write the average as `pytorch_lora_weights.safetensors`, which diffusers loads.

        The file appears in one piece; rank and alpha are in its header.
        """
        new = folder / f"{LORA_FILE}.{os.getpid()}.new"
        with self.averaged():
            # In peft's names: diffusers' older ones exist for attention only, and where both kinds
            # stand in one file its loader leaves the older ones out without an error.
            layers = get_peft_model_state_dict(self.unet)
            StableDiffusionPipeline.save_lora_weights(
                new,
                unet_lora_layers={name: value.cpu() for name, value in layers.items()},
                unet_lora_adapter_metadata=self.unet.peft_config[NAME].to_dict(),
            )
        os.replace(new / LORA_FILE, folder / LORA_FILE)
        shutil.rmtree(new)
        return folder / LORA_FILE
