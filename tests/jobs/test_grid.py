from dataclasses import replace

import pytest
from PIL import ImageChops

from sage.core.plan import independent_plan, shared_plan
from sage.jobs.grid import (
    Axis,
    CellDone,
    CellStep,
    Grid,
    GridCost,
    RowFrame,
    Trace,
    axes,
    plan_grid,
    render_grid,
    shown_steps,
    trace,
)
from sage.jobs.job import prepare
from sage.jobs.models import LoadedModel, ModelSpec
from sage.jobs.repeats import Mean, mean_of
from sage.jobs.request import Request, parse_request

PROMPTS = "a fox\na dog\na whale"
NEAR = {"tau_min": -1.0, "tau_max": 1.0}  # everything is one group


@pytest.fixture
def model(tiny):
    return LoadedModel(ModelSpec("tiny", "Tiny", "nowhere"), tiny)


@pytest.fixture
def base():
    return parse_request(PROMPTS, steps=10, guidance_scale=3.0, **NEAR)


def grid(base, across="share_ratio", down="seed", right=(0.2, 0.8), below=(0, 1)):
    return Grid(base, Axis.parse(across, right), Axis.parse(down, below))


def same(one, other):
    return all(
        ImageChops.difference(a, b).getbbox() is None for a, b in zip(one, other, strict=True)
    )


def test_the_cells_are_the_base_with_two_settings_changed(base):
    cells = grid(base).requests
    assert [(c.seed, c.share_ratio) for c in cells] == [(0, 0.2), (0, 0.8), (1, 0.2), (1, 0.8)]
    assert {c.prompts for c in cells} == {base.prompts}
    assert grid(base).words(1) == "Seed 0, Share ratio, β 0.8"


def runs(items):
    return [item for item in items if isinstance(item, CellDone)]


@pytest.mark.slow
def test_trunks_are_computed_once_and_counted_in_advance(model, base):
    cells = plan_grid(model, grid(base))
    # 3 prompts, 10 steps: a trunk of 8 and branches of 2 are 14 evaluations, of 2 and 8 are 26;
    # 30 each prompt alone, once for each seed.
    assert [cell.place for cell in cells] == [None, 1, 0, None, 3, 2]
    assert [cell.cost.evaluations for cell in cells] == [30, 14, 26, 30, 14, 26]
    assert [cell.reused for cell in cells] == [0, 0, 2, 0, 0, 2]
    cost = GridCost.of(cells)
    assert (cost.runs, cost.compared, cost.evaluations, cost.reused) == (4, 2, 140, 4)
    done = runs(render_grid(cells))
    assert [item.cell for item in done] == [1, 0, 3, 2]
    assert [item.numbers.reused for item in done] == [0, 2, 0, 2]
    assert [item.numbers.evaluations for item in done] == [14, 26, 14, 26]


@pytest.mark.slow
def test_what_a_cell_is_compared_with_is_the_cell_in_which_nobody_shares(model, base):
    cells = plan_grid(model, grid(base, right=(0.0, 0.8), below=(0,)))
    assert {cell.place: cell.reused for cell in cells} == {None: 0, 0: 30, 1: 0}
    numbers = {item.cell: item.numbers for item in runs(render_grid(cells))}
    none, late = numbers[0], numbers[1]
    assert none.distance == (0.0,) * 3
    assert min(late.distance[1:]) > 0
    assert none.reused == none.evaluations == 30
    assert none.flops > late.flops > 0


def test_thresholds_and_the_guard_are_axes_that_change_who_shares(model, base):
    bounds = grid(base, "tau_min", "guarded", right=(-1.0, 1.0), below=(False, True))
    cells = [cell for cell in plan_grid(model, bounds) if cell.place is not None]
    shares = {cell.place: cell.job.shares for cell in cells}
    assert shares == {0: True, 1: False, 2: True, 3: False}  # not calibrated: the guard lets all
    assert GridCost.of(plan_grid(model, bounds)).alike == 2


@pytest.mark.slow
def test_repeats_have_seeds_of_their_own_and_a_mean_with_an_interval(model, base):
    asked = replace(grid(base, right=(0.8,), below=(5,)), repeats=3)
    done = runs(render_grid(plan_grid(model, asked)))
    assert [(item.cell, item.repeat, item.numbers.seed) for item in done] == [
        (0, 0, 5),
        (0, 1, 8),
        (0, 2, 11),
    ]
    each = [item.numbers.distance for item in done]
    found, means = mean_of(each), [sum(one) / 3 for one in each]
    assert found.value == pytest.approx(sum(means) / 3)
    spread = (sum((m - found.value) ** 2 for m in means) / 2) ** 0.5
    assert found.half == pytest.approx(4.303 * spread / 3**0.5)


def test_a_mean_leaves_out_what_was_blacked_out():
    assert mean_of([(0.2, None), None, (0.4, 0.6)]) == Mean(pytest.approx(0.35), None)
    assert mean_of([None, (None,)]) is None


@pytest.mark.parametrize("repeats", [0, 2, 7, True, "3"])
def test_so_many_repeats_are_not_on_offer(base, repeats):
    with pytest.raises(ValueError, match="allowed are 1, 3, 5"):
        replace(grid(base), repeats=repeats)


