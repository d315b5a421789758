"""What a visitor may ask for: limits, defaults and the one place where a request is checked.

The page's sliders, the API, the command line and the pipeline all read the limits from here.
Standard library only.
"""

import math
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Protocol

from sage.core.plan import branch_step_from_ratio


@dataclass(frozen=True)
class Limit:
    """A number a visitor may set: its name in plain words, default and range."""

    name: str
    default: float
    low: float
    high: float
    step: float

    def check(self, value: float) -> float:
        """The value itself, as a float or an int like the default.

        Raises:
            ValueError: If it is no finite number, no whole number where one is needed, or
                outside the range.
        """
        number = self._number(value)
        if not self.low <= number <= self.high:
            raise ValueError(
                f"{self.name} is {_shown(number)}; allowed are {_shown(self.low)} to "
                f"{_shown(self.high)}."
            )
        return number

    def _number(self, value: float) -> float:
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if isinstance(value, bool) or not math.isfinite(number):
            raise ValueError(f"{self.name} is {str(value)[:40]!r}; a number is needed.")
        if isinstance(self.default, int):
            if number != int(number):
                raise ValueError(f"{self.name} is {_shown(number)}; a whole number is needed.")
            return int(number)
        return number


LIMITS: dict[str, Limit] = {
    "num_prompts": Limit("The number of prompts", 4, 2, 16, 1),
    "prompt_chars": Limit("The length of a prompt", 60, 1, 300, 1),
    "tau_min": Limit("The lowest similarity inside a group (tau_min)", 0.6, -1.0, 1.0, 0.01),
    "tau_max": Limit("The highest similarity inside a group (tau_max)", 0.9, -1.0, 1.0, 0.01),
    "max_group_size": Limit("The largest group", 5, 1, 16, 1),
    "share_ratio": Limit("The share of steps in common (share_ratio)", 0.4, 0.0, 1.0, 0.01),
    "steps": Limit("The number of steps", 30, 2, 100, 1),
    "guidance_scale": Limit("The guidance scale", 7.5, 1.0, 20.0, 0.1),
    "seed": Limit("The seed", 0, 0, 2**31 - 1, 1),
    "fresh_noise": Limit(
        "The share of fresh noise at the split (fresh_noise)", 0.0, 0.0, 1.0, 0.05
    ),
    "budget": Limit("The share of evaluations to spend (budget)", 0.7, 0.1, 1.0, 0.01),
}


@dataclass(frozen=True)
class Choice:
    """Something a visitor picks: its name in plain words, and each allowed key with its title."""

    name: str
    titles: dict[str, str]

    @property
    def default(self) -> str:
        """The first key."""
        return next(iter(self.titles))

    def check(self, value: str) -> str:
        """The value itself.

        Raises:
            ValueError: If it is none of the keys.
        """
        if not isinstance(value, str) or value not in self.titles:
            allowed = ", ".join(self.titles)
            raise ValueError(f"{self.name} is {str(value)[:40]!r}; allowed are {allowed}.")
        return value


CHOICES: dict[str, Choice] = {
    "scheduler": Choice(
        "The scheduler",
        {
            "ddim": "DDIM (the paper's)",
            "dpm++2m": "DPM-Solver++ 2M",
            "euler": "Euler",
            "euler_a": "Euler ancestral",
            "unipc": "UniPC",
            "pndm": "PNDM",
            "heun": "Heun",
            "lcm": "LCM",
        },
    ),
    "trunk": Choice(
        "What the trunk follows (trunk)",
        {
            "mean": "mean embedding (the paper's)",
            "norm_mean": "mean embedding at the members' length (ours)",
            "medoid": "the most central prompt",
            "alternate": "the prompts in turn, step by step",
            "prediction": "mean of the predictions (costs every prompt)",
        },
    ),
    "sharing": Choice(
        "How prompts share (sharing)",
        {
            "groups": "Groups with one branch point",
            "tree": "A tree within a budget",
            "adaptive": "Adaptive: split when predictions part",
        },
    ),
}


class Defaults(Protocol):
    """What a model brings along for a visitor who does not choose."""

    tau_min: float
    tau_max: float
    steps: int
    guidance_scale: float


