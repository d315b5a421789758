"""Reads a file of prompts: text, CSV, JSON lines or Parquet.

Files of users are odd in many ways. What is harmless is read (byte order marks, UTF-16, ids that
are numbers, seeds written as 7.0, quoted line ends); a row that cannot be rendered becomes a
`Refused` with one sentence; only a file in which nothing can be read ends the run. Every row of the
file is in the result exactly once, in the order of the file.
"""

import csv
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from sage.core.settings import PROMPT_CHARS, Number, settings_of, shortened
from sage.jobs.request import clean_prompt

COLUMNS = ("id", "prompt", "seed", "negative_prompt")
DELIMITERS = (",", ";", "\t")
# A quoted field that goes on for more lines than this is a quotation mark that was never closed.
QUOTED_LINES = 100
ID_CHARS = 1000
SEED = settings_of()["seed"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A row that can be rendered.

    Attributes:
        row: Its number in the file, from 1; lines of a text file, rows of a table.
        id: Its id in the file, or its number.
        text: The prompt.
        seed: Of its starting noise.
        negative_prompt: What to guide away from, or "".
        named: Whether the file gave the id.
    """

    row: int
    id: str
    text: str
    seed: int
    negative_prompt: str = ""
    named: bool = True


@dataclass(frozen=True, slots=True)
class Refused:
    """A row that cannot be rendered.

    Attributes:
        row: Its number in the file, from 1.
        id: Its id as far as it could be read.
        text: The prompt as far as it could be read.
        error: Why, as one sentence.
    """

    row: int
    id: str
    text: str
    error: str


class _BadRowError(Exception):
    """Why a row could not be read, as one sentence."""


# A row of a file: its number, and its values by column or why they could not be read.
_Raw = tuple[int, Mapping[str, Any] | _BadRowError]


def read_prompts(
    path: Path, seed: int = 0, columns: Mapping[str, str] | None = None
) -> Iterator[Prompt | Refused]:
    """All rows of a file of prompts.

    Args:
        path: A .txt file (one prompt a line, blank lines are skipped), or a .csv, .tsv, .jsonl,
            .ndjson or .parquet file with a column "prompt" and, if wanted, "id", "seed" and
            "negative_prompt".
        seed: Seed of the first row; rows without one of their own count up from it.
        columns: Other names of these columns in the file.

    Raises:
        ValueError: If the file as a whole cannot be read.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        allowed = ", ".join(_READERS)
        raise ValueError(f"{path} ends in {path.suffix!r}; allowed are {allowed}.")
    if not path.is_file():
        raise ValueError(f"There is no file {path}.")
    names = _column_names(columns or {})
    # Lines have no ids; a row of a table without one must not take the id of a later row.
    unnamed = "{}" if reader is _lines else "row-{}"
    ids: dict[str, int] = {}
    for row, raw in reader(path, names):
        yield _checked(row, raw, unnamed.format(row), seed, ids)


def _column_names(columns: Mapping[str, str]) -> dict[str, str]:
    """Name in the file, simplified, to our name of a column."""
    if unknown := sorted(set(columns) - set(COLUMNS)):
        raise ValueError(f"There is no column {unknown[0]!r}; allowed are {', '.join(COLUMNS)}.")
    return {_simple(columns.get(ours, ours)): ours for ours in COLUMNS}


def _simple(name: object) -> str:
    return str(name).strip().lower().replace(" ", "_").replace("-", "_")


# -- one row -------------------------------------------------------------------------------------


def _checked(
    row: int, raw: Mapping[str, Any] | _BadRowError, unnamed: str, seed: int, ids: dict[str, int]
) -> Prompt | Refused:
    """A row, checked; `unnamed` is its id without one, `ids` holds the rows of all ids so far."""
    if isinstance(raw, _BadRowError):
        return Refused(row, unnamed, "", str(raw))
    shown_id, shown_text = unnamed, ""
    try:
        given = _id(raw.get("id"))
        shown_text = (
            str(raw["prompt"])[: int(PROMPT_CHARS.high)] if _given(raw.get("prompt")) else ""
        )
        shown_text = shown_text.encode("utf-8", "replace").decode()
        if given in ids:
            raise _BadRowError(f"The id {shortened(given)} is also that of row {ids[given]}.")
        shown_id = given or shown_id
        ids[shown_id] = row
        text = _text(raw.get("prompt"), "prompt")
        if not text:
            raise _BadRowError("The prompt is empty.")
        negative = _text(raw.get("negative_prompt"), "negative prompt")
        return Prompt(row, shown_id, text, _seed(raw.get("seed"), seed, row), negative, bool(given))
    except _BadRowError as error:
        return Refused(row, shown_id, shown_text, str(error))


def _given(value: Any) -> bool:
    return value is not None and not (isinstance(value, float) and math.isnan(value))


def _id(value: Any) -> str:
    """An id as a text: 100, 100.0 and "100" are the same; "" if there is none."""
    if not _given(value):
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value).strip()
    if len(text) > ID_CHARS:
        raise _BadRowError(f"The id has {len(text)} characters; allowed are 1 to {ID_CHARS}.")
    _check_unicode(text, "id")
    return text


