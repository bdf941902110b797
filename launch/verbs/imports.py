"""What `hnm import` does: cohorts from what other tools have written."""

from dataclasses import replace
from pathlib import Path

from hnm.aggregator.given_features import import_features
from hnm.config import load_config
from hnm.engine.ranks import single_world
from hnm.run.journal import Journal
from launch.process.cores import usable_cores
from launch.verbs.tables import counts_lines
from launch.verbs.tile import TileRequest, overrides_of, tile
from shards.cohort.slides import read_slides
from shards.exchange.coords import common_settings, coords_files, read_coords
from shards.tiling.given_tiles import find_tiles, jobs_of, settings_of
from shards.tiling.tile import Plan, slides_of_table, tile_plan


def coords(request: TileRequest, folder: Path) -> int:
    """Cut just the patches that another tool has chosen; `tile.patch_px` and `tile.mpp` are its own unless they are given."""
    settings = load_config(request.config, None, overrides_of(request))
    config, slides = settings.tile, read_slides(request.slides_csv, True, settings.data.positive)
    found = [read_coords(path) for path in coords_files(folder, slides).values()]
    set_by_user = {name: getattr(config, name) for name in ("patch_px", "mpp") if name in config.model_fields_set}
    given = common_settings(found, **set_by_user)
    derived = [f"tile.{name}={value}" for name, value in given.items()]
    tools = ", ".join(sorted({one.tool for one in found}))
    print(
        f"{sum(len(one.xy_level0) for one in found):,} patches in {len(found):,} files of {tools}: {', '.join(derived)}"
    )
    overrides = [*request.overrides, *derived, f"tile.coords={folder.absolute()}"]
    return tile(replace(request, overrides=overrides))


def tiles(source: Path, request: TileRequest, table: Path | None, pattern: str | None) -> int:
    """Make a cohort of patches that are cut already."""
    settings, journal = load_config(request.config, None, overrides_of(request)), Journal(None, single_world())
    slides, split_drawn, warnings = slides_of_table(request.slides_csv, settings.tile, False, settings.data.positive)
    given, num_unmatched = find_tiles(source, table, pattern, slides)
    config = settings_of(given, settings.tile)
    plan = Plan(jobs_of(slides, given, config), 0, split_drawn, warnings=warnings)
    for warning in warnings:
        journal.say(f"warning: {warning}")
    num_workers = request.workers or usable_cores()
    summary = tile_plan(plan, request.cohort, config, journal.progress, num_workers)
    for line in counts_lines(summary, request.cohort):
        journal.say(line)
    if num_unmatched:
        journal.say(f"{num_unmatched:,} patches of slides that are not in {request.slides_csv}, left out")
    journal.say(
        f"patches of {config.patch_px} px, as they are in {source}. Next: hnm pretrain {request.cohort} pretrained/"
    )
    return 0


def features(
    slides_csv: Path, folder: Path, cohort: Path, name: str | None, config_name: str | None, overrides: list[str]
) -> int:
    """Make a cohort of features, without pictures."""
    settings, journal = load_config(config_name, None, overrides), Journal(None, single_world())
    positive = settings.data.positive
    summary, given, warnings = import_features(slides_csv, folder, cohort, name, settings.tile, journal.progress, positive)
    for line in [f"warning: {text}" for text in warnings] + counts_lines(summary, cohort):
        journal.say(line)
    journal.say(f"{given.dim} numbers a patch, as they are in {folder}; there are no pictures")
    if given.num_without_places:
        journal.say(
            f"{given.num_without_places:,} files have no coordinates: no heatmaps, and no truth of patches from annotations"
        )
    journal.say(
        f"Next: hnm train {cohort} run/ rounds.num_rounds=0, and aggregate.kind=dsmil, abmil, simlp, abmilx or another"
    )
    return 0
