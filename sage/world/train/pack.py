"""A run in few small files, to carry it from machine to machine: float16 averages, no optimizers.

Knows checkpoints and safetensors. What is lost is the optimizers' memory, which a few hundred steps
bring back; what the autoencoder's stage learnt is left out once its encoder is frozen.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sage.world.train import learner
from sage.world.train.export import STAGES, write_json

STATE = "state.json"
SHARD_BYTES = 15_000_000
# Small text files of a run, and folders of weights that other stages were built on.
TEXTS = ("tokenizer/*.json", "vae/config.json", "calibration.json", "note.txt")
FROZEN = "vae/diffusion_pytorch_model.safetensors"


def pack(out: Path, folder: Path) -> None:
    """Write what a run in `out` has learnt into a flat folder of files under 16 MB.

    An older pack in the folder is replaced file by file; `state.json` comes last and names the
    files that belong to it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights, stages = {}, {}
    for name in STAGES:
        if learner.checkpoint(out, name).exists() and not (name == "vae" and _frozen(out)):
            state = learner.load_state(out, name)
            stages[name] = {"step": state["step"], "seconds": state["seconds"]}
            weights |= {f"{name}/{key}": value for key, value in state["average"].items()}
    if _frozen(out):
        weights |= {f"{FROZEN}/{key}": value for key, value in load_file(out / FROZEN).items()}
    number = int(_state(folder).get("number", 0)) + 1
    files = []
    for shard, part in enumerate(_shards(weights)):
        files.append(f"weights-{number}-{shard}.safetensors")
        save_file(part, folder / files[-1])
    texts = {
        str(file.relative_to(out)): file.read_text(encoding="utf-8")
        for pattern in TEXTS
        for file in sorted(out.glob(pattern))
    }
    write_json(folder / STATE, {"number": number, "stages": stages, "files": files, "texts": texts})
    for file in folder.glob("weights-*"):
        if file.name not in files:
            file.unlink()


def unpack(folder: Path, out: Path) -> None:
    """Make a run in `out` of a pack: every stage goes on from its averaged weights.

    Time starts anew at zero, so that the minutes asked for are those of the new machine; steps go
    on, so that no batch comes twice. `note.txt` keeps what was done before.

    Raises:
        FileNotFoundError: If there is no pack in the folder.
        ValueError: If `out` holds a run already.
    """
    if not (state := _state(folder)):
        raise FileNotFoundError(f"{folder / STATE} is missing; there is no pack to start from")
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} holds a run already; choose an empty folder")
    weights: dict[str, Tensor] = {}
    for file in state["files"]:
        weights |= load_file(folder / file)
    for name, text in state["texts"].items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(text, encoding="utf-8")
    for name, record in state["stages"].items():
        found = {key: value.float() for key, value in _below(weights, name)}
        average = {key: value.clone() for key, value in found.items()}
        one = {"master": found, "average": average, "optimizers": []}
        out.mkdir(parents=True, exist_ok=True)
        torch.save(one | {"step": record["step"], "seconds": 0.0}, learner.checkpoint(out, name))
    frozen = {key: value.float() for key, value in _below(weights, FROZEN)}
    if frozen:
        save_file(frozen, out / FROZEN, {"format": "pt"})
    _note(state, out)


def _frozen(out: Path) -> bool:
    """Whether the encoder is frozen."""
    return (out / FROZEN).exists()


def _state(folder: Path) -> dict[str, Any]:
    file = folder / STATE
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def _below(weights: dict[str, Tensor], name: str) -> Iterator[tuple[str, Tensor]]:
    """Weights of one network, in order, by their own names."""
    for key, value in weights.items():
        if key.startswith(name + "/"):
            yield key.removeprefix(name + "/"), value


def _shards(weights: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """The weights in float16, in parts that fit a file."""
    part: dict[str, Tensor] = {}
    size = 0
    for key, value in weights.items():
        half = value.half().contiguous()
        if part and size + half.nbytes > SHARD_BYTES:
            yield part
            part, size = {}, 0
        part[key] = half
        size += half.nbytes
    if part:
        yield part


def _note(state: dict[str, Any], out: Path) -> None:
    """Add to note.txt what each stage had done before."""
    done = [
        f"{name} {record['step']:,} steps in {record['seconds'] / 60:.0f} minutes"
        for name, record in state["stages"].items()
    ]
    old = state["texts"].get("note.txt", "")
    line = f"Before, on another machine: {'; '.join(done)}."
    (out / "note.txt").write_text(f"{old.strip()} {line}\n".lstrip(), encoding="utf-8")
