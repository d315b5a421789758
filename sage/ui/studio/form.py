"""What a visitor has set on the page, and what a session remembers of its last rendering."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from sage.core.plan import Plan
from sage.core.settings import Number, settings_of
from sage.jobs.job import calls_of
from sage.jobs.look import Look
from sage.jobs.prompt_sets import PromptSet, table_of
from sage.jobs.request import Request, parse_request
from sage.ui.export.downloads import RunFiles
from sage.ui.export.links import BESIDE, link_query
from sage.ui.html.pictures import Row
from sage.ui.html.strip import Strip
from sage.ui.refused import check_controls


@dataclass(frozen=True)
class Form:
    """What a visitor has set, unchecked.

    Attributes:
        prompts: One a line.
        model: Key of the model.
        branch_call: First call of the denoiser that is not shared: the branch slider.
        fewer_steps: Whether the equal-NFE baseline is shown too.
        measure: Whether both sides run from the start, so that seconds can be compared.
        repeats: How often they are measured.
        settings: By the names of `Sampling`; the share ratio follows from the branch slider.
    """

    prompts: str
    model: str
    branch_call: float
    fewer_steps: bool
    measure: bool
    repeats: int
    settings: Mapping[str, Any]

    FIELDS: ClassVar[tuple[str, ...]] = (
        "prompts",
        "model",
        "branch_call",
        "fewer_steps",
        "measure",
        "repeats",
    )

    @classmethod
    def setting_names(cls, kind: type[Request] = Request) -> tuple[str, ...]:
        """The settings that have a control of their own."""
        return tuple(name for name in settings_of(kind) if name != "share_ratio")

    @classmethod
    def of(cls, values: Sequence[Any]) -> "Form":
        """The form from the values of `Layout.form`."""
        head, rest = values[: len(cls.FIELDS)], values[len(cls.FIELDS) :]
        settings = dict(zip(cls.setting_names(), rest, strict=True))
        return cls(**dict(zip(cls.FIELDS, head, strict=True)), settings=settings)

    def check(self) -> Request:
        """The form as a request.

        Raises:
            ValueError: With one sentence a visitor understands.
        """
        check_controls(self.settings)
        request = parse_request(self.prompts, **self.settings)
        calls = calls_of(request)
        return replace(request, share_ratio=branch_point(calls).check(self.branch_call) / calls)

    @property
    def table(self) -> PromptSet | None:
        """The table that the prompts fill, where they are one product in braces."""
        try:
            return table_of(str(self.prompts or ""))
        except ValueError:  # the check says why
            return None

    @property
    def product(self) -> str:
        """The line that the table was typed as; "" without one."""
        return str(self.prompts).strip() if self.table else ""

    def query(self, request: Request) -> str:
        """The address that rebuilds the form, whose request this is."""
        beside = {name: getattr(self, name) for name in BESIDE}
        return link_query(request, self.model, self.product, beside)

    @property
    def sides(self) -> tuple[str, ...]:
        """The rows of pictures that are asked for."""
        return ("independent", "shared", *(["fewer"] if self.fewer_steps else []))


def branch_point(calls: int) -> Number:
    """The branch slider's range, in calls of the denoiser."""
    return Number(
        subject="The branch point",
        label="Shared steps",
        help="first step that is no longer shared.",
        default=0,
        low=0,
        high=calls,
        step=1,
    )


@dataclass(frozen=True)
class Run:
    """What a session remembers of its last rendering.

    Attributes:
        request: What was asked for.
        model: Key of the model.
        calls: Calls of the denoiser for one picture.
        step: How many of them are finished.
        done: Whether it came to its end.
        files: Pictures and record on disk, once done.
        strip: Pictures at other branch points; within them the branch point may move.
        stored: Key of the precomputed comparison it is; "" if it was rendered here.
        plan: What was run, once done.
        previews: For a segment of the plan that split, the source of its preview.
        report: Of the run, once done.
        rows: Its pictures, once done; a strip holds its own.
        hidden: Whether its pictures have made room for the boxes of other prompts.
        look: What it saw at the branch point and finished since, if it was a look and no rendering
            of both sides.
        table: The product that its prompts are, if they were typed as one.
        costs: Seconds, FLOPs and saving as they were drawn, as far as they stay as they are.
        ended: The nudge that told of its end, until other prompts are seen: where they were typed
            meanwhile, its pictures still stand.
    """

    request: Request
    model: str
    calls: int
    step: int = 0
    done: bool = False
    files: RunFiles | None = None
    strip: Strip | None = None
    stored: str = ""
    plan: Plan | None = None
    previews: Mapping[int, str] = field(default_factory=dict)
    report: Mapping[str, Any] | None = None
    rows: tuple[Row, ...] = ()
    hidden: bool = False
    look: Look | None = None
    table: PromptSet | None = None
    costs: tuple[str, ...] = ()
    ended: str = ""

    @property
    def can_scrub(self) -> bool:
        """Whether its branch points can be rendered, and are not there yet."""
        by_groups = self.request.sharing == "groups"
        return self.done and self.look is None and self.strip is None and by_groups

    def fits(self, request: Request, model: str) -> bool:
        """Whether its pictures are, or hold, what the form asks for now."""
        if self.strip is None:
            return (self.request, self.model) == (request, model)
        return same_but_branch_point(self.request, request) and self.model == model


def same_but_branch_point(one: Request, other: Request) -> bool:
    """Whether two requests differ at most in the branch point, and in the guard that bounds it."""
    return replace(one, share_ratio=0.0, guarded=False) == replace(
        other, share_ratio=0.0, guarded=False
    )


def ticked(chosen: str, run: Run | None) -> tuple[int, ...]:
    """The open prompts of a look whose ticks are on, from the box that the script fills."""
    seen = run.look if run is not None else None
    if seen is None:
        return ()
    on = {int(word) for word in str(chosen or "").split() if word.isascii() and word.isdigit()}
    return tuple(n for n in seen.open if n in on)
