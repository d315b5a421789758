"""Do grouping, saving and quality hold for prompts from outside the training distribution?

Four kinds of as many prompts: combinations of thing and place that were trained on, combinations
that were held out, unknown words in known sentences, and known things in free phrasing. For each:
whether prompts of one topic are more similar than others (the place is the topic of a scene), how
many find a group under the model's own bounds, what sharing saves, and what it does to pictures.
"""

from typing import Any

import numpy as np

from sage.core.grouping import cosine_similarity
from sage.core.words import listed
from sage.studies.engine.compare import Comparison, Design, Entry, Line, plain_rows
from sage.studies.engine.figures import Bars, Figure, caption, metric_title
from sage.studies.engine.lab import Lab
from sage.studies.engine.methods import INDEPENDENT, RATIO, SAGE
from sage.studies.engine.prompts import SCENES, PromptSet, bounds, linked, listed_prompts, regrouped
from sage.studies.engine.results import Result, Row, better, difference
from sage.studies.engine.study import Study

TRAINED, UNSEEN = "trained combinations", "unseen combinations"
WORDS, FREE = "unknown words", "free phrasing"

# Each line is a topic; the things are not in the built-in model's vocabulary.
UNKNOWN_WORDS = """
in the snow: a wolf, a husky, a reindeer, a moose
under water: a submarine, a jellyfish, a seahorse, a diver
in the city: a motorcycle, a scooter, a taxi, a tram
on a wooden table: a croissant, a bagel, a pretzel, a muffin
in the desert: a camel, a scorpion, a lizard, a coyote
in space: an astronaut, a satellite, a comet, an alien
in a room: a violin, a piano, a harp, a cello
in the forest: a deer, a squirrel, a hedgehog, a badger
in the sky: a kite, an eagle, a zeppelin, a glider
in a meadow: a rose, a daisy, a dandelion, an orchid
on the beach: a surfboard, a lobster, a volleyball, a hammock
at night: a bat, a firefly, a lamp, a wizard
"""
# Each paragraph is a topic; the things are in its vocabulary, the sentences are not like its own.
FREE_PHRASING = """
it is snowing and a fox is watching
a cold morning, everything is white, a rabbit sits there
you can see a penguin with snow all around it
winter has come for the little dog

a holiday by the shore with a crab
a turtle crawls over the warm sand
someone left an umbrella near the waves
my duck loves the seaside

a rocket on its way to the stars
far away from earth floats a robot
a spaceship is lost among the planets
imagine a teddy bear drifting through the universe

deep down an octopus is hiding
the shark swims below the surface
there is a fish in clear blue water
a whale sings in the deep ocean

rush hour, and a bus between tall buildings
a bicycle leans against a skyscraper
the red car stops at the lights
a dog has lost its way downtown

breakfast is ready, have a banana
someone baked a cake for you
we have pizza for dinner tonight
a strawberry waits to be eaten

nothing but sand and one cactus
a lion under the burning sun
the dune hides a golden key
a tent stands in the dry heat

an owl is awake while all others sleep
moonlight falls on the castle
a ghost appears after midnight
the cat and the dark

a mushroom grows among old trees
a frog jumps between the trunks
the monkey swings from tree to tree
a house is hidden deep in the woods

high above, a balloon drifts by
the parrot flies through white clouds
an airplane leaves its trail behind
look up, there goes a helicopter

the day ends and a sailboat comes home
a giraffe stands against the evening sky
orange light falls on the flamingo
the sun goes down behind a palm tree

on the way to the top we met a sheep
a train climbs through the alps
between two peaks stands a cow
a tractor works in the high valley
"""


def unknown_words() -> list[tuple[str, ...]]:
    """Twelve topics of four prompts."""
    lines = [line.split(": ") for line in UNKNOWN_WORDS.strip().splitlines()]
    return [tuple(f"{thing} {place}" for thing in things.split(", ")) for place, things in lines]


def free_phrasing() -> list[tuple[str, ...]]:
    """Twelve topics of four prompts."""
    return [tuple(topic.splitlines()) for topic in FREE_PHRASING.strip().split("\n\n")]


Kinds = dict[str, tuple[PromptSet, np.ndarray | None]]


def kinds(lab: Lab) -> Kinds:
    """Prompts of each kind, and the topic of each prompt where there are topics."""
    number = lab.settings.prompts
    by_kind: Kinds = {}
    if lab.settings.data == SCENES:
        for name, share in ((TRAINED, 0.0), (UNSEEN, 1.0)):
            sample = lab.painted(lab.loose_prompts(number, share))
            places = [scene.place for scene in sample.scenes or ()]
            by_kind[name] = sample, np.array(places)
    else:
        by_kind["the data as it comes"] = lab.loose_prompts(number), None
    for name, topics in ((WORDS, unknown_words()), (FREE, free_phrasing())):
        texts = [text for topic in topics for text in topic][:number]
        labels = np.repeat(np.arange(len(topics)), [len(topic) for topic in topics])[:number]
        alone = [(n,) for n in range(len(texts))]
        by_kind[name] = listed_prompts(lab.pipe, name, texts, alone), labels
    return by_kind


