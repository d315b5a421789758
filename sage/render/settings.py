"""What a bulk run is asked for, as a command line and as one object.

The flags of how to sample are made from `sage.core.settings.Sampling`, so that their names, limits
and help are those of the page, the API and the library.
"""

import argparse
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sage.core.settings import Sampling, Switch, real_number, settings_of

if TYPE_CHECKING:
    from sage.jobs.models import ModelSpec

# Rows in a call, of a light model and of one whose single pass keeps the device busy: more take no
# less time for each (`assets/results/NOTES.md`), and few are wasted where calls are filled up.
ROWS = {"cpu": (16, 4), "cuda": (16, 16)}
# Prompts in a unit: enough to fill calls, and in a small run few enough to keep workers busy.
SMALLEST_UNIT, LARGEST_UNIT, UNITS = 16, 64, 16
WRITERS = ("tokenizers", "peft", "pillow")  # beside the usual ones, these may change a file's bytes
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
DESCRIPTIONS = (".json", ".txt", ".model")  # configurations and words
SUMS = re.compile(r"[0-9a-f]{16,64}( [0-9a-f]{16})*")  # of contents; they tell nobody anything
PRECISIONS = ("auto", "float32", "bf16", "fp16")
EPILOG = """\
The same command goes on where a run was stopped, for whatever reason, with any number of workers;
what is finished is not rendered again. See sage/render/README.md for the files and the promises.
"""


