"""From a table of slides to a cohort of patches: the work behind `hnm tile`.

    slides.csv ──plan_cohort──▶ a job per slide ──tile_slide, each alone──▶ tars, units ──merge_cohort──▶ the cohort

Running it again does only what is missing, failed, or was cut from another file or with other settings.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import simplejpeg
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, model_validator

from shards.errors import InputError
from shards.merge import TileSummary, merge_cohort
from shards.sites import BACKGROUND_FILTERS, UNKNOWN, Points, Sites, grid_sites, point_sites, read_points
from shards.slide_reader import PlainImage, open_slide
from shards.slides import Slide, read_slides
from shards.splits import split_patients
from shards.tar import remove_tars, write_tars
from shards.unit import SlideJob, Unit, is_fresh, slide_job, unit_path, write_unit

# Wraps an iterable, its description and its length for a progress bar.
Progress = Callable[[Iterable[Any], str, int], Iterable[Any]]

# Fields that decide which slides, points and splits there are; all others change the pixels or the files they are in.
NOT_OF_A_SLIDE = {"points_file", "positive_class", "max_failed", "validation_share", "test_share", "split_seed"}
MAX_UPSAMPLING = 1.25  # 0.27 um/px scanners serve 0.25; 0.5 um/px slides do not


class TileConfig(BaseModel):
    """Where patches are cut from the slides, and how they are stored."""

    model_config = ConfigDict(extra="forbid")

    patch_px: int = Field(224, ge=1, description="Side of a stored patch, pixels.")
    stride_px: int | None = Field(
        None,
        ge=1,
        description="From one grid tile to the next, pixels of the stored patch; none: patch_px, no overlap.",
    )
    mpp: float | None = Field(
        None,
        gt=0,
        description="Microns per pixel of the stored patches: slides are scaled to it, and one without an mpp fails. "
        "None: level-0 pixels as they are.",
    )
    jpeg_quality: int = Field(90, ge=1, le=100, description="JPEG quality, 1 to 100; higher: larger files.")
    shard_mb: int = Field(
        256, ge=1, description="Largest size of a tar, MB (10^6 bytes); a slide's next patches go to a new one."
    )
    background: Literal["none"] = Field("none", description="Which patches are left out as background. none: keep all.")
    points_file: Path | None = Field(
        None,
        description="CSV with image,x,y,class (level-0 pixels): a patch is cut at each point instead of on the grid. "
        "A relative path starts at the folder of slides.csv.",
    )
    positive_class: str | None = Field(
        None,
        description="The class in points_file whose patches are positive; all others are not. None: truth unknown.",
    )
    max_failed: float = Field(
        0.0, ge=0, le=1, description="Share of slides that may fail; with more, no cohort is written."
    )
    validation_share: float = Field(
        0.2, ge=0, lt=1, description="Share of patients drawn for validation if slides.csv has no split column."
    )
    test_share: float = Field(
        0.2, ge=0, lt=1, description="Share of patients drawn for test; the rest is for training."
    )
    split_seed: int = Field(0, ge=0, description="Seed of that draw.")

    @model_validator(mode="after")
    def _fields_fit_together(self) -> "TileConfig":
        if self.validation_share + self.test_share >= 1:
            raise ValueError("validation_share + test_share must be below 1: something has to be left for training")
        if self.positive_class is not None and self.points_file is None:
            raise ValueError("positive_class needs points_file: set points_file, or remove positive_class")
        return self


@dataclass(frozen=True)
class Plan:
    """The jobs, one per slide in the order of slides.csv, and what was noticed while they were made."""

    jobs: list[SlideJob]
    num_points_unmatched: int
    split_drawn: bool


def plan_cohort(slides_csv: Path, config: TileConfig) -> Plan:
    """Read the user's tables and make a job for each slide.

    Raises:
        InputError: something is wrong with slides.csv or the points file.
    """
    slides = read_slides(slides_csv)
    split_drawn = "split" not in slides[0].splits
    if split_drawn:
        slides = _with_drawn_split(slides, config)
    settings = config.model_dump(mode="json", exclude=NOT_OF_A_SLIDE)
    if config.points_file is None:
        return Plan([slide_job(slide, None, settings) for slide in slides], 0, split_drawn)
    points_of, num_unmatched = read_points(slides_csv.parent / config.points_file, slides, config.positive_class)
    no_points = Points(np.empty((0, 2)), np.empty(0, np.int8))
    jobs = [slide_job(slide, points_of.get(slide.slide_id, no_points), settings) for slide in slides]
    return Plan(jobs, num_unmatched, split_drawn)


def tile_slide(job: SlideJob, cohort: Path, config: TileConfig) -> Unit:
    """Cut one slide: write its tars and then its unit.

    It needs no other slide, so slides can be cut on any machine, in any order.

    Args:
        job: what to cut.
        cohort: the cohort's folder. The cohort there is no more, until the next merge.
        config: how to cut.

    Returns:
        What became of the slide; a slide that cannot be read is a failed unit with the reason.
    """
    (cohort / "cohort.json").unlink(missing_ok=True)
    path = unit_path(cohort, job.slide)
    path.unlink(missing_ok=True)
    remove_tars(cohort / "shards", job.slide.key)
    try:
        return _cut(job, cohort, config)
    except InputError as error:
        remove_tars(cohort / "shards", job.slide.key)
        unit = Unit(job.fingerprint, f"failed: {error}")
        write_unit(path, unit, _no_sites(), [])
        return unit


def tile_cohort(
    slides_csv: Path,
    cohort: Path,
    config: TileConfig,
    progress: Progress = lambda items, description, total: items,
) -> TileSummary:
    """Cut all slides that are not cut yet, and write the cohort's tables.

    Args:
        slides_csv: the table of slides (see `shards.slides`).
        cohort: the folder to write; made if absent.
        config: where and how to cut.
        progress: wraps the loop over slides.

    Returns:
        The numbers for the summary.

    Raises:
        InputError: the tables have a mistake, more slides failed than allowed, or there is no patch.
    """
    plan = plan_cohort(slides_csv, config)
    stale = [job for job in plan.jobs if not is_fresh(job, cohort)]
    for job in progress(stale, "tiling", len(stale)):
        tile_slide(job, cohort, config)
    summary = merge_cohort(plan.jobs, cohort, config.model_dump(mode="json"), config.max_failed)
    return replace(
        summary,
        num_tiled=len(stale),
        num_points_unmatched=plan.num_points_unmatched,
        split_drawn=plan.split_drawn,
    )


def level0_px(size_px: int, mpp: float | None, source_mpp: float | None) -> int:
    """Return how many level-0 pixels `size_px` pixels at `mpp` cover.

    Raises:
        InputError: `mpp` is asked for and the slide's is unknown, or too coarse: pixels would have to be invented.
    """
    if mpp is None:
        return size_px
    if source_mpp is None:
        raise InputError(f"mpp {mpp:g} is asked for, but the slide's is unknown. Give it in slides.csv, column mpp")
    if source_mpp > mpp * MAX_UPSAMPLING:
        raise InputError(f"the slide has {source_mpp:g} microns per pixel, too coarse for mpp {mpp:g}. Set mpp higher")
    return max(1, round(size_px * mpp / source_mpp))


def _with_drawn_split(slides: list[Slide], config: TileConfig) -> list[Slide]:
    splits = split_patients(
        [slide.patient_id for slide in slides],
        [slide.labels["label"] for slide in slides],
        validation_share=config.validation_share,
        test_share=config.test_share,
        seed=config.split_seed,
    )
    return [replace(slide, splits={"split": split} | slide.splits) for slide, split in zip(slides, splits, strict=True)]


def _cut(job: SlideJob, cohort: Path, config: TileConfig) -> Unit:
    shards = cohort / "shards"
    with open_slide(job.slide.path) as slide:
        source_mpp = job.slide.mpp or slide.mpp
        patch_level0 = level0_px(config.patch_px, config.mpp, source_mpp)
        stride_level0 = level0_px(config.stride_px or config.patch_px, config.mpp, source_mpp)
        if job.points is None:
            sites = grid_sites(slide.width, slide.height, patch_level0, stride_level0)
        else:
            sites = point_sites(job.points, slide.width, slide.height, patch_level0)
        kept: list[int] = []
        jpegs = _jpegs(slide, sites, patch_level0, config, kept)
        entries = write_tars(shards, job.slide.key, jpegs, config.shard_mb * 10**6)
        unit = Unit(
            job.fingerprint,
            status="done" if entries else "empty",
            width=slide.width,
            height=slide.height,
            source_mpp=source_mpp,
            num_points_outside=0 if job.points is None else len(job.points.truth) - len(sites),
            num_background=len(sites) - len(kept),
            tars={name: (shards / name).stat().st_size for name in dict.fromkeys(e.tar_name for e in entries)},
        )
    write_unit(unit_path(cohort, job.slide), unit, sites.take(kept), entries)
    return unit


def _jpegs(
    slide: PlainImage, sites: Sites, patch_level0: int, config: TileConfig, kept: list[int]
) -> Iterator[tuple[int, int, bytes]]:
    """Yield (x, y, JPEG) of the sites that are not background, and note their numbers in `kept`."""
    is_kept = BACKGROUND_FILTERS[config.background]
    for number, (x, y) in enumerate(zip(sites.x_level0.tolist(), sites.y_level0.tolist(), strict=True)):
        patch = _scaled(slide.read(x, y, patch_level0), config.patch_px)
        if is_kept(patch):
            kept.append(number)
            yield x, y, simplejpeg.encode_jpeg(patch, config.jpeg_quality, "RGB", "444")


def _scaled(patch: np.ndarray, patch_px: int) -> np.ndarray:
    if len(patch) == patch_px:
        return patch
    return np.array(Image.fromarray(patch).resize((patch_px, patch_px), Image.Resampling.LANCZOS))


def _no_sites() -> Sites:
    return Sites(np.empty(0, np.int32), np.empty(0, np.int32), np.full(0, UNKNOWN, np.int8))
