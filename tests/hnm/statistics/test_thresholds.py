"""Thresholds of a stated sensitivity or specificity against every cut there is, and predictive values by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from hnm.statistics.metrics import scores_at, youden_threshold
from hnm.statistics.thresholds import (
    EvaluateConfig,
    choose_threshold,
    policy_warnings,
    predictive_values,
    values_at,
)


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.integers(4, 40), st.sampled_from([0.5, 0.9, 0.95, 1.0]), st.integers(2, 30))
def test_no_cut_that_reaches_the_aim_is_better(seed: int, num: int, value: float, num_levels: int) -> None:
    random = np.random.default_rng(seed)
    labels, scores = random.integers(0, 2, num), random.integers(0, num_levels, num) / num_levels  # with ties
    labels[:2] = 0, 1
    levels = np.unique(scores)
    cuts = [levels[0] - 1, *((levels[1:] + levels[:-1]) / 2), levels[-1] + 1]
    for aim, other in (("sensitivity", "specificity"), ("specificity", "sensitivity")):
        threshold = choose_threshold(labels, scores, f"{aim}={value}")
        figures = scores_at(labels, scores, threshold)
        every = [scores_at(labels, scores, cut) for cut in cuts]
        assert figures[aim] >= value - 1e-9
        assert figures[other] == max(its[other] for its in every if its[aim] >= value - 1e-9)


def test_thresholds_lie_half_way_between_two_scores() -> None:
    labels, scores = np.array([0, 0, 1, 0, 1, 1]), np.array([0.1, 0.2, 0.4, 0.5, 0.7, 0.9])
    assert choose_threshold(labels, scores, "sensitivity=0.95") == pytest.approx(0.3)  # 3 of 3 positive, 2 of 3 negative
    assert choose_threshold(labels, scores, "sensitivity=0.6") == pytest.approx(0.6)
    assert choose_threshold(labels, scores, "specificity=0.95") == pytest.approx(0.6)
    assert choose_threshold(labels, scores, "specificity=0.6") == pytest.approx(0.3)
    assert choose_threshold(labels, scores, "youden") == youden_threshold(labels, scores)
    assert choose_threshold(1 - labels, scores, "specificity=1") == np.nextafter(0.9, 1)  # the highest score is a negative's
    assert choose_threshold(1 - labels, scores, "sensitivity=1") == 0.1  # and the lowest a positive's: all are called
    assert choose_threshold(np.ones(3, int), scores[:3], "sensitivity=0.9") == 0.5  # one class defines no curve


def test_an_aim_that_the_slides_cannot_show_is_told() -> None:
    labels = np.array([1] * 8 + [0] * 40)
    fine = {"sensitivity": 1.0, "specificity": 0.5}
    (few,) = policy_warnings("sensitivity=0.95", labels, fine)
    assert "rests on 8 positive validation slides: it is reached only with all of them" in few
    assert "with a true sensitivity of 0.63" in few  # 0.025^(1/8)
    assert policy_warnings("specificity=0.95", labels, fine) == policy_warnings("youden", labels, fine) == []
    out_of_reach = policy_warnings("sensitivity=0.5", labels, {"sensitivity": 1.0, "specificity": 0.0})
    assert out_of_reach[0].startswith("evaluate.threshold=sensitivity=0.5 is out of reach: on the validation slides only by call")


def test_predictive_values_by_hand() -> None:
    # of 1000 with 10 % positive: 90 of 100 found, 180 of 900 wrongly called
    assert predictive_values(0.9, 0.8, 0.1) == pytest.approx({"ppv": 90 / 270, "npv": 720 / 730})
    assert predictive_values(0.0, 1.0, 0.1) == pytest.approx({"ppv": None, "npv": 0.9})
    assert predictive_values(None, 1.0, 0.1) == {"ppv": None, "npv": None}
    labels, scores = np.array([1, 1, 0, 0, 0]), np.array([0.9, 0.2, 0.8, 0.1, 0.1])
    own = values_at(labels, scores, 0.5, None)
    assert own == pytest.approx({"ppv": 1 / 2, "npv": 2 / 3})  # counts: 1 of 2 called, 2 of 3 not called
    rare = values_at(labels, scores, 0.5, 0.01)
    assert rare["ppv"] == own["ppv"]
    assert rare["ppv_at_prevalence"] == pytest.approx(0.5 * 0.01 / (0.5 * 0.01 + 0.99 / 3))


@pytest.mark.parametrize("value", ["youden", "sensitivity=0.95", {"specificity": 0.9}])
def test_policies_are_written_in_either_way(value: object) -> None:
    assert EvaluateConfig(threshold=value).threshold == ("specificity=0.9" if isinstance(value, dict) else value)


@pytest.mark.parametrize("value", ["best", "sensitivity", "sensitivity=95", "specificity=0", {"recall": 0.9}, None])
def test_other_policies_are_refused_with_the_remedy(value: object) -> None:
    with pytest.raises(ValidationError, match=r"write youden, or sensitivity=0.95 or specificity=0.95"):
        EvaluateConfig(threshold=value)
