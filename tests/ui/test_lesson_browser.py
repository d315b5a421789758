"""The lesson in headless Chromium: its toy equals the Python sampler, and keys lead through it."""

import math
import random
from functools import partial

import gradio as gr
import pytest
import torch

from sage.core.plan import shared_plan
from sage.core.sampling import sample
from sage.ui.lesson import build_lesson, content, quiz
from sage.ui.theme import page_theme
from tests.toy import Mixture, cosine_alphas, speciation_alpha, step_of_alpha, toy_solver

from .browser import PATIENCE, check_accessibility, expect, until, visits

pytestmark = [pytest.mark.browser, pytest.mark.slow]
LAST = 8  # the quiz


# --- the toy ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def toy(chromium):
    """Evaluates JavaScript where only toy.js is loaded."""
    page = chromium.new_page()
    page.add_script_tag(path=content.FOLDER / "toy.js")
    yield page.evaluate
    page.close()


def python_run(means, std, steps, branch, noise):
    """The points of trunk and branches, by the library's own sampler."""
    count = len(means)
    mixture, alphas = Mixture(torch.tensor(means).double(), std), cosine_alphas(steps)
    plan = shared_plan([tuple(range(count))], steps, branch)
    start = torch.tensor([noise]).double().repeat(count, 1)
    one_hot = torch.eye(count, dtype=torch.float64)
    states = list(sample(mixture.denoiser(alphas), toy_solver(steps), plan, one_hot, start))
    trunk = [noise, *(state.x[0].tolist() for state in states[:branch])]
    branches = [
        [trunk[-1], *(state.x[k].tolist() for state in states[branch:])] for k in range(count)
    ]
    return {"trunk": trunk, "branches": branches}


