"""What a call of positive or negative is worth: the threshold's policy, PPV and NPV of the test slides, and their intervals."""

from typing import Any

import numpy as np

from hnm.run.study import Study
from hnm.statistics.bootstrap import bootstrap_intervals
from hnm.statistics.thresholds import EvaluateConfig, values_at


def calls_part(by_slide: np.ndarray, study: Study, config: EvaluateConfig, threshold: float, seed: int) -> dict[str, Any]:
    """Return what metrics.json says of calls.

    Args:
        by_slide: (S,) slide scores.
        study: the cohort and its parts.
        config: the section `evaluate`.
        threshold: chosen on validation slides.
        seed: of the bootstrap.

    Returns:
        `threshold_policy`, and `predictive_values`: the share of positive test slides `prevalence`, `ppv` and `npv` there, and,
        where a prevalence is stated, that and both at it; `intervals` of them.
    """
    judged = study.judged
    labels, scores = study.labels[judged], by_slide[judged]

    def values_of(rows: np.ndarray) -> dict[str, float | None]:
        return values_at(labels[rows], scores[rows], threshold, config.prevalence)

    intervals = bootstrap_intervals(values_of, labels, study.drawn_by(judged), seed=seed)
    stated = {} if config.prevalence is None else {"stated_prevalence": config.prevalence}
    values: dict[str, Any] = {"prevalence": float(np.mean(labels == 1)), **stated, **values_of(np.arange(len(labels)))}
    values["intervals"] = {name: interval._asdict() for name, interval in intervals.items()}
    return {"threshold_policy": config.threshold, "predictive_values": values}


def calls_told(metrics: dict[str, Any]) -> list[tuple[str, float | None, dict[str, Any] | None]]:
    """Return a row for each predictive value: what it is, its value and interval; none of an evaluation of before 2026-11-28."""
    values = metrics.get("predictive_values") or {}
    rows = []
    for suffix, key, whose in (("", "prevalence", "the test slides' own"), ("_at_prevalence", "stated_prevalence", "stated")):
        if values.get(key) is not None:
            rows += [
                (f"{name.upper()} at {100 * values[key]:.3g} % positive ({whose})", values[name + suffix],
                 values["intervals"].get(name + suffix))
                for name in ("ppv", "npv")
            ]  # fmt: skip
    return rows
