"""COCO's format, whole and broken."""

import json

import pytest
from PIL import Image

from sage.training.coco import find_annotations, read_coco
from sage.training.skips import Skips


def write_coco(folder, captions, split="train2017"):
    """A folder in COCO's exact format: one coloured picture for each list of captions."""
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    (folder / split).mkdir(exist_ok=True)
    images, annotations = [], []
    for n, texts in enumerate(captions):
        id_, name = 100 + n, f"{100 + n:012d}.jpg"
        colour = (37 * n % 256, 91 * n % 256, 153 * n % 256)
        Image.new("RGB", (24, 20), colour).save(folder / split / name)
        url = f"http://images.cocodataset.org/{split}/{name}"
        images.append(
            {
                "license": 4,
                "file_name": name,
                "coco_url": url,
                "height": 20,
                "width": 24,
                "date_captured": "2013-11-14 17:02:52",
                "flickr_url": url,
                "id": id_,
            }
        )
        for text in texts:
            annotations.append({"image_id": id_, "id": 1000 + len(annotations), "caption": text})
    content = {
        "info": {"description": "COCO 2017 Dataset", "version": "1.0", "year": 2017},
        "licenses": [{"url": "http://creativecommons.org/licenses/by/2.0/", "id": 4}],
        "images": images,
        "annotations": annotations,
    }
    path = folder / "annotations" / f"captions_{split}.json"
    path.write_text(json.dumps(content))
    return path, content


def test_captions_and_pictures_are_read(tmp_path):
    write_coco(tmp_path, [["a red bus", "a bus \n on a  road"], ["a dog"]])
    data, skips = read_coco(tmp_path)
    assert data.captions == ("a red bus", "a bus on a road", "a dog")
    assert data.owners == (0, 0, 1)
    assert [path.name for path in data.pictures] == ["000000000100.jpg", "000000000101.jpg"]
    assert not skips.sentences()


def test_training_captions_come_first(tmp_path):
    write_coco(tmp_path, [["a dog"]], "val2017")
    assert [path.name for path in find_annotations(tmp_path)] == ["captions_val2017.json"]
    write_coco(tmp_path, [["a cat"]], "train2017")
    assert [path.name for path in find_annotations(tmp_path)] == ["captions_train2017.json"]
    assert read_coco(tmp_path)[0].captions == ("a cat",)
    chosen = tmp_path / "annotations" / "captions_val2017.json"
    assert read_coco(tmp_path, [chosen])[0].captions == ("a dog",)


@pytest.mark.parametrize("place", ["images", "images/train2017", "."])
def test_pictures_may_lie_elsewhere(tmp_path, place):
    write_coco(tmp_path, [["a dog"]])
    target = tmp_path / place
    target.mkdir(parents=True, exist_ok=True)
    for path in (tmp_path / "train2017").iterdir():
        path.rename(target / path.name)
    assert read_coco(tmp_path)[0].pictures == (target / "000000000100.jpg",)


def test_what_is_broken_is_counted_named_and_skipped(tmp_path):
    path, content = write_coco(tmp_path, [["a dog"], ["a cat"], ["a bus"]])
    (tmp_path / "train2017" / "000000000101.jpg").unlink()
    content["annotations"] += [
        {"image_id": 100, "id": 7, "caption": "  \n"},
        {"image_id": 999, "id": 8, "caption": "a ghost"},
        {"image_id": 100, "id": 9},
        {"image_id": 100, "id": 10, "caption": None},
        "no record",
    ]
    content["images"].append({"id": 5})
    path.write_text(json.dumps(content))
    (path.parent / "captions_train2014.json").write_text("{broken")
    data, skips = read_coco(tmp_path)
    assert data.captions == ("a dog", "a bus")
    assert dict(skips.counts) == {
        "file of captions cannot be read": 1,
        "picture has no id or file name": 1,
        "picture is missing": 1,
        "caption is empty": 1,
        "caption is of an unknown picture": 1,
        "caption is broken": 3,
    }
    assert skips.names["picture is missing"] == ["000000000101.jpg"]
    assert skips.names["caption is empty"] == ["caption 7"]
    assert "captions_train2014.json: JSONDecodeError" in skips.sentences()[0]


def test_a_folder_without_captions_is_refused_with_the_reason(tmp_path):
    with pytest.raises(ValueError, match=r"no captions_\*\.json"):
        read_coco(tmp_path)
    path, _ = write_coco(tmp_path, [["a dog"]])
    path.write_text("[]")
    with pytest.raises(ValueError, match="cannot be read: 1"):
        read_coco(tmp_path)


def test_a_name_cannot_leave_the_folder(tmp_path):
    path, content = write_coco(tmp_path / "coco", [["a dog"]])
    Image.new("RGB", (4, 4)).save(tmp_path / "secret.jpg")
    content["images"][0]["file_name"] = "../../secret.jpg"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"picture is missing: 1 \(secret.jpg\)"):
        read_coco(tmp_path / "coco")


def test_skips_keep_ten_names_and_all_counts():
    skips = Skips()
    for n in range(16):
        skips.add("empty", f"a{n}")
    assert skips.counts["empty"] == 16
    assert skips.names["empty"] == [f"a{n}" for n in range(10)]
    assert skips.sentences()[0].startswith("Skipped, empty: 16 (a0, a1")
    assert skips.record() == {"empty": {"count": 16, "names": skips.names["empty"]}}
