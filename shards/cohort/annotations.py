"""Outlines that people drew on a slide, from four kinds of files, in level-0 pixels.

    .xml              ASAP (Camelyon16): Annotation @PartOfGroup, Coordinate @Order @X @Y
    .json             {"positive": [{"vertices": [[x, y], ...]}], "negative": [...]}  (negative: holes)
    .geojson (.json)  QuPath: features with a Polygon or MultiPolygon and a classification
    .csv              points: x,y,class

What its polygons are worth is decided here too: two vertices are no area (the slide fails, or the outline is left out
and counted), an outline that crosses itself is repaired and counted.
"""

import json
import xml.etree.ElementTree
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from shards.cohort.slides import read_rows
from shards.errors import InputError

OUTSIDE_SHARE = 0.01  # of the slide's side: what an outline may reach beyond the slide, a drawing hand's slack


@dataclass(frozen=True)
class Outline:
    """One closed line: its group, and `xy_level0` (n, 2) float64; a hole's `is_hole` is true."""

    group: str
    xy_level0: np.ndarray
    is_hole: bool = False


@dataclass(frozen=True)
class Annotation:
    """What is positive on one slide.

    Attributes:
        area: polygons with holes, level-0 pixels; empty if the file has none.
        points_level0: (n, 2) float64 positive points.
        num_repaired: outlines that crossed themselves.
        num_left_out: outlines of fewer than three vertices that were left out.
    """

    area: shapely.Geometry
    points_level0: np.ndarray = field(default_factory=lambda: np.empty((0, 2)))
    num_repaired: int = 0
    num_left_out: int = 0


def read_annotation(
    path: Path, negative_groups: Sequence[str], positive_groups: Sequence[str] | None, skip_bad_outlines: bool
) -> Annotation:
    """Read an annotation file.

    Args:
        path: .xml, .json, .geojson or .csv.
        negative_groups: groups (classes) whose outlines are holes; case is ignored.
        positive_groups: those that are positive; None: all others.
        skip_bad_outlines: leave out outlines of fewer than three vertices instead of refusing the file.

    Raises:
        InputError: no such file, another format, a coordinate that is no number, or an outline without an area.
    """
    negative = {group.casefold() for group in negative_groups}
    positive = None if positive_groups is None else {group.casefold() for group in positive_groups}
    if path.suffix.lower() == ".csv":
        return Annotation(shapely.MultiPolygon(), _points(path, negative, positive))
    holes: list[shapely.Geometry] = []
    solids: list[shapely.Geometry] = []
    num_repaired, num_left_out = 0, 0
    for outline in read_outlines(path):
        group = outline.group.casefold()
        is_hole = outline.is_hole or group in negative
        if not is_hole and positive is not None and group not in positive:
            continue
        if len(outline.xy_level0) < 3:
            if not skip_bad_outlines:
                raise InputError(
                    f"{path}: an outline of group {outline.group!r} has {len(outline.xy_level0)} vertices, no area. "
                    f"Mend it, or set tile.skip_bad_outlines=true to leave such outlines out"
                )
            num_left_out += 1
            continue
        polygon = shapely.Polygon(outline.xy_level0)
        if not polygon.is_valid:
            polygon, num_repaired = _areas_of(shapely.make_valid(polygon)), num_repaired + 1
        (holes if is_hole else solids).append(polygon)
    area = shapely.difference(shapely.union_all(solids), shapely.union_all(holes)) if solids else shapely.MultiPolygon()
    return Annotation(_areas_of(area), num_repaired=num_repaired, num_left_out=num_left_out)


