"""The built-in model's words as plain tables; new code reads `sage.world.words` instead."""

from sage.world.words import model_words, plural_of, words_of

THINGS = model_words().things
PLACES = model_words().places
THING_BY_NAME = model_words().thing
PLACE_BY_NAME = model_words().place

__all__ = ["PLACES", "PLACE_BY_NAME", "THINGS", "THING_BY_NAME", "plural_of", "words_of"]
