"""What people say of single patches after they have looked at a model's mistakes: known negatives and known positives.

    hnm cohort correct ──▶ cohort/corrections.parquet   patch (int64), label (int8: 1 positive, 0 negative), file (text)

The file stands beside the tables and is in no fingerprint: it changes neither patches nor truth, and no figure is made of it.
Mining honours it (hnm/mining/known.py), and each round's mining.json tells which corrections it knew.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shards.errors import InputError
from shards.files import whole_file

CORRECTIONS = "corrections.parquet"
SCHEMA = pa.schema([("patch", pa.int64()), ("label", pa.int8()), ("file", pa.string())])
METADATA_KEY = b"hnm.corrections"


@dataclass(frozen=True)
class Corrections:
    """Patches that a person has judged.

    Attributes:
        ids: (k,) int64 increasing patch ids.
        labels: (k,) int8: 1 known positive, 0 known negative.
        files: (k,) names of the files that said so.
    """

    ids: np.ndarray
    labels: np.ndarray
    files: np.ndarray

    @classmethod
    def none(cls) -> "Corrections":
        """Return those of a cohort that nobody has corrected."""
        return cls(np.empty(0, np.int64), np.empty(0, np.int8), np.empty(0, object))

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def digest(self) -> str:
        """A hash of patches and labels."""
        return hashlib.sha256(self.ids.tobytes() + self.labels.tobytes()).hexdigest()[:16]

    def where(self, chosen: np.ndarray) -> "Corrections":
        """Return those of an index or boolean array."""
        return Corrections(self.ids[chosen], self.labels[chosen], self.files[chosen])

    def restricted(self, keep: np.ndarray) -> "Corrections":
        """Return those of the patches where `keep` (N,) bool is true, whose ids are counted anew."""
        kept = self.where(keep[self.ids])
        return Corrections(np.cumsum(keep)[kept.ids] - 1, kept.labels, kept.files)

    def replaced(self, new: "Corrections", first: int, stop: int, file: str) -> "Corrections":
        """Return these with what `file` says of the patches [first, stop) now, in place of what was said of them before."""
        own = (self.ids >= first) & (self.ids < stop) & (self.files == file)
        kept = self.where(~own & ~np.isin(self.ids, new.ids))
        ids = np.concatenate([kept.ids, new.ids])
        order = np.argsort(ids, kind="stable")
        labels, files = np.concatenate([kept.labels, new.labels]), np.concatenate([kept.files, new.files])
        return Corrections(ids[order], labels[order], files[order])


def read_corrections(cohort: Path, fingerprint: str) -> Corrections:
    """Return the corrections of the cohort in a folder, none if nobody has made any.

    Raises:
        InputError: the file is damaged, or of another tiling: the cohort's fingerprint has changed since.
    """
    path = cohort / CORRECTIONS
    if not path.is_file():
        return Corrections.none()
    try:
        table = pq.read_table(path, schema=SCHEMA)
        then = json.loads(pq.read_schema(path).metadata[METADATA_KEY])["fingerprint"]
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{path}: not readable ({reason}). Remove it, and run the same hnm cohort correct again") from None
    if then != fingerprint:
        raise InputError(
            f"{path}: made when the cohort's fingerprint was {then}; now it is {fingerprint}: the patches are others. Remove the "
            "file, and run the same hnm cohort correct again"
        )
    return Corrections(table["patch"].to_numpy(), table["label"].to_numpy(), table["file"].to_numpy())


def write_corrections(cohort: Path, corrections: Corrections, fingerprint: str) -> None:
    """Write the corrections, whole or not at all; without any, the file is removed."""
    path = cohort / CORRECTIONS
    if not len(corrections):
        path.unlink(missing_ok=True)
        return
    columns = {"patch": corrections.ids, "label": corrections.labels, "file": corrections.files.tolist()}
    about = {METADATA_KEY: json.dumps({"fingerprint": fingerprint}).encode()}
    with whole_file(path) as temporary:
        pq.write_table(pa.table(columns, schema=SCHEMA).replace_schema_metadata(about), temporary)
