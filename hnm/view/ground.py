"""The picture that a slide's view stands on, as Deep Zoom tiles: the slide itself, or what is left of it.

    slide file at hand ──▶ OpenSlide's pyramid, tile by tile on demand (server), or a bounded picture of it (folder)
    gone, or cohort of tiles or points ──▶ the mosaic of the shards' patches, each at its place
    features without pictures ──▶ a plain ground

Level l of a Deep Zoom pyramid has the picture at 1 / 2^(last - l) of its size; tiles overlap by a pixel on inner sides.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil, log2
from pathlib import Path
from typing import Protocol

import numpy as np
import simplejpeg

from hnm.report.record import RunRecord
from shards.errors import InputError, UnreadablePatchError
from shards.reading.reader import PatchReader
from shards.resample import resize
from shards.tiling.mpp import patch_level0_of
from shards.tiling.pyramid import Pyramid
from shards.tiling.slide_reader import open_slide

TILE_PX, OVERLAP_PX = 254, 1
JPEG_QUALITY = 85
BOUNDED_PX = 4096  # longest side of a slide's picture in a folder: 340 tiles, 7 MB
PLAIN_GROUND = 235
PATCHES_AT_ONCE = 128


class Tiles(Protocol):
    """A picture as Deep Zoom tiles."""

    def tile(self, level: int, column: int, row: int) -> bytes | None:
        """Return a tile as JPEG, None: there is none."""


@dataclass(frozen=True)
class Ground:
    """What one looks at.

    Attributes:
        words: where the picture is from, for people; "" where it is simply the slide.
        width: of the picture at its last level, pixels.
        height: likewise.
        level0_per_px: level-0 pixels that one of its pixels is wide.
        tiles: of it.
    """

    words: str
    width: int
    height: int
    level0_per_px: float
    tiles: Tiles

    @property
    def last_level(self) -> int:
        return last_level(self.width, self.height)


def last_level(width: int, height: int) -> int:
    """Return the number of the level that has the picture in full; level 0 is a single pixel."""
    return ceil(log2(max(width, height, 1)))


class PictureTiles:
    """The tiles of a picture in memory."""

    def __init__(self, picture: np.ndarray) -> None:
        """Shrink `picture` (h, w, 3) uint8 RGB to all its levels."""
        self._levels = [picture]
        while max(self._levels[-1].shape[:2]) > 1:
            height, width = (-(-side // 2) for side in self._levels[-1].shape[:2])
            self._levels.append(resize(self._levels[-1], width, height))
        self._levels.reverse()

    def tile(self, level: int, column: int, row: int) -> bytes | None:
        """Return a tile as JPEG, None: there is none."""
        if not 0 <= level < len(self._levels) or min(column, row) < 0:
            return None
        picture = self._levels[level]
        left, top = (at * TILE_PX for at in (column, row))
        if left >= picture.shape[1] or top >= picture.shape[0]:
            return None
        rows = slice(max(0, top - OVERLAP_PX), top + TILE_PX + OVERLAP_PX)
        part = picture[rows, max(0, left - OVERLAP_PX) : left + TILE_PX + OVERLAP_PX]
        return jpeg(part)

    def places(self) -> Iterator[tuple[int, int, int]]:
        """Yield level, column and row of all tiles."""
        for level, picture in enumerate(self._levels):
            for row in range(-(-picture.shape[0] // TILE_PX)):
                for column in range(-(-picture.shape[1] // TILE_PX)):
                    yield level, column, row


class SlideTiles:
    """The tiles of an opened slide, read when they are asked for."""

    def __init__(self, pyramid: Pyramid) -> None:
        self._zoom = pyramid.deep_zoom(TILE_PX, OVERLAP_PX)

    def tile(self, level: int, column: int, row: int) -> bytes | None:
        """Return a tile as JPEG, None: there is none."""
        if not 0 <= level < self._zoom.level_count:
            return None
        columns, rows = self._zoom.level_tiles[level]
        if not (0 <= column < columns and 0 <= row < rows):
            return None
        out = io.BytesIO()
        self._zoom.get_tile(level, (column, row)).save(out, format="JPEG", quality=JPEG_QUALITY)
        return out.getvalue()


def jpeg(picture: np.ndarray) -> bytes:
    """Return a picture (h, w, 3) uint8 RGB as JPEG."""
    encoded: bytes = simplejpeg.encode_jpeg(np.ascontiguousarray(picture), JPEG_QUALITY, "RGB", "444")
    return encoded


@contextmanager
def open_ground(record: RunRecord, reader: PatchReader | None, slide: int, is_bounded: bool) -> Iterator[Ground]:
    """Yield what a slide's view stands on; what it holds open is closed at the end of the block.

    Args:
        record: the run.
        reader: of its cohort's patches; None: the cohort is one of features, without pictures.
        slide: its number.
        is_bounded: a picture of `BOUNDED_PX` at most, all of whose tiles can be written.
    """
    row = record.study.cohort.slides.slice(slide, 1).to_pylist()[0]
    try:
        opening = open_slide(Path(row["path"]))
        opened = opening.__enter__()
    except InputError as error:
        yield _without_slide(record, reader, slide, str(error))
        return
    try:
        if isinstance(opened, Pyramid) and not is_bounded:
            yield Ground("", opened.width, opened.height, 1.0, SlideTiles(opened))
        else:
            picture, level0_per_px = opened.thumbnail(BOUNDED_PX if is_bounded else max(opened.width, opened.height))
            height, width = picture.shape[:2]
            coarse = f"1 pixel here is {level0_per_px:.3g} pixels of the slide, all of which hnm view without --out has"
            yield Ground(coarse if level0_per_px > 1 else "", width, height, level0_per_px, PictureTiles(picture))
    finally:
        opening.__exit__(None, None, None)


def _without_slide(record: RunRecord, reader: PatchReader | None, slide: int, reason: str) -> Ground:
    """Return the mosaic of a slide's patches, or a plain ground of its size."""
    cohort = record.study.cohort
    ids = np.arange(*cohort.patch_bounds[slide : slide + 2])
    x_level0, y_level0 = cohort.patches.x_level0[ids], cohort.patches.y_level0[ids]
    size_level0, row = patch_level0_of(cohort, slide), cohort.slides.slice(slide, 1).to_pylist()[0]
    width_level0 = max(row["width"] or 0, int(x_level0.max(initial=0)) + size_level0)
    height_level0 = max(row["height"] or 0, int(y_level0.max(initial=0)) + size_level0)
    finest = size_level0 / min(reader.image_shape) if reader else 1.0
    level0_per_px = max(finest, max(width_level0, height_level0) / BOUNDED_PX)
    shape = (max(1, round(height_level0 / level0_per_px)), max(1, round(width_level0 / level0_per_px)), 3)
    picture = np.full(shape, PLAIN_GROUND, np.uint8)
    words = f"The slide's file is not at hand ({reason}). "
    if reader is None:
        words += "The cohort has features in the place of pictures: scores and places are shown alone"
    else:
        lost = 0
        for start in range(0, len(ids), PATCHES_AT_ONCE):
            part = slice(start, start + PATCHES_AT_ONCE)
            for at, image in zip(range(start, start + PATCHES_AT_ONCE), images_of(reader, ids[part]), strict=False):
                lost += image is None
                if image is not None:
                    _paste(picture, image, int(x_level0[at]), int(y_level0[at]), size_level0, level0_per_px)
        words += "The picture is the mosaic of the patches that were cut from it"
        words += f"; {lost:,} of {len(ids):,} cannot be read and are grey" if lost else ""
    return Ground(words, shape[1], shape[0], level0_per_px, PictureTiles(picture))


def images_of(reader: PatchReader, ids: np.ndarray) -> list[np.ndarray | None]:
    """Return the pictures of patches, (h, w, 3) uint8 RGB each; None: it cannot be read. No other stands in for one."""
    try:
        return list(reader.read(ids).permute(0, 2, 3, 1).numpy())
    except UnreadablePatchError:
        return [None] if len(ids) == 1 else [image for each in ids for image in images_of(reader, np.array([each]))]


def _paste(
    picture: np.ndarray, image: np.ndarray, x_level0: int, y_level0: int, size_level0: int, level0_per_px: float
) -> None:
    left, top = round(x_level0 / level0_per_px), round(y_level0 / level0_per_px)
    right, bottom = (round((at + size_level0) / level0_per_px) for at in (x_level0, y_level0))
    right, bottom = min(max(right, left + 1), picture.shape[1]), min(max(bottom, top + 1), picture.shape[0])
    left, top = max(left, 0), max(top, 0)
    if right > left and bottom > top:
        picture[top:bottom, left:right] = resize(np.ascontiguousarray(image), right - left, bottom - top)
