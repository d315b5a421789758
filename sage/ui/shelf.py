"""The models a visitor may pick, each loaded once, when it is first asked for.

A visitor names a model by its key only; a folder or a repository id from outside never gets here.
"""

import logging
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from functools import cached_property
from statistics import median
from threading import Event, Lock, Thread
from typing import Any

from sage.core.plan import independent_plan
from sage.jobs.models import LoadedModel, ModelSpec, find_model, zero_gpu
from sage.jobs.prompt_sets import spell_emoji
from sage.ui.lease import Lease
from sage.ui.server.errors import explain, is_cut_file, tidy
from sage.ui.server.lanes import require_listener
from sage.ui.server.limits import BOUNDS

log = logging.getLogger(__name__)
MEASURED = (4, 2)  # prompts and steps of the run that measures a model's speed
MEASURED_HEAVY = (1, 1)  # where one pass takes seconds: visitors wait beside it


class Shelf:
    """Loaded models by key.

    Args:
        specs: Models that may be picked; the first is the default.
        load: Loads one, e.g. `sage.jobs.models.load_model`.
    """

    def __init__(
        self, specs: Sequence[ModelSpec], load: Callable[[ModelSpec], LoadedModel]
    ) -> None:
        self.specs = tuple(specs)
        self._load = load
        self._loaded: dict[str, LoadedModel] = {}
        self._failed: dict[str, tuple[float, str]] = {}  # when, and the sentence
        self._speeds: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=5))
        self._locks: defaultdict[str, Lock] = defaultdict(Lock)  # loading one blocks no other
        self._warming, self._visited = Lock(), Event()

    @property
    def default(self) -> ModelSpec:
        """The model a visitor gets who does not choose."""
        return self.specs[0]

    @cached_property
    def lease(self) -> Lease:
        """Where their rendering runs."""
        return Lease(self)

    def spec(self, key: str) -> ModelSpec:
        """What is known of a model without loading it.

        Raises:
            ValueError: If the key is unknown.
        """
        return find_model(key, self.specs)

    def spelled(self, key: str, prompts: Any) -> Any:
        """Prompts with emoji written as the words a model knows them by, if it knows any.

        What is no text and whose model is unknown comes back as it is, for a check to refuse.
        """
        try:
            vocabulary = self.spec(key).settings.vocabulary
        except ValueError:
            return prompts
        if vocabulary is None or not isinstance(prompts, str):
            return prompts
        return spell_emoji(prompts, vocabulary.emoji)

    def loaded(self, key: str) -> LoadedModel | None:
        """A model that has been loaded; never loads one."""
        return self._loaded.get(key)

    @property
    def waiting(self) -> str:
        """What is said to a visitor whose run cannot begin at once."""
        if self.loaded(self.default.key) is None:
            return "The model is still loading; this starts as soon as it is ready."
        return "Waiting in the queue …"

    def fast(self, key: str) -> ModelSpec | None:
        """The same network in few steps, or the one in many if the key is of the fast one.

        None where there is no such pair on the shelf.
        """
        own = self.spec(key)
        pair = (one for one in self.specs if one.source == own.source and one.key != key)
        return next((one for one in pair if bool(one.student) != bool(own.student)), None)

    def note_speed(self, key: str, flops: float, seconds: float) -> None:
        """Remembers what a run took; what is expected of the next one is made of the latest few."""
        if flops > 0 and seconds > 0:
            self._speeds[self.spec(key).source].append(flops / seconds)

    def expected_seconds(self, key: str, flops: float) -> float | None:
        """How long so much work is likely to take here; None before anything has been measured.

        Models of one network share what is known: a student makes fewer steps of the same size.
        """
        known = self._speeds[self.spec(key).source]
        return flops / median(known) if known else None

    def warm_up(self) -> None:
        """Loads the default model and runs it at the sizes of the examples, for the log only.

        Without it the first visitor would wait longer, and measure a machine that is still cold.
        It gives way to a visitor's run, whose seconds it would spoil: see `for_run`.
        """
        try:
            model = self.get(self.default.key)
        except ValueError as error:
            log.warning("%s", error)
            return
        if zero_gpu():  # CUDA is there only while it is leased
            return
        for rows in (1, 2, 4):
            self._unless_visited(model.pipe.warm_up, rows)
        self._unless_visited(self._measure, model)

    def warm_up_meanwhile(self) -> None:
        """Warms up in a thread of its own."""
        Thread(target=self.warm_up, daemon=True).start()

    def _unless_visited(self, run: Callable[[Any], None], argument: Any) -> None:
        """A run of ours, unless a visitor's has begun; theirs waits until it is over."""
        with self._warming:
            if not self._visited.is_set():
                run(argument)

    def _measure(self, model: LoadedModel) -> None:
        """A first measurement, so that the page can say what Render will take."""
        number, steps = MEASURED_HEAVY if model.pipe.is_heavy else MEASURED
        run = model.pipe([""] * number, plan=independent_plan(number, steps))
        self.note_speed(model.spec.key, run.cost.flops.total, run.timings.total)

    def for_run(self, key: str) -> LoadedModel:
        """A model for a visitor's run: as `get`, once nothing of ours computes beside it.

        Raises:
            ValueError: If the key is unknown or the model cannot be loaded.
        """
        model = self.get(key)
        self._visited.set()
        with self._warming:
            return model

    def get(self, key: str) -> LoadedModel:
        """The model of a key, loaded now if it is not yet.

        Raises:
            ValueError: If the key is unknown or the model cannot be loaded.
        """
        spec = self.spec(key)
        if key in self._loaded:
            return self._loaded[key]
        with self._locks[key]:
            if key not in self._loaded:
                self._loaded[key] = self._load_or_explain(spec)
            return self._loaded[key]

    def _load_or_explain(self, spec: ModelSpec) -> LoadedModel:
        """Loads a model; one that failed is not tried again for a while, so that nobody waits."""
        since, sentence = self._failed.get(spec.key, (float("-inf"), ""))
        if time.monotonic() - since < BOUNDS.retry_seconds:
            raise ValueError(sentence)
        try:
            model = self._load(spec)
        except Exception as error:  # no file, no hub, no memory, or a fault
            sentence = f"{spec.title} cannot be loaded here: {_reason(error)}"
            self._failed[spec.key] = (time.monotonic(), sentence)
            raise ValueError(sentence) from error
        model.pipe.unet.register_forward_pre_hook(_stop_when_unheard)
        return model


def _reason(error: Exception) -> str:
    """Why loading failed: what the machine lacks in its own words, anything else as explained."""
    lines = str(error).strip().splitlines()
    if isinstance(error, (OSError, ImportError)) and lines and not is_cut_file(error):
        return tidy(lines[0])[:160]
    return explain(error, "Loading")


def _stop_when_unheard(*_: Any) -> None:
    """Before each call of a denoiser: a run that nobody listens to any more ends here."""
    require_listener()
