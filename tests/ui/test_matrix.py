import json

import torch

from sage.core.grouping import group_prompts
from sage.ui.html.matrix import empty_matrix, matrix_order, similarity_matrix
from sage.ui.html.palette import ALONE, GROUP_COLORS

from .reader import HOSTILE, Reader

PROMPTS = ("a fox", "a whale", "a dog", "x" * 300)
VALUES = torch.tensor(
    [[1, 0.1, 0.8, 0.2], [0.1, 1, 0.2, 0.7], [0.8, 0.2, 1, 0.3], [0.2, 0.7, 0.3, 1.0]]
)


def grouping(low=0.5, high=0.95):
    return group_prompts(VALUES, low, high)


def test_the_matrix_is_ordered_by_group():
    reader = Reader(similarity_matrix(grouping(), PROMPTS))
    heads = [a["data-p"] for a in reader.all("th", scope="col")]
    assert heads == ["0", "2", "1", "3"]


def test_alike_prompts_stand_side_by_side_within_a_group_and_groups_beside_alike_ones():
    line = torch.tensor([0.0, 3.0, 1.0, 2.0])  # on a line: 0, 2, 3, 1 from left to right
    similarity = 1 - (line[:, None] - line).abs() / 4
    assert matrix_order(similarity, [(0, 1, 2, 3)]) == (0, 2, 3, 1)
    assert matrix_order(similarity, [(0,), (1,), (2,), (3,)]) == (0, 2, 3, 1)
    assert matrix_order(similarity, [(0, 2), (1,), (3,)]) == (0, 2, 3, 1)


def test_a_matrix_of_equal_prompts_has_an_order():
    assert matrix_order(torch.ones(5, 5), [(0, 1, 2), (3, 4)]) == (0, 1, 2, 3, 4)


def test_every_pair_is_a_button_that_says_what_it_is():
    reader = Reader(similarity_matrix(grouping(), PROMPTS))
    cells = reader.all("button")
    assert len(cells) == 4 * 3
    (cell,) = reader.all("button", data_p="0 2")
    assert cell["aria-label"] == "P1 and P3: 0.80, together"
    assert cell["data-why"] == "0.80: same group"
    assert "--shade:0.80" in cell["style"]


def test_values_within_the_bounds_are_bold():
    source = similarity_matrix(grouping(), PROMPTS)
    assert "<b>0.80</b>" in source
    assert ">0.10</button>" in source


def test_groups_are_outlined_in_their_colors():
    reader = Reader(similarity_matrix(grouping(), PROMPTS))
    outlined = [a for a in reader.all("td") if "--group" in a.get("style", "")]
    assert {a["style"].split(":")[1] for a in outlined} == set(GROUP_COLORS[:2])
    assert [a["class"] for a in outlined[:4]] == [
        "top left",
        "top right",
        "bottom left",
        "bottom right",
    ]
    alone = Reader(similarity_matrix(grouping(low=0.9), PROMPTS)).all("td")
    assert {a["style"] for a in alone if "alone" in a.get("class", "")} == {f"--group:{ALONE}"}


def test_many_prompts_have_hundredths_in_the_cells():
    values = torch.eye(16) * 0.6 + 0.4
    source = similarity_matrix(group_prompts(values, 0.5, 0.9), ["a"] * 16)
    assert 'data-numbers="hundredths"' in source
    assert source.count(">40</button>") == 16 * 15
    assert "Similarity in hundredths" in source


def test_rows_are_named_by_what_tells_their_prompts_apart():
    prompts = ("a fox in the snow", "a whale under the sea", "an owl in the snow", "the")
    reader = Reader(similarity_matrix(grouping(), prompts))
    assert [text.strip() for text in reader.texts if text.startswith(" ")][:4] == [
        "fox in snow",
        "owl in snow",
        "whale under sea",
        "the",
    ]
    assert [head["title"] for head in reader.all("th", scope="row")][:2] == [prompts[0], prompts[2]]


def test_prompts_reach_the_script_as_escaped_json():
    reader = Reader(similarity_matrix(grouping(), [HOSTILE] * 4))
    assert reader.is_safe
    assert json.loads(reader.attributes[0]["data-prompts"]) == [HOSTILE] * 4
    assert Reader(empty_matrix(HOSTILE)).is_safe
