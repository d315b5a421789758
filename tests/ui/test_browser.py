"""The whole flow in headless Chromium, on the tiny model; any error in the browser fails it."""

import re
import time
import zipfile
from contextlib import contextmanager
from itertools import pairwise

import pytest
from gradio_client import Client

from sage.jobs.prompt_sets import expand_sets
from sage.ui.examples import EXAMPLE_SETS
from sage.ui.studio.handlers import EARLIER, UNFINISHED
from sage.ui.studio.rendering import RENDERING

from .browser import (
    STUDIO,
    check_accessibility,
    drag_by_keys,
    expect,
    find,
    pick,
    render,
    set_number,
    shows,
    type_prompts,
    unfold,
    until,
    visits,
)
from .conftest import PROMPTS, SLOW_RUN

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_a_page_that_is_lent_again_remembers_nobody(pages, server):
    with pages.lent(server) as lend:
        first, other = lend(), lend(390, 844)
        assert first is not other
        first.goto(f"{server}/robots.txt?a=1")
        first.evaluate("localStorage.a = sessionStorage.a = document.cookie = window.name = 'a=1'")
        first.context.grant_permissions(["clipboard-read"], origin=server)
        first.context.set_offline(True)
        first.context.new_page()
    with pages.lent(server) as lend:
        assert lend(600, 500) is first
        assert lend(has_touch=True) not in (first, other)
        assert first.context.pages == [first]
        held = """[localStorage.length, sessionStorage.length, document.cookie, window.name,
                  history.length, innerWidth, innerHeight]"""
        assert first.evaluate(held) == [0, 0, "", "", 1, 600, 500]
        query = "navigator.permissions.query({name: 'clipboard-read'}).then(p => p.state)"
        assert first.evaluate(query) != "granted"
        first.goto(f"{server}/robots.txt")


@pytest.fixture
def visit(pages, server):
    """Opens the page of the tiny models."""
    with visits(pages, server, STUDIO) as open_page:
        yield open_page


def test_the_whole_flow(visit, tmp_path):
    page = visit()
    unfold(page, "fold-cost")
    unfold(page, "fold-groups")
    # 1. Prompts lead to similarity and groups.
    type_prompts(page)
    shows(page, "#prompts-note mark", "pizza")
    expect(find(page, "#similarity td > button")).to_have_count(12)
    # 2. The branch point acts at once and renders nothing.
    shows(page, "#estimate", "12 of 30 steps shared")
    drag_by_keys(page, "#branch-step", "ArrowRight", 3)
    shows(page, "#estimate", "15 of 30 steps shared")
    shows(page, "#branch output", "15 of 30 steps shared")
    shows(page, "#progress", "Nothing rendered yet")
    assert find(page, ".sage-pairs img").count() == 0
    # 3. Rendering fills the reserved boxes; nothing below moves.
    before = find(page, "#sage-actions").bounding_box()
    render(page)
    after = find(page, "#sage-actions").bounding_box()
    assert abs(before["y"] - after["y"]) <= 2
    pictures = find(page, ".sage-pairs img")
    expect(pictures).to_have_count(12)
    for picture in pictures.all():
        assert picture.evaluate("image => image.complete && image.naturalWidth") > 0
        assert picture.get_attribute("alt")
    shows(page, "#saving", "105 of 120")
    expect(find(page, "#seconds .sage-piece")).not_to_have_count(0)
    expect(find(page, "#flops .sage-piece")).not_to_have_count(0)
    shows(page, "#outcome", "105 evaluations instead of 120")
    assert find(page, "#plan .sage-thumb img").count() >= 1  # the trunk's previews, as it grew
    # 4. A closer look at a pair, by a click on its picture.
    frame = find(page, ".sage-pair[data-p='2'] .sage-shared .sage-frame")
    frame.click()
    expect(find(page, "#closer .sage-look")).to_contain_text("P3 a whale under water")
    shown = find(page, ".sage-wipe .sage-under")
    assert shown.get_attribute("src") == frame.locator("img").get_attribute("src")
    page.keyboard.press("Escape")
    expect(find(page, "#closer .sage-look")).to_be_hidden()
    unfold(page, "fold-travel")
    # 5. Downloads.
    with page.expect_download() as download:
        find(page, "#download-pictures").click()
    archive = tmp_path / "pictures.zip"
    download.value.save_as(archive)
    with zipfile.ZipFile(archive) as box:
        assert len([n for n in box.namelist() if n.endswith(".png")]) == 13
        # Three sides of four, and the sheet.
    # 6. After a change the old pictures stay and say so; undone, they fit again.
    drag_by_keys(page, "#tau-min", "ArrowLeft")
    shows(page, "#banner", EARLIER)
    expect(pictures).to_have_count(12)
    drag_by_keys(page, "#tau-min", "ArrowRight")
    expect(find(page, "#banner")).not_to_contain_text(EARLIER)
    # 7. All branch points of the run; then the slider needs no rendering.
    find(page, "#scrub").click()
    shows(page, "#scrub-note", "Ready at")
    expect(find(page, "#render")).to_be_enabled()
    shared = find(page, ".sage-pair[data-p='0'] .sage-shared img")
    old = shared.get_attribute("src")
    drag_by_keys(page, "#branch-step", "ArrowRight", 9)
    shows(page, ".sage-pair[data-p='0'] .sage-shared", "for 24 steps")
    assert shared.get_attribute("src") != old
    expect(find(page, "#banner")).not_to_contain_text(EARLIER)


