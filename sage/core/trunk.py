"""What a trunk follows while its prompts share: how a row's members become one prediction.

A row that stands for one prompt follows that prompt, bit for bit, whatever the rule. Knows
conditions, rows and tensors; nothing of texts, networks or plans.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sage.core.plan import Row
from sage.core.settings import TRUNKS

Trunk = str  # a key of TRUNKS
# (x [Q, ...], step of each [Q], condition of each [Q, ...]) -> prediction [Q, ...]
# Conditions are pairs [Q, 2, ...] where prompts have bases of their own, see `beside`.
Denoiser = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Question:
    """What the denoiser is asked for R rows, by Q queries.

    Attributes:
        cond: [Q, ...] conditions, or [N, ...] those of all prompts if `pick` is given.
        pick: [Q] the prompt of each query.
        asks: [Q] the row that each query concerns; None if query q concerns row q.
        answers: [R, M] queries of each row, padded with its first one.
        weights: [R, M] their weights in the row's answer.
        base: [Q, ...] what each query is guided away from; None where that is common to all.
    """

    cond: Tensor
    pick: Tensor | None = None
    asks: Tensor | None = None
    answers: Tensor | None = None
    weights: Tensor | None = None
    base: Tensor | None = None

    def __call__(self, denoise: Denoiser, x: Tensor, index: Tensor) -> Tensor:
        """The prediction of every row [R, ...] at x [R, ...] and steps index [R]."""
        cond = beside(self.base, self.cond if self.pick is None else self.cond[self.pick])
        if self.asks is None or self.weights is None:
            return denoise(x, index, cond)
        each = denoise(x[self.asks], index[self.asks], cond)[self.answers]  # (R, M, ...)
        weights = self.weights.to(each.dtype).view(*self.weights.shape, *(1,) * (x.ndim - 1))
        return (each * weights).sum(1)


def beside(base: Tensor | None, cond: Tensor) -> Tensor:
    """Conditions [Q, ...] as a denoiser takes them: with bases [Q, ...] as pairs [Q, 2, ...]."""
    return cond if base is None else torch.stack([base, cond], 1)


def question(
    trunk: Trunk, cond: Tensor, rows: Sequence[Row], step: int, base: Tensor | None = None
) -> Question:
    """What to ask at a step in which these rows are alive.

    Args:
        trunk: The rule, one of TRUNKS. "mean" is the paper's (arXiv 2509.15865). "norm_mean" is
            ours: the mean, each token stretched to the mean length of the members' tokens.
            "medoid" follows the member closest to all others (Du et al. 2023, arXiv 2304.03446,
            follow any one). "alternate" follows the members in turn (arXiv 2506.23630).
            "prediction" follows the mean of the members' predictions, the soft target of L_SAGE;
            a row then costs one evaluation for each member.
        cond: [N, ...] one condition for each prompt.
        rows: R tuples of prompt indices.
        step: The step; only "alternate" depends on it.
        base: [N, ...] what each prompt is guided away from, the same one for all of a row.

    Raises:
        ValueError: If there is no such rule.
    """
    asked = _question(trunk, cond, rows, step)
    if base is None:
        return asked
    of = [n for row in rows for n in row] if asked.asks is not None else [row[0] for row in rows]
    return replace(asked, base=base[of])


def _question(trunk: Trunk, cond: Tensor, rows: Sequence[Row], step: int) -> Question:
    if trunk == "mean":
        return Question(group_mean(cond, rows))
    if trunk == "norm_mean":
        return Question(torch.stack([_norm_mean(cond[sorted(row)]) for row in rows]))
    if trunk == "medoid":
        picks = [sorted(row)[_medoid(cond[sorted(row)])] for row in rows]
        return Question(cond, torch.tensor(picks, device=cond.device))
    if trunk == "alternate":
        picks = [row[step % len(row)] for row in rows]  # its first member leads
        return Question(cond, torch.tensor(picks, device=cond.device))
    if trunk == "prediction":
        return _all_members(cond, rows)
    raise ValueError(f"trunk is {trunk!r}; allowed are {', '.join(TRUNKS)}.")


def changes_by_step(trunk: Trunk) -> bool:
    """Whether a trunk's question changes while its rows do not."""
    return trunk == "alternate"


def queries(trunk: Trunk, rows: Sequence[Row]) -> int:
    """Evaluations that a step with these rows costs."""
    return sum(map(len, rows)) if trunk == "prediction" else len(rows)


def group_mean(cond: Tensor, rows: Sequence[Row]) -> Tensor:
    """c̄: the mean condition of each row's members (arXiv 2509.15865).

    Args:
        cond: [N, ...] one condition for each prompt.
        rows: R tuples of prompt indices.

    Returns:
        [R, ...]; for a row of one prompt, its condition bit for bit.
    """
    # Members in ascending order: the mean must not depend on who lends the noise.
    return torch.stack(
        [cond[row[0]] if len(row) == 1 else cond[sorted(row)].mean(0) for row in rows]
    )


def _norm_mean(members: Tensor) -> Tensor:
    """The mean of members [M, ..., D], each vector as long as theirs are on average."""
    if len(members) == 1:
        return members[0]
    mean = members.mean(0)
    length = members.norm(dim=-1, keepdim=True).mean(0)
    return mean * (length / mean.norm(dim=-1, keepdim=True).clamp_min(1e-12))


def _medoid(members: Tensor) -> int:
    """Which of members [M, ...] is closest to all others; the first of several."""
    flat = members.flatten(1).double()
    return int((flat[:, None] - flat).square().sum(-1).sum(1).argmin())


def _all_members(cond: Tensor, rows: Sequence[Row]) -> Question:
    members = [n for row in rows for n in sorted(row)]
    starts = [sum(len(row) for row in rows[:r]) for r in range(len(rows))]
    widest = max(map(len, rows))
    answers = [
        [start + m if m < len(row) else start for m in range(widest)]
        for start, row in zip(starts, rows, strict=True)
    ]
    weights = [[(m < len(row)) / len(row) for m in range(widest)] for row in rows]
    device = cond.device
    return Question(
        cond,
        torch.tensor(members, device=device),
        torch.tensor([r for r, row in enumerate(rows) for _ in row], device=device),
        torch.tensor(answers, device=device),
        torch.tensor(weights, device=device, dtype=torch.promote_types(cond.dtype, torch.float32)),
    )
