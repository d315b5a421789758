"""Every argument of a run is checked before anything is computed, in one sentence."""

import copy
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch

from sage.core.adaptive import AdaptiveRule
from sage.core.plan import independent_plan, shared_plan
from sage.core.settings import Sampling
from sage.sd.pipeline import SagePipeline
from sage.sd.schedulers import make_scheduler
from sage.sd.store import StateStore
from tests.conftest import build_tiny_pipeline

PROMPTS = ["a fox", "a dog", "a pizza"]
NAN, INFINITY = float("nan"), float("inf")


@pytest.fixture(scope="module")
def pipe():
    return SagePipeline.from_pipe(build_tiny_pipeline())


@pytest.fixture
def idle(pipe, monkeypatch):
    """A pipeline whose networks must not be called."""
    for name in ("unet", "text_encoder", "vae"):
        monkeypatch.setattr(
            getattr(pipe, name), "forward", lambda *a, **k: pytest.fail("something was computed")
        )
    return pipe


WRONG = [
    ({"prompts": None}, "prompts is 'None'"),
    ({"prompts": []}, "at least one text"),
    ({"prompts": 3}, "at least one text"),
    ({"prompts": [1, 2]}, "at least one text"),
    ({"prompts": ["a", None]}, r"prompts\[1\] is a NoneType"),
    ({"prompts": b"a fox"}, "at least one text"),
    ({"prompts": {"a": "b"}}, "at least one text"),
    ({"prompts": {"a", "b"}}, "at least one text"),
    ({"prompts": ["\ud800"]}, "half a character"),
    *[({"seeds": seeds}, "seeds") for seeds in (7, "123", [1], [1, 2], [1, 2, 3, 4], {1, 2, 3})],
    ({"seeds": [1, 2, -1]}, r"seeds\[2\] is -1"),
    ({"seeds": [1.0, 2, 3]}, r"seeds\[0\] is '1.0'"),
    ({"seeds": [True, 2, 3]}, r"seeds\[0\] is 'True'"),
    ({"seeds": [np.True_, 2, 3]}, r"seeds\[0\]"),
    ({"seeds": ["1", 2, 3]}, r"seeds\[0\] is '1'"),
    ({"seeds": [2**63, 2, 3]}, r"seeds\[0\] is 9223372036854775808"),
    ({"seeds": [None, 2, 3]}, r"seeds\[0\] is 'None'"),
    ({"seed": -1}, "The seed is -1"),
    *[({"num_inference_steps": v}, "steps is") for v in (0, 1.5, True, "10", NAN, INFINITY, -3)],
    *[({"guidance_scale": v}, "guidance scale is") for v in (NAN, INFINITY, -1, "7", True, [7.5])],
    *[({"share_ratio": v}, "share_ratio") for v in (2, -0.1, NAN, "half", True)],
    *[({"fresh_noise": v}, "fresh_noise") for v in (2, -0.1, NAN, "half")],
    ({"trunk": "median"}, "trunk"),
    ({"trunk": 3}, "trunk"),
    ({"tau_min": 0.9, "tau_max": 0.1}, "lowest similarity"),
    ({"max_group_size": 0}, "largest group is 0"),
    ({"steps": 4, "num_inference_steps": 4}, "given twice"),
    ({"stepz": 4}, "no setting 'stepz'"),
    ({"groups": [(0, 1)]}, "plan has 2 prompts"),
    ({"groups": [(0, 1), (1, 2)]}, "each of 0 to 2 once"),
    ({"groups": [(0, 1, 2, 3)]}, "is 3; allowed are 0 to 2"),
    ({"groups": [(0, 1), (2, -1)]}, "is -1; allowed are 0 to 2"),
    ({"groups": [(0, 1.5), (2,)]}, "a whole number is needed"),
    ({"groups": [0, 1, 2]}, "a group in groups is '0'"),
    ({"groups": np.array(3)}, "groups is '3'"),
    ({"groups": [torch.tensor(0), (1, 2)]}, "a group in groups is 'tensor"),
    ({"prompts": np.array("a fox")}, "at least one text"),
    ({"prompts": torch.tensor(3)}, "at least one text"),
    ({"prompt": "a fox"}, "both were given"),
    ({"seeds": np.array(3)}, "give one for each prompt"),
    ({"guidance_interval": (0, 10**400)}, "guidance_interval is"),
    ({"guidance_interval": (Decimal("sNaN"), 1)}, "guidance_interval is"),
    *[({"guidance_scale": Decimal(v)}, "guidance scale is") for v in ("NaN", "sNaN", "Infinity")],
    ({"guidance_scale": torch.tensor([3.0])}, "guidance scale is"),
    ({"guidance_scale": torch.tensor(3.0, device="meta")}, "guidance scale is"),
    ({"guidance_scale": 3 + 0j}, "guidance scale is"),
    ({"eta": np.float32(0.5)}, "eta is not supported"),
    ({"callback_on_step_end_tensor_inputs": ["prompt_embeds"]}, "loop over `stream`"),
    ({"negative_prompt": {"rain": 1}}, "negative_prompt must be one text"),
    *[
        ({"timesteps": v}, "need whole numbers from 999 to 0, descending")
        for v in (5, "ab", [True, False], np.array(3), {901: 1}, [901.0, 1.0], [1000], [5, 5], [])
    ],
    *[
        ({"plan": independent_plan(3, 4), name: 1.0}, f"plan says what {name} would")
        for name in ("share_ratio", "budget")
    ],
    ({"adaptive": AdaptiveRule(), "budget": 3.0}, "adaptive says what budget would"),
    ({"timesteps": [900, 50], "budget": 3.0}, "timesteps says what budget would"),
    ({"timesteps": [900, 50], "spacing": "karras"}, "timesteps says what spacing would"),
    ({"timesteps": [9, 5], "steps": 3, "groups": [(0, 1, 2)]}, "2 timesteps were given for 3"),
    ({"start": 3}, "start is a int; it must be a State"),
    ({"groups": [(0, 1, 2), ()]}, "each of 0 to 2 once"),
    ({"groups": [[(0, 1)], (2,)]}, "a whole number is needed"),
    ({"groups": "012"}, "each of 0 to 2 once"),
    ({"groups": 3}, "each of 0 to 2 once"),
    ({"plan": "shared"}, "must be a Plan"),
    ({"plan": independent_plan(2, 4)}, "plan has 2 prompts, but 3"),
    ({"plan": independent_plan(3, 4), "groups": [(0, 1, 2)]}, "excludes groups"),
    ({"plan": independent_plan(3, 4), "num_inference_steps": 5}, "4 calls .* 5 steps make 5"),
    ({"output_type": "jpg"}, "output_type is 'jpg'"),
    ({"output_type": None}, "output_type is 'None'"),
    ({"output_type": ["pil"]}, "output_type"),
    *[
        ({"guidance_interval": v}, "guidance_interval is")
        for v in (0.5, (0.5,), (0.6, 0.2), (0, 2), (NAN, 1), ("0", "1"), None, (0, 0.5, 1))
    ],
    ({"adaptive": True}, "must be an AdaptiveRule"),
    ({"adaptive": AdaptiveRule(), "plan": independent_plan(3, 4)}, "excludes plan and reuse"),
    ({"reuse": {}}, "must be a StateStore"),
    ({"exact": "yes"}, "exact is 'yes'"),
    ({"negative_prompt": ["rain"]}, "negative_prompt must be one text"),
    (
        {"negative_prompt": ["rain", "snow", "rain"], "groups": [(0, 1, 2)]},
        "negative_prompt differs among prompts that share, 0, 1, 2; a trunk",
    ),
    ({"negative_prompt": 3}, "negative_prompt must be one text"),
    ({"height": 20}, "multiple of 8"),
    ({"width": 0}, "width is 0"),
    ({"height": "24"}, "a whole number is needed"),
    ({"height": 10**9}, "allowed are 8 to 8192"),
    ({"clip_skip": -1}, "clip_skip is -1"),
    ({"clip_skip": 2}, "clip_skip is 2; allowed are 0 to 1"),
    ({"clip_skip": 0.5}, "a whole number is needed"),
    ({"sampling": {"steps": 4}}, "must be a Sampling"),
    ({"sampling": Sampling(trained=True)}, "trained is a setting of a whole job"),
    ({"trained": True}, "trained is a setting of a whole job"),
    ({"sharing": "tree"}, "sharing is a setting of a whole job"),
    ({"scheduler": "euler"}, "set pipe.scheduler"),
    ({"num_images_per_prompt": 2}, "num_images_per_prompt is not supported"),
    ({"generator": torch.Generator()}, "give `seeds`"),
    ({"latents": torch.zeros(3, 4, 8, 8)}, "latents is not supported"),
    ({"prompt_embeds": torch.zeros(3, 16, 32)}, "prompt_embeds is not supported"),
    ({"negative_prompt_embeds": torch.zeros(1, 16, 32)}, "not supported"),
    ({"ip_adapter_image": object()}, "IP-Adapters"),
    ({"eta": 0.5}, "eta is not supported"),
    ({"guidance_rescale": 0.7}, "guidance_rescale is not supported"),
    ({"cross_attention_kwargs": {"scale": 0.5}}, "set_adapters"),
    ({"callback_on_step_end": print}, "loop over `stream`"),
    ({"callback": print}, "loop over `stream`"),
    ({"return_dict": False}, "always a SageOutput"),
    ({"timesteps": [1, 999]}, "timesteps is 1, 999; need whole numbers"),
    ({"sigmas": [1.0]}, "sigmas is not supported"),
]


