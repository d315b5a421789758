"""Kept states and embeddings are never stale, whatever was changed on the pipeline."""

import copy
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from accelerate import cpu_offload
from diffusers import AutoencoderTiny, DDIMScheduler
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from diffusers.models.unets.unet_2d_blocks import UNetMidBlock2DCrossAttn
from safetensors.torch import save_file
from torch import nn

from sage.sd import identity
from sage.sd.identity import arithmetic, digest, fingerprint
from sage.sd.pipeline import SagePipeline
from sage.sd.store import StateStore
from tests.conftest import build_tiny_pipeline

PROMPTS = ["a <cat> fox", "a dog"]
HOW = {"groups": [(0, 1)], "num_inference_steps": 4, "output_type": "latent", "seeds": [3, 4]}
UNET_LAYER = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
TEXT_LAYER = "text_model.encoder.layers.0.self_attn.q_proj"


@pytest.fixture
def pipe():
    return SagePipeline.from_pipe(build_tiny_pipeline())


def adapter(path, seed=0, scale=1.0, text=True):
    torch.manual_seed(seed)
    layers = {"unet": UNET_LAYER} | ({"text_encoder": TEXT_LAYER} if text else {})
    tensors = {}
    for half, layer in layers.items():
        tensors[f"{half}.{layer}.lora_A.weight"] = torch.randn(2, 32) * scale
        tensors[f"{half}.{layer}.lora_B.weight"] = torch.randn(32, 2) * scale
    save_file(tensors, path)
    return path


def load(pipe, tmp_path):
    pipe.load_lora_weights(str(tmp_path), weight_name=adapter(tmp_path / "a.safetensors").name)


def overwrite(pipe, tmp_path):
    adapter(tmp_path / "a.safetensors", seed=1)
    pipe.use_lora(tmp_path / "a.safetensors")


def new_scheduler(pipe, **options):
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, **options)


def new_text_encoder(pipe):
    torch.manual_seed(5)
    pipe.text_encoder = type(pipe.text_encoder)(pipe.text_encoder.config).eval()


def double(tensor):
    tensor.data.mul_(2)


def one_number(tensor):
    with torch.no_grad():
        tensor.view(-1)[0] += 0.5


def past_autograd(tensor):
    tensor.detach().numpy().reshape(-1)[0] += 0.5


def hook(pipe, call):
    return pipe.unet.mid_block.register_forward_hook(call)


def flip(tensor):
    with torch.no_grad():
        tensor.copy_(tensor.flip(0).clone())


