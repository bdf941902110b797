"""Metrics against the released program, scikit-learn, brute force and hand-computed cases."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from hnm.statistics.metrics import auc, auprc, instance_metrics, scores_at, witness_rate, youden_threshold
from shards.errors import InputError
from tests.paths import GOLDEN

FIVE_SCORES = GOLDEN / "five_scores.json"


def random_case(seed: int, num: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Labels of both classes, and scores that know something of them, with ties."""
    random = np.random.default_rng(seed)
    labels = np.concatenate([[0, 1], random.integers(0, 2, num - 2)]).astype(np.int8)
    return labels, np.round(random.normal(0.7 * labels), 1)


def test_the_five_scores_of_the_released_program() -> None:
    golden = json.loads(FIVE_SCORES.read_text(encoding="utf-8"))
    labels, scores = np.array(golden["labels"]), np.array(golden["scores"])
    ours = scores_at(labels, scores, youden_threshold(labels, scores))
    theirs = {"auc": "auc", "accuracy": "accuracy", "precision": "precision", "recall": "recall", "f1": "fscore"}
    for name, golden_name in theirs.items():
        assert ours[name] == pytest.approx(golden[golden_name], abs=1e-6), name


def test_by_hand() -> None:
    labels, scores = np.array([0, 0, 0, 1, 0, 1, 1]), np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
    assert auc(labels, scores) == pytest.approx(11 / 12)  # of twelve pairs only (0.4, 0.5) is in the wrong order
    assert auprc(labels, scores) == pytest.approx((1 + 1 + 3 / 4) / 3)
    assert youden_threshold(labels, scores) == pytest.approx(0.35)  # tpr 1 and fpr 1/4; at 0.6 they are 2/3 and 0
    assert scores_at(labels, scores, 0.5) == {
        "auc": pytest.approx(11 / 12),
        "auprc": pytest.approx((1 + 1 + 3 / 4) / 3),
        "accuracy": pytest.approx(5 / 7),
        "precision": pytest.approx(2 / 3),
        "recall": pytest.approx(2 / 3),
        "f1": pytest.approx(2 / 3),
        "balanced_accuracy": pytest.approx((2 / 3 + 3 / 4) / 2),
        "sensitivity": pytest.approx(2 / 3),
        "specificity": pytest.approx(3 / 4),
    }


@pytest.mark.parametrize("seed", range(20))
def test_equal_to_scikit_learn(seed: int) -> None:
    labels, scores = random_case(seed)
    figures = scores_at(labels, scores, 0.5)
    called = scores >= 0.5
    assert figures["auc"] == pytest.approx(sk.roc_auc_score(labels, scores))
    assert figures["auprc"] == auprc(labels, scores) == pytest.approx(sk.average_precision_score(labels, scores))
    assert figures["accuracy"] == pytest.approx(sk.accuracy_score(labels, called))
    assert figures["precision"] == pytest.approx(sk.precision_score(labels, called, zero_division=0))
    assert figures["recall"] == figures["sensitivity"] == pytest.approx(sk.recall_score(labels, called))
    assert figures["specificity"] == pytest.approx(sk.recall_score(labels, called, pos_label=0))
    assert figures["f1"] == pytest.approx(sk.f1_score(labels, called, zero_division=0))
    assert figures["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(labels, called))


@settings(max_examples=50)
@given(seed=st.integers(0, 10**6), num=st.integers(2, 30))
def test_no_threshold_beats_youdens(seed: int, num: int) -> None:
    labels, scores = random_case(seed, num)
    best = scores_at(labels, scores, youden_threshold(labels, scores))["balanced_accuracy"]
    others = [scores_at(labels, scores, threshold)["balanced_accuracy"] for threshold in scores]
    assert best is not None
    assert all(other is not None and best >= other - 1e-12 for other in others)


def test_the_threshold_lies_between_two_scores_or_at_the_lowest() -> None:
    assert youden_threshold(np.array([0, 1, 1]), np.array([0.2, 0.8, 0.9])) == pytest.approx(0.5)
    assert youden_threshold(np.array([1, 1, 0]), np.array([0.5, 0.5, 0.5])) > 0.5  # no better than chance: nothing is positive
    adjacent = np.array([0.5, np.nextafter(0.5, 1)])
    assert youden_threshold(np.array([0, 1]), adjacent) == adjacent[1]


def test_scores_worse_than_chance_give_a_finite_threshold_above_all() -> None:
    labels, scores = np.array([1, 1, 0, 0]), np.array([0.1, 0.2, 0.8, 0.9])
    threshold = youden_threshold(labels, scores)
    assert np.isfinite(threshold)
    assert scores_at(labels, scores, threshold)["specificity"] == 1


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_gives_none_and_no_crash(label: int) -> None:
    labels, scores = np.full(4, label), np.array([0.1, 0.4, 0.6, 0.9])
    figures = scores_at(labels, scores, youden_threshold(labels, scores))
    assert figures["auc"] is figures["balanced_accuracy"] is figures["auprc"] is None
    assert figures["accuracy"] == 0.5
    assert (figures["sensitivity"] is None) == (label == 0)
    assert (figures["specificity"] is None) == (label == 1)
    json.dumps(figures, allow_nan=False)


def test_no_rows_at_all() -> None:
    nothing = np.zeros(0)
    assert scores_at(nothing, nothing, 0.5)["accuracy"] is None
    assert instance_metrics(np.full(3, -1, np.int8), np.ones(3), np.ones(3, bool), 0.5)["auc"] is None


def test_wrong_input_is_refused_with_numbers_and_remedy() -> None:
    with pytest.raises(InputError, match=r"2 of 3 scores are NaN.*diverged"):
        auc(np.array([0, 1, 1]), np.array([0.1, np.nan, np.nan]))
    with pytest.raises(InputError, match=r"1 of 3 labels are neither 0 nor 1"):
        youden_threshold(np.array([0, 1, -1]), np.array([0.1, 0.2, 0.3]))
    with pytest.raises(InputError, match="one score a label"):
        scores_at(np.array([0, 1]), np.zeros(3), 0.5)


def test_instances_overall_and_inside_positive_slides() -> None:
    truth = np.array([1, 0, -1, 0, 0, 1], np.int8)
    scores = np.array([0.9, 0.8, np.nan, 0.1, 0.2, 0.7])  # the unknown patch's score is never looked at
    in_positive = np.array([True, True, True, False, False, True])
    figures = instance_metrics(truth, scores, in_positive, threshold=0.5)
    assert figures["auc"] == pytest.approx(5 / 6)
    assert figures["in_positive_auc"] == pytest.approx(1 / 2)
    assert figures["auprc"] == figures["in_positive_auprc"] == pytest.approx((1 + 2 / 3) / 2)
    assert figures["f1"] == figures["in_positive_f1"] == pytest.approx(4 / 5)


def test_witness_rate() -> None:
    truth = np.array([1, 0, -1, 1, -1], np.int8)
    assert witness_rate(truth, np.array([0, 1, 2, 3])) == pytest.approx(2 / 3)
    assert witness_rate(truth, np.array([2, 4])) is None
    assert witness_rate(truth, np.zeros(0, np.int64)) is None
