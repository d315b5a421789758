"""Questions on what sharing saves, and on the idea behind it.

Every number in them is computed: plans are made and counted, similarities and distances are those
that the lesson stores. Knows plans, their cost and words; nothing of gradio. A question is made
again from its number, so the page need not remember more than that.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from random import Random
from statistics import mean

from sage.core.cost import evaluations
from sage.core.plan import Plan, independent_plan, shared_plan
from sage.core.words import plural
from sage.ui.html.words import percent_text
from sage.ui.lesson.content import ALIKE, results
from sage.ui.lesson.content import STEPS as MEASURED_STEPS

STEPS = (10, 20, 30, 40, 50)
CHOICES = 4
FIRST = 223  # so that the first question is the page's own setting: 4 prompts share 12 of 30 steps


@dataclass(frozen=True)
class Question:
    """A question with one right answer.

    Attributes:
        text: The question; HTML.
        choices: Answers to pick from, the right one among them.
        answer: The right one.
        reason: Why, with its numbers; HTML.
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
        f"<b>{shared} of {plural(steps, 'step')}</b> are shared by <b>{count} prompts</b> in one "
        "group. How many of the evaluations are saved?",
        *_pick(random, percent_text(value), [percent_text(w) for w in wrong]),
        _saving_formula(shared, steps, 1, count, value),
    )


def _evaluations_of_one_group(random: Random) -> Question:
    steps, shared, count = _setting(random)
    value = evaluations(_one_group(count, steps, shared))
    own = steps - shared
    wrong = (steps * count, own * count, shared * count + own, value + shared, value - own)
    return Question(
        f"<b>{count} prompts</b> in one group share <b>{shared} of {plural(steps, 'step')}</b>. "
        "How many evaluations does that take?",
        *_pick(random, str(value), [str(w) for w in wrong]),
        "The trunk pays for each shared step once, every branch for its own: "
        + _math(_shared(shared), "+", f"{count} ·", _own(own), "=", value)
        + f"Independent sampling would take {steps} · {count} = {steps * count}.",
    )


def _saved_by_two_groups(random: Random) -> Question:
    steps, shared, _ = _setting(random)
    sizes = random.choice([(2, 2), (3, 2), (3, 3), (4, 2)])
    groups = [tuple(range(sizes[0])), tuple(range(sizes[0], sum(sizes)))]
    value = saving(shared_plan(groups, steps, shared))
    one = saving(_one_group(sum(sizes), steps, shared))
    wrong = (one, shared / steps, value / 2, 2 * value, 1 - value)
    return Question(
        f"<b>Two groups</b>, of {sizes[0]} and {sizes[1]} prompts, each share <b>{shared} of "
        f"{plural(steps, 'step')}</b>. How many of the evaluations are saved?",
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
        f"However many prompts join one group that shares <b>{shared} of "
        f"{plural(steps, 'step')}</b>, the saving stays below …",
        *_pick(random, percent_text(value), [percent_text(w) for w in wrong]),
        "With more and more prompts, <i>G</i>/<i>N</i> goes to 0, and what remains is "
        + _math(BETA, "=", _fraction(_shared(shared), steps), "=", percent_text(value))
        + "The steps after the branch point are never shared.",
    )


def _which_saves_more(random: Random) -> Question:
    steps = random.choice(STEPS[1:])
    # Neither always wins: 3/4 of the one share is set against 1/2 of the other.
    few, many = random.choice([(2, 4), (3, 4), (4, 5), (2, 5), (3, 6), (4, 7), (3, 5), (5, 6)])
    few, many = steps * few // 10, steps * many // 10
    options = {
        f"one group of 4, {few} of {steps} steps shared": _one_group(4, steps, few),
        f"two groups of 2, {many} of {steps} steps shared": shared_plan(
            [(0, 1), (2, 3)], steps, many
        ),
        f"four independent prompts, {steps} steps each": independent_plan(4, steps),
    }
    best = max(options, key=lambda name: saving(options[name]))
    lines = " · ".join(f"{name}: <b>{percent_text(saving(p))}</b>" for name, p in options.items())
    return Question(
        "Four prompts. Which way saves the most evaluations?",
        tuple(random.sample(list(options), len(options))),
        best,
        f"{lines}. Larger groups and more shared steps weigh against each other; how far either "
        "moves the pictures is another matter.",
    )


# -- the idea --------------------------------------------------------------------------------------


def _who_may_share(random: Random) -> Question:
    stored = results()
    low, high, similarity = stored["tau_min"], stored["tau_max"], stored["similarity"]
    pairs = list(combinations(range(len(stored["prompts"])), 2))
    may = [pair for pair in pairs if low <= similarity[pair[0]][pair[1]] <= high]
    chosen = random.choice(may)
    others = random.sample([pair for pair in pairs if pair not in may], CHOICES - 1)
    names = {pair: _pair_words(pair) for pair in (chosen, *others)}
    told = " · ".join(f"{names[(i, j)]}: <b>{similarity[i][j]:.2f}</b>" for i, j in names)
    return Question(
        f"Prompts may share if the similarity of every pair lies between {low} and {high}. "
        "Which two may share a trunk?",
        tuple(random.sample(list(names.values()), len(names))),
        names[chosen],
        f"{told}. What counts is how the text encoder reads the whole prompt, not how many words "
        "are the same.",
    )