@pytest.mark.parametrize(("given", "words"), WRONG, ids=[" ".join(given) for given, _ in WRONG])
def test_wrong_arguments_are_refused_before_anything_runs(idle, given, words):
    for call in (idle, idle.stream):
        with pytest.raises(ValueError, match=words) as error:
            call(**({"prompts": PROMPTS} | given))
        assert "\n" not in str(error.value)


def test_fresh_noise_needs_a_table(idle, monkeypatch):
    monkeypatch.setattr(idle, "scheduler", make_scheduler("unipc", like=idle.scheduler))
    with pytest.raises(ValueError, match="fresh_noise does not work with UniPC"):
        idle.stream(PROMPTS, fresh_noise=0.5, groups=[(0, 1, 2)])


def test_information_needs_a_table(idle, monkeypatch):
    monkeypatch.setattr(idle, "scheduler", make_scheduler("heun", like=idle.scheduler))
    with pytest.raises(ValueError, match="information does not work with HeunDiscreteScheduler"):
        idle.stream(PROMPTS, adaptive=AdaptiveRule(compare="information"), groups=[(0, 1, 2)])


PLAN = shared_plan([(0, 1), (2,)], 4, 3)


@pytest.fixture(scope="module")
def begun(pipe):
    """The state of a run after two steps."""
    step, begun = (item for _, item in zip(range(2), pipe.stream(PROMPTS, plan=PLAN), strict=False))
    assert step.state.rows == begun.state.rows
    return begun.state


