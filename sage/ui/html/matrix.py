"""The similarity matrix as a table: ordered by a dendrogram, groups outlined in their colours.

A function of a grouping to HTML. Its cells are buttons: the page's script links them with the same
prompts elsewhere and explains the one that is picked. Knows nothing of gradio or models.
"""

import json
from collections.abc import Sequence
from html import escape

import numpy as np
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform
from torch import Tensor

from sage.core.grouping import Grouping, PairDecision
from sage.core.plan import Group
from sage.ui.html.palette import prompt_marks
from sage.ui.html.views import KIND_WORDS, badge
from sage.ui.html.words import short_names

DECIMALS_UP_TO = 7  # prompts; beyond, a cell has room for hundredths only
PICK_A_CELL = "Pick a cell to see both prompts and the reason."
HUNDREDTHS = "Similarity in hundredths. "


def matrix_order(similarity: Tensor, groups: Sequence[Group]) -> tuple[int, ...]:
    """The prompts in the order of the matrix: alike groups side by side, alike prompts within.

    Both levels stand in the order of the leaves of a dendrogram, turned so that neighbours are as
    alike as can be (Bar-Joseph et al. 2001, as in SciPy).

    Args:
        similarity: [N, N] cosine similarities.
        groups: A partition of the prompts.
    """
    near = similarity.double().numpy()
    between = np.array([[near[np.ix_(a, b)].mean() for b in groups] for a in groups])
    return tuple(
        groups[g][n]
        for g in _leaves(1 - between)
        for n in _leaves(1 - near[np.ix_(groups[g], groups[g])])
    )


def _leaves(distance: np.ndarray) -> list[int]:
    """Leaf order of a dendrogram of distances [K, K]; the smaller end comes first."""
    if len(distance) < 3:
        return list(range(len(distance)))
    clean = np.clip((distance + distance.T) / 2, 0, None)
    np.fill_diagonal(clean, 0)
    tree = linkage(squareform(clean, checks=False), "average", optimal_ordering=True)
    leaves = leaves_list(tree).tolist()
    return leaves if leaves[0] < leaves[-1] else leaves[::-1]


def similarity_matrix(
    grouping: Grouping,
    prompts: Sequence[str],
    groups: Sequence[Group] | None = None,
    order: Sequence[int] | None = None,
) -> str:
    """The matrix with a place below it that explains a picked cell.

    Args:
        grouping: Similarities, bounds, and the reason for every pair.
        prompts: N texts.
        groups: Who shares a trunk, if it is not the groups of the grouping.
        order: From `matrix_order`, if it is known.
    """
    groups = groups or grouping.groups
    order = order or matrix_order(grouping.similarity, groups)
    heads = "".join(f'<th scope="col" data-p="{n}">{_name(n, order)}</th>' for n in order)
    names = short_names(prompts)
    rows = "".join(_row(grouping, groups, order, n, names[n], prompts[n]) for n in order)
    numbers = "decimals" if len(order) <= DECIMALS_UP_TO else "hundredths"
    unit = HUNDREDTHS if numbers == "hundredths" else ""
    return (
        f'<div class="sage-matrix" data-numbers="{numbers}" style="--n:{len(order)}" '
        f'data-prompts="{escape(json.dumps(list(prompts)))}">'
        '<table data-roving><caption class="sage-hidden">Cosine similarity of the prompts</caption>'
        f"<thead><tr><td></td>{heads}<td></td></tr></thead><tbody>{rows}</tbody></table>"
        f'<div class="sage-pair-words" aria-live="polite"><p>{unit}{PICK_A_CELL}</p></div></div>'
    )


def empty_matrix(sentence: str) -> str:
    """The matrix's place while there is nothing to compare."""
    return f'<div class="sage-matrix sage-empty"><p>{escape(sentence)}</p></div>'


def _row(
    grouping: Grouping,
    groups: Sequence[Group],
    order: Sequence[int],
    i: int,
    name: str,
    prompt: str,
) -> str:
    cells = "".join(_cell(grouping, groups, order, i, j) for j in order)
    head = f"<b>{_name(i, order)}</b> {escape(name)}"
    return (
        f'<tr><th scope="row" data-p="{i}" title="{escape(prompt)}">{head}</th>{cells}'
        f"{_letter(groups, order, i)}</tr>"
    )


def _name(n: int, order: Sequence[int]) -> str:
    """A prompt's name, "P3"; among many, its number alone."""
    return f"P{n + 1}" if len(order) <= DECIMALS_UP_TO else str(n + 1)


def _letter(groups: Sequence[Group], order: Sequence[int], i: int) -> str:
    """The group's letter, beside the first of its rows."""
    group = next(g for g in groups if i in g)
    if min(group, key=order.index) != i:
        return ""
    return f'<td class="sage-letter" rowspan="{len(group)}">{badge(prompt_marks(groups)[i])}</td>'


def _cell(grouping: Grouping, groups: Sequence[Group], order: Sequence[int], i: int, j: int) -> str:
    group = next(g for g in groups if i in g)
    mark = prompt_marks(groups)[i]
    edges = _edges(group, order, i, j) if j in group else ""
    outline = f' class="{edges}" style="--group:{mark.color}"' if edges else ""
    if i == j:
        return f'<td{outline}><i data-p="{i}" style="--shade:1"></i></td>'
    pair = _pair(grouping, i, j)
    value = pair.similarity
    inside = grouping.tau_min <= value <= grouping.tau_max
    text = f"{value:.2f}" if len(order) <= DECIMALS_UP_TO else f"{100 * value:.0f}"
    shown = f"<b>{text}</b>" if inside else text
    return (
        f'<td{outline}><button type="button" tabindex="-1" data-p="{i} {j}" data-a="{i}" '
        f'data-b="{j}" style="--shade:{max(value, 0):.2f}" data-why="{escape(pair.reason)}" '
        f'aria-label="P{i + 1} and P{j + 1}: {value:.2f}, {KIND_WORDS[pair.kind]}">'
        f"{shown}</button></td>"
    )


def _edges(group: Group, order: Sequence[int], i: int, j: int) -> str:
    """Which sides of a cell lie on the outline of its group: "top left ..."."""
    places = sorted(order.index(n) for n in group)
    row, column = order.index(i), order.index(j)
    sides = {
        "top": row == places[0],
        "bottom": row == places[-1],
        "left": column == places[0],
        "right": column == places[-1],
    }
    thin = ["alone"] if len(group) == 1 else []
    return " ".join([side for side, on in sides.items() if on] + thin)


def _pair(grouping: Grouping, i: int, j: int) -> PairDecision:
    return next(p for p in grouping.pairs if (p.first, p.second) == (min(i, j), max(i, j)))
