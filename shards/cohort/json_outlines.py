"""Outlines in JSON: GeoJSON of QuPath (all versions) and of other tools, NCRF's Camelyon16 lists, and LabelMe.

    GeoJSON   FeatureCollection, Feature, bare geometry, or a list of them; Polygon, MultiPolygon, GeometryCollection
    NCRF      {"positive": [{"vertices": [[x, y], ...]}], "negative": [...]}  (negative: holes)
    LabelMe   {"shapes": [{"label", "shape_type", "points"}], "imageWidth", "imageHeight"}

How deep a Polygon's or MultiPolygon's coordinates are nested decides, not the word: tools mix the two up.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from shards.cohort.shapes import Drawing, Shape, ellipse, rectangle, vertices

AREAS = ("Polygon", "MultiPolygon")
MARKS = ("Point", "MultiPoint", "LineString", "MultiLineString")
CLASS_KEYS = ("classification", "class", "className", "label", "category", "group", "name")
# QuPath's objects that nobody outlined as tissue of a class: a core of a tissue microarray, the whole image.
NO_OUTLINES = {"tma_core", "root", "PathTMACoreObject", "TMACoreObject", "PathRootObject"}
# By a key that is in no other format.
FOREIGN = {
    "_via_img_metadata": "VGG Image Annotator",
    "categories": "COCO",
    "nuc": "HoVer-Net",
    "_label_config": "Label Studio",
}


def read_json(path: Path) -> Drawing:
    """Read the drawing of a JSON or GeoJSON file.

    Raises:
        ValueError, KeyError, TypeError: none of the formats, or broken.
        OSError: not readable.
    """
    content = json.loads(path.read_bytes())  # bytes: JSON's own rules find UTF-8, UTF-16 and byte order marks
    if isinstance(content, list):
        return Drawing([shape for each in content for shape in _object(each)])
    if not isinstance(content, dict):
        raise TypeError(f"{str(content)[:40]!r} is no GeoJSON")
    if "type" not in content and ("positive" in content or "negative" in content):
        return Drawing(list(_ncrf(content)))
    if "shapes" in content:
        return Drawing(list(_labelme(content)), _image_size(content))
    for key, tool in FOREIGN.items():
        if key in content:
            raise ValueError(f"this is {tool}'s JSON, which is not read. Export GeoJSON instead")
    return Drawing(list(_object(content)))


def _ncrf(content: Mapping[str, Any]) -> Iterator[Shape]:
    for group in ("positive", "negative"):
        for outline in content.get(group, []):
            yield Shape(group, (vertices(outline["vertices"]),), is_hole=group == "negative")


def _object(value: Any) -> Iterator[Shape]:
    """Yield the shapes of a FeatureCollection, a Feature or a bare geometry."""
    if not isinstance(value, dict):
        raise TypeError(f"{str(value)[:40]!r} is no GeoJSON object")
    if "features" in value:
        for feature in value["features"]:
            yield from _object(feature)
    elif "geometry" in value or value.get("type") == "Feature":
        properties = value.get("properties") or {}
        if NO_OUTLINES & {str(properties.get("objectType")), str(properties.get("object_type")), str(value.get("id"))}:
            yield Shape("", what="TMA core")
        else:
            yield from _geometry(value.get("geometry"), _class_of(properties))
    elif "type" in value and ("coordinates" in value or "geometries" in value):
        yield from _geometry(value, "")
    else:
        keys = ", ".join(map(str, list(value)[:5])) or "none"
        raise ValueError(f"neither GeoJSON, nor NCRF's lists, nor LabelMe's JSON (its keys: {keys}). Export GeoJSON")


def _class_of(properties: Any) -> str:
    """Return the class of a feature, "" if it has none; QuPath's derived classes as "Tumor: Positive"."""
    if not isinstance(properties, dict):
        raise TypeError(f"properties are {str(properties)[:40]!r}, no object")
    # QuPath's `name` is what somebody called this one outline; its class is in `classification` or nowhere.
    is_qupath = bool(properties.keys() & {"classification", "objectType", "object_type", "isLocked"})
    for key in CLASS_KEYS[:1] if is_qupath else CLASS_KEYS:
        if (value := properties.get(key)) not in (None, "", {}, []):
            return _name_of(value)
    return ""


def _name_of(value: Any) -> str:
    if isinstance(value, dict):
        value = value.get("names") or value.get("name") or ""
    return ": ".join(str(part) for part in value) if isinstance(value, list) else str(value)


def _geometry(geometry: Any, group: str) -> Iterator[Shape]:
    if geometry is None:
        yield Shape(group, what="null geometry")
        return
    kind = geometry["type"]
    if kind == "GeometryCollection":
        for part in geometry["geometries"]:
            yield from _geometry(part, group)
    elif kind in MARKS:
        yield Shape(group, what=kind)
    elif kind in AREAS:
        yield from _polygons(geometry["coordinates"], group)
    else:
        raise ValueError(f"a geometry of type {kind!r} is unknown; Polygon, MultiPolygon and GeometryCollection are read")


def _polygons(coordinates: Any, group: str) -> Iterator[Shape]:
    """Yield the polygons of nested lists: of positions, of rings, or of polygons."""
    depth = _depth(coordinates)
    if depth == 0:
        yield Shape(group, what="empty coordinates")
    elif depth == 1:
        raise ValueError(f"a polygon's coordinates are {str(coordinates)[:40]}, no list of vertices")
    elif depth == 2:
        yield Shape(group, (vertices(coordinates, closed=True),))
    elif depth == 3:
        yield Shape(group, tuple(vertices(ring, closed=True) for ring in coordinates if ring))
    else:
        for part in coordinates:
            yield from _polygons(part, group)


def _depth(value: Any) -> int:
    """Return how many lists are around the numbers, 0 where there is none."""
    if value is None:
        return 0
    if not isinstance(value, list):
        raise TypeError(f"coordinates are {str(value)[:40]!r}, no list")
    if value and not isinstance(value[0], list):
        return 1
    return max((1 + depth for each in value if (depth := _depth(each))), default=0)


def _labelme(content: Mapping[str, Any]) -> Iterator[Shape]:
    for shape in content["shapes"]:
        kind, group = shape.get("shape_type") or "polygon", str(shape.get("label") or "")
        if kind == "mask":
            raise ValueError("LabelMe's masks are not read. Make them polygons in LabelMe, or export GeoJSON")
        if kind not in ("polygon", "rectangle", "circle", "oriented_rectangle", "rotation"):
            yield Shape(group, what=str(kind))
            continue
        xy = vertices(shape["points"])
        if kind == "rectangle" and len(xy) == 2:
            xy = rectangle(xy)
        elif kind == "circle" and len(xy) == 2:  # the centre, and a point on the line
            xy = ellipse(xy[0], np.full(2, np.hypot(*(xy[1] - xy[0]))))
        yield Shape(group, (xy,))


def _image_size(content: Mapping[str, Any]) -> tuple[float, float] | None:
    width, height = content.get("imageWidth"), content.get("imageHeight")
    return (float(width), float(height)) if width and height else None