WRONG_STATES = {
    "other rows": (lambda s: s, {"plan": shared_plan([(0, 2), (1,)], 4, 3)}, "with other rows"),
    "another size": (lambda s: s, {"height": 24}, r"shape \(2, 4, 8, 8\); need \(2, 4, 12, 8\)"),
    "fewer rows": (lambda s: replace(s, denoised=s.denoised[:1]), {}, r"shape \(1, 4, 8, 8\)"),
    "a solver's memory": (lambda s: replace(s, memory=(s.x,)), {}, "from another scheduler"),
    "no memory of a rule": (lambda s: s, {"trunk": "control_once"}, "another kind than control_"),
    "no numbers": (
        lambda s: replace(s, x=s.x * float("nan")),
        {},
        "start holds a value that is not a number",
    ),
    "before the first step": (lambda s: replace(s, step=-1), {}, "start is after step 0 of 4"),
}


@pytest.mark.parametrize("name", WRONG_STATES)
def test_a_state_of_another_run_is_refused(begun, idle, name):
    change, how, words = WRONG_STATES[name]
    with pytest.raises(ValueError, match=words):
        idle.stream(PROMPTS, **({"plan": PLAN, "start": change(begun)} | how))


def test_more_steps_than_the_model_has_levels_are_refused(idle, monkeypatch):
    few = type(idle.scheduler).from_config(idle.scheduler.config, num_train_timesteps=50)
    monkeypatch.setattr(idle, "scheduler", few)
    with pytest.raises(ValueError, match=r"steps is 60; .* 50"):
        idle.stream(PROMPTS, steps=60, groups=[(0, 1, 2)])