def test_stop_keeps_what_is_there_and_calls_it_unfinished(visit):
    page = visit()
    pick(page, "#model", "Slow")
    shows(page, "#model-note", "CPU")
    type_prompts(page)
    find(page, "#render").click()
    shows(page, "#progress", "Step ")
    expect(find(page, ".sage-pairs img")).to_have_count(12)
    # A change meanwhile is heard, and starts nothing: the button stays as it is.
    set_number(page, "#seed", 8)
    page.wait_for_function("location.search.includes('seed=8')")
    expect(find(page, "#render")).to_be_disabled()
    shows(page, "#render", RENDERING)
    set_number(page, "#seed", 0)
    page.wait_for_function("!location.search.includes('seed=8')")
    find(page, "#stop").click()
    shows(page, "#progress", "Stopped after step")
    shows(page, "#banner", UNFINISHED)
    said = find(page, "#progress").inner_text()
    expect(find(page, "#render")).to_be_enabled()
    # A round trip later the line still stands: nothing goes on behind it.
    drag_by_keys(page, "#branch-step", "ArrowRight")
    shows(page, "#banner", EARLIER)
    assert find(page, "#progress").inner_text() == said
    expect(find(page, ".sage-pairs img")).to_have_count(12)
    # And the place is free for the next one.
    pick(page, "#model", "Tiny")
    shows(page, "#branch output", "12 of 30")
    render(page)


@contextmanager
def _late_answers(page, text):
    """Holds the answers to typing a text; those held arrive at the end, before anything else."""
    held = []

    def hold(route):
        if "queue" in route.request.url or text not in (route.request.post_data or ""):
            return route.continue_()
        return held.append(route)

    page.route("**/run/predict*", hold)
    yield held
    for route in held:
        route.continue_()
    page.unroute("**/run/predict*")


def test_an_answer_to_typing_that_comes_late_leaves_a_rendering_alone(visit):
    page = visit()
    pick(page, "#model", "Slow")
    shows(page, "#model-note", "CPU")
    text = "a cat in the snow\na dog in the snow"
    with _late_answers(page, text.replace("\n", "\\n")) as held:
        find(page, "#prompts textarea").fill(text)
        until(page, lambda: held)
        find(page, "#render").click()
        shows(page, "#progress", "Step ")
    page.wait_for_function("document.querySelector('#similarity').innerText.includes('cat')")
    shows(page, "#progress", "Step ")
    shows(page, "#render", RENDERING)
    expect(find(page, "#render")).to_be_disabled()
    expect(find(page, "#stop")).to_be_enabled()
    expect(find(page, ".sage-pairs img")).not_to_have_count(0)
    find(page, "#stop").click()
    shows(page, "#progress", "Stopped after step")