@pytest.mark.parametrize("case", range(8))
def test_the_toy_in_the_browser_is_the_python_sampler(toy, case):
    chance = random.Random(case)
    count, steps = chance.choice((2, 3, 4)), chance.choice((10, 30, 50))
    means = [[chance.uniform(-2, 2), chance.uniform(-2, 2)] for _ in range(count)]
    std, branch = chance.uniform(0.1, 0.5), chance.choice((0, 1, steps // 2, steps - 1, steps))
    noise = [chance.gauss(0, 1), chance.gauss(0, 1)]
    arguments = {"mixture": {"means": means, "std": std}}
    arguments |= {"steps": steps, "branch": branch, "noise": noise}
    found = toy("a => SageToy.run(a.mixture, a.steps, a.branch, a.noise)", arguments)
    expected = python_run(means, std, steps, branch, noise)
    for one, other in zip(
        [found["trunk"], *found["branches"]],
        [expected["trunk"], *expected["branches"]],
        strict=True,
    ):
        assert len(one) == len(other)
        assert (torch.tensor(one).double() - torch.tensor(other).double()).abs().max() < 1e-6


def test_distances_in_the_browser_are_the_python_samplers(toy):
    means, std, steps = [[0.3, 1.4], [1.7, 0.1]], 0.16, 12
    noises = [[0.4, -1.1], [-0.8, 0.2]]
    arguments = {"mixture": {"means": means, "std": std}, "steps": steps, "noises": noises}
    found = toy("a => SageToy.distances(a.mixture, a.steps, a.noises)", arguments)
    for branch in (0, 5, steps):
        total = 0.0
        for noise in noises:
            alone = python_run(means, std, steps, 0, noise)["branches"]
            shared = python_run(means, std, steps, branch, noise)["branches"]
            total += sum(math.dist(a[-1], b[-1]) for a, b in zip(alone, shared, strict=True))
        assert found[branch] == pytest.approx(total / (4 * std), abs=1e-6)


@pytest.mark.parametrize("means", [[[0.3, 1.4], [1.7, 0.1]], [[0, 1], [1.2, 1.3], [1.5, 0]]])
def test_the_moment_of_separation_is_the_same_in_both(toy, means):
    found = toy("m => SageToy.speciation({means: m, std: 0.16}, 30)", means)
    alpha = speciation_alpha(torch.tensor(means), 0.16)
    assert found == pytest.approx(step_of_alpha(alpha, 30), abs=1e-6)


def test_patches_that_overlap_never_separate_in_the_browser(toy):
    assert toy("SageToy.speciation({means: [[0, 0.1], [0.1, 0]], std: 0.16}, 30)") is None


# --- the tab ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def address():
    """A page with the lesson alone: no model is loaded, none is needed."""
    with gr.Blocks(analytics_enabled=False, fill_width=True) as demo:
        build_lesson(None)
    looks = content.FOLDER.parent
    styles = [looks / f"{name}.css" for name in ("style", "tree", "lesson")]
    drawing = f"<script>{(looks / 'tree.js').read_text('utf-8')}</script>"
    _, url, _ = demo.launch(
        prevent_thread_lock=True,
        quiet=True,
        theme=page_theme(),
        css_paths=styles,
        head=drawing,
        ssr_mode=False,
    )
    yield url.rstrip("/")
    demo.close()


@pytest.fixture
def visit(pages, address):
    """Opens the lesson."""
    with visits(pages, address, ["#lesson-tab-0"]) as open_page:
        yield partial(open_page, reduced_motion="no-preference")


def go(page, step):
    page.locator(f"#lesson-tab-{step}").click()
    expect(page.locator(f"#lesson-panel-{step}")).to_be_visible()


def painted(page, selector):
    """Whether every canvas there shows more than one colour."""
    script = """selector => [...document.querySelectorAll(selector)].every(canvas => {
        const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
        return new Set(new Uint32Array(data.buffer)).size > 1 })"""
    return page.evaluate(script, selector)


def test_the_first_steps_by_keyboard(visit):
    page = visit()
    keys = page.keyboard
    page.locator("#lesson-tab-0").focus()
    expect(page.locator("#overview-say")).to_contain_text("27 % saved")
    # 1. Denoising: arrow keys walk through the steps of the lesson, and of the picture.
    keys.press("ArrowRight")
    expect(page.locator("#lesson-tab-1")).to_be_focused()
    page.locator("#film-step").focus()
    keys.press("End")
    expect(page.locator("#film-hint")).to_contain_text("Finished")
    page.wait_for_function("document.querySelector('#film-noisy canvas').cell.column === 30")
    keys.press("Home")
    expect(page.locator("#film-hint")).to_contain_text("Pure noise")
    page.locator("#film-prompt [aria-checked=true]").focus()
    keys.press("ArrowRight")
    expect(page.locator("#film-noisy canvas")).to_have_attribute(
        "aria-label", "“a red car in the city” after 0 of 30 steps, still noisy"
    )
    # 2. Similarity: the matrix is one stop; arrow keys choose the pair.
    page.locator("#lesson-tab-1").focus()
    keys.press("ArrowRight")
    expect(page.locator("#matrix-pair mark")).to_have_text(["fox", "rabbit"])
    assert page.locator("#matrix button[tabindex='0']").count() == 1
    page.locator("#matrix button[tabindex='0']").focus()
    keys.press("ArrowRight")
    expect(page.locator("#matrix-pair mark")).to_have_text(["fox", "penguin"])
    keys.press("ArrowRight")
    expect(page.locator("#matrix-pair")).to_contain_text("too different to share")
    # 3. Early steps.
    go(page, 3)
    page.locator("#early-step").focus()
    keys.press("ArrowRight")
    expect(page.locator("#early-hint")).to_contain_text("After 9 of 30 steps")


def test_the_last_steps_and_the_quiz_by_keyboard(visit):
    page = visit()
    keys = page.keyboard
    # 4. The map: a patch is walked with arrow keys, and the moment of separation follows.
    go(page, 4)
    before = page.locator("#toy-say").inner_text()
    page.locator("#toy-plane .handle").first.focus()
    for _ in range(5):
        keys.press("Shift+ArrowUp")
    assert page.locator("#toy-say").inner_text() != before
    expect(page.locator("#toy-plane .handle").first).to_be_focused()
    page.locator("#toy-branch").focus()
    keys.press("End")
    expect(page.locator("#toy-say")).to_contain_text("50 % saved")
    # 5. Branch point.
    go(page, 5)
    page.locator("#branch-step").focus()
    keys.press("ArrowRight")
    expect(page.locator("#branch-math")).to_contain_text("29 %")
    expect(page.locator("#branch-bars")).to_contain_text("64")
    # 6, 7. Training and limits.
    go(page, 6)
    expect(page.locator("#train-hint")).not_to_be_empty()
    go(page, 7)
    page.locator("#limits-step").focus()
    keys.press("Home")
    expect(page.locator("#limits-hint")).to_contain_text("Nothing is shared")
    # 8. The quiz.
    page.locator("#lesson-tab-7").focus()
    keys.press("ArrowRight")
    asked = quiz.question(0)
    expect(page.locator("#quiz-question")).to_be_visible()
    right = page.get_by_role("radio", name=asked.answer, exact=True)
    right.focus()
    keys.press("Space")
    page.locator("#quiz-check").focus()
    keys.press("Enter")
    expect(page.locator("#quiz-feedback")).to_contain_text("Right.")
    expect(page.locator("#quiz-feedback .lesson-math").first).to_be_visible()
    expect(page.locator("#quiz-score")).to_contain_text("1 of 1")
    old = page.locator("#quiz-question").inner_text()
    page.locator("#quiz-next").focus()
    keys.press("Enter")
    expect(page.locator("#quiz-question")).not_to_have_text(old)


def test_a_patch_is_dragged_at_once(visit):
    page = visit()
    go(page, 4)
    handle = page.locator("#toy-plane .handle").first
    told = page.locator("#toy-say").inner_text()
    box = handle.locator(".ring").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 60, y + 90, steps=4)
    page.mouse.up()
    after = handle.locator(".ring").bounding_box()
    assert after["x"] - box["x"] == pytest.approx(-60, abs=3)
    assert after["y"] - box["y"] == pytest.approx(90, abs=3)
    assert page.locator("#toy-say").inner_text() != told
    # One move, all of it computed and drawn: instant. The best of some, for a busy machine.
    page.locator("#toy-branch").focus()
    script = """() => { const input = document.querySelector('#toy-apart');
        const time = value => { input.value = value; const start = performance.now();
            input.dispatchEvent(new Event('input')); return performance.now() - start; };
        return Math.min(...[...Array(16).keys()].map(k => time(6 + k))) }"""
    spent = page.evaluate(script)
    assert spent < 100


@pytest.mark.parametrize("step", range(LAST + 1))
def test_every_picture_is_drawn_and_says_what_it_is(visit, step):
    page = visit()
    go(page, step)
    panel = f"#lesson-panel-{step}"
    if step in (0, 1, 2, 3, 5, 7):
        page.wait_for_function(
            "p => document.querySelectorAll(p + ' canvas').length > 0", arg=panel
        )
        until(page, lambda: painted(page, f"{panel} canvas"))
    for label in page.locator(f"{panel} [role=img]").evaluate_all(
        "all => all.map(e => e.getAttribute('aria-label'))"
    ):
        assert label is not None


def test_a_phone_never_scrolls_sideways(visit):
    page = visit(390, 844)
    for step in range(LAST + 1):
        go(page, step)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, step


def test_when_to_share_stands_beside_what_goes_wrong_and_its_bullets_in_the_card(visit):
    page = visit(390, 844)
    for step in range(LAST + 1):
        go(page, step)
        beside = step == LAST - 1  # before the quiz
        expect(page.locator("#lesson-when")).to_be_visible(visible=beside)
        if beside:
            room = "list => parseFloat(getComputedStyle(list).paddingLeft)"
            sentences = page.locator("#lesson-when ul").first
            assert sentences.evaluate(room) >= 16  # a bullet hangs in it


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_accessibility_of_every_step(visit, theme):
    page = visit(theme=theme)
    for step in range(LAST + 1):
        go(page, step)
        check_accessibility(page, "#lesson")


def test_an_address_leads_to_a_step(chromium, address):
    page = chromium.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(f"{address}/?step=5")
    expect(page.locator("#lesson-tab-5")).to_have_attribute("aria-selected", "true")
    page.close()
