"""Figures as SVG text: lines with intervals, labelled at the lines, for pages and phones.

One column of panels, so that every letter can be read where a phone shrinks the figure to its
width. Colours follow the reader's light or dark mode; equal results give equal files. Knows
results' rows and pixels; nothing of how numbers came about.
"""

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from sage.core.words import plural

Row = dict[str, Any]
Result = dict[str, Any]

WIDTH, SHOWN = 440, 560  # units of the drawing, and pixels where there is room for them
LEFT, LABELS = 50, 128  # room for numbers on the left and for labels on the right
PLOT_HEIGHT, ROW_HEIGHT = 190, 19
LETTER, BOLD = 0.53, 0.62  # width of a letter in font sizes, about
BAR_LABELS = 150  # room for labels to the left of bars
LABEL_SIZE, LINE_HEIGHT = 12, 14
TILE_HEIGHT = 26
MAX_SERIES = 6
MOST_DOTS = 20  # a line of more points is a curve, without dots
QUALITY = ("fd", "clip", "probe")
X_TITLES = {
    "evaluations": "evaluations a picture",
    "gigaflops": "GFLOPs a picture",
    "saving": "evaluations saved",
}

# Okabe & Ito (2008), distinguishable with any colour vision, darker or brighter where the
# background needs it; grey for the baseline.
LIGHT = ("#6b6b6b", "#0072b2", "#c44e00", "#007f5c", "#b0508a", "#8a6d00", "#2f2f2f")
DARK = ("#a8a8a8", "#5cb8f2", "#ff9a57", "#3fd0a3", "#e79cc4", "#f0c948", "#e4e4e4")
INK = {"paper": ("#ffffff", "#14171a"), "ink": ("#222222", "#e6e6e6"),
       "soft": ("#5c5c5c", "#aaaaaa"), "grid": ("#e4e4e4", "#33383d")}  # fmt: skip


@dataclass(frozen=True)
class Point:
    """A number with its interval at a place."""

    x: float
    value: float
    low: float
    high: float

    @classmethod
    def of(cls, x: float, number: Mapping[str, float]) -> "Point":
        """From "value", "low" and "high"."""
        return cls(x, number["value"], number["low"], number["high"])


@dataclass(frozen=True)
class Series:
    """Points of one method.

    Attributes:
        name: Written beside its last point.
        points: In their order along x.
        colour: Number of a colour.
        joined: Whether a line joins them and a band shows their intervals.
    """

    name: str
    points: Sequence[Point]
    colour: int
    joined: bool = True


@dataclass(frozen=True)
class Panel:
    """Numbers against a quantity.

    Attributes:
        title: Of the numbers.
        x_title: Of the quantity.
        series: At most six.
        percent: Whether the quantity is a share.
        log: Whether its axis is logarithmic.
        ticks: Where to write its numbers; round ones without it.
        window: A stretch of the quantity that is shaded, and what it is.

    Raises:
        ValueError: If there are more series than can be told apart.
    """

    title: str
    x_title: str
    series: Sequence[Series]
    percent: bool = False
    log: bool = False
    ticks: Sequence[float] = ()
    window: tuple[float, float, str] | None = None

    def __post_init__(self) -> None:
        if len(self.series) > MAX_SERIES:
            raise ValueError(f"A panel has {len(self.series)} series; allowed are {MAX_SERIES}.")


@dataclass(frozen=True)
class Bars:
    """Numbers one below the other, each with its interval.

    Attributes:
        title: Of the numbers.
        rows: Label and, for each series, the number or None.
        names: Of the series, with the number of their colour.
        percent: Whether numbers are shares.
        zero: Whether 0 is marked.
    """

    title: str
    rows: Sequence[tuple[str, Sequence[Mapping[str, float] | None]]]
    names: Sequence[tuple[str, int]] = (("", 1),)
    percent: bool = False
    zero: bool = False


