"""Renders both sides of the comparison, interleaved and measured, and writes the report.

Shared and independent runs have the same prompts, seeds, steps and guidance. They advance in turn
(A B, B A, A B, ...), so that whatever else the machine does falls on both. Beside them may run
independent sampling with fewer steps, which spends no more evaluations than the shared side.

A run is measured from its start unless it is told to reuse earlier states; what was reused is
counted, and seconds of a side that reused something are not put beside those of one that did not.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import torch
from PIL import Image
from torch import Tensor

import sage
from sage.core.cost import Stages
from sage.core.grouping import Grouping
from sage.core.metrics import clip_score, pixel_distance
from sage.core.plan import Group, Plan, Row, independent_plan
from sage.jobs.arrangement import Arrangement, arrange, calibration_of, find_groups
from sage.jobs.models import LoadedModel
from sage.jobs.request import Request
from sage.jobs.variants import plain_side, shared_side
from sage.sd.pipeline import SageOutput, SagePipeline, SageStep
from sage.sd.schedulers import steps_for
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
    """

    step: int
    steps: int
    stage: str
    shared: list[Image.Image]
    independent: list[Image.Image]
    fewer: list[Image.Image]


@dataclass(frozen=True)
class Scores:
    """How the pictures of a side fare.

    Attributes:
        twin: For each prompt, the root mean square pixel difference to its independent picture,
            in [0, 1].
        clip: For each prompt, the CLIP score; None without a CLIP image encoder.
    """

    twin: tuple[float, ...]
    clip: tuple[float, ...] | None


@dataclass(frozen=True)
class Comparison:
    """All sides finished.

    Attributes:
        arrangement: Who was to share with whom.
        outputs: The runs: "independent", "shared" and, if it was asked for, "fewer".
        scores: The same keys.
        forks: For the index of a segment of the shared plan, a preview of what its prompts had in
            common when it split.
        report: All of it as plain numbers and texts, ready for JSON.
    """

    arrangement: Arrangement
    outputs: dict[str, SageOutput]
    scores: dict[str, Scores]
    forks: dict[int, Image.Image]
    report: dict

    @property
    def request(self) -> Request:
        """What was asked for."""
        return self.arrangement.request

    @property
    def grouping(self) -> Grouping:
        """Similarities and the reason for every pair."""
        return self.arrangement.grouping

    @property
    def groups(self) -> tuple[Group, ...]:
        """Who started together."""
        return self.arrangement.groups

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
    def clip_scores(self) -> dict[str, tuple[float, ...]] | None:
        """The CLIP scores of each side; None without a CLIP image encoder."""
        if self.scores["shared"].clip is None:
            return None
        return {side: scores.clip for side, scores in self.scores.items()}

    @property
    def twin_distance(self) -> tuple[float, ...]:
        """Distance of each shared picture to its independent one."""
        return self.scores["shared"].twin


def compare(
    model: LoadedModel,
    request: Request,
    groups: Sequence[Group] | None = None,
    *,
    fewer_steps: bool = False,
    keep: StateStore | None = None,
    measure: bool = True,
) -> Iterator[CompareStep | Comparison]:
    """Renders shared and independent pictures of a request.

    Args:
        model: The model.
        request: A checked request.
        groups: Groups to use instead of those found by similarity.
        fewer_steps: Also run independent sampling with as few steps as the shared side can pay.
        keep: Where states are kept for later runs.
        measure: Run everything from the start, so that seconds are comparable. Without it, what
            `keep` holds is reused and no saving of time is reported.

    Yields:
        A CompareStep for every step, then one Comparison.

    Raises:
        ValueError: If the model cannot do what is asked for.
    """
    shared, plain = shared_side(model, request), plain_side(model, request)
    steps = plain.denoiser_calls(request.steps)
    calibration = calibration_of(model.spec, request.trained)
    arrangement = arrange(find_groups(plain, request), request, steps, groups, calibration)
    store = _Recorder(keep) if keep is not None and measure else keep
    runs = {
        "shared": _Lane(shared, request, arrangement.plan, _how_to_share(arrangement, store)),
        "independent": _Lane(plain, request, arrangement.independent, _alone(arrangement, store)),
    }
    known = fewer_steps and arrangement.rule is None  # else only the run shows what it spends
    if known:
        spent = arrangement.cost(shared).evaluations
        runs |= _fewer_lane(plain, request, spent, store)
    _warm_up(runs.values(), request.guidance_scale)
    for i in range(steps):
        _advance(runs, first=i, share=(i + 1) / steps)
        yield _previews(runs, i + 1)
    outputs = {side: lane.finish() for side, lane in runs.items()}
    if fewer_steps and not known:
        spent = outputs["shared"].cost.evaluations
        late = _fewer_lane(plain, request, spent, store)
        outputs |= {side: lane.finish() for side, lane in late.items()}
    yield _finish(model, arrangement, outputs, runs["shared"].forks(outputs["shared"].plan))


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


def _how_to_share(arrangement: Arrangement, store: StateStore | None) -> dict[str, Any]:
    """The shared side's arguments: a plan, or the rule that finds one while sampling."""
    request, how = arrangement.request, sharing_arguments(arrangement.request)
    if arrangement.rule is None:
        return how | {"plan": arrangement.plan, "reuse": store}
    groups = {"groups": arrangement.groups, "num_inference_steps": request.steps}
    return how | groups | {"adaptive": arrangement.rule}


