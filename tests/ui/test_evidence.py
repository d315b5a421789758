"""The evidence stands on the page with its numbers, and a link preview is ours."""

import json

import pytest

from sage.ui.evidence import FOLDER, study_html, study_names
from sage.ui.server.preview import SENTENCE, TITLE, own_preview

from .reader import Reader


def test_there_are_studies_and_the_map_is_the_first():
    names = study_names()
    assert len(names) >= 10
    assert names[:2] == ["map", "main-table"]


@pytest.mark.parametrize("name", study_names())
def test_a_study_shows_finding_figure_numbers_and_conditions(name):
    study = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))
    reader = Reader(study_html(name))
    assert reader.is_safe
    said = " ".join(reader.texts)
    assert study["finding"] in said
    assert study["conditions"]["model"] in said
    assert reader.all("img")[0]["src"].endswith(f"{name}.svg")
    assert reader.tags.count("tr") == len(study["rows"]) + 1


PAGE = b"""<html><head><meta property="og:title" content="Gradio" />
<meta
    property="og:image"
    content="https://elsewhere/image.jpg"
/><meta name="twitter:creator" content="@Gradio" /><meta name="viewport" content="w" /></head>
<script>window.gradio_config = {"root":"http://here:7860"};</script></html>"""


def test_a_link_preview_is_ours_and_only_ours():
    reader = Reader(own_preview(PAGE, "/card.png").decode().replace("/>", "></meta>"))
    named = {a.get("property") or a.get("name"): a["content"] for a in reader.all("meta")}
    assert named["og:title"] == named["twitter:title"] == TITLE
    assert named["og:description"] == SENTENCE
    assert named["og:image"] == "http://here:7860/card.png"
    assert named["viewport"] == "w"
    assert "Gradio" not in str(named)