@dataclass(frozen=True)
class PaperDefaults:
    """Bounds and steps of arXiv 2509.15865, meant for OpenAI CLIP, and the usual guidance."""

    tau_min: float = LIMITS["tau_min"].default
    tau_max: float = LIMITS["tau_max"].default
    steps: int = LIMITS["steps"].default
    guidance_scale: float = LIMITS["guidance_scale"].default


@dataclass(frozen=True)
class Request:
    """A checked request; make one with `parse_request`.

    Attributes:
        prompts: 2 to 16 texts.
        tau_min: Lowest similarity inside a group.
        tau_max: Highest similarity inside a group.
        max_group_size: Largest group.
        share_ratio: β, the share of steps in common.
        steps: T, sampling steps.
        guidance_scale: Classifier-free guidance; 1 is none.
        seed: Seed of the first prompt; the others count up from it.
        trained: Whether the shared side runs with the model's adapter, trained for sharing.
        scheduler: Key of the scheduler.
        trunk: What a trunk follows.
        fresh_noise: Share of fresh noise in each prompt's latent at a split, in [0, 1].
        sharing: "groups" have one branch point, a "tree" keeps to the budget, "adaptive" splits
            while sampling.
        budget: For "tree", the share of independent sampling's evaluations that may be spent.
        guarded: Whether a group that is predicted to suffer shares less, or not at all.
    """

    prompts: tuple[str, ...]
    tau_min: float
    tau_max: float
    max_group_size: int
    share_ratio: float
    steps: int
    guidance_scale: float
    seed: int
    trained: bool = False
    scheduler: str = CHOICES["scheduler"].default
    trunk: str = CHOICES["trunk"].default
    fresh_noise: float = LIMITS["fresh_noise"].default
    sharing: str = CHOICES["sharing"].default
    budget: float = LIMITS["budget"].default
    guarded: bool = False

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], defaults: Defaults | None = None) -> "Request":
        """A request out of what `to_dict` gave, or a client sent; what is missing is default.

        Args:
            values: By the names of the attributes; `prompts` is a list of texts.
            defaults: The model's own values.

        Raises:
            ValueError: With one sentence: what, which value, what is allowed.
        """
        if not isinstance(values, Mapping):
            raise ValueError(f"The request is a {type(values).__name__}; need names and values.")
        names = [field.name for field in fields(cls)]
        for name in values:
            if name not in names:
                raise ValueError(
                    f"The request has {str(name)[:40]!r}; allowed are {', '.join(names)}."
                )
        prompts, rest = values.get("prompts", ()), {k: values[k] for k in values if k != "prompts"}
        if not isinstance(prompts, (list, tuple)) or not all(isinstance(p, str) for p in prompts):
            raise ValueError("The prompts of a request must be a list of texts.")
        return parse_request("\n".join(clean_prompt(p) for p in prompts), **rest, defaults=defaults)

    def to_dict(self) -> dict[str, Any]:
        """Everything it takes to repeat the request, as plain JSON values."""
        return asdict(self) | {"prompts": list(self.prompts)}

    @property
    def seeds(self) -> tuple[int, ...]:
        """One seed for each prompt."""
        return tuple(self.seed + n for n in range(len(self.prompts)))

    @property
    def branch_step(self) -> int:
        """T*, the first step that is no longer shared."""
        return branch_step_from_ratio(self.share_ratio, self.steps)


def parse_prompts(text: str) -> tuple[str, ...]:
    """Prompts from a text with one a line; blank lines and outer spaces are dropped.

    Raises:
        ValueError: If there are too few or too many, or one is too long.
    """
    if not isinstance(text, str):
        raise ValueError(f"The prompts are a {type(text).__name__}; need a text, one a line.")
    prompts = tuple(clean for line in text.splitlines() if (clean := clean_prompt(line)))
    check_prompts(prompts)
    return prompts


