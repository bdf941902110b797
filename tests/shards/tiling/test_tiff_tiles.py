"""Tiles decoded here against OpenSlide, pixel by pixel, on every pyramid that there is; and what is left to OpenSlide."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import openslide
import pytest
import tifffile

from shards.tiling.pyramid import Pyramid, open_pyramid
from shards.tiling.tiff_tiles import TiffTiles, open_tiles
from tests.paths import CASES, CMU, FROZEN, needs_cases, needs_slides

SEAM = 3  # of 255, where a place between pixels lies on the seam of two tiles


def write_jpeg_pyramid(path: Path, width: int, height: int) -> Path:
    """Write a scan of 0.5 um/px in tiles of 256 px, 4:2:0, with two levels of half and a quarter of its sides."""
    coarse = np.random.default_rng(0).integers(60, 250, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    pixels = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    with tifffile.TiffWriter(path) as tiff:
        for level in range(3):
            size = (width >> level, height >> level)
            tiff.write(
                cv2.resize(pixels, size, interpolation=cv2.INTER_AREA),
                tile=(256, 256), photometric="ycbcr", subsampling=(2, 2), compression="jpeg", subfiletype=1 if level else 0,
                resolution=(20_000 >> level, 20_000 >> level), resolutionunit="CENTIMETER", metadata=None,
            )  # fmt: skip
    return path


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide whose sides no level divides."""
    return write_jpeg_pyramid(tmp_path_factory.mktemp("drawn") / "slide.tiff", 1101, 1003)


def by_openslide(path: Path, slide: openslide.OpenSlide) -> Pyramid:
    return Pyramid(path, slide)


def check_equal(path: Path) -> None:
    """Whole pixels are equal; between pixels so many are: 0.4 % lie on seams of 256 px, twice that on those of 128."""
    random = np.random.default_rng(0)
    with open_pyramid(path) as ours, openslide.OpenSlide(path) as slide:
        theirs = by_openslide(path, slide)
        assert ours.told_reader["read_by"] == "tiles"
        for level, downsample in enumerate(ours.downsamples):
            for x, y in random.integers(0, (ours.width - 3, ours.height - 3), (6, 2)).tolist():
                wholly = level == 0 or (x % downsample == 0 and y % downsample == 0)
                parts = [its._read_level(x, y, level, 150, 130).astype(int) for its in (ours, theirs)]
                difference = np.abs(parts[0] - parts[1]).max(axis=2)
                assert difference.max() <= (0 if wholly else SEAM)
                assert (difference > 0).mean() < 0.03
        for max_px in (100, 700):
            (mine, factor), (other, other_factor) = ours.thumbnail(max_px), theirs.thumbnail(max_px)
            assert factor == other_factor
            assert np.abs(mine.astype(int) - other).max() <= 1
        assert ours.told_reader["num_openslide_reads"] == 0


def test_drawn_slides(drawn: Path) -> None:
    check_equal(drawn)


@needs_slides
@pytest.mark.parametrize("path", [CMU, FROZEN], ids=["jpeg-rgb", "jpeg-2000"])
def test_real_slides(path: Path) -> None:
    check_equal(path)


@needs_cases
@pytest.mark.parametrize("name", ["annotations/slide.tif", "annotations/island-slide.tif", "resolution/dpi72.tif"])
def test_cases(name: str) -> None:
    check_equal(CASES / name)


@needs_cases
def test_scanners_with_a_layout_of_their_own_are_left_to_openslide() -> None:
    with open_pyramid(CASES / "scn-bounds" / "a.scn") as slide:
        assert slide.told_reader == {"read_by": "openslide"}


@contextmanager
def tiles_of(path: Path, cache_bytes: int = 2**20) -> Iterator[TiffTiles | None]:
    with openslide.OpenSlide(path) as slide, open_tiles(path, "generic-tiff", slide.level_dimensions, cache_bytes) as tiles:
        yield tiles


def test_other_compressions_are_left_to_openslide(tmp_path: Path) -> None:
    pixels = np.zeros((128, 128, 3), np.uint8)
    tifffile.imwrite(tmp_path / "a.tiff", pixels, tile=(64, 64), photometric="rgb", compression="adobe_deflate")
    with tiles_of(tmp_path / "a.tiff") as tiles:
        assert tiles is None


def test_a_tile_is_decoded_once_while_the_cache_holds_it(drawn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    with tiles_of(drawn) as tiles:
        assert tiles is not None
        decode = tiles._decoded
        monkeypatch.setattr(tiles, "_decoded", lambda level, number: (decoded.append(number), decode(level, number))[1])
        for x in range(0, 500, 50):
            tiles.read(0, x, 0, 50, 300)
        assert sorted(decoded) == [0, 1, 5, 6]
        decoded.clear()
        for y in range(0, 1000, 100):  # 25 tiles of 0.2 MB through a cache of 1 MB
            tiles.read(0, 0, y, 1100, 100)
        assert tiles._bytes <= 2**20
        assert {0, 1, 5, 6} < set(decoded) | {0, 1, 5, 6} == set(range(20))


def damage(path: Path, copy: Path, content: bytes) -> Path:
    """Write a copy of a slide whose first tile of level 0 is `content`, zeros behind."""
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        begin, nbytes = page.dataoffsets[0], page.databytecounts[0]
    data = bytearray(path.read_bytes())
    data[begin : begin + nbytes] = content.ljust(nbytes, b"\0")
    copy.write_bytes(data)
    return copy


def test_what_cannot_be_decoded_here_is_as_openslide_has_it(drawn: Path, tmp_path: Path) -> None:
    with tifffile.TiffFile(drawn) as tiff:
        page = tiff.pages.first
        whole = drawn.read_bytes()[page.dataoffsets[0] : page.dataoffsets[0] + page.databytecounts[0]]
    for name, content in (("half", whole[: len(whole) // 2]), ("none", b"")):
        path = damage(drawn, tmp_path / f"{name}.tiff", content)
        with open_pyramid(path) as ours, openslide.OpenSlide(path) as slide:
            results = []
            for its in (ours, by_openslide(path, slide)):
                try:
                    results.append(its.read(0, 0, 200, 200).tobytes())
                except Exception as error:
                    results.append(f"{type(error).__name__}: {error}".encode())
            assert results[0] == results[1]
            assert ours.told_reader["num_openslide_reads"] == 1
            assert (ours.jpeg_at(0, 0, 256, 256), ours.jpeg_at(256, 0, 256, 256) is None) == (None, False)
