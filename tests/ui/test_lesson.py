"""The lesson's Python side: quiz answers equal the cost model, stored results equal the code."""

import re
from dataclasses import replace
from itertools import combinations, count
from statistics import mean

import gradio as gr
import pytest
import torch
from PIL import Image

from sage.core.cost import ModelFlops, evaluations, plan_cost
from sage.core.plan import independent_plan, shared_plan
from sage.jobs.models import LoadedModel, ModelSpec, builtin_model
from sage.sd.pipeline import SagePipeline
from sage.ui import lesson
from sage.ui.html.palette import GROUP_COLORS
from sage.ui.html.words import percent_text
from sage.ui.lesson import content, precompute, quiz
from tests.training.test_use_lora import adapter  # noqa: F401  (a fixture)

KINDS = len(quiz.KINDS)


def of_kind(kind, last=60):
    """Numbers of the questions of a kind."""
    return range(quiz.KINDS.index(kind), last, KINDS)


FREE = ModelFlops(0, 1, 0)  # FLOPs of the denoiser only: their saving is that of evaluations


def numbers(text):
    return [int(n) for n in re.findall(r"\d+", text)]


# --- words ------------------------------------------------------------------------------------


def test_differing_words_are_marked_and_nothing_is_lost():
    one, other = content.differing_words("a red fox in the snow", "a cat in the snow")
    assert one == [["a", False], ["red fox", True], ["in the snow", False]]
    assert other == [["a", False], ["cat", True], ["in the snow", False]]
    for first, second in combinations(content.PROMPTS, 2):
        for prompt, pieces in zip(
            (first, second), content.differing_words(first, second), strict=True
        ):
            assert " ".join(text for text, _ in pieces) == prompt


# --- quiz -------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(0, 60))
def test_every_question_has_one_right_answer_among_its_choices(number):
    asked = quiz.question(number)
    assert asked == quiz.question(number)
    assert asked.choices.count(asked.answer) == 1
    assert len(set(asked.choices)) == len(asked.choices) >= 3
    assert "lesson-math" in asked.reason or "<b>" in asked.reason


@pytest.mark.parametrize("number", of_kind(quiz._saved_by_one_group))
def test_the_saving_of_one_group_is_the_cost_models(number):
    asked = quiz.question(number)
    shared, steps, count = numbers(asked.text)
    cost = plan_cost(shared_plan([tuple(range(count))], steps, shared), FREE)
    assert asked.answer == percent_text(cost.saving) == percent_text(cost.flops_saving)


@pytest.mark.parametrize("number", of_kind(quiz._evaluations_of_one_group))
def test_evaluations_are_the_cost_models(number):
    asked = quiz.question(number)
    count, shared, steps = numbers(asked.text)
    cost = plan_cost(shared_plan([tuple(range(count))], steps, shared), FREE)
    assert asked.answer == str(cost.evaluations)
    assert str(cost.independent_evaluations) in asked.reason


@pytest.mark.parametrize("number", of_kind(quiz._saved_by_two_groups))
def test_the_saving_of_two_groups_is_the_cost_models(number):
    asked = quiz.question(number)
    first, second, shared, steps = numbers(asked.text)
    groups = [tuple(range(first)), tuple(range(first, first + second))]
    assert asked.answer == percent_text(plan_cost(shared_plan(groups, steps, shared), FREE).saving)


@pytest.mark.parametrize("number", of_kind(quiz._the_most))
def test_the_most_that_can_be_saved_is_the_share_ratio(number):
    asked = quiz.question(number)
    shared, steps = numbers(asked.text)
    assert asked.answer == percent_text(shared / steps)


@pytest.mark.parametrize("number", of_kind(quiz._which_saves_more))
def test_the_best_way_saves_most(number):
    asked = quiz.question(number)
    told = dict(re.findall(r"([^·<>]+): <b>(\d+) %</b>", asked.reason))
    told = {name.strip(): int(value) for name, value in told.items()}
    assert told[asked.answer] == max(told.values())
    assert sorted(told.values())[-2] < told[asked.answer]


def test_neither_way_always_wins():
    answers = {
        quiz.question(n).answer.split(" of")[0] for n in of_kind(quiz._which_saves_more, 400)
    }
    assert answers == {"one group", "two groups"}


