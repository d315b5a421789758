"""The lines of Python that repeat a run with the library, as text; it runs none of them.

Groups with one branch point are written as such; a plan that was made on the way (a tree, adaptive
splitting, the guard) is written out as it was run.
"""

from collections.abc import Sequence

from sage.core.plan import Group, Plan, branch_step_from_ratio, shared_plan
from sage.core.settings import settings_of
from sage.jobs.models import ASSETS, ModelSpec
from sage.jobs.request import Request
from sage.jobs.sides import PLAIN

LINE = 92  # characters
_SAVE = """\
for n, (one, other) in enumerate(zip(shared.images, independent.images), start=1):
    one.save(f"P{n:02d}-shared.png")
    other.save(f"P{n:02d}-independent.png")
print(shared.plan.rows(0), f"saved {shared.cost.saving:.0%} of the evaluations")
"""


def python_lines(
    request: Request,
    spec: ModelSpec,
    plan: Plan,
    groups: Sequence[Group],
    *,
    device: str = "cpu",
    dtype: str = "float32",
) -> str:
    """A script that renders what the page rendered, shared and independent, and saves it.

    Args:
        request: What was asked for.
        spec: The model it was asked of.
        plan: What the shared side ran.
        groups: The groups that were found.
        device: "cpu", "cuda" or "cuda:N".
        dtype: Name of the weights' type in torch.
    """
    point = branch_step_from_ratio(request.share_ratio, plan.steps)
    plain = bool(request.budget) or plan == shared_plan(groups, plan.steps, point)
    blocks = [
        _imports(request, spec, dtype, plain),
        _loading(request, spec, device, dtype),
        _prompts(request),
        _running(request, spec, None if plain else plan),
    ]
    return "\n\n".join(blocks) + "\n" + _SAVE


def _imports(request: Request, spec: ModelSpec, dtype: str, plain: bool) -> str:
    lines = ["import torch\n"] if _half(dtype) else []
    lines += ["from sage.sd.clip import ClipEncoder"] if spec.clip_source else []
    lines += ["from sage.sd.pipeline import SagePipeline"]
    lines += [] if plain else ["from sage.core.plan import Plan, Segment"]
    if request.scheduler != PLAIN:
        lines += ["from sage.sd.schedulers import make_scheduler"]
    return "\n".join(lines)


def _loading(request: Request, spec: ModelSpec, device: str, dtype: str) -> str:
    weights = [f"dtype=torch.{dtype}"] if _half(dtype) else []
    lines, clip = [], []
    if spec.clip_source:
        where = [_quoted(spec.clip_source), *_revision(spec.clip_revision)]
        where += weights if dtype == "float16" else []  # see `sage.jobs.models`
        lines.append(_call("clip = ClipEncoder.from_pretrained", where))
        clip = ["clip=clip"]
    where = [_quoted(_asset(spec.source)), *_revision(spec.revision), *weights, *clip]
    lines.append(_call("pipe = SagePipeline.from_pretrained", where))
    if spec.student:
        lines.append(f"pipe.merge_lora({_quoted(_asset(str(spec.student)))})")
    lines += [f"pipe.to({_quoted(device)})"] if device != "cpu" else []
    if request.scheduler != PLAIN:
        name = _quoted(request.scheduler)
        lines.append(f"pipe.scheduler = make_scheduler({name}, like=pipe.scheduler)")
    return "\n".join(lines)


def _revision(commit: str | None) -> list[str]:
    return [f"revision={_quoted(commit)}"] if commit else []


def _prompts(request: Request) -> str:
    listed = "".join(f"    {_quoted(prompt)},\n" for prompt in request.prompts)
    common = _keywords(
        num_inference_steps=request.steps,
        guidance_scale=request.guidance_scale,
        seeds=list(request.seeds),
        **({"spacing": request.spacing} if request.spacing != Request.spacing else {}),
    )
    return f"prompts = [\n{listed}]\ncommon = dict({common})"


def _running(request: Request, spec: ModelSpec, plan: Plan | None) -> str:
    own = _own_settings(request)
    extra = f", {_keywords(**own)}" if own else ""
    # A planned run has its steps at places of its own, and so has what it is compared with.
    places = "timesteps=shared.timesteps, " if request.budget else ""
    adapter = spec.adapter if request.trained else None
    on = [f"pipe.use_lora({_quoted(_asset(str(adapter)))})"] if adapter else []
    if plan is None:
        who = [f"groups = pipe.group(prompts, {_bounds(request)}).groups"]
        how = "groups=groups"
        how += "" if request.budget else f", share_ratio={request.share_ratio!r}"
    else:
        who, how = [_plan_lines(plan)], "plan=plan"
    return "\n".join(
        [
            *who,
            *on,
            f"shared = pipe(prompts, {how}{extra}, **common)",
            *(["pipe.use_lora(None)"] if on else []),
            f"independent = pipe(prompts, share_ratio=0, {places}**common)",
        ]
    )


# Written in places of their own: groups, branch point, the common arguments.
_SAID = {
    "tau_min",
    "tau_max",
    "max_group_size",
    "share_ratio",
    "steps",
    "guidance_scale",
    "seed",
    "spacing",
}


def _own_settings(request: Request) -> dict[str, object]:
    """What else a pipeline is asked for, where it differs from the default."""
    return {
        name: getattr(request, name)
        for name, one in settings_of(type(request)).items()
        if one.for_pipeline and name not in _SAID and getattr(request, name) != one.default
    }


def _bounds(request: Request) -> str:
    return _keywords(
        tau_min=request.tau_min, tau_max=request.tau_max, max_group_size=request.max_group_size
    )


def _plan_lines(plan: Plan) -> str:
    """A plan as source text, one segment a line."""
    lines = []
    for segment in plan.segments:
        origin = "" if segment.parent is None else f", {segment.parent}"
        lines.append(f"    Segment({segment.members}, {segment.start}, {segment.stop}{origin}),\n")
    return f"plan = Plan({plan.steps}, (\n{''.join(lines)}))"


def _asset(path: str) -> str:
    """A path as it reads from the root of the repository."""
    root = ASSETS.parent.as_posix() + "/"
    return path.replace("\\", "/").removeprefix(root)


def _half(dtype: str) -> bool:
    return dtype != "float32"


def _quoted(text: str) -> str:
    """A text as a Python literal in double quotes, where it holds none."""
    plain = '"' not in text and "\\" not in text and text.isprintable()
    return f'"{text}"' if plain else repr(text)


def _keywords(**values: object) -> str:
    shown = {k: _quoted(v) if isinstance(v, str) else repr(v) for k, v in values.items()}
    return ", ".join(f"{name}={value}" for name, value in shown.items())


def _call(name: str, arguments: list[str]) -> str:
    """A call as source text, one argument a line where it would be too long."""
    line = f"{name}({', '.join(arguments)})"
    if len(line) <= LINE:
        return line
    return f"{name}(\n" + "".join(f"    {argument},\n" for argument in arguments) + ")"
