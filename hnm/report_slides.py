"""The report's table of slides: a row per slide of the cohort, sorted and filtered in the browser, without any library."""

import html
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from hnm.pictures import scored_patches
from hnm.record import RunRecord
from hnm.run_warnings import outlier_slides, status_of_slides
from shards.slides import slide_key

# heading, the kind by which its cells are sorted, and what it says
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
    heads = "".join(
        f"<th aria-sort=none data-kind={kind} title='{html.escape(title)}'><button type=button>{name}</button>"
        for name, kind, title in COLUMNS
    )
    return (
        "<h2 id=slides>Slides</h2>"
        "<p class=filters><label>search <input id=search type=search placeholder='name, patient, remark'></label>"
        f"{_choice('split', record.split_of)}"
        "<label>result <select id=result><option value=''>all<option>right<option>wrong<option>none</select></label>"
        " <span id=shown role=status></span></p>"
        f"<div class=scroll><table id=slide-table class=wide><thead><tr>{heads}<tbody>{body}</table></div>"
    )


def _choice(name: str, values: np.ndarray) -> str:
    options = "".join(f"<option>{html.escape(str(value))}" for value in np.unique(values) if value)
    return f"<label>{name} <select id={name}><option value=''>all{options}</select></label>"


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
        "" if called is None else _bar(score, record.threshold),
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


def _bar(score: float, threshold: float) -> str:
    kind = "high" if score >= threshold else "low"
    return f"<span class='bar {kind}' style='--share:{100 * score:.1f}%'>{score:.3f}</span>"


SCRIPT = """<script>
"use strict";
const table = document.getElementById("slide-table"), body = table.tBodies[0], rows = [...body.rows];
const value = (row, column, kind) => {
  const text = row.cells[column].textContent;
  return kind === "number" ? (text === "" ? null : Number(text)) : text;
};
const sortBy = (head) => {
  const column = head.cellIndex, kind = head.dataset.kind;
  const down = head.getAttribute("aria-sort") === "ascending";
  for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const known = rows.map(row => [value(row, column, kind), row]);
  known.sort(([a], [b]) => {  // what is not known stays at the end, up or down
    if (a === null || b === null) return (a === null) - (b === null);
    const order = kind === "number" ? a - b : a.localeCompare(b, "en", {numeric: true});
    return down ? -order : order;
  });
  body.append(...known.map(([, row]) => row));
};
for (const head of table.tHead.rows[0].cells) head.firstChild.addEventListener("click", () => sortBy(head));
const control = name => document.getElementById(name);
const filter = () => {
  const words = control("search").value.toLowerCase(), split = control("split").value, result = control("result").value;
  let shown = 0;
  for (const row of rows) {
    const kept = (!split || row.dataset.split === split) && (!result || row.dataset.result === result)
      && row.textContent.toLowerCase().includes(words);
    row.hidden = !kept;
    shown += kept;
  }
  control("shown").textContent = `${shown} of ${rows.length} slides`;
};
for (const name of ["search", "split", "result"]) control(name).addEventListener("input", filter);
filter();
</script>"""
