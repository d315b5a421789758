"""Units that take their workers with them: how often they are tried, and what they are torn into.

A prompt may end the process that renders it, for want of memory or through a library that crashes.
A unit that does so STRIKES times (lost nodes of a cluster apart: see `sage.render.register`) is
torn into its groups, each a unit of its own, so that nobody else is lost: calls have fixed shapes
and a picture depends on its group alone, so all other groups come out as they would have, bit for
bit. A group that is lost again is torn into its prompts, as around a prompt whose picture is not a
number. Those pictures are others than together: what their trunk would have been cannot be known
without the prompt that ends its process.
"""

from collections.abc import Iterator, Sequence
from itertools import count

from sage.core.plan import independent_plan
from sage.render.work import Picture, Rendered, Unit, part_of

IN_VAIN = (
    "Workers die before they finish anything, perhaps for want of memory; fewer --workers need "
    "less."
)


class Pieces:
    """Tears units, and puts the pictures of their pieces together."""

    def __init__(self, messages: Sequence[bytes]) -> None:
        numbers = (Unit.from_bytes(message).number for message in messages)
        self._free = count(max(numbers, default=-1) + 1)
        self._pictures: dict[int, list[Picture | None]] = {}  # of torn units, as far as they are
        self._origin: dict[int, tuple[int, Sequence[int]]] = {}  # a piece's unit, and places there

    def tear(self, unit: Unit) -> list[Unit]:
        """Units to render instead of a lost one, with numbers of their own; none of one prompt."""
        size = len(unit.rows)
        if size == 1:
            return []
        groups: dict[int, list[int]] = {}
        for place, group in enumerate(unit.groups):
            groups.setdefault(group, []).append(place)
        several = len(groups) > 1
        parts = list(groups.values()) if several else [[place] for place in range(size)]
        alone = independent_plan(1, unit.plan.steps)
        pieces = [
            unit.part(next(self._free), p, part_of(unit.plan, p) if several else alone)
            for p in parts
        ]
        self._pictures[unit.number] = [None] * size
        self._origin |= {
            piece.number: (unit.number, places) for piece, places in zip(pieces, parts, strict=True)
        }
        return pieces

    def whole(self, rendered: Rendered) -> Iterator[Rendered]:
        """What is whole now that a unit or a piece has arrived: itself, the unit, or nothing."""
        if rendered.number not in self._origin:
            yield rendered
            return
        number, places = self._origin.pop(rendered.number)
        pictures = self._pictures[number]
        for place, picture in zip(places, rendered.pictures, strict=True):
            pictures[place] = picture
        if None not in pictures:
            known = tuple(p for p in self._pictures.pop(number) if p is not None)
            yield from self.whole(Rendered(number, known, rendered.device, rendered.seconds))
