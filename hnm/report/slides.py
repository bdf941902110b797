"""The report's table of slides: a row per slide of the cohort."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from hnm.report.page import link_to
from hnm.report.pictures import scored_patches
from hnm.report.record import RunRecord
from hnm.report.run_warnings import outlier_slides, status_of_slides
from hnm.report.table import RESULTS, SlideRow, SlideTable
from shards.cohort.slides import slide_key

COLUMNS = (
    ("slide", "text", "name of the slide; a link to its heatmap"),
    ("patient", "text", "patients are never in two splits"),
    ("split", "text", "only test slides were not looked at before"),
    ("label", "number", "slide label: 1 positive, 0 negative"),
    ("score", "number", "slide score, 0 to 1"),
    ("called", "number", "1 where the score reaches the threshold"),
    ("result", "text", "is what it is called its label?"),
    ("patches", "number", "patches cut from it"),
    ("positive patches", "number", "patches at or above the patch threshold"),
    ("highest", "number", "highest patch score"),
    ("remark", "text", "why it was dropped, or what is unusual"),
)


def slide_table(record: RunRecord, heatmaps: Mapping[int, Path], embedded: set[int]) -> SlideTable:
    """Return the table with its filters.

    Args:
        record: the run.
        heatmaps: files by slide number.
        embedded: slides whose heatmap is in the page itself; the others are linked as files beside it.
    """
    status, outliers = status_of_slides(record), outlier_slides(record)
    rows = [
        _row(record, slide, _href(record, slide, heatmaps.get(slide), slide in embedded), str(status[slide]), outliers)
        for slide in range(record.study.cohort.num_slides)
    ]
    choices = {"split": [str(name) for name in np.unique(record.split_of) if name], "result": RESULTS}
    return SlideTable(COLUMNS, rows, choices, "name, patient, remark", "slides")


def _row(record: RunRecord, slide: int, href: str | None, status: str, outliers: Mapping[str, str]) -> SlideRow:
    slide_id, label, score = (
        str(record.study.cohort.slide_ids[slide]),
        int(record.study.labels[slide]),
        float(record.by_slide[slide]),
    )
    is_scored = bool(np.isfinite(score))
    scores = scored_patches(record, slide).scores if is_scored else np.empty(0)
    called = int(score >= record.threshold)
    cells = {
        "slide": slide_id,
        "patient": str(record.patients[slide]),
        "split": str(record.split_of[slide]),
        "label": "" if label < 0 else str(label),
        "score": f"{score:.3f}" if is_scored else "",
        "called": str(called) if is_scored else "",
        "result": "none" if not is_scored or label < 0 else "right" if called == label else "wrong",
        "patches": str(int(record.study.cohort.patches_per_slide[slide])),
        "positive patches": str(int((scores >= record.patch_threshold).sum())) if len(scores) else "",
        "highest": f"{np.nanmax(scores):.3f}" if np.isfinite(scores).any() else "",
        "remark": outliers.get(slide_id, "").removeprefix(f"{slide_id}: ") if status == "done" else status,
    }
    return SlideRow(cells, href, 100 * score if is_scored else 0.0, is_scored and bool(called))


def _href(record: RunRecord, slide: int, heatmap: Path | None, embedded: bool) -> str | None:
    if heatmap is None:
        return None
    key = slide_key(str(record.study.cohort.slide_ids[slide]))
    return f"#heatmap-{key}" if embedded else link_to(heatmap, record.run)
