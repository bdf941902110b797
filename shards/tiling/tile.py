"""From a table of slides to a cohort of patches: the work behind `hnm tile`.

    slides.csv ──plan_cohort──▶ a job per slide ──tile_slide, each alone──▶ tars, units ──merge──▶ cohort, tiling.html

Running it again does only what is missing, failed, or was cut from another file or with other settings. Several
processes, here or on other machines, may do so at once: each slide is claimed by the one that cuts it.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from shards.claim import Waiting, owner_of
from shards.cohort.same_slides import same_slide_warnings
from shards.cohort.slides import Slide, read_slide_table
from shards.cohort.split_counts import count_splits, split_warnings
from shards.errors import InputError
from shards.exchange.coords import coords_files
from shards.progress import Progress
from shards.tiling.cut import Outcome, fail_slide, lock_path, remove_leftovers, tile_slide
from shards.tiling.drawn_split import site_warnings, with_drawn_split
from shards.tiling.masks import masks_of_slides
from shards.tiling.merge import alone, finished_units, merge_cohort, splits_of
from shards.tiling.mimics import write_mimics
from shards.tiling.page import write_page
from shards.tiling.pool import Died, run_jobs
from shards.tiling.pyramid import vendor_of
from shards.tiling.sites import Points, read_points
from shards.tiling.tile_config import OF_ITS_SLIDES, TileConfig
from shards.tiling.tile_summary import TileSummary
from shards.tiling.unit import SlideJob, Unit, is_fresh, slide_job, with_masks

# Fields that decide which slides, points and splits there are; all others change the pixels or the files they are in.
NOT_OF_A_SLIDE = {
    "points_file",
    "positive_class",
    "mimic_groups",
    "max_failed",
    "allow_unlabelled",
    "validation_share",
    "test_share",
    "split_by",
    "split_seed",
    *OF_ITS_SLIDES,
}
POLL_S = 0.5  # how often a slide that another process cuts is looked at


@dataclass(frozen=True)
class Plan:
    """The jobs, one per slide in the order of slides.csv, and what was noticed while they were made.

    Attributes:
        jobs: of all slides.
        num_points_unmatched: points whose image is none of the slides.
        split_drawn: whether the split was drawn.
        background: what tile.background is for these slides, for people to read.
    """

    jobs: list[SlideJob]
    num_points_unmatched: int
    split_drawn: bool
    background: str = ""
    warnings: list[str] = field(default_factory=list)

    @property
    def patients_known(self) -> bool:
        """Does the table say whose slides they are, other than one slide each?"""
        return any(job.slide.patient_id != job.slide.slide_id for job in self.jobs)


def plan_cohort(slides_csv: Path, config: TileConfig, positive: Sequence[str] = ()) -> Plan:
    """Read the user's tables and make a job for each slide; `positive` are label words, see `shards.cohort.label_words`.

    Raises:
        InputError: something is wrong with slides.csv, the points file, or a folder of masks or coordinates.
    """
    plan = _plan_without_masks(slides_csv, config, positive)
    if config.tissue_masks is None and config.artefact_masks is None:
        return plan
    masks, warnings = masks_of_slides(slides_csv.parent, [job.slide for job in plan.jobs], config)
    jobs = [with_masks(job, masks[job.slide.slide_id]) for job in plan.jobs]
    words = [f"{kind} masks: {path}" for kind in ("tissue", "artefact") if (path := getattr(config, f"{kind}_masks"))]
    return replace(plan, jobs=jobs, background="; ".join([plan.background, *words]), warnings=plan.warnings + warnings)


def _plan_without_masks(slides_csv: Path, config: TileConfig, positive: Sequence[str]) -> Plan:
    slides, split_drawn, warnings = slides_of_table(slides_csv, config, positive=positive)
    settings = config.model_dump(mode="json", exclude=NOT_OF_A_SLIDE)
    if config.coords is not None:
        return _plan_at_coords(slides_csv, slides, config, settings, split_drawn, warnings)
    if config.points_file is None:
        # In an annotated cohort a slide labelled 0 needs no file to say that none of its patches is positive.
        annotated = any(slide.annotation for slide in slides)
        is_whole = [config.background == ["auto"] and vendor_of(slide.path) is not None for slide in slides]
        jobs = [
            slide_job(slide, None, _resolved(settings, config, whole, False), annotated and first_label(slide) == 0)
            for slide, whole in zip(slides, is_whole, strict=True)
        ]
        return Plan(jobs, 0, split_drawn, _background_in_words(config, len(slides), sum(is_whole), False), warnings)
    points_of, num_unmatched = read_points(
        slides_csv.parent / config.points_file, slides, config.positive_class, config.mimic_groups
    )
    no_points = Points(np.empty((0, 2)), np.empty(0, np.int8))
    settings = _resolved(settings, config, False, is_at_points=True)
    jobs = [slide_job(slide, points_of.get(slide.slide_id, no_points), settings) for slide in slides]
    return Plan(jobs, num_unmatched, split_drawn, _background_in_words(config, len(slides), 0, True), warnings)


def slides_of_table(
    slides_csv: Path, config: TileConfig, needs_files: bool = True, positive: Sequence[str] = ()
) -> tuple[list[Slide], bool, list[str]]:
    """Return the slides of a table, with splits; whether these were drawn; and warnings.

    Args:
        needs_files: whether the column path must be there.
        positive: words that are positive labels.

    Raises:
        InputError: something is wrong with the table.
    """
    table = read_slide_table(slides_csv, config.allow_unlabelled, needs_files=needs_files, positive=positive)
    slides, warnings = table.slides, table.warnings + same_slide_warnings(table.slides)
    split_drawn = "split" not in slides[0].splits
    if split_drawn:
        slides = with_drawn_split(slides, config)
    elif config.split_by == "site":
        warnings += site_warnings(slides)
    return slides, split_drawn, warnings + split_warnings(count_splits(slides))


def _plan_at_coords(
    slides_csv: Path, slides: list[Slide], config: TileConfig, settings: dict[str, Any], split_drawn: bool, warnings: list[str]
) -> Plan:
    """Make a job for each slide whose patches another tool has chosen; a slide without a file fails and says so."""
    folder = slides_csv.parent / (config.coords or "")
    files = coords_files(folder, slides)
    settings = _resolved(settings, config, False, is_at_points=True)
    annotated = any(slide.annotation for slide in slides)
    jobs = []
    for slide in slides:
        file = files.get(slide.slide_id, folder / slide.slide_id)
        jobs.append(slide_job(slide, None, settings, annotated and first_label(slide) == 0, file))
    return Plan(jobs, 0, split_drawn, _background_in_words(config, len(slides), 0, True), warnings)


def _resolved(settings: dict[str, Any], config: TileConfig, is_whole: bool, is_at_points: bool) -> dict[str, Any]:
    """Return the settings with what tile.background=auto is for a slide: cut with that by name, its unit is fresh, too."""
    return settings | {"background": config.filters_of(is_whole, is_at_points) or ["none"]}


def _background_in_words(config: TileConfig, num_slides: int, num_whole: int, is_at_points: bool) -> str:
    """Return which filters decide what is background, and for how many slides."""
    if config.background != ["auto"]:
        return f"background filter: {', '.join(config.background)}"
    kind = "cut at points" if is_at_points else "plain images"
    counts = ((num_whole, "whole slides", True), (num_slides - num_whole, kind, False))
    parts = [
        f"{', '.join(config.filters_of(is_whole, is_at_points)) or 'none'} ({count:,} {what})"
        for count, what, is_whole in counts
        if count
    ]
    return f"background filter: {', '.join(parts)}; tile.background is auto"


def tile_cohort(
    slides_csv: Path,
    cohort: Path,
    config: TileConfig,
    progress: Progress = lambda items, description, total: items,
    num_workers: int = 1,
) -> TileSummary:
    """Cut all slides that are not cut yet, and write the cohort's tables.

    Args:
        slides_csv: the table of slides (see `shards.cohort.slides`).
        cohort: the folder to write; made if absent.
        config: where and how to cut.
        progress: wraps the loop over slides.
        num_workers: processes; 1 = this one. Where slides are fewer, several threads cut one.

    Returns:
        The numbers for the summary.

    Raises:
        InputError: the tables have a mistake, more slides failed than allowed, or there is no patch.
    """
    return tile_plan(plan_cohort(slides_csv, config), cohort, config, progress, num_workers)


def tile_plan(plan: Plan, cohort: Path, config: TileConfig, progress: Progress, num_workers: int) -> TileSummary:
    """Do what `tile_cohort` does, of tables that are read already: to read them looks into every slide's file."""
    done = tile_jobs(plan.jobs, cohort, config, progress, num_workers)
    unsaved = {slide_id: outcome.unit for slide_id, outcome in done.items() if not outcome.is_saved}
    summary = merge_plan(plan, cohort, config, unsaved)
    return replace(summary, num_tiled=sum(outcome.is_new for outcome in done.values()))


