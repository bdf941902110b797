"""ROC and precision-recall curves with bootstrap bands, and the confusion at the threshold.

labels, scores, patients (n,) ──resampled by patient──▶ curves on one grid ──▶ 95 % band
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from sklearn.metrics import precision_recall_curve, roc_curve

from hnm.report.draw_style import BLUE, GREY, INK, LIGHT_GREY, VERMILLION, figure_of
from hnm.statistics.bootstrap import resampled_weights
from hnm.statistics.metrics import auc, auprc
from shards.errors import InputError

NUM_RESAMPLES = 400
GRID = np.linspace(0, 1, 101)
LEVEL = 0.95


def draw_curves(
    path: Path,
    labels: np.ndarray,
    scores: np.ndarray,
    patients: np.ndarray,
    threshold: float | np.ndarray,
    split: str,
    seed: int,
    intervals: Mapping[str, Mapping[str, Any]] | None = None,
    folds: np.ndarray | None = None,
) -> None:
    """Draw ROC and precision-recall side by side.

    Args:
        path: PNG to write.
        labels: (n,) 1 or 0.
        scores: (n,) slide scores.
        patients: (n,) whose slide each is.
        threshold: of a positive slide, one or (n,) each slide's own; what it gives is marked on both curves.
        split: its name, for the title.
        seed: of the bootstrap.
        intervals: by figure ("auc", "auprc") what metrics.json says: low and high, and value, if it is not simply that of
            these slides. None: none are told.
        folds: (n,) the fold that each slide is of; every fold of both classes gets a thin line of its own.

    Raises:
        InputError: the slides are of one class: neither curve is defined.
    """
    require_both_classes(labels, split)
    bands = bands_of(labels, scores, patients, seed)
    called, positive = scores >= threshold, labels == 1
    recall = (called & positive).sum() / positive.sum()
    with figure_of(path, 4.8, 1, 2) as (_, ((roc, pr),)):
        fpr, tpr, _ = roc_curve(labels, scores)
        roc.plot(fpr, tpr, color=BLUE, label=_figure("AUC", auc(labels, scores), (intervals or {}).get("auc")))
        roc.plot([0, 1], [0, 1], color=LIGHT_GREY, linestyle=":", label="chance")
        roc.plot((called & ~positive).sum() / (~positive).sum(), recall, "o", **_MARK, label=f"at {_threshold(threshold)}")
        roc.set(xlabel="false positive rate (1 - specificity)", ylabel="sensitivity", title=f"ROC, {split} slides")
        precision, sensitivity, _ = precision_recall_curve(labels, scores)
        pr.plot(sensitivity, precision, color=BLUE, label=_figure("AUPRC", auprc(labels, scores), (intervals or {}).get("auprc")))
        prevalence = positive.mean()
        pr.axhline(prevalence, color=LIGHT_GREY, linestyle=":", label=f"chance, {prevalence:.2f}")
        if called.any():
            pr.plot(recall, (called & positive).sum() / called.sum(), "o", **_MARK, label=f"at {_threshold(threshold)}")
        pr.set(xlabel="sensitivity (recall)", ylabel="precision", title="Precision and recall")
        if folds is not None:
            _thin_curves(roc, pr, labels, scores, folds)
        for axes, (low, high) in zip((roc, pr), bands, strict=True):
            axes.fill_between(GRID, low, high, color=BLUE, alpha=0.16, linewidth=0, label="95 % band, by patient")
            axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.03), aspect="equal")
            axes.legend(loc="lower right" if axes is roc else "lower left")


def _thin_curves(roc: Axes, pr: Axes, labels: np.ndarray, scores: np.ndarray, folds: np.ndarray) -> None:
    """Draw both curves of each fold that has slides of both classes."""
    style: dict[str, Any] = {"color": GREY, "linewidth": 0.9, "alpha": 0.55, "zorder": 1.5, "label": "one fold"}
    for fold in np.unique(folds):
        own = folds == fold
        if len(np.unique(labels[own])) == 2:
            fpr, tpr, _ = roc_curve(labels[own], scores[own])
            precision, sensitivity, _ = precision_recall_curve(labels[own], scores[own])
            roc.plot(fpr, tpr, **style)
            pr.plot(sensitivity, precision, **style)
            style["label"] = None


def draw_confusion(
    path: Path,
    labels: np.ndarray,
    scores: np.ndarray,
    threshold: float | np.ndarray,
    split: str,
    slide_ids: np.ndarray,
) -> None:
    """Draw the confusion at the threshold, and beside it each slide's score, the wrong ones named.

    Args:
        path: PNG to write.
        labels: (n,) 1 or 0; one class will do.
        scores: (n,) slide scores.
        threshold: of a positive slide, one or (n,) each slide's own.
        split: its name.
        slide_ids: (n,) names.
    """
    counts = confusion_of(labels, scores, threshold)
    with figure_of(path, 4.2, 1, 2, width_ratios=(1, 1.5)) as (_, ((matrix, strip),)):
        _matrix(matrix, counts, threshold, split)
        _strip(strip, labels, scores, threshold, slide_ids)


def confusion_of(labels: np.ndarray, scores: np.ndarray, threshold: float | np.ndarray) -> np.ndarray:
    """Return (2, 2) int64 counts: row = label 0, 1; column = called 0, 1."""
    called = (scores >= threshold).astype(np.int64)
    return np.bincount(2 * labels.astype(np.int64) + called, minlength=4).reshape(2, 2)


def bands_of(labels: np.ndarray, scores: np.ndarray, patients: np.ndarray, seed: int) -> list[np.ndarray]:
    """Return the pointwise 95 % bootstrap bands on `GRID` of the ROC and of the precision-recall curve, (2, 101) each.

    Whole patients are drawn with replacement; draws of one class are left out. A band is NaN where none is left.
    """
    weights = resampled_weights(patients, NUM_RESAMPLES, seed=seed)
    positive = labels == 1
    weights = weights[(weights[:, positive].sum(1) > 0) & (weights[:, ~positive].sum(1) > 0)]
    hits, alarms = counts_by_threshold(positive, scores, weights)
    tail = 100 * (1 - LEVEL) / 2
    bands = []
    for curve in (roc_on_grid, precision_on_grid):
        curves = [curve(*draw) for draw in zip(hits, alarms, strict=True)]
        both = (
            np.percentile(np.stack(curves), [tail, 100 - tail], axis=0) if curves else np.full((2, len(GRID)), np.nan)
        )
        bands.append(both)
    return bands


def counts_by_threshold(positive: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how many positives and negatives are called positive at each threshold, from above all scores downwards.

    Args:
        positive: (n,) bool.
        scores: (n,) float.
        weights: (draws, n) how often each row counts.

    Returns:
        (draws, k + 1) each, for k distinct scores; the first column is 0.
    """
    order = np.argsort(-scores, kind="stable")
    last_of_equals = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    counts = [np.cumsum(weights[:, order] * kind[order], axis=1)[:, last_of_equals] for kind in (positive, ~positive)]
    return np.pad(counts[0], ((0, 0), (1, 0))), np.pad(counts[1], ((0, 0), (1, 0)))


