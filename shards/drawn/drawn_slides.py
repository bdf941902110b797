"""Whole slides that are drawn: pyramids of JPEG tiles, islands of tissue on glass, and the outlines of their tumours.

    make_whole_slides(folder, ...) writes
      folder/slides.csv                  slide_id,path,label,patient_id,split,annotation
      folder/slides/slide-000.tiff       side_px squared, four levels, microns per pixel in the resolution tags
      folder/annotations/slide-001.xml   ASAP, outlines in level-0 pixels: Tumor of positive slides, Mimic of all (if asked for)

A slide is drawn tile by tile and never held in memory, so 40,000 px a side are possible. Tissue comes from a bank of
about a million pixels of H&E (see `shards.drawn.synthetic`), repeated over the islands; the tumour's bank lies where its
outline says. Every slide, positive or not, has a region of dense normal epithelium or of lymphocytes in another island:
crowded nuclei alone do not tell positive slides from negative ones. Where mimics are asked for, every slide has a region of
them in an island of its own.
"""

import xml.etree.ElementTree
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import simplejpeg

from shards.drawn.rows import name_slides, write_slides_csv
from shards.drawn.site_stain import NO_SHIFT, SiteStain, stain_of_site
from shards.drawn.synthetic import EPITHELIUM, LYMPHOCYTES, MIMIC, TUMOUR, check_mimics, draw_slide, lay_out_tissue
from shards.errors import InputError
from shards.files import whole_file
from shards.resample import resize
from shards.seeding import numpy_generator

TIFF_TILE_PX = 256
NUM_LEVELS = 4
BANK_PX = 1024
JPEG_QUALITY = 80
GLASS = 244.0
OUTLINE_VERTICES = 96
NUM_ISLANDS_A_SIDE = 2  # two by two, each in a quarter of the slide
LARGE_PX = 8192  # from here on a level is a quarter of the one before, as scanners do it; below, a half


@dataclass(frozen=True)
class DrawnSlide:
    """How one slide is to look.

    Attributes:
        side_px: width and height, level-0 pixels.
        islands: outlines of the tissue, each (v, 2) float64 level-0 pixels.
        regions: outlines of the tumour of a positive slide, of a dense normal place, and of mimics where there are any, each
            in an island of its own.
        tissue_bank: (h, w, 3) uint8 RGB of normal tissue, repeated without end.
        region_banks: likewise of what is in the regions.
        glass: (TIFF_TILE_PX, TIFF_TILE_PX, 3) uint8 RGB.
    """

    side_px: int
    islands: list[np.ndarray]
    regions: list[np.ndarray]
    tissue_bank: np.ndarray
    region_banks: list[np.ndarray]
    glass: np.ndarray


def make_whole_slides(
    folder: Path,
    num_slides: int,
    side_px: int,
    patch_px: int,
    seed: int,
    *,
    mpp: float = 0.5,
    tissue_share: float = 0.45,
    tumour_share: float = 0.12,
    mimic_share: float = 0.0,
    num_sites: int = 1,
) -> Path:
    """Draw a cohort of whole slides, every second one positive, split by patient; the same arguments, the same bytes.

    Args:
        folder: where to write; made if absent.
        num_slides: each of a patient of its own; at least 6 give each split both labels.
        side_px: width and height, level-0 pixels; at least 8 patches.
        patch_px: side of a patch in which about six nuclei are drawn, px; a multiple of 16.
        seed: another seed, another cohort.
        mpp: microns per pixel written into the resolution tags.
        tissue_share: share of the slide that is tissue, up to 0.6.
        tumour_share: share of a positive slide's tissue that is tumour, up to 0.2.
        mimic_share: share of every slide's tissue that is a mimic of tumour, up to 0.2.
        num_sites: sites, each with a stain of its own; see `name_slides`.

    Returns:
        The path of slides.csv.

    Raises:
        InputError: a number is out of its range.
    """
    _check(side_px, patch_px, tissue_share, tumour_share)
    check_mimics(mimic_share, num_sites)
    rows = name_slides(num_slides, seed, num_sites)
    annotations = {}
    for row in rows:
        random, site = numpy_generator(seed, row.name), stain_of_site(seed, row.site)
        slide = design_slide(
            side_px, patch_px, tissue_share, tumour_share, row.label == 1, random, mimic_share=mimic_share, site=site
        )
        with whole_file(folder / "slides" / f"{row.name}.tiff") as temporary:
            write_pyramid(temporary, slide, mpp)
        outlines = [("Tumor", slide.regions[0])] * (row.label == 1) + [("Mimic", slide.regions[-1])] * (mimic_share > 0)
        if outlines:
            annotations[row.name] = f"annotations/{row.name}.xml"
            write_asap(folder / annotations[row.name], outlines)
    return write_slides_csv(folder, rows, [f"slides/{row.name}.tiff" for row in rows], annotations)