# What is done before the first run, and then between the two runs.
CHANGES = {
    "FreeU on": (None, lambda p, t: p.enable_freeu(0.5, 0.2, 1.5, 1.6)),
    "FreeU off": (
        lambda p, t: p.enable_freeu(0.5, 0.2, 1.5, 1.6),
        lambda p, t: p.disable_freeu(),
    ),
    "FreeU, other numbers": (
        lambda p, t: p.enable_freeu(0.5, 0.2, 1.5, 1.6),
        lambda p, t: p.enable_freeu(0.9, 0.2, 1.1, 1.6),
    ),
    "a textual inversion": (
        None,
        lambda p, t: p.load_textual_inversion({"<cat>": torch.randn(32) * 3}),
    ),
    "a textual inversion of several vectors": (
        None,
        lambda p, t: p.load_textual_inversion({"<cat>": torch.randn(3, 32) * 3}),
    ),
    "a textual inversion taken off": (
        lambda p, t: p.load_textual_inversion({"<cat>": torch.randn(32) * 3}),
        lambda p, t: p.unload_textual_inversion(),
    ),
    "LoRA loaded by diffusers": (None, load),
    "LoRA unloaded by diffusers": (load, lambda p, t: p.unload_lora_weights()),
    "LoRA fused by diffusers": (load, lambda p, t: p.fuse_lora(lora_scale=0.5)),
    "LoRA unfused by diffusers": (
        lambda p, t: (load(p, t), p.fuse_lora(lora_scale=0.5)),
        lambda p, t: p.unfuse_lora(),
    ),
    "LoRA scaled by diffusers": (load, lambda p, t: p.set_adapters("default_0", 0.3)),
    "LoRA disabled by diffusers": (load, lambda p, t: p.disable_lora()),
    "LoRA enabled by diffusers": (
        lambda p, t: (load(p, t), p.disable_lora()),
        lambda p, t: p.enable_lora(),
    ),
    "LoRA switched on": (None, lambda p, t: p.use_lora(adapter(t / "a.safetensors"))),
    "LoRA of the text encoder's half alone": (
        lambda p, t: p.use_lora(adapter(t / "a.safetensors", text=False)),
        lambda p, t: p.use_lora(adapter(t / "b.safetensors")),
    ),
    "LoRA switched off": (
        lambda p, t: p.use_lora(adapter(t / "a.safetensors")),
        lambda p, t: p.use_lora(None),
    ),
    "an adapter's file overwritten": (
        lambda p, t: p.use_lora(adapter(t / "a.safetensors")),
        overwrite,
    ),
    "LoRA merged": (None, lambda p, t: p.merge_lora(adapter(t / "a.safetensors"))),
    "LoRA merged again": (
        lambda p, t: p.merge_lora(adapter(t / "a.safetensors")),
        lambda p, t: p.merge_lora(adapter(t / "a.safetensors")),
    ),
    "a weight doubled past autograd": (None, lambda p, t: double(p.unet.conv_in.weight)),
    "one number of a weight": (None, lambda p, t: one_number(p.unet.conv_in.weight)),
    "one number written by NumPy": (None, lambda p, t: past_autograd(p.unet.conv_in.weight)),
    "a weight turned around": (None, lambda p, t: flip(p.unet.conv_out.weight)),
    "another tensor as weight": (
        None,
        lambda p, t: setattr(p.unet.conv_in, "weight", nn.Parameter(p.unet.conv_in.weight * 2)),
    ),
    "a weight of the text encoder": (
        None,
        lambda p, t: double(next(p.text_encoder.encoder.parameters())),
    ),
    "another UNet": (
        None,
        lambda p, t: setattr(p, "unet", type(p.unet).from_config(p.unet.config).eval()),
    ),
    "a copy of the UNet with another weight": (
        None,
        lambda p, t: (setattr(p, "unet", copy.deepcopy(p.unet)), double(p.unet.conv_in.weight)),
    ),
    "another text encoder": (None, lambda p, t: new_text_encoder(p)),
    "a word of the tokenizer": (
        None,
        lambda p, t: (
            p.tokenizer.add_tokens(["fox"]),
            p.text_encoder.resize_token_embeddings(len(p.tokenizer)),
        ),
    ),
    "a shorter prompt is read": (None, lambda p, t: setattr(p.tokenizer, "model_max_length", 8)),
    "an attention processor": (
        None,
        lambda p, t: p.unet.set_attn_processor(_Halved()),
    ),
    "a number in an attention processor": (
        lambda p, t: p.unet.set_attn_processor(_Halved()),
        lambda p, t: [setattr(a, "by", 0.25) for a in p.unet.attn_processors.values()],
    ),
    "a hook": (None, lambda p, t: p.unet.mid_block.register_forward_hook(_double_hook)),
    "a forward that was replaced": (
        None,
        lambda p, t: setattr(p.unet.mid_block, "forward", lambda x, *a, **k: x),
    ),
    "an attribute of a hook's owner": (
        lambda p, t: hook(p, p.__dict__.setdefault("own", _Owner()).hook),
        lambda p, t: setattr(p.own, "by", 0.5),
    ),
    "a slot of a hook": (
        lambda p, t: hook(p, p.__dict__.setdefault("own", _Slot())),
        lambda p, t: setattr(p.own, "by", 0.5),
    ),
    "what a hook closes over": (
        lambda p, t: hook(p, _closing(p.__dict__.setdefault("by", [1.0]))),
        lambda p, t: p.by.append(0.5),
    ),
    "an argument of a hook": (
        lambda p, t: setattr(p, "own", hook(p, partial(_scaled, 1.0))),
        lambda p, t: (p.own.remove(), hook(p, partial(_scaled, 0.5))),
    ),
    "timesteps": (None, lambda p, t: new_scheduler(p, timestep_spacing="trailing")),
    "kind of prediction": (None, lambda p, t: new_scheduler(p, prediction_type="v_prediction")),
    "noise levels": (None, lambda p, t: new_scheduler(p, beta_end=0.02)),
    "a scheduler's table edited": (None, lambda p, t: p.scheduler.alphas_cumprod.mul_(0.99)),
    "a scheduler's settings edited": (
        None,
        lambda p, t: p.scheduler.register_to_config(timestep_spacing="trailing"),
    ),
    "half precision": (None, lambda p, t: p.to(torch.bfloat16)),
    "a skip connection's scale": (
        None,
        lambda p, t: setattr(p.unet.mid_block.resnets[0], "output_scale_factor", 2.0),
    ),
}


