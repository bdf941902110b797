"""What validation.json says: an exported model on slides of another place. Its threshold is frozen; what is chosen here is apart.

Cases ──frozen threshold──▶ figures, intervals by patient ──▶ is it off? ──re-chosen, named so──▶ figures
  │ └──▶ subgroups, patients
  └──against what the export recorded──▶ drift of scores and colours         a part ──▶ recalibration, "not sure"
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hnm.evidence.cases import Cases, by_patient, choose_part, groups_of
from hnm.evidence.drift import drift_part
from hnm.evidence.learned import conformal_part, recalibration_part
from hnm.evidence.measure import count_patients, slide_figures
from hnm.statistics.bootstrap import bootstrap_intervals, interval_of_draws, resampled_weights
from hnm.statistics.calibration import calibration_curve, calibration_intercept, calibration_slope
from hnm.statistics.conformal import least_slides
from hnm.statistics.metrics import Figures
from hnm.statistics.recalibrate import Kind
from hnm.statistics.thresholds import EvaluateConfig, choose_threshold, policy_in_words, values_at
from hnm.statistics.zero_width import few_patients, zero_width_warning
from shards.errors import InputError

NUM_REFITS = 200


@dataclass(frozen=True)
class Plan:
    """What is asked for beside the figures.

    Attributes:
        by: columns whose values are subgroups.
        recalibrate: how scores are made probabilities; None: not.
        part: share of the patients that recalibration, limits and the re-chosen threshold are learned from; None: nothing is.
        alpha: how often the true class may be missing from a slide's conformal set; None: no sets.
        seed: of the part and of the bootstrap.
        evaluate: the policy of the re-chosen threshold, the score of patients, the prevalence of PPV and NPV.
        patient_threshold: of patients; None: that of slides.
    """

    by: Sequence[str] = ()
    recalibrate: Kind | None = None
    part: float | None = None
    alpha: float | None = None
    seed: int = 0
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    patient_threshold: float | None = None


def check(cases: Cases, plan: Plan) -> list[str]:
    """Refuse what cannot be measured, before hours of scoring; scores are not looked at.

    Returns:
        What one should know of the labels.

    Raises:
        InputError: saying what to do.
    """
    if plan.part is None and (plan.recalibrate or plan.alpha is not None):
        asked = f"--recalibrate {plan.recalibrate}" if plan.recalibrate else f"--alpha {plan.alpha:g}"
        raise InputError(
            f"{asked} is learned from slides that are not measured afterwards. Say of how many patients: --part 0.3"
        )
    for column in plan.by:
        if column not in cases.columns:
            known = ", ".join(sorted(cases.columns)) or "none"
            raise InputError(f"--by {column}: the table of slides has no such column. Its columns: {known}")
        groups_of(cases.columns[column], column)
    if plan.part is not None:
        part = cases.where(choose_part(cases.labels, cases.patients, plan.part, plan.seed))
        if plan.alpha is not None:
            _require_enough(part, plan.alpha)
    return [
        f"no slide is {word}: AUC, AUPRC and calibration slope are unknown, and so are all intervals. Add {word} slides"
        for label, word in ((1, "positive"), (0, "negative"))
        if not np.any(cases.labels == label)
    ]


def _require_enough(part: Cases, alpha: float) -> None:
    for label, word in ((1, "positive"), (0, "negative")):
        count = len(np.unique(part.patients[part.labels == label]))
        if count < least_slides(alpha):
            raise InputError(
                f"--alpha {alpha:g} needs {least_slides(alpha)} patients with a {word} slide in the part, and there are {count}. "
                "Raise --part or --alpha"
            )


def figures_at(labels: np.ndarray, scores: np.ndarray, threshold: float, prevalence: float | None) -> Figures:
    """Return the slides' figures (see `slide_figures`), PPV and NPV (see `values_at`), calibration error, slope and intercept."""
    error = calibration_curve(labels, scores)["expected_calibration_error"]
    return {
        **slide_figures(labels, scores, threshold),
        **values_at(labels, scores, threshold, prevalence),
        "calibration_error": error,
        "calibration_slope": calibration_slope(labels, scores),
        "calibration_intercept": calibration_intercept(labels, scores),
    }


