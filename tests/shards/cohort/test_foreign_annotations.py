"""Formats of other tools: what they mean, and that no file, however odd, is a traceback or silently no tumour."""

import json
import xml.etree.ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from shards.cohort.annotations import Annotation, read_annotation, require_on_slide
from shards.errors import InputError
from tests.shards.cohort.drawings import box, feature, layers, region, write_features

NEGATIVE = ["_2", "exclusion", "normal", "negative"]
TUMOUR, INNER = box(0, 0, 100, 100), box(20, 20, 60, 60)
PLAIN = TUMOUR[:-1], INNER[:-1]


def read(path: Path, positive: list[str] | None = None, skip: bool = False) -> Annotation:
    return read_annotation(path, NEGATIVE, positive, skip)


def read_text(path: Path, text: str | bytes, positive: list[str] | None = None, skip: bool = False) -> Annotation:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read(path, positive, skip)


def test_layers_of_imagescope_with_a_hole_in_a_layer_of_its_own(tmp_path: Path) -> None:
    hole = region(PLAIN[1], Type="0", NegativeROA="1")
    text = layers([("Tumor", [region(PLAIN[0], Type="0", NegativeROA="0")]), ("hole", [hole])])
    annotation = read_text(tmp_path / "a.xml", text)
    assert annotation.area.area == 100**2 - 40**2
    assert {name: tally.role for name, tally in annotation.groups.items()} == {
        "Tumor": "positive",
        "hole (NegativeROA)": "cut out",
    }


def test_a_hole_belongs_to_the_regions_of_its_layer(tmp_path: Path) -> None:
    stroma = [region(PLAIN[0], Type="0"), region(PLAIN[1], Type="0", NegativeROA="1")]
    text = layers([("Stroma", stroma), ("Tumor", [region(PLAIN[1], Type="0")])])
    assert read_text(tmp_path / "a.xml", text, positive=["tumor"]).area.area == 40**2
    assert read_text(tmp_path / "a.xml", text).area.area == 100**2


def test_layers_of_halo_with_boxes_ellipses_and_marks(tmp_path: Path) -> None:
    regions = [
        region(box(0, 0, 100, 100), "V", Type="Polygon", HasEndcaps="0", NegativeROA="0"),
        region([(20, 20), (60, 60)], "V", Type="Rectangle", HasEndcaps="0", NegativeROA="1"),
        region([(30, 30), (50, 50)], "V", Type="Ellipse", HasEndcaps="0", NegativeROA="0"),
        region([(0, 0), (90, 90)], "V", Type="Ruler", HasEndcaps="1", NegativeROA="0"),
        region([(5, 5)], "V", Type="Pin", HasEndcaps="0", NegativeROA="0"),
    ]
    annotation = read_text(tmp_path / "a.annotations", layers([("Layer 1", regions)]))
    assert annotation.area.area == pytest.approx(100**2 - 40**2 + np.pi * 10**2, rel=1e-4)
    assert (annotation.num_marks, annotation.groups["Layer 1"].num_outlines) == (2, 2)


def test_asap_of_camelyon17_with_groups_in_groups_and_dots(tmp_path: Path) -> None:
    def annotation(kind: str, group: str, xy: Any) -> str:
        parts = [f'<Coordinate Order="{i}" X="{x}" Y="{y}"/>' for i, (x, y) in enumerate(xy)]
        coordinates = f"<Coordinates>{''.join(parts)}</Coordinates>"
        return f'<Annotation Name="a" Type="{kind}" PartOfGroup="{group}" Color="#F4FA58">{coordinates}</Annotation>'

    groups = '<Group Name="Exclusion" PartOfGroup="None"/><Group Name="fat" PartOfGroup="Exclusion"/>'
    drawn = [
        annotation("Polygon", "metastases", PLAIN[0]),
        annotation("Spline", "fat", [("20,0", "20,0"), (60, 20), (60, 60), (20, 60)]),
        annotation("Dot", "metastases", [(3, 3)]),
        annotation("PointSet", "None", [(1, 1), (2, 2), (9, 3)]),
    ]
    groups = f"<AnnotationGroups>{groups}</AnnotationGroups>"
    text = f"<ASAP_Annotations><Annotations>{''.join(drawn)}</Annotations>{groups}</ASAP_Annotations>"
    result = read_text(tmp_path / "a.xml", text)
    assert (result.area.area, result.num_marks) == (100**2 - 40**2, 2)
    assert result.groups["Exclusion: fat"].role == "cut out"


