from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.cohort.slides import Slide
from shards.errors import InputError
from shards.tiling.sites import Points, Sites, grid_sites, point_sites, read_points


def slide(slide_id: str, path: str) -> Slide:
    return Slide(slide_id, Path(path), slide_id, {"label": 1}, {}, None)


def points(*triples: tuple[float, float, int]) -> Points:
    array = np.array(triples, dtype=np.float64).reshape(-1, 3)
    return Points(array[:, :2], array[:, 2].astype(np.int8))


def as_tuples(sites: Sites) -> list[tuple[int, int, int]]:
    return list(zip(sites.x_level0.tolist(), sites.y_level0.tolist(), sites.truth.tolist(), strict=True))


def test_grid_by_hand() -> None:
    assert as_tuples(grid_sites(7, 5, 2, 3)) == [(0, 0, -1), (3, 0, -1), (0, 3, -1), (3, 3, -1)]


def test_no_grid_on_a_slide_smaller_than_a_patch() -> None:
    assert len(grid_sites(223, 5000, 224, 224)) == 0


@given(st.integers(0, 60), st.integers(0, 60), st.integers(1, 20))
def test_the_grid_covers_the_inside_region_exactly_once(width: int, height: int, patch: int) -> None:
    covered = np.zeros((height, width), np.int64)
    sites = grid_sites(width, height, patch, patch)
    for x, y, _ in as_tuples(sites):
        assert x + patch <= width
        assert y + patch <= height
        covered[y : y + patch, x : x + patch] += 1
    expected = np.zeros_like(covered)
    expected[: height // patch * patch, : width // patch * patch] = 1
    np.testing.assert_array_equal(covered, expected)
    assert (sites.x_level0.dtype, sites.truth.dtype) == (np.int32, np.int8)


def test_a_patch_is_centred_on_its_point() -> None:
    # 3 px: pixels 9, 10, 11 have their centre at 10.5; 4 px: pixels 8 to 11 have it at 10.
    assert as_tuples(point_sites(points((10.5, 20.5, 1)), 100, 100, 3)) == [(9, 19, 1)]
    assert as_tuples(point_sites(points((10.0, 20.0, 0)), 100, 100, 4)) == [(8, 18, 0)]


def test_a_point_is_kept_half_a_patch_from_the_edge_and_not_nearer() -> None:
    kept = point_sites(points((14, 14, 1), (13.9, 50, 1), (86, 86, 0), (86.1, 50, 1), (50, 99, 1)), 100, 100, 27)
    assert as_tuples(kept) == [(1, 1, 1), (73, 73, 0)]


def test_points_of_one_patch_are_one_site_positive_if_any_is() -> None:
    sites = point_sites(points((50, 50, -1), (30.1, 30, 0), (30.2, 30, 1), (30.3, 30, 0)), 100, 100, 4)
    assert as_tuples(sites) == [(48, 48, -1), (28, 28, 1)]


def test_no_points_no_sites() -> None:
    assert len(point_sites(points(), 100, 100, 4)) == 0


@given(st.lists(st.tuples(st.floats(-5, 60), st.floats(-5, 60), st.integers(-1, 1))), st.integers(1, 40))
def test_patches_at_points_are_inside_and_distinct(triples: list[tuple[float, float, int]], patch: int) -> None:
    sites = point_sites(points(*triples), 50, 40, patch)
    corners = [(x, y) for x, y, _ in as_tuples(sites)]
    assert len(set(corners)) == len(corners) <= len(triples)
    assert all(0 <= x <= 50 - patch and 0 <= y <= 40 - patch for x, y in corners)


def test_points_go_to_the_slide_of_that_name_or_file(tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    path.write_text("image,x,y,class\nA,1,2,tumour\nfile2,3.5,4,other\nA,5,6,other\nelsewhere,7,8,tumour\n")
    points_of, num_unmatched = read_points(path, [slide("A", "file1.png"), slide("B", "file2.png")], "tumour")
    np.testing.assert_array_equal(points_of["A"].xy_level0, [[1, 2], [5, 6]])
    np.testing.assert_array_equal(points_of["A"].truth, [1, 0])
    np.testing.assert_array_equal(points_of["B"].xy_level0, [[3.5, 4]])
    assert num_unmatched == 1


def test_a_slide_id_wins_over_another_file_of_that_name(tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    path.write_text("image,x,y,class\nA,1,2,tumour\n")
    points_of, _ = read_points(path, [slide("A", "x.png"), slide("B", "A.png")], "tumour")
    assert list(points_of) == ["A"]


def test_without_a_positive_class_the_truth_is_unknown(tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    path.write_text("image,x,y,class\nA,1,2,tumour\n")
    assert read_points(path, [slide("A", "x.png")], None)[0]["A"].truth.tolist() == [-1]


@pytest.mark.parametrize(
    ("row", "part"),
    [
        ("A,one,2,tumour", "row 3, column x: 'one'"),
        ("A,1,nan,tumour", "row 3, column y: 'nan'"),
        ("scan,1,2,tumour", r"row 3, column image: 'scan': the file name of several slides \(B, C\)"),
        ("A,1,2", "row 3: 3 cells"),
    ],
)
def test_a_bad_point_is_named(tmp_path: Path, row: str, part: str) -> None:
    path = tmp_path / "points.csv"
    path.write_text(f"image,x,y,class\nA,1,2,tumour\n{row}\n")
    slides = [slide("A", "x.png"), slide("B", "1/scan.png"), slide("C", "2/scan.png")]
    with pytest.raises(InputError, match=part):
        read_points(path, slides, "tumour")


def test_a_points_file_of_other_slides_or_without_the_class_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    path.write_text("image,x,y,class\nA,1,2,tumour\n")
    with pytest.raises(InputError, match="no image in it is a slide of the table, for example 'A'"):
        read_points(path, [slide("B", "b.png")], "tumour")
    with pytest.raises(InputError, match=r"no point has class 'Tumour'.*'tumour'"):
        read_points(path, [slide("A", "a.png")], "Tumour")


ODD = ["a", "b.x", "c", "tumour", "1", "-2.5", "nan", "1e999", '"', ",", "\n", "\0"]
CELLS = st.one_of(st.text(max_size=6), st.sampled_from(ODD))


@given(st.lists(st.lists(CELLS, min_size=3, max_size=5), max_size=5), st.sampled_from([None, "tumour"]))
def test_any_table_of_points_is_read_whole_or_refused(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]], positive_class: str | None
) -> None:
    path = tmp_path_factory.getbasetemp() / "points.csv"
    path.write_bytes("\n".join(["image,x,y,class", *map(",".join, rows)]).encode())
    try:
        of_slide, num_unmatched = read_points(path, [slide("a", "a.svs"), slide("b", "b.x.tif")], positive_class)
    except InputError as error:
        assert str(path) in str(error)  # noqa: PT017
    else:
        assert sum(len(its.truth) for its in of_slide.values()) > 0
        assert num_unmatched >= 0
        assert all(np.isfinite(its.xy_level0).all() for its in of_slide.values())