def tile_jobs(
    jobs: Sequence[SlideJob], cohort: Path, config: TileConfig, progress: Progress, num_workers: int
) -> dict[str, Outcome]:
    """Cut those slides that are not cut yet; what other processes are cutting is waited for.

    Args:
        jobs: all, or one share of an array job.
        cohort: the cohort's folder.
        config: how to cut.
        progress: wraps the loop over the slides that are not done.
        num_workers: processes.

    Returns:
        By slide id, what became of the slides that were not done.
    """
    stale = []
    for job in jobs:
        if is_fresh(job, cohort):
            remove_leftovers(job, cohort)
        else:
            stale.append(job)
    outcomes = _outcomes(stale, cohort, config, num_workers)
    return {job.slide.slide_id: outcome for job, outcome in progress(outcomes, "tiling", len(stale))}


def merge_plan(plan: Plan, cohort: Path, config: TileConfig, unsaved: Mapping[str, Unit] | None = None) -> TileSummary:
    """Write tiling.html and the cohort's tables from the units; it can be repeated.

    Raises:
        InputError: a slide is not tiled yet, too many failed, there is no patch, or the disk is full.
    """
    slides, settings = [job.slide for job in plan.jobs], config.model_dump(mode="json")
    try:
        with alone(cohort):
            units = finished_units(plan.jobs, cohort, unsaved or {})
            write_page(cohort, slides, units, settings, splits=splits_of(slides, units))
            summary = merge_cohort(slides, units, cohort, settings, config.max_failed)
            num_mimics = write_mimics(cohort, plan.jobs, config)
    except OSError as error:
        raise InputError(f"{cohort}: {error.strerror or error}. Make room and run the same command again") from None
    return replace(
        summary,
        num_mimics=num_mimics if config.mimic_groups else None,
        num_points_unmatched=plan.num_points_unmatched,
        split_drawn=plan.split_drawn,
        patients_known=plan.patients_known,
        split_by=config.split_by,
    )