@dataclass(frozen=True)
class Tile:
    """A cell of a map.

    Attributes:
        colour: Number of its colour.
        words: Written on it; few letters.
        about: Said where a pointer rests on it.
    """

    colour: int
    words: str
    about: str = ""


@dataclass(frozen=True)
class Tiles:
    """A map: who wins, over two quantities.

    Attributes:
        title: Of the judge.
        x_title: What the columns are.
        columns: Their values.
        y_title: What the rows are.
        rows: Their values, each with its tiles.
        names: What the colours mean.
    """

    title: str
    x_title: str
    columns: Sequence[str]
    y_title: str
    rows: Sequence[tuple[str, Sequence[Tile]]]
    names: Sequence[tuple[str, int]] = ()


@dataclass(frozen=True)
class Figure:
    """Panels with a title and the conditions of their numbers."""

    title: str
    panels: Sequence[Panel | Bars | Tiles]
    note: str = ""


# --- from a result to panels ------------------------------------------------------------------


def metric_title(result: Result, key: str) -> str:
    """A metric's name, and which way is better."""
    metric = result["metrics"][key]
    return (
        metric["title"]
        + {1: ", higher is better", -1: ", lower is better", 0: ""}[metric["better"]]
    )


def by_key(rows: Sequence[Row], key: str = "name") -> dict[Any, list[Row]]:
    """Rows by one of their values, in their order."""
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault(row[key], []).append(row)
    return groups


def wanted(result: Result, keys: Sequence[str]) -> list[str]:
    """Those of some metrics that were measured; the distance in pixels, which always is, if none.

    Args:
        result: Of a study.
        keys: Of metrics.
    """
    return [key for key in keys if key in result["metrics"]] or ["pixels"]


def metric_panels(
    result: Result,
    keys: Sequence[str],
    series: Mapping[str, Sequence[Row]],
    x: Callable[[Row], float],
    x_title: str,
    *,
    scattered: Sequence[str] = (),
    **options: Any,
) -> list[Panel]:
    """A panel for each metric.

    Args:
        result: Of a study.
        keys: Metrics; those that were not measured are left out.
        series: Rows of every line by its name; the first is the baseline, in grey.
        x: Where a row lies.
        x_title: What x is.
        scattered: Series whose points are not joined.
        **options: Further fields of a `Panel`.
    """
    panels = []
    for key in keys:
        lines = []
        for colour, (name, rows) in enumerate(series.items()):
            measured = [row for row in rows if key in row["metrics"]]
            points = sorted(
                (Point.of(x(row), row["metrics"][key]) for row in measured), key=lambda p: p.x
            )
            if points:
                lines.append(Series(name, points, colour, name not in scattered))
        panels.append(Panel(metric_title(result, key), x_title, lines, **options))
    return panels


def line_figure(
    x: str,
    keys: Sequence[str] = QUALITY,
    series: Callable[[Result], Mapping[str, Sequence[Row]]] | None = None,
    title: str = "",
    **options: Any,
) -> Callable[[Result], Figure]:
    """What draws metrics against a value of every row.

    Args:
        x: The value, a key of `X_TITLES`.
        keys: Metrics, of which the measured ones are shown.
        series: From a result to the rows of every line by its name; by the rows' own without it.
        title: Of the figure; the study's without it.
        **options: Of `metric_panels`.
    """

    def figure(result: Result) -> Figure:
        lines = by_key(result["rows"]) if series is None else series(result)
        shown = wanted(result, keys)
        panels = metric_panels(result, shown, lines, lambda row: row[x], X_TITLES[x], **options)
        return Figure(title or result["title"], panels, caption(result))

    return figure


def guidance_words(conditions: Mapping[str, Any]) -> str:
    """The guidance of a result: one scale, or the least and the largest where budgets differ."""
    chosen = conditions.get("guidance_by_budget", {}).values()
    scales = {scale for some in chosen for scale in some.values()}
    scales = scales or {conditions["guidance_scale"]}
    if len(scales) == 1:
        return f"guidance {scales.pop():g}"
    return f"guidance {min(scales):g} to {max(scales):g}, fitted to the budget"


