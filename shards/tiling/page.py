"""tiling.html: one self-contained page to look at before believing a tiling; and the contact sheet.

    units ──▶ counts, dropped slides with reasons, outliers, histogram of patches per slide, a picture of each slide

The same units give the same bytes.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from shards.cohort.slides import Slide
from shards.cohort.split_counts import SplitCount, split_warnings
from shards.files import whole_file
from shards.tiling import render
from shards.tiling.annotated import summarise_annotations
from shards.tiling.histogram import histogram
from shards.tiling.outliers import find_outliers
from shards.tiling.tissue_told import tissue_lines
from shards.tiling.unit import Unit

MAX_PICTURES = 240  # 20 kB each: the page stays below 7 MB
CELL_PX, CAPTION_PX, COLUMNS = 260, 36, 6

FRAMES = {
    "qupath": "scans begin inside level 0, and their outlines count from there, as in QuPath",
    "level0": "scans begin inside level 0, and their outlines count from level 0's corner",
}
Cell = tuple[Slide, Unit, Image.Image]


@dataclass(frozen=True)
class Card:
    """A slide's picture in the page: as a data URL, with the file of the large one and what is said below it."""

    slide_id: str
    picture: str
    file: str
    text: str
    is_outlier: bool


def write_page(
    cohort: Path,
    slides: Sequence[Slide],
    units: Sequence[Unit],
    settings: Mapping[str, Any],
    name: str = "tiling",
    pictures: str = "thumbnails",
    splits: Sequence[SplitCount] = (),
) -> None:
    """Write cohort/<name>.html and cohort/<name>_contact_sheet.jpg.

    Args:
        cohort: the cohort's folder.
        slides: in order.
        units: what became of each.
        settings: of the tiling.
        name: of the page.
        pictures: the folder in `cohort` where each slide's <key>.jpg lies.
        splits: what each split holds, to be drawn.
    """
    outliers = {outlier.slide_id: outlier for outlier in find_outliers(_counts(slides, units))}
    order = sorted(range(len(slides)), key=lambda index: (slides[index].slide_id not in outliers, index))
    # A slide that failed may have a picture of an earlier time, which shows nothing of this one.
    paths = [cohort / pictures / f"{slide.key}.jpg" for slide in slides]
    shown = sorted(index for index in order if paths[index].is_file() and not units[index].failed)
    shown = [index for index in shown if index in set(order[:MAX_PICTURES])] if len(shown) > MAX_PICTURES else shown
    cells = [(slides[index], units[index], _small(paths[index])) for index in shown]
    if cells:
        with whole_file(cohort / f"{name}_contact_sheet.jpg") as temporary:
            _contact_sheet(cells).save(temporary, format="JPEG", quality=85)
    else:
        (cohort / f"{name}_contact_sheet.jpg").unlink(missing_ok=True)
    render.write_page(
        cohort / f"{name}.html",
        render.environment(),
        "tiling.html",
        num_slides=len(slides),
        boxes=_boxes(units),
        dropped=[(slide, unit) for slide, unit in zip(slides, units, strict=True) if unit.failed or unit.empty],
        lists=[
            ("Unusual numbers of patches", [str(outlier) for outlier in outliers.values()]),
            ("Annotations", summarise_annotations(slides, units, settings).lines()),
            ("Worth knowing", [*_remarks(units), *tissue_lines(slides, units)]),
        ],
        splits=splits,
        split_warnings=split_warnings(splits),
        most_in_a_split=max((split.num_slides for split in splits), default=0),
        histogram=histogram([unit.num_patches for unit in units if unit.num_patches]),
        cards=[_card(cell, pictures, cell[0].slide_id in outliers) for cell in cells],
        num_without_picture=len(slides) - len(cells),
        settings=settings,
    )


def _counts(slides: Sequence[Slide], units: Sequence[Unit]) -> dict[str, int]:
    return {s.slide_id: unit.num_patches for s, unit in zip(slides, units, strict=True) if unit.num_patches}


