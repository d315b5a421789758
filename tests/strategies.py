"""Random plans, trees among them, for the property tests."""

from hypothesis import strategies as st

from sage.core.plan import Plan, Segment


def _split(draw, members):
    """A random partition of some prompts."""
    labels = [draw(st.integers(0, len(members) - 1)) for _ in members]
    return [tuple(m for m, k in zip(members, labels, strict=True) if k == j) for j in set(labels)]


@st.composite
def plans(draw, max_prompts=6, max_steps=8):
    """A plan with up to three levels."""
    num_prompts = draw(st.integers(1, max_prompts))
    steps = draw(st.integers(1, max_steps))
    points = sorted(draw(st.sets(st.integers(1, steps), max_size=2)) - {steps})
    members = draw(st.permutations(range(num_prompts)))
    segments = []
    alive = [(row, None) for row in _split(draw, members)]
    for start, stop in zip([0, *points], [*points, steps], strict=True):
        segments += [Segment(row, start, stop, parent) for row, parent in alive]
        base = len(segments) - len(alive)
        alive = [(part, base + r) for r, (row, _) in enumerate(alive) for part in _split(draw, row)]
    return Plan(steps, tuple(segments))
