"""The coordinator: the ranks' patch scores become one ranking of the whole cohort, and every rank is told what to sample.

    rank r: scores of its ids ──tensors──▶ rank 0: scores.npy ▶ choose ▶ label
    rank 0: pseudo_labels.npy, weights.npy, negatives.npy, candidates.npy ──mapped──▶ every rank; a node's ranks share them

What 10^8 patches take in seconds and memory: benchmarks/coordinator.py.
"""

from pathlib import Path
from typing import Any

import numpy as np

from hnm.aggregator.score import Part, gather_scores
from hnm.engine.ranks import World, map_array
from hnm.mining.known import honour, known_figures, not_known
from hnm.mining.mimics import mimic_figures
from hnm.mining.mining import Chosen, Mined, MiningConfig, choose, keep_old_labels, label, smooth_scores
from hnm.run.checksums import read_json
from hnm.run.study import Study
from hnm.statistics.metrics import auc, witness_rate
from shards.errors import InputError
from shards.files import write_array, write_json

AGES = "score_ages.npy"  # of a round that scored some patches anew
MINED_ARRAYS = ("pseudo_labels", "weights", "negatives", "candidates", "candidate_scores")


def rank_cohort(
    part: Part,
    study: Study,
    config: MiningConfig,
    folder: Path,
    previous: Path | None,
    world: World,
    is_partial: bool = False,
) -> Chosen | None:
    """Write the round's scores.npy and choose the patches to sample. Every rank must call it.

    Args:
        part: this rank's scores by this round's aggregator.
        study: the cohort and its roles.
        config: shares and switches.
        folder: the round's folder, visible to all ranks.
        previous: the folder of the round before, None in round 0.
        is_partial: only some patches of the slides were scored; the others keep the scores of the round before.

    Returns:
        What was chosen on rank 0, None elsewhere.
    """
    old = read_scores(previous)[part.ids] if previous and config.score_memory else None
    part = Part(smooth_scores(old, part.scores, config.score_memory), part.bounds, part.ids)  # NaN stays NaN
    scores = np.empty(int(part.bounds[-1]), np.float32) if world.is_main else None
    gather_scores(part, scores, world)
    if scores is None:
        return None
    fresh = keep_old_scores(scores, folder, previous) if is_partial and previous else None
    write_array(folder / "scores.npy", scores)  # no memory map of the new file: on a full disk that is a bus error
    scores = read_scores(folder)  # in place of our own copy, 0.4 GB at 10^8
    if not len(study.known):
        return choose(scores, study.kinds, study.cohort.patch_bounds, config, fresh)
    unknown = not_known(study, fresh)
    return honour(choose(scores, study.kinds, study.cohort.patch_bounds, config, unknown), scores, study.known)


def keep_old_scores(new: np.ndarray, folder: Path, previous: Path) -> np.ndarray:
    """Fill the gaps of new scores (N,) with the round before's, in place; write how old each is; return which are new.

    Ages are rounds, (N,) uint8, at most 255; a round without the file has none but new scores.
    """
    fresh = np.isfinite(new)
    np.copyto(new, read_scores(previous), where=~fresh)
    ages = np.load(previous / AGES) if (previous / AGES).is_file() else np.zeros(len(new), np.uint8)
    np.add(ages, 1, out=ages, where=ages < np.iinfo(np.uint8).max)
    ages[fresh | ~np.isfinite(new)] = 0  # what was never scored has no age
    write_array(folder / AGES, ages)
    return fresh