def roc_on_grid(hits: np.ndarray, alarms: np.ndarray) -> np.ndarray:
    """Return the sensitivity (101,) at each false positive rate of `GRID`; at a vertical step, its upper end."""
    tpr, fpr = hits / hits[-1], alarms / alarms[-1]
    last = np.searchsorted(fpr, GRID, side="right") - 1  # the highest sensitivity at or below each rate
    after = np.minimum(last + 1, len(fpr) - 1)
    width = fpr[after] - fpr[last]
    share = np.divide(GRID - fpr[last], width, out=np.zeros_like(GRID), where=width > 0)
    return np.asarray(tpr[last] + share * (tpr[after] - tpr[last]))


def precision_on_grid(hits: np.ndarray, alarms: np.ndarray) -> np.ndarray:
    """Return the precision (101,) at each sensitivity of `GRID`: of the highest threshold that reaches it."""
    called = hits + alarms
    precision = np.divide(hits, called, out=np.ones(len(hits)), where=called > 0)
    first = np.searchsorted(hits / hits[-1], GRID, side="left")
    return np.asarray(precision[first])


def require_both_classes(labels: np.ndarray, split: str) -> None:
    """Raise InputError unless there are positive and negative slides."""
    if len(labels) == 0:
        raise InputError(f"there is no {split} slide")
    if np.all(labels == labels[0]):
        word = "positive" if labels[0] == 1 else "negative"
        raise InputError(f"all {len(labels)} {split} slides are {word}: AUC and curves need both classes")


