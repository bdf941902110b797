"""From which score on a slide is called positive, and what a call is worth: the section `evaluate` of the configuration.

    validation labels, scores ──youden | sensitivity=0.95 | specificity=0.95──▶ a threshold half-way between two scores
    sensitivity, specificity, prevalence ──Bayes──▶ PPV, NPV
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from hnm.statistics.metrics import Figures, checked, share, youden_threshold

PatientScore = Literal["mean", "max"]
AIMS = ("sensitivity", "specificity")


class EvaluateConfig(BaseModel):
    """How slides and patients are called and counted."""

    model_config = ConfigDict(extra="forbid")

    threshold: str = Field(
        "youden",
        description="from which score on a slide is positive, chosen on validation slides, between two scores: youden (highest "
        "sensitivity + specificity); sensitivity=0.95 (the highest threshold with so much); specificity=0.95 (the lowest one)",
    )
    prevalence: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="share of positive slides where the model is to be used: PPV and NPV are told for it, too; none: only for "
        "the test slides' own",
    )

    patient_score: PatientScore = Field(
        "mean",
        description="score of a patient of several slides: the mean of theirs, or the highest (a patient is positive who has one "
        "positive slide)",
    )

    @field_validator("threshold", mode="before")
    @classmethod
    def _is_readable(cls, value: Any) -> str:
        text = "=".join(map(str, next(iter(value.items())))) if isinstance(value, dict) and len(value) == 1 else str(value)
        parse_policy(text)
        return text


def parse_policy(text: str) -> tuple[str, float]:
    """Return aim and value of a threshold's policy, such as ("sensitivity", 0.95); of youden the value is 0.

    Raises:
        ValueError: it is not written so.
    """
    if text == "youden":
        return text, 0.0
    aim, _, amount = text.partition("=")
    try:
        value = float(amount)
    except ValueError:
        value = 0.0
    if aim not in AIMS or not 0 < value <= 1:
        raise ValueError(f"write youden, or {' or '.join(f'{aim}=0.95' for aim in AIMS)}, with a number above 0 and at most 1")
    return aim, value


def choose_threshold(labels: np.ndarray, scores: np.ndarray, policy: str) -> float:
    """Return the threshold of a policy; choose it on validation slides.

    All thresholds between two neighbouring scores call the same slides; this is the one half-way.

    Args:
        labels: (n,) 1 or 0.
        scores: (n,) float.
        policy: `EvaluateConfig.threshold`.

    Returns:
        A finite threshold: the lowest score where everything must be called positive, just above the highest where nothing may
        be; 0.5 with one class.

    Raises:
        InputError: see `hnm.statistics.metrics.auc`.
    """
    aim, value = parse_policy(policy)
    if aim == "youden":
        return youden_threshold(labels, scores)
    positive, scores = checked(labels, scores)
    if positive.all() or not positive.any():
        return 0.5
    known, num_equal = np.unique(scores, return_counts=True)
    kind = positive if aim == "sensitivity" else ~positive
    below = np.concatenate([[0], np.cumsum(np.bincount(np.searchsorted(known, scores[kind]), minlength=len(known)))])
    # (distinct scores + 1,) share of the kind that is called right when the cut is below the i-th distinct score
    right = (kind.sum() - below if aim == "sensitivity" else below) / kind.sum()
    reached = np.flatnonzero(right >= value - 1e-9)  # 0.95 of 20 is 19, whatever floats say
    cut = int(reached[-1] if aim == "sensitivity" else reached[0])
    if cut == len(num_equal):
        return float(np.nextafter(known[-1], np.inf))
    halfway = float((known[cut] + known[cut - 1]) / 2) if cut else float(known[0])
    return halfway if cut and known[cut - 1] < halfway else float(known[cut])


def policy_in_words(policy: str) -> str:
    """Return what a policy asks for, in words."""
    aim, value = parse_policy(policy)
    if aim == "youden":
        return "Youden's point"
    highest = "highest" if aim == "sensitivity" else "lowest"
    return f"the {highest} with a {aim} of {value:g} or more"


def policy_warnings(policy: str, labels: np.ndarray, reached: Mapping[str, Any]) -> list[str]:
    """Return a sentence where the validation slides are too few for what is asked, or it is reached by calling all slides alike.

    Args:
        policy: `EvaluateConfig.threshold`.
        labels: (n,) 1 or 0, of the validation slides.
        reached: their sensitivity and specificity at the threshold.
    """
    aim, value = parse_policy(policy)
    if aim == "youden":
        return []
    word, other = ("positive", "specificity") if aim == "sensitivity" else ("negative", "sensitivity")
    num, lines = int((labels == (aim == "sensitivity")).sum()), []
    if num and value > 1 - 1 / num:
        lines.append(
            f"evaluate.threshold={policy} rests on {num} {word} validation slides: it is reached only with all of them, and "
            f"{num} of {num} may happen one time in forty with a true {aim} of {0.025 ** (1 / num):.2f}."
        )
    if reached[other] == 0:
        called = "positive" if aim == "sensitivity" else "negative"
        lines.append(
            f"evaluate.threshold={policy} is out of reach: on the validation slides only by calling every one {called} "
            f"({other} 0)."
        )
    return lines


def predictive_values(sensitivity: float | None, specificity: float | None, prevalence: float | None) -> Figures:
    """Return the positive and the negative predictive value at a prevalence, `ppv` and `npv`, by Bayes' rule.

    None where a figure is not known, and where nothing is called positive (ppv) or negative (npv).
    """
    if sensitivity is None or specificity is None or prevalence is None:
        return {"ppv": None, "npv": None}
    hits, rejections = sensitivity * prevalence, specificity * (1 - prevalence)
    return {
        "ppv": share_of(hits, hits + (1 - specificity) * (1 - prevalence)),
        "npv": share_of(rejections, rejections + (1 - sensitivity) * prevalence),
    }


def share_of(part: float, whole: float) -> float | None:
    """Return part / whole, None of nothing."""
    return part / whole if whole > 0 else None


def call_rates(labels: np.ndarray, scores: np.ndarray, threshold: float) -> tuple[float | None, float | None, float | None]:
    """Return sensitivity, specificity and prevalence of slides called positive at or above a threshold."""
    positive, called = labels == 1, scores >= threshold
    num = int(positive.sum())
    return (
        share(int((called & positive).sum()), num),
        share(int((~called & ~positive).sum()), len(labels) - num),
        share(num, len(labels)),
    )


def values_at(labels: np.ndarray, scores: np.ndarray, threshold: float, stated: float | None) -> Figures:
    """Return PPV and NPV at the slides' own prevalence, and at a stated one where there is one.

    Args:
        labels: (n,) 1 or 0.
        scores: (n,) float.
        threshold: a slide at or above it is called positive.
        stated: `EvaluateConfig.prevalence`.
    """
    sensitivity, specificity, own = call_rates(labels, scores, threshold)
    figures = predictive_values(sensitivity, specificity, own)
    at_stated = predictive_values(sensitivity, specificity, stated) if stated is not None else {}
    return {**figures, **{f"{name}_at_prevalence": value for name, value in at_stated.items()}}
