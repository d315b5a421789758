"""Reads MS COCO's captions and pictures as they are published.

Knows the format of `captions_*.json` (cocodataset.org, "Data format": `images` with id and
file_name, `annotations` with id, image_id and caption) and where pictures usually lie. Whatever is
broken is counted, named and skipped. Knows nothing of models or groups.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sage.training.skips import Skips


@dataclass(frozen=True)
class CaptionedPictures:
    """Captions and the picture files that they describe.

    Attributes:
        captions: N texts.
        owners: For each caption, the index of its picture.
        pictures: P files.
    """

    captions: tuple[str, ...]
    owners: tuple[int, ...]
    pictures: tuple[Path, ...]

    def __len__(self) -> int:
        """N, the number of captions."""
        return len(self.captions)


def read_coco(folder: Path, annotations: Sequence[Path] = ()) -> tuple[CaptionedPictures, Skips]:
    """Captions whose pictures are there.

    Args:
        folder: Holds `annotations/captions_*.json` (or the files themselves) and the pictures: in
            `train2017/` for `captions_train2017.json`, in `images/`, in `images/train2017/`, or
            directly.
        annotations: Files to read instead of those found. Found are all `captions_*.json` with
            "train" in their name, or all if there is none.

    Returns:
        The captions, and what was skipped.

    Raises:
        ValueError: If not one caption with a picture is left.
    """
    files = list(annotations) or find_annotations(folder)
    skips, rows = Skips(), []
    for path in files:
        rows += _read_file(path, folder, skips)
    places = {picture: n for n, picture in enumerate(dict.fromkeys(p for _, p in rows))}
    if not rows:
        seen = ", ".join(path.name for path in files) or "no captions_*.json"
        reasons = " ".join(skips.sentences())
        raise ValueError(f"{folder} has no caption with a picture (found: {seen}). {reasons}")
    captions = tuple(text for text, _ in rows)
    return CaptionedPictures(captions, tuple(places[p] for _, p in rows), tuple(places)), skips


def find_annotations(folder: Path) -> list[Path]:
    """Files of captions in a COCO folder: those for training, or all if none is."""
    found = sorted({*folder.glob("captions_*.json"), *folder.glob("annotations/captions_*.json")})
    return [path for path in found if "train" in path.name] or found


def _read_file(path: Path, folder: Path, skips: Skips) -> list[tuple[str, Path]]:
    try:
        content = json.loads(path.read_text("utf-8"))
        images, annotations = content["images"], content["annotations"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        skips.add("file of captions cannot be read", f"{path.name}: {type(error).__name__}")
        return []
    names = dict(_file_names(images, skips))
    where = _picture_folder(folder, path, names.values())
    there = {id_: file for id_, name in names.items() if (file := where / name).is_file()}
    rows = []
    for record in annotations:
        row = _row(record, names, there, skips)
        if row is not None:
            rows.append(row)
    return rows


def _file_names(images: list, skips: Skips) -> Iterator[tuple[object, str]]:
    for record in images:
        try:
            # Only a plain name: a path could leave the folder.
            yield record["id"], Path(record["file_name"]).name
        except (KeyError, TypeError):
            skips.add("picture has no id or file name", str(record)[:60])


def _row(record: object, names: dict, there: dict, skips: Skips) -> tuple[str, Path] | None:
    try:
        name, picture, text = f"caption {record['id']}", record["image_id"], record["caption"]
        words = " ".join(text.split())  # COCO's captions have line breaks and doubled spaces
    except (KeyError, TypeError, AttributeError):
        skips.add("caption is broken", str(record)[:60])
        return None
    if not words:
        skips.add("caption is empty", name)
    elif picture not in names:
        skips.add("caption is of an unknown picture", name)
    elif picture not in there:
        skips.add("picture is missing", names[picture])
    else:
        return words, there[picture]
    return None


def _picture_folder(folder: Path, annotations: Path, names: Sequence[str]) -> Path:
    """The usual folder that holds the most of the first named pictures."""
    split = annotations.stem.removeprefix("captions_")
    usual = [folder / split, folder / "images" / split, folder / "images", folder]
    some = list(names)[:100]
    return max(usual, key=lambda place: sum((place / name).is_file() for name in some))
