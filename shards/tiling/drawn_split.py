"""The split of slides whose table has none, by patient or by site (tile.split_by), and what a table's own splits share."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from shards.cohort.slides import Slide
from shards.cohort.source_sites import require_sites, site_of, sites_in_several, split_sites
from shards.tiling.tile_config import TileConfig

MAX_NAMED = 5


def with_drawn_split(slides: list[Slide], config: TileConfig) -> list[Slide]:
    """Return the slides with a split column.

    Raises:
        InputError: by site, and a slide's is not known, or they are too few.
    """
    from shards.cohort.splits import split_patients  # imports torch for its seeds: 2 s that only this needs

    patients = [slide.patient_id for slide in slides]
    labels = [next(iter(slide.labels.values()), None) for slide in slides]
    if config.split_by == "site":
        sites, names = _sites_of(slides), np.array([slide.slide_id for slide in slides])
        require_sites(sites, names, "tile.split_by")
        shares = (1 - config.validation_share - config.test_share, config.validation_share, config.test_share)
        splits = split_sites(sites, np.array(patients), labels, shares, config.split_seed)
    else:
        shares_of = {"validation_share": config.validation_share, "test_share": config.test_share}
        splits = split_patients(patients, labels, **shares_of, seed=config.split_seed)
    return [replace(slide, splits={"split": split} | slide.splits) for slide, split in zip(slides, splits, strict=True)]


def site_warnings(slides: Sequence[Slide]) -> list[str]:
    """Return a sentence for each split column that has a site in several splits."""
    sites, lines = _sites_of(slides), []
    for column in slides[0].splits:
        several = sites_in_several(sites, np.array([slide.splits[column] for slide in slides]))
        if several:
            some = ", ".join(several[:MAX_NAMED]) + (" ..." if len(several) > MAX_NAMED else "")
            lines.append(
                f"tile.split_by=site, but in the column {column!r} slides of {len(several)} of {len(set(sites) - {''})} sites "
                f"({some}) are in more than one split. Remove the column to have it drawn, or draw folds: hnm crossval "
                "data.split_by=site"
            )
    return lines


def _sites_of(slides: Sequence[Slide]) -> np.ndarray:
    return np.array([site_of(slide.site, slide.patient_id, slide.slide_id) for slide in slides])
