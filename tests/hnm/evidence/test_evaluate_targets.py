"""What the evaluation says of classes."""

import numpy as np
import pytest

from hnm.evidence.evaluate_targets import of_classes
from hnm.run.study import DataConfig, open_study
from tests.hnm.run.test_targets import with_columns, words_of_slides


def test_classes_are_called_by_what_is_better_on_validation_and_judged_on_test_slides() -> None:
    data = DataConfig(label_column="subtype", negative_class="normal")
    study = open_study(with_columns(subtype=words_of_slides()), data, 0)
    targets = study.targets
    assert targets is not None
    assert targets.class_names == ["adeno", "squamous", "normal"]
    right = np.where(targets.labels.T == 1, 0.4, 0.1)  # below one half: the negative class is most probable
    right[study.train] = np.nan
    told, called = of_classes(study, targets, right, np.array([0.3, 0.3]), seed=0)
    assert told["called_by"] == "threshold"
    assert (called[study.train] == -1).all()
    np.testing.assert_array_equal(called[study.test], targets.classes_of(study.test))
    assert told["balanced_accuracy"] == told["macro_auc"] == told["kappa"] == 1
    assert np.array(told["confusion"]).trace() == len(study.test) == sum(told["num_slides"].values())
    assert told["intervals"]["macro_auc"]["low"] == 1
    sure, _ = of_classes(study, targets, np.where(targets.labels.T == 1, 0.9, 0.1), np.array([0.95, 0.3]), seed=0)
    assert sure["called_by"] == "probability"
    assert sure["brier"] == pytest.approx(0.07, abs=0.05)
