"""Rings, holes and islands: against a raster that counts how many rings are around each pixel."""

from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.cohort.annotations import Annotation, read_annotation
from shards.cohort.shapes import cut_out, ellipse_in, polygon_of, vertices
from shards.cohort.truth import overlap_shares
from shards.tiling.sites import grid_sites
from tests.shards.cohort.drawings import feature, write_features

SIDE = 96


def square(left: float, top: float, side: float) -> np.ndarray:
    return np.array([(left, top), (left + side, top), (left + side, top + side), (left, top + side)], float)


def star(seed: int, centre: float, radius: float) -> np.ndarray:
    """Return a ring whose vertices lie between 0.8 and 1 radii from the centre."""
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    radii = radius * np.random.default_rng(seed).uniform(0.8, 1.0, len(angles))
    return centre + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def pixels_in(ring: np.ndarray) -> np.ndarray:
    """Return (SIDE, SIDE) bool: whose centres lie in the ring."""
    centres = np.arange(SIDE) + 0.5
    return np.asarray(shapely.contains_xy(shapely.Polygon(ring), *np.meshgrid(centres, centres)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("drawn")


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    depth=st.integers(1, 5),
    way=st.sampled_from(["features", "multipolygon", "one polygon", "classes", "rings as polygons"]),
    size=st.sampled_from([8, 12, 24]),
)
def test_truth_shares_follow_rasterised_rings_with_holes_and_islands(
    folder: Path, seed: int, depth: int, way: str, size: int
) -> None:
    """Rings nested in each other are by turns tumour and not, in whichever way the file says so."""
    rings = [star(seed + level, SIDE / 2, 44 * 0.7**level) for level in range(depth)]
    annotation = read_nested(folder / f"{way}.geojson", rings, way)
    counts = np.sum([pixels_in(ring) for ring in rings], axis=0)
    raster = counts % 2 == 1
    sites = grid_sites(SIDE, SIDE, size, size)
    shares = overlap_shares(annotation.area, sites.x_level0, sites.y_level0, size)
    expected = np.array(
        [raster[y : y + size, x : x + size].mean() for x, y in zip(sites.x_level0, sites.y_level0, strict=True)]
    )
    # Only pixels that an outline passes can be counted wrongly, each by less than one.
    lines = shapely.buffer(shapely.MultiLineString([[*ring, ring[0]] for ring in rings]), 0.7072)
    boxes = shapely.box(sites.x_level0, sites.y_level0, sites.x_level0 + size, sites.y_level0 + size)
    doubtful = shapely.area(shapely.intersection(lines, boxes)) / size**2
    assert (np.abs(shares - expected) <= doubtful + 1e-9).all()
    assert np.abs(shares - expected).mean() < 0.02


def read_nested(path: Path, rings: list[np.ndarray], way: str) -> Annotation:
    """Write rings that are nested in each other, and read what is positive."""
    closed = [[*ring.tolist(), ring[0].tolist()] for ring in rings]
    pairs = [closed[start : start + 2] for start in range(0, len(closed), 2)]
    if way == "features":
        features = [feature("Tumor", "Polygon", pair) for pair in pairs]
    elif way == "multipolygon":
        features = [feature("Tumor", "MultiPolygon", pairs)]
    elif way == "one polygon":
        features = [feature("Tumor", "Polygon", closed)]
    elif way == "rings as polygons":
        features = [feature("Tumor", "MultiPolygon", closed)]
    else:
        features = [feature(("Tumor", "Normal")[index % 2], "Polygon", [ring]) for index, ring in enumerate(closed)]
    return read_annotation(write_features(path, features), ["normal"], None, skip_bad_outlines=False)


def test_the_order_of_rings_and_a_doubled_hole_change_nothing() -> None:
    outside, hole, island = square(0, 0, 90), square(10, 10, 60), square(20, 20, 10)
    for rings in ([outside, hole, island], [outside, island, hole], [outside, hole, hole, island]):
        area, num_repaired = polygon_of(rings)
        assert (area.area, num_repaired) == (90**2 - 60**2 + 10**2, 1)
    assert polygon_of([outside, hole])[1] == 0
    assert polygon_of([square(0, 0, 10), square(20, 0, 10)])[0].area == 200  # side by side: both are the area
    assert polygon_of([square(0, 0, 10), square(5, 0, 10)])[0].area == 50  # a hole that reaches out


def test_a_cut_spares_what_lies_wholly_in_it_and_nothing_else() -> None:
    tumour, excluded = shapely.box(0, 0, 100, 100), shapely.box(20, 20, 80, 80)
    island, at_the_rim, double = shapely.box(40, 40, 50, 50), shapely.box(70, 70, 90, 90), shapely.box(20, 20, 80, 80)
    left = cut_out([tumour, island, at_the_rim, double], [excluded])
    assert [each.area for each in left] == [100**2 - 60**2, 100, 400 - 100, 0]


def test_an_ellipse_fills_the_box_of_its_corners() -> None:
    ring = ellipse_in(np.array([[10.0, 20.0], [50.0, 30.0]]))
    assert shapely.Polygon(ring).bounds == pytest.approx((10, 20, 50, 30), abs=0.02)
    assert shapely.Polygon(ring).area == pytest.approx(np.pi * 20 * 5, rel=1e-3)


def test_coordinates_that_are_none_are_refused() -> None:
    assert vertices([["1,5", "2.5"], [3, 4]]).tolist() == [[1.5, 2.5], [3, 4]]
    for pairs in ([[1, None]], [[1, "x"]], [[1, float("inf")]], [[1, 1e300]], [[True, 1]], [[1]]):
        with pytest.raises(ValueError, match=r"coordinate|convert|unpack"):
            vertices(pairs)
