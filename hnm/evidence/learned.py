"""What is learned from a part of the slides and measured on the remaining ones: recalibrated scores, and when it is not sure."""

from typing import Any

import numpy as np

from hnm.evidence.cases import Cases
from hnm.evidence.measure import count_patients
from hnm.statistics.bootstrap import bootstrap_intervals
from hnm.statistics.calibration import brier, calibration_curve, calibration_intercept, calibration_slope
from hnm.statistics.conformal import conformal_limits, conformal_sets, one_of_each_patient
from hnm.statistics.metrics import Figures, auc, share
from hnm.statistics.recalibrate import Kind, recalibration


def recalibration_part(fitted: Cases, rest: Cases, kind: Kind, seed: int) -> dict[str, Any]:
    """Return the curve, and how calibrated the remaining slides' scores are before and after it, with intervals by patient.

    Args:
        fitted: the part that it is learned from.
        rest: the slides that are measured.
        kind: of the curve.
        seed: of the bootstrap.
    """
    curve = recalibration(kind, fitted.labels, fitted.scores)
    scores = {"before": rest.scores, "after": curve.apply(rest.scores)}

    def of(rows: np.ndarray) -> Figures:
        labels = rest.labels[rows]
        figures: Figures = {}
        for name, its in scores.items():
            figures |= {f"{name}_{key}": value for key, value in _calibration(labels, its[rows]).items()}
        change = _less(figures["before_brier"], figures["after_brier"])
        return {**figures, "brier_gain": None if change is None else -change}

    intervals = bootstrap_intervals(of, rest.labels, rest.patients, seed=seed)
    return {
        "curve": curve.as_json(),
        "learned_from": _counts(fitted),
        "measured_on": _counts(rest),
        "figures": of(np.arange(len(rest))),
        "intervals": {name: interval._asdict() for name, interval in intervals.items()},
        "bins_before": calibration_curve(rest.labels, scores["before"])["bins"],
        "bins_after": calibration_curve(rest.labels, scores["after"])["bins"],
    }


def _calibration(labels: np.ndarray, scores: np.ndarray) -> Figures:
    error = calibration_curve(labels, scores)["expected_calibration_error"]
    return {
        "auc": auc(labels, scores), "brier": brier(labels, scores), "calibration_error": error,
        "calibration_slope": calibration_slope(labels, scores),
        "calibration_intercept": calibration_intercept(labels, scores),
    }  # fmt: skip


def _less(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before


def conformal_part(fitted: Cases, rest: Cases, alpha: float, seed: int) -> dict[str, Any]:
    """Return the limits, how many of the remaining slides are sure, and how often their class is in the set.

    Args:
        fitted: the part; one slide of each patient and class is taken.
        rest: the slides that are measured.
        alpha: how often the true class may be missing.
        seed: of the draw and of the bootstrap.
    """
    rows = one_of_each_patient(fitted.labels, fitted.patients, seed)
    limits = conformal_limits(fitted.labels[rows], fitted.scores[rows], alpha)
    sets = conformal_sets(rest.scores, limits)
    covered = sets[np.arange(len(rest)), rest.labels.astype(np.int64)]
    sure = sets.sum(axis=1) == 1

    def of(rows: np.ndarray) -> Figures:
        labels, its, its_sure = rest.labels[rows], covered[rows], sure[rows]
        kinds = {"coverage": labels >= 0, "coverage_negative": labels == 0, "coverage_positive": labels == 1}
        figures: Figures = {name: share(int(its[kind].sum()), int(kind.sum())) for name, kind in kinds.items()}
        figures["not_sure"] = share(int((~its_sure).sum()), len(rows))
        figures["right_where_sure"] = share(int((its & its_sure).sum()), int(its_sure.sum()))
        return figures

    intervals = bootstrap_intervals(of, rest.labels, rest.patients, seed=seed)
    return {
        "alpha": alpha,
        "limits": limits._asdict(),
        "learned_from": _counts(fitted),
        "measured_on": _counts(rest),
        "num": {
            "negative": int((sets[:, 0] & ~sets[:, 1]).sum()), "positive": int((sets[:, 1] & ~sets[:, 0]).sum()),
            "both": int(sets.all(axis=1).sum()), "neither": int((~sets.any(axis=1)).sum()),
        },
        "figures": of(np.arange(len(rest))),
        "intervals": {name: interval._asdict() for name, interval in intervals.items()},
    }  # fmt: skip


def _counts(cases: Cases) -> dict[str, Any]:
    patients = count_patients(cases.labels, cases.patients)
    return {"slides": len(cases), "positive": int((cases.labels == 1).sum()), "patients": patients}
