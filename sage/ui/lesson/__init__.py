"""The tab that teaches: eight short steps and a quiz, without a model and without waiting.

The steps run in the visitor's browser (assets/ui/lesson/lesson.js) on pictures and numbers that
`python -m sage.ui.lesson.precompute` made; the quiz asks this process, which counts.
"""

import hashlib
from random import randrange
from typing import Any

import gradio as gr
import torch

from sage.ui import kit
from sage.ui.html.palette import ALONE, GROUP_COLORS, group_marks
from sage.ui.lesson.content import (
    ALIKE,
    FOLDER,
    TOY_SEEDS,
    TOY_STD,
    UNLIKE,
    differing_words,
    results,
)
from sage.ui.lesson.quiz import KINDS, question
from sage.ui.lesson.when import RESULTS as WHEN_RESULTS
from sage.ui.lesson.when import when_to_share
from sage.ui.shelf import Shelf

PICK_FIRST = "Pick an answer first."
FEEDBACK = '<div class="lesson" role="status">{}</div>'  # read aloud when it changes


def build_lesson(shelf: Shelf) -> None:
    """Puts the lesson into the current tab; the shelf's models are not needed."""
    gr.set_static_paths([FOLDER])
    with gr.Column(elem_id="lesson"):
        gr.HTML(
            "",
            html_template=(FOLDER / "lesson.html").read_text("utf-8"),
            js_on_load=browser_code(),
            apply_default_css=False,
            elem_id="lesson-steps",
            data=page_data(),
        )
        if when := when_to_share():
            gr.set_static_paths([FOLDER, WHEN_RESULTS])
            gr.HTML(when, apply_default_css=False, js_on_load=None, elem_id="lesson-when-card")
        with gr.Column(elem_id="lesson-quiz", elem_classes="sage-card"):
            _quiz()


def browser_code() -> str:
    """What runs in the browser: the toy, then the lesson that draws it."""
    return "\n".join((FOLDER / name).read_text("utf-8") for name in ("toy.js", "lesson.js"))


def page_data() -> dict[str, Any]:
    """Everything the browser needs, as plain JSON: stored results, words, colours, noise."""
    stored = results()
    prompts = stored["prompts"]
    pairs = [(i, j) for j in range(len(prompts)) for i in range(j)]
    noise = torch.randn(TOY_SEEDS, 2, generator=torch.Generator().manual_seed(0)).double()
    return stored | {
        "folder": FOLDER.as_posix(),
        "version": hashlib.sha256((FOLDER / "lesson.json").read_bytes()).hexdigest()[:8],
        "alike": list(ALIKE),
        "unlike": list(UNLIKE),
        "trunks": {"alike": len(prompts), "unlike": len(prompts) + 1},  # rows of guess.webp
        "heads": [_head(prompt) for prompt in prompts],
        "words": {f"{i}-{j}": differing_words(prompts[i], prompts[j]) for i, j in pairs},
        # Group A, a group that only force makes, and what is on its own.
        "palette": {"shared": GROUP_COLORS[0], "unlike": GROUP_COLORS[3], "own": ALONE},
        "colors": [mark.color for mark in group_marks(stored["groups"])],
        "toy": {"std": TOY_STD, "noises": [[round(v, 6) for v in z] for z in noise.tolist()]},
    }


def _head(prompt: str) -> int:
    """How many words after the article name the thing: those before the first preposition."""
    words = prompt.split()[1:]
    return next((i for i, word in enumerate(words) if word in ("in", "on", "under")), len(words))


def _quiz() -> None:
    number, score = gr.State(0), gr.State((0, 0))
    first = question(0)
    text = kit.html("quiz-question", _said(first.text))
    choices = gr.Radio(first.choices, label="Your answer", elem_id="quiz-choices")
    with gr.Row(elem_id="quiz-actions"):
        check = gr.Button("Check", variant="primary", elem_id="quiz-check")
        another = gr.Button("Another question", elem_id="quiz-next")
    feedback, tally = kit.html("quiz-feedback", FEEDBACK.format("")), kit.html("quiz-score")
    check.click(
        check_answer,
        [number, choices, score],
        [feedback, check, score, tally],
        api_name="quiz_check",
        **kit.QUICK,
    )
    another.click(
        next_question,
        [number],
        [number, text, choices, feedback, check],
        api_name="quiz_next",
        **kit.QUICK,
    )


def check_answer(
    number: int, chosen: str | None, score: tuple[int, int]
) -> tuple[str, Any, tuple[int, int], Any]:
    """Feedback with the formula; the first answer to a question counts."""
    asked = question(number)
    if chosen is None:
        return FEEDBACK.format(PICK_FIRST), gr.skip(), score, gr.skip()
    right = chosen == asked.answer
    verdict = "<b>Right.</b>" if right else f"<b>Not quite: it is {asked.answer}.</b>"
    score = (score[0] + right, score[1] + 1)
    tally = f'<p class="lesson-fine">{score[0]} of {score[1]} right</p>'
    return FEEDBACK.format(f"{verdict} {asked.reason}"), gr.Button(interactive=False), score, tally


def next_question(number: int) -> tuple[int, str, Any, str, Any]:
    """A question of the next kind, with numbers by chance."""
    kinds = len(KINDS)
    fresh = (number + 1) % kinds + kinds * randrange(1000)
    asked = question(fresh)
    choices = gr.Radio(choices=list(asked.choices), value=None)
    return (
        fresh,
        _said(asked.text),
        choices,
        FEEDBACK.format(""),
        gr.Button(interactive=True),
    )


def _said(text: str) -> str:
    return f"<p>{text}</p>"
