"""Reads files of captions as people have them: which picture, and what is said of it.

Knows text files and their records; nothing of where pictures lie, of models or of groups. Read are

* MS COCO (cocodataset.org, "Data format": `images` with id and file_name, `annotations` with
  image_id and caption), and JSON in which pictures carry their own captions;
* JSON Lines, CSV, TSV and Parquet with a column for the picture and one for the caption, such as
  `metadata.jsonl`, `metadata.csv` and `metadata.parquet` of Hugging Face's image folders.

Whatever is broken is counted, named and skipped, one record at a time.
"""

import ast
import csv
import io
import json
import re
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sage.training.skips import Skips

TABLES = {".csv", ".tsv"}
LINES = {".jsonl", ".ndjson"}
PARQUET = ".parquet"
SUFFIXES = frozenset({".json", *TABLES, *LINES, PARQUET})
EXPECTED = (
    "Expected are pictures (JPEG, PNG, WebP, GIF, TIFF, BMP) with captions in MS COCO's "
    "captions_*.json, in metadata.jsonl, .csv or .parquet (file_name, text), or in a .txt file "
    "beside each picture."
)
LONGEST = 10_000  # characters; a text encoder reads a few hundred
PICTURE_KEYS = (
    *("file_name", "filename", "file", "image", "image_path", "image_file", "path", "filepath"),
    *("image_name", "img_name", "img", "picture", "url", "coco_url"),
)
CAPTION_KEYS = (
    *("caption", "captions", "text", "texts", "prompt", "description", "sentences", "raw"),
    *("comment",),
)
DELIMITERS = ",\t;|"
LONGEST_RECORD = 50  # lines of a table
BOMS = (
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
_Read = Callable[..., Iterator[list[str]]]  # csv.reader for one kind of table
UNREADABLE = "file of captions cannot be read"
BROKEN = "caption is broken"
NAMELESS = "picture has no id or file name"


@dataclass(frozen=True)
class Row:
    """One caption and the picture it names.

    Attributes:
        picture: As the file says it: a name, a path or an address.
        caption: Clean text.
        name: Of the record, for messages.
    """

    picture: str
    caption: str
    name: str


def read_rows(path: Path, skips: Skips) -> list[Row]:
    """All usable records of a file of captions.

    Args:
        path: COCO's JSON, other JSON, JSON Lines, CSV or TSV; told apart by what is in it.
        skips: What was left out; added to.
    """
    rows: list[Row] = []
    try:
        rows.extend(_rows(path, skips))
    except Exception as error:  # a stranger's file: anything can be wrong with it
        skips.add(UNREADABLE, f"{path.name}: {reason_of(error)}")
    return rows


def reason_of(error: Exception) -> str:
    """Why a file cannot be read, in few words."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if type(error) is ValueError:
        return str(error)
    return type(error).__name__


def _rows(path: Path, skips: Skips) -> Iterator[Row]:
    if path.suffix.lower() == PARQUET:
        return _record_rows(_parquet_records(path), skips)
    text = decoded(path.read_bytes())
    if not text.strip():
        raise ValueError("it is empty")
    suffix = path.suffix.lower()
    if suffix not in TABLES and text.lstrip()[0] in "[{":
        return _json_rows(text, path.name, skips)
    if suffix == ".json" or suffix in LINES:
        raise ValueError("it is not JSON")
    return _table_rows(text, path.name, skips)


def decoded(content: bytes) -> str:
    """Text in UTF-8, UTF-16 or UTF-32, with or without a mark, or else in Windows' code page."""
    for mark, encoding in BOMS:
        if content.startswith(mark):
            return content.decode(encoding, "replace")
    for encoding, zeros in (("utf-16-le", content[1:200:2]), ("utf-16-be", content[0:200:2])):
        if len(zeros) > 1 and not any(zeros):  # every other byte of English text
            return content.decode(encoding, "replace")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return _decoded_somehow(content)


def _decoded_somehow(content: bytes) -> str:
    """UTF-8 with a few broken bytes, or text in a Western code page.

    Raises:
        ValueError: If it is neither; what another code page means cannot be told from bytes.
    """
    text = content.decode("utf-8", "replace")
    broken = text.count("\ufffd")
    good = sum(not char.isascii() for char in text) - broken
    if broken <= 2 * good:
        return text
    western = content.decode("cp1252", "replace")
    # Western words have an accent here and there, and never five in a row.
    letters = [char for char in western if char.isalpha()]
    accents = sum(not char.isascii() for char in letters)
    odd = re.search(r"[^\x00-\x7f\W]{5}|[\x00-\x08]", western)
    if odd or "\ufffd" in western or accents > max(3, 0.4 * len(letters)):
        raise ValueError("its encoding is not known; save it as UTF-8")
    return western


def cleaned(text: str) -> str:
    """A caption on one line, without control characters and halves of characters.

    Joiners stay: Persian words and family emoji consist of them.
    """
    odd = ("Cc", "Cs")
    kept = (
        c if c.isspace() or (unicodedata.category(c) not in odd and c != "\ufffd") else " "
        for c in text
    )
    return " ".join("".join(kept).replace("\ufeff", "").split())


# --- JSON -----------------------------------------------------------------------------------


def _json_rows(text: str, file: str, skips: Skips) -> Iterator[Row]:
    values, rest = _json_values(text)
    if not values:
        json.loads(text)  # says what is wrong
    if rest:
        skips.add("file of captions goes on with something else", f"{file}: {rest[:30]!r}")
    content: Any = values[0] if len(values) == 1 else values
    if isinstance(content, dict):
        if isinstance(content.get("annotations"), list):
            return _coco_rows(content, skips)
        lists = [v for v in content.values() if isinstance(v, list) and _has_record(v)]
        named = all(map(_like_picture, list(content)[:10]))  # 1.jpg, not "data"
        if _has_picture(content):
            content = _by_columns(content) or [content]
        elif lists and not named:
            content = max(lists, key=len)
        else:  # name of a picture -> its caption, captions or record
            content = [{"file_name": k, "captions": v} for k, v in content.items()]
            if not any(_has_captions(r["captions"]) for r in content):
                raise ValueError("it has no captions")
    if not _has_record(content):
        raise ValueError("it has no captions")
    return _record_rows(enumerate(content, 1), skips)


def _json_values(text: str) -> tuple[list[Any], str]:
    """The values in a text (one, or one after the other), and what follows the only one."""
    text = text.strip()
    values, rest = [], text
    while rest:
        try:
            value, end = _DECODER.raw_decode(rest)
        except (ValueError, RecursionError):
            break
        values, rest = [*values, value], rest[end:].lstrip(" \t\r\n,\ufeff")
        if isinstance(value, dict) and "annotations" in value:  # COCO's file is one value
            break
    if not rest:
        return values, ""
    values, rest = values[:1], text[len(text) - len(rest) :] if len(values) == 1 else text
    if rest and re.search(r"[\r\n]", text):
        lines = [_json_line(line) for line in re.split(r"[\r\n]+", text) if line.strip()]
        records = sum(isinstance(line, dict) for line in lines)
        if records > len(values) and 2 * records >= len(lines):
            return lines, ""  # JSON Lines: a broken line is a broken record
    plain = _LAST_COMMA.sub(r"\1", text)
    return (values, rest) if not rest or plain == text else _json_values(plain)


# A text, which is kept, or a comma after the last item of a list or record.
_LAST_COMMA = re.compile(r'("(?:[^"\\\r\n]|\\.)*")|,(?=\s*[\]}])')


def _whole(digits: str) -> int | str:
    """A whole number; one that Python refuses to read costs its record, not the file."""
    return int(digits) if len(digits) < 100 else digits


_DECODER = json.JSONDecoder(parse_int=_whole)


def _json_line(line: str) -> Any:
    line = line.strip(" \t,\ufeff")
    try:
        return _DECODER.decode(_LAST_COMMA.sub(r"\1", line))
    except (ValueError, RecursionError):
        return _python_record(line) if line.startswith("{'") else line


def _python_record(line: str) -> Any:
    """A record as Python prints it: {'file_name': '1.jpg', 'text': None}."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd escapes
            return ast.literal_eval(line[: 10 * LONGEST])
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return line


def _has_record(values: list) -> bool:
    return any(isinstance(value, dict) for value in values[:10])


def _has_picture(record: dict) -> bool:
    return _first(record, PICTURE_KEYS) is not None and _first(record, CAPTION_KEYS) is not None


def _has_captions(value: Any) -> bool:
    record = isinstance(value, dict) and _first(value, CAPTION_KEYS) is not None
    return record or isinstance(value, str | list)


def _by_columns(table: dict) -> list[dict] | None:
    """Records of a table by columns, as pandas writes one: {"text": {"0": ...}}; None if not."""
    held = [value for value in table.values() if isinstance(value, dict | list)]
    columns = [v if isinstance(v, dict) else dict(enumerate(v)) for v in held]
    pictures = _first(table, PICTURE_KEYS)
    if not columns or type(pictures) is not type(_first(table, CAPTION_KEYS)):
        return None
    if isinstance(pictures, str) or any(c.keys() != columns[0].keys() for c in columns):
        return None
    names = [name for name, value in table.items() if isinstance(value, dict | list)]
    return [{n: c[k] for n, c in zip(names, columns, strict=True)} for k in columns[0]]


def _first(record: dict, keys: tuple[str, ...]) -> Any:
    """The first of the keys that a record has, in any case and with any spaces around it."""
    plain = {str(key).strip().casefold(): value for key, value in record.items()}
    return next((plain[key] for key in keys if plain.get(key) not in (None, "")), None)


def _record_rows(records: Iterable[tuple[int, Any]], skips: Skips) -> Iterator[Row]:
    for number, record in records:
        if not isinstance(record, dict):
            skips.add(BROKEN, str(record)[:60])
            continue
        picture = _first(record, PICTURE_KEYS)
        if isinstance(picture, dict):  # as `datasets` writes an image: {"path": ..., "bytes": ...}
            picture = _first(picture, PICTURE_KEYS)
        if isinstance(picture, int) and not isinstance(picture, bool):
            picture = str(picture)  # 100 for 100.jpg
        if not isinstance(picture, str) or not picture.strip():
            skips.add(NAMELESS, str(record)[:60])
            continue
        captions = _first(record, CAPTION_KEYS)
        yield from _caption_rows(picture, captions, f"record {number}", str(record)[:60], skips)


def _caption_rows(
    picture: str, captions: Any, name: str, shown: str, skips: Skips
) -> Iterator[Row]:
    """A row for each caption of a picture; `captions` is a text, a record, or a list of these."""
    if captions is None or captions == []:
        skips.add(BROKEN if captions is None else "picture has no caption", shown)
        return
    for caption in captions if isinstance(captions, list) else [captions]:
        text = _first(caption, CAPTION_KEYS) if isinstance(caption, dict) else caption
        words = clean_words(text, name, shown, skips)
        if words:
            yield Row(picture, words, name)


def clean_words(text: Any, name: str, shown: str, skips: Skips) -> str:
    """A clean caption, or an empty one if it was counted among the skipped."""
    if not isinstance(text, str):
        skips.add(BROKEN, shown)
        return ""
    words = cleaned(text)
    if not any(unicodedata.category(c) not in ("Zs", "Cf") for c in words):  # nothing to see
        words = ""
    if not words:
        skips.add("caption is empty", name)
    elif len(words) > LONGEST:
        skips.add(f"caption is longer than {LONGEST:,} characters", name)
        return ""
    return words


def _parquet_records(path: Path) -> Iterator[tuple[int, Any]]:
    """Records of a Parquet file, numbered from 1; only the columns that matter are read."""
    from pyarrow import parquet  # slow to import, and seldom needed

    known = {*PICTURE_KEYS, *CAPTION_KEYS}
    with parquet.ParquetFile(path) as file:
        columns = [name for name in file.schema_arrow.names if name.strip().casefold() in known]
        number = 0
        for batch in file.iter_batches(256, columns=columns):  # pictures may be inside
            for record in batch.to_pylist():
                number += 1
                yield number, {name: _as_text(value) for name, value in record.items()}


def _as_text(value: Any) -> Any:
    """Bytes that are a text, as old writers store one; anything else as it is."""
    try:
        short = isinstance(value, bytes) and len(value) <= 4 * LONGEST
        return value.decode("utf-8") if short else value
    except UnicodeDecodeError:
        return value


def caption_in(text: str) -> Any:
    """The caption of a picture in a JSON file of its own: a record, or the text alone.

    Raises:
        ValueError: If it is not JSON, or holds no caption.
    """
    content = _DECODER.decode(text.strip().removeprefix("\ufeff"))
    found = _first(content, CAPTION_KEYS) if isinstance(content, dict) else content
    if isinstance(found, list) and found:
        found = found[0]
    if not isinstance(found, str):
        raise ValueError("it has no caption")
    return found


# --- MS COCO --------------------------------------------------------------------------------


def _coco_rows(content: dict, skips: Skips) -> Iterator[Row]:
    images = content.get("images")
    names = _coco_names(images if isinstance(images, list) else [], skips)
    described = set()
    for record in content["annotations"]:
        if not isinstance(record, dict) or "caption" not in record:
            skips.add(BROKEN, str(record)[:60])
            continue
        name = f"caption {record.get('id', '')}".strip()
        own = _first(record, PICTURE_KEYS)
        picture = names.get(record.get("image_id"), own if isinstance(own, str) else None)
        caption = record["caption"]
        rows = list(_caption_rows(picture or "", caption, name, str(record)[:60], skips))
        if picture is not None:
            described.add(picture)
            yield from rows
        elif rows:
            skips.add("caption is of an unknown picture", name)
    for picture in names.pictures():
        if picture not in described:
            skips.add("picture has no caption", picture)


class _Ids:
    """Pictures by id, where 100, "100", 100.0 and "000100" are one unless the file has several."""

    def __init__(self) -> None:
        self.exact: dict[str, str] = {}
        self.loose: dict[str, str] = {}

    def pictures(self) -> Iterator[str]:
        return iter(dict.fromkeys(self.exact.values()))

    def get(self, key: Any, default: str | None) -> str | None:
        exact = _id(key)
        if exact is None:
            return default
        return self.exact.get(exact, self.loose.get(_loose(exact), default))


def _id(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip() or None


def _loose(exact: str) -> str:
    return exact.lstrip("0") or "0" if exact.isdecimal() else exact


def _coco_names(images: list, skips: Skips) -> _Ids:
    names = _Ids()
    for record in images:
        number = _id(record.get("id")) if isinstance(record, dict) else None
        picture = _first(record, PICTURE_KEYS) if isinstance(record, dict) else None
        if number is None or not isinstance(picture, str) or not picture.strip():
            skips.add(NAMELESS, str(record)[:60])
        elif names.exact.setdefault(number, picture) != picture:
            skips.add("picture has the id of another one", picture)
        else:
            names.loose.setdefault(_loose(number), picture)
    return names


# --- tables ---------------------------------------------------------------------------------


# Inside a quotation, where it does not end: databases write \" for what spreadsheets write as "".
_ESCAPED_QUOTE = re.compile(r'\\"(?!\s*([,;\t|"]|$))', re.MULTILINE)


def _table_rows(text: str, file: str, skips: Skips) -> Iterator[Row]:
    if _ESCAPED_QUOTE.search(text):
        text = text.replace('\\"', '""')
    lines = text.replace("\0", "").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    while lines and re.fullmatch(r"\s*|#.*|sep=.", lines[0]):  # as spreadsheets and people begin
        lines.pop(0)
    header = lines[0] if lines else ""
    # "file_name, text": a space after the mark does not keep a quotation from beginning.
    spaced = {mark: header.partition(mark)[2].startswith(" ") for mark in DELIMITERS}
    read = {
        mark: partial(csv.reader, delimiter=mark, skipinitialspace=spaced[mark])
        for mark in DELIMITERS
    }
    split = {mark: next(read[mark]([header]), []) for mark in DELIMITERS}
    known = {mark: dict.fromkeys(column.strip() for column in split[mark]) for mark in split}
    with_header = [m for m in DELIMITERS if _named(known[m])]
    plain = [m for m in DELIMITERS if len(split[m]) >= 2 and _like_picture(split[m][0])]
    if not with_header and not plain:
        raise ValueError("it has no columns file_name and text")
    mark = (with_header or plain)[0]
    fields = split[mark] if with_header else ["file_name", "text"]
    table = _records(lines[1:] if with_header else lines, read[mark], mark, len(fields))
    for number, cells in enumerate(table, 1):
        if cells[len(fields) :] and fields[-1].strip().casefold() in CAPTION_KEYS:
            # Commas in a caption without quotes.
            between = f"{mark} " if spaced[mark] else mark
            cells[len(fields) - 1 :] = [between.join(cells[len(fields) - 1 :])]
        record = dict(zip(fields, cells, strict=False))
        picture = _first(record, PICTURE_KEYS)
        caption = _first(record, CAPTION_KEYS)
        if picture is None:
            skips.add(NAMELESS, f"record {number}")
        else:
            picture = re.sub(r"#\d+$", "", picture)  # Flickr30k: 1.jpg#0
            name = f"record {number}"
            yield from _caption_rows(picture, caption or "", name, name, skips)


def _records(lines: list[str], read: _Read, mark: str, columns: int) -> Iterator[list[str]]:
    """The cells of each record; a quotation mark that is never closed costs nothing else.

    A record goes on over the next lines while a quotation is open, as spreadsheets write it, but
    not over a line that looks like a record itself.
    """
    # A caption may be longer than csv's own limit, and is then counted like any other.
    csv.field_size_limit(max(csv.field_size_limit(), sum(map(len, lines)) + len(lines) + 1))
    at = 0
    while at < len(lines):
        end = at + 1
        while not _closed(lines[at:end], read) and end < min(len(lines), at + LONGEST_RECORD):
            end += 1
        first = next(read(lines[at : at + 1]), [])
        inside = lines[at + 1 : end]
        if inside and (
            not _closed(lines[at:end], read)
            or any(_is_record(line, mark, columns, first) for line in inside)
        ):
            end = at + 1
            cells = next(read([lines[at]], quoting=csv.QUOTE_NONE), [])
            cells = [cell.strip().strip('"') for cell in cells]
        else:
            text = io.StringIO("\n".join(lines[at:end]), newline="")
            cells = next(read(text), [])
        at = end
        if any(cell.strip() for cell in cells):
            yield cells


def _closed(lines: list[str], read: _Read) -> bool:
    """Whether no quotation is open at the end of some lines."""
    try:
        for _ in read(io.StringIO("\n".join(lines), newline=""), strict=True):
            pass
    except csv.Error as error:
        return "unexpected end" not in str(error)
    return True


def _is_record(line: str, mark: str, columns: int, first: list[str]) -> bool:
    """Whether a line has as many cells as there are columns, and a picture where others have it."""
    cells = line.split(mark)
    places = [n for n, cell in enumerate(first) if _like_picture(cell)]
    return len(cells) >= columns and any(_like_picture(cells[n]) for n in places if n < len(cells))


def _named(columns: dict[str, None]) -> bool:
    names = {column.casefold() for column in columns}
    return bool(names & set(PICTURE_KEYS)) and bool(names & set(CAPTION_KEYS))


def _like_picture(cell: str) -> bool:
    return re.search(r"\.[A-Za-z0-9]{2,5}(#\d+)?$", cell.strip()) is not None
