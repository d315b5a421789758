"""The evidence stands on the page with its numbers, and a link preview is ours."""

import json

import pytest

from sage.core.settings import TRUNKS
from sage.ui.evidence import FOLDER, picture_set_words, study_html, study_names
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
    assert said.index(study["answer"]) < said.index("Numbers and conditions")
    assert study["finding"].replace("*", "") in said
    assert study["conditions"]["model"] in said
    assert reader.all("img")[0]["src"].endswith(f"{name}.svg")
    assert reader.tags.count("tr") == len(study["rows"]) + 1


def test_what_sharing_gives_a_set_is_the_studys_figure_with_its_conditions(tmp_path):
    study = json.loads((FOLDER / "coherence.json").read_text("utf-8"))
    said = " ".join(Reader(picture_set_words()).texts)
    for number in ("shared", "own_noise", "one_noise"):
        value = study["picture_set"]["numbers"]["layout"][number]
        assert f"{value['value'] if number == 'shared' else value:.2f}" in said
    assert "One composition for all" in said
    assert f"{study['conditions']['prompts']['groups']} groups of " in said
    assert study["conditions"]["model"] in said
    assert TRUNKS[study["picture_set"]["settings"]["trunk"]] in said
    assert picture_set_words(tmp_path) == ""
    study["picture_set"]["words"] = "Something else was found."
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "coherence.json").write_text(json.dumps(study), "utf-8")
    assert "Something else was found." in picture_set_words(tmp_path / "new")


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
