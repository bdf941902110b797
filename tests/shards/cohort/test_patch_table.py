"""The columns beside patches.parquet: mapped, made anew where they are missing or of another file, done without where not."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from shards.cohort import patch_table
from shards.cohort.cohort import PATCH_SCHEMA, Cohort


@pytest.fixture
def cohort(tiny_cohort: Path, tmp_path: Path) -> Path:
    """A copy of the tiny cohort's tables."""
    return Path(shutil.copytree(tiny_cohort, tmp_path / "cohort", ignore=shutil.ignore_patterns("shards", "units", "locks")))


def assert_opens(root: Path, fingerprint: str, is_mapped: bool = True) -> None:
    opened, table = Cohort.open(root), pq.read_table(root / "patches.parquet")
    for field in PATCH_SCHEMA:
        column = getattr(opened.patches, field.name)
        np.testing.assert_array_equal(column, table[field.name].to_numpy())
        assert column.dtype == field.type.to_pandas_dtype()
        assert isinstance(column.base, np.memmap) is is_mapped
    assert opened.fingerprint == fingerprint
    assert (opened.patches.known is not None) is is_mapped
    assert replace(opened, patches=opened.patches.take(np.arange(len(table)))).fingerprint == fingerprint  # computed


def test_the_merge_writes_it_and_an_old_cohort_gets_it_when_it_is_opened(cohort: Path, tiny_cohort: Path) -> None:
    fingerprint = Cohort.open(tiny_cohort).fingerprint
    by_merge = {path.name: path.read_bytes() for path in (cohort / "table").iterdir()}
    assert sorted(by_merge) == sorted([*(f"{name}.npy" for name in PATCH_SCHEMA.names), "table.json"])
    shutil.rmtree(cohort / "table")
    (cohort / "table").mkdir()
    (cohort / "table" / ".slide.npy.host.1.tmp").write_bytes(b"of a process that was killed")
    assert_opens(cohort, fingerprint)
    assert {path.name: path.read_bytes() for path in (cohort / "table").iterdir()} == by_merge


@pytest.mark.parametrize("damage", ["record", "cut", "type", "missing"])
def test_damaged_columns_are_made_anew(cohort: Path, damage: str) -> None:
    fingerprint, folder = Cohort.open(cohort).fingerprint, cohort / "table"
    if damage == "record":
        (folder / "table.json").write_text("{")
    elif damage == "cut":
        os.truncate(folder / "offset.npy", 200)
    elif damage == "type":
        np.save(folder / "truth.npy", np.load(folder / "truth.npy").astype(np.int32))
    else:
        (folder / "shard.npy").unlink()
    assert_opens(cohort, fingerprint)


def test_columns_of_another_parquet_file_of_the_same_size_are_made_anew(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, source = Cohort.open(cohort), cohort / "patches.parquet"
    table = pq.read_table(source)
    x = table["x_level0"].to_numpy().copy()
    x[[0, 1]] = x[[1, 0]]
    for name, options in (("a", {}), ("b", {"x_level0": x})):
        columns = {column: options.get(column, table[column].to_numpy()) for column in PATCH_SCHEMA.names}
        plain = {"compression": "none", "use_dictionary": False, "write_statistics": False}
        pq.write_table(patch_table.pa.table(columns, schema=PATCH_SCHEMA), tmp_path / name, **plain)
    assert (tmp_path / "a").stat().st_size == (tmp_path / "b").stat().st_size
    shutil.copy(tmp_path / "a", source)
    assert_opens(cohort, before.fingerprint)
    shutil.copy(tmp_path / "b", source)
    os.utime(source, (0, 0))  # as a backup may be
    assert Cohort.open(cohort).patches.x_level0[:2].tolist() == x[:2].tolist()
    assert Cohort.open(cohort).fingerprint != before.fingerprint
    written = json.loads((cohort / "table" / "table.json").read_text())
    source.rename(tmp_path / "moved")  # a copy of the same bytes, whatever its time, changes nothing
    shutil.copy(tmp_path / "moved", source)
    monkeypatch.setattr(patch_table, "make_table", None)
    assert Cohort.open(cohort).fingerprint == written["fingerprint"]


def test_a_link_to_the_file_shares_its_columns(cohort: Path, tmp_path: Path) -> None:
    view = tmp_path / "view"
    view.mkdir()
    for name in ("slides.parquet", "cohort.json"):
        shutil.copy(cohort / name, view)
    (view / "patches.parquet").symlink_to(cohort / "patches.parquet")
    assert_opens(view, Cohort.open(cohort).fingerprint)
    assert not (view / "table").exists()


def test_where_columns_cannot_be_written_the_cohort_opens_and_tells(cohort: Path) -> None:
    fingerprint = Cohort.open(cohort).fingerprint
    shutil.rmtree(cohort / "table")
    (cohort / "table").write_text("in the way")  # for root, whom no permission stops
    assert "table: the columns of patches.parquet cannot be kept there" in Cohort.open(cohort).patches.told
    assert_opens(cohort, fingerprint, is_mapped=False)


def test_a_flipped_bit_is_found_by_the_check_of_a_cohort(cohort: Path) -> None:
    assert patch_table.damaged_columns(cohort) == []
    path = cohort / "table" / "truth.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert patch_table.damaged_columns(cohort) == [path]
