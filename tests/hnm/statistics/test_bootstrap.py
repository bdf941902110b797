"""Bootstrap intervals by hand, against the normal approximation, and by whole patients."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from hnm.statistics.bootstrap import Interval, bootstrap_intervals, interval_of_draws, resampled_weights
from hnm.statistics.metrics import auc
from shards.errors import InputError
from tests.hnm.statistics.test_metrics import random_case


def interval_of_metric(
    metric: Callable[[np.ndarray, np.ndarray], float | None],
    labels: np.ndarray,
    scores: np.ndarray,
    groups: np.ndarray,
    num: int = 1000,
    **options: Any,
) -> Interval:
    return bootstrap_intervals(lambda rows: {"it": metric(labels[rows], scores[rows])}, labels, groups, num, **options)["it"]


def mean(_: np.ndarray, scores: np.ndarray) -> float:
    return float(scores.mean())


@pytest.mark.parametrize(("level", "expected"), [(0.95, (0, 1)), (0.6, (0, 1)), (0.4, (0.5, 0.5))])
def test_two_patients_by_hand(level: float, expected: tuple[float, float]) -> None:
    # Patient a scores 0, patient b scores 1: the mean of a resample is 0, 1/2 or 1 with probability 1/4, 1/2, 1/4, so its
    # quantiles are 0 up to 1/4, 1/2 from there to 3/4, and 1 above.
    labels, scores, patients = np.array([0, 1, 0, 1]), np.array([0.0, 0, 1, 1]), np.array(list("aabb"))
    interval = interval_of_metric(mean, labels, scores, patients, num=2000, seed=0, level=level)
    assert interval == (*expected, 0)


def test_the_interval_of_a_mean_is_the_normal_one_for_many_patients() -> None:
    random = np.random.default_rng(0)
    scores = random.normal(3, 2, 400)
    interval = interval_of_metric(mean, np.arange(400) % 2, scores, np.arange(400), num=4000, seed=0)
    half_width = 1.96 * scores.std(ddof=1) / 20
    assert interval.low == pytest.approx(scores.mean() - half_width, abs=0.15 * half_width)
    assert interval.high == pytest.approx(scores.mean() + half_width, abs=0.15 * half_width)


def test_several_figures_see_the_same_resamples_and_undefined_ones_are_counted() -> None:
    labels, scores = random_case(3, 40)
    intervals = bootstrap_intervals(
        lambda rows: {"auc": auc(labels[rows], scores[rows]), "twice": 2 * (auc(labels[rows], scores[rows]) or 0), "no": None},
        labels, np.arange(40), num=50, seed=2,
    )  # fmt: skip
    assert intervals["auc"] == interval_of_metric(auc, labels, scores, np.arange(40), num=50, seed=2)
    low, high = intervals["auc"].low, intervals["auc"].high
    assert low is not None
    assert high is not None
    assert intervals["twice"][:2] == pytest.approx((2 * low, 2 * high))
    assert intervals["no"] == (None, None, 50)


def test_one_class_and_nan_scores() -> None:
    labels, scores = np.ones(4), np.array([0.1, 0.4, 0.6, 0.9])
    assert interval_of_metric(auc, labels, scores, np.arange(4), num=20, seed=0) == (None, None, 20)
    with pytest.raises(InputError, match="1 of 4 scores are NaN"):
        interval_of_metric(auc, np.array([0, 1, 0, 1]), np.array([0, 1, np.nan, 0]), np.arange(4), num=20, seed=0)


def test_bootstrap_is_repeatable_and_covers_the_value() -> None:
    labels, scores = random_case(1, 200)
    first = interval_of_metric(auc, labels, scores, np.arange(200), num=300, seed=5)
    assert first == interval_of_metric(auc, labels, scores, np.arange(200), num=300, seed=5)
    assert first != interval_of_metric(auc, labels, scores, np.arange(200), num=300, seed=6)
    value = auc(labels, scores)
    assert first.low is not None
    assert first.high is not None
    assert value is not None
    assert first.low < value < first.high
    # Hanley and McNeil's standard error at this AUC and these sizes is about 0.033
    assert 0.08 < first.high - first.low < 0.19
    assert first.num_skipped == 0


def test_bootstrap_draws_whole_groups() -> None:
    labels, scores = np.array([0, 1] * 10), np.arange(20.0)
    sizes = set()

    def spy(drawn_labels: np.ndarray, drawn_scores: np.ndarray) -> float:
        assert (np.diff(drawn_scores.reshape(-1, 2)) == 1).all()  # a pair's two rows come together
        sizes.add(len(drawn_labels))
        return 0.0

    interval_of_metric(spy, labels, scores, np.repeat(np.array(list("abcdefghij")), 2), num=20, seed=0)
    assert sizes == {20}


def test_weights_are_those_of_the_same_resamples() -> None:
    labels, scores = random_case(4, 30)
    groups = np.array([f"p{row % 11}" for row in range(30)])
    weights = resampled_weights(groups, 200, seed=6)
    assert (weights[:, :11] == weights[:, 11:22]).all()
    expected = interval_of_metric(mean, labels, scores, groups, num=200, seed=6)
    assert expected.num_skipped == 0
    means = (weights * scores).sum(1) / weights.sum(1)
    assert interval_of_draws(means, 200) == pytest.approx(expected)


def test_bootstrap_counts_resamples_of_one_class() -> None:
    labels, scores = np.array([0, 1]), np.array([0.1, 0.9])
    interval = interval_of_metric(auc, labels, scores, np.array(["a", "b"]), num=400, seed=0)
    assert (interval.low, interval.high) == (1, 1)
    assert 150 < interval.num_skipped < 250  # half of the draws take one patient twice
