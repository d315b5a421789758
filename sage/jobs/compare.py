"""Renders both sides of the comparison, interleaved and measured, and writes the report.

Shared and independent runs have the same prompts, seeds, steps and guidance. They advance in turn
(A B, B A, A B, ...), so that whatever else the machine does falls on both. Beside them may run
independent sampling with fewer steps, which spends no more evaluations than the shared side.

A run is measured from its start unless it is told to reuse earlier states; what was reused is
counted, and seconds of a side that reused something are not put beside those of one that did not.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from sage.core.cost import Stages
from sage.core.grouping import Grouping
from sage.core.metrics import clip_score, pixel_distance
from sage.core.plan import Group, Plan, Row
from sage.jobs.conditions import run_conditions
from sage.jobs.job import Job
from sage.jobs.request import Request
from sage.sd.pipeline import SageOutput, SagePipeline, SageStep
from sage.sd.store import StateStore


@dataclass(frozen=True)
class CompareStep:
    """All sides after a step, as previews in prompt order.

    Attributes:
        step: How many steps are finished, from 1.
        steps: T, in calls of the denoiser.
        stage: Whether any prompts still shared this step.
        shared: N previews.
        independent: N previews.
        fewer: N previews, or none where that side does not run.
        repeat: Which repeat of the comparison, from 0.
    """

    step: int
    steps: int
    stage: str
    shared: list[Image.Image]
    independent: list[Image.Image]
    fewer: list[Image.Image]
    repeat: int = 0


@dataclass(frozen=True)
class Scores:
    """Scores of one run's pictures.

    Attributes:
        twin: For each prompt, the root mean square pixel difference to its independent picture,
            in [0, 1]; None where one of the two was flagged and is black.
        clip: For each prompt, the CLIP score, None if its picture was flagged; None without a CLIP
            image encoder.
    """

    twin: tuple[float | None, ...]
    clip: tuple[float | None, ...] | None


@dataclass(frozen=True)
class Comparison:
    """All sides finished.

    Attributes:
        job: What was to be done.
        outputs: The runs: "independent", "shared" and, if it was asked for, "fewer".
        scores: The same keys.
        forks: For the index of a segment of the shared plan, a preview of what its prompts had in
            common when it split.
        report: All of it as plain numbers and texts, ready for JSON.
    """

    job: Job
    outputs: dict[str, SageOutput]
    scores: dict[str, Scores]
    forks: dict[int, Image.Image]
    report: dict

    @property
    def request(self) -> Request:
        """What was asked for."""
        return self.job.request

    @property
    def grouping(self) -> Grouping:
        """Similarities and the reason for every pair."""
        return self.job.grouping

    @property
    def groups(self) -> tuple[Group, ...]:
        """Who started together."""
        return self.job.groups

    @property
    def shared(self) -> SageOutput:
        """The shared run."""
        return self.outputs["shared"]

    @property
    def independent(self) -> SageOutput:
        """The independent run."""
        return self.outputs["independent"]

    @property
    def fewer(self) -> SageOutput | None:
        """Independent sampling with fewer steps, if it was asked for."""
        return self.outputs.get("fewer")

    @property
    def twin_distance(self) -> tuple[float | None, ...]:
        """Distance of each shared picture to its independent one."""
        return self.scores["shared"].twin


def compare(
    job: Job,
    *,
    fewer_steps: bool = False,
    keep: StateStore | None = None,
    measure: bool = True,
) -> Iterator[CompareStep | Comparison]:
    """Renders shared and independent pictures of a job.

    Args:
        job: From `sage.jobs.job.prepare`.
        fewer_steps: Also run the equal-NFE baseline: independent sampling with as many steps as
            the shared side's evaluations can pay.
        keep: Where states are kept for later runs.
        measure: Run everything from the start, so that seconds are comparable. Without it, what
            `keep` holds is reused and no saving of time is reported.

    Yields:
        A CompareStep for every step, then one Comparison.

    Raises:
        ValueError: If the job's model is not loaded.
    """
    sides = job.loaded_sides
    store = _Recorder(keep) if keep is not None and measure else keep
    runs = {
        "shared": _Lane(sides.shared, job.request, job.plan, how_to_share(job, store)),
        "independent": _lane_alone(job, job.independent, store),
    }
    if fewer_steps and job.settled:  # else only the run shows what it spends
        runs |= _fewer_lane(job, job.cost.evaluations, store)
    _warm_up(runs.values(), job.request.guidance_scale)
    for i in range(job.calls):
        _advance(runs, first=i, share=(i + 1) / job.calls)
        yield _previews(runs, i + 1)
    outputs = {side: lane.finish() for side, lane in runs.items()}
    if fewer_steps and not job.settled:
        late = _fewer_lane(job, outputs["shared"].cost.evaluations, store)
        outputs |= {side: lane.finish() for side, lane in late.items()}
    yield _finish(job, outputs, runs["shared"].forks(outputs["shared"].plan))


class _Recorder(StateStore):
    """Keeps what a measured run computes in a store, and gives the run nothing from it."""

    def __init__(self, store: StateStore) -> None:
        super().__init__(0)
        self.add = store.add

    def latest(self, *_: object, **__: object) -> None:
        """Nothing: the run starts from noise."""


class _Lane:
    """One side on its way.

    Args:
        pipe: What it runs on.
        request: A checked request.
        plan: What is expected to be run.
        how: Further arguments of `SagePipeline.stream`, the plan or a rule among them.
    """

    def __init__(
        self, pipe: SagePipeline, request: Request, plan: Plan, how: dict[str, Any]
    ) -> None:
        self.pipe, self.plan = pipe, plan
        self.now: SageStep | None = None
        self._stream = pipe.stream(
            request.prompts, guidance_scale=request.guidance_scale, seeds=request.seeds, **how
        )
        self._output: SageOutput | None = None
        self._parted: dict[tuple[Row, int], Image.Image] = {}

    def advance(self, share: float) -> None:
        """Runs on until a share of the steps is done."""
        due = share * self.plan.steps - 1e-9
        while self._output is None and (self.now is None or self.now.step < due):
            self._take(next(self._stream))

    def finish(self) -> SageOutput:
        """Runs to the end."""
        for item in self._stream:
            self._take(item)
        if self._output is None:
            raise RuntimeError("The run ended without an output.")
        return self._output

    def forks(self, plan: Plan) -> dict[int, Image.Image]:
        """For each segment of the plan that split, what its prompts had in common by then."""
        keys = {i: (s.members, s.stop) for i, s in enumerate(plan.segments)}
        return {i: self._parted[key] for i, key in keys.items() if key in self._parted}

    def _take(self, item: SageStep | SageOutput) -> None:
        if isinstance(item, SageOutput):
            self._output = item
            return
        if self.now is not None and self.now.state.rows != item.state.rows:
            previews = self.now.previews()
            for row in set(self.now.state.rows) - set(item.state.rows):
                self._parted[row, self.now.step] = previews[row[0]]
        self.now = item


def how_to_share(job: Job, store: StateStore | None) -> dict[str, Any]:
    """The shared side's arguments: a plan, or the rule that finds one while sampling."""
    how = sharing_arguments(job)
    if job.settled:
        return how | {"plan": job.plan, "reuse": store}
    groups = {"groups": job.groups, "num_inference_steps": job.request.steps}
    return how | groups | {"adaptive": job.rule}


