"""Cut one slide: its tars, its picture and its unit, all or nothing.

    claim ──▶ tmp/<key>.<owner>/ ──whole──▶ shards/<key>-0000.tar ..., thumbnails/<key>.jpg, units/<key>.parquet

The unit is renamed last: a slide is done when its unit is there. Whatever dies before leaves a claim that the next
process takes over, with its temporary folder.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import simplejpeg

from shards.claim import Claim, claimed, this_process
from shards.errors import InputError
from shards.files import fsync_folder
from shards.tiling.given_tiles import pack_tiles
from shards.tiling.jpeg import PatchJpeg, kept_jpegs
from shards.tiling.picture import draw_survey
from shards.tiling.sites import UNKNOWN, Sites
from shards.tiling.slide_reader import open_slide
from shards.tiling.survey import Survey, survey_slide, told_frame, told_tissue, why_empty
from shards.tiling.tar import remove_tars, write_tars
from shards.tiling.tile_config import TileConfig
from shards.tiling.unit import SlideJob, Unit, annotation_fields, is_fresh, read_unit, unit_path, write_unit

PICTURE_QUALITY = 85


@dataclass(frozen=True)
class Outcome:
    """What became of one job: the unit; whether this process cut it; whether the disk had room for it."""

    unit: Unit
    is_new: bool
    is_saved: bool = True


def lock_path(cohort: Path, job: SlideJob) -> Path:
    """Return where the claim on a slide lies."""
    return cohort / "locks" / f"{job.slide.key}.json"


def picture_path(cohort: Path, key: str) -> Path:
    """Return where the picture of a slide lies, with grid, mask and annotation."""
    return cohort / "thumbnails" / f"{key}.jpg"


def tile_slide(job: SlideJob, cohort: Path, config: TileConfig, num_threads: int = 1) -> Outcome | None:
    """Cut one slide, if it isn't done and no other process is at it.

    It needs no other slide, so slides can be cut on any machine, in any order.

    Args:
        job: what to cut.
        cohort: the cohort's folder. The cohort there is no more, until the next merge.
        config: how to cut.
        num_threads: that cut its patches; the result is the same with any number.

    Returns:
        What became of the slide; one that cannot be read is a failed unit with the reason. None: claimed by another.
    """
    with claimed(lock_path(cohort, job)) as claim:
        if claim is None:
            return None
        if is_fresh(job, cohort):
            return Outcome(read_unit(unit_path(cohort, job.slide)), is_new=False)
        (cohort / "cohort.json").unlink(missing_ok=True)
        try:
            with _workbench(cohort, job.slide.key) as folder:
                cut = pack_tiles if job.tiles is not None else partial(_cut, num_threads=num_threads)
                unit = cut(job, folder, config, claim)
                _land(folder, cohort, job, unit)
                return Outcome(unit, is_new=True)
        except (InputError, OSError) as error:
            return _fail(job, cohort, _reason(error))


def remove_leftovers(job: SlideJob, cohort: Path) -> None:
    """Remove the claim and the folder of a process that was killed when its slide was done, but they were still there."""
    path = lock_path(cohort, job)
    if path.exists():
        with claimed(path) as claim:
            if claim is not None:
                _remove_workbenches(cohort, job.slide.key)


def fail_slide(job: SlideJob, cohort: Path, reason: str) -> Outcome | None:
    """Record that a slide failed; None: it is claimed by another."""
    with claimed(lock_path(cohort, job)) as claim:
        return None if claim is None else _fail(job, cohort, reason)


def _fail(job: SlideJob, cohort: Path, reason: str) -> Outcome:
    unit = Unit(job.fingerprint, f"failed: {reason}")
    nothing = np.empty(0, np.int32)
    try:
        with _workbench(cohort, job.slide.key) as folder:
            write_unit(folder / "unit.parquet", unit, Sites(nothing, nothing, np.full(0, UNKNOWN, np.int8)), [])
            _land(folder, cohort, job, unit)
    except OSError:  # no room even for that: the caller still has the reason
        return Outcome(unit, is_new=True, is_saved=False)
    return Outcome(unit, is_new=True)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        where = f" ({error.filename})" if error.filename else ""
        return f"{error.strerror or error}{where}. Mend it and run the same command again"
    return str(error)


def _cut(job: SlideJob, folder: Path, config: TileConfig, claim: Claim, num_threads: int) -> Unit:
    with open_slide(job.slide.path) as slide:
        survey = survey_slide(slide, job, config)
        kept: list[int] = []
        own: list[int] = []
        patches = kept_jpegs(slide, survey, config, num_threads)
        jpegs = _noted(patches, survey, kept, own, claim)
        entries = write_tars(folder, job.slide.key, jpegs, config.shard_mb * 10**6)
        picture = draw_survey(survey, np.array(kept, np.int64))
        unit = Unit(
            job.fingerprint,
            status="done" if entries else f"empty: {why_empty(survey, slide, job)}",
            width=slide.width,
            height=slide.height,
            source_mpp=survey.source_mpp,
            mpp_from=survey.mpp_from,
            num_patches=len(entries),
            num_points_outside=survey.num_left_out,
            num_background=len(survey.sites) - len(kept),
            **annotation_fields(survey.annotation),
            **told_frame(job, survey),
            **told_tissue(survey),
            patch_level0=survey.patch_level0 if job.coords is not None else None,
            **slide.told_reader,
            num_kept_jpegs=len(own),
            tars={name: (folder / name).stat().st_size for name in dict.fromkeys(e.tar_name for e in entries)},
        )
    (folder / "picture.jpg").write_bytes(simplejpeg.encode_jpeg(picture, PICTURE_QUALITY, "RGB", "420"))
    write_unit(folder / "unit.parquet", unit, survey.sites.take(kept), entries)
    return unit


def _noted(
    patches: Iterator[PatchJpeg], survey: Survey, kept: list[int], own: list[int], claim: Claim
) -> Iterator[tuple[int, int, bytes]]:
    """Yield (x, y, JPEG) of patches, and note their numbers in `kept`, of those with the slide's own bytes also in `own`."""
    for patch in patches:
        claim.beat()
        kept.append(patch.number)
        if patch.is_kept:
            own.append(patch.number)
        assert patch.jpeg is not None
        yield int(survey.sites.x_level0[patch.number]), int(survey.sites.y_level0[patch.number]), patch.jpeg


@contextmanager
def _workbench(cohort: Path, key: str) -> Iterator[Path]:
    """Yield an empty folder for a claimed slide, and remove it afterwards; and those that a crash has left of it."""
    _remove_workbenches(cohort, key)
    owner = this_process()
    folder = cohort / "tmp" / f"{key}.{owner.host}.{owner.pid}"
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_workbenches(cohort: Path, key: str) -> None:
    for leftover in (cohort / "tmp").glob(f"{key}.*"):  # a key holds no dot: no other slide's
        shutil.rmtree(leftover, ignore_errors=True)


def _land(folder: Path, cohort: Path, job: SlideJob, unit: Unit) -> None:
    """Put a slide's new files in the place of its old ones, the unit first away and last back."""
    key, shards = job.slide.key, cohort / "shards"
    unit_path(cohort, job.slide).unlink(missing_ok=True)
    picture_path(cohort, key).unlink(missing_ok=True)
    remove_tars(shards, key)
    moves = [(folder / name, shards / name) for name in unit.tars]
    moves += [(folder / "picture.jpg", picture_path(cohort, key))] if (folder / "picture.jpg").exists() else []
    moves += [(folder / "unit.parquet", unit_path(cohort, job.slide))]
    for source, target in moves:
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(source, target)
        fsync_folder(target.parent)
