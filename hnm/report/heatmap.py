"""Patch scores as a map on the slide: a picture over the thumbnail, polygons for QuPath, the overlap with an annotation.

    ScoredPatches ──score_map──▶ (h, w) mean score ──draw_heatmap──▶ RGB picture
                  ──geojson────▶ a polygon per patch at or above the threshold
                  ──positive_area──▶ shapely ──overlap──▶ intersection over union with what was drawn by hand

Frames: `_level0` are pixels of the slide's full resolution; the thumbnail's pixels are `level0_per_px` of them wide.
"""

import uuid
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import shapely
from PIL import Image, ImageDraw, ImageFont

from shards.cohort.frame import NO_FRAME, Frame
from shards.tiling.picture import draw_area

OPACITY = 0.62
BAR_PX, BAR_MARGIN_PX = 12, 8
FONT_PX = 12
CONTOUR = (0, 0, 0)
LEAST_WIDTH_PX = 260  # of the legend's words
BLUE, PALE, VERMILLION = (
    (0, 114, 178),
    (247, 244, 240),
    (213, 94, 0),
)  # negative, threshold, positive, as in all pictures
# (256, 3) uint8: the colour scale
SCALE = np.stack(
    [np.interp(np.arange(256), (0, 128, 255), ends) for ends in zip(BLUE, PALE, VERMILLION, strict=True)], 1
)
SCALE = np.rint(SCALE).astype(np.uint8)


@dataclass(frozen=True)
class ScoredPatches:
    """The patches of one slide.

    Attributes:
        x_level0: (n,) int left edges, level-0 pixels.
        y_level0: (n,) int top edges, level-0 pixels.
        size_level0: side of a patch, level-0 pixels.
        scores: (n,) float in [0, 1]; NaN: not scored, left out everywhere.
    """

    x_level0: np.ndarray
    y_level0: np.ndarray
    size_level0: int
    scores: np.ndarray

    def at_or_above(self, threshold: float) -> np.ndarray:
        """Return the increasing numbers of the patches that are called positive."""
        return np.flatnonzero(self.scores >= threshold)


def score_map(patches: ScoredPatches, height: int, width: int, level0_per_px: float) -> np.ndarray:
    """Return (height, width) float32: the mean score of the patches that cover each pixel, NaN where none does.

    Sums over rectangles by differences at their corners: the cost is patches plus pixels, however much they overlap.
    """
    known = np.isfinite(patches.scores)
    left, top = (np.rint(at[known] / level0_per_px).astype(np.int64) for at in (patches.x_level0, patches.y_level0))
    right, bottom = (
        np.rint((at[known] + patches.size_level0) / level0_per_px).astype(np.int64)
        for at in (patches.x_level0, patches.y_level0)
    )
    right, bottom = np.maximum(right, left + 1), np.maximum(bottom, top + 1)  # a patch is at least a pixel
    sums = np.zeros((2, height + 1, width + 1))
    values = np.stack([patches.scores[known].astype(np.float64), np.ones(int(known.sum()))])
    for rows, columns, sign in ((top, left, 1), (bottom, right, 1), (top, right, -1), (bottom, left, -1)):
        place = np.clip(rows, 0, height), np.clip(columns, 0, width)
        for layer in (0, 1):
            np.add.at(sums[layer], place, sign * values[layer])
    total, count = sums.cumsum(axis=1).cumsum(axis=2)[:, :height, :width]
    covered = np.rint(count) > 0
    return np.where(covered, total / np.maximum(count, 1), np.nan).astype(np.float32)


def colour_place(scores: np.ndarray, threshold: float) -> np.ndarray:
    """Return where on the colour scale scores lie, 0 to 1, the threshold in the middle.

    A model's scores may all lie below 0.2 and still rank well: on a plain scale such a map would be of one colour.
    """
    low = 0.5 * scores / max(threshold, 1e-9)
    high = 0.5 + 0.5 * (scores - threshold) / max(1 - threshold, 1e-9)
    return np.clip(np.where(scores < threshold, low, high), 0, 1)