def test_labelme_shapes_and_the_size_of_the_image_they_were_drawn_on(tmp_path: Path) -> None:
    shapes = [
        {"label": "tumor", "points": PLAIN[0], "shape_type": "polygon"},
        {"label": "normal", "points": [[20, 20], [60, 60]], "shape_type": "rectangle"},
        {"label": "tumor", "points": [[40, 40], [40, 50]], "shape_type": "circle"},
        {"label": "tumor", "points": [[1, 1]], "shape_type": "point"},
    ]
    content = {"version": "5.4.1", "shapes": shapes, "imageWidth": 200, "imageHeight": 100}
    annotation = read_text(tmp_path / "a.json", json.dumps(content))
    assert annotation.area.area == pytest.approx(100**2 - 40**2 + np.pi * 10**2, rel=1e-3)
    assert annotation.num_marks == 1
    require_on_slide(annotation, tmp_path / "a.json", 200, 100)
    with pytest.raises(InputError, match=r"drawn on an image of 200 x 100 pixels, but the slide has 2000 x 1000"):
        require_on_slide(annotation, tmp_path / "a.json", 2000, 1000)
    shapes[0]["shape_type"] = "mask"
    with pytest.raises(InputError, match="LabelMe's masks are not read"):
        read_text(tmp_path / "a.json", json.dumps(content))


GEOMETRY = {"type": "Polygon", "coordinates": [TUMOUR]}
FEATURE = feature("Tumor", "Polygon", [TUMOUR])


@pytest.mark.parametrize(
    ("content", "num_marks"),
    [
        (GEOMETRY, 0),
        ([GEOMETRY], 0),
        (FEATURE, 0),
        ({"type": "Feature", "geometry": GEOMETRY}, 0),
        ({"type": "Feature", "geometry": GEOMETRY, "properties": None}, 0),
        ([FEATURE, {"type": "Feature", "geometry": None, "properties": {}}], 1),
        ([FEATURE, feature("Tumor", "Polygon", [])], 1),
        ([FEATURE, feature("Tumor", "MultiPolygon", [[]])], 1),
        ([FEATURE, feature("Ruler", "Point", [50, 50]), feature(None, "MultiPoint", [[1, 1]])], 2),
        (feature("Tumor", "Polygon", [[TUMOUR]]), 0),  # a MultiPolygon's depth
        (feature("Tumor", "MultiPolygon", [TUMOUR]), 0),  # a Polygon's depth
        (feature("Tumor", "Polygon", TUMOUR), 0),  # a ring's depth
        (feature("Tumor", "MultiPolygon", [[box(0, 0, 50, 100)], box(50, 0, 100, 100)]), 0),  # mixed
        (feature("Tumor", "Polygon", [[[*xy, 0] for xy in TUMOUR]]), 0),  # with z
        ([FEATURE, {**feature(None, "Polygon", [box(0, 0, 500, 500)]), "properties": {"objectType": "tma_core"}}], 1),
        ({"type": "FeatureCollection", "features": [{"type": "FeatureCollection", "features": [FEATURE]}]}, 0),
    ],
)
def test_areas_of_geojson_are_read_and_the_rest_is_counted(tmp_path: Path, content: object, num_marks: int) -> None:
    annotation = read_text(tmp_path / "a.geojson", json.dumps(content))
    assert (annotation.area.area, annotation.num_marks, annotation.problem) == (100**2, num_marks, "")
    for encoding in ("utf-8-sig", "utf-16"):
        assert read_text(tmp_path / "b.geojson", json.dumps(content).encode(encoding)).area.area == 100**2


