"""Figures are small SVG files that a phone can show: nothing overlaps, nothing is cut off."""

import itertools
import re
import xml.etree.ElementTree as ET

import pytest

from sage.studies.engine.figures import (
    MAX_SERIES,
    SHOWN,
    WIDTH,
    Bars,
    Figure,
    Panel,
    Point,
    Series,
    _spread_out,
    by_key,
    metric_panels,
    svg,
)
from sage.studies.engine.lab import RESULTS
from sage.studies.engine.results import read
from sage.studies.engine.study import every
from tests.ui.browser import launched

SVG = "{http://www.w3.org/2000/svg}"
DRAWN = sorted(RESULTS.glob("*.svg"))
# Of every text of the picture: its words and its box, in pixels.
TEXTS = """() => [...document.querySelectorAll('svg text')].map(text => {
  const box = text.getBoundingClientRect();
  return [text.textContent, box.left, box.top, box.right, box.bottom];
})"""


def series(number):
    return [
        Series(f"method {n}", [Point(x, n, n - 1, n + 1) for x in (1.0, 2.0)], n)
        for n in range(number)
    ]


def numbers(value):
    return {"value": value, "low": value - 0.1, "high": value + 0.1}


def test_points_lie_where_their_numbers_say():
    points = [Point(0.0, 1.0, 0.5, 2.0), Point(1.0, 3.0, 2.0, 3.5), Point(0.5, 2.0, 1.5, 2.5)]
    panel = Panel("T", "x", [Series("a", points, 1, joined=False)])
    root = ET.fromstring(svg(Figure("F", [panel])))
    (x0, y0), (x1, y1), (x2, y2) = (
        (float(dot.get("cx")), float(dot.get("cy"))) for dot in root.iter(f"{SVG}circle")
    )
    assert x0 < x2 < x1
    assert y0 > y2 > y1  # up is more
    assert x2 == pytest.approx((x0 + x1) / 2, abs=0.1)
    assert y2 == pytest.approx((y0 + y1) / 2, abs=0.1)
    bars = [line for line in root.iter(f"{SVG}line") if "bar" in line.get("class")]
    assert len(bars) == 3
    assert float(bars[0].get("y1")) > y0 > float(bars[0].get("y2"))


def test_more_series_than_can_be_told_apart_are_refused():
    Panel("T", "x", series(MAX_SERIES))
    with pytest.raises(ValueError, match="has 7 series; allowed are 6"):
        Panel("T", "x", series(MAX_SERIES + 1))


def test_labels_keep_their_order_and_their_distance():
    placed = _spread_out([50, 51, 52, 90], [20, 20, 20, 20], 0, 100)
    assert all(b - a >= 20 for a, b in itertools.pairwise(placed))
    assert placed[0] >= 10
    assert placed[-1] == 90
    assert _spread_out([30.0, 70.0], [20, 20], 0, 100) == [30.0, 70.0]


def test_a_metric_that_was_not_measured_has_no_points():
    rows = [
        {"name": "a", "cost": 2.0, "metrics": {"fd": numbers(2.0)}},
        {"name": "a", "cost": 1.0, "metrics": {"fd": numbers(1.0)}},
        {"name": "b", "cost": 1.0, "metrics": {}},
    ]
    result = {"metrics": {"fd": {"title": "FD", "better": -1}}}
    (panel,) = metric_panels(result, ["fd"], by_key(rows), lambda row: row["cost"], "cost")
    assert panel.title == "FD, lower is better"
    (only,) = panel.series
    assert [(p.x, p.value) for p in only.points] == [(1.0, 1.0), (2.0, 2.0)]


def test_bars_leave_out_what_is_missing():
    bars = Bars("T", [("one", [numbers(1.0), None])], (("a", 0), ("b", 1)), zero=True)
    root = ET.fromstring(svg(Figure("F", [bars])))
    assert [dot.get("class") for dot in root.iter(f"{SVG}circle")] == ["f0"]


def test_words_are_escaped():
    text = svg(Figure("a < b & c", [Panel("T", "x", series(1))], '"quoted"'))
    assert "a < b & c" in {t.text for t in ET.fromstring(text).iter(f"{SVG}text")}


def test_every_study_has_a_figure_in_both_modes():
    assert [path.stem for path in DRAWN] == sorted(study.name for study in every())
    for path in DRAWN:
        text = path.read_text("utf-8")
        assert "prefers-color-scheme:dark" in text
        colours = re.findall(r"#[0-9a-f]{6}", re.sub(r"<style>.*?</style>", "", text))
        assert not colours  # all of them are in the style, where the mode chooses


def test_panels_of_the_stored_results_have_at_most_six_series():
    for study in every():
        result = read(RESULTS, study.name)
        assert result is not None
        assert study.figure(result).panels  # a panel with more would have been refused


@pytest.mark.slow
@pytest.mark.browser
def test_texts_can_be_read_on_a_phone():
    """At 390 pixels: letters of 9 pixels at least, none outside, no two texts on top of another."""
    with launched() as browser:
        page = browser.new_page(viewport={"width": 390, "height": 800})
        for path in DRAWN:
            drawing = path.read_text("utf-8").replace(f'width="{SHOWN}"', 'width="358"')
            drawing = re.sub(r'(width="358") height="\d+"', r"\1", drawing)
            page.set_content(f"<body style='margin:16px'>{drawing}</body>")
            texts = page.evaluate(TEXTS)
            smallest = min(float(s) for s in re.findall(r'font-size="([\d.]+)"', drawing))
            assert smallest * 358 / WIDTH >= 8.9
            for words, left, _, right, _ in texts:
                assert 16 <= left <= right <= 374, (path.name, words)
            for n, (words, left, top, right, bottom) in enumerate(texts):
                for other, left2, top2, right2, bottom2 in texts[n + 1 :]:
                    width = min(right, right2) - max(left, left2)
                    height = min(bottom, bottom2) - max(top, top2)
                    assert width <= 0 or height <= 4, (path.name, words, other)
