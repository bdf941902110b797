"""Tiles of a TIFF pyramid, decoded without OpenSlide: the same pixels in a fifth of the time.

    TIFF directories ──open_tiles──▶ TiffTiles: a level per directory, where every level is of JPEG or JPEG 2000 tiles
    (level, x, y, width, height) ──read──▶ bytes of the tiles under it ──decoded once, kept for a while──▶ RGB

The decoder is told the colours as OpenSlide tells them to its own (TIFF's tag, not what the JPEG says of itself), and is the
same library: whole pixels are equal, bit by bit. Between pixels (a level that is 4.0001 times smaller) OpenSlide mixes the four
around, and so do we; there pixels on the seams of tiles (0.4 % of those tried) differ, by 3 of 255 at most.
"""

import os
import struct
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import simplejpeg
import tifffile

from shards.tiling.tiff_header import MAX_PAGES, opened_tiff

VENDORS = ("aperio", "generic-tiff")  # all others lay out tiles in ways of their own
CONTIGUOUS, RGB, YCBCR = 1, 2, 6  # tags 284 and 262
JPEG, APERIO_JP2K_RGB = 7, 33005  # tag 259
SOI, EOI, APP0, APP14, SOS = b"\xff\xd8", b"\xff\xd9", 0xE0, 0xEE, 0xDA
ADOBE = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"  # a byte follows: 0 says RGB, 1 YCbCr
MIX_STEPS = 2**16  # so many places between two pixels does OpenSlide's painter tell apart


class TileError(Exception):
    """Bytes of a tile that are not what the TIFF's header says."""