OTHER_CALLS = {
    "rows": lambda p: (setattr(p, "max_rows", 0), p("a fox")),
    "rows of a half": lambda p: (setattr(p, "max_rows", 1.5), p("a fox")),
    "exact rows": lambda p: (setattr(p, "exact_rows", -1), p("a fox")),
    "size of a group": lambda p: p.group(PROMPTS, max_group_size=2.5),
    "bound": lambda p: p.group(PROMPTS, tau_min="0.5"),
    "plan of a number": lambda p: p.plan(3),
    "plan of numbers": lambda p: p.plan([0, 1]),
    "plan of nothing": lambda p: p.plan([]),
    "plan with a gap": lambda p: p.plan([(0, 2)]),
    "plan with a copy": lambda p: p.plan([(0, 1), (1,)]),
    "expected of nothing": lambda p: p.expected(None),
    "expected of latents": lambda p: p.expected(torch.zeros(1, 4, 8, 8)),
    "plan's steps": lambda p: p.plan([(0, 1)], 2.5),
    "plan's ratio": lambda p: p.plan([(0, 1)], 4, "half"),
    "calls": lambda p: p.denoiser_calls(NAN),
    "cost of nothing": lambda p: p.cost(None),
    "cost's guidance": lambda p: p.cost(independent_plan(1, 2), NAN),
    "cost's trunk": lambda p: p.cost(independent_plan(1, 2), trunk="median"),
    "cost's interval": lambda p: p.cost(independent_plan(1, 2), guidance_interval="ab"),
    "seed of noise": lambda p: p.starting_noise([1.5]),
    "no seeds": lambda p: p.starting_noise([]),
    "seeds' number": lambda p: p.starting_noise(5),
    "nothing to encode": lambda p: p.encode([]),
    "layers to skip": lambda p: p.encode(["a fox"], clip_skip=9),
    "a preview of nothing": lambda p: p.preview(None),
    "a preview of three dimensions": lambda p: p.preview(torch.zeros(4, 8, 8)),
    "rows to warm": lambda p: p.warm_up("x"),
    "adapter's number": lambda p: p.use_lora(5),
    "adapter without a name": lambda p: p.use_lora(""),
    "adapter as weights": lambda p: p.use_lora({"unet.x": torch.ones(1)}),
    "nothing to merge": lambda p: p.merge_lora(None),
    "room of a store": lambda p: StateStore(-1),
    "room of a store in words": lambda p: StateStore("much"),
    "no room": lambda p: StateStore(NAN),
}


@pytest.mark.parametrize("name", OTHER_CALLS)
def test_other_calls_refuse_in_one_sentence_too(idle, name):
    with pytest.raises(ValueError, match=r"\w{3}") as error:
        OTHER_CALLS[name](copy.copy(idle))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("wrong", [0.4, "0.4", [2.0], [None]])
def test_a_filmstrip_checks_its_ratios(idle, wrong):
    with pytest.raises(ValueError, match="share_ratio"):
        idle.filmstrip(PROMPTS, wrong)
    with pytest.raises(ValueError, match="share_ratio is not for a filmstrip"):
        idle.filmstrip(PROMPTS, [0.2], share_ratio=0.4)


HOW = {"steps": 2, "output_type": "latent"}


def same(pipe, prompts, wanted, **how):
    return torch.equal(pipe(prompts, **(HOW | how)).latents, wanted)


@pytest.mark.slow
def test_one_text_is_one_prompt(pipe):
    output = pipe("a fox", steps=2)
    assert len(output.images) == 1
    assert torch.equal(output.latents, pipe(["a fox"], **HOW).latents)
    assert torch.equal(output.latents, pipe(prompt="a fox", **HOW).latents)
    assert pipe.embed("a fox").shape[0] == 1


