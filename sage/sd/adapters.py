"""LoRA adapters: read in any of their usual formats, checked whole, switched on, off or merged.

Every tensor of a file is accounted for: it becomes part of a layer of the UNet or of the text
encoder, or the adapter is refused with a sentence that says why. Half an adapter would draw worse
pictures, and nobody would see why.
"""

import json
import logging
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import StableDiffusionPipeline
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import get_pattern_key
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from sage.core.settings import shortened
from sage.sd.building import BUILDING

LORA_FILE = "pytorch_lora_weights.safetensors"  # diffusers' own name
PEFT_FILE, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"

Half = Literal["unet", "text_encoder"]
Alphas = dict[str, float]
_Modules = dict[str, nn.Linear | nn.Conv2d]  # by name
TITLES: Mapping[Half, str] = {"unet": "UNet", "text_encoder": "text encoder"}
HALVES: tuple[Half, ...] = ("unet", "text_encoder")

# What else a file may be, by a part of its keys. In this order: the first that is found is named.
_FOREIGN = {
    r"model\.diffusion_model\.|first_stage_model\.|cond_stage_model\.": "a whole model",
    r"lora_te2_|text_encoder_2\.|lora_unet_(input|output)_blocks": "made for Stable Diffusion XL",
    r"^(transformer|diffusion_model)\.|lora_transformer_|double_blocks": "made for a transformer "
    "(Stable Diffusion 3, Flux)",
    r"hada_w\d": "a LyCORIS adapter of the kind LoHa",
    r"lokr_w\d": "a LyCORIS adapter of the kind LoKr",
    r"oft_blocks|oft_diag|oft_R": "an adapter of the kind OFT, no LoRA",
    r"lora_mid": "a LoCon adapter with Tucker decomposition",
    r"dora_scale": "a DoRA adapter with kohya's `dora_scale`",
    r"\.(diff|diff_b|w_norm|b_norm|on_input|a1|a2|b1|b2)(\.weight)?$": "a LyCORIS adapter, no LoRA",
    r"ia3_": "an adapter of the kind (IA)³, no LoRA",
    r"lora_controlnet|controlnet": "a control LoRA",
    r"^(emb_params|bundle_emb.*|clip_[lg]|<.*>|string_to_param.*)$": "a textual inversion; "
    "load_textual_inversion reads it",
}
_KOHYA = re.compile(
    r"lora_(unet|te1?)_(\w+)\.(lora_down|lora_up)\.weight|lora_(unet|te1?)_(\w+)\.(alpha)"
)
# Ends of keys by the name of the format; the group is what the tensor is.
_ENDS = {
    "peft": r"\.lora_([AB])(?:\.[\w-]+)?\.(weight|bias)"
    r"|\.lora_(magnitude_vector)(?:\.[\w-]+)?",
    "diffusers": r"\.lora\.(up|down)\.weight|\.lora_linear_layer\.(up|down)\.weight",
    "old diffusers": r"(?:\.processor)?\.to_(q|k|v|out)_lora\.(up|down)\.weight",
}
# What may stand before a module's name: halves, and what wrappers of networks put there.
_PREFIXES = ("base_model.model.", "unet.", "text_encoder.", "module.", "_orig_mod.")
_PART = {"up": "B", "down": "A", "lora_up": "B", "lora_down": "A"}


class AdapterError(ValueError):
    """An adapter that cannot be used; the sentence says why."""


Stamp = tuple[tuple[str, int, int, int], ...]


def adapter_stamp(adapter: str | Path) -> Stamp:
    """A key for what is made of an adapter: its files with number, size and last change.

    Raises:
        AdapterError: If there is no such adapter.
    """
    try:
        file = adapter_file(Path(adapter))
        files = (file, file.parent / PEFT_CONFIG)  # which holds the alphas of a folder of peft
        found = [(str(f.resolve()), f.stat()) for f in files if f.is_file()]
    except (AdapterError, OSError) as error:
        raise AdapterError(f"{adapter} cannot be used as a LoRA adapter: {error}") from error
    return tuple((name, s.st_ino, s.st_size, s.st_mtime_ns) for name, s in found)