def decide(
    chosen: Chosen,
    validation: dict[str, Any],
    broken: dict[str, Any],
    study: Study,
    config: MiningConfig,
    self_paced_ratio: float,
    folder: Path,
    previous: Path | None,
    rescore: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Label the chosen patches on rank 0; write the mined arrays and, last, mining.json, which is also returned.

    Args:
        chosen: as by `rank_cohort`, which has written scores.npy.
        validation: the aggregator's metrics on the validation slides; `f1` decides whether its labels are taken.
        broken: counts of the patches that could not be read so far.
        study: the cohort and its roles.
        config: shares and switches.
        self_paced_ratio: the share r in the round's first epoch, for the summary.
        folder: the round's folder.
        previous: the folder of the round before, None in round 0.
        rescore: what to tell of which patches were scored anew, if it is not always all.
    """
    best_f1 = read_decision(previous)["best_validation_f1"] if previous else None
    kept = keep_old_labels(validation["f1"], best_f1, config.gate_on_validation)
    scores = read_scores(folder)
    mined = load_mined(previous) if kept and previous else label(chosen, study.kinds, config.hard_share)
    if kept and previous and len(study.known):  # what people have said since then holds, too
        before = Chosen(mined.negatives, mined.candidates, mined.candidate_scores)
        mined = label(honour(before, read_scores(previous), study.known), study.kinds, config.hard_share)
    for name in MINED_ARRAYS:
        write_array(folder / f"{name}.npy", getattr(mined, name))
    summary = {
        "validation": validation,
        "best_validation_f1": max(validation["f1"], best_f1 or 0.0),
        "kept_labels_of_previous_round": kept,
        "validation_instance_auc": _instance_auc(study, scores),
        "num_scored": int(np.count_nonzero(np.isfinite(scores))),
        "broken_patches": broken,
        **({"rescore": rescore} if rescore else {}),
        **summarise(mined, scores, study.cohort.patches.truth, config, self_paced_ratio),
        **mimic_figures(study, mined.negatives, scores),
        **known_figures(study),
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
        "candidate_threshold": float(mined.candidate_scores[-1]) if len(mined.candidates) else None,
        "witness_rate_candidates": witness_rate(truth, mined.candidates),
        "witness_rate_self_paced": witness_rate(truth, self_paced),
    }


def _instance_auc(study: Study, scores: np.ndarray) -> float | None:
    """Return the patches' AUC on the validation slides, None where no patch truth is known; nothing is chosen by it."""
    truth = study.cohort.patches.truth
    known = study.mask_of(study.validation)
    known &= truth >= 0
    return auc(truth[known], scores[known])


def read_decision(folder: Path) -> dict[str, Any]:
    """Return a round's mining.json.

    Raises:
        InputError: it is damaged.
    """
    return read_json(folder / "mining.json", "hnm train")


def read_scores(folder: Path) -> np.ndarray:
    """Return a round's scores, (N,) float32, NaN where a patch was not scored, as a read-only memory map."""
    return np.asarray(np.load(folder / "scores.npy", mmap_mode="r"))


def load_mined(folder: Path) -> Mined:
    """Return what a finished mining phase decided, as read-only memory maps of its files where they are as ours.

    Runs of before 2026-11-28 have no negatives.npy: theirs are the patches of pseudo label 0 and weight 1.
    """
    labels, weights, candidates, scores = (
        np.load(folder / f"{name}.npy", mmap_mode="r") for name in MINED_ARRAYS if name != "negatives"
    )
    if weights.dtype.kind != "f":
        weights = weights.astype(np.float32)
    path = folder / "negatives.npy"
    negatives = np.load(path, mmap_mode="r") if path.is_file() else np.flatnonzero((weights == 1) & (labels == 0))
    return Mined(labels, weights, negatives, candidates, scores)


def share_mined(folder: Path, world: World) -> Mined:
    """Return a round's decision on every rank, which maps the files that rank 0 wrote. Every rank must call it.

    Raises:
        InputError: on every rank: the arrays do not fit together, or nothing could be drawn by them; on one: see `map_array`.
    """
    read = load_mined(folder) if world.is_main else None
    mined = Mined(*(map_array(folder / f"{name}.npy", getattr(read, name, None), world) for name in MINED_ARRAYS))
    if (problem := unsound(mined)) is not None:
        raise InputError(f"{folder}: {problem}. Remove mining.json there, and the same command mines anew")
    return mined


def unsound(mined: Mined) -> str | None:
    """Return why nothing can be sampled by these arrays, or not as they say; None: they are sound."""
    labels, weights, negatives, candidates = mined.pseudo_labels, mined.weights, mined.negatives, mined.candidates
    if len(weights) != len(labels):
        return f"weights.npy has {len(weights)} weights, pseudo_labels.npy {len(labels)} labels"
    if not (weights.min(initial=0) >= 0 and weights.max(initial=0) < np.inf):
        return "weights.npy: sampling weights are numbers from 0 up; there are negative or infinite ones, or NaN"
    if len(negatives) == 0:
        return "no negative to fine-tune on: negatives.npy is empty, or is not there and no negative in weights.npy has 1"
    problem = _unsound_ids("negatives", negatives, 0, mined) or _unsound_ids("candidates", candidates, 1, mined)
    if problem is None and len(np.unique(weights[candidates])) > 1:
        problem = "weights.npy gives the candidates different weights, but they are drawn evenly. Give them one"
    return problem


def _unsound_ids(name: str, ids: np.ndarray, label: int, mined: Mined) -> str | None:
    """Return what is wrong with a set of ids, all of which have one pseudo label."""
    num_patches = len(mined.pseudo_labels)
    if len(ids) and not 0 <= ids.min() <= ids.max() < num_patches:
        return f"{name}.npy names patches that are not among the {num_patches} of the cohort"
    if not (mined.pseudo_labels[ids] == label).all():
        return f"{name}.npy names patches that pseudo_labels.npy does not give {label}"
    if not (mined.weights[ids] > 0).all():
        return f"weights.npy gives 0, which is never drawn, to patches of {name}.npy"
    return None