def _boxes(units: Sequence[Unit]) -> list[tuple[str, list[str]]]:
    counts = [unit.num_patches for unit in units if unit.num_patches]
    background = sum(unit.num_background for unit in units)
    total = sum(counts)
    share = f"{100 * background / (background + total):.0f} % of the grid" if background + total else "nothing"
    return [
        (f"{len(counts):,}", ["slides with patches"]),
        (f"{sum(unit.empty for unit in units):,}", ["empty"]),
        (f"{sum(unit.failed for unit in units):,}", ["failed"]),
        (f"{total:,}", ["patches"]),
        (f"{np.median(counts):,.0f}" if counts else "0", ["median per slide"]),
        (share, ["left out as background"]),
    ]


def _remarks(units: Sequence[Unit]) -> list[str]:
    remarks = [
        (sum(unit.mpp_from == "assumed" for unit in units), "slides whose microns per pixel are assumed"),
        (sum(unit.num_outlines_repaired for unit in units), "annotated outlines crossed themselves and were repaired"),
        (sum(unit.num_outlines_left_out for unit in units), "annotated outlines without an area were left out"),
        (sum(unit.num_points_outside for unit in units), "points without a patch of their own"),
        (sum(unit.num_kept_jpegs for unit in units), "patches are the slide's own JPEG (tile.keep_jpeg)"),
        (sum(unit.num_openslide_reads > 0 for unit in units), "slides with tiles that only OpenSlide could decode"),
        *((sum(unit.annotation_frame == frame for unit in units), words) for frame, words in FRAMES.items()),
    ]
    return [f"{number:,} {text}" for number, text in remarks if number]


def _card(cell: Cell, pictures: str, is_outlier: bool) -> Card:
    slide, unit, picture = cell
    jpeg = io.BytesIO()
    picture.save(jpeg, format="JPEG", quality=80)
    labels = ", ".join(f"{column} {'?' if value is None else value}" for column, value in slide.labels.items())
    mpp = f"{unit.source_mpp:.3g} um/px ({unit.mpp_from})" if unit.source_mpp else "um/px unknown"
    text = f"{_caption(unit)} · {labels} · {unit.width:,} x {unit.height:,} · {mpp}"
    if unit.tissue_from:
        text += f" · tissue above saturation {unit.tissue_saturation:.0f}: {unit.tissue_from}"
    source = render.data_url(jpeg.getvalue(), ".jpg")
    return Card(slide.slide_id, source, f"{pictures}/{slide.key}.jpg", text, is_outlier)


def _caption(unit: Unit) -> str:
    return (
        f"{unit.num_patches:,} of {unit.num_patches + unit.num_background:,} patches"
        if unit.num_patches
        else unit.status
    )


def _small(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        picture.draft("RGB", (2 * CELL_PX, 2 * CELL_PX))
        picture.thumbnail((CELL_PX, CELL_PX), Image.Resampling.LANCZOS)
        return picture.convert("RGB")


def _contact_sheet(cells: Sequence[Cell]) -> Image.Image:
    """Return all pictures on one sheet, a caption under each."""
    columns = min(COLUMNS, len(cells))
    rows = -(-len(cells) // columns)
    gap = 10
    sheet = Image.new("RGB", (columns * (CELL_PX + gap) + gap, rows * (CELL_PX + CAPTION_PX + gap) + gap), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for index, (slide, unit, picture) in enumerate(cells):
        left = gap + index % columns * (CELL_PX + gap)
        top = gap + index // columns * (CELL_PX + CAPTION_PX + gap)
        sheet.paste(picture, (left + (CELL_PX - picture.width) // 2, top + CELL_PX - picture.height))
        draw.text((left, top + CELL_PX + 3), _fit(slide.slide_id), "black", font)
        draw.text((left, top + CELL_PX + 18), _fit(_caption(unit)), (90, 90, 90), font)
    return sheet


def _fit(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:39]}…"
