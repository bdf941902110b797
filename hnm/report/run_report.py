"""run/report.html: one self-contained page to look at before believing a run. It opens from a file and asks no network.

RunRecord ──▶ figures/*.png, figures/heatmaps/*.jpg ──▶ report.html: summary, warnings, rounds, pictures, slides,
                                                        heatmaps, configuration, environment
"""

import html
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hnm.config import flatten
from hnm.report.page import (
    REPORT_FILE,
    data_url,
    digits,
    duration,
    facts_table,
    head,
    interval_line,
    name_of,
    pictures_part,
    settings_part,
    warnings_part,
    write_page,
)
from hnm.report.pictures import draw_heatmaps, draw_pictures
from hnm.report.record import RunRecord
from hnm.report.run_warnings import warnings_of
from hnm.report.slides import slide_table
from hnm.report.table import SCRIPT
from shards.cohort.slides import slide_key
from shards.reading.reader import PatchReader

MAX_EMBEDDED = 120  # heatmaps in the page itself, 40 kB each: it stays below 10 MB; the others are linked

Progress = Callable[[Iterable[int], str, int], Iterable[int]]


def make_report(
    record: RunRecord, reader: PatchReader, device: torch.device, max_heatmaps: int, progress: Progress
) -> Path:
    """Draw the pictures of a run and write its page. Call it on rank 0 only.

    Args:
        record: the run.
        reader: of its cohort.
        device: where the map's patches are embedded.
        max_heatmaps: slides of which a heatmap is drawn; the judged split first, then validation, then training slides.
        progress: wraps the loop over heatmaps.

    Returns:
        The page.
    """
    pictures = draw_pictures(record, reader, device, record.run / "figures")
    order = slides_in_order(record)
    drawn = progress(order[:max_heatmaps], "heatmaps", len(order[:max_heatmaps]))
    heatmaps = draw_heatmaps(record, drawn, record.run / "figures" / "heatmaps")
    embedded = list(heatmaps)[:MAX_EMBEDDED]
    parts = [
        _head(record),
        warnings_part(warnings_of(record), "no slide was dropped, no patch was unreadable, no slide stands out"),
        _rounds(record),
        _metrics(record.metrics),
        pictures_part(pictures),
        slide_table(record, heatmaps, set(embedded)),
        _heatmaps(record, {slide: heatmaps[slide] for slide in embedded}, len(order)),
        settings_part(record.config),
        _environment(record),
        SCRIPT,
    ]
    page = record.run / REPORT_FILE
    write_page(page, name_of(record.run), parts)
    return page


def slides_in_order(record: RunRecord) -> list[int]:
    """Return the scored slides: those of the judged split first, wrong ones before right ones, then the others."""
    split, _ = record.judged
    rank = {split: 0, "validation": 1, "train": 2, "test": 3} | {split: 0}
    scored = np.flatnonzero(np.isfinite(record.by_slide))
    right = (record.by_slide >= record.threshold) == (record.study.labels == 1)
    return sorted(scored.tolist(), key=lambda slide: (rank.get(str(record.split_of[slide]), 4), bool(right[slide]), slide))


def _head(record: RunRecord) -> str:
    split, slides = record.judged
    labels = record.study.labels[slides]
    measured = record.metrics or {}
    figures = measured.get("slide") or record.decisions[record.chosen]["validation"]
    auc = f"slide AUC, {split}{interval_line(measured.get('slide_auc_interval'))}"
    seconds = sum(phase["seconds"] for phase in record.state["phases"])
    boxes = [
        (digits(figures["auc"]), auc),
        (digits(figures["balanced_accuracy"]), f"balanced accuracy<br>at {record.threshold:.3f}"),
        (
            f"{digits(figures['sensitivity'])} / {digits(figures['specificity'])}",
            "sensitivity / specificity",
        ),
        (f"{record.chosen}", f"chosen round<br>of {record.num_rounds - 1}"),
        (f"{len(slides)}", f"{split} slides<br>{(labels == 1).sum()} positive, {(labels == 0).sum()} negative"),
        (f"{record.study.cohort.num_patches:,}", f"patches of<br>{record.study.cohort.num_slides:,} slides"),
        (duration(seconds), "computing"),
    ]
    links = ("rounds", "metrics", "pictures", "slides", "heatmaps", "configuration", "environment")
    return (
        f"{head(name_of(record.run), links, boxes)}"
        "<p>A patch encoder and a slide classifier, learned from slide labels alone. Round and threshold were chosen on "
        "validation slides. For research; not for diagnosis."
    )