def first_label(slide: Slide) -> int | None:
    """Return a slide's label in the first label column."""
    return next(iter(slide.labels.values()), None)


def share_of(jobs: Sequence[SlideJob], number: int, count: int) -> list[SlideJob]:
    """Return the jobs of array task `number` of `count`, counted from 1: every count-th."""
    return list(jobs[number - 1 :: count])


def _outcomes(
    jobs: Sequence[SlideJob], cohort: Path, config: TileConfig, num_workers: int
) -> Iterator[tuple[SlideJob, Outcome]]:
    num_threads = max(1, num_workers // max(1, len(jobs)))  # where slides are fewer than workers
    work = partial(tile_slide, cohort=cohort, config=config, num_threads=num_threads)
    waiting = Waiting(f"{cohort}: slides that are left")
    while jobs:
        elsewhere: list[SlideJob] = []
        for job, result in run_jobs(jobs, work, num_workers):
            outcome = fail_slide(job, cohort, result.how) if isinstance(result, Died) else result
            if outcome is None:
                elsewhere.append(job)
            else:
                yield job, outcome
        jobs = elsewhere
        if elsewhere:
            waiting.tell(*(lock_path(cohort, job) for job in elsewhere))
            time.sleep(POLL_S)


def owners(jobs: Sequence[SlideJob], cohort: Path) -> list[str]:
    """Return who is cutting slides of these jobs at present, for people to read."""
    return sorted({str(owner) for job in jobs if (owner := owner_of(lock_path(cohort, job))) is not None})