def caption(result: Result) -> str:
    """The conditions of a result in one line."""
    c = result["conditions"]
    sizes = {row["pictures"] for row in result["rows"] if "pictures" in row}
    count = f"{min(sizes)}" if len(sizes) == 1 else f"{min(sizes)} to {max(sizes)}" if sizes else ""
    parts = [
        c["model"],
        f"{count} pictures a row" if count else "",
        f"{c['steps']} DDIM steps" if c["scheduler"].startswith("DDIM") else f"{c['steps']} steps",
        guidance_words(c),
        plural(c["noise_seeds"], "noise seed"),
        "95 % intervals over groups" if count else "",
    ]
    return " · ".join(part for part in parts if part)


# --- drawing ----------------------------------------------------------------------------------


def svg(figure: Figure) -> str:
    """The figure as an SVG file."""
    canvas = _Canvas()
    canvas.paragraph(figure.title, size=17, style="title")
    for panel in figure.panels:
        canvas.y += 14
        canvas.paragraph(panel.title, size=14, style="head")
        if isinstance(panel, Bars):
            _draw_bars(canvas, panel)
        elif isinstance(panel, Tiles):
            _draw_tiles(canvas, panel)
        else:
            _draw_panel(canvas, panel)
    canvas.y += 10
    canvas.paragraph(figure.note, size=12, style="soft")
    height = math.ceil(canvas.y + 12)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
            f'width="{SHOWN}" height="{round(height * SHOWN / WIDTH)}" role="img" '
            f'aria-label="{escape(figure.title)}">',
            f"<style>{_style()}</style>",
            f'<rect class="paper" width="{WIDTH}" height="{height}"/>',
            *canvas.parts,
            "</svg>\n",
        ]
    )


def _style() -> str:
    """Classes for everything that has a colour, in light and in dark."""

    def colours(dark: bool) -> str:
        ink = {name: pair[dark] for name, pair in INK.items()}
        rules = [f".paper{{fill:{ink['paper']}}}", f"text{{fill:{ink['ink']}}}"]
        rules += [f".soft{{fill:{ink['soft']}}}", f".grid{{stroke:{ink['grid']}}}"]
        rules += [f".axis{{stroke:{ink['soft']}}}", f".window{{fill:{ink['soft']}}}"]
        for n, colour in enumerate((LIGHT, DARK)[dark]):
            rules.append(f".s{n}{{stroke:{colour}}}.f{n}{{fill:{colour}}}")
        return "".join(rules)

    return (
        "text{font-family:system-ui,Helvetica,Arial,sans-serif;white-space:pre}"
        ".title,.head{font-weight:600}.line{fill:none;stroke-width:2;stroke-linejoin:round}"
        ".t0{opacity:.16}.t1,.t2{opacity:.45}.band{opacity:.13}.window{opacity:.14}.bar{stroke-width:1.4}"
        ".lead{stroke-width:.8;opacity:.6;fill:none}"
        f"{colours(False)}@media(prefers-color-scheme:dark){{{colours(True)}}}"
    )


