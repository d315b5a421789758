"""What three visitors do, in headless Chromium: a phone, a teacher, and the weight of the page."""

import pytest

from .test_browser import (  # noqa: F401
    PATIENCE,
    _visits,
    arrival,
    arrive,
    check_accessibility,
    chromium,
    find,
    shows,
)

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = sync_api.expect
TABS = ("studio", "lesson", "explore", "evidence")


def open_tab(page, name):
    page.get_by_role("tab", name=name.capitalize(), exact=True).click()
    expect(find(page, f"#tab-{name}")).to_be_visible(timeout=PATIENCE)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_tab_is_accessible_and_fits_a_phone(arrive, theme):  # noqa: F811
    page = arrive(390, 844, theme)
    for name in TABS:
        open_tab(page, name)
        if name == "explore":
            expect(find(page, "button.sage-cell")).to_have_count(12, timeout=PATIENCE)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, name
        check_accessibility(page)


SMALL = """() => [...document.querySelectorAll('.gradio-container *')].filter(e =>
    e.checkVisibility({visibilityProperty: true}) && !e.closest('sub, option') &&
    [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()) &&
    parseFloat(getComputedStyle(e).fontSize) < 18).map(e => e.outerHTML.slice(0, 90))"""


def test_a_teacher_switches_walks_by_keys_and_comes_back(arrive):  # noqa: F811
    page = arrive(1920, 1080)
    find(page, "[data-do=present]").click()
    expect(find(page, "[data-do=present]")).to_have_attribute("aria-pressed", "true")
    assert find(page, "#card-compare").bounding_box()["width"] > 1800
    page.wait_for_function(f"({SMALL})().length === 0", timeout=PATIENCE)  # type grows in a while
    knob = find(page, "#branch .sage-knob")
    before = int(knob.get_attribute("aria-valuenow"))
    page.keyboard.press("ArrowRight")
    expect(knob).to_have_attribute("aria-valuenow", str(before + 1))
    # The lesson: steps and slider by keys, axes on its curve, an address for every step.
    open_tab(page, "lesson")
    find(page, "#lesson-tab-4").click()
    find(page, ".lesson h2").first.evaluate("() => document.activeElement.blur()")
    page.keyboard.press("ArrowRight")
    page.wait_for_function("location.hash === '#lesson/5'")
    page.keyboard.press("ArrowUp")
    expect(find(page, "#branch-out")).to_have_text("13 of 30")
    axes = find(page, "#branch-chart svg line.axis")
    expect(axes).to_have_count(2)
    page.wait_for_function(f"({SMALL})().length === 0", timeout=PATIENCE)
    page.reload()
    expect(find(page, "#lesson-tab-5")).to_have_attribute("aria-selected", "true", timeout=PATIENCE)
    expect(find(page, "[data-do=present]")).to_have_attribute("aria-pressed", "true")
    # Explore has something to show without a model.
    open_tab(page, "explore")
    expect(find(page, "button.sage-cell")).to_have_count(12, timeout=PATIENCE)
    find(page, "button.sage-cell").nth(2).click()
    shows(page, "#explore-cell", "to the pictures made alone")


def test_the_first_comparison_is_sent_once(arrive):  # noqa: F811
    page, sizes = arrive(), []
    page.on("response", lambda r: sizes.append(len(r.body())) if "/run/predict" in r.url else None)
    with page.expect_response(lambda response: "/run/predict" in response.url):
        page.reload()
    shows(page, "#outcome", "evaluations instead of")
    page.wait_for_timeout(2000)
    assert sizes
    assert max(sizes) < 60_000
