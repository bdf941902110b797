from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile

from shards.errors import InputError
from shards.tiling.pyramid import choose_level, open_pyramid
from shards.tiling.slide_reader import open_slide
from tests.paths import CMU, FROZEN, needs_slides


def write_tiff(path: Path, pixels: np.ndarray, per_cm: tuple[float, float] = (20_000, 20_000), levels: int = 1) -> None:
    """Write a lossless tiled TIFF; level l is every 2^l-th pixel, so that levels can be told apart."""
    with tifffile.TiffWriter(path) as tiff:
        for level in range(levels):
            tiff.write(
                np.ascontiguousarray(pixels[:: 2**level, :: 2**level]),
                tile=(64, 64),
                photometric="rgb",
                subfiletype=1 if level else 0,
                resolution=per_cm,
                resolutionunit="CENTIMETER",
                metadata=None,
            )


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (256, 320, 3), dtype=np.uint8)


def test_reads_level_0_exactly(tmp_path: Path, pixels: np.ndarray) -> None:
    write_tiff(tmp_path / "a.tiff", pixels)
    with open_slide(tmp_path / "a.tiff") as slide:
        assert (slide.width, slide.height, slide.needs_mpp) == (320, 256, True)
        assert slide.told == (pytest.approx(0.5), "header", "")
        patch = slide.read(60, 100, 50, 50)
    assert patch.flags.c_contiguous
    np.testing.assert_array_equal(patch, pixels[100:150, 60:110])


def test_shrinks_by_the_mean_of_the_area_from_a_level_at_least_as_fine(tmp_path: Path, pixels: np.ndarray) -> None:
    write_tiff(tmp_path / "one.tiff", pixels)
    write_tiff(tmp_path / "two.tiff", pixels, levels=2)
    square = pixels[64:192, 64:192]
    with open_pyramid(tmp_path / "one.tiff") as slide:
        expected = square.reshape(64, 2, 64, 2, 3).astype(float).mean(axis=(1, 3))
        np.testing.assert_allclose(slide.read(64, 64, 128, 64), expected, atol=0.51)
    with open_pyramid(tmp_path / "two.tiff") as slide:
        np.testing.assert_array_equal(slide.read(64, 64, 128, 64), square[::2, ::2])  # level 1 as it is
        fine = slide.read(64, 64, 128, 80).astype(float)  # 1.6: level 1 would be too coarse
        assert abs(fine.mean() - square.mean()) < 1
        assert fine.std() < 0.8 * square.std()  # means of noise, where level 1 has single pixels


@pytest.mark.parametrize(
    ("wanted", "level"), [(0.8, 0), (1, 0), (3.9, 0), (4, 1), (4.0001, 1), (15, 1), (16, 2), (500, 3)]
)
def test_the_coarsest_level_that_is_fine_enough(wanted: float, level: int) -> None:
    assert choose_level((1.0, 4.0, 16.0001, 32.002), wanted) == level


def test_a_thumbnail_in_blocks_is_the_shrunk_slide(
    tmp_path: Path, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiff(tmp_path / "a.tiff", pixels)
    with open_pyramid(tmp_path / "a.tiff") as slide:
        whole, level0_per_px = slide.thumbnail(80)
        monkeypatch.setattr("shards.tiling.pyramid.BLOCK_PX", 64)
        blocks, _ = slide.thumbnail(80)
        odd, odd_scale = slide.thumbnail(100)
    assert level0_per_px == 4
    np.testing.assert_array_equal(whole, blocks)
    np.testing.assert_allclose(whole, pixels.reshape(64, 4, 80, 4, 3).astype(float).mean(axis=(1, 3)), atol=0.51)
    assert odd.shape == (64, 80, 3)
    assert odd_scale == 4


def test_pixels_that_are_not_square_are_refused(tmp_path: Path, pixels: np.ndarray) -> None:
    write_tiff(tmp_path / "a.tiff", pixels, per_cm=(20_000, 18_000))
    with open_pyramid(tmp_path / "a.tiff") as slide, pytest.raises(InputError, match="not square"):
        assert slide.told


def test_outside_is_an_error_of_the_caller(tmp_path: Path, pixels: np.ndarray) -> None:
    write_tiff(tmp_path / "a.tiff", pixels)
    with open_pyramid(tmp_path / "a.tiff") as slide, pytest.raises(ValueError, match="outside the image of 320 x 256"):
        slide.read(300, 0, 21, 21)


@needs_slides
def test_real_slides() -> None:
    with open_slide(CMU) as slide:
        assert (slide.width, slide.height, slide.told.mpp) == (2220, 2967, 0.499)
        patch = slide.read(1000, 1000, 448, 224)
        with openslide.OpenSlide(CMU) as plain:
            region = np.asarray(plain.read_region((1000, 1000), 0, (448, 448)).convert("RGB")).astype(float)
    np.testing.assert_allclose(patch, region.reshape(224, 2, 224, 2, 3).mean(axis=(1, 3)), atol=0.51)
    with open_slide(FROZEN) as slide:
        assert (slide.width, slide.height, slide.told.mpp) == (4443, 3567, None)


@needs_slides
def test_a_truncated_slide_and_a_text_file_are_named(tmp_path: Path) -> None:
    (tmp_path / "short.svs").write_bytes(CMU.read_bytes()[:700_000])
    (tmp_path / "text.svs").write_text("not a slide")
    for name, remedy in (("short.svs", "Copy the file anew"), ("text.svs", r"a text, .*Download the slide itself")):
        with pytest.raises(InputError, match=rf"{name}: .*{remedy}"), open_slide(tmp_path / name) as slide:
            slide.read(1900, 2700, 224, 224)
