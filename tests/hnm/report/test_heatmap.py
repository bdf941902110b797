"""Scores as maps: by hand on a small grid, and on a drawn whole slide whose tumour's outline is known."""

import json
import uuid
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import shapely

from hnm.report.heatmap import ScoredPatches, colour_place, draw_heatmap, geojson, overlap, positive_area, score_map
from shards.cohort.annotations import read_annotation
from shards.cohort.frame import Frame
from shards.cohort.truth import overlap_shares
from shards.drawn.drawn_slides import design_slide, write_asap, write_pyramid
from shards.seeding import numpy_generator
from shards.tiling.sites import grid_sites
from shards.tiling.slide_reader import open_slide

GRID = ScoredPatches(np.array([0, 10, 0, 10]), np.array([0, 0, 10, 10]), 10, np.array([0.1, 0.9, np.nan, 0.4]))


def test_the_map_has_the_score_where_the_patch_lies() -> None:
    scores = score_map(GRID, 8, 12, level0_per_px=2.5)  # a patch is 4 px; the map is wider than the patches
    np.testing.assert_allclose(scores[:4, :4], 0.1, rtol=1e-6)
    np.testing.assert_allclose(scores[:4, 4:8], 0.9, rtol=1e-6)
    np.testing.assert_allclose(scores[4:, 4:8], 0.4, rtol=1e-6)
    assert np.isnan(scores[4:, :4]).all()  # not scored
    assert np.isnan(scores[:, 8:]).all()  # no patch


def test_overlapping_patches_are_averaged_and_tiny_ones_are_a_pixel() -> None:
    half_over = ScoredPatches(np.array([0, 5]), np.array([0, 0]), 10, np.array([0.2, 0.6]))
    np.testing.assert_allclose(score_map(half_over, 10, 15, 1.0)[0], [0.2] * 5 + [0.4] * 5 + [0.6] * 5, rtol=1e-5)
    tiny = ScoredPatches(np.array([300]), np.array([0]), 10, np.array([0.7]))
    scores = score_map(tiny, 1, 5, 100.0)
    np.testing.assert_allclose(scores[0, 3], 0.7)
    assert np.isfinite(scores).sum() == 1


def test_the_threshold_is_in_the_middle_of_the_scale() -> None:
    places = colour_place(np.array([0.0, 0.05, 0.1, 0.55, 1.0]), threshold=0.1)
    np.testing.assert_allclose(places, [0, 0.25, 0.5, 0.75, 1])
    assert np.isfinite(colour_place(np.array([0.0, 1.0]), 0.0)).all()
    assert np.isfinite(colour_place(np.array([0.0, 1.0]), 1.0)).all()


def test_area_and_overlap_by_hand() -> None:
    area = positive_area(GRID, 0.4)  # at or above; NaN is not
    assert area.equals(shapely.box(10, 0, 20, 20))
    assert overlap(area, shapely.box(10, 0, 30, 10)) == pytest.approx(100 / 300)
    assert overlap(area, shapely.box(50, 0, 60, 10)) == 0
    assert overlap(positive_area(GRID, 0.95), shapely.MultiPolygon()) is None


def assert_is_geojson_for_qupath(content: Any) -> None:
    """RFC 7946, and the members that QuPath reads (its class QuPathTypeAdapters)."""
    assert set(content) == {"type", "features"}
    assert content["type"] == "FeatureCollection"
    for feature in content["features"]:
        assert set(feature) == {"type", "id", "geometry", "properties"}
        assert feature["type"] == "Feature"
        assert str(uuid.UUID(feature["id"])) == feature["id"]
        assert set(feature["geometry"]) == {"type", "coordinates"}
        assert feature["geometry"]["type"] == "Polygon"
        for ring in feature["geometry"]["coordinates"]:
            assert len(ring) >= 4
            assert ring[0] == ring[-1]
            assert all(len(place) == 2 and all(type(number) is int for number in place) for place in ring)
            assert shapely.LinearRing(ring).is_ccw  # right-hand rule of an exterior ring
        properties = feature["properties"]
        assert properties["objectType"] in ("annotation", "detection", "cell", "tile")
        classification = properties["classification"]
        assert isinstance(classification["name"], str)
        assert len(classification["color"]) == 3
        assert all(type(value) is int and 0 <= value <= 255 for value in classification["color"])
        assert all(isinstance(value, float) for value in properties["measurements"].values())
    ids = [feature["id"] for feature in content["features"]]
    assert len(set(ids)) == len(ids)


