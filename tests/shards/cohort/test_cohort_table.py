"""Tables are whole or absent, and read back as written."""

import csv
from collections.abc import Iterator
from pathlib import Path

import pytest

from shards.cohort.cohort_table import write_csv


def test_cells_come_back_as_written(tmp_path: Path) -> None:
    path = write_csv(
        tmp_path / "new" / "slides.csv", ("slide_id", "path", "label"), [('a,"b"', "ä ö.svs", 1), ("c", "d", None)]
    )
    assert path.read_bytes().count(b"\r") == 0
    with open(path, newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [["slide_id", "path", "label"], ['a,"b"', "ä ö.svs", "1"], ["c", "d", ""]]


def test_an_error_on_the_way_leaves_the_old_table(tmp_path: Path) -> None:
    def rows() -> Iterator[tuple[str]]:
        yield ("new",)
        raise RuntimeError

    write_csv(tmp_path / "t.csv", ("a",), [("old",)])
    with pytest.raises(RuntimeError):
        write_csv(tmp_path / "t.csv", ("a",), rows())
    assert (tmp_path / "t.csv").read_text() == "a\nold\n"
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]
