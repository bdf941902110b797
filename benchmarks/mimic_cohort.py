"""Cohorts whose negatives hold mimics of the tumour: real nuclei of colon, put together to slides whose truth is known.

A slide is a grid of real 27 px patches (../shared/data/colon, by benchmarks.prepare_colon and `hnm tile --config colon`), each
turned, flipped and stained as its site stains:

    every slide       patches of no epithelial nucleus, and mimics: as many as `mimic_rate` of its patches
    positive slides   tumour too: 0.5 to 2 % of its patches, which are epithelial nuclei

A mimic is an epithelial nucleus, too, of the same images, but for one property: its chromatin is smooth (blurred by `BLUR_PX`).
No image of colon's own test split is touched, and no image gives patches to two splits, so that a texture is never learned and
tested. Sites have a stain each (shards/drawn/site_stain.py) and slides of both labels in every split.

Two null controls: the column `label_permuted` has the labels dealt out anew within each split; and in a cohort that is `mixed`
tumour and mimics change places at random in all slides alike, so that a label tells nothing of what a slide holds.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from benchmarks.planted import permute
from hnm.config import load_config
from shards.cohort.cohort import Cohort
from shards.cohort.cohort_table import write_csv
from shards.drawn.rows import name_slides
from shards.drawn.site_stain import SiteStain, stain_of_site
from shards.drawn.synthetic import EOSIN, HAEMATOXYLIN, WHITE
from shards.reading.reader import PatchReader, ReaderConfig
from shards.seeding import numpy_generator
from shards.tiling.tile import tile_cohort

PATCH_PX = 27
EDGE_PX = 2  # a point's patch lies wholly in the picture, wherever its half pixel is rounded to
GRID = (10, 20)  # 200 patches a slide
NUM_SITES = 5
BLUR_PX = 1.2
TUMOUR_RATES = (0.005, 0.02)
NORMAL, TUMOUR, MIMIC = "normal", "tumour", "mimic"
TILE = (f"tile.patch_px={PATCH_PX}", "tile.points_file=points.csv", f"tile.positive_class={TUMOUR}", "tile.jpeg_quality=95")


@dataclass(frozen=True)
class Pool:
    """Real patches that one split is made of: `tumour` and `normal`, each (n, PATCH_PX, PATCH_PX, 3) uint8."""

    tumour: np.ndarray
    normal: np.ndarray


def pools_of(colon: Cohort, seed: int) -> dict[str, Pool]:
    """Return a pool for train, validation and test, of the images that are not in colon's test split, 3 : 1 : 2 of them."""
    draws = numpy_generator(seed, "mimic pools")
    labels, splits = colon.labels(), colon.splits()
    usable = np.flatnonzero(splits != "test")
    truth, bounds = colon.patches.truth, colon.patch_bounds
    images: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    turns = ("train", "test", "train", "validation", "train", "test")
    for label in (0, 1):  # either kind evenly
        for number, image in enumerate(draws.permutation(usable[labels[usable] == label])):
            images[turns[number % len(turns)]].append(int(image))
    found = {}
    with PatchReader(colon, ReaderConfig()) as reader:
        for split, its in images.items():
            rows = np.concatenate([np.arange(bounds[image], bounds[image + 1]) for image in sorted(its)])
            pixels = reader.read(rows).permute(0, 2, 3, 1).numpy()
            found[split] = Pool(pixels[truth[rows] == 1], pixels[truth[rows] == 0])
    return found


