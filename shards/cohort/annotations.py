"""What is positive on a slide, from the outlines that people drew on it, in level-0 pixels.

    .xml, .annotations   ASAP (Camelyon16, 17), Aperio ImageScope, HALO    xml_outlines ──┐
    .geojson, .json      QuPath and others, NCRF's lists, LabelMe          json_outlines ─┼─▶ Drawing ──groups──▶ Annotation
    .csv                 points: x,y,class                                 csv_points ────┘

A hole belongs to the ring that it is in. Groups that are cut out (tile.negative_groups) and holes without a ring of their own
are taken from all positive outlines but those that lie wholly in them: these are islands and stay. What its polygons are
worth is decided here too: two vertices are no area (the slide fails, or the outline is left out and counted), an outline that
crosses itself is repaired and counted. A file that tells of no area that could be read does not say "no tumour": then the
truth is unknown.
"""

import xml.etree.ElementTree
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import shapely

from shards.cohort.csv_points import read_csv
from shards.cohort.groups import UNCLASSIFIED, Role, Roles, Tally
from shards.cohort.json_outlines import read_json
from shards.cohort.shapes import Drawing, Shape, areas_of, cut_out, polygon_of
from shards.cohort.xml_outlines import read_xml
from shards.errors import InputError

OUTSIDE_SHARE = 0.01  # of the slide's side: what an outline may reach beyond the slide, a drawing hand's slack
READERS: dict[str, Callable[[Path], Drawing]] = {
    ".xml": read_xml,
    ".annotations": read_xml,
    ".json": read_json,
    ".geojson": read_json,
    ".csv": read_csv,
}
CONVERT = {
    ".ndpa": "NDP.view's, in nanometres from the slide's centre: import it in QuPath and export GeoJSON",
    ".qpdata": "QuPath's own data: export the annotations as GeoJSON",
    ".gz": "compressed: unpack it",
    ".zip": "compressed: unpack it",
}


@dataclass(frozen=True)
class Annotation:
    """What is positive on one slide.

    Attributes:
        area: polygons with holes, level-0 pixels; empty if the file has none.
        points_level0: (n, 2) float64 positive points.
        num_repaired: outlines that crossed themselves.
        num_left_out: outlines without an area that were left out.
        num_marks: points, lines, empty geometries and the like, which have no area.
        groups: by name, what was found and what it was taken as.
        problem: why it is unknown what is positive, else "".
        size: (width, height) in pixels of the image that was drawn on, None where the file doesn't say.
    """

    area: shapely.Geometry
    points_level0: np.ndarray = field(default_factory=lambda: np.empty((0, 2)))
    num_repaired: int = 0
    num_left_out: int = 0
    num_marks: int = 0
    groups: dict[str, Tally] = field(default_factory=dict)
    problem: str = ""
    size: tuple[float, float] | None = None


@dataclass(frozen=True)
class _Area:
    """A drawn area: where it comes from, what it is taken as, and its polygons."""

    shape: Shape
    role: Role
    geometry: shapely.Geometry


def read_annotation(
    path: Path, negative_groups: Sequence[str], positive_groups: Sequence[str] | None, skip_bad_outlines: bool
) -> Annotation:
    """Read an annotation file.

    Args:
        path: .xml, .annotations, .json, .geojson or .csv.
        negative_groups: groups (classes) whose outlines are cut out; case is ignored.
        positive_groups: those that are positive; None: all others.
        skip_bad_outlines: leave out outlines of fewer than three vertices instead of refusing the file; of a file that cannot be
            read it is then unknown what is positive, and `problem` says why.

    Raises:
        InputError: no such file, another format, a coordinate that is no number, or an outline without an area.
    """
    if not path.exists():
        raise InputError(f"{path}: there is no such annotation. Correct slides.csv, column annotation")
    try:
        drawing = read_drawing(path)
    except InputError as error:
        if not skip_bad_outlines:
            raise
        return Annotation(shapely.MultiPolygon(), problem=str(error))
    return _interpreted(drawing, Roles(positive_groups, negative_groups), path, skip_bad_outlines)


def require_on_slide(annotation: Annotation, path: Path, width: int, height: int) -> None:
    """Refuse an annotation that was drawn on another slide, or at another scale.

    Raises:
        InputError: it reaches beyond the slide by more than 1 % of its side, or was drawn on an image of another size.
    """
    if annotation.size is not None and max(abs(annotation.size[0] - width), abs(annotation.size[1] - height)) > 1:
        raise InputError(
            f"{path}: was drawn on an image of {annotation.size[0]:g} x {annotation.size[1]:g} pixels, but the slide has "
            f"{width} x {height}. Scale it to level-0 pixels and set imageWidth and imageHeight, or export GeoJSON"
        )
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