def with_intervals(cases: Cases, threshold: float, plan: Plan) -> dict[str, Any]:
    """Return the figures of some slides with their 95 % bootstrap intervals by patient, and whose slides they are."""

    def of(rows: np.ndarray) -> Figures:
        return figures_at(cases.labels[rows], cases.scores[rows], threshold, plan.evaluate.prevalence)

    intervals = bootstrap_intervals(of, cases.labels, cases.patients, seed=plan.seed)
    return {
        "slides": len(cases),
        "positive": int((cases.labels == 1).sum()),
        "patients": count_patients(cases.labels, cases.patients),
        "figures": of(np.arange(len(cases))),
        "intervals": {name: interval._asdict() for name, interval in intervals.items()},
    }


def validate(
    cases: Cases, threshold: float, recorded: Mapping[str, Any], colours: Mapping[str, np.ndarray], plan: Plan
) -> dict[str, Any]:
    """Return all of it.

    Args:
        cases: the slides.
        threshold: a slide at or above it is called positive; as exported.
        recorded: what the export says of the slides that it was made with: `reference`, and `promised` figures at the threshold,
            on how many slides of each class (`promised_slides`), and what slides those were (`promised_on`).
        colours: by name of `hnm.statistics.colour.COLOURS` the (n,) values of the slides, NaN where unknown.
        plan: what is asked for.

    Raises:
        InputError: see `check`, or a score is NaN or no probability.
    """
    warnings = check(cases, plan)
    frozen = with_intervals(cases, threshold, plan)
    part = None if plan.part is None else choose_part(cases.labels, cases.patients, plan.part, plan.seed)
    rechosen = _rechosen(cases, part, threshold, plan)
    drift = drift_part(cases, colours, recorded.get("reference") or {})
    found: dict[str, Any] = {
        "threshold": threshold,
        "frozen": frozen,
        "rechosen": rechosen,
        "verdict": verdict_on(threshold, frozen, rechosen, recorded),
        "promised": {"on": recorded.get("promised_on"), "figures": recorded.get("promised")},
        "calibration": calibration_curve(cases.labels, cases.scores),
        "by_patient": _patients_part(cases, threshold, plan),
        "subgroups": {column: _subgroups(cases, column, threshold, plan) for column in plan.by},
        "drift": drift,
        "without_missed": with_intervals(cases.where(~cases.missed), threshold, plan) if cases.missed.any() else None,
        "missed": int(cases.missed.sum()),
        "recalibration": None,
        "conformal": None,
    }
    if part is not None:
        fitted, rest = cases.where(part), cases.where(~part)
        if plan.recalibrate is not None:
            found["recalibration"] = recalibration_part(fitted, rest, plan.recalibrate, plan.seed)
        if plan.alpha is not None:
            found["conformal"] = conformal_part(fitted, rest, plan.alpha, plan.seed)
    if few := few_patients(frozen):
        warnings.append(f"the intervals are {few}: they are too narrow")
    warnings += zero_width_warning(cases.labels, cases.scores, cases.patients, threshold, "slides")
    return found | {"warnings": warnings + drift["warnings"]}


def _rechosen(cases: Cases, part: np.ndarray | None, frozen: float, plan: Plan) -> dict[str, Any] | None:
    """Return what a threshold chosen here would do: on the remaining slides, where there is a part, else on the same ones."""
    if len(np.unique(cases.labels)) < 2:
        return None
    chosen_on, judged = (cases, cases) if part is None else (cases.where(part), cases.where(~part))
    threshold = choose_threshold(chosen_on.labels, chosen_on.scores, plan.evaluate.threshold)
    return {
        "threshold": threshold,
        "chosen_on": "the same slides" if part is None else "the part",
        "policy": policy_in_words(plan.evaluate.threshold),
        "flatters": part is None,
        **with_intervals(judged, threshold, plan),
        "frozen_on_the_same": figures_at(judged.labels, judged.scores, frozen, plan.evaluate.prevalence),
        "gain": _gain(cases, frozen, plan),
    }


