"""The folder of a run: its plan, its pictures, what is finished, and the manifest at the end.

One process writes. A picture is on the disk under its name only when it is whole, and a unit counts
as finished only when all its pictures are: files are written beside, synced and renamed, then the
unit's part of the manifest in the same way. So a run can be killed at any point and goes on from
the parts that are there.

    OUT/manifest.parquet     a row for each row of the prompt file, in its order
    OUT/record.json          settings, model, versions and sums of the run
    OUT/pictures/            the pictures and metadata.parquet, an "imagefolder" of `datasets`
    OUT/sheets/              contact sheets, if asked for
    OUT/.render/             plan, finished parts, lock; needed to go on, not afterwards
"""

import errno
import fcntl
import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq

from sage.render.prompts import Prompt, Refused
from sage.render.work import Rendered, Unit, is_lost

SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("id", pa.string()),
        ("prompt", pa.string()),
        ("negative_prompt", pa.string()),
        ("seed", pa.int64()),
        ("group", pa.int64()),
        ("plan", pa.string()),
        ("nfe", pa.float64()),
        ("flops", pa.float64()),
        ("file", pa.string()),
        ("sha256", pa.string()),
        ("flags", pa.list_(pa.string())),
        ("error", pa.string()),
    ]
)
NAME_BYTES = 150  # of a file's name, without its ending
DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)  # names on Windows
FULL = (errno.ENOSPC, errno.EDQUOT)
UNSYNCED = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)  # where folders cannot be synced


class StoreError(Exception):
    """The folder cannot be used, or not any further; one sentence says why."""


# -- names ---------------------------------------------------------------------------------------


def picture_names(prompts: Sequence[Prompt]) -> list[str]:
    """A file name for each prompt: its id, or its number and first words where it has none.

    Safe on every system: no two differ only in case, and no character needs quoting.
    """
    taken: set[str] = set()
    names = []
    digits = len(str(max((p.row for p in prompts), default=0)))
    for prompt in prompts:
        stem = _safe(prompt.id) if prompt.named else f"{prompt.row:0{digits}}-{_slug(prompt.text)}"
        odd = len(stem) > NAME_BYTES or stem.startswith(".") or DEVICES.match(stem)
        if odd or stem.lower() in taken:
            mark = hashlib.sha256(prompt.id.encode()).hexdigest()[:12]
            stem = f"{'_' * bool(DEVICES.match(stem))}{stem[:NAME_BYTES].lstrip('.')}~{mark}"
        while stem.lower() in taken:  # an id may look like another one's mark
            stem += "~"
        taken.add(stem.lower())
        names.append(f"pictures/{stem}.png")
    return names


def _safe(text: str) -> str:
    """A text with all but letters, digits and a few marks quoted as in an address."""
    return quote(unicodedata.normalize("NFC", text), safe=" ,;=+@()").rstrip(". ") or "_"


def _slug(text: str) -> str:
    words = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    return words[:60].strip("-") or "prompt"


# -- writing -------------------------------------------------------------------------------------


