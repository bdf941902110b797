"""tiling.html: one self-contained page to look at before believing a tiling; and the contact sheet.

    units ──▶ counts, dropped slides with reasons, outliers, histogram of patches per slide, a picture of each slide

The same units give the same bytes.
"""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from shards.cohort.slides import Slide
from shards.files import whole_file
from shards.tiling.outliers import find_outliers
from shards.tiling.unit import Unit

MAX_PICTURES = 240  # 20 kB each: the page stays below 7 MB
CELL_PX, CAPTION_PX, COLUMNS = 260, 36, 6
NUM_BARS = 24
LEGEND = "green: kept patch · red: positive patch · blue: edge of the tissue mask · yellow: annotation · grey: left out"


def write_page(
    cohort: Path,
    slides: Sequence[Slide],
    units: Sequence[Unit],
    settings: Mapping[str, Any],
    name: str = "tiling",
    pictures: str = "thumbnails",
) -> None:
    """Write cohort/<name>.html and cohort/<name>_contact_sheet.jpg.

    Args:
        cohort: the cohort's folder.
        slides: in order.
        units: what became of each.
        settings: of the tiling.
        name: of the page.
        pictures: the folder in `cohort` where each slide's <key>.jpg lies.
    """
    outliers = {outlier.slide_id: outlier for outlier in find_outliers(_counts(slides, units))}
    order = sorted(range(len(slides)), key=lambda index: (slides[index].slide_id not in outliers, index))
    shown = sorted(index for index in order if (cohort / pictures / f"{slides[index].key}.jpg").is_file())
    shown = [index for index in shown if index in set(order[:MAX_PICTURES])] if len(shown) > MAX_PICTURES else shown
    cells = [(slides[index], units[index], _small(cohort / pictures / f"{slides[index].key}.jpg")) for index in shown]
    if cells:
        with whole_file(cohort / f"{name}_contact_sheet.jpg") as temporary:
            _contact_sheet(cells).save(temporary, format="JPEG", quality=85)
    parts = [
        _head(slides, units),
        _dropped(slides, units),
        _list("Unusual numbers of patches", [str(outlier) for outlier in outliers.values()]),
        _list("Worth knowing", _remarks(units)),
        _histogram([unit.num_patches for unit in units if unit.num_patches]),
        _gallery(cells, len(slides), pictures, set(outliers)),
        _settings(settings),
    ]
    head = "<meta charset=utf-8><meta name=viewport content='width=device-width'><title>Tiling</title>"
    page = f"<!doctype html>\n<html lang=en>{head}\n{STYLE}\n"
    with whole_file(cohort / f"{name}.html") as temporary:
        temporary.write_text(page + "\n".join(part for part in parts if part) + "\n", encoding="utf-8")


def _counts(slides: Sequence[Slide], units: Sequence[Unit]) -> dict[str, int]:
    return {s.slide_id: unit.num_patches for s, unit in zip(slides, units, strict=True) if unit.num_patches}


def _head(slides: Sequence[Slide], units: Sequence[Unit]) -> str:
    counts = [unit.num_patches for unit in units if unit.num_patches]
    background = sum(unit.num_background for unit in units)
    total = sum(counts)
    share = f"{100 * background / (background + total):.0f} % of the grid" if background + total else "nothing"
    figures = [
        (f"{len(counts):,}", "slides with patches"),
        (f"{sum(unit.empty for unit in units):,}", "empty"),
        (f"{sum(unit.failed for unit in units):,}", "failed"),
        (f"{total:,}", "patches"),
        (f"{np.median(counts):,.0f}" if counts else "0", "median per slide"),
        (share, "left out as background"),
    ]
    boxes = "".join(f"<div><b>{value}</b><span>{label}</span></div>" for value, label in figures)
    return f"<h1>Tiling: {len(slides):,} slides</h1>\n<div class=figures>{boxes}</div>"


def _dropped(slides: Sequence[Slide], units: Sequence[Unit]) -> str:
    rows = [
        f"<tr><td>{html.escape(slide.slide_id)}"
        f"<td class={'failed' if unit.failed else 'empty'}>{html.escape(unit.status)}"
        for slide, unit in zip(slides, units, strict=True)
        if unit.failed or unit.empty
    ]
    if not rows:
        return "<h2>Dropped slides</h2><p>None."
    return f"<h2>Dropped slides ({len(rows)})</h2><table><tr><th>slide<th>reason{''.join(rows)}</table>"


def _remarks(units: Sequence[Unit]) -> list[str]:
    remarks = [
        (sum(unit.mpp_from == "assumed" for unit in units), "slides whose microns per pixel are assumed"),
        (sum(unit.num_outlines_repaired for unit in units), "annotated outlines crossed themselves and were repaired"),
        (sum(unit.num_outlines_left_out for unit in units), "annotated outlines without an area were left out"),
        (sum(unit.num_points_outside for unit in units), "points without a patch of their own"),
    ]
    return [f"{number:,} {text}" for number, text in remarks if number]


def _list(title: str, lines: Sequence[str]) -> str:
    items = "".join(f"<li>{html.escape(line)}" for line in lines)
    return f"<h2>{title}</h2><ul>{items}</ul>" if lines else ""


