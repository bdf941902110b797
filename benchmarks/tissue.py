"""How much tissue the filter otsu_saturation drops on real images that are full of it, by the ceiling of its threshold.

    python -m benchmarks.tissue ../shared/data

Prints one JSON line. On the 100 colon images (500 x 500 px), cut into patches of 50 and of 100 px: of the patches that hold a
tumour nucleus, or any nucleus, the share that is dropped; likewise of patches that are stained all over (at most 1 % of their
pixels are as pale and bright as glass); and how many patches of glass (90 %) are kept. "otsu" is Otsu's threshold, at least 14,
as before there was a ceiling. On the two small slides: patches of 224 px that are kept.
"""

import argparse
import csv
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.about import about
from shards.tiling.sites import grid_sites
from shards.tiling.slide_reader import PlainImage, open_slide
from shards.tiling.survey import thumbnail_px
from shards.tiling.tile_config import TileConfig
from shards.tiling.tissue import (
    GLASS_GREY,
    GLASS_SATURATION,
    MIN_OTSU_SATURATION,
    saturation_threshold,
    shares,
    smooth_saturation,
)

Rule = Callable[[np.ndarray, np.ndarray], float]  # smoothed saturation, grey -> what tissue lies above
CEILINGS = (20, 25, 30, 40, 60)
SLIDES = ("CMU-1-Small-Region.svs", "TCGA-CR-7395-01A-01-TS1.svs")
LEAST_SHARE = TileConfig().min_tissue_share


@dataclass(frozen=True)
class Image:
    """A colon image cut into patches: what each shows (n,) bool, and what the rules look at."""

    saturation: np.ndarray
    grey: np.ndarray
    level0_per_px: float
    shows: dict[str, np.ndarray]
    x: np.ndarray
    y: np.ndarray
    patch_px: int

    def kept(self, rule: Rule) -> np.ndarray:
        """Return (n,) bool: which patches a rule keeps."""
        mask = self.saturation > rule(self.saturation, self.grey)
        return shares(mask, self.level0_per_px, self.x, self.y, self.patch_px) >= LEAST_SHARE


def plain_otsu(saturation: np.ndarray, grey: np.ndarray) -> float:
    """Return Otsu's threshold, at least 14: what there was before."""
    otsu, _ = cv2.threshold(saturation, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    return max(otsu, MIN_OTSU_SATURATION)


def ceiling(saturation_: float) -> Rule:
    """Return today's rule with another ceiling."""
    return lambda saturation, grey: saturation_threshold(saturation, grey, saturation_).saturation


def read_images(colon: Path, patch_px: int, names: Sequence[str] = ()) -> dict[str, Image]:
    """Return the colon images (all, or those of some names) by name."""
    nuclei: dict[str, list[tuple[float, float, bool]]] = defaultdict(list)
    with open(colon / "nuclei.csv", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            nuclei[row["image"]].append((float(row["x"]), float(row["y"]), row["class"] == "epithelial"))
    paths = sorted((colon / "images").glob("*.png"))
    return {p.stem: _image(p, patch_px, nuclei[p.stem]) for p in paths if not names or p.stem in names}


def _image(path: Path, patch_px: int, nuclei: Sequence[tuple[float, float, bool]]) -> Image:
    with open_slide(path) as slide:
        assert isinstance(slide, PlainImage)
        pixels = slide.pixels
        thumbnail, level0_per_px = slide.thumbnail(thumbnail_px(max(slide.width, slide.height), patch_px))
    sites = grid_sites(pixels.shape[1], pixels.shape[0], patch_px, patch_px)
    x, y = sites.x_level0, sites.y_level0
    glass = (smooth_saturation(pixels) <= GLASS_SATURATION) & (cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY) >= GLASS_GREY)
    of_glass = shares(glass, 1.0, x, y, patch_px)
    shows = {"tumour": _with_nucleus(nuclei, x, y, patch_px, True), "nucleus": _with_nucleus(nuclei, x, y, patch_px, False)}
    shows |= {"stained": of_glass <= 0.01, "glass": of_glass >= 0.9}
    grey = cv2.cvtColor(thumbnail, cv2.COLOR_RGB2GRAY)
    return Image(smooth_saturation(thumbnail), grey, level0_per_px, shows, x, y, patch_px)


def _with_nucleus(
    nuclei: Sequence[tuple[float, float, bool]], x: np.ndarray, y: np.ndarray, patch_px: int, of_tumour: bool
) -> np.ndarray:
    points = np.array([(px, py) for px, py, is_tumour in nuclei if is_tumour or not of_tumour]).reshape(-1, 2, 1)
    inside = (x <= points[:, 0]) & (points[:, 0] < x + patch_px) & (y <= points[:, 1]) & (points[:, 1] < y + patch_px)
    return np.asarray(inside.any(axis=0))


def dropped(images: dict[str, Image], rule: Rule) -> dict[str, Any]:
    """Return by what a patch shows how many there are, how many a rule drops, and the worst image's share."""
    kept = {name: image.kept(rule) for name, image in images.items()}
    result: dict[str, Any] = {"kept": int(sum(its.sum() for its in kept.values()))}
    for kind in ("tumour", "nucleus", "stained", "glass"):
        counts = {n: (int((i.shows[kind] & ~kept[n]).sum()), int(i.shows[kind].sum())) for n, i in images.items()}
        lost, total = (sum(column) for column in zip(*counts.values(), strict=True))
        worst = max(counts, key=lambda name: counts[name][0] / max(1, counts[name][1]))
        result[kind] = {"patches": total, "dropped": lost, "share": round(lost / max(1, total), 4)}
        result[kind] |= {"worst": [worst, *counts[worst]]} if lost and kind != "glass" else {}
    return result


def kept_of_slide(path: Path, rules: dict[str, Rule], patch_px: int = 224) -> dict[str, int]:
    """Return how many patches of a slide each rule keeps."""
    with open_slide(path) as slide:
        thumbnail, level0_per_px = slide.thumbnail(thumbnail_px(max(slide.width, slide.height), patch_px))
        sites = grid_sites(slide.width, slide.height, patch_px, patch_px)
    saturation, grey = smooth_saturation(thumbnail), cv2.cvtColor(thumbnail, cv2.COLOR_RGB2GRAY)
    share = {
        name: shares(saturation > rule(saturation, grey), level0_per_px, sites.x_level0, sites.y_level0, patch_px)
        for name, rule in rules.items()
    }
    return {"patches": len(sites), **{name: int((its >= LEAST_SHARE).sum()) for name, its in share.items()}}


def main() -> None:
    """Parse the command line, measure, print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data", type=Path, help="the folder with colon/ and slides/")
    args = parser.parse_args()
    rules = {"otsu": plain_otsu} | {f"ceiling {most}": ceiling(most) for most in CEILINGS}
    result: dict[str, Any] = {}
    for patch_px in (50, 100):
        images = read_images(args.data / "colon", patch_px)
        result[f"colon, {patch_px} px"] = {name: dropped(images, rule) for name, rule in rules.items()}
    result |= {name: kept_of_slide(args.data / "slides" / name, rules) for name in SLIDES}
    print(json.dumps({**about("tissue", False, ("numpy", "opencv-python-headless")), **result}))


if __name__ == "__main__":
    main()
