"""Patch truth: which share of a patch lies in the annotated area.

    area ──cut into pieces of few vertices──▶ STRtree ──patches that touch a piece──▶ areas of overlap ──▶ share (n,)

An outline of 10^5 vertices met by 10^4 patches would cost 10^9 if each patch were cut against the whole; its pieces
have at most `PIECE_VERTICES`, so the cost grows with patches plus vertices.
"""

import numpy as np
import shapely

from shards.cohort.annotations import Annotation

PIECE_VERTICES = 128
MAX_DEPTH = 24  # halvings: 2^24 level-0 pixels are wider than any slide


def truth_of(
    annotation: Annotation, x_level0: np.ndarray, y_level0: np.ndarray, size_level0: int, least_share: float
) -> np.ndarray:
    """Return (n,) int8: 1 where the share in the area is at least `least_share`, or a positive point lies inside, else 0.

    All are -1 (unknown) where the annotation has a problem: it doesn't tell what is positive.

    Args:
        annotation: of the slide.
        x_level0: (n,) left edges, level-0 pixels.
        y_level0: (n,) top edges, level-0 pixels.
        size_level0: side of a patch, level-0 pixels.
        least_share: above 0.
    """
    if annotation.problem:
        return np.full(len(x_level0), -1, np.int8)
    share = overlap_shares(annotation.area, x_level0, y_level0, size_level0)
    truth = (share >= least_share).astype(np.int8)
    if len(annotation.points_level0):
        tree = shapely.STRtree(shapely.points(annotation.points_level0))
        patches, _ = tree.query(_boxes(x_level0, y_level0, size_level0), predicate="covers")
        truth[patches] = 1
    return truth


def overlap_shares(area: shapely.Geometry, x_level0: np.ndarray, y_level0: np.ndarray, size_level0: int) -> np.ndarray:
    """Return the share of each patch's area that lies in `area`, (n,) float64 in [0, 1]."""
    pieces = cut_into_pieces(area)
    if not pieces or not len(x_level0):
        return np.zeros(len(x_level0))
    boxes = _boxes(x_level0, y_level0, size_level0)
    patches, touched = shapely.STRtree(pieces).query(boxes, predicate="intersects")
    areas = shapely.area(shapely.intersection(boxes[patches], np.array(pieces)[touched]))
    overlap = np.bincount(patches, weights=areas, minlength=len(boxes))
    return np.clip(overlap / float(size_level0) ** 2, 0.0, 1.0)


def cut_into_pieces(area: shapely.Geometry) -> list[shapely.Geometry]:
    """Return polygons that make up `area`, each of at most `PIECE_VERTICES` vertices, by halving the longer side."""
    pieces: list[shapely.Geometry] = []
    todo = [(part, 0) for part in shapely.get_parts(area) if part.area > 0]
    while todo:
        part, depth = todo.pop()
        if shapely.get_num_coordinates(part) <= PIECE_VERTICES or depth == MAX_DEPTH:
            pieces.append(part)
            continue
        for half in _halves(part):
            todo += [(piece, depth + 1) for piece in shapely.get_parts(half) if piece.area > 0]
    return pieces


def _halves(part: shapely.Geometry) -> tuple[shapely.Geometry, shapely.Geometry]:
    left, top, right, bottom = part.bounds
    if right - left >= bottom - top:
        middle = (left + right) / 2
        boxes = shapely.box(left, top, middle, bottom), shapely.box(middle, top, right, bottom)
    else:
        middle = (top + bottom) / 2
        boxes = shapely.box(left, top, right, middle), shapely.box(left, middle, right, bottom)
    return shapely.intersection(part, boxes[0]), shapely.intersection(part, boxes[1])


def _boxes(x_level0: np.ndarray, y_level0: np.ndarray, size_level0: int) -> np.ndarray:
    x, y = x_level0.astype(np.float64), y_level0.astype(np.float64)
    return shapely.box(x, y, x + size_level0, y + size_level0)