def _gain(cases: Cases, frozen: float, plan: Plan) -> dict[str, Any]:
    """Return what re-choosing gains in balanced accuracy on patients that did not choose: those that a resample left out."""
    labels, scores, gains = cases.labels, cases.scores, []
    for weights in resampled_weights(cases.patients, NUM_REFITS, seed=plan.seed):
        drawn, left = np.repeat(np.arange(len(cases)), weights), weights == 0
        if len(np.unique(labels[drawn])) == 2 and len(np.unique(labels[left])) == 2:
            threshold = choose_threshold(labels[drawn], scores[drawn], plan.evaluate.threshold)
            chosen, kept = (_balanced(labels[left], scores[left] >= its) for its in (threshold, frozen))
            gains.append(chosen - kept)
    return {"mean": float(np.mean(gains)) if gains else None, **interval_of_draws(gains, NUM_REFITS)._asdict()}


def _balanced(labels: np.ndarray, called: np.ndarray) -> float:
    return float((called[labels == 1].mean() + (~called[labels == 0]).mean()) / 2)


def verdict_on(
    threshold: float, frozen: Mapping[str, Any], rechosen: Mapping[str, Any] | None, recorded: Mapping[str, Any]
) -> dict[str, Any]:
    """Return whether the frozen threshold is off, moved, holds or cannot be judged, and why, sentence by sentence.

    Off: another one, chosen on some patients, does better on the others, and the interval of its gain lies above 0. Moved: no
    other one is better for sure, but sensitivity or specificity is not what it was.
    """
    if rechosen is None or rechosen["gain"]["low"] is None:
        return {
            "word": "cannot be judged",
            "says": ["There are too few slides of both classes to judge the frozen threshold."],
        }
    promised, says, differs = recorded.get("promised") or {}, [], False
    for name in ("sensitivity", "specificity"):
        here, its, then = frozen["figures"][name], frozen["intervals"][name], promised.get(name)
        told = (
            f"{name[0].upper()}{name[1:]} at {threshold:.4f} is {here:.3f} ({its['low']:.3f} to {its['high']:.3f}) here"
        )
        if then is None:
            says.append(f"{told}; the export does not say what it was.")
            continue
        low, high = _exact_interval(
            then, recorded["promised_slides"]["positive" if name == "sensitivity" else "negative"]
        )
        outside = not its["low"] <= then <= its["high"] and not low <= here <= high
        differs |= outside
        was = f"and was {then:.3f} ({low:.3f} to {high:.3f}) on {recorded['promised_on']}"
        says.append(f"{told}, {was}{': it has moved' if outside else ''}.")
    gain = rechosen["gain"]
    word = "off" if gain["low"] > 0 else "moved" if differs else "holds"
    on_others = f"{gain['mean']:+.3f} ({gain['low']:+.3f} to {gain['high']:+.3f})"
    says.append(
        f"A threshold chosen on some of these patients changes the balanced accuracy of the others by {on_others}"
        + (": the frozen one is off here." if word == "off" else ": no other one is better for sure.")
    )
    return {"word": word, "says": says}


def _exact_interval(share: float, num: int) -> tuple[float, float]:
    """Return the 95 % interval of a share of `num` slides (Clopper and Pearson, Biometrika 1934)."""
    from scipy.stats import binomtest  # here: it takes a second that most processes need not spend

    interval = binomtest(round(share * num), num).proportion_ci(0.95, "exact")
    return float(interval.low), float(interval.high)


def _patients_part(cases: Cases, threshold: float, plan: Plan) -> dict[str, Any] | None:
    """Return the figures of patients, by their own frozen threshold where the export has one; None where each has one slide."""
    patients, num_mixed = by_patient(cases, plan.evaluate.patient_score)
    if len(patients) == len(cases):
        return None
    own = threshold if plan.patient_threshold is None else plan.patient_threshold
    return {
        **with_intervals(patients, own, plan),
        "threshold": own,
        "score": plan.evaluate.patient_score,
        "mixed": num_mixed,
    }


def _subgroups(cases: Cases, column: str, threshold: float, plan: Plan) -> list[dict[str, Any]]:
    groups = groups_of(cases.columns[column], column)
    return [{"value": name, **with_intervals(cases.where(rows), threshold, plan)} for name, rows in groups]
