"""The coordinator: the ranks' patch scores become one ranking of the whole cohort, and every rank is told what to sample.

    gather:     rank r: scores of its ids ──tensors──▶ rank 0: scores.npy (memory map) ▶ choose
    histogram:  rank r: scores of its ids ──its part of the file──▶ scores.npy; choose with counts summed over the ranks;
                only the chosen ids travel to rank 0
    both:       rank 0: label ▶ pseudo_labels.npy, weights.npy, candidates.npy ──tensors──▶ every rank

Both ways choose the same patches. 10^8 patches on 2 ranks: see benchmarks/coordinator.py.
"""

import io
import json
import os
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hnm.aggregator.score import Part, gather_scores
from hnm.engine.ranks import World, barrier, broadcast_array, gather_any_to_main
from hnm.mining.histogram import cut_over_ranks
from hnm.mining.mining import Chosen, Mined, MiningConfig, choose, keep_old_labels, label, smooth_scores
from hnm.mining.ranking import Slides
from hnm.run.study import Study
from hnm.statistics.metrics import auc, witness_rate
from shards.files import fsync_folder, whole_file, write_array, write_json

MINED_ARRAYS = ("pseudo_labels", "weights", "candidates", "candidate_scores")


def rank_cohort(
    part: Part, study: Study, config: MiningConfig, folder: Path, previous: Path | None, world: World
) -> Chosen | None:
    """Write the round's scores.npy and choose the patches to sample. Every rank must call it.

    Args:
        part: this rank's scores by this round's aggregator.
        study: the cohort and its roles.
        config: shares and switches.
        folder: the round's folder, visible to all ranks.
        previous: the folder of the round before, None in round 0.

    Returns:
        What was chosen on rank 0, None elsewhere.
    """
    old = read_scores(previous)[part.ids] if previous and config.score_memory else None
    part = Part(smooth_scores(old, part.scores, config.score_memory), part.bounds, part.ids)
    if config.selection == "histogram":
        write_parts(part, folder / "scores.npy", world)
        find_cut = partial(cut_over_ranks, world=world)
        own = choose(part.scores, study.kinds[part.ids], slides_of_part(part, study.cohort.patch_bounds), config, find_cut)
        return gather_chosen(own, part.ids.start, world)
    with whole_file(folder / "scores.npy") if world.is_main else nullcontext() as temporary:
        out = np.lib.format.open_memmap(temporary, "w+", np.float32, (int(part.bounds[-1]),)) if temporary else None
        gather_scores(part, out, world)
        if out is not None:
            out.flush()
    whole = Slides(study.cohort.patch_bounds, np.empty(0, np.int64))
    return choose(read_scores(folder), study.kinds, whole, config) if world.is_main else None


def slides_of_part(part: Part, patch_bounds: np.ndarray) -> Slides:
    """Return which scores of a rank's part are of which slide.

    Args:
        part: one rank's part.
        patch_bounds: (S + 1,) int64, the first patch id of each slide of the cohort, and N.
    """
    cuts = part.bounds[1:-1]  # a slide is spread where a rank's range ends inside it
    inside = np.searchsorted(patch_bounds, cuts, side="right") - 1
    spread = np.unique(inside[patch_bounds[np.searchsorted(patch_bounds, cuts, side="left")] != cuts])
    return Slides(np.clip(patch_bounds, part.ids.start, part.ids.stop) - part.ids.start, spread)


def write_parts(part: Part, path: Path, world: World) -> None:
    """Let every rank write its scores into its place of one .npy file, whole or not at all. Every rank must call it.

    Plain writes to separate byte ranges, no memory map: pages shared by two nodes would overwrite each other.
    """
    header = io.BytesIO()
    shape = (int(part.bounds[-1]),)
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
    temporary = path.with_name(f".{path.name}.ranks.tmp")
    temporary.parent.mkdir(parents=True, exist_ok=True)
    with open(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o666), "wb") as file:
        if world.is_main:
            file.write(header.getvalue())
        file.seek(len(header.getvalue()) + 4 * part.ids.start)
        file.write(part.scores.data)
        file.flush()
        os.fsync(file.fileno())
    barrier(world)
    if world.is_main:
        os.replace(temporary, path)
        fsync_folder(path.parent)


def gather_chosen(own: Chosen, first_id: int, world: World) -> Chosen | None:
    """Return on rank 0 what all ranks chose, None elsewhere. Every rank must call it.

    Args:
        own: this rank's choice, with positions in its part instead of ids.
        first_id: the patch id of position 0.
    """
    negatives = gather_any_to_main(own.negatives + first_id, world)
    candidates = gather_any_to_main(own.candidates + first_id, world)
    scores = gather_any_to_main(own.candidate_scores, world)
    if negatives is None or candidates is None or scores is None:
        return None
    order = np.argsort(-scores, kind="stable")  # equal scores are in id order: in each rank, and from rank to rank
    return Chosen(negatives, candidates[order], scores[order])


def decide(
    chosen: Chosen,
    validation: dict[str, Any],
    broken: dict[str, Any],
    study: Study,
    config: MiningConfig,
    self_paced_ratio: float,
    folder: Path,
    previous: Path | None,
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
    """
    best_f1 = read_decision(previous)["best_validation_f1"] if previous else None
    kept = keep_old_labels(validation["f1"], best_f1, config.gate_on_validation)
    mined = load_mined(previous) if kept and previous else label(chosen, study.kinds, config.hard_share)
    for name in MINED_ARRAYS:
        write_array(folder / f"{name}.npy", getattr(mined, name))
    scores = read_scores(folder)
    summary = {
        "validation": validation,
        "best_validation_f1": max(validation["f1"], best_f1 or 0.0),
        "kept_labels_of_previous_round": kept,
        "validation_instance_auc": _instance_auc(study, scores),
        "num_scored": int(np.count_nonzero(np.isfinite(scores))),
        "broken_patches": broken,
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
    """Return a round's mining.json."""
    decision: dict[str, Any] = json.loads((folder / "mining.json").read_text(encoding="utf-8"))
    return decision


def read_scores(folder: Path) -> np.ndarray:
    """Return a round's scores, (N,) float32, NaN where a patch was not scored, as a read-only memory map."""
    return np.asarray(np.load(folder / "scores.npy", mmap_mode="r"))


def load_mined(folder: Path) -> Mined:
    """Return what a finished mining phase decided."""
    return Mined(*(np.load(folder / f"{name}.npy") for name in MINED_ARRAYS))


def share_mined(folder: Path, world: World) -> Mined:
    """Return a round's decision on every rank: read on rank 0, broadcast as tensors. Every rank must call it."""
    arrays = [np.load(folder / f"{name}.npy") if world.is_main else None for name in MINED_ARRAYS]
    return Mined(*(broadcast_array(array, world) for array in arrays))
