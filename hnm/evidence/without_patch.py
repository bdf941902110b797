"""Slides with a label that gave no patch: counted, and a positive test slide without tissue counts as missed.

A slide in which the tiling found no tissue is never called positive. Left out of the figures, it would flatter tiling and model
together; so figures of slides take it with score 0, and beside them stands what they are without it. A slide that could not be
read is no answer of either, and a negative one without tissue is no proof of anything: both are left out and told.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from hnm.evidence.measure import slide_figures
from hnm.run.study import Study


def without_patch_part(study: Study, by_slide: np.ndarray, threshold: float) -> dict[str, Any]:
    """Return what metrics.json says of them: counts and reasons by split, and the test's figures without the missed ones.

    Args:
        study: the cohort and its parts.
        by_slide: (S,) slide scores.
        threshold: of the slides, chosen on validation slides.
    """
    counts = {name: _counts(study, slides) for name, slides in study.without_patch.items()}
    part: dict[str, Any] = {"without_patch": {**counts, "missed": len(study.missed)}}
    if len(study.missed):
        part["slide_without_missed"] = slide_figures(study.labels[study.test], by_slide[study.test], threshold)
    return part


def _counts(study: Study, slides: np.ndarray) -> dict[str, Any]:
    reasons = Counter(study.status_of(slide) for slide in slides)
    return {
        "slides": len(slides),
        "positive": int((study.labels[slides] == 1).sum()),
        "reasons": [f"{number} {reason}" for reason, number in reasons.most_common()],
    }


def explain_without_patch(metrics: Mapping[str, Any]) -> list[str]:
    """Return in words what `without_patch_part` says of the test slides, and both figures; no slide is named.

    Args:
        metrics: metrics.json; of before 2026-11-28 it says nothing of them.
    """
    part = metrics.get("without_patch", {})
    test, missed = part.get("test", {"slides": 0}), part.get("missed", 0)
    if not test["slides"]:
        return []
    what = "; ".join([f"{test['positive']} positive", *test["reasons"]])
    told = [f"{test['slides']} test slides with a label gave no patch ({what})."]
    if missed:
        with_them, without = metrics["slide"], metrics["slide_without_missed"]
        figures = ", ".join(
            f"{name} {_digits(with_them[key])} with them, {_digits(without[key])} without"
            for name, key in (("AUC", "auc"), ("sensitivity", "sensitivity"))
        )
        told.append(f"The {missed} positive without tissue count as missed, with score 0: {figures}.")
    if left_out := test["slides"] - missed:
        told.append(f"{left_out} are left out of all figures.")
    return [" ".join(told)]


def _digits(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"