def read_drawing(path: Path) -> Drawing:
    """Return what is drawn in a file, whatever it may be taken as.

    Raises:
        InputError: none of the formats, or broken.
    """
    suffix = path.suffix.lower()
    reader = READERS.get(suffix)
    if reader is None:
        what = f"this is {CONVERT[suffix]}" if suffix in CONVERT else "convert it"
        raise InputError(
            f"{path}: an annotation is .xml (ASAP, Aperio ImageScope, HALO), .annotations (HALO), .json, .geojson (QuPath and "
            f"others, LabelMe) or .csv (points); {what}"
        )
    try:
        return reader(path)
    except (xml.etree.ElementTree.ParseError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not readable as an annotation ({error}). Export it anew") from None
    except (LookupError, TypeError, ValueError, OverflowError, AttributeError, OSError, RecursionError) as error:
        words = f"no {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
        raise InputError(f"{path}: not readable as an annotation ({words}). Export it anew") from None


def _interpreted(drawing: Drawing, roles: Roles, path: Path, skip_bad_outlines: bool) -> Annotation:
    areas, num_repaired, left_out = _areas(drawing.shapes, roles, path, skip_bad_outlines)
    areas, free_holes = _with_own_holes(areas)
    cuts = [each.geometry for each in (*areas, *free_holes) if each.role == "cut out"]
    solids = [each.geometry for each in areas if each.role == "positive"]
    area = areas_of(shapely.union_all(cut_out(solids, cuts))) if solids else shapely.MultiPolygon()
    is_positive = np.array([roles.of(group) == "positive" for group in drawing.point_groups], bool)
    points = drawing.points_level0[is_positive] if len(is_positive) else drawing.points_level0
    marks = [shape for shape in drawing.shapes if shape.what != "area"]
    lost = [shape for shape in (*marks, *left_out) if not shape.is_hole and roles.of(shape.group) == "positive"]
    problem = ""
    if lost and not solids and not len(points):
        kinds = ", ".join(sorted({shape.what if shape.what != "area" else "outline without an area" for shape in lost}))
        problem = f"{path}: it has nothing with an area that would be positive, only: {kinds}. Draw outlines"
    return Annotation(
        area,
        points,
        num_repaired,
        len(left_out),
        len(marks),
        _tallies(areas, free_holes, drawing.point_groups, roles),
        problem,
        drawing.size,
    )


def _areas(
    shapes: Sequence[Shape], roles: Roles, path: Path, skip_bad_outlines: bool
) -> tuple[list[_Area], int, list[Shape]]:
    """Return the areas, how many rings were repaired, and the outlines that were left out; what is ignored is not judged."""
    areas: list[_Area] = []
    left_out: list[Shape] = []
    num_repaired = 0
    for shape in shapes:
        if shape.what != "area":
            continue
        role: Role = "cut out" if shape.is_hole else roles.of(shape.group)
        rings = [ring for ring in shape.rings if len(ring) >= 3]
        if len(rings) < len(shape.rings) or not rings:
            if role != "ignored" and not skip_bad_outlines:
                raise _too_few_vertices(path, shape)
            left_out += [shape] * (max(1, len(shape.rings) - len(rings)) if role != "ignored" else 0)
        if not shape.rings or len(shape.rings[0]) < 3:
            continue
        geometry, repaired = polygon_of(rings)
        if geometry.area > 0:
            areas.append(_Area(shape, role, geometry))
            num_repaired += repaired if role != "ignored" else 0
        elif role != "ignored":
            left_out.append(shape)
    return areas, num_repaired, left_out


def _too_few_vertices(path: Path, shape: Shape) -> InputError:
    fewest = min((len(ring) for ring in shape.rings), default=0)
    return InputError(
        f"{path}: an outline of group {shape.group!r} has {fewest} vertices, no area. "
        f"Mend it, or set tile.skip_bad_outlines=true to leave such outlines out"
    )


def _with_own_holes(areas: Sequence[_Area]) -> tuple[list[_Area], list[_Area]]:
    """Cut the holes of each layer out of its own areas; return the areas, and the holes that lie in none of their layer."""
    solids = [each for each in areas if not each.shape.is_hole]
    free = [each for each in areas if each.shape.is_hole and each.shape.layer is None]
    result: list[_Area] = []
    for layer in dict.fromkeys(each.shape.layer for each in areas):
        own = [each for each in solids if each.shape.layer == layer]
        holes = [each for each in areas if each.shape.is_hole and layer is not None and each.shape.layer == layer]
        tree = shapely.STRtree([each.geometry for each in own])
        taken = [
            hole
            for hole in holes
            if any(shapely.intersection(own[i].geometry, hole.geometry).area > 0 for i in tree.query(hole.geometry))
        ]
        free += [hole for hole in holes if not any(hole is other for other in taken)]
        left = cut_out([each.geometry for each in own], [hole.geometry for hole in taken])
        result += [replace(each, geometry=areas_of(geometry)) for each, geometry in zip(own, left, strict=True)]
    return result, free


def _tallies(
    areas: Sequence[_Area], free_holes: Sequence[_Area], point_groups: Sequence[str], roles: Roles
) -> dict[str, Tally]:
    found: Iterable[tuple[str, Role, int, int, float]] = (
        *((each.shape.group, each.role, 1, 0, each.geometry.area) for each in areas),
        *((_hole_name(each.shape), each.role, 1, 0, each.geometry.area) for each in free_holes),
        *((group, roles.of(group), 0, 1, 0.0) for group in point_groups),
    )
    tallies: dict[str, Tally] = {}
    for group, role, num_outlines, num_points, area in found:
        name = group or UNCLASSIFIED
        tally = tallies.get(name, Tally(role))
        tallies[name] = Tally(role, tally.num_outlines + num_outlines, tally.num_points + num_points, tally.area + area)
    return tallies


def _hole_name(shape: Shape) -> str:
    return shape.group if shape.layer is None else f"{shape.group or UNCLASSIFIED} (NegativeROA)"
