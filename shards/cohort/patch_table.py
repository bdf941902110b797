"""The patch table: a Parquet file, and its columns once more as arrays that all processes of a node map and share.

    patches.parquet ──by the merge, or whoever first opens a cohort without──▶ table/slide.npy, x_level0.npy, ... ▶ table.json

At 10^8 patches the columns are 2.9 GB, of which a process has only the pages that it touches, and those not for itself alone.
table.json comes last and tells of which Parquet file the columns are: where it is missing, or the file is another one, they are
made anew. Where they cannot be written (a read-only cohort), the process reads the Parquet file into its own memory.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shards.claim import Waiting, claimed
from shards.errors import InputError
from shards.files import ask_for_space, whole_file, write_json

PATCH_SCHEMA = pa.schema(
    [
        ("slide", pa.int32()),  # row of slides.parquet
        ("x_level0", pa.int32()),  # left edge, level-0 pixels
        ("y_level0", pa.int32()),  # top edge, level-0 pixels
        ("shard", pa.int32()),  # index into cohort.json's "shards"
        ("offset", pa.int64()),  # first byte of the JPEG in the tar
        ("nbytes", pa.int32()),  # length of the JPEG
        ("truth", pa.int8()),  # 1 tumour, 0 not, -1 unknown
    ]
)
PATCHES = "patches.parquet"
TABLE, RECORD = "table", "table.json"
ROWS_AT_ONCE, GROUPS_AT_ONCE = 1 << 20, 100  # 29 MB; the merge makes a group of each slide
POLL_S = 0.2


class Names(NamedTuple):
    """What a fingerprint is of besides the columns: the slides' names, and the digest of features ("": pictures)."""

    slide_ids: np.ndarray
    features: str

    @property
    def key(self) -> str:
        """A hash of them."""
        return hashlib.sha256("\n".join([*self.slide_ids, self.features]).encode()).hexdigest()[:16]


class Known(NamedTuple):
    """A fingerprint that was computed when the columns were written, and the key of the names that it is of."""

    key: str
    fingerprint: str


@dataclass(frozen=True)
class Patches:
    """The patch table as arrays of one length N, typed as in `PATCH_SCHEMA`; read-only.

    Attributes:
        known: the stored fingerprint; None: it is computed.
        told: why the columns are in this process's own memory; "": they are mapped, or were made here.
    """

    slide: np.ndarray
    x_level0: np.ndarray
    y_level0: np.ndarray
    shard: np.ndarray
    offset: np.ndarray
    nbytes: np.ndarray
    truth: np.ndarray
    known: Known | None = None
    told: str = ""

    def __len__(self) -> int:
        return len(self.slide)

    def columns(self) -> dict[str, np.ndarray]:
        """Return the columns by name, in the order of the schema."""
        return {name: getattr(self, name) for name in PATCH_SCHEMA.names}

    def take(self, rows: np.ndarray) -> "Patches":
        """Return the rows chosen by an index or boolean array."""
        return Patches(**{name: column[rows] for name, column in self.columns().items()})

    def fingerprint(self, names: Names) -> str:
        """Return a hash of the table and the names, to tell cohorts apart: the stored one, if it is of these names."""
        if self.known is not None and self.known.key == names.key:
            return self.known.fingerprint
        digest = hashlib.sha256("\n".join(names.slide_ids).encode())
        for column in self.columns().values():
            digest.update(np.ascontiguousarray(column).data)
        digest.update(names.features.encode())
        return digest.hexdigest()[:16]


def open_patches(root: Path, names: Names) -> Patches:
    """Map the columns of the cohort in folder `root`; make them if they are missing or of another Parquet file.

    Raises:
        InputError: patches.parquet cannot be read.
    """
    source = root / PATCHES
    if (patches := _mapped(source)) is not None:
        return patches
    try:
        make_table(root, names, again=False)
    except OSError as error:
        told = (
            f"{_folder_of(source)}: the columns of {PATCHES} cannot be kept there ({error.strerror or error}): each process has "
            "a copy of its own, 29 bytes a patch. Open the cohort once where it may be written, such as with hnm check"
        )
        return _in_memory(source, told)
    return _mapped(source) or _in_memory(source, f"{_folder_of(source)}: another process is changing it")


def make_table(root: Path, names: Names, again: bool = True) -> None:
    """Write the columns of patches.parquet, one process at a time; readers of earlier ones keep theirs.

    Args:
        again: also if there are some of this very file.

    Raises:
        InputError: patches.parquet cannot be read.
        OSError: they cannot be written.
    """
    source = root / PATCHES
    folder, lock = _folder_of(source), _folder_of(source).parent / "locks" / "table.lock"
    waiting = Waiting(f"{folder}: columns of the patch table")
    while True:
        with claimed(lock) as claim:
            if claim is not None:
                if again or _mapped(source) is None:
                    _write_table(source, folder, names)
                return
        waiting.tell(lock)
        time.sleep(POLL_S)


