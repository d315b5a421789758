"""Makes the grid that the tab "Explore" opens with: `python -m sage.ui.explore.precompute`.

Run it again when the built-in model, the first example set or the first axes have changed; a test
says when.
"""

import argparse
import logging
from datetime import UTC, datetime
from pathlib import Path

from sage.core.settings import settings_of
from sage.jobs.conditions import grid_conditions
from sage.jobs.grid import Axis, CellDone, Grid, GridCost, plan_grid, render_grid
from sage.jobs.models import LoadedModel, ModelSpec, builtin_model, load_model, weights_digest
from sage.jobs.request import parse_request
from sage.ui.explore.first import FOLDER, StoredGrid, draw_tiles
from sage.ui.explore.parts import FIRST, FIRST_AXES
from sage.ui.export.grid_files import grid_record
from sage.ui.html.grids import Shown

log = logging.getLogger(__name__)


def first_grid(spec: ModelSpec) -> Grid:
    """What the tab asks for when nothing in it is changed."""
    known = settings_of()
    request = parse_request("\n".join(FIRST), defaults=spec)
    across, down = (Axis.parse(name, known[name].axis) for name in FIRST_AXES.values())
    return Grid(request, across, down)


def precompute(model: LoadedModel, grid: Grid) -> StoredGrid:
    """Renders a grid."""
    cells, done, pictures = plan_grid(model, grid), {}, {}
    for item in render_grid(cells):
        if isinstance(item, CellDone):
            log.info("cell %d, repeat %d", item.cell, item.repeat)
            runs = {item.repeat: item.numbers}
            pictures.setdefault(item.cell, item.images)
            cell = done.get(item.cell)
            done[item.cell] = (
                cell.with_run(item.repeat, item.numbers) if cell else Shown.of(item.images, runs)
            )
    jobs = {cell.place: cell.job for cell in cells if cell.place is not None}
    plans = {place: job.plan for place, job in jobs.items()}
    job = jobs[0]
    return StoredGrid(
        record=grid_record(grid, done, plans, grid_conditions(job)),
        similarity=job.grouping.similarity.tolist(),
        flops=job.flops,
        cost=GridCost.of(cells),
        made={"day": datetime.now(UTC).date().isoformat(), "weights": weights_digest(model.spec)},
        sheet=draw_tiles([pictures[place] for place in sorted(pictures)]),
        spec=model.spec,
    )


def main() -> None:
    """Makes it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder")
    flags = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    model = load_model(builtin_model(), "cpu")
    precompute(model, first_grid(model.spec)).save(flags.out)


if __name__ == "__main__":
    main()
