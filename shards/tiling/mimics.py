"""Known mimics: patches that look like a tumour and are none, by the groups (classes) that people gave them.

    tile.mimic_groups ──annotations, points──▶ cohort/mimics.npy   (N,) bool, by patch id; absent where none are asked for

Their truth is 0 as ever. The array only tells what was mined: nothing is trained or chosen by it.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from shards.cohort.annotations import read_annotation
from shards.cohort.cohort import MIMICS, Cohort
from shards.cohort.frame import frame_of_row
from shards.cohort.truth import truth_of
from shards.files import write_array
from shards.tiling.mpp import patch_level0_of
from shards.tiling.sites import point_sites
from shards.tiling.tile_config import TileConfig
from shards.tiling.unit import SlideJob


def write_mimics(cohort: Path, jobs: Sequence[SlideJob], config: TileConfig) -> int:
    """Write which patches of a merged cohort are mimics, and return how many; without mimic_groups the file is removed.

    Args:
        cohort: the cohort's folder, with its tables.
        jobs: of its slides, in their order.
        config: with the groups, and the share of a patch that lies in them.
    """
    (cohort / MIMICS).unlink(missing_ok=True)
    if not config.mimic_groups:
        return 0
    opened = Cohort.open(cohort, with_mimics=False)
    is_mimic = np.zeros(opened.num_patches, bool)
    for slide, (job, row) in enumerate(zip(jobs, opened.slides.to_pylist(), strict=True)):
        own = slice(*opened.patch_bounds[slide : slide + 2].tolist())
        if own.start < own.stop:
            x_level0, y_level0 = opened.patches.x_level0[own], opened.patches.y_level0[own]
            is_mimic[own] = _of_slide(job, row, x_level0, y_level0, patch_level0_of(opened, slide), config)
    write_array(cohort / MIMICS, is_mimic)
    return int(is_mimic.sum())


def _of_slide(
    job: SlideJob, row: dict[str, Any], x_level0: np.ndarray, y_level0: np.ndarray, patch_level0: int, config: TileConfig
) -> np.ndarray:
    """Return which of a slide's patches are mimics, (n,) bool; where both are known, points decide."""
    frame = frame_of_row(row)
    if job.points is not None and job.points.is_mimic is not None:
        xy_level0, truth = job.points.xy_level0 + frame.corner_level0, job.points.is_mimic.astype(np.int8)
        sites = point_sites(replace(job.points, xy_level0=xy_level0, truth=truth), row["width"], row["height"], patch_level0)
        mimics = sites.take(np.flatnonzero(sites.truth == 1).tolist())
        corners = set(zip(mimics.x_level0.tolist(), mimics.y_level0.tolist(), strict=True))
        return np.array([corner in corners for corner in zip(x_level0.tolist(), y_level0.tolist(), strict=True)], bool)
    if job.slide.annotation is None:
        return np.zeros(len(x_level0), bool)
    read = read_annotation(job.slide.annotation, [], config.mimic_groups, skip_bad_outlines=True)
    return truth_of(frame.to_level0(read), x_level0, y_level0, patch_level0, config.truth_share) == 1
