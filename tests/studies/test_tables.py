"""The README's evidence is what the results say; figures are drawn without Plotly's exporter."""

import json

import pytest

from sage.studies.engine import draw as drawing
from sage.studies.engine.figures import interval_trace, panels
from sage.studies.engine.lab import RESULTS
from sage.studies.engine.results import write
from sage.studies.engine.tables import README, main_block, rewritten, update

NUMBER = {"value": 2.0, "low": 1.5, "high": 2.7}
EMPTY = (
    "<!-- results:main-table -->\n<!-- /results:main-table -->\n"
    "<!-- results:studies -->\n<!-- /results:studies -->\n"
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


def main_result():
    rows = [line("independent", 0.0, 0.0)]
    rows += [line(name, r, r / 2) for r in (0.2, 0.4) for name in ("SAGE + share", "as many")]
    prompts = {"prompts": 4, "groups": 2, "source": "captions", "real_pictures": 4}
    change = {"value": -0.031, "low": -0.05, "high": -0.012}
    return {
        "study": "main-table",
        "finding": "Sharing saves.",
        "rows": rows,
        "claims": [{"claim": "FID", "paper": -0.05, "ours": change, "verdict": "agrees"}],
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
    trace = interval_trace("a", [0.0, 0.1], [NUMBER, NUMBER], colour="#0072B2", texts=["x", "y"])
    return panels([trace], [("saved", "FD")], title="Title", x_format=".0%", note="conditions")


def test_the_readme_is_not_stale():
    text = README.read_text("utf-8")
    assert rewritten(text, RESULTS) == text, "run python -m sage.studies readme"


def test_the_table_says_what_the_result_says(tmp_path):
    write(tmp_path, main_result(), figure())
    block = main_block(tmp_path)
    assert "| SAGE + share (0.4) | \N{MINUS SIGN}20 % | \N{MINUS SIGN}20 % |" in block
    assert "2.00 ± 0.60 | 0.5000 ± 0.0100 |" in block
    assert block.index("SAGE + share (0.4)") < block.index("<details>")
    assert block.index("<details>") < block.index("SAGE + share (0.2)")
    assert "\N{MINUS SIGN}3.1 % (\N{MINUS SIGN}5.0 to \N{MINUS SIGN}1.2) | agrees |" in block
    assert "![" not in block  # no picture was drawn
    (tmp_path / "main-table.svg").write_text("<svg/>")
    assert "![Quality" in main_block(tmp_path)


def test_blocks_are_filled_and_stay_until_a_result_changes(tmp_path):
    readme, results = tmp_path / "README.md", tmp_path / "results"
    readme.write_text("before\n" + EMPTY + "after\n")
    assert update(readme, results)
    text = readme.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "No results yet" in text
    assert "`grouping`): not run yet." in text
    assert not update(readme, results)
    write(results, main_result(), figure())
    assert update(readme, results)
    assert "Sharing saves." in readme.read_text()
    with pytest.raises(ValueError, match="no markers"):
        rewritten("nothing", results)


def test_a_figure_is_drawn(tmp_path):
    path = write(tmp_path, main_result(), figure()).with_name("main-table.figure.json")
    (drawn,) = drawing.draw([path])
    assert drawn.name == "main-table.svg"
    text = drawn.read_text("utf-8")
    assert text.startswith("<svg")
    assert "conditions" in text
    assert json.loads(path.read_text())["layout"]["width"] == 570
    drawing.draw([path])
    assert drawn.read_text("utf-8") == text  # a figure that did not change is no change to commit
