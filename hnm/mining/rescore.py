"""Which patches a round embeds and scores anew, where it is not all of them (rounds.rescore=adaptive).

    scores of the round before ──▶ the highest of all negative training slides, the highest of each positive one
                                 + a random part of the other training patches + every validation slide ──▶ rescored.npy

The others keep their scores, and how old these are stands in score_ages.npy. What is mined is among the patches that were
scored anew: scores of two aggregators are not of one scale. Every `rescore_full_every` rounds and in the last one all are
scored, and it is told what share of the hard negatives then found an adaptive round would have looked at.
"""

from pathlib import Path
from typing import Any

import numpy as np

from hnm.engine.ranks import World, map_array
from hnm.mining.coordinator import read_scores
from hnm.mining.ranking import count_of_share, mark_top, mark_top_of_slides
from hnm.rounds_config import RoundsConfig
from hnm.run.slide_rows import ChosenRows
from hnm.run.study import Study
from shards.files import write_array
from shards.reading.plan import id_type, weighted_sample
from shards.seeding import numpy_generator

RANDOM_PART = 0.1  # of the training patches that are taken: what was easy may have become hard
RESCORED = "rescored.npy"


def is_full(config: RoundsConfig, round_: int) -> bool:
    """Return whether a round embeds and scores every patch of its slides."""
    return config.rescore == "all" or round_ % config.rescore_full_every == 0 or round_ == config.num_rounds


def mark_rescored(scores: np.ndarray, study: Study, share: float, seed: int, round_: int) -> np.ndarray:
    """Return which patches an adaptive round scores anew, (N,) bool: `share` of the training slides', all of validation's.

    Args:
        scores: (N,) float32 of the round before.
        share: above 0, at most 1.
    """
    of_slide = np.full(study.cohort.num_slides, -1, np.int8)
    of_slide[study.train] = study.labels[study.train]
    kinds = np.repeat(of_slide, study.cohort.patches_per_slide)
    best = share * (1 - RANDOM_PART)
    chosen = mark_top(scores, kinds == 0, best, "exact")
    chosen |= mark_top_of_slides(scores, kinds == 1, study.cohort.patch_bounds, best, "exact")
    # a slide without any patch would be an empty bag
    chosen |= mark_top_of_slides(scores, kinds == 0, study.cohort.patch_bounds, np.finfo(float).tiny, "exact")
    others = kinds >= 0
    size = count_of_share(share, int(np.count_nonzero(others))) - int(np.count_nonzero(chosen))
    others &= ~chosen
    drawn = weighted_sample(others, max(size, 0), numpy_generator(seed, "rescore", round_))
    chosen[drawn] = True
    chosen |= study.mask_of(study.validation)
    return chosen


def rows_to_rescore(
    config: RoundsConfig, round_: int, folder: Path, previous: Path, study: Study, seed: int, world: World
) -> ChosenRows:
    """Return the patches that an adaptive round scores anew, chosen on rank 0 or before. Every rank must call it.

    Args:
        folder: the round's.
        previous: the folder of the round before.
    """
    path = folder / RESCORED
    if world.is_main and not path.is_file():
        chosen = mark_rescored(read_scores(previous), study, config.rescore_share, seed, round_)
        write_array(path, np.flatnonzero(chosen).astype(id_type(study.cohort.num_patches)))
    ids = map_array(path, np.load(path, mmap_mode="r") if world.is_main else None, world)
    return ChosenRows(ids, study.cohort.patch_bounds, study.embedded_slides)


def told_of_rescoring(
    config: RoundsConfig, round_: int, num_rows: int, negatives: np.ndarray, previous: Path | None, study: Study, seed: int
) -> dict[str, Any]:
    """Return what mining.json says: the share scored anew and, of a later full round, the hard negatives that adaptive would see.

    Args:
        num_rows: patches that were scored anew.
        negatives: ids of the hard negatives.
    """
    found = None
    if is_full(config, round_) and previous is not None and len(negatives):
        would = mark_rescored(read_scores(previous), study, config.rescore_share, seed, round_)
        found = float(np.count_nonzero(would[negatives]) / len(negatives))
    share = num_rows / study.num_patches_of(study.embedded_slides)
    return {"full": is_full(config, round_), "share_rescored": share, "hard_negatives_within_adaptive": found}
