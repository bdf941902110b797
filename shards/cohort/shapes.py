"""What a person drew on a slide, as the readers of all formats hand it on: one closed shape with its holes, or a mark.

    ring, ring in it, ring in that ...  ──polygon_of──▶  polygon with holes, and islands in the holes
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import shapely

ELLIPSE_VERTICES = 128  # of the polygon that stands for it: its area is 0.04 % too small
SAME_SHARE = 0.99  # of its area in another, an outline drawn by hand is wholly inside it


@dataclass(frozen=True)
class Shape:
    """One drawn thing.

    Attributes:
        group: its class, "" without one; levels of a derived class are separated by ": ".
        rings: of an area: (n, 2) float64 each, level-0 pixels, not closed; the outside first, then its holes.
        what: "area", or what it is else ("Point", "Ruler", "null geometry" ...); then there are no rings.
        is_hole: whether it is cut out, whatever its group says.
        layer: of a hole: it is cut out of the areas of this layer; None, or no area of the layer there: out of all.
    """

    group: str
    rings: tuple[np.ndarray, ...] = ()
    what: str = "area"
    is_hole: bool = False
    layer: int | None = None


@dataclass(frozen=True)
class Drawing:
    """The content of one file.

    Attributes:
        shapes: in the file's order.
        size: (width, height) in pixels of the image that was drawn on, None where the file doesn't say.
        points_level0: (n, 2) float64.
        point_groups: of each point.
    """

    shapes: Sequence[Shape]
    size: tuple[float, float] | None = None
    points_level0: np.ndarray = field(default_factory=lambda: np.empty((0, 2)))
    point_groups: Sequence[str] = ()


def vertices(pairs: Any, closed: bool = False) -> np.ndarray:
    """Return (n, 2) float64; a file that repeats the first vertex at the end is `closed`.

    Raises:
        TypeError: not a list of coordinates.
        ValueError: a coordinate that is no finite number.
    """
    if isinstance(pairs, dict | str):
        raise TypeError(f"{str(pairs)[:40]!r} is no list of vertices")
    xy = np.array([(number(x), number(y)) for x, y, *_ in pairs], np.float64).reshape(-1, 2)
    return xy[:-1] if closed and len(xy) > 1 and (xy[0] == xy[-1]).all() else xy


def number(value: Any) -> float:
    """Return a coordinate, from a number or from text with a decimal point or comma.

    Raises:
        ValueError: it is none, or not one that a slide can have.
    """
    if isinstance(value, bool | None):
        raise ValueError(f"{value!r} is no coordinate")
    result = float(value.replace(",", ".") if isinstance(value, str) else value)
    if not np.isfinite(result):
        raise ValueError("a coordinate is not finite")
    if abs(result) > 1e9:  # beyond it the geometry overflows; no slide has 10^9 pixels a side
        raise ValueError(f"a coordinate is {result:g}, more than any slide has pixels")
    return result


def rectangle(corners: np.ndarray) -> np.ndarray:
    """Return the (4, 2) corners of the box around some points."""
    (left, top), (right, bottom) = corners.min(axis=0), corners.max(axis=0)
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)])


def ellipse(centre: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Return (ELLIPSE_VERTICES, 2) points on an ellipse whose axes lie along x and y."""
    angles = np.linspace(0, 2 * np.pi, ELLIPSE_VERTICES, endpoint=False)
    result: np.ndarray = centre + radii * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return result


def ellipse_in(corners: np.ndarray) -> np.ndarray:
    """Return points on the ellipse that fills the box around some points."""
    low, high = corners.min(axis=0), corners.max(axis=0)
    return ellipse((low + high) / 2, (high - low) / 2)


def polygon_of(rings: Sequence[np.ndarray]) -> tuple[shapely.Geometry, int]:
    """Return the area that rings of three and more vertices enclose, and how many of them had to be repaired.

    The first is the outside and the others are its holes, as in GeoJSON. Where that makes no valid polygon, nesting decides,
    largest ring first: a ring in the area is a hole, a ring in a hole is an island, and one beside the area belongs to it.
    """
    polygon = shapely.Polygon(rings[0], rings[1:])
    if polygon.is_valid:
        return polygon, 0
    own = [shapely.Polygon(ring) for ring in rings]
    num_repaired = sum(not ring.is_valid for ring in own) or 1
    own = [ring if ring.is_valid else areas_of(shapely.make_valid(ring)) for ring in own]
    area: shapely.Geometry = shapely.MultiPolygon()
    done: list[shapely.Geometry] = []
    for ring in sorted((ring for ring in own if ring.area > 0), key=lambda ring: -ring.area):
        if any(_are_the_same(ring, other) for other in done):
            continue
        is_beside = shapely.intersection(area, ring).area <= (1 - SAME_SHARE) * ring.area
        area = shapely.union(area, ring) if is_beside else shapely.difference(area, ring)
        done.append(ring)
    return areas_of(area), num_repaired


def areas_of(geometry: shapely.Geometry) -> shapely.Geometry:
    """Return the polygons of a geometry: a repair leaves lines and points behind where an outline touches itself."""
    parts = shapely.get_parts(shapely.get_parts(geometry))
    return shapely.union_all(parts[shapely.get_dimensions(parts) == 2])


def cut_out(solids: Sequence[shapely.Geometry], cuts: Sequence[shapely.Geometry]) -> list[shapely.Geometry]:
    """Return what is left of each solid.

    A cut takes away what it covers, but for islands: a solid that lies wholly in a larger cut was drawn in it on purpose
    (tumour in an excluded area: Camelyon16's tumor_088 and tumor_110) and stays.
    """
    left = list(solids)
    if not solids or not cuts:
        return left
    tree = shapely.STRtree(cuts)
    for index, solid in enumerate(solids):
        for number_of_cut in sorted(tree.query(solid, predicate="intersects").tolist()):
            if not is_in(solid, cuts[number_of_cut]):
                left[index] = shapely.difference(left[index], cuts[number_of_cut])
    return left


def is_in(small: shapely.Geometry, large: shapely.Geometry) -> bool:
    """Return whether an area lies, but for a drawing hand's slack, in a larger one."""
    if small.area > SAME_SHARE * large.area:
        return False
    return bool(shapely.intersection(small, large).area >= SAME_SHARE * small.area)


def _are_the_same(one: shapely.Geometry, other: shapely.Geometry) -> bool:
    return bool(shapely.symmetric_difference(one, other).area <= (1 - SAME_SHARE) * max(one.area, other.area))