def adapter_path(adapter: Any) -> Path:
    """An adapter's place, of what a caller gives for it.

    Raises:
        AdapterError: If that is no path.
    """
    if not isinstance(adapter, (str, Path)) or not str(adapter).strip():
        raise AdapterError(f"adapter is {shortened(adapter)}; give a file or a folder.")
    return Path(adapter)


def adapter_file(path: Path) -> Path:
    """The one file of an adapter, which is given as a file or as its folder.

    Raises:
        AdapterError: If there is none, several, or a pickle.
    """
    if not path.exists():
        raise AdapterError("there is no such file or folder")
    if path.is_file():
        if path.suffix != ".safetensors":
            raise AdapterError(f"{path.name} is no .safetensors file; only those are read")
        return path
    for name in (LORA_FILE, PEFT_FILE):
        if (path / name).is_file():
            return path / name
    files = sorted(path.glob("*.safetensors"))
    if len(files) == 1:
        return files[0]
    if files:
        names = ", ".join(file.name for file in files[:5])
        raise AdapterError(f"the folder has several files, name one of them: {names}")
    pickles = sorted(
        f.name for kind in ("bin", "pt", "pth", "ckpt") for f in path.glob(f"*.{kind}")
    )
    if pickles:
        raise AdapterError(f"{pickles[0]} is no .safetensors file; only those are read")
    raise AdapterError("the folder has no .safetensors file")


@dataclass
class _Layers:
    """What an adapter changes in one network: for each module, its tensors and its alpha."""

    half: Half
    tensors: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    alphas: Alphas = field(default_factory=dict)
    formats: Counter[str] = field(default_factory=Counter)

    def state_dict(self) -> dict[str, Tensor]:
        """The tensors under the names of peft."""
        ends = {"A": "lora_A.weight", "B": "lora_B.weight", "bias": "lora_B.bias"}
        ends["magnitude_vector"] = "lora_magnitude_vector"
        return {
            f"{module}.{ends[part]}": tensor
            for module, parts in self.tensors.items()
            for part, tensor in parts.items()
        }

    def config(self) -> dict[str, Any]:
        """Arguments of a LoraConfig that fits them."""
        ranks = {module: len(parts["A"]) for module, parts in self.tensors.items()}
        alphas = {module: self.alphas.get(module, rank) for module, rank in ranks.items()}
        r, alpha = (Counter(v.values()).most_common(1)[0][0] for v in (ranks, alphas))
        return {
            "r": r,
            "lora_alpha": alpha,
            "rank_pattern": {f"^{m}": n for m, n in ranks.items() if n != r},
            "alpha_pattern": {f"^{m}": a for m, a in alphas.items() if a != alpha},
            "target_modules": list(ranks),
            "use_dora": any("magnitude_vector" in parts for parts in self.tensors.values()),
            "lora_bias": any("bias" in parts for parts in self.tensors.values()),
        }


def load_adapter(pipe: StableDiffusionPipeline, adapter: Path) -> None:
    """Switches an adapter on in the UNet and the text encoder of a pipeline without others.

    Raises:
        AdapterError: If it cannot be read or does not fit whole; then no adapter is on.
    """
    networks: dict[Half, Any] = {half: plain_network(getattr(pipe, half)) for half in HALVES}
    try:
        layers = _read(adapter_file(adapter), networks)
        with BUILDING:
            for one in layers:
                _inject(pipe, networks[one.half], one)
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, SafetensorError) as error:
        unload_adapters(pipe)
        reason = " ".join(str(error).split())
        raise AdapterError(f"{adapter} cannot be used as a LoRA adapter: {reason}") from error


def unload_adapters(pipe: StableDiffusionPipeline) -> None:
    """Takes off every adapter that is not fused; weights are bit for bit as before."""
    with _uncompiled(pipe):
        pipe.unload_lora_weights()


def merge_adapters(pipe: StableDiffusionPipeline) -> None:
    """Adds the adapters that are on to the weights, of both halves, and takes them off."""
    changed = [half for half in HALVES if has_adapter(getattr(pipe, half))]
    with _uncompiled(pipe):
        pipe.fuse_lora(components=changed)
        pipe.unload_lora_weights()