def draw_heatmap(
    thumbnail: np.ndarray,
    level0_per_px: float,
    patches: ScoredPatches,
    threshold: float,
    annotation: shapely.Geometry | None = None,
) -> np.ndarray:
    """Return the thumbnail in grey, the scores in colour on it, and a bar that explains the colours.

    Args:
        thumbnail: (h, w, 3) uint8 RGB of the whole slide.
        level0_per_px: level-0 pixels per pixel of it.
        patches: scored.
        threshold: from here on a patch is called positive; these areas are outlined in black.
        annotation: area drawn by hand, level-0 pixels; outlined in yellow.

    Returns:
        (h + 60, max(w, 260), 3) uint8 RGB; the first h rows and w columns lie on the thumbnail, pixel on pixel.
    """
    height, width = thumbnail.shape[:2]
    scores = score_map(patches, height, width, level0_per_px)
    covered = np.isfinite(scores)
    place = colour_place(np.nan_to_num(scores), threshold)
    colours = SCALE[np.rint(255 * place).astype(np.uint8)]
    grey = np.repeat(cv2.cvtColor(thumbnail, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    picture = np.where(covered[..., None], OPACITY * colours + (1 - OPACITY) * grey, grey).astype(np.uint8)
    positive = (covered & (np.nan_to_num(scores) >= threshold)).astype(np.uint8)
    contours, _ = cv2.findContours(positive, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, contours, -1, CONTOUR, 1)
    if annotation is not None and not annotation.is_empty:
        draw_area(picture, annotation, 1 / level0_per_px)
    return _with_bar(picture, threshold, annotated=annotation is not None)


def positive_area(patches: ScoredPatches, threshold: float) -> shapely.Geometry:
    """Return the union of the patches at or above the threshold, level-0 pixels."""
    return shapely.union_all(_boxes(patches, patches.at_or_above(threshold)))


def overlap(found: shapely.Geometry, drawn: shapely.Geometry) -> float | None:
    """Return the intersection over the union of two areas, None where both are empty."""
    union = shapely.area(shapely.union(found, drawn))
    return float(shapely.area(shapely.intersection(found, drawn)) / union) if union > 0 else None


def geojson(
    patches: ScoredPatches, threshold: float, name: str = "positive patch", frame: Frame = NO_FRAME
) -> dict[str, Any]:
    """Return a FeatureCollection (RFC 7946) that QuPath imports: a detection per patch at or above the threshold.

    Coordinates are full-resolution pixels that count from the corner of `frame`, as QuPath wants them (the RFC's degrees
    are of another world). The identity of a feature follows from its place, so that the same map gives the same file.
    """
    chosen = patches.at_or_above(threshold)
    return {"type": "FeatureCollection", "features": [_feature(patches, int(at), name, frame) for at in chosen]}


def _feature(patches: ScoredPatches, number: int, name: str, frame: Frame) -> dict[str, Any]:
    left, top = int(patches.x_level0[number]) - frame.x_level0, int(patches.y_level0[number]) - frame.y_level0
    right, bottom = left + patches.size_level0, top + patches.size_level0
    # the exterior ring runs counter-clockwise where y points up (RFC 7946, 3.1.6), and ends where it began
    ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(uuid.NAMESPACE_OID, f"{left} {top} {patches.size_level0}")),
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {
            "objectType": "detection",
            "classification": {"name": name, "color": list(VERMILLION)},
            "measurements": {"score": round(float(patches.scores[number]), 6)},
        },
    }


def _boxes(patches: ScoredPatches, chosen: np.ndarray) -> np.ndarray:
    left, top = patches.x_level0[chosen].astype(np.float64), patches.y_level0[chosen].astype(np.float64)
    return shapely.box(left, top, left + patches.size_level0, top + patches.size_level0)


def _with_bar(picture: np.ndarray, threshold: float, annotated: bool) -> np.ndarray:
    """Return the picture with the colour scale below it, and what the lines mean."""
    font = ImageFont.load_default(FONT_PX)
    width = max(picture.shape[1], LEAST_WIDTH_PX)
    legend = 2 * BAR_MARGIN_PX + BAR_PX + 2 * (FONT_PX + 4)
    sheet = Image.new("RGB", (width, picture.shape[0] + legend), "white")
    sheet.paste(Image.fromarray(picture), (0, 0))
    length = min(width - 2 * BAR_MARGIN_PX, 360)
    ramp = np.rint(np.linspace(0, 255, length)).astype(np.uint8)[None].repeat(BAR_PX, axis=0)
    top = picture.shape[0] + BAR_MARGIN_PX
    sheet.paste(Image.fromarray(SCALE[ramp]), (BAR_MARGIN_PX, top))
    draw = ImageDraw.Draw(sheet)
    below = top + BAR_PX + 2
    draw.text((BAR_MARGIN_PX, below), "0", "black", font)
    draw.text((BAR_MARGIN_PX + length / 2, below), f"threshold {threshold:.3g}", "black", font, anchor="ma")
    draw.text((BAR_MARGIN_PX + length, below), "1", "black", font, anchor="ra")
    words = "black: called positive" + (" · yellow: annotated" if annotated else "")
    draw.text((BAR_MARGIN_PX, below + FONT_PX + 4), words, (80, 80, 80), font)
    return np.asarray(sheet)
