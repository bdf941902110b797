"""Patches as JPEGs, in order, by one thread or several: what is stored, and what a model of these patches has to see.

    site ──cut──▶ patch ──encode──▶ JPEG        tile.keep_jpeg, where the patch is exactly a JPEG tile of the slide: its own bytes
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np
import simplejpeg

from shards.tiling.pyramid import Pyramid
from shards.tiling.slide_reader import SlideReader
from shards.tiling.survey import Survey, patch_cutter
from shards.tiling.tile_config import TileConfig

T = TypeVar("T")
R = TypeVar("R")
JPEGS_AHEAD = 16  # per thread: begun before they are taken


class PatchJpeg(NamedTuple):
    """A patch: number of its site; its JPEG, None if it is background; whether that is the slide's own."""

    number: int
    jpeg: bytes | None
    is_kept: bool


def encode(patch: np.ndarray, config: TileConfig) -> bytes:
    """Return the JPEG of a patch, (patch_px, patch_px, 3) uint8 RGB."""
    patch = np.ascontiguousarray(patch)
    return bytes(simplejpeg.encode_jpeg(patch, config.jpeg_quality, "RGB", str(config.jpeg_subsampling)))


def jpeg_cutter(slide: SlideReader, survey: Survey, config: TileConfig) -> Callable[[int], PatchJpeg]:
    """Return the function that cuts the patch of a site as a JPEG; several threads may call it at once."""
    cut = patch_cutter(slide, survey, config)
    keeps = config.keep_jpeg and config.stain == "none" and isinstance(slide, Pyramid)
    is_tested = bool(set(survey.filters) - {"otsu_saturation"})  # by the pixels of the patch

    def cut_jpeg(number: int) -> PatchJpeg:
        own = own_jpeg(number) if keeps else None
        if own is not None and not is_tested:
            return PatchJpeg(number, own, True)
        patch = cut(number)
        if patch is None:
            return PatchJpeg(number, None, False)
        return PatchJpeg(number, own or encode(patch, config), own is not None)

    def own_jpeg(number: int) -> bytes | None:
        assert isinstance(slide, Pyramid)
        x_level0, y_level0 = int(survey.sites.x_level0[number]), int(survey.sites.y_level0[number])
        return slide.jpeg_at(x_level0, y_level0, survey.patch_level0, config.patch_px)

    return cut_jpeg


def kept_jpegs(slide: SlideReader, survey: Survey, config: TileConfig, num_threads: int = 1) -> Iterator[PatchJpeg]:
    """Yield the patches of the candidates that pass the patch filters, in order.

    Args:
        slide: open until the last one is taken.
        survey: of the slide.
        config: how to cut.
        num_threads: that cut; 1: the calling one.
    """
    cut, numbers = jpeg_cutter(slide, survey, config), survey.candidates.tolist()
    if num_threads == 1:
        yield from (patch for patch in map(cut, numbers) if patch.jpeg is not None)
        return
    with ThreadPoolExecutor(num_threads, "slide-reader") as pool:
        patches = in_order(cut, numbers, pool, JPEGS_AHEAD * num_threads)
        yield from (patch for patch in patches if patch.jpeg is not None)


def in_order(work: Callable[[T], R], items: Iterable[T], pool: ThreadPoolExecutor, depth: int) -> Iterator[R]:
    """Yield work(item) in the order of the items, at most `depth` of them begun ahead of the one that is taken."""
    pending: deque[Future[R]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(work, item))
            if len(pending) > depth:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()