_MARK = {"color": VERMILLION, "markersize": 8, "zorder": 5}


def _threshold(threshold: float | np.ndarray) -> str:
    """Return "the threshold, 0.500", or words for several."""
    values = np.unique(threshold)
    return f"the threshold, {values[0]:.3f}" if len(values) == 1 else "the folds' thresholds"


def _figure(name: str, value: float | None, interval: Mapping[str, Any] | None) -> str:
    text = f"{name} {(interval or {}).get('value', value):.3f}"
    if interval is None or interval["low"] is None:
        return text
    return f"{text} ({interval['low']:.2f} to {interval['high']:.2f})"


def _matrix(axes: Axes, counts: np.ndarray, threshold: float | np.ndarray, split: str) -> None:
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1.15)
    for (row, column), count in np.ndenumerate(counts):
        colour = "white" if shares[row, column] > 0.6 else INK
        axes.text(column, row - 0.06, f"{count}", ha="center", va="center", color=colour, fontsize=20)
        axes.text(column, row + 0.26, f"{shares[row, column]:.0%} of the row", ha="center", color=colour, fontsize=10)
    names = ("negative", "positive")
    axes.set_xticks((0, 1), [f"called\n{name}" for name in names])
    axes.set_yticks((0, 1), [f"truly\n{name}" for name in names])
    axes.set_title(f"Confusion, {split} slides,\nat {_threshold(threshold)}", fontsize=11)
    axes.grid(False)
    axes.tick_params(length=0)


def _strip(
    axes: Axes, labels: np.ndarray, scores: np.ndarray, threshold: float | np.ndarray, slide_ids: np.ndarray
) -> None:
    """Draw each slide as a point: its score along, its label across; the worst mistakes are named."""
    wrong = (scores >= threshold) != (labels == 1)
    order = np.argsort(np.argsort(scores, kind="stable"), kind="stable")
    across = labels + ((order * 7) % 11 - 5) * 0.045  # a fixed scatter, so that equal scores are seen apart
    axes.scatter(scores[~wrong], across[~wrong], s=36, color=BLUE, alpha=0.75, label=f"right ({(~wrong).sum()})")
    axes.scatter(
        scores[wrong], across[wrong], s=52, color=VERMILLION, marker="X", label=f"wrong ({wrong.sum()})", zorder=4
    )
    for value in np.unique(threshold):
        axes.axvline(value, color=GREY, linestyle="--", linewidth=1.2 if np.ndim(threshold) == 0 else 0.7)
    worst = np.flatnonzero(wrong)[np.argsort(-np.abs(scores - threshold)[wrong], kind="stable")][:4]
    for number in worst:
        name = str(slide_ids[number])
        axes.annotate(
            name if len(name) <= 22 else f"{name[:21]}…",
            (scores[number], across[number]),
            xytext=(0, 9 if across[number] >= labels[number] else -17),
            textcoords="offset points",
            ha="center",
            fontsize=9,
            color=INK,
        )
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.5, 1.55), xlabel="slide score")
    axes.set_title("Each slide; dashed: threshold" if np.ndim(threshold) == 0 else "Each slide; dashed: thresholds")
    axes.set_yticks((0, 1), ("truly\nnegative", "truly\npositive"))
    axes.grid(False, axis="y")
    axes.legend(loc="upper left", ncols=2, bbox_to_anchor=(0, 1.0))
