"""From finished units to a cohort: gives the patches their ids and writes the tables.

    units/*.parquet ──in the order of slides.csv──▶ patches.parquet, slides.parquet, cohort.json

cohort.json comes last: with it the cohort exists. The merge reads only units, so it can be repeated,
and can follow the tiling of the slides on many machines.
"""

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from shards.cohort import FORMAT_VERSION, PATCH_SCHEMA
from shards.errors import InputError
from shards.files import whole_file, write_json
from shards.slides import Slide
from shards.unit import SlideJob, Unit, read_unit, read_unit_rows, unit_path

MAX_LISTED = 20  # failed slides that the error names
TOOLS = ("numpy", "pillow", "pyarrow", "simplejpeg")  # their versions can change a patch or a table


@dataclass(frozen=True)
class TileSummary:
    """What `hnm tile` did, in numbers.

    Attributes:
        num_slides: in the table; the sum of the next three.
        num_done: slides with patches.
        num_empty: slides without.
        num_failed: slides that could not be read.
        num_patches: in the cohort.
        num_positive_patches: with truth 1.
        num_points_outside: points without a patch of their own: it would not lie wholly inside, or is another point's.
        num_background: patches that the background filter left out.
        failures: reason by slide id.
        num_tiled: slides cut by this run; the others were there already.
        num_points_unmatched: points whose image is none of the slides.
        split_drawn: whether the split was drawn, as the table has no split column.
    """

    num_slides: int
    num_done: int
    num_empty: int
    num_failed: int
    num_patches: int
    num_positive_patches: int
    num_points_outside: int
    num_background: int
    failures: dict[str, str]
    num_tiled: int = 0
    num_points_unmatched: int = 0
    split_drawn: bool = False


def merge_cohort(jobs: Sequence[SlideJob], cohort: Path, settings: dict[str, Any], max_failed: float) -> TileSummary:
    """Write the cohort's tables from its finished units.

    Args:
        jobs: one per slide, in the order of slides.csv.
        cohort: the cohort's folder.
        settings: the tiling's settings, recorded in cohort.json.
        max_failed: share of slides that may have failed.

    Returns:
        The numbers that the units tell.

    Raises:
        InputError: a unit is missing or of another job, too many slides failed, or no slide has a patch.
    """
    (cohort / "cohort.json").unlink(missing_ok=True)
    units = [_finished_unit(job, cohort) for job in jobs]
    slides = [job.slide for job in jobs]
    failures = {slide.slide_id: unit.status for slide, unit in zip(slides, units, strict=True) if unit.failed}
    _refuse_failures(failures, len(slides), max_failed)
    shard_names = [name for unit in units for name in unit.tars]
    if not shard_names:
        raise InputError(
            f"{cohort}: none of {len(slides)} slides gave a patch ({len(failures)} failed). "
            f"Set patch_px below the size of the images; max_failed=0 shows why slides failed"
        )
    num_patches_of, num_positive = _write_patches(slides, units, cohort)
    with whole_file(cohort / "slides.parquet") as temporary:
        pq.write_table(_slide_table(slides, units, num_patches_of), temporary)
    num_empty = sum(unit.status == "empty" for unit in units)
    summary = TileSummary(
        num_slides=len(slides),
        num_done=len(slides) - num_empty - len(failures),
        num_empty=num_empty,
        num_failed=len(failures),
        num_patches=sum(num_patches_of),
        num_positive_patches=num_positive,
        num_points_outside=sum(unit.num_points_outside for unit in units),
        num_background=sum(unit.num_background for unit in units),
        failures=failures,
    )
    write_json(cohort / "cohort.json", _cohort_info(settings, shard_names, summary))
    return summary


def _finished_unit(job: SlideJob, cohort: Path) -> Unit:
    path = unit_path(cohort, job.slide)
    unit = read_unit(path) if path.is_file() else None
    if unit is None or unit.fingerprint != job.fingerprint:
        raise InputError(
            f"{path}: slide {job.slide.slide_id!r} is not tiled with these settings yet. Run hnm tile again"
        )
    return unit


def _refuse_failures(failures: dict[str, str], num_slides: int, max_failed: float) -> None:
    if len(failures) <= max_failed * num_slides:
        return
    lines = [f"  {slide_id}: {status}" for slide_id, status in failures.items()]
    if len(lines) > MAX_LISTED:
        lines[MAX_LISTED:] = [f"  ... and {len(lines) - MAX_LISTED} more"]
    raise InputError(
        f"{len(failures)} of {num_slides} slides failed, more than max_failed ({max_failed:g}) allows; no cohort was "
        f"written. Mend or remove them, or raise max_failed, and run the same command again: finished slides are kept\n"
        + "\n".join(lines)
    )


def _write_patches(slides: Sequence[Slide], units: Sequence[Unit], cohort: Path) -> tuple[list[int], int]:
    """Write patches.parquet slide by slide; return the number of patches of each slide, and of the positive ones."""
    num_patches_of, num_positive, first_shard = [], 0, 0
    with (
        whole_file(cohort / "patches.parquet") as temporary,
        pq.ParquetWriter(temporary, PATCH_SCHEMA) as writer,
    ):
        for index, (slide, unit) in enumerate(zip(slides, units, strict=True)):
            rows = read_unit_rows(unit_path(cohort, slide))
            num_patches_of.append(rows.num_rows)
            if rows.num_rows == 0:
                continue
            num_positive += int((rows["truth"].to_numpy() == 1).sum())
            columns = {name: rows[name].to_numpy() for name in rows.column_names}
            columns["slide"] = [index] * rows.num_rows
            columns["shard"] = columns["shard"] + first_shard
            first_shard += len(unit.tars)
            writer.write_table(pa.table(columns, schema=PATCH_SCHEMA))
    return num_patches_of, num_positive


def _slide_table(slides: Sequence[Slide], units: Sequence[Unit], num_patches_of: Sequence[int]) -> pa.Table:
    columns: dict[str, pa.Array] = {
        "slide_id": pa.array([slide.slide_id for slide in slides], pa.string()),
        "path": pa.array([str(slide.path) for slide in slides], pa.string()),
        "patient_id": pa.array([slide.patient_id for slide in slides], pa.string()),
    }
    for name in slides[0].labels:
        columns[name] = pa.array([slide.labels[name] for slide in slides], pa.int8())
    for name in slides[0].splits:
        columns[name] = pa.array([slide.splits[name] for slide in slides], pa.string())
    first_patch_of = list(accumulate(num_patches_of, initial=0))[:-1]
    columns |= {
        "source_mpp": pa.array([unit.source_mpp for unit in units], pa.float64()),
        "width": pa.array([unit.width for unit in units], pa.int32()),
        "height": pa.array([unit.height for unit in units], pa.int32()),
        "num_patches": pa.array(num_patches_of, pa.int64()),
        "first_patch": pa.array(first_patch_of, pa.int64()),
        "status": pa.array([unit.status for unit in units], pa.string()),
    }
    return pa.table(columns)


def _cohort_info(settings: dict[str, Any], shard_names: list[str], summary: TileSummary) -> dict[str, Any]:
    return {
        "format_version": FORMAT_VERSION,
        "settings": settings,
        "totals": {
            "slides": summary.num_slides,
            "patches": summary.num_patches,
            "positive_patches": summary.num_positive_patches,
            "status": {"done": summary.num_done, "empty": summary.num_empty, "failed": summary.num_failed},
        },
        "tools": {"python": platform.python_version(), **{tool: version(tool) for tool in TOOLS}},
        "shards": shard_names,
    }
