"""Colon bags in which context tells nothing: tumour nuclei implanted into halves of negative images.

    python -m benchmarks.implanted COLON_COHORT OUT --rate 0.05 [--draw 0] [--blocks 10]

    negative image ──nuclei, mixed──▶ half a ──────────────────────────────▶ negative bag
                                      half b + epithelial nuclei of ONE ──▶ positive bag, RATE of its patches positive
                                               positive image of its block

Both bags of an image have the same stroma, stain and scanner: of a positive bag only the implanted nuclei differ (their own stain
comes with them). Images are dealt out to blocks, of either kind evenly, and nuclei stay in their block: a block is a "patient" of
the cohort, with slides of both labels, and whoever splits by patient keeps the images of a fold apart.

COLON_COHORT is what `hnm tile` made of benchmarks.prepare_colon's table. OUT gets slides.csv, tiles.parquet (the same JPEGs,
byte for byte) and the cohort that `hnm import tiles` makes of them; implanted patches lie below the image's own, so that no two
share a place. The thinned bags, to which this is the alternative, are the colon cohort's with data.witness_rate.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from launch.verbs.imports import tiles
from launch.verbs.tile import TileRequest
from shards.cohort.cohort import Cohort
from shards.cohort.splits import fold_patients
from shards.seeding import numpy_generator

NUM_BLOCKS = 10


@dataclass(frozen=True)
class Implanted:
    """Bags made of patches of other bags.

    Attributes:
        names: of each bag: the negative image's, and a for its negative or b for its positive half.
        rows: by bag the patches that it is made of, int64; those of a positive bag's own half first.
        labels: (B,) int8.
        blocks: (B,) int64, the block of the bag's images.
    """

    names: list[str]
    rows: list[np.ndarray]
    labels: np.ndarray
    blocks: np.ndarray


def implant(
    names: list[str], bounds: np.ndarray, truth: np.ndarray, labels: np.ndarray, rate: float, num_blocks: int, seed: int
) -> Implanted:
    """Draw the bags: two of each negative image.

    Args:
        names: of the images.
        bounds: (images + 1,) image i owns the patches [bounds[i], bounds[i + 1]).
        truth: (N,) int8, 1 for an epithelial patch.
        labels: (images,) 1 or 0.
        rate: share of positive patches in a positive bag; at least one, and at most what its positive image has.
        num_blocks: blocks of images.
        seed: another seed, other blocks and nuclei.

    Raises:
        ValueError: a block gets no positive image.
    """
    draws = numpy_generator(seed, "implanted", round(1e6 * rate))
    block_of = np.array(fold_patients([(int(label),) for label in labels], num_blocks, seed))
    found: list[tuple[str, np.ndarray, int, int]] = []
    for image in np.flatnonzero(labels == 0):
        own = draws.permutation(np.arange(bounds[image], bounds[image + 1]))
        first, second = np.split(own, [len(own) // 2])
        if not len(first):
            continue  # one patch makes no two halves
        givers = np.flatnonzero((labels == 1) & (block_of == block_of[image]))
        if not len(givers):
            raise ValueError(f"block {block_of[image]} of {num_blocks} has no positive image. Take fewer blocks")
        giver = draws.choice(givers)
        tumour = draws.permutation(np.flatnonzero(truth[bounds[giver] : bounds[giver + 1]] == 1) + bounds[giver])
        number = max(1, round(rate * len(second) / (1 - rate)))
        both = ((first, "a"), (np.concatenate([second, tumour[:number]]), "b"))
        found += [(names[image] + half, rows, int(half == "b"), int(block_of[image])) for rows, half in both]
    bag_names, rows, of_bag, blocks = zip(*found, strict=True)
    return Implanted(list(bag_names), list(rows), np.array(of_bag, np.int8), np.array(blocks))


def write_cohort(colon: Cohort, rate: float, num_blocks: int, seed: int, out: Path) -> Path:
    """Make a cohort of implanted bags in OUT/cohort and return its folder; nothing is done where it is there already.

    Args:
        colon: the images' nuclei, as `hnm tile` has cut them.
        rate, num_blocks, seed: see `implant`.
        out: folder to write; made if absent.
    """
    if (out / "cohort" / "cohort.json").is_file():
        return out / "cohort"
    labels, patches = colon.labels(), colon.patches
    bags = implant(colon.slide_ids.tolist(), colon.patch_bounds, patches.truth, labels, rate, num_blocks, seed)
    out.mkdir(parents=True, exist_ok=True)
    lines = ["slide_id,patient_id,label"]
    lines += [f"{name},block-{block},{label}" for name, label, block in zip(bags.names, bags.labels, bags.blocks, strict=True)]
    (out / "slides.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    rows = np.concatenate(bags.rows)
    slide = np.repeat(bags.names, [len(its) for its in bags.rows])
    own = colon.slide_ids[patches.slide[rows]] == np.array([name[:-1] for name in slide])
    side = int(patches.y_level0.max()) + int(colon.info["settings"]["patch_px"])
    table = {
        "slide": slide,
        "x": patches.x_level0[rows],
        "y": patches.y_level0[rows] + np.where(own, 0, side),
        "truth": np.where(own, 0, 1),
        "jpeg": [_jpeg(colon, row) for row in rows.tolist()],
    }
    pq.write_table(pa.table(table), out / "tiles.parquet")
    tiles(out / "tiles.parquet", TileRequest(out / "slides.csv", out / "cohort"), None, None)
    return out / "cohort"


def _jpeg(cohort: Cohort, row: int) -> bytes:
    patches = cohort.patches
    with open(cohort.shard_path(int(patches.shard[row])), "rb") as tar:
        tar.seek(int(patches.offset[row]))
        return tar.read(int(patches.nbytes[row]))


def main() -> None:
    """Parse the command line, write the cohort."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("colon", type=Path, help="the tiled colon cohort")
    parser.add_argument("out", type=Path, help="folder for slides.csv, tiles.parquet and cohort/")
    parser.add_argument("--rate", type=float, default=0.05, help="share of positive patches in a positive bag")
    parser.add_argument("--draw", type=int, default=0, help="seed of blocks and nuclei")
    parser.add_argument("--blocks", type=int, default=NUM_BLOCKS, help="blocks of images: patients of the cohort")
    args = parser.parse_args()
    print(write_cohort(Cohort.open(args.colon), args.rate, args.blocks, args.draw, args.out))


if __name__ == "__main__":
    main()
