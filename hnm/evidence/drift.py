"""Drift: do the scores and colours of these slides come from where those came from that the export recorded?

reference   {"scores": {"negative": [...], "positive": [...], "patients": {...}},
             "colours": {"values": {"red_mean": [...], ...}, "slides": 200, "patients": 180, "why_not": ""}}
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from hnm.evidence.cases import Cases
from hnm.statistics.colour import COLOURS
from hnm.statistics.drift import Shift, shift_of

LEAST_P = 0.01  # a p-value below it is told as drift
OLDER = "the export is of before 2026-11-28 and does not say; export the run again with this version"


def drift_part(cases: Cases, colours: Mapping[str, np.ndarray], reference: Mapping[str, Any]) -> dict[str, Any]:
    """Return how scores, share of positive slides and colours have moved, and a sentence for each that has.

    Args:
        cases: the slides; missed ones have no score.
        colours: by name the (n,) values of the slides, NaN where unknown.
        reference: of the export; empty: it has none.
    """
    scores, of_scores = _scores(cases, reference.get("scores"))
    shifts, of_colours = _colours(cases, colours, reference.get("colours"))
    return {
        "scores": scores,
        "colours": shifts,
        "positive_share": {"then": _share_then(reference.get("scores")), "now": float(np.mean(cases.labels == 1))},
        "warnings": [*of_scores, *of_colours],
    }


def _scores(cases: Cases, recorded: Mapping[str, Any] | None) -> tuple[dict[str, Any] | None, list[str]]:
    if not recorded:
        return None, [f"no drift of the scores is known: {OLDER}"]
    found, told = {}, []
    for label, word in ((0, "negative"), (1, "positive")):
        rows = (cases.labels == label) & ~cases.missed
        num_now = len(np.unique(cases.patients[rows]))
        shift = shift_of(np.array(recorded[word]), cases.scores[rows], recorded["patients"][word], num_now)
        found[word] = None if shift is None else shift._asdict()
        if shift is not None and shift.p < LEAST_P:
            told.append(
                f"the scores of {word} slides have moved: median {shift.median_then:.3f} on the validation slides of the model, "
                f"{shift.median_now:.3f} here (p {_p(shift.p)})"
            )
    return found, told


def _colours(
    cases: Cases, colours: Mapping[str, np.ndarray], recorded: Mapping[str, Any] | None
) -> tuple[dict[str, Any] | None, list[str]]:
    if not recorded or not recorded["values"]:
        return None, [f"no drift of the colours is known: {(recorded or {}).get('why_not') or OLDER}"]
    found: dict[str, Any] = {}
    for name in COLOURS:
        known = np.isfinite(colours[name])
        num_now = len(np.unique(cases.patients[known]))
        shift = shift_of(np.array(recorded["values"][name]), colours[name][known], recorded["patients"], num_now)
        if shift is not None:
            found[name] = shift._replace(p=min(1.0, len(COLOURS) * shift.p))._asdict()  # Bonferroni
    unknown = len(cases) - int(np.isfinite(colours[COLOURS[0]]).sum()) - int(cases.missed.sum())
    told = (
        [f"the colours of {unknown} of {len(cases)} slides are not known: an older hnm predict has scored them"]
        if unknown
        else []
    )
    moved = {name: Shift(**its) for name, its in found.items() if its["p"] < LEAST_P}
    if moved:
        parts = "; ".join(
            f"{name.replace('_', ' ')} {its.median_then:.4g} then, {its.median_now:.4g} here"
            for name, its in moved.items()
        )
        told.append(
            f"the colours of the patches have moved ({len(moved)} of {len(found)} figures, medians over slides): {parts}"
        )
    return found, told


def _share_then(recorded: Mapping[str, Any] | None) -> float | None:
    return recorded["positive_share"] if recorded else None


def _p(value: float) -> str:
    return "below 0.0001" if value < 0.0001 else f"{value:.4f}"