def design_slide(
    side_px: int,
    patch_px: int,
    tissue_share: float,
    region_share: float,
    is_positive: bool,
    random: np.random.Generator,
    *,
    mimic_share: float = 0.0,
    site: SiteStain = NO_SHIFT,
) -> DrawnSlide:
    """Draw what a slide is made of, outlines and banks: its own stain, its own places.

    Args:
        side_px: width and height, level-0 pixels.
        patch_px: see `make_whole_slides`.
        tissue_share: share of the slide.
        region_share: share of the tissue that is tumour; as much is dense and normal.
        is_positive: whether there is a tumour.
        random: of this slide.
        mimic_share: share of the tissue that is a mimic of tumour.
        site: how its site's stain differs.
    """
    cell = side_px / NUM_ISLANDS_A_SIDE
    radius = side_px * np.sqrt(tissue_share / np.pi) / NUM_ISLANDS_A_SIDE
    places = [(column, row) for row in range(NUM_ISLANDS_A_SIDE) for column in range(NUM_ISLANDS_A_SIDE)]
    slack = max(0.0, cell / 2 - 1.12 * radius)
    centres = [(np.array(place) + 0.5) * cell + random.uniform(-slack, slack, 2) for place in places]
    islands = [_blob(centre, radius, random) for centre in centres]
    kinds = [TUMOUR] * is_positive + [int(random.choice((EPITHELIUM, LYMPHOCYTES)))] + [MIMIC] * (mimic_share > 0)
    places_of_kinds = random.permutation(len(centres))[: len(kinds)]
    share_of = {MIMIC: mimic_share}
    radii = [side_px * np.sqrt(tissue_share * share_of.get(kind, region_share) / np.pi) for kind in kinds]
    # of 0.2 of the tissue: 0.9 of an island's radius
    regions = [_blob(centres[place], radius, random) for place, radius in zip(places_of_kinds, radii, strict=True)]
    tissue_bank, *region_banks = _banks(side_px, patch_px, kinds, site, random)
    glass = np.clip(GLASS + random.normal(0, 1.2, (TIFF_TILE_PX, TIFF_TILE_PX, 3)), 0, 255).astype(np.uint8)
    return DrawnSlide(side_px, islands, regions, tissue_bank, region_banks, glass)


