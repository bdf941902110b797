"""Bootstrap intervals of patch figures by patient, in seconds for 10^7 patches: a resample sums counts, it touches no patch.

    truth, scores (n,) ──once──▶ each slide's positive and negative patches in about 1,000 score bins
    draws of patients ──▶ weights (draws, slides) @ counts (slides, bins) ──▶ AUC, AUPRC, F1 of each draw ──▶ 95 % intervals

Patches in one bin count as ties. Where each class has at most `NUM_EDGES` distinct scores a bin is one score, and a draw's
figures are exact; else a bin holds no more than 1 / (NUM_EDGES - 1) of either class (but for equal scores), so that an AUC is
off by less than half of that, 0.001; an average precision comes out low by about as much. The threshold is an edge: F1 is
always exact.
"""

from typing import NamedTuple

import numpy as np

NUM_EDGES = 512  # quantiles of each class
CHUNK = 1 << 22  # patches looked at together


class ScoreCounts(NamedTuple):
    """Slides' patches of known truth, by score.

    Attributes:
        positives: (slides, bins) float64 counts of truly positive patches, bins from the lowest score up.
        negatives: (slides, bins) float64 counts of the others.
        first_called: patches of this bin and those above are at or above the threshold.
    """

    positives: np.ndarray
    negatives: np.ndarray
    first_called: int


def count_scores(truth: np.ndarray, scores: np.ndarray, slide: np.ndarray, num_slides: int, threshold: float) -> ScoreCounts:
    """Return each slide's counts by score.

    Args:
        truth: (n,) int8: 1 positive, 0 not, -1 unknown (left out).
        scores: (n,) float, none NaN where the truth is known.
        slide: (n,) int, 0 to num_slides - 1.
        num_slides: how many.
        threshold: a patch at or above it is called positive.
    """
    edges = score_edges(truth, scores, threshold)
    num_bins = len(edges) + 1
    counts = np.zeros(2 * num_slides * num_bins, np.int64)
    for start in range(0, len(truth), CHUNK):
        part = slice(start, start + CHUNK)
        known = truth[part] >= 0
        place = np.searchsorted(edges, scores[part][known], side="right")
        row = truth[part][known].astype(np.int64) * num_slides + slide[part][known]
        counts += np.bincount(row * num_bins + place, minlength=len(counts))
    negatives, positives = counts.reshape(2, num_slides, num_bins).astype(np.float64)  # float64: BLAS multiplies no integers
    return ScoreCounts(positives, negatives, int(np.searchsorted(edges, threshold, side="right")))


def score_edges(truth: np.ndarray, scores: np.ndarray, threshold: float) -> np.ndarray:
    """Return the lower edges of the bins, increasing float64: quantiles of either class, and the threshold.

    Quantiles of both, for the positives are few and their scores lie apart from the others'.
    """
    parts = [np.array([threshold], np.float64)]
    for label in (0, 1):
        own = np.sort(scores[truth == label])
        rows = np.linspace(0, len(own) - 1, min(NUM_EDGES, len(own))).round().astype(np.int64)
        parts.append(own[rows].astype(np.float64))
    return np.unique(np.concatenate(parts))


def figures_of_draws(counts: ScoreCounts, weights: np.ndarray, in_positive: np.ndarray) -> dict[str, np.ndarray]:
    """Return the figures of `metrics.instance_metrics` in each draw, (draws,) float64, NaN where a draw defines none.

    Args:
        counts: of the slides.
        weights: (draws, slides) int, how often each slide is in each draw; see `hnm.statistics.bootstrap.resampled_weights`.
        in_positive: (slides,) bool, which slides are positive.
    """
    figures = {}
    for prefix, chosen in (("", np.ones(len(in_positive), bool)), ("in_positive_", in_positive)):
        drawn = weights[:, chosen].astype(np.float64)
        positives, negatives = drawn @ counts.positives[chosen], drawn @ counts.negatives[chosen]  # (draws, bins)
        figures[f"{prefix}auc"] = auc_of_counts(positives, negatives)
        figures[f"{prefix}auprc"] = auprc_of_counts(positives, negatives)
        figures[f"{prefix}f1"] = f1_of_counts(positives, negatives, counts.first_called)
    return figures


def auc_of_counts(positives: np.ndarray, negatives: np.ndarray) -> np.ndarray:
    """Return the area under each ROC curve, ties within a bin counted half; NaN with one class.

    Args:
        positives: (draws, bins) counts, bins from the lowest score up.
        negatives: (draws, bins) likewise.
    """
    beaten = np.cumsum(negatives, axis=1) - negatives / 2
    return _divide((positives * beaten).sum(1), positives.sum(1) * negatives.sum(1))


def auprc_of_counts(positives: np.ndarray, negatives: np.ndarray) -> np.ndarray:
    """Return the average precision of each draw, a bin being one threshold; NaN with one class. Args: see `auc_of_counts`."""
    hits, alarms = (np.cumsum(its[:, ::-1], axis=1) for its in (positives, negatives))
    called = hits + alarms
    precision = np.divide(hits, called, out=np.zeros_like(hits), where=called > 0)
    num_positive = np.where(alarms[:, -1] > 0, hits[:, -1], 0)
    return _divide((positives[:, ::-1] * precision).sum(1), num_positive)


def f1_of_counts(positives: np.ndarray, negatives: np.ndarray, first_called: int) -> np.ndarray:
    """Return the F1 of each draw, bins from `first_called` on being called positive; NaN without a positive patch."""
    hits, alarms = (its[:, first_called:].sum(1) for its in (positives, negatives))
    num_positive = positives.sum(1)
    return np.where(num_positive > 0, _divide(2 * hits, hits + alarms + num_positive), np.nan)


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.divide(numerator, denominator, out=np.full(len(numerator), np.nan), where=denominator > 0)
