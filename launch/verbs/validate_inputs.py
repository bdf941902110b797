"""The slides that `hnm validate` is given: of a cohort that is cut, or of a table; which of them are a test of the model.

cohort/ or slides.csv ──without a label, or seen by the model: counted, left out──▶ Inputs ──scored──▶ a Row each
"""

import hashlib
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hnm.engine.engine import EngineConfig
from hnm.engine.numerics import numerics
from hnm.evidence.cases import Cases
from hnm.model.model import Model
from hnm.model.predict_tiled import predict_tiled
from hnm.model.predictions import Row, done_row, failed_row, remark_on, write_patches
from hnm.run.journal import Journal
from shards.cohort.cohort import Cohort
from shards.cohort.cohort_table import read_rows
from shards.cohort.content import contents_of
from shards.cohort.same_slides import same_slide_warnings
from shards.cohort.slides import OPTIONAL_COLUMNS, REQUIRED_COLUMNS, Slide, read_slide_table
from shards.errors import InputError
from shards.reading.reader import PatchReader
from shards.tiling.mpp import patch_level0_of

Columns = dict[str, list[str]]


@dataclass(frozen=True)
class Inputs:
    """The slides that are measured.

    Attributes:
        source: the cohort's folder, or the table.
        cohort: None of a table.
        slides: with a label, and not seen by the model.
        numbers: (n,) their rows in `source`.
        contents: of their files, see `shards.cohort.content`.
        columns: by name the cells of the table of slides, one for each of `slides`.
        label_column: of the labels.
        num_rows: slides in `source`.
        num_unlabelled: of them without a label.
        seen: by reason how many were left out because the model has seen them.
        warnings: what one should know of the table.
    """

    source: Path
    cohort: Cohort | None
    slides: list[Slide]
    numbers: np.ndarray
    contents: list[str]
    columns: Columns
    label_column: str
    num_rows: int
    num_unlabelled: int
    seen: dict[str, int]
    warnings: list[str]

    def as_cases(self, scores: np.ndarray, missed: np.ndarray) -> Cases:
        """Return the slides with their scores (n,) and which of them are missed (n,) bool."""
        return Cases(
            np.array([slide.slide_id for slide in self.slides], str),
            np.array([slide.patient_id for slide in self.slides], str),
            np.array([slide.labels[self.label_column] for slide in self.slides], np.int8),
            scores,
            missed,
            {name: np.array(cells, str) for name, cells in self.columns.items()},
        )


def read_inputs(source: Path, table: Path | None, model: Model, positive: Sequence[str] = ()) -> Inputs:
    """Read a cohort or a table, and leave out what is no test of the model.

    Args:
        source: a cohort's folder, or slides.csv.
        table: a slides.csv with more columns for the slides of a cohort, or None.
        model: knows which slides it has seen, and the column of the labels.
        positive: words of labels that are positive (data.positive).

    Raises:
        InputError: there is no such column, no slide has a label, or the model has seen them all.
    """
    cohort, warnings, label_column = None, [], model.config.data.label_column
    if source.suffix.lower() == ".csv":
        if table is not None:
            raise InputError(
                f"--slides-csv {table}: is for a cohort; {source} is a table itself. Put the columns there"
            )
        read = read_slide_table(source, allow_unlabelled=True, positive=positive)
        slides, columns, warnings = (
            read.slides,
            _cells(source),
            [*read.warnings, *same_slide_warnings(read.slides, refuse=False)],
        )
    else:
        cohort = Cohort.open(source)
        slides = slides_of(cohort)
        columns = {
            name: ["" if cell is None else str(cell) for cell in cohort.slides[name].to_pylist()]
            for name in cohort.slides.column_names
        }
        if table is not None:
            columns |= _cells_for(table, [slide.slide_id for slide in slides])
    _require_label_column(source, slides, label_column)
    labelled = [number for number, slide in enumerate(slides) if slide.labels[label_column] is not None]
    if not labelled:
        raise InputError(
            f"{source}: no slide has a label in column {label_column!r}. Fill some in (1 or 0): nothing can be measured"
        )
    contents = contents_of([slides[number].path for number in labelled])
    told = [
        model.known.told(slides[number], content) if model.known else ""
        for number, content in zip(labelled, contents, strict=True)
    ]
    if all(told):
        raise InputError(
            f"{source}: none of the {len(labelled)} slides with a label is a test of this model, for {told[0]}. Give slides that "
            "it has not seen"
        )
    kept = [place for place, why in enumerate(told) if not why]
    numbers = np.array([labelled[place] for place in kept], np.int64)
    return Inputs(
        source, cohort, [slides[number] for number in numbers], numbers, [contents[place] for place in kept],
        {name: [cells[number] for number in numbers] for name, cells in columns.items()}, label_column,
        len(slides), len(slides) - len(labelled), dict(Counter(filter(None, told))), warnings,
    )  # fmt: skip


def slides_of(cohort: Cohort) -> list[Slide]:
    """Return the slides of a cohort as those of a table."""
    names = [name for name in cohort.slides.column_names if name.startswith("label")]
    return [
        Slide(
            row["slide_id"],
            Path(row["path"]),
            row["patient_id"],
            {name: row[name] for name in names},
            {},
            row.get("source_mpp"),
        )
        for row in cohort.slides.to_pylist()
    ]


