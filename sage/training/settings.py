"""Settings of a training run: one frozen dataclass from which the command line is made.

Knows names, defaults and what is allowed; imports no network.
"""

# ruff: noqa: RUF009 -- `_say` makes a field, as `dataclasses.field` does.
import argparse
import json
import math
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin

from sage.core.losses import LossConfig
from sage.core.places import cache_folder
from sage.core.settings import real_number, shortened

DEFAULT_OUT = cache_folder() / "training"
SCENES = "scenes"
LossKind = Literal["sage", "standard", "twins"]
Precision = Literal["no", "fp16", "bf16"]


def _say(default: Any, help_: str) -> Any:
    return field(default=default, metadata={"help": help_})


@dataclass(frozen=True)
class TrainSettings:
    """What to train, on what, and how long; exactly one of `steps` and `minutes`.

    Raises:
        ValueError: If a value is not allowed.
    """

    model: str = _say("emoji-scenes", "folder, repository id or key of a model")
    data: str = _say(SCENES, "'scenes', a folder of captions and pictures, or module:factory")
    loss: LossKind = _say(
        "sage",
        "L_SAGE, ordinary fine-tuning on the same groups, or branches that reach their twins",
    )
    out: Path | None = _say(None, f"where the run is kept (default: under {DEFAULT_OUT})")
    steps: int | None = _say(None, "optimiser steps")
    minutes: float | None = _say(None, "training time, instead of steps")
    batch_groups: int = _say(8, "groups in a micro-batch of one process")
    accumulate: int = _say(1, "micro-batches of an optimiser step")
    rate: float = _say(3e-4, "peak learning rate of AdamW")
    last_rate: float = _say(0.0, "where the cosine ends, as a share of the peak")
    warmup: int = _say(50, "steps of linear warm-up")
    decay: float = _say(0.01, "weight decay")
    clip_norm: float = _say(1.0, "gradients are clipped to this norm")
    ema: float = _say(0.999, "decay of the adapter's moving average, which is what is saved")
    caption_dropout: float = _say(0.1, "share of groups trained without captions, for guidance")
    rank: int = _say(16, "rank of the LoRA matrices")
    alpha: float = _say(16.0, "LoRA's scale is alpha / rank")
    targets: tuple[str, ...] = _say(
        ("to_q", "to_k", "to_v", "to_out.0"), "layers of the UNet's attention that are adapted"
    )
    precision: Precision = _say("no", "mixed precision")
    checkpointing: bool = _say(False, "gradient checkpointing: less memory, more time")
    device: Literal["auto", "cpu"] = _say("auto", "a GPU if there is one, or the CPU")
    seed: int = _say(0, "of the adapter, the order of groups, timesteps and noise")
    scenes: int = _say(20_000, "emoji scenes to form groups from")
    annotations: tuple[Path, ...] = _say((), "files of captions to read instead of those found")
    tau_min: float | None = _say(None, "lowest similarity inside a group (default: the model's)")
    tau_max: float | None = _say(None, "highest similarity inside a group (default: the model's)")
    max_group_size: int = _say(5, "largest group")
    neighbours: int = _say(32, "candidates of each caption when groups are formed")
    prefer: Literal["any", "closest"] = _say(
        "any", "which candidates; see sage.core.grouping_at_scale"
    )
    max_groups: int | None = _say(None, "train on a random choice of so many groups")
    cache: Path = _say(DEFAULT_OUT / "cache", "where groups and latents are kept between runs")
    rollout_steps: int = _say(20, "twins: sampling steps of trunks and twins")
    save_every: int = _say(200, "steps between checkpoints")
    log_every: int = _say(10, "steps between lines of the log")
    sample_every: int = _say(500, "steps between sample grids; 0 for none")
    loss_config: LossConfig = field(default=LossConfig())

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise ValueError(
                f"steps is {self.steps} and minutes is {self.minutes}; give exactly one of them."
            )
        for f in fields(self):
            _check_number(f, getattr(self, f.name))
        for name in _POSITIVE:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} is {value}; it must be positive.")
        for name, high in _SHARES.items():
            if not 0 <= getattr(self, name) <= high:
                allowed = "is 0 or more" if high == math.inf else f"are 0 to {high}"
                raise ValueError(f"{name} is {getattr(self, name)}; allowed {allowed}.")
        for f in fields(self):
            choices = get_args(f.type) if get_origin(f.type) is Literal else None
            if choices and getattr(self, f.name) not in choices:
                raise ValueError(f"{f.name} is {getattr(self, f.name)!r}; allowed are {choices}.")
        if self.loss == "twins" and self.rollout_steps < 2:
            raise ValueError(f"rollout_steps is {self.rollout_steps}; twins need 2 or more.")
        if not self.targets or isinstance(self.targets, str):
            raise ValueError(f"targets is {self.targets!r}; give at least one name of a layer.")

    @property
    def folder(self) -> Path:
        """Where the run is kept."""
        data = Path(self.data).name.replace(":", "-")  # of module:factory
        name = f"{Path(self.model).name}-{data}-{self.loss}"
        return self.out or DEFAULT_OUT / name

    def record(self) -> dict[str, Any]:
        """All settings that matter to the result; runs with equal ones have equal loss curves."""
        values = {k: v for k, v in asdict(self).items() if k not in _HARMLESS}
        values["data"], values["model"] = Path(self.data).name, Path(self.model).name
        values["annotations"] = [path.name for path in self.annotations]
        return json.loads(json.dumps(values))


