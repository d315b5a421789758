"""Questions whose answers are computed: plans are made and counted, nothing is typed in.

Knows plans, their cost and words; nothing of gradio. A question is made again from its number, so
the page need not remember more than that.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from sage.core.cost import evaluations
from sage.core.plan import Plan, independent_plan, shared_plan
from sage.ui.html.palette import ALONE, GROUP_COLORS
from sage.ui.html.words import percent_text, plural

STEPS = (10, 20, 30, 40, 50)
CHOICES = 4
FIRST = 223  # so that the first question is the page's own setting: 4 prompts share 12 of 30 steps
_SHARED, _OWN = GROUP_COLORS[0], ALONE


@dataclass(frozen=True)
class Question:
    """A question with one right answer.

    Attributes:
        text: The question; Markdown.
        choices: Answers to pick from, the right one among them.
        answer: The right one.
        reason: The formula with its numbers; Markdown with LaTeX between dollars.
    """

    text: str
    choices: tuple[str, ...]
    answer: str
    reason: str


def question(number: int) -> Question:
    """The question of a number; the kinds take turns, the numbers in them vary.

    Raises:
        ValueError: If the number is negative.
    """
    if number < 0:
        raise ValueError(f"The question's number is {number}; allowed are 0 and more.")
    return KINDS[number % len(KINDS)](Random(FIRST + number))


def saving(plan: Plan) -> float:
    """Share of the evaluations that a plan saves, in [0, 1]."""
    return 1 - evaluations(plan) / evaluations(independent_plan(plan.num_prompts, plan.steps))


def _saved_by_one_group(random: Random) -> Question:
    steps, shared, count = _setting(random)
    plan = _one_group(count, steps, shared)
    value = saving(plan)
    wrong = (shared / steps, value / 2, shared / steps / count, (shared + 1) / steps, 1 - value)
    return Question(
        f"**{shared} of {plural(steps, 'step')}** are shared by **{count} prompts** in one group. "
        "How many of the evaluations are saved?",
        *_pick(random, percent_text(value), [percent_text(w) for w in wrong]),
        _saving_formula(shared, steps, 1, count, value),
    )


def _evaluations_of_one_group(random: Random) -> Question:
    steps, shared, count = _setting(random)
    value = evaluations(_one_group(count, steps, shared))
    own = steps - shared
    wrong = (steps * count, own * count, shared * count + own, value + shared, value - own)
    return Question(
        f"**{count} prompts** in one group share **{shared} of {plural(steps, 'step')}**. "
        "How many evaluations does that take?",
        *_pick(random, str(value), [str(w) for w in wrong]),
        "The trunk pays for each shared step once, every branch for its own: "
        f"$${_shared(shared)} + {count} \\cdot {_own(own)} = {value}$$ "
        f"Each alone would take $ {steps} \\cdot {count} = {steps * count} $.",
    )


def _saved_by_two_groups(random: Random) -> Question:
    steps, shared, _ = _setting(random)
    sizes = random.choice([(2, 2), (3, 2), (3, 3), (4, 2)])
    groups = [tuple(range(sizes[0])), tuple(range(sizes[0], sum(sizes)))]
    value = saving(shared_plan(groups, steps, shared))
    one = saving(_one_group(sum(sizes), steps, shared))
    wrong = (one, shared / steps, value / 2, 2 * value, 1 - value)
    return Question(
        f"**Two groups**, of {sizes[0]} and {sizes[1]} prompts, each share **{shared} of "
        f"{plural(steps, 'step')}**. How many of the evaluations are saved?",
        *_pick(random, percent_text(value), [percent_text(w) for w in wrong]),
        _saving_formula(shared, steps, 2, sum(sizes), value)
        + " Every group pays for its own trunk.",
    )


def _the_most(random: Random) -> Question:
    steps, shared, _ = _setting(random)
    many = 1_000  # as good as any number: the percentage does not change from here on
    value = saving(_one_group(many, steps, shared))
    wrong = (1.0, value / 2, 1 - value, min(1.0, 2 * value), value + 0.1)
    return Question(
        f"However many prompts join one group that shares **{shared} of {plural(steps, 'step')}**, "
        "the saving stays below …",
        *_pick(random, percent_text(value), [percent_text(w) for w in wrong]),
        f"With more and more prompts, $ G/N $ goes to 0, and what is left is "
        f"$$\\beta = {_fraction(shared, steps)} = {percent_text(value)[:-2]}\\,\\%$$ "
        "The steps after the branch point are never shared.",
    )


def _which_saves_more(random: Random) -> Question:
    steps = random.choice(STEPS[1:])
    few, many = steps // 5, 2 * steps // 5
    options = {
        f"one group of 4, {few} of {steps} steps shared": _one_group(4, steps, few),
        f"two groups of 2, {many} of {steps} steps shared": shared_plan(
            [(0, 1), (2, 3)], steps, many
        ),
        f"four prompts alone, {steps} steps each": independent_plan(4, steps),
    }
    best = max(options, key=lambda name: saving(options[name]))
    lines = " · ".join(f"{name}: **{percent_text(saving(p))}**" for name, p in options.items())
    return Question(
        "Four prompts. Which way saves the most evaluations?",
        tuple(random.sample(list(options), len(options))),
        best,
        f"{lines}. More shared steps can outweigh larger groups; what it costs in likeness is "
        "another matter.",
    )


KINDS: tuple[Callable[[Random], Question], ...] = (
    _saved_by_one_group,
    _evaluations_of_one_group,
    _saved_by_two_groups,
    _the_most,
    _which_saves_more,
)


def _setting(random: Random) -> tuple[int, int, int]:
    """Steps, shared steps and prompts whose share ratio is a round number."""
    steps = random.choice(STEPS)
    tenths = random.choice((2, 3, 4, 5, 6))
    return steps, steps * tenths // 10, random.choice((2, 4, 5))


def _one_group(count: int, steps: int, shared: int) -> Plan:
    return shared_plan([tuple(range(count))], steps, shared)


def _pick(random: Random, right: str, wrong: list[str]) -> tuple[tuple[str, ...], str]:
    """Some answers in random order, the right one among them, none twice."""
    others = [w for w in dict.fromkeys(wrong) if w != right][: CHOICES - 1]
    choices = [right, *others]
    return tuple(random.sample(choices, len(choices))), right


def _saving_formula(shared: int, steps: int, groups: int, count: int, value: float) -> str:
    beta = rf"\textcolor{{{_SHARED}}}{{\beta}}"
    numbers = rf"{_fraction(shared, steps)}\left(1 - \frac{{{groups}}}{{{count}}}\right)"
    return (
        rf"$$\text{{saved}} = {beta}\left(1 - \frac{{G}}{{N}}\right) = {numbers}"
        rf" = {percent_text(value)[:-2]}\,\%$$"
    )


def _fraction(shared: int, steps: int) -> str:
    return rf"\frac{{{_shared(shared)}}}{{{steps}}}"


def _shared(number: int) -> str:
    return rf"\textcolor{{{_SHARED}}}{{{number}}}"


def _own(number: int) -> str:
    return rf"\textcolor{{{_OWN}}}{{{number}}}"
