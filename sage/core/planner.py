"""The best plan within a budget: how many steps, where they lie, who shares them and until when.

One dynamic program over (noise level, who still shares, evaluations spent). A step costs each
prompt its part of the row that takes it; what it loses is the error of the jump and the bias that
sharing adds on the way, both measured on the model beforehand in one unit
(`sage.core.timesteps.jump_errors`). To share nothing is one of the answers. Knows a model's
`planning.json`, groups and numbers; nothing of texts, pictures or networks.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sage.core.calibration import check_conditions, read_stored
from sage.core.cost import evaluations
from sage.core.plan import Group, Plan, Row
from sage.core.settings import settings_of
from sage.core.timesteps import best_paths
from sage.core.tree import dendrogram
from sage.core.words import plural

FILE_NAME = "planning.json"
MOST_UNITS = 64  # evaluations are counted in parts of this size of a picture's, or finer
Rows = tuple[Row, ...]  # a partition of the prompts


@dataclass(frozen=True)
class Planning:
    """What the planner knows of a model.

    Attributes:
        levels: [M] timesteps of the teacher's steps, descending; level M is the end.
        errors: For each kind of solver, [M] rows: error of the jumps from a level to each that
            follows, as `jump_errors` has them.
        sizes: [K] group sizes of `bias`, ascending from 1.
        bias: [K, M + 1] root mean square distance between a trunk's latent and that of a member
            alone, from the same noise, at each level.
        trunk: The rule that these trunks followed.
        weight: What a unit of bias counts beside a unit of error; infinite never shares. Chosen
            by the judges of quality on other prompts than those of the promise.
        power: To which errors and biases are raised before they are added up.
        places: For a kind of solver the timesteps of 1, 2, 3, ... independent steps that the
            judges liked better than the planned ones, on the prompts of the fit; may be empty.
        conditions: Model, prompts, teacher: where the numbers are from.

    Raises:
        ValueError: If shapes disagree, or a value makes no sense.
    """

    levels: tuple[int, ...]
    errors: Mapping[str, tuple[tuple[float, ...], ...]]
    sizes: tuple[int, ...]
    bias: tuple[tuple[float, ...], ...]
    trunk: str
    weight: float
    power: float
    conditions: dict
    places: Mapping[str, tuple[tuple[int, ...], ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        number = len(self.levels)
        for solver, rows in self.errors.items():
            if [len(row) for row in rows] != list(range(number, 0, -1)):
                raise ValueError(f"The errors of {solver} are no triangle of {number} rows.")
            _check_lengths(f"errors of {solver}", rows)
        if len(self.bias) != len(self.sizes) or any(len(b) != number + 1 for b in self.bias):
            raise ValueError(f"bias needs {len(self.sizes)} rows of {number + 1} numbers.")
        _check_lengths("bias", self.bias)
        _check_timesteps("levels", self.levels)
        for solver, places in self.places.items():
            for steps, timesteps in enumerate(places, 1):
                _check_timesteps(f"places of {solver}", timesteps, steps)
        if self.sizes[:1] != (1,) or any(a >= b for a, b in pairwise(self.sizes)):
            raise ValueError(f"sizes are {self.sizes}; they must ascend from 1.")
        if not self.weight >= 0 or not 0 < self.power < math.inf:
            raise ValueError(
                f"weight is {self.weight} and power is {self.power}; "
                "allowed are 0 or more and more than 0."
            )
        settings_of()["trunk"].check(self.trunk, library=True)
        check_conditions(self.conditions)

    def __hash__(self) -> int:
        return hash((self.levels, self.trunk, self.weight, self.power))

    @classmethod
    def read(cls, folder: str | Path) -> "Planning | None":
        """What is stored in a model's folder; None if nothing is.

        Raises:
            ValueError: If the file is damaged.
        """
        return read_stored(Path(folder) / FILE_NAME, "a planning", cls._of_json)

    @classmethod
    def _of_json(cls, values: dict[str, Any]) -> "Planning":
        for name in ("levels", "sizes"):
            values[name] = tuple(values[name])
        values["bias"] = tuple(map(tuple, values["bias"]))
        values["errors"] = {k: tuple(map(tuple, v)) for k, v in values["errors"].items()}
        places = values.get("places", {})
        values["places"] = {k: tuple(map(tuple, v)) for k, v in places.items()}
        values["weight"] = math.inf if values["weight"] is None else values["weight"]
        return cls(**values)

    def write(self, folder: str | Path) -> Path:
        """Writes the file into a folder."""
        path = Path(folder) / FILE_NAME
        values = asdict(self) | {"weight": self.weight if math.isfinite(self.weight) else None}
        path.write_text(json.dumps(values, ensure_ascii=False) + "\n", "utf-8")
        return path

    def jumps(self, solver: str) -> Tensor:
        """[M + 1, M + 1] price of every jump for a kind of solver, to the planner's power.

        Raises:
            ValueError: If nothing was measured for it.
        """
        if (rows := self.errors.get(solver)) is None:
            measured = ", ".join(self.errors) or "none"
            raise ValueError(
                f"Nothing was measured for planning with the solver {solver}; measured: {measured}."
            )
        prices = torch.full((len(rows) + 1,) * 2, torch.inf, dtype=torch.float64)
        for i, row in enumerate(rows):
            prices[i, i + 1 :] = torch.tensor(row, dtype=torch.float64) ** self.power
        return prices

    def bias_of(self, size: int) -> np.ndarray:
        """[M + 1] bias of a group of any size, to the planner's power; linear in log size."""
        known = np.log2(self.sizes)
        table = np.array(self.bias) ** self.power
        place = math.log2(size)
        return np.array([np.interp(place, known, column) for column in table.T])

    def timesteps(self, steps: int, solver: str) -> tuple[int, ...]:
        """The best timesteps of so many steps of independent sampling.

        Raises:
            ValueError: If the teacher took fewer.
        """
        if not 1 <= steps <= len(self.levels):
            raise ValueError(
                f"{steps} steps cannot be planned; allowed are 1 to {len(self.levels)}, as many "
                "as the plan was measured with."
            )
        return tuple(self.levels[i] for i in _paths(self, solver)[steps - 1])


