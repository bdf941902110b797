from pathlib import Path

import numpy as np
import openslide
import pytest

from shards.cohort.annotations import read_annotation
from shards.cohort.slides import read_slides
from shards.drawn.drawn_slides import draw_tile, make_whole_slides
from shards.errors import InputError


@pytest.fixture(scope="module")
def slides_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_whole_slides(tmp_path_factory.mktemp("drawn"), 6, 640, 32, seed=0)


def test_the_slides_are_pyramids_with_an_mpp(slides_csv: Path) -> None:
    slides = read_slides(slides_csv)
    assert [slide.labels["label"] for slide in slides] == [0, 1, 0, 1, 0, 1]
    assert {slide.splits["split"] for slide in slides} == {"train", "validation", "test"}
    with openslide.OpenSlide(slides[1].path) as slide:
        assert slide.level_dimensions == ((640, 640), (320, 320), (160, 160), (80, 80))
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.5)


def test_levels_show_the_same_and_half_is_glass(slides_csv: Path) -> None:
    with openslide.OpenSlide(read_slides(slides_csv)[1].path) as slide:
        fine, coarse = (
            np.asarray(slide.read_region((0, 0), level, slide.level_dimensions[level]).convert("RGB")).astype(float)
            for level in (0, 2)
        )
    grey = fine.reshape(160, 4, 160, 4, 3).mean(axis=(1, 3, 4))
    assert np.abs(grey - coarse.mean(axis=2)).mean() < 5  # JPEG's loss is 3.7; a shift by a pixel gives 9
    assert 0.35 < (fine.min(axis=2) < 225).mean() < 0.5


def test_only_positive_slides_have_an_outline_and_it_is_where_the_tumour_is(slides_csv: Path) -> None:
    slides = read_slides(slides_csv)
    assert [slide.annotation is not None for slide in slides] == [False, True] * 3
    path = slides[1].annotation
    assert path is not None
    area = read_annotation(path, [], None, False).area
    assert area.area == pytest.approx(0.45 * 0.12 * 640**2, rel=0.05)
    left, top, right, bottom = area.bounds
    with openslide.OpenSlide(slides[1].path) as slide:
        x, y = int((left + right) / 2) - 8, int((top + bottom) / 2) - 8
        tissue = np.asarray(slide.read_region((x, y), 0, (16, 16)).convert("RGB"))
    assert tissue.mean() < 225


def test_the_same_arguments_give_the_same_bytes(tmp_path: Path, slides_csv: Path) -> None:
    again = make_whole_slides(tmp_path / "again", 6, 640, 32, seed=0).parent
    other = make_whole_slides(tmp_path / "other", 6, 640, 32, seed=1).parent
    for name in ("slides.csv", "slides/slide-001.tiff", "annotations/slide-001.xml"):
        assert (again / name).read_bytes() == (slides_csv.parent / name).read_bytes()
    assert (other / "slides/slide-001.tiff").read_bytes() != (again / "slides/slide-001.tiff").read_bytes()


def test_mimics_are_outlined_on_every_slide_and_are_not_the_tumour(tmp_path: Path) -> None:
    for slide in read_slides(make_whole_slides(tmp_path, 6, 352, 32, seed=0, mimic_share=0.1)):
        assert slide.annotation is not None
        tumour, mimics = (read_annotation(slide.annotation, [], [group], False).area for group in ("Tumor", "Mimic"))
        assert tumour.is_empty == (slide.labels["label"] == 0)
        assert mimics.area == pytest.approx(0.45 * 0.1 * 352**2, rel=0.05)
        assert not mimics.intersects(tumour)


def test_tiles_meet_without_a_seam(slides_csv: Path) -> None:
    from shards.drawn.drawn_slides import design_slide
    from shards.seeding import numpy_generator

    slide = design_slide(2048, 32, 0.45, 0.12, True, numpy_generator(0, "seam"))
    left, right = draw_tile(slide, 256, 512, 1), draw_tile(slide, 512, 512, 1)
    assert left is not None
    assert right is not None
    across = np.abs(left[:, -1].astype(int) - right[:, 0]).mean()
    within = np.abs(np.diff(left.astype(int), axis=1)).mean()
    assert across < 3 * within + 2


@pytest.mark.parametrize(("side_px", "patch_px"), [(100, 32), (1000, 20)])
def test_bad_numbers_are_named(tmp_path: Path, side_px: int, patch_px: int) -> None:
    with pytest.raises(InputError, match=r"(side_px is 100|patch_px is 20)"):
        make_whole_slides(tmp_path, 6, side_px, patch_px, seed=0)