@dataclass(frozen=True)
class TiledLevel:
    """One level of a pyramid.

    Attributes:
        width: pixels of this level.
        height: likewise.
        tile_width: pixels.
        tile_height: likewise.
        offsets: of each tile's bytes in the file, row by row.
        nbytes: of each tile; 0: the scanner left it out.
        head: what stands before a tile's own JPEG segments (colours and tables); None: the tiles are JPEG 2000.
    """

    width: int
    height: int
    tile_width: int
    tile_height: int
    offsets: Sequence[int]
    nbytes: Sequence[int]
    head: bytes | None

    @property
    def columns(self) -> int:
        return -(-self.width // self.tile_width)


class TiffTiles:
    """The tiles of an opened pyramid; several threads may read at once.

    Args:
        file: descriptor of the file.
        levels: in OpenSlide's order.
        cache_bytes: of decoded tiles that are kept, those used last.
    """

    def __init__(self, file: int, levels: Sequence[TiledLevel], cache_bytes: int) -> None:
        self._file, self.levels, self._cache_bytes = file, levels, cache_bytes
        self._kept: OrderedDict[tuple[int, int], Future[np.ndarray]] = OrderedDict()
        self._lock, self._bytes = threading.Lock(), 0

    def read(self, level: int, x: float, y: float, width: int, height: int) -> np.ndarray:
        """Return a part of a level as (height, width, 3) uint8 RGB; where there are no pixels it is white.

        Args:
            level: number of the level.
            x: left edge, pixels of the level; between two pixels they are mixed.
            y: top edge, likewise.
            width: pixels of the level.
            height: likewise.

        Raises:
            TileError: a tile is damaged.
        """
        steps_x, steps_y = (int(np.floor(at * MIX_STEPS + 0.5)) for at in (x, y))
        (left, mix_x), (top, mix_y) = divmod(steps_x, MIX_STEPS), divmod(steps_y, MIX_STEPS)
        part = self._read_whole(level, left, top, width + (mix_x > 0), height + (mix_y > 0))
        return part if not mix_x and not mix_y else _mixed(part, mix_x, mix_y)[:height, :width]

    def jpeg_at(self, level: int, x: float, y: float, width: int, height: int) -> bytes | None:
        """Return the JPEG of the tile that is exactly this part, as a file of its own; None: no single whole one is it."""
        its = self.levels[level]
        if its.head is None or (width, height) != (its.tile_width, its.tile_height):
            return None
        if x % width or y % height or x + width > its.width or y + height > its.height:
            return None
        data = self._bytes_of(level, int(y) // height * its.columns + int(x) // width)
        if data is None:
            return None
        jpeg = standalone_jpeg(its.head, data)
        is_whole = jpeg.rstrip(b"\0").endswith(EOI)
        return jpeg if is_whole and _size_of(jpeg) == (its.tile_height, its.tile_width) else None

    def _read_whole(self, level: int, left: int, top: int, width: int, height: int) -> np.ndarray:
        its = self.levels[level]
        right, bottom = min(left + width, its.width), min(top + height, its.height)
        whole = left >= 0 and top >= 0 and (right, bottom) == (left + width, top + height)
        part = np.empty((height, width, 3), np.uint8) if whole else np.full((height, width, 3), 255, np.uint8)
        for row in range(max(top, 0) // its.tile_height, -(-bottom // its.tile_height)):
            for column in range(max(left, 0) // its.tile_width, -(-right // its.tile_width)):
                tile = self._tile(level, row * its.columns + column)
                tile_x, tile_y = column * its.tile_width, row * its.tile_height
                x0, x1 = max(left, tile_x), min(right, tile_x + its.tile_width)
                y0, y1 = max(top, tile_y), min(bottom, tile_y + its.tile_height)
                part[y0 - top : y1 - top, x0 - left : x1 - left] = (
                    255 if tile is None else tile[y0 - tile_y : y1 - tile_y, x0 - tile_x : x1 - tile_x]
                )
        return part

    def _tile(self, level: int, number: int) -> np.ndarray | None:
        """Return a decoded tile; None: it was left out. Who asks while another thread decodes it waits for that."""
        if not self.levels[level].nbytes[number]:
            return None
        key = level, number
        with self._lock:
            tile = self._kept.get(key)
            if tile is not None:
                self._kept.move_to_end(key)
                mine = False
            else:
                tile, mine = Future(), True
                self._kept[key] = tile
                its = self.levels[level]
                size = its.tile_width * its.tile_height * 3
                self._bytes += size
                while self._bytes > self._cache_bytes and len(self._kept) > 1:
                    (old_level, _), _ = self._kept.popitem(last=False)
                    old = self.levels[old_level]
                    self._bytes -= old.tile_width * old.tile_height * 3
        if mine:
            try:
                tile.set_result(self._decoded(level, number))
            except BaseException as error:
                tile.set_exception(error)
        return tile.result()

    def _decoded(self, level: int, number: int) -> np.ndarray:
        its, data = self.levels[level], self._bytes_of(level, number)
        assert data is not None
        try:
            if its.head is not None:
                pixels = simplejpeg.decode_jpeg(standalone_jpeg(its.head, data), "RGB")
            else:
                pixels = imagecodecs.jpeg2k_decode(data, numthreads=1)
        except (ValueError, RuntimeError, struct.error, IndexError) as error:  # imagecodecs' own are RuntimeErrors
            raise TileError(str(error)) from None
        if pixels.shape != (its.tile_height, its.tile_width, 3) or pixels.dtype != np.uint8:
            raise TileError(f"{pixels.shape} {pixels.dtype} instead of {its.tile_height} x {its.tile_width} RGB")
        return pixels

    def _bytes_of(self, level: int, number: int) -> bytes | None:
        its = self.levels[level]
        nbytes = its.nbytes[number]
        data = os.pread(self._file, nbytes, its.offsets[number])
        if len(data) != nbytes:
            raise TileError("the file ends before the tile does")
        return data or None


@contextmanager
def open_tiles(
    path: Path, vendor: str | None, level_sizes: Sequence[tuple[int, int]], cache_bytes: int
) -> Iterator[TiffTiles | None]:
    """Open the tiles of a pyramid, or yield None: the file is of a kind that OpenSlide has to read.

    Args:
        path: the file.
        vendor: as OpenSlide detects it.
        level_sizes: (width, height) of each level as OpenSlide gives them, pixels.
        cache_bytes: of decoded tiles that are kept.
    """
    levels = _levels(path, vendor, level_sizes) if vendor in VENDORS else None
    if levels is None:
        yield None
        return
    file = os.open(path, os.O_RDONLY)
    try:
        yield TiffTiles(file, levels, cache_bytes)
    finally:
        os.close(file)


def standalone_jpeg(head: bytes, tile: bytes) -> bytes:
    """Return the JPEG of a tile with its tables and colours, as a file of its own.

    Raises:
        TileError: it does not begin as a JPEG.
    """
    return head + b"".join(_segments(tile))


def _size_of(jpeg: bytes) -> tuple[int, int]:
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(jpeg)
    except ValueError as error:
        raise TileError(str(error)) from None
    return height, width


def jpeg_head(tables: bytes | None, photometric: int) -> bytes:
    """Return what stands before a tile's own segments: the colours as the TIFF states them, and the tables.

    Raises:
        TileError: the tables do not begin as a JPEG.
    """
    colours = SOI + ADOBE + (b"\x00" if photometric == RGB else b"\x01")
    return colours + b"".join(_segments(tables) if tables else [])


def _segments(jpeg: bytes) -> Iterator[bytes]:
    """Yield a JPEG's segments without its own word on colours (JFIF's and Adobe's), and all from the first scan on."""
    if jpeg[:2] != SOI:
        raise TileError("the tile does not begin as a JPEG")
    at = 2
    while at + 4 <= len(jpeg):
        if jpeg[at] != 0xFF:
            raise TileError(f"no JPEG marker at byte {at}")
        if jpeg[at + 1] == SOS:
            yield jpeg[at:]
            return
        end = at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
        if jpeg[at + 1] not in (APP0, APP14):
            yield jpeg[at:end]
        at = end


def _levels(path: Path, vendor: str | None, level_sizes: Sequence[tuple[int, int]]) -> list[TiledLevel] | None:
    """Return the levels as OpenSlide counts them; None: not each is one directory of tiles that are decoded here."""
    found: dict[tuple[int, int], list[TiledLevel | None]] = {}
    # tifffile raises whatever a strange header makes it raise: OpenSlide reads such a file, or says what is wrong
    with suppress(Exception), opened_tiff(path, vendor) as tiff:
        for page in islice(tiff.pages, MAX_PAGES):
            if isinstance(page, tifffile.TiffPage) and page.is_tiled:
                found.setdefault((page.imagewidth, page.imagelength), []).append(_level(page, vendor))
        levels = [level for size in level_sizes for level in found.get(size, [None])]
        if len(levels) == len(level_sizes):
            return [level for level in levels if level is not None] if all(levels) else None
    return None


def _level(page: tifffile.TiffPage, vendor: str | None) -> TiledLevel | None:
    colours, kind = int(page.photometric), int(page.compression)
    plain = (page.bitspersample, page.samplesperpixel, int(page.planarconfig)) == (8, 3, CONTIGUOUS)
    if not plain or page.imagedepth != 1:
        return None
    if kind == JPEG and colours in (RGB, YCBCR):
        head = jpeg_head(page.jpegtables, colours)
    elif kind == APERIO_JP2K_RGB and vendor == "aperio":
        head = None
    else:
        return None
    if vendor == "aperio" and not all(page.databytecounts):
        return None  # OpenSlide draws what is missing from the next level
    return TiledLevel(
        page.imagewidth, page.imagelength, page.tilewidth, page.tilelength, page.dataoffsets, page.databytecounts, head
    )


def _mixed(part: np.ndarray, mix_x: int, mix_y: int) -> np.ndarray:
    """Return each pixel mixed with those right of and below it, rounded as pixman does: 256 steps from 0 to 1, downwards.

    Args:
        part: (h, w, 3) uint8.
        mix_x: weight of the right one, of `MIX_STEPS`.
        mix_y: weight of the lower one.
    """
    across, down = np.array([MIX_STEPS - mix_x, mix_x]), np.array([MIX_STEPS - mix_y, mix_y])
    weights = (np.outer(down / MIX_STEPS, across / MIX_STEPS) * 256 / 255).astype(np.float32)
    # filter2D rounds to the nearest: half less, and a little more than a float's error, is rounding down
    return cv2.filter2D(part, -1, weights, anchor=(0, 0), delta=-0.5 + 2.0**-14, borderType=cv2.BORDER_REPLICATE)
