"""Turn the colon data (CRCHistoPhenotypes) into the input of `hnm tile`: slides.csv and points.csv.

    python -m benchmarks.prepare_colon ../shared/data/colon OUT_DIR
    hnm tile OUT_DIR/slides.csv OUT_DIR/cohort, with patch_px 27, points_file points.csv, positive_class epithelial

A bag is an image, an instance is the 27 x 27 patch at a nucleus, a bag is positive if one of its patches is epithelial
(Ilse et al. 2018). An image without a patch is left out, and counted.
"""

import argparse
import csv
import shutil
from collections import Counter
from pathlib import Path

from PIL import Image

from shards.cohort.slides import Slide
from shards.cohort.splits import split_patients
from shards.errors import InputError
from shards.tiling.sites import Points, Sites, point_sites, read_points

PATCH_PX = 27
POSITIVE_CLASS = "epithelial"


def prepare(colon: Path, out: Path, seed: int) -> list[str]:
    """Write slides.csv and points.csv to `out`.

    Args:
        colon: the folder with images/ and nuclei.csv.
        out: the folder to write; made if absent.
        seed: of the split.

    Returns:
        Lines that say what there is.

    Raises:
        InputError: `colon` is not that data.
    """
    images = sorted((colon / "images").glob("*.png"), key=lambda path: int(path.stem.removeprefix("img")))
    if not images:
        raise InputError(f"{colon}: no images/*.png here. Give the folder of the colon data")
    slides = [Slide(path.stem, path.absolute(), path.stem, {}, {}, None) for path in images]
    points_of, _ = read_points(colon / "nuclei.csv", slides, POSITIVE_CLASS)
    bags = [(slide, _sites(slide, points_of[slide.slide_id])) for slide in slides if slide.slide_id in points_of]
    bags = [(slide, sites) for slide, sites in bags if len(sites)]
    labels = [int(sites.truth.max()) for _, sites in bags]
    splits = split_patients([slide.slide_id for slide, _ in bags], labels, seed=seed)
    out.mkdir(parents=True, exist_ok=True)
    with open(out / "slides.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["slide_id", "path", "label", "split"])
        for (slide, _), label, split in zip(bags, labels, splits, strict=True):
            writer.writerow([slide.slide_id, slide.path, label, split])
    # Beside slides.csv, so that a config can name it without an absolute path.
    shutil.copyfile(colon / "nuclei.csv", out / "points.csv")
    left_out = len(images) - len(bags)
    return [
        f"{len(images)} images: {len(bags)} bags, {left_out} left out (no patch inside the image)",
        f"{sum(labels)} positive bags, {len(bags) - sum(labels)} negative",
        *_counts_by_split([sites for _, sites in bags], labels, splits),
    ]


def _sites(slide: Slide, points: Points) -> Sites:
    with Image.open(slide.path) as image:
        width, height = image.size
    return point_sites(points, width, height, PATCH_PX)


def _counts_by_split(sites_of: list[Sites], labels: list[int], splits: list[str]) -> list[str]:
    bags, positive_bags, patches, positive_patches = Counter(splits), Counter[str](), Counter[str](), Counter[str]()
    for sites, label, split in zip(sites_of, labels, splits, strict=True):
        positive_bags[split] += label
        patches[split] += len(sites)
        positive_patches[split] += int((sites.truth == 1).sum())
    return [
        *(
            f"{split}: {bags[split]} bags ({positive_bags[split]} positive), "
            f"{patches[split]} patches ({positive_patches[split]} {POSITIVE_CLASS})"
            for split in ("train", "validation", "test")
        ),
        f"total: {patches.total()} patches ({positive_patches.total()} {POSITIVE_CLASS})",
    ]


def main() -> None:
    """Read the command line, prepare, print the counts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("colon", type=Path, help="folder with images/ and nuclei.csv")
    parser.add_argument("out", type=Path, help="folder to write slides.csv and points.csv to")
    parser.add_argument("--seed", type=int, default=0, help="seed of the split (default: 0)")
    arguments = parser.parse_args()
    try:
        lines = prepare(arguments.colon, arguments.out, arguments.seed)
    except InputError as error:
        raise SystemExit(f"error: {error}") from None
    print("\n".join([*lines, f"written: {arguments.out / 'slides.csv'}, {arguments.out / 'points.csv'}"]))


if __name__ == "__main__":
    main()
