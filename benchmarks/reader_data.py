"""Patches with real texture for the reader's benchmark: a cohort of tars, and the same patches as JPEG files."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import simplejpeg
from PIL import Image

from shards.cohort.cohort import Cohort, Patches
from shards.tiling.tar import Entry, write_tars

NUM_SLIDES = 20
ENLARGED = 2  # a crop of half the side is enlarged to a patch: as much detail as a 40x scan seen at 20x
JPEG_QUALITY = 80


def load_images(colon: Path) -> list[Image.Image]:
    """Return the H&E images of the colon data, or noise smoothed to about their detail where it is absent."""
    paths = sorted((colon / "images").glob("*.png"))
    if paths:
        return [Image.open(path).convert("RGB") for path in paths]
    generator = np.random.default_rng(0)
    coarse = [generator.integers(60, 240, (125, 125, 3), dtype=np.uint8) for _ in range(20)]
    return [Image.fromarray(pixels).resize((500, 500), Image.Resampling.BICUBIC) for pixels in coarse]


def make_cohort(root: Path, images: list[Image.Image], num_patches: int, px: int, subsampling: str) -> Cohort:
    """Write `num_patches` patches of `px` pixels twice: as tars in root/shards and as files in root/files.

    Returns:
        The cohort; a JPEG file's path is root/files/<patch id>.jpg.
    """
    (root / "files").mkdir(parents=True)
    (root / "shards").mkdir()
    bounds = np.linspace(0, num_patches, NUM_SLIDES + 1).astype(int)
    entries: list[Entry] = []
    for slide in range(NUM_SLIDES):
        jpegs = _jpegs(root / "files", images, range(bounds[slide], bounds[slide + 1]), px, subsampling)
        entries += write_tars(root / "shards", f"slide{slide:02d}", jpegs, max_bytes=1 << 30)
    names = list(dict.fromkeys(entry.tar_name for entry in entries))
    shard = np.array([names.index(entry.tar_name) for entry in entries], dtype=np.int32)
    zeros = np.zeros(num_patches, dtype=np.int32)
    patches = Patches(
        slide=shard,
        x_level0=np.arange(num_patches, dtype=np.int32),
        y_level0=zeros,
        shard=shard,
        offset=np.array([entry.offset for entry in entries], dtype=np.int64),
        nbytes=np.array([entry.nbytes for entry in entries], dtype=np.int32),
        truth=zeros.astype(np.int8),
    )
    slides = pa.table({"slide_id": [f"slide{slide:02d}" for slide in range(NUM_SLIDES)]})
    return Cohort(root, {"shards": names}, slides, patches)


def _jpegs(folder: Path, images: list[Image.Image], ids: range, px: int, subsampling: str) -> Iterator[tuple[int, int, bytes]]:
    """Yield (x, y, JPEG) for write_tars, with the patch id as x, and write the file of each."""
    side = px // ENLARGED
    for patch_id in ids:
        generator = np.random.default_rng(patch_id)
        image = images[patch_id % len(images)]
        x, y = generator.integers(0, [image.width - side, image.height - side])
        crop = image.resize((px, px), Image.Resampling.BICUBIC, box=(x, y, x + side, y + side))
        jpeg = simplejpeg.encode_jpeg(np.array(crop), JPEG_QUALITY, "RGB", subsampling)
        (folder / f"{patch_id}.jpg").write_bytes(jpeg)
        yield patch_id, 0, jpeg