def test_look_first_and_finish_some_on_a_phone_by_keyboard(visit):
    page = visit(390, 844, has_touch=True)
    type_prompts(page)
    find(page, "#look").click()
    expect(find(page, ".sage-pairs[data-state=look]")).to_be_visible()
    expect(find(page, "#pictures [data-tick]")).to_have_count(4)
    shows(page, "#outcome", "Stopped after step 13 of 30")
    check_accessibility(page)
    for n in (1, 3):
        find(page, f"[data-tick='{n}']").press("Space")
    shows(page, "#finish", "Finish 2 of 4")
    shows(page, "#scrub-note", "takes 34 evaluations")
    find(page, "#finish").press("Enter")
    expect(find(page, ".sage-pairs[data-finished='0 2']")).to_be_visible()
    expect(find(page, "#pictures img")).to_have_count(6)
    shows(page, "#outcome", "2 of 4 finished, 31 % saved")
    page.wait_for_function(f"({BRANCHES_MEET_PICTURES})().every(gap => gap < 3)")
    clipped = find(page, "#plan .sage-line path[clip-path]").count()
    assert clipped == 2 + 1  # the trunk and the two branches that were left
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_stop_in_the_first_moments_is_no_error_and_has_the_last_word(visit):
    page = visit()
    type_prompts(page)
    for wait in (0, 20, 80, 200):
        find(page, "#render").click()
        expect(find(page, "#stop")).to_be_enabled()
        page.wait_for_timeout(wait)
        find(page, "#stop").click()
        expect(find(page, "#render")).to_be_enabled()
        page.wait_for_timeout(300)  # what was under way has arrived
        said = re.compile(r"^\s*(Stopped|Done)")
        expect(find(page, "#progress")).to_have_text(said, use_inner_text=True)
        expect(find(page, "#stop")).to_have_text("Stop")
        assert "Error" not in find(page, "#tab-studio").text_content()


def test_stop_while_waiting_for_another_visitor_frees_the_page_at_once(visit):
    first, second = visit(), visit()
    pick(first, "#model", "Slow")
    find(first, "#render").click()
    shows(first, "#progress", "Step ")
    type_prompts(second)
    find(second, "#render").click()
    find(second, "#stop").click()
    shows(second, "#progress", "the previous pictures")
    find(second, "#render").click()
    find(first, "#stop").click()
    expect(find(second, ".sage-pairs[data-state=done]")).to_be_visible()


def test_leaving_the_page_ends_its_rendering(visit, server):
    page = visit()
    pick(page, "#model", "Slow")
    unfold(page, "fold-cost")
    unfold(page, "advanced")
    set_number(page, "#steps", 100)
    shows(page, "#estimate", "of 400")
    find(page, "#render").click()
    shows(page, "#progress", "Step ")
    page.close()
    start = time.monotonic()
    Client(server, verbose=False).predict(prompts=PROMPTS, steps=2, api_name="/compare")
    assert time.monotonic() - start < SLOW_RUN / 2


@pytest.mark.parametrize(
    ("button", "count"), [("tight", 4), ("two", 4), ("mixed", 5), ("set", 8), ("far", 2)]
)
def test_example_sets_fill_and_analyse_on_click(visit, button, count):
    page = visit()
    find(page, "#prompts textarea").fill("")
    shows(page, "#prompts-note", "Type two or more prompts")
    expect(find(page, "#render")).to_be_disabled()
    find(page, f"#example-{button}").click()
    shows(page, "#prompts-note", f"{count} prompts")
    expect(find(page, ".sage-pair")).to_have_count(count)
    expect(find(page, "#render")).to_be_enabled()


def test_mistakes_are_explained_where_they_are_made(visit):
    page = visit()
    box = find(page, "#prompts textarea")
    box.fill("one fox")
    shows(page, "#prompts-note .sage-error", "sharing needs at least two")
    expect(find(page, "#render")).to_be_disabled()
    expect(box).to_have_value("one fox")
    box.fill("\n".join(f"fox {n}" for n in range(17)))
    shows(page, "#prompts-note .sage-error", "17")
    box.fill(
        "<img src=x onerror=document.title='hacked'>\n<script>document.title='hacked'</script>"
    )
    shows(page, "#pictures", "onerror")
    assert "hacked" not in page.title()
    pick(page, "#model", "Gone")
    shows(page, "#model-note .sage-error", "Gone cannot be loaded here: no such host")