def write_pyramid(path: Path, slide: DrawnSlide, mpp: float) -> None:
    """Write a slide as a TIFF of JPEG tiles in `NUM_LEVELS` levels, one tile in memory at a time."""
    import tifffile  # only who draws slides needs it

    factor = 4 if slide.side_px >= LARGE_PX else 2
    with tifffile.TiffWriter(path, bigtiff=slide.side_px > 50_000) as tiff:
        for level in range(NUM_LEVELS):
            downsample = factor**level
            level_px = max(1, slide.side_px // downsample)
            per_cm = 10_000 / (mpp * downsample)
            tiff.write(
                _jpeg_tiles(slide, level_px, downsample),
                shape=(level_px, level_px, 3),
                dtype=np.uint8,
                tile=(TIFF_TILE_PX, TIFF_TILE_PX),
                photometric="ycbcr",
                subsampling=(2, 2),
                compression="jpeg",
                subfiletype=1 if level else 0,
                resolution=(per_cm, per_cm),
                resolutionunit="CENTIMETER",
                metadata=None,
                software=False,
            )


def draw_tile(slide: DrawnSlide, x_level: int, y_level: int, downsample: int) -> np.ndarray | None:
    """Return one tile of a level, (TIFF_TILE_PX, TIFF_TILE_PX, 3) uint8 RGB, or None: only glass."""
    tissue = _coverage(slide.islands, x_level, y_level, downsample)
    if not tissue.any():
        return None
    picture = _from_bank(slide.tissue_bank, x_level, y_level, downsample)
    for outline, bank in zip(slide.regions, slide.region_banks, strict=True):
        region = _coverage([outline], x_level, y_level, downsample)
        if region.any():
            picture = _blend(picture, _from_bank(bank, x_level, y_level, downsample), region)
    return _blend(slide.glass, picture, tissue)


def _blend(below: np.ndarray, above: np.ndarray, cover: np.ndarray) -> np.ndarray:
    """Return `above` where `cover` (h, w) is 1, `below` where it is 0, and a mix between."""
    if cover.min() == 1:
        return above
    mixed = below + (above.astype(np.float32) - below) * cover[..., None]
    return np.rint(mixed).astype(np.uint8)


def write_asap(path: Path, outlines: Sequence[tuple[str, np.ndarray]]) -> None:
    """Write outlines as ASAP does: (group, (v, 2) level-0 pixels) each."""
    root = xml.etree.ElementTree.Element("ASAP_Annotations")
    annotations = xml.etree.ElementTree.SubElement(root, "Annotations")
    for number, (group, xy_level0) in enumerate(outlines):
        attributes = {"Name": f"Annotation {number}", "Type": "Polygon", "PartOfGroup": group, "Color": "#F4FA58"}
        annotation = xml.etree.ElementTree.SubElement(annotations, "Annotation", attributes)
        coordinates = xml.etree.ElementTree.SubElement(annotation, "Coordinates")
        for order, (x_level0, y_level0) in enumerate(xy_level0.tolist()):
            vertex = {"Order": str(order), "X": f"{x_level0:.2f}", "Y": f"{y_level0:.2f}"}
            xml.etree.ElementTree.SubElement(coordinates, "Coordinate", vertex)
    xml.etree.ElementTree.indent(root)
    with whole_file(path) as temporary:
        xml.etree.ElementTree.ElementTree(root).write(temporary, encoding="utf-8", xml_declaration=True)


def _check(side_px: int, patch_px: int, tissue_share: float, tumour_share: float) -> None:
    if patch_px < 16 or patch_px % 16:
        raise InputError(f"patch_px is {patch_px}: give a multiple of 16")
    if side_px < 8 * patch_px:
        raise InputError(f"side_px is {side_px}: give at least 8 patches, {8 * patch_px}")
    if not (0 <= tissue_share <= 0.6 and 0 < tumour_share <= 0.2):
        raise InputError(f"tissue_share is {tissue_share} (0 to 0.6), tumour_share {tumour_share} (up to 0.2)")


def _blob(centre: np.ndarray, radius: float, random: np.random.Generator) -> np.ndarray:
    """Return a wavy circle, (OUTLINE_VERTICES, 2) level-0 pixels; it stays within 1.12 radii, a circle's area."""
    angles = np.linspace(0, 2 * np.pi, OUTLINE_VERTICES, endpoint=False)
    wave = np.zeros(OUTLINE_VERTICES)
    for lobes in (2, 3, 5):
        wave += random.uniform(0.01, 0.04) * np.cos(lobes * angles + random.uniform(0, 2 * np.pi))
    return centre + (radius * (1 + wave))[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _banks(
    side_px: int, patch_px: int, kinds: Sequence[int], site: SiteStain, random: np.random.Generator
) -> list[np.ndarray]:
    """Return banks of one stain, parts of one drawing: mixed normal tissue, and tissue of each of `kinds`."""
    least = 8 if MIMIC in kinds else 4  # the fewer tiles, the more often a region shows the same nuclei
    tiles = max(least, min(BANK_PX, side_px * 2 // 3) // patch_px // 4 * 4)
    half, width = tiles // 2, tiles // len(kinds)
    tissue = lay_out_tissue(tiles, 0.05, False, random)
    for number, kind in enumerate(kinds):
        tissue[half:, number * width : (number + 1) * width] = kind
    drawing = np.asarray(draw_slide(tissue, patch_px, random, site))
    below, bank_px = drawing[half * patch_px :], width * patch_px
    return [drawing[: half * patch_px], *(below[:, i * bank_px : (i + 1) * bank_px] for i in range(len(kinds)))]


def _jpeg_tiles(slide: DrawnSlide, level_px: int, downsample: int) -> Iterator[bytes]:
    glass = _jpeg(slide.glass)
    for y_level in range(0, level_px, TIFF_TILE_PX):
        for x_level in range(0, level_px, TIFF_TILE_PX):
            tile = draw_tile(slide, x_level, y_level, downsample)
            yield glass if tile is None else _jpeg(tile)


def _jpeg(tile: np.ndarray) -> bytes:
    return simplejpeg.encode_jpeg(np.ascontiguousarray(tile), JPEG_QUALITY, "RGB", "420")


def _coverage(outlines: Sequence[np.ndarray], x_level: int, y_level: int, downsample: int) -> np.ndarray:
    """Return (TIFF_TILE_PX, TIFF_TILE_PX) float32: 1 inside an outline, 0 outside, soft at the edge."""
    fraction_bits = 4
    cover = np.zeros((TIFF_TILE_PX, TIFF_TILE_PX), np.uint8)
    for outline in outlines:
        xy = (outline / downsample - (x_level, y_level) - 0.5) * 2**fraction_bits
        cv2.fillPoly(cover, [np.rint(xy).astype(np.int32)], 255, cv2.LINE_AA, fraction_bits)
    return cover.astype(np.float32) / 255


def _from_bank(bank: np.ndarray, x_level: int, y_level: int, downsample: int) -> np.ndarray:
    """Return the tile at (x_level, y_level) of the endlessly mirrored bank, at a level's resolution."""
    height, width = (max(1, side // downsample) for side in bank.shape[:2])
    small = resize(bank, width, height)
    return small[_mirrored(y_level, height)][:, _mirrored(x_level, width)]


def _mirrored(begin: int, length: int) -> np.ndarray:
    """Return (TIFF_TILE_PX,) indices that run to and fro: a repetition without seams."""
    index = (begin + np.arange(TIFF_TILE_PX)) % (2 * length)
    return np.minimum(index, 2 * length - 1 - index)