def separation(similarity: np.ndarray, topics: np.ndarray) -> float | None:
    """How often a pair of one topic is more similar than a pair of two topics: 0.5 is chance.

    The area under the ROC curve (Hanley & McNeil 1982); None if either kind of pair is missing.
    """
    first, second = np.triu_indices(len(topics), 1)
    same = topics[first] == topics[second]
    values = similarity[first, second]
    inside, across = values[same], np.sort(values[~same])
    if not len(inside) or not len(across):
        return None
    below = np.searchsorted(across, inside, "left") + np.searchsorted(across, inside, "right")
    return float(below.mean() / 2 / len(across))


def design(lab: Lab) -> Design:
    """Groups every kind; shared and independent pictures of each."""
    recipes = {SAGE: lab.recipe(RATIO, lab.settings.sage_adapter), INDEPENDENT: lab.recipe()}
    entries, summaries = [], {}
    for kind, (sample, topics) in kinds(lab).items():
        similarity = cosine_similarity(lab.pipe.embed(sample.texts)).numpy()
        groups = linked(similarity, *bounds(lab.pipe))
        prompts = regrouped(sample, similarity, groups)
        apart = None if topics is None else separation(similarity, topics)
        sharing = sum(len(group) for group in groups if len(group) > 1)
        values = {
            "kind": kind,
            "topics_apart": None if apart is None else round(apart, 3),
            "groupable": round(sharing / len(prompts), 4),
            "groups": len(groups),
            "prompts": len(prompts),
        }
        entries += [Entry(name, recipe, values, prompts) for name, recipe in recipes.items()]
        summaries[kind] = prompts.summary()
    return Design(entries, facts={"kinds": summaries})


def pairs(comparison: Comparison) -> list[tuple[Line, Line]]:
    """Shared and independent pictures of each kind."""
    return list(zip(comparison.lines[::2], comparison.lines[1::2], strict=True))


def rows(comparison: Comparison) -> list[Row]:
    """Every shared line with its difference from independent sampling."""
    lines = plain_rows(comparison)
    for line, (shared, alone) in zip(lines[::2], pairs(comparison), strict=True):
        line["difference"] = difference(shared.measured, alone.measured)
    return lines


def conditions(comparison: Comparison) -> dict[str, Any]:
    """The adapter, the bounds, and what each kind consists of."""
    lab = comparison.lab
    return {
        "adapter": lab.adapter_digest(lab.settings.sage_adapter),
        "share_ratio": RATIO,
        "tau": list(bounds(lab.pipe)),
        "kinds": comparison.design.facts["kinds"],
    }


def answer(result: Result) -> str:
    """What prompts from elsewhere save, and which of them lose."""
    rows = [row for row in result["rows"] if "difference" in row]
    lost = [row["kind"] for row in rows if row["difference"].get("clip", {}).get("sign", 0) < 0]
    least, most = (pick(row["saving"] for row in rows) for pick in (min, max))
    where = f"for {listed(lost)}" if lost else "nowhere"
    return (
        f"Sharing saves {least:.0%} to {most:.0%} of the evaluations; CLIP score is lost {where}."
    )


def finding(comparison: Comparison) -> str:
    """One sentence: grouping, saving and CLIP score of each kind."""
    parts = []
    for shared, alone in pairs(comparison):
        about, first, second = shared.values, shared.measured, alone.measured
        text = f"{about['kind']}: {about['groupable']:.0%} of the prompts find a group"
        if about["topics_apart"] is not None:
            text += f" (topics told apart {about['topics_apart']:.0%} of the time)"
        text += f", {first.saving:.0%} saved"
        if "clip" in first.metrics:
            change = first.metrics["clip"].minus(second.metrics["clip"])
            words = {1: "gained", 0: "not visibly changed", -1: "lost"}
            text += f", CLIP score {change.value:+.3f} ({words[better(first, second, 'clip')]})"
        parts.append(text)
    return f"At share ratio {RATIO:g}, {'; '.join(parts)}.".replace("-0.", "\N{MINUS SIGN}0.")


def figure(result: Result) -> Figure:
    """Quality of each kind, shared and independent."""
    lines = result["rows"]
    panels = []
    for key in (key for key in ("clip", "twin", "inside") if key in result["metrics"]):
        bars = [
            (shared["kind"], [alone["metrics"].get(key), shared["metrics"].get(key)])
            for shared, alone in zip(lines[::2], lines[1::2], strict=True)
        ]
        panels.append(Bars(metric_title(result, key), bars, ((INDEPENDENT, 0), (SAGE, 1))))
    return Figure(result["title"], panels, caption(result))


STUDY = Study(
    name="open-domain",
    title="Prompts from outside the training distribution",
    about=__doc__,
    design=design,
    rows=rows,
    conditions=conditions,
    answer=answer,
    finding=finding,
    figure=figure,
    columns={"kind": "prompts", "groupable": "in groups"},
    defaults={"pictures": 144, "seeds": 3},
)
