"""FROC, the lesion-level figure of Camelyon16: how many lesions are found at how many false alarms a slide.

    detections (x, y, score) + lesions of a slide ──hits_of──▶ Hits ──count_hits──▶ curve ──▶ mean sensitivity at
                                                                                1/4, 1/2, 1, 2, 4, 8 false positives a slide

A lesion is found at the score of its best detection; further detections in it count neither for nor against; a detection
outside of every lesion is a false positive; one in a lesion that is left out (isolated tumour cells) is ignored. Source:
Ehteshami Bejnordi et al., JAMA 2017, and the challenge's rules. One deviation from the challenge's program, which drops the
lowest score of all: every score is a threshold here.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import shapely

from hnm.statistics.bootstrap import intervals_of, resampled_weights

RATES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # false positives a slide at which the sensitivity is read
DRAWS = 100  # resamples whose curves are in memory together


class Lesions(NamedTuple):
    """The lesions of one slide: `areas` (l,) geometries in level-0 pixels that do not overlap, `counted` (l,) bool."""

    areas: list[shapely.Geometry]
    counted: np.ndarray


class Hits(NamedTuple):
    """What the detections of one slide met.

    Attributes:
        false_positives: (f,) float64 scores of the detections outside of every lesion, increasing.
        lesions: (l,) float64 highest score of a detection in each counted lesion, -inf where there is none.
    """

    false_positives: np.ndarray
    lesions: np.ndarray


class Counts(NamedTuple):
    """Slides' counts at the v corners of the curve, from the highest threshold down.

    Attributes:
        false_positives: (slides, v) int64.
        found: (slides, v) int64 lesions.
        num_lesions: (slides,) int64.
    """

    false_positives: np.ndarray
    found: np.ndarray
    num_lesions: np.ndarray


def no_lesions() -> Lesions:
    """Return what a negative slide has."""
    return Lesions([], np.zeros(0, bool))


def hits_of(x_level0: np.ndarray, y_level0: np.ndarray, scores: np.ndarray, lesions: Lesions) -> Hits:
    """Return what one slide's detections met.

    Args:
        x_level0: (d,) level-0 pixels.
        y_level0: (d,) level-0 pixels.
        scores: (d,) float, none NaN.
        lesions: of the slide.
    """
    scores = np.asarray(scores, np.float64)
    best, outside = np.full(len(lesions.areas), -np.inf), np.ones(len(scores), bool)
    if lesions.areas and len(scores):
        points = shapely.points(np.asarray(x_level0, np.float64), np.asarray(y_level0, np.float64))
        detections, met = shapely.STRtree(lesions.areas).query(points, predicate="intersects")
        np.maximum.at(best, met, scores[detections])
        outside[detections] = False
    return Hits(np.sort(scores[outside]), best[lesions.counted])


def count_hits(hits: Sequence[Hits]) -> Counts:
    """Return every slide's counts at the corners of the curve.

    The curve runs through a point for each threshold. Between two lesions' scores only false positives are added, on a
    level line; so its corners lie just above and at each lesion's score, and at the lowest threshold.
    """
    scores = np.concatenate([its.lesions for its in hits])
    thresholds = np.unique(scores[np.isfinite(scores)])[::-1]

    def above(sorted_scores: np.ndarray) -> np.ndarray:
        corners = np.empty(2 * len(thresholds) + 2, np.int64)
        corners[0], corners[-1] = 0, np.isfinite(sorted_scores).sum()
        corners[1:-1:2] = len(sorted_scores) - np.searchsorted(sorted_scores, thresholds, side="right")
        corners[2:-1:2] = len(sorted_scores) - np.searchsorted(sorted_scores, thresholds, side="left")
        return corners

    return Counts(
        np.stack([above(its.false_positives) for its in hits]),
        np.stack([above(np.sort(its.lesions)) for its in hits]),
        np.array([len(its.lesions) for its in hits], np.int64),
    )


def curve_of(counts: Counts) -> tuple[np.ndarray, np.ndarray]:
    """Return the corners of the curve: false positives a slide (v,) and sensitivity (v,), both increasing from 0.

    Args:
        counts: of all slides, at least one with a lesion.
    """
    return counts.false_positives.mean(0), counts.found.sum(0) / counts.num_lesions.sum()


def sensitivities(per_slide: np.ndarray, sensitivity: np.ndarray) -> np.ndarray:
    """Return the sensitivity at each of `RATES`, linear between the corners, level after the last, (6,)."""
    return np.interp(RATES, per_slide, sensitivity)


def froc_score(counts: Counts) -> float | None:
    """Return the mean sensitivity at `RATES`; None where no lesion is there."""
    if not counts.num_lesions.sum():
        return None
    return float(sensitivities(*curve_of(counts)).mean())


def froc_draws(counts: Counts, weights: np.ndarray) -> np.ndarray:
    """Return the score of each resample of the slides, (draws,) float64, NaN where it holds no lesion.

    Args:
        counts: of the slides.
        weights: (draws, slides) int, how often each slide is drawn; see `hnm.statistics.bootstrap.resampled_weights`.
    """
    false_positives, found = counts.false_positives.astype(np.float64), counts.found.astype(np.float64)  # for BLAS
    scores = np.full(len(weights), np.nan)
    drawn, num_lesions = weights.sum(1), weights @ counts.num_lesions
    for start in range(0, len(weights), DRAWS):
        part = slice(start, start + DRAWS)
        chosen = weights[part].astype(np.float64)
        curves = zip(chosen @ false_positives, chosen @ found, strict=True)
        for draw, (false, hits) in enumerate(curves, start):
            if num_lesions[draw]:
                scores[draw] = sensitivities(false / drawn[draw], hits / num_lesions[draw]).mean()
    return scores


def froc_figures(counts: Counts, patients: np.ndarray, seed: int) -> dict[str, Any]:
    """Return score, interval, sensitivities and curve of slides' counts; patients (slides,) for the bootstrap."""
    per_slide, sensitivity = curve_of(counts)
    intervals = intervals_of({"score": froc_draws(counts, resampled_weights(patients, seed=seed))})
    at_rates = zip(RATES, sensitivities(per_slide, sensitivity).tolist(), strict=True)
    return {
        "score": froc_score(counts),
        "interval": intervals["score"]._asdict(),
        "sensitivity_at": {f"{rate:g}": value for rate, value in at_rates},
        "num_lesions": int(counts.num_lesions.sum()),
        "curve": {"false_positives_per_slide": per_slide.tolist(), "sensitivity": sensitivity.tolist()},
    }
