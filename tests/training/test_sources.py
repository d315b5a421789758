"""Data are handed in: by name, by folder, by import, by argument; training knows no data set."""

import ast
from dataclasses import replace

import pytest
from PIL import Image

from sage.training import data as data_module
from sage.training.data import prepare
from sage.training.settings import TrainSettings
from sage.training.skips import Skips
from tests.test_imports import ROOT, loaded_by


class Colours:
    """A source of one's own: six coloured squares, of which one cannot be read."""

    name = "colours"
    captions = tuple(
        f"a {word} square" for word in ("red", "blue", "green", "black", "tan", "pink")
    )
    owners = range(6)

    def picture(self, index):
        if index == 3:
            raise ZeroDivisionError("no paint")
        return Image.new("RGBA", (9, 7), self.picture_name(index))

    def picture_name(self, index):
        return self.captions[index].split()[1]


def open_colours(settings, side):
    """As `--data tests.training.test_sources:open_colours` finds it."""
    assert side > 0
    return Colours(), Skips()


def settings_of(tmp_path, **more):
    wide = {"steps": 1, "cache": tmp_path, "tau_min": -1.0, "tau_max": 1.0}
    return TrainSettings(**wide | more)


def test_a_source_of_ones_own(tiny, tmp_path):
    settings = settings_of(tmp_path, data="tests.training.test_sources:open_colours")
    source, skips = data_module.open_source(settings, 16)
    data = prepare(source, skips, tiny, settings, progress=False)
    assert sum(map(len, data.groups)) >= 4
    assert skips.names["picture cannot be decoded"] == ["black: no paint"]
    again = Skips()  # the reason is kept with the latents
    prepare(source, again, tiny, settings, progress=False)
    assert again.names == skips.names


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("nowhere", "'scenes' and an existing folder"),
        ("", "existing folder"),
        ("sage.nowhere:factory", "cannot be imported"),
        ("sage.training.data:nothing", "cannot be imported"),
        ("a b:c", "existing folder"),
        ("../x:y", "existing folder"),
    ],
)
def test_an_unknown_source_is_refused(tmp_path, name, word):
    with pytest.raises(ValueError, match=word):
        data_module.open_source(replace(settings_of(tmp_path), data=name), 16)


def test_training_names_no_world():
    for path in (ROOT / "sage" / "training").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not any(name.startswith("sage.world") for name in names), path


@pytest.mark.slow
def test_training_loads_no_world_and_no_page():
    loaded = loaded_by("import sage.training.trainer, sage.training.__main__")
    assert not [name for name in loaded if name.startswith(("sage.world", "sage.ui", "gradio"))]


def test_nothing_readable_says_what_was_wrong(tiny, tmp_path, monkeypatch):
    def fail(self, index):
        raise OSError("torn")

    monkeypatch.setattr(Colours, "picture", fail)
    with pytest.raises(ValueError, match=r"two pictures that can be read.*red: torn"):
        prepare(Colours(), Skips(), tiny, settings_of(tmp_path), progress=False)
