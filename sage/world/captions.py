"""Puts scenes into words: natural, varied English captions, short plain forms and emoji included.

Knows grammar; how often each form is used is data (`Words.shares`). Knows nothing about pixels.
"""

import re
from dataclasses import dataclass

import numpy as np

from sage.world.scenes import Scene
from sage.world.words import Words, article_of, model_words, plain_emoji, plural_of

# "in the snow", "at the lake": what may stand before an emoji that names a place.
_LEADS = re.compile(
    r"(in front of|at the bottom of|in|on|at|among|under|by|near|beside)( the| a)? "
)


def caption(scene: Scene, rng: np.random.Generator, words: Words | None = None) -> str:
    """Describe a scene in a few words, without a full stop ("two foxes in the snow").

    Args:
        scene: What is in the picture.
        rng: Where chance comes from.
        words: What the model knows (default: the built-in model's words).
    """
    teller = _Teller(scene, rng, words or model_words())
    return teller.emoji_only() if teller.often("all_emoji") else teller.sentence()


@dataclass(frozen=True)
class _Teller:
    """One scene being told: every method draws from the generator."""

    scene: Scene
    rng: np.random.Generator
    words: Words

    def often(self, share: str) -> bool:
        """Whether something that is said in a share of captions is said; 0 draws nothing."""
        return self.words.shares[share] > 0 and self.rng.random() < self.words.shares[share]

    def pick(self, options: tuple[str, ...]) -> str:
        """One of the options, uniformly."""
        return options[int(self.rng.integers(len(options)))]

    def sentence(self) -> str:
        """Words, with an emoji in the place of some now and then."""
        prefix, suffix = self.style()
        emoji = self.often("emoji")
        nouns = self.nouns(emoji)
        if not prefix and len(self.scene.things) == 1 and self.often("bare"):
            nouns = re.sub("^an? ", "", nouns)
        place = self.place(emoji)
        parts = [prefix, nouns, place, suffix]
        if place and not prefix and self.often("place_first"):
            parts = [place + ",", nouns, suffix]
        return " ".join(part for part in parts if part).replace(" ,", ",")

    def style(self) -> tuple[str, str]:
        """Words before the nouns and words at the end: the style, something plain, or nothing."""
        style = self.words.style[self.scene.style]
        if self.often("style"):
            last = style.suffixes and self.often("style_last")
            return ("", self.pick(style.suffixes)) if last else (self.pick(style.prefixes), "")
        return (self.pick(self.words.plain_prefixes), "") if self.often("prefix") else ("", "")

    def nouns(self, emoji: bool) -> str:
        """The things: "a small red car", "two foxes", "a cat on the left of an owl"."""
        pairs = zip(self.scene.things, self.scene.sizes, strict=True)
        phrases = [self.noun(thing, size, emoji) for thing, size in pairs]
        if len(phrases) == 1:
            return phrases[0]
        # Plain "and" is commonest; it goes left to right, as one reads.
        plain, *others = self.words.pair_forms
        form = plain if self.often("plain_pair") else self.pick(tuple(others))
        return form.format(left=phrases[0], right=phrases[1])

    def noun(self, thing: str, size: str, emoji: bool) -> str:
        """One thing with its article or count and its adjectives, or its emoji."""
        entry = self.words.thing[thing]
        as_emoji = emoji and self.rng.random() < 0.7
        noun = entry.name
        if entry.synonyms and not as_emoji and self.often("synonym"):
            noun = self.pick(entry.synonyms)
        said = [self.pick(self.words.sizes[size])] if self.words.sizes[size] else []
        if as_emoji:
            return self.emoji_noun(entry.emoji, said)
        if entry.colour and self.often("colour"):
            said.append(entry.colour)
        said.append(noun if self.scene.count == 1 else self.plural(noun))
        phrase = " ".join(said)
        return f"{self.lead(phrase)} {phrase}"

    def plural(self, noun: str) -> str:
        """The plural that the words give, or that spelling gives."""
        entry = self.words.thing.get(noun)
        return entry.plural if entry else plural_of(noun)

    def lead(self, phrase: str) -> str:
        """The article of a phrase, or the number of things."""
        if self.scene.count == 1:
            return article_of(phrase)
        return self.pick(self.words.counts[self.scene.count])

    def emoji_noun(self, emoji: str, said: list[str]) -> str:
        """A thing as its emoji: "🦊", "a small 🦊", "three 🦊", "🦊🦊🦊"."""
        emoji = self.written(emoji)
        if self.scene.count > 1:
            repeat = self.rng.random() < 0.5
            return emoji * self.scene.count if repeat else f"{self.lead(emoji)} {emoji}"
        if said and self.rng.random() < 0.7:
            return " ".join(["a", *said, emoji])
        return " ".join([*said, emoji])

    def written(self, emoji: str) -> str:
        """An emoji as some keyboards write it: now and then without its variation selector."""
        bare = plain_emoji(emoji)
        return bare if bare != emoji and self.rng.random() < 0.5 else emoji

    def place(self, emoji: bool) -> str:
        """Words for the place, or nothing now and then."""
        if not self.often("place"):
            return ""
        place = self.words.place[self.scene.place]
        phrase = place.phrases[0] if self.often("first_phrase") else self.pick(place.phrases)
        if emoji and self.rng.random() < 0.5:
            lead = _LEADS.match(phrase)
            return (lead.group(0) if lead else "in the ") + self.written(place.emoji)
        return phrase

    def emoji_only(self) -> str:
        """Emoji and nothing else: "🦊❄️", "🦊 🐱 🌊"."""
        things = [self.written(self.words.thing[name].emoji) for name in self.scene.things]
        things *= self.scene.count
        if self.often("place"):
            things.append(self.written(self.words.place[self.scene.place].emoji))
        return ("" if self.rng.random() < 0.5 else " ").join(things)


def names_place(text: str, scene: Scene, words: Words | None = None) -> bool:
    """Whether a caption names its scene's place, in words or as an emoji."""
    place = (words or model_words()).place[scene.place]
    emoji = place.emoji and plain_emoji(place.emoji) in text
    return bool(emoji) or any(phrase in text for phrase in place.phrases)
