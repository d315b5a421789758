"""Sets of prompts, each of which shows one thing that a visitor should see. Knows only words."""

from dataclasses import dataclass

from sage.core.settings import ModelDefaults
from sage.jobs.request import Request, parse_prompts, parse_request


@dataclass(frozen=True)
class ExampleSet:
    """A button and what it fills in.

    Attributes:
        key: Short name.
        label: On the button.
        hint: What it shows, in a line.
        prompts: What it fills in.
        ready: Whether its pictures are precomputed.
        typed: The same as one product in braces; "" if they are typed line by line.
        forced: Whether its prompts share although they are too far apart: the bounds are opened
            and the guard is overruled. That is the negative control.
    """

    key: str
    label: str
    hint: str
    prompts: tuple[str, ...]
    forced: bool = False
    ready: bool = True
    typed: str = ""

    @property
    def text(self) -> str:
        """As a visitor would type it."""
        return self.typed or "\n".join(self.prompts)

    def bounds(self, own: ModelDefaults) -> tuple[float, float]:
        """The bounds of similarity under which it is shown, given a model's own."""
        return (-1.0, 1.0) if self.forced else (own.tau_min, own.tau_max)


def example_request(example: ExampleSet, own: ModelDefaults) -> Request:
    """What the page asks for when an example is picked and nothing else is changed."""
    low, high = example.bounds(own)
    return parse_request(
        example.text, tau_min=low, tau_max=high, guarded=not example.forced, defaults=own
    )


def _product(key: str, label: str, hint: str, typed: str) -> ExampleSet:
    return ExampleSet(key, label, hint, parse_prompts(typed), typed=typed)


EXAMPLE_SETS = (
    ExampleSet(
        "tight",
        "Tight group",
        "four prompts that mean nearly the same: one trunk",
        (
            "a panda in the snow",
            "a penguin in the snow",
            "a koala in the snow",
            "an owl in the snow",
        ),
    ),
    ExampleSet(
        "two",
        "Two groups",
        "two scenes, two trunks",
        (
            "a red car in the city",
            "a whale under water",
            "a bus in the city",
            "a fish under water",
        ),
    ),
    ExampleSet(
        "mixed",
        "Mixed set",
        "some share, some stand alone",
        (
            "a cat on the beach",
            "a dog on the beach",
            "a rocket in space",
            "a cat and a dog on the beach",
            "a pizza on a wooden table",
        ),
    ),
    _product(
        "set",
        "Picture set",
        "a product of alternatives, as a table of pictures",
        "a {koala|rabbit|penguin|panda} {in the snow|on the beach}",
    ),
    ExampleSet(
        "far",
        "Dissimilar pair",
        "two prompts that should not share, forced together to see it fail",
        ("a pizza on a wooden table", "a whale under water"),
        forced=True,
    ),
)

FIRST_EXAMPLE = EXAMPLE_SETS[0]
