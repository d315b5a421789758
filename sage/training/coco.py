"""Captions and pictures in a user's folder: which files are read, and where the pictures lie.

Reads a folder in MS COCO's form, one with metadata.jsonl, .csv or .parquet, or one with a text file
beside each picture; `sage.training.captions` has the formats. Whatever is broken is counted, named
and skipped. Knows nothing of models or groups.

A picture is named in a file that anybody may have written, so only what lies in the folder is
taken: a path that leads out of it counts as missing. A link that the user has put into the folder
is followed, wherever it leads: data sets are often kept elsewhere.
"""

import os
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from sage.training.captions import (
    EXPECTED,
    SUFFIXES,
    UNREADABLE,
    Row,
    caption_in,
    clean_words,
    decoded,
    read_rows,
    reason_of,
)
from sage.training.pictures import SUFFIXES as PICTURE_SUFFIXES
from sage.training.skips import Skips

MISSING = "picture is missing"
SPELLINGS = ((".jpg", ".jpeg", ".jpe", ".jfif"), (".tif", ".tiff"))
TEXT_SIDECARS = (".txt", ".caption")
SIDECARS = (*TEXT_SIDECARS, ".json")
TABLE_NAMES = ("captions.txt", "results.token", "results_20130124.token")  # Flickr8k, Flickr30k
SAMPLE = 100  # pictures that decide which folder is tried first


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
        folder: Holds files of captions and the pictures: for `captions_train2017.json` in
            `train2017/`, in `images/`, in `images/train2017/`, or directly; for other files where
            these say, seen from the file or from the folder.
        annotations: Files to read instead of those found; see `find_annotations`. Without any, a
            text file beside a picture is its caption.

    Returns:
        The captions, and what was skipped.

    Raises:
        ValueError: If not one caption with a picture is left.
    """
    skips = Skips()
    files = list(annotations or dict.fromkeys(_first_names(find_annotations(folder)).values()))
    pairs: list[tuple[str, Path]] = []
    for path in files:
        pairs += _located(read_rows(path, skips), folder, path, skips)
    if not pairs and not annotations:  # what was found may be something else than captions
        pairs += _sidecars(folder, skips)
    first = _first_names(path for _, path in pairs)
    pairs = [(text, first[path]) for text, path in pairs]
    unique = list(dict.fromkeys(pairs))
    for text, _ in _repeated(pairs):
        skips.add("caption stands twice", text[:60])
    if not unique:
        seen = ", ".join(path.name for path in files) or "no captions_*.json"
        reasons = " ".join(skips.sentences())
        raise ValueError(
            f"{folder} has no caption with a picture (found: {seen}). {EXPECTED} {reasons}".strip()
        )
    places = {picture: n for n, picture in enumerate(dict.fromkeys(p for _, p in unique))}
    owners = tuple(places[picture] for _, picture in unique)
    return CaptionedPictures(tuple(text for text, _ in unique), owners, tuple(places)), skips


def _first_names(paths: Iterable[Path]) -> dict[Path, Path]:
    """For each path the first one of the same file, to which links may give several names."""
    first: dict[object, Path] = {}
    return {path: first.setdefault(_file_key(path), path) for path in dict.fromkeys(paths)}


def _file_key(path: Path) -> object:
    """Equal for all names of a file."""
    try:
        known = path.stat()
    except (OSError, ValueError):
        return path
    return (known.st_dev, known.st_ino) if known.st_ino else path


def _repeated(pairs: Iterable[tuple[str, Path]]) -> Iterator[tuple[str, Path]]:
    seen = set()
    for pair in pairs:
        if pair in seen:
            yield pair
        seen.add(pair)


def find_annotations(folder: Path) -> list[Path]:
    """Files of captions in a folder, the first kind of which there is any.

    `captions_*.json` in the folder or in `annotations/`; `metadata.*` and `captions.*` in the
    folder or in one of its folders; any other JSON, JSON Lines, CSV, TSV or Parquet; `metadata.*`
    further down. Of several, those with "train" in their names, or all if none has.
    """
    here, below = [], []
    for place in (folder, *_folders(folder)):
        files = [path for path in _files(place) if _may_hold_captions(path)]
        (here if place == folder or place.name.lower() == "annotations" else below).extend(files)
    everywhere = [*here, *below]
    kinds = (
        [p for p in here if _stem(p).startswith("captions_") and p.suffix.lower() == ".json"],
        [p for p in everywhere if _stem(p) in ("metadata", "captions")],
        [p for p in everywhere if p.name.lower() in TABLE_NAMES],
        here,
    )
    files = next((sorted(kind) for kind in kinds if kind), []) or sorted(_deeper(folder))
    return [path for path in files if "train" in path.name.lower()] or files


def _deeper(folder: Path) -> Iterator[Path]:
    """`metadata.*` in folders of folders; links are not followed, so it ends."""
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name[0] != "."]
        for name in names:
            path = Path(place) / name
            if name[0] != "." and _may_hold_captions(path) and _stem(path) == "metadata":
                yield path


def _stem(path: Path) -> str:
    return path.stem.lower()


def _may_hold_captions(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES or path.name.lower() in TABLE_NAMES


def _entries(place: Path) -> list[os.DirEntry]:
    """What a folder holds, by name; nothing if it cannot be opened. Hidden things are left out."""
    try:
        with os.scandir(place) as entries:
            return sorted((e for e in entries if e.name[0] != "."), key=lambda e: e.name)
    except OSError:
        return []


def _files(place: Path) -> list[Path]:
    return [place / entry.name for entry in _entries(place) if _is(entry, "file")]


def _folders(place: Path) -> list[Path]:
    return [place / entry.name for entry in _entries(place) if _is(entry, "dir")]


def _is(entry: os.DirEntry, kind: str) -> bool:
    try:
        return entry.is_file() if kind == "file" else entry.is_dir()
    except OSError:  # a link to itself
        return False


# --- where pictures lie ---------------------------------------------------------------------


class _Places:
    """Finds pictures by what a file of captions calls them; each folder is listed once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.listed: dict[Path, dict[str, str]] = {}

    def find(self, name: str, bases: Sequence[Path]) -> Path | None:
        """The file of a picture, or None.

        Args:
            name: A name, a path or an address, with slashes of either kind.
            bases: Folders that the path may start from, the likeliest first.
        """
        for parts in _readings(name):
            for base in bases:
                path = self._walk(base, parts)
                if path is not None:
                    return path
        return None

    def _walk(self, base: Path, parts: Sequence[str]) -> Path | None:
        for place, part in enumerate(parts):
            names = self._names(base)
            found = part if part in names else names.get(_loose(part))
            if found is None and place == len(parts) - 1:
                keys = (*map(_loose, _respelled(part)), _stem_key(part))
                found = next((names[key] for key in keys if key in names), None)
            if found is None:
                return None
            base = base / (found if part not in names else part)
        return base

    def _names(self, place: Path) -> dict[str, str]:
        """Names in a folder by themselves, by case, and for pictures without their suffix."""
        if place not in self.listed:
            names = [entry.name for entry in _entries(place)]
            loose = {_loose(name): name for name in reversed(names)}
            bare = {
                _loose(name.rsplit(".", 1)[0]): name
                for name in reversed(names)
                if Path(name).suffix.lower() in PICTURE_SUFFIXES
            }
            self.listed[place] = bare | loose | {name: name for name in names}
        return self.listed[place]