_POSITIVE = (
    "steps", "minutes", "batch_groups", "accumulate", "rate", "warmup", "clip_norm", "rank",
    "alpha", "scenes", "max_groups", "save_every", "log_every", "rollout_steps",
)  # fmt: skip
# Where a run is kept, how often it reports and what it runs on.
_HARMLESS = ("out", "cache", "save_every", "log_every", "sample_every", "device")
_SHARES = {"ema": 1, "caption_dropout": 1, "last_rate": 1, "seed": 2**62}
_SHARES |= {"sample_every": math.inf, "decay": math.inf}


def _check_number(f: Field, value: Any) -> None:
    """That a field of numbers holds one of its kind; None where that is allowed."""
    kinds = get_args(f.type) if isinstance(f.type, UnionType) else (f.type,)
    if value is None and type(None) in kinds:
        return
    if int in kinds and type(value) is not int:
        raise ValueError(f"{f.name} is {shortened(value)}; a whole number is needed.")
    if float in kinds and not math.isfinite(real_number(value)):
        raise ValueError(f"{f.name} is {shortened(value)}; a number is needed.")


_LOSS_HELP = {
    "lambda_shared": "λ1, weight of L_shared",
    "lambda_soft": "λ2, weight of L_soft",
    "shared_latent": "z_t of the shared phase",
    "soft_target": "whose predictions the soft target averages",
    "share_ratio": "lowest and highest share of timesteps in common; equal numbers fix it",
    "weighting": "weights of the timesteps",
    "min_snr_gamma": "γ of min_snr",
    "phase_weights": "whether a phase counts by its length",
}


def parse(arguments: list[str] | None = None) -> tuple[TrainSettings, bool]:
    """The command line as settings, and whether to resume.

    Raises:
        SystemExit: With a sentence, if they make no sense.
    """
    parser = argparse.ArgumentParser(
        prog="python -m sage train",
        description="Train a LoRA adapter with L_SAGE, or as usual, on groups of prompts.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    _add_flags(parser, TrainSettings, {})
    _add_flags(parser.add_argument_group("L_SAGE"), LossConfig, _LOSS_HELP)
    values = vars(parser.parse_args(arguments))
    resume = values.pop("resume")
    try:
        loss = {f.name: _plain(values.pop(f.name)) for f in fields(LossConfig)}
        config = LossConfig(**loss)
        plain = {name: _plain(value) for name, value in values.items()}
        return TrainSettings(**plain, loss_config=config), resume
    except ValueError as error:
        parser.error(str(error))


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _add_flags(parser: Any, kind: type, helps: dict[str, str]) -> None:
    """A flag for each field that has a help text."""
    for f in fields(kind):
        help_ = helps.get(f.name) or f.metadata.get("help")
        if help_:
            flag = "--" + f.name.replace("_", "-")
            parser.add_argument(flag, default=f.default, help=help_, **_parsing(f))


def _parsing(f: Field) -> dict[str, Any]:
    """How argparse reads a field, from its type."""
    assert f.default is not MISSING
    kind = f.type
    if isinstance(kind, UnionType):  # "int | None"
        kind = next(k for k in get_args(kind) if k is not type(None))
    if kind is bool:
        return {"action": argparse.BooleanOptionalAction}
    if get_origin(kind) is Literal:
        return {"choices": get_args(kind)}
    if get_origin(kind) is tuple:
        inner = get_args(kind)
        return {"type": inner[0], "nargs": "+" if Ellipsis in inner else len(inner)}
    return {"type": kind}
