"""Conformal sets: by hand, their coverage over many draws, one slide of each patient."""

import numpy as np
import pytest

from hnm.statistics.conformal import conformal_limits, conformal_sets, least_slides, one_of_each_patient

ALPHA, DRAWS, CALIBRATING, NEW = 0.1, 200, 60, 400


def drawn(random: np.random.Generator, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Return labels, 30 % of them positive, and scores of a model that is not calibrated at all."""
    labels = (random.random(num) < 0.3).astype(np.int64)
    return labels, 1 / (1 + np.exp(-3 * (random.normal(size=num) + 1.5 * labels)))


def test_each_class_is_covered_as_often_as_asked_for_over_200_draws() -> None:
    random, coverage = np.random.default_rng(0), []
    for _ in range(DRAWS):
        labels, scores = drawn(random, CALIBRATING)
        limits = conformal_limits(labels, scores, ALPHA)
        new, new_scores = drawn(random, NEW)
        covered = conformal_sets(new_scores, limits)[np.arange(NEW), new]
        expected = [np.ceil((n + 1) * (1 - ALPHA)) / (n + 1) for n in (limits.num_negative, limits.num_positive)]
        coverage.append([*(covered[new == kind].mean() for kind in (0, 1)), *expected])
    negative, positive, *expected = np.mean(coverage, axis=0)
    # the mean of 200 Beta-distributed coverages has a standard error of about 0.003 (negative) and 0.005 (positive)
    assert negative == pytest.approx(expected[0], abs=0.012)
    assert positive == pytest.approx(expected[1], abs=0.02)
    assert 1 - ALPHA - 0.005 <= negative <= 1 - ALPHA + 0.03


def test_by_hand() -> None:
    labels, scores = np.array([0, 0, 0, 0, 1, 1, 1, 1]), np.array([0.1, 0.2, 0.3, 0.7, 0.4, 0.6, 0.8, 0.9])
    limits = conformal_limits(labels, scores, alpha=0.4)  # the third of four: 5 x 0.6
    assert limits == (0.3, pytest.approx(0.4), 4, 4)
    sets = conformal_sets(np.array([0.2, 0.45, 0.7]), limits)
    np.testing.assert_array_equal(sets, [[True, False], [False, False], [False, True]])
    assert conformal_limits(labels, scores, alpha=0.1)[:2] == (np.inf, np.inf)  # 9 are needed: every class is possible
    assert [least_slides(alpha) for alpha in (0.1, 0.2, 0.05)] == [9, 4, 19]


def test_a_patient_counts_once_in_each_class() -> None:
    labels, patients = np.array([1, 1, 0, 1, 0, 0]), np.array(["a", "a", "a", "b", "b", "c"])
    rows = one_of_each_patient(labels, patients, seed=1)
    assert [(patients[row], labels[row]) for row in rows if labels[row]] == [("a", 1), ("b", 1)]
    assert sorted(patients[row] for row in rows if not labels[row]) == ["a", "b", "c"]
    chosen = {tuple(one_of_each_patient(labels, patients, seed)) for seed in range(20)}
    assert len(chosen) == 2  # either slide of a