def sharing_arguments(job: Job) -> dict[str, Any]:
    """What a job says about trunks, splits and steps, for `SagePipeline.stream`."""
    own = {"trunk": job.trunk, "fresh_noise": job.request.fresh_noise}
    return own | placing(job, job.calls)


def placing(job: Job, calls: int) -> dict[str, Any]:
    """Where the steps of a run with so many calls lie, for `SagePipeline.stream`."""
    if job.timesteps is None:
        return {"spacing": job.request.spacing}
    # Fewer steps than planned have the best places of their own.
    return {"timesteps": job.timesteps} if calls == job.calls else {"spacing": "planned"}


def _lane_alone(job: Job, plan: Plan, store: StateStore | None) -> _Lane:
    how = {"plan": plan, "reuse": store} | placing(job, plan.steps)
    return _Lane(job.loaded_sides.plain, job.request, plan, how)


def _fewer_lane(job: Job, evaluations: int, store: StateStore | None) -> dict[str, _Lane]:
    """The equal-NFE baseline by its name; nothing where not even one step can be paid."""
    plan = job.fewer_plan(evaluations)
    return {"fewer": _lane_alone(job, plan, store)} if plan else {}


def _advance(runs: dict[str, _Lane], first: int, share: float) -> None:
    """All sides run on to the same share of their steps; each comes first in turn."""
    lanes = list(runs.values())
    turn = first % len(lanes)
    for lane in lanes[turn:] + lanes[:turn]:
        lane.advance(share)


def _previews(runs: dict[str, _Lane], step: int) -> CompareStep:
    shown = {side: lane.now.previews() if lane.now else [] for side, lane in runs.items()}
    lane = runs["shared"]
    stage = lane.now.stage if lane.now else "branches"
    return CompareStep(
        step,
        lane.plan.steps,
        stage,
        shown["shared"],
        shown["independent"],
        shown.get("fewer", []),
    )


