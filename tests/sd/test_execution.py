"""The same pictures with little memory, and bit for bit in any company; faults leave nothing."""

import itertools
import random
from contextlib import contextmanager
from functools import partial
from operator import methodcaller
from types import SimpleNamespace

import diffusers
import pytest
import torch
from diffusers.models.attention_processor import (
    AttnProcessor,
    AttnProcessor2_0,
    SlicedAttnProcessor,
)
from transformers import CLIPConfig, CLIPImageProcessorPil

from sage.core.adaptive import AdaptiveRule
from sage.sd import execution, packed
from sage.sd.execution import free_bytes, is_out_of_memory, structure
from sage.sd.flops import PeakBytes, count_bytes
from sage.sd.preview import LatentRGB
from sage.sd.store import StateStore

pytestmark = pytest.mark.slow

PROMPTS = ["a fox", "a dog", "a pizza", "a cat", "a rabbit", "an owl"]
GROUPS = [(0, 1, 2), (3,), (4, 5)]
LACKS = {
    "torch": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "plain": lambda: RuntimeError(
        "[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: "
        "you tried to allocate 9 bytes. Error code 12 (Cannot allocate memory)"
    ),
    "cublas": lambda: RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `create`"),
    "python": MemoryError,
}


def run(pipe, **arguments):
    how = {"groups": GROUPS, "num_inference_steps": 4, "guidance_scale": 3.0, "output_type": "pt"}
    return pipe(PROMPTS, **(how | arguments))


@contextmanager
def room_for(network, rows, lack=LACKS["torch"], times=None):
    """A network that runs out of memory with more rows than it has room for."""
    failed = []

    def check(module, args, kwargs):
        first = args[0] if args else next(iter(kwargs.values()))
        if len(first) > rows and (times is None or len(failed) < times):
            failed.append(len(first))
            raise lack()

    hook = network.register_forward_pre_hook(check, with_kwargs=True)
    try:
        yield failed
    finally:
        hook.remove()


def with_checker(pipe):
    """A pipeline with a real safety checker of tiny size, and its picture preparation."""
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker

    torch.manual_seed(0)
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    vision = tower | {"num_attention_heads": 2, "image_size": 16, "patch_size": 8}
    config = CLIPConfig(text_config=tower, vision_config=vision, projection_dim=8)
    checker = StableDiffusionSafetyChecker(config).eval()
    size = {"height": 16, "width": 16}
    pipe.feature_extractor = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size=size)
    pipe.safety_checker = checker
    return checker


# -- memory --------------------------------------------------------------------------------------


# One place calls every network and knows every kind of error, so not each in each.
@pytest.mark.parametrize(
    ("stage", "lack"),
    [
        *((stage, "torch") for stage in ("text_encoder", "decoder", "safety_checker")),
        *(("unet", lack) for lack in LACKS),
    ],
)
def test_out_of_memory_costs_rows_and_not_the_run(tiny, stage, lack):
    checker = with_checker(tiny)
    parts = {"decoder": tiny.vae.decoder, "safety_checker": checker}
    network = parts.get(stage) or getattr(tiny, stage)
    whole = run(tiny)
    assert whole.memory_retries == 0
    with room_for(network, 1, LACKS[lack]) as failed:
        short = run(tiny)
    assert failed, "nothing failed: no test"
    assert short.memory_retries == len(failed) <= 3  # 6 rows, 3, 1; a guided batch has 12
    assert (short.images - whole.images).abs().max() < 1e-4
    assert short.flagged == whole.flagged


def test_similarity_and_preview_colours_go_on_with_fewer_rows(tiny):
    whole, colours = tiny._embed(PROMPTS), LatentRGB.fit(tiny.vae)
    for network, again, wanted in (
        (tiny.text_encoder, lambda: tiny._embed(PROMPTS), whole),
        (tiny.vae.decoder, lambda: LatentRGB.fit(tiny.vae).weight, colours.weight),
    ):
        with room_for(network, 1) as failed:
            assert (again() - wanted).abs().max() < 1e-4
        assert failed, "nothing failed: no test"
    with room_for(tiny.text_encoder, 0), pytest.raises(MemoryError, match="encoder for similarity"):
        tiny.embed(PROMPTS)


