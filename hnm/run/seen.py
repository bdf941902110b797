"""What a run has seen of its cohort: label, patient and split of every slide. With others the same patches are another study.

    run/slides.parquet   slide_id, patient_id, label (int8, -1: none), split ("": none), by the columns that the run names

The cohort's fingerprint holds its patches and slide names only: a table that was tiled again with other labels or another draw
of the splits has the same.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from hnm.run.study import DataConfig, labels_of
from shards.cohort.cohort import Cohort
from shards.files import whole_file

SEEN_FILE = "slides.parquet"
MAX_NAMED = 3  # slides that a line names
COLUMNS = ("patient_id", "label", "split", "site")
OF_TARGET = "label of "  # begins the columns of several targets; `label` is then their joined label


def seen_of(cohort: Cohort, data: DataConfig) -> pa.Table:
    """Return what a run that begins now sees: a row per slide, see the module.

    Raises:
        InputError: the cohort lacks a column that `data` names.
    """
    labels, targets = labels_of(cohort, data)
    columns = {
        "slide_id": cohort.slides["slide_id"].cast(pa.string()),
        "patient_id": cohort.slides["patient_id"].cast(pa.string()),
        "label": pa.array(labels, pa.int8()),
        "split": pa.array(cohort.splits(data.split_column), pa.string()),
    }
    if targets is not None:
        columns |= {
            f"{OF_TARGET}{name}": pa.array(its, pa.int8()) for name, its in zip(targets.names, targets.labels, strict=True)
        }
    return pa.table(columns)


def write_seen(run: Path, seen: pa.Table) -> None:
    """Put it on record with the run. Call it on rank 0 only."""
    with whole_file(run / SEEN_FILE) as temporary:
        pq.write_table(seen, temporary)


def read_seen(run: Path) -> pa.Table | None:
    """Return what is on record, None of a run that was begun before it was kept (2026-11-28)."""
    return pq.read_table(run / SEEN_FILE) if (run / SEEN_FILE).is_file() else None


def changes(then: pa.Table, now: pa.Table) -> list[str]:
    """Return a line for each column that is not as it was: how many slides, and some of them.

    Args:
        then, now: of the same slides in the same order, as by `seen_of`; what `now` lacks is not compared.
    """
    names = now["slide_id"].to_numpy(zero_copy_only=False)
    lines = []
    for column in (name for name in now.column_names if name in then.column_names and name.startswith((*COLUMNS, OF_TARGET))):
        before, after = (table[column].to_numpy(zero_copy_only=False) for table in (then, now))
        other = np.flatnonzero(before != after)
        if len(other):
            some = "; ".join(f"{names[i]}: {_told(before[i])} -> {_told(after[i])}" for i in other[:MAX_NAMED])
            more = " ..." if len(other) > MAX_NAMED else ""
            lines.append(f"{column} of {len(other):,} of {len(names):,} slides ({some}{more})")
    return lines


def leaked(then: pa.Table, now: pa.Table) -> list[str]:
    """Return the slides that are to be tested now, though they, or others of their patient, trained or chose the model then."""
    names, patients, labels, splits = (
        now[column].to_numpy(zero_copy_only=False) for column in ("slide_id", "patient_id", "label", "split")
    )
    had_a_part = np.isin(then["split"].to_numpy(zero_copy_only=False), ["train", "validation"])
    had_a_part &= then["label"].to_numpy(zero_copy_only=False) >= 0
    known = {*then["patient_id"].to_numpy(zero_copy_only=False)[had_a_part], *patients[had_a_part]}
    is_tested = (splits == "test") & (labels >= 0)
    is_known = had_a_part | np.array([patient in known for patient in patients], bool)
    return [str(name) for name in names[is_tested & is_known]]


def shown_to_encoder(then: pa.Table, now: pa.Table) -> list[str]:
    """Return the slides that are to be tested now, though they, or others of their patient, pretrained the encoder then.

    Args:
        then: what the pretraining has seen; its slides need not be those of `now`.
    """
    showed = then.filter(pa.compute.equal(then["split"], "train"))
    slides, patients = (set(showed[column].to_pylist()) for column in ("slide_id", "patient_id"))
    tested = now.filter(pa.compute.equal(now["split"], "test")).select(["slide_id", "patient_id"]).to_pylist()
    return [row["slide_id"] for row in tested if row["slide_id"] in slides or row["patient_id"] in patients]


def _told(value: object) -> str:
    return "none" if value in ("", -1) else str(value)