def has_adapter(network: nn.Module | None) -> bool:
    """Whether any adapter is loaded in a network, switched on or not."""
    return network is not None and any(isinstance(m, BaseTunerLayer) for m in network.modules())


def plain_network(network: Any) -> Any:
    """The network itself, of one that torch.compile has wrapped."""
    return getattr(network, "_orig_mod", network)


@contextmanager
def _uncompiled(pipe: StableDiffusionPipeline) -> Iterator[None]:
    """Diffusers' calls on adapters pass over compiled networks; within it, they see plain ones."""
    compiled = {half: getattr(pipe, half) for half in HALVES}
    try:
        for half, network in compiled.items():
            setattr(pipe, half, plain_network(network))
        yield
    finally:
        for half, network in compiled.items():
            setattr(pipe, half, network)


# -- reading ---------------------------------------------------------------------------------------


def _read(file: Path, networks: Mapping[Half, nn.Module]) -> list[_Layers]:
    """The layers of each half that a file changes; checked against the networks."""
    with safe_open(file, "pt") as opened:
        names, header = list(opened.keys()), opened.metadata() or {}
        _refuse_foreign(names)
        tensors = {name: opened.get_tensor(name) for name in names}
    halves: dict[Half, _Layers] = {half: _Layers(half) for half in HALVES}
    modules: dict[Half, _Modules] = {half: _modules(net) for half, net in networks.items()}
    unknown = []
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() and not name.endswith(".alpha"):
            raise AdapterError(f"{name} holds {tensor.dtype}; numbers with a point are needed")
        if not torch.isfinite(tensor.float()).all():
            raise AdapterError(f"{name} holds values that are not numbers")
        if not _place(name, tensor, halves, modules):
            unknown.append(name)
    layers = [one for one in halves.values() if one.tensors]
    if not layers:
        raise AdapterError("it has no layers for this UNet or its text encoder")
    if unknown:
        fit = len(tensors) - len(unknown)
        raise AdapterError(
            f"only {fit} of its {len(tensors)} tensors fit this UNet and its text encoder; "
            f"{unknown[0]} does not"
        )
    settings = _saved_settings(file, header)
    for one in layers:
        _check_whole(one, modules[one.half])
        one.alphas |= _alphas(settings.get(one.half), one)
    return layers


def _refuse_foreign(names: list[str]) -> None:
    for pattern, kind in _FOREIGN.items():
        if any(re.search(pattern, name) for name in names):
            raise AdapterError(f"it is {kind}; it has no layers for this UNet that could be used")


def _place(
    name: str, tensor: Tensor, halves: dict[Half, _Layers], modules: Mapping[Half, _Modules]
) -> bool:
    """Puts a tensor in its layer; False if there is none."""
    if match := _KOHYA.fullmatch(name):
        short, mangled, part = (g for g in match.groups() if g is not None)
        half: Half = "unet" if short == "unet" else "text_encoder"
        module, form = _unmangled(modules[half]).get(mangled, ""), "kohya"
        part = _PART.get(part, part)
    else:
        rest, prefix = _without_prefix(name)
        form, stem, part = _split(rest)
        half, module = _owner(prefix, stem, modules)
    if not module or not part:
        return False
    layers = halves[half]
    known = layers.alphas if part == "alpha" else layers.tensors.get(module, {})
    if (module if part == "alpha" else part) in known:
        raise AdapterError(f"it names {module} twice: {name} is one of them")
    if part == "alpha":
        if tensor.numel() != 1:
            raise AdapterError(f"{name} has {tensor.numel()} numbers; need one")
        layers.alphas[module] = float(tensor)
    else:
        layers.formats[form] += 1
        layers.tensors.setdefault(module, {})[part] = tensor
    return True


def _without_prefix(name: str) -> tuple[str, str]:
    """A key without what stands before the module's name, and the half that this names, or ""."""
    prefix = ""
    while True:
        for known in _PREFIXES:
            if name.startswith(known):
                name = name.removeprefix(known)
                prefix = known[:-1] if known[:-1] in HALVES else prefix
                break
        else:
            return name, prefix


