"""What a call is worth: PPV and NPV of the test slides by hand, at their own prevalence and at a stated one."""

import numpy as np
import pytest

from hnm.evidence.calls import calls_part, calls_told
from hnm.statistics.thresholds import EvaluateConfig
from tests.hnm.worlds import tables_only_study

# slides 14 to 17 are tested, with the labels 0, 1, 0, 1
SCORES = np.concatenate([np.full(14, np.nan), [0.6, 0.9, 0.2, 0.3]])


def test_calls_are_worth_what_bayes_says() -> None:
    study = tables_only_study()
    part = calls_part(SCORES, study, EvaluateConfig(threshold="sensitivity=0.9", prevalence=0.1), 0.5, seed=0)
    values = part["predictive_values"]
    assert part["threshold_policy"] == "sensitivity=0.9"
    assert {name: values[name] for name in ("prevalence", "ppv", "npv")} == {"prevalence": 0.5, "ppv": 0.5, "npv": 0.5}
    # sensitivity and specificity are 1/2: of 100 slides 10 are positive, 5 of which and 45 others are called
    assert (values["stated_prevalence"], values["ppv_at_prevalence"]) == (0.1, pytest.approx(0.1))
    assert values["npv_at_prevalence"] == pytest.approx(0.9)
    assert set(values["intervals"]) == {"ppv", "npv", "ppv_at_prevalence", "npv_at_prevalence"}
    assert [words for words, _, _ in calls_told(part)] == [
        "PPV at 50 % positive (the test slides' own)",
        "NPV at 50 % positive (the test slides' own)",
        "PPV at 10 % positive (stated)",
        "NPV at 10 % positive (stated)",
    ]
    own = calls_part(SCORES, study, EvaluateConfig(), 0.5, seed=0)
    assert len(calls_told(own)) == 2
    assert own["predictive_values"]["intervals"]["ppv"] == values["intervals"]["ppv"]  # the same resamples
    assert calls_told({}) == []  # an evaluation of before