@pytest.mark.slow
def test_other_kinds_of_the_same_argument_are_the_same(pipe):
    wanted = pipe(PROMPTS, seeds=[1, 2, 3], groups=[(0, 1), (2,)], **HOW).latents
    groups, seeds = [(0, 1), (2,)], [1, 2, 3]
    assert same(pipe, tuple(PROMPTS), wanted, seeds=np.array(seeds), groups=groups)
    assert same(pipe, np.array(PROMPTS), wanted, seeds=torch.tensor(seeds), groups=groups)
    assert same(
        pipe, (p for p in PROMPTS), wanted, seeds=range(1, 4), groups=np.array(groups, object)
    )
    assert same(pipe, PROMPTS, wanted, seed=1, groups=iter([[1, 0], [2]]))
    assert same(pipe, PROMPTS, wanted, seeds=seeds, groups=groups, steps=np.int64(2))
    assert same(pipe, PROMPTS, wanted, seeds=seeds, groups=groups, guidance_scale=np.float64(7.5))
    for negative in (None, "", ["", "", ""]):
        assert same(pipe, PROMPTS, wanted, seeds=seeds, groups=groups, negative_prompt=negative)
    for negative in (np.array([""] * 3), (t for t in [""] * 3)):
        assert same(pipe, PROMPTS, wanted, seeds=seeds, groups=groups, negative_prompt=negative)
    neutral = {"eta": 0.0, "num_images_per_prompt": 1, "return_dict": True, "generator": None}
    assert same(pipe, PROMPTS, wanted, seeds=seeds, groups=groups, **neutral)
    assert same(pipe, PROMPTS, wanted, seeds=seeds, plan=shared_plan(groups, 2, 1), steps=None,
                budget=0, eta=0.0)  # fmt: skip
    neutral = {"eta": np.float32(0), "num_images_per_prompt": np.int64(1), "guidance_rescale": -0.0}
    neutral |= {"callback_on_step_end_tensor_inputs": ("latents",), "return_dict": np.True_}
    assert same(pipe, PROMPTS, wanted, seeds=seeds, groups=groups, **neutral)


@pytest.mark.parametrize("kind", [Fraction, Decimal, np.float16, np.array, torch.tensor])
def test_numbers_of_any_library_are_numbers(pipe, kind):
    wanted = pipe(PROMPTS, groups=[(0, 1), (2,)], guidance_scale=2.5, steps=2, seed=3)
    how = {"guidance_scale": kind(2.5), "steps": kind(2), "seed": kind(3), "height": None}
    interval = (kind(0), kind(1))
    found = pipe(PROMPTS, groups=[(0, 1), (2,)], guidance_interval=interval, **how)
    assert torch.equal(found.latents, wanted.latents)
    assert found.seeds == (3, 4, 5)


def test_a_truth_value_is_no_number_in_any_library(pipe):
    for value in (np.True_, torch.tensor(True), np.array(True)):
        with pytest.raises(ValueError, match="a number is needed"):
            pipe("a fox", steps=value)


def test_settings_as_an_object_and_by_keyword_are_the_same(pipe):
    wanted = pipe(PROMPTS, steps=3, guidance_scale=2.0, seed=5, trunk="medoid", tau_min=-1, **{})
    settings = Sampling(steps=3, guidance_scale=2.0, seed=5, trunk="medoid", tau_min=-1)
    assert torch.equal(pipe(PROMPTS, settings).latents, wanted.latents)
    changed = pipe(
        PROMPTS,
        Sampling(steps=9, seed=5, tau_min=-1),
        num_inference_steps=3,
        guidance_scale=2.0,
        trunk="medoid",
    )
    assert torch.equal(changed.latents, wanted.latents)
    assert wanted.seeds == (5, 6, 7)


def test_the_page_s_limits_do_not_bind_the_library(pipe):
    assert pipe("a fox", steps=1, guidance_scale=0.5).cost.evaluations == 1
    assert len(pipe(["a fox"] * 20, steps=1, share_ratio=1, groups=[range(20)]).images) == 20
    assert pipe("a fox", steps=1, seeds=[2**63 - 1]).seeds == (2**63 - 1,)
