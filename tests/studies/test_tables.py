"""The README's evidence and the page of all results are what the results say."""

import json
import re

import pytest

from sage.studies.engine import publish
from sage.studies.engine.figures import Figure, Panel, Point, Series
from sage.studies.engine.lab import RESULTS
from sage.studies.engine.publish import (
    PAGE,
    README,
    draw_all,
    results_page,
    rewritten,
    update_all,
)
from sage.studies.engine.results import read, write
from sage.studies.engine.study import every, load
from sage.studies.engine.tables import main_block, study_table, summary_block

NUMBER = {"value": 2.0, "low": 1.5, "high": 2.7}
MINUS = "\N{MINUS SIGN}"
EMPTY = "".join(
    f"<!-- results:{name} -->\n<!-- /results:{name} -->\n" for name in ("main-table", "studies")
)


def line(name, ratio, saving):
    return {
        "name": name,
        "compared_at": ratio,
        "evaluations": 30 * (1 - saving),
        "saving": saving,
        "gigaflops": 10 * (1 - saving),
        "seconds": None if "many" in name else 1 - saving,
        "pictures": 8,
        "metrics": {"fd": NUMBER, "clip": {"value": 0.5, "low": 0.49, "high": 0.51}},
    }


def gap(first, **signs):
    metrics = {key: {"sign": signs.get(key, 0)} for key in ("fd", "clip", "probe")}
    second = "independent, as many evaluations"
    return {"first": first, "second": second, "share_ratio": 0.4, "metrics": metrics}


def main_result():
    rows = [line("independent", 0.0, 0.0)]
    rows += [line(name, r, r / 2) for r in (0.2, 0.4) for name in ("SAGE + share", "as many")]
    prompts = {"prompts": 4, "groups": 2, "source": "captions", "real_pictures": 4}
    change = {"value": -0.031, "low": -0.05, "high": -0.012}
    return {
        "study": "main-table",
        "title": "What sharing costs and saves",
        "answer": "It saves.",
        "finding": "Sharing saves.",
        "rows": rows,
        "claims": [
            {"claim": "FID", "measure": "FD", "paper": -0.05, "ours": change, "verdict": "agrees"}
        ],
        "differences": [
            gap("SAGE + share", clip=-1, probe=-1),
            gap("share, prompts in turn (ours)"),
        ],
        "metrics": {
            "fd": {"title": "FD", "about": "a distance", "better": -1},
            "clip": {"title": "CLIP score", "about": "a cosine", "better": 1},
        },
        "conditions": {
            "model": "tiny", "prompts": prompts, "steps": 30, "scheduler": "DDIMScheduler",
            "guidance_scale": 2.0, "noise_seeds": 2, "precision": "fp32", "interval": "95 %",
            "seconds": "measured", "hardware": "CPU", "versions": {"torch": "2"},
            "commit": "abc", "date": "2026-01-01",
            "two_independent_pictures_of_one_prompt_are_apart_by": 0.2,
        },
    }  # fmt: skip


def figure():
    series = Series("a", [Point.of(x, NUMBER) for x in (0.0, 0.1)], 1)
    return Figure("Title", [Panel("FD", "saved", [series], percent=True)], "conditions")


def test_the_readme_is_not_stale():
    text = README.read_text("utf-8")
    assert rewritten(text, RESULTS, README.parent) == text, "run python -m sage.studies tables"


def test_the_page_of_all_results_is_not_stale():
    text = (RESULTS / PAGE).read_text("utf-8")
    assert text == results_page(RESULTS), "run python -m sage.studies tables"
    for link in re.findall(r"\]\(([^):]+)\)", text):
        assert (RESULTS / link).is_file()
    for study in every():
        assert f"## {study.title}\n" in text


def test_figures_and_answers_are_not_stale():
    for study in every():
        result = read(RESULTS, study.name)
        assert result is not None
        assert result["answer"] == study.answer(result), "run python -m sage.studies draw"
        drawn = (RESULTS / f"{study.name}.svg").read_text("utf-8")
        assert drawn == publish.svg(study.figure(result)), "run python -m sage.studies draw"


def test_the_table_says_what_the_result_says(tmp_path):
    path = write(tmp_path, main_result(), figure())
    block = main_block(tmp_path, tmp_path)
    assert f"| SAGE + share (0.4) | {MINUS}20 % | {MINUS}20 % |" in block
    assert "2.00 ± 0.60 | 0.5000 ± 0.0100 |" in block
    assert block.index("SAGE + share (0.4)") < block.index("<details>")
    assert block.index("<details>") < block.index("SAGE + share (0.2)")
    assert f"{MINUS}3.1 % ({MINUS}5.0 to {MINUS}1.2) | agrees |" in block
    assert "![Quality against saving, by method and share ratio](main-table.svg)" in block
    path.with_suffix(".svg").unlink()
    assert "![" not in main_block(tmp_path, tmp_path)


def test_the_summary_is_three_sentences_and_a_figure(tmp_path):
    write(tmp_path / "results", main_result(), figure())
    sentences, picture = summary_block(tmp_path / "results", tmp_path).split("\n\n")
    assert sentences.count(". ") == 2
    assert "sharing 40% of the steps saves 20% of the evaluations and 20% of the time" in sentences
    assert "better in CLIP score and probe than sharing with the SAGE adapter" in sentences
    assert "as good, up to chance, as sharing without training" in sentences
    assert picture.endswith("(results/main-table.svg)")
    result = main_result()
    for row in result["rows"]:
        row["seconds"] = None  # something else ran
    write(tmp_path / "results", result, figure())
    assert "saves 20% of the evaluations. " in summary_block(tmp_path / "results", tmp_path)


def test_a_table_shows_what_its_study_names():
    result = main_result() | {"study": "group-size"}
    result["rows"] = [{**row, "size": n} for n, row in enumerate(result["rows"], 2)]
    head, _, first, *_ = study_table(load("group-size"), result).splitlines()
    assert head.startswith("|  | prompts in a group | evaluations | GFLOPs | FD-EffLite0 ↓ |")
    assert first.startswith("| independent | 2 | 30 | 10 | 2.00 ± 0.60 |")


def test_blocks_are_filled_and_stay_until_a_result_changes(tmp_path):
    readme, results = tmp_path / "README.md", tmp_path / "results"
    readme.write_text("before\n" + EMPTY + "after\n")
    assert update_all(results, readme) == [readme, results / PAGE]
    text = readme.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "No results yet" in text
    assert "`grouping`): not run yet." in text
    assert not update_all(results, readme)
    write(results, main_result(), figure())
    assert update_all(results, readme) == [readme, results / PAGE]
    assert "Sharing saves." in readme.read_text()
    assert "(results/main-table.svg)" in readme.read_text()
    assert "(main-table.svg)" in (results / PAGE).read_text()
    with pytest.raises(ValueError, match="no markers"):
        rewritten("nothing", results, tmp_path)


def test_figures_are_drawn_from_the_results(tmp_path):
    stored = (RESULTS / "soft-target.json").read_text("utf-8")
    (tmp_path / "soft-target.json").write_text(stored, "utf-8")
    assert draw_all(tmp_path) == [tmp_path / "soft-target.svg"]
    assert not draw_all(tmp_path)  # a figure that did not change is no change to commit
    changed = json.loads(stored)
    changed["difference"]["probe"]["value"] += 0.01
    (tmp_path / "soft-target.json").write_text(json.dumps(changed), "utf-8")
    assert draw_all(tmp_path)
