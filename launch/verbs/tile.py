"""What `hnm tile` does: all of it, one share of an array job, the merge, or a preview."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from hnm.config import ConfigError, load_config
from hnm.engine.ranks import single_world
from hnm.run.journal import Journal
from launch.process.cores import usable_cores
from launch.verbs.tables import tile_lines
from shards.cohort.slides import label_column_warnings
from shards.cohort.split_counts import count_splits, split_lines
from shards.tiling.mpp import mpp_of_magnification
from shards.tiling.preview import preview_slides
from shards.tiling.tile import Plan, merge_plan, owners, plan_cohort, share_of, tile_jobs, tile_plan
from shards.tiling.tile_config import TileConfig


@dataclass(frozen=True)
class TileRequest:
    """The command line of `hnm tile`; None and 0 are what was not given. See launch/cli/main.py for each."""

    slides_csv: Path
    cohort: Path
    config: str | None = None
    overrides: list[str] = field(default_factory=list)
    workers: int = 0
    shard_of: str | None = None
    merge: bool = False
    preview: int = 0
    assume_mpp: float | None = None
    magnification: float | None = None
    max_failed: float | None = None


def tile(request: TileRequest) -> int:
    """Do what was asked, and print the summary."""
    if sum([request.shard_of is not None, request.merge, request.preview > 0]) > 1:
        raise ConfigError("--shard-of, --merge and --preview are three different steps. Give one of them")
    journal = Journal(None, single_world())
    if request.magnification is not None:
        journal.say(
            f"--magnification {request.magnification:g} is taken as tile.mpp="
            f"{mpp_of_magnification(request.magnification):g} microns per pixel (10 / {request.magnification:g}); "
            "objective powers in the slides' headers are not looked at"
        )
    settings = load_config(request.config, None, overrides_of(request))
    config, label_column = settings.tile, settings.data.label_column
    num_workers = request.workers or usable_cores()
    plan = plan_cohort(request.slides_csv, config, settings.data.positive)
    if not request.merge:
        journal.say(plan.background)
        _say_warnings(plan, label_column, journal)
    if not (request.shard_of or request.merge or request.preview):
        _warn(plan, request.cohort, journal)
        summary = tile_plan(plan, request.cohort, config, journal.progress, num_workers)
        said = {f"warning: {warning}" for warning in plan.warnings}
        for line in tile_lines(summary, request.cohort):
            if line not in said:
                journal.say(line)
        return 0
    if request.preview:
        return _preview(plan, request, config, num_workers, journal)
    if request.merge:
        for line in tile_lines(merge_plan(plan, request.cohort, config), request.cohort):
            journal.say(line)
        return 0
    return _share(plan, request, config, num_workers, journal)


def overrides_of(request: TileRequest) -> list[str]:
    """Return the overrides of a command line, with the options that stand for some of them."""
    options = {"assume_mpp": request.assume_mpp, "max_failed": request.max_failed}
    if request.magnification is not None:
        options["mpp"] = mpp_of_magnification(request.magnification)
    given = [f"tile.{key}={value}" for key, value in options.items() if value is not None]
    return [*request.overrides, *given]


def _say_warnings(plan: Plan, label_column: str, journal: Journal) -> None:
    asked_for = label_column_warnings([job.slide for job in plan.jobs], label_column)
    for warning in plan.warnings + asked_for:
        journal.say(f"warning: {warning}")


def _warn(plan: Plan, cohort: Path, journal: Journal) -> None:
    """Say before the work begins what will not work out, and who else is at work."""
    missing = [job.slide for job in plan.jobs if not job.slide.path.is_file()]
    if missing:
        journal.say(f"warning: {len(missing)} of {len(plan.jobs)} slides have no file, such as {missing[0].path}")
    for owner in owners(plan.jobs, cohort):
        journal.say(
            f"{owner} is cutting slides of this cohort, or died doing so: its slides are waited for, or taken over"
        )


def _share(plan: Plan, request: TileRequest, config: TileConfig, num_workers: int, journal: Journal) -> int:
    """Cut one share of an array job; the exit code follows the share of its slides that failed."""
    number, count = parse_share(request.shard_of or "")
    jobs = share_of(plan.jobs, number, count)
    _warn(Plan(jobs, 0, False), request.cohort, journal)
    done = tile_jobs(jobs, request.cohort, config, journal.progress, num_workers)
    failed = {slide_id: outcome.unit.status for slide_id, outcome in done.items() if outcome.unit.failed}
    journal.say(
        f"{request.cohort}: share {number} of {count}: {len(jobs)} slides, {len(done)} cut now, {len(failed)} failed"
    )
    for slide_id, status in failed.items():
        journal.say(f"  {slide_id}: {status}")
    journal.say(
        f"When all shares are done: hnm tile {request.slides_csv} {request.cohort} --merge (and the same settings)"
    )
    return 1 if len(failed) > config.max_failed * len(jobs) else 0


def parse_share(text: str) -> tuple[int, int]:
    """Return (I, N) of --shard-of I/N.

    Raises:
        ConfigError: it is not written so.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise ConfigError(f"--shard-of {text}: write I/N with I from 1 to N, such as 17/64 ($SLURM_ARRAY_TASK_ID/64)")
    return int(match[1]), int(match[2])


def _preview(plan: Plan, request: TileRequest, config: TileConfig, num_workers: int, journal: Journal) -> int:
    """Draw some slides; the exit code is that of a tiling of these slides."""
    slides = [job.slide for job in plan.jobs]
    for line in split_lines(count_splits(slides)):
        journal.say(line)
    shown = preview_slides(plan.jobs, request.cohort, config, request.preview, num_workers)
    for job, unit in shown:
        kept, total = unit.num_patches, unit.num_patches + unit.num_background
        figures = f"{kept:,} of {total:,} patches kept" if kept else unit.status
        journal.say(f"  {job.slide.slide_id}: {figures}")
        if unit.tissue_from:
            journal.say(f"    tissue above saturation {unit.tissue_saturation:.0f}: {unit.tissue_from}")
    num_failed, num_with_patches = sum(unit.failed for _, unit in shown), sum(unit.num_patches > 0 for _, unit in shown)
    journal.say(f"Look at {request.cohort / 'preview.html'}; nothing was cut. The same command without --preview cuts")
    if num_failed > config.max_failed * len(shown) or not num_with_patches:
        journal.say(
            f"{num_failed} of {len(shown)} slides failed (tile.max_failed is {config.max_failed:g}), {num_with_patches} gave "
            f"patches: hnm tile would write no cohort of these"
        )
        return 1
    return 0
