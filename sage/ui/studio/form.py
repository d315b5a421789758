"""What a visitor has set on the page, and what a session remembers of its last rendering."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from sage.core.plan import Plan
from sage.jobs.request import LIMITS, Limit, Request, parse_request
from sage.ui.export.downloads import RunFiles
from sage.ui.studio.strip import Strip


@dataclass(frozen=True)
class Form:
    """What a visitor has set, unchecked, in the order of `Layout.form`."""

    prompts: str
    model: str
    tau_min: float
    tau_max: float
    max_group_size: int
    branch_step: int
    steps: int
    guidance_scale: float
    seed: int
    trained: bool
    scheduler: str
    trunk: str
    fresh_noise: float
    sharing: str
    budget: float
    insist: bool
    fewer_steps: bool
    measure: bool

    def check(self) -> Request:
        """The form as a request.

        Raises:
            ValueError: With one sentence a visitor understands.
        """
        steps = int(LIMITS["steps"].check(self.steps))
        point = Limit("The branch point", 0, 0, steps, 1).check(self.branch_step)
        return parse_request(
            self.prompts,
            tau_min=self.tau_min,
            tau_max=self.tau_max,
            max_group_size=self.max_group_size,
            share_ratio=point / steps,
            steps=steps,
            guidance_scale=self.guidance_scale,
            seed=self.seed,
            trained=self.trained,
            scheduler=self.scheduler,
            trunk=self.trunk,
            fresh_noise=self.fresh_noise,
            sharing=self.sharing,
            budget=self.budget,
            guarded=not self.insist,
        )

    @property
    def sides(self) -> tuple[str, ...]:
        """The rows of pictures that are asked for."""
        return ("independent", "shared", *(["fewer"] if self.fewer_steps else []))


@dataclass(frozen=True)
class Run:
    """What a session remembers of its last rendering.

    Attributes:
        request: What was asked for.
        model: Key of the model.
        step: Steps finished.
        done: Whether it came to its end.
        files: Pictures and record on disk, once done.
        strip: Pictures at other branch points; within them the branch point may move.
        stored: Key of the precomputed comparison it is; "" if it was rendered here.
        plan: What was run, once done.
        previews: For a segment of the plan that split, the source of its preview.
    """

    request: Request
    model: str
    step: int = 0
    done: bool = False
    files: RunFiles | None = None
    strip: Strip | None = None
    stored: str = ""
    plan: Plan | None = None
    previews: Mapping[int, str] = field(default_factory=dict)

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
