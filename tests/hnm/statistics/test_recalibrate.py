"""Recalibration: temperature found again, isotonic against scikit-learn, errors."""

import json

import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression

from hnm.statistics.calibration import brier, logits_of
from hnm.statistics.recalibrate import recalibration
from shards.errors import InputError


def drawn(num: int, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and scores whose logits are `temperature` times too large."""
    random = np.random.default_rng(3)
    logits = random.normal(0, 1.5, num)
    labels = (random.random(num) < 1 / (1 + np.exp(-logits))).astype(np.int64)
    return labels, 1 / (1 + np.exp(-temperature * logits))


def test_the_temperature_of_scores_that_are_too_sure_is_found() -> None:
    labels, scores = drawn(4000, 3.0)
    curve = recalibration("temperature", labels, scores)
    assert curve.temperature == pytest.approx(3.0, rel=0.1)
    after = curve.apply(scores)
    np.testing.assert_array_equal(np.argsort(after, kind="stable"), np.argsort(scores, kind="stable"))
    assert (brier(labels, after) or 1) < (brier(labels, scores) or 0) - 0.01
    np.testing.assert_allclose(logits_of(after), logits_of(scores) / curve.temperature, atol=1e-6)
    assert curve.apply(np.array([0.0, 0.5, 1.0]))[1] == pytest.approx(0.5)
    assert json.loads(json.dumps(curve.as_json())) == {"kind": "temperature", "temperature": curve.temperature}


def test_isotonic_is_that_of_scikit_learn_and_stays_in_bounds() -> None:
    labels, scores = drawn(300, 2.0)
    curve, known = recalibration("isotonic", labels, scores), IsotonicRegression(out_of_bounds="clip").fit(scores, labels)
    new = np.linspace(0, 1, 101)
    np.testing.assert_allclose(curve.apply(new), known.predict(new), atol=1e-12)
    assert set(curve.as_json()) == {"kind", "scores", "probabilities"}


def test_one_class_teaches_nothing() -> None:
    with pytest.raises(InputError, match="needs slides of both classes"):
        recalibration("temperature", np.ones(3), np.array([0.1, 0.2, 0.3]))
