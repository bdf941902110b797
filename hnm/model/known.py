"""The slides that a model has learned from, or was chosen by, as hashes: a model names none, and knows each again.

    run/slides.parquet, the slides' files ──▶ seen.parquet beside the weights ──▶ `hnm predict`: is this slide a test?

    seen.parquet   split (train or validation), slide, patient, content: 16 hex digits each of the SHA-256 of the salt in the
                   file's metadata and the name, patient or content (shards.cohort.content); "" where the file was gone

A slide is known by any of the three: by its name, as another slide of the same patient, or as a copy of its file.
"""

import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hnm.report.record import RunRecord
from hnm.run.seen import read_seen, seen_of
from hnm.run.tracking_run import MODEL_FOLDER
from shards.cohort.content import contents_of
from shards.cohort.slides import Slide
from shards.errors import InputError
from shards.files import whole_file

SEEN_FILE = "seen.parquet"
SALT_KEY = b"hnm.salt"
KINDS = {"content": "it", "slide": "a slide of that name", "patient": "another slide of its patient"}  # the surest first
PARTS = {"train": "was trained on", "validation": "was chosen by"}


@dataclass(frozen=True)
class KnownSlides:
    """Which slides a model knows.

    Attributes:
        table: as the module says.
        splits: by kind and hash, train or validation.
    """

    table: pa.Table
    splits: dict[str, dict[str, str]]

    def told(self, slide: Slide, content: str) -> str:
        """Return why a slide is no test of the model, in words, "" if it may be; `content` is that of its file."""
        salt = self.table.schema.metadata[SALT_KEY].decode()
        values = {"content": content, "slide": slide.slide_id, "patient": slide.patient_id}
        for kind, what in KINDS.items():
            split = self.splits[kind].get(_hash(salt, kind, values[kind]))
            if split is not None:
                return f"the model {PARTS[split]} {what}"
        return ""

    @property
    def counts(self) -> dict[str, int]:
        """How many slides, and of how many the content is known."""
        return {"slides": self.table.num_rows, "by_content": sum(map(bool, self.table["content"].to_pylist()))}


def known_slides(record: RunRecord) -> KnownSlides:
    """Return the slides that the model of a run knows; their files are looked into, where they still are."""
    cohort = record.study.cohort
    seen = read_seen(record.home) or seen_of(cohort, record.config.data)
    part = [
        number
        for number, (split, label) in enumerate(zip(seen["split"].to_pylist(), seen["label"].to_pylist(), strict=True))
        if split in PARTS and label >= 0
    ]
    seen, paths = seen.take(part), cohort.slides["path"].take(part).to_pylist()
    salt = str(record.state["fingerprint"])
    columns = {
        "split": seen["split"].to_pylist(),
        "slide": _hashes(salt, "slide", seen["slide_id"].to_pylist()),
        "patient": _hashes(salt, "patient", seen["patient_id"].to_pylist()),
        "content": _hashes(salt, "content", contents_of([Path(path) for path in paths])),
    }
    table = pa.table(columns).sort_by([("split", "ascending"), ("slide", "ascending")])  # not in the cohort's order
    return _indexed(table.replace_schema_metadata({SALT_KEY: salt.encode()}))


def known_of_run(record: RunRecord) -> KnownSlides:
    """Return what `hnm evaluate` has written beside the run's model, else what `known_slides` finds."""
    written = record.run / MODEL_FOLDER / SEEN_FILE
    return read_known(written) if written.is_file() else known_slides(record)


def write_known(path: Path, known: KnownSlides) -> None:
    """Write seen.parquet."""
    with whole_file(path) as temporary:
        pq.write_table(known.table, temporary)


def read_known(path: Path) -> KnownSlides:
    """Read seen.parquet.

    Raises:
        InputError: it is not there, damaged, or something else.
    """
    try:
        known = _indexed(pq.read_table(path))
        known.table.schema.metadata[SALT_KEY]
    except (OSError, pa.ArrowException, KeyError, TypeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{path}: not the slides that a model has seen ({reason}). Copy the whole folder again") from None
    return known


def _indexed(table: pa.Table) -> KnownSlides:
    splits: dict[str, dict[str, str]] = {kind: {} for kind in KINDS}
    rows: list[dict[str, Any]] = table.to_pylist()
    for row in rows:
        for kind in KINDS:
            if row[kind]:
                splits[kind].setdefault(row[kind], row["split"])
    return KnownSlides(table, splits)


def _hashes(salt: str, kind: str, values: Sequence[str]) -> list[str]:
    return [_hash(salt, kind, value) for value in values]


def _hash(salt: str, kind: str, value: str) -> str:
    """Return the hash of a name, "" of none; upper and lower case are one, and so are the forms of an accent."""
    name = unicodedata.normalize("NFC", value).casefold()
    return hashlib.sha256(f"{salt} {kind} {name}".encode()).hexdigest()[:16] if value else ""