def test_a_phone_has_one_column_without_sideways_scroll(visit):
    page = visit(390, 844)
    type_prompts(page)
    render(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    cards = ["#card-compare", "#card-prompts", "#card-similarity", "#sage-model", "#sage-folds"]
    boxes = [find(page, card).bounding_box() for card in cards]
    tops = [box["y"] for box in boxes]
    assert tops == sorted(tops)
    assert all(box["x"] >= 0 and box["x"] + box["width"] <= 390 for box in boxes)


@pytest.mark.parametrize("count", [2, 3, 4, 5, 6])
def test_on_a_phone_a_prompts_pictures_have_a_line_of_their_own(visit, count):
    page = visit(390, 844)
    type_prompts(page, "\n".join(PROMPTS.split("\n") * 2).rsplit("\n", 8 - count)[0])
    pairs = find(page, ".sage-pair")
    expect(pairs).to_have_count(count)
    boxes = [pair.bounding_box() for pair in pairs.all()]
    assert all(a["y"] + a["height"] <= b["y"] for a, b in pairwise(boxes))


# The sheet's crop that belongs to the slider, compared with each shared picture on the page.
SHOWN_RIGHTLY = """() => {
  const sheet = document.querySelector(".sage-sheet");
  const { tile, points } = JSON.parse(sheet.dataset.strip);
  const at = Number(document.querySelector("#branch-step input[type=range]").value);
  const ready = Object.keys(points).map(Number);
  const point = ready.reduce((a, b) => (Math.abs(b - at) < Math.abs(a - at) ? b : a));
  return [...document.querySelectorAll(".sage-pair")].map((pair) => {
    const column = Number(pair.dataset.p), image = pair.querySelector(".sage-shared img");
    const cut = Object.assign(document.createElement("canvas"), { width: tile, height: tile });
    const from = [column * tile, points[point].shared.row * tile, tile, tile];
    cut.getContext("2d").drawImage(sheet, ...from, 0, 0, tile, tile);
    return cut.toDataURL() === image.src;
  });
}"""


def test_another_example_brings_its_own_pictures_also_after_scrubbing(arrive):
    page = arrive()
    drag_by_keys(page, "#branch-step", "ArrowRight", 5)
    for example in (each for each in EXAMPLE_SETS if each.ready):
        find(page, f"#example-{example.key}").click()
        expect(find(page, ".sage-pair")).to_have_count(len(example.prompts))
        shows(page, "#pictures", example.prompts[-1])
        page.wait_for_function(f"({SHOWN_RIGHTLY})().every(Boolean)")
        assert "undefined" not in find(page, "#pictures").inner_text()


def test_on_a_phone_title_both_sides_handle_and_outcome_stand_in_the_first_view(arrive):
    page = arrive(390, 844, has_touch=True)
    shows(page, "#branch output", "6 of 30 steps shared: recommended")
    for part in ("#sage-title h1", ".sage-pair", "#branch .sage-knob", "#outcome .sage-result"):
        for box in (place.bounding_box() for place in find(page, part).all()):
            assert box["y"] >= 0
            assert box["y"] + box["height"] <= 844, part
    sides = [find(page, f".sage-{side} img").first for side in ("shared", "independent")]
    assert all(side.bounding_box()["width"] >= 70 for side in sides)
    knob = find(page, "#branch .sage-knob").bounding_box()
    assert min(knob["width"], knob["height"]) >= 44
    # The handle stays in reach while the pictures are on the screen.
    page.evaluate("window.scrollTo(0, 60)")
    assert find(page, "#branch .sage-knob").bounding_box()["y"] < 844
    small = """[...document.querySelectorAll('input, textarea')].filter(e => e.offsetParent &&
        e.type !== 'range' && parseFloat(getComputedStyle(e).fontSize) < 16).length"""
    assert page.evaluate(small) == 0
    low = """[...document.querySelectorAll('#card-compare button, #sage-examples button')].filter(
        e => e.offsetParent && !e.matches('.sage-name') && e.offsetHeight < 44).map(e => e.id)"""
    assert page.evaluate(low) == []


def test_a_desktop_shows_everything_in_one_view(arrive):
    page = arrive(1440, 900)
    shows(page, "#advice", "evaluations per picture")  # beside the dial of the budget
    parts = (
        "#prompts textarea",
        "#similarity table",
        "#sage-tree",
        "#branch .sage-knob",
        "#budget",
    )
    boxes = {part: find(page, part).bounding_box() for part in (*parts, "#outcome", "#render")}
    assert all(box["y"] >= 0 and box["y"] + box["height"] <= 900 for box in boxes.values()), boxes
    assert boxes["#sage-tree"]["x"] > boxes["#prompts textarea"]["x"] + 200
    assert page.evaluate("document.documentElement.scrollWidth") <= 1440


BRANCHES_MEET_PICTURES = """() => {
  const plan = JSON.parse(document.querySelector('#plan [data-plan]').dataset.plan);
  const svg = document.querySelector('#plan svg').getBoundingClientRect();
  return plan.order.map((n, k) => {
    const end = svg.top + (svg.height * (k + 0.5)) / plan.order.length;
    const box = document.querySelector(`.sage-pair[data-p="${n}"] .sage-shared .sage-frame`)
      .getBoundingClientRect();
    return Math.abs(end - (box.top + box.bottom) / 2);
  });
}"""


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("example", ["tight", "mixed", "far"])
def test_every_branch_ends_at_its_pictures(arrive, width, example):
    page = arrive(width, 900)
    find(page, f"#example-{example}").click()
    prompts = next(e.prompts for e in EXAMPLE_SETS if e.key == example)
    expect(find(page, ".sage-pair")).to_have_count(len(prompts))
    page.wait_for_function(f"({BRANCHES_MEET_PICTURES})().every(gap => gap < 3)")


def test_on_arrival_the_handle_plays_once_and_comes_to_rest(arrive):
    page = arrive(reduced_motion="no-preference")
    seen = page.evaluate(
        """async () => {
            const knob = document.querySelector('#branch .sage-knob'), seen = [];
            const until = performance.now() + 20000;
            while (performance.now() < until) {
              const at = Number(knob.getAttribute('aria-valuenow'));
              if (seen.at(-1) !== at) seen.push(at);
              if (seen.includes(30) && at === 6) break;
              await new Promise(requestAnimationFrame);
            }
            return seen; }"""
    )
    assert 30 in seen
    assert seen[-1] == 6
    page.wait_for_timeout(1500)
    expect(find(page, "#branch .sage-knob")).to_have_attribute("aria-valuenow", "6")


def test_the_handle_can_be_dragged_and_keyed_and_leads_the_form(arrive):
    page = arrive()
    knob = find(page, "#branch .sage-knob")
    rail = find(page, "#branch .sage-rail").bounding_box()
    page.mouse.move(rail["x"] + rail["width"] * 0.4, rail["y"] + 22)
    page.mouse.down()
    page.mouse.move(rail["x"] + rail["width"] * 0.8, rail["y"] + 22, steps=5)
    page.mouse.up()
    expect(knob).to_have_attribute("aria-valuenow", "24")
    expect(knob).to_have_attribute("aria-valuetext", "24 of 30 steps shared: too late to branch")
    for key, value in (("Home", "0"), ("End", "30"), ("ArrowLeft", "29"), ("PageDown", "24")):
        knob.press(key)
        expect(knob).to_have_attribute("aria-valuenow", value)
    slider = find(page, "#branch-step input[type=range]")
    expect(slider).to_have_value("24")
    page.wait_for_function(f"({SHOWN_RIGHTLY})().every(Boolean)")


def test_which_one_is_shared_is_counted_in_the_browser(arrive):
    page = arrive()
    find(page, "[data-do=guess]").click()
    page.context.set_offline(True)  # whatever needed the server would fail
    for _ in range(4):
        find(page, ".sage-guess-pair button").first.click()
    shows(page, ".sage-guess-prompt", "of 4 right; by chance it would be about 2")


def test_a_picture_to_share_is_one_click(arrive, tmp_path):
    from PIL import Image

    page = arrive()
    with page.expect_download() as download:
        find(page, "[data-do=share]").click()
    download.value.save_as(tmp_path / "card.png")
    width, height = Image.open(tmp_path / "card.png").size
    assert width >= 1200
    assert height >= 600


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_figures_can_be_read_in_both_themes(visit, theme):
    page = visit(theme=theme)
    script = """selector => {
        const tone = c => { const [r, g, b] = c.match(/[0-9.]+/g).map(Number);
                            return (r + g + b) / 3 };
        const style = e => getComputedStyle(e);
        const card = document.querySelector('#card-similarity');
        return [tone(style(card).backgroundColor),
                tone(style(document.querySelector(selector)).color)] }"""
    for selector in ("#similarity th", "#similarity td > button", "#pictures .sage-name"):
        background, text = page.evaluate(script, selector)
        assert abs(background - text) > 128
        assert (background < 128) == (theme == "dark")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_accessibility(visit, theme):
    page = visit(theme=theme)
    type_prompts(page)
    render(page)
    expect(find(page, "#render")).to_be_enabled()
    check_accessibility(page)


def test_on_arrival_a_finished_comparison_can_be_scrubbed_without_a_model(arrive):
    page = arrive()
    expect(find(page, ".sage-pairs[data-state=done] .sage-frame img")).to_have_count(12)
    shows(page, "#progress", "Precomputed")
    shows(page, ".sage-shot.sage-shared >> nth=0", "for 6 steps")
    unfold(page, "fold-cost")
    picture = find(page, ".sage-shared img").first
    old = picture.get_attribute("src")
    # Within one task of the browser, so that no answer from a server can have come in between.
    new = page.evaluate(
        """async () => {
            const knob = document.querySelector('#branch .sage-knob');
            for (let k = 0; k < 18; k++)
              knob.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight', bubbles: true}));
            await new Promise(requestAnimationFrame);
            await new Promise(requestAnimationFrame);
            return document.querySelector('.sage-shared img').src }"""
    )
    assert new != old
    shows(page, ".sage-shot.sage-shared >> nth=0", "for 24 steps")
    shows(page, "#branch output", "24 of 30 steps shared")
    shows(page, "#outcome", "48 evaluations instead of 120")
    shows(page, "#outcome", "measured at 6 shared steps")
    shows(page, "#estimate", "24 of 30 steps shared")
    # Another example is as ready as the first.
    find(page, "#example-far").click()
    expect(find(page, ".sage-pair")).to_have_count(2)
    shows(page, "#progress", "Precomputed")
    # What is typed needs the model.
    find(page, "#prompts textarea").fill("a fox\na dog")
    shows(page, "#prompts-note .sage-error", "there is no model in this test")
    expect(find(page, "#prompts textarea")).to_have_value("a fox\na dog")


def lit(page):
    """The prompts that are lit in each part of the page."""
    return page.evaluate(
        """() => Object.fromEntries(['chips', 'similarity', 'plan', 'pictures', 'flops'].map(id =>
            [id, [...new Set([...document.querySelectorAll(`#${id} .sage-lit`)].flatMap(
                e => e.dataset.p.split(' ').length === 1 ? [e.dataset.p] : []))].sort()]))"""
    )


def test_one_prompt_lights_up_everywhere(arrive):
    page = arrive()
    unfold(page, "fold-groups")
    assert set(map(tuple, lit(page).values())) == {()}
    for place in ("#chips .sage-name", "#pictures figure", "#similarity th"):
        find(page, f"{place}[data-p='2']").first.hover()
        found = lit(page)
        assert found["chips"] == found["similarity"] == found["plan"] == found["pictures"] == ["2"]
    # A click keeps it, Escape lets go; the keyboard does the same.
    name = find(page, "#chips .sage-name[data-p='1']")
    name.click()
    page.mouse.move(5, 5)
    assert lit(page)["pictures"] == ["1"]
    expect(name).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("Escape")
    name.blur()
    assert lit(page)["pictures"] == []
    name.focus()
    page.keyboard.press("Enter")
    assert lit(page)["pictures"] == ["1"]


def faint(page):
    """How many pictures stand back behind others."""
    return page.evaluate(
        """() => [...document.querySelectorAll('#pictures .sage-pair')].filter(
            (pair) => getComputedStyle(pair).opacity < 1).length"""
    )


def test_pictures_that_are_drawn_anew_do_not_all_stand_back(arrive):
    """What was lit before is lit again, or nothing is, where it is no longer there."""
    page = arrive()
    find(page, "#similarity th[data-p='3']").first.click()
    page.mouse.move(5, 5)
    assert faint(page) == 3
    find(page, "#example-two").click()
    shows(page, "#similarity", "whale")
    page.mouse.move(5, 5)
    assert lit(page)["pictures"] == ["3"]
    find(page, "#example-far").click()
    expect(find(page, ".sage-pair")).to_have_count(2)
    page.mouse.move(5, 5)
    assert faint(page) == 0


def test_only_a_pointer_that_moves_makes_pictures_stand_back(arrive):
    page = arrive(width=390, height=844)
    find(page, "#render").scroll_into_view_if_needed()
    box = find(page, "#render").bounding_box()
    page.mouse.move(box["x"] + 20, box["y"] + 20)
    page.evaluate("scrollTo(0, 0)")  # pictures beneath it now
    page.wait_for_timeout(300)
    assert faint(page) == 0
    picture = find(page, "#pictures img").first
    over = {"pointerType": "touch", "bubbles": True, "screenX": 1}
    picture.dispatch_event("pointerover", over)
    assert faint(page) == 0
    picture.dispatch_event("pointerover", over | {"pointerType": "mouse", "screenX": 2})
    assert faint(page) == 3


def test_a_cell_of_the_matrix_explains_its_pair(arrive):
    page = arrive()
    cell = find(page, "#similarity button[data-p='0 2']")
    cell.click()
    words = find(page, ".sage-pair-words")
    expect(words).to_contain_text("P1 a panda in the snow")
    expect(words).to_contain_text("same group")
    assert words.locator("mark").all_inner_texts() == ["panda", "koala"]
    # One stop for the tab key; arrows move inside.
    stops = find(page, "#similarity button[tabindex='0']")
    expect(stops).to_have_count(1)
    stops.focus()
    page.keyboard.press("ArrowDown")
    focused = page.evaluate("document.activeElement.dataset.p")
    page.keyboard.press("Enter")
    expect(find(page, ".sage-picked")).to_have_attribute("data-p", focused)


def test_tabs_have_addresses(arrive):
    page = arrive()
    tabs = find(page, "#sage-tabs [role=tab]")
    names = tabs.all_inner_texts()
    assert names[0] == "Studio"
    for name in names[1:]:
        page.get_by_role("tab", name=name).click()
        assert page.evaluate("location.hash") == f"#{name.lower()}"
    page.get_by_role("tab", name="Studio").click()
    assert page.evaluate("location.hash") == "#studio"


def test_back_returns_to_the_tab_before_with_the_form_as_it_is(visit):
    page = visit()
    page.get_by_role("tab", name="Lesson").click()
    page.get_by_role("tab", name="Explore").click()
    page.go_back()
    expect(page.get_by_role("tab", name="Lesson")).to_have_attribute("aria-selected", "true")
    page.get_by_role("tab", name="Studio").click()
    find(page, "#prompts textarea").fill("a cat in space\na dog in space")
    page.wait_for_function("location.search.includes('space')")
    page.go_back()
    expect(page.get_by_role("tab", name="Lesson")).to_have_attribute("aria-selected", "true")
    page.wait_for_function("location.search.includes('space')")
    page.go_back()  # to the address of the arrival, which names no tab
    expect(page.get_by_role("tab", name="Studio")).to_have_attribute("aria-selected", "true")
    expect(find(page, "#prompts textarea")).to_have_value("a cat in space\na dog in space")
    assert page.evaluate("location.hash") == ""


def test_an_address_opens_its_tab(arrive):
    page = arrive(address="#lesson")
    lesson = page.get_by_role("tab", name="Lesson")
    expect(lesson).to_have_attribute("aria-selected", "true")


@pytest.mark.parametrize("width", [390, 1440])
def test_the_first_view_is_accessible_and_fits(arrive, width):
    page = arrive(width, 844, "dark" if width == 390 else "light")
    expect(find(page, ".sage-pairs[data-state=done]")).to_be_visible()
    unfold(page, "advanced")
    expect(find(page, "#scheduler")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    check_accessibility(page)


def test_the_keyboard_reaches_every_control_in_order(visit):
    page = visit()
    find(page, "#prompts textarea").focus()
    reached = []
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate(
                "[...function*(e) { for (; e; e = e.parentElement) yield e.id }"
                "(document.activeElement)].filter(Boolean)"
            )
        )
        if "fold-method" in reached[-1]:
            break
    # The tools are away as long as there are no pictures to guess or to share.
    names = ("example-tight", "example-far", "branch", "render", "seed", "fold-groups")
    order = [next(k for k, ids in enumerate(reached) if name in ids) for name in names]
    assert order == sorted(order), reached


def test_sixteen_prompts_can_be_read_and_a_product_fills_a_table(visit):
    page = visit()
    text = "a {fox|dog|cat|whale} {in snow|under water|in the snow|in water}"
    find(page, "#prompts textarea").fill("\n".join(expand_sets(text).texts))
    expect(find(page, ".sage-pair")).to_have_count(16)
    page.wait_for_function(f"({BRANCHES_MEET_PICTURES})().every(gap => gap < 3)")
    heads = [head.bounding_box() for head in find(page, "#similarity thead th").all()]
    assert all(a["x"] + a["width"] <= b["x"] + 1 for a, b in pairwise(heads))
    names = find(page, "#pictures .sage-prompt").all()
    assert all(
        name.evaluate("e => parseFloat(getComputedStyle(e).fontSize)") >= 13 for name in names
    )
    # The same as one product: rows and columns in words, one side at a time.
    find(page, "#prompts textarea").fill("a {fox|dog} {in snow|under water}")
    shows(page, "#prompts-note", "2 × 2 = 4 prompts")
    expect(find(page, "#pictures .sage-row")).to_have_text(["fox", "dog"])
    expect(find(page, "#pictures .sage-column")).to_have_text(["in snow", "under water"])
    expect(find(page, "#plan .sage-end")).to_have_count(4)
    render(page)
    boxes = [find(page, f".sage-pair[data-p='{n}']").bounding_box() for n in range(4)]
    assert boxes[0]["y"] == boxes[1]["y"] < boxes[2]["y"] == boxes[3]["y"]
    assert boxes[0]["x"] == boxes[2]["x"] < boxes[1]["x"] == boxes[3]["x"]
    expect(find(page, ".sage-shared img").first).to_be_visible()
    find(page, ".sage-switch button[data-side=independent]").click()
    expect(find(page, ".sage-independent img").first).to_be_visible()
    expect(find(page, ".sage-shared img").first).to_be_hidden()
    # It comes back as it was typed, and the pictures follow when it is written as lines.
    page.wait_for_function("location.search.includes('set=a+%7Bfox')")
    find(page, "#prompts textarea").fill(
        "\n".join(expand_sets("a {fox|dog} {in snow|under water}").texts)
    )
    expect(find(page, ".sage-table")).to_have_count(0)
    expect(find(page, ".sage-pairs img")).to_have_count(12)


def test_the_address_follows_the_form_and_brings_it_back(visit):
    page = visit()
    type_prompts(page)
    page.wait_for_function("location.search.includes('prompt=a+whale')")
    page.reload()
    shows(page, "#pictures", "a whale under water")
    expect(find(page, "#prompts textarea")).to_have_value(PROMPTS)
    assert find(page, ".sage-pairs img").count() == 0  # never above another set's pictures


def test_a_lesson_step_has_an_address_and_back_returns(arrive):
    page = arrive()
    page.get_by_role("tab", name="Lesson").click()
    find(page, ".lesson-go[data-go='1']").click()
    page.wait_for_function("location.hash === '#lesson/1'")
    find(page, ".lesson-go[data-go='1']").click()
    page.wait_for_function("location.hash === '#lesson/2'")
    page.go_back()
    shows(page, ".lesson-where", "Step 1")
