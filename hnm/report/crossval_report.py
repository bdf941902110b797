"""OUT/report.html of `hnm crossval`: what the folds say together and how much they differ, one page that opens from a file.

    metrics.json, predictions.parquet ──▶ figures/*.png ──▶ report.html: summary, warnings, figures, folds, pictures, slides,
                                                             configuration
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hnm.config import Config
from hnm.report.page import (
    REPORT_FILE,
    Box,
    digits,
    duration,
    interval_lines,
    link_to,
    name_of,
    settings_of,
    write_page,
)
from hnm.report.pictures import Picture, drawn_or_not
from hnm.report.table import SlideRow, SlideTable
from hnm.run.broken import named
from hnm.statistics.zero_width import few_patients
from shards.cohort.slides import slide_key

SECTIONS = ("figures", "folds", "pictures", "slides", "configuration", "cohort")

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
        missing: names of the folds that are not done; all else is of those that are.
    """

    out: Path
    config: Config
    facts: dict[str, Any]
    metrics: dict[str, Any]
    predictions: pa.Table
    runs: dict[Fold, Path]
    slide_ids: np.ndarray
    missing: Sequence[str] = ()

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
    page = record.out / REPORT_FILE
    write_page(
        page,
        "crossval.html",
        name=name_of(record.out),
        sections=SECTIONS,
        boxes=_boxes(record),
        warnings=warnings_of_crossval(record),
        mean=record.metrics["mean"],
        folds=[_fold(record, fold) for fold in record.metrics["folds"]],
        pictures=pictures,
        table=_slide_table(record),
        settings=settings_of(record.config),
        facts=record.facts,
    )
    return page


def warnings_of_crossval(record: CrossvalRecord) -> list[str]:
    """Return what one should know before one believes the page, a sentence each: of all folds, then of each."""
    left_out, folds, warnings = np.setdiff1d(record.slide_ids, record.columns["slide_id"]), record.metrics["folds"], []
    if record.missing:
        warnings.append(
            f"Only {len(folds)} of {len(folds) + len(record.missing)} folds are done: all figures are of these, and will change. "
            f"Not done: {named(record.missing)}. {len(left_out)} of {len(record.slide_ids)} slides are not tested yet, or "
            "take no part."
        )
    elif len(left_out):
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


def _boxes(record: CrossvalRecord) -> list[Box]:
    mean, pooled, columns = record.metrics["mean"], record.metrics["out_of_fold"]["auc"], record.columns
    first = columns["repeat"] == columns["repeat"].min()  # every repeat has all slides
    labels = columns["label"][first]

    def box(name: str, words: str) -> Box:
        figure = mean.get(name)
        return digits(figure and figure["mean"]), [f"{words}, mean over folds", *interval_lines(figure)]

    interval = [f"{line}, by {record.metrics.get('interval_by', 'patient')}" for line in interval_lines(pooled)]
    interval += [few] if (few := few_patients(record.metrics)) else []
    return [
        box("slide auc", "slide AUC"),
        (digits(pooled["value"]), ["AUC of all out-of-fold scores", *interval]),
        box("slide balanced_accuracy", "balanced accuracy"),
        *([box("instance auc", "patch AUC")] if "instance auc" in mean else []),
        (f"{len(labels)}", ["slides, each tested", f"{(labels == 1).sum()} positive, {(labels == 0).sum()} negative"]),
        (f"{len(np.unique(columns['patient_id']))}", ["patients"]),
        (f"{record.metrics['num_folds']} x {record.num_repeats}", ["folds x repeats"]),
        (duration(sum(fold["seconds"] for fold in record.metrics["folds"])), ["computing, all folds"]),
    ]


def _fold(record: CrossvalRecord, fold: Mapping[str, Any]) -> dict[str, Any]:
    """Return what metrics.json says of a fold, with its name, its page where that is written, and what its slides say."""
    columns, key = record.columns, (fold["repeat"], fold["fold"])
    own = (columns["repeat"] == key[0]) & (columns["fold"] == key[1])
    page, thresholds = record.runs[key] / REPORT_FILE, columns["threshold"][own]
    return {
        **fold,
        "name": record.name_of_fold(key),
        "href": link_to(page, record.out) if page.is_file() else None,
        "num_positive": int((columns["label"][own] == 1).sum()),
        "threshold": float(thresholds[0]) if len(thresholds) else None,
    }


def _slide_table(record: CrossvalRecord) -> SlideTable:
    several = record.num_repeats > 1
    heatmaps = {key: _heatmaps_of(run, record.out) for key, run in record.runs.items()}
    rows = [_row(row, heatmaps[row["repeat"], row["fold"]]) for row in record.predictions.to_pylist()]
    choices: dict[str, list[str]] = {
        **({"repeat": [str(repeat) for repeat in sorted({key[0] for key in record.runs})]} if several else {}),
        "fold": [str(fold) for fold in sorted({key[1] for key in record.runs})],
        "result": ["right", "wrong"],
    }
    columns = [column for column in COLUMNS if several or column[0] != "repeat"]
    return SlideTable(columns, rows, choices, "name, patient", "predictions" if several else "slides")


def _row(row: Mapping[str, Any], heatmaps: Mapping[str, str]) -> SlideRow:
    cells = {
        "slide": row["slide_id"],
        "patient": str(row["patient_id"]),
        "repeat": str(row["repeat"]),
        "fold": str(row["fold"]),
        "label": str(row["label"]),
        "score": f"{row['score']:.3f}",
        "threshold": f"{row['threshold']:.3f}",
        "called": str(row["predicted"]),
        "result": "right" if row["predicted"] == row["label"] else "wrong",
    }
    is_high = row["score"] >= row["threshold"]
    return SlideRow(cells, heatmaps.get(slide_key(row["slide_id"])), 100 * row["score"], is_high)


def _heatmaps_of(run: Path, out: Path) -> Mapping[str, str]:
    """Return the heatmaps that a fold's report has drawn: by the slide's key the address in the page."""
    return {path.stem: link_to(path, out) for path in (run / "figures" / "heatmaps").glob("*.jpg")}
