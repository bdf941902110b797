"""Masks that somebody has drawn or computed: which patches are tissue, and which are pen, folds or blur.

    GeoJSON  outlines in level-0 pixels (QuPath, TRIDENT's contours_geojson ...), in the frame of annotations
    PNG      of the whole slide, of any size; 0 is outside, one other value inside

A patch stays with at least `tile.min_tissue_share` of it in the tissue mask, and less than half of it in the artefact mask.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import shapely
from PIL import Image

from shards.cohort.annotations import read_annotation, require_on_slide
from shards.cohort.frame import Bounds, Frame, require_in_frame
from shards.cohort.slides import Slide
from shards.cohort.truth import overlap_shares
from shards.errors import InputError
from shards.exchange.names import files_of_slides
from shards.tiling.sites import Sites
from shards.tiling.tile_config import TileConfig
from shards.tiling.tissue import shares
from shards.tiling.unit import Masks, SlideJob

SUFFIXES = (".geojson", ".json", ".png")
MAX_ARTEFACT_SHARE = 0.5
MAX_ASPECT_ERROR = 1.02  # and a pixel of the mask: thumbnails are rounded


def masks_of_slides(folder: Path, slides: Sequence[Slide], config: TileConfig) -> tuple[dict[str, Masks], list[str]]:
    """Return each slide's masks by slide id, and warnings.

    Args:
        folder: of slides.csv, where relative paths start.

    Raises:
        InputError: a folder is missing, or holds no slide's mask.
    """
    tissue, artefacts, warnings = {}, {}, []
    if config.tissue_masks is not None:
        found = files_of_slides(folder / config.tissue_masks, slides, SUFFIXES)
        tissue = {
            slide.slide_id: found.get(slide.slide_id, folder / config.tissue_masks / slide.slide_id) for slide in slides
        }
    if config.artefact_masks is not None:
        artefacts = files_of_slides(folder / config.artefact_masks, slides, SUFFIXES)
        without = [slide.slide_id for slide in slides if slide.slide_id not in artefacts]
        if without:
            warnings.append(
                f"{len(without)} of {len(slides)} slides have no artefact mask, such as {without[0]}: nothing of them is dropped"
            )
    return {
        slide.slide_id: Masks(tissue.get(slide.slide_id), artefacts.get(slide.slide_id)) for slide in slides
    }, warnings


def allowed_by_masks(
    job: SlideJob,
    sites: Sites,
    side_level0: int,
    size: tuple[int, int],
    frame: Frame,
    bounds: Bounds | None,
    config: TileConfig,
) -> np.ndarray:
    """Return which sites the slide's masks let pass, (n,) bool.

    Args:
        side_level0: of a patch, level-0 pixels.
        size: width and height of the slide, level-0 pixels.

    Raises:
        InputError: a mask is missing, cannot be read, or is of another slide.
    """
    allowed = np.ones(len(sites), bool)
    for path, is_tissue in ((job.masks.tissue, True), (job.masks.artefacts, False)):
        if path is None:
            continue
        share = _shares(path, sites, side_level0, size, frame, bounds, config)
        allowed &= share >= config.min_tissue_share if is_tissue else share < MAX_ARTEFACT_SHARE
    return allowed


def _shares(
    path: Path,
    sites: Sites,
    side_level0: int,
    size: tuple[int, int],
    frame: Frame,
    bounds: Bounds | None,
    config: TileConfig,
) -> np.ndarray:
    """Return the share of each patch that lies in a mask, (n,) float64."""
    if not path.is_file():
        raise InputError(f"{path}: there is no mask of this slide. Make it, or leave the setting out")
    if path.suffix.lower() == ".png":
        mask = _read_png(path, size)
        return shares(mask, size[0] / mask.shape[1], sites.x_level0, sites.y_level0, side_level0)
    annotation = read_annotation(path, config.negative_groups, None, config.skip_bad_outlines)
    if annotation.problem:
        raise InputError(annotation.problem)
    require_in_frame(shapely.get_coordinates(annotation.area), frame, bounds, path)
    annotation = frame.to_level0(annotation)
    require_on_slide(annotation, path, *size)
    return overlap_shares(annotation.area, sites.x_level0, sites.y_level0, side_level0)


def _read_png(path: Path, size: tuple[int, int]) -> np.ndarray:
    """Return a mask as (h, w) bool.

    Raises:
        InputError: it is no picture of one channel and two values, or has another shape than the slide.
    """
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("L") if image.mode in ("RGB", "RGBA", "P", "LA") else image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: cannot be read as a mask ({error})") from None
    values = np.unique(pixels).tolist()
    if len(values) > 2 or (len(values) == 2 and values[0] != 0):
        some = ", ".join(str(value) for value in values[:6])
        raise InputError(
            f"{path}: a mask has the value 0 and one other; this one has {len(values)}: {some}. Make a mask of one class"
        )
    height, width = pixels.shape
    rounding = 1 + 1 / min(height, width)  # of the smaller side to whole pixels
    ratio = (width / height) / (size[0] / size[1])
    if max(ratio, 1 / ratio) > MAX_ASPECT_ERROR * rounding:
        raise InputError(
            f"{path}: {width} x {height} pixels, of another shape than the slide's {size[0]} x {size[1]}. "
            "A mask is of the whole slide"
        )
    return pixels > 0
