"""From which score on a patch is called positive, on tables without images."""

from dataclasses import replace

import numpy as np
import pytest

from hnm.evidence.patch_threshold import (
    OF_TRUTH,
    choose_patch_threshold,
    patch_threshold_of,
    patch_threshold_part,
    threshold_at,
)
from hnm.run.study import Study
from hnm.statistics.metrics import youden_threshold
from tests.hnm.evidence.test_measure import with_truth
from tests.hnm.worlds import tables_only_study


@pytest.fixture
def study() -> Study:
    """A study without patch truth."""
    study = tables_only_study()
    return with_truth(study, np.full(study.cohort.num_patches, -1, np.int8))


def negatives(study: Study, slides: np.ndarray) -> np.ndarray:
    return study.patches_of(slides[study.labels[slides] == 0])


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.1, 0.5])
def test_the_lowest_threshold_that_no_more_than_the_rate_reaches(rate: float) -> None:
    for scores in (np.random.default_rng(3).random(200, np.float32), np.repeat(np.float32([0.2, 0.9]), 50)):
        threshold = threshold_at(scores, rate)
        assert np.mean(scores >= threshold) <= rate
        below = scores[scores < threshold].max()
        assert np.mean(scores >= below) > rate  # any lower, and more would reach it
    assert threshold_at(np.ones(7, np.float32), rate) > 1  # all equal: none is called positive


def test_without_truth_it_is_chosen_on_negative_validation_slides(study: Study) -> None:
    scores = (0.9 + 0.1 * np.random.default_rng(0).random(study.cohort.num_patches)).astype(np.float32)  # 0.3 would take all
    value, source = choose_patch_threshold(scores, study, 0.1)
    assert source == "the patches of negative validation slides, of which at most 10 % reach it"
    assert 0 < np.mean(scores[negatives(study, study.validation)] >= value) <= 0.1
    part = patch_threshold_part(scores, study, 0.1)
    assert (part["value"], part["from"]) == (value, source)
    assert part["share_of_negative_test_patches"] == np.mean(scores[negatives(study, study.test)] >= np.float32(value))
    assert patch_threshold_of({"patch_threshold": part, "instance": None}, scores, study, 0.5) == (value, source)


def test_with_truth_it_is_youdens_and_an_older_evaluations_stays(study: Study) -> None:
    known = tables_only_study()
    scores = np.random.default_rng(1).random(known.cohort.num_patches, np.float32)
    ids = known.patches_of(known.validation)
    youden = youden_threshold(known.cohort.patches.truth[ids], scores[ids])
    assert choose_patch_threshold(scores, known, 0.1) == (youden, OF_TRUTH)
    assert patch_threshold_of({"instance": {"threshold": 0.7}}, scores, study, 0.1) == (0.7, OF_TRUTH)


def test_without_negatives_nothing_is_called_positive(study: Study) -> None:
    scores = np.ones(study.cohort.num_patches, np.float32)
    only_positive = replace(study, validation=study.validation[study.labels[study.validation] == 1])
    threshold = choose_patch_threshold(scores, only_positive, 0.1)
    assert not (scores >= threshold.value).any()
    assert "none is called positive" in threshold.source
