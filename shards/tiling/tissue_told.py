"""Which thresholds parted tissue from glass in a cohort, for people to read.

    units' tissue_saturation, tissue_from ──▶ lines of hnm tile's summary and of tiling.html
"""

from collections.abc import Sequence

from shards.cohort.slides import Slide
from shards.tiling.unit import Unit

MAX_NAMED = 5  # slides that a line names
KINDS = {  # the first word of `Unit.tissue_from`, what is said of such slides, and whether they are named
    "otsu": ("by Otsu's threshold, {}", False),
    "ceiling": ("at its ceiling, {}", False),
    "floor": ("at its floor, {}", False),
    "fixed": ("by a fixed threshold, {}, for too little of them is glass", True),
}


def tissue_lines(slides: Sequence[Slide], units: Sequence[Unit]) -> list[str]:
    """Return how tissue was found on the slides where its saturation decided: a line, or none."""
    pairs = [(slide, unit) for slide, unit in zip(slides, units, strict=True) if unit.tissue_from]
    parts = []
    for kind, (words, is_named) in KINDS.items():
        own = [(slide.slide_id, unit.tissue_saturation or 0.0) for slide, unit in pairs if unit.tissue_from.startswith(kind)]
        if own:
            names = f" ({_few([slide_id for slide_id, _ in own])})" if is_named else ""
            parts.append(f"{len(own):,} {words.format(_range([value for _, value in own]))}{names}")
    tinted = [slide.slide_id for slide, unit in pairs if "the glass has" in unit.tissue_from]
    parts += [f"glass has a colour of its own on {len(tinted):,} ({_few(tinted)})"] if tinted else []
    return [f"tissue by saturation (of 255; each slide's in slides.parquet): {'; '.join(parts)}"] if parts else []


def _range(values: Sequence[float]) -> str:
    least, most = min(values), max(values)
    return f"{least:.0f}" if least == most else f"{least:.0f} to {most:.0f}"


def _few(ids: Sequence[str]) -> str:
    return ", ".join(ids[:MAX_NAMED]) + (f" and {len(ids) - MAX_NAMED:,} more" if len(ids) > MAX_NAMED else "")
