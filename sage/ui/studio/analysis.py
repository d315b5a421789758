"""What follows from a form without rendering: groups, plan, costs, and what is ready to show.

The example sets are answered from what was precomputed, anything else by the model, which is loaded
at that moment if it is not yet. Knows nothing of gradio.
"""

from dataclasses import dataclass, replace
from functools import cached_property

from sage.core.cost import Cost
from sage.jobs.arrangement import Arrangement, arrange, calibration_of, find_groups
from sage.jobs.models import LoadedModel, ModelSpec
from sage.jobs.request import Request
from sage.jobs.variants import plain_side, shared_side
from sage.ui.html.matrix import matrix_order
from sage.ui.html.words import unseen_words
from sage.ui.shelf import Shelf
from sage.ui.studio.first import Stored, find_stored
from sage.ui.studio.form import Run
from sage.ui.studio.strip import Strip


@dataclass(frozen=True)
class Analysis:
    """A checked form with everything that follows from it.

    Attributes:
        request: What is asked for.
        spec: Of the model.
        arrangement: Who shares with whom.
        cost: Of the plan.
        unseen: Words that the model has never met.
        truncated: Prompts that are longer than the model reads.
        stored: The precomputed comparison of it, if there is one.
    """

    request: Request
    spec: ModelSpec
    arrangement: Arrangement
    cost: Cost
    unseen: tuple[str, ...]
    truncated: tuple[int, ...] = ()
    stored: Stored | None = None

    @cached_property
    def order(self) -> tuple[int, ...]:
        """The prompts in the order of matrix and plan."""
        return matrix_order(self.arrangement.grouping.similarity, self.arrangement.groups)

    @property
    def shares(self) -> bool:
        """Whether any two prompts share a step."""
        return any(len(segment.members) > 1 for segment in self.arrangement.plan.segments)


def analyze(request: Request, key: str, shelf: Shelf, run: Run | None = None) -> Analysis:
    """What follows from a request.

    Args:
        request: A checked request.
        key: Of the model.
        shelf: The models.
        run: What is on the page.

    Raises:
        ValueError: If the model cannot be had, or cannot do what is asked for.
    """
    spec = shelf.spec(key)
    unseen = unseen_words(request.prompts, spec.settings.known_words)
    shown = _as_shown(request, key, run)
    stored = find_stored(request, key)
    if stored is not None:
        known = calibration_of(spec, request.trained)
        steps = stored.strip.rows[0].at
        arrangement = arrange(stored.grouping, shown, steps, calibration=known)
        cost = stored.cost(arrangement.plan)
        return Analysis(request, spec, arrangement, cost, unseen, stored=stored)
    return _by_model(request, shown, shelf.get(key), unseen)


def _by_model(
    request: Request, shown: Request, model: LoadedModel, unseen: tuple[str, ...]
) -> Analysis:
    pipe = plain_side(model, request)
    steps = pipe.denoiser_calls(request.steps)
    known = calibration_of(model.spec, request.trained)
    arrangement = arrange(find_groups(pipe, request), shown, steps, calibration=known)
    cost = arrangement.cost(shared_side(model, request))
    return Analysis(request, model.spec, arrangement, cost, unseen, pipe.truncated(request.prompts))


def _as_shown(request: Request, key: str, run: Run | None) -> Request:
    """The request behind the pictures: a strip holds them as they are, whatever the guard says."""
    fits = run is not None and run.fits(request, key)
    strip = run.strip if fits else find_stored(request, key)
    return replace(request, guarded=False) if strip else request


def strip_of(analysis: Analysis, run: Run | None) -> Strip | None:
    """The strip that the page can scrub for a request, if there is one."""
    if run is not None and run.strip and run.fits(analysis.request, analysis.spec.key):
        return run.strip
    return analysis.stored.strip if analysis.stored else None
