"""The report's table of slides: a row per slide of the cohort, sorted and filtered in the browser, without any library."""

import html
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from hnm.report.pictures import scored_patches
from hnm.report.record import RunRecord
from hnm.report.run_warnings import outlier_slides, status_of_slides
from hnm.report.table import RESULTS, bar, sorted_table
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


def slide_table(record: RunRecord, heatmaps: Mapping[int, Path], embedded: set[int]) -> str:
    """Return the table with its filters as HTML.

    Args:
        record: the run.
        heatmaps: files by slide number.
        embedded: slides whose heatmap is in the page itself; the others are linked as files beside it.
    """
    status, outliers = status_of_slides(record), outlier_slides(record)
    body = "".join(
        _row(record, slide, heatmaps.get(slide), slide in embedded, str(status[slide]), outliers)
        for slide in range(record.study.cohort.num_slides)
    )
    choices = {"split": [str(name) for name in np.unique(record.split_of) if name], "result": RESULTS}
    return f"<h2 id=slides>Slides</h2>{sorted_table(COLUMNS, body, choices, 'name, patient, remark', 'slides')}"


def _row(
    record: RunRecord, slide: int, heatmap: Path | None, embedded: bool, status: str, outliers: Mapping[str, str]
) -> str:
    slide_id, label, score = (
        str(record.study.cohort.slide_ids[slide]),
        int(record.study.labels[slide]),
        float(record.by_slide[slide]),
    )
    scores = scored_patches(record, slide).scores if np.isfinite(score) else np.empty(0)
    called = int(score >= record.threshold) if np.isfinite(score) else None
    result = "none" if called is None or label < 0 else "right" if called == label else "wrong"
    remark = outliers.get(slide_id, "").removeprefix(f"{slide_id}: ") if status == "done" else status
    cells = (
        _linked(record, slide_id, heatmap, embedded),
        html.escape(str(record.patients[slide])),
        str(record.split_of[slide]),
        "" if label < 0 else str(label),
        "" if called is None else bar(score, record.threshold),
        "" if called is None else str(called),
        f"<span class={result}>{result}</span>",
        f"{int(record.study.cohort.patches_per_slide[slide])}",
        str(int((scores >= record.patch_threshold).sum())) if len(scores) else "",
        f"{np.nanmax(scores):.3f}" if np.isfinite(scores).any() else "",
        html.escape(remark),
    )
    return f"<tr data-split='{record.split_of[slide]}' data-result={result}><td>{'<td>'.join(cells)}"


def _linked(record: RunRecord, slide_id: str, heatmap: Path | None, embedded: bool) -> str:
    name = html.escape(slide_id)
    if heatmap is None:
        return name
    target = f"#heatmap-{slide_key(slide_id)}" if embedded else os.path.relpath(heatmap, record.run)
    return f"<a href='{target}'>{name}</a>"
