"""Cells: names that change with every input, files in one piece, fast copies that agree."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from sage.sd.store import StateStore
from sage.studies.engine.cells import (
    Cell,
    Renderer,
    Setting,
    Store,
    families,
    merged_weights,
    planned_rows,
)
from sage.studies.engine.prompts import listed_prompts

TEXTS = ["a fox", "a dog", "a cat", "a bus", "a tree"]
GROUPS = [(0, 1, 2), (3, 4)]


@pytest.fixture
def prompts(tiny):
    return listed_prompts(tiny, "five", TEXTS, GROUPS)


def test_a_name_changes_with_everything_the_pictures_depend_on(tiny, prompts, adapter_folder):
    base = Setting(0.5, 4, 2.0)
    other = listed_prompts(tiny, "five", [*TEXTS[:4], "a hat"], GROUPS)
    regrouped = listed_prompts(tiny, "five", TEXTS, [(0, 1), (2, 3, 4)])
    cells = [
        Cell(base, prompts, 0),
        Cell(base, prompts, 1),
        Cell(base, other, 0),
        Cell(base, regrouped, 0),
        *(
            Cell(replace(base, **change), prompts, 0)
            for change in (
                {"share_ratio": 0.25},
                {"steps": 5},
                {"guidance": 3.0},
                {"adapter": adapter_folder},
                {"scheduler": "euler"},
                {"options": (("trunk", "medoid"),)},
                {"plan": tiny.plan(prompts.groups, 4, 0.75)},
            )
        ),
    ]
    names = [cell.key("model", "fp32") for cell in cells]
    names += [cells[0].key("other", "fp32"), cells[0].key("model", "bf16")]
    assert len(set(names)) == len(names)
    again = listed_prompts(tiny, "another title", TEXTS, GROUPS)
    assert Cell(base, again, 0).key("model", "fp32") == names[0]


def test_independent_pictures_do_not_depend_on_groups(tiny, prompts):
    regrouped = listed_prompts(tiny, "five", TEXTS, [(0, 1), (2, 3, 4)])
    names = {Cell(Setting(0.0, 4), some, 0).key("m", "fp32") for some in (prompts, regrouped)}
    assert len(names) == 1


def test_an_adapter_goes_by_its_content(prompts, adapter_folder, tmp_path):
    import shutil

    copied = shutil.copytree(adapter_folder, tmp_path / "copy")
    names = {
        Cell(Setting(0.5, adapter=path), prompts, 0).key("m", "fp32")
        for path in (adapter_folder, copied)
    }
    assert len(names) == 1
    with pytest.raises(ValueError, match="no adapter at"):
        Cell(Setting(0.5, adapter=tmp_path / "none"), prompts, 0).key("m", "fp32")


def test_a_damaged_file_is_made_again(tmp_path):
    store = Store(tmp_path)
    store.put("abcd", x=np.arange(3))
    assert store.get("abcd")["x"].tolist() == [0, 1, 2]
    next(tmp_path.rglob("*.npz")).write_bytes(b"half")
    assert store.get_or_make("abcd", lambda: {"x": np.arange(4)})["x"].tolist() == [0, 1, 2, 3]
    assert len(store.get("abcd")["x"]) == 4
    assert not list(tmp_path.rglob("*.new"))


def test_bulk_rendering_in_float32_is_the_pipeline(tiny, prompts):
    cell = Cell(Setting(0.5, 4, 2.0), prompts, 3)
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


def test_half_precision_is_near_and_the_model_is_untouched(tiny, prompts):
    before = {name: value.clone() for name, value in tiny.unet.state_dict().items()}
    cell = Cell(Setting(0.5, 4, 2.0), prompts, 0)
    exact, fast = (Renderer(tiny, p).render(cell)["pictures"] for p in ("fp32", "bf16"))
    assert 0 < np.abs(exact.astype(int) - fast).mean() < 4
    assert tiny.unet.dtype == torch.float32
    assert all(torch.equal(before[k], v) for k, v in tiny.unet.state_dict().items())
    assert "forward" not in vars(tiny.unet)


def test_a_merged_adapter_is_the_adapter(tiny, prompts, adapter_folder):
    cell = Cell(Setting(0.5, 4, 2.0, adapter_folder), prompts, 0)
    renderer = Renderer(tiny, "fp32")
    made = renderer.render(cell)["pictures"]
    bare = Cell(Setting(0.5, 4, 2.0), prompts, 0)
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


def test_families_share_a_trunk_and_cost_it_once(tiny, prompts):
    cells = [Cell(Setting(ratio, 4, 2.0), prompts, s) for s in (0, 1) for ratio in (0.25, 0.75)]
    found = list(families(cells))
    assert [[c.setting.share_ratio for c in some] for some in found] == [[0.75, 0.25]] * 2
    spent = []
    reuse = StateStore()
    alone = [Renderer(tiny, "fp32").render(cell)["pictures"] for cell in found[0]]
    renderer = Renderer(tiny, "fp32")
    shared = [renderer.render(cell, reuse, spent.append)["pictures"] for cell in found[0]]
    assert all(np.array_equal(a, b) for a, b in zip(alone, shared, strict=True))
    assert sum(spent) == planned_rows(tiny, found[0])
