"""What is known of a slide before a patch is read: where the patches are, which may be tissue, which are positive.

slide ──thumbnail──▶ mask ──▶ candidates        annotation ──▶ truth
      ──mpp────────▶ grid ──┘                                   │
                            └──────▶ Survey ◀───────────────────┘
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from shards.cohort.annotations import Annotation, read_annotation, require_on_slide
from shards.cohort.frame import NO_FRAME, Frame, frame_of, require_in_frame
from shards.cohort.truth import truth_of
from shards.errors import InputError
from shards.exchange.coords import MAX_MAGNIFICATION_ERROR, inside, read_coords, side_on_slide
from shards.tiling.masks import allowed_by_masks
from shards.tiling.mpp import level0_px
from shards.tiling.pyramid import Pyramid
from shards.tiling.sites import UNKNOWN, Sites, grid_sites, point_sites
from shards.tiling.slide_reader import SlideReader
from shards.tiling.stain import STAINS
from shards.tiling.tile_config import TileConfig
from shards.tiling.tissue import PATCH_FILTERS, Threshold, glass_free, otsu_saturation, shares
from shards.tiling.unit import AGAINST, SlideJob

THUMBNAIL_PX = 2048  # longest side; a patch of 448 level-0 px on a slide 100,000 px wide is 9 px of it
MAX_DISAGREEMENT = 1.1  # of the table's microns per pixel and the file's: more is told
MAX_PATCH_PX = 64  # of the thumbnail: more tells nothing of how much of a patch is tissue, and is read in vain


@dataclass(frozen=True)
class Survey:
    """A slide's plan.

    Attributes:
        source_mpp: microns per pixel at level 0, None if unknown.
        mpp_from: who says so: "table", "header", "tags", "ome-xml", "assumed", or "" (see shards.tiling.mpp), and what
            speaks against it.
        patch_level0: side of a patch, level-0 pixels.
        sites: all patches of the grid, or of the points, with their truth.
        candidates: (c,) numbers of the sites that are to be read; the others are background.
        thumbnail: (h, w, 3) uint8 RGB.
        level0_per_px: level-0 pixels per pixel of the thumbnail.
        mask: (h, w) bool tissue; all true without a background filter.
        annotation: of the slide, if it has one, in level-0 pixels.
        filters: the background filters that a patch has to pass.
        frame: where (0, 0) of its annotation, of its points and of what is written for QuPath lies.
        num_left_out: points or coordinates of a file without a patch of their own.
        threshold: what the mask was made with, if it is of otsu_saturation.
    """

    source_mpp: float | None
    mpp_from: str
    patch_level0: int
    sites: Sites
    candidates: np.ndarray
    thumbnail: np.ndarray
    level0_per_px: float
    mask: np.ndarray
    annotation: Annotation | None
    filters: tuple[str, ...] = ()
    frame: Frame = NO_FRAME
    num_left_out: int = 0
    threshold: Threshold | None = None


def survey_slide(slide: SlideReader, job: SlideJob, config: TileConfig) -> Survey:
    """Look at a slide from afar.

    Raises:
        InputError: the mpp is unknown or does not fit, or the annotation cannot be used.
    """
    source_mpp, mpp_from = _known_mpp(slide, job, config)
    frame = frame_of(slide.bounds, config.annotation_frame)
    sites, patch_level0, num_left_out = _sites(slide, job, config, source_mpp, frame)
    annotation = _annotation(slide, job, config, frame)
    if job.points is None:
        sites = replace(sites, truth=_truth(sites, annotation, patch_level0, job, config))
    thumbnail, level0_per_px = slide.thumbnail(thumbnail_px(max(slide.width, slide.height), patch_level0))
    filters = tuple(config.filters_of(isinstance(slide, Pyramid), job.points is not None or job.coords is not None))
    mask, least_share, threshold = _tissue_mask(thumbnail, filters, config)
    share = shares(mask, level0_per_px, sites.x_level0, sites.y_level0, patch_level0)
    size = slide.width, slide.height
    allowed = allowed_by_masks(job, sites, patch_level0, size, frame, slide.bounds, config)
    candidates = np.flatnonzero((share >= least_share) & allowed)
    return Survey(
        source_mpp, mpp_from, patch_level0, sites, candidates, thumbnail, level0_per_px, mask, annotation, filters, frame,
        num_left_out, threshold,
    )  # fmt: skip


def _sites(
    slide: SlideReader, job: SlideJob, config: TileConfig, source_mpp: float | None, frame: Frame
) -> tuple[Sites, int, int]:
    """Return where patches are, their side in level-0 pixels, and how many points or coordinates have none of their own."""
    if job.coords is not None:
        coords = read_coords(job.coords)
        side = side_on_slide(coords, slide.width, slide.height, slide.downsamples, source_mpp)
        require_scale(side, config, source_mpp, job.coords)
        xy = inside(coords, side, slide.width, slide.height)
        sites = Sites(xy[:, 0], xy[:, 1], np.full(len(xy), UNKNOWN, np.int8))
        return sites, side, len(coords.xy_level0) - len(xy)
    patch_level0 = level0_px(config.patch_px, config.mpp, source_mpp)
    if job.points is None:
        stride_level0 = level0_px(config.stride_px or config.patch_px, config.mpp, source_mpp)
        return grid_sites(slide.width, slide.height, patch_level0, stride_level0), patch_level0, 0
    require_in_frame(job.points.xy_level0, frame, slide.bounds, config.points_file or job.slide.path)
    points = replace(job.points, xy_level0=job.points.xy_level0 + frame.corner_level0)
    sites = point_sites(points, slide.width, slide.height, patch_level0)
    return sites, patch_level0, len(points.truth) - len(sites)


def require_scale(side_level0: int, config: TileConfig, source_mpp: float | None, path: Path) -> None:
    """Refuse patches of another tool that show tissue at another scale than tile.mpp says.

    Raises:
        InputError: naming both scales.
    """
    if config.mpp is None or source_mpp is None:
        return
    scale = source_mpp * side_level0 / config.patch_px
    if max(scale, config.mpp) > MAX_MAGNIFICATION_ERROR * min(scale, config.mpp):
        raise InputError(
            f"{path}: its patches of {side_level0} level-0 pixels show {scale:.3g} um per pixel at "
            f"tile.patch_px={config.patch_px}; tile.mpp is {config.mpp:g}. Set both as they were, or leave both out with "
            "hnm import coords"
        )


def thumbnail_px(longest_level0: int, patch_level0: int) -> int:
    """Return the longest side of a slide's thumbnail, pixels.

    Args:
        longest_level0: longest side of the slide, level-0 pixels.
        patch_level0: side of a patch, level-0 pixels.
    """
    return min(THUMBNAIL_PX, -(-longest_level0 * MAX_PATCH_PX // patch_level0))


def kept_patches(slide: SlideReader, survey: Survey, config: TileConfig) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (number of the site, (patch_px, patch_px, 3) uint8 RGB) of the candidates that pass the patch filters."""
    cut = patch_cutter(slide, survey, config)
    for number in survey.candidates.tolist():
        patch = cut(number)
        if patch is not None:
            yield number, patch


