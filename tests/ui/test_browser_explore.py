"""Explore, links and downloads in headless Chromium, on the tiny model."""

import json
import re

import pytest
from PIL import Image

from sage.jobs.request import Request
from sage.ui.explore.parts import EARLIER
from sage.ui.export.links import read_link

from .browser import expect, find, listening, pick, set_number, shows, unfold, visits

pytestmark = [pytest.mark.browser, pytest.mark.slow]
LINK = (
    "v=1&model=tiny&prompt=a+fox+in+the+snow&prompt=a+dog+in+the+snow&beta=0.5&steps=4&seed=9"
    "&guidance=abc&scheduler=euler"
)


@pytest.fixture
def visit(pages, server):
    """Opens an address of the page of the tiny models, which may use the clipboard."""
    with visits(pages, server) as open_page:

        def visit(query="", place="", **settings):
            return open_page(
                address=f"&{query}{place}",
                permissions=("clipboard-read", "clipboard-write"),
                reduced_motion="no-preference",
                **settings,
            )

        yield visit


def explore(visit, **settings):
    """The tab, with a small grid asked for by keyboard."""
    page = visit(place="#explore", **settings)
    shows(page, "#explore-cost", "12 runs")
    pick(page, "#explore-down", "Seed")
    find(page, "#explore-prompts textarea").fill("a fox in the snow\na dog in the snow")
    find(page, "#explore-rest > button").first.click()
    set_number(page, "#explore-steps", 4)
    # For each of three seeds: 8 alone, 8 with nothing shared, 7, 6 and 6.
    shows(page, "#explore-cost", "of 105 evaluations")
    return page


def test_opening_explore_asks_once_what_follows(visit):
    """An answer holds the whole grid of pictures."""
    page, asked = visit(), []
    shows(page, "#similarity", "P2")
    listeners = page.evaluate("fetch('/config').then((answer) => answer.json())")["dependencies"]
    (follow,) = (one["id"] for one in listeners if one["api_name"] == "explore_follow")

    def count(request):
        called = json.loads(request.post_data or "{}").get("fn_index")
        asked.extend([request.url] * (called == follow))

    with listening(page, request=count):
        page.get_by_role("tab", name="Explore").click()
        shows(page, "#explore-cost", "12 runs")
        page.wait_for_timeout(1500)  # the second one came 0.7 s after the first
    assert len(asked) == 1
    pick(page, "#explore-down", "Seed")  # what fills the values is heard all the same
    page.wait_for_function("location.search.includes('x-down=seed%3A0')")


def render_grid(page):
    find(page, "#explore-go").click()
    expect(find(page, "#explore-progress .sage-done")).to_be_visible()


def test_a_link_fills_the_page_and_names_what_it_cannot_use(visit):
    page = visit(LINK)
    shows(page, "#opened", "guidance could not be used")
    shows(page, "#branch output", "2 of 4 steps shared")
    expect(find(page, "#prompts textarea")).to_have_value("a fox in the snow\na dog in the snow")
    expect(find(page, "#seed input")).to_have_value("9")


def test_an_opened_link_asks_for_pictures_only_as_long_as_there_are_none(visit):
    page = visit("v=1&model=tiny&prompt=a+fox&prompt=a+dog&steps=4")
    shows(page, "#opened", "Render to see their pictures")
    find(page, "#render").click()
    expect(find(page, "#pictures img").first).to_be_visible()
    expect(find(page, "#opened")).to_be_hidden()


@pytest.fixture
def opening(visit, server):
    """A page whose link has not been answered yet, and what lets the answers through."""
    page, held, free = visit(), [], []

    def hold(route):
        link = "seed=9" in (route.request.post_data or "")
        return held.append(route) if link and not free else route.continue_()

    def let_through():
        free.append(True)
        for route in held:
            route.continue_()

    page.route(re.compile("run/predict"), hold)
    page.goto(f"{server}/?{LINK}")
    shows(page, "#similarity", "P2")
    page.wait_for_function("document.querySelector('#render:not(:disabled)')")
    return page, let_through


def test_what_is_typed_while_a_link_opens_is_not_lost(opening):
    """The link fills everything else."""
    page, let_through = opening
    find(page, "#prompts textarea").fill("a cat in the snow\na whale under water")
    shows(page, "#prompts-note", "2 prompts")
    assert "seed=9" in page.url  # the address of the link, until it is open
    let_through()
    shows(page, "#opened", "guidance could not be used")
    expect(find(page, "#seed input")).to_have_value("9")
    prompts = find(page, "#prompts textarea")
    expect(prompts).to_have_value("a cat in the snow\na whale under water")
    page.wait_for_function(
        "location.search.includes('whale') && location.search.includes('seed=9')"
    )
    shows(page, "#pictures", "a whale under water")


def test_what_is_chosen_while_a_link_opens_is_not_lost(opening):
    page, let_through = opening
    unfold(page, "advanced")
    pick(page, "#scheduler", "Heun")
    let_through()
    shows(page, "#opened", "guidance could not be used")
    expect(find(page, "#seed input")).to_have_value("9")
    expect(find(page, "#scheduler input")).to_have_value(re.compile("Heun"))
    page.wait_for_function(
        "location.search.includes('scheduler=heun') && location.search.includes('seed=9')"
    )


