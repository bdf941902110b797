"""Curves on a grid against scikit-learn, bands by hand, and data that define no curve."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import precision_recall_curve, roc_curve

from hnm.report.draw_curves import (
    GRID,
    bands_of,
    confusion_of,
    counts_by_threshold,
    draw_confusion,
    draw_curves,
    precision_on_grid,
    roc_on_grid,
)
from hnm.statistics.bootstrap import resampled_weights
from shards.errors import InputError


def drawn(num: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = (np.arange(num) % 3 == 0).astype(np.int8)
    return labels, np.round(np.clip(random.normal(0.4 + 0.2 * labels, 0.2), 0, 1), 2)  # rounded: many ties


def test_counts_are_those_of_scikit_learn_with_and_without_weights() -> None:
    labels, scores = drawn(60)
    weights = np.stack([np.ones(60, np.int64), np.random.default_rng(1).integers(1, 4, 60)])
    hits, alarms = counts_by_threshold(labels == 1, scores, weights)
    for draw in (0, 1):
        fpr, tpr, _ = roc_curve(labels, scores, sample_weight=weights[draw], drop_intermediate=False)
        np.testing.assert_allclose(hits[draw] / hits[draw, -1], tpr)
        np.testing.assert_allclose(alarms[draw] / alarms[draw, -1], fpr)
        precision, recall, _ = precision_recall_curve(labels, scores, sample_weight=weights[draw])
        called = hits[draw, 1:] + alarms[draw, 1:]
        np.testing.assert_allclose((hits[draw, 1:] / np.maximum(called, 1))[called > 0], precision[::-1][1:][called > 0])
        np.testing.assert_allclose(hits[draw, 1:] / hits[draw, -1], recall[::-1][1:])


def test_curves_on_the_grid_by_hand() -> None:
    # scores 0.9 (+), 0.8 (-), 0.7 (+), 0.6 (-): the ROC steps to 1/2 at rate 0, to 1 at rate 1/2
    hits, alarms = np.array([0, 1, 1, 2, 2]), np.array([0, 0, 1, 1, 2])
    roc = roc_on_grid(hits, alarms)
    np.testing.assert_allclose(roc[GRID < 0.5], 0.5)
    np.testing.assert_allclose(roc[GRID >= 0.5], 1.0)
    precision = precision_on_grid(hits, alarms)
    np.testing.assert_allclose(precision[(GRID > 0) & (GRID <= 0.5)], 1.0)
    np.testing.assert_allclose(precision[GRID > 0.5], 2 / 3)


def test_bands_hold_the_curve_and_patients_are_drawn_whole() -> None:
    labels, scores = drawn(90)
    patients = np.array([f"p{n // 3}" for n in range(90)])
    weights = resampled_weights(patients, 400, seed=3)
    assert (weights[:, ::3] == weights[:, 1::3]).all()
    assert (weights.sum(1) == 90).all()
    (low, high), _ = bands_of(labels, scores, patients, seed=3)
    hits, alarms = counts_by_threshold(labels == 1, scores, np.ones((1, 90), np.int64))
    curve = roc_on_grid(hits[0], alarms[0])
    assert ((low <= curve) & (curve <= high)).mean() > 0.95
    assert (high - low)[20:60].max() > 0.05
    again = bands_of(labels, scores, patients, seed=3)[0]
    np.testing.assert_array_equal(again, (low, high))


def test_one_patient_has_no_band_but_a_picture(tmp_path: Path) -> None:
    labels, scores = np.array([0, 1]), np.array([0.2, 0.9])
    draw_curves(tmp_path / "a.png", labels, scores, np.array(["p", "q"]), 0.95, "test", seed=0)  # nothing is called
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width > 1000


def test_one_class_is_refused_in_words_and_its_confusion_is_drawn(tmp_path: Path) -> None:
    labels, scores = np.ones(3, np.int8), np.array([0.2, 0.6, 0.9])
    with pytest.raises(InputError, match="all 3 test slides are positive: AUC and curves need both classes"):
        draw_curves(tmp_path / "a.png", labels, scores, np.arange(3), 0.5, "test", seed=0)
    with pytest.raises(InputError, match="there is no test slide"):
        draw_curves(tmp_path / "a.png", labels[:0], scores[:0], np.arange(0), 0.5, "test", seed=0)
    assert not list(tmp_path.iterdir())
    np.testing.assert_array_equal(confusion_of(labels, scores, 0.5), [[0, 0], [1, 2]])
    draw_confusion(tmp_path / "b.png", labels, scores, 0.5, "test", np.array(["a", "b", "c"]))
    assert (tmp_path / "b.png").is_file()
