"""Numbers and prompts as words a visitor reads. Knows nothing of gradio or HTML."""

import re
from collections.abc import Iterable, Sequence

from sage.core.words import listed
from sage.jobs.repeats import Mean

STAGES = ("encode", "trunk", "branches", "decode")
STAGE_WORDS = {
    "encode": "encoding the prompts",
    "trunk": "shared steps",
    "branches": "separate steps",
    "decode": "decoding the pictures",
}


def flops_text(flops: float) -> str:
    """FLOPs with a unit, e.g. "1.23 TFLOP"."""
    for unit, size in (("PFLOP", 1e15), ("TFLOP", 1e12), ("GFLOP", 1e9)):
        if flops >= size:
            return f"{three_digits(flops / size)} {unit}"
    return f"{three_digits(flops / 1e6)} MFLOP"


def seconds_text(seconds: float) -> str:
    """Seconds with a unit, e.g. "1.92 s" or "35 ms"."""
    return f"{three_digits(seconds)} s" if seconds >= 0.1 else f"{1000 * seconds:.0f} ms"


def about_text(seconds: float | None) -> str:
    """Expected seconds in round numbers, "about 5 s" or "about 2 min"; "" if they are unknown."""
    if seconds is None:
        return ""
    if seconds >= 100:
        return f"about {seconds / 60:.0f} min"
    return f"about {seconds:.0f} s" if seconds >= 3 else f"about {seconds:.1g} s"


def flagged_words(flagged: Iterable[int]) -> str:
    """Whose pictures a model's safety checker has blacked out, as a sentence; "" if none."""
    names = [f"P{n + 1}" for n in sorted(set(flagged))]
    if not names:
        return ""
    was = "picture was" if len(names) == 1 else "pictures were"
    return f" The {was} flagged by the model's safety checker and made black: {listed(names)}."


def percent_text(share: float) -> str:
    """A share as a percentage, e.g. "27 %"."""
    return f"{100 * share:.0f} %"


def saved_text(share: float, word: str = "less") -> str:
    """A saving in words: "27 % less", "3 % more" or "the same"."""
    rounded = round(100 * share)
    if not rounded:
        return "the same"
    return f"{abs(rounded)} % {word if rounded > 0 else 'more'}"


def mean_text(mean: Mean | None, digits: int) -> str:
    """A mean with half its interval, "0.052 ± 0.010"; a dash where there is none."""
    if mean is None:
        return "–"
    half = "" if mean.half is None else f" ± {mean.half:.{digits}f}"
    return f"{mean.value:.{digits}f}{half}"


def shorten(text: str, length: int) -> str:
    """At most `length` characters, cut with an ellipsis."""
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def short_names(prompts: Sequence[str]) -> list[str]:
    """What tells each prompt from the others: without articles and the words that all have.

    Example:
        >>> short_names(["a fox in the snow", "an owl in the snow"])
        ['fox', 'owl']
    """
    words = [prompt.split() for prompt in prompts]
    every = set.intersection(*({word.lower() for word in one} for one in words))
    dull = every | {"a", "an", "the"}
    kept = (" ".join(w for w in one if w.lower() not in dull) for one in words)
    return [name or prompt for name, prompt in zip(kept, prompts, strict=True)]


def split_words(prompt: str) -> list[str]:
    """A prompt as alternating pieces: text between words, word, text, word, ..., text."""
    return re.split(r"([^\W_]+)", prompt)


def unseen_words(prompts: Iterable[str], known: frozenset[str] | None) -> tuple[str, ...]:
    """Words of the prompts that a model has never met; none if it does not tell what it knows."""
    if known is None:
        return ()
    words = (word for prompt in prompts for word in split_words(prompt)[1::2])
    return tuple(dict.fromkeys(word for word in words if word.lower() not in known))


def span_text(numbers: Sequence[int]) -> str:
    """From the first of some numbers to the last, e.g. "12" or "9 to 12"."""
    first, last = numbers[0], numbers[-1]
    return f"{first}" if first == last else f"{first} to {last}"


def three_digits(number: float) -> str:
    """A number with about three digits and no exponent, e.g. "1234", "1.23", "0.04"."""
    return f"{number:.0f}" if number >= 100 else f"{number:.3g}" if number >= 1 else f"{number:.2f}"