def _check_lengths(name: str, rows: Sequence[Sequence[float]]) -> None:
    """That these are lengths of something, all of them."""
    if not all(0 <= value < math.inf for row in rows for value in row):
        raise ValueError(f"{name} must be finite numbers from 0.")


def _check_timesteps(name: str, timesteps: Sequence[int], number: int | None = None) -> None:
    """That these are so many timesteps of a run."""
    whole = all(type(t) is int and t >= 0 for t in timesteps)
    falls = all(a > b for a, b in pairwise(timesteps))
    if not (whole and falls and len(timesteps) == (number or max(len(timesteps), 1))):
        raise ValueError(f"{name} must be whole numbers from 0, descending, one a step.")


@lru_cache(maxsize=32)
def _paths(planning: Planning, solver: str) -> list[tuple[int, ...]]:
    return best_paths(planning.jumps(solver), len(planning.levels))[0]


@dataclass(frozen=True)
class Planned:
    """What the planner chose.

    Attributes:
        plan: Who shares each step.
        timesteps: Where the steps lie.
        trunk: What its trunks follow.
        budget: Evaluations a picture that were allowed.
        alone: Steps of the best independent sampling within the same budget.
        loss: What the plan is expected to lose, in the unit of the planning.
        alone_loss: What that independent sampling is expected to lose.
    """

    plan: Plan
    timesteps: tuple[int, ...]
    trunk: str
    budget: float
    alone: int
    loss: float
    alone_loss: float

    @property
    def shared_steps(self) -> int:
        """Steps that any prompts share; 0 is independent sampling."""
        return max(self.plan.branch_steps, default=0)

    @property
    def evaluations(self) -> float:
        """For each picture."""
        return evaluations(self.plan, self.trunk) / self.plan.num_prompts

    @property
    def reason(self) -> str:
        """The choice as a sentence."""
        steps = self.plan.steps
        if not self.shared_steps:
            return f"Take {_independent(steps)}: sharing is not expected to pay off."
        losses = f"{self.loss:.3f}", f"{self.alone_loss:.3f}"
        better = "better than" if losses[0] != losses[1] else "as good as"
        return (
            f"Sharing {self.shared_steps} of {steps} steps is {better} "
            f"{_independent(self.alone)}: expected loss {losses[0]} versus {losses[1]}."
        )


def _independent(steps: int) -> str:
    return plural(steps, "independent step")


def plan_within(
    planning: Planning,
    levels: Sequence[Sequence[Row]],
    budget: float,
    solver: str,
    *,
    weight: float | None = None,
    must_share: bool = False,
) -> Planned:
    """The plan with the least expected loss whose evaluations keep to a budget.

    Args:
        planning: Of the model.
        levels: Partitions of the prompts 0..N-1 that may share, coarsest first, each a refinement
            of the one before; that every prompt is alone is added. A row's first prompt leads it.
        budget: Evaluations a picture, at least 1.
        solver: Kind of solver, a key of `planning.errors`.
        weight: Of bias beside error; the planning's own without it.
        must_share: Leaves out independent sampling, for studies that compare the two.

    Raises:
        ValueError: If the budget does not pay one step for each prompt, and a shared one if asked.
    """
    if not budget >= 1:
        raise ValueError(f"budget is {budget:g}; a picture takes at least 1 evaluation.")
    number = sum(len(row) for row in levels[0])
    single: Rows = tuple((n,) for n in range(number))
    rows = [tuple(map(tuple, level)) for level in levels] + [single]
    rows = [level for n, level in enumerate(rows) if n == len(rows) - 1 or len(level) < number]
    weight = planning.weight if weight is None else weight
    if not math.isfinite(weight) and not must_share:
        rows = [single]
    # Prices in whole units, rounded up where a unit is more than one evaluation of the prompts.
    units = min(number, MOST_UNITS)
    prices = [math.ceil(len(level) * units / number - 1e-9) for level in rows]
    allowed = min(int(budget * units + 1e-9), len(planning.levels) * units)
    jumps = planning.jumps(solver)
    harms = [_harm(planning, level, weight) for level in rows]
    loss, path = _cheapest(jumps, harms, prices, allowed, must_share)
    if not path:
        raise ValueError(f"budget is {budget:g}, which does not pay a shared step and a branch.")
    alone_steps = min(int(budget + 1e-9), len(planning.levels))
    alone_loss = _alone_loss(planning, solver, alone_steps)
    plan = Plan.from_rows([rows[level] for _, level in path])
    timesteps = tuple(planning.levels[i] for i, _ in path)
    liked = planning.places.get(solver, ())
    if not plan.branch_steps and plan.steps <= len(liked):
        timesteps = liked[plan.steps - 1]
    return Planned(plan, timesteps, planning.trunk, budget, alone_steps, loss, alone_loss)


