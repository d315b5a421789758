"""How do τ_min, τ_max and T* trade saving for quality, with the adapter fixed?

A fixed list of random captions, not chosen for being similar, is grouped anew under each pair of
bounds and rendered at each branch point. Settings that no other one beats are named.
"""

from sage.core.grouping import cosine_similarity
from sage.studies.engine.compare import Comparison, Design, Entry, plain_rows, unbeaten
from sage.studies.engine.figures import by_key, line_figure
from sage.studies.engine.lab import Lab
from sage.studies.engine.prompts import bounds, linked, regrouped
from sage.studies.engine.results import Result, Row
from sage.studies.engine.study import Study

RATIOS = (0.3, 0.4, 0.5)
STEP = 0.1  # how far a bound is moved
Window = tuple[float, float]


def windows(low: float, high: float) -> list[Window]:
    """The model's own bounds, then one bound moved at a time."""
    lows = [low - STEP, low + STEP, low + 2 * STEP]
    highs = [high - STEP, 1.0]
    moved = [(low, high), *((new, high) for new in lows), *((low, new) for new in highs)]
    rounded = ((round(a, 3), round(b, 3)) for a, b in moved if -1 <= a < b <= 1)
    return list(dict.fromkeys(rounded))


def design(lab: Lab) -> Design:
    """The same prompts in the groups of every window, at every branch point."""
    sample = lab.painted(lab.loose_prompts(lab.settings.prompts))
    similarity = cosine_similarity(lab.pipe.embed(sample.texts)).numpy()
    entries = []
    for low, high in windows(*bounds(lab.pipe)):
        prompts = regrouped(sample, similarity, linked(similarity, low, high))
        values = {
            "tau_min": low,
            "tau_max": high,
            "groups": len(prompts.groups),
            "sharing": sum(len(group) > 1 for group in prompts.groups),
        }
        entries += [
            Entry(
                f"τ {low:.2f} to {high:.2f}, {ratio:.0%} shared",
                lab.recipe(ratio, lab.settings.sage_adapter),
                values,
                prompts,
            )
            for ratio in RATIOS
        ]
    return Design(entries, sample)


def rows(comparison: Comparison) -> list[Row]:
    """Settings, and whether no other one beats them in both saving and distance to the twins."""
    lines = comparison.lines
    key = "twin" if all("twin" in line.measured.metrics for line in lines) else "pixels"
    points = [(-line.measured.saving, line.value(key)) for line in lines]
    return [
        row | {"pareto": unbeaten(point, points)}
        for row, point in zip(plain_rows(comparison), points, strict=True)
    ]


def optimal(comparison: Comparison) -> list[Row]:
    """The settings that nothing beats."""
    return [row for row in comparison.rows if row["pareto"]]


def answer(result: Result) -> str:
    """The range of savings, and how many settings nothing beats."""
    savings = [row["saving"] for row in result["rows"]]
    number = sum(row["pareto"] for row in result["rows"])
    return (
        f"They save {min(savings):.0%} to {max(savings):.0%} of the evaluations; {number} of "
        f"{len(savings)} settings are beaten by no other in both saving and likeness."
    )


def finding(comparison: Comparison) -> str:
    """One sentence: the range of savings, and the settings that nothing beats."""
    savings = [line.measured.saving for line in comparison.lines]
    best, own = optimal(comparison), comparison.rows[0]
    mine = sum(all(row[key] == own[key] for key in ("tau_min", "tau_max")) for row in best)
    return (
        f"On random captions the settings save {min(savings):.0%} to {max(savings):.0%}; "
        f"{len(best)} of {len(savings)} are Pareto-optimal in saving and distance to the twins "
        f"({'; '.join(row['name'] for row in best)}), {mine} of them with the model's own "
        f"bounds {own['tau_min']:g} to {own['tau_max']:g}."
    )


def series(result: Result) -> dict[str, list[Row]]:
    """The figure's lines: the windows."""
    return by_key(
        [{"window": row["name"].split(",")[0], **row} for row in result["rows"]], "window"
    )


STUDY = Study(
    name="sensitivity",
    title="Bounds of similarity and branch point",
    about=__doc__,
    design=design,
    rows=rows,
    more=lambda comparison: {"pareto": [row["name"] for row in optimal(comparison)]},
    answer=answer,
    finding=finding,
    figure=line_figure("saving", ("twin",), series, percent=True),
    columns={"groups": "groups"},
    defaults={"pictures": 168, "seeds": 1},
)
