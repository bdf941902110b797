"""From finished units to a cohort: gives the patches their ids and writes the tables.

    units/*.parquet ──in the order of slides.csv──▶ patches.parquet, slides.parquet, table/, cohort.json

cohort.json comes last: with it the cohort exists. The merge reads only units, so it can be repeated, and can follow the
tiling of the slides on many machines. One process merges at a time; the others wait, and write the same bytes again.
"""

import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from shards.claim import Waiting, claimed
from shards.cohort.cohort import FORMAT_VERSION, PATCH_SCHEMA, names_of
from shards.cohort.patch_table import make_table
from shards.cohort.slides import Slide
from shards.cohort.split_counts import SplitCount, count_splits
from shards.errors import InputError
from shards.files import whole_file, write_json
from shards.tiling.annotated import summarise_annotations
from shards.tiling.outliers import find_outliers
from shards.tiling.tile_summary import TileSummary
from shards.tiling.tissue_told import tissue_lines
from shards.tiling.unit import AGAINST, SlideJob, Unit, finished_unit, read_unit_rows, unit_path

MAX_LISTED = 20  # failed slides that the error names
# Their versions can change a patch or a table.
TOOLS = ("numpy", "opencv-python-headless", "openslide-bin", "pillow", "pyarrow", "shapely", "simplejpeg")
POLL_S = 0.2
MPP_SPREAD = 1.05  # native pixels of slides further apart than that are not of one kind


def merge_cohort(
    slides: Sequence[Slide],
    units: Sequence[Unit],
    cohort: Path,
    settings: dict[str, Any],
    max_failed: float,
    features: dict[str, Any] | None = None,
) -> TileSummary:
    """Write the cohort's tables from its finished units; the caller holds `alone`.

    Args:
        slides: in the order of slides.csv.
        units: what became of each (see `finished_units`).
        cohort: the cohort's folder.
        settings: the tiling's settings, recorded in cohort.json.
        max_failed: share of slides that may have failed.
        features: what is said of the features that stand in the place of pictures; None: there are pictures.

    Returns:
        The numbers that the units tell.

    Raises:
        InputError: too many slides failed, or no slide has a patch.
    """
    (cohort / "cohort.json").unlink(missing_ok=True)
    failures = {slide.slide_id: unit.status for slide, unit in zip(slides, units, strict=True) if unit.failed}
    _refuse_failures(failures, len(slides), max_failed)
    shard_names = [name for unit in units for name in unit.tars]
    if not any(unit.num_patches for unit in units):
        raise InputError(_no_patch(cohort, slides, units, len(failures)))
    num_positive, num_known = _write_patches(slides, units, cohort)
    slide_table, in_place = _slide_table(slides, units), {"features": features} if features else {}
    with whole_file(cohort / "slides.parquet") as temporary:
        pq.write_table(slide_table, temporary)
    make_table(cohort, names_of(slide_table, in_place))
    summary = _summary(slides, units, num_positive, num_known, settings)
    write_json(cohort / "cohort.json", _cohort_info(settings, shard_names, summary) | in_place)
    return summary


@contextmanager
def alone(cohort: Path) -> Iterator[None]:
    """Wait until no other process merges, and remove what a crashed one has left; then this one may."""
    waiting = Waiting(f"{cohort}: its tables")
    while True:
        with claimed(cohort / "locks" / "merge.lock") as claim:
            if claim is not None:
                for leftover in cohort.glob(".*.tmp"):
                    leftover.unlink(missing_ok=True)
                yield
                return
            waiting.tell(cohort / "locks" / "merge.lock")
        time.sleep(POLL_S)


def finished_units(jobs: Sequence[SlideJob], cohort: Path, unsaved: Mapping[str, Unit]) -> list[Unit]:
    """Return the unit of each job.

    Raises:
        InputError: some are missing, or of other settings.
    """
    units = [unsaved.get(job.slide.slide_id) or finished_unit(job, cohort) for job in jobs]
    missing = [job.slide.slide_id for job, unit in zip(jobs, units, strict=True) if unit is None]
    if missing:
        raise InputError(
            f"{cohort}: {len(missing)} of {len(jobs)} slides are not tiled with these settings yet, such as "
            f"{missing[0]!r}. Run hnm tile again, with the same settings and without --merge (or every --shard-of)"
        )
    return [unit for unit in units if unit is not None]


def _summary(
    slides: Sequence[Slide], units: Sequence[Unit], num_positive: int, num_known: int, settings: Mapping[str, Any]
) -> TileSummary:
    by_id = {slide.slide_id: unit for slide, unit in zip(slides, units, strict=True)}
    failures = {slide_id: unit.status for slide_id, unit in by_id.items() if unit.failed}
    empties = {slide_id: unit.status for slide_id, unit in by_id.items() if unit.empty}
    mpps = [unit.source_mpp for unit in units if unit.source_mpp]
    return TileSummary(
        num_slides=len(slides),
        num_done=len(slides) - len(empties) - len(failures),
        num_empty=len(empties),
        num_failed=len(failures),
        num_patches=sum(unit.num_patches for unit in units),
        num_positive_patches=num_positive,
        num_known_patches=num_known,
        num_points_outside=sum(unit.num_points_outside for unit in units),
        num_background=sum(unit.num_background for unit in units),
        num_outlines_repaired=sum(unit.num_outlines_repaired for unit in units),
        num_outlines_left_out=sum(unit.num_outlines_left_out for unit in units),
        num_assumed_mpp=sum(unit.mpp_from == "assumed" for unit in units),
        num_unlabelled=sum(next(iter(slide.labels.values()), None) is None for slide in slides),
        failures=failures,
        empties=empties,
        outliers=find_outliers({slide_id: unit.num_patches for slide_id, unit in by_id.items() if unit.num_patches}),
        num_in_qupath_frame=sum(unit.annotation_frame == "qupath" for unit in units),
        num_in_level0_frame=sum(unit.annotation_frame == "level0" for unit in units),
        contradicted_mpp={
            slide.slide_id: f"{unit.source_mpp:g} of the {unit.mpp_from}"
            for slide, unit in zip(slides, units, strict=True)
            if AGAINST in unit.mpp_from
        },
        mixed_mpp=settings.get("mpp") is None and bool(mpps) and max(mpps) > MPP_SPREAD * min(mpps),
        annotations=summarise_annotations(slides, units, settings),
        splits=splits_of(slides, units),
        tissue=tissue_lines(slides, units),
    )