@dataclass
class _Canvas:
    """What has been drawn so far, and how far down."""

    parts: list[str] = field(default_factory=list)
    y: float = 10

    def text(
        self, x: float, y: float, words: str, style: str, *, size: float, anchor: str = "start"
    ) -> None:
        place = f'x="{_n(x)}" y="{_n(y)}" font-size="{size:g}" text-anchor="{anchor}"'
        self.parts.append(f'<text class="{style}" {place}>{escape(words)}</text>')

    def paragraph(self, words: str, size: float, style: str) -> None:
        """Words broken into lines from margin to margin, below what is there."""
        letter = LETTER if style == "soft" else BOLD
        for line in textwrap.wrap(words, int((WIDTH - 24) / (size * letter))):
            self.y += size * 1.3
            self.text(12, self.y, line, style, size=size)

    def path(self, shape: str, style: str, places: Sequence[tuple[float, float]]) -> None:
        points = " ".join(f"{_n(x)},{_n(y)}" for x, y in places)
        self.parts.append(f'<{shape} class="{style}" points="{points}"/>')

    def line(self, x1: float, y1: float, x2: float, y2: float, style: str) -> None:
        ends = f'x1="{_n(x1)}" y1="{_n(y1)}" x2="{_n(x2)}" y2="{_n(y2)}"'
        self.parts.append(f'<line class="{style}" {ends}/>')

    def tile(self, x: float, y: float, width: float, height: float, tile: Tile) -> None:
        """A rectangle in a colour, with words on it and a thin gap around it."""
        title = f"<title>{escape(tile.about)}</title>" if tile.about else ""
        place = f'x="{_n(x + 1)}" y="{_n(y + 1)}" width="{_n(width - 2)}"'
        style = f"t{tile.colour} f{tile.colour}"
        size = f'height="{_n(height - 2)}" rx="3"'
        self.parts.append(f'<rect class="{style}" {place} {size}>{title}</rect>')
        where = (x + width / 2, y + height / 2 + 4)
        self.text(*where, tile.words, "" if tile.colour else "soft", size=11, anchor="middle")

    def dot(self, x: float, y: float, colour: int, about: str) -> None:
        title = f"<title>{escape(about)}</title>"
        place = f'cx="{_n(x)}" cy="{_n(y)}" r="3.6"'
        self.parts.append(f'<circle class="f{colour}" {place}>{title}</circle>')


