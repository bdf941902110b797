"""Outlines in XML: ASAP (Camelyon16 and 17), Aperio ImageScope, and HALO.

    ASAP              Annotation @Type @PartOfGroup > Coordinates > Coordinate @Order @X @Y;  Group @Name @PartOfGroup
    Aperio, HALO      Annotation @Name (a layer) > Regions > Region @Type @NegativeROA > Vertices > Vertex (HALO: V) @X @Y

HALO gives rectangle and ellipse by two corners of their box, so does ImageScope the ellipse. A region with NegativeROA is a
hole in the regions of its layer, or in all where it lies in none of these.
"""

import xml.etree.ElementTree
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from shards.cohort.shapes import Drawing, Shape, ellipse_in, number, rectangle, vertices

ASAP_AREAS = {"polygon", "spline", "rectangle", ""}
# ImageScope numbers the tools, HALO names them.
REGION_TYPES = {"0": "polygon", "1": "rectangle", "2": "ellipse", "3": "arrow", "4": "ruler"}
VERTICES = ("Coordinate", "Vertex", "V")
REGION_AREAS = {"polygon", "rectangle", "ellipse", ""}

Element = xml.etree.ElementTree.Element


def read_xml(path: Path) -> Drawing:
    """Read the drawing of an XML file.

    Raises:
        ValueError: none of the formats.
        ParseError, KeyError, OSError: broken.
    """
    root = xml.etree.ElementTree.parse(path).getroot()
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""
    if root.find(".//ndpviewstate") is not None or root.tag == "ndpviewstate":
        raise ValueError(
            "these are annotations of NDP.view, in nanometres from the slide's centre. Import them in QuPath and export GeoJSON"
        )
    annotations = list(root.iter("Annotation"))
    if any(annotation.find(".//Region") is not None for annotation in annotations):
        return Drawing(list(_regions(annotations)))
    if any(annotation.find(".//Coordinate") is not None for annotation in annotations):
        return Drawing(list(_asap(root, annotations)))
    if root.tag in ("ASAP_Annotations", "Annotations") and not any(each.tag in VERTICES for each in root.iter()):
        return Drawing([])  # nothing drawn: all three write that, ImageScope and HALO with empty layers
    raise ValueError(
        f"<{root.tag}> is neither ASAP's XML, nor Aperio ImageScope's, nor HALO's. Export in one of these, or as GeoJSON"
    )


def _asap(root: Element, annotations: list[Element]) -> Iterator[Shape]:
    parent_of = {group.get("Name", ""): group.get("PartOfGroup", "") for group in root.iter("Group")}
    for annotation in annotations:
        group = _path_of(annotation.get("PartOfGroup") or "", parent_of)
        kind = (annotation.get("Type") or "").strip()
        if kind.casefold() not in ASAP_AREAS:
            yield Shape(group, what=kind)
            continue
        coordinates = sorted(annotation.iter("Coordinate"), key=lambda each: number(each.get("Order", "0")))
        yield Shape(group, (vertices([(each.attrib["X"], each.attrib["Y"]) for each in coordinates]),))


def _path_of(group: str, parent_of: dict[str, str]) -> str:
    """Return a group with the groups that it is part of, the outermost first: "Tumor: core"."""
    path = [group]
    while (parent := parent_of.get(path[0], "")) not in ("", "None", *path):
        path.insert(0, parent)
    return ": ".join(path)


def _regions(annotations: list[Element]) -> Iterator[Shape]:
    for layer, annotation in enumerate(annotations):
        name = _layer_name(annotation)
        for region in annotation.iter("Region"):
            group = name or (region.get("Text") or "").strip()
            kind = (region.get("Type") or "").strip().casefold()
            kind = REGION_TYPES.get(kind, kind)
            if kind not in REGION_AREAS:
                yield Shape(group, what=kind)
                continue
            is_hole = (region.get("NegativeROA") or "0").strip().casefold() in ("1", "true")
            pairs = [(v.attrib["X"], v.attrib["Y"]) for v in region.iter() if v.tag in ("Vertex", "V")]
            ring = _region_ring(kind, vertices(pairs, closed=True))
            yield Shape(group, (ring,), is_hole=is_hole, layer=layer)


def _region_ring(kind: str, xy: np.ndarray) -> np.ndarray:
    if kind == "rectangle" and len(xy) == 2:
        return rectangle(xy)
    if kind == "ellipse" and len(xy) in (2, 4):
        return ellipse_in(xy)
    return xy


def _layer_name(annotation: Element) -> str:
    """Return the layer's name; ImageScope leaves it empty where only the attribute Description was filled in."""
    if name := (annotation.get("Name") or "").strip():
        return name
    for attribute in annotation.findall("./Attributes/Attribute"):
        if attribute.get("Name") == "Description" and (value := (attribute.get("Value") or "").strip()):
            return value
    return ""
