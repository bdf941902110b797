"""Writing tables: slides.csv, points.csv."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from shards.files import whole_file


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> Path:
    """Write a table, whole or not at all; None is an empty cell. Return its path."""
    with whole_file(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
    return path
