"""`hnm tile --preview 5`: cut a few slides in thought, and only draw what would be kept."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import simplejpeg

from shards.errors import InputError
from shards.files import whole_file
from shards.tiling.cut import PICTURE_QUALITY
from shards.tiling.page import write_page
from shards.tiling.picture import draw_survey
from shards.tiling.pool import Died, run_jobs
from shards.tiling.slide_reader import open_slide
from shards.tiling.survey import kept_patches, survey_slide, told_frame, told_tissue, why_empty
from shards.tiling.tile_config import TileConfig
from shards.tiling.unit import SlideJob, Unit, annotation_fields


def preview_slides(
    jobs: Sequence[SlideJob], cohort: Path, config: TileConfig, num_slides: int, num_workers: int = 1
) -> list[tuple[SlideJob, Unit]]:
    """Draw `num_slides` slides, evenly spread over the table; write cohort/preview.html and cohort/preview/<key>.jpg.

    Nothing else is written: no patch, no table.

    Returns:
        The chosen jobs in the table's order, and what would become of each.
    """
    chosen = [jobs[index] for index in np.unique(np.linspace(0, len(jobs) - 1, num_slides).round().astype(int))]
    work = partial(preview_slide, folder=cohort / "preview", config=config)
    unit_of: dict[str, Unit] = {}
    for job, result in run_jobs(chosen, work, num_workers):
        unit_of[job.slide.slide_id] = Unit("", f"failed: {result.how}") if isinstance(result, Died) else result
    units = [unit_of[job.slide.slide_id] for job in chosen]
    settings = config.model_dump(mode="json")
    write_page(cohort, [job.slide for job in chosen], units, settings, name="preview", pictures="preview")
    return list(zip(chosen, units, strict=True))


def preview_slide(job: SlideJob, folder: Path, config: TileConfig) -> Unit:
    """Draw one slide, and return what tiling it would give."""
    picture = folder / f"{job.slide.key}.jpg"
    picture.unlink(missing_ok=True)  # of an earlier preview, with other settings
    try:
        with open_slide(job.slide.path) as slide:
            survey = survey_slide(slide, job, config)
            kept = np.array([number for number, _ in kept_patches(slide, survey, config)], np.int64)
            status = "done" if len(kept) else f"empty: {why_empty(survey, slide, job)}"
            width, height = slide.width, slide.height
    except InputError as error:
        return Unit("", f"failed: {error}")
    with whole_file(picture) as temporary:
        temporary.write_bytes(simplejpeg.encode_jpeg(draw_survey(survey, kept), PICTURE_QUALITY, "RGB", "420"))
    return Unit(
        fingerprint="",
        status=status,
        width=width,
        height=height,
        source_mpp=survey.source_mpp,
        mpp_from=survey.mpp_from,
        num_patches=len(kept),
        num_background=len(survey.sites) - len(kept),
        **annotation_fields(survey.annotation),
        **told_frame(job, survey),
        **told_tissue(survey),
    )
