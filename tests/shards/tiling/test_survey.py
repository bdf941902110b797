"""What is known of a slide before a patch is read."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from shards.cohort.slides import Slide
from shards.errors import InputError
from shards.tiling.sites import UNKNOWN, Points
from shards.tiling.slide_reader import PlainImage
from shards.tiling.survey import kept_patches, survey_slide, thumbnail_px, why_empty
from shards.tiling.tile_config import TileConfig
from shards.tiling.unit import SlideJob

GLASS, PINK = 244, (200, 120, 180)
CONFIG = TileConfig(patch_px=32, background=["otsu_saturation"])


def job_of(
    points: Points | None = None, mpp: float | None = None, annotation: Path | None = None, is_negative: bool = False
) -> SlideJob:
    slide = Slide("s", Path("s.png"), "p", {"label": 1}, {"split": "train"}, mpp, annotation)
    return SlideJob(slide, points, "fingerprint", is_negative)


@pytest.fixture
def image() -> PlainImage:
    """128 x 192 px of glass, tissue in the right third: columns of patches 4 and 5 of 6."""
    pixels = np.full((128, 192, 3), GLASS, np.uint8)
    pixels[:, 128:] = PINK
    return PlainImage(pixels)


def test_only_tissue_is_read(image: PlainImage) -> None:
    survey = survey_slide(image, job_of(), CONFIG)
    assert len(survey.sites) == 24
    assert set(survey.sites.x_level0[survey.candidates]) == {128, 160}
    assert set(survey.sites.truth) == {UNKNOWN}
    kept = dict(kept_patches(image, survey, CONFIG))
    assert list(kept) == survey.candidates.tolist()
    assert all((patch == PINK).all() for patch in kept.values())


def test_all_patches_of_a_negative_slide_are_negative(image: PlainImage) -> None:
    assert set(survey_slide(image, job_of(is_negative=True), CONFIG).sites.truth) == {0}


def test_an_annotation_gives_the_truth(image: PlainImage, tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    path.write_text('{"positive": [{"vertices": [[128, 0], [192, 0], [192, 40], [128, 40]]}]}')
    survey = survey_slide(image, job_of(annotation=path), CONFIG)
    positive = survey.sites.truth == 1
    assert sorted(zip(survey.sites.x_level0[positive], survey.sites.y_level0[positive], strict=True)) == [
        (128, 0),
        (160, 0),
    ]


def test_points_replace_the_grid(image: PlainImage) -> None:
    points = Points(np.array([[150.0, 60.0], [2.0, 2.0]]), np.array([1, 0], np.int8))
    survey = survey_slide(image, job_of(points), CONFIG)
    assert (survey.sites.x_level0.tolist(), survey.sites.y_level0.tolist()) == ([134], [44])  # the other is off the rim
    assert survey.sites.truth.tolist() == [1]


def test_the_table_knows_the_mpp_better_than_the_file_and_both_than_the_assumption() -> None:
    pixels = np.full((64, 64, 3), PINK, np.uint8)
    config = TileConfig(patch_px=16, mpp=1.0, assume_mpp=1.0)
    cases = [(0.25, 0.26, (0.25, "table", 64)), (None, 0.5, (0.5, "header", 32)), (None, None, (1.0, "assumed", 16))]
    for table, header, expected in cases:
        survey = survey_slide(PlainImage(pixels, header), job_of(mpp=table), config)
        assert (survey.source_mpp, survey.mpp_from, survey.patch_level0) == expected
    with pytest.raises(InputError, match="mpp"):
        survey_slide(PlainImage(pixels), job_of(), config.model_copy(update={"assume_mpp": None}))


def test_why_a_slide_is_empty() -> None:
    glass = PlainImage(np.full((64, 64, 3), GLASS, np.uint8))
    small = survey_slide(glass, job_of(), TileConfig(patch_px=65))
    assert "no patch of 65 level-0 px lies wholly inside its 64 x 64" in why_empty(small, glass)
    assert "no tissue on the thumbnail" in why_empty(survey_slide(glass, job_of(), CONFIG), glass)
    flat = PlainImage(np.full((64, 64, 3), PINK, np.uint8))
    config = TileConfig(patch_px=32, background=["canny_std"])
    survey = survey_slide(flat, job_of(), config)
    assert list(kept_patches(flat, survey, config)) == []
    assert why_empty(survey, flat) == "none of 4 patches read passed canny_std"


def test_stain_normalisation_brings_two_stains_together() -> None:
    random = np.random.default_rng(0)
    tissue = np.clip(random.normal(PINK, 25, (64, 64, 3)), 0, 255).astype(np.uint8)
    stains = tissue, cv2.convertScaleAbs(tissue, alpha=0.8)
    means = {}
    for stain in ("none", "reinhard"):
        config = TileConfig(patch_px=32, stain=stain)
        patches = [dict(kept_patches(s, survey_slide(s, job_of(), config), config))[0] for s in map(PlainImage, stains)]
        means[stain] = np.abs(patches[0].mean(axis=(0, 1)) - patches[1].mean(axis=(0, 1))).max()
    assert means["none"] > 20
    assert means["reinhard"] < 5


@pytest.mark.parametrize(
    ("longest", "patch", "expected"),
    [(100_000, 448, 2048), (2048, 224, 586), (500, 27, 1186), (704, 64, 704)],
)
def test_a_thumbnail_is_no_larger_than_its_patches_need(longest: int, patch: int, expected: int) -> None:
    assert thumbnail_px(longest, patch) == expected