def test_repeats_count_as_runs(base):
    wide = grid(base, right=(0.0, 0.1, 0.2, 0.3, 0.4, 0.5), below=(0, 1, 2))
    with pytest.raises(ValueError, match="number of runs in a grid is 90; allowed are 1 to 60"):
        replace(wide, repeats=5)


def test_ratios_that_round_to_the_same_step_are_called_the_same(model, base):
    short = replace(base, steps=4)
    cost = GridCost.of(plan_grid(model, grid(short, right=(0.4, 0.6), below=(0,))))
    assert (cost.runs, cost.alike, cost.shares) == (2, 1, True)
    apart = replace(short, tau_min=1.0)
    cost = GridCost.of(plan_grid(model, grid(apart, right=(0.2, 0.8), below=(0,))))
    assert (cost.runs, cost.alike, cost.shares) == (2, 1, False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("down", "below"),
    [("scheduler", ("ddim", "unipc", "euler")), ("trunk", ("mean", "medoid")), ("steps", (4, 6))],
)
def test_every_cell_is_what_it_would_be_alone(model, base, down, below):
    cells = plan_grid(model, grid(base, down=down, below=below))
    done = {item.cell: item for item in runs(render_grid(cells))}
    for cell in (one for one in cells if one.place is not None):
        assert done[cell.place].numbers.reused == cell.reused
        request = cell.job.request
        alone = cell.job.sides.shared(
            request.prompts,
            plan=cell.job.plan,
            guidance_scale=request.guidance_scale,
            seeds=request.seeds,
            trunk=request.trunk,
        )
        assert same(done[cell.place].images, alone.images)


@pytest.mark.slow
def test_stopping_keeps_what_is_finished(model, base):
    run = render_grid(plan_grid(model, grid(base)))
    kinds = [type(next(run)) for _ in range(22)]
    run.close()
    assert kinds == [CellStep] * 20 + [CellDone, CellStep]


@pytest.mark.parametrize("name", axes())
def test_every_axis_starts_with_values_that_are_allowed(name):
    axis = Axis.parse(name, axes()[name].axis)
    assert axis.values == axes()[name].axis
    assert all(axis.label(value) for value in axis.values)


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("sorcery", (1,), "allowed are tau_min"),
        ("steps", (), "at least one value"),
        ("steps", ("ten",), "'ten'; a number"),
        ("steps", range(2, 9), "number of values"),
        ("scheduler", ("magic",), "allowed are ddim"),
        ("trained", ("maybe",), "true and false"),
        ("guidance_scale", (99,), "allowed are 1 to 20"),
    ],
)
def test_what_is_wrong_with_an_axis_is_said(name, values, words):
    with pytest.raises(ValueError, match=words):
        Axis.parse(name, values)


def test_typed_values_are_numbers_and_count_once():
    assert Axis.parse("steps", ["10", 10, "20"]).values == (10, 20)
    assert Axis.parse("trained", ["off", "on"]).values == (False, True)


def test_a_grid_has_two_different_axes_and_an_end(base):
    with pytest.raises(ValueError, match="two different ones"):
        grid(base, down="share_ratio", below=(0.1,))


def test_a_model_without_an_adapter_says_so(model, base):
    with pytest.raises(ValueError, match="no adapter"):
        plan_grid(model, grid(base, down="trained", below=(False, True)))


# -- one run, step by step ------------------------------------------------------------------------


@pytest.mark.slow
def test_a_trace_shows_every_row_at_the_chosen_steps(model, base):
    *frames, end = trace(prepare(model, base), number=5)
    assert isinstance(end, Trace)
    assert all(isinstance(frame, RowFrame) for frame in frames)
    assert tuple(frame.step for frame in frames) == shown_steps(end.plan, 5)
    assert [len(frame.rows) for frame in frames if frame.step <= 4] == [1, 1, 1]
    assert all(len(frame.rows) == 3 for frame in frames if frame.step > 4)
    for frame in frames:
        assert len(frame.rows) == len(frame.predicted) == len(frame.latents)
    assert len(end.images) == 3


def test_the_steps_shown_hold_both_ends_and_every_split():
    plan = shared_plan(((0, 1, 2),), 30, 13)
    assert shown_steps(plan, 10) == (1, 3, 6, 9, 12, 14, 15, 18, 21, 24, 27, 30)
    assert shown_steps(independent_plan(2, 2), 10) == (1, 2)


def test_a_request_stays_what_it_is(base):
    assert grid(base).base == Request.from_dict(base.to_dict())


@pytest.mark.slow
def test_what_a_trunk_would_follow_is_no_matter_where_there_is_none(model, base):
    """Rules differ in trunks only: of cells in which nobody shares, one is rendered."""
    across, down = Axis.parse("trunk", ["mean", "medoid", "alternate"]), Axis.parse("seed", [3])
    cells = plan_grid(model, Grid(replace(base, share_ratio=0.0), across, down))
    assert sum(cell.cost.evaluations - cell.reused for cell in cells) == 30
    done = runs(render_grid(cells))
    assert all(item.numbers.reused == item.numbers.evaluations for item in done)
    assert all(item.numbers.distance == (0.0,) * 3 for item in done)