def _rounds(record: RunRecord) -> str:
    heads = (
        "round", "validation AUC", "F1", "loss", "patch AUC", "hard negatives", "candidates", "self-paced",
        "witness rate, self-paced", "witness rate, candidates", "labels", "seconds",
    )  # fmt: skip
    rows = ""
    for number, decision in enumerate(record.decisions):
        validation = decision["validation"]
        seconds = sum(phase["seconds"] for phase in record.state["phases"] if phase["round"] == number)
        cells = (
            f"{number}{' (chosen)' if number == record.chosen else ''}",
            *(digits(validation[name]) for name in ("auc", "f1", "loss")),
            digits(decision["validation_instance_auc"]),
            *(f"{decision[name]:,}" for name in ("num_hard_negatives", "num_candidates", "num_self_paced")),
            digits(decision["witness_rate_self_paced"]),
            digits(decision["witness_rate_candidates"]),
            "kept" if decision["kept_labels_of_previous_round"] else "new",
            f"{seconds:,.0f}",
        )
        rows += f"<tr{' class=chosen' if number == record.chosen else ''}><td>{'<td>'.join(cells)}"
    return (
        f"<h2 id=rounds>Rounds</h2><div class=scroll><table class=wide><tr><th>{'<th>'.join(heads)}{rows}</table></div>"
        "<p class=note>Validation slides. Witness rate: share of the mined positives that are truly positive, where patch "
        "truth is known; nothing is chosen by it. Labels: kept = the aggregator was no better, the labels before stayed."
    )


def _metrics(metrics: Mapping[str, Any] | None) -> str:
    if metrics is None:
        return "<h2 id=metrics>Metrics</h2><p>The test split has not been read. Next: <code>hnm evaluate</code>."
    flat = {name: value for name, value in flatten(dict(metrics)).items() if not isinstance(value, list | dict)}
    rows = "".join(f"<tr><td>{html.escape(name)}<td>{digits(value)}" for name, value in flat.items())
    return (
        "<h2 id=metrics>Metrics</h2><details><summary>metrics.json, all figures of the test split</summary>"
        f"<table>{rows}</table></details>"
    )


def _heatmaps(record: RunRecord, paths: Mapping[int, Path], num_scored: int) -> str:
    if not paths:
        return "<h2 id=heatmaps>Heatmaps</h2><p>None were drawn (hnm report --heatmaps N)."
    cards = ""
    for slide, path in paths.items():
        slide_id, label = str(record.study.cohort.slide_ids[slide]), int(record.study.labels[slide])
        cards += (
            f"<figure id='heatmap-{slide_key(slide_id)}'><a href='figures/heatmaps/{path.name}'>"
            f"<img decoding=async alt='heatmap of {html.escape(slide_id, quote=True)}' src='{data_url(path)}'></a>"
            f"<figcaption><b>{html.escape(slide_id)}</b> · {record.split_of[slide]} · label {label if label >= 0 else '?'} · "
            f"score {record.by_slide[slide]:.3f} · <a href=#slides>table</a></figcaption></figure>"
        )
    rest = f"; {num_scored - len(paths):,} more slides have none in this page" if num_scored > len(paths) else ""
    return (
        "<h2 id=heatmaps>Heatmaps</h2><p>Patch scores over the slide: blue below the patch threshold "
        f"({record.patch_threshold:.3g}), orange above; a black line around what is called positive, a yellow one around what "
        f"is truly positive, where it is known. {len(paths)} slides{rest}.<div class=gallery>{cards}</div>"
    )


def _environment(record: RunRecord) -> str:
    facts = {
        **record.environment,
        "run directory": str(record.run.resolve()),
        "cohort": record.state["cohort"],
        "fingerprint of the cohort": record.state["fingerprint"],
    }
    words = {key: json.dumps(value) if isinstance(value, dict) else str(value) for key, value in facts.items()}
    return f"<h2 id=environment>Environment</h2>{facts_table(words)}"