@dataclass(frozen=True)
class RenderSettings:
    """A bulk run.

    Attributes:
        prompts: File of prompts.
        out: Folder for the pictures.
        sampling: How they are rendered.
        model: Folder, repository id or key; None is the best for this machine.
        adapter: LoRA to use, in place of the model's own; implies `trained`.
        columns: Names of the file's columns where they are not ours.
        device: "auto", "cpu", "cuda" or "cuda:N".
        precision: "float32", "bf16", "fp16", or "auto": what the device computes
            fastest, fp16 on a GPU, bf16 on a CPU with instructions for it, else float32.
        workers: Processes or actors; None is one for each GPU, or for each `threads` cores.
        threads: Cores of a worker without a GPU.
        rows: Rows in a call of the denoiser, guidance not counted; None is what suits the device
            and the model.
        unit: Most prompts in a unit of work; None is 16 to 64, by the number of prompts.
        ray: Address of a Ray cluster, "auto" or "local"; None is without Ray.
        grid: Whether contact sheets are drawn.
        dry_run: Whether it stops after the plan.
    """

    prompts: Path
    out: Path
    sampling: Sampling
    model: str
    adapter: Path | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    device: str = "auto"
    precision: str = "auto"
    workers: int | None = None
    threads: int = 1
    rows: int | None = None
    unit: int | None = None
    ray: str | None = None
    grid: bool = False
    dry_run: bool = False

    def unit_size(self, prompts: int) -> int:
        """Most prompts in a unit of a run of so many prompts."""
        fitting = min(max(SMALLEST_UNIT, -(-prompts // UNITS)), LARGEST_UNIT)
        return self.unit or fitting

    def on(self, device_kind: str) -> "RenderSettings":
        """The same with what suits "cpu" or "cuda" where nothing was asked for."""
        import torch  # heavy: not needed for --help

        from sage.sd.precision import dtype_for, short_name

        precision = short_name(dtype_for(self.precision, torch.device(device_kind)))
        return replace(self, precision=precision)

    def identity(self, device_kind: str) -> dict[str, Any]:
        """Everything that the pictures depend on, as plain JSON values.

        Args:
            device_kind: "cpu" or "cuda".
        """
        from sage.jobs.conditions import versions  # heavy, as below: not needed for --help
        from sage.jobs.models import available_models

        return {
            "prompts": _sha256(self.prompts),
            "columns": dict(self.columns),
            "model": _fingerprint(available_models(self.model)[0]),
            "adapter": None if self.adapter is None else _weights(self.adapter),
            **self.sampling.to_dict(),
            "device": device_kind,
            "precision": self.precision,
            "threads": self.threads,
            "rows": self.rows or list(ROWS[device_kind]),
            "unit": self.unit,
            "versions": versions(*WRITERS),
        }


def _fingerprint(spec: "ModelSpec") -> str:
    """A model by its revision, or by its files where it is a folder; and by its own adapters."""
    folder = Path(spec.source)
    if not folder.is_dir():
        return f"{spec.source}@{_commit(spec)}"
    if not (folder / "model_index.json").is_file():  # loading it will say so; it may be a home
        return spec.source
    # Not by its name: it may be moved while a run is stopped.
    return " ".join(map(_weights, [folder, *filter(None, (spec.student, spec.adapter))]))


def _commit(spec: "ModelSpec") -> str:
    """The commit of a repository that a run would load now; its branch moves on."""
    from huggingface_hub import hf_hub_download  # heavy: not needed for --help

    try:
        file = hf_hub_download(spec.source, "model_index.json", revision=spec.revision)
    except (OSError, ValueError):  # loading it will say what is wrong
        return str(spec.revision)
    return Path(file).parent.name


def _weights(path: Path) -> str:
    """Everything in a file or folder that pictures depend on: weights, configurations, words."""
    inside = (p for p in path.rglob("*") if p.suffix in (*WEIGHTS, *DESCRIPTIONS))
    digest = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(p for p in inside if p.is_file()):
        digest.update(f"{file.relative_to(path)} {_sha256(file)}".encode())
    return digest.hexdigest()[:16]


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


# -- command line --------------------------------------------------------------------------------


def parse(arguments: Sequence[str] | None = None) -> RenderSettings:
    """The settings of a command line; exits with a sentence if they make no sense."""
    parser = _parser()
    values = vars(parser.parse_args(arguments))
    given = {name: values.pop(name) for name in settings_of()}
    try:
        return _settings(values, {k: v for k, v in given.items() if v is not None})
    except (OSError, ValueError) as error:  # a path may be too long, or in nobody's reach
        parser.error(str(error))


def _settings(values: dict[str, Any], sampling: dict[str, Any]) -> RenderSettings:
    values["columns"] = _columns(values["columns"])
    adapter = values["adapter"]
    if adapter is not None:
        if not adapter.exists():
            raise ValueError(f"There is no adapter {adapter}.")
        sampling.setdefault("trained", True)
    from sage.render.prompts import check_file  # heavy, as below: not needed for --help

    check_file(values["prompts"])
    if values["out"].exists() and not values["out"].is_dir():
        raise ValueError(f"--out is {values['out']}, a file; name a folder.")
    if 0 < real_number(sampling.get("budget", 0)) < 1:
        raise ValueError(f"--budget is {sampling['budget']:g}; a picture takes at least 1.")
    if sampling.get("budget") and (idle := {"share_ratio", "steps", "spend"} & sampling.keys()):
        flag = min(idle).replace("_", "-")
        raise ValueError(f"--budget finds steps and branch points itself; leave out --{flag}.")
    if "spend" in sampling:
        sampling.setdefault("sharing", "tree")
        if sampling["sharing"] != "tree":
            raise ValueError("--spend is for --sharing tree; leave one of the two out.")
    if values["ray"] == "":  # a variable of a script that was never set
        raise ValueError("--ray is empty; allowed are local, auto and an address.")
    for name in ("workers", "threads", "rows", "unit"):
        if values[name] is not None and values[name] < 1:
            raise ValueError(f"--{name} is {values[name]}; allowed is 1 or more.")
    from sage.jobs.models import available_models

    spec = available_models(values["model"])[0]
    values["model"] = values["model"] or spec.key
    return RenderSettings(**values, sampling=Sampling.of(spec, **sampling))


def _columns(pairs: str | None) -> dict[str, str]:
    """Pairs such as "prompt=caption,id=key"."""
    if not pairs:
        return {}
    parts = [pair.partition("=") for pair in pairs.split(",")]
    if bad := [name for name, sign, value in parts if not (name and sign and value)]:
        raise ValueError(f"--columns has {bad[0]!r}; write our name = the file's, prompt=caption.")
    named = [(name.strip(), value.strip()) for name, _, value in parts]
    if len(dict(named)) < len(named):
        raise ValueError(f"--columns is {pairs}; it names a column of ours twice.")
    return dict(named)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sage render",
        description="Render a file of prompts into a folder, on this machine or a Ray cluster.",
        epilog=EPILOG,
    )
    parser.add_argument("prompts", type=Path, help="a .txt, .csv, .tsv, .jsonl or .parquet file")
    parser.add_argument("--out", type=Path, required=True, help="folder for the pictures")
    parser.add_argument("--model", help="folder, repository id or key (default: the best here)")
    parser.add_argument("--adapter", type=Path, help="LoRA for all prompts; implies --trained")
    parser.add_argument("--columns", help="other names of columns, prompt=caption,id=key")
    parser.add_argument("--dry-run", action="store_true", help="stop after the plan")
    parser.add_argument("--grid", action="store_true", help="draw contact sheets too")
    add_sampling_flags(parser.add_argument_group("how to sample"))
    work = parser.add_argument_group("where and how fast")
    work.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    work.add_argument("--precision", default="auto", choices=PRECISIONS)
    work.add_argument("--ray", metavar="ADDRESS", help="local, auto or the address of a cluster")
    work.add_argument("--workers", type=int, help="processes or actors (default: one for each "
                      "GPU, or for each --threads cores)")  # fmt: skip
    work.add_argument("--threads", type=int, default=1, help="cores of a worker without a GPU")
    work.add_argument("--rows", type=int, help="rows in a call of the denoiser (default: "
                      f"{ROWS['cpu'][0]}; {ROWS['cpu'][1]} of a large model on a CPU)")  # fmt: skip
    work.add_argument("--unit", type=int, help="prompts in a unit of work (default: "
                      f"{SMALLEST_UNIT} to {LARGEST_UNIT})")  # fmt: skip
    return parser


def add_sampling_flags(parser: Any) -> None:
    """A flag for every setting; what is not given is None.

    Args:
        parser: A parser of `argparse`, or a group of one.
    """
    for name, one in settings_of().items():
        default = "the model's" if one.of_model else one.text(one.default)
        options: dict[str, Any] = {"help": f"{one.help.rstrip('.')} (default: {default})"}
        if isinstance(one, Switch):
            options["action"] = argparse.BooleanOptionalAction
        else:
            options |= {"type": one.parse, "metavar": _metavar(one)}
        parser.add_argument(f"--{name.replace('_', '-')}", default=None, **options)


def _metavar(one: Any) -> str:
    return "KEY" if hasattr(one, "titles") else "N"


def differences(saved: Mapping[str, Any], asked: Mapping[str, Any], of: str = "") -> list[str]:
    """In words, in what two identities differ; of mappings inside them, in which entries."""
    found = []
    for name in asked:
        old, new = saved.get(name), asked[name]
        if json.dumps(old) == json.dumps(new):
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            all_of_new = dict.fromkeys(old) | dict(new)  # also what was left out
            found += differences(old, all_of_new, f"{name}: ")
        elif all(SUMS.fullmatch(str(one)) for one in (old, new)):
            found.append(f"{name} has other content than when it was begun")
        else:
            found.append(f"{of}{name} was {json.dumps(old)}, now {json.dumps(new)}")
    return found
