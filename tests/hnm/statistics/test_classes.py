"""Figures of classes against scikit-learn, and how a class is called."""

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, cohen_kappa_score, confusion_matrix, roc_auc_score

from hnm.statistics.classes import (
    CALLS,
    call_by_threshold,
    choose_call,
    class_figures,
    class_probabilities,
    cohens_kappa,
    confusion,
    told_of_classes,
)


@pytest.mark.parametrize("has_negative", [False, True])
def test_figures_are_those_of_scikit_learn(has_negative: bool) -> None:
    random = np.random.default_rng(int(has_negative))
    num = 3 + has_negative
    classes = random.integers(num, size=200)
    scores = 1 / (1 + np.exp(-(random.normal(size=(200, 3)) + 1.5 * np.eye(num)[classes][:, :3])))
    probabilities = class_probabilities(scores, has_negative)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    for call in CALLS.values():
        called = call(scores, np.array([0.4, 0.5, 0.6]), has_negative)
        figures = class_figures(classes, probabilities, called)
        assert figures["macro_auc"] == pytest.approx(roc_auc_score(classes, probabilities, multi_class="ovr", average="macro"))
        assert figures["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(classes, called))
        assert figures["kappa"] == pytest.approx(cohen_kappa_score(classes, called))
        np.testing.assert_array_equal(confusion(classes, called, num), confusion_matrix(classes, called))


def test_with_one_target_and_a_negative_class_the_probability_is_the_score() -> None:
    scores = np.array([[0.0], [0.2], [0.9], [1.0]])
    np.testing.assert_allclose(class_probabilities(scores, True)[:, 0], scores[:, 0], atol=1e-8)


def test_a_class_is_called_by_its_threshold_where_that_is_better_on_validation() -> None:
    scores, thresholds = np.array([[0.3, 0.1], [0.1, 0.05], [0.8, 0.09], [0.2, 0.3]]), np.array([0.7, 0.06])
    np.testing.assert_array_equal(call_by_threshold(scores, thresholds, True), [1, 2, 0, 1])
    assert choose_call(np.array([1, 2, 0, 1]), scores, thresholds, True) == "threshold"
    assert choose_call(np.array([2, 2, 0, 2]), scores, thresholds, True) == "probability"


def test_what_slides_do_not_define_is_none() -> None:
    only = np.zeros(3, np.int64)
    probabilities = np.full((3, 2), 0.5)
    figures = class_figures(only, probabilities, only)
    assert figures["macro_auc"] is None
    assert figures["kappa"] is None
    assert cohens_kappa(np.array([[2, 0], [1, 1]])) == pytest.approx(0.5)
    assert told_of_classes(["a", "b"], only, probabilities, only)["auc"] == {"a": None, "b": None}
