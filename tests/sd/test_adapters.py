"""Adapters: every usual format gives the same pictures, switched on or merged, or is refused."""

import json

import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import convert_state_dict_to_diffusers, convert_state_dict_to_kohya
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

from sage.sd.adapters import adapter_stamp
from sage.sd.pipeline import SagePipeline
from tests.conftest import build_tiny_pipeline

UNET = "down_blocks.1.attentions.0.transformer_blocks.0.attn1"
TEXT = "encoder.layers.0.self_attn.q_proj"
CONV = "mid_block.resnets.0.conv1"
HOW = {"num_inference_steps": 2, "guidance_scale": 5.0, "output_type": "latent"}


def new():
    return SagePipeline.from_pipe(build_tiny_pipeline())


def latents(pipe):
    return pipe(["a fox"], **HOW).latents


@pytest.fixture(scope="module")
def plain():
    return latents(new())


def matrices(*layers, rank=2, seed=0):
    """Matrices A and B of each layer, by its name and part."""
    draw = torch.Generator().manual_seed(seed)
    made = {}
    for layer in layers:
        kernel = (3, 3) if layer == CONV else ()
        ones = (1, 1) if layer == CONV else ()
        made[layer, "A"] = torch.randn(rank, 32, *kernel, generator=draw) / (9 if kernel else 1)
        made[layer, "B"] = torch.randn(32, rank, *ones, generator=draw)
    return made


def by_hand(made, scale=1.0):
    """A pipeline to whose weights B · A · scale was added."""
    pipe = new()
    for (layer, part), b in made.items():
        if part == "B":
            a = made[layer, "A"]
            half = pipe.text_encoder if layer == TEXT else pipe.unet
            weight = half.get_submodule(layer).weight
            with torch.no_grad():
                weight += scale * (b.flatten(1) @ a.flatten(1)).view_as(weight)
    return pipe


def write(path, tensors):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, path)
    return path


def prefix(layer):
    return "text_encoder.text_model." if layer == TEXT else "unet."


def peft_names(made):
    return {f"{prefix(la)}{la}.lora_{part}.weight": t for (la, part), t in made.items()}


def kohya_names(made, alpha=None):
    named = {}
    for (layer, part), tensor in made.items():
        start = "lora_te_text_model_" if layer == TEXT else "lora_unet_"
        name = start + layer.replace(".", "_")
        named[f"{name}.lora_{'down' if part == 'A' else 'up'}.weight"] = tensor
        if alpha is not None:
            named[f"{name}.alpha"] = torch.tensor(float(alpha))
    return named


def old_names(made):
    """The oldest diffusers: no prefix, attention processors."""
    ends = {"A": "down", "B": "up"}
    return {
        f"{la.removesuffix('.to_q')}.processor.to_q_lora.{ends[part]}.weight": t
        for (la, part), t in made.items()
    }


FORMATS = {
    "peft": peft_names,
    "without prefix": lambda m: {n.removeprefix("unet."): t for n, t in peft_names(m).items()},
    "peft's own prefix": lambda m: {
        f"base_model.model.{n.split('.', 1)[1]}": t for n, t in peft_names(m).items()
    },
    "peft's prefix in a half": lambda m: {
        n.replace(".", ".base_model.model.", 1): t for n, t in peft_names(m).items()
    },
    "peft with the adapter's name": lambda m: {
        n.replace(".weight", ".default.weight"): t for n, t in peft_names(m).items()
    },
    "a wrapper's prefix": lambda m: {f"module.{n}": t for n, t in peft_names(m).items()},
    "compiled": lambda m: {n.replace(".", "._orig_mod.", 1): t for n, t in peft_names(m).items()},
    "another adapter's name": lambda m: {
        n.replace(".weight", ".style_0.weight"): t for n, t in peft_names(m).items()
    },
    "two formats for two halves": lambda m: {
        n: t
        for names, half in ((kohya_names(m), "lora_unet"), (peft_names(m), "text_encoder"))
        for n, t in names.items()
        if half in n
    },
    "text encoder without text_model": lambda m: {
        n.replace("text_model.", ""): t for n, t in peft_names(m).items()
    },
    "diffusers": lambda m: convert_state_dict_to_diffusers(peft_names(m)),
    "kohya": kohya_names,
}


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
def test_every_format_gives_what_its_matrices_say(form, tmp_path, plain):
    made = matrices(f"{UNET}.to_q", f"{UNET}.to_out.0", TEXT)
    file = write(tmp_path / "a.safetensors", FORMATS[form](made))
    wanted = latents(by_hand(made))
    assert (wanted - plain).abs().max() > 0.05
    switched, merged = new(), new()
    switched.use_lora(file)
    merged.merge_lora(file)
    assert (latents(switched) - wanted).abs().max() < 1e-3
    assert (latents(merged) - wanted).abs().max() < 1e-3
    switched.use_lora(None)
    assert torch.equal(latents(switched), plain)
    assert merged.lora is None


