"""Every setting of a run, said once: its default, limits, name, help and place in a link.

`Sampling` is the one list of settings. Sliders, arguments of the library and of the API, flags of
the command line, links, axes of a grid, records, lines of Python and the sentences that refuse a
value are all made from its fields, through `settings_of`. Standard library only.
"""

import math
import numbers
import operator
import re
from collections.abc import Mapping
from dataclasses import Field, asdict, dataclass, field, fields, replace
from decimal import Decimal
from functools import cache
from typing import Any, ClassVar, Protocol, Self

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_SWITCH_WORDS = {"true": True, "1": True, "yes": True, "on": True}
_SWITCH_WORDS |= {"false": False, "0": False, "no": False, "off": False}
KEY = "setting"  # of a field's metadata


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is common to all kinds of setting.

    Attributes:
        subject: Begins a sentence that refuses a value, "The number of steps".
        label: Name beside a control, "Steps, T".
        help: One sentence on what it does.
        default: Value where neither the visitor nor the model says otherwise.
        of_model: Whether a model brings a default of its own.
        link: Name in a link; its own name if empty.
        always_linked: Whether a link holds it also at its default.
        axis: Values a grid starts with along this setting; it is no axis if empty.
        for_pipeline: Whether a pipeline can honour it; the others need a job.
    """

    subject: str
    label: str
    help: str
    default: Any
    of_model: bool = False
    link: str = ""
    always_linked: bool = True
    axis: tuple[Any, ...] = ()
    for_pipeline: bool = True
    name: str = ""

    def check(self, value: Any, *, library: bool = False) -> Any:
        """The value, in the type of the setting.

        Args:
            value: What was sent.
            library: Allows what a program may ask for, beyond the limits of the page.

        Raises:
            ValueError: With one sentence: what, which value, what is allowed.
        """
        raise NotImplementedError

    def parse(self, text: str) -> Any:
        """A value out of a text; what cannot be read stays a text, for `check` to refuse."""
        return text

    def text(self, value: Any) -> str:
        """A value as `parse` reads it."""
        return str(value)

    def words(self, value: Any) -> str:
        """A value as a visitor reads it."""
        return self.text(value)

    @property
    def allowed(self) -> str:
        """What is allowed, in words."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Number(Setting):
    """A number from `low` to `high`; whole if its default is.

    Attributes:
        low: Smallest value on the page and in the API.
        high: Largest value there.
        step: Of a slider.
        library: The range in a program, where it is wider.
    """

    low: float
    high: float
    step: float
    library: tuple[float, float] | None = None

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are allowed."""
        return isinstance(self.default, int)

    @property
    def allowed(self) -> str:
        """The range in words, "2 to 100"."""
        return f"{number_text(self.low)} to {number_text(self.high)}"

    def check(self, value: Any, *, library: bool = False) -> Any:
        """The number, as an int where the setting is whole, else as a float."""
        number = self._finite(value)
        low, high = self.library if library and self.library else (self.low, self.high)
        if not low <= number <= high:
            raise ValueError(
                f"{self.subject} is {number_text(number)}; allowed are {number_text(low)} to "
                f"{number_text(high)}."
            )
        return number

    def _finite(self, value: Any) -> float:
        # Numbers only: a text is parsed where texts come from, in a link or on a command line.
        value = plain(value)
        number = real_number(value)
        if not math.isfinite(number):
            raise ValueError(f"{self.subject} is {shortened(value)}; a number is needed.")
        if not self.whole:
            return number
        if number != int(number):
            raise ValueError(f"{self.subject} is {number_text(number)}; a whole number is needed.")
        # Of the value itself: a float could not hold a long integer.
        exact: Any = value
        return operator.index(exact) if hasattr(exact, "__index__") else int(number)

    def parse(self, text: str) -> Any:
        """The number in a text of ASCII digits; any other text as it is."""
        return float(text) if _NUMBER.fullmatch(text.strip()) else text

    def text(self, value: Any) -> str:
        """Six digits: they tell any two values of a slider apart."""
        return f"{value:.6g}" if isinstance(value, float) else str(value)

    def words(self, value: Any) -> str:
        """Four digits are enough to read."""
        return f"{value:.4g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True, kw_only=True)
class Choice(Setting):
    """One of several keys, each with its title.

    Attributes:
        titles: Of the keys on the page and in the API.
        library: Of those that only a program may ask for.
    """

    titles: Mapping[str, str]
    library: Mapping[str, str] = field(default_factory=dict)

    @property
    def allowed(self) -> str:
        """The keys."""
        return ", ".join(self.titles)

    def check(self, value: Any, *, library: bool = False) -> str:
        """The key itself."""
        known = self.titles.keys() | (self.library if library else {}).keys()
        if not isinstance(value, str) or value not in known:
            raise ValueError(f"{self.subject} is {shortened(value)}; allowed are {self.allowed}.")
        return value

    def words(self, value: Any) -> str:
        """The title, without what stands in brackets."""
        return ({**self.titles, **self.library})[value].split(" (")[0]


@dataclass(frozen=True, kw_only=True)
class Switch(Setting):
    """On or off."""

    allowed: ClassVar[str] = "true and false"

    def check(self, value: Any, *, library: bool = False) -> bool:
        """The value itself; nothing but True and False is one."""
        if not isinstance(value, bool):
            raise ValueError(f"{self.subject} is {shortened(value)}; allowed are {self.allowed}.")
        return value

    def parse(self, text: str) -> Any:
        """The truth value of a word such as "true", "on" or "0"; any other text as it is."""
        return _SWITCH_WORDS.get(text.strip().lower(), text)

    def text(self, value: Any) -> str:
        """Either "true" or "false"."""
        return str(value).lower()

    def words(self, value: Any) -> str:
        """Either "on" or "off"."""
        return "on" if value else "off"


def plain(value: Any) -> Any:
    """A value as Python has it: what NumPy or torch hold as a single one is taken out."""
    if getattr(value, "ndim", None) != 0 or not hasattr(value, "item"):
        return value
    try:
        return value.item()
    except (RuntimeError, NotImplementedError):  # a tensor without values
        return value


def real_number(value: Any) -> float:
    """A number of any library's kind as a float; NaN for anything else, truth values too."""
    value = plain(value)
    if isinstance(value, bool) or not isinstance(value, (numbers.Real, Decimal)):
        return math.nan
    try:
        return float(value)
    except (OverflowError, ValueError):  # too large, or a decimal's signalling NaN
        return math.nan