def _alone(arrangement: Arrangement, store: StateStore | None) -> dict[str, Any]:
    return {"plan": arrangement.independent, "reuse": store}


def sharing_arguments(request: Request) -> dict[str, Any]:
    """What a request says about trunks and splits, for `SagePipeline.stream`."""
    return {"trunk": request.trunk, "fresh_noise": request.fresh_noise}


def _fewer_lane(
    pipe: SagePipeline, request: Request, evaluations: int, store: StateStore | None
) -> dict[str, _Lane]:
    """The side with fewer steps by its name; nothing where not even one step can be paid."""
    plan = fewer_plan(pipe, len(request.prompts), evaluations)
    return {"fewer": _Lane(pipe, request, plan, {"plan": plan, "reuse": store})} if plan else {}


def fewer_plan(pipe: SagePipeline, num_prompts: int, evaluations: int) -> Plan | None:
    """Independent sampling with the most steps that so many evaluations can pay.

    Where a scheduler cannot make just so many calls of the denoiser (Heun's are odd), it is fewer;
    None if they do not suffice for a single step.
    """
    for calls in range(evaluations // num_prompts, 0, -1):
        try:
            steps_for(pipe.scheduler, calls)
        except ValueError:
            continue
        return independent_plan(num_prompts, calls)
    return None


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


def _finish(
    model: LoadedModel,
    arrangement: Arrangement,
    outputs: dict[str, SageOutput],
    forks: dict[int, Image.Image],
) -> Comparison:
    prompts, twins = arrangement.request.prompts, outputs["independent"]
    scores = {side: score(model.pipe, prompts, output, twins) for side, output in outputs.items()}
    report = _report(model, arrangement, outputs, scores)
    return Comparison(arrangement, outputs, scores, forks, report)


def score(
    pipe: SagePipeline, prompts: Sequence[str], output: SageOutput, independent: SageOutput
) -> Scores:
    """Scores of a run's pictures beside the independent ones."""
    twin = pixel_distance(_pixels(output), _pixels(independent)).tolist()
    if pipe.clip is None:
        return Scores(tuple(twin), None)
    texts = pipe.embed(prompts)  # known since the prompts were grouped
    clip = clip_score(pipe.clip.embed_images(output.images), texts).tolist()
    return Scores(tuple(twin), tuple(clip))


def _pixels(output: SageOutput) -> Tensor:
    """[N, H, W, 3] in [0, 1]."""
    arrays = [torch.frombuffer(bytearray(im.tobytes()), dtype=torch.uint8) for im in output.images]
    return torch.stack(arrays).float() / 255


def _report(
    model: LoadedModel,
    arrangement: Arrangement,
    outputs: dict[str, SageOutput],
    scores: dict[str, Scores],
) -> dict:
    request, cost = arrangement.request, outputs["shared"].cost
    clips = {side: s.clip and list(s.clip) for side, s in scores.items()}
    return {
        **_conditions(model, request),
        "request": request.to_dict(),
        "prompts": list(request.prompts),
        "groups": [list(group) for group in arrangement.groups],
        "seeds": list(request.seeds),
        "branch_step": request.branch_step,
        "plan": [asdict(segment) for segment in outputs["shared"].plan.segments],
        "probes": outputs["shared"].probes,
        "evaluations": {
            "shared": cost.evaluations,
            "independent": cost.independent_evaluations,
        },
        "flops": {
            "shared": _stages(cost.flops),
            "independent": _stages(cost.independent_flops),
        },
        "seconds": {side: _stages(outputs[side].timings) for side in ("shared", "independent")},
        "reused": {side: output.reused for side, output in outputs.items()},
        "saving": {
            "evaluations": cost.saving,
            "flops": cost.flops_saving,
            "seconds": _seconds_saved(outputs),
        },
        "clip_score": None if clips["shared"] is None else clips,
        "twin_distance": list(scores["shared"].twin),
        "fewer_steps": _fewer(outputs, scores),
    }


def _conditions(model: LoadedModel, request: Request) -> dict:
    """What the numbers of a report depend on."""
    spec, pipe = model.spec, plain_side(model, request)
    settings = request.to_dict()
    return {
        "model": spec.key,
        "source": f"{spec.source}@{spec.revision}" if spec.revision else spec.key,
        # The adapter runs on the shared side only; independent pictures are the plain model's.
        "adapter": spec.adapter.name if request.trained else None,
        **{name: settings[name] for name in settings if name not in ("prompts", "seed")},
        "scheduler": type(pipe.scheduler).__name__,
        "device": model.device_name,
        "dtype": str(pipe.dtype).removeprefix("torch."),
        "versions": versions(),
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
        "flops": _stages(output.cost.flops),
        "seconds": _stages(output.timings),
        "twin_distance": list(scores["fewer"].twin),
    }


def _stages(stages: Stages) -> dict[str, float]:
    return asdict(stages) | {"total": stages.total}


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    packages = ("torch", "diffusers", "transformers")
    return {"sage": sage.__version__} | {name: version(name) for name in packages}