def _harm(planning: Planning, rows: Rows, weight: float) -> Tensor:
    """[M + 1] what a prompt has lost on average by sharing in these rows up to each level."""
    number = sum(map(len, rows))
    shared = [row for row in rows if len(row) > 1]
    harm = sum((len(row) * planning.bias_of(len(row)) for row in shared), np.zeros(1))
    harm = np.maximum.accumulate(np.broadcast_to(harm, len(planning.levels) + 1))
    return torch.from_numpy(weight * harm / number) if shared else torch.zeros(len(harm))


def _alone_loss(planning: Planning, solver: str, steps: int) -> float:
    return best_paths(planning.jumps(solver), steps)[1][-1]


def _cheapest(
    jumps: Tensor,
    harms: Sequence[Tensor],
    prices: Sequence[int],
    allowed: int,
    must_share: bool = False,
) -> tuple[float, list[tuple[int, int]]]:
    """The dynamic program.

    Args:
        jumps: [L, L] loss of every jump.
        harms: For each way of sharing, coarsest first, [L] loss up to a level; alone it is 0.
        prices: Units that a step costs in each way.
        allowed: Units to spend.
        must_share: Whether the first step may not be taken alone.

    Returns:
        The least loss, and for every step the level at which it begins and its way of sharing; no
        step if there is no way.
    """
    levels = len(jumps)
    shape = (len(prices), allowed + 1, levels)
    spent = torch.full(shape, torch.inf, dtype=torch.float64)  # least loss, by way, units, level
    origin = torch.full(shape, -1, dtype=torch.int64)  # level that the last step began at
    parted = torch.zeros(shape, dtype=torch.bool)  # whether the way of sharing changed just here
    spent[0, 0, 0] = 0.0
    for way, (harm, price) in enumerate(zip(harms, prices, strict=True)):
        step = jumps + (harm[None, :] - harm[:, None])
        for u in range(allowed + 1):
            if way:
                better = spent[way - 1, u, :-1] < spent[way, u, :-1]  # nobody parts at the end
                better[0] &= not (must_share and way == len(prices) - 1)
                spent[way, u, :-1] = torch.where(better, spent[way - 1, u, :-1], spent[way, u, :-1])
                parted[way, u, :-1] = better
            if u + price <= allowed and bool(spent[way, u, :-1].isfinite().any()):
                loss, begin = (spent[way, u][:, None] + step).min(0)
                lower = loss < spent[way, u + price]
                spent[way, u + price] = torch.where(lower, loss, spent[way, u + price])
                origin[way, u + price] = torch.where(lower, begin, origin[way, u + price])
    way, level = len(prices) - 1, levels - 1
    u = int(spent[way, :, level].argmin())
    least = float(spent[way, u, level])
    path: list[tuple[int, int]] = []
    if not math.isfinite(least):
        return least, path
    while level or way:
        if parted[way, u, level]:
            way -= 1
            continue
        level = int(origin[way, u, level])
        path.append((level, way))
        u -= prices[way]
    return least, path[::-1]


def sharing_levels(groups: Sequence[Group], similarity: Tensor | None = None) -> list[Rows]:
    """Ways to share that a plan may pass through: whole groups, then the two sides of each.

    Args:
        groups: A partition of the prompts, the leader of each first.
        similarity: [N, N], from which the sides follow; without it there are whole groups only.
    """
    whole: Rows = tuple(tuple(group) for group in groups)
    if similarity is None or all(len(group) < 4 for group in whole):
        return [whole]
    sides: list[Row] = []
    for group in whole:
        if len(group) < 4:
            sides.append(group)
            continue
        index = list(group)
        fork = dendrogram(similarity[index][:, index])
        # In the group's own order, so that the leader leads its side too.
        sides += [tuple(group[m] for m in side.members) for side in fork.sides]
    return [whole, tuple(sides)]
