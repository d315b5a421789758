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
import re
from collections import Counter
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
_TOLD = re.compile(r"sep=(.)\s*", re.IGNORECASE)
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
        columns: Other names of these columns in the file; each has to be there.

    Raises:
        ValueError: If the file as a whole cannot be read.
    """
    check_file(path)
    reader = _READERS[path.suffix.lower()]
    names = _Names.of(columns or {})
    if columns and reader is _lines:
        raise ValueError(f"{path} is a text file, which has no columns; leave out --columns.")
    # Lines have no ids; a row of a table without one must not take the id of a later row.
    unnamed = "{}" if reader is _lines else "row-{}"
    ids: dict[str, int] = {}
    try:
        for row, raw in reader(path, names):
            yield _checked(row, raw, unnamed.format(row), seed, ids)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}.") from error


def check_file(path: Path) -> None:
    """Whether a file of prompts can be opened at all.

    Raises:
        ValueError: If it cannot.
    """
    allowed = ", ".join(_READERS)
    try:
        if path.is_dir():
            raise ValueError(f"{path} is a folder; give one file that ends in {allowed}.")
        if path.suffix.lower() not in _READERS:
            raise ValueError(f"{path} ends in {path.suffix!r}; allowed are {allowed}.")
        if not path.exists():
            raise ValueError(f"There is no file {path}.")
        if not path.is_file():  # it is read twice, which a pipe would not bear
            raise ValueError(f"{path} is a pipe or device; give a file that ends in {allowed}.")
        path.open("rb").close()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}.") from error


@dataclass(frozen=True)
class _Names:
    """What columns are called in the file.

    Attributes:
        ours: Name in the file, simplified, to our name of a column.
        asked: Names in the file, simplified, that somebody chose: they have to be there.
    """

    ours: Mapping[str, str]
    asked: Sequence[str]

    @classmethod
    def of(cls, columns: Mapping[str, str]) -> "_Names":
        """With other names for some columns."""
        if unknown := sorted(set(columns) - set(COLUMNS)):
            allowed = ", ".join(COLUMNS)
            raise ValueError(f"There is no column {unknown[0]!r}; allowed are {allowed}.")
        asked = {ours: _simple(name) for ours, name in columns.items()}
        if len(set(asked.values())) < len(asked):
            raise ValueError(f"--columns gives {', '.join(asked)} the same column.")
        usual = {ours: ours for ours in COLUMNS if ours not in asked and ours not in asked.values()}
        return cls({name: o for o, name in (asked | usual).items()}, tuple(asked.values()))

    def get(self, name: object) -> str:
        """Our name of a column, "" if it is none of ours."""
        return self.ours.get(_simple(name), "")

    def check(
        self, path: Path, columns: Sequence[object], table: bool = True, needed: bool = True
    ) -> None:
        """Whether a file's columns are enough and, in a table, each is there once.

        Raises:
            ValueError: If one is missing, or there twice.
        """
        found = Counter(_simple(column) for column in columns)
        prompts = [name for name, ours in self.ours.items() if ours == "prompt" and needed]
        if missing := [name for name in (*self.asked, *prompts) if name not in found]:
            shown = ", ".join(str(column).strip()[:40] for column in columns[:10])
            other = "" if missing[0] in self.asked else "; --columns prompt=NAME reads another"
            raise ValueError(
                f"{path} has the columns {shown}; a column {missing[0]!r} is needed{other}."
            )
        if twice := [name for name in self.ours if found[name] > 1 and table]:
            raise ValueError(
                f"{path} has {found[twice[0]]} columns {twice[0]!r}; rename all but one."
            )


def _simple(name: object) -> str:
    return str(name).strip().lower().replace(" ", "_").replace("-", "_")


# -- one row -------------------------------------------------------------------------------------


def _checked(
    row: int, raw: Mapping[str, Any] | _BadRowError, unnamed: str, seed: int, ids: dict[str, int]
) -> Prompt | Refused:
    """A row, checked; `unnamed` is its id without one, `ids` holds the rows of all ids so far."""
    while unnamed in ids:
        unnamed += "+"
    if isinstance(raw, _BadRowError):
        return Refused(row, unnamed, "", str(raw))
    raw = {name: _decoded(value) for name, value in raw.items()}
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


def _decoded(value: Any) -> Any:
    """Bytes as a text; what is not UTF-8 becomes lone surrogates, as in a text file."""
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value


def _given(value: Any) -> bool:
    return value is not None and not (isinstance(value, float) and math.isnan(value))


def _id(value: Any) -> str:
    """An id as a text: 100, 100.0 and "100" are the same; "" if there is none."""
    if not _given(value):
        return ""
    if isinstance(value, (bool, list, dict)):
        raise _BadRowError(f"The id is {shortened(value)}; a text or a number is needed.")
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


def _lines(path: Path, names: _Names) -> Iterator[_Raw]:
    with _open(path) as file:
        for row, line in enumerate(file, start=1):
            if line.strip():
                yield row, {"prompt": line}


def _json_lines(path: Path, names: _Names) -> Iterator[_Raw]:
    seen: dict[str, None] = {}  # keys, in their order
    texts = False  # whether a line is a prompt without a key
    with _open(path) as file:
        for row, line in enumerate(file, start=1):
            if line.strip():
                texts |= line.lstrip()[0] == '"'
                yield row, _json_row(line, names, seen)
    if seen:  # a key that no line has is a slip, not a gap
        names.check(path, list(seen), table=False, needed=not texts)


def _json_row(line: str, names: _Names, seen: dict[str, None]) -> Mapping[str, Any] | _BadRowError:
    """A line's values by our names; its keys are added to those that were `seen`."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        return _BadRowError(f"The line is not JSON: {str(error)[:100]}.")
    if isinstance(value, str):
        return {"prompt": value}
    if not isinstance(value, dict):
        return _BadRowError(f"The line is {shortened(line.strip())}; an object is needed.")
    seen |= dict.fromkeys(value)
    ours = [(name, key) for key in value if (name := names.get(key))]
    if len(dict(ours)) < len(ours):
        keys = ", ".join(key for _, key in ours)
        return _BadRowError(f"The line has one column twice among {keys}; name each once.")
    return {name: value[key] for name, key in ours}