def test_polygons_are_those_of_the_positive_patches(tmp_path: Path) -> None:
    content = json.loads(json.dumps(geojson(GRID, 0.4), allow_nan=False))
    assert_is_geojson_for_qupath(content)
    assert [feature["properties"]["measurements"] for feature in content["features"]] == [{"score": 0.9}, {"score": 0.4}]
    (tmp_path / "a.geojson").write_text(json.dumps(content))
    assert read_annotation(tmp_path / "a.geojson", [], None, False).area.equals(positive_area(GRID, 0.4))
    assert shapely.union_all(shapely.get_parts(shapely.from_geojson(json.dumps(content)))).equals(positive_area(GRID, 0.4))
    assert geojson(GRID, 0.95) == {"type": "FeatureCollection", "features": []}


def test_polygons_count_from_the_corner_of_the_scan() -> None:
    shifted = geojson(GRID, 0.8, frame=Frame("qupath", 4, 3))
    assert_is_geojson_for_qupath(shifted)
    (ring,) = shifted["features"][0]["geometry"]["coordinates"]
    assert ring[0] == [10 - 4, 0 - 3]
    assert geojson(GRID, 0.8, frame=Frame("level0")) == geojson(GRID, 0.8)


@pytest.fixture(scope="module")
def drawn_slide(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A whole slide of 768 px with a tumour, and its annotation."""
    folder = tmp_path_factory.mktemp("drawn")
    design = design_slide(768, 32, 0.45, 0.15, True, numpy_generator(5, "heatmap"))
    write_pyramid(folder / "slide.tiff", design, 0.5)
    write_asap(folder / "slide.xml", [("Tumor", design.regions[0])])
    return folder / "slide.tiff", folder / "slide.xml"


@pytest.mark.parametrize("thumbnail_px", [768, 200])
def test_the_picture_lies_on_the_drawn_tumour(drawn_slide: tuple[Path, Path], thumbnail_px: int) -> None:
    area = read_annotation(drawn_slide[1], [], None, False).area
    sites = grid_sites(768, 768, 16, 16)
    shares = overlap_shares(area, sites.x_level0, sites.y_level0, 16)
    patches = ScoredPatches(sites.x_level0, sites.y_level0, 16, shares)
    with open_slide(drawn_slide[0]) as slide:
        thumbnail, level0_per_px = slide.thumbnail(thumbnail_px)
    picture = draw_heatmap(thumbnail, level0_per_px, patches, 0.5)
    height, width = thumbnail.shape[:2]
    red, blue = (picture[:height, :width, channel].astype(int) for channel in (0, 2))
    called = cv2.medianBlur(((red - blue) > 6).astype(np.uint8), 3).astype(bool)  # orange: above the threshold
    outline = np.rint(shapely.get_coordinates(area) / level0_per_px).astype(np.int32)
    truly = cv2.fillPoly(np.zeros((height, width), np.uint8), [outline], 1).astype(bool)

    def iou(a: np.ndarray, b: np.ndarray) -> float:
        return float((a & b).sum() / (a | b).sum())

    assert iou(called, truly) > 0.85
    patch_px = round(16 / level0_per_px)
    for axis in (0, 1):
        for shift in (-patch_px, patch_px):  # a map that is off by one patch is seen to be worse
            assert iou(np.roll(called, shift, axis), truly) < iou(called, truly) - 0.04
    assert overlap(positive_area(patches, 0.5), area) > 0.88  # type: ignore[operator]


def test_the_annotation_is_drawn_and_the_picture_keeps_the_thumbnails_place() -> None:
    thumbnail = np.full((60, 90, 3), 200, np.uint8)
    plain = draw_heatmap(thumbnail, 1.0, GRID, 0.5)
    assert plain.shape[0] > 60
    assert plain.shape[1] >= 90
    assert (plain[40:60, 40:90] == 200).all()  # nothing lies there
    outlined = draw_heatmap(thumbnail, 1.0, GRID, 0.5, shapely.box(45, 30, 80, 55))
    assert (outlined[28:58, 43:83] != plain[28:58, 43:83]).any()
    assert (outlined[:25, :40] == plain[:25, :40]).all()
