"""The user's table of slides: read, checked, and turned into `Slide` values.

    slides.csv   slide_id,path,label[,label_...][,patient_id][,split][,split_...][,mpp][,annotation]

A label is 1, 0 or empty (unknown), a split is train, validation, test or empty, an annotation is a file of outlines
(see `shards.cohort.annotations`). A table of several questions may have label_EGFR, label_TP53 ... and no column label.
Every complaint names the file, the row as a spreadsheet counts it (the header is row 1), the column, the value and the
remedy.
"""

import csv
import difflib
import hashlib
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from shards.errors import InputError

SPLITS = ("train", "validation", "test")
LABELS = {"": None, "0": 0, "1": 1, "0.0": 0, "1.0": 1}  # pandas writes 1.0 where the column has an empty cell
OPTIONAL_COLUMNS = ("patient_id", "split", "mpp", "annotation")
MAX_LISTED = 10  # complaints shown at once
# A ustar header holds 100 characters of a member's name: 64 + a hash of 13 + "_<x>_<y>.jpg" fit.
MAX_KEY_STEM = 64


@dataclass(frozen=True)
class Slide:
    """A row of slides.csv.

    Attributes:
        slide_id: its name, unique in the table.
        path: the image file, absolute; it may be missing, then tiling says so.
        patient_id: whose slide it is; the slide's own name if the table doesn't say.
        labels: by label column: 1, 0 or None (unknown).
        splits: by split column: train, validation, test or "".
        mpp: microns per pixel at level 0 as the table gives it, or None: ask the file.
        annotation: file of outlines, absolute, or None.
    """

    slide_id: str
    path: Path
    patient_id: str
    labels: dict[str, int | None]
    splits: dict[str, str]
    mpp: float | None
    annotation: Path | None = None

    @property
    def key(self) -> str:
        return slide_key(self.slide_id)


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
        try:
            value = float(self.cells[column])
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise self.error(column, "a coordinate is a number of level-0 pixels. Correct the cell")
        return value


def slide_key(slide_id: str) -> str:
    """Return a name for files and WebDataset keys: letters, digits, "-" and "_" only, different for different slides.

    A dot would end the key in WebDataset and merge samples, and TCGA names are full of them. A name that had to be
    changed gets a hash of the original, and so does one that already looks like that: no two names can meet.
    """
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", slide_id)[:MAX_KEY_STEM]
    if stem == slide_id and not re.search(r"-[0-9a-f]{12}$", stem):
        return stem
    return f"{stem}-{hashlib.sha256(slide_id.encode()).hexdigest()[:12]}"