def test_a_copied_link_rebuilds_the_run(visit, shelf, tmp_path):
    page = visit(LINK)
    shows(page, "#branch output", "2 of 4 steps shared")
    unfold(page, "fold-travel")
    find(page, "#render").click()
    expect(find(page, ".sage-pairs[data-state=done]")).to_be_visible()
    find(page, "#copy-link").click()
    shows(page, "#travel-note", "Copied")
    page.wait_for_function("navigator.clipboard.readText().then(text => text.includes('?v=2'))")
    address = page.evaluate("navigator.clipboard.readText()")
    models = {spec.key: spec for spec in shelf.specs}
    values = read_link(address.split("?", 1)[1], models).values
    assert values.pop("model") == "tiny"
    asked = Request.from_dict(values)
    with page.expect_download() as download:
        find(page, "#download-record").click()
    download.value.save_as(tmp_path / "record.json")
    record = json.loads((tmp_path / "record.json").read_text())
    assert Request.from_dict(record["request"]) == asked
    # And the record brings the same settings back onto a fresh page.
    fresh = visit()
    unfold(fresh, "fold-travel")
    find(fresh, "#load-record > button").first.click()
    with fresh.expect_file_chooser() as chooser:
        find(fresh, "#upload-record").click()
    chooser.value.set_files(tmp_path / "record.json")
    shows(fresh, "#opened", "These settings come from a record")
    shows(fresh, "#branch output", "2 of 4 steps shared")
    expect(find(fresh, "#seed input")).to_have_value("9")


def test_pictures_and_lines_are_downloads(visit, tmp_path):
    page = visit(LINK)
    shows(page, "#branch output", "2 of 4 steps shared")
    unfold(page, "fold-travel")
    expect(find(page, "#download-grid")).to_be_disabled()
    find(page, "#render").click()
    expect(find(page, "#download-grid")).to_be_enabled()
    for button, name in (("#download-grid", "grid.png"), ("#download-lines", "run.py")):
        with page.expect_download() as download:
            find(page, button).click()
        download.value.save_as(tmp_path / name)
    assert Image.open(tmp_path / "grid.png").width == 1560
    compile((tmp_path / "run.py").read_text("utf-8"), "run.py", "exec")


def test_a_grid_is_rendered_chosen_and_laid_open_by_keyboard(visit):
    page = explore(visit)
    find(page, "#explore-go").press("Enter")
    expect(find(page, "#explore-progress .sage-done")).to_be_visible()
    cells = find(page, "button.sage-cell")
    expect(cells).to_have_count(12)
    cells.nth(5).focus()
    page.keyboard.press("Enter")
    shows(page, "#explore-cell", "Open these settings in the Studio")
    expect(find(page, "button.sage-cell[aria-pressed=true]")).to_have_count(1)
    find(page, "#explore-trace").press("Enter")
    expect(find(page, "#explore-trace-progress .sage-done")).to_be_visible()
    expect(find(page, ".sage-tree .sage-end")).to_have_count(2)
    before = find(page, ".sage-tree img").first.get_attribute("src")
    find(page, "#explore-look").get_by_label("latents").check()
    expect(find(page, ".sage-tree img").first).not_to_have_attribute("src", before)


def test_a_cell_opens_in_the_studio(visit):
    page = explore(visit)
    render_grid(page)
    find(page, "button.sage-cell").last.click()
    link = find(page, ".sage-open")
    with page.context.expect_page() as opened:
        link.click()
    studio = opened.value
    shows(studio, "#opened", "These settings come from a link")
    shows(studio, "#branch output", "2 of 4 steps shared")
    expect(find(studio, "#seed input")).to_have_value("2")


def test_a_grid_can_be_stopped(visit):
    page = explore(visit)
    find(page, "#explore-model input").click()
    page.get_by_role("option", name="Slow", exact=True).click()
    shows(page, "#explore-cost", "12 runs")
    find(page, "#explore-go").click()
    shows(page, "#explore-progress", "Run 1 of 15, independent to compare with")
    find(page, "#explore-stop").click()
    shows(page, "#explore-progress", "finished")
    expect(find(page, "#explore-go")).to_be_enabled()


def test_a_stop_before_the_first_run_leaves_the_grid_that_was_there(visit):
    """Fault 24, in Explore."""
    page = explore(visit)
    render_grid(page)
    cells = find(page, "button.sage-cell")
    expect(cells).to_have_count(12)
    pictures = cells.locator("img").evaluate_all("all => all.map(e => e.src)")
    find(page, "#explore-model input").click()
    page.get_by_role("option", name="Slow", exact=True).click()
    shows(page, "#explore-banner", EARLIER)
    find(page, "#explore-go").click()
    shows(page, "#explore-progress", "Run 1 of 15")
    find(page, "#explore-stop").click()
    shows(page, "#explore-progress", "the previous grid is shown")
    expect(cells).to_have_count(12)
    assert cells.locator("img").evaluate_all("all => all.map(e => e.src)") == pictures
    shows(page, "#explore-banner", EARLIER)
    expect(find(page, "#explore-go")).to_be_enabled()


def test_explore_fits_a_phone(visit):
    page = explore(visit, width=390, height=844)
    render_grid(page)
    find(page, "button.sage-cell").first.click()
    shows(page, "#explore-cell", "Spent")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