def splits_of(slides: Sequence[Slide], units: Sequence[Unit]) -> list[SplitCount]:
    """Return what each split holds, of slides with patches: the others train and test nothing."""
    with_patches = [(slide, unit.num_patches) for slide, unit in zip(slides, units, strict=True) if unit.num_patches]
    return count_splits([slide for slide, _ in with_patches], [number for _, number in with_patches])


def _no_patch(cohort: Path, slides: Sequence[Slide], units: Sequence[Unit], num_failed: int) -> str:
    reasons = [f"  {slide.slide_id}: {unit.status}" for slide, unit in zip(slides, units, strict=True)]
    return "\n".join(
        [
            f"{cohort}: none of {len(slides)} slides gave a patch ({num_failed} failed). Set tile.patch_px below the "
            f"size of the images, or loosen tile.background",
            *reasons[:MAX_LISTED],
        ]
    )


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


def _write_patches(slides: Sequence[Slide], units: Sequence[Unit], cohort: Path) -> tuple[int, int]:
    """Write patches.parquet slide by slide; return how many patches are positive, and of how many it is known."""
    num_positive, num_known, first_shard = 0, 0, 0
    with (
        whole_file(cohort / "patches.parquet") as temporary,
        pq.ParquetWriter(temporary, PATCH_SCHEMA) as writer,
    ):
        for index, (slide, unit) in enumerate(zip(slides, units, strict=True)):
            if unit.num_patches == 0:
                continue
            rows = read_unit_rows(unit_path(cohort, slide))
            truth = rows["truth"].to_numpy()
            num_positive += int((truth == 1).sum())
            num_known += int((truth >= 0).sum())
            columns = {name: rows[name].to_numpy() for name in rows.column_names}
            columns["slide"] = [index] * rows.num_rows
            columns["shard"] = columns["shard"] + first_shard
            first_shard += len(unit.tars)
            writer.write_table(pa.table(columns, schema=PATCH_SCHEMA))
    return num_positive, num_known


def _slide_table(slides: Sequence[Slide], units: Sequence[Unit]) -> pa.Table:
    columns: dict[str, pa.Array] = {
        "slide_id": pa.array([slide.slide_id for slide in slides], pa.string()),
        "path": pa.array([str(slide.path) for slide in slides], pa.string()),
        "patient_id": pa.array([slide.patient_id for slide in slides], pa.string()),
    }
    if any(slide.site for slide in slides):
        columns["site"] = pa.array([slide.site for slide in slides], pa.string())
    for name in slides[0].labels:
        columns[name] = pa.array([slide.labels[name] for slide in slides], pa.int8())
    for name in slides[0].splits:
        columns[name] = pa.array([slide.splits[name] for slide in slides], pa.string())
    num_patches_of = [unit.num_patches for unit in units]
    first_patch_of = list(accumulate(num_patches_of, initial=0))[:-1]
    columns |= {
        "source_mpp": pa.array([unit.source_mpp for unit in units], pa.float64()),
        "width": pa.array([unit.width for unit in units], pa.int32()),
        "height": pa.array([unit.height for unit in units], pa.int32()),
        "num_patches": pa.array(num_patches_of, pa.int64()),
        "first_patch": pa.array(first_patch_of, pa.int64()),
        "status": pa.array([unit.status for unit in units], pa.string()),
        "mpp_from": pa.array([unit.mpp_from for unit in units], pa.string()),
        "annotation": pa.array([str(slide.annotation) if slide.annotation else None for slide in slides], pa.string()),
    }
    if any(unit.tissue_from for unit in units):
        columns["tissue_saturation"] = pa.array([unit.tissue_saturation for unit in units], pa.float64())
        columns["tissue_from"] = pa.array([unit.tissue_from for unit in units], pa.string())
    if any(unit.annotation_frame for unit in units):
        columns["annotation_frame"] = pa.array([unit.annotation_frame for unit in units], pa.string())
        columns["frame_x_level0"] = pa.array([unit.frame_x_level0 for unit in units], pa.int32())
        columns["frame_y_level0"] = pa.array([unit.frame_y_level0 for unit in units], pa.int32())
    if any(unit.patch_level0 for unit in units):
        columns["patch_level0"] = pa.array([unit.patch_level0 for unit in units], pa.int32())
    for name in slides[0].others:  # words, such as a class or a site; a column of ours stays ours
        if name not in columns:
            columns[name] = pa.array([slide.others[name] or None for slide in slides], pa.string())
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
        **({"annotations": asdict(summary.annotations)} if summary.annotations.num_annotated else {}),
    }