@pytest.mark.slow
def test_diffusers_oldest_format(tmp_path):
    made = matrices(f"{UNET}.to_q")
    pipe = new()
    pipe.use_lora(write(tmp_path / "a.safetensors", old_names(made)))
    assert (latents(pipe) - latents(by_hand(made))).abs().max() < 1e-3


@pytest.mark.parametrize("alpha", [1, 4])
@pytest.mark.parametrize("layers", [(f"{UNET}.to_q", TEXT), (CONV,)], ids=["linear", "conv"])
def test_kohyas_alpha_scales(alpha, layers, tmp_path):
    made = matrices(*layers)
    pipe = new()
    pipe.use_lora(write(tmp_path / "a.safetensors", kohya_names(made, alpha)))
    assert (latents(pipe) - latents(by_hand(made, alpha / 2))).abs().max() < 2e-3


def test_ranks_and_alphas_may_differ(tmp_path):
    one, other = matrices(f"{UNET}.to_q", rank=2), matrices(f"{UNET}.to_v", rank=3, seed=1)
    names = kohya_names(one, 1) | kohya_names(other, 6)
    pipe = new()
    pipe.use_lora(write(tmp_path / "a.safetensors", names))
    scaled = {key: t * (0.5 if key[1] == "B" else 1) for key, t in one.items()}
    scaled |= {key: t * (2 if key[1] == "B" else 1) for key, t in other.items()}
    assert (latents(pipe) - latents(by_hand(scaled))).abs().max() < 2e-3


@pytest.mark.parametrize(
    ("settings", "scale"),
    [({"lora_alpha": 8}, 4.0), ({"lora_alpha": 8, "use_rslora": True}, 8 / 2**0.5)],
)
def test_a_folder_of_peft(settings, scale, tmp_path):
    made = matrices(f"{UNET}.to_q")
    made = {key: tensor / 3 for key, tensor in made.items()}
    write(tmp_path / "adapter_model.safetensors", FORMATS["peft's own prefix"](made))
    config = {"peft_type": "LORA", "r": 2} | settings
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    pipe = new()
    pipe.use_lora(tmp_path)
    assert (latents(pipe) - latents(by_hand(made, scale))).abs().max() < 2e-3


@pytest.mark.slow
@pytest.mark.parametrize("dora", [False, True])
def test_what_diffusers_saves_is_what_it_saved(dora, tmp_path):
    """Both halves, alpha in the file's metadata; and DoRA of peft."""
    base = build_tiny_pipeline()
    torch.manual_seed(1)
    config = LoraConfig(
        r=2, lora_alpha=5, init_lora_weights=False, target_modules=["to_q"], use_dora=dora
    )
    base.unet.add_adapter(config)
    StableDiffusionPipeline.save_lora_weights(
        tmp_path,
        unet_lora_layers=get_peft_model_state_dict(base.unet),
        unet_lora_adapter_metadata=config.to_dict(),
    )
    switched, merged = new(), new()
    switched.use_lora(tmp_path)
    merged.merge_lora(tmp_path)
    wanted = latents(SagePipeline.from_pipe(base))
    assert (latents(switched) - wanted).abs().max() < 1e-3
    assert (latents(merged) - wanted).abs().max() < 2e-3


@pytest.mark.slow
def test_kohya_as_diffusers_writes_it(tmp_path):
    base = build_tiny_pipeline()
    base.unet.add_adapter(
        LoraConfig(
            r=2, lora_alpha=2, init_lora_weights=False, target_modules=["to_q", "to_out.0", "conv1"]
        )
    )
    layers = {
        f"unet.base_model.model.{n}": t for n, t in get_peft_model_state_dict(base.unet).items()
    }
    names = convert_state_dict_to_kohya(layers)
    names = {n.replace("lora_unet_base_model_model_", "lora_unet_"): t for n, t in names.items()}
    pipe = new()
    pipe.use_lora(write(tmp_path / "a.safetensors", names))
    assert (latents(pipe) - latents(SagePipeline.from_pipe(base))).abs().max() < 1e-3


