from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shards.errors import InputError
from shards.tiling.slide_reader import open_slide


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", ["slide.png", "slide.tif"])
def test_reads_squares_of_a_lossless_image(tmp_path: Path, pixels: np.ndarray, name: str) -> None:
    Image.fromarray(pixels).save(tmp_path / name)
    with open_slide(tmp_path / name) as slide:
        assert (slide.width, slide.height, slide.mpp) == (30, 20, None)
        patch = slide.read(22, 12, 8, 8)
    assert patch.dtype == np.uint8
    assert patch.flags.c_contiguous
    np.testing.assert_array_equal(patch, pixels[12:20, 22:30])


def test_reads_a_jpeg(tmp_path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(np.full_like(pixels, 200)).save(tmp_path / "slide.jpg")
    with open_slide(tmp_path / "slide.jpg") as slide:
        np.testing.assert_allclose(slide.read(0, 0, 20, 20), 200, atol=2)


def test_grey_becomes_rgb_and_transparent_becomes_white(tmp_path: Path) -> None:
    Image.new("L", (4, 4), 77).save(tmp_path / "grey.png")
    Image.new("RGBA", (4, 4), (9, 9, 9, 0)).save(tmp_path / "clear.png")
    with open_slide(tmp_path / "grey.png") as slide:
        assert np.all(slide.read(0, 0, 4, 4) == 77)
    with open_slide(tmp_path / "clear.png") as slide:
        assert np.all(slide.read(0, 0, 4, 4) == 255)


@pytest.mark.parametrize(("x", "y", "size"), [(-1, 0, 5), (0, -1, 5), (26, 0, 5), (0, 16, 5)])
def test_outside_is_an_error_of_the_caller(tmp_path: Path, pixels: np.ndarray, x: int, y: int, size: int) -> None:
    Image.fromarray(pixels).save(tmp_path / "slide.png")
    with open_slide(tmp_path / "slide.png") as slide, pytest.raises(ValueError, match="outside the image of 30 x 20"):
        slide.read(x, y, size, size)


def test_what_is_no_whole_image_is_named_with_its_remedy(tmp_path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(tmp_path / "whole.png")
    (tmp_path / "text.png").write_bytes(b"not an image")
    (tmp_path / "short.png").write_bytes((tmp_path / "whole.png").read_bytes()[:-400])
    with (
        pytest.raises(InputError, match=r"absent.png: there is no such file. Download it"),
        open_slide(tmp_path / "absent.png"),
    ):
        pass
    with pytest.raises(InputError, match=f"{tmp_path}: a folder"), open_slide(tmp_path):
        pass
    for name, remedy in (("text.png", "It is a text"), ("short.png", "Copy the file anew")):
        with pytest.raises(InputError, match=f"{name}: cannot be read .*{remedy}"), open_slide(tmp_path / name):
            pass


def test_sixteen_bits_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 4000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(InputError, match="8-bit RGB"), open_slide(tmp_path / "deep.png"):
        pass


def test_shrinking_is_the_mean_of_the_area(tmp_path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(tmp_path / "slide.png")
    with open_slide(tmp_path / "slide.png") as slide:
        patch = slide.read(4, 2, 16, 4)
        thumbnail, level0_per_px = slide.thumbnail(10)
    blocks = pixels[2:18, 4:20].reshape(4, 4, 4, 4, 3).astype(float).mean(axis=(1, 3))
    np.testing.assert_allclose(patch, blocks, atol=0.51)
    assert thumbnail.shape == (7, 10, 3)
    assert level0_per_px == 3
