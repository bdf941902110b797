"""A small cohort, written by the standard library's tarfile: what any WebDataset tool would write."""

import io
import json
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import simplejpeg
import torch

from shards.cohort.cohort import FORMAT_VERSION, PATCH_SCHEMA, Cohort, Patches

MakeCohort = Callable[..., Cohort]
IdsOf = Callable[[torch.Tensor], list[int]]


def patch_pixels(patch_id: int, px: int) -> np.ndarray:
    """Return (px, px, 3) uint8, one flat colour per patch id: JPEG keeps it almost exactly, so pixels tell the id."""
    colour = (40 * (patch_id % 6) + 20, 40 * (patch_id // 6 % 6) + 20, 40 * (patch_id // 36 % 6) + 20)
    return np.full((px, px, 3), colour, dtype=np.uint8)


@pytest.fixture
def ids_of() -> IdsOf:
    """A function from (n, 3, h, w) uint8 images to the patch ids (below 216) that `patch_pixels` drew into them."""

    def read(images: torch.Tensor) -> list[int]:
        digits = ((images.float().mean(dim=(2, 3)) - 20) / 40).round().long()  # (n, 3): red counts 1, green 6, blue 36
        return [int(value) for value in digits @ torch.tensor([1, 6, 36])]

    return read


def write_shard(path: Path, jpegs: Sequence[bytes]) -> list[int]:
    """Write a tar of JPEGs; return the offset of each one's first byte."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number, jpeg in enumerate(jpegs):
            member = tarfile.TarInfo(f"{path.stem}-{number:06d}.jpg")
            member.size = len(jpeg)
            tar.addfile(member, io.BytesIO(jpeg))
    with tarfile.open(path) as tar:
        return [member.offset_data for member in tar]


@pytest.fixture
def make_cohort(tmp_path: Path) -> MakeCohort:
    """A function (patches per shard, slide of each shard, px, folder name) -> Cohort with flat-coloured patches."""

    def make(
        counts: Sequence[int] = (7, 5, 9), slides: Sequence[int] = (0, 0, 1), px: int = 16, name: str = "cohort"
    ) -> Cohort:
        root = tmp_path / name
        (root / "shards").mkdir(parents=True)
        columns: dict[str, list[int]] = {field.name: [] for field in fields(Patches) if field.name in PATCH_SCHEMA.names}
        names = [f"slide{slide}-{number:04d}.tar" for number, slide in enumerate(slides)]
        for shard, (count, slide) in enumerate(zip(counts, slides, strict=True)):
            first = len(columns["slide"])
            jpegs = [simplejpeg.encode_jpeg(patch_pixels(first + n, px), quality=90) for n in range(count)]
            offsets = write_shard(root / "shards" / names[shard], jpegs)
            columns["slide"] += [slide] * count
            columns["shard"] += [shard] * count
            columns["offset"] += offsets
            columns["nbytes"] += [len(jpeg) for jpeg in jpegs]
            columns["x_level0"] += [n * px for n in range(count)]
            columns["y_level0"] += [0] * count
            columns["truth"] += [-1] * count
        pq.write_table(pa.table(columns, schema=PATCH_SCHEMA), root / "patches.parquet")
        slide_names = [f"slide{slide}" for slide in range(max(slides) + 1)]
        pq.write_table(pa.table({"slide_id": slide_names}), root / "slides.parquet")
        (root / "cohort.json").write_text(json.dumps({"format_version": FORMAT_VERSION, "shards": names}))
        return Cohort.open(root)

    return make


@pytest.fixture
def damage() -> Callable[..., None]:
    """A function (cohort, patch id, bytes) that writes over the beginning of a patch's JPEG."""

    def overwrite(cohort: Cohort, patch_id: int, with_bytes: bytes = b"no JPEG") -> None:
        with open(cohort.shard_path(cohort.patches.shard[patch_id]), "r+b") as file:
            file.seek(int(cohort.patches.offset[patch_id]))
            file.write(with_bytes)

    return overwrite