def damaged_columns(root: Path) -> list[Path]:
    """Return the kept columns that are not what patches.parquet says, such as after a disk has flipped a bit; all are read.

    Raises:
        InputError: patches.parquet cannot be read.
    """
    source = root / PATCHES
    if (mapped := _mapped(source)) is None:
        return []
    expected = _in_memory(source, "").columns()
    return [
        _folder_of(source) / f"{name}.npy"
        for name, column in mapped.columns().items()
        if not np.array_equal(column, expected[name])
    ]


def _folder_of(source: Path) -> Path:
    """Return where the columns lie: beside the file itself, which a cross-validation's view of a cohort links to."""
    return source.resolve().parent / TABLE


def _mapped(source: Path) -> Patches | None:
    """Return the columns, memory-mapped; None: there are none of this Parquet file."""
    folder = _folder_of(source)
    try:
        text = (folder / RECORD).read_text(encoding="utf-8")
        record = json.loads(text)
        if not _is_of(source, record, folder / RECORD):
            return None
        columns: dict[str, Any] = {field.name: _column(folder, field, record["num_patches"]) for field in PATCH_SCHEMA}
        if (folder / RECORD).read_text(encoding="utf-8") != text:  # made anew meanwhile
            return None
        return Patches(**columns, known=Known(record["names"], record["fingerprint"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_of(source: Path, record: dict[str, object], path: Path) -> bool:
    """Return whether a record is of this Parquet file: of its size, and not older than it or of the same bytes."""
    stat = source.stat()
    if stat.st_size != record["nbytes"]:
        return False
    # the time of the last change of the inode: no copy and no backup brings an older one along
    if stat.st_ctime_ns <= path.stat().st_ctime_ns:
        return True
    if _sha256(source) != record["sha256"]:
        return False
    with suppress(OSError):
        os.utime(path)  # not computed again
    return True


def _column(folder: Path, field: pa.Field, num_patches: int) -> np.ndarray:
    column = np.load(folder / f"{field.name}.npy", mmap_mode="r", allow_pickle=False)
    if column.dtype != field.type.to_pandas_dtype() or column.shape != (num_patches,):
        raise ValueError(f"{field.name} is of another type or length")
    return np.asarray(column)


def _write_table(source: Path, folder: Path, names: Names) -> None:
    for leftover in (folder / RECORD, *folder.glob(".*.tmp")):
        leftover.unlink(missing_ok=True)
    nbytes, sha256 = source.stat().st_size, _sha256(source)
    num_patches = _write_columns(source, folder)
    pa.default_memory_pool().release_unused()  # 0.8 GB after 10^8 patches, which this process would keep
    columns: dict[str, Any] = {field.name: _column(folder, field, num_patches) for field in PATCH_SCHEMA}
    record = {
        "nbytes": nbytes,
        "sha256": sha256,
        "num_patches": num_patches,
        "names": names.key,
        "fingerprint": Patches(**columns).fingerprint(names),
    }
    write_json(folder / RECORD, record)


def _write_columns(source: Path, folder: Path) -> int:
    """Write a .npy file for each column, some rows at a time; return how many rows there are."""
    with ExitStack() as open_things:
        table = _parquet(source)
        files = {}
        for field in PATCH_SCHEMA:
            temporary = open_things.enter_context(whole_file(folder / f"{field.name}.npy"))
            file = files[field.name] = open_things.enter_context(open(temporary, "wb"))
            dtype = np.dtype(field.type.to_pandas_dtype())
            header = {"descr": dtype.str, "fortran_order": False, "shape": (table.metadata.num_rows,)}
            np.lib.format.write_array_header_1_0(file, header)
            ask_for_space(file, table.metadata.num_rows * dtype.itemsize)
        for rows in _row_blocks(table, source):
            for name, file in files.items():
                file.write(np.ascontiguousarray(rows[name].to_numpy()).data)
        return int(table.metadata.num_rows)


def _row_blocks(table: pq.ParquetFile, source: Path) -> Iterator[pa.Table]:
    try:
        for first in range(0, table.num_row_groups, GROUPS_AT_ONCE):
            groups = range(first, min(first + GROUPS_AT_ONCE, table.num_row_groups))
            for batch in table.iter_batches(ROWS_AT_ONCE, row_groups=groups, columns=PATCH_SCHEMA.names):
                yield pa.Table.from_batches([batch]).select(PATCH_SCHEMA.names).cast(PATCH_SCHEMA)
    except (pa.ArrowException, KeyError) as error:
        raise unreadable(source, error) from error


def _parquet(source: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(source)
    except (OSError, pa.ArrowException) as error:
        raise unreadable(source, error) from error


def _in_memory(source: Path, told: str) -> Patches:
    try:
        table = pq.read_table(source, schema=PATCH_SCHEMA)
    except (OSError, pa.ArrowException) as error:
        raise unreadable(source, error) from error
    return Patches(**{name: table[name].to_numpy() for name in PATCH_SCHEMA.names}, told=told)


def unreadable(path: Path, error: Exception) -> InputError:
    """Return the complaint about what is no Parquet table, such as a pickle under that name."""
    first = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
    return InputError(f"{path}: not readable as a Parquet table ({first}). Tile the slides again")


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
