"""Do grouping, saving and quality hold for prompts from outside the training distribution?

Four kinds of as many prompts: combinations of thing and place that were trained on, combinations
that were held out, unknown words in known sentences, and known things in free phrasing. For each:
whether prompts of one topic are more similar than others (the place is the topic of a scene), how
many find a group under the model's own bounds, what sharing saves, and what it does to pictures.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sage.core.grouping import cosine_similarity
from sage.studies.engine import figures
from sage.studies.engine.lab import Lab
from sage.studies.engine.linkage import complete_linkage
from sage.studies.engine.measure import Measured
from sage.studies.engine.prompts import SCENES, PromptSet, bounds, listed_prompts, regrouped
from sage.studies.engine.results import better, difference, result, row
from sage.studies.main_table import INDEPENDENT, RATIO, SAGE

NAME, TITLE = "open-domain", "Prompts from outside the training distribution"
DEFAULTS = {"pictures": 144, "seeds": 3}
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


def kinds(lab: Lab) -> dict[str, tuple[PromptSet, np.ndarray | None]]:
    """Prompts of each kind, and the topic of each prompt where there are topics."""
    number = lab.settings.prompts
    found: dict[str, tuple[PromptSet, np.ndarray | None]] = {}
    if lab.settings.data == SCENES:
        for name, share in ((TRAINED, 0.0), (UNSEEN, 1.0)):
            sample = lab.painted(lab.loose_prompts(number, share))
            found[name] = sample, np.array([scene.place for scene in sample.scenes])
    else:
        found["the data as it comes"] = lab.loose_prompts(number), None
    for name, topics in ((WORDS, unknown_words()), (FREE, free_phrasing())):
        texts = [text for topic in topics for text in topic][:number]
        labels = np.repeat(np.arange(len(topics)), [len(topic) for topic in topics])[:number]
        alone = [(n,) for n in range(len(texts))]
        found[name] = listed_prompts(lab.pipe, name, texts, alone), labels
    return found


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


def run(lab: Lab) -> dict[str, Any]:
    """Groups and renders every kind."""
    low, high = bounds(lab.pipe)
    shared = lab.setting(RATIO, lab.settings.sage_adapter)
    rows, found, work = [], {}, []
    sets: dict[str, tuple[PromptSet, dict[str, Any]]] = {}
    for name, (sample, topics) in kinds(lab).items():
        similarity = cosine_similarity(lab.pipe.embed(sample.texts)).numpy()
        prompts = regrouped(sample, similarity, complete_linkage(similarity, low, high))
        apart = None if topics is None else separation(similarity, topics)
        sets[name] = prompts, _grouping(prompts, apart)
        work += [(lab.setting(), prompts), (shared, prompts)]
    lab.render(work)
    for name, (prompts, about) in sets.items():
        pair = lab.measure(shared, prompts), lab.measure(lab.setting(), prompts)
        found[name] = (*pair, about)
        gap = difference(*pair)
        rows.append(row(SAGE, pair[0], kind=name, **about, difference=gap))
        rows.append(row(INDEPENDENT, pair[1], kind=name, **about))
    return result(
        sys.modules[__name__],
        lab,
        rows,
        finding(found),
        conditions_={
            "adapter": lab.adapter_digest(lab.settings.sage_adapter),
            "share_ratio": RATIO,
            "tau": [low, high],
            "kinds": {name: prompts.summary() for name, (prompts, _) in sets.items()},
        },
    )


def _grouping(prompts: PromptSet, apart: float | None) -> dict[str, Any]:
    sharing = sum(len(group) for group in prompts.groups if len(group) > 1)
    return {
        "topics_apart": None if apart is None else round(apart, 3),
        "groupable": round(sharing / len(prompts), 4),
        "groups": len(prompts.groups),
        "prompts": len(prompts),
    }


def finding(found: Mapping[str, tuple[Measured, Measured, Mapping[str, Any]]]) -> str:
    """One sentence: grouping, saving and CLIP score of each kind."""
    told = []
    for name, (shared, alone, about) in found.items():
        text = f"{name}: {about['groupable']:.0%} of the prompts find a group"
        if about["topics_apart"] is not None:
            text += f" (topics told apart {about['topics_apart']:.0%} of the time)"
        text += f", {shared.saving:.0%} saved"
        if "clip" in shared.metrics:
            change = shared.metrics["clip"].minus(alone.metrics["clip"])
            words = {1: "gained", 0: "not visibly changed", -1: "lost"}
            text += f", CLIP score {change.value:+.3f} ({words[better(shared, alone, 'clip')]})"
        told.append(text)
    return f"At share ratio {RATIO:g}, {'; '.join(told)}.".replace("-0.", "\N{MINUS SIGN}0.")


def figure(found: Mapping[str, Any]) -> dict[str, Any]:
    """Grouping, saving and quality of each kind."""
    wanted: Sequence[str] = [key for key in ("clip", "twin", "inside") if key in found["metrics"]]
    traces = []
    for panel, key in enumerate(wanted, 1):
        for n, name in enumerate((INDEPENDENT, SAGE)):
            lines = [
                line for line in found["rows"] if line["name"] == name and key in line["metrics"]
            ]
            traces.append(
                figures.interval_trace(
                    name,
                    [line["kind"].replace(" ", "<br>") for line in lines],
                    [line["metrics"][key] for line in lines],
                    colour=(figures.GREY, figures.COLOURS[0])[n],
                    symbol=figures.SYMBOLS[n],
                    line=False,
                    texts=[
                        f"{line['groupable']:.0%} in groups, {line['saving']:.0%} saved"
                        for line in lines
                    ],
                    axes=panel,
                    legend=panel == 1,
                )
            )
    titles = [("", figures.axis_title(found["metrics"][key])) for key in wanted]
    return figures.panels(traces, titles, title=TITLE, note=figures.caption(found))