def renamed(old, new_part):
    return lambda m: {n.replace(old, new_part): t for n, t in peft_names(m).items()}


Q = f"unet.{UNET}.to_q"
ALPHA = f"lora_unet_{UNET.replace('.', '_')}_to_q.alpha"
REFUSED = {
    "one matrix": (lambda m: dict(list(peft_names(m).items())[:1]), "one of its two matrices"),
    "a layer that is not there": (renamed("to_q", "to_z"), "tensors fit|no layers for this UNet"),
    "a layer more": (
        lambda m: peft_names(m) | {"unet.nowhere.lora_A.weight": torch.zeros(2, 2)},
        "only 2 of its 3 tensors fit",
    ),
    "numbers that are none": (
        lambda m: {n: t * float("nan") for n, t in peft_names(m).items()},
        "not numbers",
    ),
    "another width": (
        lambda m: {n: torch.cat([t, t], -1) for n, t in peft_names(m).items()},
        "made for another model",
    ),
    "other ranks for A and B": (
        lambda m: {n: t[:1] if "lora_A" in n else t for n, t in peft_names(m).items()},
        "made for another model",
    ),
    "a transformer": (renamed("unet.", "transformer."), "transformer"),
    "SDXL": (renamed("unet.", "text_encoder_2."), "Stable Diffusion XL"),
    "SDXL of kohya": (
        lambda m: {"lora_te2_text_model_x.lora_down.weight": torch.zeros(2, 2)},
        "Stable Diffusion XL",
    ),
    "SDXL's blocks": (
        lambda m: {"lora_unet_input_blocks_4_1_proj_in.lora_down.weight": torch.zeros(2, 2)},
        "Stable Diffusion XL",
    ),
    "whole numbers": (lambda m: {n: t.to(torch.int8) for n, t in peft_names(m).items()}, "int8"),
    "a layer twice": (
        lambda m: peft_names(m) | {n.removeprefix("unet."): t for n, t in peft_names(m).items()},
        "names .* twice",
    ),
    "two adapters": (
        lambda m: (
            peft_names(m)
            | {n.replace(".weight", ".other.weight"): t for n, t in peft_names(m).items()}
        ),
        "names .* twice",
    ),
    "two numbers as alpha": (
        lambda m: kohya_names(m) | {ALPHA: torch.ones(2)},
        "has 2 numbers; need one",
    ),
    "an alpha that is none": (
        lambda m: kohya_names(m) | {ALPHA: torch.tensor(float("inf"))},
        "not numbers",
    ),
    "flat matrices": (lambda m: {n: t.flatten() for n, t in peft_names(m).items()}, "two matrices"),
    "a bias for a layer without": (
        lambda m: peft_names(m) | {f"{Q}.lora_B.bias": torch.ones(32)},
        "adds a bias to .* which has none",
    ),
    "DoRA of another width": (
        lambda m: peft_names(m) | {f"{Q}.lora_magnitude_vector": torch.ones(31)},
        "made for another model",
    ),
    "DoRA for one of two layers": (
        lambda m: (
            peft_names(m)
            | {n.replace("to_q", "to_v"): t for n, t in peft_names(m).items()}
            | {f"{Q}.lora_magnitude_vector": torch.ones(32)}
        ),
        "1 of its 2 layers are DoRA",
    ),
    "LoHa": (lambda m: {"lora_unet_x.hada_w1_a": torch.zeros(2, 2)}, "LoHa"),
    "LoKr": (lambda m: {"lora_unet_x.lokr_w1": torch.zeros(2, 2)}, "LoKr"),
    "OFT": (lambda m: {"lora_unet_x.oft_blocks": torch.zeros(2, 2)}, "OFT"),
    "full difference": (lambda m: {"lora_unet_x.diff": torch.zeros(2, 2)}, "LyCORIS"),
    "Tucker": (
        lambda m: kohya_names(m) | {"lora_unet_x.lora_mid.weight": torch.zeros(2, 2, 3, 3)},
        "Tucker",
    ),
    "DoRA of kohya": (
        lambda m: kohya_names(m) | {"lora_unet_x.dora_scale": torch.zeros(2, 2)},
        "DoRA",
    ),
    "a textual inversion": (lambda m: {"emb_params": torch.zeros(1, 32)}, "textual inversion"),
    "a textual inversion of diffusers": (lambda m: {"<cat>": torch.zeros(32)}, "inversion"),
    "a whole model": (
        lambda m: {"model.diffusion_model.input_blocks.0.weight": torch.zeros(2)},
        "whole model",
    ),
    "nothing of it": (lambda m: {"something.weight": torch.zeros(2)}, "no layers for this UNet"),
    "an alpha alone": (
        lambda m: (
            kohya_names(m) | {f"lora_unet_{UNET.replace('.', '_')}_to_v.alpha": torch.ones(())}
        ),
        "alpha and no matrices",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_adapter_for_this_model_is_refused(name, tmp_path, plain):
    make, words = REFUSED[name]
    file = write(tmp_path / "a.safetensors", make(matrices(f"{UNET}.to_q")))
    pipe = new()
    for use in (pipe.use_lora, pipe.merge_lora):
        with pytest.raises(ValueError, match=words) as error:
            use(file)
        assert "cannot be used as a LoRA adapter" in str(error.value)
        assert "\n" not in str(error.value)
    assert pipe.lora is None
    assert torch.equal(latents(pipe), plain)


def test_files_that_cannot_be_read_are_refused(tmp_path):
    pipe, made = new(), peft_names(matrices(f"{UNET}.to_q"))
    with pytest.raises(ValueError, match="no such file or folder"):
        pipe.use_lora(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"no \.safetensors file"):
        pipe.use_lora(tmp_path)
    torch.save(made, tmp_path / "pytorch_lora_weights.bin")
    for path in (tmp_path, tmp_path / "pytorch_lora_weights.bin"):
        with pytest.raises(ValueError, match=r"only those are read"):
            pipe.use_lora(path)
    file = write(tmp_path / "any-name.safetensors", made)
    pipe.use_lora(tmp_path)  # the only one
    assert pipe.lora == tmp_path
    write(tmp_path / "another.safetensors", made)
    with pytest.raises(ValueError, match="name one of them: another"):
        pipe.use_lora(tmp_path)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(ValueError, match="cannot be used as a LoRA adapter"):
        pipe.use_lora(cut)
    assert pipe.lora is None


def test_a_peft_adapter_of_another_kind_is_refused(tmp_path):
    made = FORMATS["peft's own prefix"](matrices(f"{UNET}.to_q"))
    write(tmp_path / "adapter_model.safetensors", made)
    more = "more than a LoRA"
    configs = [
        ({"peft_type": "LOHA"}, more),
        ({"bias": "all"}, more),
        ({"modules_to_save": ["conv_in"]}, more),
        ({"layer_replication": [[0, 1]]}, more),
        ({"trainable_token_indices": [1]}, more),
        ({"init_lora_weights": "pissa_niter_4"}, "changes the model's own weights"),
        ({"lora_alpha": float("nan")}, "alpha of .* is nan"),
        ({"lora_alpha": 2, "alpha_pattern": ["x"]}, "alpha_pattern is a list"),
        ([], "is a list"),
    ]
    pipe = new()
    for config, words in configs:
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
        with pytest.raises(ValueError, match=words):
            pipe.use_lora(tmp_path)
    (tmp_path / "adapter_config.json").write_text('\ufeff{"lora_alpha": 2}', "utf-8")
    pipe.use_lora(tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_network_takes_adapters_on_and_off(tmp_path, plain):
    made = matrices(f"{UNET}.to_q", TEXT)
    file = write(tmp_path / "a.safetensors", peft_names(made))
    pipe = new()
    pipe.unet = torch.compile(pipe.unet, backend="eager")
    compiled = pipe.unet
    pipe.use_lora(file)
    assert (latents(pipe) - latents(by_hand(made))).abs().max() < 1e-3
    pipe.use_lora(None)
    assert (latents(pipe) - plain).abs().max() < 1e-4
    pipe.merge_lora(file)
    assert pipe.unet is compiled
    assert (latents(pipe) - latents(by_hand(made))).abs().max() < 1e-3


def test_an_adapter_taken_off_elsewhere_is_off(tmp_path):
    pipe = new()
    pipe.use_lora(write(tmp_path / "a.safetensors", peft_names(matrices(f"{UNET}.to_q"))))
    pipe.unload_lora_weights()
    assert pipe.lora is None


def test_the_stamp_of_an_adapter_changes_with_its_file(tmp_path):
    file = write(tmp_path / "a.safetensors", peft_names(matrices(f"{UNET}.to_q")))
    before = adapter_stamp(file)
    assert adapter_stamp(tmp_path) == before
    write(file, peft_names(matrices(f"{UNET}.to_q", f"{UNET}.to_v")))
    assert adapter_stamp(file) != before
