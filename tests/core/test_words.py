"""Numbers and lists in words."""

import pytest

from sage.core.words import listed


@pytest.mark.parametrize(
    ("names", "words"),
    [(["P1"], "P1"), (["P1", "P2"], "P1 and P2"), (["P1", "P2", "P5"], "P1, P2 and P5")],
)
def test_names_stand_in_a_sentence(names, words):
    assert listed(names) == words