def _histogram(counts: Sequence[int]) -> str:
    """Return an SVG bar chart: number of slides by number of patches."""
    if not counts:
        return ""
    edges = np.unique(np.linspace(0, max(counts), min(NUM_BARS, max(counts)) + 1).round().astype(int))
    heights, _ = np.histogram(counts, bins=edges)
    width, height, left, top, bottom = 720, 200, 60, 24, 48
    step, tallest, median = (width - left) / len(heights), heights.max(), float(np.median(counts))
    bars = "".join(
        f'<rect x="{left + index * step + 1:.1f}" y="{height * (1 - number / tallest):.1f}" width="{step - 2:.1f}" '
        f'height="{height * number / tallest:.1f}">'
        f"<title>{edges[index]:,} to {edges[index + 1]:,} patches: {number} slides</title></rect>"
        for index, number in enumerate(heights)
    )
    at = left + (width - left) * median / edges[-1]
    ticks = "".join(
        f'<text x="{left + (width - left) * share:.0f}" y="{height + 19}" text-anchor="{anchor}">'
        f"{edges[-1] * share:,.0f}</text>"
        for share, anchor in ((0, "start"), (0.25, "middle"), (0.5, "middle"), (0.75, "middle"), (1, "end"))
    )
    return (
        f'<h2>Patches per slide</h2><svg viewBox="0 {-top} {width} {height + bottom + top}" role=img>{bars}{ticks}'
        f'<line x1="{left}" x2="{width}" y1="{height}" y2="{height}"/>'
        f'<line class=median x1="{at:.1f}" x2="{at:.1f}" y1="0" y2="{height}"/>'
        f'<text x="{at:.1f}" y="-5" text-anchor="middle">median {median:,.0f}</text>'
        f'<text x="{left - 6}" y="10" text-anchor="end">{tallest}</text>'
        f'<text x="{left - 6}" y="{height}" text-anchor="end">0</text>'
        f'<text x="{(left + width) / 2:.0f}" y="{height + 43}" text-anchor="middle">patches of a slide</text></svg>'
    )


Cell = tuple[Slide, Unit, Image.Image]


def _gallery(cells: Sequence[Cell], num_slides: int, pictures: str, outliers: set[str]) -> str:
    note = f"; {num_slides - len(cells):,} slides have no picture here" if len(cells) < num_slides else ""
    cards = "".join(_card(cell, pictures, cell[0].slide_id in outliers) for cell in cells)
    return f"<h2>Slides</h2><p>{LEGEND}{note}.<div class=gallery>{cards}</div>"


def _card(cell: Cell, pictures: str, is_outlier: bool) -> str:
    slide, unit, picture = cell
    jpeg = io.BytesIO()
    picture.save(jpeg, format="JPEG", quality=80)
    source = f"data:image/jpeg;base64,{base64.b64encode(jpeg.getvalue()).decode()}"
    labels = ", ".join(f"{column} {'?' if value is None else value}" for column, value in slide.labels.items())
    mpp = f"{unit.source_mpp:.3g} um/px ({unit.mpp_from})" if unit.source_mpp else "um/px unknown"
    text = f"{_caption(unit)} · {labels} · {unit.width:,} x {unit.height:,} · {mpp}"
    return (
        f"<figure{' class=outlier' if is_outlier else ''}><a href='{pictures}/{slide.key}.jpg'>"
        f"<img loading=lazy alt='' src='{source}'></a>"
        f"<figcaption><b>{html.escape(slide.slide_id)}</b><br>{html.escape(text)}</figcaption></figure>"
    )


def _caption(unit: Unit) -> str:
    return (
        f"{unit.num_patches:,} of {unit.num_patches + unit.num_background:,} patches"
        if unit.num_patches
        else unit.status
    )


def _settings(settings: Mapping[str, Any]) -> str:
    rows = "".join(f"<tr><td>{html.escape(key)}<td>{html.escape(str(value))}" for key, value in settings.items())
    return f"<h2>Settings</h2><details><summary>section tile</summary><table>{rows}</table></details>"


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


STYLE = """<style>
body{font:15px/1.45 system-ui,sans-serif;color:#1b1f24;background:#fff;max-width:1180px;margin:2em auto;padding:0 1em}
h1{font-size:1.5em}h2{font-size:1.12em;margin:1.7em 0 .5em}
.figures{display:flex;flex-wrap:wrap;gap:.7em}.figures div{background:#f3f5f7;border-radius:8px;padding:.6em 1em}
.figures b{display:block;font-size:1.25em}.figures span{color:#59636e}
table{border-collapse:collapse}
td,th{text-align:left;padding:.25em .9em .25em 0;border-bottom:1px solid #e3e7eb;vertical-align:top}
td{overflow-wrap:anywhere}
td:first-child{min-width:9em;max-width:26em}.failed{color:#a3161f}.empty{color:#7a5600}
svg{max-width:760px;width:100%;font-size:11px;fill:#59636e}svg rect{fill:#3b7dd8}
svg line{stroke:#9aa4ae}svg line.median{stroke:#c2410c;stroke-dasharray:4 3}
.gallery{display:grid;grid-template-columns:repeat(auto-fill,minmax(210px,1fr));gap:14px;align-items:end}
figure{margin:0;padding:6px;border-radius:8px}figure.outlier{background:#fff1d6}
img{max-width:100%;display:block;margin:auto}
figcaption{font-size:12px;color:#59636e;overflow-wrap:anywhere}figcaption b{color:#1b1f24}
@media(max-width:600px){svg{font-size:20px}th{display:none}td{display:block;border:0;padding:.1em 0;max-width:none}
td:first-child{font-weight:600}tr{display:block;border-bottom:1px solid #e3e7eb;padding:.3em 0}}
</style>"""
