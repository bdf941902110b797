"""Pixels come out in the right colours, or not at all: in pyramids as in plain images."""

from pathlib import Path
from typing import Any

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from shards.errors import InputError
from shards.tiling.slide_reader import PlainImage, open_slide

TOP, BOTTOM = (10, 220, 130), (200, 100, 50)
HALF = np.where(np.arange(256)[:, None, None] < 128, TOP, BOTTOM).astype(np.uint8).repeat(256, 1)  # (256, 256, 3)
PLANES = np.ascontiguousarray(np.moveaxis(HALF, -1, 0))
ONE = PLANES[0]
ALPHA = np.where(np.arange(256)[:, None] < 128, 128, 255).astype(np.uint8).repeat(256, 1)
PALETTE = np.zeros((3, 256), np.uint16)
PALETTE[:, 1], PALETTE[:, 2] = np.array(TOP) * 257, np.array(BOTTOM) * 257
BOTH = pytest.mark.parametrize("tile", [(128, 128), None], ids=["pyramid", "plain"])


def read(path: Path, pixels: np.ndarray, tile: tuple[int, int] | None, **how: Any) -> np.ndarray:
    tifffile.imwrite(path, pixels, tile=tile, metadata=None, **how)
    with open_slide(path) as slide:
        assert isinstance(slide, PlainImage) == (tile is None)
        return slide.read(0, 0, 256, 256)


@BOTH
@pytest.mark.parametrize(
    ("pixels", "how", "top", "bottom"),
    [
        (HALF, {"photometric": "rgb"}, TOP, BOTTOM),
        (PLANES, {"photometric": "rgb", "planarconfig": "separate"}, TOP, BOTTOM),
        (ONE, {"photometric": "minisblack"}, (10,) * 3, (200,) * 3),
        (ONE, {"photometric": "miniswhite"}, (245,) * 3, (55,) * 3),
        (np.dstack([HALF, ALPHA]), {"photometric": "rgb", "extrasamples": ["unassalpha"]}, (132, 237, 192), BOTTOM),
        (np.array(Image.fromarray(HALF).convert("CMYK")), {"photometric": "separated"}, TOP, BOTTOM),
        (np.where(TOP[0] == ONE, 1, 2).astype(np.uint8), {"photometric": "palette", "colormap": PALETTE}, TOP, BOTTOM),
        (np.array(Image.fromarray(HALF).convert("YCbCr")), {"photometric": "ycbcr"}, TOP, BOTTOM),
    ],
    ids=["rgb", "planar", "grey", "white is 0", "alpha", "cmyk", "palette", "ycbcr"],
)
def test_right_colours(
    tmp_path: Path, tile: tuple[int, int] | None, pixels: np.ndarray, how: dict[str, Any], top: Any, bottom: Any
) -> None:
    found = read(tmp_path / "a.tif", pixels, tile, **how)
    np.testing.assert_allclose(found[10, 10], top, atol=2)
    np.testing.assert_allclose(found[200, 200], bottom, atol=2)


@BOTH
@pytest.mark.parametrize(
    ("pixels", "how", "words"),
    [
        (HALF.astype(np.uint16) * 257, {"photometric": "rgb"}, "16 bits"),
        (HALF.astype(np.uint16) * 16, {"photometric": "rgb"}, "16 bits"),
        (PLANES.astype(np.uint16) * 257, {"photometric": "rgb", "planarconfig": "separate"}, "16 bits"),
        (ONE.astype(np.uint16), {"photometric": "minisblack"}, "16 bits"),
        (ONE.astype(np.float32), {"photometric": "minisblack"}, "32 bits"),
        (np.stack([ONE] * 3), {"photometric": "minisblack"}, "3 channels or planes"),
        (np.stack([ONE] * 2), {"photometric": "minisblack", "planarconfig": "separate"}, "2 channels"),
        (np.stack([ONE] * 5), {"photometric": "minisblack", "planarconfig": "separate"}, "5 channels"),
        (np.stack([ONE] * 5, -1), {"photometric": "minisblack", "planarconfig": "contig"}, "5 channels"),
        (np.dstack([HALF, ONE, ONE]), {"photometric": "rgb"}, "5 channels"),
        (HALF, {"photometric": "cielab"}, "CIELAB"),
    ],
    ids=["rgb 16", "rgb 12 in 16", "planar 16", "grey 16", "float", "pages", "2", "5", "5 mixed", "rgb + 2", "lab"],
)
def test_what_would_come_out_wrong_is_refused(
    tmp_path: Path, tile: tuple[int, int] | None, pixels: np.ndarray, how: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=rf"a\.tif: .*{words}.*8-bit RGB"):
        read(tmp_path / "a.tif", pixels, tile, **how)


