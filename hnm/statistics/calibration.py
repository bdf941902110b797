"""Calibration: is a slide scored 0.8 positive in eight of ten cases?

A slide's score (hnm.aggregator.score.slide_scores) is a mean of sigmoids in [0, 1], read here as the probability that the slide
is positive. The aggregator is trained on pairs, as many positive slides as negative ones: where a cohort is not balanced, scores
are expected to be off by that, and these figures show it.
"""

from typing import Any

import numpy as np

from hnm.statistics.metrics import checked
from shards.errors import InputError

NEAR = 1e-7
MAX_STEPS, TOLERANCE, NEAR_SINGULAR = 50, 1e-8, 1e-12


def brier(labels: np.ndarray, scores: np.ndarray) -> float | None:
    """Return the mean squared difference of score and label, 0 best, 0.25 for 0.5 throughout; None without rows.

    Raises:
        InputError: a score is NaN or not in [0, 1], or a label is not 0 or 1.
    """
    positive, scores = _probabilities(labels, scores)
    return float(np.mean((scores - positive) ** 2)) if len(scores) else None


def calibration_curve(labels: np.ndarray, scores: np.ndarray, num_bins: int = 10) -> dict[str, Any]:
    """Return what share of the slides is truly positive in each of `num_bins` equal parts of [0, 1].

    Args:
        labels: (n,) 1 or 0.
        scores: (n,) float in [0, 1]; a score on the border of two parts belongs to the upper one, 1 to the last.
        num_bins: parts.

    Returns:
        `bins`: low, high, num, mean_score, positive_share of the parts that hold a score; and
        `expected_calibration_error`: the mean of |mean_score - positive_share| over the slides, None without rows.

    Raises:
        InputError: see `brier`.
    """
    positive, scores = _probabilities(labels, scores)
    part = np.minimum((scores * num_bins).astype(np.int64), num_bins - 1)
    num = np.bincount(part, minlength=num_bins)
    mean_score = np.bincount(part, weights=scores, minlength=num_bins) / np.maximum(num, 1)
    positive_share = np.bincount(part, weights=positive, minlength=num_bins) / np.maximum(num, 1)
    gap = np.abs(mean_score - positive_share)
    bins = [
        {
            "low": i / num_bins,
            "high": (i + 1) / num_bins,
            "num": int(num[i]),
            "mean_score": float(mean_score[i]),
            "positive_share": float(positive_share[i]),
        }
        for i in np.flatnonzero(num)
    ]
    return {"bins": bins, "expected_calibration_error": float(num @ gap / len(scores)) if len(scores) else None}


def logits_of(scores: np.ndarray) -> np.ndarray:
    """Return (n,) float64 logits of scores in [0, 1]; 0 and 1 count as 1e-7 away from themselves."""
    kept = np.clip(np.asarray(scores, np.float64), NEAR, 1 - NEAR)
    return np.asarray(np.log(kept / (1 - kept)))


def calibration_slope(labels: np.ndarray, scores: np.ndarray) -> float | None:
    """Return the slope of the logistic regression of the label on the score's logit: 1 is calibrated, below it too extreme.

    Cox, Biometrika 1958. None where no finite slope is the likeliest: with one class, with equal scores, and where a score parts
    both classes.

    Raises:
        InputError: see `brier`.
    """
    positive, scores = _probabilities(labels, scores)
    x = logits_of(scores)
    if positive.all() or not positive.any():
        return None
    of_positive, of_negative = x[positive], x[~positive]
    if of_positive.min() >= of_negative.max() or of_positive.max() <= of_negative.min():
        return None
    design, weights = np.stack([x, np.ones_like(x)], axis=1), np.zeros(2)
    for _ in range(MAX_STEPS):  # Newton's method
        probability = _sigmoid(design @ weights)
        curvature = design.T @ (design * (probability * (1 - probability))[:, None])
        if np.linalg.det(curvature) < NEAR_SINGULAR:
            return None
        step = np.linalg.solve(curvature, design.T @ (positive - probability))
        weights += step
        if np.abs(step).max() < TOLERANCE:
            return float(weights[0])
    return None


def calibration_intercept(labels: np.ndarray, scores: np.ndarray) -> float | None:
    """Return what must be added to all logits so that the mean score is the share of positive slides; below 0: scores too high.

    Calibration in the large: the intercept of that regression with slope 1. None with one class.

    Raises:
        InputError: see `brier`.
    """
    positive, scores = _probabilities(labels, scores)
    if positive.all() or not positive.any():
        return None
    x, share, added = logits_of(scores), float(positive.mean()), 0.0
    for _ in range(MAX_STEPS):  # Newton's method; a step of at most 2 cannot jump over a sigmoid and back
        probability = _sigmoid(x + added)
        slope = max(float(np.mean(probability * (1 - probability))), NEAR_SINGULAR)
        step = float(np.clip((share - probability.mean()) / slope, -2, 2))
        added += step
        if abs(step) < TOLERANCE:
            break
    return added


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -500, 500))))


def _probabilities(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    positive, scores = checked(labels, scores)
    num_outside = int(((scores < 0) | (scores > 1)).sum())
    if num_outside:
        raise InputError(
            f"{num_outside} of {len(scores)} scores are not in [0, 1]. Calibration needs probabilities: give sigmoids, not "
            "logits"
        )
    return positive, scores
