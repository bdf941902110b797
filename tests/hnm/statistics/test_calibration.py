"""Calibration against scikit-learn and by hand."""

import json

import numpy as np
import pytest
from sklearn.calibration import calibration_curve as sk_curve
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss

from hnm.statistics.calibration import brier, calibration_curve, calibration_intercept, calibration_slope, logits_of
from shards.errors import InputError


@pytest.mark.parametrize("seed", range(5))
def test_equal_to_scikit_learn(seed: int) -> None:
    random = np.random.default_rng(seed)
    scores = random.random(80)
    labels = (random.random(80) < scores).astype(int)
    assert brier(labels, scores) == pytest.approx(brier_score_loss(labels, scores))
    bins = calibration_curve(labels, scores, num_bins=7)["bins"]
    shares, means = sk_curve(labels, scores, n_bins=7)
    assert [part["positive_share"] for part in bins] == pytest.approx(shares)
    assert [part["mean_score"] for part in bins] == pytest.approx(means)
    assert sum(part["num"] for part in bins) == 80


def test_by_hand() -> None:
    labels, scores = np.array([0, 1, 1, 1]), np.array([0.1, 0.3, 0.8, 1.0])
    assert brier(labels, scores) == pytest.approx((0.01 + 0.49 + 0.04 + 0) / 4)
    curve = calibration_curve(labels, scores, num_bins=2)
    assert curve["bins"] == [
        {"low": 0.0, "high": 0.5, "num": 2, "mean_score": pytest.approx(0.2), "positive_share": 0.5},
        {"low": 0.5, "high": 1.0, "num": 2, "mean_score": pytest.approx(0.9), "positive_share": 1.0},
    ]
    assert curve["expected_calibration_error"] == pytest.approx((0.3 + 0.1) / 2)
    json.dumps(curve, allow_nan=False)


def test_one_class_nothing_and_what_is_no_probability() -> None:
    assert brier(np.zeros(2), np.array([0.5, 0.5])) == 0.25
    assert brier(np.zeros(0), np.zeros(0)) is None
    assert calibration_curve(np.zeros(0), np.zeros(0)) == {"bins": [], "expected_calibration_error": None}
    with pytest.raises(InputError, match=r"1 of 2 scores are not in \[0, 1\].*sigmoids"):
        brier(np.array([0, 1]), np.array([0.5, 3.0]))
    with pytest.raises(InputError, match="1 of 2 scores are NaN"):
        calibration_curve(np.array([0, 1]), np.array([0.5, np.nan]))


def test_the_slope_is_that_of_a_logistic_regression() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(0, 1, 500)
    scores = 1 / (1 + np.exp(-(2 * logits - 1)))  # twice too extreme, and too low
    labels = (random.random(500) < 1 / (1 + np.exp(-logits))).astype(int)
    slope, intercept = calibration_slope(labels, scores), calibration_intercept(labels, scores)
    known = LogisticRegression(C=np.inf, tol=1e-10).fit(logits_of(scores)[:, None], labels)
    assert slope == pytest.approx(known.coef_[0, 0], abs=1e-4)
    assert slope == pytest.approx(0.5, abs=0.15)
    assert intercept is not None
    assert intercept > 0.5  # scores are too low
    assert np.mean(1 / (1 + np.exp(-(logits_of(scores) + intercept)))) == pytest.approx(labels.mean(), abs=1e-6)
    parted = np.array([0, 0, 1, 1]), np.array([0.1, 0.2, 0.8, 0.9])
    assert calibration_slope(*parted) is None  # no finite slope is the likeliest
    assert calibration_intercept(*parted) == pytest.approx(0, abs=1e-6)
    assert calibration_slope(np.array([0, 1, 0]), np.full(3, 0.5)) is None
    assert calibration_slope(np.ones(2), np.array([0.3, 0.4])) is calibration_intercept(np.ones(2), np.array([0.3, 0.4])) is None
