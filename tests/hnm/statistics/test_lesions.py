import numpy as np
import pytest
import shapely
import shapely.affinity
from hypothesis import given, settings
from hypothesis import strategies as st

from hnm.statistics.lesions import lesions_of_area, lesions_of_patches, local_maxima, major_axis


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 7), st.integers(1, 7))
def test_peaks_are_those_of_a_loop_over_the_grid(seed: int, width: int, height: int) -> None:
    random = np.random.default_rng(seed)
    heat = random.integers(0, 4, (height, width)) / 4  # many ties
    kept = random.random((height, width)) < 0.8  # background is left out
    rows, columns = np.nonzero(kept)
    order = random.permutation(len(rows))
    rows, columns = rows[order], columns[order]
    scores = heat[rows, columns]
    expected = [
        i
        for i in range(len(rows))
        if not any(
            j != i
            and max(abs(rows[i] - rows[j]), abs(columns[i] - columns[j])) <= 1
            and (scores[j] > scores[i] or (scores[j] == scores[i] and j < i))
            for j in range(len(rows))
        )
    ]
    assert local_maxima(columns * 512, rows * 512, scores, 512).tolist() == expected


def test_a_single_patch_and_none() -> None:
    one = np.array([3])
    assert local_maxima(one, one, np.array([0.1]), 10).tolist() == [0]
    assert local_maxima(one[:0], one[:0], np.zeros(0), 10).tolist() == []


def test_positive_patches_that_touch_are_one_lesion() -> None:
    x, y = np.array([0, 10, 20, 50, 0, 60, 30]), np.array([0, 10, 20, 50, 50, 50, 30])
    truth = np.array([1, 1, 0, 1, -1, 1, 1], np.int8)
    lesions = lesions_of_patches(x, y, truth, 10)
    assert [lesion.area for lesion in lesions.areas] == pytest.approx([200, 200, 100])
    assert lesions.counted.all()
    assert lesions.areas[0].covers(shapely.Point(15, 15))


def test_a_lesion_is_widened_filled_joined_and_measured() -> None:
    # um as pixels: a ring with a hole, a bar 70 um from it that the margins join to it, a small island far away
    ring = shapely.box(0, 0, 400, 400) - shapely.box(150, 150, 250, 250)
    area = shapely.union_all([ring, shapely.box(470, 0, 500, 400), shapely.box(2000, 2000, 2100, 2100)])
    lesions = lesions_of_area(area, 1.0)
    big, small = sorted(lesions.areas, key=lambda lesion: -lesion.area)
    assert big.covers(shapely.Point(200, 200))
    assert big.covers(shapely.Point(435, 200))
    assert small.bounds == pytest.approx((1962.5, 1962.5, 2137.5, 2137.5))
    assert sorted(lesions.counted) == [False, True]  # 175 um, and the ellipse of its moments is 200: isolated cells
    assert lesions.counted[lesions.areas.index(big)]
    unknown = lesions_of_area(area, None)
    assert len(unknown.areas) == 3
    assert unknown.counted.all()
    assert len(lesions_of_area(shapely.MultiPolygon(), 1.0).areas) == 0


def test_the_major_axis_of_ellipses_and_rectangles() -> None:
    circle = shapely.Point(5e4, 7e4).buffer(1, quad_segs=200)
    ellipse = shapely.affinity.rotate(shapely.affinity.scale(circle, 30, 10), 37)
    assert major_axis(ellipse) == pytest.approx(60, rel=1e-3)
    assert major_axis(shapely.box(0, 0, 12, 5)) == pytest.approx(12 * 2 / np.sqrt(3))  # variance L^2 / 12
    assert major_axis(shapely.box(1e5, 1e5, 1e5 + 12, 1e5 + 5).reverse()) == pytest.approx(12 * 2 / np.sqrt(3))