def _loose(name: str) -> str:
    """The same for names that differ by case, by how accents are stored, or by spaces around."""
    return "\0" + unicodedata.normalize("NFC", name).casefold().strip()


def _respelled(name: str) -> list[str]:
    """Other names for a picture of the same format: 1.jpeg for 1.jpg."""
    path = Path(name)
    same = next((kind for kind in SPELLINGS if path.suffix.lower() in kind), ())
    return [path.stem + suffix for suffix in same]


def _stem_key(part: str) -> str:
    """For a name without a picture's suffix, such as a bare number."""
    return _loose(part) if Path(part).suffix.lower() not in PICTURE_SUFFIXES else ""


def _readings(name: str) -> Iterator[list[str]]:
    """The paths that a name can mean, as parts: as written, then decoded, then the last part."""
    plain = name.strip()
    if "://" in plain:
        with suppress(ValueError):  # what looks like an address need not be one
            plain = urlsplit(plain).path
    for text in dict.fromkeys((name, plain, unquote(plain))):
        parts = [part for part in text.replace("\\", "/").split("/") if part not in ("", ".")]
        if not parts:
            continue
        absolute = text.startswith(("/", "\\")) or parts[0].endswith(":")
        if ".." not in parts and not absolute:
            yield parts
    # The picture of another machine's path, or of one that leads out of the folder, may be here:
    # as much of the path's end as there is.
    for text in dict.fromkeys((plain, unquote(plain))):
        parts = [part for part in text.replace("\\", "/").split("/") if part not in ("", ".")]
        inside = next((n for n, part in enumerate(reversed(parts)) if part == ".."), len(parts))
        for start in range(len(parts) - inside, len(parts)):
            yield parts[start:]


