"""Patches that somebody has cut already become a slide's tars and unit, as if they were cut here.

    slides.csv + pictures ──plan_tiles──▶ a job per slide ──pack_tiles──▶ tars, unit ──merge──▶ cohort

A JPEG of the right size stays as it is, byte for byte; other pictures are compressed as `tile.jpeg_quality` says.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import simplejpeg

from shards.claim import Claim
from shards.cohort.slides import Slide
from shards.errors import InputError
from shards.exchange.tiles import GivenTiles, first_side, is_parquet, read_picture, tiles_of_folder, tiles_of_parquet
from shards.tiling.jpeg import encode
from shards.tiling.mpp import level0_px
from shards.tiling.sites import Sites
from shards.tiling.tar import write_tars
from shards.tiling.tile_config import TileConfig
from shards.tiling.unit import SlideJob, Unit, slide_job, write_unit


def find_tiles(
    source: Path, table: Path | None, pattern: str | None, slides: list[Slide]
) -> tuple[dict[str, GivenTiles], int]:
    """Return the patches of each slide by slide id, and how many are of no slide of the table.

    Raises:
        InputError: there are none, or table, pattern or columns do not fit.
    """
    if not source.exists():
        raise InputError(f"{source}: there is no such file or folder")
    return tiles_of_parquet(source, slides) if is_parquet(source) else tiles_of_folder(source, table, pattern, slides)


def settings_of(given: dict[str, GivenTiles], config: TileConfig) -> TileConfig:
    """Return the settings with the side that the first patch has."""
    return config.model_copy(update={"patch_px": first_side(given), "background": ["none"]})


def jobs_of(slides: list[Slide], given: dict[str, GivenTiles], config: TileConfig) -> list[SlideJob]:
    """Return the job of each slide; one without a patch fails and says so."""
    names = ("patch_px", "jpeg_quality", "jpeg_subsampling", "shard_mb")
    settings = {name: getattr(config, name) for name in names}
    jobs = []
    for slide in slides:
        job, tiles = slide_job(slide, None, settings), given.get(slide.slide_id)
        digest = hashlib.sha256(job.fingerprint.encode() + b"tiles")
        if tiles is not None:
            digest.update(tiles.identity.encode() + tiles.xy_level0.tobytes() + tiles.truth.tobytes())
        nothing = GivenTiles(np.empty((0, 2), np.int32), np.empty(0, np.int8))
        jobs.append(replace(job, tiles=tiles or nothing, fingerprint=digest.hexdigest()))
    return jobs


def pack_tiles(job: SlideJob, folder: Path, config: TileConfig, claim: Claim) -> Unit:
    """Write one slide's tars and unit into `folder`.

    Raises:
        InputError: it has no patch, two at one place, or one that is no picture of the right size.
    """
    tiles = job.tiles
    if tiles is None or not len(tiles.truth):
        raise InputError("no patch of this slide is there. Give it some, or remove the row")
    places = [tuple(place) for place in tiles.xy_level0.tolist()]
    (place, number), *_ = Counter(places).most_common(1)
    if number > 1:
        raise InputError(f"{number} patches are at {place}. Keep one")

    def jpegs() -> Iterator[tuple[int, int, bytes]]:
        for (x, y), (name, data) in zip(places, tiles.pictures(), strict=True):
            claim.beat()
            yield x, y, _jpeg(data, name, config)

    entries = write_tars(folder, job.slide.key, jpegs(), config.shard_mb * 10**6)
    mpp = job.slide.mpp if job.slide.mpp is not None else config.mpp
    patch_level0 = level0_px(config.patch_px, config.mpp, mpp)
    width, height = (int(side) for side in tiles.xy_level0.max(0) + patch_level0)
    mpp_from = "table" if job.slide.mpp is not None else "assumed" if mpp is not None else ""
    unit = Unit(
        job.fingerprint, "done", width, height, mpp, mpp_from, len(entries),
        tars={name: (folder / name).stat().st_size for name in dict.fromkeys(entry.tar_name for entry in entries)},
        patch_level0=patch_level0,
    )  # fmt: skip
    write_unit(folder / "unit.parquet", unit, Sites(tiles.xy_level0[:, 0], tiles.xy_level0[:, 1], tiles.truth), entries)
    return unit


def _jpeg(data: bytes, name: str, config: TileConfig) -> bytes:
    side = config.patch_px
    if data[:2] == b"\xff\xd8" and _is_jpeg_of(data, side):
        return data
    pixels = read_picture(data, name)
    if pixels.shape[:2] != (side, side):
        raise InputError(
            f"{name}: {pixels.shape[1]} x {pixels.shape[0]} pixels, the first patch has {side} x {side}. All are of one size"
        )
    return encode(pixels, config)


def _is_jpeg_of(data: bytes, side: int) -> bool:
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return False
    return (height, width) == (side, side) and colours in ("YCbCr", "Gray", "RGB")
