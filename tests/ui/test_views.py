from html.parser import HTMLParser

import pytest
import torch
from PIL import Image

from sage.cost import ModelFlops, plan_cost
from sage.grouping import group_prompts
from sage.plan import shared_plan
from sage.ui import views

HOSTILE = """<img src=x onerror=alert(1)> "quoted" 'single' <script>1</script> &amp;"""


class Reader(HTMLParser):
    """Tags, attributes and text as a browser reads them; fails on tags left open."""

    def __init__(self, source):
        super().__init__()
        self.tags, self.attributes, self.texts, self._open = [], [], [], []
        self.feed(source)
        self.close()
        assert not self._open, self._open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.append(dict(attrs))
        if tag not in ("img", "br"):
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def grouping(low=0.5, high=0.95, size=5):
    return group_prompts(
        torch.tensor([[1, 0.1, 0.8], [0.1, 1, 0.2], [0.8, 0.2, 1]]), low, high, size
    )


def shots(words=""):
    return [views.Shot("data:image/png;base64,AA==", words)] * 3


def test_hostile_prompts_stay_text_everywhere():
    prompts = [HOSTILE, "a fox", HOSTILE]
    pairs = views.pair_views(prompts, [(0, 2), (1,)], shots(), shots())
    for source in (
        views.group_chips(grouping(), prompts, ("onerror", "script")),
        views.prompts_note(prompts, ("<b>", "script")),
        views.picture_grid(pairs, "done"),
        views.note(HOSTILE, "error"),
        views.progress(1, 2, HOSTILE),
        views.banner(HOSTILE),
        views.known_things({HOSTILE: [HOSTILE]}),
    ):
        reader = Reader(source)
        assert "script" not in reader.tags
        assert not any("onerror" in found for found in reader.attributes)


def test_every_picture_has_an_alternative_text_and_its_groups_mark():
    prompts = ["a fox", "a whale", "a dog"]
    pairs = views.pair_views(prompts, [(0, 2), (1,)], shots(), shots("CLIP 0.30"))
    reader = Reader(views.picture_grid(pairs, "done"))
    alts = [a["alt"] for tag, a in zip(reader.tags, reader.attributes, strict=True) if tag == "img"]
    assert alts == [
        f"P{n}, {side}: {prompt}"
        for n, prompt in enumerate(prompts, start=1)
        for side in ("independent", "shared")
    ]
    assert [t for t in reader.texts if t in "AB"] == ["A", "B", "A"]


def test_empty_boxes_keep_the_place_of_every_picture():
    boxes = views.empty_shots(3)
    pairs = views.pair_views(["a", "b", "c"], [(0, 1, 2)], boxes, boxes)
    empty, done = views.picture_grid(pairs, "empty"), views.picture_grid(pairs, "done")
    assert empty.count('class="sage-frame"') == done.count('class="sage-frame"') == 6
    assert "<img" not in empty


def test_chips_name_groups_and_who_stands_alone():
    reader = Reader(views.group_chips(grouping(), ["a fox", "a whale", "a dog"], ("whale",)))
    text = " ".join(reader.texts)
    assert text.index("P1") < text.index("P3") < text.index("P2")
    assert "alone" in text
    assert "mark" in reader.tags


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (grouping(low=0.9), "lower the bound"),
        (grouping(low=-1, high=0.05), "near-duplicates"),
        (grouping(size=1), "larger groups"),
    ],
)
def test_when_nothing_is_shared_the_page_says_what_to_do(found, words):
    assert not found.shares
    assert words in views.group_chips(found, ["a", "b", "c"], ())


def test_the_table_gives_a_reason_for_every_pair():
    reader = Reader(views.pairs_table(grouping()))
    assert reader.tags.count("tr") == 1 + 3
    text = " ".join(reader.texts)
    assert "P1 – P3" in text
    assert "same group" in text
    assert "too far apart" in text


def test_the_estimate_is_the_plans_cost_in_words():
    plan = shared_plan([(0, 2), (1,)], 30, 12)
    cost = plan_cost(plan, ModelFlops(1e6, 1e9, 1e8))
    text = " ".join(Reader(views.estimate(cost, 12, 30, True)).texts)
    assert "12 of 30 steps shared" in text
    assert "β = 0.40" in text
    assert "78 of 90" in text
    assert "13 %" in text
    assert "Nothing is shared" in views.estimate(cost, 12, 30, False)
    assert views.no_estimate().count("<div>") == views.estimate(cost, 12, 30, True).count("<div>")


def test_progress_is_a_progress_bar():
    reader = Reader(views.progress(14, 30, "Step 14 of 30, shared"))
    bar = next(a for a in reader.attributes if a.get("role") == "progressbar")
    assert (bar["aria-valuenow"], bar["aria-valuemax"]) == ("14", "30")


@pytest.mark.parametrize(("size", "kind"), [(64, "png"), (512, "webp")])
def test_pictures_travel_in_the_page(size, kind):
    source = views.picture_source(Image.new("RGB", (size, size), "red"))
    assert source.startswith(f"data:image/{kind};base64,")


def test_scores_are_left_out_when_there_are_none():
    assert views.shot_words(None, None) == ""
    assert "CLIP" not in views.shot_words(None, 0.1)
    assert "0.31" in views.shot_words(0.312, 0.1)