def _located(
    rows: Sequence[Row], folder: Path, file: Path, skips: Skips
) -> Iterator[tuple[str, Path]]:
    """Captions and the files of their pictures."""
    places = _Places(folder)
    bases = _bases(places, folder, file, [row.picture for row in rows])
    files: dict[str, Path | str] = {}  # or why there is none
    for row in rows:
        if row.picture not in files:
            path = places.find(row.picture, bases)
            files[row.picture] = MISSING if path is None else path
            if path is not None and not _is_file(path):
                files[row.picture] = "picture is not a file"
        place = files[row.picture]
        if isinstance(place, Path):
            yield row.caption, place
        else:
            shown = row.picture.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]
            skips.add(place, shown[:100])


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _bases(places: _Places, folder: Path, file: Path, pictures: Sequence[str]) -> list[Path]:
    """The usual folders of pictures; first the one that holds the most of the first pictures."""
    stem = file.stem
    split = stem[len("captions_") :] if stem.lower().startswith("captions_") else stem
    usual = [[split], ["images", split], ["images"], []]
    bases = [folder.joinpath(*parts) for parts in usual]
    walked = [places._walk(folder, parts) for parts in usual]  # in any case: Images/Train2017
    bases = [path or base for path, base in zip(walked, bases, strict=True)]
    if _inside(file.parent, folder):
        bases.insert(0, file.parent)
    bases = list(dict.fromkeys(bases))
    some = list(dict.fromkeys(pictures))[:SAMPLE]
    return sorted(bases, key=lambda base: -sum(places.find(p, [base]) is not None for p in some))


def _inside(place: Path, folder: Path) -> bool:
    return os.path.abspath(place).startswith(os.path.abspath(folder))


# --- a text file beside each picture --------------------------------------------------------


def _sidecars(folder: Path, skips: Skips) -> Iterator[tuple[str, Path]]:
    """Captions that stand in `1.txt` beside `1.jpg`, in the folder and in its folders."""
    for place, folders, files in os.walk(folder):  # does not follow links, so it ends
        folders[:] = sorted(name for name in folders if name[0] != ".")
        names = sorted(name for name in files if name[0] != ".")
        here = {_loose(name): name for name in reversed(names)} | {name: name for name in names}
        pictures = [n for n in names if Path(n).suffix.lower() in PICTURE_SUFFIXES]
        used = set()
        for picture in pictures:
            stems = (Path(picture).stem, picture)
            likely = [stem + suffix for stem in stems for suffix in SIDECARS]
            texts = [here.get(name) for name in (*likely, *map(_loose, likely))]
            text = next((name for name in texts if name is not None), None)
            if text is None:
                skips.add("picture has no caption", picture)
                continue
            used.add(text)
            words = _sidecar(Path(place) / text, skips)
            if words and _is_file(Path(place) / picture):
                yield words, Path(place) / picture
        for name in names:
            if Path(name).suffix.lower() in TEXT_SIDECARS and name not in used:
                skips.add("caption has no picture", name)


def _sidecar(path: Path, skips: Skips) -> str:
    """The caption in a file of a picture's own; of a text, all its lines in one."""
    try:
        if path.exists() and not path.is_file():  # a pipe would never end
            raise ValueError("it is not a file")
        text: Any = decoded(path.read_bytes())
        if path.suffix.lower() == ".json":  # as downloaders write it: {"caption": ..., ...}
            text = caption_in(text)
    except (OSError, ValueError, RecursionError) as error:
        skips.add(UNREADABLE, f"{path.name}: {reason_of(error)}")
        return ""
    return clean_words(text, path.name, path.name, skips)
