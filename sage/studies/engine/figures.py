"""Figures as plain Plotly JSON: lines and points with intervals, in the page's colours.

Builds dictionaries only, so no study needs Plotly; a test hands them to Plotly. Knows results,
nothing of how they came about.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

# Okabe & Ito (2008), distinguishable with any colour vision; grey for what is compared against.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#777777"
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star", "x")
LEGEND_ROW, LEGEND_ENTRY, LETTER = 24, 46, 5.8  # sizes of a legend, about, in pixels
FONT = {"family": "Helvetica, Arial, sans-serif", "size": 13, "color": "#222222"}


def style(number: int) -> dict[str, str]:
    """Colour and symbol of a figure's lines by their number; the first one is the baseline.

    Colours come round again with open symbols.
    """
    if number == 0:
        return {"colour": GREY, "symbol": SYMBOLS[0]}
    turn, place = divmod(number - 1, len(COLOURS))
    symbol = SYMBOLS[(number + turn) % len(SYMBOLS)]
    return {"colour": COLOURS[place], "symbol": symbol + ("-open" if turn else "")}


def interval_trace(
    name: str,
    xs: Sequence[Any],
    numbers: Sequence[Mapping[str, float]],
    *,
    colour: str,
    symbol: str = "circle",
    line: bool = True,
    texts: Sequence[str] | None = None,
    axes: int = 1,
    legend: bool = True,
    sideways: bool = False,
) -> dict[str, Any]:
    """Points with their intervals, vertical ones.

    Args:
        name: In the legend.
        xs: Horizontal positions.
        numbers: "value", "low" and "high" of each point.
        colour: Of points, line and intervals.
        symbol: Of the points.
        line: Whether the points are joined.
        texts: Shown when a point is pointed at.
        axes: Number of the panel.
        legend: Whether it is in the legend.
        sideways: The numbers go along x, with horizontal intervals; `xs` go down.
    """
    number = "" if axes == 1 else str(axes)
    ups = [n["high"] - n["value"] for n in numbers]
    downs = [n["value"] - n["low"] for n in numbers]
    hover = f"%{{text}}<br>%{{{'x' if sideways else 'y'}:.4g}}<extra></extra>"
    values, error = [n["value"] for n in numbers], {
        "type": "data", "array": ups, "arrayminus": downs, "thickness": 1.2, "width": 3,
        "color": colour,
    }  # fmt: skip
    places = {"x": list(xs), "y": values, "error_y": error}
    if sideways:
        places = {"x": values, "y": list(xs), "error_x": error}
    return {
        **places,
        "type": "scatter",
        "mode": "lines+markers" if line else "markers",
        "name": name,
        "legendgroup": name,
        "showlegend": legend,
        "marker": {"color": colour, "symbol": symbol, "size": 9},
        "line": {"color": colour, "width": 1.8},
        "text": list(texts) if texts else None,
        "hovertemplate": hover if texts else None,
        "xaxis": f"x{number}",
        "yaxis": f"y{number}",
    }  # fmt: skip


def panels(
    traces: Sequence[Mapping[str, Any]],
    titles: Sequence[tuple[str, str]],
    *,
    title: str,
    height: int = 400,
    x_format: str | None = None,
    x_range: Sequence[float] | None = None,
    note: str = "",
) -> dict[str, Any]:
    """A figure of panels side by side.

    Args:
        traces: With "xaxis" x, x2, ... by panel.
        titles: For each panel the titles of its x axis and y axis.
        title: Of the figure.
        height: In pixels; each panel is 430 wide.
        x_format: Of the numbers on the x axes, such as ".0%".
        x_range: Of all x axes.
        note: A line below the figure.
    """
    count, gap = len(titles), 0.09
    width = (1 - gap * (count - 1)) / count
    whole = 140 + 430 * count
    names = [trace["name"] for trace in traces if trace.get("showlegend")]
    rows = math.ceil(sum(LEGEND_ENTRY + LETTER * len(name) for name in names) / (whole - 90))
    layout: dict[str, Any] = {
        "title": {
            "text": title,
            "x": 0.01,
            "xanchor": "left",
            "y": 1,
            "yanchor": "top",
            "pad": {"t": 20},
            "font": {"size": 16},
        },
        "font": FONT,
        "width": whole,
        "height": height + 36 + LEGEND_ROW * rows,
        "margin": {"l": 70, "r": 20, "t": 72 + LEGEND_ROW * rows, "b": 84 if note else 60},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
    }
    for n, (x_title, y_title) in enumerate(titles):
        number = "" if n == 0 else str(n + 1)
        start = n * (width + gap)
        line = {
            "gridcolor": "#e5e5e5", "linecolor": "#999999", "zeroline": False, "ticks": "outside",
        }  # fmt: skip
        x_axis = line | {"title": _title(x_title), "anchor": f"y{number}"}
        x_axis["domain"] = [round(start, 4), min(1.0, round(start + width, 4))]
        if x_format:
            x_axis["tickformat"] = x_format
        if x_range:
            x_axis["range"] = list(x_range)
        layout[f"xaxis{number}"] = x_axis
        layout[f"yaxis{number}"] = line | {"title": _title(y_title), "anchor": f"x{number}"}
    if note:
        layout["annotations"] = [
            {"text": note, "xref": "paper", "yref": "paper", "x": 0, "y": 0, "yshift": -64,
             "xanchor": "left", "yanchor": "top", "showarrow": False,
             "font": {"size": 11, "color": "#666666"}}
        ]  # fmt: skip
    return {"data": [_without_none(trace) for trace in traces], "layout": layout}


def _title(text: str) -> dict[str, Any]:
    return {"text": text, "font": {"size": 13}}


def _without_none(trace: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in trace.items() if value is not None}


def axis_title(metric: Mapping[str, Any]) -> str:
    """A metric's name, and which way is better."""
    arrow = {1: " (higher is better)", -1: " (lower is better)", 0: ""}[metric["better"]]
    return metric["title"] + arrow


def caption(result: Mapping[str, Any]) -> str:
    """The conditions of a result in one line, for below a figure."""
    c = result["conditions"]
    sizes = {line["pictures"] for line in result["rows"] if "pictures" in line}
    count = f"{min(sizes)}" if len(sizes) == 1 else f"{min(sizes)} to {max(sizes)}" if sizes else ""
    parts = [
        c["model"],
        f"{count} pictures a row" if count else "",
        f"{c['steps']} DDIM steps" if c["scheduler"].startswith("DDIM") else f"{c['steps']} steps",
        f"guidance {c['guidance_scale']:g}",
        f"{c['noise_seeds']} noise seed{'s' if c['noise_seeds'] > 1 else ''}",
        "bars: 95 % intervals over groups",
    ]
    return " · ".join(part for part in parts if part)
