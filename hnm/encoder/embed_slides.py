"""Embed for other tools: the features of whole slides as HDF5, a file per slide, in TRIDENT's layout.

    cohort ──slides of this rank──▶ batches of one slide each ──encoder──▶ FOLDER/<slide>.h5 (features float32, coords)

A batch holds patches of one slide, cut from its first patch on: the bits of a slide's features depend neither on the
number of ranks, nor on which slides were there before. A slide's file is whole or absent.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hnm.aggregator.bags import as_rows
from hnm.encoder.augment import to_float
from hnm.engine.engine import Forward
from shards.cohort.cohort import Cohort
from shards.cohort.slides import slide_key
from shards.exchange.h5 import write_h5
from shards.exchange.names import file_name_of
from shards.reading.reader import PatchReader
from shards.tiling.mpp import UM_PER_PX_AT_1X, patch_level0_of

Batch = tuple[np.ndarray, torch.Tensor]  # patch ids and images


@dataclass
class Throughput:
    """What embedding cost: patches embedded, seconds, and those of them in which the encoder waited for pictures."""

    num_patches: int = 0
    seconds: float = 0.0
    waited_s: float = 0.0


def features_path(folder: Path, slide_id: str) -> Path:
    """Return the file of a slide's features."""
    return folder / f"{file_name_of(slide_id, slide_key(slide_id))}.h5"


def share_slides(slides: np.ndarray, patches_per_slide: np.ndarray, size: int) -> list[list[int]]:
    """Deal slides out to ranks, the largest first to whoever has the fewest patches; the same on every rank.

    Args:
        slides: (s,) slide numbers.
        patches_per_slide: (S,) of all slides.
        size: number of ranks.

    Returns:
        Each rank's slides, increasing.
    """
    shares: list[list[int]] = [[] for _ in range(size)]
    loads = np.zeros(size, np.int64)
    for slide in slides[np.argsort(-patches_per_slide[slides], kind="stable")].tolist():
        least = int(loads.argmin())
        shares[least].append(slide)
        loads[least] += patches_per_slide[slide]
    return [sorted(share) for share in shares]


@torch.inference_mode()
def embed_slides(
    forward: Forward,
    slides: list[int],
    cohort: Cohort,
    reader: PatchReader,
    batch_size: int,
    folder: Path,
    about: dict[str, str],
    device: torch.device,
    is_asked_to_stop: Callable[[], bool],
    progress: Callable[[Iterator[Batch], int], Iterator[Batch]] = lambda batches, total: batches,
) -> Throughput:
    """Write the features of slides; no collective in it. It ends after a batch when asked to stop, and finished slides stay.

    Args:
        forward: the encoder, in evaluation mode.
        slides: numbers of slides with patches.
        batch_size: patches a forward pass.
        about: attributes of `features`: which encoder, in which precision.
        progress: wraps the loop over (batches, their number).

    Raises:
        FloatingPointError: features are not finite.
    """
    bounds = cohort.patch_bounds
    grids = [range(int(bounds[slide]), int(bounds[slide + 1]), batch_size) for slide in slides]
    rows = (np.arange(at, min(at + batch_size, grid.stop)) for grid in grids for at in grid)
    done, begin = Throughput(), time.monotonic()
    read = progress(_timed(reader.batches(rows), done), sum(map(len, grids)))
    for slide, grid in zip(slides, grids, strict=True):
        blocks = []
        for _ in grid:
            ids, images = next(read)
            block = forward(to_float(images.to(device))).float().cpu()
            as_rows(block, partial(_name_of_patch, cohort, ids))  # refuses what is not finite
            blocks.append(block.numpy())
            done.num_patches += len(ids)
            done.seconds = time.monotonic() - begin
            if is_asked_to_stop():
                return done
        write_features(folder, cohort, slide, np.concatenate(blocks), about)
    return done


def write_features(folder: Path, cohort: Cohort, slide: int, features: np.ndarray, about: dict[str, str]) -> None:
    """Write one slide's features (n, d) with the place and size of its patches."""
    slide_id, (start, stop) = str(cohort.slide_ids[slide]), cohort.patch_bounds[slide : slide + 2]
    coords = np.stack([cohort.patches.x_level0[start:stop], cohort.patches.y_level0[start:stop]], axis=1).astype(
        np.int64
    )
    attributes = {"features": {"name": slide_id, **about}, "coords": geometry_of(cohort, slide)}
    write_h5(features_path(folder, slide_id), {"features": features, "coords": coords}, attributes)


def geometry_of(cohort: Cohort, slide: int) -> dict[str, Any]:
    """Return the attributes of a slide's `coords`: TRIDENT's names, and microns per pixel where they are known.

    Magnifications are 10 / (microns per pixel), whole numbers where they are; for native pixels both are the slide's.
    """
    settings = cohort.info["settings"]
    width, height, source = (cohort.slides[name][slide].as_py() for name in ("width", "height", "source_mpp"))
    patch_px = settings["patch_px"]
    patch_level0 = patch_level0_of(cohort, slide)
    stride_px = settings["stride_px"] or patch_px
    geometry = {
        "patch_size": patch_px,
        "patch_size_level0": patch_level0,
        "overlap": max(0, patch_px - stride_px),
        "name": str(cohort.slide_ids[slide]),
        "level0_width": width,
        "level0_height": height,
    }
    if source is not None:
        target = source * patch_level0 / patch_px
        geometry |= {"level0_mpp": source, "target_mpp": target}
        geometry["level0_magnification"] = _whole(UM_PER_PX_AT_1X / source)
        geometry["target_magnification"] = _whole(UM_PER_PX_AT_1X / target)
    return geometry


def _timed(batches: Iterator[Batch], done: Throughput) -> Iterator[Batch]:
    """Yield the batches, and count the seconds until each was there."""
    while True:
        begin = time.monotonic()
        batch = next(batches, None)
        done.waited_s += time.monotonic() - begin
        if batch is None:
            return
        yield batch


def _whole(number: float) -> int | float:
    return round(number) if abs(number - round(number)) < 1e-6 * number else number


def _name_of_patch(cohort: Cohort, ids: np.ndarray, place: int) -> str:
    return f"patch {ids[place]} of slide {cohort.slide_ids[cohort.patches.slide[ids[place]]]!r}"