def read_rows(path: Path, required: Iterable[str], delimiter: str = ",") -> list[Row]:
    """Read a CSV file with a header.

    Any line ends, with or without a byte-order mark; cells are stripped, blank rows left out.

    Args:
        path: the file.
        required: columns that must be there.
        delimiter: between cells.

    Raises:
        InputError: no such file, no UTF-8 text, a required or a doubled column, a row of another length, no rows.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter)
            lines = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
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
    header = _checked_header(path, lines[0][1], required)
    if len(lines) == 1:
        raise InputError(f"{path}: there is a header but no row below it. Add a row per item")
    return [_row(path, number, header, cells) for number, cells in lines[1:]]


def read_slides(slides_csv: Path, allow_unlabelled: bool = False) -> list[Slide]:
    """Read and check slides.csv.

    Args:
        slides_csv: the table; relative paths in it are relative to its folder.
        allow_unlabelled: accept a table without labels, or with labels of one kind: for prediction.

    Returns:
        The slides, in the table's order, all with the same label and split columns.

    Raises:
        InputError: a missing column, a value that is not allowed, a slide listed twice, a patient in two splits, or
            a first label column without a positive or without a negative slide.
    """
    rows = read_rows(slides_csv, required=("slide_id", "path"))
    if not allow_unlabelled and not any(column.startswith("label") for column in rows[0].cells):
        raise InputError(
            f"{slides_csv}, row 1: there is no column 'label' (or label_...); the columns are: "
            f"{', '.join(rows[0].cells)}. Add one, or set tile.allow_unlabelled=true to tile slides for prediction"
        )
    _refuse_misspelt_columns(slides_csv, rows[0].cells)
    _refuse_duplicates(rows)
    slides, problems = [], []
    for row in rows:
        try:
            slides.append(_slide(row))
        except InputError as error:
            problems.append(str(error))
    if problems:
        more = [f"... and {len(problems) - MAX_LISTED} more rows"] if len(problems) > MAX_LISTED else []
        raise InputError("\n".join(problems[:MAX_LISTED] + more))
    for column in slides[0].splits:
        _refuse_patient_in_two_splits(rows, slides, column)
    if not allow_unlabelled:
        _require_both_labels(slides_csv, slides)
    return slides


def _checked_header(path: Path, header: list[str], required: Iterable[str]) -> list[str]:
    while header and not header[-1]:  # a spreadsheet's trailing commas
        header = header[:-1]
    for column in required:
        if column not in header:
            raise InputError(
                f"{path}, row 1: there is no column {column!r}; the columns are: {', '.join(header)}. "
                f"Add it or rename one (columns are separated by commas)"
            )
    doubled = sorted({column for column in header if header.count(column) > 1})
    if doubled:
        raise InputError(f"{path}, row 1: the column {doubled[0]!r} is there twice. Rename or remove one of them")
    return header


def _row(path: Path, number: int, header: list[str], cells: list[str]) -> Row:
    if len(cells) < len(header) or any(cells[len(header) :]):
        raise InputError(
            f"{path}, row {number}: {len(cells)} cells, but the header has {len(header)}. "
            f"Put a value that contains a comma in double quotes, and leave no cell out"
        )
    return Row(path, number, dict(zip(header, cells, strict=False)))


def _refuse_misspelt_columns(path: Path, columns: Iterable[str]) -> None:
    # A "patientid" column that is silently ignored would put a patient's slides into two splits.
    for column in columns:
        if column in ("slide_id", "path", *OPTIONAL_COLUMNS) or column.startswith(("label", "split")):
            continue
        close = difflib.get_close_matches(column.lower(), OPTIONAL_COLUMNS, n=1, cutoff=0.8)
        if close:
            raise InputError(
                f"{path}, row 1: unknown column {column!r}; did you mean {close[0]!r}? Rename or remove it"
            )


def _refuse_duplicates(rows: list[Row]) -> None:
    first_of: dict[str, Row] = {}
    for row in rows:
        slide_id = row.cells["slide_id"]
        # Two names that differ in case only would be one file on macOS and Windows.
        first = first_of.setdefault(slide_id.casefold(), row)
        if first is row or not slide_id:
            continue
        for column in (name for name in row.cells if name.startswith("split")):
            if first.cells[column] != row.cells[column]:
                raise row.error(
                    "slide_id",
                    f"this slide is in two splits: {column} is {first.cells[column]!r} in row {first.number} and "
                    f"{row.cells[column]!r} here. Keep one row",
                )
        raise row.error(
            "slide_id", f"already in row {first.number} (case is ignored). Keep one row or rename the slide"
        )


def _slide(row: Row) -> Slide:
    slide_id = row.cells["slide_id"]
    if not slide_id:
        raise row.error("slide_id", "a slide needs a name. Fill the cell in")
    return Slide(
        slide_id=slide_id,
        path=_path(row, "path"),
        patient_id=row.cells.get("patient_id") or slide_id,
        labels={column: _label(row, column) for column in row.cells if column.startswith("label")},
        splits={column: _split(row, column) for column in row.cells if column.startswith("split")},
        mpp=_mpp(row),
        annotation=_path(row, "annotation") if row.cells.get("annotation") else None,
    )


def _path(row: Row, column: str) -> Path:
    if not row.cells[column]:
        raise row.error(column, "a slide needs an image. Fill the cell in")
    return (row.file.parent / row.cells[column]).absolute()  # an absolute path in the cell wins


def _label(row: Row, column: str) -> int | None:
    if row.cells[column] not in LABELS:
        raise row.error(column, "a label is 0 or 1, or empty for unknown. Correct the cell")
    return LABELS[row.cells[column]]


def _split(row: Row, column: str) -> str:
    if row.cells[column] not in ("", *SPLITS):
        raise row.error(column, f"a split is one of {', '.join(SPLITS)}, or empty for none. Correct the cell")
    return row.cells[column]


def _mpp(row: Row) -> float | None:
    if not row.cells.get("mpp"):
        return None
    try:
        mpp = float(row.cells["mpp"])
    except ValueError:
        mpp = math.nan
    if not 0 < mpp < math.inf:
        raise row.error(
            "mpp", "microns per pixel is a number above 0, such as 0.25; empty takes it from the image file"
        )
    return mpp


def _refuse_patient_in_two_splits(rows: list[Row], slides: list[Slide], column: str) -> None:
    first_of: dict[str, tuple[Row, str]] = {}
    for row, slide in zip(rows, slides, strict=True):
        split = slide.splits[column]
        if not split:
            continue
        first, first_split = first_of.setdefault(slide.patient_id, (row, split))
        if first_split != split:
            raise row.error(
                column,
                f"patient {slide.patient_id!r} is in two splits: {first_split!r} in row {first.number}, {split!r} "
                f"here. Put all slides of a patient into one split, or the test is not honest",
            )


def _require_both_labels(path: Path, slides: list[Slide]) -> None:
    """Look at the first label column; a rare gene's own column may lack positives, and training on it will say so."""
    column = next(iter(slides[0].labels))
    known = {slide.labels[column] for slide in slides}
    for value, word in ((1, "positive"), (0, "negative")):
        if value not in known:
            raise InputError(
                f"{path}, column {column}: no {word} slide (label {value}). Training needs both: add some, or set "
                f"tile.allow_unlabelled=true to tile slides for prediction"
            )