def clean_prompt(line: str) -> str:
    """A prompt without control characters, direction marks and doubled spaces.

    Invisible characters could make two prompts look equal that are not.
    """
    visible = (" " if c.isspace() else c for c in line)
    kept = "".join(c for c in visible if unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co"))
    return re.sub(r" +", " ", kept).strip()


def check_prompts(prompts: tuple[str, ...]) -> None:
    """Raises a ValueError with one sentence if the number or a length is not allowed."""
    number, length = LIMITS["num_prompts"], LIMITS["prompt_chars"]
    if not prompts:
        raise ValueError(f"No prompt yet: type {number.low} to {number.high}, one a line.")
    if len(prompts) == 1:
        raise ValueError("There is one prompt; sharing needs at least two, one a line.")
    number.check(len(prompts))
    for n, prompt in enumerate(prompts, start=1):
        if len(prompt) > length.high:
            raise ValueError(
                f"Prompt {n} has {len(prompt)} characters; allowed are 1 to {length.high}."
            )


def parse_request(
    prompts: str,
    *,
    tau_min: float | None = None,
    tau_max: float | None = None,
    max_group_size: int = 5,
    share_ratio: float = 0.4,
    steps: int | None = None,
    guidance_scale: float | None = None,
    seed: int = 0,
    trained: bool = False,
    scheduler: str = CHOICES["scheduler"].default,
    trunk: str = CHOICES["trunk"].default,
    fresh_noise: float = LIMITS["fresh_noise"].default,
    sharing: str = CHOICES["sharing"].default,
    budget: float = LIMITS["budget"].default,
    guarded: bool = False,
    defaults: Defaults | None = None,
) -> Request:
    """Checks everything a visitor sends.

    Args:
        prompts: A text with one prompt a line.
        tau_min: Lowest similarity inside a group; None is the model's own.
        tau_max: Highest similarity inside a group; None is the model's own.
        max_group_size: Largest group.
        share_ratio: Share of the steps in common, in [0, 1].
        steps: Sampling steps; None is the model's own number.
        guidance_scale: Classifier-free guidance; None is the model's own.
        seed: Seed of the first prompt.
        trained: Adapter on or off, for the shared side.
        scheduler: Key of the scheduler.
        trunk: What a trunk follows.
        fresh_noise: Share of fresh noise at a split, in [0, 1].
        sharing: "groups", "tree" or "adaptive".
        budget: Share of the evaluations that a tree may spend.
        guarded: Whether groups that are predicted to suffer share less.
        defaults: The model's own values.

    Raises:
        ValueError: With one sentence: what, which value, what is allowed.
    """
    own = defaults or PaperDefaults()
    request = Request(
        prompts=parse_prompts(prompts),
        tau_min=LIMITS["tau_min"].check(own.tau_min if tau_min is None else tau_min),
        tau_max=LIMITS["tau_max"].check(own.tau_max if tau_max is None else tau_max),
        max_group_size=int(LIMITS["max_group_size"].check(max_group_size)),
        share_ratio=LIMITS["share_ratio"].check(share_ratio),
        steps=int(LIMITS["steps"].check(own.steps if steps is None else steps)),
        guidance_scale=LIMITS["guidance_scale"].check(
            own.guidance_scale if guidance_scale is None else guidance_scale
        ),
        seed=int(LIMITS["seed"].check(seed)),
        trained=_switch("The switch 'trained for sharing' (trained)", trained),
        scheduler=CHOICES["scheduler"].check(scheduler),
        trunk=CHOICES["trunk"].check(trunk),
        fresh_noise=LIMITS["fresh_noise"].check(fresh_noise),
        sharing=CHOICES["sharing"].check(sharing),
        budget=LIMITS["budget"].check(budget),
        guarded=_switch("The guard (guarded)", guarded),
    )
    if request.tau_min > request.tau_max:
        raise ValueError(
            f"The lowest similarity is {_shown(request.tau_min)} and the highest "
            f"{_shown(request.tau_max)}; the lowest must not be above the highest."
        )
    return request


def _switch(name: str, value: bool) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{name} is {str(value)[:40]!r}; allowed are true and false.")
    return value


def _shown(number: float) -> str:
    return f"{float(number):.10g}"  # a seed in full, a huge number in short
