"""What follows from a form without rendering: the job, and what is ready to show.

The example sets are answered from what was precomputed, anything else by the model, which is loaded
at that moment if it is not yet. Knows nothing of gradio.
"""

from dataclasses import dataclass, replace
from functools import cached_property

from sage.jobs.job import Job, arrange, prepare
from sage.jobs.models import ModelSpec
from sage.jobs.request import Request
from sage.ui.html.matrix import matrix_order
from sage.ui.html.strip import Strip
from sage.ui.html.words import unseen_words
from sage.ui.shelf import Shelf
from sage.ui.studio.first import Stored, find_stored
from sage.ui.studio.form import Run


@dataclass(frozen=True)
class Analysis:
    """A checked form with everything that follows from it.

    Attributes:
        request: What is asked for.
        job: What is shown for it: as asked, or as the pictures that are ready were made.
        unseen: Words that the model has never met.
        truncated: Prompts that are longer than the model reads.
        stored: The precomputed comparison of it, if there is one.
    """

    request: Request
    job: Job
    unseen: tuple[str, ...]
    truncated: tuple[int, ...] = ()
    stored: Stored | None = None

    @property
    def spec(self) -> ModelSpec:
        """Of the model."""
        return self.job.spec

    @cached_property
    def order(self) -> tuple[int, ...]:
        """The prompts in the order of matrix and plan."""
        return matrix_order(self.job.grouping.similarity, self.job.groups)

    @cached_property
    def best(self) -> int | None:
        """The recommended branch point, in calls: the model's own, where sharing is safe.

        None if no group may share, or there is no single branch point.
        """
        job = self.job
        if job.request.sharing != "groups":
            return None
        own = replace(job.request, share_ratio=job.spec.share_ratio, guarded=True)
        plan = arrange(job.grouping, own, job.spec, job.flops).plan
        return min(plan.branch_steps, default=None)


def analyze(request: Request, key: str, shelf: Shelf, run: Run | None = None) -> Analysis:
    """What follows from a request.

    Args:
        request: A checked request.
        key: Of the model.
        shelf: The models.
        run: What is on the page.

    Raises:
        ValueError: If the model cannot be loaded, or cannot do what is asked for.
    """
    spec = shelf.spec(key)
    unseen = unseen_words(request.prompts, spec.settings.known_words)
    shown, stored = _as_shown(request, key, run), find_stored(request, key)
    if stored is not None:
        job = arrange(stored.grouping, shown, spec, stored.flops)
        return Analysis(request, job, unseen, stored=stored)
    model = shelf.get(key)
    truncated = model.pipe.truncated(request.prompts)
    return Analysis(request, prepare(model, shown), unseen, truncated)


def _as_shown(request: Request, key: str, run: Run | None) -> Request:
    """The request behind the pictures: a strip holds them as they are, whatever the guard says."""
    if run is not None and run.fits(request, key):
        ready = run.strip is not None
    else:
        ready = find_stored(request, key) is not None
    return replace(request, guarded=False) if ready else request


def strip_of(analysis: Analysis, run: Run | None) -> Strip | None:
    """The strip that the page can scrub for a request, if there is one."""
    if run is not None and run.strip and run.fits(analysis.request, analysis.spec.key):
        return run.strip
    return analysis.stored.strip if analysis.stored else None