def _table(path: Path, names: _Names) -> Iterator[_Raw]:
    with _open(path) as file:
        lines = file.readlines()
    at = next((n for n, line in enumerate(lines) if line.strip()), len(lines))
    if at == len(lines):
        raise ValueError(f"{path} is empty; its first line must name the columns.")
    likely = DELIMITERS[::-1] if path.suffix.lower() == ".tsv" else DELIMITERS
    if told := _TOLD.fullmatch(lines[at]):  # by a spreadsheet, to spreadsheets
        likely, at = (told[1],), at + 1
    header_at = next((n for n, line in enumerate(lines[at:], at) if line.strip()), at)
    delimiter, header, used = _header(path, lines[header_at:], likely, names)
    # "id, prompt": a space after the mark does not keep a quotation from beginning.
    spaced = lines[header_at].partition(delimiter)[2].startswith(" ")
    row, at = 0, header_at + used
    while at < len(lines):
        if not lines[at].strip():
            at += 1
            continue
        row += 1
        cells, used = _record(lines, at, delimiter, spaced)
        at += used
        if isinstance(cells, _BadRowError):
            yield row, cells
        elif any(cell.strip() for cell in cells[len(header) :]):
            yield row, _BadRowError(f"The row has {len(cells)} cells; allowed are {len(header)}.")
        else:
            yield row, {n: c for n, c in zip(header, cells, strict=False) if n and c.strip()}


def _header(
    path: Path, lines: Sequence[str], likely: Sequence[str], names: _Names
) -> tuple[str, list[str], int]:
    """Delimiter, our names of the columns ("" for others), and how many lines they take."""
    # The one that finds most of our columns; of a single column, the likely one.
    found = [(d, *_record(lines, 0, d, spaced=True)) for d in likely]
    delimiter, cells, used = max(found, key=lambda f: _known(f[1], names))
    if isinstance(cells, _BadRowError):
        raise ValueError(f"The first line of {path} cannot be read: {cells}")
    names.check(path, cells)
    return delimiter, [names.get(cell) for cell in cells], used


def _known(cells: Sequence[str] | _BadRowError, names: _Names) -> int:
    return -1 if isinstance(cells, _BadRowError) else sum(bool(names.get(cell)) for cell in cells)


def _record(
    lines: Sequence[str], at: int, delimiter: str, spaced: bool
) -> tuple[list[str] | _BadRowError, int]:
    """The cells of the record that begins at a line, and how many lines it takes."""
    used = 0

    def source() -> Iterator[str]:
        nonlocal used
        for line in lines[at : at + QUOTED_LINES]:
            used += 1
            yield line
        raise _BadRowError("A quotation mark is opened and not closed.")

    try:
        return next(csv.reader(source(), delimiter=delimiter, skipinitialspace=spaced)), used
    except _BadRowError as error:
        return error, 1
    except csv.Error as error:
        return _BadRowError(f"The row is not CSV: {error}."), 1


def _parquet(path: Path, names: _Names) -> Iterator[_Raw]:
    try:
        file = pq.ParquetFile(path)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ValueError(f"{path} cannot be read as Parquet: {str(error)[:200]}") from error
    with file:
        names.check(path, file.schema_arrow.names)
        columns = {name: ours for name in file.schema_arrow.names if (ours := names.get(name))}
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


_READERS: dict[str, Callable[[Path, _Names], Iterator[_Raw]]] = {
    ".txt": _lines,
    ".csv": _table,
    ".tsv": _table,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".parquet": _parquet,
}
