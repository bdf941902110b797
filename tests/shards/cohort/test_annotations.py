import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import shapely

from shards.cohort.annotations import Annotation, read_annotation, require_on_slide
from shards.drawn.drawn_slides import write_asap
from shards.errors import InputError
from tests.paths import SHARED, needs_camelyon16

SQUARE = [[0, 0], [10, 0], [10, 10], [0, 10]]
HOLE = [[2, 2], [4, 2], [4, 4], [2, 4]]
BOW_TIE = [[0, 0], [10, 10], [10, 0], [0, 10]]


def read(path: Path, skip: bool = False, positive: list[str] | None = None) -> Annotation:
    return read_annotation(path, ["_2", "normal"], positive, skip)


def write(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


def feature(name: str | None, kind: str, coordinates: object) -> dict[str, object]:
    properties = {} if name is None else {"classification": {"name": name}}
    return {"type": "Feature", "geometry": {"type": kind, "coordinates": coordinates}, "properties": properties}


def test_asap_groups_and_the_order_of_vertices(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    write_asap(path, [("_0", np.array(SQUARE, float)), ("_2", np.array(HOLE, float))])
    assert read(path).area.area == 96
    shuffled = path.read_text().replace('Order="1"', 'Order="9"').replace('Order="2"', 'Order="1"')
    path.write_text(shuffled)  # 0, 2, 3, 1: the outline crosses itself
    assert read(path).num_repaired == 2


def test_outlines_of_the_ncrf_json(tmp_path: Path) -> None:
    content = {"positive": [{"name": "_0", "vertices": SQUARE}], "negative": [{"name": "_1", "vertices": HOLE}]}
    assert read(write(tmp_path / "a.json", content)).area.area == 96
    assert read(write(tmp_path / "a.json", {"positive": [], "negative": []})).area.is_empty


def test_qupath_geojson_with_holes_and_classes(tmp_path: Path) -> None:
    closed = [*SQUARE, SQUARE[0]], [*HOLE, HOLE[0]]
    features = [
        feature("Tumor", "Polygon", list(closed)),
        feature("Normal", "Polygon", [[[6, 6], [8, 6], [8, 8], [6, 8], [6, 6]]]),
        feature(None, "MultiPolygon", [[[[20, 20], [22, 20], [22, 22], [20, 22], [20, 20]]]]),
    ]
    path = write(tmp_path / "a.geojson", {"type": "FeatureCollection", "features": features})
    assert read(path).area.area == 96 - 4 + 4
    assert read(path, positive=["tumor"]).area.area == 96 - 4
    assert read(write(tmp_path / "list.geojson", features)).area.area == 96
    line = read(write(tmp_path / "b.geojson", [feature("Tumor", "LineString", SQUARE)]))
    assert line.num_marks == 1
    assert "nothing with an area that would be positive, only: LineString" in line.problem


def test_points_of_positive_classes(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("x,y,class\n1,2,tumour\n3,4.5,Normal\n5,6,other\n")
    assert read(tmp_path / "p.csv").points_level0.tolist() == [[1, 2], [5, 6]]
    assert read(tmp_path / "p.csv", positive=["Tumour"]).points_level0.tolist() == [[1, 2]]


def test_two_vertices_are_refused_or_counted(tmp_path: Path) -> None:
    content = {"positive": [{"vertices": SQUARE}, {"vertices": SQUARE[:2]}], "negative": []}
    path = write(tmp_path / "a.json", content)
    with pytest.raises(InputError, match=r"a\.json: an outline .* has 2 vertices.*tile\.skip_bad_outlines=true"):
        read(path)
    annotation = read(path, skip=True)
    assert (annotation.num_left_out, annotation.area.area) == (1, 100)


def test_an_outline_that_crosses_itself_is_repaired_and_counted(tmp_path: Path) -> None:
    annotation = read(write(tmp_path / "a.json", {"positive": [{"vertices": BOW_TIE}], "negative": []}))
    assert annotation.num_repaired == 1
    assert annotation.area.is_valid
    assert annotation.area.area == pytest.approx(50)


def test_an_annotation_beyond_the_slide_is_refused() -> None:
    annotation = Annotation(shapely.box(10, 10, 101, 90))
    require_on_slide(annotation, Path("a.xml"), 100, 100)
    with pytest.raises(
        InputError, match=r"a\.xml: reaches \(101, 90\), outside of the slide's 99 x 100 .*another slide"
    ):
        require_on_slide(annotation, Path("a.xml"), 99, 100)
    with pytest.raises(InputError, match=r"reaches \(-5, 3\)"):
        require_on_slide(Annotation(shapely.MultiPolygon(), np.array([[-5.0, 3.0]])), Path("p.csv"), 99, 100)


@pytest.mark.parametrize(
    ("name", "text", "part"),
    [
        ("a.xml", "<ASAP", "Export it anew"),
        ("a.json", "{", "Export it anew"),
        ("a.json", '{"positive": [{"vertices": [[1, "x"], [2, 3], [3, 4]]}]}', "Export it anew"),
        ("a.json", '{"positive": [{"vertices": [[1, NaN], [2, 3], [3, 4]]}]}', "not finite"),
        ("a.txt", "", r"\.xml \(ASAP, Aperio ImageScope, HALO\).*\.geojson \(QuPath.*convert it"),
        ("a.ndpa", "", "NDP.view's, in nanometres.*export GeoJSON"),
    ],
)
def test_what_is_no_annotation_is_named(tmp_path: Path, name: str, text: str, part: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=part):
        read(tmp_path / name)
    with pytest.raises(InputError, match="there is no such annotation"):
        read(tmp_path / "absent.xml")


@needs_camelyon16
def test_the_real_outlines_of_camelyon16(tmp_path: Path) -> None:
    paths = camelyon16(tmp_path)
    assert len(paths) == 110
    with pytest.raises(InputError, match=r"Tumor_054\.json: an outline .* has 2 vertices"):
        read(paths["Tumor_054"])
    annotations = [read(path, skip=True) for name, path in paths.items() if name[-1] in "46"]  # all take half a minute
    assert all(annotation.area.area > 0 and annotation.area.is_valid for annotation in annotations)
    assert sum(annotation.num_left_out for annotation in annotations) == 1
    assert sum(annotation.num_repaired for annotation in annotations) == 106
    assert not any(annotation.problem for annotation in annotations)
    assert all(read(path).area.is_empty for path in sorted((tmp_path / "jsons").rglob("Normal_*.json"))[:5])


@needs_camelyon16
def test_tumour_in_an_excluded_area_counts_in_the_two_official_outlines_that_have_it(tmp_path: Path) -> None:
    paths = camelyon16(tmp_path)
    for name, islands in (("Tumor_088", 6_228), ("Tumor_110", 183_098.5)):
        area = read(paths[name], skip=True).area
        content = json.loads(paths[name].read_text())
        solids, holes = (
            shapely.union_all([shapely.make_valid(shapely.Polygon(each["vertices"])) for each in content[kind]])
            for kind in ("positive", "negative")
        )
        assert area.area - shapely.difference(solids, holes).area == pytest.approx(islands)


@needs_camelyon16
def test_the_other_official_outlines_are_worth_what_they_were(tmp_path: Path) -> None:
    for name, path in camelyon16(tmp_path).items():
        if name[-1] != "6":  # all take half a minute
            continue
        content = json.loads(path.read_text())
        solids, holes = (
            shapely.union_all([shapely.make_valid(shapely.Polygon(each["vertices"])) for each in content[kind]])
            for kind in ("positive", "negative")
        )
        assert read(path, skip=True).area.area == pytest.approx(shapely.difference(solids, holes).area)


def camelyon16(folder: Path) -> dict[str, Path]:
    with tarfile.open(SHARED / "camelyon16" / "annotations_json.tar.xz") as tar:
        tar.extractall(folder, filter="data")
    return {path.stem: path for path in sorted((folder / "jsons").rglob("Tumor_*.json"))}