class _Halved(AttnProcessor):
    """An attention processor with a number of its own."""

    def __init__(self):
        super().__init__()
        self.by = 0.5

    def __call__(self, *arguments, **named):
        return super().__call__(*arguments, **named) * self.by


def _double_hook(module, inputs, output):
    return output * 2


class _Owner:
    by = 1.0

    def hook(self, module, inputs, output):
        return output * self.by


class _Slot:
    __slots__ = ("by",)

    def __init__(self):
        self.by = 1.0

    def __call__(self, module, inputs, output):
        return output * self.by


def _closing(values):
    return lambda module, inputs, output: output * values[-1]


def _scaled(by, module, inputs, output):
    return output * by


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.filterwarnings("ignore")
def test_nothing_kept_is_stale(pipe, tmp_path, name):
    first, then = CHANGES[name]
    torch.manual_seed(0)
    if first is not None:
        first(pipe, tmp_path)
    store = StateStore()
    before, embedded = pipe(PROMPTS, reuse=store, **HOW), pipe.embed(PROMPTS)
    torch.manual_seed(1)
    then(pipe, tmp_path)
    kept, fresh = pipe(PROMPTS, reuse=store, **HOW), pipe(PROMPTS, **HOW)
    assert torch.equal(kept.latents, fresh.latents)
    assert torch.equal(pipe.embed(PROMPTS), pipe._embed(PROMPTS))
    changed = not torch.equal(fresh.latents, before.latents)
    assert changed, "the change has no effect: no test"
    assert kept.reused == 0
    assert len(embedded) == 2


def halved(call):
    return lambda *a, **k: call(*a, **k) * 0.5


@pytest.mark.slow
@pytest.mark.parametrize(
    "place",
    [
        (torch.nn.functional, "scaled_dot_product_attention"),
        (AttnProcessor2_0, "__call__"),
        (UNetMidBlock2DCrossAttn, "forward"),
        (nn.Conv2d, "forward"),
    ],
    ids=lambda place: place[1],
)
def test_what_packages_replace_is_noticed(pipe, monkeypatch, place):
    store = StateStore()
    before = pipe(PROMPTS, reuse=store, **HOW)
    pipe.embed(PROMPTS)
    monkeypatch.setattr(*place, halved(getattr(*place)))
    kept, fresh = pipe(PROMPTS, reuse=store, **HOW), pipe(PROMPTS, **HOW)
    assert torch.equal(kept.latents, fresh.latents)
    assert torch.equal(pipe.embed(PROMPTS), pipe._embed(PROMPTS))
    assert not torch.equal(fresh.latents, before.latents)


