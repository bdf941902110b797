"""What an interval without width is told with: the figure that would still give it one time in forty."""

import numpy as np
import pytest
from scipy.stats import binomtest, norm

from hnm.statistics.bootstrap import bootstrap_intervals
from hnm.statistics.metrics import scores_at
from hnm.statistics.zero_width import warnings_told, zero_width_warning

LABELS, PATIENTS = np.repeat([1, 0], [8, 12]), np.arange(20)
SCORES = np.where(LABELS == 1, 0.6, 0.5)


def test_an_interval_without_width_is_no_certainty() -> None:
    (warning,) = zero_width_warning(LABELS, SCORES, PATIENTS)
    assert warning.startswith("all 8 positive test slides score higher than all 12 negative ones (AUC 1), and so")
    assert "a true AUC of 0.63 this" in warning  # 0.025 = 0.63^8
    (of_four,) = zero_width_warning(LABELS, SCORES, PATIENTS // 2)
    assert "true AUC of 0.40 " in of_four  # slides of one patient are no evidence of their own
    (of_one,) = zero_width_warning(LABELS, SCORES, np.zeros(20), slides="slides out of fold")
    assert of_one.startswith("all 8 positive slides out of fold score higher")
    assert of_one.endswith("no certainty.")
    (reversed_,) = zero_width_warning(LABELS, 1 - SCORES, PATIENTS)
    assert "score lower than all 12 negative ones (AUC 0)" in reversed_
    assert "a true AUC of 0.37 " in reversed_
    tie = np.where(np.arange(20) == 0, 0.5, SCORES)
    assert zero_width_warning(LABELS, tie, PATIENTS) == []
    assert zero_width_warning(np.ones(20), SCORES, PATIENTS, 0.5) == []  # no interval at all


def test_sensitivity_and_specificity_of_exactly_1_or_0_are_told_by_patients() -> None:
    missed = np.where(np.arange(20) == 0, 0.2, SCORES)  # one positive slide below the negative ones: no AUC of 1
    (warning,) = zero_width_warning(LABELS, missed, PATIENTS, 0.55)
    low = binomtest(12, 12).proportion_ci(method="exact").low
    assert warning == (
        "the specificity is 1, and so it is in every resample: an interval without width is no certainty. "
        f"With a true specificity of {low:.2f} (12 patients) this may still happen one time in forty."
    )
    (by_patient,) = zero_width_warning(LABELS, missed, PATIENTS // 2, 0.55)
    assert f"specificity of {binomtest(6, 6).proportion_ci(method='exact').low:.2f} (6 patients)" in by_patient
    (none_called,) = zero_width_warning(LABELS, missed, PATIENTS, 0.9)
    high = binomtest(0, 8).proportion_ci(method="exact").high
    assert "the sensitivity is 0 and the specificity is 1, and so" in none_called
    assert f"With a true sensitivity of {high:.2f} (8 patients) or specificity of {low:.2f} (12 patients) this" in none_called
    (both,) = zero_width_warning(LABELS, SCORES, PATIENTS, 0.6)
    assert "(AUC 1), the sensitivity is 1 and the specificity is 1, and so" in both
    assert "With a true AUC of 0.63, sensitivity of 0.63 (8 patients) or specificity of 0.74 (12 patients) this" in both


@pytest.mark.parametrize("threshold", [0.45, 0.55, 0.65, 0.75])
def test_it_names_the_figures_whose_intervals_have_no_width(threshold: float) -> None:
    scores = np.where(np.arange(20) % 4 == 0, 0.7, SCORES)  # some of both kinds

    def figures(rows: np.ndarray) -> dict[str, float | None]:
        return scores_at(LABELS[rows], scores[rows], threshold)

    intervals = bootstrap_intervals(figures, LABELS, PATIENTS, 200, seed=0)
    told = " ".join(zero_width_warning(LABELS, scores, PATIENTS, threshold))
    for name in ("sensitivity", "specificity"):
        assert (intervals[name].low == intervals[name].high) == (f"the {name} is " in told), name
    assert intervals["auc"].low != intervals["auc"].high
    assert "AUC" not in told


def test_a_lower_auc_seldom_separates_all_slides() -> None:
    """At the AUC the warning names, scores of normal distributions are all in order less than one time in forty."""
    random, low, num = np.random.default_rng(0), 0.025 ** (1 / 8), 20_000
    shift = norm.ppf(low) * np.sqrt(2)  # the AUC of two normal distributions this far apart is `low`
    positive, negative = random.normal(shift, 1, (num, 8)), random.normal(0, 1, (num, 8))
    assert np.mean(positive.min(1) > negative.max(1)) < 0.025


def test_older_metrics_lack_the_key() -> None:
    assert warnings_told({"warnings": ["a"], "interval_warnings": ["b"]}) == ["a", "b"]
    assert warnings_told({"warnings": ["a"]}) == ["a"]
    assert warnings_told({}) == []