def setting(of: Setting) -> Any:
    """The dataclass field of a setting."""
    return field(default=of.default, metadata={KEY: of})


@dataclass(frozen=True)
class SchedulerKind:
    """A scheduler that can be picked.

    Attributes:
        title: For people.
        diffusers: Name of its class there.
        options: What differs from the configuration of the model's own scheduler.
    """

    title: str
    diffusers: str
    options: Mapping[str, Any] = field(default_factory=dict)


SCHEDULER_KINDS: Mapping[str, SchedulerKind] = {
    "ddim": SchedulerKind("DDIM (the paper's)", "DDIMScheduler"),
    "dpm++2m": SchedulerKind("DPM-Solver++ 2M", "DPMSolverMultistepScheduler"),
    "euler": SchedulerKind("Euler", "EulerDiscreteScheduler"),
    "euler_a": SchedulerKind("Euler ancestral", "EulerAncestralDiscreteScheduler"),
    "unipc": SchedulerKind("UniPC", "UniPCMultistepScheduler"),
    "pndm": SchedulerKind("PNDM", "PNDMScheduler", {"skip_prk_steps": True}),
    "heun": SchedulerKind("Heun", "HeunDiscreteScheduler"),
    "lcm": SchedulerKind("LCM", "LCMScheduler"),
}
SCHEDULERS: Mapping[str, str] = {key: kind.title for key, kind in SCHEDULER_KINDS.items()}
TRUNKS: Mapping[str, str] = {
    "mean": "Mean embedding (paper)",
    "norm_mean": "Mean embedding at its members' length (ours)",
    "medoid": "The most central prompt",
    "alternate": "The prompts in turn, step by step",
    "prediction": "Mean of the prompts' predictions",
    "control_once": "The prompts in turn, corrected by one snapshot (ours)",
}
SPACINGS: Mapping[str, str] = {
    "model": "The scheduler's own",
    "planned": "Planned for this model (ours)",
    "trailing": "Trailing",
    "karras": "Karras",
    "beta": "Beta",
    "exponential": "Exponential",
    "ays": "Align Your Steps (Stable Diffusion v1)",
}
# Rules that did not win (study `trunks`), for programs; see `sage.core.lending`.
TRIED_TRUNKS: Mapping[str, str] = {
    "control": "Members in turn, corrected by snapshots at every third step",
    "held": "Latents of their own, one evaluated a step, the others hold",
    "extrapolated": "Latents of their own, one evaluated a step, the others extrapolate",
    "borrowed": "Latents of their own, one evaluated a step, the others add its change",
}
SHARING: Mapping[str, str] = {
    "groups": "Groups with one branch point",
    "tree": "Tree with several branch points",
    "adaptive": "Adaptive: branch when predictions diverge",
}


