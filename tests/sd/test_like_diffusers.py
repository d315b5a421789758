"""What works on a StableDiffusionPipeline works here, with the same pictures."""

import copy
import json

import numpy as np
import pytest
import torch
from diffusers import (
    AutoPipelineForImage2Image,
    AutoPipelineForInpainting,
    AutoPipelineForText2Image,
    ControlNetModel,
    DDIMScheduler,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from PIL import Image

from sage.jobs.models import builtin_model
from sage.sd.pipeline import SagePipeline
from tests.conftest import build_tiny_pipeline

pytestmark = pytest.mark.slow

HOW = {"num_inference_steps": 3, "guidance_scale": 5.0, "output_type": "latent"}
PROMPTS = ["a <many> fox", "a dog"]


def pair(change=None, **unet):
    base = build_tiny_pipeline()
    if unet:
        config = {k: v for k, v in base.unet.config.items() if k[0] != "_"} | unet
        parts = base.components | {"unet": UNet2DConditionModel.from_config(config).eval()}
        base = StableDiffusionPipeline(**parts, requires_safety_checker=False)
    base.set_progress_bar_config(disable=True)
    if change is not None:
        change(base)
    return base, SagePipeline.from_pipe(base)


def distance(base, pipe, prompts=PROMPTS, ours=None, **how):
    how = HOW | how
    seeds = list(range(len(prompts)))
    mine = pipe(prompts, share_ratio=0.0, seeds=seeds, **(how | (ours or {}))).latents
    shape = tuple(mine.shape[1:])
    noise = torch.stack(
        [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    )
    if isinstance(how.get("negative_prompt"), str):
        how["negative_prompt"] = [how["negative_prompt"]] * len(prompts)
    theirs = base(prompts, latents=noise, **how).images
    return float((mine - theirs).abs().max())


CHANGES = {
    "one vector": lambda p: p.load_textual_inversion({"<many>": torch.randn(32)}),
    "several vectors": lambda p: p.load_textual_inversion({"<many>": torch.randn(4, 32)}),
    "FreeU": lambda p: p.enable_freeu(0.9, 0.2, 1.1, 1.2),
    "fused QKV": lambda p: p.fuse_qkv_projections(),
    "slices": lambda p: p.enable_attention_slicing(1),
    "attention mask": lambda p: setattr(p.text_encoder.config, "use_attention_mask", True),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.filterwarnings("ignore")
def test_changes_by_diffusers_own_calls(name):
    torch.manual_seed(2)
    base, pipe = pair(CHANGES[name])
    assert distance(base, pipe, negative_prompt="rain <many>") < 1e-3


@pytest.mark.parametrize("size", [{"height": 24}, {"width": 32}, {"height": 8, "width": 40}])
def test_sizes(size):
    base, pipe = pair()
    both = {"height": 16, "width": 16} | size  # diffusers wants both
    assert distance(base, pipe, ours=size, **both) < 1e-3
    output = pipe("a fox", steps=1, **size)
    assert output.images[0].size == (both["width"], both["height"])
    assert output.cost.flops.total != pipe.cost(output.plan).flops.total
    assert output.cost == pipe.cost(output.plan, **size)


def test_a_model_of_two_sides():
    base, pipe = pair(sample_size=[8, 12])
    assert distance(base, pipe) < 1e-3
    assert pipe("a fox", steps=1).images[0].size == (24, 16)
    assert pipe.flops.denoiser > 0


def test_a_long_prompt_counts_a_textual_inversion_whole(tiny):
    tiny.load_textual_inversion({"<many>": torch.randn(14, 32)})
    assert tiny.truncated(["<many> a b", "a fox"]) == (0,)


def test_clip_skip_leaves_out_layers(tiny):
    tokens = tiny.tokenizer(
        ["a fox"], padding="max_length", max_length=16, return_tensors="pt"
    ).input_ids
    hidden = tiny.text_encoder(tokens, output_hidden_states=True).hidden_states
    assert torch.equal(
        tiny.encode(["a fox"], clip_skip=1), tiny.text_encoder.final_layer_norm(hidden[-2])
    )
    assert torch.equal(tiny.encode(["a fox"], clip_skip=0), tiny.encode(["a fox"]))
    assert not torch.equal(tiny("a fox", clip_skip=1, **HOW).latents, tiny("a fox", **HOW).latents)


@pytest.mark.parametrize("part", ["unet", "text_encoder", "vae"])
@pytest.mark.filterwarnings("ignore")
def test_compiled_parts(part):
    _, pipe = pair()
    plain = pipe(["a fox", "a dog"], steps=2)
    setattr(pipe, part, torch.compile(getattr(pipe, part), backend="eager"))
    compiled = pipe(["a fox", "a dog"], steps=2)
    assert (plain.latents - compiled.latents).abs().max() < 1e-4
    assert compiled.cost == plain.cost
    assert len(SagePipeline.from_pipe(pipe)("a fox", steps=1).images) == 1


def test_flops_follow_the_parts(tiny):
    before = tiny.flops
    config = {k: v for k, v in tiny.unet.config.items() if k[0] != "_"}
    tiny.unet = UNet2DConditionModel.from_config(config | {"layers_per_block": 2}).eval()
    assert tiny.flops.denoiser > before.denoiser
    assert tiny.flops.decoder == before.decoder


def test_variants_types_and_parts_at_loading(tmp_path):
    base = build_tiny_pipeline()
    base.save_pretrained(tmp_path, variant="fp16")
    base.vae.eval()
    pipe = SagePipeline.from_pretrained(
        tmp_path,
        variant="fp16",
        torch_dtype=torch.float64,
        vae=base.vae,
        safety_checker=None,
        requires_safety_checker=False,
        use_safetensors=True,
    )
    assert pipe.vae is base.vae
    assert pipe.unet.dtype == torch.float64
    assert SagePipeline.from_pretrained(tmp_path, variant="fp16").dtype == torch.float32
    assert (
        SagePipeline.from_pretrained(str(tmp_path), variant="fp16", dtype=torch.float16).dtype
        == torch.float16
    )
    with pytest.raises(ValueError, match="pickles"):
        SagePipeline.from_pretrained(tmp_path, use_safetensors=False)


def test_a_model_that_is_saved_is_loaded_as_it_was(tmp_path):
    pipe = SagePipeline.from_pretrained(builtin_model().source)
    pipe.save_pretrained(tmp_path)
    again = SagePipeline.from_pretrained(tmp_path)
    how = {"steps": 2, "output_type": "np"}
    ours, theirs = pipe("a fox in the snow", **how), again("a fox in the snow", **how)
    # Not bit for bit: kernels depend on where a file's weights lie in memory.
    assert np.abs(ours.images - theirs.images).max() < 1e-4
    assert (pipe.embed("a fox") - again.embed("a fox")).abs().max() < 1e-5
    for name in ("tau_min", "tau_max", "guidance_scale", "steps", "share_ratio", "known_words"):
        assert getattr(again.settings, name) == getattr(pipe.settings, name)
    assert torch.equal(again.settings.latent_rgb.weight, pipe.settings.latent_rgb.weight)
    saved = json.loads((tmp_path / "model_index.json").read_text())
    assert saved["_class_name"] == "StableDiffusionPipeline"
    for kind in (StableDiffusionPipeline, DiffusionPipeline):
        assert type(kind.from_pretrained(tmp_path)) is StableDiffusionPipeline


def test_a_scheduler_that_is_given_stays_and_others_become_ddim(tiny_folder):
    euler = EulerDiscreteScheduler(beta_schedule="scaled_linear")
    pipe = SagePipeline.from_pretrained(tiny_folder, scheduler=euler, use_safetensors=None)
    assert pipe.scheduler is euler
    assert SagePipeline.from_pipe(pipe, scheduler=euler).scheduler is euler
    assert type(SagePipeline.from_pipe(pipe).scheduler) is DDIMScheduler
    with pytest.raises(ValueError, match="clip is a int"):
        SagePipeline.from_pretrained(tiny_folder, clip=3)


def test_the_process_s_default_type_changes_nothing(tiny):
    wanted = tiny("a fox", **HOW).latents
    torch.set_default_dtype(torch.float64)
    try:
        found = tiny("a fox", **HOW).latents
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.dtype == torch.float32
    assert (found - wanted).abs().max() < 1e-4


def test_a_model_with_an_adapter_on_is_not_saved(tiny, tmp_path):
    from tests.sd.test_adapters import UNET, matrices, peft_names, write

    tiny.use_lora(write(tmp_path / "a.safetensors", peft_names(matrices(f"{UNET}.to_q"))))
    with pytest.raises(ValueError, match="An adapter is on"):
        tiny.save_pretrained(tmp_path / "model")


def test_copies_and_parts(tiny):
    wanted = tiny("a fox", **HOW).latents
    for twin in (copy.copy(tiny), copy.deepcopy(tiny), SagePipeline.from_pipe(tiny)):
        assert torch.equal(twin("a fox", **HOW).latents, wanted)
    plain = StableDiffusionPipeline(**tiny.components, requires_safety_checker=False)
    assert SagePipeline(**plain.components, requires_safety_checker=False).unet is tiny.unet
    vae = copy.deepcopy(tiny.vae)
    assert SagePipeline.from_pipe(plain, vae=vae).vae is vae
    with pytest.raises(ValueError, match="vaee is no part"):
        SagePipeline.from_pipe(plain, vaee=vae)
    assert tiny.dtype == torch.float32


AUTO = {
    "pictures": (AutoPipelineForImage2Image, StableDiffusionImg2ImgPipeline),
    "inpainting": (AutoPipelineForInpainting, StableDiffusionInpaintPipeline),
    "text": (AutoPipelineForText2Image, StableDiffusionPipeline),
}


@pytest.mark.parametrize("task", AUTO)
def test_other_tasks_take_the_parts(tiny, task):
    """`AutoPipelineForImage2Image.from_pipe` found no class for a SagePipeline."""
    auto, kind = AUTO[task]
    picture = Image.new("RGB", (16, 16), "red")
    how = {"num_inference_steps": 2, "output_type": "np", "height": 16, "width": 16}
    how |= {"image": picture, "strength": 1.0} if task != "text" else {}
    how |= {"mask_image": Image.new("L", (16, 16), 255)} if task == "inpainting" else {}
    how = {k: v for k, v in how.items() if task != "pictures" or k not in ("height", "width")}
    for pipe in (auto.from_pipe(tiny), kind.from_pipe(tiny)):
        assert type(pipe) is kind
        assert pipe.unet is tiny.unet
        assert pipe("a fox", **how).images.shape == (1, 16, 16, 3)
        assert type(AutoPipelineForText2Image.from_pipe(pipe)) is StableDiffusionPipeline
        back = SagePipeline.from_pipe(pipe)
        assert torch.equal(back("a fox", **HOW).latents, tiny("a fox", **HOW).latents)


def test_what_from_pipe_cannot_do_is_one_sentence(tiny):
    base = build_tiny_pipeline()
    controlled = StableDiffusionControlNetPipeline(
        **base.components,
        controlnet=ControlNetModel.from_unet(base.unet),
        requires_safety_checker=False,
    )
    with pytest.raises(ValueError, match="is a ControlNet pipeline, not Stable Diffusion v1"):
        SagePipeline.from_pipe(controlled)
    for name in ("torch_dtype", "dtype"):
        with pytest.raises(ValueError, match=r"casts nothing; call \.to\(dtype\)"):
            SagePipeline.from_pipe(base, **{name: torch.float16})
    assert SagePipeline.from_pipe(base, requires_safety_checker=False, torch_dtype=None)


@pytest.mark.parametrize(
    "options",
    [
        {"torch_dtype": {"unet": torch.bfloat16, "default": torch.float32}},
        {"torch_dtype": {"vae": torch.bfloat16, "text_encoder": torch.float16}},
        {"torch_dtype": "auto"},
        {"device_map": "balanced"},
        {"low_cpu_mem_usage": False},
    ],
    ids=["UNet in bf16", "VAE and text in halves", "auto", "device map", "memory"],
)
def test_ways_of_loading(tmp_path, options):
    build_tiny_pipeline().save_pretrained(tmp_path, max_shard_size="200KB")  # in shards
    wanted = SagePipeline.from_pretrained(tmp_path)(["a fox", "a dog"], **HOW).latents
    pipe = SagePipeline.from_pretrained(tmp_path, **options)
    asked = options.get("torch_dtype")
    for name, dtype in asked.items() if isinstance(asked, dict) else ():
        assert name == "default" or getattr(pipe, name).dtype is dtype
    found = pipe(["a fox", "a dog"], **HOW).latents
    assert (found - wanted).abs().max() < (0.5 if isinstance(asked, dict) else 1e-4)
