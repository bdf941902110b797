"""The drawn cohort: readable by `hnm tile`, repeatable, with connected tumours that colour alone does not give away."""

import csv
import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from shards.cohort.slides import read_slides
from shards.drawn.synthetic import (
    EPITHELIUM,
    LYMPHOCYTES,
    MIMIC,
    STROMA,
    TUMOUR,
    draw_slide,
    lay_out_tissue,
    make_cohort_images,
)
from shards.errors import InputError
from shards.tiling.sites import point_sites, read_points


def _rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _digest(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_tables_and_images_fit_together(tmp_path: Path) -> None:
    slides_csv = make_cohort_images(tmp_path, num_slides=6, tiles_per_side=5, patch_px=20, seed=0, tumour_share=0.2)
    slides = read_slides(slides_csv)
    assert [slide.labels["label"] for slide in slides] == [0, 1, 0, 1, 0, 1]
    for split in ("train", "validation", "test"):
        assert {s.labels["label"] for s in slides if s.splits["split"] == split} == {0, 1}
    points, num_unmatched = read_points(tmp_path / "points.csv", slides, "tumour")
    assert num_unmatched == 0
    for slide in slides:
        with Image.open(slide.path) as image:
            assert image.size == (100, 100)
            assert image.mode == "RGB"
        sites = point_sites(points[slide.slide_id], 100, 100, 20)
        assert sorted(zip(sites.x_level0, sites.y_level0, strict=True)) == [
            (x, y) for x in range(0, 100, 20) for y in range(0, 100, 20)
        ]
        assert sites.truth.sum() == (5 if slide.labels["label"] else 0)


def test_the_same_arguments_give_the_same_bytes(tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        make_cohort_images(tmp_path / name, num_slides=6, tiles_per_side=3, patch_px=16, seed=seed)
    a, b, c = (_digest(tmp_path / name) for name in "abc")
    assert len(a) == 8
    assert a == b
    assert a.keys() == c.keys()
    assert all(a[name] != c[name] for name in a if name.endswith(".png"))


@pytest.mark.parametrize("seed", range(10))
def test_a_tumour_is_one_connected_region_of_the_asked_size(seed: int) -> None:
    tissue = lay_out_tissue(8, 0.15, True, np.random.default_rng(seed))
    tiles = {(int(row), int(column)) for row, column in np.argwhere(tissue == TUMOUR)}
    assert len(tiles) == 10
    reached, frontier = set(), {min(tiles)}
    while frontier:
        row, column = frontier.pop()
        reached.add((row, column))
        near = {(row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)}
        frontier |= (near & tiles) - reached
    assert reached == tiles


def test_a_negative_slide_has_no_tumour_but_the_distractors() -> None:
    tissue = lay_out_tissue(10, 0.15, False, np.random.default_rng(0))
    assert set(np.unique(tissue)) == {STROMA, LYMPHOCYTES, EPITHELIUM}


def test_tissue_is_pink_with_dark_purple_nuclei() -> None:
    pixels = np.asarray(draw_slide(np.full((6, 6), LYMPHOCYTES, np.int8), 32, np.random.default_rng(1))).astype(float)
    red, green, blue = pixels.reshape(-1, 3).T
    stroma, nuclei = green > np.quantile(green, 0.6), green < np.quantile(green, 0.05)
    assert (red - green)[stroma].mean() > 15
    assert (blue - green)[nuclei].mean() > 10
    assert red[stroma].mean() - red[nuclei].mean() > 60


def test_colour_alone_does_not_tell_tumour_from_normal(tmp_path: Path) -> None:
    make_cohort_images(tmp_path, num_slides=20, tiles_per_side=8, patch_px=32, seed=1)
    slide_means, labels, tile_means, truths = [], [], [], []
    tile_truth = [row["class"] == "tumour" for row in _rows(tmp_path / "points.csv")]
    for number, row in enumerate(_rows(tmp_path / "slides.csv")):
        brightness = np.asarray(Image.open(tmp_path / row["path"]).convert("L")).astype(float)
        slide_means.append(brightness.mean())
        labels.append(int(row["label"]))
        if row["label"] == "1":
            tile_means += list(brightness.reshape(8, 32, 8, 32).mean(axis=(1, 3)).ravel())
            truths += tile_truth[number * 64 : (number + 1) * 64]
    assert 0.2 < roc_auc_score(labels, slide_means) < 0.8
    assert 0.5 < roc_auc_score(truths, -np.array(tile_means)) < 0.9


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_slides", 5), ("tiles_per_side", 1), ("patch_px", 27), ("patch_px", 8), ("tumour_share", 0.9),
        ("mimic_share", 0.3), ("num_sites", 0),
    ],
)
def test_numbers_out_of_range_are_refused(tmp_path: Path, key: str, value: float) -> None:
    arguments: dict[str, float] = {"num_slides": 6, "tiles_per_side": 3, "patch_px": 16, "seed": 0, key: value}
    with pytest.raises(InputError, match=f"{key} is {value}"):
        make_cohort_images(tmp_path, **arguments)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_mimics_are_single_tiles_of_the_slide_without_them() -> None:
    plain = lay_out_tissue(10, 0.15, True, np.random.default_rng(5))
    tissue = lay_out_tissue(10, 0.15, True, np.random.default_rng(5), mimic_share=0.04)
    changed = tissue != plain
    assert changed.sum() == 4
    assert set(tissue[changed]) == {MIMIC}
    assert TUMOUR not in plain[changed]


def test_a_mimic_is_a_tumour_but_for_its_paler_nuclei() -> None:
    tumour, mimic = (
        np.asarray(draw_slide(np.full((6, 6), kind, np.int8), 32, np.random.default_rng(2)).convert("L")).astype(float)
        for kind in (TUMOUR, MIMIC)
    )
    lighter = mimic - tumour  # the same nuclei at the same places, of the same size and shape
    assert lighter.min() >= -2
    nuclei = tumour < 130
    assert lighter[nuclei].mean() > 10
    assert np.median(lighter) == 0


def test_sites_and_splits_of_given_sizes(tmp_path: Path) -> None:
    sizes = (4, 2, 4)
    make_cohort_images(tmp_path, 10, 2, 32, seed=0, mimic_share=0.05, num_sites=2, split_sizes=sizes)
    rows = _rows(tmp_path / "slides.csv")
    assert [row["split"] for row in rows] == ["train"] * 4 + ["validation"] * 2 + ["test"] * 4
    assert [row["site"] for row in rows] == ["site-0", "site-0", "site-1", "site-1"] * 2 + ["site-0", "site-0"]
    assert [row["label"] for row in rows] == ["0", "1"] * 5
    assert sum(row["class"] == "mimic" for row in _rows(tmp_path / "points.csv")) == 10  # one a slide at least
    colours = np.array([np.asarray(Image.open(tmp_path / row["path"])).mean(axis=(0, 1)) for row in rows])
    of_site = [colours[[row["site"] == site for row in rows]] for site in ("site-0", "site-1")]
    apart = np.abs(of_site[0].mean(axis=0) - of_site[1].mean(axis=0)).max()
    assert apart > 2 * max(colours_of.std(axis=0).max() for colours_of in of_site)
    with pytest.raises(InputError, match="give three from 2 on, 10 together"):
        make_cohort_images(tmp_path, 10, 2, 32, seed=0, split_sizes=(4, 2, 3))