SEED = Number(
    subject="The seed",
    label="Seed",
    help="seed of the first prompt; the others count up from it.",
    default=0,
    low=0,
    high=2**31 - 1,
    step=1,
    axis=(0, 1, 2),
)


class ModelDefaults(Protocol):
    """The settings of which every model has a default of its own."""

    @property
    def tau_min(self) -> float: ...  # noqa: D102
    @property
    def tau_max(self) -> float: ...  # noqa: D102
    @property
    def steps(self) -> int: ...  # noqa: D102
    @property
    def guidance_scale(self) -> float: ...  # noqa: D102
    @property
    def share_ratio(self) -> float: ...  # noqa: D102


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """All settings of a run; every instance is complete and valid.

    Its own defaults are the paper's (arXiv 2509.15865); `Sampling.of` takes those of a model.

    Attributes:
        tau_min: Lowest cosine similarity inside a group.
        tau_max: Highest cosine similarity inside a group.
        max_group_size: Largest group.
        share_ratio: β, the share of steps in common.
        steps: T, what the scheduler is asked for. It calls the denoiser as often, or more often
            (Heun, PNDM).
        guidance_scale: Classifier-free guidance; 1 is none.
        seed: Of the first prompt; the others count up from it.
        trained: Whether the shared side runs with the model's adapter, trained for sharing.
        scheduler: Key of the scheduler.
        spacing: Where a scheduler's steps lie among the noise levels.
        trunk: What a trunk follows.
        fresh_noise: Share of fresh noise in each prompt's latent at a split.
        sharing: "groups" have one branch point, a "tree" keeps to the budget, "adaptive" splits
            while sampling.
        budget: Evaluations a picture for which the best plan is sought (`sage.core.planner`); 0
            leaves steps, trunks and branch points to the other settings.
        spend: For "tree", the share of independent sampling's evaluations that may be spent.
        guarded: Whether a group that is predicted to suffer shares less, or not at all.

    Raises:
        ValueError: With one sentence: what, which value, what is allowed.
    """

    tau_min: float = setting(
        Number(
            subject="The lowest similarity inside a group (tau_min)",
            label="Lowest similarity, τ min",
            help="lowest cosine similarity inside a group.",
            default=0.6,  # arXiv 2509.15865, meant for OpenAI CLIP; so is 0.9 below
            low=-1.0,
            high=1.0,
            step=0.01,
            of_model=True,
            axis=(0.2, 0.4, 0.6, 0.8),
        )
    )
    tau_max: float = setting(
        Number(
            subject="The highest similarity inside a group (tau_max)",
            label="Highest similarity, τ max",
            help="highest cosine similarity inside a group.",
            default=0.9,
            low=-1.0,
            high=1.0,
            step=0.01,
            of_model=True,
            axis=(0.85, 0.9, 1.0),
        )
    )
    max_group_size: int = setting(
        Number(
            subject="The largest group",
            label="Largest group",
            help="largest number of prompts in a group.",
            default=5,
            low=1,
            high=16,
            step=1,
            library=(1, 10_000),
        )
    )
    share_ratio: float = setting(
        Number(
            subject="The share of steps in common (share_ratio)",
            label="Share ratio, β",
            help="share of the steps that a group has in common.",
            default=0.4,
            low=0.0,
            high=1.0,
            step=0.01,
            of_model=True,
            link="beta",
            axis=(0.0, 0.2, 0.4, 0.6),
        )
    )
    steps: int = setting(
        Number(
            subject="The number of steps",
            label="Steps, T",
            help="sampling steps.",
            default=30,
            low=2,
            high=100,
            step=1,
            library=(1, 1000),
            of_model=True,
            axis=(10, 20, 30),
        )
    )
    guidance_scale: float = setting(
        Number(
            subject="The guidance scale",
            label="Guidance",
            help="classifier-free guidance; 1 is none.",
            default=7.5,
            low=1.0,
            high=20.0,
            step=0.1,
            library=(0.0, 1000.0),
            of_model=True,
            link="guidance",
            axis=(1.0, 2.0, 4.0, 7.5),
        )
    )
    seed: int = setting(SEED)
    trained: bool = setting(
        Switch(
            subject="The switch 'trained for sharing' (trained)",
            label="Trained for sharing",
            help="whether the shared side runs with the adapter that was trained for sharing.",
            default=False,
            always_linked=False,
            axis=(False, True),
            for_pipeline=False,
        )
    )
    scheduler: str = setting(
        Choice(
            subject="The scheduler",
            label="Scheduler",
            help="which scheduler samples.",
            default="ddim",
            titles=SCHEDULERS,
            always_linked=False,
            axis=("ddim", "dpm++2m", "euler"),
            for_pipeline=False,
        )
    )
    spacing: str = setting(
        Choice(
            subject="The step spacing (spacing)",
            label="Step spacing",
            help="at which noise levels a scheduler takes its steps.",
            default="model",
            titles=SPACINGS,
            always_linked=False,
            axis=("model", "planned", "karras"),
        )
    )
    trunk: str = setting(
        Choice(
            subject="What the trunk follows (trunk)",
            label="What the trunk follows",
            help="what a trunk follows while prompts share it.",
            default="mean",
            titles=TRUNKS,
            library=TRIED_TRUNKS,
            always_linked=False,
            axis=("mean", "norm_mean", "medoid"),
        )
    )
    fresh_noise: float = setting(
        Number(
            subject="The share of fresh noise at the split (fresh_noise)",
            label="Fresh noise",
            help="share of each prompt's noise that is renewed where it branches off.",
            default=0.0,
            low=0.0,
            high=1.0,
            step=0.05,
            always_linked=False,
        )
    )
    sharing: str = setting(
        Choice(
            subject="How prompts share (sharing)",
            label="How prompts share",
            help="groups with one branch point, a tree with several, or adaptive branching.",
            default="groups",
            titles=SHARING,
            always_linked=False,
            for_pipeline=False,
        )
    )
    budget: float = setting(
        Number(
            subject="The evaluations per picture (budget)",
            label="Budget: evaluations per picture (0 = off)",
            help="evaluations per picture; the planner then finds the best plan, shared or not, "
            "and sets steps, spacing, trunks and branch points; 0 leaves them to the other "
            "settings.",
            default=0.0,
            low=0.0,
            high=50.0,
            step=0.5,
            always_linked=False,
            axis=(3.0, 5.0, 8.0),
            library=(0.0, 1000.0),
        )
    )
    spend: float = setting(
        Number(
            subject="The share of evaluations to spend (spend)",
            label="Tree: share of the independent evaluations to spend",
            help="for a tree: share of independent sampling's evaluations to spend.",
            default=0.7,
            low=0.1,
            high=1.0,
            step=0.01,
            always_linked=False,
            for_pipeline=False,
        )
    )
    guarded: bool = setting(
        Switch(
            subject="The guard (guarded)",
            label="Share less where sharing is predicted to fail",
            help="whether groups that are predicted to suffer share less, or not at all.",
            default=False,
            axis=(False, True),
            for_pipeline=False,
        )
    )

    aliases: ClassVar[Mapping[str, str]] = {"num_inference_steps": "steps"}  # diffusers' names

    def __post_init__(self) -> None:
        for name, one in settings_of(type(self)).items():
            object.__setattr__(self, name, one.check(getattr(self, name), library=True))
        if self.tau_min > self.tau_max:
            raise ValueError(
                f"The lowest similarity is {number_text(self.tau_min)} and the highest "
                f"{number_text(self.tau_max)}; the lowest must not be above the highest."
            )

    @classmethod
    def of(cls, model: ModelDefaults | None = None, **values: Any) -> Self:
        """Settings by their names, or by diffusers' where it has another one.

        Args:
            model: Whose defaults stand where nothing, or None, is given; the paper's without it.
            values: By the names of the fields.

        Raises:
            ValueError: If there is no such setting, or a value is not allowed.
        """
        chosen = cls.named(values)
        for name, one in settings_of(cls).items():
            if one.of_model and chosen.get(name) is None:
                chosen[name] = one.default if model is None else getattr(model, name)
        return cls(**chosen)

    @classmethod
    def named(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values under the names of the fields.

        Raises:
            ValueError: If there is no such setting, or one is given under two names.
        """
        allowed, result = tuple(f.name for f in fields(cls)), {}
        for given, value in values.items():
            name = cls.aliases.get(given, given)
            if name not in allowed:
                raise ValueError(
                    f"There is no setting {shortened(given)}; allowed are {', '.join(allowed)}."
                )
            if name in result:
                raise ValueError(f"{name} is given twice, also as {shortened(given)}.")
            result[name] = value
        return result

    @staticmethod
    def renamed(values: Mapping[str, Any]) -> dict[str, Any]:
        """Values of a link or a record of version 1 under today's names.

        Its `budget` is what is called `spend` now, a share of up to 1. A picture takes at least 1
        evaluation, so today's budget is 1 or more; a 1 is a share where there is a tree to spend
        it on.
        """
        old = values.get("budget")
        if isinstance(old, bool) or not isinstance(old, int | float) or not 0 < old <= 1:
            return dict(values)
        if old == 1 and (values.get("sharing") != "tree" or "spend" in values):
            return dict(values)
        return {"spend": old} | {n: v for n, v in values.items() if n != "budget"}

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain JSON values."""
        return asdict(self)


@cache
def settings_of(kind: type[Sampling] = Sampling) -> Mapping[str, Setting]:
    """The settings of a class by the names of its fields, in their order."""
    return {f.name: _named(f) for f in fields(kind) if KEY in f.metadata}


def _named(of: Field[Any]) -> Setting:
    one: Setting = of.metadata[KEY]
    return replace(one, name=of.name, link=one.link or of.name)


# How many prompts a visitor may compare, and how long one may be.
NUM_PROMPTS = Number(
    subject="The number of prompts",
    label="Prompts",
    help="how many prompts are compared.",
    default=4,
    low=2,
    high=16,
    step=1,
)
PROMPT_CHARS = Number(
    subject="The length of a prompt",
    label="Characters",
    help="how long a prompt may be.",
    default=60,
    low=1,
    high=300,
    step=1,
)


def shortened(value: Any) -> str:
    """A value as a sentence quotes it, at most about 40 characters."""
    return repr(str(value)[:40])


def number_text(number: float) -> str:
    """A seed in full, a huge number in short."""
    return f"{float(number):.10g}"
