"""What a visitor takes home from a finished grid: a sheet of pictures, a table and a record.

Writes files into a folder it is given or makes; knows nothing of gradio.
"""

import base64
import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from sage.core.plan import Plan
from sage.jobs.grid import Grid, RunNumbers, axes
from sage.jobs.repeats import Mean
from sage.ui.html.grids import Shown
from sage.ui.html.sheet import Block, Shot, draw_sheet
from sage.ui.html.words import mean_text
from sage.ui.server.files import filled_folder

_FORMULA = ("=", "+", "-", "@", "\t")  # what a spreadsheet takes for the start of a formula


@dataclass(frozen=True)
class GridFiles:
    """Files of a finished grid.

    Attributes:
        sheet: All cells on one PNG.
        table: One line for each picture, as CSV.
        record: All of it as JSON.
    """

    sheet: Path
    table: Path
    record: Path

    @property
    def are_there(self) -> bool:
        """Whether they have not been cleared away."""
        return all(path.exists() for path in (self.sheet, self.table, self.record))


def save_grid(
    grid: Grid, done: Mapping[int, Shown], record: Mapping[str, Any], title: str
) -> GridFiles:
    """Writes everything that a grid offers for download.

    Args:
        grid: What was varied.
        done: The finished cells.
        record: From `grid_record`.
        title: Of the model.
    """
    with filled_folder() as folder:
        files = GridFiles(*(folder / f"sage-grid.{kind}" for kind in ("png", "csv", "json")))
        grid_sheet(grid, done, title).save(files.sheet)
        # With the mark by which spreadsheets know UTF-8; pandas skips it.
        files.table.write_text(table_text(record), encoding="utf-8-sig")
        files.record.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        return files


def grid_record(
    grid: Grid, done: Mapping[int, Shown], plans: Mapping[int, Plan], conditions: Mapping[str, Any]
) -> dict[str, Any]:
    """A grid and all its numbers as plain values, ready for JSON.

    Args:
        grid: What was varied.
        done: The finished cells.
        plans: What each cell ran.
        conditions: Model, hardware and versions.
    """
    return {
        "conditions": dict(conditions),
        "request": grid.base.to_dict(),
        "across": {"setting": grid.across.name, "values": list(grid.across.values)},
        "down": {"setting": grid.down.name, "values": list(grid.down.values)},
        "repeats": grid.repeats,
        "cells": [
            {
                "cell": cell,
                grid.across.name: getattr(grid.requests[cell], grid.across.name),
                grid.down.name: getattr(grid.requests[cell], grid.down.name),
                "groups": [list(row) for row in plans[cell].rows(0)],
                "branch_steps": list(plans[cell].branch_steps),
                "clip": _plain(shown.clip),
                "distance": _plain(shown.distance),
                "runs": [asdict(run) for _, run in sorted(shown.runs.items())],
            }
            for cell, shown in sorted(done.items())
        ],
    }


def _plain(mean: Mean | None) -> dict[str, float | None] | None:
    return None if mean is None else {"mean": mean.value, "half_of_95_interval": mean.half}


def table_text(record: Mapping[str, Any]) -> str:
    """A grid's record as CSV: one line for each picture.

    Prompts that a spreadsheet would compute, which may come from somebody else's link, have an
    apostrophe before them.
    """
    text, lines = io.StringIO(), list(_lines(record))
    writer = csv.DictWriter(text, fieldnames=lines[0] if lines else ["cell"])
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _lines(record: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    settings = {"model": record["conditions"]["model"]} | record["request"]
    prompts = settings.pop("prompts")
    varied = [record[side]["setting"] for side in ("across", "down")]
    for cell in record["cells"]:
        own = settings | {name: cell[name] for name in varied}
        for run in cell["runs"]:
            for n, prompt in enumerate(prompts):
                yield {
                    "cell": cell["cell"],
                    **(own | {"seed": run["seed"] + n}),
                    "prompt": f"'{prompt}" if prompt.startswith(_FORMULA) else prompt,
                    "clip": None if run["clip"] is None else run["clip"][n],
                    "distance": run["distance"][n],
                    # Of the whole run, in which all prompts have a part.
                    "evaluations_of_run": run["evaluations"],
                    "reused_of_run": run["reused"],
                    "flops_of_run": run["flops"],
                    "seconds_of_run": RunNumbers(**run).total_seconds,
                }


def grid_sheet(grid: Grid, done: Mapping[int, Shown], model: str) -> Image.Image:
    """All cells on one picture."""
    base = grid.base
    varied = {grid.across.name, grid.down.name}
    fixed = (axis for name, axis in axes().items() if name not in varied)
    common = [f"{axis.label} {axis.words(getattr(base, axis.name))}" for axis in fixed]
    notes = [f"{model}; {', '.join(common)}.", f"Prompts: {'; '.join(base.prompts)}."]
    blocks = [
        Block(
            f"{grid.words(cell)}: {shown.first.evaluations} evaluations, "
            f"distance {mean_text(shown.distance, 3)}, CLIP {mean_text(shown.clip, 2)}",
            tuple(Shot(_picture(source)) for source in shown.pictures),
        )
        for cell, shown in sorted(done.items())
    ]
    columns = min(len(grid.across.values), 4 if len(base.prompts) < 3 else 2)
    return draw_sheet(f"{grid.down.title} and {grid.across.title}", notes, blocks, columns)


def _picture(source: str) -> Image.Image:
    """A picture back from its source."""
    return Image.open(io.BytesIO(base64.b64decode(source.split(",", 1)[1])))
