"""What runs in a lease (`sage.ui.lease`): functions of a loaded model and plain values.

A job holds pipelines and cannot travel to another process, so it is prepared where it is run.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from sage.jobs.compare import CompareStep, Comparison
from sage.jobs.filmstrip import Frame, filmstrip
from sage.jobs.grid import CellDone, CellStep, Grid, RowFrame, Trace, plan_grid, render_grid, trace
from sage.jobs.job import prepare
from sage.jobs.look import Look, LookStep, finish, look
from sage.jobs.models import LoadedModel
from sage.jobs.repeats import compare_repeatedly
from sage.jobs.request import Request
from sage.sd.store import StateStore


def compare_request(
    model: LoadedModel, request: Request, **options: Any
) -> Iterator[CompareStep | Comparison]:
    """Both sides of a request; options as of `sage.jobs.repeats.compare_repeatedly`."""
    yield from compare_repeatedly(prepare(model, request), **options)


def filmstrip_request(
    model: LoadedModel, request: Request, points: Sequence[int], **options: Any
) -> Iterator[Frame]:
    """A request at many branch points; options as of `sage.jobs.filmstrip.filmstrip`."""
    yield from filmstrip(prepare(model, request), points, **options)


def look_request(model: LoadedModel, request: Request) -> Iterator[LookStep | Look]:
    """A request up to its branch point."""
    yield from look(prepare(model, request))


def finish_request(
    model: LoadedModel, seen: Look, prompts: Sequence[int]
) -> Iterator[LookStep | Look]:
    """Some of the prompts that were looked at."""
    yield from finish(model, seen, prompts)


def render_grid_of(
    model: LoadedModel, grid: Grid, keep: StateStore | None = None
) -> Iterator[CellStep | CellDone]:
    """The runs of a grid."""
    yield from render_grid(plan_grid(model, grid), keep)


def trace_request(model: LoadedModel, request: Request) -> Iterator[RowFrame | Trace]:
    """One run, step by step."""
    yield from trace(prepare(model, request))
