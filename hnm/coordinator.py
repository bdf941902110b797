"""The coordinator: rank 0 gathers the patch scores, ranks the whole cohort, and tells every rank what to sample.

    rank r: scores of its rows ──tensors──▶ rank 0: scores.npy ▶ mine (pure functions) ▶ pseudo_labels.npy, weights.npy
    every rank ◀──tensors── pseudo labels (int8), weights (float16), candidates by score (int64), their scores (float32)
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from hnm.metrics import auc, witness_rate
from hnm.mining import Mined, MiningConfig, keep_old_labels, mine, smooth_scores
from hnm.study import Study
from launch.distributed import World, broadcast_array
from shards.files import write_array, write_json

MINED_ARRAYS = ("pseudo_labels", "weights", "candidates", "candidate_scores")


def decide(
    scores: np.ndarray,
    validation: dict[str, Any],
    study: Study,
    config: MiningConfig,
    self_paced_ratio: float,
    folder: Path,
    previous: Path | None,
) -> dict[str, Any]:
    """Mine one round on rank 0; write the scores, the mined arrays and, last, mining.json, which is also returned.

    Args:
        scores: (N,) float32 of this round's aggregator.
        validation: that aggregator's metrics on the validation slides; `f1` decides whether its labels are taken.
        study: the cohort and its roles.
        config: shares and switches.
        self_paced_ratio: the share r in the round's first epoch, for the summary.
        folder: the round's folder.
        previous: the folder of the round before, None in round 0.
    """
    best_f1, old_scores = None, None
    if previous:
        best_f1, old_scores = read_decision(previous)["best_validation_f1"], np.load(previous / "scores.npy")
    scores = smooth_scores(old_scores, scores, config.score_memory)
    kept = keep_old_labels(validation["f1"], best_f1, config.gate_on_validation)
    if kept and previous:
        mined = load_mined(previous)
    else:
        mined = mine(scores, study.cohort.patches.slide, study.encoder_slides, study.labels, config)
    write_array(folder / "scores.npy", scores)
    for name in MINED_ARRAYS:
        write_array(folder / f"{name}.npy", getattr(mined, name))
    summary = {
        "validation": validation,
        "best_validation_f1": max(validation["f1"], best_f1 or 0.0),
        "kept_labels_of_previous_round": kept,
        "validation_instance_auc": _instance_auc(study, scores),
        "num_scored": int(np.count_nonzero(np.isfinite(scores))),
        **summarise(mined, scores, study.cohort.patches.truth, config, self_paced_ratio),
    }
    write_json(folder / "mining.json", summary)
    return summary


def summarise(
    mined: Mined, scores: np.ndarray, truth: np.ndarray, config: MiningConfig, self_paced_ratio: float
) -> dict[str, Any]:
    """Return counts, score thresholds and, where patch truth is known, witness rates of the mined sets."""
    negatives = mined.negatives
    self_paced = mined.self_paced(self_paced_ratio, config.ties)
    return {
        "num_hard_negatives": len(negatives),
        "num_candidates": len(mined.candidates),
        "num_self_paced": len(self_paced),
        "self_paced_ratio": self_paced_ratio,
        "hard_negative_threshold": float(scores[negatives].min()) if len(negatives) else None,
        "positive_threshold": config.positive_threshold,
        "witness_rate_candidates": witness_rate(truth, mined.candidates),
        "witness_rate_self_paced": witness_rate(truth, self_paced),
    }


def _instance_auc(study: Study, scores: np.ndarray) -> float | None:
    """Return the patches' AUC on the validation slides, None where no patch truth is known; nothing is chosen by it."""
    ids = study.patches_of(study.validation)
    truth = study.cohort.patches.truth[ids]
    return auc(truth[truth >= 0], scores[ids][truth >= 0])


def read_decision(folder: Path) -> dict[str, Any]:
    """Return a round's mining.json."""
    decision: dict[str, Any] = json.loads((folder / "mining.json").read_text(encoding="utf-8"))
    return decision


def load_mined(folder: Path) -> Mined:
    """Return what a finished mining phase decided."""
    return Mined(*(np.load(folder / f"{name}.npy") for name in MINED_ARRAYS))


def share_mined(folder: Path, world: World) -> Mined:
    """Return a round's decision on every rank: read on rank 0, broadcast as tensors. Every rank must call it."""
    arrays = [np.load(folder / f"{name}.npy") if world.is_main else None for name in MINED_ARRAYS]
    return Mined(*(broadcast_array(array, world) for array in arrays))