def _text(value: Any, name: str) -> str:
    if not _given(value):
        return ""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "surrogateescape")
    if not isinstance(value, str):
        raise _BadRowError(f"The {name} is {shortened(value)}; a text is needed.")
    _check_unicode(value, name)
    text = clean_prompt(value)
    if len(text) > PROMPT_CHARS.high:
        raise _BadRowError(
            f"The {name} has {len(text)} characters; allowed are {PROMPT_CHARS.allowed}."
        )
    return text


def _check_unicode(text: str, name: str) -> None:
    # Bytes that are not UTF-8 arrive as lone surrogates, and so do broken escapes of JSON.
    if any("\ud800" <= c <= "\udfff" for c in text):
        raise _BadRowError(f"The {name} is not valid UTF-8.")


def _seed(value: Any, first: int, row: int) -> int:
    if not _given(value) or (isinstance(value, str) and not value.strip()):
        assert isinstance(SEED, Number)
        return (first + row - 1) % (int(SEED.high) + 1)
    try:
        return SEED.check(SEED.parse(value) if isinstance(value, str) else value)
    except ValueError as error:
        raise _BadRowError(str(error)) from None


# -- kinds of file -------------------------------------------------------------------------------


def _open(path: Path) -> TextIO:
    """A text file in UTF-8 or, if it says so at its beginning, UTF-16."""
    with path.open("rb") as file:
        start = file.read(2)
    if start not in (b"\xff\xfe", b"\xfe\xff"):
        return path.open(encoding="utf-8-sig", errors="surrogateescape", newline=None)
    # Damage in UTF-16 cannot be escaped; it becomes a lone surrogate, as in UTF-8.
    text = path.read_bytes().decode("utf-16", "replace").replace("\ufffd", "\udcff")
    return io.StringIO(text, newline=None)


def _lines(path: Path, names: Mapping[str, str]) -> Iterator[_Raw]:
    with _open(path) as file:
        for row, line in enumerate(file, start=1):
            if line.strip():
                yield row, {"prompt": line}


def _json_lines(path: Path, names: Mapping[str, str]) -> Iterator[_Raw]:
    with _open(path) as file:
        for row, line in enumerate(file, start=1):
            if line.strip():
                yield row, _json_row(line, names)


def _json_row(line: str, names: Mapping[str, str]) -> Mapping[str, Any] | _BadRowError:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        return _BadRowError(f"The line is not JSON: {str(error)[:100]}.")
    if isinstance(value, str):
        return {"prompt": value}
    if not isinstance(value, dict):
        return _BadRowError(f"The line is {shortened(line.strip())}; an object is needed.")
    return {names[_simple(key)]: item for key, item in value.items() if _simple(key) in names}


