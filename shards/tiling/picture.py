"""Pictures to look at before believing a tiling: a slide's thumbnail with grid, tissue mask and annotation on it.

kept patch           green frame          positive patch   red frame, tinted
edge of the tissue   blue line            annotated area   yellow line on black
background           greyed
"""

import cv2
import numpy as np
import shapely

from shards.resample import resize
from shards.tiling.survey import Survey

PICTURE_PX = 1400  # longest side
MIN_PICTURE_PX = 500  # small images are enlarged, or frames would cover them
GREEN, RED, BLUE, YELLOW, BLACK = (22, 140, 62), (206, 24, 40), (30, 80, 190), (255, 214, 0), (0, 0, 0)


def draw_survey(survey: Survey, kept: np.ndarray) -> np.ndarray:
    """Return the picture of one slide.

    Args:
        survey: of the slide.
        kept: (k,) numbers of the sites that became patches.

    Returns:
        (h, w, 3) uint8 RGB.
    """
    height, width = survey.thumbnail.shape[:2]
    longest = max(height, width)
    scale = min(max(longest, MIN_PICTURE_PX), PICTURE_PX) / longest
    px_per_level0 = scale / survey.level0_per_px
    picture = resize(survey.thumbnail, max(1, round(width * scale)), max(1, round(height * scale))).copy()
    boxes = _boxes(survey, kept, px_per_level0)  # (k, 4)
    _grey_the_rest(picture, boxes)
    _outline_mask(picture, survey.mask)
    _frame(picture, boxes, survey.sites.truth[kept])
    if survey.annotation is not None:
        draw_area(picture, survey.annotation.area, px_per_level0)
        for x_level0, y_level0 in survey.annotation.points_level0:
            cv2.circle(picture, (round(x_level0 * px_per_level0), round(y_level0 * px_per_level0)), 3, YELLOW, -1)
    return picture


def _boxes(survey: Survey, kept: np.ndarray, px_per_level0: float) -> np.ndarray:
    """Return (k, 4) int left, top, right, bottom in pixels of the picture, right and bottom exclusive."""
    left, top = survey.sites.x_level0[kept], survey.sites.y_level0[kept]
    edges = np.stack([left, top, left + survey.patch_level0, top + survey.patch_level0], axis=1)
    return np.rint(edges * px_per_level0).astype(int)


def _grey_the_rest(picture: np.ndarray, boxes: np.ndarray) -> None:
    """Fade what no kept patch covers to grey, so that one sees at a glance what was left out."""
    kept = np.zeros(picture.shape[:2], bool)
    for left, top, right, bottom in boxes:
        kept[top:bottom, left:right] = True
    faded_of_grey = (0.55 * np.arange(256) + 0.45 * 205).astype(np.uint8)
    faded = cv2.LUT(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), faded_of_grey)
    np.copyto(picture, faded[..., None], where=~kept[..., None])


def _outline_mask(picture: np.ndarray, mask: np.ndarray) -> None:
    if mask.all():  # no background filter
        return
    height, width = picture.shape[:2]
    scaled = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(scaled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    large = [contour for contour in contours if len(contour) > 12]  # specks would hide the tissue
    cv2.drawContours(picture, large, -1, BLUE, 1)


def _frame(picture: np.ndarray, boxes: np.ndarray, truth: np.ndarray) -> None:
    for (left, top, right, bottom), positive in zip(boxes.tolist(), (truth == 1).tolist(), strict=True):
        if positive:
            inside = picture[top:bottom, left:right]
            inside[:] = (0.72 * inside + 0.28 * np.array(RED)).astype(np.uint8)
    for chosen, colour in ((truth != 1, GREEN), (truth == 1, RED)):  # red last: it wins on shared edges
        for left, top, right, bottom in boxes[chosen].tolist():
            cv2.rectangle(picture, (left, top), (max(left, right - 1), max(top, bottom - 1)), colour, 1)


def draw_area(picture: np.ndarray, area: shapely.Geometry, px_per_level0: float) -> None:
    """Draw the outlines of `area` (level-0 pixels) into a picture, yellow on black: seen on any ground."""
    rings = [
        np.rint(shapely.get_coordinates(ring) * px_per_level0).astype(np.int32)
        for polygon in shapely.get_parts(area)
        for ring in (polygon.exterior, *polygon.interiors)
    ]
    for colour, thickness in ((BLACK, 4), (YELLOW, 2)):
        cv2.polylines(picture, rings, True, colour, thickness, cv2.LINE_AA)