def _split(rest: str) -> tuple[str, str, str]:
    """Format, module and part of a key without prefix; empty if its end is of no format."""
    if rest.endswith(".alpha"):
        return "alpha", rest.removesuffix(".alpha"), "alpha"
    for form, end in _ENDS.items():
        match = re.search(f"(?:{end})$", rest)
        if match is None:
            continue
        found = [group for group in match.groups() if group is not None]
        stem = rest[: match.start()]
        if form == "old diffusers":
            layer = "to_out.0" if found[0] == "out" else f"to_{found[0]}"
            return form, f"{stem}.{layer}", _PART[found[1]]
        part = "bias" if found[-1] == "bias" else _PART.get(found[0], found[0])
        return form, stem, part
    return "", "", ""


def _owner(prefix: str, stem: str, modules: Mapping[Half, _Modules]) -> tuple[Half, str]:
    """Which network has a module of this name, and its name there; "" if none has."""
    for half in HALVES:
        if prefix not in ("", half):
            continue
        # The text encoder of recent transformers has no `text_model` inside, that of older ones
        # has; diffusers' oldest adapters call its projections as those of the UNet.
        for name in (stem, stem.removeprefix("text_model."), f"text_model.{stem}"):
            for alias in (
                name,
                re.sub(r"to_out\.0$", "out_proj", re.sub(r"to_([qkv])$", r"\1_proj", name)),
            ):
                if alias in modules[half]:
                    return half, alias
    return "unet", ""


def _modules(network: nn.Module) -> _Modules:
    kinds = (nn.Linear, nn.Conv2d)
    return {name: module for name, module in network.named_modules() if isinstance(module, kinds)}


def _unmangled(modules: _Modules) -> dict[str, str]:
    """Names of modules by kohya's: dots are underscores, and a text encoder has `text_model`."""
    plain = {name.replace(".", "_"): name for name in modules}
    return plain | {f"text_model_{short}": name for short, name in plain.items()}


def _check_whole(layers: _Layers, modules: _Modules) -> None:
    """Both matrices are there for every module, in its shape and in names of one format."""
    held = sum(layers.formats.values())
    if len(layers.formats) > 1:
        (main, fit), *_ = layers.formats.most_common()
        raise AdapterError(
            f"only {fit} of its {held} tensors fit this {TITLES[layers.half]} under {main} names; "
            "a file in two formats is not read"
        )
    for module, parts in layers.tensors.items():
        if not {"A", "B"} <= set(parts):
            raise AdapterError(f"{module} has one of its two matrices only")
        layers.tensors[module] = _shaped(module, parts, modules[module])
    dora = [module for module, parts in layers.tensors.items() if "magnitude_vector" in parts]
    if dora and len(dora) < len(layers.tensors):
        raise AdapterError(
            f"{len(dora)} of its {len(layers.tensors)} layers are DoRA; need all or none"
        )
    if lonely := layers.alphas.keys() - layers.tensors.keys():
        raise AdapterError(f"{min(lonely)} has an alpha and no matrices")


def _shaped(
    name: str, parts: dict[str, Tensor], module: nn.Linear | nn.Conv2d
) -> dict[str, Tensor]:
    """The tensors in the shapes that peft wants; a 1×1 convolution may be written as a matrix."""
    a, b, weight = parts["A"], parts["B"], module.weight
    if a.ndim < 2 or b.ndim < 2:
        raise AdapterError(f"{name} has {a.ndim} and {b.ndim} dimensions; two matrices are needed")
    rank, inner, outer = len(a), tuple(weight.shape[1:]), len(weight)
    fits = a.numel() == rank * math.prod(inner) and b.numel() == outer * rank and len(b) == outer
    if "bias" in parts and module.bias is None:
        raise AdapterError(f"it adds a bias to {name}, which has none")
    for part in {"bias", "magnitude_vector"} & parts.keys():
        fits &= parts[part].numel() == outer
    kernel = isinstance(module, nn.Conv2d)
    same = not kernel or a.ndim == 2 or tuple(a.shape[1:]) == inner
    if not fits or not same or rank == 0:
        raise AdapterError(
            f"it was made for another model: the layer {name} is {tuple(weight.shape)}, and its "
            f"matrices are {tuple(a.shape)} and {tuple(b.shape)}"
        )
    ones = (1, 1) if kernel else ()
    return parts | {"A": a.reshape(rank, *inner), "B": b.reshape(outer, rank, *ones)}