def test_a_collection_is_its_areas(tmp_path: Path) -> None:
    line = {"type": "LineString", "coordinates": [[0, 0], [9, 9]]}
    geometry = {"type": "GeometryCollection", "geometries": [GEOMETRY, line]}
    content = {"type": "Feature", "geometry": geometry, "properties": {"classification": {"name": "Normal"}}}
    annotation = read_text(tmp_path / "a.geojson", json.dumps([content]))
    assert (annotation.area.area, annotation.num_marks, annotation.groups["Normal"].role) == (0, 1, "cut out")
    assert not annotation.problem


@pytest.mark.parametrize(
    ("name", "text", "part"),
    [
        ("a.json", '{"images": [], "categories": [], "annotations": []}', "COCO's JSON"),
        ("a.json", '{"a": 1, "b": 2}', "neither GeoJSON.*its keys: a, b"),
        ("a.json", "3", "is no GeoJSON"),
        ("a.geojson", '{"type": "Curve", "coordinates": []}', "geometry of type 'Curve' is unknown"),
        ("a.geojson", '{"type": "Polygon", "coordinates": [1, 2]}', "no list of vertices"),
        ("a.geojson", '{"type": "Polygon", "coordinates": [[[1, 2], [3, null], [5, 6]]]}', "no coordinate"),
        ("a.geojson", '{"type": "Polygon", "coordinates": {"x": 1}}', "no list"),
        ("a.xml", "<annotation><object><bndbox/></object></annotation>", "<annotation> is neither ASAP's"),
        ("a.xml", "<annotations><ndpviewstate/></annotations>", "NDP.view"),
        ("s.csv", "patient,stage\npatient_000.zip,pN0\n", "Camelyon17's table of stages"),
        ("s.csv", "Image,Class,Centroid X µm,Centroid Y µm\na,b,1,2\n", "QuPath's table of measurements"),
        ("s.csv", "x;y;class\n1;2;a\n", "not separated by commas"),
        ("s.csv", "slide_id,path\na,b\n", "a table of slides"),
    ],
)
def test_what_is_not_read_is_called_what_it_is(tmp_path: Path, name: str, text: str, part: str) -> None:
    with pytest.raises(InputError, match=part):
        read_text(tmp_path / name, text)
    annotation = read_text(tmp_path / name, text, skip=True)  # never "no tumour": unknown, and told
    assert annotation.area.is_empty
    assert part.split(".*")[0] in annotation.problem


def test_a_file_whose_outlines_are_all_left_out_is_unknown_not_empty(tmp_path: Path) -> None:
    two = [feature("Tumor", "Polygon", [TUMOUR[:2]])]
    annotation = read(write_features(tmp_path / "a.geojson", two), skip=True)
    assert annotation.num_left_out == 1
    assert "outline without an area" in annotation.problem
    flat = [feature("Tumor", "Polygon", [[[0, 0], [5, 5], [9, 9], [0, 0]]])]
    assert read(write_features(tmp_path / "a.geojson", flat)).problem
    assert not read(write_features(tmp_path / "a.geojson", [])).problem  # nothing was drawn
    assert not read(write_features(tmp_path / "a.geojson", [*two, FEATURE]), skip=True).problem