@dataclass(frozen=True)
class _Scale:
    """From values to pixels."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.end - self.start)


def _range(values: Sequence[float], log: bool = False) -> tuple[float, float]:
    """Somewhat more than the range of values, and never empty."""
    low, high = min(values), max(values)
    if log:
        return low / 1.08, high * 1.08
    pad = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return low - pad, high + pad


def _ticks(low: float, high: float, number: int = 4) -> list[float]:
    """Round numbers in a range, about as many as asked for."""
    step = 10 ** math.floor(math.log10((high - low) / number))
    step *= min((1, 2, 5, 10), key=lambda m: abs((high - low) / (m * step) - number))
    first = math.ceil(low / step - 1e-9)
    return [n * step for n in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = (m * 10.0**d for d in decades for m in (1, 2, 5))
    return [tick for tick in ticks if low <= tick <= high]


def _draw_panel(canvas: _Canvas, panel: Panel) -> None:
    """Axes, intervals, lines, then labels on top."""
    points = [p for series in panel.series for p in series.points]
    letters = int((LABELS - 14) / (LABEL_SIZE * LETTER))
    labels = [textwrap.wrap(series.name, letters) for series in panel.series]
    height = max(PLOT_HEIGHT, sum(len(lines) * LINE_HEIGHT + 4 for lines in labels))
    top, right = canvas.y + 12, WIDTH - LABELS
    xs = [p.x for p in points] + list(panel.window[:2] if panel.window else ())
    x = _Scale(*_range(xs, panel.log), LEFT, right, panel.log)
    y = _Scale(*_range([v for p in points for v in (p.low, p.high)]), top + height, top)
    _draw_axes(canvas, panel, x, y)
    for series in panel.series:
        _draw_series(canvas, series, x, y)
    _draw_labels(canvas, panel, labels, x, y)
    canvas.text(
        (LEFT + right) / 2, top + height + 34, panel.x_title, "soft", size=12.5, anchor="middle"
    )
    canvas.y = top + height + 40


def _draw_axes(canvas: _Canvas, panel: Panel, x: _Scale, y: _Scale) -> None:
    if panel.window:
        low, high, words = panel.window
        place = f'x="{_n(x(low))}" width="{_n(x(high) - x(low))}"'
        size = f'y="{_n(y.end)}" height="{_n(y.start - y.end)}"'
        canvas.parts.append(f'<rect class="window" {place} {size}/>')
        canvas.text(x(low) + 4, y.end + 13, words, "soft", size=11)
    for tick in _ticks(y.low, y.high):
        canvas.line(x.start, y(tick), x.end, y(tick), "grid")
        canvas.text(x.start - 6, y(tick) + 4, _number(tick), "soft", size=11.5, anchor="end")
    canvas.line(x.start, y.start, x.end, y.start, "axis")
    ticks = panel.ticks or (_log_ticks if panel.log else _ticks)(x.low, x.high)
    for tick in ticks:
        canvas.line(x(tick), y.start, x(tick), y.start + 4, "axis")
        words = _number(tick, panel.percent)
        canvas.text(x(tick), y.start + 17, words, "soft", size=11.5, anchor="middle")


def _draw_series(canvas: _Canvas, series: Series, x: _Scale, y: _Scale) -> None:
    """A band and a line, or a bar for each point; dots where there are few."""
    points, colour = series.points, series.colour
    if series.joined and len(points) > 1:
        edge = [(p.x, p.high) for p in points] + [(p.x, p.low) for p in reversed(points)]
        for shape, style, places in (
            ("polygon", f"band f{colour}", edge),
            ("polyline", f"line s{colour}", [(p.x, p.value) for p in points]),
        ):
            canvas.path(shape, style, [(x(px), y(py)) for px, py in places])
    else:
        for p in points:
            canvas.line(x(p.x), y(p.low), x(p.x), y(p.high), f"bar s{colour}")
    if len(points) <= MOST_DOTS:
        for p in points:
            about = f"{series.name}: {_words(p.value, p.low, p.high)}"
            canvas.dot(x(p.x), y(p.value), colour, about)


def _draw_labels(
    canvas: _Canvas, panel: Panel, labels: Sequence[Sequence[str]], x: _Scale, y: _Scale
) -> None:
    """Names on the right, in the order of the lines' last points, none on top of another."""
    ends = [max(series.points, key=lambda p: p.x) for series in panel.series]
    order = sorted(range(len(ends)), key=lambda n: y(ends[n].value))
    heights = [len(labels[n]) * LINE_HEIGHT + 4 for n in order]
    centres = _spread_out([y(ends[n].value) for n in order], heights, y.end, y.start)
    for n, centre in zip(order, centres, strict=True):
        colour, start = panel.series[n].colour, (x(ends[n].x) + 4, y(ends[n].value))
        canvas.path(
            "polyline", f"lead s{colour}", [start, (x.end + 2, centre), (x.end + 8, centre)]
        )
        first = centre - (len(labels[n]) - 1) * LINE_HEIGHT / 2 + 4
        for i, line in enumerate(labels[n]):
            canvas.text(x.end + 11, first + i * LINE_HEIGHT, line, f"f{colour}", size=LABEL_SIZE)


def _spread_out(
    centres: Sequence[float], heights: Sequence[float], low: float, high: float
) -> list[float]:
    """Centres moved as little as keeps blocks from overlapping, within low to high if they fit."""
    placed: list[float] = []
    bottom = low
    for centre, height in zip(centres, heights, strict=True):
        placed.append(max(centre, bottom + height / 2))
        bottom = placed[-1] + height / 2
    bottom = high
    for n in reversed(range(len(placed))):
        placed[n] = min(placed[n], bottom - heights[n] / 2)
        bottom = placed[n] - heights[n] / 2
    return placed


