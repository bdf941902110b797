"""A small cohort of drawn H&E images with known tumour patches, for `hnm demo` and for tests.

    make_cohort_images(folder, ...) writes
      folder/slides.csv              slide_id,path,label,patient_id,split
      folder/points.csv              image,x,y,class: a row a grid tile, x and y its centre in pixels; tumour, mimic or normal
      folder/images/slide-000.png    (tiles_per_side * patch_px) squared, RGB

An image is a grid of tiles, each of one tissue. Optical densities are drawn, fibres in eosin, nuclei in haematoxylin,
and become light by Beer and Lambert's law: pixel = white * exp(-(h * H + e * E)). What makes a tumour is the shape and
texture of its nuclei: large, irregular, coarse-grained, overlapping. Colour hardly tells: all slides have regions of
lymphocytes (darker, but small and round) and of normal epithelium (as purple on average, but small and even), each has
its own amount of these and its own stain, a small connected part of a positive slide is tumour, and a negative slide
has as much more epithelium. Where they are asked for, single tiles of every slide, positive or not, are mimics: the same
as tumour in all but the density of its chromatin. Sites may differ in their stain.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from shards.cohort.cohort_table import write_csv
from shards.drawn.rows import name_slides, write_slides_csv
from shards.drawn.site_stain import NO_SHIFT, SiteStain, stain_of_site
from shards.errors import InputError
from shards.files import whole_file
from shards.seeding import numpy_generator

STROMA, LYMPHOCYTES, EPITHELIUM, TUMOUR, MIMIC = range(5)
CLASS_OF_TISSUE = {TUMOUR: "tumour", MIMIC: "mimic"}  # in points.csv; the others are "normal"
HAEMATOXYLIN = (0.5626, 0.7201, 0.4062)  # optical densities in R, G, B: Macenko et al. 2009, reference stains
EOSIN = (0.2159, 0.8012, 0.5581)
WHITE = 243.0
DRAWN_FOR_PX = 32  # sizes below are pixels of a tile of this side; other sides scale them


@dataclass(frozen=True)
class Nuclei:
    """How the nuclei of one tissue look; pairs are the ends of a uniform range.

    Attributes:
        per_tile: mean number in a tile.
        radius: mean of the half axes, px.
        elongation: longer half axis / shorter.
        density: of haematoxylin, optical density.
        irregularity: waviness of the outline as a share of the radius.
        grain: contrast of the chromatin as a share of the density.
        spacing: least distance of two centres as a share of the sum of their radii.
    """

    per_tile: float
    radius: tuple[float, float]
    elongation: tuple[float, float]
    density: tuple[float, float]
    irregularity: float
    grain: float
    spacing: float


NUCLEI = {
    STROMA: Nuclei(2.2, (1.8, 2.6), (2.2, 4.0), (0.6, 1.0), 0.05, 0.10, 1.3),
    LYMPHOCYTES: Nuclei(14.0, (2.2, 2.8), (1.0, 1.2), (1.0, 1.5), 0.03, 0.10, 0.95),
    EPITHELIUM: Nuclei(8.0, (2.7, 3.4), (1.1, 1.5), (0.6, 0.9), 0.04, 0.15, 0.95),
    TUMOUR: Nuclei(3.8, (4.2, 6.2), (1.1, 1.8), (0.95, 1.4), 0.16, 0.35, 0.85),
}
# The same but for its chromatin, three quarters as dense: no hyperchromasia. SimCLR hardly separates the two, for its views
# differ in stain as much, and labels can teach it. Number, size, shape and grain of its nuclei are a tumour's.
NUCLEI[MIMIC] = replace(NUCLEI[TUMOUR], density=(0.71, 1.05))


def make_cohort_images(
    folder: Path,
    num_slides: int,
    tiles_per_side: int,
    patch_px: int,
    seed: int,
    tumour_share: float = 0.15,
    *,
    mimic_share: float = 0.0,
    num_sites: int = 1,
    split_sizes: tuple[int, int, int] | None = None,
) -> Path:
    """Draw a cohort, half of its slides positive; the same arguments give the same bytes.

    Args:
        folder: where to write; made if absent.
        num_slides: at least 6, so that each split has both labels; each is of a patient of its own.
        tiles_per_side: an image is a grid of this many tiles squared.
        patch_px: side of a tile, px; even, so that a tile's centre lies between pixels.
        seed: another seed, another cohort.
        tumour_share: share of a positive slide's tiles that are tumour (at least one tile).
        mimic_share: share of every slide's tiles that are mimics (at least one tile, if above 0).
        num_sites: sites, each with a stain of its own; see `name_slides`.
        split_sizes: slides that train, validate and test; None: 60/20/20 by patient.

    Returns:
        The path of slides.csv.

    Raises:
        InputError: a number is out of its range.
    """
    _check(num_slides, tiles_per_side, patch_px, tumour_share)
    check_mimics(mimic_share, num_sites)
    rows = name_slides(num_slides, seed, num_sites, split_sizes)
    points: list[tuple[object, ...]] = []
    for number, row in enumerate(rows):
        random = numpy_generator(seed, "synthetic slide", number)
        tissue = lay_out_tissue(tiles_per_side, tumour_share, row.label == 1, random, mimic_share)
        with whole_file(folder / "images" / f"{row.name}.png") as temporary:
            image = draw_slide(tissue, patch_px, random, stain_of_site(seed, row.site))
            image.save(temporary, format="PNG", compress_level=3)
        for down, across in np.ndindex(tissue.shape):
            word = CLASS_OF_TISSUE.get(int(tissue[down, across]), "normal")
            points.append((row.name, (across + 0.5) * patch_px, (down + 0.5) * patch_px, word))
    write_csv(folder / "points.csv", ("image", "x", "y", "class"), points)
    return write_slides_csv(folder, rows, [f"images/{row.name}.png" for row in rows], {})


def check_mimics(mimic_share: float, num_sites: int) -> None:
    """Refuse numbers out of their range.

    Raises:
        InputError: naming it.
    """
    if not 0 <= mimic_share <= 0.2:
        raise InputError(f"mimic_share is {mimic_share}: give 0 to 0.2")
    if num_sites < 1:
        raise InputError(f"num_sites is {num_sites}: give at least 1")


def _check(num_slides: int, tiles_per_side: int, patch_px: int, tumour_share: float) -> None:
    if num_slides < 6:
        raise InputError(f"num_slides is {num_slides}: give at least 6, so that each split has both labels")
    if tiles_per_side < 2:
        raise InputError(f"tiles_per_side is {tiles_per_side}: give at least 2")
    if patch_px < 16 or patch_px % 2:
        raise InputError(f"patch_px is {patch_px}: give an even number from 16 on")
    if not 0 < tumour_share <= 0.5:
        raise InputError(f"tumour_share is {tumour_share}: give more than 0 and at most 0.5")


def lay_out_tissue(
    tiles_per_side: int, tumour_share: float, is_positive: bool, random: np.random.Generator, mimic_share: float = 0.0
) -> np.ndarray:
    """Give each tile its tissue: stroma with regions of lymphocytes and epithelium, one of tumour or none, single mimics.

    Returns:
        (tiles_per_side, tiles_per_side) int8: STROMA, LYMPHOCYTES, EPITHELIUM, TUMOUR or MIMIC.
    """
    tissue = np.full((tiles_per_side, tiles_per_side), STROMA, np.int8)
    for kind in (LYMPHOCYTES, EPITHELIUM):
        for _ in range(2):
            _grow(tissue, kind, round(random.uniform(0.03, 0.15) * tissue.size), random)
    # Epithelium instead of tumour: otherwise positive slides would be the darker ones.
    _grow(tissue, TUMOUR if is_positive else EPITHELIUM, max(1, round(tumour_share * tissue.size)), random)
    if mimic_share > 0:
        others = np.flatnonzero(tissue != TUMOUR)
        tissue.flat[random.choice(others, max(1, round(mimic_share * tissue.size)), replace=False)] = MIMIC
    return tissue


def _grow(tissue: np.ndarray, kind: int, num_tiles: int, random: np.random.Generator) -> None:
    """Turn a connected region of `num_tiles` tiles into `kind`, one neighbouring tile at a time."""
    side = len(tissue)
    region: list[tuple[int, int]] = []
    frontier = [(int(random.integers(side)), int(random.integers(side)))]
    while frontier and len(region) < num_tiles:
        row, column = frontier.pop(int(random.integers(len(frontier))))
        region.append((row, column))
        tissue[row, column] = kind
        for near in ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)):
            if near not in region and near not in frontier and 0 <= min(near) <= max(near) < side:
                frontier.append(near)


def draw_slide(
    tissue: np.ndarray,
    patch_px: int,
    random: np.random.Generator,
    site: SiteStain = NO_SHIFT,
    nuclei: Mapping[int, Nuclei] = NUCLEI,
) -> Image.Image:
    """Draw one slide.

    Args:
        tissue: (rows, rows) int8, see `lay_out_tissue`; from EPITHELIUM on they are cellular.
        patch_px: side of a tile, px.
        random: of this slide.
        site: how its site's stain differs.
        nuclei: how those of each tissue look.

    Returns:
        The image, RGB, rows * patch_px squared.
    """
    side, scale = len(tissue) * patch_px, patch_px / DRAWN_FOR_PX
    cellular = _spread(tissue >= EPITHELIUM, side)
    eosin = _fibres(side, scale, cellular, random)
    haematoxylin = 0.05 + 0.09 * cellular
    abundance = random.uniform(0.85, 1.15)
    grain_px = max(1, round(scale))
    placed = np.zeros((0, 3))  # x, y, radius of the nuclei so far
    for row, column in np.ndindex(tissue.shape):
        look = nuclei[int(tissue[row, column])]
        half = look.per_tile * abundance / 2  # half of them for sure: a tumour tile without one would be mislabelled
        for _ in range(round(half) + random.poisson(half)):
            radius = scale * random.uniform(*look.radius)
            x, y = (column + random.random()) * patch_px, (row + random.random()) * patch_px
            distance = np.hypot(placed[:, 0] - x, placed[:, 1] - y)
            in_tissue = eosin[int(y), int(x)] > 0.12
            if in_tissue and (distance >= look.spacing * (placed[:, 2] + radius)).all():
                placed = np.vstack([placed, (x, y, radius)])
                _draw_nucleus(haematoxylin, eosin, look, (x, y, radius), grain_px, random)
    return _stain(haematoxylin, eosin, site, random).filter(ImageFilter.GaussianBlur(0.4 * scale))


def _draw_nucleus(
    haematoxylin: np.ndarray,
    eosin: np.ndarray,
    nuclei: Nuclei,
    place: tuple[float, float, float],
    grain_px: int,
    random: np.random.Generator,
) -> None:
    """Add one nucleus to the density maps: a wavy anti-aliased ellipse with a dark rim and grains of `grain_px`."""
    x, y, radius = place
    elongation, angle = np.sqrt(random.uniform(*nuclei.elongation)), random.uniform(0, np.pi)
    reach = int(radius * elongation * (1 + 2 * nuclei.irregularity)) + 2
    left, top = max(0, int(x) - reach), max(0, int(y) - reach)
    box = (slice(top, int(y) + reach + 1), slice(left, int(x) + reach + 1))
    height, width = haematoxylin[box].shape
    across, down = np.arange(left, left + width) + 0.5 - x, np.arange(top, top + height)[:, None] + 0.5 - y
    long_axis = (across * np.cos(angle) + down * np.sin(angle)) / elongation
    short_axis = (down * np.cos(angle) - across * np.sin(angle)) * elongation
    direction = np.arctan2(short_axis, long_axis)
    phases = random.uniform(0, 2 * np.pi, 2)
    wave = np.cos(2 * direction + phases[0]) + np.cos(3 * direction + phases[1])
    depth = 1 - np.hypot(long_axis, short_axis) / (
        radius * (1 + nuclei.irregularity * wave)
    )  # 1 in the middle, 0: edge
    cover = np.clip(depth * radius / elongation + 0.5, 0, 1)
    grain = random.normal(size=(-(-height // grain_px), -(-width // grain_px)))
    grain = grain.repeat(grain_px, axis=0).repeat(grain_px, axis=1)[:height, :width]
    chromatin = 1 + nuclei.grain * grain + 0.25 * (depth < 0.3)
    density = random.uniform(*nuclei.density) * np.clip(chromatin, 0.3, 2)
    haematoxylin[box] = np.maximum(haematoxylin[box], cover * density)
    eosin[box] *= 1 - 0.4 * cover


def _fibres(side: int, scale: float, cellular: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return the eosin density (side, side): wavy fibres, smoother where cells lie densely, with pale clefts."""
    angle = random.uniform(0, np.pi)
    along = np.arange(side) * np.cos(angle) + np.arange(side)[:, None] * np.sin(angle)
    along = along + scale * 14 * _smooth_noise(side, 5, random)
    fibres = 0.7 * _smooth_noise(side, max(2, round(side / scale / 3)), random)
    for period in (4.5, 7, 12):  # bundles of them come and go: without that it looks like wood
        wave = np.sin(2 * np.pi * along / (scale * period) + 3 * _smooth_noise(side, 12, random))
        fibres = fibres + 0.6 * wave * _smooth_noise(side, 10, random)
    clefts = (1 - cellular) * (0.5 + 0.5 * np.tanh(8 * (_smooth_noise(side, 9, random) - 1.4)))
    density = 0.42 + 0.07 * fibres * (1 - 0.7 * cellular) + 0.07 * _smooth_noise(side, 4, random) - 0.08 * cellular
    return np.clip(density, 0.08, None) * (1 - 0.85 * clefts)