def patch_cutter(slide: SlideReader, survey: Survey, config: TileConfig) -> Callable[[int], np.ndarray | None]:
    """Return the function that cuts the patch of a site, (patch_px, patch_px, 3) uint8 RGB, or None: it is background.

    Several threads may call it at once, as long as the slide is open.
    """
    thresholds = {
        "edge_energy": config.min_edge_energy,
        "white_fraction": config.max_white_fraction,
        "canny_std": config.min_canny_std,
    }
    tests = [(PATCH_FILTERS[name], thresholds[name]) for name in survey.filters if name in PATCH_FILTERS]
    normalise = _normaliser(survey, config)

    def cut(number: int) -> np.ndarray | None:
        x_level0, y_level0 = int(survey.sites.x_level0[number]), int(survey.sites.y_level0[number])
        patch = slide.read(x_level0, y_level0, survey.patch_level0, config.patch_px)
        return normalise(patch) if all(is_tissue(patch, threshold) for is_tissue, threshold in tests) else None

    return cut


def why_empty(survey: Survey, slide: SlideReader, job: SlideJob | None = None) -> str:
    """Return why a slide gave no patch."""
    if not len(survey.sites) and not survey.num_left_out and job is not None and job.coords is not None:
        return f"{job.coords} has no patch"
    if not len(survey.sites) and survey.num_left_out:
        return f"none of the {survey.num_left_out} points or coordinates of its file has a patch wholly inside it"
    if not len(survey.sites):
        return f"no patch of {survey.patch_level0} level-0 px lies wholly inside its {slide.width} x {slide.height}"
    if not len(survey.candidates) and not survey.filters:
        return "no patch is in its tissue mask, or outside its artefact mask"
    if not len(survey.candidates):
        return f"no tissue on the thumbnail (background: {', '.join(survey.filters)})"
    return f"none of {len(survey.candidates)} patches read passed {', '.join(survey.filters)}"