@pytest.mark.parametrize("at", [1, 3, 8])
def test_memory_that_runs_out_later_loses_nothing(tiny, at):
    calls = []

    def fail_once(module, args):
        calls.append(len(args[0]))
        if len(calls) == at:
            raise LACKS["plain"]()

    whole = run(tiny, num_inference_steps=8)
    tiny.unet.register_forward_pre_hook(fail_once)
    short = run(tiny, num_inference_steps=8)
    assert short.memory_retries == 1
    assert max(calls[at:]) == calls[at - 1] // 2
    assert (short.images - whole.images).abs().max() < 1e-4


def test_a_probe_that_runs_out_of_memory_goes_on(tiny):
    rule = AdaptiveRule(threshold=0.5, earliest=0.0, latest=1.0, every=1)
    how = {"adaptive": rule, "groups": [tuple(range(6))]}
    whole = run(tiny, **how)
    assert whole.probes > 0
    with room_for(tiny.unet, 2):
        short = run(tiny, **how)
    assert short.memory_retries > 0
    assert short.plan == whole.plan
    assert (short.images - whole.images).abs().max() < 1e-4


def test_memory_for_not_even_one_row_is_said_in_a_sentence(tiny):
    with (
        room_for(tiny.unet, 0),
        pytest.raises(MemoryError, match=r"not suffice for the denoiser: CUDA out of memory\. "),
    ):
        run(tiny)


def test_other_errors_are_not_taken_for_a_lack_of_memory(tiny):
    assert not is_out_of_memory(ValueError("out of memory"))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with (
        room_for(tiny.unet, 0, lambda: RuntimeError("shapes cannot be multiplied")),
        pytest.raises(RuntimeError, match="shapes cannot be multiplied"),
    ):
        run(tiny)


def test_the_allocators_own_error_is_recognised():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


def test_rows_for_a_call_follow_what_is_free(tiny, monkeypatch):
    whole = run(tiny)
    assert whole.rows == 12  # six guided rows
    (taken,) = (b for k, b in tiny._known.row_bytes.items() if k[0] == "denoiser")
    monkeypatch.setattr(execution, "free_bytes", lambda device: 4 * taken / execution.ROOM)
    short = run(tiny)
    assert (short.rows, short.memory_retries) == (4, 0)
    assert (short.images - whole.images).abs().max() < 1e-4


def test_rows_are_measured_and_the_estimate_is_no_less(tiny):
    run(tiny)
    measured = {k[0][0]: b for k, b in tiny._known.row_bytes.items() if k[-1] == "measured"}
    shapes = {"denoiser": (tiny.unet, (4, 8, 8), (16, 32)), "decoder": (tiny.vae, (4, 8, 8))}
    for part, arguments in shapes.items():
        assert 0.5 * measured[part] < count_bytes(*arguments) < 4 * measured[part]


def test_the_peak_of_a_call_is_what_was_alive_at_once():
    x = torch.zeros(1000)
    with PeakBytes() as memory:
        y = x + 1
        y = y + 1  # the first sum is freed after this one is made
        y = y.view(10, 100)[0]  # no memory of its own
        y = y + 1
    assert memory.peak == 8000