@pytest.mark.slow
def test_a_hook_on_every_module_is_noticed(pipe):
    store = StateStore()
    pipe(PROMPTS, reuse=store, **HOW)
    hook = torch.nn.modules.module.register_module_forward_hook(
        lambda m, i, o: o * 0.5 if isinstance(m, nn.Conv2d) else None
    )
    try:
        kept, fresh = pipe(PROMPTS, reuse=store, **HOW), pipe(PROMPTS, **HOW)
    finally:
        hook.remove()
    assert torch.equal(kept.latents, fresh.latents)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        lambda p: p.fuse_qkv_projections(),
        lambda p: p.enable_attention_slicing(1),
        lambda p: p.vae.enable_slicing(),
        lambda p: setattr(p, "unet", torch.compile(p.unet, backend="eager")),
        lambda p: setattr(p, "text_encoder", torch.compile(p.text_encoder, backend="eager")),
        lambda p: p.unet.to(memory_format=torch.channels_last),
    ],
    ids=["fused QKV", "slices", "VAE slices", "compiled UNet", "compiled text", "channels last"],
)
@pytest.mark.filterwarnings("ignore")
def test_other_kernels_are_not_mixed(pipe, change):
    store = StateStore()
    pipe(PROMPTS, reuse=store, **HOW)
    change(pipe)
    kept = pipe(PROMPTS, reuse=store, **HOW)
    assert torch.equal(kept.latents, pipe(PROMPTS, **HOW).latents)
    again = pipe(PROMPTS, reuse=store, **HOW)
    assert again.reused == again.cost.evaluations  # and they are kept themselves
    assert torch.equal(pipe.embed(PROMPTS), pipe._embed(PROMPTS))


@pytest.mark.slow
def test_what_did_not_change_is_reused(pipe, tmp_path):
    store, twin = StateStore(), SagePipeline.from_pipe(pipe)
    pipe(PROMPTS, reuse=store, **HOW)
    for same in (pipe, twin, copy.copy(pipe)):
        again = same(PROMPTS, reuse=store, **HOW)
        assert again.reused == again.cost.evaluations
    pipe.use_lora(adapter(tmp_path / "a.safetensors"))
    pipe(PROMPTS, reuse=store, **HOW)
    on = pipe(PROMPTS, reuse=store, **HOW)
    assert on.reused == on.cost.evaluations


@pytest.mark.slow
def test_the_decoder_does_not_matter_for_states(pipe):
    store = StateStore()
    pipe(PROMPTS, reuse=store, **HOW)
    torch.manual_seed(3)
    pipe.vae = AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
        upsampling_scaling_factor=2,
    ).eval()
    kept = pipe(PROMPTS, reuse=store, **(HOW | {"output_type": "pt"}))
    assert kept.reused == kept.cost.evaluations
    assert torch.equal(kept.images, pipe(PROMPTS, **(HOW | {"output_type": "pt"})).images)


def test_preview_colours_follow_the_decoder(pipe):
    latents = pipe.starting_noise([0])
    before = pipe.preview(latents)[0].tobytes()
    assert pipe.preview(latents)[0].tobytes() == before
    with torch.no_grad():
        pipe.vae.decoder.conv_out.bias += 0.5
    assert pipe.preview(latents)[0].tobytes() != before


@pytest.mark.slow
def test_weights_that_are_kept_off_the_device_are_read(pipe):
    whole, store = pipe(PROMPTS, **HOW).latents, StateStore()
    cpu_offload(pipe.unet, torch.device("cpu"))
    assert torch.equal(pipe(PROMPTS, reuse=store, **HOW).latents, whole)
    before = fingerprint(pipe.unet)
    assert fingerprint(pipe.unet) == before
    pipe.unet.conv_in._hf_hook.weights_map["weight"].mul_(2)
    assert fingerprint(pipe.unet) != before
    assert not torch.equal(pipe(PROMPTS, reuse=store, **HOW).latents, whole)


def test_sparse_weights_are_read():
    one, same, other = ((torch.eye(3) * factor).to_sparse() for factor in (1.0, 1.0, 2.0))
    assert fingerprint(one) == fingerprint(one) == fingerprint(same)
    assert fingerprint(one) != fingerprint(other)


