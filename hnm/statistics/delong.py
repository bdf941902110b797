"""DeLong's test: do two models' AUCs on the same cases differ? (DeLong et al., Biometrics 1988)"""

from typing import NamedTuple

import numpy as np
from scipy.stats import norm, rankdata

from hnm.statistics.metrics import checked


class DeLong(NamedTuple):
    """Two correlated AUCs and the two-sided p-value of their difference; all None with one class."""

    auc_a: float | None
    auc_b: float | None
    p: float | None


def delong(labels: np.ndarray, scores_a: np.ndarray, scores_b: np.ndarray) -> DeLong:
    """Test whether two models' AUCs on the same cases differ.

    The structural components come from midranks (Sun and Xu, IEEE SPL 2014): O(n log n) where the definition is O(n^2).

    Args:
        labels: (n,) 1 or 0.
        scores_a: (n,) float.
        scores_b: (n,) float.

    Returns:
        Both AUCs and the two-sided p-value. A difference of variance 0 has p = 1 if it is 0 itself, else p = 0; with a
        single case of a class, which has no variance, p is None.

    Raises:
        InputError: a label is not 0 or 1, or a score is NaN.
    """
    positive = checked(labels, scores_a)[0]
    scores = np.stack([checked(labels, scores_a)[1], checked(labels, scores_b)[1]])  # (2, n)
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
