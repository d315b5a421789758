"""Cells: names that change with every input, files in one piece, fast copies that agree."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler

from sage.core.adaptive import AdaptiveRule
from sage.core.plan import shared_plan
from sage.core.settings import Sampling
from sage.jobs.models import builtin_model
from sage.sd.pipeline import SagePipeline
from sage.sd.store import StateStore
from sage.studies.engine.cells import (
    Cell,
    Recipe,
    Renderer,
    Store,
    families,
    merged_weights,
    model_digest,
    planned_evaluations,
)
from sage.studies.engine.prompts import PromptSet, listed_prompts
from sage.training.data import weights_digest

TEXTS = ["a fox", "a dog", "a cat", "a bus", "a tree"]
GROUPS = [(0, 1, 2), (3, 4)]


# Names of cells as the first release made them: rendered pictures are found under these.
NAMES = {
    "independent": "a387c53c53dabccd463b46b573370490",
    "shared": "0915c384305bd5e3fcbc5a5ae48c9598",
    "solver": "7bad14129b0fe56eb9e888c327abb48f",
    "turns": "6b0c38f3f441a9febf0443c7db40e258",
    "fresh": "de4a1a28841efa59bdb726bb4a5accf6",
    "interval": "2cdcc18ccd1bfc351a334844094d2170",
    "both": "d722b3c69acbc8a0d1e23792afb31696",
    "probing": "9b77c86581141a5c954909394036d3ce",
    "plan": "a1ef8cbe700586249d27a1a209828a45",
    "twin": "03016a9018239464dfc8d23f748e7fab",
}


def recipe(share_ratio=0.5, steps=4, guidance_scale=2.0, adapter=None, **settings):
    return Recipe(
        Sampling(share_ratio=share_ratio, steps=steps, guidance_scale=guidance_scale, **settings),
        adapter,
    )


@pytest.fixture
def prompts(tiny):
    return listed_prompts(tiny, "five", TEXTS, GROUPS)


def test_names_of_cells_are_those_of_the_first_release():
    prompts = PromptSet("five", tuple(TEXTS), tuple(GROUPS), (0.5, 0.5))
    middle = (0.0, 0.6)
    usual = recipe(0.0, 30)
    recipes = {
        "independent": usual,
        "shared": recipe(0.4, 30),
        "solver": recipe(0.4, 15, scheduler="dpm++2m"),
        "turns": recipe(0.4, 30, trunk="alternate"),
        "fresh": recipe(0.3, 30, fresh_noise=0.25),
        "interval": replace(usual, guidance_interval=middle),
        "both": replace(
            recipe(0.4, 15, scheduler="dpm++2m", trunk="alternate"), guidance_interval=middle
        ),
        "probing": replace(usual, adaptive=AdaptiveRule(0.8, 0.1, 0.6, every=3)),
        "plan": replace(recipe(0.0, 4), plan=shared_plan(GROUPS, 4, [1, 2])),
        "twin": replace(usual, common_noise=True),
    }
    assert {name: Cell(r, prompts, 1).key("model", "bf16") for name, r in recipes.items()} == NAMES


def test_a_name_changes_with_everything_the_pictures_depend_on(tiny, prompts, adapter_folder):
    base = recipe()
    other = listed_prompts(tiny, "five", [*TEXTS[:4], "a hat"], GROUPS)
    regrouped = listed_prompts(tiny, "five", TEXTS, [(0, 1), (2, 3, 4)])
    cells = [
        Cell(base, prompts, 0),
        Cell(base, prompts, 1),
        Cell(base, other, 0),
        Cell(base, regrouped, 0),
        *(
            Cell(changed, prompts, 0)
            for changed in (
                recipe(share_ratio=0.25),
                recipe(steps=5),
                recipe(guidance_scale=3.0),
                recipe(adapter=adapter_folder),
                recipe(scheduler="euler"),
                recipe(trunk="medoid"),
                replace(base, plan=tiny.plan(prompts.groups, 4, 0.75)),
            )
        ),
    ]
    names = [cell.key("model", "fp32") for cell in cells]
    names += [cells[0].key("other", "fp32"), cells[0].key("model", "bf16")]
    assert len(set(names)) == len(names)
    again = listed_prompts(tiny, "another title", TEXTS, GROUPS)
    assert Cell(base, again, 0).key("model", "fp32") == names[0]


def more_words(pipe):
    pipe.tokenizer.add_tokens(["fox"])


@pytest.mark.parametrize(
    "change",
    [
        lambda p: setattr(p, "scheduler", DDIMScheduler.from_config(p.scheduler.config, eta=0)),
        lambda p: p.scheduler.register_to_config(beta_end=0.02),
        lambda p: p.scheduler.register_to_config(timestep_spacing="linspace"),
        lambda p: setattr(p, "scheduler", EulerDiscreteScheduler.from_config(p.scheduler.config)),
        more_words,
        lambda p: setattr(p.tokenizer, "model_max_length", 7),
        lambda p: p.vae.register_to_config(scaling_factor=0.5),
        lambda p: p.unet.register_to_config(flip_sin_to_cos=False),
        lambda p: setattr(p.text_encoder.config, "hidden_act", "relu"),
        lambda p: p.unet.conv_in.weight.data.mul_(2),
    ],
    ids=["same", "betas", "spacing", "solver", "words", "length", "scale", "unet", "act", "rest"],
)
def test_cells_of_another_model_have_another_name(tiny, change, request):
    before = model_digest(tiny)
    change(tiny)
    same = request.node.callspec.id == "same"  # a scheduler made anew with the same settings
    assert (model_digest(tiny) == before) is same


@pytest.mark.slow
def test_cells_go_by_the_built_in_models_weights_and_its_configuration():
    pipe = SagePipeline.from_pretrained(builtin_model().source)
    before = model_digest(pipe)
    assert before.startswith(weights_digest(pipe.unet, pipe.vae, pipe.text_encoder))
    pipe.scheduler.register_to_config(timestep_spacing="linspace")
    assert model_digest(pipe) != before


def test_independent_pictures_do_not_depend_on_groups(tiny, prompts):
    regrouped = listed_prompts(tiny, "five", TEXTS, [(0, 1), (2, 3, 4)])
    names = {Cell(recipe(0.0), some, 0).key("m", "fp32") for some in (prompts, regrouped)}
    assert len(names) == 1


def test_an_adapter_goes_by_its_content(prompts, adapter_folder, tmp_path):
    import shutil

    copied = shutil.copytree(adapter_folder, tmp_path / "copy")
    names = {
        Cell(recipe(adapter=path), prompts, 0).key("m", "fp32") for path in (adapter_folder, copied)
    }
    assert len(names) == 1
    with pytest.raises(ValueError, match="no adapter at"):
        Cell(recipe(adapter=tmp_path / "none"), prompts, 0).key("m", "fp32")


def test_a_damaged_file_is_made_again(tmp_path):
    store = Store(tmp_path)
    store.put("abcd", x=np.arange(3))
    assert store.get("abcd")["x"].tolist() == [0, 1, 2]
    next(tmp_path.rglob("*.npz")).write_bytes(b"half")
    assert store.get_or_make("abcd", lambda: {"x": np.arange(4)})["x"].tolist() == [0, 1, 2, 3]
    assert len(store.get("abcd")["x"]) == 4
    assert not list(tmp_path.rglob("*.new"))


@pytest.mark.slow
def test_bulk_rendering_in_float32_is_the_pipeline(tiny, prompts):
    cell = Cell(recipe(), prompts, 3)
    made = Renderer(tiny, "fp32").render(cell)
    output = tiny(
        prompts.texts,
        groups=prompts.groups,
        share_ratio=0.5,
        num_inference_steps=4,
        guidance_scale=2.0,
        seeds=cell.noise_seeds,
    )
    theirs = np.stack([np.asarray(image) for image in output.images])
    assert np.array_equal(made["pictures"], theirs)
    assert int(made["evaluations"]) == output.cost.evaluations
    assert float(made["flops"]) == output.cost.flops.total


@pytest.mark.slow
def test_half_precision_is_near_and_the_model_is_untouched(tiny, prompts):
    before = {name: value.clone() for name, value in tiny.unet.state_dict().items()}
    cell = Cell(recipe(), prompts, 0)
    exact, fast = (Renderer(tiny, p).render(cell)["pictures"] for p in ("fp32", "bf16"))
    assert 0 < np.abs(exact.astype(int) - fast).mean() < 4
    assert tiny.unet.dtype == torch.float32
    assert all(torch.equal(before[k], v) for k, v in tiny.unet.state_dict().items())
    assert "forward" not in vars(tiny.unet)


@pytest.mark.slow
def test_a_merged_adapter_is_the_adapter(tiny, prompts, adapter_folder):
    cell = Cell(recipe(adapter=adapter_folder), prompts, 0)
    renderer = Renderer(tiny, "fp32")
    made = renderer.render(cell)["pictures"]
    bare = Cell(recipe(), prompts, 0)
    without = renderer.render(bare)["pictures"]  # the next setting has no adapter: it is gone
    assert np.array_equal(without, Renderer(tiny, "fp32").render(bare)["pictures"])
    assert np.abs(made.astype(int) - without).max() > 3
    tiny.use_lora(adapter_folder)
    output = tiny(
        prompts.texts,
        groups=prompts.groups,
        share_ratio=0.5,
        num_inference_steps=4,
        guidance_scale=2.0,
        seeds=cell.noise_seeds,
    )
    tiny.use_lora(None)
    pictures = np.stack([np.asarray(image) for image in output.images])
    assert np.abs(made.astype(int) - pictures).max() <= 1


def test_merging_leaves_no_trace(tiny, adapter_folder):
    names = set(tiny.unet.state_dict())
    assert set(merged_weights(tiny, adapter_folder)) == names == set(tiny.unet.state_dict())


@pytest.mark.slow
def test_families_share_a_trunk_and_cost_it_once(tiny, prompts):
    cells = [Cell(recipe(ratio), prompts, s) for s in (0, 1) for ratio in (0.25, 0.75)]
    found = list(families(cells))
    assert [[c.recipe.sampling.share_ratio for c in some] for some in found] == [[0.75, 0.25]] * 2
    spent = []
    reuse = StateStore()
    alone = [Renderer(tiny, "fp32").render(cell)["pictures"] for cell in found[0]]
    renderer = Renderer(tiny, "fp32")
    shared = [renderer.render(cell, reuse, spent.append)["pictures"] for cell in found[0]]
    assert all(np.array_equal(a, b) for a, b in zip(alone, shared, strict=True))
    assert sum(spent) == planned_evaluations(tiny, found[0])