def _table(path: Path, names: Mapping[str, str]) -> Iterator[_Raw]:
    with _open(path) as file:
        lines = file.readlines()
    if not lines:
        raise ValueError(f"{path} is empty; its first line must name the columns.")
    delimiter, header = _header(path, lines[0], names)
    row, at = 0, 1
    while at < len(lines):
        if not lines[at].strip():
            at += 1
            continue
        row += 1
        cells, used = _record(lines, at, delimiter)
        at += used
        if isinstance(cells, _BadRowError):
            yield row, cells
        elif len(cells) > len(header):
            yield row, _BadRowError(f"The row has {len(cells)} cells; allowed are {len(header)}.")
        else:
            yield row, {n: c for n, c in zip(header, cells, strict=False) if n and c.strip()}


def _header(path: Path, line: str, names: Mapping[str, str]) -> tuple[str, list[str]]:
    """Delimiter and our names of the columns ("" for others) of a table's first line."""
    for delimiter in DELIMITERS:
        cells = next(csv.reader([line], delimiter=delimiter))
        header = [names.get(_simple(cell), "") for cell in cells]
        if "prompt" in header:
            return delimiter, header
    raise _no_prompts(path, next(csv.reader([line])), names)


def _no_prompts(path: Path, columns: Sequence[str], names: Mapping[str, str]) -> ValueError:
    wanted = next(name for name, ours in names.items() if ours == "prompt")
    shown = ", ".join(str(column).strip()[:40] for column in columns[:10])
    return ValueError(f"{path} has the columns {shown}; a column {wanted!r} is needed.")


def _record(lines: Sequence[str], at: int, delimiter: str) -> tuple[list[str] | _BadRowError, int]:
    """The cells of the record that begins at a line, and how many lines it takes."""
    used = 0

    def source() -> Iterator[str]:
        nonlocal used
        for line in lines[at : at + QUOTED_LINES]:
            used += 1
            yield line
        raise _BadRowError("A quotation mark is opened and not closed.")

    try:
        return next(csv.reader(source(), delimiter=delimiter)), used
    except _BadRowError as error:
        return error, 1
    except csv.Error as error:
        return _BadRowError(f"The row is not CSV: {error}."), 1


def _parquet(path: Path, names: Mapping[str, str]) -> Iterator[_Raw]:
    try:
        file = pq.ParquetFile(path)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ValueError(f"{path} cannot be read as Parquet: {str(error)[:200]}") from error
    with file:
        columns = {name: names[_simple(name)] for name in file.schema_arrow.names
                   if _simple(name) in names}  # fmt: skip
        if "prompt" not in columns.values():
            raise _no_prompts(path, file.schema_arrow.names, names)
        row = 0
        for block in range(file.num_row_groups):
            size = file.metadata.row_group(block).num_rows
            yield from enumerate(_block(file, block, size, columns), start=row + 1)
            row += size


def _block(
    file: pq.ParquetFile, block: int, size: int, columns: Mapping[str, str]
) -> Sequence[Mapping[str, Any] | _BadRowError]:
    """The rows of a row group; if it is damaged, that many rows that say so."""
    try:
        table = file.read_row_group(block, columns=list(columns))
        if table.num_rows != size:
            raise ValueError(f"{table.num_rows} rows instead of {size}")
        rows = table.to_pylist()
    except Exception as error:  # whatever a damaged file makes of the decoders
        reason = str(error).splitlines()[0][:100] if str(error) else type(error).__name__
        return [_BadRowError(f"Its row group is damaged: {reason}.")] * size
    return [{ours: row[name] for name, ours in columns.items()} for row in rows]


_READERS: dict[str, Callable[[Path, Mapping[str, str]], Iterator[_Raw]]] = {
    ".txt": _lines,
    ".csv": _table,
    ".tsv": _table,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".parquet": _parquet,
}