def test_preview_colours_of_a_decoder_that_is_kept_in_eight_bits(pipe):
    pipe.vae.enable_layerwise_casting(torch.float8_e4m3fn, torch.float32)
    assert len(pipe.preview(pipe.starting_noise([0]))) == 1


def test_a_change_between_two_steps_leaves_nothing_behind(pipe):
    store = StateStore()
    stream = pipe.stream(PROMPTS, reuse=store, **HOW)
    next(stream)
    double(pipe.unet.conv_in.weight)
    list(stream)
    pipe.unet.conv_in.weight.data.mul_(0.5)  # exact: as it was
    kept = pipe(PROMPTS, reuse=store, **HOW)
    assert torch.equal(kept.latents, pipe(PROMPTS, **HOW).latents)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        {"clip_skip": 1},
        {"height": 24},
        {"negative_prompt": "rain"},
        {"seeds": [4, 3]},
        {"trunk": "medoid"},
        {"guidance_interval": (0.0, 0.5)},
        {"fresh_noise": 0.5, "share_ratio": 0.0},
    ],
)
def test_other_arguments_start_anew(pipe, change):
    store = StateStore()
    pipe(PROMPTS, reuse=store, **HOW)
    kept = pipe(PROMPTS, reuse=store, **(HOW | change))
    assert torch.equal(kept.latents, pipe(PROMPTS, **(HOW | change)).latents)


def test_prompts_that_change_places_are_not_confused(pipe):
    store, how = StateStore(), HOW | {"seeds": [3, 3], "groups": [(0,), (1,)]}
    pipe(PROMPTS, reuse=store, **how)
    turned = pipe(PROMPTS[::-1], reuse=store, **how)
    assert turned.reused == 0
    assert torch.equal(turned.latents, pipe(PROMPTS[::-1], **how).latents)


@pytest.mark.slow
def test_threads_are_part_of_the_key(pipe):
    store = StateStore()
    pipe(PROMPTS, reuse=store, **HOW)
    torch.set_num_threads(2)
    try:
        assert pipe(PROMPTS, reuse=store, **HOW).reused == 0
    finally:
        torch.set_num_threads(1)


CUDA = torch.backends.cuda.matmul
# Settings of the process: place, name, another value. Some change nothing on this machine; what a
# result depends on elsewhere counts all the same.
SWITCHES = {
    "oneDNN": (torch.backends.mkldnn, "enabled", False),
    "oneDNN, deterministic": (torch.backends.mkldnn, "deterministic", True),
    "oneDNN, matrix products": (torch.backends.mkldnn.matmul, "fp32_precision", "bf16"),
    "oneDNN, convolutions": (torch.backends.mkldnn.conv, "fp32_precision", "bf16"),
    "cuDNN": (torch.backends.cudnn, "enabled", False),
    "cuDNN, deterministic": (torch.backends.cudnn, "deterministic", True),
    "cuDNN, benchmark": (torch.backends.cudnn, "benchmark", True),
    "cuDNN, TF32": (torch.backends.cudnn.conv, "fp32_precision", "ieee"),
    "CUDA, TF32": (torch.backends.cuda.matmul, "fp32_precision", "tf32"),
    "CUDA, sums in fp16": (CUDA, "allow_fp16_reduced_precision_reduction", False),
    "CUDA, sums in bf16": (CUDA, "allow_bf16_reduced_precision_reduction", False),
}


@contextmanager
def switched(name):
    place, attribute, value = SWITCHES[name]
    before = getattr(place, attribute)
    setattr(place, attribute, value)
    try:
        yield
    finally:
        setattr(place, attribute, before)


@pytest.mark.parametrize("name", SWITCHES)
def test_the_processes_settings_are_part_of_the_identity(name):
    before = arithmetic()
    assert arithmetic() == before
    with switched(name):
        assert arithmetic() != before
    assert arithmetic() == before


