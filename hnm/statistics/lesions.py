"""From patch scores to detections, and from annotations or patch truth to lesions.

    patch scores on their grid ──highest among its neighbours──▶ detections
    outlines ──37.5 um wider, holes filled, what touches is one──▶ lesions; below 275 um long: isolated tumour cells
    or truth of patches ──neighbours are one──▶ lesions

The two lengths are Camelyon16's: its evaluation mask is the tumour widened by half of 75 um, five tumour cells, and objects
whose major axis is under 275 um are left out as isolated tumour cells.
"""

import numpy as np
import shapely

from hnm.statistics.froc import Lesions

MARGIN_UM, ISOLATED_CELLS_UM, SIMPLER_UM = 37.5, 275.0, 1.0
NEIGHBOURS = 1.5  # in patch sides: the eight patches around one on a grid


def local_maxima(x_level0: np.ndarray, y_level0: np.ndarray, scores: np.ndarray, side_level0: float) -> np.ndarray:
    """Return the increasing numbers of the patches of one slide that score highest among their neighbours.

    Of equal neighbours the first counts. Each is a detection, however low its score: FROC tries all thresholds.

    Args:
        x_level0: (n,) left edges, level-0 pixels.
        y_level0: (n,) top edges, level-0 pixels.
        scores: (n,) float, none NaN.
        side_level0: of a patch, level-0 pixels.
    """
    first, second = _neighbours(x_level0, y_level0, side_level0)
    beaten = np.where(scores[first] >= scores[second], second, first)  # first < second: equal scores go to the first
    is_maximum = np.ones(len(scores), bool)
    is_maximum[beaten] = False
    return np.flatnonzero(is_maximum)


def lesions_of_area(area: shapely.Geometry, mpp: float | None) -> Lesions:
    """Return the lesions of an annotated area.

    Args:
        area: polygons, level-0 pixels.
        mpp: microns per level-0 pixel; None, unknown: no margin, and every lesion counts.
    """
    # Simplified by 1 um first, an eighth of a pixel of the challenge's mask: 70,000 vertices drawn by hand take 0.5 s then,
    # otherwise 14.
    wide = area.simplify(SIMPLER_UM / mpp).buffer(MARGIN_UM / mpp, quad_segs=4) if mpp else area
    filled = shapely.union_all([shapely.Polygon(part.exterior) for part in shapely.get_parts(wide) if part.area > 0])
    areas = list(shapely.get_parts(filled))
    counted = [mpp is None or major_axis(part) * mpp >= ISOLATED_CELLS_UM for part in areas]
    return Lesions(areas, np.array(counted, bool))


def lesions_of_patches(x_level0: np.ndarray, y_level0: np.ndarray, truth: np.ndarray, side_level0: float) -> Lesions:
    """Return connected positive patches (truth 1) of one slide as lesions, their squares put together."""
    from scipy.sparse import coo_array  # here: half a second that most processes need not spend
    from scipy.sparse.csgraph import connected_components

    rows = np.flatnonzero(truth == 1)
    x, y = x_level0[rows].astype(np.float64), y_level0[rows].astype(np.float64)
    first, second = _neighbours(x, y, side_level0)
    graph = coo_array((np.ones(len(first), bool), (first, second)), shape=(len(rows), len(rows)))
    num, lesion = connected_components(graph, directed=False)
    squares = shapely.box(x, y, x + side_level0, y + side_level0)
    areas = [shapely.union_all(squares[lesion == number]) for number in range(num)]
    return Lesions(areas, np.ones(num, bool))


def major_axis(polygon: shapely.Polygon) -> float:
    """Return the length of the ellipse that has the polygon's second moments, holes not looked at (by Green's theorem)."""
    x, y = np.asarray(polygon.exterior.coords)[:, :2].T
    x, y = x - x[0], y - y[0]  # level-0 coordinates are large, and their squares larger
    x1, y1 = x[1:], y[1:]
    x, y = x[:-1], y[:-1]
    cross = x * y1 - x1 * y
    area = cross.sum() / 2
    mean_x, mean_y = ((x + x1) @ cross) / (6 * area), ((y + y1) @ cross) / (6 * area)
    var_x = ((x * x + x * x1 + x1 * x1) @ cross) / (12 * area) - mean_x**2
    var_y = ((y * y + y * y1 + y1 * y1) @ cross) / (12 * area) - mean_y**2
    covariance = ((x * y1 + 2 * x * y + 2 * x1 * y1 + x1 * y) @ cross) / (24 * area) - mean_x * mean_y
    largest = (var_x + var_y) / 2 + np.hypot((var_x - var_y) / 2, covariance)
    return float(4 * np.sqrt(largest))


def _neighbours(x: np.ndarray, y: np.ndarray, side: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs (first < second) of patches less than `NEIGHBOURS` sides apart in both directions."""
    from scipy.spatial import KDTree  # here, as above

    if len(x) < 2:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    places = np.column_stack([x, y]).astype(np.float64)
    pairs = KDTree(places).query_pairs(NEIGHBOURS * side, p=np.inf, output_type="ndarray")
    first, second = pairs.T
    return first, second
