"""Says, for every step, which trajectories are alive and which prompts each stands for.

A plan knows prompt indices and steps. It knows nothing of texts, pictures, models or time.
Independent sampling, SAGE's trunk and branches, and deeper trees are all just plans; the sampler,
the cost model, the figures and the tests read the same object, so they cannot disagree.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

Row = tuple[int, ...]  # the prompts one trajectory stands for
Group = tuple[int, ...]


@dataclass(frozen=True)
class Segment:
    """One trajectory between two splits.

    Attributes:
        members: Prompts it stands for. The first one lends the starting noise to a trunk.
        start: First step it takes (0-based).
        stop: First step it no longer takes.
        parent: Index of the segment it branches from, or None if it starts from noise.
    """

    members: Row
    start: int
    stop: int
    parent: int | None = None

    def covers(self, step: int) -> bool:
        """Whether this trajectory takes the given step."""
        return self.start <= step < self.stop


@dataclass(frozen=True)
class Plan:
    """A forest of segments in which every prompt stands in exactly one row at every step.

    Attributes:
        steps: Number of sampling steps.
        segments: All segments; parents stand before their children.

    Raises:
        ValueError: If a prompt is missing or doubled at a step, or a child does not continue
            its parent.
    """

    steps: int
    segments: tuple[Segment, ...]

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}; a plan needs at least 1.")
        for index, segment in enumerate(self.segments):
            self._check_segment(index, segment)
        self._check_partition()

    @classmethod
    def from_rows(cls, rows: Sequence[Sequence[Row]]) -> "Plan":
        """The plan whose rows at step i are rows[i], each part of a row of the step before.

        Raises:
            ValueError: If rows join, or a prompt is missing or doubled.
        """
        segments: list[Segment] = []
        alive: dict[Row, int] = {}  # row -> its segment
        for step, here in enumerate(rows):
            before, alive = alive, {}
            for row in map(tuple, here):
                if row in before:
                    alive[row] = before[row]
                    segments[before[row]] = replace(segments[before[row]], stop=step + 1)
                    continue
                parent = next((i for r, i in before.items() if set(row) <= set(r)), None)
                alive[row] = len(segments)
                segments.append(Segment(row, step, step + 1, parent))
        return cls(len(rows), tuple(segments))

    def _check_segment(self, index: int, segment: Segment) -> None:
        if not segment.members or len(set(segment.members)) != len(segment.members):
            raise ValueError(f"Segment {index} has members {segment.members}; need distinct ones.")
        if not 0 <= segment.start < segment.stop <= self.steps:
            raise ValueError(
                f"Segment {index} runs from {segment.start} to {segment.stop}; "
                f"allowed are 0 <= start < stop <= {self.steps}."
            )
        if segment.parent is None:
            if segment.start:
                raise ValueError(f"Segment {index} starts at {segment.start} without a parent.")
            return
        if not 0 <= segment.parent < index:
            raise ValueError(f"Segment {index} has parent {segment.parent}; it must stand before.")
        parent = self.segments[segment.parent]
        if parent.stop != segment.start or not set(segment.members) <= set(parent.members):
            raise ValueError(f"Segment {index} does not continue its parent {segment.parent}.")

    def _check_partition(self) -> None:
        prompts = sorted(
            n for segment in self.segments if not segment.start for n in segment.members
        )
        if not prompts or prompts != list(range(len(prompts))):
            raise ValueError(f"The first step covers prompts {prompts}; need each of 0..N-1 once.")
        for step in self._split_steps:
            here = sorted(n for s in self.segments if s.covers(step) for n in s.members)
            if here != prompts:
                raise ValueError(f"Step {step} covers prompts {here}; need each of 0..N-1 once.")

    @property
    def branch_steps(self) -> tuple[int, ...]:
        """Ends of the segments that several prompts share, ascending; none if nothing is shared."""
        return tuple(sorted({s.stop for s in self.segments if len(s.members) > 1}))

    @cached_property
    def _split_steps(self) -> tuple[int, ...]:
        """Steps at which the set of rows may change; between two of them it is constant."""
        ends = {segment.stop for segment in self.segments} - {self.steps}
        return tuple(sorted({0} | ends))

    @property
    def num_prompts(self) -> int:
        """N, the number of prompts."""
        return sum(len(segment.members) for segment in self.segments if not segment.start)

    def segments_at(self, step: int) -> tuple[int, ...]:
        """Indices of the segments alive at a step, ordered by their smallest prompt.

        Raises:
            IndexError: If the step is not in 0..steps-1.
        """
        if not 0 <= step < self.steps:
            raise IndexError(f"step is {step}; allowed are 0 to {self.steps - 1}.")
        alive = [i for i, segment in enumerate(self.segments) if segment.covers(step)]
        return tuple(sorted(alive, key=lambda i: min(self.segments[i].members)))

    def rows(self, step: int) -> tuple[Row, ...]:
        """The prompts behind each trajectory at a step, e.g. ((0, 2, 3), (1,))."""
        return tuple(self.segments[i].members for i in self.segments_at(step))

    def parents(self, step: int) -> tuple[int, ...]:
        """For each row of a step, the row of the step before that it continues or branches from.

        At step 0 each row is its own parent.
        """
        now = self.segments_at(step)
        if step == 0:
            return tuple(range(len(now)))
        before = self.segments_at(step - 1)
        origin = [i if i in before else self.segments[i].parent for i in now]
        return tuple(before.index(i) for i in origin)

    def branching(self, step: int) -> tuple[int, ...]:
        """For each row of a step, how often it has branched if it does so at this step, else 0."""
        return tuple(
            self._branches(i) if self.segments[i].start == step and self._is_branch(i) else 0
            for i in self.segments_at(step)
        )

    @property
    def depth(self) -> int:
        """The largest number of branches between noise and a picture."""
        return max(self._branches(i) for i in range(len(self.segments)))

    def _is_branch(self, index: int) -> bool:
        """Whether a segment stands for fewer prompts than the one it continues."""
        parent, members = self.segments[index].parent, self.segments[index].members
        return parent is not None and len(members) < len(self.segments[parent].members)

    def _branches(self, index: int | None) -> int:
        if index is None:
            return 0
        return self._is_branch(index) + self._branches(self.segments[index].parent)

    def until(self, step: int) -> "Plan":
        """Its first steps, as a plan of their own: what a run has spent that stops there.

        Raises:
            ValueError: If it has fewer steps, or none are asked for.
        """
        if not 1 <= step <= self.steps:
            raise ValueError(f"The plan is to end at step {step}; allowed are 1 to {self.steps}.")
        begun = [i for i, segment in enumerate(self.segments) if segment.start < step]
        place = {i: n for n, i in enumerate(begun)}
        kept = (self.segments[i] for i in begun)
        return Plan(
            step,
            tuple(
                replace(
                    s, stop=min(s.stop, step), parent=None if s.parent is None else place[s.parent]
                )
                for s in kept
            ),
        )

    def splits_at(self, step: int) -> bool:
        """Whether the rows of a step differ from those of the step before."""
        return step in self._split_steps

    def row_of(self, prompt: int, step: int) -> int:
        """Which row stands for a prompt at a step."""
        return next(r for r, members in enumerate(self.rows(step)) if prompt in members)

    def branch_step_of(self, prompt: int) -> int:
        """First step at which a prompt is alone in its row; `steps` if it never is."""
        shared = [s.stop for s in self.segments if prompt in s.members and len(s.members) > 1]
        return max(shared, default=0)


def branch_step_from_ratio(share_ratio: float, steps: int) -> int:
    """T* = round(β·T), the first step that is no longer shared.

    Args:
        share_ratio: β, in [0, 1].
        steps: T.

    Raises:
        ValueError: If the ratio lies outside [0, 1] or is not a number.
    """
    if not 0.0 <= share_ratio <= 1.0:
        raise ValueError(f"share_ratio is {share_ratio}; allowed are 0 to 1.")
    # Halves round up, not to even as round() does: 0.25 and 0.35 of 30 should not differ by luck.
    return int(share_ratio * steps + 0.5)


def steps_between(interval: tuple[float, float], steps: int) -> range:
    """The steps of an interval that is given in shares of all steps.

    Args:
        interval: From and to, 0 <= from <= to <= 1; both are rounded as a branch point is.
        steps: T.

    Raises:
        ValueError: If the interval lies outside [0, 1] or ends before it begins.
    """
    first, last = interval
    if not 0.0 <= first <= last <= 1.0:
        raise ValueError(f"The interval is {first} to {last}; allowed are 0 <= from <= to <= 1.")
    return range(branch_step_from_ratio(first, steps), branch_step_from_ratio(last, steps))


def independent_plan(num_prompts: int, steps: int) -> Plan:
    """Every prompt alone from the first step on: ordinary sampling."""
    return Plan(steps, tuple(Segment((n,), 0, steps) for n in range(num_prompts)))


def shared_plan(groups: Sequence[Group], steps: int, branch_step: int | Sequence[int]) -> Plan:
    """SAGE's plan: each group runs one trunk up to its branch point, then one branch a prompt.

    Args:
        groups: A partition of the prompts 0..N-1.
        steps: T.
        branch_step: T*, for all groups or one for each; 0 is independent, `steps` never branches.

    Raises:
        ValueError: If the groups are no partition or a branch point lies outside 0..steps.
    """
    several = isinstance(branch_step, Iterable)
    points = list(branch_step) if several else [branch_step] * len(groups)
    if len(points) != len(groups):
        raise ValueError(f"{len(points)} branch points were given for {len(groups)} groups.")
    segments: list[Segment] = []
    for group, point in zip(groups, points, strict=True):
        if not (0 <= point <= steps and float(point).is_integer()):
            raise ValueError(
                f"branch_step is {point}; allowed are whole numbers from 0 to {steps}."
            )
        segments += _trunk_and_branches(tuple(group), steps, int(point), len(segments))
    return Plan(steps, tuple(segments))


def _trunk_and_branches(group: Group, steps: int, point: int, offset: int) -> list[Segment]:
    if len(group) == 1:  # a single prompt has nobody to share with: one unbroken trajectory
        return [Segment(group, 0, steps)]
    trunk = [Segment(group, 0, point)] if point else []
    parent = offset if point else None
    branches = [Segment((n,), point, steps, parent) for n in group] if point < steps else []
    return trunk + branches
