"""Cohorts of any number of patches on little disk: every slide's tar is a hard link to one of two, of drawn patches.

Half of the slides are positive; 70 % train, 10 % validate, 20 % test. A positive slide's tar has a twentieth of tumour patches
(dark ones). It is as hnm tile leaves it, but for the columns beside the patch table, which whoever opens it first makes.
"""

import io
import os
import tarfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import simplejpeg

from shards.cohort.cohort import FORMAT_VERSION
from shards.cohort.patch_table import PATCH_SCHEMA
from shards.files import write_json

PATCHES_PER_SLIDE = 9000  # as in TCGA at 20x
PATCH_PX = 16
NUM_DRAWN = 500  # pictures, repeated in a tar


class Members(NamedTuple):
    """What lies where in a tar."""

    offset: np.ndarray
    nbytes: np.ndarray


def write_cohort(folder: Path, num_patches: int, has_pictures: bool) -> Path:
    """Write a cohort of about `num_patches` patches, slides of 9000 (or a few more of fewer); return its folder.

    Args:
        has_pictures: False: the table alone; the tars that it names are not there.
    """
    num_slides = max(20, round(num_patches / PATCHES_PER_SLIDE))
    size = round(num_patches / num_slides)
    random = np.random.default_rng(0)
    (folder / "shards").mkdir(parents=True)
    truth = [np.zeros(size, np.int8), (np.arange(size) % 20 == 0).astype(np.int8)]
    members = [Members(np.arange(1, size + 1) * 1024, np.full(size, 400))] * 2
    if has_pictures:
        members = [_write_tar(folder / f"{label}.tar", truth[label], random) for label in (0, 1)]
    split = np.array(["train"] * 7 + ["validation"] + ["test"] * 2)[np.arange(num_slides) // 2 % 10]  # pairs of both labels
    names = [f"slide-{slide:06d}" for slide in range(num_slides)]
    with pq.ParquetWriter(folder / "patches.parquet", PATCH_SCHEMA) as writer:
        for slide, name in enumerate(names):
            label = slide % 2
            if has_pictures:
                os.link(folder / f"{label}.tar", folder / "shards" / f"{name}-0000.tar")
            place = np.arange(size, dtype=np.int32)
            columns = {
                "slide": np.full(size, slide), "x_level0": place % 95 * 224, "y_level0": place // 95 * 224,
                "shard": np.full(size, slide), **members[label]._asdict(), "truth": truth[label],
            }  # fmt: skip
            writer.write_table(pa.table(columns).select(PATCH_SCHEMA.names).cast(PATCH_SCHEMA))
    slides = {
        "slide_id": names, "path": names, "patient_id": names, "label": pa.array(np.arange(num_slides) % 2, pa.int8()),
        "split": split, "source_mpp": [0.5] * num_slides, "num_patches": [size] * num_slides,
        "first_patch": [size * slide for slide in range(num_slides)], "status": ["done"] * num_slides,
    }  # fmt: skip
    pq.write_table(pa.table(slides), folder / "slides.parquet")
    settings = {"mpp": 0.5, "patch_px": PATCH_PX}
    shards = [f"{name}-0000.tar" for name in names]
    write_json(folder / "cohort.json", {"format_version": FORMAT_VERSION, "settings": settings, "shards": shards})
    return folder


def _write_tar(path: Path, truth: np.ndarray, random: np.random.Generator) -> Members:
    """Write a tar with a patch for each entry of `truth`."""
    brightness = {0: 200.0, 1: 120.0}
    drawn = {}
    for kind, mean in brightness.items():
        pixels = random.normal(mean, 25, (NUM_DRAWN, PATCH_PX, PATCH_PX, 3)).clip(0, 255).astype(np.uint8)
        drawn[kind] = [simplejpeg.encode_jpeg(picture, quality=75, colorsubsampling="420") for picture in pixels]
    offsets, sizes = [], []
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number, kind in enumerate(truth.tolist()):
            data = drawn[kind][number % NUM_DRAWN]
            member = tarfile.TarInfo(f"{number:06d}.jpg")
            member.size = len(data)
            offsets.append(tar.offset + tarfile.BLOCKSIZE)
            sizes.append(len(data))
            tar.addfile(member, io.BytesIO(data))
    return Members(np.array(offsets), np.array(sizes))