def _smooth_noise(side: int, num_cells: int, random: np.random.Generator) -> np.ndarray:
    """Return (side, side) float32 noise of about unit variance that changes over side / num_cells pixels."""
    coarse = Image.fromarray(random.normal(size=(num_cells, num_cells)).astype(np.float32))
    return np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC))


def _spread(tiles: np.ndarray, side: int) -> np.ndarray:
    """Return a tile mask as (side, side) float32 in [0, 1] with soft borders."""
    mask = Image.fromarray(tiles.astype(np.float32)).resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(mask)


def _stain(
    haematoxylin: np.ndarray, eosin: np.ndarray, site: SiteStain, random: np.random.Generator
) -> Image.Image:
    """Turn densities into light, with a slide's own stain vectors, stain strengths and a camera's noise."""
    amounts = random.uniform((0.95, 0.92), (1.05, 1.08)) * site.amounts
    vectors = np.array([HAEMATOXYLIN, EOSIN]) + random.normal(0, 0.01, (2, 3)) + site.turn
    vectors = amounts[:, None] * vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    density = haematoxylin[..., None] * vectors[0] + eosin[..., None] * vectors[1]  # (side, side, 3)
    light = WHITE * np.exp(-density) + random.normal(0, 2.0, density.shape)
    return Image.fromarray(np.clip(light.round(), 0, 255).astype(np.uint8))