numbers = st.one_of(st.integers(-10, 200), st.floats(), st.none(), st.text(max_size=3), st.just(10**400), st.booleans())
positions = st.one_of(st.lists(st.integers(0, 100), min_size=2, max_size=3), st.lists(numbers, max_size=3))
rings = st.lists(positions, max_size=6)
nested = st.one_of(numbers, positions, rings, st.lists(rings, max_size=3), st.lists(st.lists(rings, max_size=2), max_size=3))
kinds = st.sampled_from(["Polygon", "MultiPolygon", "Point", "LineString", "GeometryCollection", "Curve", None, 3])
geometries = st.one_of(
    numbers,
    st.fixed_dictionaries({"type": kinds}, optional={"coordinates": nested, "geometries": nested}),
)
classes = st.one_of(numbers, st.lists(numbers), st.fixed_dictionaries({}, optional={"name": numbers, "names": st.lists(numbers)}))
properties = st.one_of(numbers, st.fixed_dictionaries({}, optional={"classification": classes, "label": classes}))
features = st.fixed_dictionaries({"type": st.just("Feature")}, optional={"geometry": geometries, "properties": properties})
contents = st.one_of(
    numbers,
    geometries,
    st.lists(features, max_size=4),
    st.fixed_dictionaries({}, optional={"type": st.just("FeatureCollection"), "features": st.lists(features, max_size=4)}),
    st.fixed_dictionaries({}, optional={"positive": nested, "negative": nested, "shapes": st.lists(features)}),
)
FUZZ = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def never_silent(path: Path) -> None:
    """A file is read, refused by an InputError, or its truth is unknown; drawn outlines are never lost without a word."""
    for skip in (False, True):
        try:
            annotation = read(path, skip=skip)
        except InputError:
            assert not skip
            continue
        told = annotation.groups or annotation.num_left_out or annotation.problem or len(annotation.points_level0)
        assert annotation.area.is_valid
        if not told:
            assert not has_coordinates(path)


def has_coordinates(path: Path) -> bool:
    if path.suffix == ".geojson":
        return "[[" in path.read_text().replace(" ", "").replace("[[]", "")
    return any(each.tag in ("Coordinate", "Vertex", "V") for each in xml.etree.ElementTree.parse(path).iter())


@FUZZ
@given(content=contents)
@example(content=[])
@example(content={"positive": "", "shapes": [feature("Tumor", "Polygon", [[0, 0]])]})
@example(content={"shapes": [], "features": [feature("Tumor", "Polygon", [TUMOUR])]})
def test_no_geojson_is_a_traceback_or_a_silent_zero(tmp_path: Path, content: object) -> None:
    path = tmp_path / "fuzz.geojson"
    path.write_text(json.dumps(content))
    never_silent(path)


tags = st.sampled_from(
    ["Annotation", "Annotations", "Regions", "Region", "Vertices", "Vertex", "V", "Coordinates", "Coordinate", "Group"]
)
names = st.sampled_from(["X", "Y", "Order", "Type", "Name", "PartOfGroup", "NegativeROA", "Text"])
values = st.sampled_from(["0", "1", "2", "5", "7.5", "1,5", "nan", "", "Polygon", "Ellipse", "Tumor", "normal"])


def elements(depth: int) -> st.SearchStrategy[str]:
    inside = st.lists(elements(depth - 1), max_size=4).map("".join) if depth else st.just("")
    words = st.dictionaries(names, values, max_size=4).map(lambda d: "".join(f' {k}="{v}"' for k, v in d.items()))
    return st.tuples(tags, words, inside).map(lambda parts: f"<{parts[0]}{parts[1]}>{parts[2]}</{parts[0]}>")


@settings(FUZZ, max_examples=100)  # deep trees take long to draw
@given(text=elements(4))
def test_no_xml_is_a_traceback_or_a_silent_zero(tmp_path: Path, text: str) -> None:
    path = tmp_path / "fuzz.xml"
    path.write_text(text)
    never_silent(path)


@FUZZ
@given(content=st.one_of(st.binary(max_size=60), st.text("xyclass,\n\r\";\t 019.-", max_size=60).map(str.encode)))
@example(content=b"x,y,class\n1,2,a\n")
@example(content=b"x,y,class\n1,inf,a\n")
def test_no_bytes_are_a_traceback(tmp_path: Path, content: bytes) -> None:
    for suffix in ("csv", "json", "xml", "annotations"):
        path = tmp_path / f"fuzz.{suffix}"
        path.write_bytes(content)
        for skip in (False, True):
            try:
                annotation = read(path, skip=skip)
            except InputError:
                assert not skip
                continue
            assert annotation.problem or annotation.groups or content.strip() in (b"[]",)
