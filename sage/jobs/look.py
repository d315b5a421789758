"""Look first, finish some: stops at the branch point, and finishes the prompts that are worth it.

At the branch point a trunk has been paid once and every prompt's picture can be expected: one step
with its own condition shows where it is heading. Those that are finished go on from there; the rest
cost nothing more. What was spent is counted, beside finishing all and each prompt alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from PIL import Image

from sage.core.cost import Cost
from sage.core.lending import RULES
from sage.core.metrics import clip_score
from sage.core.plan import independent_plan
from sage.core.sampling import State, moved, only
from sage.core.settings import shortened
from sage.jobs.compare import sharing_arguments, stage_amounts, unflagged
from sage.jobs.conditions import run_conditions
from sage.jobs.job import Job, prepare
from sage.jobs.models import LoadedModel
from sage.sd.pipeline import SageOutput, SagePipeline, SageStep
from sage.sd.timing import StageClock


@dataclass(frozen=True)
class LookStep:
    """A step of looking or finishing.

    Attributes:
        step: How many steps are finished, from 1.
        steps: T, in calls of the denoiser.
        stage: Whether any prompts still shared this step.
        previews: By prompt, of those that run.
    """

    step: int
    steps: int
    stage: str
    previews: Mapping[int, Image.Image]


@dataclass(frozen=True)
class Finish:
    """Prompts that were finished in one go.

    Attributes:
        prompts: Which.
        pictures: One for each of them.
        flagged: For each whether the safety checker blacked it out.
        clip: For each the CLIP score, None if it was flagged; None without a CLIP image encoder.
        cost: Of their remaining steps, counted.
        seconds: Of the same, measured.
    """

    prompts: tuple[int, ...]
    pictures: tuple[Image.Image, ...]
    flagged: tuple[bool, ...]
    clip: tuple[float | None, ...] | None
    cost: Cost
    seconds: float


@dataclass(frozen=True)
class Look:
    """A run that has stopped at its branch point, and what has been finished of it since.

    Attributes:
        job: What was to be done; without pipelines.
        step: Steps that every prompt has made: its trunk, and the first on its own.
        state: All prompts after that step, on the CPU.
        pictures: What each prompt is heading for, decoded.
        flagged: For each whether the safety checker blacked it out.
        clip: For each the CLIP score of that; None without a CLIP image encoder.
        cost: Of the steps so far, counted.
        seconds: Of the same, measured.
        forks: For the index of a segment of the plan that split, a preview of what its prompts had
            in common by then.
        conditions: Model, settings, hardware and versions.
        finishes: What was finished, in order.
    """

    job: Job
    step: int
    state: State
    pictures: tuple[Image.Image, ...]
    flagged: tuple[bool, ...]
    clip: tuple[float | None, ...] | None
    cost: Cost
    seconds: float
    forks: Mapping[int, Image.Image]
    conditions: Mapping[str, Any]
    finishes: tuple[Finish, ...] = ()

    @property
    def finished(self) -> tuple[int, ...]:
        """The prompts that are finished, ascending."""
        return tuple(sorted(n for finish in self.finishes for n in finish.prompts))

    @property
    def open(self) -> tuple[int, ...]:
        """The prompts that are not."""
        return tuple(n for n in range(len(self.pictures)) if n not in self.finished)

    @property
    def evaluations(self) -> int:
        """What was spent in all."""
        return self.cost.evaluations + sum(f.cost.evaluations for f in self.finishes)

    def remaining(self, number: int) -> int:
        """Evaluations that it takes to finish so many prompts."""
        return number * (self.job.calls - self.step)

    @property
    def final(self) -> dict[int, tuple[Image.Image, float | None]]:
        """The finished pictures with their CLIP scores, by prompt."""
        return {
            n: (picture, finish.clip[k] if finish.clip else None)
            for finish in self.finishes
            for k, (n, picture) in enumerate(zip(finish.prompts, finish.pictures, strict=True))
        }


def look_step(job: Job) -> int:
    """Steps after which every prompt can be looked at: one on its own after the branch point.

    A tree is looked at when its last prompts have parted.

    Raises:
        ValueError: If the branch point is not known before the run, or leaves nothing to finish.
    """
    if not job.settled:
        raise ValueError(
            "An adaptive run has no branch point before it runs; to look first, share by groups "
            "or by a tree."
        )
    branch = max(job.branch_call, *job.plan.branch_steps, 0)
    # With a memory a rule renews a prompt's noise after its first step alone: that belongs to it.
    own = 2 if job.trunk in RULES and job.request.fresh_noise else 1
    if branch + own >= job.calls:
        raise ValueError(
            f"The branch point is {branch} of {job.calls} steps, which leaves nothing to finish; "
            f"to look first it may be {max(job.calls - own - 1, 0)} at most."
        )
    return branch + own


def look(job: Job) -> Iterator[LookStep | Look]:
    """Runs a job's shared side up to its branch point and one step beyond.

    Args:
        job: From `sage.jobs.job.prepare`.

    Yields:
        A LookStep for every step, then one Look.

    Raises:
        ValueError: If the job cannot be looked at (`look_step`), or its model is not loaded.
    """
    pipe, step = job.loaded_sides.shared, look_step(job)
    begun = job.plan.until(step)
    pipe.warm_up(len(begun.rows(step - 1)), job.request.guidance_scale)
    clock = StageClock(pipe.device)
    run = _stream(job, pipe, range(len(job.request.prompts)), plan=job.plan)
    forks: dict[int, Image.Image] = {}
    for item in _timed(run, clock):
        previews = dict(enumerate(item.previews()))
        for i, segment in enumerate(job.plan.segments):
            if segment.stop == item.step and len(segment.members) > 1:
                forks[i] = previews[segment.members[0]]
        yield LookStep(item.step, job.calls, item.stage, previews)
        if item.step == step:
            break
    run.close()
    with clock.measure({"decode": 1.0}):
        pictures, flagged = pipe.expected(item.state)
    every = tuple(range(len(pictures)))
    yield Look(
        replace(job, sides=None),
        step,
        moved(only(item.state, every), "cpu"),
        tuple(pictures),
        flagged,
        _clip(job, pictures, flagged, every),
        job.cost_of(begun),
        clock.read().total,
        forks,
        run_conditions(job),
    )


def finish(model: LoadedModel, seen: Look, prompts: Sequence[int]) -> Iterator[LookStep | Look]:
    """Finishes some of the prompts of a look.

    Args:
        model: That of the look.
        seen: From `look`, or from here.
        prompts: Which; none of them finished yet.

    Yields:
        A LookStep for every step, then the Look with what was finished.

    Raises:
        ValueError: If there is no such prompt, none is named, or one is finished already.
    """
    if strange := [n for n in prompts if n not in seen.open]:
        name = f"P{strange[0] + 1}" if isinstance(strange[0], int) else shortened(strange[0])
        raise ValueError(f"{name} is finished already, or is no prompt of this look.")
    chosen = tuple(sorted(set(prompts)))
    if not chosen:
        raise ValueError("No prompt is ticked: tick at least one to finish.")
    job = prepare(model, seen.job.request)
    pipe, plan = job.loaded_sides.shared, independent_plan(len(chosen), job.calls)
    pipe.warm_up(len(chosen), job.request.guidance_scale)
    for item in _stream(job, pipe, chosen, plan=plan, start=only(seen.state, chosen)):
        if isinstance(item, SageStep):
            previews = dict(zip(chosen, item.previews(), strict=True))
            yield LookStep(item.step, job.calls, "branches", previews)
            continue
        clip = _clip(job, item.pictures, item.flagged, chosen)
        cost = job.cost_of(independent_plan(len(chosen), job.calls - seen.step))
        done = Finish(chosen, tuple(item.pictures), item.flagged, clip, cost, item.timings.total)
        yield replace(seen, finishes=(*seen.finishes, done))


def _stream(job: Job, pipe: SagePipeline, prompts: Sequence[int], **how: Any) -> Any:
    """The shared side of some of a job's prompts."""
    request = job.request
    return pipe.stream(
        [request.prompts[n] for n in prompts],
        seeds=[request.seeds[n] for n in prompts],
        guidance_scale=request.guidance_scale,
        **sharing_arguments(job),
        **how,
    )