class Store:
    """The folder of one run, open in this process alone."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.inside = folder, folder / ".render"
        self.plan_file, self.parts = self.inside / "plan.parquet", self.inside / "parts"
        self._lock: IO[str] | None = None

    def __enter__(self) -> "Store":
        """Opens the folder.

        Raises:
            StoreError: If it holds something else, or another process renders into it.
        """
        with self._errors():
            if self.folder.is_dir() and any(self.folder.iterdir()) and not self.inside.is_dir():
                raise StoreError(
                    f"{self.folder} is not empty and holds no run; choose an empty folder."
                )
            for folder in (self.parts, self.inside / "new", self.folder / "pictures"):
                folder.mkdir(parents=True, exist_ok=True)
            self._lock = (self.inside / "lock").open("w")
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._lock.close()
                raise StoreError(f"Another process is rendering into {self.folder}.") from None
            except OSError as error:
                self._lock.close()
                raise StoreError(
                    f"The file system of {self.folder} has no locks ({error.strerror}); choose a "
                    "folder on another one."
                ) from error
            for left in (self.inside / "new").iterdir():
                left.unlink()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._lock is not None
        self._lock.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Within it, an error of the file system, or a file that is damaged, becomes a sentence."""
        try:
            yield
        except (json.JSONDecodeError, pa.ArrowInvalid) as error:
            raise StoreError(
                f"A file in {self.inside} is damaged, so the run cannot go on; choose another "
                "folder, or empty this one."
            ) from error
        except OSError as error:
            if error.errno in FULL:
                raise StoreError(
                    f"The disk of {self.folder} is full. What is finished is kept: make room "
                    "and give the same command again."
                ) from error
            reason = error.strerror or error
            raise StoreError(f"{self.folder} cannot be used: {reason}.") from error

    def _write(self, path: Path, data: bytes) -> None:
        """A file that is there whole or not at all."""
        beside = self.inside / "new" / path.name
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)

    def _write_table(self, path: Path, table: pa.Table) -> None:
        buffer = pa.BufferOutputStream()
        pq.write_table(table, buffer, compression="zstd")
        self._write(path, buffer.getvalue().to_pybytes())

    # -- the plan ----------------------------------------------------------------------------

    def save_plan(
        self,
        identity: Mapping[str, Any],
        units: Iterable[Unit],
        refused: Sequence[Refused],
        summary: Mapping[str, Any],
    ) -> None:
        """Settles what this folder will hold."""
        messages = [(unit.number, len(unit.rows), unit.to_bytes()) for unit in units]
        rows = [_row_of(r) for r in refused]
        head = {"identity": identity, "summary": summary}
        names = ("number", "prompts", "message")
        columns = {name: [m[k] for m in messages] for k, name in enumerate(names)}
        table = pa.table(
            columns, pa.schema([(names[0], pa.int64()), (names[1], pa.int64()),
                                (names[2], pa.large_binary())]),
        ).replace_schema_metadata({"run": json.dumps(head)})  # fmt: skip
        with self._errors():
            for stray in self.parts.iterdir():  # of a plan that was lost
                stray.unlink()
            self._write_table(self.inside / "refused.parquet", pa.Table.from_pylist(rows, SCHEMA))
            self._write_table(self.plan_file, table)
            _sync(self.inside)

    def saved_plan(self) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """Identity and summary of the run that this folder holds; None if it holds none yet."""
        if not self.plan_file.is_file():
            return None
        with self._errors():
            head = json.loads((pq.read_schema(self.plan_file).metadata or {}).get(b"run", b""))
        return head["identity"], head["summary"]

    def is_begun(self) -> bool:
        """Whether anything was rendered; a plan alone may be replaced by another one."""
        return any(any(folder.iterdir()) for folder in (self.parts, self.folder / "pictures"))

    @contextmanager
    def rendering(self) -> Iterator[bool]:
        """Around all rendering; tells whether the last process that was in it did not live on."""
        mark = self.inside / "rendering"
        died = mark.exists()
        with self._errors():
            mark.touch()
        try:
            yield died
        finally:
            mark.unlink(missing_ok=True)

    def units(self) -> Iterator[tuple[int, int, bytes]]:
        """Number, prompts and message of every unit, in order."""
        with self._errors(), pq.ParquetFile(self.plan_file) as file:
            for batch in file.iter_batches(batch_size=64):
                for row in batch.to_pylist():
                    yield row["number"], row["prompts"], row["message"]

    # -- results -----------------------------------------------------------------------------

    def _part(self, number: int) -> Path:
        return self.parts / f"{number:07}.parquet"

    def finished(self) -> set[int]:
        """Numbers of the units whose pictures are all there; others' parts are dropped.

        So are those of units that were lost with their processes: memory may suffice now.
        """
        numbers = set()
        for part in sorted(self.parts.glob("*.parquet")):
            if self._is_whole(part):
                numbers.add(int(part.stem))
            else:
                part.unlink()
        return numbers

    def _is_whole(self, part: Path) -> bool:
        try:
            rows = pq.read_table(part, columns=["file", "bytes", "error"]).to_pylist()
            return all(
                not is_lost(row["error"]) if row["file"] is None
                else (self.folder / row["file"]).stat().st_size == row["bytes"]
                for row in rows
            )  # fmt: skip
        except (OSError, ValueError, pa.ArrowException):
            return False

    def write(self, unit: Unit, rendered: Rendered) -> None:
        """Pictures of a finished unit, then its part of the manifest.

        Raises:
            StoreError: If the disk is full or fails; the unit then is not finished.
        """
        rows = []
        with self._errors():
            for n, picture in enumerate(rendered.pictures):
                row = {
                    "row": unit.rows[n],
                    "id": unit.ids[n],
                    "prompt": unit.prompts[n],
                    "negative_prompt": unit.negative_prompts[n],
                    "seed": unit.seeds[n],
                    "group": unit.groups[n],
                    "plan": picture.plan or None,
                    "nfe": picture.nfe,
                    "flops": picture.flops,
                    "file": None,
                    "sha256": None,
                    "flags": list(picture.flags),
                    "error": picture.error,
                    "bytes": None,
                }
                if picture.png is not None:
                    self._write(self.folder / unit.files[n], picture.png)
                    row["file"], row["bytes"] = unit.files[n], len(picture.png)
                    row["sha256"] = hashlib.sha256(picture.png).hexdigest()
                rows.append(row)
            _sync(self.folder / "pictures")
            schema = SCHEMA.append(pa.field("bytes", pa.int64()))
            self._write_table(self._part(unit.number), pa.Table.from_pylist(rows, schema))
            _sync(self.parts)

    def write_manifest(self, record: Mapping[str, Any]) -> pa.Table:
        """The manifest, the metadata of the pictures and the record of a finished run.

        Returns:
            The manifest.
        """
        with self._errors():
            parts = [pq.read_table(p, schema=SCHEMA) for p in sorted(self.parts.glob("*.parquet"))]
            parts.append(pq.read_table(self.inside / "refused.parquet", schema=SCHEMA))
            table = pa.concat_tables(parts).sort_by("row").combine_chunks()
            self._write_table(self.folder / "manifest.parquet", table)
            drawn = table.filter(table["file"].is_valid())
            names = [name.removeprefix("pictures/") for name in drawn["file"].to_pylist()]
            described = drawn.drop_columns(["file", "error"]).add_column(
                0, "file_name", pa.array(names, pa.string())
            )
            self._write_table(self.folder / "pictures" / "metadata.parquet", described)
            text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
            # A file name that is not UTF-8 has lone surrogates, which JSON escapes like this.
            self._write(self.folder / "record.json", text.encode("utf-8", "backslashreplace"))
            _sync(self.folder)
        return table

    def write_sheet(self, name: str, png: bytes) -> None:
        """A contact sheet."""
        with self._errors():
            (self.folder / "sheets").mkdir(exist_ok=True)
            self._write(self.folder / "sheets" / name, png)


def _row_of(refused: Refused) -> dict[str, Any]:
    empty = dict.fromkeys(SCHEMA.names) | {"flags": []}
    return empty | {
        "row": refused.row,
        "id": refused.id,
        "prompt": refused.text,
        "error": refused.error,
    }


def _sync(folder: Path) -> None:
    """Makes the names in a folder outlive a power failure."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in UNSYNCED:
            raise
    finally:
        os.close(handle)