def require_on_slide(annotation: Annotation, path: Path, width: int, height: int) -> None:
    """Refuse an annotation that reaches beyond the slide: it was drawn on another slide, or at another scale.

    Raises:
        InputError: it does, by more than 1 % of the slide's side.
    """
    corners = list(annotation.points_level0)
    if not annotation.area.is_empty:
        corners.append(annotation.area.bounds[:2])
        corners.append(annotation.area.bounds[2:])
    for x_level0, y_level0 in corners:
        slack_x, slack_y = OUTSIDE_SHARE * width, OUTSIDE_SHARE * height
        if not (-slack_x <= x_level0 <= width + slack_x and -slack_y <= y_level0 <= height + slack_y):
            raise InputError(
                f"{path}: reaches ({x_level0:.0f}, {y_level0:.0f}), outside of the slide's {width} x {height} level-0 "
                f"pixels. It belongs to another slide or another level: give this slide's own, in level-0 pixels"
            )


def read_outlines(path: Path) -> Iterator[Outline]:
    """Yield the outlines of a file in the file's order.

    Raises:
        InputError: no such file, or none of the formats.
    """
    readers = {".xml": _asap, ".json": _json, ".geojson": _json}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path}: an annotation is .xml (ASAP), .json, .geojson (QuPath) or .csv. Convert it")
    try:
        yield from reader(path)
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such annotation. Correct slides.csv, column annotation") from None
    except (xml.etree.ElementTree.ParseError, ValueError, KeyError, TypeError, OSError) as error:
        raise InputError(f"{path}: not readable as an annotation ({error!r}). Export it anew") from None


def _asap(path: Path) -> Iterator[Outline]:
    for element in xml.etree.ElementTree.parse(path).iter("Annotation"):
        coordinates = sorted(element.iter("Coordinate"), key=lambda coordinate: float(coordinate.get("Order", "0")))
        vertices = [(coordinate.attrib["X"], coordinate.attrib["Y"]) for coordinate in coordinates]
        yield Outline(element.get("PartOfGroup") or "", _vertices(vertices))


def _json(path: Path) -> Iterator[Outline]:
    content = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(content, dict) and "positive" in content:
        for group in ("positive", "negative"):
            for outline in content.get(group, []):
                yield Outline(group, _vertices(outline["vertices"]), is_hole=group == "negative")
    else:
        yield from _geojson(content)


def _geojson(content: Any) -> Iterator[Outline]:
    features = content.get("features", [content]) if isinstance(content, dict) else content
    for feature in features:
        geometry = feature["geometry"]
        properties = feature.get("properties") or {}
        group = (properties.get("classification") or {}).get("name") or ""
        parts = {"Polygon": [geometry["coordinates"]], "MultiPolygon": geometry["coordinates"]}.get(geometry["type"])
        if parts is None:
            raise ValueError(f"a {geometry['type']} has no area; Polygon and MultiPolygon are read")
        for solid, *holes in parts:
            yield Outline(group, _vertices(solid, closed=True))
            for hole in holes:
                yield Outline(group, _vertices(hole, closed=True), is_hole=True)


def _vertices(pairs: Sequence[Any], closed: bool = False) -> np.ndarray:
    """Return (n, 2) float64; GeoJSON repeats the first vertex at the end (`closed`)."""
    xy = np.array([(float(x), float(y)) for x, y, *_ in pairs], np.float64).reshape(-1, 2)
    if not np.isfinite(xy).all():
        raise ValueError("a coordinate is not finite")
    return xy[:-1] if closed and len(xy) > 1 and (xy[0] == xy[-1]).all() else xy


def _points(path: Path, negative: set[str], positive: set[str] | None) -> np.ndarray:
    """Return (n, 2) float64: the positive points."""
    rows = read_rows(path, required=("x", "y", "class"))
    classes = [row.cells["class"].casefold() for row in rows]
    chosen = [
        (row.coordinate("x"), row.coordinate("y"))
        for row, group in zip(rows, classes, strict=True)
        if group not in negative and (positive is None or group in positive)
    ]
    return np.array(chosen, np.float64).reshape(-1, 2)


def _areas_of(geometry: shapely.Geometry) -> shapely.Geometry:
    """Return the polygons of a geometry: a repair leaves lines and points behind where an outline touches itself."""
    parts = shapely.get_parts(shapely.get_parts(geometry))
    return shapely.union_all(parts[shapely.get_dimensions(parts) == 2])
