"""The user's table of slides: read, checked, and turned into `Slide` values.

    slides.csv   slide_id,path,label[,label_...][,patient_id][,split][,split_...][,site][,mpp][,annotation]

A label is 1, 0 or empty (unknown), or a word (data.positive). A split is train, validation, test or empty, an annotation is
a file of outlines (see `shards.cohort.annotations`), a site is the hospital that the slide is from. A table of several
questions may have label_EGFR, label_TP53 ... and no column label.
"""

import difflib
import hashlib
import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from shards.cohort.cohort_table import Row, number_in, read_rows
from shards.cohort.file_cell import file_of
from shards.cohort.label_words import meaning_of_words, words_told
from shards.cohort.patients import patient_warnings
from shards.errors import InputError

SPLITS = ("train", "validation", "test")
REQUIRED_COLUMNS = ("slide_id", "path")
OPTIONAL_COLUMNS = ("patient_id", "split", "site", "mpp", "annotation")
MISSPELT = ("patient_id", "split", "mpp", "annotation")  # of these a name that is nearly so is refused
MAX_LISTED = 10  # complaints shown at once
# An objective of 1x has 10 um/px. Below and above: a cell in millimetres or metres, in nanometres, an objective's power; or a
# printer's dots in a header: 2400 dpi are 10.6, 1200 dpi 21.2, 72 dpi 353, 1/1 10,000 or 25,400.
PLAUSIBLE_MPP = (0.02, 10.5)
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
        site: the hospital that it is from, "" where the table doesn't say.
        others: by the name of any other column: what stands there; a column of words may be that of the classes.
    """

    slide_id: str
    path: Path
    patient_id: str
    labels: dict[str, int | None]
    splits: dict[str, str]
    mpp: float | None
    annotation: Path | None = None
    site: str = ""
    others: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        return slide_key(self.slide_id)


@dataclass(frozen=True)
class SlideTable:
    """A table of slides that was read: the slides in its order, and what people should know of it, line by line."""

    slides: list[Slide]
    warnings: list[str]


def slide_key(slide_id: str) -> str:
    """Return a name for files and WebDataset keys: letters, digits, "-" and "_" only, different for different slides.

    A dot would end the key in WebDataset and merge samples, and TCGA names are full of them. A name that had to be
    changed gets a hash of the original, and so does one that already looks like that: no two names can meet.
    """
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", slide_id)[:MAX_KEY_STEM]
    if stem == slide_id and not re.search(r"-[0-9a-f]{12}$", stem):
        return stem
    return f"{stem}-{hashlib.sha256(slide_id.encode()).hexdigest()[:12]}"


def read_slides(slides_csv: Path, allow_unlabelled: bool = False, positive: Sequence[str] = ()) -> list[Slide]:
    """Return the slides of slides.csv; see `read_slide_table`. Without labels (for prediction) patients do not matter."""
    return read_slide_table(slides_csv, allow_unlabelled, not allow_unlabelled, positive=positive).slides


def read_slide_table(
    slides_csv: Path,
    allow_unlabelled: bool = False,
    patients_matter: bool = True,
    needs_files: bool = True,
    positive: Sequence[str] = (),
) -> SlideTable:
    """Read and check slides.csv.

    Args:
        slides_csv: the table; relative paths in it are relative to its folder.
        allow_unlabelled: accept a table without labels, or with labels of one kind: for prediction.
        patients_matter: refuse what would take one patient for two (see `shards.cohort.patients`).
        needs_files: the column path must be there; without it, a slide's file is one of its name, which may be missing.
        positive: words that are positive labels (data.positive), see `shards.cohort.label_words`.

    Returns:
        The slides, all with the same label and split columns, and the warnings.

    Raises:
        InputError: a missing column, a value that is not allowed, a slide listed twice, a patient in two splits or behind
            another name, or a first label column without a positive or without a negative slide.
    """
    required = REQUIRED_COLUMNS if needs_files else REQUIRED_COLUMNS[:1]
    rows = read_rows(slides_csv, required, optional=(*OPTIONAL_COLUMNS, "path"), prefixes=("label", "split"))
    for row in rows:
        if not needs_files:
            row.cells["path"] = row.cells.get("path") or row.cells["slide_id"]
    if not allow_unlabelled and not any(column.startswith("label") for column in rows[0].cells):
        raise InputError(
            f"{slides_csv}, row 1: there is no column 'label' (or label_...); the columns are: "
            f"{', '.join(rows[0].cells)}. Add one, or set tile.allow_unlabelled=true to tile slides for prediction, or "
            "with classes as words in another column (then: hnm train with data.label_column=COLUMN)"
        )
    _refuse_misspelt_columns(slides_csv, rows[0].cells)
    _refuse_duplicates(rows)
    slides, problems = [], []
    meanings: dict[str, dict[str, int | None]] = {}
    told: list[str] = []
    for column in (name for name in rows[0].cells if name.startswith("label")):
        cells, where = [row.cells[column] for row in rows], f"{slides_csv}, column {column}"
        meanings[column] = meaning_of_words(cells, positive, where)
        told += words_told(cells, meanings[column], where)
    for row in rows:
        try:
            slides.append(_slide(row, meanings))
        except InputError as error:
            problems.append(str(error))
    if problems:
        more = [f"... and {len(problems) - MAX_LISTED} more rows"] if len(problems) > MAX_LISTED else []
        raise InputError("\n".join(problems[:MAX_LISTED] + more))
    for column in slides[0].splits:
        _refuse_patient_in_two_splits(rows, slides, column)
    if not allow_unlabelled:
        _require_both_labels(slides_csv, slides)
    warnings = patient_warnings(rows, [slide.patient_id for slide in slides]) if patients_matter else []
    return SlideTable(slides, told + warnings + _unused_columns(slides_csv, rows))


def label_column_warnings(slides: Sequence[Slide], column: str) -> list[str]:
    """Return a word on a label column that is asked for and that the table does not have.

    Raises:
        InputError: it is a list of columns.
    """
    known = list(slides[0].labels)
    if column in (*known, *slides[0].others) or not known:
        return []
    if re.search(r"[,;\s]", column):
        raise InputError(
            f"data.label_column={column} names several columns. One is named so, of: {', '.join(known)}; one run learns several "
            "with data.targets=[...]"
        )
    return [f"data.label_column={column} is no column of the table. Training will need one of: {', '.join(known)}"]


def _refuse_misspelt_columns(path: Path, columns: Collection[str]) -> None:
    # A "patientid" column that is silently ignored would put a patient's slides into two splits.
    for column in columns:
        if _is_known(column):
            continue
        close = difflib.get_close_matches(column.lower(), MISSPELT, n=1, cutoff=0.8)
        if close and close[0] not in columns:
            raise InputError(
                f"{path}, row 1: unknown column {column!r}; did you mean {close[0]!r}? Rename or remove it"
            )


def _is_known(column: str) -> bool:
    return column in (*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS) or column.startswith(("label", "split"))


def _unused_columns(path: Path, rows: Sequence[Row]) -> list[str]:
    """Return a word on a column of splits under another name; a split would be drawn across its rows."""
    words = {"train", "training", "val", "valid", "validation", "test", "testing"}
    return [
        f"{path}: the column {column!r} holds splits, but is not looked at. Rename it to split (with {', '.join(SPLITS)})"
        for column in rows[0].cells
        if not _is_known(column)
        and "train" in (values := {row.cells[column].casefold().removesuffix("ing") for row in rows} - {""})
        and values <= words
    ]


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


def _slide(row: Row, meanings: Mapping[str, Mapping[str, int | None]]) -> Slide:
    slide_id = row.cells["slide_id"]
    if not slide_id:
        raise row.error("slide_id", "a slide needs a name. Fill the cell in")
    if any(unicodedata.category(character) == "Cc" for character in slide_id):
        raise row.error("slide_id", "a slide's name cannot hold a line's end or another control character. Rename it")
    return Slide(
        slide_id=slide_id,
        path=_file(row, "path"),
        patient_id=row.cells.get("patient_id") or slide_id,
        labels={column: _label(row, column, meaning) for column, meaning in meanings.items()},
        splits={column: _split(row, column) for column in row.cells if column.startswith("split")},
        mpp=_mpp(row),
        annotation=_file(row, "annotation") if row.cells.get("annotation") else None,
        site=row.cells.get("site", ""),
        others={column: cell for column, cell in row.cells.items() if column and not _is_known(column)},
    )


def _file(row: Row, column: str) -> Path:
    if not row.cells[column]:
        raise row.error(column, "a slide needs an image. Fill the cell in")
    return file_of(row, column)


def _label(row: Row, column: str, meaning: Mapping[str, int | None]) -> int | None:
    if row.cells[column] not in meaning:
        problem = "a label is 0 or 1, or empty for unknown. Correct the cell, or name the positive words: data.positive"
        raise row.error(column, problem)
    return meaning[row.cells[column]]


def _split(row: Row, column: str) -> str:
    if row.cells[column] not in ("", *SPLITS):
        raise row.error(column, f"a split is one of {', '.join(SPLITS)}, or empty for none. Correct the cell")
    return row.cells[column]


def _mpp(row: Row) -> float | None:
    if not row.cells.get("mpp"):
        return None
    mpp = number_in(row.cells["mpp"])
    if not 0 < mpp < float("inf"):
        raise row.error(
            "mpp",
            "microns per pixel is a number above 0, such as 0.25 (with a point); empty takes it from the image file",
        )
    if not PLAUSIBLE_MPP[0] <= mpp <= PLAUSIBLE_MPP[1]:
        in_microns = {"nanometres": mpp / 1000, "millimetres": mpp * 1000, "metres": mpp * 1e6, "an objective's power": 10 / mpp}
        meant = [f"{value:.4g} if it is {unit}" for unit, value in in_microns.items() if 0.05 <= value <= 4]
        raise row.error(
            "mpp",
            f"no slide has so many microns per pixel ({PLAUSIBLE_MPP[0]:g} to {PLAUSIBLE_MPP[1]:g} is what cells may say). Write "
            f"microns: {', '.join(meant) or 'such as 0.25'}; empty takes it from the image file",
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