# -- alphas ----------------------------------------------------------------------------------------


def _saved_settings(file: Path, header: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The LoraConfig of each half that a file, or a folder of peft, says it was trained with."""
    if written := header.get(LORA_ADAPTER_METADATA_KEY):
        flat = _object(written, "its metadata")
        split = [(name.partition("."), value) for name, value in flat.items()]
        halves: dict[str, dict[str, Any]] = {}
        for (half, _, name), value in split:
            halves.setdefault(half, {})[name] = value
        return halves
    if file.name == PEFT_FILE and (file.parent / PEFT_CONFIG).is_file():
        values = _object((file.parent / PEFT_CONFIG).read_text("utf-8-sig"), PEFT_CONFIG)
        return dict.fromkeys(HALVES, values)
    return {}


def _object(text: str, what: str) -> dict[str, Any]:
    values = json.loads(text)
    if not isinstance(values, dict):
        raise AdapterError(f"{what} is a {type(values).__name__}; need names and values")
    return values


# Settings of peft by which an adapter does something else, or something beside.
_MORE_THAN_LORA = (
    *("modules_to_save", "layer_replication", "trainable_token_indices", "megatron_config"),
    *("alora_invocation_tokens", "use_qalora", "arrow_config", "target_parameters"),
)
_CHANGE_THE_MODEL = {"pissa", "olora", "corda", "loftq"}


def _alphas(settings: dict[str, Any] | None, layers: _Layers) -> Alphas:
    """α of every module, so that its scale is α / rank."""
    if settings is None:
        return {}
    kind = settings.get("peft_type", "LORA")
    more = [name for name in _MORE_THAN_LORA if settings.get(name) not in (None, False, [], {})]
    if kind != "LORA" or more or settings.get("bias", "none") != "none":
        raise AdapterError(f"it is an adapter of peft's kind {kind} that is more than a LoRA")
    if str(settings.get("init_lora_weights")).split("_")[0].lower() in _CHANGE_THE_MODEL:
        raise AdapterError(
            f"it began as {settings['init_lora_weights']}, which changes the model's own weights; "
            "save it with path_initial_model_for_weight_conversion"
        )
    plain, pattern = settings.get("lora_alpha"), settings.get("alpha_pattern") or {}
    if plain is None:
        return {}
    if not isinstance(pattern, dict):
        raise AdapterError(
            f"its alpha_pattern is a {type(pattern).__name__}; need names and values"
        )
    alphas = {}
    for module, parts in layers.tensors.items():
        key = get_pattern_key(list(pattern), module)
        alpha = float(pattern.get(key, plain))
        if not math.isfinite(alpha):
            raise AdapterError(f"the alpha of {module} is {alpha}; a number is needed")
        # rsLoRA (arXiv 2312.03732) divides by the root of the rank.
        alphas[module] = alpha * len(parts["A"]) ** 0.5 if settings.get("use_rslora") else alpha
    return alphas


# -- loading ---------------------------------------------------------------------------------------


def _inject(pipe: StableDiffusionPipeline, network: Any, layers: _Layers) -> None:
    half, wanted = layers.half, layers.state_dict()
    LoraConfig(**layers.config())  # complains in words where peft would later
    given = {f"{half}.{name}": tensor for name, tensor in wanted.items()}
    settings = {f"{half}.{name}": value for name, value in layers.config().items()}
    load = pipe.load_lora_into_unet if half == "unet" else pipe.load_lora_into_text_encoder
    with _quiet("diffusers"):
        load(given, None, network, metadata=settings, _pipeline=pipe)
    found = sum("lora_" in name for name, _ in network.named_parameters())
    if found != len(wanted):
        raise AdapterError(f"only {found} of its {len(wanted)} tensors fit this {TITLES[half]}")


@contextmanager
def _quiet(logger: str) -> Iterator[None]:
    """Within it, a logger of another library reports errors only."""
    log = logging.getLogger(logger)
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)
