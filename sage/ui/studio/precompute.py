"""Makes the comparisons that the page shows on arrival: `python -m sage.ui.studio.precompute`.

Run it again when the built-in model, its adapter or an example set has changed; a test says when.
"""

import argparse
import logging
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from PIL import Image

from sage.core.plan import Group
from sage.jobs.compare import Comparison, compare, sharing_arguments
from sage.jobs.filmstrip import Frame, filmstrip
from sage.jobs.job import Job, prepare
from sage.jobs.models import LoadedModel, builtin_model, load_model, weights_digest
from sage.sd.pipeline import SageStep
from sage.sd.store import StateStore
from sage.ui.examples import EXAMPLE_SETS, FIRST_EXAMPLE, ExampleSet, example_request
from sage.ui.html.strip import with_trunks
from sage.ui.studio.first import FOLDER, Stored
from sage.ui.studio.results import frames_strip

log = logging.getLogger(__name__)
# Of the sheets; the first one is part of what everybody loads.
QUALITY, FIRST_QUALITY = 84, 75
EVERY = 3  # steps between two branch points: a sheet of all would be as heavy as the page


def precompute(model: LoadedModel, example: ExampleSet, every: int = EVERY) -> Stored:
    """One comparison, measured, with its pictures at every so many branch points.

    As it is asked for, whatever the guard says: what sharing does is what is to be seen.
    """
    request, keep = example_request(example, model.spec), StateStore()
    job = prepare(model, replace(request, guarded=False))
    *_, done = compare(job, fewer_steps=True, keep=keep)
    assert isinstance(done, Comparison)
    points = sorted({*range(0, job.calls + 1, every), job.calls, job.branch_call})
    frames = filmstrip(job, points, keep=keep, fewer_steps=True)
    quality = FIRST_QUALITY if example.key == FIRST_EXAMPLE.key else QUALITY
    strip = frames_strip(_logged(frames, example.key), quality)
    return Stored(
        key=example.key,
        request=request,
        report=done.report,
        similarity=tuple(map(tuple, job.grouping.similarity.tolist())),
        flops=job.flops,
        strip=with_trunks(strip, trunk_films(job)),
        made={"day": datetime.now(UTC).date().isoformat(), "weights": weights_digest(model.spec)},
    )


def trunk_films(job: Job) -> dict[Group, list[Image.Image]]:
    """For each group, what its trunk is heading for after each step if it never branches."""
    together = [group for group in job.groups if len(group) > 1]
    films: dict[Group, list[Image.Image]] = {group: [] for group in together}
    request, plan = job.request, job.at(job.calls).plan
    steps = job.loaded_sides.shared.stream(
        request.prompts,
        plan=plan,
        guidance_scale=request.guidance_scale,
        seeds=request.seeds,
        **sharing_arguments(job),
    )
    for step in steps:
        if isinstance(step, SageStep):
            previews = step.previews()
            for group in together:
                films[group].append(previews[group[0]])
    return films


def _logged(frames: Iterator[Frame], name: str) -> Iterator[Frame]:
    for frame in frames:
        log.info("%s: %3.0f %%", name, 100 * frame.done)
        yield frame


def main() -> None:
    """Makes all of them, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    ready = [example for example in EXAMPLE_SETS if example.ready]
    keys = [example.key for example in ready]
    parser.add_argument(
        "sets", nargs="*", metavar="SET", help=f"of {', '.join(keys)}; default: all"
    )
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder")
    parser.add_argument("--every", type=int, default=EVERY, help="steps between two branch points")
    flags = parser.parse_args()
    if unknown := set(flags.sets) - set(keys):
        parser.error(f"unknown sets {sorted(unknown)}; allowed are {', '.join(keys)}.")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    model = load_model(builtin_model(), "cpu")
    for example in ready:
        if not flags.sets or example.key in flags.sets:
            precompute(model, example, flags.every).save(flags.out)


if __name__ == "__main__":
    main()
