"""Whole slides as OpenSlide reads them (SVS, NDPI, MRXS, tiled TIFF, DICOM ...): a pyramid of ever smaller images.

    level 0  40,000 px   ──a patch wanted at mpp m──▶ the coarsest level still at least as fine as m, then area-shrunk
    level 1  10,000 px
    level 2   2,500 px

Memory stays flat however large the slide is: a bounded cache of decoded tiles, and a thumbnail that is read in blocks.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import openslide
from openslide.deepzoom import DeepZoomGenerator

from shards.cohort.frame import Bounds
from shards.errors import InputError
from shards.resample import resize
from shards.tiling.mpp import ToldMpp, told_mpp
from shards.tiling.tiff_tiles import TiffTiles, TileError, open_tiles

# A row of 256-px tiles of a slide 100,000 px wide is 100 MB: neighbouring rows of patches share their tiles.
CACHE_BYTES = 128 * 2**20
BLOCK_PX = 2048  # side of the blocks in which a thumbnail is read: 16 MB
# A downsample of 4.0002 (rounded level sizes) counts as 4.
LEVEL_TOLERANCE = 1.01
NOT_SUPPORTED = re.compile(
    r"unsupported|not supported|not configured|can ?not handle|cannot get required tiff tag", re.IGNORECASE
)
ILLUMINATION = ("leica.illumination-source", "mirax.GENERAL.SLIDE_TYPE")


class Pyramid:
    """An opened pyramid.

    Attributes:
        path: the file.
        width: level-0 pixels.
        height: level-0 pixels.
        bounds: where the scan lies in level 0, if the header tells.
        told: microns per pixel at level 0 as the header tells.
        downsamples: of each level, ascending from 1.
    """

    needs_mpp = True  # without it nobody knows what a patch of a scan shows

    def __init__(self, path: Path, slide: openslide.OpenSlide, tiles: TiffTiles | None = None) -> None:
        self.path, self._slide, self._tiles, self._num_openslide_reads = path, slide, tiles, 0
        self.width, self.height = slide.dimensions
        self.downsamples = tuple(float(downsample) for downsample in slide.level_downsamples)

    @property
    def told_reader(self) -> dict[str, Any]:
        """What a `Unit` says of who has read the pixels."""
        if self._tiles is None:
            return {"read_by": "openslide"}
        return {"read_by": "tiles", "num_openslide_reads": self._num_openslide_reads}

    @property
    def bounds(self) -> Bounds | None:
        """Where the scan lies in level 0; None: the header doesn't tell all four numbers."""
        found = [self._slide.properties.get(f"openslide.bounds-{name}") for name in ("x", "y", "width", "height")]
        told = [int(text) for text in found if text is not None]
        return Bounds(*told) if len(told) == len(found) else None

    @property
    def told(self) -> ToldMpp:
        """Microns per pixel at level 0 as the header tells.

        Raises:
            InputError: pixels are not square.
        """
        return told_mpp(self._slide.properties, self.width, self.height)

    def read(self, x_level0: int, y_level0: int, size_level0: int, size_px: int) -> np.ndarray:
        """Return a square as (size_px, size_px, 3) uint8 RGB, contiguous; where the scan has no pixels it is white.

        Args:
            x_level0: left edge, level-0 pixels.
            y_level0: top edge, level-0 pixels.
            size_level0: side, level-0 pixels.
            size_px: side of the result, pixels.

        Raises:
            ValueError: the square is not wholly inside the slide.
            InputError: the file is damaged there.
        """
        require_inside(x_level0, y_level0, size_level0, self.width, self.height)
        level = choose_level(self.downsamples, size_level0 / size_px)
        size_level = max(1, round(size_level0 / self.downsamples[level]))
        return resize(self._read_level(x_level0, y_level0, level, size_level, size_level), size_px, size_px)

    def jpeg_at(self, x_level0: int, y_level0: int, size_level0: int, size_px: int) -> bytes | None:
        """Return the slide's own JPEG of a square, as a file; None: it is not exactly one of its JPEG tiles.

        Args:
            as those of `read`.
        """
        level = choose_level(self.downsamples, size_level0 / size_px)
        downsample = self.downsamples[level]
        if self._tiles is None or round(size_level0 / downsample) != size_px:
            return None
        with suppress(TileError):
            return self._tiles.jpeg_at(level, x_level0 / downsample, y_level0 / downsample, size_px, size_px)
        return None

    def thumbnail(self, max_px: int) -> tuple[np.ndarray, float]:
        """Return the whole slide at `max_px` pixels at most.

        Returns:
            (h, w, 3) uint8 RGB, and how many level-0 pixels one of its pixels is wide.
        """
        downsample = max(1.0, max(self.width, self.height) / max_px)
        level = choose_level(self.downsamples, downsample)
        level_width, level_height = self._slide.level_dimensions[level]
        factor = max(1, int(np.ceil(max(level_width, level_height) / max_px)))  # whole pixels: blocks meet exactly
        thumbnail = np.empty((-(-level_height // factor), -(-level_width // factor), 3), np.uint8)
        block = max(1, BLOCK_PX // factor)  # side, thumbnail pixels
        for top in range(0, thumbnail.shape[0], block):
            for left in range(0, thumbnail.shape[1], block):
                part = thumbnail[top : top + block, left : left + block]
                x_level0, y_level0 = (round(at * factor * self.downsamples[level]) for at in (left, top))
                height, width = (side * factor for side in part.shape[:2])
                pixels = self._read_level(x_level0, y_level0, level, width, height)
                part[:] = resize(pixels, part.shape[1], part.shape[0])
        return thumbnail, factor * self.downsamples[level]

    def deep_zoom(self, tile_px: int, overlap_px: int) -> DeepZoomGenerator:
        """Return all of level 0 as Deep Zoom tiles of `tile_px`, read when they are asked for."""
        return DeepZoomGenerator(self._slide, tile_px, overlap_px, limit_bounds=False)

    def _read_level(self, x_level0: int, y_level0: int, level: int, width: int, height: int) -> np.ndarray:
        if self._tiles is not None:
            x, y = (at / self.downsamples[level] for at in (x_level0, y_level0))
            with suppress(TileError):  # OpenSlide makes of it what it can, or says what is wrong
                return self._tiles.read(level, x, y, width, height)
            self._num_openslide_reads += 1
        try:
            rgba = np.asarray(self._slide.read_region((x_level0, y_level0), level, (width, height)))
        except openslide.OpenSlideError as error:
            raise _unreadable(self.path, error) from None
        if rgba[..., 3].min() == 255:
            return np.ascontiguousarray(rgba[..., :3])
        # Scanners leave out what they take for glass: OpenSlide gives it as transparent black.
        alpha = rgba[..., 3:].astype(np.uint16)
        return ((rgba[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def choose_level(downsamples: Sequence[float], wanted: float) -> int:
    """Return the coarsest level that is at least as fine as `wanted`: shrinking invents nothing.

    Args:
        downsamples: of each level, ascending from 1.
        wanted: level-0 pixels per pixel of the result.
    """
    fine_enough = [level for level, downsample in enumerate(downsamples) if downsample <= wanted * LEVEL_TOLERANCE]
    return max(fine_enough, default=0)


def require_inside(x_level0: int, y_level0: int, size_level0: int, width: int, height: int) -> None:
    """Raise ValueError unless the square lies wholly inside the slide."""
    if min(x_level0, y_level0) < 0 or x_level0 + size_level0 > width or y_level0 + size_level0 > height:
        raise ValueError(f"({x_level0}, {y_level0}) size {size_level0} is outside the image of {width} x {height}")


def vendor_of(path: Path) -> str | None:
    """Return the format of a file as OpenSlide calls it ("aperio", "generic-tiff"), None where it knows none."""
    vendor: str | None = openslide.OpenSlide.detect_format(path)
    return vendor


@contextmanager
def open_pyramid(path: Path) -> Iterator[Pyramid]:
    """Open a pyramid with a tile cache of its own; the file is closed at the end of the block.

    Raises:
        InputError: OpenSlide cannot open it.
    """
    try:
        slide = openslide.OpenSlide(path)
    except (openslide.OpenSlideError, OSError) as error:
        raise _unreadable(path, error) from None
    with slide:
        _refuse_fluorescence(path, slide.properties)
        slide.set_cache(openslide.OpenSlideCache(CACHE_BYTES))
        with open_tiles(path, vendor_of(path), slide.level_dimensions, CACHE_BYTES) as tiles:
            yield Pyramid(path, slide, tiles)


def _refuse_fluorescence(path: Path, properties: Mapping[str, str]) -> None:
    """Refuse a scan whose header says that it glows: OpenSlide shows its channels as if they were colours."""
    for name in ILLUMINATION:
        if "fluor" in properties.get(name, "").lower():
            raise InputError(f"{path}: a fluorescence scan ({name} is {properties[name]}). Use bright-field slides")


def _unreadable(path: Path, error: Exception) -> InputError:
    remedy = "Copy the file anew, or remove its row"
    if vendor_of(path) == "zeiss":  # its driver is young: most of what fails is fluorescence, JPEG XR or many scenes
        remedy = "A Zeiss CZI of a kind that OpenSlide does not read, or a damaged one: export it as OME-TIFF with ZEN"
    elif "find main image" in str(error):  # its Leica driver looks for bright-field scans only
        remedy = "It is not damaged, but has no bright-field scan: a fluorescence slide, or an overview alone"
    elif NOT_SUPPORTED.search(str(error)):
        remedy = "It is not damaged, but of a kind that OpenSlide does not read: convert it, or remove its row"
    return InputError(f"{path}: OpenSlide cannot read it ({error}). {remedy}")
