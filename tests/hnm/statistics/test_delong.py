"""DeLong's test against its definition, a case by hand, and the example of the paper."""

import numpy as np
import pytest
from scipy.stats import norm

from hnm.statistics.delong import delong
from tests.hnm.statistics.test_metrics import random_case

# DeLong et al. 1988: 43 women with ovarian cancer, of whom all three tests are known; total protein, K-G score, and whether
# surgery helped (1) or not. The data and SAS's result are example "Comparing ROC curves" of PROC LOGISTIC in its manual.
TOTAL_PROTEIN = """5.8 6.3 6.8 4.8 5.8 4.0 5.7 5.6 5.7 6.7 5.4 6.6 6.6 5.7 7.0 6.7 4.4 7.6 6.6 5.8 6.8 4.7 7.4 7.4 6.6 8.2 7.0 6.5
    5.1 4.7 6.8 4.0 6.1 6.3 7.7 6.2 5.7 4.8 6.2 7.0 5.7 6.9 6.6"""
KG_SCORE = "10 5 3 6 3 5 8 5 5 6 4 6 5 5 4 4 6 4 6 6 7 8 5 5 6 6 5 4 5 6 6 7 5 7 6 5 9 7 8 7 6 5 5"
HELPED = "0 1 1 0 1 0 0 1 1 1 1 1 1 1 1 0 1 0 0 1 1 0 1 1 1 1 1 1 1 1 0 0 1 1 1 1 0 1 0 1 1 1 1"


def test_the_papers_example_as_sas_computes_it() -> None:
    protein, kg, helped = (np.array(text.split(), float) for text in (TOTAL_PROTEIN, KG_SCORE, HELPED))
    result = delong(helped, protein, -kg)  # a low K-G score is good
    assert result == pytest.approx((0.6478, 0.7258, 0.4561), abs=5e-5)


def test_by_hand() -> None:
    # Positives score 3, 5 and negatives 1, 4 in a: (3 > 1, 3 < 4, 5 > both): AUC 3/4; V10 = (1/2, 1), V01 = (1, 1/2).
    # In b positives score 2, 6 and negatives 3, 5: AUC 1/2; V10 = (0, 1), V01 = (1/2, 1/2).
    # Differences: V10 (1/2, 0), variance 1/8; V01 (1/2, 0), variance 1/8; of the AUC 1/16 + 1/16 = 1/8.
    # z = (3/4 - 1/2) / sqrt(1/8) = 0.70711, two-sided p = 0.47950.
    labels = np.array([1, 1, 0, 0])
    assert delong(labels, np.array([3, 5, 1, 4]), np.array([2, 6, 3, 5])) == pytest.approx((0.75, 0.5, 0.47950), abs=1e-5)


def _brute_force_delong(labels: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[float, float, float]:
    """DeLong's definition, pair by pair (DeLong et al. 1988, equations 1 to 5)."""
    aucs, parts10, parts01 = [], [], []
    for scores in (a, b):
        x, y = scores[labels == 1], scores[labels == 0]
        wins = np.array([[1.0 if p > n else 0.5 if p == n else 0.0 for n in y] for p in x])
        aucs.append(wins.mean())
        parts10.append(wins.mean(axis=1))
        parts01.append(wins.mean(axis=0))
    s10, s01 = np.cov(parts10), np.cov(parts01)
    covariance = s10 / (labels == 1).sum() + s01 / (labels == 0).sum()
    contrast = np.array([1, -1])
    z = (aucs[0] - aucs[1]) / np.sqrt(contrast @ covariance @ contrast)
    return aucs[0], aucs[1], 2 * norm.sf(abs(z))


@pytest.mark.parametrize("seed", range(10))
def test_delong_equals_the_definition(seed: int) -> None:
    labels, a = random_case(seed)
    b = np.round(a + np.random.default_rng(seed).normal(0, 1, len(a)), 1)
    assert delong(labels, a, b) == pytest.approx(_brute_force_delong(labels, a, b), rel=1e-9)


def test_delong_of_equal_and_of_perfect_scores() -> None:
    labels, scores = random_case(0)
    assert delong(labels, scores, scores).p == 1
    assert delong(labels, scores, 3 * scores + 1).p == 1  # the same order
    assert delong(labels, labels, 1 - labels) == (1, 0, 0)
    assert delong(np.array([0, 0, 1]), np.array([1, 2, 3]), np.array([3, 1, 2])) == (1, 0.5, None)


def test_one_class_has_no_auc() -> None:
    assert delong(np.ones(3), np.arange(3), np.arange(3)) == (None, None, None)
