"""The lines of Python that repeat a run with the library, as text; it runs none of them.

A run with one branch point is written out with `SagePipeline`, so that it can be read and changed.
Plans that are made on the way (trees, adaptive splitting, the guard) go through `sage.compare`.
"""

from pprint import pformat

from sage.models import ASSETS, ModelSpec
from sage.request import Request

LINE = 92  # characters
_SAVE = """\
for n, (one, other) in enumerate(zip(shared.images, independent.images), start=1):
    one.save(f"P{n:02d}-shared.png")
    other.save(f"P{n:02d}-independent.png")
print(groups, f"saved {shared.cost.saving:.0%} of the evaluations")
"""


def python_lines(
    request: Request, spec: ModelSpec, device: str = "cpu", dtype: str = "float32"
) -> str:
    """A script that renders what the page rendered, shared and independent, and saves it.

    Args:
        request: What was asked for.
        spec: The model it was asked of.
        device: "cpu", "cuda" or "cuda:N".
        dtype: Name of the weights' type in torch.
    """
    if request.sharing != "groups" or request.guarded:
        return _through_compare(request, spec)
    blocks = [
        _imports(request, spec, dtype),
        _loading(request, spec, device, dtype),
        _prompts(request),
        _running(request, spec),
    ]
    return "\n\n".join(blocks) + "\n" + _SAVE


def _imports(request: Request, spec: ModelSpec, dtype: str) -> str:
    lines = ["import torch\n"] if _half(dtype) else []
    lines += ["from sage.clip import ClipEncoder"] if spec.clip_source else []
    lines += ["from sage.pipeline import SagePipeline"]
    lines += ["from sage.schedulers import make_scheduler"] if request.scheduler != "ddim" else []
    return "\n".join(lines)


def _loading(request: Request, spec: ModelSpec, device: str, dtype: str) -> str:
    weights = [f"dtype=torch.{dtype}"] if _half(dtype) else []
    lines, clip = [], []
    if spec.clip_source:
        where = [_quoted(spec.clip_source), *_revision(spec.clip_revision), *weights]
        lines.append(_call("clip = ClipEncoder.from_pretrained", where))
        clip = ["clip=clip"]
    where = [_quoted(_asset(spec.source)), *_revision(spec.revision), *weights, *clip]
    lines.append(_call("pipe = SagePipeline.from_pretrained", where))
    lines += [f"pipe.to({_quoted(device)})"] if device != "cpu" else []
    if request.scheduler != "ddim":
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
    )
    return f"prompts = [\n{listed}]\ncommon = dict({common})"


def _running(request: Request, spec: ModelSpec) -> str:
    bounds = _keywords(
        tau_min=request.tau_min, tau_max=request.tau_max, max_group_size=request.max_group_size
    )
    own = {"share_ratio": request.share_ratio}
    own |= {"trunk": request.trunk} if request.trunk != "mean" else {}
    own |= {"fresh_noise": request.fresh_noise} if request.fresh_noise else {}
    adapter = getattr(spec, "adapter", None)
    on = [f"pipe.use_lora({_quoted(_asset(str(adapter)))})"] if request.trained and adapter else []
    return "\n".join(
        [
            f"groups = pipe.group(prompts, {bounds}).groups",
            *on,
            f"shared = pipe(prompts, groups=groups, {_keywords(**own)}, **common)",
            *(["pipe.use_lora(None)"] if on else []),
            "independent = pipe(prompts, share_ratio=0, **common)",
        ]
    )


def _through_compare(request: Request, spec: ModelSpec) -> str:
    asked = pformat(request.to_dict(), width=92, sort_dicts=False)
    return f"""\
from sage.compare import compare
from sage.models import available_models, find_model, load_model
from sage.request import Request

asked = {asked}
model = load_model(find_model({_quoted(spec.key)}, available_models({_quoted(spec.key)})))
*_, done = compare(model, Request.from_dict(asked))

groups, shared, independent = done.grouping.groups, done.shared, done.independent
{_SAVE}"""


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