@pytest.mark.parametrize("number", of_kind(quiz._who_may_share, 90))
def test_only_the_pair_within_the_bounds_may_share(number):
    asked, stored = quiz.question(number), content.results()
    prompts, told = stored["prompts"], {}
    for i, j in combinations(range(len(prompts)), 2):
        told[f"“{prompts[i]}” and “{prompts[j]}”"] = stored["similarity"][i][j]
    low, high = stored["tau_min"], stored["tau_max"]
    assert [c for c in asked.choices if low <= told[c] <= high] == [asked.answer]
    assert all(f"{told[choice]:.2f}" in asked.reason for choice in asked.choices)


@pytest.mark.parametrize("number", of_kind(quiz._the_rival))
def test_the_rival_spends_what_sharing_spends(number):
    asked = quiz.question(number)
    count, shared, steps, spent = numbers(asked.text)
    assert spent == evaluations(shared_plan([tuple(range(count))], steps, shared))
    (fewer,) = numbers(asked.answer)
    assert spent - count < count * fewer <= spent
    assert str(count * fewer) in asked.reason


@pytest.mark.parametrize("number", of_kind(quiz._late_branch))
def test_a_late_branch_costs_likeness_in_the_stored_numbers(number):
    asked = quiz.question(number)
    _, late, _, early = numbers(asked.text)
    distance = [mean(d) for d in content.results()["sharing"]["alike"]["distance"]]
    assert distance[late] > 1.2 * distance[early]
    assert f"<b>{distance[early]:.3f}</b> to <b>{distance[late]:.3f}</b>" in asked.reason


@pytest.mark.parametrize("number", of_kind(quiz._why_the_start))
def test_alike_prompts_have_hardly_parted_early(number):
    part = int(re.search(r"(\d+) %", quiz.question(number).reason)[1])
    assert 0 < part < 50


def test_a_negative_number_is_refused():
    with pytest.raises(ValueError, match="-1"):
        quiz.question(-1)


# --- handlers ---------------------------------------------------------------------------------


def test_checking_without_an_answer_asks_for_one_and_counts_nothing():
    said, _, score, _ = lesson.check_answer(0, None, (1, 2))
    assert lesson.PICK_FIRST in said
    assert score == (1, 2)


def test_right_and_wrong_are_told_with_the_formula():
    asked = quiz.question(0)
    said, button, score, tally = lesson.check_answer(0, asked.answer, (0, 0))
    assert "<b>Right.</b>" in said
    assert asked.reason in said
    assert score == (1, 1)
    assert "1 of 1" in tally
    assert button.interactive is False
    wrong = next(choice for choice in asked.choices if choice != asked.answer)
    said, _, score, _ = lesson.check_answer(0, wrong, score)
    assert asked.answer in said.split("lesson-math")[0]
    assert score == (1, 2)


def test_the_kinds_of_question_take_turns(monkeypatch):
    numbers = count(1)
    monkeypatch.setattr(lesson, "randrange", lambda _: next(numbers))
    number, seen = 0, set()
    for turn in range(1, 2 * KINDS):
        number, text, choices, feedback, button = lesson.next_question(number)
        assert number % KINDS == turn % KINDS
        asked = quiz.question(number)
        assert asked.text in text
        assert (feedback, button.interactive) == (lesson.FEEDBACK.format(""), True)
        assert [value for _, value in choices.choices] == list(asked.choices)
        seen.add((text, asked.choices))
    assert len(seen) > KINDS  # kinds come back with other numbers


def test_the_tab_builds_and_adds_no_public_endpoint():
    with gr.Blocks() as demo:
        lesson.build_lesson(None)
    assert not demo.get_api_info()["named_endpoints"]


# --- stored results ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def builtin():
    pipe = SagePipeline.from_pretrained(builtin_model().source)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_the_files_are_all_there_and_light():
    stored = content.results()
    names = {path.name for path in content.FOLDER.glob("*.webp")}
    assert names == {"noisy.webp", "guess.webp"} | {f"{kind}.webp" for kind in stored["sharing"]}
    assert sum(path.stat().st_size for path in content.FOLDER.iterdir()) < 2_000_000
    side, rows = stored["side"], len(content.PROMPTS)
    expected = {"noisy": rows, "guess": rows + 2, "alike": 3, "unlike": 2, "trained": 3}
    for name in names:
        with Image.open(content.FOLDER / name) as sheet:
            stem = name.removesuffix(".webp")
            assert sheet.size == ((content.STEPS + 1) * side, expected[stem] * side)