def _warm_up(lanes: Iterable[_Lane], guidance_scale: float) -> None:
    """Runs every batch size of the plans once, so that no side pays for being first."""
    for lane in lanes:
        plan = lane.plan
        sizes = {len(plan.rows(i)) for i in range(plan.steps) if plan.splits_at(i)}
        for rows in sorted(sizes):
            lane.pipe.warm_up(rows, guidance_scale)


def _finish(job: Job, outputs: dict[str, SageOutput], forks: dict[int, Image.Image]) -> Comparison:
    pipe, prompts, twins = job.loaded_sides.plain, job.request.prompts, outputs["independent"]
    scores = {side: score(pipe, prompts, output, twins) for side, output in outputs.items()}
    report = _report(job, outputs, scores)
    # Without the pipelines: a comparison is kept, and travels between processes.
    return Comparison(replace(job, sides=None), outputs, scores, forks, report)


def score(
    pipe: SagePipeline, prompts: Sequence[str], output: SageOutput, independent: SageOutput
) -> Scores:
    """Scores of a run's pictures beside the independent ones."""
    distances = pixel_distance(_pixels(output), _pixels(independent)).tolist()
    either = [a or b for a, b in zip(output.flagged, independent.flagged, strict=True)]
    twin = unflagged(distances, either)
    if pipe.clip is None:
        return Scores(twin, None)
    texts = pipe.embed(prompts)  # known since the prompts were grouped
    clip = clip_score(pipe.clip.embed_images(output.pictures), texts).tolist()
    return Scores(twin, unflagged(clip, output.flagged))


def unflagged(scores: Sequence[float], flagged: Sequence[bool]) -> tuple[float | None, ...]:
    """Scores of pictures; None for those that the safety checker made black."""
    return tuple(None if flag else value for value, flag in zip(scores, flagged, strict=True))


def _pixels(output: SageOutput) -> Tensor:
    """[N, H, W, 3] in [0, 1]."""
    arrays = [
        torch.frombuffer(bytearray(im.tobytes()), dtype=torch.uint8) for im in output.pictures
    ]
    return torch.stack(arrays).float() / 255


def _report(job: Job, outputs: dict[str, SageOutput], scores: dict[str, Scores]) -> dict:
    request, cost = job.request, outputs["shared"].cost
    clips = {side: s.clip and list(s.clip) for side, s in scores.items()}
    return {
        **run_conditions(job),
        "request": request.to_dict(),
        "prompts": list(request.prompts),
        "similarity": [[round(v, 6) for v in row] for row in job.grouping.similarity.tolist()],
        "groups": [list(group) for group in job.groups],
        "seeds": list(request.seeds),
        "calls": job.calls,
        "timesteps": list(outputs["shared"].timesteps),
        "planned": None if job.planned is None else job.planned.reason,
        "branch_step": job.branch_call,
        "plan": [asdict(segment) for segment in outputs["shared"].plan.segments],
        "probes": outputs["shared"].probes,
        "evaluations": {
            "shared": cost.evaluations,
            "independent": cost.independent_evaluations,
        },
        "flops": {
            "shared": stage_amounts(cost.flops),
            "independent": stage_amounts(cost.independent_flops),
        },
        "seconds": {
            side: stage_amounts(outputs[side].timings) for side in ("shared", "independent")
        },
        "flagged": {side: list(output.flagged) for side, output in outputs.items()},
        "reused": {side: output.reused for side, output in outputs.items()},
        "memory_retries": {side: output.memory_retries for side, output in outputs.items()},
        "exact": all(output.exact for output in outputs.values()),
        "saving": {
            "evaluations": cost.saving,
            "flops": cost.flops_saving,
            "seconds": _seconds_saved(outputs),
        },
        "clip_score": None if clips["shared"] is None else clips,
        "twin_distance": list(scores["shared"].twin),
        "fewer_steps": _fewer(outputs, scores),
    }


def _seconds_saved(outputs: dict[str, SageOutput]) -> float | None:
    """Share of the time saved; None if a side did not run from its start."""
    shared, independent = outputs["shared"], outputs["independent"]
    if shared.reused or independent.reused:
        return None
    return 1 - shared.timings.total / independent.timings.total


def _fewer(outputs: dict[str, SageOutput], scores: dict[str, Scores]) -> dict | None:
    if "fewer" not in outputs:
        return None
    output = outputs["fewer"]
    return {
        "steps": output.plan.steps,
        "evaluations": output.cost.evaluations,
        "flops": stage_amounts(output.cost.flops),
        "seconds": stage_amounts(output.timings),
        "twin_distance": list(scores["fewer"].twin),
    }


def stage_amounts(stages: Stages) -> dict[str, float]:
    """Amounts by stage with their sum, as plain numbers."""
    return asdict(stages) | {"total": stages.total}
