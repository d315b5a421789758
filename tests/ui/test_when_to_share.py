"""The lesson's last step says what the stored map says, and nothing where there is none."""

import json
from html import escape

from sage.ui.lesson.when import RESULTS, when_to_share


def test_every_sentence_of_the_map_is_on_the_page():
    told = json.loads((RESULTS / "map.json").read_text("utf-8"))
    html = when_to_share()
    for sentence in told["sentences"]:
        assert escape(sentence.replace("*", "")) in html
    assert told["conditions"]["model"] in html
    assert "map.svg" in html


def test_every_judge_that_a_sentence_names_is_explained():
    told = json.loads((RESULTS / "map.json").read_text("utf-8"))
    _, explained = when_to_share().split("<details>")
    judges = {judge["title"]: judge["about"] for judge in told["metrics"].values()}
    named = [name for name in judges if f"In {name} " in " ".join(told["sentences"])]
    assert named
    for name, about in judges.items():
        assert (f"<b>{escape(name)}</b>: {escape(about)}" in explained) is (name in named)


def test_without_a_map_there_is_no_step(tmp_path):
    assert when_to_share(tmp_path) == ""
