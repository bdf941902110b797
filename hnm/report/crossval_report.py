"""OUT/report.html of `hnm crossval`: what the folds say together and how much they differ, one page that opens from a file.

    metrics.json, predictions.parquet ──▶ figures/*.png ──▶ report.html: summary, warnings, figures, folds, pictures, slides,
                                                             configuration
"""

import html
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hnm.config import Config
from hnm.report.page import (
    REPORT_FILE,
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
from hnm.report.pictures import Picture, drawn_or_not
from hnm.report.table import SCRIPT, bar, sorted_table
from hnm.run.broken import named
from shards.cohort.slides import slide_key

Fold = tuple[int, int]  # (repeat, fold), both from 0

# Heading and caption of each picture, in the page's order.
TEXTS = {
    "curves": (
        "ROC, precision and recall, out of fold",
        "Each slide by the model that neither trained nor chose by it; thin lines: the folds by themselves. The bands are where "
        "95 % of curves lie when patients are drawn anew (bootstrap). Folds are of different models, each with its own scale of "
        "scores: together they look a little worse than by themselves. With several repeats a slide counts once in each, a "
        "patient is drawn with all of them, and the AUC is the mean over repeats.",
    ),
    "figures_by_fold": (
        "Figures by fold",
        "How much a figure depends on which slides are tested. The interval is that of the mean (Student's t, variance corrected "
        "for the training slides that folds share), and may pass 0 and 1.",
    ),
    "scores_by_fold": (
        "Scores by fold",
        "Do positive and negative slides part in every fold, and at like scores? Each fold's threshold was chosen on its "
        "validation slides.",
    ),
    "confusion": (
        "Right and wrong at the folds' thresholds",
        "The worst mistakes are named: look for them in the table of slides.",
    ),
    "calibration": (
        "Calibration, out of fold",
        "Are eight of ten slides that score 0.8 positive? Training takes as many positive as negative slides: in a cohort of few "
        "positive ones scores are too high.",
    ),
}  # fmt: skip

COLUMNS = (
    ("slide", "text", "name of the slide; a link to its heatmap by the fold that tested it, if that is drawn"),
    ("patient", "text", "patients are never in two folds of a repeat"),
    ("repeat", "number", "each draws the folds anew"),
    ("fold", "number", "whose test slide it is"),
    ("label", "number", "slide label: 1 positive, 0 negative"),
    ("score", "number", "slide score, 0 to 1"),
    ("threshold", "number", "of the fold, chosen on its validation slides"),
    ("called", "number", "1 where the score reaches the threshold"),
    ("result", "text", "is what it is called its label?"),
)


@dataclass(frozen=True)
class CrossvalRecord:
    """A whole cross-validation.

    Attributes:
        out: its folder.
        config: what all folds share.
        facts: what crossval.json says, by name: of which cohort it is.
        metrics: metrics.json.
        predictions: predictions.parquet: a row per repeat and slide (see `hnm.evidence.crossval.out_of_fold`).
        runs: each fold's run directory.
        slide_ids: (S,) names of all slides of the cohort; those without a label or a patch take no part.
    """

    out: Path
    config: Config
    facts: dict[str, Any]
    metrics: dict[str, Any]
    predictions: pa.Table
    runs: dict[Fold, Path]
    slide_ids: np.ndarray

    @cached_property
    def columns(self) -> dict[str, np.ndarray]:
        """The columns of `predictions`, (n,) each."""
        return {name: self.predictions[name].to_numpy() for name in self.predictions.column_names}

    @property
    def num_repeats(self) -> int:
        return len({repeat for repeat, _ in self.runs})

    def name_of_fold(self, key: Fold) -> str:
        """Return "fold 2", or "repeat 1, fold 2" where there are several repeats."""
        return f"fold {key[1]}" if self.num_repeats == 1 else f"repeat {key[0]}, fold {key[1]}"


def make_crossval_report(record: CrossvalRecord) -> Path:
    """Draw the pictures of a cross-validation and write its page; return the page."""
    pictures = draw_crossval_pictures(record, record.out / "figures")
    parts = [
        _head(record),
        warnings_part(
            warnings_of_crossval(record),
            "every slide took part, every fold has test slides of both classes, and no patch of theirs was unreadable",
        ),
        _figures(record),
        _folds(record),
        pictures_part(pictures),
        _slides(record),
        settings_part(record.config),
        f"<h2 id=cohort>Cohort</h2>{facts_table({name: str(value) for name, value in record.facts.items()})}",
        SCRIPT,
    ]
    page = record.out / REPORT_FILE
    write_page(page, name_of(record.out), parts)
    return page


def warnings_of_crossval(record: CrossvalRecord) -> list[str]:
    """Return what one should know before one believes the page, a sentence each: of all folds, then of each."""
    left_out, folds, warnings = np.setdiff1d(record.slide_ids, record.columns["slide_id"]), record.metrics["folds"], []
    if len(left_out):
        warnings.append(
            f"{len(left_out)} of {len(record.slide_ids)} slides take no part, for they have no label or no patch: "
            f"{named(left_out)}."
        )
    num_start = sum(fold["chosen_round"] == 0 for fold in folds)
    if num_start and record.config.rounds.num_rounds:
        warnings.append(
            f"In {num_start} of {len(folds)} folds no fine-tuned round was better than the start encoder on the validation "
            "slides: round 0 was chosen."
        )
    warnings += [text[:1].upper() + text[1:] for text in record.metrics.get("interval_warnings", [])]
    for fold in folds:  # without their "interval_warnings": this page's intervals are others
        name = record.name_of_fold((fold["repeat"], fold["fold"]))
        warnings += [f"{name}: {warning}" for warning in fold["warnings"]]
    return warnings


def draw_crossval_pictures(record: CrossvalRecord, folder: Path) -> list[Picture]:
    """Draw all pictures into `folder`, and return them in the page's order."""
    from hnm.report import draw_curves as picture_curves  # matplotlib: 0.8 s
    from hnm.report import draw_folds as picture_folds
    from hnm.report import draw_quality as picture_quality

    columns, seed, what = record.columns, record.config.seed, "out-of-fold"
    labels, scores, thresholds = columns["label"], columns["score"], columns["threshold"]
    keys, names = list(record.runs), [record.name_of_fold(key) for key in record.runs]
    number = {key: place for place, key in enumerate(keys)}
    folds = np.array([number[key] for key in zip(columns["repeat"].tolist(), columns["fold"].tolist(), strict=True)])
    by_fold = {
        record.name_of_fold((fold["repeat"], fold["fold"])): fold["figures"] for fold in record.metrics["folds"]
    }
    draw: dict[str, Callable[[Path], None]] = {
        "curves": lambda path: picture_curves.draw_curves(
            path, labels, scores, columns["patient_id"], thresholds, what, seed, record.metrics["out_of_fold"], folds
        ),
        "figures_by_fold": lambda path: picture_folds.draw_figures(path, record.metrics["mean"], by_fold),
        "scores_by_fold": lambda path: picture_folds.draw_scores(path, labels, scores, folds, names, thresholds),
        "confusion": lambda path: picture_curves.draw_confusion(
            path, labels, scores, thresholds, what, columns["slide_id"]
        ),
        "calibration": lambda path: picture_quality.draw_calibration(path, labels, scores, what),
    }
    return [drawn_or_not(name, *TEXTS[name], draw[name], folder / f"{name}.png") for name in TEXTS]


def _head(record: CrossvalRecord) -> str:
    mean, pooled, columns = record.metrics["mean"], record.metrics["out_of_fold"]["auc"], record.columns
    first = columns["repeat"] == columns["repeat"].min()  # every repeat has all slides
    labels = columns["label"][first]

    def box(name: str, words: str) -> tuple[str, str]:
        figure = mean.get(name)
        return digits(figure and figure["mean"]), f"{words}, mean over folds{interval_line(figure)}"

    boxes = [
        box("slide auc", "slide AUC"),
        (digits(pooled["value"]), f"AUC of all out-of-fold scores{interval_line(pooled)}, by patient"),
        box("slide balanced_accuracy", "balanced accuracy"),
        *([box("instance auc", "patch AUC")] if "instance auc" in mean else []),
        (f"{len(labels)}", f"slides, each tested<br>{(labels == 1).sum()} positive, {(labels == 0).sum()} negative"),
        (f"{len(np.unique(columns['patient_id']))}", "patients"),
        (f"{record.metrics['num_folds']} x {record.num_repeats}", "folds x repeats"),
        (duration(sum(fold["seconds"] for fold in record.metrics["folds"])), "computing, all folds"),
    ]
    links = ("figures", "folds", "pictures", "slides", "configuration", "cohort")
    return (
        f"{head(name_of(record.out), links, boxes)}"
        "<p>Every slide was tested by a model that neither trained nor chose by it or another slide of its patient. Round and "
        "threshold of each fold were chosen on its validation slides. For research; not for diagnosis."
    )


def _figures(record: CrossvalRecord) -> str:
    heads = ["figure", "mean", "95 % interval", *(record.name_of_fold(key) for key in record.runs)]
    rows = ""
    for name, figure in record.metrics["mean"].items():
        interval = "" if figure["low"] is None else f"{figure['low']:.3f} to {figure['high']:.3f}"
        values = [fold["figures"].get(name) for fold in record.metrics["folds"]]
        cells = (
            html.escape(name.replace("_", " ")),
            f"<b>{figure['mean']:.3f}</b>",
            interval,
            *("<span class=none>none</span>" if value is None else f"{value:.3f}" for value in values),
        )
        rows += f"<tr><td>{'<td>'.join(cells)}"
    return (
        f"<h2 id=figures>Figures</h2><div class=scroll><table class=wide><tr><th>{'<th>'.join(heads)}{rows}</table></div>"
        "<p class=note>Of test slides (slide), of their patches where truth is known (instance), and of lesions (froc). "
        "Interval of the mean over folds: Student's t, which may pass 0 and 1."
    )


def _folds(record: CrossvalRecord) -> str:
    columns, rows = record.columns, ""
    heads = ("fold", "slide AUC", "test slides", "positive", "chosen round", "threshold", "encoder steps", "seconds", "warnings")
    for fold in record.metrics["folds"]:
        key = (fold["repeat"], fold["fold"])
        own = (columns["repeat"] == key[0]) & (columns["fold"] == key[1])
        page, name = record.runs[key] / REPORT_FILE, record.name_of_fold(key)
        thresholds = columns["threshold"][own]
        cells = (
            f"<a href='{html.escape(os.path.relpath(page, record.out))}'>{name}</a>" if page.is_file() else name,
            digits(fold["figures"].get("slide auc")),
            str(fold["num_test_slides"]),
            str(int((columns["label"][own] == 1).sum())),
            str(fold["chosen_round"]),
            digits(float(thresholds[0])) if len(thresholds) else "",
            f"{fold['encoder_steps']:,}",
            f"{fold['seconds']:,.0f}",
            str(len(fold["warnings"]) or ""),
        )
        rows += f"<tr><td>{'<td>'.join(cells)}"
    return (
        f"<h2 id=folds>Folds</h2><div class=scroll><table class=wide><tr><th>{'<th>'.join(heads)}{rows}</table></div>"
        "<p class=note>A fold is linked to its own page once that is written: <code>hnm crossval --reports</code>, or <code>hnm "
        "report</code> with the fold's folder."
    )


def _slides(record: CrossvalRecord) -> str:
    several, rows = record.num_repeats > 1, []
    heatmaps = {key: _heatmaps_of(run, record.out) for key, run in record.runs.items()}
    for row in record.predictions.to_pylist():
        result = "right" if row["predicted"] == row["label"] else "wrong"
        name = html.escape(row["slide_id"])
        if (heatmap := heatmaps[row["repeat"], row["fold"]].get(slide_key(row["slide_id"]))) is not None:
            name = f"<a href='{html.escape(heatmap)}'>{name}</a>"
        cells = (
            name,
            html.escape(str(row["patient_id"])),
            *([str(row["repeat"])] if several else []),
            str(row["fold"]),
            str(row["label"]),
            bar(row["score"], row["threshold"]),
            f"{row['threshold']:.3f}",
            str(row["predicted"]),
            f"<span class={result}>{result}</span>",
        )
        rows.append(
            f"<tr data-repeat={row['repeat']} data-fold={row['fold']} data-result={result}><td>{'<td>'.join(cells)}"
        )
    choices: dict[str, list[str]] = {
        **({"repeat": [str(repeat) for repeat in sorted({key[0] for key in record.runs})]} if several else {}),
        "fold": [str(fold) for fold in sorted({key[1] for key in record.runs})],
        "result": ["right", "wrong"],
    }
    columns = [column for column in COLUMNS if several or column[0] != "repeat"]
    counted = "predictions" if several else "slides"
    return f"<h2 id=slides>Slides</h2>{sorted_table(columns, ''.join(rows), choices, 'name, patient', counted)}"


def _heatmaps_of(run: Path, out: Path) -> Mapping[str, str]:
    """Return the heatmaps that a fold's report has drawn: by the slide's key the path from the page."""
    return {path.stem: os.path.relpath(path, out) for path in (run / "figures" / "heatmaps").glob("*.jpg")}
