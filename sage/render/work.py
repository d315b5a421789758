"""What goes to a worker and what comes back: a unit of work, and its pictures.

A unit is fixed by the plan of the run and travels as bytes with a checksum, so that every worker,
wherever it runs and however often a unit is sent, computes the same thing or says that it could
not read it.
"""

import hashlib
import json
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from sage.core.plan import Plan, Segment
from sage.render.register import STRIKES

_DEATHS = f"The process that rendered it died {STRIKES} times"
DIED = (
    f"{_DEATHS} while it rendered nothing else, perhaps for want of memory. The same command "
    "tries it again; fewer --workers on a machine leave more for each."
)


def is_lost(error: str | None) -> bool:
    """Whether an error means that a process was lost: memory, or a library, may do next time."""
    return (error or "").startswith(_DEATHS)


class DamagedError(ValueError):
    """A unit did not arrive as it was sent."""


@dataclass(frozen=True)
class Unit:
    """Some groups that are rendered together; member n is the n-th entry of every tuple.

    Attributes:
        number: Its place in the run, from 0.
        rows: Row of each prompt in the file.
        ids: Id of each prompt.
        prompts: The texts.
        seeds: One for each prompt.
        groups: Number of each prompt's group in the run.
        files: Name of each picture.
        negative_prompts: What each is guided away from; the same in a group.
        plan: Who shares with whom, over all members.
        timesteps: Where the steps lie; None leaves it to the settings.
        trunk: What trunks follow; None leaves it to the settings.
    """

    number: int
    rows: tuple[int, ...]
    ids: tuple[str, ...]
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    groups: tuple[int, ...]
    files: tuple[str, ...]
    negative_prompts: tuple[str, ...]
    plan: Plan
    timesteps: tuple[int, ...] | None = None
    trunk: str | None = None

    def part(self, number: int, places: Sequence[int], plan: Plan) -> "Unit":
        """A unit of some of the prompts, with a number and a plan of its own."""
        chosen = {
            name: tuple(getattr(self, name)[n] for n in places)
            for name in ("rows", "ids", "prompts", "seeds", "groups", "files", "negative_prompts")
        }
        return replace(self, number=number, plan=plan, **chosen)

    def to_bytes(self) -> bytes:
        """The unit as JSON behind its checksum."""
        segments = [[s.members, s.start, s.stop, s.parent] for s in self.plan.segments]
        values = vars(self) | {"plan": [self.plan.steps, segments]}
        body = json.dumps(values, separators=(",", ":"), ensure_ascii=False).encode()
        return hashlib.sha256(body).digest() + body

    @classmethod
    def from_bytes(cls, message: bytes) -> Self:
        """The unit of a message.

        Raises:
            DamagedError: If the checksum is another one.
        """
        checksum, body = message[:32], message[32:]
        if hashlib.sha256(body).digest() != checksum:
            raise DamagedError("A unit of work did not arrive as it was sent.")
        values: Mapping[str, Any] = json.loads(body)
        steps, segments = values["plan"]
        plan = Plan(steps, tuple(Segment(tuple(m), a, b, parent) for m, a, b, parent in segments))
        fields: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
        }
        fields["plan"] = plan
        if "negative_prompt" in fields:  # of a run that was begun when units had one in common
            fields["negative_prompts"] = (fields.pop("negative_prompt"),) * len(fields["rows"])
        return cls(**fields)


@dataclass(frozen=True)
class Picture:
    """What became of a prompt.

    Attributes:
        png: The file, or None if there is none.
        plan: Its way through the run, such as "3x12 1x18": 12 steps in a row of 3 prompts, then
            18 alone.
        nfe: Evaluations of the denoiser; those of a shared row are divided among its prompts.
        flops: FLOPs, divided in the same way.
        flags: What is to be known of the picture.
        error: Why there is none, as one sentence; None if there is one.
    """

    png: bytes | None
    plan: str
    nfe: float
    flops: float
    flags: tuple[str, ...] = ()
    error: str | None = None


@dataclass(frozen=True)
class Rendered:
    """A finished unit.

    Attributes:
        number: Of the unit; -1 if it arrived damaged.
        pictures: In the unit's order.
        device: What it was computed on, in words.
        seconds: How long it took.
    """

    number: int
    pictures: tuple[Picture, ...]
    device: str = ""
    seconds: float = 0.0

    @property
    def damaged(self) -> bool:
        """Whether the unit could not be read and is to be sent again."""
        return self.number < 0

    @property
    def lost(self) -> bool:
        """Whether it took its process with it as often as it may."""
        return any(is_lost(picture.error) for picture in self.pictures)

    def to_bytes(self) -> bytes:
        """For the way back; read only from workers of one's own."""
        return pickle.dumps(self, protocol=5)

    @classmethod
    def from_bytes(cls, message: bytes) -> "Rendered":
        """What a worker sent."""
        return pickle.loads(message)


def failed(unit: Unit, error: str) -> Rendered:
    """A unit of which nothing could be rendered."""
    return Rendered(unit.number, tuple(Picture(None, "", 0.0, 0.0, (), error) for _ in unit.rows))


def part_of(plan: Plan, places: Sequence[int]) -> Plan:
    """The plan of some of its prompts, which share with no others."""
    new = {n: number for number, n in enumerate(places)}
    kept = [k for k, s in enumerate(plan.segments) if s.members[0] in new]
    place = {k: number for number, k in enumerate(kept)} | {None: None}
    segments = (plan.segments[k] for k in kept)
    return Plan(
        plan.steps,
        tuple(
            replace(s, members=tuple(new[n] for n in s.members), parent=place[s.parent])
            for s in segments
        ),
    )
