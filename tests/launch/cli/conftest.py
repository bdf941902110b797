"""What tests of the command line share: a table of slides to make mistakes in."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

Row = dict[str, str]


@pytest.fixture
def slides(tiny_slides: Path, tmp_path: Path) -> Callable[..., Path]:
    """A function (change of the rows) -> slides.csv with absolute image paths."""

    def write(change: Callable[[list[Row]], None]) -> Path:
        with open(tiny_slides, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            row["path"] = str(tiny_slides.parent / row["path"])
        shutil.copy(tiny_slides.parent / "points.csv", tmp_path / "points.csv")
        change(rows)
        with open(tmp_path / "slides.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        return tmp_path / "slides.csv"

    return write
