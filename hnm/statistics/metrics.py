"""Figures of merit of scores: pure functions of NumPy arrays, for slides and for patches.

Labels are (n,) with 1 and 0, scores (n,) float, higher = more positive; a score at or above the threshold is called
positive. A figure that the input does not define (an AUC with one class) is None, never NaN: JSON has no NaN.
"""

from typing import Any

import numpy as np

from shards.errors import InputError

Figures = dict[str, float | None]


def auc(labels: np.ndarray, scores: np.ndarray) -> float | None:
    """Return the area under the ROC curve, ties counted half (Mann and Whitney); None with one class.

    Raises:
        InputError: lengths differ, a label is not 0 or 1, or a score is NaN.
    """
    from scipy.stats import rankdata  # here: it takes a second that most processes need not spend

    positive, scores = checked(labels, scores)
    num_positive = int(positive.sum())
    num_negative = len(positive) - num_positive
    if num_positive == 0 or num_negative == 0:
        return None
    rank_sum = rankdata(scores)[positive].sum()
    return float((rank_sum - num_positive * (num_positive + 1) / 2) / (num_positive * num_negative))


def auprc(labels: np.ndarray, scores: np.ndarray) -> float | None:
    """Return the area under the precision-recall curve (average precision, no interpolation); None with one class.

    Raises:
        InputError: see `auc`.
    """
    positive, scores = checked(labels, scores)
    if positive.all() or not positive.any():
        return None
    order = np.argsort(-scores, kind="stable")
    last_of_equals = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    hits = np.cumsum(positive[order])[last_of_equals]
    precision, recall = hits / (last_of_equals + 1), hits / hits[-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def youden_threshold(labels: np.ndarray, scores: np.ndarray) -> float:
    """Return a threshold at argmin(fpr - tpr) of the ROC curve, Youden's point; choose it on validation slides.

    All thresholds between two neighbouring scores are the same point of the curve. This is the one half-way: at the
    upper score, where scikit-learn puts it, half of all slides like that one would be called negative.

    Returns:
        A finite threshold. Where no threshold beats chance it lies just above the highest score (nothing is positive,
        where scikit-learn says infinity); 0.5 with one class, which defines no curve.

    Raises:
        InputError: see `auc`.
    """
    from sklearn.metrics import roc_curve  # here, as above

    positive, scores = checked(labels, scores)
    if positive.all() or not positive.any():
        return 0.5
    fpr, tpr, thresholds = roc_curve(positive, scores)
    best = thresholds[np.argmin(fpr - tpr)]
    if not np.isfinite(best):
        return float(np.nextafter(scores.max(), np.inf))
    next_lower = scores[scores < best].max(initial=-np.inf)
    halfway = float((best + next_lower) / 2)
    return halfway if next_lower < halfway else float(best)  # best: the lowest score, or nothing lies between the two


def scores_at(labels: np.ndarray, scores: np.ndarray, threshold: float) -> Figures:
    """Return the figures of scores that are called positive at or above a threshold.

    Args:
        labels: (n,) 1 or 0.
        scores: (n,) float.
        threshold: chosen elsewhere, see `youden_threshold`.

    Returns:
        auc, auprc, accuracy, precision, recall, f1, balanced_accuracy, sensitivity, specificity. Precision is 0 where
        nothing is called positive, F1 where nothing is and nothing should be; what the classes present do not define is
        None.

    Raises:
        InputError: see `auc`.
    """
    positive, scores = checked(labels, scores)
    called = scores >= threshold
    num_hits, num_called, num_positive = int((called & positive).sum()), int(called.sum()), int(positive.sum())
    num_rejections, num_negative = int((~called & ~positive).sum()), int((~positive).sum())
    sensitivity, specificity = share(num_hits, num_positive), share(num_rejections, num_negative)
    return {
        "auc": auc(labels, scores),
        "auprc": auprc(labels, scores),
        "accuracy": share(num_hits + num_rejections, len(scores)),
        "precision": num_hits / max(1, num_called),
        "recall": sensitivity,
        "f1": 2 * num_hits / max(1, num_called + num_positive),
        "balanced_accuracy": None if sensitivity is None or specificity is None else (sensitivity + specificity) / 2,
        "sensitivity": sensitivity,
        "specificity": specificity,
    }


def instance_metrics(truth: np.ndarray, scores: np.ndarray, in_positive_slide: np.ndarray, threshold: float) -> Figures:
    """Return the patches' figures against the patch truth, over all slides and inside the positive ones.

    Inside positive slides is the honest question: over all slides a model that only knows the slide scores high too.

    Args:
        truth: (n,) int8: 1 tumour, 0 not, -1 unknown (left out).
        scores: (n,) float.
        in_positive_slide: (n,) bool.
        threshold: a patch at or above it is called tumour.

    Returns:
        auc, auprc, f1 and in_positive_auc, in_positive_auprc, in_positive_f1; None where the truth defines none.

    Raises:
        InputError: see `auc`.
    """
    figures: Figures = {}
    for prefix, rows in (("", truth >= 0), ("in_positive_", (truth >= 0) & in_positive_slide)):
        known, known_scores = truth[rows], scores[rows]
        figures[f"{prefix}auc"] = auc(known, known_scores)
        figures[f"{prefix}auprc"] = auprc(known, known_scores)
        figures[f"{prefix}f1"] = scores_at(known, known_scores, threshold)["f1"] if (known == 1).any() else None
    return figures


def witness_rate(truth: np.ndarray, ids: np.ndarray) -> float | None:
    """Return the share of the patches `ids` that are truly tumour, among those of known truth; None if none is known.

    Args:
        truth: (N,) int8: 1 tumour, 0 not, -1 unknown.
        ids: (k,) patch ids of a mined set.
    """
    mined = truth[ids]
    return share(int((mined == 1).sum()), int((mined >= 0).sum()))


def share(count: int, total: int) -> float | None:
    """Return count / total, None of nothing."""
    return count / total if total else None


def checked(labels: Any, scores: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return labels as (n,) bool and scores as (n,) float64.

    Raises:
        InputError: lengths differ, a label is not 0 or 1, or a score is NaN.
    """
    labels, scores = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    if labels.shape != scores.shape or labels.ndim != 1:
        raise InputError(f"labels of shape {labels.shape} and scores of shape {scores.shape}: give one score a label")
    num_strange = int(((labels != 0) & (labels != 1)).sum())
    if num_strange:
        raise InputError(f"{num_strange} of {len(labels)} labels are neither 0 nor 1. Leave out rows without a label")
    num_nan = int(np.isnan(scores).sum())
    if num_nan:
        raise InputError(
            f"{num_nan} of {len(scores)} scores are NaN. The model that gave them has diverged: "
            "lower its learning rate or take an earlier checkpoint"
        )
    return labels == 1, scores


NUM_BINS = 20
CHUNK = 1 << 22  # patches looked at together: scores of 10^8 patches are a memory map


def score_counts(scores: np.ndarray, kinds: np.ndarray, num_kinds: int) -> np.ndarray:
    """Return how many patches of each kind score in each of `NUM_BINS` equal parts of [0, 1], (kinds, bins) int64.

    Args:
        scores: (N,) float in [0, 1]; NaN, not scored, is left out.
        kinds: (N,) int8, 0 to num_kinds - 1; -1 is left out.
        num_kinds: how many kinds.
    """
    counts = np.zeros(num_kinds * NUM_BINS, np.int64)
    for start in range(0, len(scores), CHUNK):
        part, kind = scores[start : start + CHUNK], kinds[start : start + CHUNK]
        known = (kind >= 0) & np.isfinite(part)
        place = np.minimum((part[known] * NUM_BINS).astype(np.int64), NUM_BINS - 1)
        counts += np.bincount(kind[known] * np.int64(NUM_BINS) + place, minlength=len(counts))
    return counts.reshape(num_kinds, NUM_BINS)

