"""What a bootstrap interval without width does not show.

Where no slide is on the wrong side, none is in any resample: the interval of the figure is a point, however few slides there
are. What can be said instead is the figure with which k patients (or pairs of patients) would still all be right one time in
forty: 0.025^(1/k) (Clopper and Pearson, Biometrika 1934, for k of k).
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

ONE_IN_FORTY = 0.025
FEW_PATIENTS = 10  # of a class: one more or less moves the sensitivity by a tenth


class _Extreme(NamedTuple):
    """A figure of exactly 1 or 0: what is said of it, and its bound ("" if there is none)."""

    fact: str
    bound: str


def zero_width_warning(
    labels: np.ndarray, scores: np.ndarray, patients: np.ndarray, threshold: float | None = None, slides: str = "test slides"
) -> list[str]:
    """Return a sentence or two if AUC, sensitivity or specificity is exactly 1 or 0: a bootstrap is blind then.

    Slides of one patient are no evidence of their own. All slides of k patients are right with probability p^k or less, p
    the sensitivity (or specificity); k disjoint pairs of a positive and a negative patient are all in order with probability
    AUC^k or less.

    Args:
        labels: (n,) 1 or 0.
        scores: (n,) float.
        patients: (n,) whose slide it is.
        threshold: a slide at or above it is called positive; None: the AUC alone is looked at.
        slides: what these slides are called.
    """
    positive = labels == 1
    if positive.all() or not positive.any():
        return []  # no interval is defined
    extremes = _separated(positive, scores, patients, slides)
    if threshold is not None:
        called = scores >= threshold
        extremes += _all_or_none("sensitivity", called[positive], patients[positive])
        extremes += _all_or_none("specificity", ~called[~positive], patients[~positive])
    if not extremes:
        return []
    facts = _listed([its.fact for its in extremes], "and")
    text = f"{facts}, and so it is in every resample: an interval without width is no certainty."
    bounds = [its.bound for its in extremes if its.bound]
    if bounds:
        text += f" With a true {_listed(bounds, 'or')} this may still happen one time in forty."
    return [text]


def few_patients(metrics: Mapping[str, Any]) -> str:
    """Return on how few patients the intervals of a metrics.json rest, in words, "" if they are not few.

    A bootstrap of few patients is too narrow: two can be drawn in three ways, and both ends are often the figure itself.
    """
    patients = metrics.get("patients")  # of before 2026-11-28 it does not say
    if not patients or min(patients["positive"], patients["negative"]) >= FEW_PATIENTS:
        return ""
    return f"of few patients: {patients['positive']} positive, {patients['negative']} negative"


def interval_remark(metrics: Mapping[str, Any]) -> str:
    """Return what is said beside the intervals of a metrics.json: that they are by site, and on how few patients they rest."""
    by_site = ["by site"] if metrics.get("interval_by") == "site" else []
    return ", ".join([*by_site, *filter(None, [few_patients(metrics)])])


def warnings_told(metrics: Mapping[str, Any]) -> list[str]:
    """Return all warnings of a metrics.json; those of intervals without width have a key of their own, which older ones lack."""
    return [*metrics.get("warnings", []), *metrics.get("interval_warnings", [])]


def _separated(positive: np.ndarray, scores: np.ndarray, patients: np.ndarray, slides: str) -> list[_Extreme]:
    higher = scores[positive].min() > scores[~positive].max()
    if not higher and scores[positive].max() >= scores[~positive].min():
        return []
    num_of_kind = [len(np.unique(patients[kind])) for kind in (positive, ~positive)]
    num_pairs = min(*num_of_kind, len(np.unique(patients)) // 2)
    fact = (
        f"all {int(positive.sum())} positive {slides} score {'higher' if higher else 'lower'} than all "
        f"{int((~positive).sum())} negative ones (AUC {int(higher)})"
    )
    bound = f"AUC of {_bound(num_pairs, higher):.2f}" if num_pairs else ""
    return [_Extreme(fact, bound)]


def _all_or_none(name: str, right: np.ndarray, patients: np.ndarray) -> list[_Extreme]:
    """Return sensitivity or specificity if it is 1 or 0; `right` (m,) bool, `patients` (m,): of the slides of that kind."""
    if right.any() and not right.all():
        return []
    num, is_one = len(np.unique(patients)), bool(right.all())
    told = f"{num} patient{'s' if num > 1 else ''}"
    return [_Extreme(f"the {name} is {int(is_one)}", f"{name} of {_bound(num, is_one):.2f} ({told})")]


def _bound(num: int, is_one: bool) -> float:
    low = float(ONE_IN_FORTY ** (1 / num))
    return low if is_one else 1 - low


def _listed(words: Sequence[str], last: str) -> str:
    *first, end = words
    return f"{', '.join(first)} {last} {end}" if first else end