@pytest.mark.slow
@pytest.mark.parametrize("name", ["oneDNN", "oneDNN, matrix products"])
def test_nothing_is_reused_under_another_setting_of_the_process(pipe, name):
    store = StateStore()
    pipe(PROMPTS, reuse=store, **HOW)
    pipe.embed(PROMPTS)
    with switched(name):
        kept = pipe(PROMPTS, reuse=store, **HOW)
        assert kept.reused == 0
        assert torch.equal(kept.latents, pipe(PROMPTS, **HOW).latents)
        assert torch.equal(pipe.embed(PROMPTS), pipe._embed(PROMPTS))
        again = pipe(PROMPTS, reuse=store, **HOW)
        assert again.reused == again.cost.evaluations


@pytest.mark.slow
def test_a_clip_encoder_is_read_too(tmp_path):
    from sage.jobs.models import builtin_model

    pipe = SagePipeline.from_pretrained(builtin_model().source)
    before = pipe.embed(["a fox", "a dog"])
    assert torch.equal(pipe.embed(["a fox"])[0], before[0])
    double(pipe.clip.model.text_projection.weight[:4])
    after = pipe.embed(["a fox", "a dog"])
    assert torch.equal(after, pipe._embed(["a fox", "a dog"]))
    assert not torch.equal(after, before)
    pipe.clip = None
    assert torch.equal(pipe.embed(["a fox"]), pipe._embed(["a fox"]))


# -- the fingerprint itself ------------------------------------------------------------------------


def test_equal_values_have_equal_fingerprints():
    network = nn.Sequential(nn.Linear(3, 4), nn.Conv2d(2, 2, 3))
    assert fingerprint(network) == fingerprint(network)
    assert fingerprint((1, "a", None)) == fingerprint((1, "a", None))
    assert digest(torch.arange(9)) == digest(torch.arange(9))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (torch.arange(5000), torch.arange(5000).flip(0)),
        (torch.zeros(3), torch.zeros(1, 3)),
        (torch.zeros(3), torch.zeros(3, dtype=torch.bfloat16)),
        (torch.tensor([float("nan")]), torch.tensor([0.0])),
        (torch.tensor([0.0]), torch.tensor([-0.0])),
        ([1, [2]], [[1], 2]),
        ({"a": 1}, {"b": 1}),
        (1, True),
        (torch.float16, torch.bfloat16),
        (len, abs),
        ({"a": [1], "b": 2}, {"a": [1, "b", 2]}),
    ],
)
def test_other_values_have_other_digests(one, other):
    assert digest(one) != digest(other)


def test_every_single_number_counts():
    network = nn.Linear(40, 50)  # above the size that is digested
    prints = {fingerprint(network)}
    for place in range(0, 2000, 97):
        network.weight.data.view(-1)[place] += 0.25
        prints.add(fingerprint(network))
    assert len(prints) == 22


def test_large_networks_are_sampled_and_watched(monkeypatch):
    monkeypatch.setattr(identity, "WHOLE_BYTES", 1000)
    network = nn.Linear(400, 500)
    before = fingerprint(network)
    network.weight.data.mul_(2)  # past autograd's count: seen in the samples
    after = fingerprint(network)
    assert after != before
    with torch.no_grad():
        network.weight[7, 7] += 1  # a single number: seen in the count
    assert fingerprint(network) != after


def test_a_forgotten_object_does_not_lend_its_identity():
    def hooked(number):
        network = nn.Linear(2, 2)
        network.weight.data.fill_(1)
        network.bias.data.fill_(1)
        network.register_forward_hook(lambda module, inputs, output: output + number)
        return fingerprint(network)

    assert len({hooked(n) for n in range(20)}) == 20


def test_objects_without_attributes_and_cycles_are_read():
    class Slots:
        __slots__ = ("a",)

    loop = {}
    loop["self"] = loop
    holder = nn.Linear(1, 1)
    holder.extra = [Slots(), loop, {1, 2}, range(3), torch.Size([1])]
    assert fingerprint(holder) == fingerprint(holder)