def test_the_results_tell_their_conditions_and_fit_the_code():
    stored = content.results()
    conditions = stored["conditions"]
    assert conditions["steps"] == content.STEPS
    assert conditions["seeds"] == list(content.SEEDS)
    assert conditions["picture_seed"] == content.PICTURE_SEED in content.SEEDS
    assert {"model", "scheduler", "guidance_scale", "device", "dtype", "versions"} <= set(
        conditions
    )
    assert (conditions["adapter"] is not None) == ("trained" in stored["sharing"])
    assert stored["prompts"] == list(content.PROMPTS)
    for kind, group in precompute.GROUPS.items():
        distance = torch.tensor(stored["sharing"][kind]["distance"])
        assert distance.shape == (content.STEPS + 1, len(group))
        assert (distance[0] < 1e-3).all()  # nothing shared is the picture made alone
        assert (distance[-1] > distance[content.STEPS // 3]).all()


def test_the_stored_adapter_is_the_one_that_is_shipped():
    adapter_now = builtin_model().adapter
    stored = content.results()["conditions"]["adapter"]
    assert stored == (adapter_now.name if adapter_now else None), (
        "run python -m sage.ui.lesson.precompute"
    )


@pytest.mark.slow
def test_similarity_and_groups_are_what_the_model_says_today(builtin):
    grouping = builtin.group(content.PROMPTS)
    stored = content.results()
    assert (grouping.similarity - torch.tensor(stored["similarity"])).abs().max() < 1e-3
    assert [list(group) for group in grouping.groups] == stored["groups"]
    assert list(content.ALIKE) in stored["groups"]
    assert not any(set(content.UNLIKE) <= set(group) for group in stored["groups"])


@pytest.mark.slow
def test_a_stored_difference_is_what_the_model_makes_today(builtin):
    """Three steps of two prompts alone, with both seeds."""
    i, j = content.ALIKE[:2]
    found = torch.zeros(3)
    for seed in content.SEEDS:
        plan = independent_plan(2, content.STEPS)
        prompts = [content.PROMPTS[i], content.PROMPTS[j]]
        run = builtin.stream(prompts, plan=plan, seeds=[seed] * 2, output_type="latent")
        for step in range(3):
            one, other = next(run).state.x
            found[step] += (one - other).square().mean().sqrt() / len(content.SEEDS)
    stored = torch.tensor(content.results()["difference"][f"{i}-{j}"])
    assert stored[0] == 0  # the same noise
    assert torch.allclose(stored[1:4], found, atol=2e-3, rtol=0.02)


def test_the_page_gets_what_the_browser_reads():
    data = lesson.page_data()
    assert data["colors"][0] == data["palette"]["shared"] == GROUP_COLORS[0]
    assert len(data["toy"]["noises"]) == content.TOY_SEEDS
    assert data["heads"] == [1, 1, 1, 2, 1, 1]
    assert set(data["words"]) == set(data["difference"])
    assert "${" not in (content.FOLDER / "lesson.html").read_text("utf-8")
    assert "{{" not in (content.FOLDER / "lesson.html").read_text("utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("trained", [False, True])
def test_one_command_makes_everything_and_an_adapter_adds_its_pictures(
    tiny_folder,
    adapter,  # noqa: F811
    tmp_path,
    monkeypatch,
    trained,
):
    monkeypatch.setattr(precompute, "STEPS", 4)
    monkeypatch.setattr(precompute, "SEEDS", (0, 1))
    spec = ModelSpec("tiny", "Tiny", str(tiny_folder))
    pipe = SagePipeline.from_pretrained(tiny_folder)
    pipe.set_progress_bar_config(disable=True)
    model = LoadedModel(replace(spec, adapter=adapter if trained else None), pipe)
    precompute.precompute(model, tmp_path)
    monkeypatch.setattr(content, "FOLDER", tmp_path)
    content.results.cache_clear()
    stored = content.results()
    content.results.cache_clear()
    assert ("trained" in stored["sharing"]) == trained
    assert (tmp_path / "trained.webp").exists() == trained
    assert pipe.lora is None
    distance = torch.tensor(stored["sharing"]["alike"]["distance"])
    assert distance.shape == (5, 3)
    assert (distance[0] < 2e-4).all()  # a grey level here and there: other rows at once
    with Image.open(tmp_path / "alike.webp") as sheet:
        assert sheet.size == (5 * stored["side"], 3 * stored["side"])
