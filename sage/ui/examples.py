"""Four sets of prompts that show the four things a visitor should see. Knows only words."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ExampleSet:
    """A button and what it fills in."""

    key: str
    label: str
    hint: str
    prompts: tuple[str, ...]

    @property
    def text(self) -> str:
        """One prompt a line."""
        return "\n".join(self.prompts)


EXAMPLE_SETS = (
    ExampleSet(
        "tight",
        "Tight group",
        "four prompts that mean nearly the same: one trunk",
        (
            "a panda in the snow",
            "a penguin in the snow",
            "a fox in the snow",
            "a rabbit in the snow",
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
            "a rabbit on the beach",
            "a pizza on a wooden table",
        ),
    ),
    ExampleSet(
        "far",
        "Dissimilar pair",
        "two prompts that should not share",
        ("a pizza on a wooden table", "a whale under water"),
    ),
)

FIRST_EXAMPLE = EXAMPLE_SETS[1]