def _timed(run: Iterator[SageStep | SageOutput], clock: StageClock) -> Iterator[SageStep]:
    """The steps of a run; only the time inside it is measured."""
    while True:
        with clock.measure({"trunk": 1.0}):
            item = next(run)
        assert isinstance(item, SageStep), "a look ends before its run does"
        yield item


def _clip(
    job: Job, pictures: Sequence[Image.Image], flagged: Sequence[bool], prompts: Sequence[int]
) -> tuple[float | None, ...] | None:
    pipe = job.loaded_sides.plain
    if pipe.clip is None:
        return None
    texts = pipe.embed([job.request.prompts[n] for n in prompts])
    scores = clip_score(pipe.clip.embed_images(list(pictures)), texts)
    return unflagged(scores.tolist(), flagged)


# A list of what the record holds.
def look_report(seen: Look) -> dict[str, Any]:
    """All of a look as plain numbers and texts, ready for JSON.

    "spent" is what has been run, "all" the shared side from noise to every picture without a look,
    "independent" each prompt alone. Seconds of "all" are not measured: from what the finished
    prompts took, in proportion to their number; None before any is.
    """
    job, cost = seen.job, seen.job.cost
    parts = [seen.cost, *(finish.cost for finish in seen.finishes)]
    finishing = sum(finish.seconds for finish in seen.finishes)
    number, final = len(seen.finished), seen.final
    every = range(len(seen.pictures))
    return {
        **seen.conditions,
        "request": job.request.to_dict(),
        "prompts": list(job.request.prompts),
        "groups": [list(group) for group in job.groups],
        "seeds": list(job.request.seeds),
        "calls": job.calls,
        "branch_step": job.branch_call,
        "plan": [asdict(segment) for segment in job.plan.segments],
        "looked_after": seen.step,
        "finished": list(seen.finished),
        "evaluations": {
            "look": seen.cost.evaluations,
            "spent": seen.evaluations,
            "all": cost.evaluations,
            "independent": cost.independent_evaluations,
        },
        "flops": {
            "look": stage_amounts(seen.cost.flops),
            "spent": sum(part.flops.total for part in parts),
            "all": cost.flops.total,
            "independent": cost.independent_flops.total,
        },
        "seconds": {
            "look": seen.seconds,
            "spent": seen.seconds + finishing,
            "all": seen.seconds + finishing / number * len(every) if number else None,
        },
        "flagged": {
            "expected": list(seen.flagged),
            "finished": [
                n for f in seen.finishes for n, bad in zip(f.prompts, f.flagged, strict=True) if bad
            ],
        },
        "clip_score": {
            "expected": seen.clip and list(seen.clip),
            "finished": [final[n][1] if n in final else None for n in every],
        },
    }
