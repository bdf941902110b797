"""A study's comparison by hand: which baseline is the best, differences fold by fold, the rows of study.json."""

from pathlib import Path

import numpy as np
import pytest

from hnm.evidence.compare import SlideSet
from hnm.evidence.compare_crossval import CrossValidated
from hnm.evidence.compare_methods import Measured, best_baseline, compare_methods
from hnm.evidence.crossval import OutOfFold
from hnm.evidence.folds import over_folds
from shards.errors import InputError

LABELS, FOLDS = np.array([0, 1] * 6), np.arange(12) // 4


def measured(name: str, aucs: tuple[float, ...], is_baseline: bool = True, folds: np.ndarray = FOLDS) -> Measured:
    slide_ids = np.array([f"s{number:02d}" for number in range(12)])
    scores = np.linspace(0, 1, 12)[None]
    predictions = OutOfFold(slide_ids, slide_ids, LABELS, folds[None], scores, (scores > 0.5) == LABELS)
    figures = {(0, fold): {"slide auc": value} for fold, value in enumerate(aucs)}
    validated = CrossValidated(SlideSet(Path(name), slide_ids, slide_ids, LABELS), 3, 1, figures, predictions)
    spent = {(0, fold): {"seconds": 10.0 * fold, "steps": fold, "epochs": 1, "rounds": 1} for fold in range(3)}
    return Measured(name, is_baseline, validated, spent, 0.5, 7, {(0, 0): [(1.0, 0.6), (9.0, 0.8)]}, [])


def test_methods_stand_beside_the_best_baseline() -> None:
    rows = [measured("baseline/mean", (0.5, 0.6, 0.7)), measured("baseline/instance", (0.7, 0.9, 0.5))]
    rows.append(measured("hnm", (0.9, 1.0, 0.8), False))
    assert best_baseline(rows, "slide auc") is rows[1]
    assert best_baseline(rows, "instance auc") is None
    result = compare_methods(rows)
    assert result["best_baseline"] == {"slide auc": "baseline/instance", "instance auc": None}
    mean, instance, hnm = result["methods"]
    difference = hnm["difference"]["slide auc"]
    assert difference.pop("to") == "baseline/instance"
    assert difference == pytest.approx(over_folds([0.2, 0.1, 0.3], 3))
    assert (mean["difference"]["slide auc"]["mean"], instance["difference"]) == (pytest.approx(-0.1), {})
    assert hnm["spent"] == {"seconds": 10.0, "steps": 1.0, "epochs": 1.0, "rounds": 1.0}
    assert hnm["curves"] == [{"repeat": 0, "fold": 0, "seconds": [1.0, 9.0], "validation_auc": [0.6, 0.8]}]


def test_other_folds_are_refused() -> None:
    with pytest.raises(InputError, match="are tested in other folds"):
        compare_methods([measured("a", (1, 1, 1)), measured("b", (1, 1, 1), False, np.arange(12) % 3)])