def test_a_fourth_channel_of_no_meaning_is_not_alpha(tmp_path: Path) -> None:
    pixels, how = np.dstack([HALF, ALPHA]), {"photometric": "rgb", "extrasamples": ["unspecified"]}
    with pytest.raises(InputError, match="takes for alpha"):
        read(tmp_path / "a.tif", pixels, (128, 128), **how)
    np.testing.assert_array_equal(read(tmp_path / "a.tif", pixels, None, **how)[10, 10], TOP)


@BOTH
def test_ome_channels_and_fluorescence_are_refused(tmp_path: Path, tile: tuple[int, int] | None) -> None:
    for pixels, metadata in (
        (np.stack([ONE] * 4), {"axes": "CYX"}),
        (ONE, {"axes": "YX", "Channel": {"Name": ["DAPI"], "EmissionWavelength": [461]}}),
    ):
        tifffile.imwrite(tmp_path / "a.ome.tif", pixels, tile=tile, photometric="minisblack", metadata=metadata, ome=True)
        with pytest.raises(InputError, match="channel"), open_slide(tmp_path / "a.ome.tif"):
            pass


def test_sixteen_bits_of_a_png_are_refused(tmp_path: Path) -> None:
    for shape in ((8, 8, 3), (8, 8)):
        assert cv2.imwrite(str(tmp_path / "a.png"), np.full(shape, 4000, np.uint16))
        with pytest.raises(InputError, match=r"pixels of 16 bits.*8-bit RGB"), open_slide(tmp_path / "a.png"):
            pass


def test_sixteen_bits_of_a_jpeg_2000_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jp2").write_bytes(imagecodecs.jpeg2k_encode(np.full((64, 64, 3), 4000, np.uint16), level=0))
    with pytest.raises(InputError, match=r"16 bits.*8-bit RGB"), open_slide(tmp_path / "a.jp2"):
        pass
    (tmp_path / "b.jp2").write_bytes(imagecodecs.jpeg2k_encode(np.full((64, 64, 3), 40, np.uint8), level=0))
    with open_slide(tmp_path / "b.jp2") as slide:
        assert np.all(slide.read(0, 0, 64, 64) == 40)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_orientation_is_applied_one_way_in_all_formats(tmp_path: Path, orientation: int) -> None:
    stored = np.zeros((32, 48, 3), np.uint8)
    stored[:16, :16], stored[:16, 32:], stored[16:, :16] = (250, 0, 0), (0, 250, 0), (0, 0, 250)
    turned = {
        1: stored, 2: stored[:, ::-1], 3: stored[::-1, ::-1], 4: stored[::-1], 5: stored.transpose(1, 0, 2),
        6: np.rot90(stored, -1), 7: stored[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(stored, 1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[274] = orientation
    for name in ("a.png", "a.webp", "a.tif"):
        Image.fromarray(stored).save(tmp_path / name, exif=exif, lossless=True)
    Image.fromarray(stored).save(tmp_path / "a.jpg", exif=exif, quality=100, subsampling=0)
    for name in ("a.png", "a.webp", "a.tif", "a.jpg"):
        with open_slide(tmp_path / name) as slide:
            assert (slide.height, slide.width) == turned.shape[:2], name
            np.testing.assert_allclose(slide.thumbnail(1000)[0], turned, atol=12, err_msg=name)
    tag = [(274, 3, 1, orientation, True)]
    if orientation == 1:
        np.testing.assert_array_equal(read(tmp_path / "b.tif", HALF, (128, 128), photometric="rgb", extratags=tag), HALF)
    else:
        with pytest.raises(InputError, match=f"Orientation is {orientation}.*upright"):
            read(tmp_path / "b.tif", HALF, (128, 128), photometric="rgb", extratags=tag)