def make_cohort(
    folder: Path, pools: dict[str, Pool], sizes: tuple[int, int, int], mimic_rate: float, seed: int, mixed: bool = False
) -> Path:
    """Compose and cut a cohort of so many training, validation and test slides; nothing is done where it is there.

    Args:
        folder: gets slides/ and cohort/.
        pools: by split, from `pools_of`.
        sizes: slides of train, validation and test.
        mimic_rate: share of mimics among the patches of every slide.
        seed: another one, other slides.
        mixed: the null control: tumour and mimic change places at random, in slides of either label alike.

    Returns:
        The folder of the cohort.
    """
    if (folder / "cohort" / "cohort.json").is_file():
        return folder / "cohort"
    rows, points, images = name_slides(sum(sizes), seed, NUM_SITES, sizes), [], folder / "slides" / "images"
    images.mkdir(parents=True, exist_ok=True)
    sites = [stain_of_site(seed, site) for site in range(NUM_SITES)]
    for number, row in enumerate(rows):
        random = numpy_generator(seed, "mimic slide", number)
        words = lay_out(row.label, mimic_rate, random, mixed)
        picture = compose(words, pools[row.split], sites[row.site], random)
        Image.fromarray(picture).save(images / f"{row.name}.png")
        for down, across in np.ndindex(words.shape):
            place = ((across + 0.5) * PATCH_PX + EDGE_PX, (down + 0.5) * PATCH_PX + EDGE_PX)
            points.append((row.name, *place, str(words[down, across])))
    write_csv(folder / "slides" / "points.csv", ("image", "x", "y", "class"), points)
    permuted = permute([row.label for row in rows], [row.split for row in rows], seed)
    table = [
        (row.name, f"images/{row.name}.png", row.label, other, row.patient, row.split, f"site-{row.site}")
        for row, other in zip(rows, permuted, strict=True)
    ]
    mimics = [f"tile.mimic_groups=[{MIMIC}]"] if any(point[-1] == MIMIC for point in points) else []
    columns = ("slide_id", "path", "label", "label_permuted", "patient_id", "split", "site")
    slides = write_csv(folder / "slides" / "slides.csv", columns, table)
    tile_cohort(slides, folder / "cohort", load_config(overrides=[*TILE, *mimics]).tile)
    return folder / "cohort"


def lay_out(label: int, mimic_rate: float, random: np.random.Generator, mixed: bool) -> np.ndarray:
    """Return what each place of a slide holds: GRID words."""
    number = GRID[0] * GRID[1]
    num_tumour = max(1, round(random.uniform(*TUMOUR_RATES) * number))
    words = [TUMOUR] * num_tumour * (label or mixed) + [MIMIC] * round(mimic_rate * number)
    if mixed:
        words = [TUMOUR if of_tumour else MIMIC for of_tumour in random.random(len(words)) < 0.5]
    words += [NORMAL] * (number - len(words))
    return random.permutation(np.array(words)).reshape(GRID)


def compose(words: np.ndarray, pool: Pool, site: SiteStain, random: np.random.Generator) -> np.ndarray:
    """Return the slide's picture, uint8 (rows * PATCH_PX, columns * PATCH_PX, 3), with an edge of EDGE_PX."""
    patches = np.empty((*words.shape, PATCH_PX, PATCH_PX, 3), np.uint8)
    own = SiteStain(random.uniform(0.9, 1.1, 2) * site.amounts, site.turn)
    for place in np.ndindex(words.shape):
        of_kind = pool.normal if words[place] == NORMAL else pool.tumour
        patch = np.rot90(of_kind[random.integers(len(of_kind))], int(random.integers(4)))
        patch = patch[:, ::-1] if random.random() < 0.5 else patch
        if words[place] == MIMIC:
            patch = np.asarray(Image.fromarray(np.ascontiguousarray(patch)).filter(ImageFilter.GaussianBlur(BLUR_PX)))
        patches[place] = patch
    picture = patches.transpose(0, 2, 1, 3, 4).reshape(words.shape[0] * PATCH_PX, words.shape[1] * PATCH_PX, 3)
    return stain(np.pad(picture, ((EDGE_PX, EDGE_PX), (EDGE_PX, EDGE_PX), (0, 0)), mode="edge"), own)


def stain(picture: np.ndarray, site: SiteStain) -> np.ndarray:
    """Return a picture stained as a site stains: its amounts of haematoxylin and eosin changed, and their colours turned.

    Args:
        picture: (h, w, 3) uint8.
        site: factors of the amounts, and what is added to the two stains' vectors.
    """
    vectors = np.array([HAEMATOXYLIN, EOSIN])
    density = -np.log(np.maximum(picture, 1) / WHITE)
    amounts = density @ np.linalg.pinv(vectors)
    change = (amounts * site.amounts) @ (vectors + site.turn) - amounts @ vectors
    return np.clip(WHITE * np.exp(-(density + change)), 0, 255).astype(np.uint8)