def _pair_words(pair: tuple[int, int]) -> str:
    one, other = (results()["prompts"][n] for n in pair)
    return f"“{one}” and “{other}”"


def _late_branch(random: Random) -> Question:
    early, late = random.choice((9, 10, 12)), random.choice((22, 24, 25, 27))
    distance = [mean(each) for each in results()["sharing"]["alike"]["distance"]]
    right = "more is saved, but the pictures look too much alike"
    wrong = (
        "more is saved, and the pictures stay the same",
        "less is saved, because each branch has to start anew",
        "nothing: the branches make up for what was shared",
    )
    return Question(
        f"A group of {plural(len(ALIKE), 'prompt')} branches after <b>{late} of {MEASURED_STEPS} "
        f"steps</b> instead of after {early}. What follows?",
        *_pick(random, right, list(wrong)),
        "The trunk follows the mean of the prompts and settles what all their pictures have in "
        f"common. After {late} shared steps, {plural(MEASURED_STEPS - late, 'separate step')} are "
        "too few to make up for it: the distance to the independent pictures rose "
        f"from <b>{distance[early]:.3f}</b> to <b>{distance[late]:.3f}</b>.",
    )


def _why_the_start(random: Random) -> Question:
    i, j = random.choice(list(combinations(sorted(ALIKE), 2)))
    apart, step = results()["difference"][f"{i}-{j}"], random.choice((4, 5, 6, 8))
    right = "at first, similar prompts steer the picture in nearly the same direction"
    wrong = (
        "the first steps take longer than the last",
        "the denoiser does not read the prompt in the first steps",
        "the last steps are the same for all pictures anyway",
    )
    return Question(
        "Why are the first steps shared, and not the last?",
        *_pick(random, right, list(wrong)),
        f"Sampled independently from the same noise, {_pair_words((i, j))} are after {step} of "
        f"{MEASURED_STEPS} steps only <b>{percent_text(apart[step] / apart[-1])}</b> as far apart "
        "as they will be. Every step costs the same; what differs is what it decides.",
    )


def _the_rival(random: Random) -> Question:
    steps, shared, count = random.choice(
        [(30, 12, 4), (30, 15, 2), (20, 10, 4), (40, 20, 4), (50, 20, 2)]
    )
    spent = evaluations(_one_group(count, steps, shared))
    fewer = spent // count
    return Question(
        f"{count} prompts share <b>{shared} of {plural(steps, 'step')}</b> and spend "
        f"<b>{spent} evaluations</b>. What shows whether sharing was worth it?",
        *_pick(
            random,
            f"whether independent sampling with {fewer} steps comes less close",
            [
                f"whether independent sampling with {steps} steps takes longer",
                f"whether independent sampling with {shared} steps looks worse",
                f"whether one prompt takes only {steps} evaluations",
            ],
        ),
        f"{count} prompts with {fewer} steps each spend {count * fewer} evaluations: as much as "
        "sharing, without any group, and no picture compromises on its prompt. So fewer steps are "
        "the rival: sharing pays only where its pictures come closer to those of "
        f"<b>{steps} independent steps</b>.",
    )


# Arithmetic and idea take turns.
KINDS: tuple[Callable[[Random], Question], ...] = (
    _saved_by_one_group,
    _who_may_share,
    _evaluations_of_one_group,
    _late_branch,
    _saved_by_two_groups,
    _the_rival,
    _the_most,
    _why_the_start,
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
    def less(part: str) -> str:
        return f"(1 − {part})"

    symbols = (BETA, less(_fraction("<i>G</i>", "<i>N</i>")))
    numbers = (_fraction(_shared(shared), steps), less(_fraction(groups, count)))
    return _math("saved", "=", *symbols, "=", *numbers, "=", percent_text(value))


def _math(*parts: object) -> str:
    """A formula on a line of its own, from its parts."""
    return f'<p class="lesson-math">{"".join(f"<span>{part}</span>" for part in parts)}</p>'


def _fraction(above: object, below: object) -> str:
    """A fraction; read aloud it has a stroke."""
    stroke = '<span class="sage-hidden">/</span>'
    return f'<span class="frac"><span>{above}</span>{stroke}<span>{below}</span></span>'


def _shared(number: object) -> str:
    return f'<b class="t-shared">{number}</b>'


def _own(number: object) -> str:
    return f'<b class="t-own">{number}</b>'


BETA = _shared("β")