def _cells(table: Path) -> Columns:
    rows = read_rows(table, REQUIRED_COLUMNS[:1], optional=(*OPTIONAL_COLUMNS, "path"), prefixes=("label", "split"))
    return {name: [row.cells[name] for row in rows] for name in rows[0].cells}


def _cells_for(table: Path, slide_ids: Sequence[str]) -> Columns:
    """Return the columns of a table in the order of some slides; one that the table lacks has empty cells.

    Raises:
        InputError: it has none of them.
    """
    columns = _cells(table)
    row_of = {name.casefold(): number for number, name in enumerate(columns["slide_id"])}
    places = [row_of.get(name.casefold()) for name in slide_ids]
    if all(place is None for place in places):
        raise InputError(
            f"{table}: has none of the cohort's {len(slide_ids)} slides, such as {slide_ids[0]!r} (column slide_id). Give the "
            "table that the cohort was cut from"
        )
    return {name: ["" if place is None else cells[place] for place in places] for name, cells in columns.items()}


def _require_label_column(source: Path, slides: Sequence[Slide], column: str) -> None:
    if column not in slides[0].labels:
        known = ", ".join(slides[0].labels)
        remedy = (
            f"Say which one: --label-column, one of {known}" if known else f"Add a column {column} with 1, 0 or nothing"
        )
        raise InputError(f"{source}: there is no column {column!r} of labels. {remedy}")


@numerics(EngineConfig())  # in fp32, whatever it was trained in
def score_tiled(
    inputs: Inputs, model: Model, reader: PatchReader, batch_size: int, out: Path, journal: Journal
) -> list[Row]:
    """Score the slides of a cohort; one that fails is named, the others are done. What an earlier command did stays."""
    rows = []
    for place, slide in enumerate(inputs.slides, start=1):
        row = _tiled_row(inputs, place - 1, model, reader, batch_size, out, journal)
        rows.append(row)
        score = row.status if row.score is None else f"{row.score:.4f}, {row.num_patches:,} patches"
        journal.say(
            f"[{place}/{len(inputs.slides)}] {slide.slide_id}: {score}{f'; {row.remark}' if row.remark else ''}"
        )
    return rows


def _tiled_row(
    inputs: Inputs, place: int, model: Model, reader: PatchReader, batch_size: int, out: Path, journal: Journal
) -> Row:
    cohort, slide, number, about = inputs.cohort, inputs.slides[place], int(inputs.numbers[place]), model.about
    assert cohort is not None
    label = slide.labels[inputs.label_column]
    fingerprint = hashlib.sha256(f"{model.identity} {cohort.fingerprint} {slide.slide_id}".encode()).hexdigest()
    if (done := done_row(out, slide, label, fingerprint)) is not None:
        return replace(done, content=inputs.contents[place])
    status = str(cohort.slides["status"][number].as_py()) if "status" in cohort.slides.column_names else ""
    blank = replace(failed_row(slide, label, "", model, fingerprint), content=inputs.contents[place], mpp=slide.mpp)
    if cohort.patches_per_slide[number] == 0:
        return replace(blank, status=status if status.startswith(("empty", "failed")) else "empty: no patch")
    try:
        score, patches, colours = predict_tiled(cohort, number, model, reader, batch_size, journal.progress)
    except (InputError, OSError, FloatingPointError) as error:  # whatever it is, the other slides are done
        return replace(blank, status=f"failed: {error}")
    except Exception as error:
        traceback.print_exc()
        return replace(blank, status=f"failed: {type(error).__name__}: {error}")
    row = replace(
        blank, score=score, predicted=int(score >= about.slide_threshold), num_patches=len(patches.scores), status="done",
        num_positive_patches=len(patches.at_or_above(about.patch_threshold)), patch_level0=patch_level0_of(cohort, number),
        remark=remark_on(slide.mpp, model), colours=colours.figures() or None,
    )  # fmt: skip
    write_patches(out, slide, row, patches)
    return row


def measured(inputs: Inputs, rows: Sequence[Row]) -> tuple[Cases, dict[str, np.ndarray], dict[str, Any]]:
    """Return the slides that have a score or are missed, their colours, and how many were left out and why."""
    from hnm.statistics.colour import COLOURS

    missed = np.array([row.is_missed for row in rows], bool)
    kept = np.array([row.score is not None for row in rows], bool) | missed
    scores = np.array([row.score or 0.0 for row in rows], np.float64)
    reasons = Counter(row.status.split(":")[0] for row, is_kept in zip(rows, kept, strict=True) if not is_kept)
    if not kept.any():
        raise InputError(
            f"{inputs.source}: none of {len(rows)} slides has a score: {rows[0].slide_id}: {rows[0].status}"
        )

    def known(row: Row, name: str) -> float:
        colours: Mapping[str, float] = row.colours or {}
        return colours.get(name, np.nan)

    colours = {name: np.array([known(row, name) for row in rows])[kept] for name in COLOURS}
    return (
        inputs.as_cases(scores, missed).where(kept),
        colours,
        {"failed": reasons["failed"], "empty_negative": reasons["empty"]},
    )