def _draw_bars(canvas: _Canvas, bars: Bars) -> None:
    """A row of the table after the other, its label on the left."""
    if len(bars.names) > 1:
        place = 12.0
        for name, colour in bars.names:
            words = f"\N{BLACK CIRCLE} {name}"
            canvas.text(place, canvas.y + 17, words, f"f{colour}", size=LABEL_SIZE)
            place += (len(name) + 4) * LABEL_SIZE * LETTER
        canvas.y += 18
    numbers = [n for _, some in bars.rows for n in some if n is not None]
    ends = [v for n in numbers for v in (n["low"], n["high"])] + [0.0] * bars.zero
    x = _Scale(*_range(ends), BAR_LABELS, WIDTH - 16)
    letters = int((BAR_LABELS - 18) / (LABEL_SIZE * LETTER))
    labels = [textwrap.wrap(label, letters) for label, _ in bars.rows]
    heights = [
        max(ROW_HEIGHT, LINE_HEIGHT * len(lines) + 5, 13 * len(bars.names)) for lines in labels
    ]
    top = canvas.y + 8
    bottom = top + sum(heights)
    for tick in _ticks(x.low, x.high):
        canvas.line(x(tick), top, x(tick), bottom, "grid")
        words = _number(tick, bars.percent)
        canvas.text(x(tick), bottom + 15, words, "soft", size=11.5, anchor="middle")
    if bars.zero:
        canvas.line(x(0), top, x(0), bottom, "axis")
    for (label, some), lines, height in zip(bars.rows, labels, heights, strict=True):
        middle = top + height / 2
        for i, line in enumerate(lines):
            shift = (i - (len(lines) - 1) / 2) * LINE_HEIGHT + 4
            canvas.text(12, middle + shift, line, "", size=LABEL_SIZE)
        for i, (number, (name, colour)) in enumerate(zip(some, bars.names, strict=True)):
            if number is not None:
                y = middle + (i - (len(some) - 1) / 2) * 10
                canvas.line(x(number["low"]), y, x(number["high"]), y, f"bar s{colour}")
                about = _words(number["value"], number["low"], number["high"])
                canvas.dot(x(number["value"]), y, colour, f"{label} {name}".strip() + f": {about}")
        top += height
    canvas.y = bottom + 20


def _draw_tiles(canvas: _Canvas, tiles: Tiles) -> None:
    """A key, then rows of tiles with their values on the left and below."""
    place = 12.0
    for name, colour in tiles.names:
        canvas.text(place, canvas.y + 17, f"\N{BLACK SQUARE} {name}", f"f{colour}", size=LABEL_SIZE)
        place += (len(name) + 4) * LABEL_SIZE * LETTER
    canvas.y += 18 if tiles.names else 0
    left, right = LEFT + 36, WIDTH - 16
    width, top = (right - left) / len(tiles.columns), canvas.y + 8
    middle = top + len(tiles.rows) * TILE_HEIGHT / 2
    for i, line in enumerate(textwrap.wrap(tiles.y_title, 8)):
        canvas.text(12, middle - 4 + i * LINE_HEIGHT, line, "soft", size=11.5)
    for n, (label, some) in enumerate(tiles.rows):
        y = top + n * TILE_HEIGHT
        canvas.text(left - 6, y + TILE_HEIGHT / 2 + 4, label, "soft", size=11.5, anchor="end")
        for m, tile in enumerate(some):
            canvas.tile(left + m * width, y, width, TILE_HEIGHT, tile)
    bottom = top + len(tiles.rows) * TILE_HEIGHT
    for m, label in enumerate(tiles.columns):
        x = left + (m + 0.5) * width
        canvas.text(x, bottom + 15, label, "soft", size=11.5, anchor="middle")
    centre = (left + right) / 2
    canvas.text(centre, bottom + 31, tiles.x_title, "soft", size=12.5, anchor="middle")
    canvas.y = bottom + 37


def _number(value: float, percent: bool = False) -> str:
    text = f"{100 * value:.4g} %" if percent else f"{value:.4g}"
    return text.replace("-", "\N{MINUS SIGN}")


def _words(value: float, low: float, high: float) -> str:
    return f"{value:.4g} ({low:.4g} to {high:.4g})"


def _n(pixels: float) -> str:
    return f"{pixels:.1f}".removesuffix(".0")
