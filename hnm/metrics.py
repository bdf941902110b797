"""Figures of merit of scores: pure functions of NumPy arrays, for slides and for patches.

Labels are (n,) with 1 and 0, scores (n,) float, higher = more positive; a score at or above the threshold is called
positive. A figure that the input does not define (an AUC with one class) is None, never NaN: JSON has no NaN.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from shards.errors import InputError
from shards.seeding import numpy_generator

Figures = dict[str, float | None]
Metric = Callable[[np.ndarray, np.ndarray], float | None]


class Interval(NamedTuple):
    """A bootstrap confidence interval; low and high are None where no resample had both classes."""

    low: float | None
    high: float | None
    num_skipped: int


class DeLong(NamedTuple):
    """Two correlated AUCs and the two-sided p-value of their difference; all None with one class."""

    auc_a: float | None
    auc_b: float | None
    p: float | None


def auc(labels: np.ndarray, scores: np.ndarray) -> float | None:
    """Return the area under the ROC curve, ties counted half (Mann and Whitney); None with one class.

    Raises:
        InputError: lengths differ, a label is not 0 or 1, or a score is NaN.
    """
    from scipy.stats import rankdata  # here: it takes a second that most processes need not spend

    positive, scores = _checked(labels, scores)
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
    from sklearn.metrics import average_precision_score

    positive, scores = _checked(labels, scores)
    if positive.all() or not positive.any():
        return None
    return float(average_precision_score(positive, scores))


def youden_threshold(labels: np.ndarray, scores: np.ndarray) -> float:
    """Return the threshold of the ROC curve at argmin(fpr - tpr), Youden's point; choose it on validation slides.

    Returns:
        A finite threshold. Where no threshold beats chance it lies just above the highest score (nothing is positive,
        where scikit-learn says infinity); 0.5 with one class, which defines no curve.

    Raises:
        InputError: see `auc`.
    """
    from sklearn.metrics import roc_curve

    positive, scores = _checked(labels, scores)
    if positive.all() or not positive.any():
        return 0.5
    fpr, tpr, thresholds = roc_curve(positive, scores)
    best = float(thresholds[np.argmin(fpr - tpr)])
    return best if np.isfinite(best) else float(np.nextafter(scores.max(), np.inf))


def scores_at(labels: np.ndarray, scores: np.ndarray, threshold: float) -> Figures:
    """Return the figures of scores that are called positive at or above a threshold.

    Args:
        labels: (n,) 1 or 0.
        scores: (n,) float.
        threshold: chosen elsewhere, see `youden_threshold`.

    Returns:
        auc, accuracy, precision, recall, f1, balanced_accuracy, sensitivity, specificity. Precision is 0 where nothing
        is called positive, F1 where nothing is and nothing should be; what the classes present do not define is None.

    Raises:
        InputError: see `auc`.
    """
    positive, scores = _checked(labels, scores)
    called = scores >= threshold
    num_hits, num_called, num_positive = int((called & positive).sum()), int(called.sum()), int(positive.sum())
    num_rejections, num_negative = int((~called & ~positive).sum()), int((~positive).sum())
    sensitivity, specificity = _share(num_hits, num_positive), _share(num_rejections, num_negative)
    return {
        "auc": auc(labels, scores),
        "accuracy": _share(num_hits + num_rejections, len(scores)),
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
    return _share(int((mined == 1).sum()), int((mined >= 0).sum()))


def bootstrap_interval(
    metric: Metric,
    labels: np.ndarray,
    scores: np.ndarray,
    groups: np.ndarray,
    num: int = 1000,
    *,
    seed: int,
    level: float = 0.95,
) -> Interval:
    """Return the percentile interval of a metric over resampled groups.

    Whole groups (patients) are drawn with replacement: slides of one patient are no independent evidence.

    Args:
        metric: a function of (labels, scores), such as `auc`.
        labels: (n,) 1 or 0.
        scores: (n,) float.
        groups: (n,) the patient of each row, of any sortable type.
        num: resamples.
        seed: the same seed gives the same interval.
        level: coverage.

    Returns:
        The interval, and how many resamples were skipped because they held one class or had no metric.

    Raises:
        InputError: see `auc`.
    """
    positive, scores = _checked(labels, scores)
    numbers, group_of_row = np.unique(groups, return_inverse=True)
    order = np.argsort(group_of_row, kind="stable")
    rows_of_group = np.split(order, np.cumsum(np.bincount(group_of_row))[:-1])
    random = numpy_generator(seed, "bootstrap")
    values = []
    for _ in range(num):
        drawn = random.integers(len(numbers), size=len(numbers))
        rows = np.concatenate([rows_of_group[group] for group in drawn])
        if positive[rows].any() and not positive[rows].all():
            values.append(metric(labels[rows], scores[rows]))
    known = [value for value in values if value is not None]
    if not known:
        return Interval(None, None, num)
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), num - len(known))


def delong(labels: np.ndarray, scores_a: np.ndarray, scores_b: np.ndarray) -> DeLong:
    """Test whether two models' AUCs on the same cases differ (DeLong et al. 1988).

    The structural components come from midranks (Sun and Xu, IEEE SPL 2014): O(n log n) where the definition is O(n^2).

    Args:
        labels: (n,) 1 or 0.
        scores_a: (n,) float.
        scores_b: (n,) float.

    Returns:
        Both AUCs and the two-sided p-value. A difference of variance 0 has p = 1 if it is 0 itself, else p = 0; with a
        single case of a class, which has no variance, p is None.

    Raises:
        InputError: see `auc`.
    """
    from scipy.stats import norm, rankdata  # here: it takes a second that most processes need not spend

    positive = _checked(labels, scores_a)[0]
    scores = np.stack([_checked(labels, scores_a)[1], _checked(labels, scores_b)[1]])  # (2, n)
    num_positive = int(positive.sum())
    num_negative = len(positive) - num_positive
    if num_positive == 0 or num_negative == 0:
        return DeLong(None, None, None)
    among_all = rankdata(scores, axis=1)
    # share of the negatives that a positive beats, and of the positives that beat a negative: equation 5 of Sun and Xu
    v10 = (among_all[:, positive] - rankdata(scores[:, positive], axis=1)) / num_negative  # (2, positives)
    v01 = 1 - (among_all[:, ~positive] - rankdata(scores[:, ~positive], axis=1)) / num_positive  # (2, negatives)
    auc_a, auc_b = v10.mean(axis=1)
    if min(num_positive, num_negative) < 2:
        return DeLong(float(auc_a), float(auc_b), None)
    variance = np.var(v10[0] - v10[1], ddof=1) / num_positive + np.var(v01[0] - v01[1], ddof=1) / num_negative
    difference = auc_a - auc_b
    if variance < 1e-20:
        p = 1.0 if abs(difference) < 1e-10 else 0.0
    else:
        p = float(2 * norm.sf(abs(difference) / np.sqrt(variance)))
    return DeLong(float(auc_a), float(auc_b), p)


def _share(count: int, total: int) -> float | None:
    return count / total if total else None


def _checked(labels: Any, scores: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return labels as (n,) bool and scores as (n,) float64, or say what is wrong with them."""
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
