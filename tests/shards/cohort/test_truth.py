import time
from itertools import product

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import affinity

from shards.cohort.annotations import Annotation
from shards.cohort.truth import PIECE_VERTICES, cut_into_pieces, overlap_shares, truth_of
from shards.tiling.sites import grid_sites


def star(num_vertices: int, seed: int, radius: float = 100.0) -> shapely.Geometry:
    random = np.random.default_rng(seed)
    angles = np.linspace(0, 2 * np.pi, num_vertices, endpoint=False)
    radii = radius * random.uniform(0.4, 1.0, num_vertices)
    return shapely.Polygon(110 + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1))


def rasterised_shares(area: shapely.Geometry, x: np.ndarray, y: np.ndarray, size: int) -> np.ndarray:
    """Return the share of pixels of each patch whose centre lies in the area."""
    centres = np.arange(0, 240) + 0.5
    inside = shapely.contains_xy(area, *np.meshgrid(centres, centres))
    return np.array([inside[top : top + size, left : left + size].mean() for left, top in zip(x, y, strict=True)])


@settings(max_examples=25)
@given(
    seed=st.integers(0, 1000),
    num_vertices=st.sampled_from([3, 7, 40, 300]),
    size=st.sampled_from([8, 20, 33]),
    has_hole=st.booleans(),
)
def test_shares_agree_with_rasterised_polygons_within_a_pixels_worth(
    seed: int, num_vertices: int, size: int, has_hole: bool
) -> None:
    area = star(num_vertices, seed)
    if has_hole:
        area = shapely.difference(area, star(9, seed + 1, radius=40.0))
    sites = grid_sites(240, 240, size, size)
    share = overlap_shares(area, sites.x_level0, sites.y_level0, size)
    raster = rasterised_shares(area, sites.x_level0, sites.y_level0, size)
    # Only pixels that the outline passes can be counted wrongly, each by less than one; they are at most those
    # within half a diagonal of it.
    boxes = shapely.box(sites.x_level0, sites.y_level0, sites.x_level0 + size, sites.y_level0 + size)
    doubtful = shapely.area(shapely.intersection(shapely.buffer(shapely.boundary(area), 0.7072), boxes))
    assert (np.abs(share - raster) <= doubtful / size**2 + 1e-9).all()
    assert np.abs(share - raster).mean() < 0.02
    assert share.sum() * size**2 == pytest.approx(shapely.intersection(area, shapely.union_all(boxes)).area)


def test_shares_by_hand() -> None:
    area = shapely.difference(shapely.box(5, 0, 20, 20), shapely.box(10, 10, 15, 20))
    x, y = (np.array(values) for values in zip(*product([0, 10], [0, 10]), strict=True))
    np.testing.assert_allclose(overlap_shares(area, x, y, 10), [0.5, 0.5, 1.0, 0.5])
    truth = truth_of(Annotation(area), x, y, 10, least_share=0.5)
    assert truth.tolist() == [1, 1, 1, 1]
    assert truth_of(Annotation(area), x, y, 10, least_share=0.51).tolist() == [0, 0, 1, 0]


def test_a_point_makes_its_patch_positive() -> None:
    annotation = Annotation(shapely.MultiPolygon(), np.array([[12.0, 3.0], [99.0, 99.0]]))
    assert truth_of(annotation, np.array([0, 10, 20]), np.array([0, 0, 0]), 10, 0.5).tolist() == [0, 1, 0]


def test_pieces_are_small_and_make_up_the_whole() -> None:
    area = shapely.difference(star(5000, 0), star(2000, 1, radius=30.0))
    pieces = cut_into_pieces(area)
    assert max(shapely.get_num_coordinates(piece) for piece in pieces) <= PIECE_VERTICES
    assert sum(piece.area for piece in pieces) == pytest.approx(area.area)


def test_shares_move_with_the_slide() -> None:
    area, sites = star(50, 3), grid_sites(240, 240, 20, 20)
    moved = affinity.translate(area, 1000, 2000)
    expected = overlap_shares(area, sites.x_level0, sites.y_level0, 20)
    np.testing.assert_allclose(overlap_shares(moved, sites.x_level0 + 1000, sites.y_level0 + 2000, 20), expected)


def test_cost_grows_with_patches_plus_vertices() -> None:
    def seconds(num_vertices: int, num_a_side: int) -> float:
        area = affinity.scale(star(num_vertices, 0), 50, 50, origin=(0, 0))
        side = 11_000 // num_a_side
        sites = grid_sites(11_000, 11_000, side, side)
        begin = time.process_time()
        overlap_shares(area, sites.x_level0, sites.y_level0, side)
        return time.process_time() - begin

    # Spikes cross nearly every patch, the worst case. If each patch were cut out of the whole outline, the cost would be the
    # product of the two numbers: 50 times the sum below, not 2.
    assert seconds(10_000, 100) < 4 * (seconds(10_000, 10) + seconds(100, 100))