def told_tissue(survey: Survey) -> dict[str, Any]:
    """Return what a `Unit` says of the threshold that parted tissue from glass, if one did."""
    threshold = survey.threshold
    return {} if threshold is None else {"tissue_saturation": threshold.saturation, "tissue_from": threshold.source}


def told_frame(job: SlideJob, survey: Survey) -> dict[str, Any]:
    """Return what a `Unit` says of the frame, where something counts in it."""
    if not survey.frame.name or (job.points is None and job.slide.annotation is None):
        return {}
    frame = survey.frame
    return {"annotation_frame": frame.name, "frame_x_level0": frame.x_level0, "frame_y_level0": frame.y_level0}


def _known_mpp(slide: SlideReader, job: SlideJob, config: TileConfig) -> tuple[float | None, str]:
    if job.slide.mpp is not None:
        return job.slide.mpp, "table" + _contradiction(slide, job.slide.mpp)
    told = slide.told
    if config.assume_mpp is not None and (told.disbelieved or told.mpp is None):
        return config.assume_mpp, "assumed"
    if told.mpp is None and slide.needs_mpp:
        tells = f"the file tells {told.disbelieved}, which no microscope has" if told.disbelieved else (
            "neither header nor TIFF tags nor OME-XML tell"
        )  # fmt: skip
        raise InputError(
            f"{job.slide.path}: its microns per pixel are unknown: {tells}. Say what they "
            f"are: slides.csv, column mpp, or --assume-mpp 0.5 for all slides that don't tell"
        )
    return told.mpp, told.source


def _contradiction(slide: SlideReader, mpp: float) -> str:
    """Return what the file says, if that is not what the table says, else ""."""
    try:
        told = slide.told
    except InputError:  # pixels that are not square: the table's cell is the remedy
        return ""
    if told.mpp is None or max(mpp, told.mpp) <= MAX_DISAGREEMENT * min(mpp, told.mpp):
        return ""
    return f"{AGAINST}{told.mpp:.3g} of the file ({told.source})"


def _annotation(slide: SlideReader, job: SlideJob, config: TileConfig, frame: Frame) -> Annotation | None:
    path = job.slide.annotation
    if path is None:
        return None
    annotation = read_annotation(path, config.negative_groups, config.positive_groups, config.skip_bad_outlines)
    corners = [shapely.get_coordinates(annotation.area), annotation.points_level0]
    require_in_frame(np.concatenate(corners), frame, slide.bounds, path)
    annotation = frame.to_level0(annotation)
    require_on_slide(annotation, path, slide.width, slide.height)
    return annotation


def _truth(
    sites: Sites, annotation: Annotation | None, patch_level0: int, job: SlideJob, config: TileConfig
) -> np.ndarray:
    if annotation is not None and not (annotation.problem and job.is_negative):
        return truth_of(annotation, sites.x_level0, sites.y_level0, patch_level0, config.truth_share)
    return np.full(len(sites), 0 if job.is_negative else UNKNOWN, np.int8)


def _tissue_mask(
    thumbnail: np.ndarray, filters: tuple[str, ...], config: TileConfig
) -> tuple[np.ndarray, float, Threshold | None]:
    """Return the mask, the least share of it that makes a patch a candidate, and what parted it."""
    if not filters:
        return np.ones(thumbnail.shape[:2], bool), 0.0, None
    if "otsu_saturation" in filters:
        mask, threshold = otsu_saturation(thumbnail)
        return mask, config.min_tissue_share, threshold
    return glass_free(thumbnail), 1e-9, None  # any trace: the patch filters decide


def _normaliser(survey: Survey, config: TileConfig) -> Callable[[np.ndarray], np.ndarray]:
    if config.stain == "none" or not len(survey.candidates):
        return lambda patch: patch
    mask = survey.mask if survey.filters else glass_free(survey.thumbnail)
    return STAINS[config.stain](survey.thumbnail[mask])
