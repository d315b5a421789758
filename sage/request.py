"""What a visitor may ask for: limits, defaults and the one place where a request is checked.

The page's sliders, the API, the command line and the pipeline all read the limits from here.
Standard library only.
"""

import math
import re
import unicodedata
from dataclasses import dataclass
from typing import Protocol

from sage.plan import branch_step_from_ratio


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
}


class Defaults(Protocol):
    """What a model brings along for a visitor who does not choose."""

    tau_min: float
    tau_max: float
    guidance_scale: float


@dataclass(frozen=True)
class PaperDefaults:
    """The bounds of arXiv 2509.15865, meant for OpenAI CLIP, and the usual guidance."""

    tau_min: float = LIMITS["tau_min"].default
    tau_max: float = LIMITS["tau_max"].default
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
    """

    prompts: tuple[str, ...]
    tau_min: float
    tau_max: float
    max_group_size: int
    share_ratio: float
    steps: int
    guidance_scale: float
    seed: int

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
    steps: int = 30,
    guidance_scale: float | None = None,
    seed: int = 0,
    defaults: Defaults | None = None,
) -> Request:
    """Checks everything a visitor sends.

    Args:
        prompts: A text with one prompt a line.
        tau_min: Lowest similarity inside a group; None is the model's own.
        tau_max: Highest similarity inside a group; None is the model's own.
        max_group_size: Largest group.
        share_ratio: Share of the steps in common, in [0, 1].
        steps: Sampling steps.
        guidance_scale: Classifier-free guidance; None is the model's own.
        seed: Seed of the first prompt.
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
        steps=int(LIMITS["steps"].check(steps)),
        guidance_scale=LIMITS["guidance_scale"].check(
            own.guidance_scale if guidance_scale is None else guidance_scale
        ),
        seed=int(LIMITS["seed"].check(seed)),
    )
    if request.tau_min > request.tau_max:
        raise ValueError(
            f"The lowest similarity is {_shown(request.tau_min)} and the highest "
            f"{_shown(request.tau_max)}; the lowest must not be above the highest."
        )
    return request


def _shown(number: float) -> str:
    return f"{float(number):.10g}"  # a seed in full, a huge number in short
