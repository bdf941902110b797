"""From which score on a patch is called positive: chosen on validation slides, for areas in heatmaps, polygons and counts.

    patch truth known in validation slides ──▶ Youden's point of these patches
    else: patches of negative validation slides ──▶ at most a stated share of them reaches it (rounds.patch_false_positive_rate)

Nothing about a negative slide is positive, so that its patches need no truth. Mining's own threshold (mining.positive_threshold)
is another matter: it chooses what to learn from, and a model's scores may all lie above it. With a weak model of the colon
images (2026-11-28; 10 negative images validate, 9 test) its 0.3 called 56 % of the patches of negative test images positive, of
one image 92 %. A rate of 5 % called 14 % (and 26 % of the truly positive ones), 1 % called 4 % (12 %), but rests on 11 patches.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from hnm.run.study import Study
from hnm.statistics.metrics import share, youden_threshold

OF_TRUTH = "validation patches of known truth"


class PatchThreshold(NamedTuple):
    """A patch that scores `value` or more is called positive; `source` says in words what it was chosen on."""

    value: float
    source: str


def patch_threshold_of(
    metrics: Mapping[str, Any] | None, by_patch: np.ndarray, study: Study, rate: float
) -> PatchThreshold:
    """Return the patch threshold of a run: that of metrics.json, or what is chosen now.

    Args:
        metrics: metrics.json, None before the evaluation; of before 2026-11-28 it knows a threshold where truth is known.
        by_patch: (N,) patch scores of the chosen round, NaN where there is none.
        study: the cohort and its parts.
        rate: share of the patches of negative validation slides that may be called positive.
    """
    if told := (metrics or {}).get("patch_threshold"):
        return PatchThreshold(told["value"], told["from"])
    if instance := (metrics or {}).get("instance"):
        return PatchThreshold(float(instance["threshold"]), OF_TRUTH)
    return choose_patch_threshold(by_patch, study, rate)


def choose_patch_threshold(by_patch: np.ndarray, study: Study, rate: float) -> PatchThreshold:
    """Choose the patch threshold on validation slides; arguments as of `patch_threshold_of`."""
    truth, ids = study.cohort.patches.truth, study.patches_of(study.validation)
    ids = ids[np.isfinite(by_patch[ids])]
    known = ids[truth[ids] >= 0]
    if len(np.unique(truth[known])) == 2:
        return PatchThreshold(youden_threshold(truth[known], by_patch[known]), OF_TRUTH)
    scores = by_patch[ids[study.labels[study.cohort.patches.slide[ids]] == 0]]
    if not len(scores):
        return PatchThreshold(threshold_at(np.ones(1, np.float32), 0.0), "no negative validation patch: none is called positive")
    return PatchThreshold(
        threshold_at(scores, rate), f"the patches of negative validation slides, of which at most {100 * rate:g} % reach it"
    )


def threshold_at(scores: np.ndarray, rate: float) -> float:
    """Return the lowest threshold that at most the share `rate` of the scores (n,) reaches, n at least 1.

    It lies just above a score in single precision, in which patch scores are kept and compared.
    """
    place = len(scores) - 1 - int(rate * len(scores))
    return float(np.nextafter(np.float32(np.partition(scores, place)[place]), np.float32(np.inf)))


def patch_threshold_part(by_patch: np.ndarray, study: Study, rate: float) -> dict[str, Any]:
    """Return what metrics.json says: the threshold, what it was chosen on, and what it does on the negative test slides.

    Args:
        by_patch: (N,) patch scores, those of the test slides among them.
        study: the cohort and its parts.
        rate: as of `patch_threshold_of`.
    """
    chosen = choose_patch_threshold(by_patch, study, rate)
    scores = by_patch[study.patches_of(study.test[study.labels[study.test] == 0])]
    reached = share(int((scores >= np.float32(chosen.value)).sum()), len(scores))
    return {"value": chosen.value, "from": chosen.source, "share_of_negative_test_patches": reached}
