"""What metrics.json says: figures of the test slides and patches, and the course of the rounds. Nothing is chosen here.

Runs on rank 0, on arrays that `hnm evaluate` has made; thresholds come from the validation slides.
"""

from pathlib import Path
from typing import Any

import numpy as np

from hnm.mining.coordinator import read_scores
from hnm.run.study import Study
from hnm.statistics.bootstrap import bootstrap_intervals, intervals_of, resampled_weights
from hnm.statistics.calibration import brier, calibration_curve
from hnm.statistics.lesions import ISOLATED_CELLS_UM
from hnm.statistics.metrics import Figures, instance_metrics, score_counts, scores_at, youden_threshold
from hnm.statistics.patch_bootstrap import count_scores, figures_of_draws
from shards.errors import InputError


def slide_figures(labels: np.ndarray, scores: np.ndarray, threshold: float) -> Figures:
    """Return the figures of slides called positive at or above a threshold (see `scores_at`), and the Brier score."""
    return {**scores_at(labels, scores, threshold), "brier": brier(labels, scores)}


def slide_part(
    labels: np.ndarray, scores: np.ndarray, groups: np.ndarray, threshold: float, seed: int
) -> dict[str, Any]:
    """Return the test slides' figures, their 95 % bootstrap intervals, and the calibration curve.

    Args:
        labels: (n,) 1 or 0.
        scores: (n,) float in [0, 1].
        groups: (n,) what a resample draws whole: patients, or sites.
        threshold: chosen on validation slides.
        seed: of the bootstrap.
    """
    figures = slide_figures(labels, scores, threshold)
    intervals = bootstrap_intervals(
        lambda rows: slide_figures(labels[rows], scores[rows], threshold), labels, groups, seed=seed
    )
    return {
        "slide": figures,
        "slide_auc_interval": intervals["auc"]._asdict(),
        "slide_intervals": {name: interval._asdict() for name, interval in intervals.items()},
        "calibration": calibration_curve(labels, scores),
    }


def count_patients(labels: np.ndarray, patients: np.ndarray) -> dict[str, int]:
    """Return how many patients the slides (n,) are of, and how many have a positive and a negative one."""
    kinds = {"all": labels >= 0, "positive": labels == 1, "negative": labels == 0}
    return {name: len(np.unique(patients[rows])) for name, rows in kinds.items()}


def interval_by(study: Study) -> dict[str, str]:
    """Return that the intervals of the test slides are by site, where they are; elsewhere they are by patient."""
    return {"interval_by": "site"} if study.is_drawn_by_site(study.judged) else {}


def instance_part(by_patch: np.ndarray, study: Study, seed: int) -> dict[str, Any] | None:
    """Return the instance metrics of the test patches and their 95 % bootstrap intervals; None where no truth is known.

    The threshold of F1 is chosen on the validation patches with known truth.

    Args:
        by_patch: (N,) patch scores.
        study: the cohort and its parts.
        seed: of the bootstrap.
    """
    patches = study.cohort.patches
    validation, test = study.patches_of(study.validation), study.patches_of(study.test)
    known = validation[patches.truth[validation] >= 0]
    if len(np.unique(patches.truth[known])) < 2 or not np.any(patches.truth[test] >= 0):
        return None
    threshold = youden_threshold(patches.truth[known], by_patch[known])
    in_positive = study.labels[patches.slide[test]] == 1
    weights = resampled_weights(study.drawn_by(study.test), seed=seed)
    intervals = intervals_of(instance_draws(by_patch, study, threshold, weights))
    return {
        "threshold": threshold,
        **instance_metrics(patches.truth[test], by_patch[test], in_positive, threshold),
        "intervals": {name: interval._asdict() for name, interval in intervals.items()},
    }


