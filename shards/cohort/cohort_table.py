"""Tables as CSV files, written and read: slides.csv, points.csv, manifests.

Every complaint names the file, the row as a spreadsheet counts it (the header is row 1), the column, the value and the
remedy.
"""

import csv
import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from shards.errors import InputError
from shards.files import whole_file

INVISIBLE = "\ufeff\u200b\u200c\u200d\u2060"  # a byte-order mark in the middle of joined files, zero-width spaces


@dataclass(frozen=True)
class Row:
    """One row of a CSV file: the cells by column, and where it stands."""

    file: Path
    number: int
    cells: dict[str, str]

    def error(self, column: str, problem: str) -> InputError:
        """Return the complaint about one cell; `problem` says what is wrong and what to do."""
        return InputError(f"{self.file}, row {self.number}, column {column}: {self.cells.get(column, '')!r}: {problem}")

    def coordinate(self, column: str) -> float:
        """Return a cell as level-0 pixels.

        Raises:
            InputError: it is no finite number.
        """
        value = number_in(self.cells[column])
        if not math.isfinite(value):
            raise self.error(column, "a coordinate is a number of level-0 pixels. Correct the cell")
        return value


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> Path:
    """Write a table, whole or not at all; None is an empty cell. Return its path."""
    with whole_file(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
    return path


def read_rows(
    path: Path, required: Iterable[str], delimiter: str = ",", optional: Iterable[str] = (), prefixes: Iterable[str] = ()
) -> list[Row]:
    """Read a CSV file with a header.

    Any line ends, with or without a byte-order mark; cells are stripped and of composed Unicode (NFC), blank rows left
    out. A header's name that differs from a known one by case, spaces or hyphens only ("Slide ID") is that one.

    Args:
        path: the file.
        required: columns that must be there.
        delimiter: between cells.
        optional: other columns whose names are known.
        prefixes: beginnings of names that are known; what follows one stays as it is written.

    Raises:
        InputError: no such file, no UTF-8 text, a required or a doubled column, a row of another length, no rows.
    """
    required = list(required)
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter)
            lines = [(reader.line_num, [_clean(cell) for cell in cells]) for cells in reader]
    except FileNotFoundError:
        raise InputError(
            f"{path}: no such file. Give the path of a CSV file with the columns {', '.join(required)}"
        ) from None
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise InputError(
            f"{path}: cannot be read as a table ({error}). Save it as CSV, UTF-8, comma-separated"
        ) from None
    lines = [(number, cells) for number, cells in lines if any(cells)]
    if not lines:
        raise InputError(
            f"{path}: the file is empty. It needs a header row with {', '.join(required)} and a row per item"
        )
    header = _checked_header(path, lines[0][1], required, optional, prefixes)
    if len(lines) == 1:
        raise InputError(f"{path}: there is a header but no row below it. Add a row per item")
    return [_row(path, number, header, cells) for number, cells in lines[1:]]


def number_in(text: str) -> float:
    """Return a number as people write it, NaN for what is none (Python's own 1_000 is none either)."""
    try:
        return math.nan if "_" in text else float(text)
    except ValueError:
        return math.nan


def _clean(cell: str) -> str:
    # U+00E9 and e + U+0301 are one letter; macOS writes file names in the second form, editors the first.
    return unicodedata.normalize("NFC", cell.strip().strip(INVISIBLE).strip())


def _checked_header(
    path: Path, written: list[str], required: Sequence[str], optional: Iterable[str], prefixes: Iterable[str]
) -> list[str]:
    while written and not written[-1]:  # a spreadsheet's trailing commas
        written = written[:-1]
    header = [_known_name(name, [*required, *optional], prefixes) for name in written]
    for column in required:
        if column not in header:
            raise InputError(
                f"{path}, row 1: there is no column {column!r}; the columns are: {', '.join(header)}. "
                f"Add it or rename one (columns are separated by commas)"
            )
    doubled = sorted({column for column in header if header.count(column) > 1})
    if doubled:
        ways = sorted({name for name, known in zip(written, header, strict=True) if known == doubled[0]})
        remark = f" (as {' and '.join(map(repr, ways))}: case, spaces and hyphens do not count)" if len(ways) > 1 else ""
        raise InputError(f"{path}, row 1: the column {doubled[0]!r} is there twice{remark}. Rename or remove one of them")
    return header


def _known_name(written: str, known: Iterable[str], prefixes: Iterable[str]) -> str:
    """Return the known name that is meant; any other stays as it is written."""
    plain = re.sub(r"[\s-]+", "_", written.casefold())
    if plain in known:
        return plain
    for prefix in prefixes:  # label_EGFR: the gene's case is the user's
        if written[: len(prefix)].casefold() == prefix:
            return prefix + written[len(prefix) :]
    return written


def _row(path: Path, number: int, header: list[str], cells: list[str]) -> Row:
    if len(cells) < len(header) or any(cells[len(header) :]):
        raise InputError(
            f"{path}, row {number}: {len(cells)} cells, but the header has {len(header)}. "
            f"Put a value that contains a comma in double quotes, and leave no cell out"
        )
    return Row(path, number, dict(zip(header, cells, strict=False)))