def test_free_memory_is_at_most_the_containers(tmp_path, monkeypatch):
    (tmp_path / "memory.max").write_text("3000\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert min(execution._container_rooms(tmp_path)) == 2000
    (tmp_path / "memory.max").write_text("max\n")
    assert min(execution._container_rooms(tmp_path)) == float("inf")
    assert 0 < free_bytes(torch.device("cpu")) < 2**50


# -- exact ---------------------------------------------------------------------------------------


MOST_OTHERS, MOST_ROWS, RATIOS = 7, 9, (0, 0.3, 0.7)


def company(rng, number, ratio):
    """Random prompts with seeds and groups beside the first prompt, which is alone."""
    others = [f"{rng.choice(PROMPTS)} {n}" for n in range(number)]
    groups, rest = [(0,)], list(range(1, number + 1))
    while rest:
        size = rng.randint(1, len(rest))
        groups.append(tuple(rest[:size]))
        rest = rest[size:]
    how = {"groups": groups, "share_ratio": ratio}
    return [PROMPTS[0], *others], [5, *rng.sample(range(100, 1000), number)], how


def first_in_companies(pipe, times=None, **how):
    """The first prompt's picture and latents in random companies and with other `max_rows`.

    Without `times`, in one of every size with every branch point and every `max_rows`.
    """
    rng, seen = random.Random(0), set()
    sizes, rows = range(MOST_OTHERS + 1), range(1, MOST_ROWS + 1)
    cases = list(itertools.product(sizes, RATIOS, rows))
    for number, ratio, most in cases if times is None else rng.sample(cases, times):
        prompts, seeds, arguments = company(rng, number, ratio)
        pipe.max_rows = most
        output = pipe(
            prompts, seeds=seeds, num_inference_steps=3, output_type="np", exact=True,
            **arguments, **how,
        )  # fmt: skip
        seen.add((output.images[0].tobytes(), output.latents[0].numpy().tobytes()))
    return seen


def test_a_picture_is_bit_for_bit_the_same_in_any_company(tiny):
    assert len(first_in_companies(tiny, 25)) == 1


@pytest.mark.parametrize("how", [{"guidance_scale": 1.0}, {"trunk": "prediction"}])
def test_and_without_guidance_and_for_every_trunk(tiny, how):
    assert len(first_in_companies(tiny, 10, **how)) == 1


def test_and_in_a_company_of_every_size(tiny):
    assert len(first_in_companies(tiny)) == 1


@pytest.mark.parametrize("trunk", ["mean", "norm_mean", "medoid", "alternate", "prediction"])
def test_a_group_too_is_the_same_in_any_company(tiny, trunk):
    how = {"num_inference_steps": 5, "output_type": "pt", "trunk": trunk, "exact": True}
    alone = tiny(PROMPTS[:3], groups=[(0, 1, 2)], seeds=[1, 2, 3], **how)
    more = [*PROMPTS[:3], *"bcdefgh"]
    groups = [(3, 4, 5, 6, 7), (0, 1, 2), (8, 9)]
    company = tiny(more, groups=groups, seeds=[1, 2, 3, *range(7, 14)], **how)
    assert torch.equal(alone.images, company.images[:3])


RULE = AdaptiveRule(threshold=0.3, earliest=0.2, latest=0.8, every=2)


@pytest.mark.parametrize(
    "how",
    [
        *({"trunk": trunk} for trunk in ("mean", "alternate", "prediction", "control")),
        {"guidance_interval": (0.2, 0.6)},
        {"adaptive": RULE},
        {"adaptive": RULE, "trunk": "prediction", "guidance_interval": (0.2, 0.6)},
    ],
)
def test_groups_with_negative_prompts_of_their_own_are_as_by_themselves(tiny, how):
    """Bit for bit: beside each other they fill calls that they would not fill alone."""
    how = {"num_inference_steps": 5, "output_type": "latent", "exact": True} | how
    negatives = ["rain", "rain", "rain", "", "snow", "snow"]
    whole = tiny(PROMPTS, groups=GROUPS, seeds=range(6), negative_prompt=negatives, **how)
    for members in GROUPS:
        alone = tiny(
            [PROMPTS[n] for n in members],
            groups=[tuple(range(len(members)))],
            seeds=members,
            negative_prompt=negatives[members[0]],
            **how,
        )
        assert torch.equal(alone.latents, whole.latents[list(members)])
    common = tiny(PROMPTS, groups=GROUPS, seeds=range(6), negative_prompt="rain", **how)
    same = [torch.equal(common.latents[n], whole.latents[n]) for n in range(6)]
    assert same == [True] * 3 + [False] * 3


def test_company_does_change_the_last_bits_without(tiny, monkeypatch):
    """The reason for all this: so it is with plain layers, as on a GPU; packed ones may not."""
    monkeypatch.setattr(packed, "PACKABLE", ())
    arguments = {"seeds": [5], "num_inference_steps": 3, "output_type": "pt"}
    alone = tiny(PROMPTS[:1], **arguments)
    many = tiny(
        PROMPTS * 3, groups=[(n,) for n in range(18)], **arguments | {"seeds": range(5, 23)}
    )
    assert not torch.equal(alone.latents[0], many.latents[0])
    assert (alone.latents[0] - many.latents[0]).abs().max() < 1e-4


def test_exact_pictures_survive_a_store_and_a_lack_of_memory(tiny):
    whole, store = run(tiny, exact=True), StateStore()
    run(tiny, exact=True, share_ratio=0.9, reuse=store)
    tiny.max_rows = 3  # a resumed run may have room for other rows
    resumed = run(tiny, exact=True, reuse=store)
    assert resumed.reused > 0
    assert torch.equal(resumed.images, whole.images)
    for network, rows in ((tiny.unet, 2), (tiny.vae.decoder, 1), (tiny.text_encoder, 1)):
        with room_for(network, rows):
            assert torch.equal(run(tiny, exact=True).images, whole.images)
    tiny._known.same_rows.clear()
    with room_for(tiny.unet, 2, times=1) as failed:
        again = run(tiny, exact=True)
    assert (again.memory_retries, len(failed)) == (1, 1)
    assert torch.equal(again.images, whole.images)


def test_an_exact_run_takes_nothing_from_other_runs(tiny):
    store = StateStore()
    run(tiny, reuse=store)
    assert run(tiny, exact=True, reuse=store).reused == 0


def test_exact_is_said_and_close_to_the_plain_run(tiny):
    plain, exact = run(tiny), run(tiny, exact=True)
    assert (plain.exact, exact.exact) == (False, True)
    assert (plain.images - exact.images).abs().max() < 1e-4


def test_exact_is_the_default_where_it_costs_little(tiny):
    """By precision, and so for the page, the endpoints, filmstrips and grids alike."""
    assert not run(tiny).exact
    tiny.to(torch.bfloat16)
    assert tiny.exact_by_default
    assert run(tiny).exact
    assert not run(tiny, exact=False).exact
    tiny.unet = torch.compile(tiny.unet, backend="eager")
    assert not tiny.exact_by_default


def test_a_size_that_gives_other_rows_is_not_used(tiny):
    run(tiny, exact=True)
    known = {key[-1]: same for key, same in tiny._known.same_rows.items()}
    sizes = []
    tiny.unet.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    run(tiny, exact=True)
    fixed = execution.EXACT_ROWS["cpu"]
    assert set(sizes) <= {fixed, *(size for size, same in known.items() if same)}


@pytest.mark.parametrize("same", [True, False])
def test_a_last_call_is_filled_up_only_where_fewer_rows_come_out_otherwise(tiny, same):
    """With a size of one's own; found on drawn numbers, so that every process finds the same."""
    tiny.max_rows, tiny.exact_rows = 4, 8
    sizes = []

    def forward(sample, t, cond):
        if sample.device.type != "meta":  # on which memory is counted
            sizes.append(len(sample))
        return SimpleNamespace(sample=sample * (1.0 if same else 1 + len(sample) / 1000))

    tiny.unet.forward = forward
    pictures = set()
    for prompts in (PROMPTS, PROMPTS[:5]):  # the last calls hold two rows and one
        sizes.clear()
        output = tiny(
            prompts,
            groups=[(n,) for n in range(len(prompts))],
            num_inference_steps=4,
            guidance_scale=3.0,
            output_type="latent",
            exact=True,
        )
        last = 2 * (len(prompts) - 4)
        # The first step tries it; the others go by what was found.
        assert sizes == [8, 8, last, *([last] if same else [8]), *([8, last if same else 8] * 3)]
        pictures.add(output.latents[0].numpy().tobytes())
    assert len(pictures) == 1


def test_texts_are_encoded_in_full_batches_where_the_size_is_fixed(tiny):
    tiny.max_rows, tiny.exact_rows = 4, 8
    sizes = []
    tiny.text_encoder.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    six = run(tiny, exact=True, output_type="latent")
    assert sizes == [4, 4, 1]  # the last is the negative prompt
    one = tiny(PROMPTS[3:4], seeds=[3], num_inference_steps=4, guidance_scale=3.0, exact=True,
               output_type="latent")  # fmt: skip
    assert torch.equal(six.latents[3], one.latents[0])


def test_the_structure_of_a_network_changes_with_its_layers(tiny):
    before = structure(tiny.unet)
    assert structure(tiny.unet) == before
    tiny.unet.to(torch.bfloat16)
    assert structure(tiny.unet) != before


def processor(kind, **how):
    return lambda p: p.unet.set_attn_processor(kind(**how))


@pytest.mark.parametrize(
    "change",
    [
        processor(AttnProcessor),
        processor(SlicedAttnProcessor, slice_size=1),
        lambda p: p.fuse_qkv_projections(),
        lambda p: p.enable_freeu(0.5, 0.2, 1.5, 1.6),
        lambda p: p.unet.to(memory_format=torch.channels_last),
        lambda p: setattr(p.unet, "forward", partial(type(p.unet).forward, p.unet)),
        lambda p: p.unet.mid_block.compile(backend="eager"),
        lambda p: p.unet.register_forward_hook(lambda module, inputs, output: output),
        lambda p: torch.backends.mkldnn.set_flags(False),
        lambda p: torch.set_num_threads(2),
    ],
    ids=["plain attention", "slices", "fused", "FreeU", "layout", "forward", "compiled", "hook",
         "oneDNN", "threads"],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore")
def test_what_may_change_kernels_has_its_sizes_tried_anew(tiny, change):
    how, flags = {"exact": True, "num_inference_steps": 1}, torch.backends.mkldnn.set_flags(True)
    run(tiny, **how)
    before = set(tiny._known.same_rows)
    run(tiny, **how)
    assert set(tiny._known.same_rows) == before  # what has been found out is not tried again
    try:
        change(tiny)
        run(tiny, **how)
    finally:
        torch.backends.mkldnn.set_flags(*flags)
        torch.set_num_threads(1)
    assert set(tiny._known.same_rows) > before


def test_a_size_that_was_exact_with_other_attention_is_not_taken_on_trust(tiny):
    """A processor that gives other rows in larger batches, as some kernels do."""

    class Mixing(AttnProcessor2_0):
        def __call__(self, attn, hidden_states, *args, **kwargs):
            output = super().__call__(attn, hidden_states, *args, **kwargs)
            return output * (1 + 1e-4 * len(hidden_states))

    run(tiny, exact=True)
    tiny.unet.set_attn_processor(Mixing())
    alone = tiny(PROMPTS[:1], num_inference_steps=4, output_type="pt", exact=True, seeds=[0])
    how = {"groups": [(n,) for n in range(len(PROMPTS))], "guidance_scale": None}
    assert torch.equal(run(tiny, exact=True, **how).latents[:1], alone.latents)


def test_a_hook_that_is_made_anew_for_every_run_is_one_hook(tiny):
    for _ in range(3):
        hook = tiny.unet.register_forward_pre_hook(lambda module, inputs: None)
        run(tiny, exact=True, num_inference_steps=1)
        hook.remove()
        known = getattr(tiny, "known_sizes", len(tiny._known.same_rows))
        assert len(tiny._known.same_rows) == known
        tiny.known_sizes = known


# -- faults leave nothing ------------------------------------------------------------------------


def fail_at(network, call, change):
    """Changes one output of a network."""
    calls = itertools.count(1)  # a list would belong to what the network computes, by value

    def hook(module, args, output):
        if next(calls) == call:
            output.sample = change(output.sample)
        return output

    return network.register_forward_hook(hook)


@pytest.mark.parametrize("call", [1, 2, 4])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_failed_run_leaves_nothing_behind(tiny, call, value):
    whole, store = run(tiny), StateStore()
    hook = fail_at(tiny.unet, call, lambda sample: sample * value)
    with pytest.raises(FloatingPointError, match="denoiser produced a value that is not a number"):
        run(tiny, reuse=store)
    hook.remove()
    assert len(store) == 0
    again = run(tiny, reuse=store)
    assert again.reused == 0
    assert torch.equal(again.images, whole.images)


def test_a_wrong_but_finite_state_of_a_failed_run_is_not_served(tiny):
    whole, store = run(tiny, num_inference_steps=6), StateStore()
    wrong = fail_at(tiny.unet, 2, lambda sample: sample + 3)
    late = fail_at(tiny.unet, 5, lambda sample: sample * float("nan"))
    with pytest.raises(FloatingPointError):
        run(tiny, reuse=store, num_inference_steps=6)
    wrong.remove()
    late.remove()
    again = run(tiny, reuse=store, num_inference_steps=6)
    assert torch.equal(again.images, whole.images)


def test_a_stopped_run_leaves_its_states(tiny):
    whole, store = run(tiny), StateStore()
    stream = tiny.stream(
        PROMPTS, groups=GROUPS, num_inference_steps=4, guidance_scale=3.0, reuse=store
    )
    next(stream), next(stream)
    assert len(store) == 0
    stream.close()
    assert len(store) == 2
    again = run(tiny, reuse=store)
    assert again.reused > 0
    assert torch.equal(again.images, whole.images)


def test_a_stopped_run_leaves_no_state_that_is_not_finite(tiny):
    store = StateStore()
    hook = fail_at(tiny.unet, 2, lambda sample: sample * float("nan"))
    stream = tiny.stream(
        PROMPTS, groups=GROUPS, num_inference_steps=4, guidance_scale=3.0, reuse=store
    )
    for _ in range(3):
        next(stream)
    stream.close()
    hook.remove()
    assert len(store) == 1  # the step before


def test_a_run_that_ran_out_of_memory_leaves_only_what_others_would_compute(tiny):
    store, whole = StateStore(), run(tiny)
    with room_for(tiny.unet, 4):
        run(tiny, reuse=store)
    assert torch.equal(run(tiny, reuse=store).images, whole.images)


def without_end(tiny):
    """A solver of diffusers that divides by zero in its last step."""
    config = tiny.scheduler.config
    tiny.scheduler = diffusers.UniPCMultistepScheduler.from_config(config, solver_type="bh1")


def broken_words(tiny):
    torch.nn.init.constant_(tiny.text_encoder.get_input_embeddings().weight, float("nan"))


@pytest.mark.parametrize(
    ("fault", "part"),
    [(without_end, "scheduler UniPCMultistepScheduler"), (broken_words, "text encoder")],
)
def test_the_part_that_gave_the_value_is_named(tiny, fault, part):
    fault(tiny)
    words = f"The {part} produced a value that is not a number"
    with pytest.raises(FloatingPointError, match=words):
        run(tiny)
    steps = tiny.stream(PROMPTS, groups=GROUPS, num_inference_steps=4)
    with pytest.raises(FloatingPointError, match=words):
        list(map(methodcaller("previews"), steps))


def test_an_error_in_the_decoder_is_said_to_be_the_decoders(tiny):
    torch.nn.init.constant_(tiny.vae.decoder.conv_out.bias, float("nan"))
    store = StateStore()
    with pytest.raises(FloatingPointError, match="decoder produced a value that is not a number"):
        run(tiny, reuse=store)
    assert len(store) == 0
    assert run(tiny, output_type="latent").images.shape == (6, 4, 8, 8)  # no decoder


# -- the built-in model --------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["float32", "auto"])
def builtin(request):
    from sage.jobs.models import builtin_model, load_model

    return load_model(builtin_model(), "cpu", request.param).pipe


def test_the_built_in_model_is_exact_in_company(builtin):
    how = {"num_inference_steps": 4, "exact": True, "output_type": "np"}
    prompts = ["a fox in the snow", "a rabbit in the snow", "an owl at night", "a pig", "a cat"]
    alone = builtin(prompts[:1], seeds=[3], **how)
    for number in (2, 5):
        more = builtin(
            prompts[:number],
            seeds=range(3, 3 + number),
            groups=[(n,) for n in range(number)],
            **how,
        )
        assert (more.images[0] == alone.images[0]).all()