def instance_draws(by_patch: np.ndarray, study: Study, threshold: float, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Return the instance metrics of the test patches in each resample of the test slides, (draws,) each, NaN if undefined.

    Args:
        by_patch: (N,) patch scores.
        study: the cohort and its parts.
        threshold: a patch at or above it is called positive.
        weights: (draws, test slides) how often each slide is drawn.
    """
    test, num = study.patches_of(study.test), len(study.test)
    slide = np.repeat(np.arange(num, dtype=np.int32), study.cohort.patches_per_slide[study.test])
    counts = count_scores(study.cohort.patches.truth[test], by_patch[test], slide, num, threshold)
    return figures_of_draws(counts, weights, study.labels[study.test] == 1)


def round_rows(decisions: list[dict[str, Any]], folders: list[Path], study: Study) -> list[dict[str, Any]]:
    """Return a row per round: validation figures, what was mined with its witness rates, and the score histograms.

    Args:
        decisions: each round's mining.json.
        folders: each round's folder.
        study: the cohort and its parts.
    """
    parts = {"train": study.train, "validation": study.validation}
    kinds = {name: patch_kinds(study, slides) for name, slides in parts.items()}
    rows = []
    for number, (folder, decision) in enumerate(zip(folders, decisions, strict=True)):
        scores = read_scores(folder)
        row = {
            "round": number,
            "validation_auc": decision["validation"]["auc"],
            "validation_loss": decision["validation"]["loss"],
            "validation_instance_auc": decision["validation_instance_auc"],
            "witness_rate_candidates": decision["witness_rate_candidates"],
            "witness_rate_self_paced": decision["witness_rate_self_paced"],
            "num_hard_negatives": decision["num_hard_negatives"],
            "num_candidates": decision["num_candidates"],
            **{name: figure for name, figure in decision.items() if "mimic" in name},
            "score_histogram": {name: histogram(scores, kind) for name, kind in kinds.items()},
        }
        rows.append(row)
    return rows


def patch_kinds(study: Study, slides: np.ndarray) -> np.ndarray:
    """Return (N,) int8: 0 patch of a negative slide among `slides`, 1 of a positive one, 2 that and truly so, else -1."""
    kinds = np.repeat(study.labels, study.cohort.patches_per_slide)
    kinds[(kinds == 1) & (study.cohort.patches.truth == 1)] = 2
    kinds[~study.mask_of(slides)] = -1
    return kinds


def histogram(scores: np.ndarray, kinds: np.ndarray) -> dict[str, list[int]]:
    """Return how many patches score in each twentieth of [0, 1]: of negative and of positive slides, and truly positive.

    Args:
        scores: (N,) patch scores, NaN where there is none.
        kinds: (N,) see `patch_kinds`.
    """
    negative, unproven, proven = score_counts(scores, kinds, 3)
    return {
        "negative_slides": negative.tolist(),
        "positive_slides": (unproven + proven).tolist(),
        "positive_patches": proven.tolist(),
    }


def require_scores(by_slide: np.ndarray, by_patch: np.ndarray, study: Study) -> None:
    """Refuse scores of test slides that are no numbers, before anything is measured or written.

    Args:
        by_slide: (S,) slide scores.
        by_patch: (N,) patch scores.
        study: the cohort and its parts.

    Raises:
        InputError: naming a slide and the remedy.
    """
    bad = np.isnan(by_slide)
    bad[study.cohort.patches.slide[np.flatnonzero(np.isnan(by_patch))]] = True
    bad = study.test[bad[study.test]]
    if len(bad):
        raise InputError(
            f"{len(bad)} of {len(study.test)} test slides have a score that is NaN, such as "
            f"{study.cohort.slide_ids[bad[0]]!r}: the chosen model has diverged. Train again with a lower learning rate "
            "(finetune.lr, aggregate.lr)"
        )


def warnings_of(study: Study, froc: dict[str, Any] | None) -> list[str]:
    """Return which figures the test slides do not define, a sentence each; no slide is named.

    Args:
        study: the cohort and its parts.
        froc: what `hnm.evidence.detect.froc_part` returned.
    """
    labels, found = study.labels[study.judged], []
    for label, word in ((1, "positive"), (0, "negative")):
        if not np.any(labels == label):
            found.append(
                f"no test slide is {word}: AUC, AUPRC, balanced accuracy and their intervals are unknown. Choose a split "
                "with slides of both kinds: data.split_column."
            )
    if froc is not None and froc["score"] is None:
        found.append(
            f"all {froc['num_isolated_left_out']} lesions of the test slides are shorter than {ISOLATED_CELLS_UM:g} um: they are "
            "left out as isolated tumour cells, as Camelyon16 does, and there is no FROC."
        )
    return found
